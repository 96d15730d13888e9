-- A generation comes to life: load first, commit at once, unload last. The same steps start a
-- service, load one into a running host, and reload one; only a reload has a former generation.
-- Nothing here changes the running service before `commit`, and what can fail comes before that.

local backup = require "skald.backup"
local core = require "skald.core"
local entries = require "skald.entries"
local factories = require "skald.factories"
local loader = require "skald.loader"
local log = require "skald.log"
local owner = require "skald.owner"
local ports = require "skald.ports"
local program = require "skald.program"
local protocol = require "skald.protocol"
local refusal = require "skald.refusal"
local report = require "skald.report"
local roster = require "skald.roster"
local timers = require "skald.timers"

jit.off(true, true) -- runs once in a while: nothing of it is worth a trace

local C, pointer = core.C, core.pointer
local plain, refuse = refusal.plain, refusal.refuse

local reload = {}

---@class Change
---@field service table
---@field former Generation? the one that runs
---@field generation Generation? the one that is to run
---@field report table
local Change = {}
Change.__index = Change

--- A change that is yet to be made.
---@param service table
---@param options { running: boolean?, forced: boolean? }? into a host that runs; whatever it takes away
---@return Change
function reload.new(service, options)
  local former = service.generation
  return setmetatable({
    service = service,
    former = former,
    connected = {}, -- connectors of the former generation that go on
    options = options or {},
    report = report.new(service),
  }, Change)
end

-- --- refusing ---------------------------------------------------------------------------------

local forItsOwnSake = { compile = true, load = true, check = true }

-- What was refused, so that it is not tried again before it has changed.
function Change:remember(generation)
  local texts = {}
  for path, source in pairs(generation.sources) do
    texts[path] = source.text
  end
  for path, text in pairs(generation.files) do
    texts[path] = text
  end
  self.service.tried = { texts = texts, files = generation.files, misses = generation.misses, report = self.report }
end

-- Puts back everything that was prepared.
function Change:takeBack()
  local generation = self.generation
  for _, old in ipairs(self.former and self.former.entries or {}) do
    old.successor = nil
  end
  self.generation = nil
  if not generation then
    return
  end
  if forItsOwnSake[self.report.phase] then
    self:remember(generation)
  end
  program.dispose(generation)
  backup.restore(generation.backup)
  generation.loading = false
  generation.owner:finish()
  generation:giveBack()
  jit.flush() -- traces would keep what was thrown away
end

-- Runs a phase, and notes how long it took.
local function timed(change, phase)
  local before = C.skald_seconds(pointer)
  local ok, problem = xpcall(Change[phase], refusal.handler, change)
  local spent = (C.skald_seconds(pointer) - before) * 1000
  change.report.phases[phase] = spent
  log.debug("reload %s: %s took %.3f ms", change.service.name, phase, spent)
  return ok, problem
end

