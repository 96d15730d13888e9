-- callLater's timers: the core keeps the deadlines, this keeps what is to be called.

local core = require "skald.core"
local owner = require "skald.owner"

local C, pointer = core.C, core.pointer
local place = core.place
local none = {}
local timers = {}
local calls = {} -- by the places of their handles
timers.note = nil -- is called with each that is made, where somebody wants to know

local WAITS = 0 -- a handle: noted, to be started when a load succeeded

-- Pending where it has a handle. Its fields are made all at once: more of them, or others later, would
-- double what it costs.
--- A call that is to come: what `reactor.callLater` gives.
---@class DelayedCall
local DelayedCall = {}
DelayedCall.__index = DelayedCall

local function spent(self)
  if self.called then
    return nil, "already called", "EALREADY"
  end
  return nil, "already cancelled", "ECANCELED"
end

-- It will not run (again): what it would have called is let go.
local function release(self)
  local who = self.owner
  self.handle, self.f, self.arguments, self.owner = false, false, false, false
  if who then
    who:drop(self)
  end
end

--- Takes the call back.
---@return boolean? ok nil, message, code when it ran already or was cancelled before
---@return string? message
---@return string? code EALREADY, ECANCELED
function DelayedCall:cancel()
  local handle = self.handle
  if not handle then
    return spent(self)
  end
  release(self)
  if handle ~= WAITS then
    calls[place(handle)] = nil
    C.skald_timer_stop(pointer, handle)
  end
  return true
end

local function seconds(value, name)
  if type(value) ~= "number" or not (value >= 0 and value < math.huge) then
    error(("%s takes seconds, a number from 0, not %s"):format(name, tostring(value)), 3)
  end
end

local function move(self, when)
  self.time = when
  if self.handle ~= WAITS then
    C.skald_timer_move(pointer, self.handle, when)
  end
  return true
end

--- Puts it off until so many seconds from now.
---@param s number seconds
---@return boolean? ok nil, message, code when it ran already or was cancelled before
---@return string? message
---@return string? code EALREADY, ECANCELED
function DelayedCall:reset(s)
  seconds(s, "reset")
  if not self:active() then
    return spent(self)
  end
  return move(self, C.skald_seconds(pointer) + s)
end

--- Puts it off by so many seconds; fewer than 0 have it come sooner.
---@param s number seconds
---@return boolean? ok nil, message, code when it ran already or was cancelled before
---@return string? message
---@return string? code EALREADY, ECANCELED
function DelayedCall:delay(s)
  if type(s) ~= "number" or s - s ~= 0 then
    error(("delay takes seconds, not %s"):format(tostring(s)), 2)
  end
  if not self:active() then
    return spent(self)
  end
  return move(self, self.time + s)
end

--- Whether it is still to come.
---@return boolean
function DelayedCall:active()
  return self.handle ~= false
end

--- When it is due.
---@return number time in seconds of `reactor.seconds()`
function DelayedCall:getTime()
  return self.time
end

local function start(call)
  local handle = C.skald_timer_start(pointer, call.time)
  if handle == 0 then
    return false
  end
  call.handle = handle
  calls[place(handle)] = call
  return true
end

--- Calls `f(...)` after so many seconds.
---@param s number seconds, from 0
---@param f function
---@param ... any
---@return DelayedCall
---@overload fun(reactor: table, s: number, f: function, ...: any): DelayedCall
function timers.later(s, f, ...)
  if type(s) ~= "number" or not (s >= 0 and s < math.huge) then
    error(("callLater takes seconds, a number from 0, not %s"):format(tostring(s)), 2)
  end
  if type(f) ~= "function" then
    error(("callLater takes a function, not a %s"):format(type(f)), 2)
  end
  local when = C.skald_seconds(pointer) + s
  local call = setmetatable({
    handle = WAITS,
    time = when,
    f = f,
    arguments = select("#", ...) > 0 and { n = select("#", ...), ... },
    owner = false,
    called = false,
    before = false,
    after = false,
  }, DelayedCall)
  local who = owner.current
  if who and who.ended then
    release(call) -- what has ended starts nothing
    return call
  elseif who then
    call.owner = who
    who:hold(call)
    if who.held then
      who.held[#who.held + 1] = call
      return call
    end
  end
  if not start(call) then
    release(call)
    error("callLater: too many timers are pending", 2)
  elseif timers.note then
    timers.note(call)
  end
  return call
end

local function same(problem)
  return problem
end

--- A timer of the library's own: it belongs to nobody, whoever runs.
---@param s number seconds, from 0
---@param f function
---@param ... any
---@return DelayedCall
function timers.own(s, f, ...)
  local _, call = assert(owner.call(nil, same, timers.later, s, f, ...))
  if timers.note then
    call.made = nil -- by no code of the user's
  end
  return call
end

--- Starts what an owner's timers were held back; from now on they start at once.
---@param who Owner
---@return boolean? ok nil, message when there are too many
---@return string? message
function timers.release(who)
  local held = who.held
  who.held = nil
  for _, call in ipairs(held) do
    if call.handle == WAITS and not start(call) then
      return nil, "too many timers are pending"
    end
  end
  return true
end

--- Those that are pending.
---@return table<integer, DelayedCall>
function timers.pending()
  return calls
end

--- How many pending timers would call a function of that environment.
---@param environment table
---@return integer
function timers.countOf(environment)
  local count = 0
  for _, call in pairs(calls) do
    if getfenv(call.f) == environment then
      count = count + 1
    end
  end
  return count
end

local function callOwned(who, f, ...)
  local ok, text = owner.call(who, core.traceback, f, ...)
  if not ok then
    C.skald_log(pointer, 3, text, #text)
  end
end

--- A timer is due.
function timers.due(handle)
  local at = place(handle)
  local call = calls[at]
  local who, f, arguments = call.owner, call.f, call.arguments
  calls[at] = nil
  release(call)
  call.called = true
  if who then
    callOwned(who, f, unpack(arguments or none, 1, arguments and arguments.n or 0))
  elseif arguments then
    f(unpack(arguments, 1, arguments.n))
  else
    f()
  end
end

return timers
