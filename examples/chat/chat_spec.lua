-- What the chat does, without a socket.
--
--   build/skald test examples/chat                                     this, and chat_host_spec.lua
--   LUA_PATH="scripts/?.lua;;" busted --lua=luajit examples/chat/chat_spec.lua        this alone, without a host

local testing = require "skald.testing"

local FILE = "examples/chat/chat.lua"

describe("the chat", function()
  local memory, factory, port

  before_each(function()
    memory = testing.MemoryReactor:new() -- a network and a clock, which the test moves
    factory = testing.load(FILE)
    factory.protocol.clock = memory
    port = memory:serve(factory)[1]
  end)

  local function say(person, line)
    person.transport:write(line .. "\n")
    memory:flush()
  end

  -- Somebody who has said a name; `data` is what they are told from then on.
  local function enter(name)
    local person = testing.AccumulatingProtocol:new()
    memory:connect(port, person)
    say(person, name)
    person.data = ""
    return person
  end

  it("takes letters and digits for a name", function()
    local person = enter "two words"
    say(person, "ann")
    assert.equal("Welcome to the hall, ann!\n", person.data)
  end)

  it("lets those in one room hear each other, and nobody else", function()
    local ann, ben, carol = enter "ann", enter "ben", enter "carol"
    say(carol, "/join garden")
    ann.data, carol.data = "", ""
    say(ben, "hello")
    assert.equal("<ben> hello\n", ann.data)
    assert.equal("", carol.data)
  end)

  it("keeps the last five lines of a room", function()
    local ann = enter "ann"
    for i = 1, 7 do
      say(ann, "line " .. i)
    end
    local said = factory:said "hall"
    assert.equal(5, #said)
    assert.same({ name = "ann", text = "line 3" }, said[1])
  end)

  it("does the same however the lines are cut", function()
    local function make()
      local visitor = testing.load(FILE):buildProtocol()
      visitor.clock = memory
      return visitor
    end
    assert(testing.everyCut(make, "ann\n/rooms\n/join garden\n/dance\n/quit\n"))
  end)

  it("sends away who is silent for ten minutes: each line starts them anew", function()
    local ann = enter "ann"
    memory:advance(599)
    say(ann, "still here")
    memory:advance(599)
    memory:flush()
    assert.equal("", ann.data)
    memory:advance(1)
    memory:flush()
    assert.equal("Are you still there? Goodbye.\n", ann.data)
    assert.equal("done", ann.reason.code)
  end)

  it("brings the lines of its first version into the new shape", function()
    local state = { said = { hall = { "<ann> a > b" } } }
    factory.migrate(state)
    assert.same({ { name = "ann", text = "a > b" } }, state.said.hall)
  end)
end)
