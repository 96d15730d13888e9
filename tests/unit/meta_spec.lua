-- The annotations of scripts/meta name what the library has, and all of it.

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

local function methodsOf(text, name)
  local found = {}
  for method in text:gmatch("\nfunction " .. name .. ":([%w]+)%(") do
    found[method] = true
  end
  for method in text:gmatch("\n" .. name .. "%.([%w]+) = " .. name .. "%.") do
    found[method] = true
  end
  return found
end

describe("the annotations", function()
  local meta = read "scripts/meta/skald.lua"
  local sources = {
    Transport = "scripts/skald/transport.lua",
    DelayedCall = "scripts/skald/timers.lua",
  }

  for name, path in pairs(sources) do
    it("name every method of " .. name .. ", and no other", function()
      assert.same(methodsOf(read(path), name), methodsOf(meta, name))
    end)
  end

  it("name the codes and parties of reasons as the library does", function()
    local reason = require "skald.reason"
    for _, list in ipairs { reason.codes, reason.parties } do
      local words = {}
      for i = 0, #list do
        words[#words + 1] = '"' .. list[i] .. '"'
      end
      assert.truthy(meta:find(table.concat(words, "|"), 1, true))
    end
  end)
end)
