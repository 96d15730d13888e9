-- A pull producer that has nothing to write when it is asked is not asked in a spin.

local host = require "support.host"

describe("a pull producer that does not write when asked", function()
  after_each(host.cleanup)

  it("is asked once, and again after what it wrote from elsewhere was sent", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P = { asked = 0 }
      local function tell(self) print("asked", self.asked) end
      function P:connectionMade()
        self.transport:registerProducer(self, false)
        reactor.callLater(0.1, tell, self)
      end
      function P:resumeProducing() self.asked = self.asked + 1 end
      function P:dataReceived()
        self.transport:write "elsewhere"
        reactor.callLater(0.1, tell, self)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    for n = 1, 3 do
      assert.equal(("asked\t%d"):format(n), h:line())
      c:send "x"
      assert.equal("elsewhere", c:receive(9))
    end
    h:stop()
  end)
end)
