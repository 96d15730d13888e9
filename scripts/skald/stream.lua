-- Protocols written straight down: `handle(self, stream)` runs as a coroutine, which waits where it
-- reads what has not come, and where it writes more than the peer takes. Pure.

local async = require "skald.async"
local class = require "skald.class"
local owner = require "skald.owner"
local protocol = require "skald.protocol"

local yield, WAITS = coroutine.yield, async.WAITS
local stream = {}

local HELD = 65536 -- bytes that may wait unread before the peer has to
local LINE = 16384 -- bytes of a line, where nothing else is said

--- What a handler reads from and writes to. Its calls work in `handle`, and in what that calls.
---@class Stream
---@field transport Transport
---@field waits string? what the handler waits for: "data", "count", "delimiter", "room"
local Stream = class.root "Stream"

function Stream:init(transport, clock)
  self.transport, self.clock = transport, clock
  self.head, self.at = "", 1 -- what has come, and how far it is read
  self.pieces, self.last = {}, 0 -- what came after that
  self.size = 0 -- bytes unread
  self.timed = false -- it has a timeout or a deadline
end

-- --- what has come ----------------------------------------------------------------------------

local function append(self, data)
  if self.size == 0 then
    self.head, self.at = data, 1
  else
    self.last = self.last + 1
    self.pieces[self.last] = data
  end
  self.size = self.size + #data
end

-- All that is unread is in the head from now on.
local function join(self)
  if self.last == 0 then
    return
  end
  local pieces = self.pieces
  self.head = self.head:sub(self.at) .. table.concat(pieces, "", 1, self.last)
  self.at = 1
  if self.last > 64 then
    self.pieces = {}
  else
    for i = 1, self.last do
      pieces[i] = nil
    end
  end
  self.last = 0
end

-- Takes so many bytes, which are there, and drops so many more.
local function take(self, count, drop)
  local from, upto = self.at, self.at + count - 1
  local data = from == 1 and upto == #self.head and self.head or self.head:sub(from, upto)
  self.at = upto + 1 + (drop or 0)
  self.size = self.size - count - (drop or 0)
  if self.size == 0 then
    self.head, self.at = "", 1
  end
  if self.paused and self.size < HELD / 2 and not self.over then
    self.paused = false
    self.transport:resumeProducing()
  end
  return data
end

-- --- waiting ----------------------------------------------------------------------------------

local function clockOf(self)
  return self.clock or require "skald.reactor"
end

local onAlarm

-- One timer for all that is waited for: it is left to run, and looks what is due when it rings.
local function setAlarm(self, due, now)
  if self.alarm and self.alarmAt <= due then
    return
  end
  if self.alarm then
    self.alarm:cancel()
  end
  self.alarmAt = due
  self.alarm = clockOf(self):callLater(math.max(0, due - now), onAlarm, self)
end

local function wake(self, ...)
  self.waits = nil
  self.task:go(...)
  local problem = self.problem
  if problem then
    self.problem = nil
    error(problem.traceback, 0)
  end
end

function onAlarm(self)
  self.alarm = nil
  if not self.waits or not self.due then
    return
  end
  local now = clockOf(self):seconds()
  if now >= self.due then
    self.missed = true
    wake(self)
  else
    setAlarm(self, self.due, now)
  end
end

-- When this wait is over at the latest; false when that has come.
local function setDue(self)
  local now = clockOf(self):seconds()
  self.due = self.limit or math.huge
  if self.timeout then
    self.due = math.min(self.due, now + self.timeout)
  end
  if self.due <= now then
    return false
  end
  setAlarm(self, self.due, now)
  return true
end

local function timedOut()
  return nil, "timed out", "ETIMEDOUT"
end

-- Waits for `what`; false where the time ran out first.
local function await(self, what)
  if self.timed and not setDue(self) then
    return false
  end
  if self.paused and what ~= "room" and not self.over then
    self.paused = false
    self.transport:resumeProducing()
  end
  self.waits = what
  local data = yield(WAITS)
  if self.missed then
    self.missed = nil
    return false
  end
  return true, data
end

local function needHandler(self)
  if owner.task ~= self.task or self.waits then
    error("a stream is read and written by its own handler only", 3)
  end
end

