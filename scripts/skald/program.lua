-- What the program has open: its services, the phase it is in, and what running code asks for.

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local owner = require "skald.owner"
local ports = require "skald.ports"
local roster = require "skald.roster"
local timers = require "skald.timers"

local C, pointer = core.C, core.pointer
local program = {}

-- One for each host.
local host = {
  phase = "loading", -- then "running"
  checking = false, -- nothing is bound
  services = {}, -- in the order of their coming
  waiting = {}, -- calls of callWhenRunning from elsewhere than a load
  options = {}, -- of the command line
  trial = nil, -- the run of the tests, where this host runs any
}

program.host = host

--- One line on standard error, for whoever started the program.
function program.complain(format, ...)
  io.stderr:write(format:format(...), "\n")
end

--- Says on standard output that something listens; while tests run, that is the place of their results.
---@param listener Listener
function program.announce(listener)
  local line = not host.trial and listener:announcement()
  if line then
    print(line)
  end
end

--- Calls `f(...)`; what it starts belongs to `who`, what it raises is logged.
---@param who Owner?
---@param f function
---@param ... any
function program.guarded(who, f, ...)
  local ok, problem = owner.call(who, core.traceback, f, ...)
  if not ok then
    log.error("%s", problem)
  end
end

-- --- services ---------------------------------------------------------------------------------

---@class Service
---@field name string unlike that of any other
---@field base string the script's own name
---@field file string the script, as errors name it
---@field text string? of a bundled one
---@field folder string? where its modules lie
---@field options table<string, string>
---@field generation Generation? the active one
---@field kept table what `persist` keeps
---@field factories table<Factory, true> the living ones
---@field old table[] generations that were
---@field last table? how the last reload went
---@field refused integer reloads that were
---@field leaving boolean? it is being unloaded

--- The service of that name.
---@param name string
---@return Service?
function program.find(name)
  for _, service in ipairs(host.services) do
    if service.name == name then
      return service
    end
  end
  return nil
end

local function freeName(base)
  local name, count = base, 1
  while program.find(name) do
    count = count + 1
    name = ("%s-%d"):format(base, count)
  end
  return name
end

