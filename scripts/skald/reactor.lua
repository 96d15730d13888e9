-- The reactor: what a script asks of the loop. Its functions are called with a dot, and work with a
-- colon too.

local asked = require "skald.asked"
local core = require "skald.core"
local program = require "skald.program"
local timers = require "skald.timers"

local C, pointer = core.C, core.pointer
---@class skald.reactor
local reactor = {}

-- Drops the reactor where a colon put it in front.
local function plain(f)
  return function(first, ...)
    if first == reactor then
      return f(...)
    end
    return f(first, ...)
  end
end

local function isAddress(text)
  return C.skald_is_address(text)
end

reactor.callLater = timers.later

--- Calls `f(...)` once the host runs; at once where it does.
---@param f function
---@param ... any
function reactor.callWhenRunning(f, ...)
  asked.callWhenRunning(f)
  program.whenRunning(f, ...)
end

--- Stops the host in order.
---@param status integer? what the program exits with (0); the first one that is not 0 stands
function reactor.stop(status)
  asked.stop(status)
  program.stop(status)
end

--- Listens on a TCP port: binds now, accepts once the host runs.
---@param port integer to 65535; 0 lets the system choose
---@param factory table a factory, a Factory class, or a definition
---@param opts? { interface: string?, backlog: integer? } interface: the IP address to listen on (all of IPv4); backlog:
---how many connections may wait to be accepted (4096, or what the system allows)
---@return Port? port or nil, message, code where the system refuses
---@return string? message
---@return string? code of the system, such as EADDRINUSE
function reactor.listenTCP(port, factory, opts)
  return program.listen(factory, asked.listenTCP(port, factory, opts, isAddress))
end

--- Listens on a TCP port and speaks TLS on what it accepts.
---@param port integer 0 lets the system choose
---@param factory table a factory, a Factory class, or a definition
---@param opts TLSServerOptions and interface, backlog as for listenTCP
---@return Port? port or nil, message, code where a file is not what it should be, or the system refuses
---@return string? message
---@return string? code of the system, such as ENOENT or EADDRINUSE; EINVAL for what is in a file
function reactor.listenSSL(port, factory, opts)
  return program.listen(factory, asked.listenSSL(port, factory, opts, isAddress))
end

--- Listens on a Unix socket.
---@param path string
---@param factory table a factory, a Factory class, or a definition
---@param opts? { mode: integer?, backlog: integer?, tls: table? } mode as a number, such as
---tonumber("660", 8); tls: what listenSSL takes for TLS
---@return Port? port or nil, message, code where the system refuses
---@return string? message
---@return string? code of the system, such as EADDRINUSE
function reactor.listenUNIX(path, factory, opts)
  return program.listen(factory, asked.listenUNIX(path, factory, opts))
end

--- Binds a UDP port: now; it receives once the host runs.
---@param port integer to 65535; 0 lets the system choose
---@param protocol table a DatagramProtocol: an instance, a class, or a table of methods
---@param opts? { interface: string?, maxPacketSize: integer?, reuse: boolean?, broadcast: boolean? } interface: the IP
---address to bind (all of IPv4); maxPacketSize: bytes (8192), longer datagrams are truncated; reuse: others may bind
---the port as well, if they say so too; broadcast: datagrams may be sent to broadcast addresses
---@return Port? port or nil, message, code where the system refuses
---@return string? message
---@return string? code of the system, such as EADDRINUSE
function reactor.listenUDP(port, protocol, opts)
  local endpoint = asked.listenUDP(port, protocol, opts, C.skald_is_address)
  return program.listen(require("skald.datagram").factoryOf(protocol, 2), endpoint)
end

--- Connects to a TCP port. What comes of it the factory hears.
---@param host string an IP address or a name; of a name all addresses are tried (RFC 8305)
---@param port integer from 1 to 65535
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number?, bindAddress: string|table? } timeout: seconds (30) for looking up
---and connecting together; bindAddress: the IP address to come from, or { "ip", port }
---@return Connector
function reactor.connectTCP(host, port, factory, opts)
  return program.connect(factory, asked.connectTCP(host, port, factory, opts, isAddress))
