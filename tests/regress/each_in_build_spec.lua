-- A connection counts from the moment it has a protocol.

local host = require "support.host"

describe("inside buildProtocol", function()
  after_each(host.cleanup)

  it("connectionCount and each see the others, not the newcomer", function()
    local h = host.serve [[
      local Factory = require("skald.protocol").Factory
      local P = {}
      function P:connectionMade() print("made", self.factory:connectionCount()) end
      local F = Factory { protocol = P, listen = "tcp:127.0.0.1:0" }
      function F:buildProtocol(address)
        local n = 0
        for p in self:each() do
          assert(p.transport)
          n = n + 1
        end
        print("build", self:connectionCount(), n)
        return Factory.buildProtocol(self, address)
      end
      return F
    ]]
    for n = 0, 3 do
      h:connect()
      assert.equal(("build\t%d\t%d"):format(n, n), h:line())
      assert.equal(("made\t%d"):format(n + 1), h:line())
    end
    h:stop()
  end)

  it("those it refuses never count", function()
    local h = host.serve [[
      local Factory = require("skald.protocol").Factory
      local F = Factory { protocol = {}, listen = "tcp:127.0.0.1:0" }
      function F:buildProtocol() print("build", self:connectionCount()) end
      return F
    ]]
    for _ = 1, 3 do
      assert.same({ "", "eof" }, { h:connect():receiveAll() })
      assert.equal("build\t0", h:line())
    end
    h:stop()
  end)
end)
