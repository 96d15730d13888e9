-- skald.task: what runs again and again, or later. Pure.

local deferred = require "skald.deferred"
local started = require "skald.started"

local Deferred = deferred.Deferred

---@class skald.task
local task = {
  Clock = require "skald.clock",
  Cooperator = require "skald.cooperator",
  LoopingCall = require "skald.looping",
}

local function callIt(_, f, ...)
  return f(...)
end

--- A Deferred that fires after so many seconds with what `f(...)` gives then; cancelling it takes
--- the call back.
---@param clock table? the reactor where it is nil
---@param s number seconds, from 0
---@param f function? without one it fires with nil
---@param ... any
---@return Deferred d of what `f` gives
function task.deferLater(clock, s, f, ...)
  if clock ~= nil and type(clock) ~= "table" then
    error(("deferLater takes a clock, the seconds and a function; the clock is a %s"):format(type(clock)), 2)
  end
  started.needSeconds("deferLater", s, 2)
  local delayed
  local d = Deferred:new(function()
    delayed:cancel()
  end)
  if f ~= nil then
    started.needFunction("deferLater", f, 2)
    d:addCallback(callIt, f, ...)
  end
  delayed = (clock or require "skald.reactor"):callLater(s, d.callback, d, nil)
  return d
end

return task
