-- UDP ports of the reactor that has no network: what is sent is noted, and goes to other ports of the same
-- reactor; a test sends the rest. Pure.

local address = require "skald.address"
local class = require "skald.class"
local deferred = require "skald.deferred"
local inet = require "skald.inet"
local protocol = require "skald.protocol"

local memorydatagram = {}

local LIMIT = 8192 -- bytes of a datagram, unless asked otherwise
local LARGEST = 65507 -- bytes that a datagram may have

--- What listenUDP of a MemoryReactor gives: the port, and the transport of its protocol.
---@class MemoryDatagramPort: Port, DatagramTransport
---@field protocol DatagramProtocol
---@field endpoint table as endpoints.parseServer gives it
---@field listening boolean
---@field connected boolean true after `connect`
---@field sent table[] `{ data =, address = }` of each datagram that was written
---@field groups table<string, boolean> that were joined, and not left; IPv6 as RFC 5952 says
---@field options table<string, any> what the setters were given, by their names without `set`; else what a port begins
---with
local Port = { connected = false }
Port.__index = Port

local function isPort(port)
  return type(port) == "number" and port % 1 == 0 and port >= 1 and port <= 65535
end

-- Raises where these are no IP address and no port.
local function needAddress(name, host, port, level)
  if type(host) ~= "string" or not inet.bytesOf(host) then
    error(("%s takes an IP address, not %s (reactor.resolve looks names up)"):format(name, tostring(host)), level + 1)
  elseif not isPort(port) then
    error(("%s takes a port from 1 to 65535, not %s"):format(name, tostring(port)), level + 1)
  end
end

local function newAddress(host, port)
  host = inet.textOf(inet.bytesOf(host))
  return address.inet(host:find(":", 1, true) and "UDP6" or "UDP", host, port)
end

-- Where a datagram goes; raises where that is nowhere.
local function targetOf(self, host, port)
  if type(host) == "table" then
    host, port = host.host, host.port
  end
  if host == nil and not self.connected then
    error("write takes an address: the port is not connected", 3)
  elseif host == nil then
    return self.peer
  end
  needAddress("write", host, port, 3)
  local to = newAddress(host, port)
  if self.connected and to ~= self.peer then
    error("write: the port is connected to another address", 3)
  end
  return to
end

--- Sends a datagram: notes it in `sent`. It comes to a port of this reactor with that address at the next
--- `flush`.
---@param data string at most 65507 bytes
---@param to Address|string|nil where to: an Address, or an IP address with the port behind; nil: to the peer that
---`connect` named
---@param port integer? from 1 to 65535
---@return boolean? ok true, or nil, message, code
---@return string? message
---@return string? code EMSGSIZE where it is too long, EPIPE after stopListening, EAFNOSUPPORT for an IPv6 address
---where the port has none
function Port:write(data, to, port)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  to = targetOf(self, to, port)
  if not self.listening then
    return nil, "closing", "EPIPE"
  elseif #data > LARGEST then
    return nil, "Message too long", "EMSGSIZE"
  elseif to.type == "UDP6" and self.address.type == "UDP" then
    return nil, "Address family not supported by protocol", "EAFNOSUPPORT"
  end
  table.insert(self.sent, { data = data, address = to })
  table.insert(self.memory.datagrams, { data = data, from = self, to = to })
  return true
end

--- Names the one peer: `write` needs no address from now on, and nobody else's datagrams come.
---@param host string an IP address
---@param port integer from 1 to 65535
---@return boolean? ok nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:connect(host, port)
  needAddress("connect", host, port, 2)
  if self.connected then
    error("connect: the port is connected already", 2)
  elseif not self.listening then
    return nil, "closing", "EPIPE"
  end
  self.connected, self.peer = true, newAddress(host, port)
  return true
end

--- The address of the port.
---@return Address
function Port:getHost()
  return self.address
end

--- Closes the port; stopProtocol is called.
---@return Deferred d of nothing
function Port:stopListening()
  if self.listening then
    self.listening = false
    local ok, problem = pcall(self.protocol.stopProtocol, self.protocol)
    self.onStop()
    if not ok then
      error(problem, 0)
    end
  end
  return deferred.succeed()
