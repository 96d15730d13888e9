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

-- What is compared: what is followed, and tables that are weak.
local function isCompared(value)
  if type(value) ~= "table" then
    return false
  end
  local meta = getmetatable(value)
  return isFollowed(value) or type(meta) == "table" and rawget(meta, "__mode") and rawget(meta, "__index") == nil
end

--- A copy of a plain table, to compare it with later; other values stay themselves.
---@param value any
---@return any
function backup.copy(value)
  if not isCompared(value) then
    return value
  end
  local seen, waiting = { [value] = {} }, { value }
  while #waiting > 0 do
    local subject = table.remove(waiting)
    local copy = seen[subject]
    for key, item in next, subject do
      if isCompared(item) and not seen[item] then
        seen[item] = {}
        waiting[#waiting + 1] = item
      end
      copy[key] = seen[item] or item
    end
  end
  return seen[value]
end

--- Whether a value is no more what it was when it was copied.
---@param value any
---@param copy any
---@return boolean
function backup.differs(value, copy)
  if not isCompared(value) or type(copy) ~= "table" then
    return not rawequal(value, copy)
  end
  local seen, waiting = { [value] = copy }, { value }
  while #waiting > 0 do
    local subject = table.remove(waiting)
    local was = seen[subject]
    for key in next, was do
      if rawget(subject, key) == nil then
        return true
      end
    end
    for key, item in next, subject do
      local before = was[key]
      if isCompared(item) and type(before) == "table" then
        if seen[item] == nil then
          seen[item] = before
          waiting[#waiting + 1] = item
        elseif seen[item] ~= before then
          return true
        end
      elseif not rawequal(item, before) then
        return true
      end
    end
  end
  return false
end

return backup
