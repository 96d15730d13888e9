-- The words of the command line become services that listen, or a question to a host that runs.

local core = require "skald.core"
local loader = require "skald.loader"
local log = require "skald.log"
local program = require "skald.program"
local refusal = require "skald.refusal"
local reload = require "skald.reload"

local launch = {}
local host, complain = program.host, program.complain

-- --- words ------------------------------------------------------------------------------------

local function findScript(word)
  local bundled = not word:find "[/.]" and core.bundled("services/" .. word .. ".lua")
  if bundled then
    return { file = "services/" .. word .. ".lua", text = bundled }
  end
  local real, message, missing = loader.realPath(word)
  if real then
    return { file = word, folder = word:match "^(.*)/[^/]*$" or "." }
  end
  if missing then
    local names = {}
    for _, name in ipairs(core.bundledNames "services/") do
      names[#names + 1] = name:match "^([%w_-]+)%.lua$"
    end
    message = ("%s: no such script, nor a bundled service (%s)"):format(word, table.concat(names, ", "))
  end
  return nil, message
end

--- Scripts, each followed by its key=value words.
---@param words string[]
---@return table[]? scripts nil, message
---@return string? message
function launch.read(words)
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

-- --- check and run ----------------------------------------------------------------------------

local function complainOf(report)
  for _, item in ipairs(report.errors) do
    local line = refusal.line(item)
    complain("%s", item.line and line or "skald: " .. line)
    if item.traceback then
      log.debug("%s", item.traceback)
    end
  end
end

-- Runs phases of a change; says what is wrong where one fails.
local function run(change, ...)
  local ok = change:run(...)
  if not ok then
    complainOf(change.report)
  end
  return ok
end

local function load(script)
  local change = reload.new(program.add(script))
  if not run(change, "snapshot", "compile", "load", "check") then
    return nil
  end
  for _, warning in ipairs(change.generation.warnings) do
    log.warning("%s", warning)
  end
  change.generation.warnings = {}
  return change
end

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

local function startAll(changes)
  for _, change in ipairs(changes) do
    local problem = change:start()
    if problem then
      return false
    end
  end
  for _, change in ipairs(changes) do
    change:announce()
  end
  return true
end

function commands.run(scripts)
  local changes = {}
  for i, script in ipairs(scripts) do
    changes[i] = load(script)
    if not changes[i] then
      return false
    end
  end
  for _, change in ipairs(changes) do
    if not run(change, "prepare") then
      return false
    end
  end
  if not require("skald.control").open(host.options.control) then
    return false
  end
  for _, change in ipairs(changes) do
    change:commit()
  end
  if not startAll(changes) then
    return false
  end
  host.starting = changes
  return true
end

-- Commands that are modules of their own.
local others = { test = "skald.trial", new = "skald.skeleton" }

--- Starts a command with its words; the exit status.
---@param command string
---@param words string[]
---@param options table
---@return integer
function launch.start(command, words, options)
  host.options = options
  require("skald.unhandled").attach(options.debug or command == "test")
  if others[command] then
    return require(others[command]).start(words, options)
  elseif not commands[command] then
    return require("skald.remote").ask(command, words, options)
  end
  local scripts, message = launch.read(words)
  if not scripts then
    complain("skald: %s", message)
    return 1
  end
  return commands[command](scripts) and 0 or 1
end

return launch
