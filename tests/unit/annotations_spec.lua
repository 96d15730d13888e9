-- The annotations say what the code says, and the pages of the reference say what the annotations say.

local annotations = require "support.annotations"
local reference = require "support.reference"
local source = require "support.source"

-- What is still to be mended, as `file: what`, without a line. It may only shrink.
local exceptions = {}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

local function sorted(set)
  local names = {}
  for name in pairs(set) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

describe("the annotations", function()
  local found, excused = {}, {}
  for _, problem in ipairs(reference.problems()) do
    local short = problem:gsub(":%d+:", ":", 1)
    if exceptions[short] then
      excused[short] = true
    else
      found[#found + 1] = problem
    end
  end

  it("say what the code says, for everything that is public", function()
    assert.same({}, found)
  end)

  it("have no exception that nothing needs", function()
    assert.same(sorted(exceptions), sorted(excused))
  end)

  it("name the codes and parties of reasons as the library does", function()
    local reason = require "skald.reason"
    local text = read "scripts/skald/reason.lua"
    for _, list in ipairs { reason.codes, reason.parties } do
      local words = {}
      for i = 0, #list do
        words[#words + 1] = '"' .. list[i] .. '"'
      end
      assert.truthy(text:find(table.concat(words, "|"), 1, true))
    end
  end)

  it("name what a service is given as skald.service, and nothing else", function()
    local made, named = {}, {}
    local facade = read("scripts/skald/loader.lua"):match 'facades%["skald%.service"%].-\nend\n'
    for name in facade:gmatch "\n    (%w+) =" do
      made[name] = true
    end
    for _, member in ipairs(annotations.read("scripts/meta/service.lua").members) do
      named[member.name] = true
    end
    assert.truthy(next(made))
    assert.same(sorted(made), sorted(named))
  end)

  it("name each key of a definition or a protocol that check knows", function()
    local later = { handshakeCompleted = true } -- with TLS
    local known = {}
    local _, _, classes = reference.read()
    for _, class in pairs(classes) do
      for _, field in ipairs(class.doc.fields) do
        known[field.name] = true
      end
      for _, member in ipairs(annotations.shown(class)) do
        known[member.name] = true
      end
    end
    for body in read("scripts/skald/check.lua"):gmatch "local %w+Keys = (%b{})" do
      for key in body:gmatch "\n  (%w+) =" do
        assert.truthy(known[key] or later[key], key .. " is documented nowhere")
      end
    end
  end)
end)

describe("the reference", function()
  local texts = reference.render()

  it("has a page for each module, and no other", function()
    local there = {}
    for path in io.popen("ls " .. reference.folder):lines() do
      there[path] = true
    end
    assert.same(sorted(texts), sorted(there))
  end)

  for name, text in pairs(texts) do
    it("has in " .. name .. " what the sources say: else `make docs`", function()
      assert.equal(text, read(reference.folder .. "/" .. name))
    end)
  end

  it("links to headings that there are", function()
    local headings, links = {}, {}
    for name, text in pairs(texts) do
      for heading in text:gmatch "\n#+ ([^\n]+)" do
        headings[name .. "#" .. heading:lower():gsub("[^%w_ -]", ""):gsub(" ", "-")] = true
      end
      for page, anchor in text:gmatch "%]%(([%w_.]*)#([%w_-]+)%)" do
        links[(page == "" and name or page) .. "#" .. anchor] = name
      end
    end
    assert.truthy(next(links))
    for link, name in pairs(links) do
      assert.truthy(headings[link], ("%s links to %s"):format(name, link))
    end
  end)
end)

-- --- the checks themselves --------------------------------------------------------------------

local PUBLIC = { module = true, classes = { One = true, Two = true } }

local function problemsOf(text, known)
  return table.concat(annotations.problems(annotations.parse("x.lua", text), known or {}, PUBLIC), "\n")
end

describe("the check of annotations", function()
  it("has nothing against a function whose comment is complete", function()
    assert.equal("", problemsOf [[
local x = {}
--- Waits.
---@param s number seconds
---@param ... any
---@return boolean? ok
---@return string? message
---@return string? code
function x.wait(s, ...)
  if s > 1 then
    return nil, "too long", "ERANGE"
  end
  return true
end
return x
]])
  end)

  local complaints = {
    ["a function without a comment"] = { "function x.f() end", "x.lua:2: f has no comment" },
    ["a comment without a sentence"] = { "---@param a any\nfunction x.f(a) end", "x.lua:3: f has no sentence" },
    ["a sentence that does not end"] = { "--- Does\nfunction x.f() end", "its sentence does not end" },
    ["a parameter without @param"] = { "--- Does.\nfunction x.f(a) end", "f takes (a), but its @param say ()" },
    ["a @param that is no parameter"] = { "--- Does.\n---@param b any\nfunction x.f(a) end", "its @param say (b)" },
    ["parameters in another order"] = {
      "--- Does.\n---@param b any\n---@param a any\nfunction x.f(a, b) end",
      "f takes (a, b), but its @param say (b, a)",
    },
    ["a missing @return"] = { "--- Does.\nfunction x.f() return 1 end", "f returns 1 values, and has 0 @return" },
    ["fewer @return than values"] = {
      "--- Does.\n---@return boolean? ok\nfunction x.f() return nil, 'no', 'EPERM' end",
      "f returns 3 values, and has 1 @return",
    },
    ["what a local function adds to a result"] = {
      "local function no() return nil, 'no', 'EPERM' end\n--- Does.\n---@return boolean? ok\nfunction x.f() return no() end",
      "f returns 3 values, and has 1 @return",
    },
    ["a @return of a function that returns nothing"] = {
      "--- Does.\n---@return boolean\nfunction x.f() print() end",
      "f returns nothing, but has a @return",
    },
    ["a text where the name of a result belongs"] = {
      "--- Does.\n---@return table of things\nfunction x.f() return {} end",
      "a @return has a name before its text: 'of' is none",
    },
    ["a type that nobody declares"] = {
      "--- Does.\n---@param a table<string, fun(b: Thing?): integer[]>|nil\nfunction x.f(a) end",
      "nobody declares the type Thing",
    },
    ["a class derived from what nobody declares"] = {
      "--- One.\n---@class One: Thing\nlocal One = {}",
      "nobody declares the class Thing",
    },
    ["a number without a unit"] = {
      "--- Does.\n---@param a number?\nfunction x.f(a) end",
      "f: the number a has no text that tells its unit",
    },
    ["a class without a sentence"] = { "---@class One\nlocal One = {}", "the class One has no sentence" },
    ["a value without a type"] = { "--- Some.\nx.some = {}", "some has no @type" },
    ["an annotation that there is not"] = { "--- Does.\n---@parm a any\nfunction x.f(a) end", "called @parm" },
  }
  for what, case in pairs(complaints) do
    it("complains of " .. what, function()
      local problems = problemsOf("local x = {}\n" .. case[1] .. "\nreturn x\n")
      assert.truthy(problems:find(case[2], 1, true), problems)
    end)
  end

  it("leaves what overrides a documented method of a base", function()
    local text = [[
--- One.
---@class One
local One = {}
--- Does.
---@param a any
function One:f(a) end
--- Two.
---@class Two: One
local Two = {}
function Two:f(a) end
function Two:g(a) end
]]
    local file = annotations.parse("x.lua", text)
    assert.same({ "x.lua:11: g has no comment" }, annotations.problems(file, annotations.declared { file }, PUBLIC))
  end)

  it("takes a function of another module for what that says of it", function()
    local file = annotations.parse("x.lua", [[
local reason = require "skald.reason"
local x = {}
x.made = reason.new
x.unmade = reason.older
return x
]])
    assert.same({ "x.lua:4: unmade has no comment" }, annotations.problems(file, { Reason = true }, PUBLIC))
    assert.same({ "code", "by", "detail", "errno", "traceback" }, file.members[1].f.parameters)
  end)

  it("leaves classes that users do not meet", function()
    assert.equal("", problemsOf "---@class Three\nlocal Three = {}\nfunction Three:f() end\n")
  end)

  it("reads types that go over several lines, and numbers as types", function()
    assert.equal("", problemsOf [[
local x = {}
--- Does.
---@param options { a: string?,
---b: fun(c: integer): 1|2 } a: one; b: the other
function x.f(options) end
return x
]])
  end)

  it("leaves what is private, and what begins with an underscore", function()
    assert.equal("", problemsOf [[
local x = {}
---@private
function x.f(a) return a end
function x._g() end
return x
]])
  end)
end)

describe("what the reference reads in the code", function()
  local function only(text)
    local file = source.parse("x.lua", text)
    return file.functions[#file.functions]
  end

  it("is what a function raises at its caller's line, also by way of another", function()
    local f = only [[
local function need(name, value)
  if type(value) ~= "string" then
    error(("%s takes a string, not a %s"):format(name, type(value)), 3)
  end
end
function x.f(a)
  need("f", a)
  if a == "" then
    error("f takes no empty string", 2)
  elseif a == "b" then
    error("a fault of our own", 0)
  end
end
]]
    local texts = {}
    for i, item in ipairs(source.raises(f)) do
      texts[i] = item.text
    end
    assert.same({ "f takes a string, not a …", "f takes no empty string" }, texts)
  end)

  it("is what a function gives as nil, message, code", function()
    local f = only [[
local function spent(self)
  if self.called then
    return nil, "already called", "EALREADY"
  end
  return nil, ("over since %d s"):format(self.since), "ECANCELED"
end
function x.f(self)
  local g = function()
    return nil, "of another", "EPERM"
  end
  return self.alive and g or spent(self)
end
function x.g(self)
  return spent(self)
end
]]
    assert.same({
      { message = "already called", code = "EALREADY" },
      { message = "over since … s", code = "ECANCELED" },
    }, source.failures(f))
  end)

  it("is not led astray by words in strings and comments", function()
    local f = only [==[
function x.f() -- function end return 1, 2
  local s = "end return 1" .. 'function' .. [[ end
  return 1 ]] --[[ return 1, 2, 3
  end ]]
  return s
end
]==]
    assert.equal(1, source.arity(f))
  end)
end)
