-- A child process with pipes: lines of its output with a deadline, signals, exit status, what /proc tells of it.
-- It does not know the host. A missed deadline raises an error that shows all output so far.

local ffi = require "ffi"
local sys = require "support.sys"

local C = ffi.C

local Process = {}
Process.__index = Process

local process = {}

process.signals = {
  HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, USR1 = 10, SEGV = 11, TERM = 15, CONT = 18, STOP = 19,
}

local SETSIGDEF, SETSIGMASK = 0x04, 0x08

local alive = {}

local function strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for i, s in ipairs(list) do
    array[i - 1] = s
  end
  array[#list] = nil
  return array
end

-- The environment of this process with the changes of `extra` (a value of false removes one).
local function environment(extra)
  local list = {}
  local i = 0
  while C.environ[i] ~= nil do
    local entry = ffi.string(C.environ[i])
    if not extra or extra[entry:match "^[^=]*"] == nil then
      list[#list + 1] = entry
    end
    i = i + 1
  end
  for key, value in pairs(extra or {}) do
    if value then
      list[#list + 1] = key .. "=" .. tostring(value)
    end
  end
  return list
end

local function pipe()
  local fds = ffi.new "int[2]"
  assert(C.pipe2(fds, 0x80000) == 0, "pipe2 failed")
  return fds[0], fds[1]
end

local buffer = ffi.new("uint8_t[?]", 65536)

-- One stream of output: what came so far, and how far it was read by lines.
local function newStream(fd)
  sys.prepare(fd)
  local stream = { fd = fd, pieces = {}, text = "", at = 1, ended = false }
  function stream.drain()
    while not stream.ended do
      local n = tonumber(C.read(stream.fd, buffer, 65536))
      if n > 0 then
        stream.pieces[#stream.pieces + 1] = ffi.string(buffer, n)
      elseif n == 0 then
        stream.ended = true
        sys.watch(stream.fd, nil)
        C.close(stream.fd)
      else
        return
      end
    end
  end
  sys.watch(fd, stream.drain)
  return stream
end

local function textOf(stream)
  stream.drain()
  if #stream.pieces > 0 then
    stream.text = stream.text .. table.concat(stream.pieces)
    stream.pieces = {}
  end
  return stream.text
end

--- Starts `argv` (a list; found by PATH). Fields beside the list: `env` (a table of changes), `input` (a path to
--- read stdin from; default: a pipe).
function process.start(argv)
  local outRead, outWrite = pipe()
  local errRead, errWrite = pipe()
  local actions, attributes, set = ffi.new "uint8_t[512]", ffi.new "uint8_t[1024]", ffi.new "uint8_t[128]"
  C.posix_spawn_file_actions_init(actions)
  local inRead, inWrite
  if argv.input then
    C.posix_spawn_file_actions_addopen(actions, 0, argv.input, 0, 0)
  else
    inRead, inWrite = pipe()
    C.posix_spawn_file_actions_adddup2(actions, inRead, 0)
  end
  C.posix_spawn_file_actions_adddup2(actions, outWrite, 1)
  C.posix_spawn_file_actions_adddup2(actions, errWrite, 2)
  C.posix_spawnattr_init(attributes)
  C.sigemptyset(set)
  C.posix_spawnattr_setsigmask(attributes, set)
  C.sigaddset(set, 13)
  C.posix_spawnattr_setsigdefault(attributes, set)
  C.posix_spawnattr_setflags(attributes, SETSIGDEF + SETSIGMASK)
  local words, env = {}, environment(argv.env)
  for i, word in ipairs(argv) do
    words[i] = tostring(word)
  end
  local pid = ffi.new "int[1]"
  local result = C.posix_spawnp(pid, words[1], actions, attributes, strings(words), strings(env))
  C.posix_spawn_file_actions_destroy(actions)
  C.posix_spawnattr_destroy(attributes)
  C.close(outWrite)
  C.close(errWrite)
  if inRead then
    C.close(inRead)
  end
  local self = setmetatable({
    pid = pid[0],
    command = table.concat(words, " "),
    input = inWrite,
    stdout = newStream(outRead),
    stderr = newStream(errRead),
  }, Process)
  if result ~= 0 then
    self:closeInput()
    self:forget()
    error(("cannot start %s: %s"):format(words[1], sys.errname(result)), 2)
  end
  alive[self] = true
  if inWrite then
    sys.prepare(inWrite)
  end
  return self
end

--- Runs a command to its end. Returns its exit status, stdout and stderr.
function process.run(argv)
  local p = process.start(argv)
  if p.input then
    if argv.text then
      p:write(argv.text)
    end
    p:closeInput()
  end
  local status = p:wait(argv.deadline)
  return status, p:output(), p:errors()
end

--- Runs a line of shell to its end. Returns its exit status, stdout and stderr.
function process.shell(line, deadline)
  return process.run { "sh", "-c", line, deadline = deadline }
end

--- Kills and reaps every process started here that still lives. Returns how many there were.
function process.killAll()
  local n = 0
  for p in pairs(alive) do
    n = n + 1
    C.kill(p.pid, process.signals.KILL)
    C.waitpid(p.pid, nil, 0)
    p:closeInput()
    p:forget()
  end
  return n
end

--- All of stdout so far.
function Process:output()
  return textOf(self.stdout)
end

--- All of stderr so far.
function Process:errors()
  return textOf(self.stderr)
end

--- A text that shows the process and everything it has said, for complaints.
function Process:story(what)
  local function shown(text)
    if #text > 6000 then
      text = text:sub(1, 3000) .. "\n[… " .. (#text - 6000) .. " bytes …]\n" .. text:sub(-3000)
    end
    return text
  end
  return ("%s\n  of: %s (pid %d%s)\n-- stdout:\n%s\n-- stderr:\n%s\n--"):format(what, self.command, self.pid,
    self.status and (", ended with " .. tostring(self.status)) or "", shown(self:output()), shown(self:errors()))
end

-- The next line of a stream that matches, from where the last one was found; nil when there is none yet.
local function findLine(stream, pattern)
  local text = textOf(stream)
  while true do
    local stop = text:find("\n", stream.at, true)
    if not stop and not (stream.ended and stream.at <= #text) then
      return nil
    end
    local line = text:sub(stream.at, (stop or #text + 1) - 1)
    stream.at = (stop or #text) + 1
    if not pattern or line:find(pattern) then
      return line
    end
  end
end

local function awaitLine(self, stream, name, pattern, seconds)
  local line = sys.await(function()
    local found = findLine(stream, pattern)
    if found then
      return found
    elseif stream.ended then
      error(self:story(("%s ended before a line matching %q came"):format(name, pattern or ".*")), 0)
    end
  end, function()
    return self:story(("no line matching %q on %s in time"):format(pattern or ".*", name))
  end, seconds)
  if pattern and pattern:find("%(") then
    return line:match(pattern)
  end
  return line
end

--- Waits for the next line of stdout that matches `pattern` (lines before it are passed over); returns the line, or
--- its captures where the pattern has some.
function Process:line(pattern, seconds)
  return awaitLine(self, self.stdout, "stdout", pattern, seconds)
end

--- The same for stderr.
function Process:errorLine(pattern, seconds)
  return awaitLine(self, self.stderr, "stderr", pattern, seconds)
end

--- True if a whole line matching `pattern` has come on stdout after the last one that was waited for.
function Process:has(pattern)
  local text = textOf(self.stdout)
  for line in text:sub(self.stdout.at):gmatch "([^\n]*)\n" do
    if line:find(pattern) then
      return true
    end
  end
  return false
end

--- Writes all of `text` to the process's stdin.
function Process:write(text)
  local at, bytes = 0, ffi.cast("const uint8_t *", text)
  local entry = { { fd = self.input, events = sys.POLLOUT } }
  sys.await(function()
    while at < #text do
      local n = tonumber(C.write(self.input, bytes + at, #text - at))
      if n < 0 then
        local code = ffi.errno()
        if code ~= sys.EAGAIN then
          error(self:story("stdin of the process: " .. sys.errname(code)), 0)
        end
        return false
      end
      at = at + n
    end
    return true
  end, function()
    return self:story("the process does not read its stdin")
  end, nil, entry)
  return text
end

function Process:closeInput()
  if self.input then
    C.close(self.input)
    self.input = nil
  end
end

-- The letter for what the process does, as /proc has it: `T` is stopped.
local function stateOf(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  local text = file and file:read "*a" or ""
  if file then
    file:close()
  end
  return text:match "%) (%a)"
end

--- Sends a signal: a name as in `process.signals`. Returns once a process that is sent STOP does nothing any more.
function Process:kill(name)
  local number = process.signals[name]
  C.kill(self.pid, number or error("no signal " .. name, 2))
  if name == "STOP" then
    sys.await(function()
      return stateOf(self.pid) == "T"
    end, function()
      return self:story "the process does not stop"
    end)
  end
end

function Process:forget()
  alive[self] = nil
  for _, stream in ipairs { self.stdout, self.stderr } do
    if not stream.ended then
      stream.drain()
    end
    if not stream.ended then
      stream.ended = true
      sys.watch(stream.fd, nil)
      C.close(stream.fd)
    end
  end
end

-- Reaps the process if it has ended; returns its status: a number, or the name of the signal that ended it.
function Process:reap()
  if self.status == nil then
    local raw = ffi.new "int[1]"
    if C.waitpid(self.pid, raw, 1) == self.pid then
      local signal = raw[0] % 128
      self.status = math.floor(raw[0] / 256) % 256
      if signal ~= 0 then
        self.status = "signal " .. signal
        for name, number in pairs(process.signals) do
          if number == signal then
            self.status = "SIG" .. name
          end
        end
      end
      self:closeInput()
      self:forget()
    end
  end
  return self.status
end

--- Waits for the process to end; returns its exit status (a number) or the signal's name (`SIGSEGV`).
function Process:wait(seconds)
  local limit = sys.now() + (seconds or sys.deadline)
  local pause = 0.001
  while self:reap() == nil do
    if sys.now() > limit then
      error(self:story "the process does not end", 0)
    end
    sys.poll({}, pause) -- the end of a process has no descriptor of its own to wait for
    pause = math.min(pause * 2, 0.02)
  end
  return self.status
end

local function slurp(path)
  local file = io.open(path)
  local text = file and file:read "*a"
  if file then
    file:close()
  end
  return text
end

--- How many descriptors the process has open.
function Process:descriptors()
  local list = io.popen(("ls /proc/%d/fd"):format(self.pid))
  local n = 0
  for _ in list:lines() do
    n = n + 1
  end
  list:close()
  return n
end

--- Resident memory in bytes.
function Process:memory()
  local text = slurp(("/proc/%d/status"):format(self.pid)) or ""
  return assert(tonumber(text:match "VmRSS:%s*(%d+)"), "no VmRSS") * 1024
end

--- The most resident memory the process ever had, in bytes.
function Process:peakMemory()
  local text = slurp(("/proc/%d/status"):format(self.pid)) or ""
  return assert(tonumber(text:match "VmHWM:%s*(%d+)"), "no VmHWM") * 1024
end

--- CPU time used so far (user and system), in seconds.
function Process:cpu()
  local text = slurp(("/proc/%d/stat"):format(self.pid)) or ""
  local fields = {}
  for word in text:gsub("^.*%) ", ""):gmatch "%S+" do
    fields[#fields + 1] = word
  end
  return (tonumber(fields[12]) + tonumber(fields[13])) / 100
end

process.sys = sys

return process