end

-- --- what is only noted -----------------------------------------------------------------------

local function note(self, name, value)
  if not self.listening then
    return nil, "closing", "EPIPE"
  end
  self.options[name] = value
  return true
end

local function noted(self, name)
  if not self.listening then
    return nil, "closing", "EPIPE"
  end
  return self.options[name]
end

--- Notes it in `options.BroadcastAllowed`.
---@param allowed boolean
---@return boolean? ok nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:setBroadcastAllowed(allowed)
  return note(self, "BroadcastAllowed", allowed and true or false)
end

--- What was set, or false.
---@return boolean? allowed nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:getBroadcastAllowed()
  return noted(self, "BroadcastAllowed")
end

--- Notes it in `options.TTL`.
---@param ttl integer from 0 (this machine only) to 255 routers
---@return boolean? ok nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:setTTL(ttl)
  if type(ttl) ~= "number" or ttl % 1 ~= 0 or ttl < 0 or ttl > 255 then
    error(("setTTL takes a number from 0 to 255, not %s"):format(tostring(ttl)), 2)
  end
  return note(self, "TTL", ttl)
end

--- What was set, or 1.
---@return integer? ttl from 0 to 255; nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:getTTL()
  return noted(self, "TTL")
end

--- Notes it in `options.LoopbackMode`.
---@param on boolean
---@return boolean? ok nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:setLoopbackMode(on)
  return note(self, "LoopbackMode", on and true or false)
end

--- What was set, or true.
---@return boolean? on nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:getLoopbackMode()
  return noted(self, "LoopbackMode")
end

--- Notes it in `options.OutgoingInterface`.
---@param interface string its name, its number or an IP address of it
---@return boolean? ok nil, message, code after stopListening
---@return string? message
---@return string? code EPIPE
function Port:setOutgoingInterface(interface)
  if type(interface) ~= "string" then
    error(("setOutgoingInterface takes an interface's name or address, not a %s"):format(type(interface)), 2)
  end
  return note(self, "OutgoingInterface", interface)
end

--- What was set, or "".
---@return string interface
function Port:getOutgoingInterface()
  return self.options.OutgoingInterface
end

local function needGroup(name, group, interface)
  if type(group) ~= "string" or not inet.bytesOf(group) then
    error(("%s takes the IP address of a group, not %s"):format(name, tostring(group)), 3)
  elseif interface ~= nil and type(interface) ~= "string" then
    error(("%s takes an interface's name or address, not a %s"):format(name, type(interface)), 3)
  end
end

