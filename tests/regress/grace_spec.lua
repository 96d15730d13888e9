-- However many seconds --grace names, they are that many.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

describe("--grace", function()
  after_each(host.cleanup)

  it("of 99999999999 seconds is a long grace, not none", function()
    local h = host.serve([[
      local P = {}
      function P:connectionMade()
        self.transport:write(("x"):rep(20 * 1024 * 1024))
        print "made"
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { options = { "--grace", "99999999999" } })
    local c = h:connect { rcvbuf = 16384 }
    assert.equal("made", h:line())
    h:kill "TERM"
    sys.await(function()
      local other, code = client.try(h.port)
      if other then
        other:close()
      end
      return code == "ECONNREFUSED"
    end, function()
      return h:story "the host still accepts"
    end)
    assert.same({ 20 * 1024 * 1024, "eof" }, { c:count() })
    h:ends(0)
  end)
end)
