-- Processes that we start. The core makes a connection of each descriptor that we have of one; here they
-- become one transport, and what its protocol hears.

local address = require "skald.address"
local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local owner = require "skald.owner"
local program = require "skald.program"
local protocol = require "skald.protocol"
local reason = require "skald.reason"
local timers = require "skald.timers"
local transport = require "skald.transport"
local turn = require "skald.turn"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local process = {}

local KILL_AFTER = 5 -- seconds that a process has to end once it was asked to
local TERM_AFTER = 5 -- seconds that one has to end once its connection has: as long as the core lingers
local STOPS_AFTER = 1 -- and where the host stops
local SOONEST = 0.1 -- seconds from the start of one to that of the next, where its end is what asks for that

-- enum process_end (host/io/process.h).
local READ, WRITE, GIVEN, STREAM, TERMINAL = 0, 1, 2, 3, 4
local modes = { r = READ, w = WRITE }

-- Those that live, by their handles.
local children = {}

-- Those that have ended, while somebody holds their pipes.
local lasting = {}

-- Those that wait for their time to start, with the timers.
local delayed = {}

-- The one whose processExited or processEnded runs.
local concluding

-- --- starting ---------------------------------------------------------------------------------

local function strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for i, text in ipairs(list) do
    array[i - 1] = text
  end
  return array
end

