-- A host that was busy for long does not take its own absence for the peers' silence.

local host = require "support.host"

describe("idleTimeout", function()
  after_each(host.cleanup)

  it("does not end a connection whose data came while a callback blocked", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionMade() print "made" end
      function P:dataReceived(data)
        if data == "stall" then
          self.stalled = true
          print "stalling"
          local limit = reactor.seconds() + 0.9
          while reactor.seconds() < limit do end
        else
          print("data", data)
        end
      end
      function P:connectionLost(reason)
        if not self.stalled then print("lost", reason.code) end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P, idleTimeout = 0.4 }
    ]]
    local a, b = h:connect(), h:connect()
    assert.equal("made", h:line())
    assert.equal("made", h:line())
    a:send "stall"
    assert.equal("stalling", h:line())
    b:send "hello"
    assert.equal("data\thello", h:line())
    assert.equal("lost\ttimeout", h:line()) -- now it is silent indeed
    h:stop()
  end)
end)
