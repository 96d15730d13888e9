-- What runs again and again, or later: LoopingCall, deferLater, Cooperator, and the Clock that stands
-- in for the reactor's time in tests. Pure.

local class = require "skald.class"
local defer = require "skald.defer"
local failure = require "skald.failure"
local owner = require "skald.owner"

local Deferred, isDeferred = defer.Deferred, defer.isDeferred
local floor, abs, max = math.floor, math.abs, math.max
local task = {}

local function asIs(problem)
  return problem
end

-- Calls `f(...)`: what it starts belongs to `who`, and it is no part of a coroutine that waits.
local function as(who, f, ...)
  if owner.current == who and not owner.task then
    return f(...)
  end
  local ok, result = owner.call(who, asIs, f, ...)
  if not ok then
    error(result, 0)
  end
  return result
end

-- The owner of what is started now: nobody, once that has ended.
local function starter()
  local who = owner.current
  return who and not who.ended and who or nil
end

-- Has the owner end `thing` when it ends.
local function enter(thing)
  local who = starter()
  thing.owner = who
  if who then
    who:add(thing)
  end
end

local function leave(thing)
  if thing.owner then
    thing.owner:remove(thing)
  end
end

local function needFunction(name, f, level)
  if type(f) ~= "function" then
    error(("%s takes a function, not a %s"):format(name, type(f)), level + 1)
  end
end

local function needSeconds(name, s, level)
  if type(s) ~= "number" or not (s >= 0 and s < math.huge) then
    error(("%s takes seconds, a number from 0, not %s"):format(name, tostring(s)), level + 1)
  end
end

-- --- calls in the order of their times: a heap ------------------------------------------------

local function isBefore(a, b)
  return a.time < b.time or a.time == b.time and a.order < b.order
end

local function put(heap, place, call)
  heap[place] = call
  call.place = place
end

local function siftUp(heap, place, call)
  local parent = floor(place / 2)
  while place > 1 and isBefore(call, heap[parent]) do
    put(heap, place, heap[parent])
    place, parent = parent, floor(parent / 2)
  end
  put(heap, place, call)
end

local function siftDown(heap, place, call)
  local count = heap.count
  local child = 2 * place
  while child <= count do
    if child < count and isBefore(heap[child + 1], heap[child]) then
      child = child + 1
    end
    if not isBefore(heap[child], call) then
      break
    end
    put(heap, place, heap[child])
    place, child = child, 2 * child
  end
  put(heap, place, call)
end

local function insert(heap, call)
  heap.count = heap.count + 1
  call.heap = heap
  siftUp(heap, heap.count, call)
end

local function take(call)
  local heap, place = call.heap, call.place
  local count = heap.count
  local last = heap[count]
  heap[count], heap.count, call.heap = nil, count - 1, nil
  if last == call then
    return
  elseif place > 1 and isBefore(last, heap[floor(place / 2)]) then
    siftUp(heap, place, last)
  else
    siftDown(heap, place, last)
  end
end

-- --- Clock ------------------------------------------------------------------------------------

-- A call that is due by so small a part of the time is due: sums of seconds are rounded.
local ROUNDING = 1e-15

-- Pending while it stands in a heap.
---@class ClockCall: DelayedCall
local ClockCall = {}
ClockCall.__index = ClockCall

local function spent(call)
  if call.called then
    return nil, "already called", "EALREADY"
  end
  return nil, "already cancelled", "ECANCELED"
end

-- It will not run (again): what it would have called is let go.
local function release(call)
  take(call)
  call.f, call.arguments, call.owner = nil, nil, nil
end

-- Those of one time run in the order in which they were set to it.
local function set(call, heap, time)
  local clock = call.clock
  clock.order = clock.order + 1
  call.time, call.order = time, clock.order
  insert(heap, call)
end

local function move(call, time)
  take(call)
  set(call, call.clock.calls, time)
  return true
end

