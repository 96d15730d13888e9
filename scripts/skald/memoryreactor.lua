-- A reactor without a network: it notes what it is asked for, and the test plays the rest of the world. Pure.

local Clock = require "skald.clock"
local address = require "skald.address"
local asked = require "skald.asked"
local class = require "skald.class"
local deferred = require "skald.deferred"
local definition = require "skald.definition"
local inet = require "skald.inet"
local members = require "skald.members"
local memoryconnector = require "skald.memoryconnector"
local memorydatagram = require "skald.memorydatagram"
local memoryprocess = require "skald.memoryprocess"
local pump = require "skald.pump"

-- --- ports ------------------------------------------------------------------------------------

--- What listenTCP, listenSSL and listenUNIX of a MemoryReactor give.
---@class MemoryPort: Port
---@field factory Factory
---@field endpoint table as endpoints.parseServer gives it
---@field listening boolean
local Port = {}
Port.__index = Port

--- The address it listens on.
---@return Address
function Port:getHost()
  return self.address
end

--- Listens no more.
---@return Deferred d of nothing
function Port:stopListening()
  if self.listening then
    self.listening = false
    memoryconnector.lower(self.memory, self.factory)
  end
  return deferred.succeed()
end

-- --- the reactor ------------------------------------------------------------------------------

--- Stands in for the reactor in tests. It is a Clock besides; its functions are called with a dot or a
--- colon. What it is asked for stands in its lists, in order.
---@class MemoryReactor: Clock
---@field tcpServers MemoryPort[]
---@field unixServers MemoryPort[]
---@field sslServers MemoryPort[]
---@field udpPorts MemoryDatagramPort[]
---@field tcpClients MemoryConnector[]
---@field sslClients MemoryConnector[]
---@field unixClients MemoryConnector[]
---@field processes MemoryProcess[]
---@field missing table<string, string> programs that cannot be started: the names of errors by their paths
---@field lookups table[] `{ name =, deferred = }`: a test fires the Deferred with an address
---@field triggers table[] `{ phase =, event =, f =, … }`
---@field pumps Pump[] the connections that `connect` made
---@field logged table[] `{ level =, text = }`, while it is installed
---@field running boolean false: callWhenRunning waits for `start`
---@field stopped boolean stop was called, with `exitStatus`
local MemoryReactor = Clock {}

local plain = {
  "callLater", "seconds", "callWhenRunning", "stop", "run", "listenTCP", "listenSSL", "listenUNIX", "listenUDP",
  "connectTCP", "connectSSL", "connectUNIX", "spawnProcess", "resolve", "addSystemEventTrigger",
  "removeSystemEventTrigger",
}

-- A function that may be called with a dot.
local function dotted(self, name)
  self[name] = function(first, ...)
    local methods = class.of(self)
    if rawequal(first, self) then
      return methods[name](self, ...)
    end
    return methods[name](self, first, ...)
  end
end

--- A reactor that runs, unless `running = false` is given.
---@param options? { running: boolean? }
function MemoryReactor:init(options)
  Clock.init(self)
  self.tcpServers, self.unixServers, self.tcpClients, self.unixClients = {}, {}, {}, {}
  self.sslServers, self.sslClients, self.udpPorts, self.datagrams = {}, {}, {}, {}
  self.processes, self.missing = {}, {}
  self.lookups, self.triggers, self.pumps, self.logged, self.waiting = {}, {}, {}, {}, {}
  self.ups = {} -- how many ports and connectors of a factory are up
  self.running = not options or options.running ~= false
  self.stopped, self.lastPort = false, 49151
  for _, name in ipairs(plain) do
    dotted(self, name)
  end
end

--- Calls `f(...)` once it runs; at once where it does.
---@param f function
---@param ... any
function MemoryReactor:callWhenRunning(f, ...)
  asked.callWhenRunning(f)
  if self.running then
    f(...)
  else
    table.insert(self.waiting, { f = f, n = select("#", ...), ... })
  end
