-- The first end of a connection is its reason: an error after abortConnection does not make it another.

local host = require "support.host"

describe("a callback that aborts its connection and then raises", function()
  after_each(host.cleanup)

  it("gives the reason aborted, without a traceback", function()
    local h = host.serve [[
      local P = {}
      function P:dataReceived()
        self.transport:abortConnection()
        error "boom"
      end
      function P:connectionLost(reason)
        print("lost", reason.code, reason.traceback, reason.message:find "boom", tostring(reason):find "boom")
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    assert.equal("ECONNRESET", select(2, h:connect():send("x"):count()))
    assert.equal("lost\taborted\tnil\tnil\tnil", h:line())
    h:waitLog "boom"
    h:stop()
  end)
end)
