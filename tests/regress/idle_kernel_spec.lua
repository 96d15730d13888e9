-- The peer of a connection is not idle while it takes bytes that lie in the kernel.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

describe("idleTimeout", function()
  after_each(host.cleanup)

  -- Reads for 1.8 seconds; nil where this process was itself away for too long to tell.
  local function read(c)
    local limit = sys.now() + 1.8
    while sys.now() < limit do
      local began = sys.now()
      local text, ending = c:read(1000)
      sys.pass(0.01)
      if sys.now() - began > 0.3 then
        return nil
      end
      assert.truthy(text, ending)
    end
    return true
  end

  it("does not end a connection whose peer takes, all along, what lies in the kernel", function()
    local script = [[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionMade()
        self.transport:write(("x"):rep(300000))
        self.transport:flush()
        reactor.callLater(0.05, function() print("buffered", self.transport:bufferedAmount()) end)
      end
      function P:connectionLost(reason) print("lost", reason.code) end
      return { listen = "tcp:127.0.0.1:0", protocol = P, idleTimeout = 0.5 }
    ]]
    local h, c
    for _ = 1, 10 do
      h = host.serve(script)
      c = h:connect { rcvbuf = 4096 }
      assert.equal("buffered\t0", h:line())
      if read(c) then
        break
      end
      c:close()
      h:stop()
    end
    assert.is_false(h:has "^lost")
    c:close()
    assert.equal("lost\tlost", h:line())
    h:stop()
  end)
end)
