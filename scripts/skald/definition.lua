-- What scripts give to be served: a factory, a Factory class, or a plain definition. Pure.

local class = require "skald.class"
local protocol = require "skald.protocol"

local definition = {}

--- The living factory behind what running code gave: an instance, a class, or a plain definition.
---@param given table
---@return Factory
function definition.factoryOf(given)
  local alias = getmetatable(given)
  if type(alias) == "table" and rawget(alias, "livingFactory") then
    return alias.livingFactory
  end
  if class.of(given) then
    return given
  end
  if not class.is(given) then
    class.adopt(given, protocol.Factory)
  end
  return given:new()
end

--- What is wrong with the bounds of a definition, or nil.
---@param given table
---@return string?
function definition.problem(given)
  for _, name in ipairs(protocol.bounds) do
    local problem = given[name] ~= nil and protocol.boundProblem(name, given[name])
    if problem then
      return problem
    end
  end
  return nil
end

--- Raises where a value is no factory that could serve.
---@param name string who takes it
---@param factory any
---@param level integer? of the one to blame; 2 is the caller of the caller
function definition.need(name, factory, level)
  level = (level or 2) + 1
  if type(factory) ~= "table" then
    error(("%s takes a factory, not a %s"):format(name, type(factory)), level)
  end
  local methods = class.is(factory) and factory or class.of(factory)
  if methods and not class.derives(methods, protocol.Factory) then
    error(("%s takes a factory, not a protocol"):format(name), level)
  end
  local problem = definition.problem(factory)
  if problem then
    error(("%s: %s"):format(name, problem), level)
  end
end

return definition
