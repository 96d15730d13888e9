-- What the reactor's functions are given: checked, and made an endpoint. Pure, so that the reactor of
-- skald.testing takes and refuses what the real one does. All of it raises at the line that called the
-- reactor: these functions are called by that one's own.

local class = require "skald.class"
local definition = require "skald.definition"
local tlsoptions = require "skald.tlsoptions"

local asked = {}

-- Options come as strings, and a string of digits looks like a number.
local function shown(value)
  return type(value) == "string" and ("the string '%s': tonumber makes a number of it"):format(value) or tostring(value)
end

local LEVEL = 4 -- of who called the reactor, in what a function of this module calls

local function options(name, given, known)
  if given ~= nil and type(given) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(given)), LEVEL)
  end
  for key, value in pairs(given or {}) do
    if not known[key] then
      error(("%s knows no option '%s'"):format(name, tostring(key)), LEVEL)
    end
    if known[key] ~= "any" and type(value) ~= known[key] then
      error(("%s: %s takes a %s, not a %s"):format(name, key, known[key], type(value)), LEVEL)
    end
  end
  return given or {}
end

local function timeoutOf(name, opts)
  local timeout = opts.timeout
  if timeout ~= nil and not (timeout > 0 and timeout < math.huge) then
    error(("%s: timeout is a number of seconds, not %s"):format(name, tostring(timeout)), LEVEL)
  end
  return timeout
end

-- Where a connection is to come from: "ip", or { "ip", port }.
local function bindAddressOf(name, opts, isAddress)
  local given = opts.bindAddress
  local from = type(given) == "string" and { given, 0 } or given
  if from == nil then
    return nil
  end
  local port = type(from) == "table" and (from[2] or 0)
  local isPort = type(port) == "number" and port % 1 == 0 and port >= 0 and port <= 65535
  if not isPort or type(from[1]) ~= "string" or not isAddress(from[1]) then
    error(('%s: bindAddress is "IP" or { "IP", port }'):format(name), LEVEL)
  end
  return { from[1], port }
end

local function needPort(name, port, least)
  if type(port) ~= "number" or port % 1 ~= 0 or port < least or port > 65535 then
    error(("%s takes a port from %d to 65535, not %s"):format(name, least, shown(port)), LEVEL)
  end
end

local function needText(name, what, value)
  if type(value) ~= "string" or value == "" then
    error(("%s takes a %s"):format(name, what), LEVEL)
  end
end

--- What listenTCP was given.
---@param port any
---@param factory any
---@param opts any
---@param isAddress fun(text: string): boolean
---@return table endpoint as endpoints.parseServer gives it
function asked.listenTCP(port, factory, opts, isAddress)
  needPort("listenTCP", port, 0)
  definition.need("listenTCP", factory, 3)
  opts = options("listenTCP", opts, { interface = "string", backlog = "number" })
  local host = opts.interface
  if host and not isAddress(host) then
    error(("listenTCP: '%s' is no IP address"):format(host), LEVEL - 1)
  end
  return { type = "tcp", port = port, interface = host, backlog = opts.backlog }
end

-- The options of TLS into those of an endpoint.
local function secure(name, endpoint, given, server)
  for key, value in pairs(tlsoptions.check(name, given, server, LEVEL + 1)) do
    endpoint[key] = value
  end
  endpoint.type = "tls"
  return endpoint
end

--- What listenSSL was given.
---@param port any
---@param factory any
---@param opts any
---@param isAddress fun(text: string): boolean
---@return table endpoint as endpoints.parseServer gives it
function asked.listenSSL(port, factory, opts, isAddress)
  needPort("listenSSL", port, 0)
  definition.need("listenSSL", factory, 3)
  local given, others = tlsoptions.split("listenSSL", opts, true, LEVEL)
  others = options("listenSSL", others, { interface = "string", backlog = "number" })
  local host = others.interface
  if host and not isAddress(host) then
    error(("listenSSL: '%s' is no IP address"):format(host), LEVEL - 1)
  end
  local endpoint = secure("listenSSL", { port = port, interface = host, backlog = others.backlog }, given, true)
  return endpoint -- no tail call: an error names the caller
end

--- What listenUNIX was given.
---@param path any
---@param factory any
---@param opts any
---@return table endpoint as endpoints.parseServer gives it
function asked.listenUNIX(path, factory, opts)
  needText("listenUNIX", "path", path)
  definition.need("listenUNIX", factory, 3)
  opts = options("listenUNIX", opts, { mode = "number", backlog = "number", tls = "table" })
  local endpoint = { type = "unix", path = path, mode = opts.mode, backlog = opts.backlog }
  return opts.tls and secure("listenUNIX", endpoint, opts.tls, true) or endpoint
