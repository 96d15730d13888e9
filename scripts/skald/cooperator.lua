-- Cooperator: several tasks, each a little at a time. Pure.

local class = require "skald.class"
local deferred = require "skald.deferred"
local failure = require "skald.failure"
local owner = require "skald.owner"
local started = require "skald.started"

local Deferred, isDeferred = deferred.Deferred, deferred.is

-- A task stands in its Cooperator's list, with `turn` set, unless it is paused, waits for a Deferred,
-- or has come to its end, with `state` set.

--- One function's work: what `cooperate` gives.
---@class CooperativeTask
---@field state "done"|"failed"|"stopped"|nil nil while it is to go on
---@field result any what whenDone fires with, at its end
---@field private f fun(): any
---@field private cooperator Cooperator
---@field private pauses integer
---@field private held boolean it waits for a Deferred
---@field private turn integer? the last turn when it was put into the list
---@field private waiting Deferred[]
local CooperativeTask = {}
CooperativeTask.__index = CooperativeTask

--- Does several tasks in turns.
---@class Cooperator: Object
---@field running boolean it gives turns
---@field clock table? the reactor, where there is none
local Cooperator = class.root "Cooperator"

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
    self.call = started.as(nil, started.callNextTurn, self.clock, tick, self)
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
  started.leave(one)
  local waiting = one.waiting
  one.state, one.result, one.waiting = state, result, nil
  if state == "failed" and #waiting == 0 then
    one.unseen = deferred.fail(result) -- so that an error is not lost where nobody asks
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
      deferred.fail(result) -- it was stopped from within, and then failed: for the log
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
  started.needFunction("cooperate", f, 2)
  local one = setmetatable({ f = f, cooperator = self, pauses = 0, held = false, waiting = {} }, CooperativeTask)
  started.enter(one)
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
---@private
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

return Cooperator
