-- Descriptors that were queued before startTLS go in the clear, with the byte behind them; one that has none is in
-- the way of startTLS.

local certificates = require "support.certificates"
local host = require "support.host"

describe("startTLS behind a descriptor", function()
  after_each(host.cleanup)

  local function serve(between)
    local own = certificates.selfSigned("localhost", { "localhost" })
    local h = host.serve(([[
      local endpoints, protocol = require "skald.endpoints", require "skald.protocol"
      local certificate, key, path = %q, %q, %q
      local Client = protocol.Protocol {}
      function Client:fileDescriptorReceived() print "descriptor" end
      function Client:dataReceived(data)
        print("client", data)
        if data == "byte" then self.transport:startTLS { verify = false } end
      end
      local Server = {}
      function Server:connectionMade()
        self.transport:sendFileDescriptor(2)
        %s
        print("startTLS", select(3, self.transport:startTLS { certificate = certificate, privateKey = key }))
        self.transport:write "secret"
      end
      local function start()
        endpoints.clientFromString("unix:" .. path):connect(protocol.ClientFactory { protocol = Client })
      end
      return { listen = "unix:" .. path, protocol = Server, startFactory = start }
    ]]):format(own.certificate, own.key, host.folder() .. "/server", between))
    return h
  end

  it("sends it with the byte that was written behind it", function()
    local h = serve [[self.transport:write "byte"]]
    h:line "^startTLS\tnil"
    h:line "^descriptor"
    h:line "^client\tbyte"
    h:line "^client\tsecret"
  end)

  it("is refused where it waits for a byte", function()
    serve "":line "^startTLS\tEBUSY"
  end)
end)
