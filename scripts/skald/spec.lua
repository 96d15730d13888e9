-- What a spec that `skald test` runs may ask of the host: services of its own, which end with the test that
-- started them, and the errors that were logged meanwhile.

local core = require "skald.core"
local deferred = require "skald.deferred"
local loader = require "skald.loader"
local owner = require "skald.owner"
local ports = require "skald.ports"
local program = require "skald.program"

local spec = {}

local function trialOf(name)
  local trial = program.host.trial
  if not trial or not trial.scope then
    error(name .. " is for specs that `skald test` runs", 3)
  end
  return trial
end

-- Calls what is nobody's, whoever calls.
local function asHost(f, ...)
  local ok, problem = owner.call(nil, core.traceback, f, ...)
  if not ok then
    error(problem, 0)
  end
end

-- --- a service --------------------------------------------------------------------------------

--- A service under test.
---@class Served
---@field ports Port[] what it listens on, in the order of its endpoints
---@field factory Factory? the living one of its first definition
---@field factories Factory[] of each of its definitions
local Served = {}
Served.__index = Served

--- The address that it listens on.
---@param which integer? of its endpoints (1)
---@return Address? address nil where it has no such endpoint
function Served:getHost(which)
  local port = self.ports[which or 1]
  return port and port:getHost()
end

--- The endpoint to connect to it, as a string.
---@param which integer? of its endpoints (1)
---@return string
function Served:getEndpoint(which)
  local address = self:getHost(which)
  if not address then
    error(("%s has no endpoint number %d"):format(self.service.name, which or 1), 2)
  end
  return tostring(address)
end

-- What it has now: a reload may have changed it.
local function look(self)
  local generation = self.service.generation
  self.ports, self.factories = {}, {}
  for i, item in ipairs(generation.obtained) do
    self.ports[i] = ports.new(item.listener)
  end
  for i, entry in ipairs(generation.entries) do
    self.factories[i] = entry.factory
  end
  self.factory = self.factories[1]
end

local function textOf(options)
  if type(options) ~= "table" then
    error(("reload takes { text = … } or { file = … }, not a %s"):format(type(options)), 3)
  elseif options.file then
    local text, message = loader.readFile(options.file)
    return text or error(message, 3)
  end
  return options.text
end

--- Reloads it, changed or not: from its files, or with another text for its script. A refusal is an answer
--- too: what ran runs on.
---@param options? { text: string?, file: string? }
---@return Deferred d of the report: its `result` is "committed" or "refused"
function Served:reload(options)
  local d = deferred.Deferred:new()
  local trial = trialOf "reload"
  if self.stopped then
    error("reload: the service was stopped", 2)
  end
  self.service.text = options and textOf(options) or nil
  asHost(require("skald.jobs").reload, self.service, { force = true }, function(report)
    if report.result == "refused" then
      trial:flush(("reload %s refused"):format(self.service.name), true)
    elseif report.result == "committed" then
      look(self)
    end
    d:callback(report)
  end)
  return d
end

--- Ends it, with its connections; the end of the test does so too.
---@return Deferred d of the report
function Served:stop()
  if self.stopped then
    return deferred.succeed()
  end
  self.stopped = true
  local d = deferred.Deferred:new()
  asHost(require("skald.jobs").unload, self.service, function(report)
    d:callback(report)
  end)
  return d
end

-- Where a script lies: as it is named, or beside the spec, or beside its folder.
local function findScript(trial, file)
  for _, folder in ipairs { "", trial.folder .. "/", trial.folder .. "/../" } do
    local path = folder .. file
    if loader.realPath(path) then
      return path
    end
  end
  return nil
end

local function asOptions(options)
  local words = {}
  for key, value in pairs(options or {}) do
    if type(key) ~= "string" or type(value) == "table" or type(value) == "function" then
      error("serve takes its options as strings by their names", 3)
    end
    words[key] = tostring(value)
  end
  return words
end

local function complaints(report)
  local line = require("skald.refusal").line
  local lines = {}
  for i, item in ipairs(report.errors) do
    lines[i] = line(item)
  end
  return table.concat(lines, "\n")
end

local function load(self)
  local change = require("skald.reload").new(self.service, { running = true })
  if not change:run("snapshot", "compile", "load", "check", "prepare") then
    program.remove(self.service)
    self.problem = complaints(change.report)
    return
  end
  change:finish()
  look(self)
  if change.failed then
    self.problem = change.failed:match "^[^\n]*"
  end
end

--- Loads a script as a service of this host, as `skald run` would: it listens when this returns, and ends with
--- the test that started it. Raises what is wrong with it.
---@param file string the path of the script; where it is not there: beside the spec, or beside its folder
---@param options table<string, any>? as on the command line: `{ listen = "tcp:127.0.0.1:0" }`
---@return Served
function spec.serve(file, options)
  local trial = trialOf "serve"
  if type(file) ~= "string" then
    error(("serve takes the path of a script, not a %s"):format(type(file)), 2)
  end
  local words = asOptions(options)
  local path = findScript(trial, file)
  if not path then
    error(("serve: %s: no such script here, nor beside %s"):format(file, trial.folder), 2)
  end
  local folder = path:match "^(.*)/[^/]*$" or "."
  local self = setmetatable({ service = program.add { file = path, folder = folder, options = words } }, Served)
  asHost(load, self)
  if self.service.generation then
    table.insert(trial.scope.services, self)
  end
  if self.problem then
    error(self.problem, 0)
  end
  return self
end

-- --- errors -----------------------------------------------------------------------------------

--- The errors that were logged since the test began, and the failures that nobody handled. Those fail a test
--- that does not ask for them.
---@param pattern string? only those that match it; the others stay
---@return string[]
function spec.flushLoggedErrors(pattern)
  return trialOf("flushLoggedErrors"):flush(pattern)
end

return spec