local function environment(env)
  local list = {}
  for name, value in pairs(env) do
    list[#list + 1] = ("%s=%s"):format(name, tostring(value))
  end
  return list
end

local stages = { [1] = "its folder %s", [2] = "the user or group asked for" }

-- Why it was not started, in one line; the name of the error.
local function problemOf(plan, child, errno)
  local message, code = core.errorOf(errno)
  local what = stages[child.stage]
  if what then
    message = ("%s: %s"):format(what:format(plan.cwd), message)
  end
  return message, code
end

-- The group of what processes have: the bounds are the default ones.
local group

local function groupOfPipes()
  group = group or dispatch.Group:new()
  return group.handle
end

-- Starts what `plan` says; `fds` is a list of `{ fd, what, given }`, and gets the handles. The child, as
-- the core answers, or nil, message, code, errno.
local function spawn(plan, fds, streams)
  local args, env = plan.args, plan.env and environment(plan.env)
  local list = ffi.new("struct skald_child_fd[?]", math.max(1, #fds))
  for i, item in ipairs(fds) do
    list[i - 1].fd, list[i - 1].what, list[i - 1].given = item.fd, item.what, item.given or -1
  end
  local argv, envp = strings(args), env and strings(env) or nil
  local child = ffi.new "struct skald_child"
  child.path, child.args, child.env, child.cwd = plan.path, argv, envp, plan.cwd
  child.uid, child.gid = plan.uid or -1, plan.gid or -1
  child.rows, child.columns = plan.rows or 0, plan.columns or 0
  child.count, child.fds = #fds, list
  local errno = C.skald_spawn(pointer, groupOfPipes(), streams or groupOfPipes(), child)
  if errno ~= 0 then
    local message, code = problemOf(plan, child, errno)
    return nil, message, code, errno
  end
  for i, item in ipairs(fds) do
    item.handle = list[i - 1].handle
  end
  return { handle = child.handle, pid = child.pid, list, args, env, argv, envp } -- which the core has read
end

-- The connection of a descriptor has a protocol from now on.
local function join(handle, receiver, name)
  local carrier = transport.new(handle)
  carrier.peer, carrier.host = name, name
  receiver.transport = carrier
  dispatch.protocols[core.place(handle)] = receiver
  C.skald_join(pointer, handle)
  return carrier
end

-- --- the transport ----------------------------------------------------------------------------

--- A process that was started, as its protocol has it in `self.transport`.
---@class ProcessTransport
---@field pid integer? nil where it could not be started, or is yet to be
---@field disconnecting boolean true after loseConnection
---@field private protocol ProcessProtocol
---@field private pipes table<integer, Transport> what is open, by the process's own descriptor
---@field private writes table<integer, boolean> whether we write there
---@field private input integer where `write` goes
---@field private place Owner? whose what its end starts is
local Process = { disconnecting = false }
Process.__index = Process

-- A plain table may be a protocol, too.
local function hear(receiver, name, ...)
  local f = receiver[name] or protocol.ProcessProtocol[name]
  return f(receiver, ...)
end

local function guarded(who, f, ...)
  local ok, problem = owner.call(who, core.traceback, f, ...)
  if not ok then
    log.error("%s", problem)
  end
  return ok, problem
end

local function signal(self, number)
  return self.handle and C.skald_signal(pointer, self.handle, number) == 0
end

local TERM, KILL = C.skald_signal_number "TERM", C.skald_signal_number "KILL"

-- It is to end: it is asked to, and made to if it does not.
local function stop(self)
  signal(self, TERM)
  if self.handle and not self.deadline then
    self.deadline = timers.own(KILL_AFTER, signal, self, KILL)
  end
end

-- Its owner loses sight of it.
local function leave(self)
  local who = self.owner
  self.owner = nil
  if who then
    who:remove(self)
  end
end

-- What that starts instead belongs to the same owner, and ends with it.
local function tellEnd(self, name)
  local before = concluding
  concluding = self
  guarded(self.place, hear, self.protocol, name, self.reason)
  concluding = before
end

-- What it has started may hold its pipes after its end: until they are closed, it is its owner's.
local function conclude(self)
  if not self.reason or self.open > 0 or self.told then
    return
  end
  self.told, lasting[self] = true, nil
  tellEnd(self, "processEnded")
  leave(self)
end

-- A callback of its protocol has raised.
local function fail(self, text)
  self.failure = self.failure or text
  self:loseConnection()
  stop(self)
end

-- What the core knows as the protocol of one descriptor.
local Pipe = {}
Pipe.__index = Pipe

function Pipe:dataReceived(data)
  hear(self.process.protocol, "childDataReceived", self.fd, data)
end

function Pipe:connectionLost(why)
  local mine, fd = self.process, self.fd
  mine.pipes[fd] = nil
  mine.open = mine.open - 1
  if why.code == "error" then
    fail(mine, why.traceback or why.message)
  end
  guarded(nil, hear, mine.protocol, "childConnectionLost", fd)
  conclude(mine)
end

local function openPipes(self, fds)
  local name = address.named("PROCESS", self.plan.path)
  for _, item in ipairs(fds) do
    if item.what ~= GIVEN then
      local fd = item.what == TERMINAL and 1 or item.fd
      self.pipes[fd] = join(item.handle, setmetatable({ process = self, fd = fd }, Pipe), name)
      self.writes[fd] = item.what ~= READ
      self.open = self.open + 1
    end
  end
end

local function notStarted(self, message, code)
  local text = ("cannot start %s: %s"):format(self.plan.path, message)
  self.reason = reason.exited("lost", "local", text, { errno = code })
  leave(self)
  turn.atEnd(function()
    conclude(self)
  end)
end

local function start(self)
  if self.ended then
    return
  end
  local child, message, code = spawn(self.plan, self.fds)
  if not child then
    return notStarted(self, message, code)
  end
  self.handle, self.pid = child.handle, child.pid
  children[child.handle] = self
  openPipes(self, self.fds)
  local ok, problem = guarded(nil, hear, self.protocol, "makeConnection", self)
  if not ok then
    fail(self, problem)
  end
end

-- One that fails at once, and is started again whenever it has ended, must not take all there is.
local function startInTime(self)
  local wait = self.follows and self.follows + SOONEST - C.skald_seconds(pointer) or 0
  self.startedAt = C.skald_seconds(pointer) + math.max(wait, 0)
  if wait <= 0 then
    return start(self)
  end
  delayed[self] = timers.own(wait, function()
    delayed[self] = nil
    start(self)
  end)
end

-- Why it ended: by itself with 0 is `done`.
local function reasonOf(self, status, number)
  local name = number ~= 0 and C.skald_signal_name(number)
  name = name and (name ~= nil and ffi.string(name) or tostring(number)) or nil
  local fields = { exitCode = not name and status or nil, signal = name }
  local text = name and ("the process was ended by signal %s"):format(name)
    or ("the process ended with status %d"):format(status)
  if self.failure then
    fields.traceback = self.failure
    return reason.exited("error", "local", "a callback failed: " .. self.failure:match "^[^\n]*", fields)
  elseif self.stopping then
    return reason.exited("stopped", "host", "the host stops: " .. text, fields)
  elseif name and self.signalled == number then
    return reason.exited("aborted", "local", text, fields)
  end
  return reason.exited(status == 0 and not name and "done" or "lost", "peer", text, fields)
end

-- The host stops: what is in the pipes of one that has ended is read; who still holds them is not waited for long.
local function hurry(self)
  timers.own(STOPS_AFTER, function()
    for _, pipe in pairs(self.pipes) do
      pipe:loseConnection()
    end
  end)
end

local function last(self)
  lasting[self] = next(self.pipes) and true
  if process.stopping then
    hurry(self)
  end
end

--- It has ended; what it, or what it started, has written may still come.
---@private
---@param status integer
---@param number integer
function Process:exited(status, number)
  self.handle = nil
  if self.deadline then
    self.deadline:cancel()
  end
  self.reason = reasonOf(self, status, number)
  tellEnd(self, "processExited")
  for fd, pipe in pairs(self.pipes) do
    if self.writes[fd] and not self.terminal then
      pipe:loseConnection()
    end
  end
  last(self)
  conclude(self)
end

--- Queues bytes for the process's standard input (of a terminal: for that).
---@param data string
---@return boolean? ok true, or nil with "closing" and a code, as a connection's `write` does
---@return string? message
---@return string? code EPIPE, ENOBUFS
function Process:write(data)
  return self:writeToChild(self.input, data)
end

--- Queues a list of strings for its standard input; answers as `write` does, at the first that is not taken.
---@param list string[]
---@return boolean? ok
---@return string? message
---@return string? code EPIPE, ENOBUFS
function Process:writeSequence(list)
  if type(list) ~= "table" then
    error(("writeSequence takes a list of strings, not a %s"):format(type(list)), 2)
  end
  local pipe = self.pipes[self.input]
  if not pipe then
    return nil, "closing", "EPIPE"
  end
  return pipe:writeSequence(list)
end

--- Queues bytes for one of the descriptors that it reads from.
---@param fd integer the process's own number of it
---@param data string
---@return boolean? ok
---@return string? message
---@return string? code EPIPE, ENOBUFS
function Process:writeToChild(fd, data)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  local pipe = self.pipes[fd]
  if self.writes[fd] == false then
    error(("the process writes to its descriptor %s, and does not read there"):format(tostring(fd)), 2)
  elseif not pipe then
    return nil, "closing", "EPIPE"
  end
  return pipe:write(data)
end

--- Closes one of the descriptors that we have of it; what is queued there is sent first.
---@param fd integer the process's own number of it
function Process:closeChildFD(fd)
  local pipe = self.pipes[fd]
  if pipe then
    pipe:loseConnection()
  end
end

--- Closes its standard input, once what is queued is sent. To a terminal the end of input is written.
function Process:closeStdin()
  if self.terminal then
    self:writeToChild(self.input, "\4")
  else
    self:closeChildFD(0)
  end
end

--- Closes its standard output: what it writes there from now on fails.
function Process:closeStdout()
  self:closeChildFD(1)
end

--- Closes its standard error.
function Process:closeStderr()
  self:closeChildFD(2)
end

--- Closes all that we have of it. What it does about that is its own matter: `signalProcess` ends it.
function Process:loseConnection()
  self.disconnecting = true
  for _, pipe in pairs(self.pipes) do
    pipe:loseConnection()
  end
end

--- Ends it at once, with the signal KILL.
function Process:abortConnection()
  self.disconnecting = true
  for _, pipe in pairs(self.pipes) do
    pipe:abortConnection()
  end
  self.signalled = KILL
  signal(self, KILL)
end

local function signalOf(given)
  if type(given) == "number" and given % 1 == 0 and given > 0 and given <= 64 then
    return given
  end
  local number = type(given) == "string" and C.skald_signal_number(given) or 0
  return number > 0 and number or nil
end

--- Sends it a signal.
---@param number string|integer "TERM", "KILL", "HUP" …, or the number
---@return boolean? ok nil, message, code where it has ended, or we may not
---@return string? message
---@return string? code ESRCH, EPERM
function Process:signalProcess(number)
  local known = signalOf(number)
  if not known then
    error(("signalProcess takes the name or the number of a signal, not %s"):format(tostring(number)), 2)
  elseif not self.handle then
    return nil, "the process has ended", "ESRCH"
  end
  self.signalled = known
  local errno = C.skald_signal(pointer, self.handle, known)
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  return true
end

--- Tells its terminal another size.
---@param rows integer lines of text
---@param columns integer characters of a line
---@return boolean? ok nil, message, code where it has none
---@return string? message
---@return string? code ENOTTY
function Process:setWindowSize(rows, columns)
  local pipe = self.pipes[self.input]
  local errno = C.skald_resize(pointer, pipe and pipe[1] or 0, rows, columns)
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  return true
end

local function eachReader(self, method)
  for fd, pipe in pairs(self.pipes) do
    if not self.writes[fd] or self.terminal then
      pipe[method](pipe)
    end
  end
end

--- Reads nothing of what it writes; once the pipes are full, it waits.
function Process:pauseProducing()
  eachReader(self, "pauseProducing")
end

--- Reads again.
function Process:resumeProducing()
  eachReader(self, "resumeProducing")
end

--- The same as loseConnection.
function Process:stopProducing()
  self:loseConnection()
end

--- Registers who writes to its standard input, as a connection's registerProducer does.
---@param producer table
---@param streaming boolean
---@return boolean? ok nil, "closing", code where that is closed (the producer is stopped)
---@return string? message
---@return string? code EPIPE
function Process:registerProducer(producer, streaming)
  local pipe = self.pipes[self.input]
  if pipe then
    return pipe:registerProducer(producer, streaming)
  end
  if producer.stopProducing then
    producer:stopProducing()
  end
  return nil, "closing", "EPIPE"
end

--- The producer is done.
function Process:unregisterProducer()
  local pipe = self.pipes[self.input]
  if pipe then
    pipe:unregisterProducer()
  end
end

--- What is queued for its standard input and not yet taken.
---@return integer bytes
function Process:bufferedAmount()
  local pipe = self.pipes[self.input]
  return pipe and pipe:bufferedAmount() or 0
end

--- What runs, as an address.
---@return Address
function Process:getPeer()
  return address.named("PROCESS", self.plan.path)
end

--- The same.
---@return Address
function Process:getHost()
  return self:getPeer()
end

--- What it belonged to has ended: it is asked to end, and made to if it does not.
---@private
function Process:finish()
  self.ended, self.owner = true, nil
  if delayed[self] then
    delayed[self]:cancel()
    delayed[self] = nil
  end
  self:loseConnection()
  stop(self)
end

-- --- spawnProcess -----------------------------------------------------------------------------

--- Starts a process for a protocol.
---@param receiver ProcessProtocol
---@param plan table `{ path, args, env, cwd, uid, gid, rows, columns, pty }`
---@param fds table[] `{ fd, mode, given }`
---@return ProcessTransport
function process.start(receiver, plan, fds)
  for _, item in ipairs(fds) do
    item.what = modes[item.mode] or GIVEN
  end
  local self = setmetatable({
    protocol = receiver,
    plan = plan,
    fds = plan.pty and { { fd = 0, what = TERMINAL } } or fds,
    terminal = plan.pty,
    input = plan.pty and 1 or 0,
    pipes = {},
    writes = {},
    open = 0,
    follows = concluding and concluding.startedAt,
  }, Process)
  local who = owner.current
  self.place = who
  local problem = who and who.ended and "what it would belong to has ended"
    or concluding and process.stopping and "the host stops"
  if problem then
    if not concluding or concluding.pid then -- else each would start the next one, and so on
      notStarted(self, problem, "ECANCELED")
    end
    return self
  end
  if who then
    self.owner = who
    who:add(self)
  end
  if not program.host.checking then
    program.whenRunning(startInTime, self)
  end
  return self
end

--- A process has ended.
---@param handle number
---@param status integer
---@param number integer of the signal that ended it, or 0
function process.exited(handle, status, number)
  local child = children[handle]
  children[handle] = nil
  if child then
    child:exited(status, number)
  end
end

-- Whether something in a table is code of that service.
local function hasCode(methods, service)
  local loader = require "skald.loader"
  for _, value in next, methods or {} do
    if type(value) == "function" and loader.serviceOf(value) == service then
      return true
    end
  end
  return false
end

local function isOf(child, service)
  local receiver = child.protocol
  local methods, found = class.of(receiver), hasCode(receiver, service)
  while not found and class.is(methods) do
    found = hasCode(methods, service)
    methods = getmetatable(methods).__index
  end
  return found
end

--- A service is unloaded: those whose protocols are its code, of whichever generation, are asked to end.
---@param service table
function process.unload(service)
  local list = {}
  for _, child in pairs(children) do
    list[#list + 1] = isOf(child, service) and child or nil
  end
  for child in pairs(delayed) do
    list[#list + 1] = isOf(child, service) and child or nil
  end
  local gone = owner.new()
  gone:finish()
  for _, child in ipairs(list) do
    leave(child)
    child.place = gone
    child:finish()
  end
end

--- The classes of those whose protocols hear of a process, by its program.
---@return table<table, string> paths
function process.classes()
  local found = {}
  for _, child in pairs(children) do
    local methods = class.of(child.protocol)
    if methods then
      found[methods] = child.plan.path
    end
  end
  return found
end

--- The host stops: what runs is asked to end. The core makes those end that have not when grace is over.
function process.stopAll()
  process.stopping = true
  for child, timer in pairs(delayed) do
    timer:cancel()
    notStarted(child, "the host stops", "ECANCELED")
  end
  delayed = {}
  for _, child in pairs(children) do
    child.stopping = true
    if not child.connected then
      stop(child)
    end
  end
  for ended in pairs(lasting) do
    hurry(ended)
  end
end

-- --- a process as the peer of a connection ------------------------------------------------------

-- What it writes on standard error goes to the log.
local Complaints = {}
Complaints.__index = Complaints

local MOST_LINE = 4096

function Complaints:dataReceived(data)
  local rest = self.rest .. data
  rest = rest:gsub("([^\n]*)\n", function(line)
    log.warning("%s: %s", self.name, line)
    return ""
  end)
  if #rest > MOST_LINE then
    log.warning("%s: %s", self.name, rest)
    rest = ""
  end
  self.rest = rest
end

function Complaints:connectionLost()
  self.peer.pipes[2], lasting[self.peer] = nil, nil
  if self.rest ~= "" then
    log.warning("%s: %s", self.name, self.rest)
  end
end

-- A process whose standard input and output are a connection.
local Peer = {}
Peer.__index = Peer

--- The connection is over, or never was: the process has a while to end by itself.
function Peer:release(why)
  self.connected = nil
  self.quiet = self.quiet or not why or why.by ~= "peer"
  if not self.handle or self.released then
    return
  end
  self.released = true
  self.deadline = timers.own(self.stopping and STOPS_AFTER or TERM_AFTER, function()
    self.deadline = nil
    stop(self)
  end)
end

function Peer:exited(status, number)
  self.handle = nil
  if self.deadline then
    self.deadline:cancel()
  end
  last(self)
  if not self.quiet and (status ~= 0 or number ~= 0) then
    log.warning("%s: %s", self.name, reasonOf(self, status, number).message)
  end
end

--- Starts a process whose standard input and output become a connection: dispatch.connected follows.
---@param inGroup number a group's handle
---@param endpoint table as endpoints.parseClient gives it
---@return table? peer `{ handle, connection, release }`; nil, message, code, errno
---@return string? message
---@return string? code
---@return integer? errno
function process.connect(inGroup, endpoint)
  local name = tostring(address.named("PROCESS", endpoint.path))
  local stream = { { fd = 0, what = STREAM } }
  local errors = { fd = 2, what = READ }
  local plan = { path = endpoint.path, args = { endpoint.path, unpack(endpoint.rest or {}) }, cwd = endpoint.cwd }
  stream[2] = errors
  local child, message, code, errno = spawn(plan, stream, inGroup)
  if not child then
    return nil, message, code, errno
  end
  local self = setmetatable({ handle = child.handle, pid = child.pid, name = name, connected = true }, Peer)
  self.connection = stream[1].handle
  children[child.handle] = self
  local complaints = setmetatable({ name = name, rest = "", peer = self }, Complaints)
  self.pipes = { [2] = join(errors.handle, complaints, address.named("PROCESS", endpoint.path)) }
  return self
end

return process
