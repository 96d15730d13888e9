-- callLater's timers: the core keeps the deadlines, this keeps what is to be called.

local core = require "skald.core"

local C, pointer = core.C, core.pointer
local timers = {}
local calls = {} -- by the timer's number

---@class DelayedCall
local DelayedCall = {}
DelayedCall.__index = DelayedCall

local function spent(self)
  if self.called then
    return nil, "already called", "EALREADY"
  end
  return nil, "already cancelled", "ECANCELED"
end

--- Takes the call back.
---@return boolean? ok nil, message, code when it ran already or was cancelled before
function DelayedCall:cancel()
  local handle = self.handle
  if not handle then
    return spent(self)
  end
  self.handle = nil
  calls[handle] = nil
  C.skald_timer_stop(pointer, handle)
  return true
end

local function seconds(value, name)
  if type(value) ~= "number" or not (value >= 0 and value < math.huge) then
    error(("%s takes seconds, a number from 0, not %s"):format(name, tostring(value)), 3)
  end
end

local function move(self, when)
  self.time = when
  C.skald_timer_move(pointer, self.handle, when)
  return true
end

--- Puts it off until so many seconds from now.
---@param s number
function DelayedCall:reset(s)
  seconds(s, "reset")
  if not self.handle then
    return spent(self)
  end
  return move(self, C.skald_seconds(pointer) + s)
end

--- Puts it off by so many seconds.
---@param s number
function DelayedCall:delay(s)
  seconds(s, "delay")
  if not self.handle then
    return spent(self)
  end
  return move(self, self.time + s)
end

--- Whether it is still to come.
---@return boolean
function DelayedCall:active()
  return self.handle ~= nil
end

--- When it is due, in seconds of `reactor.seconds()`.
---@return number
function DelayedCall:getTime()
  return self.time
end

--- Calls `f(...)` after so many seconds.
---@param s number
---@param f function
---@param ... any
---@return DelayedCall
function timers.later(s, f, ...)
  if type(s) ~= "number" or not (s >= 0 and s < math.huge) then
    error(("callLater takes seconds, a number from 0, not %s"):format(tostring(s)), 2)
  end
  if type(f) ~= "function" then
    error(("callLater takes a function, not a %s"):format(type(f)), 2)
  end
  local when = C.skald_seconds(pointer) + s
  local handle = C.skald_timer_start(pointer, when)
  if handle == 0 then
    error("callLater: too many timers are pending", 2)
  end
  local count = select("#", ...)
  local call = setmetatable({ handle = handle, time = when, f = f, count = count }, DelayedCall)
  if count > 0 then
    call.arguments = { ... }
  end
  calls[handle] = call
  return call
end

--- A timer is due.
function timers.due(handle)
  local call = calls[handle]
  calls[handle] = nil
  call.handle = nil
  call.called = true
  if call.arguments then
    call.f(unpack(call.arguments, 1, call.count))
  else
    call.f()
  end
end

return timers
