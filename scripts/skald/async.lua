-- async and await: functions that wait for Deferreds without a callback. Each call of one is a
-- coroutine, whose Deferred fires with what it gives or raises. Pure.

local deferred = require "skald.deferred"
local failure = require "skald.failure"
local owner = require "skald.owner"
local trace = require "skald.trace"

local isDeferred, isFailure = deferred.is, failure.is
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local current = coroutine.running
local async = {}

-- Coroutines within each other's calls lie on the C stack: so many at a time, then one waits until
-- those are out of the way.
local MOST_NESTED = 100
local nested = 0
local waiting, first, last = {}, 1, 0

local MOST_FREE = 100 -- threads that are kept for the next calls
local MOST_PLACES = 40 -- awaits that a traceback names

--- Those that have not come to their end, and what they run.
async.alive = setmetatable({}, { __mode = "kv" })

---@class Task
---@field thread thread? that runs it
---@field waits boolean its thread does
---@field deferred Deferred? fires with what the function gives
---@field ended fun(task: Task, ok: boolean, result: any)? is called instead
---@field awaits Deferred? what it waits for
---@field source Stream? which it read or wrote last: has an `interrupt`
---@field owner Owner?
local Task = {}
Task.__index = Task

-- The function has come to its end.
local function conclude(task, ok, result)
  local who = task.owner
  task.done = true
  async.alive[task] = nil
  if who then
    who:remove(task)
  end
  if task.ended then
    task:ended(ok, result)
  else
    if not ok and (task.over or who and who.ended) and result:check "CancelledError" then
      task.deferred.handled = true -- with its owner: no error
    end
    task.deferred:resolve(result)
  end
end

local function forget(task)
  if task.deferred then
    task.deferred.handled = true
  end
  conclude(task, false, failure.own("CancelledError", "what it belonged to has ended"))
end

-- What a thread gives when it is resumed: that it waits, or its end. Asking coroutine.status and
-- coroutine.running would cost a good part of what a small message costs.
local WAITS, ENDS = {}, {}

-- How the call that has just ended went.
local gone = {}

local function keep(ok, result)
  gone.ok, gone.result = ok, result
end

-- A traceback is to be had only where something is raised.
local function call(f, ...)
  return xpcall(f, failure.handler, ...)
end

-- What a thread runs: one call after the other, since making a thread costs more than most calls do.
-- While it waits for the next one its stack refers to nothing of the last.
local function work()
  while true do
    keep(call(yield(ENDS)))
  end
end

local free, count = {}, 0 -- threads without work

local function takeThread()
  if count > 0 then
    local thread = free[count]
    free[count] = nil
    count = count - 1
    return thread
  end
  local thread = create(work)
  resume(thread)
  return thread
end

local function giveThread(thread)
  if count < MOST_FREE then
    count = count + 1
    free[count] = thread
  end
end

local function step(task, ...)
  local who, before = owner.current, owner.task
  local thread = task.thread or takeThread()
  owner.current, owner.task = task.owner, task
  task.thread, task.waits = thread, false
  nested = nested + 1
  local _, mark = resume(thread, ...)
  owner.current, owner.task = who, before
  if mark == ENDS then
    local result = gone.result
    gone.result, task.thread = nil, nil
    giveThread(thread)
    conclude(task, gone.ok, result)
  elseif mark == WAITS then
    task.waits = true
    if task.over then
      forget(task)
    end
  else
    conclude(task, false, failure.new "an async function waits by await, not by coroutine.yield")
  end
  nested = nested - 1
end

local function drain()
  while first <= last do
    local entry = waiting[first]
    waiting[first] = nil
    first = first + 1
    if first > last then
      first, last = 1, 0
    end
    if not entry.task.done then
      step(entry.task, unpack(entry, 1, entry.n))
    end
  end
end

--- Runs a task until it waits again, or ends.
function Task:go(...)
  if self.done then
    return
  end
  if nested >= MOST_NESTED then
    last = last + 1
    waiting[last] = { task = self, n = select("#", ...), ... }
    return
  end
  step(self, ...)
  if nested == 0 and first <= last then
    drain()
  end
