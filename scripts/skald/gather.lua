-- Deferreds for several others: DeferredList, gatherResults, race. Pure.

local deferred = require "skald.deferred"
local failure = require "skald.failure"

local isFailure = failure.is
local gather = {}

local function needList(name, list, level)
  if type(list) ~= "table" then
    error(("%s takes a list of Deferreds, not a %s"):format(name, type(list)), level + 1)
  end
  for i, d in ipairs(list) do
    if not deferred.is(d) then
      error(("%s takes Deferreds, but number %d is a %s"):format(name, i, type(d)), level + 1)
    end
  end
end

local function needOptions(name, options, known)
  if options ~= nil and type(options) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(options)), 3)
  end
  for key, value in pairs(options or {}) do
    if not known[key] then
      error(("%s knows no option '%s'"):format(name, tostring(key)), 3)
    elseif type(value) ~= "boolean" then
      error(("%s: %s takes true or false, not a %s"):format(name, key, type(value)), 3)
    end
  end
  return options or {}
end

local function copy(list)
  local same = {}
  for i, d in ipairs(list) do
    same[i] = d
  end
  return same
end

local function cancelAll(list)
  for _, d in ipairs(list) do
    d:cancel()
  end
end

-- Calls each(index, result) when a Deferred of the list fires; what that gives stays its result.
local function watch(list, each)
  for i, d in ipairs(list) do
    d:addBoth(function(result)
      return each(i, result)
    end)
  end
end

--- A Deferred of a list of Deferreds: fires when all have, with `{ { ok, value }, … }` in their order.
---@class DeferredList: Deferred
local DeferredList = deferred.Deferred {}

gather.DeferredList = DeferredList

local listOptions = { fireOnOneCallback = true, fireOnOneErrback = true, consumeErrors = true }

local function firstError(index, problem)
  return failure.own("FirstError", ("number %d failed: %s"):format(index, tostring(problem)), {
    index,
    problem,
    index = index,
    subFailure = problem,
  })
end

local function make(methods, list, options)
  list = copy(list)
  local self = deferred.Deferred.new(methods, function()
    cancelAll(list)
  end)
  self.waitsForAll = true
  local results, left = {}, #list
  if left == 0 and not options.fireOnOneCallback then
    self:callback(results)
  end
  watch(list, function(i, result)
    local failed = isFailure(result)
    results[i] = { not failed, result }
    left = left - 1
    if not self.called then
      if not failed and options.fireOnOneCallback then
        self:callback { result, i }
      elseif failed and options.fireOnOneErrback then
        self:errback(firstError(i, result))
      elseif left == 0 then
        self:callback(results)
      end
    end
    if failed and options.consumeErrors then
      return nil
    end
    return result
  end)
  return self
end

--- Waits for all of a list; cancelling it cancels each of them.
---@param list Deferred[]
---@param options? { fireOnOneCallback: boolean?, fireOnOneErrback: boolean?, consumeErrors: boolean? }
---fireOnOneCallback: fires with `{ value, index }` of the first; fireOnOneErrback: fails with FirstError
---(`value = { index, subFailure }`) at the first failure; consumeErrors: their failures count as handled
---@return DeferredList
function DeferredList:new(list, options)
  needList("DeferredList", list, 2)
  return make(self, list, needOptions("DeferredList", options, listOptions))
end

--- Cancels each of those that it waits for: what they then fire with is its result.
function DeferredList:cancel()
  if not self.called then
    self.canceller()
  else
    deferred.Deferred.cancel(self)
  end
end

local function values(results)
  local list = {}
  for i, result in ipairs(results) do
    list[i] = result[2]
  end
  return list
end

--- Fires with the list of values, or fails with FirstError at the first failure.
---@param list Deferred[]
---@param options? { consumeErrors: boolean? } consumeErrors: their failures count as handled
---@return Deferred d of the values, in the order of the list
function gather.gatherResults(list, options)
  needList("gatherResults", list, 2)
  options = needOptions("gatherResults", options, { consumeErrors = true })
  return make(DeferredList, list, { fireOnOneErrback = true, consumeErrors = options.consumeErrors })
    :addCallback(values)
end

--- Fires with `{ index, value }` of the first that has a value, and cancels the others; fails with
--- FailureGroup (`value`: the list of failures, in their order) when all have failed.
---@param list Deferred[] at least one
---@return Deferred d of `{ index, value }`
function gather.race(list)
  needList("race", list, 2)
  if #list == 0 then
    error("race takes at least one Deferred", 2)
  end
  list = copy(list)
  local failures, count = {}, 0
  local over = deferred.Deferred:new(function()
    cancelAll(list)
  end)
  local function settle(i, result)
    if isFailure(result) then
      failures[i], count = result, count + 1
      if count == #list and not over.called then
        over:errback(failure.own("FailureGroup", ("all %d failed"):format(count), failures))
      end
    elseif not over.called and not over.won then
      over.won = true
      for j, d in ipairs(list) do
        if j ~= i then
          d:cancel()
        end
      end
      over:callback { i, result }
    end
  end
  watch(list, settle)
  return over
end

return gather
