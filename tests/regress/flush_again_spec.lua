-- A flush sends what the kernel takes now, whatever it took before in the same callback.

local host = require "support.host"

describe("flush", function()
  after_each(host.cleanup)

  it("sends again and again within one callback, so that a peer who reads keeps the queue below maxBuffered", function()
    local h = host.serve(host.commands([[
      local seconds = require("skald.reactor").seconds
      function commands.go(self, t)
        local chunk, n, limit = ("x"):rep(65536), 0, seconds() + 15
        local function put()
          n = n + 1
          local ok, _, code = t:write(chunk)
          return ok or print("refused", n, code)
        end
        repeat -- until the kernel is full: the peer does not read yet
          if not put() then return end
          t:flush()
        until t:bufferedAmount() > 0
        print "full"
        io.stdout:flush()
        while n < 640 do
          if not put() then return end
          repeat
            t:flush()
          until t:bufferedAmount() < 2000000 or seconds() > limit
        end
        print "all written"
        t:loseConnection()
      end
    ]], "maxBuffered = 4000000"))
    local c = h:connect({ rcvbuf = 262144 }):send "go"
    assert.equal("full", h:line())
    local n, ending = c:count()
    assert.equal("all written", h:line())
    assert.same({ 640 * 65536, "eof" }, { n, ending })
    assert.equal("lost\tdone\tlocal", h:line())
    h:stop()
  end)
end)
