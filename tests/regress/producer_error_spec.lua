-- A producer may raise anything from any of its methods; the connection it feeds still ends as it should.

local host = require "support.host"

describe("a producer that raises", function()
  after_each(host.cleanup)

  it("a table from stopProducing does not keep connectionLost from coming", function()
    local h = host.serve [[
      local P = {}
      function P:connectionMade()
        self.transport:registerProducer({
          resumeProducing = function() end, pauseProducing = function() end,
          stopProducing = function() error { code = 2 } end,
        }, true)
      end
      function P:dataReceived() self.transport:abortConnection() end
      function P:connectionLost(reason) print("lost", reason.code) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    c:send("x"):count()
    assert.equal("lost\taborted", h:line())
    h:stop()
  end)

  it("a table from pauseProducing fails its own connection, not the writer's", function()
    local h = host.serve [[
      local P, fed = {}, nil
      function P:dataReceived(data)
        if data == "feed" then
          fed, self.fed = self, true
          self.transport:registerProducer({
            resumeProducing = function() end, stopProducing = function() end,
            pauseProducing = function() error { code = 1 } end,
          }, true)
          print "fed"
        elseif data == "write" then
          local ok = pcall(fed.transport.write, fed.transport, ("x"):rep(40 * 1024 * 1024))
          print("wrote", ok)
          self.transport:write "served"
        end
      end
      function P:connectionLost(reason)
        if self.fed then print("lost", reason.code, type(reason.traceback)) end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local fed, writer = h:connect { rcvbuf = 16384 }, h:connect()
    fed:send "feed"
    assert.equal("fed", h:line())
    writer:send "write"
    assert.equal("wrote\ttrue", h:line())
    assert.equal("lost\terror\tstring", h:line())
    assert.equal("served", writer:receive(6))
    assert.equal("eof", select(2, fed:count()))
    h:stop()
  end)
end)
