local address = require "skald.address"
local reason = require "skald.reason"

describe("reason", function()
  it("is one readable sentence as text", function()
    assert.equal("the peer closed the connection", tostring(reason.new("done", "peer")))
    local lost = reason.new("lost", "peer", "Connection reset by peer", "ECONNRESET")
    assert.equal("the connection was lost: Connection reset by peer", tostring(lost))
    assert.equal("ECONNRESET", lost.errno)
  end)

  it("has a sentence for every way the core ends a connection", function()
    for code = 0, #reason.codes do
      for by = 0, #reason.parties do
        local made = reason.new(reason.codes[code], reason.parties[by])
        assert.matches("^%l[%w%s:]+$", made.message)
        assert.equal(reason.codes[code], made.code)
      end
    end
  end)
end)

describe("address", function()
  it("is an endpoint string as text", function()
    assert.equal("tcp:127.0.0.1:80", tostring(address.inet("TCP", "127.0.0.1", 80)))
    assert.equal("tcp:[::1]:80", tostring(address.inet("TCP6", "::1", 80)))
    assert.equal("unix:/run/x", tostring(address.unix "/run/x"))
  end)

  it("equals another of the same type, host and port", function()
    assert.equal(address.inet("TCP", "::1", 1), address.inet("TCP", "::1", 1))
    assert.not_equal(address.inet("TCP", "::1", 1), address.inet("TCP", "::1", 2))
    assert.not_equal(address.unix "/a", address.unix "/b")
  end)
end)
