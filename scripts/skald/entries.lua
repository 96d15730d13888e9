-- What a script returned, read and checked: from definitions to the entries of a generation, which are matched
-- with those that live. What is wrong ends the change (refusal.lua).

local check = require "skald.check"
local class = require "skald.class"
local endpoints = require "skald.endpoints"
local factories = require "skald.factories"
local ports = require "skald.ports"
local protocol = require "skald.protocol"
local refusal = require "skald.refusal"

jit.off(true, true) -- runs once in a while: nothing of it is worth a trace

local refuse = refusal.refuse
local entries = {}

--- What a script returned as a list of definitions.
---@param service table
---@param result any
---@return table[]
function entries.definitionsOf(service, result)
  if result == nil then
    return {}
  end
  if type(result) ~= "table" then
    error(("%s:1: the script returned a %s, not a definition"):format(service.file, type(result)), 0)
  end
  local isList = result[1] ~= nil and not class.is(result) and not class.of(result)
  local list = isList and result or { result }
  for i, definition in ipairs(list) do
    local made = class.is(definition) and definition or class.of(definition)
    if type(definition) ~= "table" then
      error(("%s:1: number %d of the list is a %s, not a definition"):format(service.file, i, type(definition)), 0)
    end
    if made and not class.derives(made, protocol.Factory) then
      error(("%s:1: the script returned a protocol: return { listen = …, protocol = … }"):format(service.file), 0)
    end
  end
  return list
end

--- Calls code of the new generation as its load does.
---@param generation Generation
---@param f function
---@param ... any
---@return any
function entries.entering(generation, f, ...)
  local results = { pcall(generation.enter, generation, f, ...) }
  if not results[1] then
    refuse { generation:describe(results[2]) }
  end
  return unpack(results, 2)
end

-- What the command line says instead of the first definition: where to listen, and, if it connects,
-- where to.
local function overrides(change, i)
  local options = change.service.options
  if i > 1 then
    return {}
  end
  return { listen = options.listen, connect = change.definitions[1].connect ~= nil and options.connect or nil }
end

local function checkOverrides(change, problems)
  local name = change.service.name
  local given = #change.definitions > 0 and overrides(change, 1) or {}
  for key, parse in pairs { listen = endpoints.parseServer, connect = endpoints.parseClient } do
    local ok, message = true, nil
    if given[key] then
      ok, message = parse(given[key])
    end
    if not ok then
      problems[#problems + 1] = ("%s: %s: %s"):format(name, key, message)
    end
  end
end

--- Definitions and what the command line says instead.
---@param change Change
function entries.checkDefinitions(change)
  local service, generation = change.service, change.generation
  local problems = {}
  checkOverrides(change, problems)
  for i, definition in ipairs(change.definitions) do
    for _, problem in ipairs(check.definition(definition, service.file, generation:text(), overrides(change, i))) do
      problems[#problems + 1] = problem
    end
  end
  if #problems > 0 then
    refuse(problems)
  end
end

local function asList(value)
  return type(value) == "table" and value or { value }
end

-- The endpoints that a definition listens on.
local function endpointsOf(definition, override)
  local list = {}
  for i, text in ipairs(asList(override or definition.listen)) do
    list[i] = endpoints.socketOf(endpoints.parseServer(text))
    list[i].key = ports.key(list[i])
  end
  return list
end

-- What a definition connects to.
local function addClients(entry, definition, override)
  for _, text in ipairs(asList(override or definition.connect)) do
    local endpoint = endpoints.parseClient(text)
    local key = require("skald.connectors").key(endpoint)
    table.insert(entry.clients, { key = key, endpoint = endpoint, persistent = true })
  end
end

--- Factories that the script returned, and those that it gave to listenTCP and the like.
---@param change Change
---@return table[]
function entries.read(change)
  local service, generation = change.service, change.generation
  local list, byDefinition = {}, {}
  local function add(definition, sockets)
    local entry = entries.entering(generation, factories.read, definition, sockets, service.base)
    byDefinition[definition] = entry
    list[#list + 1] = entry
    return entry
  end
  for i, definition in ipairs(change.definitions) do
    local given = overrides(change, i)
    addClients(add(definition, endpointsOf(definition, given.listen)), definition, given.connect)
  end
  for _, port in ipairs(generation.ports) do
    if port.listener then
      local entry = byDefinition[port.definition] or add(port.definition, {})
      port.endpoint.key = ports.key(port.endpoint)
      port.endpoint.listener = port.listener
      entry.endpoints[#entry.endpoints + 1] = port.endpoint
    end
  end
  for _, client in ipairs(generation.clients) do
    local entry = byDefinition[client.definition] or add(client.definition, {})
    client.key = client.connector.key
    table.insert(entry.clients, client)
  end
  return list
end

-- The line of the script that says where to find what could not be read.
local function lineOf(generation, message)
  local path = message:match "^(.-): "
  local line, found, listens = 0, nil, nil
  for text in (generation:text() .. "\n"):gmatch "(.-)\n" do
    line = line + 1
    found = found or path and text:find(path, 1, true) and line
    listens = listens or text:find "tls:" and line
  end
  return found or listens or 1
end

--- Certificates are read now: a bad one refuses the load.
---@param change Change
function entries.loadCertificates(change)
  local generation, problems = change.generation, {}
  local function load(endpoint, server)
    local ok, message = generation:secure(endpoint, server)
    if not ok then
      problems[#problems + 1] = ("%s:%d: %s"):format(change.service.file, lineOf(generation, message), message)
    end
  end
  for _, port in ipairs(generation.ports) do
    load(port.endpoint, true)
  end
  for _, entry in ipairs(generation.entries) do
    for _, endpoint in ipairs(entry.endpoints) do
      load(endpoint, true)
    end
    for _, client in ipairs(entry.clients) do
      load(client.endpoint, false)
    end
  end
  if #problems > 0 then
    refuse(problems)
  end
end

--- No two factories have one name.
---@param change Change
function entries.checkNames(change)
  local names, file = {}, change.service.file
  for _, entry in ipairs(change.generation.entries) do
    if entry.name and names[entry.name] then
      refuse { ("%s:1: two factories are called '%s'"):format(file, tostring(entry.name)) }
    end
    names[entry.name or false] = true
  end
end

return entries