end

--- What listenUDP was given.
---@param port any
---@param protocol any
---@param opts any
---@param isAddress fun(text: string): boolean
---@return table endpoint as endpoints.parseServer gives it
function asked.listenUDP(port, protocol, opts, isAddress)
  needPort("listenUDP", port, 0)
  if type(protocol) ~= "table" then
    error(("listenUDP takes a DatagramProtocol, not a %s"):format(type(protocol)), LEVEL - 1)
  end
  local known = { interface = "string", maxPacketSize = "number", reuse = "boolean", broadcast = "boolean" }
  opts = options("listenUDP", opts, known)
  local endpoint = { type = "udp", port = port, interface = opts.interface, maxPacketSize = opts.maxPacketSize }
  endpoint.reuse, endpoint.broadcast = opts.reuse, opts.broadcast
  local host, size = opts.interface, opts.maxPacketSize
  if host and not isAddress(host) then
    error(("listenUDP: '%s' is no IP address"):format(host), LEVEL - 1)
  elseif size and not (size % 1 == 0 and size >= 1 and size <= 65535) then
    error(("listenUDP: maxPacketSize is a number from 1 to 65535, not %s"):format(tostring(size)), LEVEL - 1)
  end
  return endpoint
end

--- What connectTCP was given.
---@param host any
---@param port any
---@param factory any
---@param opts any
---@param isAddress fun(text: string): boolean
---@return table endpoint as endpoints.parseClient gives it
function asked.connectTCP(host, port, factory, opts, isAddress)
  needText("connectTCP", "host", host)
  needPort("connectTCP", port, 1)
  definition.need("connectTCP", factory, 3)
  opts = options("connectTCP", opts, { timeout = "number", bindAddress = "any" })
  return {
    type = "tcp",
    host = host,
    port = port,
    timeout = timeoutOf("connectTCP", opts),
    bindAddress = bindAddressOf("connectTCP", opts, isAddress),
  }
end

--- What connectSSL was given.
---@param host any
---@param port any
---@param factory any
---@param opts any
---@param isAddress fun(text: string): boolean
---@return table endpoint as endpoints.parseClient gives it
function asked.connectSSL(host, port, factory, opts, isAddress)
  needText("connectSSL", "host", host)
  needPort("connectSSL", port, 1)
  definition.need("connectSSL", factory, 3)
  local given, others = tlsoptions.split("connectSSL", opts, false, LEVEL)
  others = options("connectSSL", others, { timeout = "number", bindAddress = "any" })
  local endpoint = { host = host, port = port, timeout = timeoutOf("connectSSL", others) }
  endpoint.bindAddress = bindAddressOf("connectSSL", others, isAddress)
  endpoint = secure("connectSSL", endpoint, given, false)
  return endpoint -- no tail call: an error names the caller
end

--- What connectUNIX was given.
---@param path any
---@param factory any
---@param opts any
---@return table endpoint as endpoints.parseClient gives it
function asked.connectUNIX(path, factory, opts)
  needText("connectUNIX", "path", path)
  definition.need("connectUNIX", factory, 3)
  opts = options("connectUNIX", opts, { timeout = "number", tls = "table" })
  local endpoint = { type = "unix", path = path, timeout = timeoutOf("connectUNIX", opts) }
  if opts.tls and not opts.tls.hostname and tlsoptions.verifies(opts.tls) then
    error('connectUNIX: whom to expect is not said: tls = { hostname = NAME }, or { verify = "no" }', LEVEL - 1)
  end
  return opts.tls and secure("connectUNIX", endpoint, opts.tls, false) or endpoint
end

-- A pseudo-terminal: true, or its size.
local function ptyOf(pty)
  local size = type(pty) == "table" and pty or {}
  if pty ~= nil and type(pty) ~= "boolean" and type(pty) ~= "table" then
    error(("spawnProcess: pty is true or { rows =, columns = }, not %s"):format(tostring(pty)), LEVEL)
  end
  for _, name in ipairs { "rows", "columns" } do
    local value = size[name]
    if value ~= nil and (type(value) ~= "number" or not (value >= 1 and value <= 65535)) then
      error(("spawnProcess: %s of a terminal is a number from 1 to 65535, not %s"):format(name, tostring(value)), LEVEL)
    end
  end
  return pty and true or nil, size
end

local MOST_FDS = 32