--- Takes the call back.
---@return boolean? ok nil, message, code when it ran already or was cancelled before
function ClockCall:cancel()
  if not self.heap then
    return spent(self)
  end
  release(self)
  return true
end

--- Has it run so many seconds from now.
---@param s number
---@return boolean? ok nil, message, code when it ran already or was cancelled before
function ClockCall:reset(s)
  needSeconds("reset", s, 2)
  if not self.heap then
    return spent(self)
  end
  return move(self, self.clock.rightNow + s)
end

--- Puts it off by so many seconds.
---@param s number
---@return boolean? ok nil, message, code when it ran already or was cancelled before
function ClockCall:delay(s)
  needSeconds("delay", s, 2)
  if not self.heap then
    return spent(self)
  end
  return move(self, self.time + s)
end

--- Whether it is still to come.
---@return boolean
function ClockCall:active()
  return self.heap ~= nil
end

--- When it is due, in seconds of the clock.
---@return number
function ClockCall:getTime()
  return self.time
end

--- Time that passes when it is told to: stands in for the reactor in tests.
---@class Clock
---@field rightNow number
local Clock = class.root "Clock"

task.Clock = Clock

function Clock:init()
  self.rightNow = 0
  self.lost = 0 -- what rounding has taken from rightNow
  self.order = 0
  self.calls = { count = 0 }
  self.nextTurn = { count = 0 }
end

--- What time it is: 0 at first, then the sum of what it was advanced by.
---@return number
function Clock:seconds()
  return self.rightNow
end

local function later(clock, heap, time, f, ...)
  -- with room for all that it will hold
  local call = { clock = clock, f = f, arguments = nil, owner = starter(), heap = heap, place = 0, time = 0, order = 0 }
  setmetatable(call, ClockCall)
  local count = select("#", ...)
  if count > 0 then
    call.arguments = { n = count, ... }
  end
  set(call, heap, time)
  return call
end

--- Calls `f(...)` when so many seconds have passed.
---@param s number
---@param f function
---@param ... any
---@return ClockCall
function Clock:callLater(s, f, ...)
  needSeconds("callLater", s, 2)
  needFunction("callLater", f, 2)
  return later(self, self.calls, self.rightNow + s, f, ...)
end

--- Calls `f(...)` at the next advance: never within the one that is under way.
---@param f function
---@param ... any
---@return ClockCall
function Clock:callNextTurn(f, ...)
  needFunction("callNextTurn", f, 2)
  return later(self, self.nextTurn, self.rightNow, f, ...)
end

