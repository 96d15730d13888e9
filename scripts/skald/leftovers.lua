-- What a test leaves behind: whatever lives at its end and did not before, unless it belongs to somebody
-- else. Looks at everything that the host has open.

local async = require "skald.async"
local connectors = require "skald.connectors"
local core = require "skald.core"
local deferred = require "skald.deferred"
local dispatch = require "skald.dispatch"
local owner = require "skald.owner"
local program = require "skald.program"
local reactor = require "skald.reactor"
local timers = require "skald.timers"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local leftovers = {}

---@class Leftover
---@field text string what it is, and where it was made if that is known
---@field remove fun() ends it
---@field closing boolean? it is about to end by itself
---@field isGone? fun(): boolean whether it has ended since

local NAMES = { "handle", "dataReceived", "lineReceived", "stringReceived", "connectionMade", "connectionLost" }

-- "FILE:LINE" of a function that is the user's.
local function placeOf(f)
  local info = type(f) == "function" and debug.getinfo(f, "S")
  if not info or info.what == "C" or info.source:find "^@skald/" then
    return nil
  end
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

local function protocolPlace(receiver)
  while receiver.wrappedProtocol do
    receiver = receiver.wrappedProtocol
  end
  for _, name in ipairs(NAMES) do
    local place = placeOf(receiver[name])
    if place then
      return place
    end
  end
  return nil
end

local function with(text, format, value)
  return value and text .. format:format(value) or text
end

-- --- what there is ----------------------------------------------------------------------------

local function keysOf(list)
  local set = {}
  for _, value in pairs(list) do
    set[value] = true
  end
  return set
end

local function looseTimers()
  local set = {}
  for _, call in pairs(timers.pending()) do
    if not call.owner and call.made then
      set[call] = true
    end
  end
  return set
end

--- What lives now.
---@return table
function leftovers.snapshot()
  return { ports = keysOf(dispatch.ports), protocols = keysOf(dispatch.protocols), timers = looseTimers() }
end

