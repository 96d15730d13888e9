-- The Deferred: a result that is yet to come, and the chain of what is to be called with it. Its
-- rules are those of Twisted's. Pure: who logs what nobody handled stands in skald.owner.
--
-- The callbacks lie flat in the array part, four places each: what is called with a value, what is
-- called with a failure, further arguments or false, and whose they are (skald.owner) or false. A
-- place for callbacks may hold a mark instead: CHAINED, where another Deferred waits for the result,
-- PASSED, where another is fired with it, and AWAITED, where a coroutine waits.

local class = require "skald.class"
local failure = require "skald.failure"
local owner = require "skald.owner"
local trace = require "skald.trace"

local isFailure, handler = failure.is, failure.handler
local deferred = {}

local PLACES = 4
local MOST_NOTED = 10000
local CHAINED, PASSED, AWAITED = {}, {}, {}

--- A result that is yet to come, and the chain of what is to be called with it. Each callback gets what the one
--- before it gave; what one raises is a failure for the next errback. A Deferred that a callback gives is waited
--- for. A failure that nobody has handled at the end of the turn is logged.
---@class Deferred: Object
---@field called boolean it has fired
---@field result any the result so far, once called
---@field paused integer how many times it is to be unpaused before it goes on
---@field canceller fun(d: Deferred)? what `cancel` calls
local Deferred = class.root "Deferred"
local cell = getmetatable(Deferred).cell

deferred.Deferred = Deferred

--- Whether a value is a Deferred.
---@param value any
---@return boolean
function deferred.is(value)
  if type(value) ~= "table" then
    return false
  end
  local meta = getmetatable(value)
  return meta == cell or meta ~= nil and class.derives(class.of(value), Deferred)
end

local isDeferred = deferred.is

-- --- failures that nobody handled -------------------------------------------------------------

local noted = {} -- Deferreds whose chain ended with a failure
-- `noted()` is called when there is a failure that nobody has handled yet, `late(failure)` when one that was
-- reported is handled after all; with `debug`, Deferreds note where they are made.
local host = owner.failures or { noted = function() end, late = function() end }
local debugging = host.debug or false

