-- Which definition of a new load is which living factory.

local factories = require "skald.factories"
local protocol = require "skald.protocol"

-- Entries as a load gives them: "name@endpoint,endpoint", without a name "@endpoint".
local function entries(...)
  local list = {}
  for i, text in ipairs { ... } do
    local name, keys = text:match "^(.-)@(.*)$"
    local endpoints = {}
    for key in keys:gmatch "[^,]+" do
      endpoints[#endpoints + 1] = { key = key }
    end
    local definition = { protocol = {}, name = name ~= "" and name or nil }
    list[i] = factories.read(definition, endpoints, "script")
    list[i].text = text
  end
  factories.number(list)
  return list
end

-- The old entry that each new one follows, or the message.
local function match(olds, news)
  local ok, message = factories.match(olds, news)
  if not ok then
    return message
  end
  local found = {}
  for i, new in ipairs(news) do
    found[i] = new.predecessor and new.predecessor.text or "new"
  end
  return found
end

describe("a definition", function()
  it("follows the factory of its name, wherever it listens", function()
    assert.same({ "b@2", "a@1" }, match(entries("a@1", "b@2"), entries("b@1", "a@2")))
  end)

  it("without a name follows the factory of its endpoint, in whatever order", function()
    assert.same({ "@2", "@1" }, match(entries("@1", "@2"), entries("@2", "@1")))
  end)

  it("that gets a name follows the factory of its endpoint", function()
    assert.same({ "@1" }, match(entries "@1", entries "chat@1"))
  end)

  it("with nothing else in common follows by its position", function()
    assert.same({ "@1", "@2" }, match(entries("@1", "@2"), entries("@3", "@4")))
    assert.same({ "@1", "new" }, match(entries "@1", entries("@1", "@2")))
  end)

  it("that could be two factories is refused", function()
    assert.truthy(match(entries("@1", "@2"), entries "@1,2"):find "name = ")
    assert.truthy(match(entries "@1,2", entries("@1", "@2")):find "name = ")
    assert.truthy(match(entries("@1", "@2"), entries("@2", "@3")):find "number 2 without a name")
  end)

  it("of several on equal endpoints follows by their order", function()
    assert.same({ "@0", "@0" }, match(entries("@0", "@0"), entries("@0", "@0")))
  end)

  it("with a new name and endpoint is a new factory, and the other one is gone", function()
    local olds = entries "a@1"
    assert.same({ "new" }, match(olds, entries "b@2"))
    assert.is_nil(olds[1].successor)
  end)

  it("is named after the script where it has no name, and keeps none of it", function()
    local entry = entries("@1")[1]
    assert.equal("script", entry.factory.name)
    assert.is_nil(entry.name)
  end)

  it("may be an instance, which is the factory then", function()
    local factory = protocol.Factory {}:new()
    assert.equal(factory, factories.read(factory, {}, "script").factory)
  end)
end)
