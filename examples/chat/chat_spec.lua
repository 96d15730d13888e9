-- What the chat does, without a socket.
--
--   build/skald test examples/chat                                     this, and chat_host_spec.lua
--   LUA_PATH="scripts/?.lua;;" busted --lua=luajit examples/chat/chat_spec.lua        this alone, without a host

local testing = require "skald.testing"

local FILE = "examples/chat/chat.lua"

describe("the chat", function()
  local factory, clock

  before_each(function()
    factory = testing.load(FILE)
    clock = testing.Clock:new()
    factory.protocol.clock = clock
  end)

  -- Somebody who has said a name, and what they were told since.
  local function enter(name)
    local visitor, transport = testing.attach(factory)
    testing.feed(visitor, name .. "\n")
    transport:clear()
    return visitor, transport
  end

  it("takes letters and digits for a name", function()
    local visitor, transport = testing.attach(factory)
    testing.feed(visitor, "two words\nann\n")
    assert.equal(
      "What is your name?\nA name has letters and digits. What is your name?\nWelcome to the hall, ann!\n",
      transport:value()
    )
  end)

  it("keeps the last five lines of a room", function()
    local ann = enter "ann"
    for i = 1, 7 do
      testing.feed(ann, ("line %d\n"):format(i))
    end
    local said = factory:said "hall"
    assert.equal(5, #said)
    assert.same({ name = "ann", text = "line 3" }, said[1])
  end)

  it("repeats what somebody has said", function()
    local ann, transport = enter "ann"
    testing.feed(ann, "hello\n/said ann\n/said ben\n")
    assert.equal("hello\n", transport:value())
  end)

  it("does the same however the lines are cut", function()
    local function make()
      local visitor = testing.load(FILE):buildProtocol()
      visitor.clock = clock
      return visitor
    end
    assert(testing.everyCut(make, "ann\n/rooms\n/join garden\n/dance\n/quit\n"))
  end)

  it("sends away who is silent for ten minutes: each line starts them anew", function()
    local ann, transport = enter "ann"
    clock:advance(599)
    testing.feed(ann, "still here\n")
    clock:advance(599)
    assert.equal("", transport:value())
    clock:advance(1)
    assert.equal("Are you still there? Goodbye.\n", transport:value())
  end)

  it("brings the lines of its first version into the new shape", function()
    local state = { said = { hall = { "<ann> a > b" } } }
    factory.migrate(state)
    assert.same({ { name = "ann", text = "a > b" } }, state.said.hall)
  end)
end)