-- What is to become of descriptors: those of the process, in any order.
local function childFDsOf(given)
  local fds = {}
  for fd, what in pairs(given or { [0] = "w", [1] = "r", [2] = "r" }) do
    local isFD = type(fd) == "number" and fd % 1 == 0 and fd >= 0 and fd < 1024
    local ours = type(what) == "number" and what % 1 == 0 and what >= 0
    if not isFD or not (what == "r" or what == "w" or what == "inherit" or ours) then
      error(('spawnProcess: childFDs: [%s] = %s is none of "r", "w", "inherit" and a descriptor'):format(
        tostring(fd), tostring(what)), LEVEL)
    end
    fds[#fds + 1] = { fd = fd, mode = ours and "given" or what, given = ours and what or fd }
  end
  if #fds > MOST_FDS then
    error(("spawnProcess: at most %d childFDs"):format(MOST_FDS), LEVEL)
  end
  return fds
end

local function needPlainText(what, text)
  if type(text) ~= "string" then
    error(("spawnProcess: %s is a string, not a %s"):format(what, type(text)), LEVEL + 1)
  elseif text:find("\0", 1, true) then
    error(("spawnProcess: %s has a zero byte"):format(what), LEVEL + 1)
  end
end

local function needTexts(path, args, opts)
  needPlainText("the path", path)
  needPlainText("cwd", opts.cwd or "")
  for i, text in ipairs(args) do
    needPlainText(("argument %d"):format(i), text)
  end
  for name, value in pairs(opts.env or {}) do
    needPlainText("the name of a variable", name)
    if name == "" or name:find("=", 1, true) then
      error(("spawnProcess: '%s' is no name of a variable"):format(name), LEVEL)
    end
    needPlainText(name, tostring(value))
  end
end

--- What spawnProcess was given.
---@param receiver any
---@param path any
---@param args any
---@param opts any
---@return table plan `{ path, args, env, cwd, uid, gid, pty, rows, columns }`
---@return table[] fds `{ fd, mode, given }`
function asked.spawnProcess(receiver, path, args, opts)
  if type(receiver) ~= "table" or class.is(receiver) then
    error("spawnProcess takes a protocol: an instance, not a class", LEVEL - 1)
  elseif args ~= nil and type(args) ~= "table" then
    error(("spawnProcess takes its arguments as a list, not a %s"):format(type(args)), LEVEL - 1)
  end
  opts = options("spawnProcess", opts, {
    env = "table", cwd = "string", uid = "number", gid = "number", pty = "any", childFDs = "table",
  })
  args = args and #args > 0 and args or { path }
  needTexts(path, args, opts)
  local pty, size = ptyOf(opts.pty)
  local plan = { path = path, args = args, pty = pty, rows = size.rows, columns = size.columns }
  plan.env, plan.cwd, plan.uid, plan.gid = opts.env, opts.cwd, opts.uid, opts.gid
  return plan, childFDsOf(opts.childFDs)
end

--- What resolve was given.
---@param name any
---@param opts any
---@return table opts
function asked.resolve(name, opts)
  if type(name) ~= "string" then
    error(("resolve takes a name, not a %s"):format(type(name)), LEVEL - 1)
  end
  opts = options("resolve", opts, { timeout = "number" })
  if opts.timeout and not (opts.timeout >= 0 and opts.timeout < math.huge) then
    error(("resolve: timeout is a number of seconds, not %s"):format(tostring(opts.timeout)), LEVEL - 1)
  end
  return opts
end

--- What callWhenRunning was given.
---@param f any
function asked.callWhenRunning(f)
  if type(f) ~= "function" then
    error(("callWhenRunning takes a function, not a %s"):format(type(f)), LEVEL - 1)
  end
end

local events = { startup = true, shutdown = true }
local phases = { before = true, during = true, after = true }

--- What addSystemEventTrigger was given; its own function calls the one that calls this.
---@param phase any
---@param event any
---@param f any
function asked.trigger(phase, event, f)
  if not phases[phase] then
    error(("addSystemEventTrigger: a phase is before, during or after, not %s"):format(tostring(phase)), LEVEL)
  elseif not events[event] then
    error(("addSystemEventTrigger: an event is startup or shutdown, not %s"):format(tostring(event)), LEVEL)
  elseif type(f) ~= "function" then
    error(("addSystemEventTrigger takes a function, not a %s"):format(type(f)), LEVEL)
  end
end

--- What stop was given.
---@param status any
function asked.stop(status)
  if status ~= nil and (type(status) ~= "number" or status % 1 ~= 0 or status < 0 or status > 255) then
    error(("stop takes an exit status from 0 to 255, not %s"):format(tostring(status)), LEVEL - 1)
  end
end

return asked