end

--- What it waits for is there; unless it could not wait: an await that a C function is in the way of
--- raises.
---@param ok boolean
---@param result any
---@param d Deferred
function Task:proceed(ok, result, d)
  if self.awaits == d then
    self.awaits = nil
    if self.waits and not self.done then
      self:go(ok, result)
    end
  end
end

--- Cancels what it waits for: the CancelledError is raised there.
function Task:cancel()
  local awaits = self.awaits
  if awaits and self.waits then
    return awaits:cancel()
  elseif not self.done then
    self.cancelled = true -- at its next await
    if self.waits and self.source then
      self.source:interrupt(self)
    end
  end
end

--- What it belongs to has ended, and it ends with it: CancelledError is raised where it waits, and
--- where it waits after that, it is left.
function Task:finish()
  self.over = true
  self:cancel()
  if not self.done and owner.task ~= self and (self.waits or not self.thread) then
    forget(self)
  end
end

--- A task of `f`, yet to be started with `task:go(f, ...)`.
---@param f function
---@param ended fun(task: Task, ok: boolean, result: any)? is told instead of a Deferred
---@return Task
function async.task(f, ended)
  local who = owner.current
  local task = setmetatable({
    thread = nil,
    deferred = nil,
    awaits = nil,
    source = nil,
    owner = who,
    ended = ended,
    done = false,
    waits = false,
  }, Task)
  if who and who.ended then
    task.owner, task.over = nil, true
  elseif who then
    who:add(task)
  end
  async.alive[task] = f
  if not ended then
    task.deferred = deferred.Deferred:new()
    task.deferred.task = task
  end
  return task
end

--- A function like `f` that may `await`: it gives a Deferred of what `f` gives. It runs at once, up to
--- the first await of what has not fired.
---@param f function
---@return fun(...: any): Deferred g takes what `f` takes
function async.async(f)
  if type(f) ~= "function" then
    error(("async takes a function, not a %s"):format(type(f)), 2)
  end
  return function(...)
    local task = async.task(f)
    task:go(f, ...)
    return task.deferred
  end
end

-- Raises a failure where it is awaited, and has its traceback say so.
local function raise(problem)
  local place = trace.place(2)
  local places = problem.places or 0
  if place and places < MOST_PLACES then
    problem.places = places + 1
    problem.traceback = ("%s\n\tawaited at %s"):format(problem.traceback, place)
  end
  error(problem, 0)
end

-- Waits for nothing: its failure counts as handled. No closure may stand in `await`: LuaJIT compiles
-- no function that makes one in a branch.
local NOBODY = { proceed = function() end }

local function isReady(d)
  return d.called and d.paused == 0 and not d.running
end

--- coroutine.yield takes this, where the running task is to wait until `go` is called; it gives what
--- that is given.
async.WAITS = WAITS

--- Raises CancelledError where a task was cancelled and has not heard of it.
---@param task Task
function async.check(task)
  if task.cancelled then
    task.cancelled = nil
    raise(failure.own("CancelledError", "the call was cancelled"))
  end
end

--- The value of a Deferred, when it has one; its failure is raised. Another value is given back.
---@param d any a Deferred, or another value
---@return any value
function async.await(d)
  local task = owner.task
  if not task then
    error("await works within a function made by async", 2)
  elseif not isDeferred(d) then
    return d
  end
  local ok, result
  if task.cancelled then
    task.cancelled = nil
    ok, result = false, failure.own("CancelledError", "the call was cancelled")
  elseif isReady(d) then
    result = d.result
    ok = not isFailure(result)
    if not ok then
      d:awaitedBy(NOBODY)
    end
  elseif current() ~= task.thread then
    error("await works in the function made by async itself, not in a coroutine of its own", 2)
  else
    task.awaits = d
    d:awaitedBy(task)
    ok, result = yield(WAITS)
  end
  if ok then
    return result
  end
  return raise(result)
end

return async