end

--- Connects to a TCP port and speaks TLS. What comes of it the factory hears. The server's certificate is
--- to be of the host, and of somebody that the system trusts.
---@param host string an IP address or a name; of a name all addresses are tried (RFC 8305)
---@param port integer from 1 to 65535
---@param factory table a client factory, a class of one, or a definition
---@param opts? TLSClientOptions and timeout, bindAddress as for connectTCP
---@return Connector
function reactor.connectSSL(host, port, factory, opts)
  return program.connect(factory, asked.connectSSL(host, port, factory, opts, isAddress))
end

--- Connects to a Unix socket. What comes of it the factory hears.
---@param path string
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number?, tls: table? } seconds (30); tls: what connectSSL takes for TLS, with
---hostname, or verify = "no"
---@return Connector
function reactor.connectUNIX(path, factory, opts)
  return program.connect(factory, asked.connectUNIX(path, factory, opts))
end

--- Starts a process. What it says and how it ends the protocol hears; that it could not be started, too
--- (processEnded, with `reason.errno`). What a script's load asks for is started when that is committed, and
--- asked to end when the script is loaded again; what a connection's callbacks start goes on over reloads.
---@param receiver ProcessProtocol an instance, or a plain table
---@param path string the program; looked for in PATH where it has no slash
---@param args string[]? from the program's own name on; by default the path
---@param opts? { env: table?, cwd: string?, uid: integer?, gid: integer?, pty: boolean|table?, childFDs: table? } env:
---its whole environment, by names (ours); cwd: its folder (ours); uid, gid: who it runs as; pty: true, or
---`{ rows =, columns = }`, for a pseudo-terminal; childFDs: by its own numbers "r" for what we read, "w" for what we
---write, "inherit", or a descriptor of ours (`{ [0] = "w", [1] = "r", [2] = "r" }`; what is left of these
---three is /dev/null)
---@return ProcessTransport transport
function reactor.spawnProcess(receiver, path, args, opts)
  local plan, fds = asked.spawnProcess(receiver, path, args, opts)
  return require("skald.process").start(receiver, plan, fds)
end

-- What Twisted gives: IPv4 where there is any.
local function preferred(list)
  for _, found in ipairs(list) do
    if found.type == "TCP" then
      return found.host
    end
  end
  return list[1].host
end

--- Looks a host name up.
---@param name string a host name, or an address, which is its own answer
---@param opts? { timeout: number? } seconds (15)
---@return Deferred d of one address as a string, IPv4 where there is any; fails with a DNSLookupError
function reactor.resolve(name, opts)
  opts = asked.resolve(name, opts)
  return require("skald.resolver").resolve(name, opts):addCallback(preferred)
end

--- Has `f(...)` called when the host starts or stops. Before shutdown, what gives a Deferred is waited
--- for, as long as --grace says.
---@param phase "before"|"during"|"after"
---@param event "startup"|"shutdown"
---@param f function
---@param ... any
---@return Trigger
function reactor.addSystemEventTrigger(phase, event, f, ...)
  local trigger = require("skald.triggers").add(phase, event, f, ...) -- no tail call: an error names the caller
  return trigger
end

--- Takes back what addSystemEventTrigger asked for.
---@param trigger Trigger
---@return boolean? ok nil, message, code where it was called or taken back before
---@return string? message
---@return string? code
function reactor.removeSystemEventTrigger(trigger)
  return require("skald.triggers").remove(trigger)
end

for name, f in pairs(reactor) do
  reactor[name] = plain(f)
end

-- What takes nothing does not mind what is put in front.

--- What a monotonic clock says.
---@return number time in seconds
---@overload fun(reactor: table): number
function reactor.seconds()
  return C.skald_seconds(pointer)
end

--- Does nothing: the host runs.
function reactor.run() end

return reactor