end

--- Runs from now on: fires the triggers of startup, and calls what callWhenRunning was given.
function MemoryReactor:start()
  self.running = true
  self:fire "startup"
  local waiting = self.waiting
  self.waiting = {}
  for _, call in ipairs(waiting) do
    call.f(unpack(call, 1, call.n))
  end
end

--- Notes that it is to stop; `fire "shutdown"` calls the triggers.
---@param status integer? what the program would exit with (0)
function MemoryReactor:stop(status)
  asked.stop(status)
  self.stopped, self.exitStatus = true, status or 0
end

--- Does nothing, as that of the host.
function MemoryReactor.run() end

local function addTrigger(self, phase, event, f, ...)
  asked.trigger(phase, event, f)
  local trigger = { phase = phase, event = event, f = f, n = select("#", ...), ... }
  table.insert(self.triggers, trigger)
  return trigger
end

--- Has `f(...)` called by `fire`.
---@param phase "before"|"during"|"after"
---@param event "startup"|"shutdown"
---@param f function
---@param ... any
---@return Trigger
function MemoryReactor:addSystemEventTrigger(phase, event, f, ...)
  local trigger = addTrigger(self, phase, event, f, ...) -- no tail call: an error names the caller
  return trigger
end

--- Takes back what addSystemEventTrigger asked for.
---@param trigger Trigger
---@return boolean? ok nil, message, code where it was called or taken back before
---@return string? message
---@return string? code
function MemoryReactor:removeSystemEventTrigger(trigger)
  for i, other in ipairs(self.triggers) do
    if rawequal(other, trigger) then
      table.remove(self.triggers, i)
      return true
    end
  end
  return nil, "no such trigger", "ENOENT"
end

--- Calls the triggers of an event, of its three phases in their order.
---@param event "startup"|"shutdown"
function MemoryReactor:fire(event)
  for _, phase in ipairs { "before", "during", "after" } do
    local i = 1
    while self.triggers[i] do
      local trigger = self.triggers[i]
      if trigger.phase == phase and trigger.event == event then
        table.remove(self.triggers, i)
        trigger.f(unpack(trigger, 1, trigger.n))
      else
        i = i + 1
      end
    end
  end
end

-- --- what it is asked for ---------------------------------------------------------------------

local function isAddress(text)
  return inet.bytesOf(text) ~= nil
end

local function addressOf(self, endpoint)
  if endpoint.path then
    return address.unix(endpoint.path)
  end
  local number, host = endpoint.port, endpoint.interface or "0.0.0.0"
  local bytes = inet.bytesOf(host)
  host = bytes and inet.textOf(bytes) or host
  if number == 0 then
    self.lastPort = self.lastPort + 1
    number = self.lastPort
  end
  local kind = endpoint.type == "udp" and "UDP" or "TCP"
  return address.inet(host:find(":", 1, true) and kind .. "6" or kind, host, number)
end

-- Those that were asked for in the same way.
local function listOf(self, endpoint, side)
  return self[(endpoint.path and "unix" or endpoint.type == "tls" and "ssl" or "tcp") .. side]
end

local function isTaken(ports, own)
  for _, other in ipairs(ports) do
    if other.listening and other.address == own then
      return true
    end
  end
  return false
end

-- What serves a port: of `haproxy:` a wrapper that reads the header first.
local function servedBy(factory, proxied)
  return proxied and require("skald.haproxy").HAProxyWrappingFactory:new(factory) or factory
end

local function listen(self, given, endpoint)
  endpoint = require("skald.endpoints").socketOf(endpoint)
  local made = setmetatable({ memory = self, endpoint = endpoint, listening = true }, Port)
  made.address = addressOf(self, endpoint)
  for _, list in ipairs { self.tcpServers, self.sslServers, self.unixServers } do
    if isTaken(list, made.address) then
      return nil, "Address already in use", "EADDRINUSE"
    end
  end
  made.factory = definition.factoryOf(given)
  made.served = servedBy(made.factory, endpoint.proxied)
  table.insert(listOf(self, endpoint, "Servers"), made)
  memoryconnector.raise(self, made.factory)
  return made
