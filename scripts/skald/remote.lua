-- The commands that ask a running host: they send one request to its control socket, print the
-- answer, and end with a status that says how it went.

local control = require "skald.control"
local core = require "skald.core"
local loader = require "skald.loader"

local cjson = require "cjson.safe"
local ffi = require "ffi"
local C = core.C

local remote = {}

local DONE, REFUSED, NOT_ASKED = 0, 1, 2

local function complain(format, ...)
  io.stderr:write(format:format(...), "\n")
end

-- --- asking -----------------------------------------------------------------------------------

local function isOurs(folder)
  local errno = folder and C.skald_is_private(folder) or 0
  if errno == 0 or core.isMissing(errno) then
    return true
  end
  return false, (core.errorOf(errno))
end

local function ask(path, request)
  local answer, size = ffi.new "char *[1]", ffi.new "size_t[1]"
  local text = cjson.encode(request) .. "\n"
  local errno = C.skald_ask(path, text, #text, answer, size)
  local got = answer[0] ~= nil and ffi.string(answer[0], size[0]) or ""
  C.skald_free(answer[0])
  if errno ~= 0 then
    return nil, (core.errorOf(errno))
  end
  local decoded = cjson.decode(got)
  if type(decoded) ~= "table" then
    return nil, "no answer"
  end
  return decoded, got
end

-- A script that lies here is meant as it lies here, wherever the host runs.
local function realWords(words)
  local list = {}
  for i, word in ipairs(words) do
    list[i] = word
    if not word:find "^[%a_][%w_-]*=" and (word:find "[/.]" or not core.bundled("services/" .. word .. ".lua")) then
      list[i] = loader.realPath(word) or word
    end
  end
  return list
end

-- --- showing ----------------------------------------------------------------------------------

local function say(format, ...)
  print(format:format(...))
end

local function sayList(label, list)
  if #list > 0 then
    say("  %s %s", label, table.concat(list, ", "))
  end
end

local function sayErrors(report)
  for _, item in ipairs(report.errors or {}) do
    if item.file and item.line then
      complain("%s:%d: %s", item.file, item.line, item.message)
    else
      complain("%s", item.message)
    end
    if item.traceback then
      complain("%s", item.traceback)
    end
  end
end

local function sayCommitted(report)
  local spent = 0
  for _, milliseconds in pairs(report.phases) do
    spent = spent + milliseconds
  end
  say("%s: generation %d -> %d in %.1f ms (pause %.0f us)", report.service, report.from, report.generation, spent,
    report.pause_us)
  sayList("changed:", report.modules.changed)
  sayList("added:", report.modules.added)
  sayList("removed:", report.modules.removed)
  sayList("listens anew on", report.endpoints.added)
  sayList("listens no more on", report.endpoints.removed)
  if report.from > 0 then
    say("  %d connections on new code; timers: %d ended, %d left", report.instances, report.timers.ended,
      report.timers.left)
  end
  sayList("kept:", report.kept)
  sayList("classes without a successor:", report.classes.stayed)
  for _, warning in ipairs(report.warnings) do
    say("  warning: %s", warning)
  end
end

local show = {}

function show.committed(report)
  if report.phases then
    sayCommitted(report)
  end
end

function show.unchanged(report)
  if report.service then
    say("%s: nothing changed (generation %d)", report.service, report.generation)
  end
end

function show.refused(report)
  if report.service then
    local first = report.errors[1]
    complain("%s: refused (%s)%s%s", report.service, first and first.phase or "?",
      report.again and " before, and unchanged since" or "",
      report.from > 0 and ("; generation %d serves on"):format(report.generation) or "")
  end
  sayErrors(report)
end

show.error = function(report)
  for _, item in ipairs(report.errors or {}) do
    complain("skald: %s", item.message)
  end
end

function show.unloaded(report)
  say("%s: unloaded, %d connections ended", report.service, report.connections)
end

function show.stopping()
  say "stopped listening; connections end"
end

function show.ok(report)
  say("pid %d, up %.0f s", report.pid, report.uptime)
  for _, service in ipairs(report.services) do
    say("%s: generation %d, %d connections", service.name, service.generation, service.connections)
    sayList("listens on", service.endpoints)
    local last = service.lastReload
    if type(last) == "table" then
      say("  last reload: %s at %s", last.result, os.date("%Y-%m-%d %H:%M:%S", last.at))
      for _, item in ipairs(last.result == "refused" and last.errors or {}) do
        say("    %s%s", item.file and ("%s:%d: "):format(item.file, item.line) or "", item.message)
      end
    end
    for _, old in ipairs(service.oldGenerations) do
      say("  generation %d is still held: %d timers, %d coroutines, %d Deferreds of the host", old.generation,
        old.timers, old.coroutines, old.deferreds)
    end
  end
end

local statuses = { committed = DONE, unchanged = DONE, unloaded = DONE, stopping = DONE, ok = DONE, refused = REFUSED }

--- Asks, and shows the answer; the exit status.
---@param command string
---@param words string[]
---@param options { control: string?, json: boolean, force: boolean }
---@return integer
function remote.ask(command, words, options)
  local path, folder = control.path(options.control)
  local ours, problem = isOurs(folder)
  local request = { command = command, force = options.force or nil }
  if command == "load" then
    request.words = realWords(words)
  else
    request.service = words[1]
  end
  local answer, text
  if ours then
    answer, text = ask(path, request)
  end
  if not answer then
    complain("skald: no host answers at %s: %s", path, text or problem)
    return NOT_ASKED
  end
  if options.json then
    io.stdout:write(text)
  else
    for _, report in ipairs(answer.command == nil and command == "reload" and answer.services or { answer }) do
      (show[report.result] or show.error)(report)
    end
  end
  return statuses[answer.result] or NOT_ASKED
end

return remote
