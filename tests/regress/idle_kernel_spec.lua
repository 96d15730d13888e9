-- The peer of a connection is not idle while it takes bytes that lie in the kernel.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

describe("idleTimeout", function()
  after_each(host.cleanup)

  it("does not end a connection whose peer takes, all along, what lies in the kernel", function()
    local h = host.serve [[
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
    local c = h:connect { rcvbuf = 4096 }
    assert.equal("buffered\t0", h:line())
    local limit = sys.now() + 1.8
    while sys.now() < limit do
      local text, ending = c:read(1000)
      assert.truthy(text, ending)
      sys.pass(0.01)
    end
    assert.is_false(h:has "^lost")
    c:close()
    assert.equal("lost\tlost", h:line())
    h:stop()
  end)
end)
