-- callLater(0) means the next turn of the loop, not the next millisecond.

local host = require "support.host"

describe("callLater(0)", function()
  after_each(host.cleanup)

  it("takes no milliseconds: a chain of 2,000 ends before one of 500 timers of a millisecond", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local function chain(name, delay, left)
        if left == 0 then
          print(name)
        else
          reactor.callLater(delay, chain, name, delay, left - 1)
        end
      end
      reactor.callWhenRunning(function()
        chain("milliseconds", 0.001, 500)
        chain("turns", 0, 2000)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.equal("turns", h:line())
    assert.equal("milliseconds", h:line())
    h:stop()
  end)
end)
