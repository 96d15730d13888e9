-- Whose is what a test does: each test, and each block of tests, is a scope with an owner of its own, which
-- has a limited time to wait, and answers for what it leaves behind.

local async = require "skald.async"
local core = require "skald.core"
local failure = require "skald.failure"
local leftovers = require "skald.leftovers"
local owner = require "skald.owner"
local program = require "skald.program"
local timers = require "skald.timers"

local C, pointer = core.C, core.pointer
local host = program.host

local scopes = {}

---@class Scope
---@field element table what busted knows it by
---@field owner Owner
---@field before table a snapshot
---@field services Served[]
---@field problems string[] errors that were logged, failures that nobody handled
---@field ending table? how its test ended, which is yet to be told
---@field expired boolean? it has waited for too long

--- Those of a run, which is one coroutine.
---@class Scopes
---@field task Task the coroutine
---@field scopes table<table, Scope> by their elements
---@field scope Scope? the innermost one that runs
local Scopes = {}
Scopes.__index = Scopes

--- A text without the lines of tracebacks that are not the user's.
---@param text string
---@return string
function scopes.withoutLibrary(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    local ours = line:find "^\tskald/" or line:find "^\t%[C%]" or line:find "^\t%S*/busted/"
    lines[#lines + 1] = not ours and line or nil
  end
  return table.concat(lines, "\n")
end

--- Notes what failed since the last time, for the scope that ran.
---@param scope Scope
function scopes.note(scope)
  for _, text in ipairs(leftovers.problems()) do
    table.insert(scope.problems, scopes.withoutLibrary(text))
  end
end

--- Calls `f(...)`, which may wait: what it starts belongs to the scope.
---@param scope Scope
---@param f function
---@param ... any
function Scopes:within(scope, f, ...)
  local task, current = self.task, self.scope
  local who = task.owner
  task.owner, owner.current, self.scope = scope.owner, scope.owner, scope
  local function leave(...)
    task.owner, owner.current, self.scope = who, who, current
    return ...
  end
  return leave(f(...))
end

--- A new scope. What the outer one has done so far is not the new one's.
---@param element table
---@return Scope
function Scopes:open(element)
  if self.scope then
    scopes.note(self.scope)
  end
  local scope = {
    element = element,
    owner = owner.new(),
    before = leftovers.snapshot(),
    services = {},
    problems = {},
  }
  self.scopes[element] = scope
  return scope
end

--- What failed in the scope that runs, which forgets it.
---@param pattern string? only what matches it
---@param plain boolean? the pattern is a text
---@return string[]
function Scopes:flush(pattern, plain)
  local scope = self.scope
  scopes.note(scope)
  local taken, left = {}, {}
  for _, text in ipairs(scope.problems) do
    local list = (not pattern or text:find(pattern, 1, plain)) and taken or left
    list[#list + 1] = text
  end
  scope.problems = left
  return taken
end

local function endServices(scope)
  for i = #scope.services, 1, -1 do
    async.await(scope.services[i]:stop())
  end
  scope.services = {}
end

--- What a scope has left behind, as a text, or nil. Afterwards nothing of it is there any more.
---@param scope Scope
---@param hurried boolean? it has failed anyway
---@return string?
function Scopes:close(scope, hurried)
  local list, left = {}, leftovers.settle(scope, hurried)
  for _, item in ipairs(left) do
    list[#list + 1] = item.text
  end
  leftovers.drop(left)
  scopes.note(scope)
  if #scope.services > 0 then
    endServices(scope)
    for _, item in ipairs(leftovers.settle(scope, hurried)) do
      list[#list + 1] = item.text
    end
    if #list == 0 then
      scopes.note(scope) -- what went wrong as they stopped
    end
  end
  leftovers.remove(scope)
  leftovers.problems()
  self.scopes[scope.element] = nil
  local texts = {}
  if #list > 0 then
    texts[1] = "left behind: " .. table.concat(list, "\n  and ")
  end
  for _, problem in ipairs(scope.problems) do
    texts[#texts + 1] = "an error that nobody handled: " .. problem
  end
  return #texts > 0 and table.concat(texts, "\n") or nil
end

-- --- the time limit ---------------------------------------------------------------------------

local MOST_LATE = 10 -- waits of a block that goes on waiting after its time is over
local NEXT = 1 -- seconds for each of those, at most

local function interrupt(task, problem)
  if task.awaits then
    task.awaits = nil
    task:go(false, problem)
  else
    task:cancel()
  end
end

local STUCK = 6 -- time limits without a turn of the loop, after which no code can be told to end
local FEED = 1 -- seconds between two turns that the watchdog is told of, at most

local function watchdogText(self, scope)
  local element = scope.element
  local trace = element.trace
  local place = trace and ("%s:%d: "):format(trace.short_src, trace.currentline) or ""
  return ("skald test: %s'%s' has run for %g s without waiting, and cannot be stopped; before it %d passed, %d failed")
    :format(place, tostring(element.name), STUCK * host.options.timeout, self.passed, self.failed)
end

-- The loop turns; what does not come back from here ends the run.
local function feed(self, scope)
  C.skald_watchdog(pointer, STUCK * host.options.timeout, watchdogText(self, scope))
end

--- Calls `f(...)`; where that waits for too long, an error is raised where it waits, and `expired` says so.
--- Where it never waits, the run ends.
---@param scope Scope
---@param f function
---@param ... any
function Scopes:limited(scope, f, ...)
  local task, late = self.task, 0
  local limit = host.options.timeout
  local timer, expire, tick
  -- Waits for the time limit, and feeds the watchdog meanwhile.
  local function wait(seconds)
    feed(self, scope)
    timer = timers.own(math.min(seconds, FEED), tick, C.skald_seconds(pointer) + seconds)
  end
  function tick(due)
    local left = due - C.skald_seconds(pointer)
    if left > 0 then
      return wait(left)
    end
    expire()
  end
  function expire()
    late = late + 1
    local place = leftovers.waitsAt(task.thread)
    local text = ("%s: waited here for longer than the time limit of %g s"):format(place or "?", limit)
    scope.expired = scope.expired or text
    if late > MOST_LATE then
      program.complain("skald test: %s, and cannot be stopped", text)
      C.skald_stop(pointer, 1)
      return
    end
    wait(math.min(NEXT, limit))
    interrupt(task, failure.new(text))
  end
  wait(limit)
  local function leave(...)
    C.skald_watchdog(pointer, 0, "")
    timer:cancel()
    return ...
  end
  return leave(f(...))
end

scopes.Scopes = Scopes

return scopes
