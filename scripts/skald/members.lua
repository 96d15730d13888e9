-- The live connections of a factory, where no core counts them: in tests. Pure.

local class = require "skald.class"

local members = {}

--- What the factory's connectionCount and each ask, and its bounds of connections.
---@class MemoryGroup: Object
local Group = class.root "MemoryGroup"

function Group:init(factory)
  self.factory, self.members, self.peers, self.applied = factory, {}, {}, {}
end

function Group:count()
  return #self.members
end

function Group:each()
  local list, i = {}, 0
  for k, made in ipairs(self.members) do
    list[k] = made
  end
  return function()
    repeat
      i = i + 1
    until list[i] == nil or self.peers[list[i]]
    return list[i]
  end
end

-- Bounds are read where they are needed.
function Group.setBound() end

function Group:add(made, peer)
  table.insert(self.members, made)
  self.peers[made] = peer.host or ""
end

function Group:remove(made)
  self.peers[made] = nil
  for i, other in ipairs(self.members) do
    if rawequal(other, made) then
      table.remove(self.members, i)
      return
    end
  end
end

-- A bound of a factory, and of whatever that wraps: the tightest one; 0 is none.
local function tightest(factory, name)
  local least = math.huge
  while factory do
    local value = factory[name]
    least = value and value > 0 and math.min(value, least) or least
    factory = factory.wrappedFactory
  end
  return least
end

local function hasRoom(self, peer)
  local count = 0
  for _, host in pairs(self.peers) do
    count = count + (host == peer.host and 1 or 0)
  end
  return #self.members < tightest(self.factory, "maxConnections")
    and (peer.host == nil or count < tightest(self.factory, "maxConnectionsPerPeer"))
end

-- That of a factory; none where the host counts its connections.
local function groupOf(factory)
  local group = rawget(factory, "_group")
  if not group then
    group = Group:new(factory)
    rawset(factory, "_group", group)
  end
  return class.of(group) == Group and group or nil
end

-- The host may count for the factory then.
local function leave(group, made)
  group:remove(made)
  if #group.members == 0 and rawget(group.factory, "_group") == group then
    rawset(group.factory, "_group", nil)
  end
end

--- Whether the bounds of a factory have room for one more connection.
---@param factory Factory
---@param peer Address
---@return boolean
function members.hasRoom(factory, peer)
  local group = groupOf(factory)
  return not group or hasRoom(group, peer)
end

--- Has a connection count for a factory, from its protocol's connectionMade to its connectionLost.
---@param carrier Carrier
---@param factory Factory
function members.count(carrier, factory)
  local group
  function carrier.onJoin()
    group = groupOf(factory)
    if group then
      group:add(carrier.protocol, carrier.transport:getPeer())
    end
  end
  function carrier.onLost()
    if group and carrier.protocol then
      leave(group, carrier.protocol)
    end
  end
end

return members
