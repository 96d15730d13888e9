-- What of the host holds the code of a generation that is no more: for `skald status`.

local async = require "skald.async"
local deferred = require "skald.deferred"
local dispatch = require "skald.dispatch"
local timers = require "skald.timers"

jit.off(true, true) -- runs once in a while

local holders = {}

local MOST = 20000 -- objects that are looked at

local function calls(f, environment)
  return type(f) == "function" and getfenv(f) == environment
end

local function hasCallback(d, environment)
  for place = d.at + 1, d.last do
    if calls(d[place], environment) then
      return true
    end
  end
  return false
end

local function eachUpvalue(f, visit)
  local i = 1
  local name, value = debug.getupvalue(f, i)
  while name do
    visit(value)
    i = i + 1
    name, value = debug.getupvalue(f, i)
  end
end

-- Deferreds with callbacks of that environment, as far as they are reached from the roots.
local function countDeferreds(roots, environment)
  local seen, waiting, count = {}, {}, 0
  local function visit(value)
    local kind = type(value)
    if (kind == "table" or kind == "function") and not seen[value] and #waiting < MOST then
      seen[value] = true
      waiting[#waiting + 1] = value
    end
  end
  for _, root in ipairs(roots) do
    visit(root)
  end
  local at = 1
  while waiting[at] do
    local value = waiting[at]
    at = at + 1
    if type(value) == "function" then
      eachUpvalue(value, visit)
    else
      if deferred.is(value) and hasCallback(value, environment) then
        count = count + 1
      end
      for _, item in next, value do
        visit(item)
      end
    end
  end
  return count
end

local function rootsOf(service)
  local roots = {}
  for factory in pairs(service.factories) do
    roots[#roots + 1] = factory
  end
  for _, instance in pairs(dispatch.protocols) do
    roots[#roots + 1] = instance
  end
  for _, call in pairs(timers.pending()) do
    roots[#roots + 1] = call
  end
  for task in pairs(async.alive) do
    roots[#roots + 1] = task
  end
  return roots
end

--- How many timers, coroutines and Deferreds of the host hold an environment.
---@param service Service
---@param environment table
---@return { timers: integer, coroutines: integer, deferreds: integer }
function holders.count(service, environment)
  local coroutines = 0
  for _, f in pairs(async.alive) do
    coroutines = coroutines + (calls(f, environment) and 1 or 0)
  end
  return {
    timers = timers.countOf(environment),
    coroutines = coroutines,
    deferreds = countDeferreds(rootsOf(service), environment),
  }
end

return holders