end

local function bind(self, endpoint, onStop)
  local own = addressOf(self, endpoint)
  if isTaken(self.udpPorts, own) then
    return nil, "Address already in use", "EADDRINUSE"
  end
  local made = memorydatagram.new(self, endpoint, own, onStop)
  table.insert(self.udpPorts, made)
  return made
end

-- A factory's UDP port, as a definition asks for it.
local function bindFactory(self, factory, endpoint)
  local made, message, code = bind(self, endpoint, function()
    memoryconnector.lower(self, factory)
  end)
  if not made then
    return nil, message, code
  end
  memoryconnector.raise(self, factory)
  memorydatagram.start(made, memorydatagram.build(factory))
  return made
end

local function serveAny(self, factory, endpoint)
  return (endpoint.type == "udp" and bindFactory or listen)(self, factory, endpoint)
end

local function newConnector(self, given, endpoint)
  local connector = memoryconnector.new(self, definition.factoryOf(given), endpoint)
  table.insert(listOf(self, endpoint, "Clients"), connector)
  return connector
end

local function connectLater(self, given, endpoint)
  local connector = newConnector(self, given, endpoint)
  connector:connect()
  return connector
end

--- Notes a port, in `tcpServers`; its factory starts.
---@param port integer to 65535; 0: one that is free
---@param factory table a factory, a Factory class, or a definition
---@param opts? { interface: string?, backlog: integer? } backlog: a count of connections, which is only noted
---@return MemoryPort? port nil, message, code where that is listened on already
---@return string? message
---@return string? code EADDRINUSE
function MemoryReactor:listenTCP(port, factory, opts)
  return listen(self, factory, asked.listenTCP(port, factory, opts, isAddress))
end

--- Notes a port, in `sslServers`; its factory starts. Nothing is encrypted, and no file is read.
---@param port integer to 65535; 0: one that is free
---@param factory table a factory, a Factory class, or a definition
---@param opts TLSServerOptions and interface, backlog as for listenTCP
---@return MemoryPort? port nil, message, code where that is listened on already
---@return string? message
---@return string? code EADDRINUSE
function MemoryReactor:listenSSL(port, factory, opts)
  return listen(self, factory, asked.listenSSL(port, factory, opts, isAddress))
end

--- Notes a UDP port, in `udpPorts`; its protocol starts. What is written goes to other ports of this reactor by
--- `flush`, and stands in `sent` of the port; a test sends by `memory:datagram(port, …)`.
---@param port integer to 65535; 0: one that is free
---@param protocol table a DatagramProtocol: an instance, a class, or a table of methods
---@param opts? { interface: string?, maxPacketSize: integer?, reuse: boolean?, broadcast: boolean? } as for the
---real one; maxPacketSize: bytes (8192), longer datagrams are truncated
---@return MemoryDatagramPort? port nil, message, code where that is listened on already
---@return string? message
---@return string? code EADDRINUSE
function MemoryReactor:listenUDP(port, protocol, opts)
  local endpoint = asked.listenUDP(port, protocol, opts, isAddress)
  local receiver = memorydatagram.protocolOf(protocol, 2)
  local made, message, code = bind(self, endpoint, function() end)
  if not made then
    return nil, message, code
  end
  memorydatagram.start(made, receiver)
  return made
end

--- Notes a port, in `unixServers`; its factory starts.
---@param path string
---@param factory table a factory, a Factory class, or a definition
---@param opts? { mode: integer?, backlog: integer? } mode as a number; backlog: a count of connections, only noted
---@return MemoryPort? port nil, message, code where that is listened on already
---@return string? message
---@return string? code EADDRINUSE
function MemoryReactor:listenUNIX(path, factory, opts)
  return listen(self, factory, asked.listenUNIX(path, factory, opts))
end

