-- Those who wait their turn: DeferredLock, DeferredSemaphore, DeferredQueue. Pure.

local class = require "skald.class"
local deferred = require "skald.deferred"

local Deferred = deferred.Deferred
local locks = {}

-- First in, first out. What is taken out early leaves a gap.
local Line = class.root "Line"
local GAP = {}

function Line:init()
  self.first, self.last, self.count = 1, 0, 0
  self.items = {}
end

function Line:push(item)
  self.last = self.last + 1
  self.items[self.last] = item
  self.count = self.count + 1
end

-- Gives the oldest; there has to be one.
function Line:pop()
  local items, item = self.items, GAP
  while item == GAP do
    item = items[self.first]
    items[self.first] = nil
    self.first = self.first + 1
  end
  self.count = self.count - 1
  if self.count == 0 then
    self.first, self.last, self.items = 1, 0, {}
  end
  return item
end

function Line:remove(item)
  for i = self.first, self.last do
    if rawequal(self.items[i], item) then
      self.items[i] = GAP
      self.count = self.count - 1
      return
    end
  end
end

local function needInstance(self, name)
  if not self.waiting then
    error(("this is the class: %s:new() makes one"):format(name), 3)
  end
end

local function waitIn(line)
  local d = Deferred:new(function(d)
    line:remove(d)
  end)
  line:push(d)
  return d
end

local function giveBack(result, lock)
  lock:release()
  return result
end

local function runHeld(lock, f, arguments)
  return deferred.maybeDeferred(f, unpack(arguments, 1, arguments.n)):addBoth(giveBack, lock)
end

--- What a lock and a semaphore have in common.
---@class DeferredHeld: Object
local Held = class.root "Held"

--- Waits for its turn, then calls `f(...)`, and releases when that is done, whether it failed or not.
---@param f function may give a Deferred
---@param ... any
---@return Deferred d of what f gives
function Held:run(f, ...)
  if type(f) ~= "function" then
    error(("run takes a function, not a %s"):format(type(f)), 2)
  end
  return self:acquire():addCallback(runHeld, f, { n = select("#", ...), ... })
end

-- One that gets it may release it at once, and so may the next: so many within each other's calls,
-- then the outer ones do it.
local MOST_NESTED = 50

-- What was released goes to the one that has waited longest.
local function pass(lock)
  local nested = lock.nested or 0
  if nested >= MOST_NESTED and lock.waiting.count > lock.owed then
    lock.owed = lock.owed + 1
    return
  end
  lock.nested, lock.owed = nested + 1, lock.owed or 0
  repeat
    if lock.waiting.count > 0 then
      lock.waiting:pop():callback(lock)
    else
      lock:free()
    end
    local more = lock.owed > 0
    lock.owed = more and lock.owed - 1 or 0
  until not more
  lock.nested = nested
end

--- At most so many at a time.
---@class DeferredSemaphore: DeferredHeld
---@field limit integer how many it lets at a time
---@field tokens integer those that are free
local DeferredSemaphore = Held {}

--- A semaphore with so many tokens.
---@param limit integer from 1
function DeferredSemaphore:init(limit)
  if type(limit) ~= "number" or limit < 1 or limit % 1 ~= 0 then
    error(("a semaphore takes a number from 1, not %s"):format(tostring(limit)), 3)
  end
  self.limit, self.tokens, self.waiting = limit, limit, Line:new()
end

--- Waits for a token; cancelling it gives up its place.
---@return Deferred d of the semaphore
function DeferredSemaphore:acquire()
  needInstance(self, "DeferredSemaphore")
  if self.tokens == 0 then
    return waitIn(self.waiting)
  end
  self.tokens = self.tokens - 1
  return deferred.succeed(self)
end

---@private
function DeferredSemaphore:free()
  self.tokens = self.tokens + 1
end

--- Gives a token back: to the one that has waited longest.
function DeferredSemaphore:release()
  if self.tokens >= self.limit then
    error("release: nobody has acquired it", 2)
  end
  pass(self)
end

locks.DeferredSemaphore = DeferredSemaphore

--- One at a time.
---@class DeferredLock: DeferredHeld
---@field locked boolean somebody has it
local DeferredLock = Held {}

function DeferredLock:init()
  self.locked, self.waiting = false, Line:new()
end

--- Waits until it is free; cancelling it gives up its place.
---@return Deferred d of the lock
function DeferredLock:acquire()
  needInstance(self, "DeferredLock")
  if self.locked then
    return waitIn(self.waiting)
  end
  self.locked = true
  return deferred.succeed(self)
end

---@private
function DeferredLock:free()
  self.locked = false
end

--- Gives it to the one that has waited longest.
function DeferredLock:release()
  if not self.locked then
    error("release: nobody has acquired it", 2)
  end
  pass(self)
end

locks.DeferredLock = DeferredLock

--- A queue of things on which one may wait.
---@class DeferredQueue: Object
---@field size number most that may be in it
---@field backlog number most that may wait for something
local DeferredQueue = class.root "DeferredQueue"

local function bound(name, value)
  if value ~= nil and (type(value) ~= "number" or value < 0) then
    error(("DeferredQueue: %s is a number from 0, not %s"):format(name, tostring(value)), 4)
  end
  return value or math.huge
end

--- An empty queue.
---@param size integer? most things that may be in it; none is no bound
---@param backlog integer? most that may wait for something; none is no bound
function DeferredQueue:init(size, backlog)
  self.size, self.backlog = bound("size", size), bound("backlog", backlog)
  self.pending, self.waiting = Line:new(), Line:new()
end

--- Adds a thing; the one that has waited longest gets it.
---@param item any no Deferred
---@return boolean? ok nil, message, code when the queue is full
---@return string? message
---@return string? code
function DeferredQueue:put(item)
  needInstance(self, "DeferredQueue")
  if deferred.is(item) then
    error("put takes a thing, not a Deferred", 2)
  elseif self.waiting.count > 0 then
    self.waiting:pop():callback(item)
  elseif self.pending.count >= self.size then
    return nil, "the queue is full", "ENOBUFS"
  else
    self.pending:push(item)
  end
  return true
end

--- A Deferred of the oldest thing; cancelling it gives up its place.
---@return Deferred? d of the thing; nil, message, code when too many wait already
---@return string? message
---@return string? code
function DeferredQueue:get()
  needInstance(self, "DeferredQueue")
  if self.pending.count > 0 then
    return deferred.succeed(self.pending:pop())
  elseif self.waiting.count >= self.backlog then
    return nil, "too many wait already", "EAGAIN"
  end
  return waitIn(self.waiting)
end

locks.DeferredQueue = DeferredQueue

return locks
