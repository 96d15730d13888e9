local class = require "skald.class"
local fresh = require "skald.fresh"

describe("a copy of a function", function()
  local calls = 0

  local function plus(a, b)
    return a + b
  end

  local down
  local function up(n)
    return n > 10 and n or down(n * 2)
  end
  function down(n)
    return up(plus(n, -1))
  end

  it("gives what the function gives, through what that calls", function()
    local copy = fresh.copy(up)
    assert.not_equal(up, copy)
    for n = 2, 20 do
      assert.equal(up(n), copy(n))
    end
  end)

  it("is code of its own, as are the functions of its upvalues, each copied once", function()
    local copy = fresh.copy(up)
    local _, copiedDown = debug.getupvalue(copy, 1)
    assert.not_equal(down, copiedDown)
    local found = {}
    for i = 1, 2 do
      local name, value = debug.getupvalue(copiedDown, i)
      found[name] = value
    end
    assert.equal(copy, found.up)
    assert.not_equal(plus, found.plus)
  end)

  it("shares tables and functions of C with it", function()
    local list = {}
    local function put(value)
      table.insert(list, value)
    end
    fresh.copy(put)(1)
    put(2)
    assert.same({ 1, 2 }, list)
  end)

  it("has the environment, the name of the file and the lines of the function", function()
    local environment = setmetatable({ answer = 42 }, { __index = _G })
    local function f()
      return answer, debug.getinfo(1, "Sl") -- luacheck: ignore 113
    end
    setfenv(f, environment)
    local answer, where = fresh.copy(f)()
    assert.equal(42, answer)
    assert.matches("fresh_spec%.lua$", where.short_src)
    assert.equal(debug.getinfo(f, "S").linedefined + 1, where.currentline)
  end)

  it("belongs to a class: one for all its instances, another for those of what is derived from it", function()
    local Base = class.root("Base", { run = function(self) calls = calls + 1 return self end })
    local Derived = Base {}
    local a, b, c = Base:new(), Base:new(), Derived:new()
    local run = fresh.method(a, "run")
    assert.equal(run, fresh.method(b, "run"))
    assert.not_equal(Base.run, run)
    assert.not_equal(run, fresh.method(c, "run"))
    assert.equal(c, fresh.method(c, "run")(c))
  end)

  it("follows an object to the class that succeeds its own", function()
    local Old = class.root("Old", { run = function() return "old" end })
    local New = class.root("New", { run = function() return "new" end })
    local object = Old:new()
    assert.equal("old", fresh.method(object, "run")(object))
    class.succeed(Old, New, true)
    assert.equal("new", fresh.method(object, "run")(object))
  end)

  it("is collected with its class, run or not", function()
    local kept = setmetatable({}, { __mode = "k" })
    for _ = 1, 20 do
      local Short = class.root("Short", { run = function(self)
        local sum = 0
        for i = 1, 200 do
          sum = sum + i * self.factor
        end
        return sum
      end, factor = 2 })
      local object = Short:new()
      kept[fresh.method(object, "run")] = true
      fresh.method(object, "run")(object)
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(kept))
  end)

  it("is the method itself where there is no class", function()
    local function run() end
    assert.equal(run, fresh.method({ run = run }, "run"))
  end)
end)
