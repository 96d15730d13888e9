-- Failures that nobody handled were lost when they came up while factories stopped: no turn of the loop followed.

local host = require "support.host"

describe("a failure that nobody handled", function()
  after_each(host.cleanup)

  it("is logged though the host is about to end", function()
    local h = host.serve [[
      local defer, P = require "skald.defer", {}
      function P:connectionMade() print "made" end
      require("skald.reactor").addSystemEventTrigger("after", "shutdown", function() defer.fail "the trigger's" end)
      require("skald.service").onDispose(function() defer.fail "the disposer's" end)
      return { listen = "tcp:127.0.0.1:0", protocol = P, stopFactory = function() defer.fail "the factory's" end }
    ]]
    h:connect()
    assert.equal("made", h:line())
    h:stop()
    for _, who in ipairs { "factory", "disposer", "trigger" } do
      assert.equal(1, h:logged(("Unhandled failure in a Deferred: the %s's"):format(who)))
    end
  end)
end)
