-- The program's Lua half: scripts named on the command line become services that listen.

local check = require "skald.check"
local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local endpoints = require "skald.endpoints"
local loader = require "skald.loader"
local log = require "skald.log"
local ports = require "skald.ports"
local protocol = require "skald.protocol"

local program = {}

-- One for each host: the phase it is in, and what is loaded.
local host = {
  phase = "loading", -- then "running"
  checking = false, -- nothing is bound
  services = {},
  current = nil, -- the service whose script runs
  opened = {}, -- ports, in the order of opening
  waiting = {}, -- calls of callWhenRunning
}

local function complain(format, ...)
  io.stderr:write(format:format(...), "\n")
end

-- A raised value as one line; the traceback goes to the log for those who ask.
local function complainOf(text)
  local message, trace = text:match "^(.-)\n(stack traceback:.*)$"
  message = message or text
  complain("%s", message:find "^[^:]+:%d+:" and message or "skald: " .. message)
  if trace then
    log.debug("%s", trace)
  end
end

local function handler(problem)
  return debug.traceback(tostring(problem), 2)
end

-- --- the words of the command line ------------------------------------------------------------

local function findScript(word)
  local bundled = not word:find "[/.]" and core.bundled("services/" .. word .. ".lua")
  if bundled then
    return { file = "services/" .. word .. ".lua", text = bundled }
  end
  local text, message = loader.readFile(word)
  if text then
    return { file = word, text = text, folder = word:match "^(.*)/[^/]*$" or "." }
  end
  if message:find "No such file" then
    local names = {}
    for _, name in ipairs(core.bundledNames "services/") do
      names[#names + 1] = name:match "^([%w_-]+)%.lua$"
    end
    message = ("%s: no such script, nor a bundled service (%s)"):format(word, table.concat(names, ", "))
  end
  return nil, message
end

-- Scripts, each followed by its key=value words.
local function readWords(words)
  local found = {}
  for _, word in ipairs(words) do
    local key, value = word:match "^([%a_][%w_-]*)=(.*)$"
    if not key then
      local script, message = findScript(word)
      if not script then
        return nil, message
      end
      script.options = {}
      found[#found + 1] = script
    elseif #found == 0 then
      return nil, ("'%s' stands before any script"):format(word)
    else
      found[#found].options[key] = value
    end
  end
  return found
end

-- --- loading ----------------------------------------------------------------------------------

-- What a script returned as a list of definitions.
local function definitionsOf(service, result)
  if result == nil then
    return {}
  end
  if type(result) ~= "table" then
    error(("%s:1: the script returned a %s, not a definition"):format(service.file, type(result)), 0)
  end
  local isList = result[1] ~= nil and not class.is(result) and not class.of(result)
  local list = isList and result or { result }
  for i, definition in ipairs(list) do
    local owner = class.is(definition) and definition or class.of(definition)
    if type(definition) ~= "table" then
      error(("%s:1: number %d of the list is a %s, not a definition"):format(service.file, i, type(definition)), 0)
    end
    if owner and not class.derives(owner, protocol.Factory) then
      error(("%s:1: the script returned a protocol: return { listen = …, protocol = … }"):format(service.file), 0)
    end
  end
  return list
end

local function checkAll(service, definitions)
  local names, problems = {}, {}
  for i, definition in ipairs(definitions) do
    local endpoint = i == 1 and service.options.listen or nil
    if endpoint then
      local ok, message = endpoints.parseServer(endpoint)
      if not ok then
        problems[#problems + 1] = ("skald: %s: listen: %s"):format(service.name, message)
      end
    end
    for _, problem in ipairs(check.definition(definition, service.file, service.text, endpoint)) do
      problems[#problems + 1] = problem
    end
    local name = definition.name
    if name and names[name] then
      problems[#problems + 1] = ("%s:1: two factories are called '%s'"):format(service.file, tostring(name))
    end
    names[name or false] = name
  end
  for _, problem in ipairs(problems) do
    complain("%s", problem)
  end
  return #problems == 0
end

local function load(script)
  local service = loader.new(script.file, script.text, script.folder, script.options)
  host.services[#host.services + 1] = service
  host.current = service
  local before = #host.opened
  local ok, result = xpcall(function()
    return definitionsOf(service, service:load())
  end, handler)
  if not ok then
    complainOf(result)
    return nil
  end
  if not checkAll(service, result) then
    return nil
  end
  for _, warning in ipairs(service:warnings()) do
    log.warning("%s", warning)
  end
  if #result == 0 and #host.opened == before and #host.waiting == 0 then
    log.warning("%s: returned no definition and listens on nothing", service.file)
  end
  service.definitions = result
  return service
end

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

local function open(factory, endpoint, name)
  local port, message, code = ports.open(factory, endpoint, name)
  if not port then
    local hint = hints[code] and (" (%s)"):format(hints[code]) or ""
    complain("skald: %s: %s: %s%s", name, describe(endpoint), message, hint)
    return nil, message, code
  end
  host.opened[#host.opened + 1] = port
  return port
end

-- The endpoints of a definition, as strings.
local function endpointsOf(definition, override)
  local listen = override or definition.listen
  return type(listen) == "table" and listen or { listen }
end

local function bindAll(service)
  for i, definition in ipairs(service.definitions) do
    local override = i == 1 and service.options.listen or nil
    local factory = ports.factoryOf(definition)
    for _, text in ipairs(endpointsOf(definition, override)) do
      if not open(factory, endpoints.parseServer(text), factory.name or service.name) then
        return false
      end
    end
  end
  return true
end

local function startAll()
  for _, port in ipairs(host.opened) do
    local ok, problem = xpcall(port.start, handler, port)
    if not ok then
      complainOf(problem)
      return false
    end
  end
  for _, port in ipairs(host.opened) do
    print(port:announcement())
  end
  io.stdout:flush()
  return true
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
  local name = factory.name or (host.current and host.current.name) or "?"
  local port, message, code = open(factory, endpoint, name)
  if port and host.phase == "running" then
    port:start()
    print(port:announcement())
    port:accept()
  end
  return port, message, code
end

-- --- commands ---------------------------------------------------------------------------------

local commands = {}

function commands.check(scripts)
  host.checking = true
  local ok = true
  for _, script in ipairs(scripts) do
    if load(script) then
      print(("%s: ok"):format(script.file))
    else
      ok = false
    end
  end
  return ok
end

function commands.run(scripts)
  for _, script in ipairs(scripts) do
    if not load(script) then
      return false
    end
  end
  for _, service in ipairs(host.services) do
    host.current = service
    if not bindAll(service) then
      return false
    end
  end
  host.current = nil
  return startAll()
end

--- Starts a command with its words; whether it succeeded.
---@param command string
---@param words string[]
---@return boolean
function program.start(command, words)
  local scripts, message = readWords(words)
  if not scripts then
    complain("skald: %s", message)
    return false
  end
  return commands[command](scripts)
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
  local ok, problem = xpcall(f, handler, ...)
  if not ok then
    log.error("%s", problem)
  end
end

--- The loop is about to run.
function program.running()
  host.phase = "running"
  for _, port in ipairs(host.opened) do
    port:accept()
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
