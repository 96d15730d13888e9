-- UDP: ports, their transports, and the factories of ports that have one protocol only.

local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local owner = require "skald.owner"
local packets = require "skald.packets"
local ports = require "skald.ports"
local protocol = require "skald.protocol"
local roster = require "skald.roster"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local isSender = packets.isSender

local datagram = {}

local LIMIT = 8192 -- bytes of a datagram, unless asked otherwise
local BROADCAST, TTL, LOOPBACK = 0, 1, 2 -- enum udp_option (host/io/udp.h)

-- --- the transport ----------------------------------------------------------------------------

--- A UDP port, as a DatagramProtocol has it in `self.transport`.
---@class DatagramTransport
---@field connected boolean true after `connect`
---@field interface string what `getOutgoingInterface` gives
local Transport = { connected = false, interface = "" }
Transport.__index = Transport

local function outcome(errno)
  if errno == 0 then
    return true
  end
  local message, code = core.errorOf(errno)
  return nil, code == "EPIPE" and "closing" or message, code
end

local function isPort(port)
  return type(port) == "number" and port % 1 == 0 and port >= 1 and port <= 65535
end

-- Raises where these are no IP address and no port.
local function needAddress(name, host, port, level)
  if type(host) ~= "string" or not C.skald_is_address(host) then
    error(("%s takes an IP address, not %s (reactor.resolve looks names up)"):format(name, tostring(host)), level + 1)
  elseif not isPort(port) then
    error(("%s takes a port from 1 to 65535, not %s"):format(name, tostring(port)), level + 1)
  end
end

local EINVAL, EISCONN = core.errors.EINVAL, core.errors.EISCONN

