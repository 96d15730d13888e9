-- LoopingCall: a function, again and again. Pure.

local class = require "skald.class"
local failure = require "skald.failure"
local owner = require "skald.owner"
local started = require "skald.started"

local Deferred, isDeferred = require("skald.deferred").Deferred, require("skald.deferred").is
local floor, abs, max = math.floor, math.abs, math.max

local ROUNDING = 1e-15 -- of a time, as in skald.clock

-- Runs happen at `origin + n * interval`. Each time is reckoned from the origin, so nothing adds up;
-- a run counts for the n that it was set for, however its time was rounded.

--- Calls a function again and again.
---@class LoopingCall: Object
---@field running boolean between `start` and its end
---@field interval number? seconds; may be changed while it runs, and counts from the next run on
---@field clock table? the reactor, where none is set before `start`
---@field deferred Deferred? what `start` gave, until it fires
---@field private call DelayedCall? the next run
---@field private origin number when it was started or reset
---@field private step number? the interval that `due` and `reached` are numbers of
---@field private due integer the run that `call` is for
---@field private reached integer the last run
---@field private ranAt number? when that was
---@field private count integer how many runs it stood for
local LoopingCall = class.root("LoopingCall", { running = false })

local run

--- `LoopingCall:new(f, …)` will call `f(…)`. What it gives is ignored, but for a Deferred: that is
--- waited for.
---@param f function
---@param ... any
function LoopingCall:init(f, ...)
  started.needFunction("LoopingCall", f, 3)
  self.f = f
  self.arguments = select("#", ...) > 0 and { n = select("#", ...), ... } or nil
  self.again = function()
    run(self)
  end
end

--- One that calls `f(count)`: how many runs were due since the last, 1 where none was skipped.
---@param f fun(count: integer): any
---@return LoopingCall
function LoopingCall:withCount(f)
  started.needFunction("withCount", f, 2)
  local loop
  loop = self:new(function()
    if loop.count > 0 then
      return f(loop.count)
    end
  end)
  return loop
end

-- Differences of less than this are rounding; a Clock's are smaller yet.
local function margin(self, now)
  return 4 * ROUNDING * (abs(now) + abs(self.origin))
end

-- Whether it is to run once a turn: the clock cannot tell such intervals apart.
local function isEveryTurn(self, now)
  return self.interval <= margin(self, now)
end

-- The last number of the grid whose time has come.
local function numberAt(self, now)
  return floor((now + margin(self, now) - self.origin) / self.interval)
end

-- The number of the last run, on a grid that has begun after it, or has other steps.
local function renumber(self)
  if self.step == self.interval then
    return
  end
  local ranAt = self.ranAt or self.origin
  if ranAt < self.origin then
    self.reached = -floor((self.origin - ranAt + margin(self, ranAt)) / self.interval)
  else
    self.reached = numberAt(self, ranAt)
  end
  self.step, self.due = self.interval, self.reached
end

-- A run begins.
local function arrive(self)
  local now = self.clock:seconds()
  if isEveryTurn(self, now) then
    self.step, self.count = nil, 1
  else
    renumber(self)
    local number = max(self.due, numberAt(self, now))
    self.count = number - self.reached
    self.reached = number
  end
  if self.count > 0 then
    self.ranAt = now
  end
end

local function schedule(self)
  local clock = self.clock
  local now = clock:seconds()
  if isEveryTurn(self, now) then
    self.step = nil
    self.call = started.callNextTurn(clock, self.again)
  else
    renumber(self)
    self.due = max(self.reached, numberAt(self, now)) + 1
    self.call = clock:callLater(self.origin + self.due * self.interval - now, self.again)
  end
end

-- What follows a run that belongs to the start whose Deferred is given. The loop may have been
-- stopped by then, and even started again: that is another matter.
local function isCurrent(self, deferred)
  return self.running and self.deferred == deferred
end

local function forget(self, deferred)
  if self.deferred == deferred then
    self.deferred = nil
  end
end

local function goOn(_, self, deferred)
  if isCurrent(self, deferred) then
    schedule(self)
  else
    forget(self, deferred)
    deferred:callback(self)
  end
end

local function fail(problem, self, deferred)
  if isCurrent(self, deferred) then
    self.running = false
    started.leave(self)
  end
  forget(self, deferred)
  deferred:errback(problem)
end

local function callOnce(self, deferred)
  local arguments = self.arguments
  local result
  if arguments then
    result = self.f(unpack(arguments, 1, arguments.n))
  else
    result = self.f()
  end
  if isDeferred(result) then
    result:addCallback(goOn, self, deferred):addErrback(fail, self, deferred)
  elseif failure.is(result) then
    fail(result, self, deferred)
  else
    goOn(nil, self, deferred)
  end
end

function run(self)
  local deferred = self.deferred
  self.call = nil
  arrive(self)
  local ok, problem = owner.call(self.owner, failure.handler, callOnce, self, deferred)
  if not ok then
    fail(problem, self, deferred)
  end
end

-- The grid begins at this moment.
local function beginGrid(self)
  self.origin = self.clock:seconds()
  self.step = nil
end

--- Calls the function now and then every so many seconds after this moment, or in every turn with an
--- interval of 0. Runs that are missed are skipped.
---@param interval number seconds; 0 is once a turn
---@param now boolean? false: the first run comes after an interval
---@return Deferred d of the LoopingCall, when it is stopped; fails with what the function failed with
function LoopingCall:start(interval, now)
  if self.running then
    error("start: the LoopingCall is running already", 2)
  end
  started.needSeconds("start", interval, 2)
  self.clock = self.clock or require "skald.reactor"
  self.interval = interval
  local deferred = Deferred:new()
  self.deferred = deferred
  started.enter(self)
  self.running = true
  beginGrid(self)
  if now == false then
    self.ranAt = nil
    schedule(self)
  else
    self.ranAt = self.origin - interval
    run(self)
  end
  return deferred
end

local function stop(self)
  self.running = false
  started.leave(self)
  local call, deferred = self.call, self.deferred
  if call then
    self.call, self.deferred = nil, nil
    call:cancel()
    deferred:callback(self)
  end
end

--- Ends it. The Deferred of `start` fires now, or when the run that is under way is over.
function LoopingCall:stop()
  if not self.running then
    error("stop: the LoopingCall is not running", 2)
  end
  stop(self)
end

--- What its owner calls at its end: ends it where it runs.
---@private
function LoopingCall:finish()
  if self.running then
    stop(self)
  end
end

--- The next run comes an interval after this moment, and the others at intervals from there. While a
--- run is under way it does nothing.
function LoopingCall:reset()
  if not self.running then
    error("reset: the LoopingCall is not running", 2)
  end
  if self.call then
    self.call:cancel()
    self.call = nil
    beginGrid(self)
    started.as(self.owner, schedule, self)
  end
end

return LoopingCall
