-- Scripts named on the command line become services that listen. What stands here is needed once:
-- when the host runs, the module is forgotten.

local check = require "skald.check"
local class = require "skald.class"
local core = require "skald.core"
local endpoints = require "skald.endpoints"
local loader = require "skald.loader"
local log = require "skald.log"
local ports = require "skald.ports"
local program = require "skald.program"
local protocol = require "skald.protocol"

local launch = {}
local host = program.host
local complain, handler = program.complain, program.handler

-- A raised value as one line; the traceback goes to the log for those who ask.
local function complainOf(text)
  local message, trace = text:match "^(.-)\n(stack traceback:.*)$"
  message = message or text
  complain("%s", message:find "^[^:]+:%d+:" and message or "skald: " .. message)
  if trace then
    log.debug("%s", trace)
  end
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
      if not program.open(factory, endpoints.parseServer(text), factory.name or service.name) then
        return false
      end
    end
  end
  return true
end

local function startAll()
  for _, port in ipairs(host.opened) do
    if port:isOpen() then
      local ok, problem = xpcall(port.start, handler, port)
      if not ok then
        complainOf(problem)
        return false
      end
    end
  end
  for _, port in ipairs(host.opened) do
    if port:isOpen() then
      print(port:announcement())
    end
  end
  io.stdout:flush()
  return true
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
function launch.start(command, words)
  local scripts, message = readWords(words)
  if not scripts then
    complain("skald: %s", message)
    return false
  end
  return commands[command](scripts)
end

return launch
