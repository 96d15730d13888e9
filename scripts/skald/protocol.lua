-- Protocol and Factory: what a script derives from. Pure: knows no socket; a transport is handed in.

local class = require "skald.class"

local protocol = {}

--- A conversation with one peer. Every callback is optional: `connectionMade()`,
--- `dataReceived(data)`, `connectionLost(reason)`, `readConnectionLost()`, `writeConnectionLost()`.
---@class Protocol
---@field transport Transport set before connectionMade
---@field factory Factory set before connectionMade
local Protocol = class.root "Protocol"

--- Makes an instance, and calls `init(self, ...)` where there is one.
---@param ... any
---@return Protocol
function Protocol:new(...)
  -- the two fields that every instance gets: room for them at once
  local object = setmetatable({ transport = nil, factory = nil }, getmetatable(self).cell)
  local init = object.init
  if init then
    init(object, ...)
  end
  return object
end

--- Connects by hand: sets the transport and calls `connectionMade`.
---@param transport Transport
function Protocol:makeConnection(transport)
  self.transport = transport
  local made = self.connectionMade
  if made then
    made(self)
  end
end

protocol.Protocol = Protocol

--- Makes a protocol for each connection, and keeps what outlives it.
---@class Factory
---@field protocol table the class of its protocols, or a plain table of methods
---@field name string
---@field state table
local Factory = class.root "Factory"

--- The protocol for a new connection; nil refuses it. By default an instance of `self.protocol`.
---@param addr Address? the peer's
---@return Protocol?
function Factory:buildProtocol(addr) -- luacheck: no unused args
  local methods = self.protocol
  if not class.is(methods) then
    if type(methods) ~= "table" then
      error("the factory has no protocol", 0)
    end
    class.adopt(methods, Protocol)
  end
  local instance = methods:new()
  instance.factory = self
  return instance
end

--- How many of its connections are live.
---@return integer
function Factory:connectionCount()
  local group = self._group
  return group and group:count() or 0
end

--- Iterates over its live protocols; connections may come and go meanwhile.
---@return fun(): Protocol?
function Factory:each()
  local group = self._group
  if group then
    return group:each()
  end
  return function() end
end

--- Changes one of its bounds at run time.
---@param name string one of `protocol.bounds`
---@param value number seconds, bytes or connections; 0 lifts maxConnections, maxConnectionsPerPeer and idleTimeout
function Factory:setBound(name, value)
  local problem = protocol.boundProblem(name, value)
  if problem then
    error(problem, 2)
  end
  self[name] = value
  local group = self._group
  if group then
    group:setBound(name, value)
  end
end

protocol.Factory = Factory

--- The bounds of a factory, in the order of `enum bound` (host/io/group.h).
protocol.bounds = {
  "maxConnections",
  "maxConnectionsPerPeer",
  "idleTimeout",
  "closeTimeout",
  "highWater",
  "lowWater",
  "maxBuffered",
}

--- What they are where a definition does not say; 0 is none.
protocol.defaults = {
  maxConnections = 0,
  maxConnectionsPerPeer = 0,
  idleTimeout = 0,
  closeTimeout = 30,
  highWater = 65536,
  lowWater = 16384,
  maxBuffered = 67108864,
}

local isBound = {}
for index, name in ipairs(protocol.bounds) do
  isBound[name] = index
end

--- What is wrong with a bound, or nil.
---@param name any
---@param value any
---@return string?
function protocol.boundProblem(name, value)
  if not isBound[name] then
    return ("no bound is called '%s' (%s)"):format(tostring(name), table.concat(protocol.bounds, ", "))
  end
  if type(value) ~= "number" or value < 0 or value ~= value then
    return ("%s takes a number from 0, not %s"):format(name, tostring(value))
  end
  return nil
end

local later = {
  ClientFactory = true,
  ReconnectingClientFactory = true,
  DatagramProtocol = true,
  ProcessProtocol = true,
}

return setmetatable(protocol, {
  __index = function(_, key)
    if later[key] then
      error(("skald.protocol.%s: not in this version"):format(key), 2)
    end
  end,
})
