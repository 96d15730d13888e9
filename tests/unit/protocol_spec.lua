local protocol = require "skald.protocol"

describe("protocol", function()
  it("builds an instance of the factory's protocol, and gives it the factory", function()
    local Echo = protocol.Protocol {}
    local factory = protocol.Factory({ protocol = Echo }):new()
    local made = factory:buildProtocol()
    assert.equal(factory, made.factory)
    assert.not_equal(made, factory:buildProtocol())
  end)

  it("treats a plain table as if it were derived from Protocol", function()
    local seen
    local factory = protocol.Factory({ protocol = {
      connectionMade = function(self)
        seen = self.transport
      end,
    } }):new()
    factory:buildProtocol():makeConnection "a transport"
    assert.equal("a transport", seen)
  end)

  it("connects by hand a protocol that defines nothing", function()
    local made = protocol.Protocol:new()
    made:makeConnection "a transport"
    assert.equal("a transport", made.transport)
  end)

  it("calls init with the arguments of new", function()
    local Greeter = protocol.Protocol { init = function(self, word) self.word = word end }
    assert.equal("hello", Greeter:new("hello").word)
  end)

  it("has no connections outside the host", function()
    local factory = protocol.Factory:new()
    assert.equal(0, factory:connectionCount())
    for _ in factory:each() do
      error "there is none"
    end
  end)

  it("keeps a bound that is set, and refuses what is none", function()
    local factory = protocol.Factory:new()
    factory:setBound("idleTimeout", 5)
    assert.equal(5, factory.idleTimeout)
    assert.has_error(function() factory:setBound("idleTimout", 5) end)
    assert.has_error(function() factory:setBound("highWater", -1) end)
    assert.has_error(function() factory:setBound("highWater", 0 / 0) end)
    assert.has_error(function() factory:setBound("highWater", "64k") end)
  end)

  it("starts a DatagramProtocol by hand, with any transport", function()
    local Counter = protocol.DatagramProtocol {}
    function Counter:startProtocol()
      self.started = (self.started or 0) + 1
    end
    function Counter:datagramReceived(data, address)
      self.transport:write(data:upper(), address)
    end
    local sent = {}
    local instance = Counter:new()
    instance:makeConnection {
      write = function(_, data, address)
        sent[#sent + 1] = { data, address }
      end,
    }
    instance:datagramReceived("x", "there", false)
    instance:stopProtocol()
    assert.same({ 1, { { "X", "there" } } }, { instance.started, sent })
  end)

  it("has a protocol for processes, which tells the first three descriptors apart", function()
    local heard = {}
    local function hear(name)
      return function(_, data) heard[#heard + 1] = data and name .. " " .. data or name end
    end
    local Heard = protocol.ProcessProtocol {
      connectionMade = hear "made", outReceived = hear "out", errReceived = hear "err",
      inConnectionLost = hear "in lost", outConnectionLost = hear "out lost", errConnectionLost = hear "err lost",
    }
    local p, transport = Heard:new(), {}
    p:makeConnection(transport)
    assert.equal(transport, p.transport)
    for fd = 0, 3 do
      p:childDataReceived(fd, tostring(fd))
      p:childConnectionLost(fd)
    end
    assert.same({ "made", "in lost", "out 1", "out lost", "err 2", "err lost" }, heard)
    for _, name in ipairs { "connectionMade", "outReceived", "processExited", "processEnded" } do
      protocol.ProcessProtocol:new()[name](p, {})
    end
  end)
end)
