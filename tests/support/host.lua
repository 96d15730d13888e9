-- The real binary under test: started on port 0, watched by its lines, stopped in order and found clean.
-- `after_each(host.cleanup)` in every spec stops what a test left running and removes its temporary folder.

local ffi = require "ffi"
local sys = require "support.sys"
local process = require "support.process"
local client = require "support.client"

local Host = {}
Host.__index = function(self, key)
  local own = Host[key]
  if own ~= nil then
    return own
  end
  local inner = rawget(self, "process")[key]
  if type(inner) == "function" then
    return function(_, ...)
      return inner(rawget(self, "process"), ...)
    end
  end
  return inner
end

local host = {}

host.binary = os.getenv "SKALD" or "build/skald"
host.sanitized = host.binary:find("asan", 1, true) ~= nil
host.jit = os.getenv "SKALD_JIT" -- for those that are to run in another mode of LuaJIT's
host.long = os.getenv "SKALD_LONG" == "1"

local running = {}
local folder

sys.raiseDescriptorLimit()

--- The temporary folder of this test; removed at its end.
function host.folder()
  if not folder then
    local pattern = (os.getenv "TMPDIR" or "/tmp") .. "/skald-test-XXXXXX"
    local text = ffi.new("char[?]", #pattern + 1, pattern)
    assert(ffi.C.mkdtemp(text) ~= nil, "no temporary folder")
    folder = ffi.string(text)
  end
  return folder
end

--- Writes a file into the test's folder and returns its path.
function host.file(name, text)
  local path = host.folder() .. "/" .. name
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- Writes a script into the test's folder and returns its path.
function host.script(text, name)
  return host.file(name or "script.lua", text)
end

--- The number of the line of `text` that has `mark` in it: `-- here` marks.
function host.lineOf(text, mark)
  local n = 0
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    n = n + 1
    if line:find(mark, 1, true) then
      return n
    end
  end
  error("no line with " .. mark, 2)
end

--- The text of a service whose `dataReceived` runs `commands[word]` of the script with (protocol, transport, rest)
--- for the first word of what comes. `extra` goes into its definition.
function host.commands(text, extra)
  return ([[
    local P, commands = {}, {}
    function P:dataReceived(data)
      local word, rest = data:match "^(%%w+) ?([^\n]*)"
      local command = commands[word] or error("no command " .. tostring(word))
      command(self, self.transport, rest)
    end
    function P:connectionLost(reason) print("lost", reason.code, reason.by) end
    %s
    return { listen = "tcp:127.0.0.1:0", protocol = P %s }
  ]]):format(text, extra and "," .. extra or "")
end

local function environment(extra)
  local env = { XDG_RUNTIME_DIR = host.folder(), SKALD_TRACE = false, LUA_PATH = false, LUA_CPATH = false }
  for key, value in pairs(extra or {}) do
    env[key] = value
  end
  return env
end

local IN_FOLDER = 'program=$(realpath "$1"); cd "$2"; shift 2; exec "$program" "$@"'

local function commandLine(words)
  local argv = { host.binary, unpack(words) }
  if words.folder then
    argv = { "sh", "-c", IN_FOLDER, "sh", host.binary, words.folder, unpack(words) }
  end
  argv.env, argv.deadline = environment(words.env), words.deadline
  return argv
end

--- Runs the binary to its end: `host.command { "check", path }`, in the folder `folder` where that is given.
--- Returns exit status, stdout, stderr.
function host.command(words)
  return process.run(commandLine(words))
end

--- Starts the binary as host.command does; the process.
function host.start(words)
  return process.start(commandLine(words))
end

-- Takes the next `n` lines of the kind `listening KIND:… NAME` into self.endpoints.
local function awaitEndpoints(self, n)
  for _ = 1, n do
    local endpoint, name = self.process:line "^listening (%S+) ?(.*)$"
    local entry = { endpoint = endpoint, name = name, kind = endpoint:match "^%w+" }
    if endpoint:find "unix:" then
      entry.path = endpoint:match "unix:(.*)$"
    else
      entry.port = tonumber(endpoint:match ":(%d+)$")
    end
    self.endpoints[#self.endpoints + 1] = entry
  end
  local first = self.endpoints[1]
  if first then
    self.port, self.path = first.port, first.path
  end
end

--- Starts a host: the words that follow `run`. Fields beside them: `options` (words before them, such as
--- `"--grace=1"`), `listening` (how many lines to wait for, default 1), `env`, `limit` (of open descriptors),
--- `through` (a command that becomes the host).
function host.run(words)
  local argv = { host.binary, "run" }
  argv[#argv + 1] = host.jit and "--jit=" .. host.jit
  for _, word in ipairs(words.options or {}) do
    argv[#argv + 1] = word
  end
  for _, word in ipairs(words) do
    argv[#argv + 1] = word
  end
  if words.limit then
    argv = { "sh", "-c", ('ulimit -n %d; exec "$@"'):format(words.limit), "sh", unpack(argv) }
  end
  if words.through then
    local all = { unpack(words.through) }
    for _, word in ipairs(argv) do
      all[#all + 1] = word
    end
    argv = all
  end
  argv.env = environment(words.env)
  local self = setmetatable({ process = process.start(argv), endpoints = {} }, Host)
  local ok, message = pcall(awaitEndpoints, self, words.listening or 1)
  if not ok then
    self.process:kill "KILL"
    self.process:wait()
    error(message, 0)
  end
  running[self] = true
  return self
end

--- Starts a host that serves the script `text`; fields of `words` as in `host.run`, its words follow the script.
function host.serve(text, words)
  words = words or {}
  local all = { host.script(text), unpack(words) }
  for key, value in pairs(words) do
    if type(key) == "string" then
      all[key] = value
    end
  end
  return host.run(all)
end

--- A client connected to the host's first endpoint (or the one numbered `which`).
function Host:connect(options, which)
  local at = self.endpoints[which or 1]
  if at.path then
    return client.unix(at.path, options)
  end
  return client.tcp(at.port, options)
end

--- Waits for a line of the log (stderr).
function Host:waitLog(pattern, seconds)
  return self.process:errorLine(pattern, seconds)
end

--- How often a plain text stands in the log so far.
function Host:logged(text)
  local log, n, at = self.process:errors(), 0, 1
  while true do
    local from, to = log:find(text, at, true)
    if not from then
      return n
    end
    n, at = n + 1, to + 1
  end
end

-- What a clean log never has.
local function complaints(text)
  local bad = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    for _, mark in ipairs { "Sanitizer", "runtime error:", "leftover" } do
      if line:find(mark, 1, true) then
        bad[#bad + 1] = line
        break
      end
    end
  end
  return bad
end

--- Raises if the log has a sanitizer's report or something left over.
function Host:assertClean()
  local bad = complaints(self.process:errors())
  if #bad > 0 then
    error(self.process:story("the host is not clean: " .. table.concat(bad, " | ")), 0)
  end
end

--- Waits for the host to end by itself; asserts the status (default 0) and a clean log.
function Host:ends(status, seconds)
  running[self] = nil
  local got = self.process:wait(seconds)
  self:assertClean()
  if got ~= (status or 0) then
    error(self.process:story(("the host ended with %s, not %s"):format(tostring(got), tostring(status or 0))), 0)
  end
  return self
end

--- Stops the host with SIGTERM; it must end with 0 and leave nothing over.
function Host:stop(seconds)
  self.process:kill "TERM"
  return self:ends(0, seconds)
end

--- Stops everything that a test left running, and removes its folder. Raises if a host did not end clean.
function host.cleanup()
  client.closeAll()
  local trouble
  for h in pairs(running) do
    local ok, message = pcall(h.stop, h)
    if not ok then
      trouble = trouble or message
    end
  end
  running = {}
  process.killAll()
  if folder then
    process.run { "rm", "-rf", folder }
    folder = nil
  end
  if trouble then
    error(trouble, 0)
  end
end

return host