--- The pending calls, the next one first.
---@return ClockCall[]
function Clock:getDelayedCalls()
  local list = {}
  for _, heap in ipairs { self.nextTurn, self.calls } do
    for i = 1, heap.count do
      list[#list + 1] = heap[i]
    end
  end
  table.sort(list, isBefore)
  return list
end

-- Adds without loss, so that a thousand steps of a tenth are a hundred.
local function forward(self, amount)
  local now = self.rightNow
  local sum = now + amount
  local added = sum - now
  local lost = self.lost + ((now - (sum - added)) + (amount - added))
  self.rightNow = sum + lost
  self.lost = lost - (self.rightNow - sum)
end

local function beginTurn(self)
  local heap = self.nextTurn
  while heap.count > 0 do
    local call = heap[1]
    take(call)
    call.time = math.min(call.time, self.rightNow)
    insert(self.calls, call)
  end
end

local function fire(call)
  local f, arguments, who = call.f, call.arguments, call.owner
  release(call)
  call.called = true
  if arguments then
    as(who, f, unpack(arguments, 1, arguments.n))
  else
    as(who, f)
  end
end

local function needAmount(name, amount, level)
  if type(amount) ~= "number" or amount ~= amount or abs(amount) == math.huge then
    error(("%s takes seconds, not %s"):format(name, tostring(amount)), level + 1)
  end
end

--- Lets so many seconds pass, then calls what is due, and what becomes due by that. What a call
--- raises comes out of here; the others stay pending.
---@param amount number
function Clock:advance(amount)
  needAmount("advance", amount, 2)
  forward(self, amount)
  beginTurn(self)
  local call = self.calls[1]
  while call and call.time <= self.rightNow + ROUNDING * abs(self.rightNow) do
    fire(call)
    call = self.calls[1]
  end
end

--- Advances by each of the amounts, one after the other.
---@param amounts number[]
function Clock:pump(amounts)
  if type(amounts) ~= "table" then
    error(("pump takes a list of seconds, not a %s"):format(type(amounts)), 2)
  end
  for _, amount in ipairs(amounts) do
    needAmount("pump", amount, 2)
  end
  for _, amount in ipairs(amounts) do
    self:advance(amount)
  end
end

local function callNextTurn(clock, f, ...)
  local method = clock.callNextTurn
  if method then
    return method(clock, f, ...)
  end
  return clock:callLater(0, f, ...)
end

-- --- LoopingCall ------------------------------------------------------------------------------

-- Runs happen at `origin + n * interval`. Each time is reckoned from the origin, so nothing adds up;
-- a run counts for the n that it was set for, however its time was rounded.

--- Calls a function again and again.
---@class LoopingCall
---@field running boolean
---@field interval number? seconds; may be changed while it runs, and counts from the next run on
---@field clock table? the reactor, where none is set before `start`
---@field deferred Deferred? what `start` gave, until it fires
---@field call DelayedCall? the next run
---@field origin number when it was started or reset
---@field step number? the interval that `due` and `reached` are numbers of
---@field due integer the run that `call` is for
---@field reached integer the last run
---@field ranAt number? when that was
---@field count integer how many runs it stood for
local LoopingCall = class.root("LoopingCall", { running = false })

task.LoopingCall = LoopingCall

local run

--- `LoopingCall:new(f, …)` will call `f(…)`. What it gives is ignored, but for a Deferred: that is
--- waited for.
---@param f function
---@param ... any
function LoopingCall:init(f, ...)
  needFunction("LoopingCall", f, 3)
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
  needFunction("withCount", f, 2)
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
    self.call = callNextTurn(clock, self.again)
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
    leave(self)
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
---@param interval number
---@param now boolean? false: the first run comes after an interval
---@return Deferred fires with the LoopingCall when it is stopped; fails with what the function failed with
function LoopingCall:start(interval, now)
  if self.running then
    error("start: the LoopingCall is running already", 2)
  end
  needSeconds("start", interval, 2)
  self.clock = self.clock or require "skald.reactor"
  self.interval = interval
  local deferred = Deferred:new()
  self.deferred = deferred
  enter(self)
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
  leave(self)
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
    as(self.owner, schedule, self)
  end
end

-- --- deferLater -------------------------------------------------------------------------------

local function callIt(_, f, ...)
  return f(...)
end

--- A Deferred that fires after so many seconds with what `f(...)` gives then; cancelling it takes
--- the call back.
---@param clock table? the reactor where it is nil
---@param s number
---@param f function? without one it fires with nil
---@param ... any
---@return Deferred
function task.deferLater(clock, s, f, ...)
  if clock ~= nil and type(clock) ~= "table" then
    error(("deferLater takes a clock, the seconds and a function; the clock is a %s"):format(type(clock)), 2)
  end
  needSeconds("deferLater", s, 2)
  local delayed
  local d = Deferred:new(function()
    delayed:cancel()
  end)
  if f ~= nil then
    needFunction("deferLater", f, 2)
    d:addCallback(callIt, f, ...)
  end
  delayed = (clock or require "skald.reactor"):callLater(s, d.callback, d, nil)
  return d
end

-- --- Cooperator -------------------------------------------------------------------------------

-- A task stands in its Cooperator's list, with `turn` set, unless it is paused, waits for a Deferred,
-- or has come to its end, with `state` set.

--- One function's work.
---@class CooperativeTask
---@field f fun(): any
---@field cooperator Cooperator
---@field pauses integer
---@field held boolean it waits for a Deferred
---@field turn integer? the last turn when it was put into the list
---@field state "done"|"failed"|"stopped"|nil
---@field result any what whenDone fires with
---@field waiting Deferred[]
local CooperativeTask = {}
CooperativeTask.__index = CooperativeTask

--- Does several tasks in turns.
---@class Cooperator
---@field running boolean
---@field clock table? the reactor, where there is none
local Cooperator = class.root "Cooperator"

task.Cooperator = Cooperator

local cooperatorOptions = { clock = "table", started = "boolean" }

--- `Cooperator:new { clock = … }`; with `started = false` it does nothing until `start`.
---@param options? { clock: table?, started: boolean? }
function Cooperator:init(options)
  if options ~= nil and type(options) ~= "table" then
    error(("Cooperator takes its options as a table, not a %s"):format(type(options)), 3)
  end
  for key, value in pairs(options or {}) do
    if not cooperatorOptions[key] then
      error(("Cooperator knows no option '%s'"):format(tostring(key)), 3)
    elseif type(value) ~= cooperatorOptions[key] then
      error(("Cooperator: %s takes a %s, not a %s"):format(key, cooperatorOptions[key], type(value)), 3)
    end
  end
  self.clock = options and options.clock
  self.running = not (options and options.started == false)
  self.stopped = false
  self.turn = 0
end

local tick

-- Its turns belong to nobody, since the tasks are of several owners.
local function scheduleTurn(self)
  if self.running and self.first and not self.call and not self.ticking then
    self.clock = self.clock or require "skald.reactor"
    self.call = as(nil, callNextTurn, self.clock, tick, self)
  end
end

-- Puts a task at the end of the list.
local function link(self, one)
  one.turn = self.turn
  one.before, one.behind = self.last, nil
  if self.last then
    self.last.behind = one
  else
    self.first = one
  end
  self.last = one
  scheduleTurn(self)
end

local function unlink(self, one)
  local before, behind = one.before, one.behind
  if before then
    before.behind = behind
  else
    self.first = behind
  end
  if behind then
    behind.before = before
  else
    self.last = before
  end
  if self.cursor == one then
    self.cursor = behind
  end
  one.turn, one.before, one.behind = nil, nil, nil
  if not self.first and self.call then
    self.call:cancel()
    self.call = nil
  end
end

local function fireAll(list, result)
  local method = failure.is(result) and Deferred.errback or Deferred.callback
  for _, d in ipairs(list) do
    method(d, result)
  end
end

-- A task has come to its end. All is noted before anybody hears of it.
local function complete(one, state, result)
  if one.turn then
    unlink(one.cooperator, one)
  end
  leave(one)
  local waiting = one.waiting
  one.state, one.result, one.waiting = state, result, nil
  if state == "failed" and #waiting == 0 then
    one.unseen = defer.fail(result) -- so that an error is not lost where nobody asks
  else
    fireAll(waiting, result)
  end
end

local function schedulerStopped()
  return failure.own("SchedulerStopped", "the Cooperator was stopped")
end

-- Nothing keeps a task from its turns any more.
local function join(one)
  local self = one.cooperator
  if self.stopped then
    complete(one, "stopped", schedulerStopped())
  else
    link(self, one)
  end
end

local function proceed(_, one)
  one.held = false
  if not one.state and one.pauses == 0 then
    join(one)
  end
end

local function breakOff(problem, one)
  one.held = false
  if one.state then
    return problem
  end
  complete(one, "failed", problem)
  return nil
end

local function hold(one, d)
  one.held = true
  if one.turn then
    unlink(one.cooperator, one)
  end
  d:addCallbacks(proceed, breakOff, { one }, { one })
end

local function work(one)
  local ok, result = owner.call(one.owner, failure.handler, one.f)
  if one.state then
    if not ok then
      defer.fail(result) -- it was stopped from within, and then failed: for the log
    end
  elseif not ok then
    complete(one, "failed", result)
  elseif result == nil then
    complete(one, "done", one.f)
  elseif isDeferred(result) then
    hold(one, result)
  end
end

-- One turn: each task once. Those that come meanwhile stand behind, with the number of this turn.
function tick(self)
  self.call, self.ticking = nil, true
  self.turn = self.turn + 1
  self.cursor = self.first
  while self.cursor and self.cursor.turn < self.turn do
    local one = self.cursor
    self.cursor = one.behind
    work(one)
  end
  self.cursor, self.ticking = nil, false
  scheduleTurn(self)
end

--- Calls `f()` once a turn until it gives nil. When it gives a Deferred, it is called again once that
--- has fired.
---@param f fun(): any
---@return CooperativeTask
function Cooperator:cooperate(f)
  needFunction("cooperate", f, 2)
  local one = setmetatable({ f = f, cooperator = self, pauses = 0, held = false, waiting = {} }, CooperativeTask)
  enter(one)
  join(one)
  return one
end

--- Begins, or goes on after a `stop`.
function Cooperator:start()
  self.running, self.stopped = true, false
  scheduleTurn(self)
end

--- Ends all tasks: `whenDone` fails with SchedulerStopped. So do tasks that are added, and those that
--- wait or are paused when they would go on.
function Cooperator:stop()
  self.running, self.stopped = false, true
  local tasks = {}
  while self.first do
    tasks[#tasks + 1] = self.first
    unlink(self, self.first)
  end
  for _, one in ipairs(tasks) do
    if not one.state then
      complete(one, "stopped", schedulerStopped())
    end
  end
end

local endings = {
  done = { "already done", "EALREADY" },
  failed = { "already failed", "EALREADY" },
  stopped = { "already stopped", "ECANCELED" },
}

local function ended(one)
  local ending = endings[one.state]
  return nil, ending[1], ending[2]
end

--- Keeps it from its turns until `resume` was called as often.
---@return boolean? ok nil, message, code when it is at its end
---@return string? message
---@return string? code
function CooperativeTask:pause()
  if self.state then
    return ended(self)
  end
  self.pauses = self.pauses + 1
  if self.turn then
    unlink(self.cooperator, self)
  end
  return true
end

--- Takes a pause back.
---@return boolean? ok nil, message, code when it is at its end
---@return string? message
---@return string? code
function CooperativeTask:resume()
  if self.state then
    return ended(self)
  elseif self.pauses == 0 then
    error("resume: the task is not paused", 2)
  end
  self.pauses = self.pauses - 1
  if self.pauses == 0 and not self.held then
    join(self)
  end
  return true
end

local function taskStopped()
  return failure.own("TaskStopped", "the task was stopped")
end

--- Ends it: `whenDone` fails with TaskStopped.
---@return boolean? ok nil, message, code when it is at its end
---@return string? message
---@return string? code
function CooperativeTask:stop()
  if self.state then
    return ended(self)
  end
  complete(self, "stopped", taskStopped())
  return true
end

--- What its owner calls at its end: stops it, and that nobody handles this is no error.
function CooperativeTask:finish()
  if self.state then
    return
  end
  for _, d in ipairs(self.waiting) do
    d.handled = true
  end
  complete(self, "stopped", taskStopped())
end

--- A Deferred of its end, another one at each call: fires with the function, or fails with what that
--- failed with.
---@return Deferred
function CooperativeTask:whenDone()
  local d = self.unseen
  if d then
    self.unseen = nil
    return d
  end
  d = Deferred:new()
  if self.state then
    fireAll({ d }, self.result)
  else
    table.insert(self.waiting, d)
  end
  return d
end

return task
