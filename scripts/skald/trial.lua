-- `skald test`: specs for busted, run in this host while its loop turns. All of the run is one coroutine,
-- so that a test may await.

local async = require "skald.async"
local core = require "skald.core"
local failure = require "skald.failure"
local leftovers = require "skald.leftovers"
local owner = require "skald.owner"
local program = require "skald.program"
local scopes = require "skald.scopes"
local timers = require "skald.timers"

local C, pointer = core.C, core.pointer
local complain, host = program.complain, program.host

local trial = {}

local OUTPUTS = { "plainTerminal", "utfTerminal", "TAP", "gtest", "json", "junit" }
local NEXT_TURN = 0
local ON_TERMINAL = { plainTerminal = true, utfTerminal = true, gtest = true }
local MISSING = "skald test: busted is not installed (%s): on Debian, apt install lua-busted"

-- --- which files ------------------------------------------------------------------------------

local function isSpec(name)
  return name:find "_spec%.lua$" ~= nil
end

-- The specs of a folder, and of the folders in it, but for hidden ones and links.
local function specsIn(folder, list, deep)
  local lfs = require "lfs"
  local names = {}
  for name in lfs.dir(folder) do
    names[#names + 1] = name:sub(1, 1) ~= "." and name or nil
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local path = folder == "." and name or folder .. "/" .. name
    local kind = lfs.attributes(path, "mode")
    if kind == "directory" and deep and lfs.symlinkattributes(path, "mode") ~= "link" then
      specsIn(path, list, deep)
    elseif kind == "file" and isSpec(name) then
      list[#list + 1] = path
    end
  end
  return list
end

-- Without words: the first of the usual places that has any.
local function defaultFiles()
  local lfs = require "lfs"
  for _, folder in ipairs { "spec", "tests", "." } do
    local list = lfs.attributes(folder, "mode") == "directory" and specsIn(folder, {}, folder ~= ".") or {}
    if #list > 0 then
      return list
    end
  end
  return nil, "no specs: looked for *_spec.lua in spec/, in tests/ and here"
end

local function findFiles(words)
  local lfs = require "lfs"
  if #words == 0 then
    return defaultFiles()
  end
  local list = {}
  for _, word in ipairs(words) do
    word = #word > 1 and word:gsub("/+$", "") or word
    local kind, message = lfs.attributes(word, "mode")
    local before = #list
    if kind == "directory" then
      specsIn(word, list, true)
    elseif kind then
      list[#list + 1] = word
    else
      return nil, message
    end
    if #list == before then
      return nil, ("%s: no specs (*_spec.lua) in it"):format(word)
    end
  end
  return list
end

-- --- between busted and the host --------------------------------------------------------------

---@class Trial: Scopes
---@field busted table
---@field files string[]
---@field output string the name of the handler
---@field folder string of the spec that runs
---@field tests integer
---@field passed integer
---@field failed integer
---@field pending integer
local Trial = setmetatable({}, scopes.Scopes)
Trial.__index = Trial

local OPENERS = { file = true, describe = true, it = true }
local OF_BLOCKS = {
  strict_setup = true,
  strict_teardown = true,
  lazy_setup = true,
  lazy_teardown = true,
}

-- What is raised by `await` stands for what was raised first.
local function unwrap(problem)
  local meta = failure.is(problem) and debug.getmetatable(problem.value)
  local kind = type(meta) == "table" and rawget(meta, "__type")
  return (kind == "failure" or kind == "pending") and problem.value or problem
end

local function statusOf(problem)
  local meta = debug.getmetatable(problem)
  local kind = type(meta) == "table" and rawget(meta, "__type")
  return (kind == "failure" or kind == "pending") and kind or "error"
end

-- The scope of what busted calls, and whether it is the user's code.
function Trial:scopeOf(descriptor, f, element)
  local own = self.scopes[element]
  if descriptor == "finally" or f == element.run then
    local parent = OF_BLOCKS[descriptor] and self.busted.context.parent(element)
    return own or parent and self.scopes[parent] or self.scope, true
  end
  return own or self.scope, false
end

-- What was logged meanwhile may be why it failed.
local function addProblems(outcome, ok, scope)
  if ok or outcome.status == "pending" then
    return
  end
  scopes.note(scope)
  for _, text in ipairs(scope.problems) do
    outcome.message = ("%s\nmeanwhile: %s"):format(tostring(outcome.message), text)
  end
  scope.problems = {}
end

-- Runs what busted asks for; the status, and how it failed.
function Trial:attempt(descriptor, f, element)
  local busted = self.busted
  local outcome = { status = "success" }
  local function handler(problem)
    problem = unwrap(problem)
    outcome.status, outcome.problem = statusOf(problem), problem
    outcome.trace = busted.getTrace(element, 3, problem)
    if failure.is(problem) then
      outcome.trace.traceback = problem.traceback:match "\n(stack traceback:.*)$" or outcome.trace.traceback
    end
    outcome.trace.traceback = scopes.withoutLibrary(outcome.trace.traceback)
    outcome.message = busted.rewriteMessage(element, problem, outcome.trace)
    return problem
  end
  local scope, isUsers = self:scopeOf(descriptor, f, element)
  local results
  if isUsers and scope then
    scope.expired = nil
    results = { self:within(scope, self.limited, self, scope, xpcall, f, handler) }
    if scope.expired then -- whatever it made of that
      results[1], outcome.status, outcome.message = false, "failure", scope.expired
    end
    addProblems(outcome, results[1], scope)
  else
    results = { xpcall(f, handler) }
  end
  if not results[1] and outcome.status == "success" then
    outcome.status, outcome.message = "error", tostring(results[2])
  elseif not results[1] and outcome.message == nil and outcome.problem ~= nil then
    outcome.message = tostring(outcome.problem) -- the stack was full: there was no room to say more
  end
  if outcome.status == "failure" and descriptor ~= "it" then
    outcome.status = "error"
  end
  outcome.results = results
  return outcome
end

local function traceOf(element)
  return element.trace or { short_src = element.name or "?", currentline = 1, traceback = "", what = "Lua" }
end

-- What a test has left is a failure of its own; what a block has left, an error of its end.
function Trial:accuse(element, text)
  local busted, parent = self.busted, self.busted.context.parent(element)
  local trace = traceOf(element)
  if element.descriptor == "it" then
    busted.publish({ "failure", "it" }, element, parent, text, trace)
    return
  end
  local teardown = { descriptor = "teardown", attributes = {}, trace = trace }
  busted.context.attach(teardown)
  busted.publish({ "error", "teardown" }, teardown, element, text, trace)
end

-- The end of a test is told when all is known of it.
function Trial:conclude(scope)
  local element, ending = scope.element, scope.ending
  scope.ending = nil
  local failed = element.descriptor == "it" and not (ending and ending.status == "success")
  local text = self:within(scope, self.close, self, scope, failed)
  if failed then
    for _, problem in ipairs(scope.problems) do
      complain("skald test: %s", problem)
    end
  elseif text then
    self:accuse(element, text)
  end
  if ending then
    local status = text and not failed and "failure" or ending.status
    self.publish("test", { "test", "end" }, element, ending.parent, status)
  end
end

local function folderOf(path)
  return path:match "^(.*)/[^/]*$" or "."
end

-- A spec finds what lies beside it, and beside its folder.
local function addPath(path)
  local folder = folderOf(path)
  local forms = {}
  for _, root in ipairs { folder, folder .. "/.." } do
    forms[#forms + 1] = root .. "/?.lua"
    forms[#forms + 1] = root .. "/?/init.lua"
  end
  package.path = table.concat(forms, ";") .. ";" .. package.path
  return folder
end

-- Runs a block of tests, or a test with what stands around it, in a scope of its own.
function Trial:enter(descriptor, f, element)
  local scope = self:open(element)
  local path = package.path
  if descriptor == "file" then
    self.folder = addPath(element.name)
  end
  local outcome = self:within(scope, self.attempt, self, descriptor, f, element)
  self:conclude(scope)
  package.path = path
  return outcome
end

-- What busted calls everything by.
function Trial:safe(descriptor, f, element)
  local busted, context = self.busted, self.busted.context
  local opens = OPENERS[descriptor] and element.descriptor == descriptor and f ~= element.run
  context.push(element)
  local outcome
  if opens and not self.scopes[element] then
    outcome = self:enter(descriptor, f, element)
  else
    outcome = self:attempt(descriptor, f, element)
  end
  if not outcome.results[1] then
    busted.publish({ outcome.status, element.descriptor }, element, context.parent(element), outcome.message,
      outcome.trace or traceOf(element))
  end
  context.pop()
  return busted.status(outcome.status), unpack(outcome.results, 2)
end

local function isLibrary(info)
  return info.what == "C" or info.source:find "^@skald/" or info.source:find "/luassert/" or info.source:find "/busted/"
end

-- Errors point at lines of the user's, not at those of the library.
local function blame(trace, level)
  if not isLibrary(trace) then
    return trace
  end
  local info = debug.getinfo(level, "Sl")
  while info and isLibrary(info) do
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  if info then
    for _, key in ipairs { "short_src", "source", "currentline", "what" } do
      trace[key] = info[key]
    end
  end
  return trace
end

local function adapt(self)
  local busted = self.busted
  local getTrace, publish = busted.getTrace, busted.safe_publish
  self.publish = publish
  function busted.safe(descriptor, f, element)
    return self:safe(descriptor, f, element)
  end
  function busted.getTrace(element, level, message)
    local trace = getTrace(element, (level or 3) + 1, message)
    return blame(trace, (level or 3) + 1)
  end
  function busted.safe_publish(descriptor, channel, element, parent, status, ...)
    local scope = self.scopes[element]
    if scope and channel[1] == "test" and channel[2] == "end" then
      scope.ending = { parent = parent, status = status }
      return true
    end
    return publish(descriptor, channel, element, parent, status, ...)
  end
end

-- --- the run ----------------------------------------------------------------------------------

local function count(self)
  local busted = self.busted
  busted.subscribe({ "test", "end" }, function(_, _, status)
    self.tests = self.tests + 1
    local field = status == "success" and "passed" or status == "pending" and "pending" or "failed"
    self[field] = self[field] + 1
    return nil, true
  end)
  busted.subscribe({ "error" }, function(element)
    if element.descriptor ~= "it" then
      self.failed = self.failed + 1
    end
    return nil, true
  end)
end

local function setOutput(self)
  local options = host.options
  require "busted.modules.output_handler_loader"()(self.busted, self.output, {
    defaultOutput = self.output,
    language = "en",
    verbose = options.debug,
    arguments = {},
  })
  local filter = options.filter
  require "busted.modules.filter_loader"()(self.busted, {
    filter = filter and { filter },
    filterOut = {},
    tags = {},
    excludeTags = {},
  })
end

local function addFile(self, name)
  local busted = self.busted
  local chunk, message = loadfile(name, "t")
  if not chunk then
    busted.publish({ "error", "file" }, { descriptor = "file", name = name }, nil, message, traceOf { name = name })
    return
  end
  local file = {
    getTrace = function(_, info)
      info.traceback = info.traceback:match "^(.-)\n%s*%[C%]" or info.traceback
      return info
    end,
  }
  busted.executors.file(name, setmetatable(file, { __call = chunk }))
end

local function summary(self)
  local text = ("skald test: %d passed, %d failed"):format(self.passed, self.failed)
  if self.pending > 0 then
    text = ("%s, %d pending"):format(text, self.pending)
  end
  local out = ON_TERMINAL[self.output] and io.stdout or io.stderr
  if self.tests + self.failed == 0 then
    text = host.options.filter and ("skald test: no test matches '%s'"):format(host.options.filter)
      or "skald test: no tests in the specs"
  end
  io.stdout:flush()
  out:write(text, "\n")
  out:flush()
end

function Trial:run()
  local busted = self.busted
  self.task = owner.task
  adapt(self)
  require "busted"(busted)
  count(self)
  setOutput(self)
  for _, file in ipairs(self.files) do
    addFile(self, file)
  end
  require "busted.execute"(busted)(1, {})
  busted.publish { "exit" }
  summary(self)
end

local function start(self)
  async.async(self.run)(self):addBoth(function(result)
    if failure.is(result) then
      complain("skald test: %s", result.traceback)
      self.failed = self.failed + 1
    end
    C.skald_stop(pointer, self.failed == 0 and self.passed > 0 and 0 or 1)
  end)
end

-- --- the command ------------------------------------------------------------------------------

local function loadBusted()
  local ok, busted
  for _, name in ipairs { "lfs", "busted.core", "busted.execute", "busted.modules.output_handler_loader" } do
    ok, busted = pcall(require, name)
    if not ok then
      return nil, MISSING:format(tostring(busted):match "^[^\n]*")
    end
  end
  return require "busted.core"()
end

-- Loads busted where nothing is found that lies in the folder we are called in: it may have the name of a
-- module that busted needs. Afterwards that folder comes last.
local function loadAside()
  local path, here = package.path, ""
  local elsewhere = (";" .. path .. ";"):gsub(";(%./%?[^;]*)", function(form)
    here = here .. ";" .. form
    return ""
  end)
  package.path = elsewhere:sub(2, -2)
  local busted, message = loadBusted()
  if busted then
    require "term"
  end
  package.path = package.path .. here
  return busted, message
end

-- busted forgets the modules that a file required: those of the library are to be there before.
local function loadLibrary()
  for _, file in ipairs(core.bundledNames "skald/") do
    require("skald." .. file:gsub("%.lua$", ""))
  end
  require("ffi").cdef = require("skald.cdef").declare
end

-- Nor may anybody end the program in the midst of them.
local function forbidExit()
  rawset(os, "exit", function()
    error("os.exit would end the run of the tests", 2)
  end)
end

local function misuse(options)
  local known = not options.output
  for _, name in ipairs(OUTPUTS) do
    known = known or options.output == name
  end
  if not known then
    return ("--output: '%s' is none of %s"):format(options.output, table.concat(OUTPUTS, ", "))
  end
  local ok, message = pcall(string.find, "", options.filter or "")
  return not ok and ("--filter: '%s' is no pattern: %s"):format(options.filter, message) or nil
end

local function defaultOutput()
  return require("term").isatty(io.stdout) and "utfTerminal" or "plainTerminal"
end

--- Prepares the run, which begins with the loop.
---@param words string[] files and folders
---@param options table
---@return integer status
function trial.start(words, options)
  local wrong = misuse(options)
  if wrong then
    complain("skald: %s (see skald --help)", wrong)
    return 2
  end
  local busted, message = loadAside()
  local files
  if busted then
    files, message = findFiles(words)
  end
  if not files then
    complain("%s", message:find "^skald" and message or "skald test: " .. message)
    return 1
  end
  loadLibrary()
  forbidExit()
  leftovers.watch()
  local self = setmetatable({
    busted = busted,
    files = files,
    output = options.output or defaultOutput(),
    scopes = {},
    tests = 0,
    passed = 0,
    failed = 0,
    pending = 0,
  }, Trial)
  host.trial = self
  host.starting = {}
  program.whenRunning(timers.own, NEXT_TURN, start, self)
  return 0
end

return trial
