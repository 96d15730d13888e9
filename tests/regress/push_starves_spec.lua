-- A push producer that writes in a loop is paused in the end, however fast its peer reads.

local host = require "support.host"

describe("a push producer that writes in a loop to a fast reader", function()
  after_each(host.cleanup)

  it("leaves the loop its turns", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local TOTAL, MOST = 300e6, 60e6 -- bytes; in one turn of the loop
      local chunk = ("x"):rep(20000)
      local P = { sent = 0, seen = 0, worst = 0 }
      function P:connectionMade()
        self.transport:registerProducer(self, true)
        local function turn()
          self.worst = math.max(self.worst, self.sent - self.seen)
          self.seen = self.sent
          if self.sent < TOTAL then
            reactor.callLater(0, turn)
          else
            print(self.worst < MOST and "it had its turns" or "starved", self.worst)
          end
        end
        reactor.callLater(0, turn)
        self:resumeProducing()
      end
      function P:resumeProducing()
        self.going = true
        while self.going do
          if self.sent >= TOTAL then
            self.transport:unregisterProducer()
            self.transport:loseConnection()
            return
          end
          self.transport:write(chunk)
          self.sent = self.sent + #chunk
        end
      end
      function P:pauseProducing() self.going = false end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    assert.same({ 300e6, "eof" }, { h:connect():count() })
    assert.matches("^it had its turns", h:line())
    h:stop()
  end)
end)