--- Notes a connector, in `tcpClients`, which waits for `connect` or `fail`.
---@param host string
---@param port integer from 1 to 65535
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number?, bindAddress: string|table? } timeout: seconds, which are only noted
---@return MemoryConnector
function MemoryReactor:connectTCP(host, port, factory, opts)
  return connectLater(self, factory, asked.connectTCP(host, port, factory, opts, isAddress))
end

--- Notes a connector, in `sslClients`, which waits for `connect` or `fail`. Nothing is encrypted.
---@param host string
---@param port integer from 1 to 65535
---@param factory table a client factory, a class of one, or a definition
---@param opts? TLSClientOptions and timeout, bindAddress as for connectTCP
---@return MemoryConnector
function MemoryReactor:connectSSL(host, port, factory, opts)
  return connectLater(self, factory, asked.connectSSL(host, port, factory, opts, isAddress))
end

--- Notes a connector, in `unixClients`, which waits for `connect` or `fail`.
---@param path string
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number? } seconds, which are only noted
---@return MemoryConnector
function MemoryReactor:connectUNIX(path, factory, opts)
  return connectLater(self, factory, asked.connectUNIX(path, factory, opts))
end

--- Notes a process, in `processes`, which runs until the test has it end by `memory:exit`. One whose path stands in
--- `missing` is not started.
---@param receiver ProcessProtocol an instance, or a plain table
---@param path string
---@param args string[]? from the program's own name on; by default the path
---@param opts? { env: table?, cwd: string?, uid: integer?, gid: integer?, pty: boolean|table?, childFDs: table? } as
---for the real one; all but pty and childFDs are only noted
---@return MemoryProcess transport
function MemoryReactor:spawnProcess(receiver, path, args, opts)
  local plan, fds = asked.spawnProcess(receiver, path, args, opts)
  local made = memoryprocess.new(self, receiver, plan, fds)
  table.insert(self.processes, made)
  self:callWhenRunning(memoryprocess.start, made, self.missing[path])
  return made
end

--- Notes a lookup, in `lookups`; an address is its own answer.
---@param name string
---@param opts? { timeout: number? } seconds, which are only noted
---@return Deferred d of what the test gives it: an address as a string
function MemoryReactor:resolve(name, opts)
  opts = asked.resolve(name, opts)
  local d = deferred.Deferred:new()
  if isAddress(name) then
    d:callback(name)
  else
    table.insert(self.lookups, { name = name, deferred = d, opts = opts })
  end
  return d
end

-- --- what the test does -----------------------------------------------------------------------

local function newPump(self, options, host)
  self.lastPort = self.lastPort + 1
  local peer = host.type == "UNIX" and address.unix "" or address.inet(host.type,
    host.type == "TCP6" and "::1" or "127.0.0.1", self.lastPort)
  local made = pump.Pump:new {
    cut = options.cut, window = options.window, onError = options.onError, host = host, peer = options.peer or peer,
  }
  table.insert(self.pumps, made)
  return made
end

-- Where TLS was asked for, both sides hear that it is up.
local function shake(made, endpoint, options)
  for _, side in ipairs(endpoint.type == "tls" and made.sides or {}) do
    side.transport.negotiatedProtocol = options.negotiatedProtocol
    if side.protocol and not side.lost and not side.how then
      side:call(side.protocol, "handshakeCompleted")
    end
  end
end

local function accept(self, port, client, options)
  local made = newPump(self, options, port.address)
  local side = made.sides[1]
  members.count(side, port.served)
  made:join(members.hasRoom(port.served, side.transport:getPeer()) and port.served or nil, client)
  shake(made, port.endpoint, options)
  return made
end

local function answer(self, connector, server, options)
  local made = newPump(self, options, connector:getDestination())
  made.server = made.sides[1]:join(server)
  members.count(made.sides[2], connector.factory)
  made.client = memoryconnector.join(connector, made.sides[2])
  shake(made, connector.endpoint, options)
  memoryconnector.ready(connector, made.sides[2], made.client)
  return made
