-- Plain tables as they were, to be put back by identity. Pure.

local class = require "skald.class"
local protocol = require "skald.protocol"

local backup = {}

-- What is followed: plain tables, and objects of classes that are no protocols and no factories
-- (through those, everything could be reached).
local function isFollowed(value)
  local meta = getmetatable(value)
  if meta == nil then
    return true
  end
  local methods = class.of(value)
  return methods ~= nil
    and not class.derives(methods, protocol.Protocol)
    and not class.derives(methods, protocol.Factory)
end

--- Notes a table and all that it leads to in `store`, a table that starts empty.
---@param store table
---@param value any
function backup.take(store, value)
  local waiting = { value }
  while #waiting > 0 do
    local subject = table.remove(waiting)
    if type(subject) == "table" and not store[subject] and isFollowed(subject) then
      local copy = {}
      for key, item in next, subject do
        copy[key] = item
        waiting[#waiting + 1] = type(key) == "table" and key or nil
        waiting[#waiting + 1] = type(item) == "table" and item or nil
      end
      store[subject] = { copy = copy, meta = getmetatable(subject) }
    end
  end
end

--- Puts back what `take` noted.
---@param store table
function backup.restore(store)
  for subject, was in pairs(store) do
    debug.setmetatable(subject, nil)
    for key in next, subject do
      subject[key] = nil
    end
    for key, item in next, was.copy do
      subject[key] = item
    end
    debug.setmetatable(subject, was.meta)
  end
end

--- A copy of a plain table, to compare it with later; other values stay themselves.
---@param value any
---@param seen table?
---@return any
function backup.copy(value, seen)
  if type(value) ~= "table" or getmetatable(value) ~= nil then
    return value
  end
  seen = seen or {}
  if not seen[value] then
    local copy = {}
    seen[value] = copy
    for key, item in next, value do
      copy[key] = backup.copy(item, seen)
    end
  end
  return seen[value]
end

--- Whether a value is no more what it was when it was copied.
---@param value any
---@param copy any
---@param seen table?
---@return boolean
function backup.differs(value, copy, seen)
  if type(value) ~= "table" or getmetatable(value) ~= nil or type(copy) ~= "table" then
    return not rawequal(value, copy)
  end
  seen = seen or {}
  if seen[value] then
    return seen[value] ~= copy
  end
  seen[value] = copy
  for key in next, copy do
    if value[key] == nil then
      return true
    end
  end
  for key, item in next, value do
    if copy[key] == nil or backup.differs(item, copy[key], seen) then
      return true
    end
  end
  return false
end

return backup
