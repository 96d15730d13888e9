-- Classes. One rule: calling a class derives from it, `:new(...)` makes an instance.
--
-- A class is the table of its methods. Its metatable keeps what belongs to the class itself: where
-- to look further (the base), and the cell, which is the metatable of its instances. Instances see
-- the class through the cell only, so that giving the cell another class gives it to all of them.

local class = {}

local derive

-- Metamethods (`__tostring` and the like) written into a class work for its instances.
local function assign(self, key, value)
  if type(key) == "string" and key:sub(1, 2) == "__" and key ~= "__index" then
    getmetatable(self).cell[key] = value
  end
  rawset(self, key, value)
end

local function equip(methods, base, name)
  local cell = { __index = methods }
  local baseMeta = base and getmetatable(base)
  if baseMeta then
    for key, value in pairs(baseMeta.cell) do
      if key ~= "__index" then
        cell[key] = value
      end
    end
  end
  for key, value in pairs(methods) do
    if type(key) == "string" and key:sub(1, 2) == "__" and key ~= "__index" then
      cell[key] = value
    end
  end
  return setmetatable(methods, {
    __index = base,
    __call = derive,
    __newindex = assign,
    cell = cell,
    name = name,
  })
end

function derive(base, ...)
  local methods = {}
  for i = 1, select("#", ...) do
    local part = select(i, ...)
    if type(part) ~= "table" then
      error(("a class is derived from tables, not from a %s"):format(type(part)), 2)
    end
    for key, value in pairs(part) do
      methods[key] = value
    end
  end
  return equip(methods, base)
end

--- The root of a family of classes.
---@param name string for messages
---@param methods table? its first methods
---@return table
function class.root(name, methods)
  return equip(methods or {}, class.Object, name)
end

--- Whether a value is a class.
---@param value any
---@return boolean
function class.is(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and rawget(meta, "cell") ~= nil
end

--- Makes a plain table a class derived from `base`, in place; a class stays what it is.
---@param methods table
---@param base table
---@return table methods
function class.adopt(methods, base)
  if class.is(methods) then
    return methods
  end
  if getmetatable(methods) ~= nil then
    error("a table with a metatable of its own is no class: derive it by calling a class", 2)
  end
  return equip(methods, base)
end

--- The class of an instance, or nil.
---@param value any
---@return table?
function class.of(value)
  local meta = type(value) == "table" and getmetatable(value)
  local methods = type(meta) == "table" and rawget(meta, "__index")
  if class.is(methods) and getmetatable(methods).cell == meta then
    return methods
  end
  return nil
end

--- Whether a class is `base` or derived from it.
---@param value any
---@param base table
---@return boolean
function class.derives(value, base)
  while class.is(value) do
    if value == base then
      return true
    end
    value = getmetatable(value).__index
  end
  return false
end

class.Object = equip({}, nil, "Object")

--- Makes an instance, and calls `init` with the arguments where there is one.
---@param ... any
---@return table
function class.Object:new(...)
  local object = setmetatable({}, getmetatable(self).cell)
  local init = object.init
  if init then
    init(object, ...)
  end
  return object
end

return setmetatable(class, {
  --- `class "Room"`: a class of that name.
  __call = function(_, name)
    if type(name) ~= "string" then
      error('class takes a name: class "Room"', 2)
    end
    return class.root(name)
  end,
})