--- Adds a service, which is yet to be loaded.
---@param script { file: string, text: string?, folder: string?, options: table }
---@return Service
function program.add(script)
  local base = script.file:match "([^/]+)$":gsub("%.lua$", "")
  local service = {
    name = freeName(base),
    base = base,
    file = script.file,
    text = script.text,
    folder = script.folder,
    options = script.options,
    kept = {},
    factories = setmetatable({}, { __mode = "k" }),
    old = {},
    orphans = setmetatable({}, { __mode = "v" }), -- classes that nothing succeeded, by their names
    refused = 0,
  }
  host.services[#host.services + 1] = service
  return service
end

--- Forgets a service.
---@param service Service
function program.remove(service)
  for i, other in ipairs(host.services) do
    if other == service then
      table.remove(host.services, i)
      return
    end
  end
end

-- Its own code may be running: the nearest function of it says so.
local function callingGeneration()
  local who = owner.current
  return who and who.generation or require("skald.loader").running(3)
end

-- --- listening --------------------------------------------------------------------------------

-- A port under `check`: nothing is bound.
local function fakePort(endpoint)
  local address = require "skald.address"
  local here = endpoint.type == "stdio" and address.named "STDIO"
  local name = endpoint.interface or "0.0.0.0"
  local kind = (endpoint.type == "udp" and "UDP" or "TCP") .. (name:find(":", 1, true) and "6" or "")
  local path = endpoint.path or not endpoint.port and ports.key(endpoint)
  local asked = here or path and address.unix(path) or address.inet(kind, name, endpoint.port)
  return {
    getHost = function()
      return asked
    end,
    stopListening = function()
      return require("skald.deferred").succeed()
    end,
  }
end

local function bindProblem(name, endpoint, message, code)
  return require("skald.reload").bindProblem(name, endpoint, message, code)
end

-- Asked for while a generation loads: bound or adopted now, serving once that is committed.
local function listenForLoad(generation, definition, endpoint)
  if generation.entries then
    error("listening is for the script's load, and for what runs: not for a migrate", 0)
  end
  local name = definition.name or generation.service.base
  local listener
  local ok, message, code = generation:secure(endpoint, true)
  if ok then
    listener, message, code = generation:obtain(endpoint, endpoint.backlog or definition.backlog)
  end
  local port = listener and ports.new(listener) or {}
  port.definition, port.endpoint, port.held = definition, endpoint, generation
  generation.ports[#generation.ports + 1] = port
  if listener then
    return port
  elseif not ok then
    return nil, message, code -- that refuses the load (reload.check)
  end
  port.problem = bindProblem(name, endpoint, message, code)
  if not generation.service.generation then
    program.complain("skald: %s", port.problem)
  end
  return nil, message, code
end

local function listenNow(generation, definition, endpoint)
  local factory = roster.factoryOf(definition)
  local name = factory.name or generation and generation.service.base or "?"
  local group, message, code = roster.groupOf(factory)
  local listener
  local ok = group ~= nil
  if ok and endpoint.type == "tls" then
    ok, message, code = require("skald.tls").prepare(endpoint, true)
  end
  if ok then
    listener, message, code = ports.bind(group, endpoint, endpoint.backlog or factory.backlog)
  end
  if not listener then
    program.complain("skald: %s", bindProblem(name, endpoint, message, code))
    return nil, message, code
  end
  local service, who = generation and generation.service, owner.current
  listener.service = service
  listener:serve(factory, name)
  listener:secure(endpoint.context)
  if service then
    service.factories[factory] = true
  end
  if who and who.generation then
    table.insert(who.generation.obtained, { listener = listener, fresh = false })
  elseif who and not who.ended then
    listener.owner = who
    who.listeners[listener] = true
  end
  return listener
end

local function startNow(listener)
  local ok, problem = listener:start()
  if not ok then
    listener:close()
    error(problem:match "^(.-)\nstack traceback:" or problem, 0)
  end
  program.announce(listener)
  listener:accept()
end

--- What reactor.listenTCP and listenUNIX do.
---@param definition table
---@param endpoint table
---@return table? port or nil, message, code
---@return string? message
---@return string? code
function program.listen(definition, endpoint)
  local generation = callingGeneration()
  if host.checking then
    local port = fakePort(endpoint)
    if generation then
      table.insert(generation.ports, { definition = definition, endpoint = endpoint })
    end
    return port
  end
  local who = owner.current
  if who and who.generation and who.generation.loading then
    return listenForLoad(who.generation, definition, endpoint)
  end
  local listener, message, code = listenNow(generation, definition, endpoint)
  if not listener then
    return nil, message, code
  end
  startNow(listener)
  return ports.new(listener)
end

-- --- connecting -------------------------------------------------------------------------------

--- What reactor.connectTCP and connectUNIX do. Asked for while a script loads, connecting waits until
--- that is committed, and a connector that lives already goes on instead.
---@param definition table
---@param endpoint table
---@return Connector
function program.connect(definition, endpoint)
  local connectors = require "skald.connectors"
  local generation, who = callingGeneration(), owner.current
  if host.checking or who and who.generation and who.generation.loading then
    if generation.entries then
      error("connecting is for the script's load, and for what runs: not for a migrate", 0)
    end
    local connector = connectors.new(nil, endpoint)
    connector.held = true
    table.insert(generation.clients, { definition = definition, endpoint = endpoint, connector = connector })
    return connector
  end
  local connector = connectors.new(roster.factoryOf(definition), endpoint)
  program.enlist(connector.factory)
  connector:belong(who)
  connector:connect()
  return connector
end

--- Has a factory end with the service whose code asks for it.
---@param factory Factory
function program.enlist(factory)
  local generation = callingGeneration()
  if generation then
    generation.service.factories[factory] = true
  end
end

--- What a client endpoint does: connects once, and tells its factory of nothing.
---@param definition table
---@param endpoint table
---@return Deferred d of the protocol
function program.connectOnce(definition, endpoint)
  local connectors = require "skald.connectors"
  local connector = connectors.new(roster.factoryOf(definition), endpoint)
  connector.once = true
  program.enlist(connector.factory)
  return connector:connectOnce(owner.current)
end

--- Calls `f(...)` once the service that asks runs; at once where it does.
function program.whenRunning(f, ...)
  local who = owner.current
  local generation = who and who.generation
  if generation and generation.loading then
    table.insert(generation.waiting, { f, select("#", ...), ... })
  elseif host.phase == "loading" then
    table.insert(host.waiting, { f, select("#", ...), owner = who, ... })
  else
    f(...)
  end
end

-- --- the life of the host ---------------------------------------------------------------------

-- Calls what scripts asked for with addSystemEventTrigger, where any did.
local function fire(phase, event)
  local triggers = package.loaded["skald.triggers"]
  return triggers and triggers.fire(phase, event)
end

--- The loop is about to run.
function program.running()
  host.phase = "running"
  fire("before", "startup")
  fire("during", "startup")
  for _, change in ipairs(host.starting) do
    change:accept()
    change:conclude()
  end
  for _, change in ipairs(host.starting) do
    change:callWaiting()
  end
  host.starting = nil
  for _, call in ipairs(host.waiting) do
    program.guarded(call.owner, call[1], unpack(call, 3, 2 + call[2]))
  end
  host.waiting = nil
  fire("after", "startup")
  if host.options.watch then
    require("skald.watch").start()
  end
end

--- Calls what a generation asked for its end.
---@param generation Generation
function program.dispose(generation)
  for _, dispose in ipairs(generation.disposers) do
    program.guarded(nil, dispose)
  end
end

local function stopConnectors()
  local connectors = package.loaded["skald.connectors"]
  if connectors then
    connectors.stopAll()
  end
end

--- The host is to stop: what was asked for before that has as long as --grace says.
function program.stopping()
  host.phase = "stopping"
  local over, drains
  local function drain()
    if drains then
      return
    end
    drains = true
    if over then
      over:cancel()
    end
    fire("during", "shutdown")
    stopConnectors()
    if package.loaded["skald.process"] then
      require("skald.process").stopAll()
    end
    C.skald_drain(pointer)
  end
  local waits = fire("before", "shutdown")
  if not waits then
    drain()
    return
  end
  over = timers.own(host.options.grace, function()
    over = nil
    log.warning "grace is over: triggers before shutdown have not ended"
    waits:cancel()
    drain() -- whatever comes of that
  end)
  waits:addBoth(drain)
end

-- What was written is to be in its files: that has as long as --grace says.
local function filesAreDone(turn)
  local files = package.loaded["skald.files"]
  return not files or files.drain(host.options.grace, function()
    turn.last()
    C.skald_finish(pointer)
  end)
end

--- The last connection is gone: factories end, then services, then files.
---@return boolean ended false: C.skald_finish is called when the files are done
function program.stopped()
  local turn = require "skald.turn"
  stopConnectors() -- those that the last callbacks made
  turn.last()
  for _, listener in pairs(dispatch.ports) do
    listener:close()
  end
  for _, service in ipairs(host.services) do
    if service.generation then
      program.dispose(service.generation)
    end
  end
  fire("after", "shutdown")
  stopConnectors() -- and those of the triggers, which nothing can come of
  turn.last()
  return filesAreDone(turn)
end

-- What the host is to exit with.
local exitStatus = 0

--- Stops the host in order; where a load asks for it, once that is committed.
---@param status integer? of the exit; the first one that is not 0 stands
function program.stop(status)
  if host.trial then
    error("reactor.stop would end the run of the tests", 0)
  end
  program.whenRunning(function()
    exitStatus = exitStatus ~= 0 and exitStatus or status or 0
    C.skald_stop(pointer, exitStatus)
  end)
end

return program