--- The failures that nobody handled since it was last asked.
---@return { failure: Failure, made: string? }[]
function deferred.unhandled()
  local list, before = {}, noted
  noted = {}
  for _, d in ipairs(before) do
    d.noted = nil
    if isFailure(d.result) and not d.handled then
      d.reported = true
      list[#list + 1] = { failure = d.result, made = d.made }
    end
  end
  return list
end

-- Where nobody asks, the list does not grow for ever.
local function note(d)
  if not d.noted and not d.handled and not d.reported and #noted < MOST_NOTED then
    d.noted = true
    noted[#noted + 1] = d
    host.noted()
  end
end

local function handleLate(d)
  d.reported = nil
  host.late(d.result)
end

-- --- the chain --------------------------------------------------------------------------------

-- With room for two callbacks at once. No field comes from a constant: in compiled code, the LuaJITs of
-- 2022 may take the constants of a constructor for what is in the table later.
local function make(no, zero, canceller)
  return {
    no, no, no, no, no, no, no, no,
    called = no,
    paused = zero,
    result = nil,
    canceller = canceller,
    at = zero, -- the last place that is done with
    last = zero, -- the last place that is taken
    running = no,
  }
end

--- A Deferred.
---@param canceller fun(d: Deferred)? called by `cancel`; may fire it
---@return Deferred
function Deferred:new(canceller)
  if canceller ~= nil and type(canceller) ~= "function" then
    error(("a canceller is a function, not a %s"):format(type(canceller)), 2)
  end
  local d = setmetatable(make(false, 0, canceller), getmetatable(self).cell)
  if debugging then
    d.made = trace.place(1)
  end
  return d
end

local function put(d, onValue, onFailure, arguments, who)
  local last = d.last
  d[last + 1], d[last + 2], d[last + 3], d[last + 4] = onValue, onFailure, arguments, who
  d.last = last + PLACES
  d.handled = nil
end

-- A callback gave a Deferred: its result is taken over at once, or waited for.
local function adopt(outer, inner)
  if inner == outer then
    outer.result = failure.new "a callback returned the Deferred that it was called by"
  elseif inner.called and inner.paused == 0 and not inner.running then
    if inner.reported then
      handleLate(inner)
    end
    outer.result, inner.result = inner.result, nil
  else
    outer.paused, outer.inner, outer.result = outer.paused + 1, inner, inner
    put(inner, CHAINED, CHAINED, outer, false)
  end
end

-- The one that waited gets the result.
local function handOver(inner, outer)
  if inner.reported then
    handleLate(inner)
  end
  outer.result, inner.result = inner.result, nil
  outer.inner = nil
  outer.paused = outer.paused - 1
end

-- Fires another with the result, which is nil then: that one if it is to run.
local function pass(d, target)
  local result = d.result
  if d.reported then
    handleLate(d)
  end
  d.result = nil
  if not target.called then
    target.called, target.result = true, result
    return target
  end
  target.swallows = nil
  return nil
end

local function call(d, f, failed, arguments, who)
  local result, ok
  if failed and d.reported then
    handleLate(d)
  end
  owner.current = who or nil
  if arguments then
    ok, result = xpcall(f, handler, d.result, unpack(arguments, 1, arguments.n))
  else
    ok, result = xpcall(f, handler, d.result)
  end
  if ok and type(result) == "table" and isDeferred(result) then
    adopt(d, result)
  else
    d.result = result
  end
end

-- Calls what can be called now; the Deferred that waited for this one and may go on, or nil.
local function advance(d)
  d.running = true
  while d.at < d.last and d.paused == 0 do
    local at = d.at
    local failed = isFailure(d.result)
    local f, arguments = d[failed and at + 2 or at + 1], d[at + 3]
    d.at = at + PLACES
    if f == CHAINED then
      handOver(d, arguments)
      d.running = false
      return arguments
    elseif f == PASSED then
      local target = pass(d, arguments)
      if target then
        d.running = false
        return target
      end
    elseif f == AWAITED then
      if failed and d.reported then
        handleLate(d)
      end
      d.handled = failed
      arguments:proceed(not failed, d.result, d)
    elseif f then
      call(d, f, failed, arguments, d[at + 4])
    end
  end
  d.running = false
  return nil
end

-- All has been called that can be.
local function rest(d)
  if d.at < d.last then
    return
  end
  for place = 1, d.last do
    d[place] = false
  end
  d.at, d.last = 0, 0
  if d.paused == 0 and isFailure(d.result) then
    note(d)
  end
end

-- Those that wait for each other are a list here, so that however many there are, the stack does not
-- grow: each goes on as soon as it has its result, before what is left of the one that gave it.
local function runNow(d)
  local who, task = owner.current, owner.task
  local givers, count = nil, 0
  owner.task = nil
  while d do
    local waiting = advance(d)
    if waiting and waiting.paused == 0 and not waiting.running then
      count = count + 1
      givers = givers or {}
      givers[count] = d
      d = waiting
    elseif not waiting then
      rest(d)
      d = givers and givers[count]
      count = count - 1
    end
  end
  owner.current, owner.task = who, task
end

-- Those that are fired within each other's callbacks: so many, then one waits until those are done with.
local MOST_NESTED = 100
local nested = 0
local waiting, first, last = {}, 1, 0

local function drain()
  while first <= last do
    local d = waiting[first]
    waiting[first] = nil
    first = first + 1
    d.running = false
    runNow(d)
  end
  first, last = 1, 0
end

local function run(d)
  if d.running or d.paused > 0 then
    return
  elseif nested >= MOST_NESTED then
    last = last + 1
    waiting[last] = d
    d.running = true
    return
  end
  nested = nested + 1
  runNow(d)
  if nested == 1 and first <= last then
    drain()
  end
  nested = nested - 1
end

local function add(d, onValue, onFailure, arguments)
  if not d.last then
    error("this is the class: Deferred:new() makes one", 3)
  end
  put(d, onValue, onFailure, arguments, owner.current or false)
  if d.called then
    run(d)
  end
  return d
end

-- --- what may be called with it ---------------------------------------------------------------

local function needFunction(name, f)
  if type(f) ~= "function" then
    error(("%s takes a function, not a %s"):format(name, type(f)), 3)
  end
end

local function extra(...)
  local count = select("#", ...)
  return count > 0 and { n = count, ... } or false
end

--- Calls `f(value, ...)` with the value when there is one; what it gives is the value from then on.
---@param f function
---@param ... any
---@return Deferred self
function Deferred:addCallback(f, ...)
  needFunction("addCallback", f)
  return add(self, f, false, extra(...))
end

--- Calls `f(failure, ...)` where the result is a failure; what it gives is the value from then on.
---@param f function
---@param ... any
---@return Deferred self
function Deferred:addErrback(f, ...)
  needFunction("addErrback", f)
  return add(self, false, f, extra(...))
end

--- Calls `f(result, ...)`, whatever the result is.
---@param f function
---@param ... any
---@return Deferred self
function Deferred:addBoth(f, ...)
  needFunction("addBoth", f)
  return add(self, f, f, extra(...))
end

local function bound(f, arguments)
  if not f or not arguments then
    return f or false
  end
  return function(result)
    return f(result, unpack(arguments, 1, arguments.n or #arguments))
  end
end

--- Calls one of two: `callback` with a value, or `errback` with a failure. What one of them gives or
--- raises is not for the other.
---@param callback function?
---@param errback function?
---@param callbackArguments any[]? further arguments
---@param errbackArguments any[]?
---@return Deferred self
function Deferred:addCallbacks(callback, errback, callbackArguments, errbackArguments)
  if callback ~= nil then
    needFunction("addCallbacks", callback)
  end
  if errback ~= nil then
    needFunction("addCallbacks", errback)
  end
  return add(self, bound(callback, callbackArguments), bound(errback, errbackArguments), false)
end

--- Its result goes to another Deferred.
---@param d Deferred
---@return Deferred self
function Deferred:chainDeferred(d)
  if not isDeferred(d) then
    error(("chainDeferred takes a Deferred, not a %s"):format(type(d)), 2)
  end
  return add(self, PASSED, PASSED, d)
end

--- Has a coroutine wait for the result: `waiter:proceed(ok, result)` is called with it, which stays.
---@private
---@param waiter table
function Deferred:awaitedBy(waiter)
  put(self, AWAITED, AWAITED, waiter, false)
  if self.called then
    run(self)
  end
end

-- --- firing -----------------------------------------------------------------------------------

local function fire(d, result)
  if d.last == nil then
    error("this is the class: Deferred:new() makes one", 3)
  elseif not d.called then
    d.called, d.result = true, result
    run(d)
    return true
  elseif d.swallows then
    d.swallows = nil
    return true
  end
  return nil, "already called", "EALREADY"
end

local function needNoDeferred(name, value)
  if isDeferred(value) then
    error(("%s takes a value, not a Deferred: return that from a callback"):format(name), 3)
  end
end

--- Fires it with a value.
---@param value any no Deferred
---@return boolean? ok nil, message, code where it has fired before
---@return string? message
---@return string? code
function Deferred:callback(value)
  needNoDeferred("callback", value)
  return fire(self, value)
end

--- Fires it with a failure.
---@param value any what failed: a failure, or what one is made of
---@return boolean? ok nil, message, code where it has fired before
---@return string? message
---@return string? code
function Deferred:errback(value)
  needNoDeferred("errback", value)
  return fire(self, failure.new(value))
end

--- Fires it with whatever a function gave: a Deferred's result is waited for.
---@private
---@param result any
function Deferred:resolve(result)
  if not isDeferred(result) then
    fire(self, result)
  elseif not self.called then
    self.called = true
    adopt(self, result)
    run(self)
  end
end

local function cancelled()
  return failure.own("CancelledError", "the Deferred was cancelled")
end

--- Ends what it stands for: its canceller is called, and where that does not fire it, it fails with
--- CancelledError. One that waits for another Deferred cancels that. One that has fired is left as it is.
function Deferred:cancel()
  if self.called then
    if self.inner then
      return self.inner:cancel() -- a tail call: the stack does not grow, however many wait
    end
    return
  elseif self.task then
    return self.task:cancel()
  end
  local problem
  if self.canceller then
    local ok, raised = owner.call(owner.current, handler, self.canceller, self)
    problem = not ok and raised or nil
  else
    self.swallows = true
  end
  if not self.called then
    fire(self, problem or cancelled())
  end
end

--- Stops the chain until `unpause` was called as often.
function Deferred:pause()
  self.paused = self.paused + 1
end

--- Goes on with the chain, where it was paused once.
function Deferred:unpause()
  if self.paused == 0 then
    error("unpause: the Deferred is not paused", 2)
  end
  self.paused = self.paused - 1
  if self.called then
    run(self)
  end
end

local function timedOut(result, seconds)
  if isFailure(result) and result:check "CancelledError" then
    return failure.own("TimeoutError", ("timed out after %g s"):format(seconds))
  end
  return result
end

--- Cancels it after so many seconds; it then fails with TimeoutError.
---@param seconds number from 0
---@param clock table? by default the reactor
---@param onTimeout fun(result: any, seconds: number)? gives the result instead
---@return Deferred self
function Deferred:addTimeout(seconds, clock, onTimeout)
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds < math.huge) then
    error(("addTimeout takes seconds, a number from 0, not %s"):format(tostring(seconds)), 2)
  elseif onTimeout ~= nil then
    needFunction("addTimeout", onTimeout)
  end
  local over = false
  local delayed = (clock or require "skald.reactor"):callLater(seconds, function()
    over = true
    self:cancel()
  end)
  add(self, function(result)
    if over then
      return (onTimeout or timedOut)(result, seconds)
    end
    return result
  end, function(result)
    if over then
      return (onTimeout or timedOut)(result, seconds)
    end
    return result
  end, false)
  return self:addBoth(function(result)
    if delayed:active() then
      delayed:cancel()
    end
    return result
  end)
end

-- --- shorter ----------------------------------------------------------------------------------

--- A Deferred that has fired with a value.
---@param value any
---@return Deferred
function deferred.succeed(value)
  needNoDeferred("succeed", value)
  local d = Deferred:new()
  fire(d, value)
  return d
end

--- A Deferred that has failed.
---@param value any what failed: a failure, or what one is made of
---@return Deferred
function deferred.fail(value)
  needNoDeferred("fail", value)
  local d = Deferred:new()
  fire(d, failure.new(value))
  return d
end

--- Calls `f(...)`: its Deferred, or one that has fired with what it gave or raised.
---@param f function
---@param ... any
---@return Deferred
function deferred.maybeDeferred(f, ...)
  needFunction("maybeDeferred", f)
  local _, result = owner.call(owner.current, handler, f, ...)
  if isDeferred(result) then
    return result
  end
  local d = Deferred:new()
  fire(d, result)
  return d
end

return deferred