-- Those of `now` that were not there before. What replaced something that was there is nobody's leftover:
-- a server's timer that was set anew, a client that connected again.
local function newOnes(before, now, isOurs)
  local list, gone = {}, 0
  for value in pairs(before) do
    gone = gone + (now[value] and 0 or 1)
  end
  for value in pairs(now) do
    if not before[value] and isOurs(value) then
      list[#list + 1] = value
    end
  end
  for _ = 1, math.min(gone, #list) do
    table.remove(list)
  end
  return list
end

local function serves(factory)
  for _, service in ipairs(program.host.services) do
    if factory and service.factories[factory] then
      return true
    end
  end
  return false
end

-- --- each kind --------------------------------------------------------------------------------

local function addPorts(list, scope)
  for _, listener in pairs(dispatch.ports) do
    local foreign = listener.service or listener.owner and listener.owner ~= scope.owner
    if not scope.before.ports[listener] and not foreign then
      list[#list + 1] = {
        text = "a port that listens on " .. tostring(listener.address),
        remove = function()
          listener:close()
        end,
      }
    end
  end
end

local function describeConnection(receiver, isClient)
  local transport = receiver.transport
  local text = isClient and "a connection that was made" or "a connection that was accepted"
  if type(transport) == "table" and transport.getPeer and transport.getHost then
    text = ("%s (%s to %s)"):format(text, tostring(transport:getHost()), tostring(transport:getPeer()))
  end
  return with(text, ", its protocol at %s", protocolPlace(receiver))
end

local function addConnections(list, scope)
  local clients = {}
  for place, connector in pairs(dispatch.connectors) do
    clients[dispatch.protocols[place] or false] = connector
  end
  local now = keysOf(dispatch.protocols)
  for _, receiver in ipairs(newOnes(scope.before.protocols, now, function(receiver)
    local whose = clients[receiver] and clients[receiver].belongs
    return not receiver.process and not serves(receiver.factory) and (not whose or whose == scope.owner)
  end)) do
    list[#list + 1] = {
      text = describeConnection(receiver, clients[receiver] ~= nil),
      closing = receiver.transport and receiver.transport.disconnecting,
      remove = function()
        receiver.transport:abortConnection()
      end,
    }
  end
end

--- Where a coroutine waits: the user's line.
---@param thread thread
---@return string?
function leftovers.waitsAt(thread)
  local level = 0
  local info = debug.getinfo(thread, level, "Sl")
  while info do
    if info.what ~= "C" and not info.source:find "^@skald/" then
      return ("%s:%d"):format(info.short_src, info.currentline)
    end
    level = level + 1
    info = debug.getinfo(thread, level, "Sl")
  end
  return nil
end

local function describeThing(thing)
  if thing.describe then
    return thing:describe()
  elseif connectors.up[thing] then
    return ("a connector to %s (%s)"):format(tostring(thing:getDestination()), thing.state)
  elseif thing.again then
    return with("a LoopingCall", " of the function at %s", placeOf(thing.f))
  elseif thing.event then
    return with(("a trigger %s %s"):format(thing.phase, thing.event), ", of the function at %s", placeOf(thing.f))
  elseif thing.plan then
    return "a process, " .. thing.plan.path
  end
  return with("a task", " of the function at %s", placeOf(thing.f))
end

-- A connector that is connected counts as its connection. What waits without a connection, a timer or a loop of
-- this host's is no burden: a coroutine, and whatever goes by a clock of the test's own.
local function isBurden(thing)
  local clock = thing.clock or thing.cooperator and thing.cooperator.clock
  return not async.alive[thing] and not (connectors.up[thing] and thing.state == "connected")
    and (not clock or clock == reactor)
end

-- A process gets no time to end by itself: the next test is to begin without it.
local function kill(process)
  process:finish()
  process:abortConnection()
end

-- What the owner of a test would end.
local function addThings(list, scope)
  for _, set in ipairs { scope.owner.things, scope.owner.kept or {} } do
    for thing in pairs(set) do
      if isBurden(thing) then
        list[#list + 1] = {
          text = describeThing(thing),
          remove = function()
            (thing.plan and kill or thing.finish)(thing)
          end,
          isGone = thing.plan and function()
            return not thing.handle
          end,
        }
      end
    end
  end
end

local UNKNOWN = "?" -- where the library set a timer by itself

local function addTimer(list, call)
  local place = call.made ~= UNKNOWN and call.made or placeOf(call.f)
  local due = math.max(0, call.time - C.skald_seconds(pointer))
  list[#list + 1] = {
    text = with(("a timer that is due in %.3g s"):format(due), ", set at %s", place),
    remove = function()
      call:cancel()
    end,
  }
end

local function addTimers(list, scope)
  local loops = {}
  for thing in pairs(scope.owner.things) do
    loops[thing.again or thing] = true
  end
  for _, call in ipairs(scope.owner:pending()) do
    if not loops[call.f] then
      addTimer(list, call)
    end
  end
end

-- Timers that connections set belong to nobody, and end by themselves or with their connections.
local function addLooseTimers(list, scope)
  for _, call in ipairs(newOnes(scope.before.timers, looseTimers(), function()
    return true
  end)) do
    addTimer(list, call)
  end
end

--- What a scope has to answer for: `before` is a snapshot, `owner` owns what it started. What its services
--- do is theirs as long as they live.
---@param scope { owner: Owner, before: table, services: table }
---@return Leftover[]
function leftovers.of(scope)
  local list = {}
  addConnections(list, scope)
  addPorts(list, scope)
  addThings(list, scope)
  addTimers(list, scope)
  if #scope.services == 0 then
    addLooseTimers(list, scope)
  end
  table.sort(list, function(a, b)
    return a.text < b.text
  end)
  return list
end

-- --- waiting for the loop ---------------------------------------------------------------------

--- Waits, in the running coroutine.
---@param seconds number 0: one turn of the loop
function leftovers.pause(seconds)
  local d = deferred.Deferred:new()
  timers.own(seconds, function()
    d:callback()
  end)
  async.await(d)
end

local TURNS = 20 -- most of what ends in order has ended after so many
local STEP = 0.01
local ROOM = { [false] = 0.25, [true] = 2 } -- seconds for what does not, and for what is closing

local function anyCloses(list)
  for _, item in ipairs(list) do
    if item.closing then
      return true
    end
  end
  return false
end

--- Gives what ends by itself some turns of the loop to do so; what is left then.
---@param scope table
---@param hurried boolean? few of them
---@return Leftover[]
function leftovers.settle(scope, hurried)
  local turn, since = 0, C.skald_seconds(pointer)
  local list
  repeat
    leftovers.pause(turn < TURNS and 0 or STEP)
    turn = turn + 1
    list = leftovers.of(scope)
    local spent = C.skald_seconds(pointer) - since
    local over = turn >= TURNS and (hurried or spent >= ROOM[anyCloses(list)])
  until #list == 0 or over
  return list
end

-- --- what failed and nobody heard of -----------------------------------------------------------

--- The errors that were logged since it was last asked, and the failures that nobody handled.
---@return string[]
function leftovers.problems()
  local list = {}
  local size = ffi.new "size_t[1]"
  local text = C.skald_log_take(pointer, size)
  while text ~= nil do
    list[#list + 1] = ffi.string(text, size[0])
    C.skald_free(text)
    text = C.skald_log_take(pointer, size)
  end
  for _, item in ipairs(deferred.unhandled()) do
    list[#list + 1] = require("skald.unhandled").describe(item)
  end
  return list
end

local function areGone(list)
  for _, item in ipairs(list) do
    if item.isGone and not item.isGone() then
      return false
    end
  end
  return true
end

--- Ends them, and waits until they are gone: sockets are at the end of the turn.
---@param list Leftover[]
function leftovers.drop(list)
  for _, item in ipairs(list) do
    local ok, problem = pcall(item.remove)
    if not ok then
      program.complain("%s", tostring(problem))
    end
  end
  local since = C.skald_seconds(pointer)
  local over = #list == 0
  while not over do
    leftovers.pause(areGone(list) and 0 or STEP)
    over = areGone(list) or C.skald_seconds(pointer) - since > ROOM[true]
  end
end

local function listOf(set)
  local list = {}
  for value in pairs(set) do
    list[#list + 1] = value
  end
  return list
end

--- Ends what a scope has left, whatever raises as it ends: a coroutine, where it is cancelled.
---@param scope table
function leftovers.remove(scope)
  leftovers.drop(leftovers.of(scope))
  local who = scope.owner
  local busy = who:isBusy()
  who.ended = true
  for _, thing in ipairs(listOf(who.things)) do
    pcall(thing.finish, thing)
  end
  pcall(who.finish, who)
  for _, listener in ipairs(listOf(who.listeners)) do
    pcall(listener.close, listener)
  end
  if busy or #leftovers.of(scope) > 0 then
    leftovers.settle(scope, true)
  end
end

--- Has timers say where they were set, and failures wait until they are asked for.
function leftovers.watch()
  local place = require("skald.trace").place
  timers.note = function(call)
    call.made = place(2) or UNKNOWN
  end
  owner.failures.noted = function() end
  owner.failures.late = function() end
end

return leftovers
