-- What the program has open and what waits until it runs.

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local ports = require "skald.ports"

local program = {}

-- One for each host: the phase it is in, and what is loaded.
local host = {
  phase = "loading", -- then "running"
  checking = false, -- nothing is bound
  services = {},
  current = nil, -- the service whose script runs
  opened = {}, -- ports, in the order of opening, until the host runs
  waiting = {}, -- calls of callWhenRunning
}

program.host = host

--- One line on standard error, for whoever started the program.
function program.complain(format, ...)
  io.stderr:write(format:format(...), "\n")
end

program.handler = core.traceback

-- --- listening --------------------------------------------------------------------------------

local hints = {
  EADDRINUSE = "choose another with listen=ENDPOINT",
  EACCES = "ports below 1024 and foreign folders take privileges",
  EADDRNOTAVAIL = "this machine has no such address",
}

local function describe(endpoint)
  if endpoint.type == "unix" then
    return "unix:" .. endpoint.path
  end
  local name = endpoint.interface or "0.0.0.0"
  return ("tcp:%s:%d"):format(name:find(":", 1, true) and "[" .. name .. "]" or name, endpoint.port)
end

--- Binds for a factory; says on standard error why not.
---@param factory Factory
---@param endpoint table
---@param name string
---@return Port? port or nil, message, code
---@return string? message
---@return string? code
function program.open(factory, endpoint, name)
  local port, message, code = ports.open(factory, endpoint, name)
  if not port then
    local hint = hints[code] and (" (%s)"):format(hints[code]) or ""
    program.complain("skald: %s: %s: %s%s", name, describe(endpoint), message, hint)
    return nil, message, code
  end
  if host.phase == "loading" then
    host.opened[#host.opened + 1] = port
  end
  return port
end

-- A port asked for by the script itself.
local function fakePort(endpoint)
  local address = require "skald.address"
  local name = endpoint.interface or "0.0.0.0"
  local asked = endpoint.type == "unix" and address.unix(endpoint.path)
    or address.inet(name:find(":", 1, true) and "TCP6" or "TCP", name, endpoint.port)
  return {
    getHost = function()
      return asked
    end,
    stopListening = function()
      return true
    end,
  }
end

-- The name of the service whose code is running: that of the nearest function in its environment.
local function callingService()
  local level = 2
  while debug.getinfo(level, "f") do
    local environment = getfenv(level)
    for _, service in ipairs(host.services) do
      if service.environment == environment then
        return service.name
      end
    end
    level = level + 1
  end
  return host.current and host.current.name
end

--- What reactor.listenTCP and listenUNIX do.
---@param definition table
---@param endpoint table
---@return table? port or nil, message, code
---@return string? message
---@return string? code
function program.listen(definition, endpoint)
  local factory = ports.factoryOf(definition)
  if host.checking then
    local port = fakePort(endpoint)
    host.opened[#host.opened + 1] = port
    return port
  end
  local name = factory.name or callingService() or "?"
  local port, message, code = program.open(factory, endpoint, name)
  if port and host.phase == "running" then
    local ok, problem = pcall(port.start, port)
    if not ok then
      port:stopListening()
      error(problem, 0)
    end
    print(port:announcement())
    port:accept()
  end
  return port, message, code
end

--- Calls `f(...)` once the host runs; at once where it does.
function program.whenRunning(f, ...)
  if host.phase == "running" then
    f(...)
    return
  end
  host.waiting[#host.waiting + 1] = { f, select("#", ...), ... }
end

local function guarded(f, ...)
  local ok, problem = xpcall(f, program.handler, ...)
  if not ok then
    log.error("%s", problem)
  end
end

--- The loop is about to run.
function program.running()
  host.phase = "running"
  local opened = host.opened
  host.opened = {}
  for _, port in ipairs(opened) do
    if port:isOpen() then
      guarded(port.accept, port)
    end
  end
  local waiting = host.waiting
  host.waiting = {}
  for _, call in ipairs(waiting) do
    guarded(call[1], unpack(call, 3, 2 + call[2]))
  end
end

--- The last connection is gone: factories end, then services.
function program.stopped()
  for _, port in pairs(dispatch.ports) do
    guarded(port.stopListening, port)
  end
  for _, service in ipairs(host.services) do
    for _, dispose in ipairs(service.disposers) do
      guarded(dispose)
    end
  end
end

return program
