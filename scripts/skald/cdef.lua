-- ffi.cdef and ffi.metatype for code that is loaded more than once. LuaJIT can neither redefine a
-- type nor forget one: what is declared already is skipped, what has changed is refused.

local ffi = require "ffi"

local cdef = {}
local define = ffi.cdef -- `skald test` puts `declare` in its place

local declared = {} -- texts, and the declarations in them
local typedefs = {} -- by the name: the declaration
local metatypes = {} -- by the number of the type

local function normal(text)
  text = text:gsub("/%*.-%*/", " "):gsub("//[^\n]*", " ")
  return (text:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", ""))
end

-- The declarations of a text, cut at the semicolons outside of braces.
local function declarations(text)
  local list, depth, from = {}, 0, 1
  for at, mark in text:gmatch "()([{};])" do
    if mark == ";" and depth == 0 then
      list[#list + 1] = normal(text:sub(from, at - 1))
      from = at + 1
    elseif mark ~= ";" then
      depth = depth + (mark == "{" and 1 or -1)
    end
  end
  return list
end

-- The name that a typedef gives; LuaJIT keeps the old layout of one that changes, silently.
local function typedefName(declaration)
  if not declaration:find "^typedef%W" then
    return nil
  end
  return declaration:match "%(%s*%*%s*([%w_]+)%s*%)" or declaration:match "([%w_]+)%s*[%[%]%d ]*$"
end

local function refuse(what, level)
  error(("ffi.cdef: %s was declared otherwise before, and LuaJIT cannot redefine it: give it another name, or restart")
    :format(what), level + 1)
end

-- One declaration after the other, those that are there already left out.
local function declareEach(list)
  for _, declaration in ipairs(list) do
    if not declared[declaration] then
      local ok, message = pcall(define, declaration .. ";")
      if not ok then
        local what = message:match "attempt to redefine (.-) at" or message:match "attempt to redefine (.*)"
        if what then
          refuse(what, 3)
        end
        error(message, 3)
      end
      declared[declaration] = true
    end
  end
end

--- Declares what is not declared yet. Raises for what has changed.
---@param text string
---@param ... any
function cdef.declare(text, ...)
  if type(text) ~= "string" or select("#", ...) > 0 then
    return define(text, ...)
  end
  local key = normal(text)
  if declared[key] then
    return
  end
  local list = declarations(text)
  for _, declaration in ipairs(list) do
    local name = typedefName(declaration)
    if name and typedefs[name] and typedefs[name] ~= declaration then
      refuse(("type '%s'"):format(name), 2)
    end
  end
  if not pcall(define, text) then
    declareEach(list)
  end
  declared[key] = true
  for _, declaration in ipairs(list) do
    declared[declaration] = true
    local name = typedefName(declaration)
    if name then
      typedefs[name] = declaration
    end
  end
end

--- Sets the metatable of a type, once: later ones are ignored, and `warn` is told.
---@param ctype any
---@param methods table
---@param warn fun(message: string)
function cdef.metatype(ctype, methods, warn)
  ctype = ffi.typeof(ctype)
  local number = tonumber(ctype)
  if metatypes[number] then
    warn(("ffi.metatype: %s keeps the methods of its first load"):format(tostring(ctype)))
    return ctype
  end
  ffi.metatype(ctype, methods)
  metatypes[number] = true
  return ctype
end

return cdef
