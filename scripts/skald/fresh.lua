-- Functions of one's own, for the compiler. Pure.
--
-- LuaJIT compiles a loop for what it finds there first: these classes, these handlers. What comes
-- later with others runs beside that, three times as slow. So hot code that serves many classes is
-- copied for each of them. A copy is the same code with compiled code of its own, and is collected
-- with the class it was made for.

local class = require "skald.class"

local fresh = {}

local copy

-- Upvalues that are functions written in Lua are called by the hot code, so they are part of it.
local function copyUpvalues(from, to, seen)
  local i, name, value = 1, debug.getupvalue(from, 1)
  while name do
    if type(value) == "function" and debug.getinfo(value, "S").what == "Lua" then
      value = copy(value, seen)
    end
    debug.setupvalue(to, i, value)
    i = i + 1
    name, value = debug.getupvalue(from, i)
  end
end

function copy(f, seen)
  if not seen[f] then
    seen[f] = setfenv(loadstring(string.dump(f)), getfenv(f))
    copyUpvalues(f, seen[f], seen)
  end
  return seen[f]
end

--- A copy of a function, and of those in its upvalues, which never change after it was made.
---@param f function
---@return function
function fresh.copy(f)
  return copy(f, {})
end

--- The class's own copy of one of its methods.
---@param object table an instance of it
---@param name string
---@return function
function fresh.method(object, name)
  local own = class.of(object)
  local meta = own and getmetatable(own)
  if not meta then
    return object[name]
  end
  local method = meta[name]
  if not method then
    method = fresh.copy(object[name])
    meta[name] = method
  end
  return method
end

return fresh
