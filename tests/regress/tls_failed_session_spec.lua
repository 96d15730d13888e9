-- A session that fails behind what it has delivered takes no more: what is written then ends the connection,
-- instead of waiting for a socket that is always writable.

local certificates = require "support.certificates"
local host = require "support.host"

-- Client, server, and between them a relay that adds a record nobody can read to the client's first one.
local SCRIPT = [[
  local endpoints, protocol = require "skald.endpoints", require "skald.protocol"
  local certificate, key, folder = %q, %q, %q
  local poison = ""

  local Server = {}
  function Server:dataReceived(data)
    print("data", data)
    %s
  end
  function Server:connectionLost(reason) print("lost", reason.code, reason.message) end

  local Onward = protocol.Protocol {}
  function Onward:dataReceived(data) self.factory.back:write(data) end

  local Relay = protocol.Protocol {}
  function Relay:connectionMade()
    self.held = {}
    local factory = protocol.ClientFactory { protocol = Onward, back = self.transport }
    endpoints.clientFromString("unix:" .. folder .. "/server"):connect(factory):addCallback(function(onward)
      self.onward = onward
      self:dataReceived(table.concat(self.held))
    end)
  end
  function Relay:dataReceived(data)
    if self.onward then
      self.onward.transport:write(data .. poison)
      poison = ""
    else
      table.insert(self.held, data)
    end
  end

  local Client = protocol.Protocol {}
  function Client:handshakeCompleted()
    poison = "\23\3\3\0\32" .. ("x"):rep(32)
    self.transport:write "hello"
  end
  local F = protocol.ClientFactory {}
  function F.startFactory()
    endpoints.clientFromString("tls:unix:" .. folder .. "/relay:verify=no")
      :connect(protocol.ClientFactory { protocol = Client })
  end

  return {
    { listen = ("tls:unix:%%s/server:certificate=%%s:privateKey=%%s"):format(folder, certificate, key), protocol = Server },
    { listen = "unix:" .. folder .. "/relay", protocol = Relay, startFactory = F.startFactory },
  }
]]

describe("a TLS session that fails behind what it delivered", function()
  after_each(host.cleanup)

  local function serve(answer)
    local own = certificates.selfSigned("localhost", { "localhost" })
    local text = SCRIPT:format(own.certificate, own.key, host.folder(), answer)
    return host.serve(text, { listening = 2 })
  end

  it("ends a connection that answers and closes", function()
    local h = serve [[self.transport:write "answer" self.transport:loseConnection()]]
    h:line "^data\thello"
    h:line "^lost\tlost\t.*TLS"
  end)

  it("ends a paused connection that answers", function()
    local h = serve [[self.transport:pauseProducing() self.transport:write "answer"]]
    h:line "^data\thello"
    h:line "^lost\tlost\t.*TLS"
  end)
end)