-- Nothing more will come: nil, and why where that is no orderly end.
local function ending(self)
  local why = self.why
  if why and why.code ~= "done" then
    return nil, why.message, why.errno or why.code
  end
  return nil
end

local function early(self, wanted)
  local _, message, code = ending(self)
  join(self)
  return nil, message or ("the stream ended before " .. wanted), code or "ENODATA", take(self, self.size)
end

-- --- reading ----------------------------------------------------------------------------------

--- What has come, at least one byte, and at most `n` of them; waits for it.
---@param n integer? most bytes; none: all that is there
---@return string? data nil at the end of the stream
---@return string? message where the connection was lost, or the time ran out
---@return string? code ECONNRESET and the like; ETIMEDOUT
function Stream:read(n)
  needHandler(self)
  if self.size == 0 then
    if self.over then
      return ending(self)
    end
    local ok, data = true
    if self.timed or self.paused then
      ok, data = await(self, "data")
    else
      self.waits = "data" -- as `await` does, which is too far for the usual case
      data = yield(WAITS)
    end
    if data and (not n or #data <= n) then
      return data
    elseif data then
      append(self, data)
    elseif not ok then
      return timedOut()
    else
      return self:read(n)
    end
  end
  join(self)
  return take(self, math.min(n or self.size, self.size))
end

--- Exactly `n` bytes.
---@param n integer
---@return string? data nil where the stream ended before
---@return string? message
---@return string? code ENODATA where it ended in order; ECONNRESET and the like; ETIMEDOUT
---@return string? rest what had come, where it ended
function Stream:readExactly(n)
  needHandler(self)
  self.goal = n
  if self.size < n and not self.over and not await(self, "count") then
    return timedOut()
  end
  if self.size < n then
    return early(self, ("%d bytes had come"):format(n))
  end
  join(self)
  return take(self, n)
end

-- Where a delimiter begins and ends in the head, when it is there; false where what comes before it
-- is too long; nil and how much was looked through.
local function find(self, delimiter, most)
  join(self)
  local from, upto = self.head:find(delimiter, self.at, true)
  if (from and from - self.at or self.size - #delimiter + 1) > most then
    return false
  end
  return from, upto
end

-- What lies before a delimiter; "early" where the stream ends before it.
local function readTo(self, delimiter, most)
  local from, upto = find(self, delimiter, most)
  while from == nil do
    if self.over then
      return nil, "early"
    end
    self.delimiter, self.most = delimiter, most
    self.tail = self.head:sub(math.max(self.at, #self.head - #delimiter + 2))
    if not await(self, "delimiter") then
      return timedOut()
    end
    from, upto = find(self, delimiter, most)
  end
  if not from then
    return nil, ("more than %d bytes without a delimiter"):format(most), "EMSGSIZE"
  end
  return take(self, from - self.at, upto - from + 1)
end

--- A line, without its LF, and without a CR before that. What comes before an orderly end of the
--- stream is a line, too.
---@param max integer? most bytes of the line (16384)
---@return string? line nil at the end of the stream
---@return string? message
---@return string? code EMSGSIZE for a line that is too long; ECONNRESET and the like; ETIMEDOUT
function Stream:readLine(max)
  needHandler(self)
  max = max or LINE
  local line, message, code = readTo(self, "\n", max + 1)
  if message == "early" then
    if self.size == 0 or select(2, ending(self)) then
      return ending(self)
    end
    line = take(self, self.size)
  end
  if line and line:byte(-1) == 13 then
    line = line:sub(1, -2)
  end
  if code == "EMSGSIZE" or line and #line > max then
    return nil, ("a line of more than %d bytes"):format(max), "EMSGSIZE"
  end
  return line, message ~= "early" and message or nil, code
end

--- What comes before a delimiter, which is dropped.
---@param delimiter string
---@param max integer? most bytes before it (16384)
---@return string? data nil where the stream ended before
---@return string? message
---@return string? code ENODATA where it ended in order; EMSGSIZE; ECONNRESET and the like; ETIMEDOUT
---@return string? rest what had come, where it ended
function Stream:readUntil(delimiter, max)
  needHandler(self)
  if type(delimiter) ~= "string" or delimiter == "" then
    error("readUntil takes a delimiter", 2)
  end
  local data, message, code = readTo(self, delimiter, max or LINE)
  if message == "early" then
    return early(self, "the delimiter")
  end
  return data, message, code
end

-- --- writing ----------------------------------------------------------------------------------

--- Writes; waits while the peer has more than highWater still to take.
---@param data string
---@return boolean? ok nil after the end, or when the time ran out (the bytes are queued all the same)
---@return string? message
---@return string? code EPIPE, ENOBUFS; ETIMEDOUT
function Stream:write(data)
  needHandler(self)
  local ok, message, code = self.transport:write(data)
  if not ok then
    return nil, message, code
  elseif not self.full then
    return true
  elseif not await(self, "room") then
    return timedOut()
  elseif self.full then
    local _
    _, message, code = ending(self)
    return nil, message or "closing", code or "EPIPE"
  end
  return true
end

--- Each call that waits gives up after so many seconds; nil: none does.
---@param seconds number?
function Stream:setTimeout(seconds)
  self.timeout = seconds
  self.timed = self.timeout ~= nil or self.limit ~= nil
end

--- All that waits gives up so many seconds from now; nil: nothing does.
---@param seconds number?
function Stream:setDeadline(seconds)
  self.limit = seconds and clockOf(self):seconds() + seconds
  self.timed = self.timeout ~= nil or self.limit ~= nil
end

-- --- what the transport tells it --------------------------------------------------------------

local function isThere(self, data)
  if self.waits == "count" then
    return self.size >= self.goal
  end
  if #self.delimiter == 1 then
    return data:find(self.delimiter, 1, true) or self.size > self.most
  end
  local text = self.tail .. data
  self.tail = text:sub(-(#self.delimiter - 1))
  return text:find(self.delimiter, 1, true) or self.size > self.most
end

--- Bytes came.
function Stream:feed(data)
  local waits = self.waits
  if self.task.done then
    return
  end
  if waits == "data" then
    wake(self, data)
    return
  end
  append(self, data)
  if waits and waits ~= "room" then
    if isThere(self, data) then
      wake(self)
    end
  elseif self.size >= HELD and not self.paused then
    self.paused = true
    self.transport:pauseProducing()
  end
end

--- Nothing more comes.
---@param why Reason? where the connection is over
function Stream:finish(why)
  self.over, self.why = true, why
  if self.waits and (why or self.waits ~= "room") then
    wake(self)
  end
end

--- The peer has enough to take.
function Stream:pauseProducing()
  self.full = true
end

--- There is room again.
function Stream:resumeProducing()
  self.full = false
  if self.waits == "room" then
    wake(self)
  end
end

function Stream.stopProducing() end

-- --- the protocol -----------------------------------------------------------------------------

--- A protocol that is a coroutine: `handle(self, stream)`. When that returns, what is queued is sent
--- and the connection closes; what it raises is logged and ends the connection.
---@class StreamProtocol: Protocol
---@field handle fun(self: StreamProtocol, stream: Stream)
local StreamProtocol = protocol.Protocol {}

local function ended(task, ok, problem)
  local self = task.stream
  local transport = self.transport
  if self.alarm then
    self.alarm:cancel()
    self.alarm = nil
  end
  transport:unregisterProducer()
  if ok then
    transport:loseConnection()
  elseif transport.fail then
    transport:fail(problem.traceback)
  else
    self.problem = problem -- outside the host it comes out of who fed it
    transport:loseConnection()
  end
end

--- Connects, and runs the handler up to its first wait.
---@param transport Transport
function StreamProtocol:makeConnection(transport)
  self.transport = transport
  if type(self.handle) ~= "function" then
    error("a StreamProtocol has a function handle(self, stream)", 0)
  end
  if self.connectionMade then
    self:connectionMade()
  end
  local made = Stream:new(transport, self.clock)
  self.stream = made
  made.task = async.task(self.handle, ended)
  made.task.stream = made
  transport:registerProducer(made, true)
  wake(made, self.handle, self, made)
end

function StreamProtocol:dataReceived(data)
  self.stream:feed(data)
end

function StreamProtocol:readConnectionLost()
  self.stream:finish()
end

function StreamProtocol:connectionLost(reason)
  self.stream:finish(reason)
end

stream.StreamProtocol = StreamProtocol

return stream
