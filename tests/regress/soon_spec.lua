-- callLater(0) means the next turn of the loop, not the next millisecond.

local host = require "support.host"

describe("callLater(0)", function()
  after_each(host.cleanup)

  it("takes no milliseconds: a chain of 2,000 runs before one of a second that was started earlier", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local n = 0
      local function link()
        n = n + 1
        if n < 2000 then
          reactor.callLater(0, link)
        else
          print "chain"
        end
      end
      reactor.callWhenRunning(function()
        reactor.callLater(1, print, "second")
        reactor.callLater(0, link)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.equal("chain", h:line())
    assert.equal("second", h:line())
    h:stop()
  end)
end)
