-- What scripts asked to be called when the host starts and stops.

local asked = require "skald.asked"
local core = require "skald.core"
local deferred = require "skald.deferred"
local gather = require "skald.gather"
local log = require "skald.log"
local owner = require "skald.owner"

local triggers = {}

local list = {} -- in the order of their coming

--- What addSystemEventTrigger gives: removeSystemEventTrigger takes it.
---@class Trigger
local Trigger = {}
Trigger.__index = Trigger

--- Has `f(...)` called in a phase of an event. What a script's load asks for ends with it.
---@param phase "before"|"during"|"after" before shutdown, a Deferred is waited for
---@param event "startup"|"shutdown"
---@param f function
---@param ... any
---@return Trigger trigger to take it back with
function triggers.add(phase, event, f, ...)
  asked.trigger(phase, event, f)
  local who = owner.current
  local trigger = setmetatable({ phase = phase, event = event, f = f, n = select("#", ...), ... }, Trigger)
  if who and who.ended then
    return trigger -- what has ended starts nothing
  end
  list[#list + 1] = trigger
  if who then
    trigger.owner = who
    who:add(trigger)
  end
  return trigger
end

--- Takes it back.
---@param trigger Trigger
---@return boolean? ok nil, message, code where it was called or taken back before
---@return string? message
---@return string? code
function triggers.remove(trigger)
  for i, other in ipairs(list) do
    if rawequal(other, trigger) then
      table.remove(list, i)
      if trigger.owner then
        trigger.owner:remove(trigger)
      end
      return true
    end
  end
  return nil, "no such trigger", "ENOENT"
end

--- Its owner has ended.
---@private
function Trigger:finish()
  triggers.remove(self)
end

local function take(phase, event)
  local found, left = {}, {}
  for _, trigger in ipairs(list) do
    local fits = trigger.phase == phase and trigger.event == event
    table.insert(fits and found or left, trigger)
  end
  list = left
  return found
end

--- Calls what was asked for; a Deferred of all that those gave, where one gave any.
---@param phase string
---@param event string
---@return Deferred?
function triggers.fire(phase, event)
  local waits = {}
  for _, trigger in ipairs(take(phase, event)) do
    local ok, result = owner.call(trigger.owner, core.traceback, trigger.f, unpack(trigger, 1, trigger.n))
    if not ok then
      log.error("%s", result)
    elseif deferred.is(result) then
      waits[#waits + 1] = result
    end
  end
  return #waits > 0 and gather.DeferredList:new(waits) or nil
end

return triggers