-- How a group stands in `groups`; nil, message, code where the port can have none such.
local function groupFor(self, group)
  local bytes = inet.bytesOf(group)
  local first = bytes:byte()
  if not self.listening then
    return nil, "closing", "EPIPE"
  elseif (#bytes == 16) ~= (self.address.type == "UDP6") then
    return nil, "Address family not supported by protocol", "EAFNOSUPPORT"
  elseif #bytes == 4 and (first < 224 or first > 239) or #bytes == 16 and first ~= 255 then
    return nil, "Invalid argument", "EINVAL"
  end
  return inet.textOf(bytes)
end

--- Notes a group in `groups`: datagrams of this reactor's ports to it come here.
---@param group string an IP address
---@param interface string? its name, its number or an IP address of it, which does not count
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code EADDRINUSE where it was joined before, EAFNOSUPPORT where the port has no such addresses,
---EINVAL where that is no group, EPIPE after stopListening
function Port:joinGroup(group, interface)
  needGroup("joinGroup", group, interface)
  local name, message, code = groupFor(self, group)
  if not name then
    return nil, message, code
  elseif self.groups[name] then
    return nil, "Address already in use", "EADDRINUSE"
  end
  self.groups[name] = true
  return true
end

--- Forgets a group.
---@param group string an IP address
---@param interface string? as for joinGroup
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code EADDRNOTAVAIL where it was not joined, else as for joinGroup
function Port:leaveGroup(group, interface)
  needGroup("leaveGroup", group, interface)
  local name, message, code = groupFor(self, group)
  if not name then
    return nil, message, code
  elseif not self.groups[name] then
    return nil, "Cannot assign requested address", "EADDRNOTAVAIL"
  end
  self.groups[name] = nil
  return true
end

-- --- the network ------------------------------------------------------------------------------

-- Whether a datagram to this address comes to the port.
local function isFor(self, to)
  local host = self.address.host
  local any = host == "::" or host == "0.0.0.0" and to.type == "UDP"
  return to.port == self.address.port and (any or host == to.host or self.groups[to.host] == true)
end

-- Whom the receiver sees.
local function senderOf(port)
  local own = port.address
  if own.host == "0.0.0.0" or own.host == "::" then
    return newAddress(own.host == "::" and "::1" or "127.0.0.1", own.port)
  end
  return newAddress(own.host, own.port)
end

--- Gives a datagram to the protocol of a port.
---@param self MemoryDatagramPort
---@param data string
---@param from Address
function memorydatagram.receive(self, data, from)
  local receiver = self.protocol
  local most = self.endpoint.maxPacketSize or LIMIT
  local received = receiver.datagramReceived
  if not self.listening or self.connected and from ~= self.peer or not received then
    return
  end
  received(receiver, data:sub(1, most), from, #data > most)
end

--- Brings what was written to those ports that it is for. What one of them raises comes out when all have theirs.
---@param memory MemoryReactor
---@return boolean any whether there was anything
function memorydatagram.deliver(memory)
  local list, problem = memory.datagrams, nil
  memory.datagrams = {}
  for _, one in ipairs(list) do
    local from = senderOf(one.from)
    for _, port in ipairs(memory.udpPorts) do
      if port.listening and isFor(port, one.to) then
        local ok, raised = pcall(memorydatagram.receive, port, one.data, from)
        problem = problem or not ok and { raised = raised } or nil
      end
    end
  end
  if problem then
    error(problem.raised, 0)
  end
  return #list > 0
end

-- --- making one -------------------------------------------------------------------------------

--- The protocol that listenUDP was given: an instance, a class or a table of methods. Raises for others.
---@param given table
---@param level integer of the one to blame; 2 is the caller of the caller
---@return DatagramProtocol
function memorydatagram.protocolOf(given, level)
  local made = class.of(given) and given or class.adopt(given, protocol.DatagramProtocol):new()
  if not class.derives(class.of(made), protocol.DatagramProtocol) then
    error("listenUDP takes a DatagramProtocol", level + 1)
  elseif getmetatable(made.transport) == Port and made.transport.listening then
    error("listenUDP: this protocol has a port already", level + 1)
  end
  return made
end

--- The protocol that a factory makes for its port.
---@param factory Factory
---@return DatagramProtocol
function memorydatagram.build(factory)
  local methods = factory.protocol
  if type(methods) == "table" and not class.is(methods) and getmetatable(methods) == nil then
    class.adopt(methods, protocol.DatagramProtocol)
  end
  local made = factory:buildProtocol()
  if not class.derives(class.of(made), protocol.DatagramProtocol) then
    error("a UDP port takes a factory of a DatagramProtocol", 0)
  elseif made.factory == nil then
    made.factory = factory
  end
  return made
end

--- A port, which is yet to start.
---@param memory MemoryReactor
---@param endpoint table
---@param own Address its own
---@param onStop fun() called once it is closed
---@return MemoryDatagramPort
function memorydatagram.new(memory, endpoint, own, onStop)
  return setmetatable({
    memory = memory,
    endpoint = endpoint,
    address = own,
    onStop = onStop,
    listening = true,
    sent = {},
    groups = {},
    options = { BroadcastAllowed = false, TTL = 1, LoopbackMode = true, OutgoingInterface = "" },
  }, Port)
end

--- Starts its protocol.
---@param self MemoryDatagramPort
---@param made DatagramProtocol
function memorydatagram.start(self, made)
  self.protocol = made
  made:makeConnection(self)
end

--- Whether a value is one.
---@param value any
---@return boolean
function memorydatagram.is(value)
  return getmetatable(value) == Port
end

return memorydatagram
