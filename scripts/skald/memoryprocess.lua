-- Processes of the reactor that has no network: none is started; a test writes for it, reads what was written
-- to it, and has it end. Pure.

local address = require "skald.address"
local protocol = require "skald.protocol"
local reason = require "skald.reason"
local stringtransport = require "skald.stringtransport"

local memoryprocess = {}

-- The names of Linux's signals, from 1 on.
local names = {}
for name in ([[HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP
  TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS]]):gmatch "%u%w*" do
  names[#names + 1] = name
end

--- What spawnProcess of a MemoryReactor gives: the process, and the transport of its protocol.
---@class MemoryProcess: ProcessTransport
---@field protocol ProcessProtocol
---@field path string
---@field args string[]
---@field env table?
---@field cwd string?
---@field uid integer? a user's number
---@field gid integer? a group's number
---@field pty boolean? it has a terminal
---@field rows integer? lines of the terminal, as set last
---@field columns integer? characters of a line of it
---@field running boolean
---@field signals string[] the names of those that it was sent
local Process = { disconnecting = false }
Process.__index = Process

-- A plain table may be a protocol, too.
local function hear(self, name, ...)
  local receiver = self.protocol
  local f = receiver[name] or protocol.ProcessProtocol[name]
  return f(receiver, ...)
end

-- What a callback raises comes out in the end, when the rest is done: the first of it.
local function attempt(self, f, ...)
  local ok, problem = pcall(f, ...)
  if not ok and not self.problem then
    self.problem = { raised = problem }
  end
  return ok
end

local function raise(self)
  local problem = self.problem
  self.problem = nil
  if problem then
    error(problem.raised, 0)
  end
end

local function sortedFds(pipes)
  local list = {}
  for fd in pairs(pipes) do
    list[#list + 1] = fd
  end
  table.sort(list)
  return list
end

local function conclude(self)
  if self.reason and not self.told and next(self.pipes) == nil then
    self.told = true
    attempt(self, hear, self, "processEnded", self.reason)
  end
end

local function send(self, signal)
  if self.running then
    table.insert(self.signals, signal)
  end
end

-- A callback of its protocol has raised: what we have of it is closed, and it is asked to end.
local function fail(self, text)
  self.failure = self.failure or text
  self:loseConnection()
  send(self, "TERM")
end

-- --- one descriptor ---------------------------------------------------------------------------

local Pipe = protocol.Protocol {}

function Pipe:dataReceived(data)
  hear(self.process, "childDataReceived", self.fd, data)
end

function Pipe:connectionLost(why)
  local mine = self.process
  mine.pipes[self.fd] = nil
  if why.code == "error" then
    fail(mine, why.traceback or why.message)
  end
  hear(mine, "childConnectionLost", self.fd)
end

local function openPipe(self, fd, writes)
  local pipe = Pipe:new()
  pipe.process, pipe.fd = self, fd
  local _, transport = stringtransport.attach(pipe)
  transport.peer, transport.host = self:getPeer(), self:getPeer()
  self.pipes[fd], self.transports[fd], self.writes[fd] = pipe, transport, writes
end

-- Moves what there is to be moved on each of them.
local function move(self)
  local any = false
  for _, fd in ipairs(sortedFds(self.pipes)) do
    local pipe, carrier = self.pipes[fd], self.transports[fd]._fake
    local before = carrier.moves
    if pipe then
      attempt(self, stringtransport.turn, pipe)
    end
    any = any or carrier.moves ~= before
  end
  return any
end

-- --- the transport ----------------------------------------------------------------------------

--- Queues bytes for its standard input (of a terminal: for that).
---@param data string
---@return boolean? ok true, or nil with "closing" and a code
---@return string? message
---@return string? code EPIPE
function Process:write(data)
  return self:writeToChild(self.input, data)
end

--- Queues a list of strings for its standard input.
---@param list string[]
---@return boolean? ok
---@return string? message
---@return string? code EPIPE
function Process:writeSequence(list)
  if type(list) ~= "table" then
    error(("writeSequence takes a list of strings, not a %s"):format(type(list)), 2)
  elseif not self.pipes[self.input] then
    return nil, "closing", "EPIPE"
  end
  return self.transports[self.input]:writeSequence(list)
end

--- Queues bytes for one of the descriptors that it reads from.
---@param fd integer the process's own number of it
---@param data string
---@return boolean? ok
---@return string? message
---@return string? code EPIPE
function Process:writeToChild(fd, data)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  elseif self.writes[fd] == false then
    error(("the process writes to its descriptor %s, and does not read there"):format(tostring(fd)), 2)
  elseif not self.pipes[fd] then
    return nil, "closing", "EPIPE"
  end
  return self.transports[fd]:write(data)
end

--- What was written to it, all of it.
---@param fd integer? the process's own number of the descriptor: its standard input, or the terminal
---@return string
function Process:written(fd)
  local transport = self.transports[fd or self.input]
  return transport and transport:value() or ""
end

--- Closes one of the descriptors that we have of it.
---@param fd integer the process's own number of it
function Process:closeChildFD(fd)
  if self.pipes[fd] then
    self.transports[fd]:loseConnection()
  end
end

--- Closes its standard input. To a terminal the end of input is written.
function Process:closeStdin()
  if self.pty then
    self:writeToChild(self.input, "\4")
  else
    self:closeChildFD(0)
  end
end

--- Closes its standard output.
function Process:closeStdout()
  self:closeChildFD(1)
end

--- Closes its standard error.
function Process:closeStderr()
  self:closeChildFD(2)
end

--- Closes all that we have of it.
function Process:loseConnection()
  self.disconnecting = true
  for fd in pairs(self.pipes) do
    self.transports[fd]:loseConnection()
  end
end

--- Closes all that we have of it, and sends it KILL.
function Process:abortConnection()
  self.disconnecting = true
  for fd in pairs(self.pipes) do
    self.transports[fd]:abortConnection()
  end
  send(self, "KILL")
end

--- The same as loseConnection.
function Process:stopProducing()
  self:loseConnection()
end

--- The name of a signal.
---@param signal string|integer its name or its number
---@return string? name nil where there is no such signal
function memoryprocess.nameOf(signal)
  if type(signal) == "number" and signal % 1 == 0 and signal > 0 and signal <= 64 then
    return names[signal] or tostring(signal)
  end
  for _, name in ipairs(names) do
    if name == signal then
      return name
    end
  end
  return nil
end

--- Notes a signal in `signals`. What the process makes of it the test says: `memory:exit(process, "TERM")`.
---@param number string|integer "TERM", "KILL", "HUP" …, or the number
---@return boolean? ok nil, message, code where it has ended
---@return string? message
---@return string? code ESRCH
function Process:signalProcess(number)
  local name = memoryprocess.nameOf(number)
  if not name then
    error(("signalProcess takes the name or the number of a signal, not %s"):format(tostring(number)), 2)
  elseif not self.running then
    return nil, "the process has ended", "ESRCH"
  end
  table.insert(self.signals, name)
  return true
end

--- Notes the size of its terminal, in `rows` and `columns`.
---@param rows integer lines of text
---@param columns integer characters of a line
---@return boolean? ok nil, message, code where it has none
---@return string? message
---@return string? code ENOTTY
function Process:setWindowSize(rows, columns)
  if not self.pty or not self.pipes[self.input] then
    return nil, "Inappropriate ioctl for device", "ENOTTY"
  end
  self.rows, self.columns = rows, columns
  return true
end

local function eachReader(self, method)
  for fd in pairs(self.pipes) do
    if not self.writes[fd] or self.pty then
      self.transports[fd][method](self.transports[fd])
    end
  end
end

--- Reads nothing of what it writes.
function Process:pauseProducing()
  eachReader(self, "pauseProducing")
end

--- Reads again; what waited comes at the next `flush`.
function Process:resumeProducing()
  eachReader(self, "resumeProducing")
end

--- Registers who writes to its standard input.
---@param producer table
---@param streaming boolean
---@return boolean? ok nil, "closing", code where that is closed (the producer is stopped)
---@return string? message
---@return string? code EPIPE
function Process:registerProducer(producer, streaming)
  if self.pipes[self.input] then
    return self.transports[self.input]:registerProducer(producer, streaming)
  end
  if producer.stopProducing then
    producer:stopProducing()
  end
  return nil, "closing", "EPIPE"
end

--- The producer is done.
function Process:unregisterProducer()
  if self.pipes[self.input] then
    self.transports[self.input]:unregisterProducer()
  end
end

--- What is queued for its standard input: nothing, for all is taken at once.
---@return integer bytes
function Process:bufferedAmount()
  local transport = self.transports[self.input]
  return transport and transport:bufferedAmount() or 0
end

--- What runs, as an address.
---@return Address
function Process:getPeer()
  return address.named("PROCESS", self.path)
end

--- The same.
---@return Address
function Process:getHost()
  return self:getPeer()
end

-- --- what happens to it -----------------------------------------------------------------------

--- A process, which is yet to start.
---@param memory MemoryReactor
---@param receiver ProcessProtocol
---@param plan table as skald.asked makes it
---@param fds table[] `{ fd, mode, given }`
---@return MemoryProcess
function memoryprocess.new(memory, receiver, plan, fds)
  local self = setmetatable({
    memory = memory,
    protocol = receiver,
    fds = plan.pty and {} or fds,
    input = plan.pty and 1 or 0,
    running = false,
    pipes = {},
    transports = {},
    writes = {},
    signals = {},
  }, Process)
  for key, value in pairs(plan) do
    self[key] = value
  end
  return self
end

--- Starts it, or says why that cannot be.
---@param self MemoryProcess
---@param errno string? the name of the error
function memoryprocess.start(self, errno)
  if errno then
    local text = ("cannot start %s: %s"):format(self.path, errno)
    self.reason = reason.exited("lost", "local", text, { errno = errno })
    return
  end
  self.running, self.pid = true, 1000 + #self.memory.processes
  if self.pty then
    openPipe(self, 1, true)
  end
  for _, item in ipairs(self.fds) do
    if item.mode == "r" or item.mode == "w" then
      openPipe(self, item.fd, item.mode == "w")
    end
  end
  if not attempt(self, hear, self, "makeConnection", self) then
    fail(self, tostring(self.problem.raised))
  end
  raise(self)
end

--- It writes to one of its descriptors.
---@param self MemoryProcess
---@param data string
---@param fd integer the process's own number of it
---@return boolean? ok nil, message, code where nobody reads that
---@return string? message
---@return string? code EPIPE
function memoryprocess.output(self, data, fd)
  local pipe = self.pipes[fd]
  if not self.running or not pipe or self.writes[fd] and not self.pty or self.transports[fd].disconnecting then
    return nil, "Broken pipe", "EPIPE"
  end
  attempt(self, stringtransport.feed, pipe, data)
  conclude(self)
  raise(self)
  return true
end

-- Why it ended: by itself with 0 is `done`.
local function reasonOf(self, how)
  local name = type(how) == "string" and how or nil
  local fields = { exitCode = not name and how or nil, signal = name }
  local text = name and ("the process was ended by signal %s"):format(name)
    or ("the process ended with status %d"):format(how)
  if self.failure then
    fields.traceback = self.failure
    return reason.exited("error", "local", "a callback failed: " .. self.failure:match "^[^\n]*", fields)
  elseif name and self.signals[#self.signals] == name then
    return reason.exited("aborted", "local", text, fields)
  end
  return reason.exited(how == 0 and "done" or "lost", "peer", text, fields)
end

--- It ends.
---@param self MemoryProcess
---@param how integer|string its status, or the name of a signal
---@return boolean? ok nil, message, code where it does not run
---@return string? message
---@return string? code ESRCH
function memoryprocess.exit(self, how)
  if not self.running then
    return nil, "the process has ended", "ESRCH"
  end
  self.running = false
  self.reason = reasonOf(self, how)
  attempt(self, hear, self, "processExited", self.reason)
  for _, fd in ipairs(sortedFds(self.pipes)) do
    if self.writes[fd] and not self.pty then
      self.transports[fd]:loseConnection()
    elseif self.pipes[fd] then
      attempt(self, stringtransport.finish, self.pipes[fd])
    end
  end
  move(self)
  conclude(self)
  raise(self)
  return true
end

--- Lets what is to move do so, of all processes.
---@param memory MemoryReactor
---@return boolean any whether anything did
function memoryprocess.turn(memory)
  local any = false
  for _, self in ipairs(memory.processes) do
    any = move(self) or any
    local told = self.told
    conclude(self)
    any = any or self.told ~= told
    raise(self)
  end
  return any
end

--- Whether a value is one.
---@param value any
---@return boolean
function memoryprocess.is(value)
  return getmetatable(value) == Process
end

return memoryprocess
