-- A host that stops does not wait for a producer that never comes to an end.

local host = require "support.host"
describe("a connection that waits for an endless producer after loseConnection", function()
  after_each(host.cleanup)

  it("ends in order when the host stops, without waiting for the grace", function()
    local h = host.serve([[
      local P = {}
      function P:connectionMade()
        self.transport:registerProducer(self, false)
        self.transport:loseConnection()
      end
      function P:resumeProducing() self.transport:write(("x"):rep(1000)) end
      function P:connectionLost(reason) print("lost", reason.code) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { options = { "--grace=600" } })
    local c = h:connect()
    c:receive(10000)
    h:kill "TERM"
    assert.equal("eof", select(2, c:count()))
    assert.equal("lost\tstopped", h:line())
    h:ends(0)
  end)
end)
