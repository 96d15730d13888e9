-- loseWriteConnection during the handshake waits for its end: the other direction stays open.

local certificates = require "support.certificates"
local host = require "support.host"

describe("loseWriteConnection before the TLS handshake is over", function()
  after_each(host.cleanup)

  it("closes one direction, and the answer still comes", function()
    local own = certificates.selfSigned("localhost", { "localhost" })
    local h = host.serve(([[
      local endpoints, protocol = require "skald.endpoints", require "skald.protocol"
      local certificate, key, path = %q, %q, %q
      local Client = protocol.Protocol {}
      function Client:connectionMade() self.transport:loseWriteConnection() end
      function Client:writeConnectionLost() print "client's half" end
      function Client:dataReceived(data) print("client", data) end
      function Client:connectionLost(reason) print("client lost", reason.code) end
      local Server = {}
      function Server:readConnectionLost()
        self.transport:write "answer"
        self.transport:loseConnection()
      end
      function Server:connectionLost(reason) print("server lost", reason.code) end
      local function start()
        endpoints.clientFromString("tls:unix:" .. path .. ":verify=no")
          :connect(protocol.ClientFactory { protocol = Client })
      end
      return {
        listen = ("tls:unix:%%s:certificate=%%s:privateKey=%%s"):format(path, certificate, key),
        protocol = Server,
        startFactory = start,
      }
    ]]):format(own.certificate, own.key, host.folder() .. "/server"))
    h:line "^client's half"
    h:line "^server lost\tdone"
    h:line "^client\tanswer"
    h:line "^client lost\tdone"
  end)
end)
