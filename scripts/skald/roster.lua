-- The living factories: their groups, their bounds, and how much of each is up: the first listener or
-- connector starts a factory, the last one stops it.

local core = require "skald.core"
local definition = require "skald.definition"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local owner = require "skald.owner"
local protocol = require "skald.protocol"

local roster = {}

-- How many listeners and connectors of a factory are up, and who owns what its startFactory started.
local up = setmetatable({}, { __mode = "k" })
local owners = setmetatable({}, { __mode = "k" })

-- What a reload has put around a factory, or taken away, goes on for what was there before.
local successors = setmetatable({}, { __mode = "kv" })

-- Of these, the tightest one counts where factories stand in each other; 0 is none.
local tightest = { maxConnections = true, maxConnectionsPerPeer = true, idleTimeout = true }

-- A bound of a factory, of whatever that wraps.
local function boundOf(factory, name)
  local least
  while factory do
    local value = factory[name]
    if value ~= nil and not tightest[name] then
      return value
    elseif value and value > 0 then
      least = math.min(least or value, value)
    end
    factory = factory.wrappedFactory
  end
  return least or protocol.defaults[name]
end

--- Has a bound of a factory take effect, where it is not in effect already.
---@param factory Factory
function roster.applyBounds(factory)
  local group = factory._group
  for _, name in ipairs(protocol.bounds) do
    local value = boundOf(factory, name)
    if group.applied[name] ~= value then
      group:setBound(name, value)
    end
  end
end

--- A bound of a factory has changed: it takes effect there, and where that is wrapped.
---@param factory Factory
function roster.boundChanged(factory)
  if rawget(factory, "_group") then
    roster.applyBounds(factory)
  end
  for outer in pairs(up) do
    local inner = rawget(outer, "_group") and outer.wrappedFactory
    while inner and inner ~= factory do
      inner = inner.wrappedFactory
    end
    if inner then
      roster.applyBounds(outer)
    end
  end
end

--- The group of a factory's connections.
---@param factory Factory
---@return Group? group nil, message when there are too many
---@return string? message
function roster.groupOf(factory)
  local group = rawget(factory, "_group")
  if not group or not group.handle then -- that of skald.members, whose connections a test has made
    group = dispatch.Group:new()
    if not group:isOpen() then
      return nil, "too many factories"
    end
    rawset(factory, "_group", group)
    roster.applyBounds(factory)
  end
  return group
end

roster.factoryOf = definition.factoryOf
roster.problem = definition.problem
roster.need = definition.need

--- The factory that goes on for one, after a reload: itself, as a rule.
---@param factory Factory
---@return Factory
function roster.successor(factory)
  return successors[factory] or factory
end

--- A factory goes on for another one, whose application it has: neither starts, neither stops.
---@param old Factory
---@param new Factory
function roster.succeed(old, new)
  if old == new then
    return
  end
  for factory, follower in pairs(successors) do
    if follower == old then
      successors[factory] = new -- `old` may be collected
    end
  end
  successors[new], successors[old] = nil, new
  up[new], owners[new] = (up[new] or 0) + (up[old] or 0), owners[new] or owners[old]
  up[old], owners[old] = nil, nil
end

-- Ends what a factory that has stopped had started.
local function finish(who)
  who:finish()
  for listener in pairs(who.listeners) do
    listener:close()
  end
end

--- One more of a factory is up: it starts where that is the first; the results of startFactory's
--- xpcall.
---@param factory Factory
---@return boolean ok
---@return string? problem
function roster.raise(factory)
  factory = roster.successor(factory)
  up[factory] = (up[factory] or 0) + 1
  if up[factory] > 1 or not factory.startFactory then
    return true
  end
  owners[factory] = owner.new()
  return owner.call(owners[factory], core.traceback, factory.startFactory, factory)
end

--- One of a factory is down: it stops where that was the last.
---@param factory Factory
function roster.lower(factory)
  factory = roster.successor(factory)
  up[factory] = up[factory] - 1
  if up[factory] > 0 then
    return
  end
  local who = owners[factory]
  up[factory], owners[factory] = nil, nil -- stopFactory may start it again
  if factory.stopFactory then
    local ok, problem = owner.call(nil, core.traceback, factory.stopFactory, factory)
    if not ok then
      log.error("%s", problem)
    end
  end
  if who then
    finish(who)
  end
end

return roster
