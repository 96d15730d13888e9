-- What connected for a service went on after `skald unload`: a ClientService that a connection's callback had started,
-- and connectors that the last connections' ends had made.

local host = require "support.host"
local reload = require "support.reload"

describe("a service that is unloaded", function()
  after_each(host.cleanup)

  local function unload(body)
    local h = host.serve(([[
      local client, protocol, reactor = require "skald.client", require "skald.protocol", require "skald.reactor"
      local Client = protocol.ReconnectingClientFactory {
        protocol = {},
        initialDelay = 1000,
        stopFactory = function() print "stopFactory" end,
      }
      local P = {}
      %s
      function P:dataReceived() print "data" end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(body))
    h:connect():send "x"
    assert.equal("data", h:line())
    assert.equal("unloaded", reload.command({ "unload", "script" }).result)
    assert.equal("stopFactory", h:line())
  end

  it("takes along the client services that its connections started", function()
    unload [[function P:connectionMade() client.ClientService:new("tcp:127.0.0.1:1", Client):startService() end]]
  end)

  it("takes along the connectors that its last connections made", function()
    unload [[function P:connectionLost() reactor.connectTCP("127.0.0.1", 1, Client) end]]
  end)
end)