end

local function needProcess(name, process)
  if not memoryprocess.is(process) then
    error(("%s takes a process of this reactor"):format(name), 3)
  end
end

-- Those of a pump, and one more.
local function needOptions(options)
  local rest = options
  if type(options) == "table" then
    rest = {}
    for key, value in pairs(options) do
      rest[key] = key ~= "negotiatedProtocol" and value or nil
    end
  end
  pump.need("connect", rest, 3)
  return options or {}
end

--- Makes a connection: to a port that listens, whose factory makes the server's protocol; or the one that
--- a connector waits for, whose factory makes the client's. `other` is the other side.
---@param record MemoryPort|MemoryConnector
---@param other Protocol|Factory
---@param options? table as for testing.connect; host is the port's, or where the connector connects to; besides,
---where TLS was asked for, `negotiatedProtocol`: what both sides find as that
---@return Pump? pump nil, message, code where the port does not listen, the connector does not connect
---@return string? message
---@return string? code
function MemoryReactor:connect(record, other, options)
  options = needOptions(options)
  pump.needSide("connect", other, 2)
  if memoryconnector.is(record) then
    if record.state ~= "connecting" then
      return nil, "the connector is " .. record.state, "EALREADY"
    end
    return answer(self, record, other, options)
  elseif getmetatable(record) ~= Port then
    error("connect takes a port or a connector of this reactor", 2)
  elseif not record.listening then
    return nil, "Connection refused", "ECONNREFUSED"
  end
  return accept(self, record, other, options)
end

local failures = {
  ECONNREFUSED = { "lost", "peer", "Connection refused" },
  EHOSTUNREACH = { "lost", "peer", "No route to host" },
  ENETUNREACH = { "lost", "peer", "Network is unreachable" },
  ECONNRESET = { "lost", "peer", "Connection reset by peer" },
  ENOENT = { "lost", "peer", "No such file or directory" },
  ETIMEDOUT = { "timeout", "host", "it took too long" },
}

--- Has a connector fail: its factory hears of clientConnectionFailed.
---@param connector MemoryConnector
---@param errno? "ECONNREFUSED"|"EHOSTUNREACH"|"ENETUNREACH"|"ECONNRESET"|"ENOENT"|"ETIMEDOUT" ECONNREFUSED
---where there is none
---@return boolean? ok nil, message, code where it is not connecting
---@return string? message
---@return string? code
function MemoryReactor:fail(connector, errno) -- luacheck: no self
  local failed = failures[errno or "ECONNREFUSED"]
  if not memoryconnector.is(connector) then
    error("fail takes a connector of this reactor", 2)
  elseif not failed then
    error(("fail: '%s' is no error that it knows"):format(tostring(errno)), 2)
  elseif connector.state ~= "connecting" then
    return nil, "the connector is " .. connector.state, "EALREADY"
  end
  memoryconnector.failed(connector, failed[1], failed[2], failed[3], errno or "ECONNREFUSED")
  return true
end

--- The peer sends a datagram to a UDP port: its protocol gets it now.
---@param port MemoryDatagramPort
---@param data string
---@param from Address? by default udp:192.0.2.1:54321
---@return boolean? ok nil, message, code where the port is closed
---@return string? message
---@return string? code ECONNREFUSED
function MemoryReactor:datagram(port, data, from) -- luacheck: no self
  if not memorydatagram.is(port) then
    error("datagram takes a UDP port of this reactor", 2)
  elseif type(data) ~= "string" then
    error(("datagram takes a string, not a %s"):format(type(data)), 2)
  elseif not port.listening then
    return nil, "Connection refused", "ECONNREFUSED"
  end
  memorydatagram.receive(port, data, from or address.inet("UDP", "192.0.2.1", 54321))
  return true
end