--- Runs phases that may fail, one after the other. False: the service stays as it was, and the
--- report says why.
---@param ... string
---@return boolean
function Change:run(...)
  for _, phase in ipairs { ... } do
    local ok, problem = timed(self, phase)
    if not ok then
      local made = self.report
      for _, text in ipairs(problem) do
        made.errors[#made.errors + 1] = refusal.errorOf(phase, text)
      end
      made.result = "refused"
      made.phase = phase
      self:takeBack()
      return false
    end
  end
  return true
end

--- Commits what is prepared, and retires what was.
function Change:finish()
  for _, phase in ipairs { "commit", "retire" } do
    local ok, problem = timed(self, phase)
    if not ok then
      log.error("%s", tostring(problem[1]))
    end
  end
  self:conclude()
end

-- --- snapshot ---------------------------------------------------------------------------------

-- Reads every file of the last graph, before anything runs.
function Change:snapshot()
  local service, former = self.service, self.former
  local sources, problems = {}, {}
  local function take(path)
    local source, message, missing = loader.read(path)
    if source then
      sources[path] = source
    elseif not missing or path == service.file then
      problems[#problems + 1] = message
    end
  end
  if service.text then
    sources[service.file] = { path = service.file, real = service.file, text = service.text }
  else
    take(service.file)
  end
  for path in pairs(former and former.sources or {}) do
    if path ~= service.file then
      take(path)
    end
  end
  if #problems > 0 then
    refuse(problems)
  end
  self.sources = sources
end

local function sameTexts(a, b)
  for path, source in pairs(a) do
    if not b[path] or b[path].text ~= source.text then
      return false
    end
  end
  for path in pairs(b) do
    if not a[path] then
      return false
    end
  end
  return true
end

-- Whether files that endpoints have read are as they were.
local function sameFiles(files)
  for path, text in pairs(files) do
    if (loader.readFile(path) or false) ~= text then
      return false
    end
  end
  return true
end

local function anyAppeared(misses)
  for path in pairs(misses) do
    if loader.realPath(path) then
      return true
    end
  end
  return false
end

--- Whether what was read is what runs.
---@return boolean
function Change:isUnchanged()
  local former = self.former
  return former ~= nil and sameTexts(former.sources, self.sources) and sameFiles(former.files)
    and not anyAppeared(former.misses)
end

--- The report of the last refusal, where what was read is what was refused then for its own sake.
---@return table?
function Change:formerRefusal()
  local tried = self.service.tried
  if not tried or anyAppeared(tried.misses) then
    return nil
  end
  for path, text in pairs(tried.texts) do
    local source = self.sources[path] or loader.read(path)
    if not source or source.text ~= text then
      return nil
    end
  end
  for path in pairs(self.sources) do
    if not tried.texts[path] then
      return nil
    end
  end
  return tried.report
end

-- --- compile, load ----------------------------------------------------------------------------

function Change:compile()
  local former = self.former
  local generation = loader.new(self.service, (former and former.number or 0) + 1, self.sources)
  self.generation = generation
  local problems, paths = {}, {}
  for path in pairs(self.sources) do
    paths[#paths + 1] = path
  end
  table.sort(paths)
  for _, path in ipairs(paths) do
    local chunk, message = generation:compile(self.sources[path])
    if not chunk then
      problems[#problems + 1] = message
    end
  end
  if #problems > 0 then
    refuse(problems)
  end
end

function Change:load()
  local generation, former = self.generation, self.former
  local ok, result = pcall(function()
    local given = generation:load()
    if former then
      generation:loadLate(former)
    end
    return given
  end)
  if not ok then
    refuse { generation:describe(result) }
  end
  self.definitions = entries.definitionsOf(self.service, result)
end

-- --- check ------------------------------------------------------------------------------------

-- A listen that failed during load, and for which the script found nothing else.
local function checkPorts(change)
  local generation = change.generation
  for _, port in ipairs(change.options.running and generation.ports or {}) do
    local served = not port.problem
    for _, other in ipairs(generation.ports) do
      served = served or (other.definition == port.definition and other.listener ~= nil)
    end
    if not served then
      refuse { plain("%s", port.problem) }
    end
  end
end

function Change:check()
  local service, generation, former = self.service, self.generation, self.former
  entries.checkDefinitions(self)
  generation.entries = entries.read(self)
  entries.checkNames(self)
  entries.loadCertificates(self)
  factories.number(generation.entries)
  factories.noteClasses(generation)
  if former then
    local ok, message = factories.match(former.entries, generation.entries)
    if not ok then
      refuse { ("%s:1: %s"):format(service.file, message) }
    end
  end
  generation:lookOver()
  if former and #generation.entries == 0 and #former.entries > 0 and not self.options.forced then
    refuse { ("%s:1: returned no definition and listens on nothing, which would end all that is served "
      .. "(unload the service, or --force)"):format(service.file) }
  elseif #generation.entries == 0 and #generation.waiting == 0 and not generation.owner:isBusy() then
    generation:warn(("%s: returned no definition and listens on nothing"):format(service.file))
  end
end

-- --- prepare ----------------------------------------------------------------------------------

-- The socket of the running generation that is in the way of an endpoint.
local function ownRival(former, endpoint)
  for _, item in ipairs(former and former.obtained or {}) do
    local listener = item.listener
    local same = (listener.protocol ~= nil) == (endpoint.type == "udp")
    if listener.handle and listener.address.port == endpoint.port and endpoint.port and same then
      return ("the service itself listens on %s: reload without that first"):format(tostring(listener))
    end
  end
  return nil
end

local function bindAll(change)
  local generation = change.generation
  for _, entry in ipairs(generation.entries) do
    for _, endpoint in ipairs(entry.endpoints) do
      if not endpoint.listener then
        local preferred = entry.predecessor and entry.predecessor.factory
        local backlog = endpoint.backlog or entry.fresh.backlog
        local listener, message, code = generation:obtain(endpoint, backlog, preferred)
        if not listener then
          local own = code == "EADDRINUSE" and ownRival(change.former, endpoint)
          local name = entry.name or change.service.base
          refuse { plain("%s", reload.bindProblem(name, endpoint, message, code, own)) }
        end
        endpoint.listener = listener
      end
    end
  end
end

local hints = {
  EADDRINUSE = "choose another with listen=ENDPOINT",
  EACCES = "ports below 1024 and foreign folders take privileges",
  EADDRNOTAVAIL = "this machine has no such address",
}

--- Why an endpoint could not be bound, in one line.
---@param name string
---@param endpoint table
---@param message string
---@param code string
---@param hint string? the way out; by default that of the code
---@return string
function reload.bindProblem(name, endpoint, message, code, hint)
  hint = hint or hints[code]
  hint = hint and (" (%s)"):format(hint) or ""
  local where = (endpoint.proxied and "haproxy:" or "") .. ports.shown(endpoint)
  return ("%s: %s: %s%s"):format(name, where, message, hint)
end

-- A living factory may refuse its new definition.
local function askFactory(factory, definition)
  if not factory.prepareReload then
    return
  end
  local ok, answer, reason = owner.call(nil, core.traceback, factory.prepareReload, factory, definition)
  if not ok then
    refuse { answer }
  elseif answer == false then
    refuse { plain("%s refuses: %s", factory.name, tostring(reason or "prepareReload gave false")) }
  end
end

local function askFactories(change)
  for _, old in ipairs(change.former.entries) do
    local new = old.successor
    local links = new and factories.links(new) or {}
    for depth, link in ipairs(factories.links(old)) do
      local next = links[depth]
      askFactory(link.factory, next and (next == new and new.definition or next.fresh))
    end
  end
end

-- Connectors that are new are made now, and connect after the commit.
local function makeConnectors(change)
  for _, entry in ipairs(change.generation.entries) do
    for _, client in ipairs(entry.clients) do
      client.connector = client.connector or require("skald.connectors").new(entry.factory, client.endpoint)
    end
  end
end

local function makeGroups(change)
  for _, entry in ipairs(change.generation.entries) do
    local group, message = roster.groupOf(entry.factory)
    if not group then
      refuse { plain("%s", message) }
    end
  end
end

function Change:prepare()
  local generation, former = self.generation, self.former
  if C.skald_is_stopping(pointer) then
    refuse { plain "the host stops" }
  end
  checkPorts(self)
  bindAll(self)
  if former then
    askFactories(self)
    self.plan = factories.plan(former, generation)
  end
  makeGroups(self)
  makeConnectors(self)
  if former then
    entries.entering(generation, factories.migrate, self.plan, generation.backup)
  end
  local ok, message = timers.release(generation.owner)
  if not ok then
    refuse { plain("%s", message) }
  end
end

-- --- commit -----------------------------------------------------------------------------------

-- The connector of the former entry that does what this one is to do, and is not taken yet.
local function findConnector(entry, client, taken)
  local old = entry.predecessor
  for _, former in ipairs(old and old.clients or {}) do
    local connector = former.connector
    if former.key == client.key and not taken[connector] and not connector.ended then
      return connector
    end
  end
  return nil
end

-- A connector that lives goes on; what the script holds of the new one stands for it.
local function settleConnectors(entry, taken)
  for _, client in ipairs(entry.clients) do
    local living = findConnector(entry, client, taken)
    if living then
      taken[living] = true
      living.endpoint = client.endpoint
      require("skald.connectors").forward(client.connector, living)
      client.connector = living
    end
    client.connector.factory = entry.factory
    client.connector.persistent = client.persistent
    client.connector.held = nil
  end
end

-- startTLS reads its files again.
local function forgetStarted()
  local tls = package.loaded["skald.tls"]
  if tls then
    tls.forget()
  end
end

-- One step, between two events. Runs nobody's code, and cannot fail.
function Change:commit()
  local service, generation = self.service, self.generation
  local before = C.skald_seconds(pointer)
  if self.former then
    factories.apply(self.plan)
  end
  for _, entry in ipairs(generation.entries) do
    factories.enliven(entry)
    if entry.predecessor then
      roster.succeed(entry.predecessor.factory, entry.factory)
    end
    service.factories[entry.factory] = true
    settleConnectors(entry, self.connected)
    roster.applyBounds(entry.factory)
    for _, endpoint in ipairs(entry.endpoints) do
      endpoint.listener.key, endpoint.listener.proxied = endpoint.key, endpoint.proxied
      endpoint.listener:serve(entry.factory, entry.name or service.base)
      endpoint.listener:secure(endpoint.context)
    end
  end
  for name, value in pairs(generation.fresh) do
    service.kept[name] = value
  end
  for _, port in ipairs(generation.ports) do
    port.held = nil
  end
  service.generation = generation
  generation.loading = false
  forgetStarted()
  jit.flush()
  self.report.pause_us = (C.skald_seconds(pointer) - before) * 1e6
end

-- --- retire -----------------------------------------------------------------------------------

-- New listeners start their factories; factories that lost one stop where it was the last. Starts
-- come first: a factory that stays is never down in between.
local function startListeners(change)
  local left = {}
  for _, entry in ipairs(change.generation.entries) do
    for _, endpoint in ipairs(entry.endpoints) do
      local listener = endpoint.listener
      if listener.handle and roster.successor(listener.started) ~= listener.factory then
        left[#left + 1] = listener.started
        local ok, problem = listener:start()
        if not ok then
          change.failed = change.failed or problem
          log.error("%s", problem)
        end
      end
    end
  end
  for _, factory in ipairs(left) do
    roster.lower(factory)
  end
end

-- What is new connects; what nothing asks for any more ends.
local function connectAll(change)
  for _, entry in ipairs(change.generation.entries) do
    for _, client in ipairs(entry.clients) do
      if not change.connected[client.connector] and not client.connector.unwanted then
        client.connector:connect()
      end
    end
  end
  for _, connector in ipairs(change.generation.starts) do
    connector:connect()
  end
  change.generation.starts = {}
  for _, old in ipairs(change.former and change.former.entries or {}) do
    for _, client in ipairs(old.clients) do
      if not change.connected[client.connector] then
        client.connector:finish()
      end
    end
  end
end

--- Accepting begins, and connecting.
function Change:accept()
  connectAll(self)
  for _, item in ipairs(self.generation.obtained) do
    local listener = item.listener
    if item.fresh and listener.handle and listener.factory then
      listener:accept()
    end
  end
end

--- One line on standard output for each socket that is new.
function Change:announce()
  for _, item in ipairs(self.generation.obtained) do
    if item.fresh and item.listener.handle and item.listener.factory then
      program.announce(item.listener)
    end
  end
  io.stdout:flush()
end

--- Runs what waited for the service to run.
function Change:callWaiting()
  local generation = self.generation
  local waiting = generation.waiting
  generation.waiting = {}
  for _, call in ipairs(waiting) do
    program.guarded(generation.owner, call[1], unpack(call, 3, 2 + call[2]))
  end
end

--- Starts the factories of a first generation; what one of them raised, or nil.
---@return string?
function Change:start()
  startListeners(self)
  return self.failed
end

-- Sockets that nobody asks for any more serve what waits in their queues, and close.
local function finishListeners(change)
  local claimed = {}
  for _, item in ipairs(change.generation.obtained) do
    claimed[item.listener] = true
  end
  for _, item in ipairs(change.former.obtained) do
    local listener = item.listener
    if not claimed[listener] and listener.handle then
      table.insert(change.report.endpoints.removed, tostring(listener))
      listener:finish()
    end
  end
end

local function tellFactories(change)
  local from, to = change.former.number, change.generation.number
  for _, item in ipairs(change.generation.obtained) do
    if not item.fresh and item.listener.protocol then
      item.listener.news = true -- of a UDP port
    end
  end
  for _, entry in ipairs(change.generation.entries) do
    local factory = entry.factory
    if entry.predecessor then
      change.report.instances = change.report.instances + factory:connectionCount()
      local own = factory.buildProtocol ~= protocol.Factory.buildProtocol
      if own or entry.protocol and entry.protocol.reloaded then
        C.skald_group_news(pointer, factory._group.handle)
      end
      if factory.reloaded then
        program.guarded(change.generation.owner, factory.reloaded, factory, from, to)
      end
    end
  end
end

-- Notes a generation that was, weakly; those that are gone are forgotten.
local function noteOld(service, former)
  local held = {}
  for _, old in ipairs(service.old) do
    held[#held + 1] = old.ref[1] and old or nil
  end
  held[#held + 1] = {
    number = former.number,
    at = C.skald_collections(pointer),
    ref = setmetatable({ former.environment }, { __mode = "v" }),
  }
  service.old = held
end

function Change:retireFormer()
  local former, made, service = self.former, self.report, self.service
  made.timers.ended = former.owner:finish()
  startListeners(self)
  self:accept()
  finishListeners(self)
  program.dispose(former)
  tellFactories(self)
  made.timers.left = timers.countOf(former.environment)
  noteOld(service, former)
end

function Change:retire()
  if self.former then
    self:retireFormer()
  else
    startListeners(self)
    if self.failed then
      return -- a load that is taken back
    end
    self:accept()
  end
  self:announce()
  self:callWaiting()
end

-- --- the end ------------------------------------------------------------------------------------

--- Completes the report of a change that was committed, and lets go of what was.
function Change:conclude()
  local generation = self.generation
  generation:forgetUnused()
  report.complete(self)
  for _, entry in ipairs(generation.entries) do
    factories.settle(entry)
  end
  for _, item in ipairs(generation.obtained) do
    item.fresh = false
  end
  generation.claimed, generation.ports, generation.backup, generation.fresh = {}, {}, {}, {}
  if self.former then
    self.former:retire()
  end
  self.service.tried = nil
  generation.clients = {}
  self.former, self.plan, self.definitions, self.sources, self.connected = nil, nil, nil, nil, nil
end

return reload
