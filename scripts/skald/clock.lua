-- Time that passes when it is told to: stands in for the reactor in tests. Pure.

local class = require "skald.class"
local started = require "skald.started"

local floor, abs = math.floor, math.abs

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

local function needAmount(name, amount, level)
  if type(amount) ~= "number" or amount ~= amount or abs(amount) == math.huge then
    error(("%s takes seconds, not %s"):format(name, tostring(amount)), level + 1)
  end
end

-- A call that is due by so small a part of the time is due: sums of seconds are rounded.
local ROUNDING = 1e-15

-- Pending while it stands in a heap.
--- A call that a Clock is to make: what the reactor's callLater gives, on a Clock.
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
---@return string? message
---@return string? code EALREADY, ECANCELED
function ClockCall:cancel()
  if not self.heap then
    return spent(self)
  end
  release(self)
  return true
end

--- Has it run so many seconds from now.
---@param s number seconds
---@return boolean? ok nil, message, code when it ran already or was cancelled before
---@return string? message
---@return string? code EALREADY, ECANCELED
function ClockCall:reset(s)
  started.needSeconds("reset", s, 2)
  if not self.heap then
    return spent(self)
  end
  return move(self, self.clock.rightNow + s)
end

--- Puts it off by so many seconds.
---@param s number seconds
---@return boolean? ok nil, message, code when it ran already or was cancelled before
---@return string? message
---@return string? code EALREADY, ECANCELED
function ClockCall:delay(s)
  needAmount("delay", s, 2)
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

--- When it is due.
---@return number time in seconds of the clock
function ClockCall:getTime()
  return self.time
end

--- Time that passes when it is told to: stands in for the reactor in tests.
---@class Clock: Object
---@field rightNow number what time it is, in seconds
local Clock = class.root "Clock"

function Clock:init()
  self.rightNow = 0
  self.lost = 0 -- what rounding has taken from rightNow
  self.order = 0
  self.calls = { count = 0 }
  self.nextTurn = { count = 0 }
end

--- What time it is: 0 at first, then the sum of what it was advanced by.
---@return number time in seconds
function Clock:seconds()
  return self.rightNow
end

local function later(clock, heap, time, f, ...)
  -- with room for all that it will hold
  local call = { clock = clock, f = f, arguments = nil, owner = nil, heap = heap, place = 0, time = 0, order = 0 }
  call.owner = started.owner()
  setmetatable(call, ClockCall)
  local count = select("#", ...)
  if count > 0 then
    call.arguments = { n = count, ... }
  end
  set(call, heap, time)
  return call
end

--- Calls `f(...)` when so many seconds have passed.
---@param s number seconds, from 0
---@param f function
---@param ... any
---@return ClockCall
function Clock:callLater(s, f, ...)
  if not self.calls then
    error("this is the class: Clock:new() makes one", 2)
  end
  started.needSeconds("callLater", s, 2)
  started.needFunction("callLater", f, 2)
  return later(self, self.calls, self.rightNow + s, f, ...)
end

--- Calls `f(...)` at the next advance: never within the one that is under way.
---@param f function
---@param ... any
---@return ClockCall
function Clock:callNextTurn(f, ...)
  started.needFunction("callNextTurn", f, 2)
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
    started.as(who, f, unpack(arguments, 1, arguments.n))
  else
    started.as(who, f)
  end
end


--- Lets so many seconds pass, then calls what is due, and what becomes due by that. What a call
--- raises comes out of here; the others stay pending.
---@param amount number seconds
function Clock:advance(amount)
  if not self.calls then
    error("this is the class: Clock:new() makes one", 2)
  end
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
---@param amounts number[] seconds each
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

return Clock
