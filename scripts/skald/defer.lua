-- skald.defer: Deferreds, what is made of several, and the functions that wait for them. Pure.

local async = require "skald.async"
local deferred = require "skald.deferred"
local failure = require "skald.failure"
local gather = require "skald.gather"
local locks = require "skald.locks"

--- The failures that nobody has handled, since it was last asked. For test kits: outside the host nobody logs them.
---@return Failure[]
local function unhandled()
  local list = {}
  for i, item in ipairs(deferred.unhandled()) do
    list[i] = item.failure
  end
  return list
end

return {
  Deferred = deferred.Deferred,
  isDeferred = deferred.is,
  succeed = deferred.succeed,
  fail = deferred.fail,
  maybeDeferred = deferred.maybeDeferred,
  unhandled = unhandled,
  failure = failure.new,
  isFailure = failure.is,
  DeferredList = gather.DeferredList,
  gatherResults = gather.gatherResults,
  race = gather.race,
  DeferredLock = locks.DeferredLock,
  DeferredSemaphore = locks.DeferredSemaphore,
  DeferredQueue = locks.DeferredQueue,
  async = async.async,
  await = async.await,
}
