-- Classes. One rule: calling a class derives from it, `:new(...)` makes an instance.
--
-- A class is the table of its methods. Its metatable keeps what belongs to the class itself: where
-- to look further (the base), and the cell, which is the metatable of its instances. Instances see
-- the class through the cell only, so that giving the cell another class gives it to all of them.

--- Classes of a script's own. `class "Room"` makes one of that name, whose objects are kept across reloads and
--- run the new methods then; two of one name in a script raise. Calling a class derives from it, `:new(…)`
--- makes an instance.
---@class skald.class
---@overload fun(name: string): table
local class = {}

local derive

-- While a set stands here, each class that is made is put into it.
local observer

local function isMetamethod(key)
  return type(key) == "string" and key:sub(1, 2) == "__" and key ~= "__index" and key ~= "__metatable"
end

-- Metamethods (`__tostring` and the like) written into a class work for its instances.
local function assign(self, key, value)
  if isMetamethod(key) then
    for cell in pairs(getmetatable(self).family) do
      cell[key] = value
    end
  end
  rawset(self, key, value)
end

local function copyMetamethods(from, to)
  for key, value in pairs(from) do
    if isMetamethod(key) then
      to[key] = value
    end
  end
end

-- A cell is known by the key `class` in it. The family of a class are the cells that show it: its
-- own, and those of the classes that it succeeded.
local function equip(methods, base, name)
  local cell = { __index = methods, [class] = true }
  local baseMeta = base and getmetatable(base)
  if baseMeta then
    copyMetamethods(baseMeta.cell, cell)
  end
  copyMetamethods(methods, cell)
  if observer then
    observer[methods] = true
  end
  return setmetatable(methods, {
    __index = base,
    __call = derive,
    __newindex = assign,
    cell = cell,
    family = setmetatable({ [cell] = true }, { __mode = "k" }),
    name = name,
  })
end

function derive(base, ...)
  local methods = {}
  for i = 1, select("#", ...) do
    local part = select(i, ...)
    if type(part) ~= "table" then
      error(("a class is derived from tables, not from a %s (:new makes an instance)"):format(type(part)), 2)
    end
    for key, value in pairs(part) do
      methods[key] = value
    end
  end
  return equip(methods, base)
end

--- The root of a family of classes.
---@private
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
---@private
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
  if type(meta) == "table" and rawget(meta, class) then
    return rawget(meta, "__index")
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

--- From now on each class that is made is put into `set`; nil ends it.
---@private
---@param set table<table, true>?
---@return table<table, true>? before what was so far
function class.observe(set)
  local before = observer
  observer = set
  return before
end

--- Every instance of `old` becomes one of `new`, at once, however many there are.
---@private
---@param old table
---@param new table
---@param heir boolean `new` takes over the cell of `old`, so that cells do not multiply
function class.succeed(old, new, heir)
  local from, to = getmetatable(old), getmetatable(new)
  local own = to.cell
  for cell in pairs(from.family) do
    if cell ~= own then
      for key in pairs(cell) do
        if isMetamethod(key) then
          cell[key] = nil
        end
      end
      copyMetamethods(own, cell)
      cell.__index = new
      to.family[cell] = true
    end
  end
  if heir then
    to.cell = from.cell
  end
end

--- What every class is derived from.
---@class Object
class.Object = equip({}, nil, "Object")

--- Makes an instance, and calls `init(self, ...)` where there is one.
---@generic T
---@param self T
---@param ... any
---@return T instance
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
