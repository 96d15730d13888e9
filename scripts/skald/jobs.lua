-- What changes a running host: reload, load, unload. One at a time, in turns of the loop of their
-- own; what is asked for meanwhile waits, and what is asked for twice becomes one.

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local program = require "skald.program"
local timers = require "skald.timers"

local C, pointer = core.C, core.pointer
local jobs = {}

local queue = {} -- the first is the one that runs

local NEXT_TURN = 0

-- --- one after the other ----------------------------------------------------------------------

local step

-- Each step has a turn for itself, so that connections wait for none but the longest.
local function later()
  if not pcall(timers.later, NEXT_TURN, step) then
    step() -- there are too many timers
  end
end

local function tellAll(job, report)
  for _, done in ipairs(job.done) do
    program.guarded(nil, done, report)
  end
end

-- The job is done with, or goes on by itself.
local function leave()
  table.remove(queue, 1)
  if #queue > 0 then
    later()
  end
end

function step()
  local job = queue[1]
  local before = C.skald_seconds(pointer)
  local ok, report = xpcall(job.step, core.traceback, job)
  local spent = (C.skald_seconds(pointer) - before) * 1e6
  job.stall = math.max(job.stall or 0, spent)
  if not ok then
    log.error("%s", report)
    report = { result = "error", errors = { { message = report:match "^[^\n]*" } } }
  end
  if report then
    report.stall_us = job.stall
    tellAll(job, report)
    leave()
  elseif job.waits then
    leave()
  else
    later()
  end
end

