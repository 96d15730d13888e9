-- What finger does, without a socket: protocols are fed by hand, and time is moved.
--
--   build/skald test examples/finger                                   this, and finger_host_spec.lua
--   LUA_PATH="scripts/?.lua;;" busted --lua=luajit examples/finger/finger_spec.lua        this alone, without a host

local testing = require "skald.testing"

local FILE = "examples/finger/finger.lua"

describe("finger", function()
  local factory, clock

  before_each(function()
    factory = testing.load(FILE)
    clock = testing.Clock:new()
    factory.protocol.clock = clock
  end)

  it("answers, and closes", function()
    local visitor, transport = testing.attach(factory)
    testing.feed(visitor, "alice\r\n")
    assert.equal("alice is painting the fence (asked once)\r\n", transport:value())
    assert.is_true(transport.disconnected)
  end)

  it("counts the questions, of those that there are", function()
    for _, name in ipairs { "bob", "carol", "bob" } do
      testing.feed(testing.attach(factory), name .. "\r\n")
    end
    assert.same({ bob = 2 }, factory.state.asked)
  end)

  it("does the same however the question is cut", function()
    local function make()
      local visitor = testing.load(FILE):buildProtocol()
      visitor.clock = clock
      return visitor
    end
    assert(testing.everyCut(make, "alice\r\n"))
  end)

  it("sends away who says nothing for ten seconds, and no sooner", function()
    local _, transport = testing.attach(factory)
    clock:advance(9)
    assert.equal("", transport:value())
    clock:advance(1)
    assert.equal("too slow\r\n", transport:value())
    assert.is_true(transport.disconnecting)
  end)

  it("says who cannot be asked", function()
    local visitor, transport = testing.attach(factory)
    testing.feed(visitor, "alice@moon\r\n")
    assert.equal("alice@moon: no way to moon\r\n", transport:value())
  end)

  it("tells the other side of finger, joined to it byte by byte", function()
    local question = dofile "examples/finger/question.lua"
    local pump = testing.connect(factory, question.Question:new "bob", { cut = 1 })
    pump:flush()
    assert.equal("bob sleeps until noon (asked once)", pump.client.answer.result)
  end)
end)
