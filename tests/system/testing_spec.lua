-- skald.testing inside the host: as outside, beside the real reactor.

local host = require "support.host"
local reactors = require "support.reactors"

describe("the test kit inside the host", function()
  after_each(host.cleanup)

  it("works as outside, and gives the reactor back", function()
    local h = host.serve([[
      local basic = require "skald.basic"
      local reactor = require "skald.reactor"
      local testing = require "skald.testing"
      local Echo = basic.LineReceiver { lineReceived = function(self, line) self:sendLine(line) end }
      reactor.callWhenRunning(function()
        print("cuts", testing.everyCut(function() return Echo:new() end, ("some line\r\n"):rep(20)))
        local memory = testing.MemoryReactor:new()
        local uninstall = memory:install()
        local port = require("skald.reactor").listenTCP(0, { protocol = Echo })
        local client = testing.AccumulatingProtocol:new()
        memory:connect(port, client)
        client.transport:write "hello\r\n"
        memory:flush()
        uninstall()
        print("memory", #client.data, require "skald.reactor" == reactor, port.factory:connectionCount())
        local made = testing.attach(Echo:new())
        made.transport:loseConnection()
        testing.turn(made)
        print("lost", made.transport.disconnected)
        local factory = require("skald.protocol").Factory({ protocol = Echo }):new()
        local made = testing.attach(factory)
        print("counted", factory:connectionCount())
        testing.lose(made)
        local port = reactor.listenTCP(0, factory, { interface = "127.0.0.1" })
        testing.lose((testing.attach(factory)))
        print("the host counts", factory:connectionCount())
        local other = require("skald.protocol").Factory({ protocol = Echo }):new()
        local left = testing.attach(other)
        reactor.listenTCP(0, other, { interface = "127.0.0.1" })
        testing.lose(left)
        print("still the host", other:connectionCount())
        local refusing = require("skald.protocol").Factory({ buildProtocol = function() end }):new()
        memory:connect(memory:listenTCP(0, refusing), testing.AccumulatingProtocol:new())
        reactor.listenTCP(0, refusing, { interface = "127.0.0.1" })
        print "served"
        reactor.stop()
      end)
    ]], { listening = 0 })
    assert.equal("cuts\ttrue", h:line())
    assert.equal("memory\t7\ttrue\t1", h:line())
    assert.equal("lost\ttrue", h:line())
    assert.equal("counted\t1", h:line())
    repeat
      local line = h:line()
    until line == "the host counts\t0"
    assert.matches("^listening ", h:line())
    assert.equal("still the host\t0", h:line())
    assert.matches("^listening ", h:line())
    assert.equal("served", h:line())
    h:ends()
  end)
end)

describe("on the real reactor, as on that of the test kit,", function()
  after_each(host.cleanup)

  for name, case in pairs(reactors.cases) do
    it(name, function()
      local h = host.serve(reactors.scriptOf(case), { listening = 0 })
      for _, line in ipairs(case.lines) do
        local said = h:line()
        while said:find "^listening " do
          said = h:line()
        end
        assert.equal(line, said)
      end
      h:ends()
    end)
  end
end)