local function writeTo(self, data, host, port)
  if type(host) == "table" then
    host, port = host.host, host.port
  end
  if host == nil and not self.connected then
    error("write takes an address: the port is not connected", 3)
  elseif host ~= nil and (type(host) ~= "string" or not isPort(port)) then
    needAddress("write", host, port, 3)
  end
  local errno = C.skald_udp_write(pointer, self[1], data, #data, host, port or 0)
  if errno == EINVAL then
    needAddress("write", host, port, 3)
  elseif errno == EISCONN then
    error("write: the port is connected to another address", 3)
  end
  return errno
end

--- Queues a datagram, to be sent when the running callback returns. One that cannot be sent then is dropped, and the
--- log says so once in a while.
---@param data string at most 65507 bytes
---@param address Address|string|nil where to: an Address, or an IP address with the port behind; nil: to the peer that
---`connect` named
---@param port integer? from 1 to 65535
---@return boolean? ok true, or nil, message, code
---@return string? message
---@return string? code EMSGSIZE where it is too long, ENOBUFS where too many wait, EPIPE after stopListening,
---EAFNOSUPPORT for an IPv6 address where the port has none
function Transport:write(data, address, port)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  local errno
  if isSender(address) and not self.connected then
    errno = C.skald_udp_answer(pointer, self[1], data, #data)
  else
    errno = writeTo(self, data, address, port)
  end
  if errno == 0 then
    return true
  end
  return outcome(errno)
end

--- Names the one peer: `write` needs no address from now on, datagrams of others are dropped by the system, and
--- connectionRefused tells that nobody listens there.
---@param host string an IP address
---@param port integer from 1 to 65535
---@return boolean? ok true, or nil, message, code
---@return string? message
---@return string? code of the system, such as ENETUNREACH
function Transport:connect(host, port)
  needAddress("connect", host, port, 2)
  if self.connected then
    error("connect: the port is connected already", 2)
  end
  local errno = C.skald_udp_connect(pointer, self[1], host, port)
  self.connected = errno == 0
  return outcome(errno)
end

--- The address of the port.
---@return Address
function Transport:getHost()
  return self.socket:getHost()
end

--- Sends what is queued, then closes the port; stopProtocol is called.
---@return Deferred d of nothing, when that is done
function Transport:stopListening()
  return self.socket:stop()
end

--- Whether datagrams may be sent to broadcast addresses.
---@param allowed boolean
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Transport:setBroadcastAllowed(allowed)
  return outcome(C.skald_udp_set(pointer, self[1], BROADCAST, allowed and 1 or 0))
end

local function valueOf(self, option)
  local value = C.skald_udp_get(pointer, self[1], option)
  if value >= 0 then
    return value
  end
  return outcome(-value)
end

local function flagOf(self, option)
  local value, message, code = valueOf(self, option)
  if value then
    return value ~= 0
  end
  return nil, message, code
end

--- Whether they may.
---@return boolean? allowed nil, message, code after stopListening
---@return string? message
---@return string? code
function Transport:getBroadcastAllowed()
  return flagOf(self, BROADCAST)
end

local function needGroup(name, group, interface)
  if type(group) ~= "string" or not C.skald_is_address(group) then
    error(("%s takes the IP address of a group, not %s"):format(name, tostring(group)), 3)
  elseif interface ~= nil and type(interface) ~= "string" then
    error(("%s takes an interface's name or address, not a %s"):format(name, type(interface)), 3)
  end
end

--- Has datagrams to a multicast group come to this port.
---@param group string an IP address
---@param interface string? its name, its number or an IP address of it; none: the system chooses
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code of the system: ENODEV, EADDRNOTAVAIL, EADDRINUSE where it was joined before
function Transport:joinGroup(group, interface)
  needGroup("joinGroup", group, interface)
  return outcome(C.skald_udp_join(pointer, self[1], group, interface or "", true))
end

--- Has them come no more.
---@param group string
---@param interface string? as for joinGroup
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Transport:leaveGroup(group, interface)
  needGroup("leaveGroup", group, interface)
  return outcome(C.skald_udp_join(pointer, self[1], group, interface or "", false))
end

--- How many routers a multicast datagram of ours may pass.
---@param ttl integer from 0 (this machine only) to 255; 1 (this network) is what the system begins with
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Transport:setTTL(ttl)
  if type(ttl) ~= "number" or ttl % 1 ~= 0 or ttl < 0 or ttl > 255 then
    error(("setTTL takes a number from 0 to 255, not %s"):format(tostring(ttl)), 2)
  end
  return outcome(C.skald_udp_set(pointer, self[1], TTL, ttl))
end

--- How many routers it may pass now.
---@return integer? ttl from 0 to 255; nil, message, code after stopListening
---@return string? message
---@return string? code
function Transport:getTTL()
  return valueOf(self, TTL)
end

--- Whether multicast datagrams of ours come to ports of this machine, too. They do unless asked otherwise.
---@param on boolean
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Transport:setLoopbackMode(on)
  return outcome(C.skald_udp_set(pointer, self[1], LOOPBACK, on and 1 or 0))
end

--- Whether they do now.
---@return boolean? on nil, message, code after stopListening
---@return string? message
---@return string? code
function Transport:getLoopbackMode()
  return flagOf(self, LOOPBACK)
end

--- The interface that multicast datagrams leave by.
---@param interface string its name, its number or an IP address of it; "" lets the system choose
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Transport:setOutgoingInterface(interface)
  if type(interface) ~= "string" then
    error(("setOutgoingInterface takes an interface's name or address, not a %s"):format(type(interface)), 2)
  end
  local errno = C.skald_udp_interface(pointer, self[1], interface)
  if errno == 0 then
    self.interface = interface
  end
  return outcome(errno)
end

--- The one that `setOutgoingInterface` named last.
---@return string interface "" where the system chooses
function Transport:getOutgoingInterface()
  return self.interface
end

-- --- ports ------------------------------------------------------------------------------------

--- A bound UDP socket: a listener, as far as services and reloads are concerned.
---@class UdpSocket: Listener
---@field place integer in packets.ports
---@field protocol DatagramProtocol? from its start on
---@field news boolean? the code of its protocol was reloaded: it is to hear of that first
local Socket = setmetatable({ __tostring = ports.Listener.__tostring }, { __index = ports.Listener })
Socket.__index = Socket

--- Datagrams are not encrypted. The handle is no listener's, though one may have the same number.
function Socket.secure() end

--- Binds, without receiving.
---@param endpoint table `{ port, interface, maxPacketSize, reuse, broadcast }`
---@return UdpSocket? socket or nil, message, code
---@return string? message
---@return string? code
function datagram.bind(endpoint)
  local handle = ffi.new "double[1]"
  local host = endpoint.interface or "0.0.0.0"
  local errno = C.skald_udp_open(pointer, host, endpoint.port, endpoint.reuse or false, handle)
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  local self = setmetatable({ handle = handle[0], place = core.place(handle[0]), key = ports.key(endpoint) }, Socket)
  local buffer = core.addressBuffer()
  errno = C.skald_udp_host(pointer, self.handle, buffer)
  if errno == 0 then
    self.address = core.addressIn(buffer)
  end
  packets.ports[self.place], dispatch.ports[self] = self, self
  local ok, message, code = outcome(errno)
  if ok then
    ok, message, code = self:adjust(endpoint)
  end
  if not ok then
    self:close()
    return nil, message, code
  end
  return self
end

--- The address, as the system has it now; the last one, where it is closed.
---@return Address
function Socket:getHost()
  local buffer = core.addressBuffer()
  if self.handle and C.skald_udp_host(pointer, self.handle, buffer) == 0 then
    self.address = core.addressIn(buffer)
  end
  return self.address
end

--- What `adjust` takes to put it back.
---@return table
function Socket:settings()
  return { maxPacketSize = self.maxPacketSize, broadcast = self.broadcast }
end

--- Gives it what is asked for now.
---@param endpoint table
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Socket:adjust(endpoint)
  local broadcast = endpoint.broadcast or false
  if broadcast ~= (self.broadcast or false) then
    local errno = C.skald_udp_set(pointer, self.handle, BROADCAST, broadcast and 1 or 0)
    if errno ~= 0 then
      return outcome(errno)
    end
  end
  self.broadcast, self.maxPacketSize = broadcast, endpoint.maxPacketSize or LIMIT
  C.skald_udp_limit(pointer, self.handle, self.maxPacketSize)
  return true
end

--- Has a factory serve it from now on.
---@param factory Factory
---@param name string
function Socket:serve(factory, name)
  self.factory, self.name = factory, name
end

-- The ports of protocols.
local serving = setmetatable({}, { __mode = "kv" })

-- The protocol of a port; raises where the factory gives none that takes datagrams.
local function build(factory)
  local methods = factory.protocol
  if type(methods) == "table" and not class.is(methods) and getmetatable(methods) == nil then
    class.adopt(methods, protocol.DatagramProtocol)
  end
  local made = factory:buildProtocol()
  local of = class.of(made)
  if not of or not class.derives(of, protocol.DatagramProtocol) then
    error("a UDP port takes a factory of a DatagramProtocol", 0)
  end
  if made.factory == nil and not factory._datagram then
    made.factory = factory
  end
  return made
end

local function begin(self)
  local made = build(self.factory)
  local other = serving[made]
  if other and other ~= self and other.protocol == made then
    error("this protocol has a port already", 0)
  end
  self.protocol, serving[made] = made, self
  made:makeConnection(setmetatable({ self.handle, socket = self }, Transport))
end

-- Its protocol is told that it is over, and what that has started ends.
local function stopProtocol(self)
  local former, who = self.protocol, self.mine
  self.protocol, self.mine, self.news = nil, nil, nil
  if former and former.stopProtocol then
    local ok, problem = owner.call(nil, core.traceback, former.stopProtocol, former)
    if not ok then
      log.error("%s", problem)
    end
  end
  if who then
    who:finish()
    for listener in pairs(who.listeners) do
      listener:close()
    end
  end
end

--- Starts the factory, where it is the first of it, and the port's protocol.
---@return boolean ok
---@return string? problem
function Socket:start()
  stopProtocol(self)
  self.started = self.factory
  local ok, problem = roster.raise(self.factory)
  if ok then
    self.mine = owner.new()
    ok, problem = owner.call(self.mine, core.traceback, begin, self)
  end
  return ok, problem
end

--- Receives from now on.
function Socket:accept()
  if self.protocol then
    C.skald_udp_receive(pointer, self.handle)
  end
end

--- The protocol hears that its code was reloaded, where it wants to.
function Socket:tellNews()
  self.news = nil
  local reloaded = self.protocol.reloaded
  if reloaded then
    reloaded(self.protocol)
  end
end

--- The socket is closed, or is no more ours: protocol and factory hear of it.
function Socket:ended()
  if self.over then
    return
  end
  self.over, self.handle = true, nil
  packets.ports[self.place], dispatch.ports[self] = nil, nil
  if self.owner then
    self.owner.listeners[self] = nil
  end
  stopProtocol(self)
  local factory, waiting = self.started, self.waiting or {}
  self.started, self.waiting = nil, nil
  if factory then
    roster.lower(factory)
  end
  for _, d in ipairs(waiting) do
    d:callback()
  end
end

--- Sends what is queued, then closes; `ended` follows.
function Socket:silence()
  C.skald_udp_close(pointer, self.handle)
end

--- The same, and all is told now.
function Socket:close()
  if self.handle then
    self:silence()
    self:ended()
  end
end

--- Receives what waits, then closes.
function Socket:finish()
  if self.handle then
    C.skald_udp_finish(pointer, self.handle)
  end
end

--- Closes it.
---@return Deferred d of nothing, when that is done
function Socket:stop()
  local deferred = require "skald.deferred"
  if self.over then
    return deferred.succeed()
  end
  local d = deferred.Deferred:new()
  self.waiting = self.waiting or {}
  table.insert(self.waiting, d)
  self:silence()
  return d
end

-- --- one protocol -----------------------------------------------------------------------------

-- The factory of a port that was asked for with a protocol: it has that one, and no other.
local Single = protocol.Factory {}

function Single:buildProtocol()
  return self._datagram
end

--- What listens for listenUDP's protocol: an instance, a class or a table of methods. Raises for others.
---@param what table
---@param level integer of the one to blame; 2 is the caller of the caller
---@return Factory
function datagram.factoryOf(what, level)
  if not class.of(what) then
    what = class.adopt(what, protocol.DatagramProtocol):new()
  end
  if not class.derives(class.of(what), protocol.DatagramProtocol) then
    error("listenUDP takes a DatagramProtocol", level + 1)
  end
  if serving[what] and serving[what].protocol == what then
    error("listenUDP: this protocol has a port already", level + 1)
  end
  local factory = Single:new()
  factory._datagram, factory.protocol = what, class.of(what)
  return factory
end

return datagram
