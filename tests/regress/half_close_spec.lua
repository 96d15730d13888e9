-- Both halves of a connection end in either order, and each end is told.

local host = require "support.host"

local SCRIPT = [[
  local P = {}
  function P:dataReceived() self.transport:loseWriteConnection() end
  function P:readConnectionLost()
    print "readConnectionLost"
    if not self.written then self.transport:loseWriteConnection() end
  end
  function P:writeConnectionLost()
    print "writeConnectionLost"
    self.written = true
  end
  function P:connectionLost(reason) print("lost", reason.code) end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

describe("a connection that ends half by half", function()
  after_each(host.cleanup)

  it("gives writeConnectionLost after the peer's end came first", function()
    local h = host.serve(SCRIPT)
    assert.same({ "", "eof" }, { h:connect():halfClose():receiveAll() })
    assert.equal("readConnectionLost", h:line())
    assert.equal("writeConnectionLost", h:line())
    assert.equal("lost\tdone", h:line())
    h:stop()
  end)

  it("gives readConnectionLost after loseWriteConnection came first", function()
    local h = host.serve(SCRIPT)
    local c = h:connect():send "x"
    assert.same({ "", "eof" }, { c:receiveAll() })
    assert.equal("writeConnectionLost", h:line())
    c:halfClose()
    assert.equal("readConnectionLost", h:line())
    assert.equal("lost\tdone", h:line())
    h:stop()
  end)
end)
