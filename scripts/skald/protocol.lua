-- Protocol and Factory: what a script derives from. Pure: knows no socket; a transport is handed in.

local class = require "skald.class"

---@class skald.protocol
local protocol = {}

--- A conversation with one peer. Every callback is optional. Their order: connectionMade, dataReceived as often as
--- data comes, one connectionLost; none is called from within another of the same connection. What one raises is
--- logged, and ends the connection with the code `error`.
---@class Protocol: Object
---@field transport Transport set before connectionMade
---@field factory Factory set before connectionMade
---@field clock table? what its receivers and policies take the time from; by default the reactor
---@field dataReceived? fun(self: Protocol, data: string) bytes came: 1 to 65536 of them, cut anywhere
---@field readConnectionLost? fun(self: Protocol) the peer sends no more; without it, the connection ends then in order
---@field writeConnectionLost? fun(self: Protocol) what loseWriteConnection asked for is done
---@field reloaded? fun(self: Protocol) its code is new: called right before the next event of the connection
local Protocol = class.root "Protocol"

--- Makes an instance, and calls `init(self, ...)` where there is one.
---@generic T
---@param self T
---@param ... any
---@return T instance
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

-- What follows is there so that a class may call what it overrides.

--- The connection is there: called once, before all others.
function Protocol.connectionMade() end

--- Bytes came, 64 KiB at most.
---@param data string never empty
function Protocol:dataReceived(data) end -- luacheck: no unused args

--- The connection is over: called once, as the last.
---@param reason Reason
function Protocol:connectionLost(reason) end -- luacheck: no unused args

protocol.Protocol = Protocol

-- What a readConnectionLost gives that stands in for nobody's: the connection does what it does where a
-- protocol has none. For the library's own; what a script's gives does not count.
protocol._UNHEARD = {}

--- What a UDP port tells. Every callback is optional. An error in one is logged, and the port goes on.
---@class DatagramProtocol: Object
---@field transport DatagramTransport set before startProtocol
---@field factory Factory? of a definition
---@field datagramReceived? fun(self: DatagramProtocol, data: string, address: Address, truncated: boolean) a datagram
---came, an empty one perhaps; truncated: there was more of it than the port's maxPacketSize
---@field connectionRefused? fun(self: DatagramProtocol) nobody listens where `transport:connect` leads
---@field reloaded? fun(self: DatagramProtocol) its code is new: called right before the next event of the port
local DatagramProtocol = class.root "DatagramProtocol"

--- Starts by hand: sets the transport and calls `startProtocol`.
---@param transport DatagramTransport
function DatagramProtocol:makeConnection(transport)
  self.transport = transport
  local start = self.startProtocol
  if start then
    start(self)
  end
end

--- The port is bound: called once, before all others. What it starts ends with the port.
function DatagramProtocol.startProtocol() end

--- The port is closed: called once, as the last.
function DatagramProtocol.stopProtocol() end

protocol.DatagramProtocol = DatagramProtocol

--- Makes a protocol for each connection, and keeps what outlives it.
--- What a script returns is its definition: a table with these fields, a class derived from this one, or an instance.
---@class Factory: Object
---@field protocol table the class of its protocols, or a plain table of methods
---@field listen string|string[]|nil the endpoints to listen on
---@field connect string? the endpoint to connect to, and to stay connected with
---@field name string by default the script's name
---@field state table? what outlives reloads, with its defaults
---@field version integer? of the state's shape: 1 where none is given
---@field migrate? fun(state: table, from: integer) changes the living state, which has the version `from`
---@field prepareReload? fun(self: Factory, new: Factory?): boolean?, string? before a reload changes anything; false
---and a reason refuse it; `new` is nil where the factory is to go
---@field reloaded? fun(self: Factory, from: integer, to: integer) right after a reload; the numbers of the generations
---@field maxConnections integer? more are closed at once; none: no bound
---@field maxConnectionsPerPeer integer? the same by the peer's IP address
---@field idleTimeout number? seconds in which nothing came, and nothing was taken, while we were willing to read; none:
---no bound
---@field closeTimeout number? seconds in which the peer takes nothing of what is left to send (30); 0: no bound
---@field highWater integer? queued bytes above which producers are paused (65536)
---@field lowWater integer? queued bytes down to which they are resumed (16384)
---@field maxBuffered integer? a write while more bytes wait ends the connection with the code `limit` (67108864)
---@field backlog integer? how many connections may wait to be accepted (4096, or what the system allows)
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
---@return integer count
function Factory:connectionCount()
  local group, wrappers = self._group, self._wrappers
  return (group and group:count() or 0) + (wrappers and wrappers.count or 0)
