local backup = require "skald.backup"
local class = require "skald.class"
local protocol = require "skald.protocol"

describe("backup", function()
  it("puts tables back by identity, with what they led to", function()
    local inner = { 1, 2 }
    local state = { inner = inner, name = "a" }
    local store = {}
    backup.take(store, state)
    state.inner, state.name, state.new = {}, nil, true
    inner[1], inner[3] = "changed", 3
    setmetatable(state, {})
    backup.restore(store)
    assert.equal(inner, state.inner)
    assert.same({ inner = { 1, 2 }, name = "a" }, state)
    assert.is_nil(getmetatable(state))
  end)

  it("follows circles, keys that are tables, and objects of classes", function()
    local Room = class.root "Room"
    local room, key = Room:new(), { n = 1 }
    room.members = { "ann" }
    local state = { room = room, [key] = true }
    state.self = state
    local store = {}
    backup.take(store, state)
    room.members[1], key.n, state.room = "bob", 2, nil
    backup.restore(store)
    assert.equal(room, state.room)
    assert.same({ "ann" }, room.members)
    assert.equal(1, key.n)
  end)

  it("does not follow protocols and factories", function()
    local chat = protocol.Protocol {}:new()
    chat.n = 1
    local store = {}
    backup.take(store, { chat = chat })
    chat.n = 2
    backup.restore(store)
    assert.equal(2, chat.n)
  end)

  it("tells a table that was filled, deep down too, from one that was not", function()
    local handler = function() end
    local definition = { list = { 1, { 2 } }, handler = handler }
    definition.self = definition
    local copy = backup.copy(definition)
    assert.is_false(backup.differs(definition, copy))
    definition.list[2][1] = 3
    assert.is_true(backup.differs(definition, copy))
    definition.list[2][1] = 2
    assert.is_false(backup.differs(definition, copy))
    definition.list[3] = false
    assert.is_true(backup.differs(definition, copy))
    definition.list[3] = nil
    definition.handler = function() end
    assert.is_true(backup.differs(definition, copy))
  end)

  it("sees that a key was removed", function()
    local rooms = { lobby = {} }
    local copy = backup.copy(rooms)
    rooms.lobby = nil
    assert.is_true(backup.differs(rooms, copy))
  end)
end)
