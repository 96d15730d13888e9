-- The reactor: what a script asks of the loop. Its functions are called with a dot, and work with a
-- colon too.

local core = require "skald.core"
local program = require "skald.program"
local roster = require "skald.roster"
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

-- Options come as strings, and a string of digits looks like a number.
local function shown(value)
  return type(value) == "string" and ("the string '%s': tonumber makes a number of it"):format(value) or tostring(value)
end

reactor.callLater = timers.later

--- Calls `f(...)` once the host runs; at once where it does.
---@param f function
---@param ... any
function reactor.callWhenRunning(f, ...)
  if type(f) ~= "function" then
    error(("callWhenRunning takes a function, not a %s"):format(type(f)), 2)
  end
  program.whenRunning(f, ...)
end

--- Stops the host in order.
---@param status integer? what the program exits with (0)
function reactor.stop(status)
  if status ~= nil and (type(status) ~= "number" or status % 1 ~= 0 or status < 0 or status > 255) then
    error(("stop takes an exit status from 0 to 255, not %s"):format(tostring(status)), 2)
  end
  program.stop(status)
end

local function options(name, given, known)
  if given ~= nil and type(given) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(given)), 3)
  end
  for key, value in pairs(given or {}) do
    if not known[key] then
      error(("%s knows no option '%s'"):format(name, tostring(key)), 3)
    end
    if known[key] ~= "any" and type(value) ~= known[key] then
      error(("%s: %s takes a %s, not a %s"):format(name, key, known[key], type(value)), 3)
    end
  end
  return given or {}
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
  if type(port) ~= "number" or port % 1 ~= 0 or port < 0 or port > 65535 then
    error(("listenTCP takes a port from 0 to 65535, not %s"):format(shown(port)), 2)
  end
  roster.need("listenTCP", factory)
  opts = options("listenTCP", opts, { interface = "string", backlog = "number" })
  local host = opts.interface
  if host and not C.skald_is_address(host) then
    error(("listenTCP: '%s' is no IP address"):format(host), 2)
  end
  return program.listen(factory, {
    type = "tcp",
    port = port,
    interface = host,
    backlog = opts.backlog,
  })
end

--- Listens on a Unix socket.
---@param path string
---@param factory table a factory, a Factory class, or a definition
---@param opts? { mode: integer?, backlog: integer? } mode as a number, such as tonumber("660", 8)
---@return Port? port or nil, message, code where the system refuses
---@return string? message
---@return string? code of the system, such as EADDRINUSE
function reactor.listenUNIX(path, factory, opts)
  if type(path) ~= "string" or path == "" then
    error("listenUNIX takes a path", 2)
  end
  roster.need("listenUNIX", factory)
  opts = options("listenUNIX", opts, { mode = "number", backlog = "number" })
  return program.listen(factory, {
    type = "unix",
    path = path,
    mode = opts.mode,
    backlog = opts.backlog,
  })
end

local function timeoutOf(name, opts)
  local timeout = opts.timeout
  if timeout ~= nil and not (timeout > 0 and timeout < math.huge) then
    error(("%s: timeout is a number of seconds, not %s"):format(name, tostring(timeout)), 3)
  end
  return timeout
end

-- Where a connection is to come from: "ip", or { "ip", port }.
local function bindAddressOf(name, opts)
  local given = opts.bindAddress
  local from = type(given) == "string" and { given, 0 } or given
  if from == nil then
    return nil
  end
  local port = type(from) == "table" and (from[2] or 0)
  local isPort = type(port) == "number" and port % 1 == 0 and port >= 0 and port <= 65535
  if not isPort or type(from[1]) ~= "string" or not C.skald_is_address(from[1]) then
    error(('%s: bindAddress is "IP" or { "IP", port }'):format(name), 3)
  end
  return { from[1], port }
end

--- Connects to a TCP port. What comes of it the factory hears.
---@param host string an IP address or a name; of a name all addresses are tried (RFC 8305)
---@param port integer from 1 to 65535
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number?, bindAddress: string|table? } timeout: seconds (30) for looking up
---and connecting together; bindAddress: the IP address to come from, or { "ip", port }
---@return Connector
function reactor.connectTCP(host, port, factory, opts)
  if type(host) ~= "string" or host == "" then
    error("connectTCP takes a host", 2)
  end
  if type(port) ~= "number" or port % 1 ~= 0 or port < 1 or port > 65535 then
    error(("connectTCP takes a port from 1 to 65535, not %s"):format(shown(port)), 2)
  end
  roster.need("connectTCP", factory)
  opts = options("connectTCP", opts, { timeout = "number", bindAddress = "any" })
  return program.connect(factory, {
    type = "tcp",
    host = host,
    port = port,
    timeout = timeoutOf("connectTCP", opts),
    bindAddress = bindAddressOf("connectTCP", opts),
  })
end

--- Connects to a Unix socket. What comes of it the factory hears.
---@param path string
---@param factory table a client factory, a class of one, or a definition
---@param opts? { timeout: number? } seconds (30)
---@return Connector
function reactor.connectUNIX(path, factory, opts)
  if type(path) ~= "string" or path == "" then
    error("connectUNIX takes a path", 2)
  end
  roster.need("connectUNIX", factory)
  opts = options("connectUNIX", opts, { timeout = "number" })
  return program.connect(factory, { type = "unix", path = path, timeout = timeoutOf("connectUNIX", opts) })
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
  if type(name) ~= "string" then
    error(("resolve takes a name, not a %s"):format(type(name)), 2)
  end
  opts = options("resolve", opts, { timeout = "number" })
  if opts.timeout and not (opts.timeout >= 0 and opts.timeout < math.huge) then
    error(("resolve: timeout is a number of seconds, not %s"):format(tostring(opts.timeout)), 2)
  end
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

for _, name in ipairs {
  "listenSSL",
  "connectSSL",
  "listenUDP",
  "spawnProcess",
} do
  reactor[name] = function()
    error(("reactor.%s: not in this version"):format(name), 2)
  end
end

return reactor