--- A process writes to one of its descriptors.
---@param process MemoryProcess
---@param data string
---@param fd integer? the process's own number of it: 1, its standard output
---@return boolean? ok nil, message, code where nobody reads that
---@return string? message
---@return string? code EPIPE
function MemoryReactor:output(process, data, fd) -- luacheck: no self
  needProcess("output", process)
  if type(data) ~= "string" then
    error(("output takes a string, not a %s"):format(type(data)), 2)
  end
  return memoryprocess.output(process, data, fd or 1)
end

--- A process ends: processExited, the ends of its descriptors and processEnded are called.
---@param process MemoryProcess
---@param how integer|string|nil its status (0), or the name of the signal that ended it, such as "TERM"
---@return boolean? ok nil, message, code where it does not run
---@return string? message
---@return string? code ESRCH
function MemoryReactor:exit(process, how) -- luacheck: no self
  needProcess("exit", process)
  local isStatus = type(how) == "number" and how % 1 == 0 and how >= 0 and how <= 255
  if how ~= nil and not isStatus and not (type(how) == "string" and memoryprocess.nameOf(how)) then
    error(("exit takes a status from 0 to 255 or the name of a signal, not %s"):format(tostring(how)), 2)
  end
  return memoryprocess.exit(process, how or 0)
end

--- Lets the bytes and datagrams of all connections and ports move, until all are at rest.
function MemoryReactor:flush()
  local rounds = 0
  repeat
    local any = false
    for _, one in ipairs(self.pumps) do
      any = one:step() or any
    end
    any = memorydatagram.deliver(self) or any
    any = memoryprocess.turn(self) or any
    rounds = rounds + 1
    if rounds == 100000 then
      error("flush: the connections do not come to rest", 2)
    end
  until not any
end

--- Listens and connects as a definition says: `listen` and `connect` of a factory, endpoint strings.
---@param given table a factory, a Factory class, or a definition
---@return (MemoryPort|MemoryConnector)[] records in the order of the strings
function MemoryReactor:serve(given)
  definition.need("serve", given)
  local endpoints, records = require "skald.endpoints", {}
  local factory = definition.factoryOf(given)
  local function each(list, parse, f)
    for _, text in ipairs(type(list) == "table" and list or { list }) do
      table.insert(records, assert(f(self, factory, assert(parse(text)))))
    end
  end
  each(factory.listen, endpoints.parseServer, serveAny)
  each(factory.connect, endpoints.parseClient, connectLater)
  return records
end

-- --- in the place of the real one -------------------------------------------------------------

local function logger(self)
  local log = {}
  for _, level in ipairs { "debug", "info", "warning", "error" } do
    log[level] = function(format, ...)
      local text = select("#", ...) > 0 and tostring(format):format(...) or tostring(format)
      table.insert(self.logged, { level = level, text = text })
    end
  end
  return log
end

-- What endpoints ask of the host.
local function program(self)
  return {
    listen = function(given, endpoint)
      return serveAny(self, definition.factoryOf(given), endpoint)
    end,
    connectOnce = function(given, endpoint)
      return memoryconnector.connectOnce(newConnector(self, given, endpoint))
    end,
  }
end

--- Takes the place of `skald.reactor` until the function that it gives is called. Outside the host also
--- that of `skald.log`, whose lines come into `logged`, and endpoints listen and connect by it.
---@return fun() uninstall
function MemoryReactor:install()
  local standIns, before = { ["skald.reactor"] = self }, {}
  if type(package.loaded["skald.core"]) ~= "table" then
    standIns["skald.log"], standIns["skald.program"] = logger(self), program(self)
    standIns["skald.roster"] = setmetatable({ boundChanged = function() end }, { __index = definition })
  end
  for name, standIn in pairs(standIns) do
    local loaded = package.loaded[name]
    before[name] = type(loaded) == "table" and loaded or nil -- no trace of a load that failed
    package.loaded[name] = standIn
  end
  local installed = true
  return function()
    for name in pairs(installed and standIns or {}) do
      package.loaded[name] = before[name]
    end
    installed = false
  end
end

return MemoryReactor