local function add(job, done)
  job.done = { done }
  queue[#queue + 1] = job
  if #queue == 1 then
    later()
  end
end

-- --- changes ----------------------------------------------------------------------------------

-- The lines that are logged of a report.
local function tell(report)
  local name = report.service
  if report.result == "committed" then
    log.info("reload %s: generation %d -> %d (pause %d us, %d connections)", name, report.from, report.generation,
      report.pause_us, report.instances)
    for _, warning in ipairs(report.warnings) do
      log.warning("%s", warning)
    end
  elseif report.result == "unchanged" then
    log.debug("reload %s: nothing changed", name)
  elseif report.result == "refused" and not report.again then
    local line = require("skald.refusal").line
    for _, item in ipairs(report.errors) do
      log.error("reload %s refused (%s): %s%s", name, item.phase, line(item),
        item.traceback and "\n" .. item.traceback or "")
    end
  end
end

local function remember(service, report)
  service.last = {
    result = report.result,
    generation = report.generation,
    at = os.time(),
    pause_us = report.pause_us,
    errors = report.errors,
  }
  service.refused = service.refused + (report.result == "refused" and 1 or 0)
end

-- What did not do, and has changed since it was read, was read too early: it comes again.
local function failed(job)
  local report = job.change.report
  if job.isStale and job.isStale() then
    report.result = "unchanged"
  end
  return report
end

-- The second step on: what was read is compiled, then loaded, committed and seen to, in one turn.
local function compile(job)
  job.step = job.commit
  if not job.change:run "compile" then
    return failed(job)
  end
end

local function commit(job)
  local change = job.change
  local watch = require "skald.watch"
  if not change:run("load", "check") then
    return failed(job)
  elseif job.isStale and watch.isUnfinished(job.service, change.generation) then
    change:takeBack()
    change.report.result = "unchanged"
    return change.report
  end
  if change:run "prepare" then
    change:finish()
    C.skald_collect(pointer)
  end
  return change.report
end

-- --- reload -----------------------------------------------------------------------------------

local function concludeReload(job, report)
  local service = job.service
  tell(report)
  remember(service, report)
  require("skald.watch").follow(service)
end

local function readFiles(job)
  job.begun = true
  local change = require("skald.reload").new(job.service, { running = true, forced = job.force })
  job.change = change
  if not change:run "snapshot" then
    local text = require("skald.refusal").line(change.report.errors[1])
    change.report.again = not job.force and job.service.unreadable == text
    job.service.unreadable = text
    return change.report
  end
  job.service.unreadable = nil
  if job.isStale and job.isStale() then
    change.report.result = "unchanged"
    return change.report
  end
  if not job.force and change:isUnchanged() then
    change.report.result = "unchanged"
    return change.report
  end
  local refusal = not job.force and change:formerRefusal()
  if refusal then
    local report = change.report
    report.result, report.errors, report.again = "refused", refusal.errors, true
    return report
  end
  job.step = compile
end

local function prepareToReload(job)
  require "skald.reload" -- loaded in a turn of its own
  if program.find(job.service.name) ~= job.service or job.service.leaving then
    return { result = "error", service = job.service.name, errors = { { message = "the service is gone" } } }
  end
  job.step = readFiles
end

--- Reloads a service.
---@param service Service
---@param options { force: boolean?, isStale: fun(): boolean }
---@param done fun(report: table)
function jobs.reload(service, options, done)
  for _, job in ipairs(queue) do
    if job.service == service and job.kind == "reload" and not job.begun then
      job.force = job.force or options.force
      job.isStale = job.isStale and options.isStale
      table.insert(job.done, done)
      return
    end
  end
  local job = { kind = "reload", service = service, force = options.force, isStale = options.isStale }
  job.step, job.commit = prepareToReload, commit
  add(job, function(report)
    if report.result == "committed" or report.result == "refused" and not report.again then
      concludeReload(job, report)
    else
      tell(report)
      require("skald.watch").follow(service)
    end
    done(report)
  end)
end

local function nothing() end

--- SIGHUP: all services.
function jobs.hangup()
  for _, service in ipairs(program.host.services) do
    jobs.reload(service, {}, nothing)
  end
end

-- --- load -------------------------------------------------------------------------------------

local function readScript(job)
  local scripts, message = require("skald.launch").read(job.words)
  if scripts and #scripts ~= 1 then
    message = "load takes one script with its options"
  end
  if message then
    return { result = "refused", errors = { { phase = "snapshot", message = message } } }
  end
  job.service = program.add(scripts[1])
  job.change = require("skald.reload").new(job.service, { running = true })
  if not job.change:run "snapshot" then
    return job.change.report
  end
  job.step = compile
end

--- Loads a script into the running host.
---@param words string[] the script and its key=value words
---@param done fun(report: table)
function jobs.load(words, done)
  local job = { kind = "load", words = words, step = readScript, commit = commit }
  add(job, function(report)
    if report.result == "committed" and not job.change.failed then
      log.info("load %s: generation 1", report.service)
      require("skald.watch").follow(job.service)
      done(report)
      return
    end
    if job.change and job.change.failed then
      report.result = "refused"
      report.errors = { { phase = "retire", message = (job.change.failed:match "^[^\n]*") } }
      jobs.unload(job.service, nothing)
    elseif job.service then
      program.remove(job.service)
    end
    done(report)
  end)
end

-- --- unload -----------------------------------------------------------------------------------

local function listenersOf(service)
  local list = {}
  for _, listener in pairs(dispatch.ports) do
    if listener.service == service then
      list[#list + 1] = listener
    end
  end
  return list
end

-- A factory counts what stands in its wrappers, too; groups do not.
local function liveOf(service)
  local count = 0
  for factory in pairs(service.factories) do
    count = count + (factory._group and factory._group:count() or 0)
  end
  return count
end

local function eachGroup(service, f)
  for factory in pairs(service.factories) do
    if factory._group then
      f(pointer, factory._group.handle)
    end
  end
end

local function endConnectors(service)
  local connectors = package.loaded["skald.connectors"]
  if connectors then
    connectors.stopAll(service.factories)
  end
end

local function endUnload(job)
  local service = job.service
  endConnectors(service) -- those that the last callbacks made
  for _, listener in ipairs(listenersOf(service)) do
    listener:close()
  end
  local process = package.loaded["skald.process"]
  if process then
    process.unload(service)
  end
  program.dispose(service.generation)
  program.remove(service)
  require("skald.watch").follow(service)
  jit.flush() -- traces would keep what is gone
  C.skald_collect(pointer)
  log.info("unload %s: %d connections ended", service.name, job.ended)
  return { result = "unloaded", service = service.name, connections = job.ended, warnings = {}, errors = {} }
end

-- Services whose connections are ending: functions that look whether the last one has.
local endings = {}

local function lookAtEndings()
  for _, look in pairs(endings) do
    look()
  end
end

-- Others need not wait for a peer that takes its time: the job has left the queue.
local function awaitEnd(job)
  local over, asked
  local function goOn()
    asked = nil
    if not endings[job] then
      return
    elseif liveOf(job.service) > 0 then
      eachGroup(job.service, C.skald_group_abort)
      return
    end
    endings[job] = nil
    dispatch.waiting = next(endings) and lookAtEndings or nil
    over:cancel()
    tellAll(job, endUnload(job))
  end
  over = timers.later(program.host.options.grace, goOn)
  endings[job] = function()
    if liveOf(job.service) == 0 and not asked then
      asked = timers.later(NEXT_TURN, goOn)
    end
  end
  dispatch.waiting = lookAtEndings
end

-- Connections end as at a stop of the host: what is queued is sent, for as long as --grace says.
local function beginUnload(job)
  local service = job.service
  if program.find(service.name) ~= service or service.leaving then
    return { result = "error", service = service.name, errors = { { message = "the service is gone" } } }
  end
  service.leaving = true
  for _, listener in ipairs(listenersOf(service)) do
    listener:silence()
  end
  endConnectors(service)
  service.generation.owner:finish()
  job.ended = liveOf(service)
  eachGroup(service, C.skald_group_stop)
  if job.ended == 0 then
    return endUnload(job)
  end
  awaitEnd(job)
  job.waits = true
  return nil
end

--- Ends a service: its listeners, its connections, its factories.
---@param service Service
---@param done fun(report: table)
function jobs.unload(service, done)
  add({ kind = "unload", service = service, step = beginUnload }, done)
end

-- --- status -----------------------------------------------------------------------------------

-- Generations that a finished collection did not free, and what of the host holds them. Where that is
-- nothing it may be a trace, made as the last of the old code ran: that will not hold it for longer.
local function heldGenerations(service)
  local list, traced = {}, false
  local now = C.skald_collections(pointer)
  for _, old in ipairs(service.old) do
    local environment = old.ref[1]
    if environment and now >= old.at + 2 then
      local held = require("skald.holders").count(service, environment)
      held.generation = old.number
      list[#list + 1] = held
      if held.timers + held.coroutines + held.deferreds == 0 and not old.flushed then
        old.flushed, traced = true, true
      end
    end
  end
  if traced then
    jit.flush()
    C.skald_collect(pointer)
  end
  return list
end

local function describe(service)
  local endpoints = {}
  for _, listener in ipairs(listenersOf(service)) do
    endpoints[#endpoints + 1] = tostring(listener)
  end
  table.sort(endpoints)
  return {
    name = service.name,
    generation = service.generation and service.generation.number or 0,
    connections = liveOf(service),
    endpoints = endpoints,
    lastReload = service.last,
    refused = service.refused,
    oldGenerations = heldGenerations(service),
  }
end

--- What runs.
---@return table
function jobs.status()
  local services = {}
  for i, service in ipairs(program.host.services) do
    services[i] = describe(service)
  end
  return services
end

return jobs