end

-- Its protocols of now that stand in wrappers (skald.wrapping); those that end meanwhile are left out,
-- and wrappers that have none yet.
local function eachWrapped(wrappers)
  local list, i = {}, 0
  for wrapper in pairs(wrappers.live) do
    list[#list + 1] = wrapper
  end
  return function()
    repeat
      i = i + 1
    until not list[i] or (wrappers.live[list[i]] and list[i].wrappedProtocol)
    return list[i] and list[i].wrappedProtocol
  end
end

--- Iterates over its live protocols; connections may come and go meanwhile.
---@return fun(): Protocol? each the next one, or nil
function Factory:each()
  local group, wrappers = self._group, self._wrappers
  local nextOwn = group and group:each()
  local nextWrapped = wrappers and eachWrapped(wrappers)
  return function()
    local found = nextOwn and nextOwn()
    if found == nil then
      nextOwn = nil
      found = nextWrapped and nextWrapped()
    end
    return found or nil
  end
end

--- Changes one of its bounds at run time. Raises for what is no bound, or no value of one.
---@param name string one of `protocol.bounds`
---@param value number seconds, bytes or connections; 0 lifts maxConnections, maxConnectionsPerPeer and idleTimeout
function Factory:setBound(name, value)
  local problem = protocol.boundProblem(name, value)
  if problem then
    error(problem, 2)
  end
  self[name] = value
  local roster = package.loaded["skald.roster"] -- outside the host there is none
  if roster then
    roster.boundChanged(self)
  end
end

--- Its first port or connector is up: called before any connection. What it starts ends at stopFactory.
function Factory.startFactory() end

--- Its last port or connector is down.
function Factory.stopFactory() end

protocol.Factory = Factory

--- A factory for connections that we make.
---@class ClientFactory: Factory
---@field prepareConnection? fun(self: ClientFactory, protocol: Protocol): any called after connectionMade. It may give
---a Deferred: whenConnected waits for that, and where it fails the connection is ended
local ClientFactory = Factory {}

--- A Deferred of the connected protocol: of the one there is, or of the next.
---@param failAfter integer? it fails after so many failed tries; none: it waits on
---@return Deferred d of the protocol
function ClientFactory:whenConnected(failAfter)
  local connector = self._connector
  if not connector then
    error("whenConnected: the factory has no connector yet", 2)
  end
  return connector:whenConnected(failAfter)
end

--- An attempt begins.
---@param connector Connector
function ClientFactory:startedConnecting(connector) end -- luacheck: no unused args

--- No connection could be made.
---@param connector Connector
---@param reason Reason
function ClientFactory:clientConnectionFailed(connector, reason) end -- luacheck: no unused args

--- A connection is over: called after the protocol's own connectionLost.
---@param connector Connector
---@param reason Reason
function ClientFactory:clientConnectionLost(connector, reason) end -- luacheck: no unused args

protocol.ClientFactory = ClientFactory

--- Connects again when a connection is lost or could not be made, each time after a longer while. Each
--- of its connectors has a back-off of its own.
---@class ReconnectingClientFactory: ClientFactory
---@field initialDelay number seconds before the first retry
---@field factor number how many times longer each retry waits than the one before
---@field jitter number each delay is up to this part of itself shorter or longer; 0: exact
---@field maxDelay number seconds; no delay is longer
---@field maxRetries integer? of tries in a row; none: for ever
---@field stableAfter number seconds: a connection that lasted so long makes the delay the first one again
---@field clock table? by default the reactor
---@field retries integer tries in a row, of the connector that tried last
---@field delay number? seconds before jitter, of its next retry
local ReconnectingClientFactory = ClientFactory {
  initialDelay = 1,
  factor = 2,
  jitter = 0.1,
  maxDelay = 60,
  stableAfter = 5,
  retries = 0,
  continueTrying = true,
}

local MOST_DELAY = 1e9 -- seconds

-- The tries of one connector: how many in a row, the delay that is due, the retry that is pending.
local Tries = {}
Tries.__index = Tries

-- It is to be tried no more; an owner calls this at its end, too.
function Tries:finish()
  local pending = self.pending
  self.pending = nil
  if pending then
    pending:cancel()
  end
  local who = self.owner
  self.owner = nil
  if who then
    who:remove(self)
  end
end

-- These work for a factory that is no ReconnectingClientFactory, too: one with `connect =`.
local function setting(factory, name)
  local value = factory[name]
  if value == nil then
    return ReconnectingClientFactory[name]
  end
  return value
end

local function clockOf(factory)
  return factory.clock or require "skald.reactor"
end

local function triesOf(factory, connector)
  local all = rawget(factory, "_tries")
  if not all then
    all = setmetatable({}, { __mode = "k" })
    rawset(factory, "_tries", all)
  end
  all[connector] = all[connector] or setmetatable({ retries = 0 }, Tries)
  return all[connector]
end

local function within(value, most)
  return value == value and math.max(0, math.min(value, most)) or most
end

-- The delay of the next retry; the one after that is longer.
local function takeDelay(factory, tries)
  local most = within(setting(factory, "maxDelay"), MOST_DELAY)
  local delay = within(tries.delay or setting(factory, "initialDelay"), most)
  local jitter = setting(factory, "jitter") or 0
  tries.delay = within(delay * setting(factory, "factor"), most)
  return within(delay * (1 + jitter * (2 * math.random() - 1)), most)
end

--- Has a connector connect again, after the delay that is due; not after stopTrying, nor when it has
--- ended, nor more than maxRetries times in a row.
---@param connector Connector? by default the one that it last heard of
function ReconnectingClientFactory:retry(connector)
  connector = connector or self.connector
  if not connector then
    error("retry: there is no connector yet", 2)
  end
  local meta = getmetatable(connector)
  connector = type(meta) == "table" and rawget(meta, "stands") or connector -- after a reload
  local tries, most = triesOf(self, connector), setting(self, "maxRetries")
  if connector.ended or not setting(self, "continueTrying") or (most and tries.retries >= most) then
    return
  end
  tries:finish()
  tries.retries = tries.retries + 1
  local delay = takeDelay(self, tries)
  self.connector, self.retries, self.delay = connector, tries.retries, tries.delay
  tries.owner = connector.owner
  if tries.owner then
    tries.owner:add(tries)
  end
  tries.pending = clockOf(self):callLater(delay, function()
    tries.pending = nil
    connector:connect()
    tries:finish()
  end)
end

--- The next delay is the first one again. Called by itself once a connection has lasted.
---@param connector Connector? by default all of them
function ReconnectingClientFactory:resetDelay(connector)
  for other, tries in pairs(rawget(self, "_tries") or {}) do
    if connector == nil or other == connector then
      tries.delay, tries.retries = nil, 0
    end
  end
  self.delay, self.retries = nil, 0
end

--- Retries no more, and stops connecting.
function ReconnectingClientFactory:stopTrying()
  self.continueTrying = false
  for connector, tries in pairs(rawget(self, "_tries") or {}) do
    tries:finish()
    if connector.state == "connecting" then
      connector:stopConnecting()
    end
  end
  local connector = self._connector
  if connector and connector.state == "connecting" then
    connector:stopConnecting()
  end
end

--- The protocol for a new connection; notes when that was.
---@param addr Address?
---@return Protocol?
function ReconnectingClientFactory:buildProtocol(addr)
  self._since = clockOf(self):seconds()
  return Factory.buildProtocol(self, addr)
end

-- A factory may have a retry of its own.
local function retry(factory, connector)
  local f = factory.retry or ReconnectingClientFactory.retry
  f(factory, connector)
end

--- Retries. An override calls it, or `retry`.
---@param connector Connector
function ReconnectingClientFactory:clientConnectionFailed(connector)
  retry(self, connector)
end

--- Retries. An override calls it, or `retry`.
---@param connector Connector
function ReconnectingClientFactory:clientConnectionLost(connector)
  local since = connector.since or self._since
  if since and clockOf(self):seconds() - since >= setting(self, "stableAfter") then
    ReconnectingClientFactory.resetDelay(self, connector)
  end
  retry(self, connector)
end

protocol.ReconnectingClientFactory = ReconnectingClientFactory

--- The names of a factory's bounds that can be changed at run time, in the order of `enum bound` (host/io/group.h).
---@type string[]
protocol.bounds = {
  "maxConnections",
  "maxConnectionsPerPeer",
  "idleTimeout",
  "closeTimeout",
  "highWater",
  "lowWater",
  "maxBuffered",
}

--- What they are where a definition does not say: seconds, bytes, connections; 0 is none.
---@type table<string, number>
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
---@private
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

--- What hears a process that reactor.spawnProcess starts. Every callback is optional. processEnded is the last: the
--- process has ended, and all that it has written was received. What a callback raises is logged, closes all
--- that we have of the process, and asks it to end.
---@class ProcessProtocol: Object
---@field transport ProcessTransport set before connectionMade
local ProcessProtocol = class.root "ProcessProtocol"

--- The process has been started: sets the transport and calls `connectionMade`.
---@param transport ProcessTransport
function ProcessProtocol:makeConnection(transport)
  self.transport = transport
  local made = self.connectionMade
  if made then
    made(self)
  end
end

--- The process runs: called once, before all others. Where it could not be started, processEnded alone is called.
function ProcessProtocol.connectionMade() end

local received = { "outReceived", "errReceived" }
local lost = { [0] = "inConnectionLost", "outConnectionLost", "errConnectionLost" }

--- It has written to one of its descriptors. By default calls outReceived for 1, errReceived for 2.
---@param fd integer the process's own number of it
---@param data string
function ProcessProtocol:childDataReceived(fd, data)
  local f = self[received[fd] or false]
  if f then
    f(self, data)
  end
end

--- It has written to its standard output.
---@param data string
function ProcessProtocol:outReceived(data) end -- luacheck: no unused args

--- It has written to its standard error.
---@param data string
function ProcessProtocol:errReceived(data) end -- luacheck: no unused args

--- One of the descriptors that we have of it is closed. By default calls inConnectionLost for 0, outConnectionLost for
--- 1, errConnectionLost for 2.
---@param fd integer the process's own number of it
function ProcessProtocol:childConnectionLost(fd)
  local f = self[lost[fd] or false]
  if f then
    f(self)
  end
end

--- Its standard input is closed: nothing more can be written.
function ProcessProtocol.inConnectionLost() end

--- Its standard output is closed: nothing more comes of it.
function ProcessProtocol.outConnectionLost() end

--- Its standard error is closed: nothing more comes of it.
function ProcessProtocol.errConnectionLost() end

--- The process has ended. What it has written, or what others write that it started, may still come.
---@param reason Reason code `done` where it ended by itself with 0; `exitCode`, or `signal` that ended it
function ProcessProtocol:processExited(reason) end -- luacheck: no unused args

--- The process has ended, and all output has come; or it could not be started: then `reason.errno` says why.
---@param reason Reason
function ProcessProtocol:processEnded(reason) end -- luacheck: no unused args

protocol.ProcessProtocol = ProcessProtocol

return protocol
