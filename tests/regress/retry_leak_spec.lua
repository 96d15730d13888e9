-- A factory that retries kept every connector that it ever had a retry for.

local host = require "support.host"

describe("a connector that is retried no more", function()
  after_each(host.cleanup)

  it("is not kept by its factory", function()
    local h = host.serve [[
      local protocol, reactor = require "skald.protocol", require "skald.reactor"
      local Factory = protocol.ReconnectingClientFactory { protocol = {}, maxRetries = 1, initialDelay = 0 }
      local seen, left = setmetatable({}, { __mode = "k" }), 20
      FACTORY = Factory:new()
      function FACTORY:stopFactory()
        left = left - 1
        if left > 0 then
          return reactor.callLater(0, BEGIN)
        end
        reactor.callLater(0.01, function()
          collectgarbage()
          collectgarbage()
          local count = 0
          for _ in pairs(seen) do
            count = count + 1
          end
          print("kept", count)
        end)
      end
      function BEGIN()
        seen[reactor.connectTCP("127.0.0.1", 1, FACTORY)] = true
      end
      reactor.callWhenRunning(BEGIN)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local count = tonumber(h:line "^kept\t(%d+)")
    assert.is_true(count <= 2, count .. " of 20 are kept")
  end)
end)
