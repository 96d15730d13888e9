-- A connector that its factory's startFactory gave up: stopConnecting raised, and it connected all the same.

local host = require "support.host"

describe("a client service that startFactory stops", function()
  after_each(host.cleanup)

  it("does not connect, and ends", function()
    local h = host.serve [[
      local client, protocol = require "skald.client", require "skald.protocol"
      local service
      service = client.ClientService:new("tcp:127.0.0.1:1", protocol.ReconnectingClientFactory {
        protocol = {},
        startFactory = function()
          service:stopService():addCallback(function() print("ended", service.connector.state) end)
        end,
        startedConnecting = function() print "connecting" end,
        clientConnectionFailed = function(_, _, reason) print("failed", reason.code) end,
        stopFactory = function() print "stopFactory" end,
      })
      require("skald.reactor").callWhenRunning(function() service:startService() end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.equal("failed\taborted", h:line())
    assert.equal("stopFactory", h:line())
    assert.equal("ended\tdisconnected", h:line())
    h:stop()
    assert.equal(0, h:logged " error ")
  end)
end)
