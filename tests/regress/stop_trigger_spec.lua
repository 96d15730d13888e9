-- A trigger before shutdown that caught its CancelledError and waited on kept the host from stopping for ever.

local host = require "support.host"

describe("a trigger before shutdown that will not end", function()
  after_each(host.cleanup)

  it("keeps the host from stopping no longer than --grace", function()
    local h = host.serve([[
      local defer, reactor = require "skald.defer", require "skald.reactor"
      reactor.addSystemEventTrigger("before", "shutdown", defer.async(function()
        while true do
          pcall(defer.await, defer.Deferred:new())
        end
      end))
      reactor.addSystemEventTrigger("during", "shutdown", print, "during")
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]], { options = { "--grace=0.2" } })
    h:kill "TERM"
    h:waitLog "grace is over: triggers before shutdown"
    assert.equal("during", h:line())
    h:ends(0)
  end)
end)
