-- Protocols written straight down: `handle(self, stream)` runs as a coroutine, which waits where it
-- reads what has not come, and where it writes more than the peer takes. Pure.

local async = require "skald.async"
local class = require "skald.class"
local owner = require "skald.owner"
local protocol = require "skald.protocol"

local yield, WAITS = coroutine.yield, async.WAITS
---@class skald.stream
local stream = {}

local HELD = 65536 -- bytes that may wait unread before the peer has to
local LINE = 16384 -- bytes of a line, where nothing else is said
local MANY = 256 -- pieces that become one: a place in a table takes more than a byte

--- What a handler reads from and writes to. Its calls work in coroutines only: in `handle`, in async
--- functions, and in what those call; one of them at a time may wait.
---@class Stream: Object
---@field transport Transport
---@field clock table? by default the reactor
---@field private task Task? that waits
---@field private waits string? for what: "data", "count", "delimiter", "room"
local Stream = class.root "Stream"

---@private
function Stream:init(transport, clock, high)
  self.transport, self.clock = transport, clock
  self.high, self.unseen = high or protocol.defaults.highWater, 0
  self.head, self.at = "", 1 -- what has come, and how far it is read
  self.pieces, self.last = {}, 0 -- what came after that
  self.joined = 0 -- so many of the pieces were many
  self.size = 0 -- bytes unread
  self.timed = false -- it has a timeout or a deadline
end

-- --- what has come ----------------------------------------------------------------------------

local function joinLast(self)
  local pieces, from = self.pieces, self.joined + 1
  pieces[from] = table.concat(pieces, "", from, self.last)
  for i = from + 1, self.last do
    pieces[i] = nil
  end
  self.joined, self.last = from, from
end

local function append(self, data)
  if self.size == 0 then
    self.head, self.at = data, 1
  else
    self.last = self.last + 1
    self.pieces[self.last] = data
    if self.last - self.joined == MANY then
      joinLast(self)
    end
  end
  self.size = self.size + #data
end

-- What comes before all that is unread.
local function putBack(self, data)
  self.head, self.at = data .. self.head:sub(self.at), 1
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
  if self.last > 64 or self.joined > 0 then
    self.pieces, self.joined = {}, 0
  else
    for i = 1, self.last do
      pieces[i] = nil
    end
  end
  self.last = 0
end

-- Takes so many bytes, which are there, and drops so many more.
local function take(self, count, drop)
  if self.at + count - 1 > #self.head then
    join(self)
  end
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

-- A coroutine that was left where it waited, at its owner's end, does not go on.
local function wake(self, ...)
  local waits, task = self.waits, self.task
  self.waits = nil
  if task.done and waits == "room" then
    self.transport:unregisterProducer()
  end
  task:go(...)
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
  if what ~= "room" then
    async.check(self.task)
  end
  if self.missed then
    self.missed = nil
    return false
  end
  return true, data
end

local function needTask(self)
  local task = owner.task
  if not task then
    error("a stream is read and written in its handler, or in an async function", 3)
  end
  if task.cancelled then
    async.check(task)
  end
  if not self.waits or self.task.done then
    self.task, task.source, self.waits = task, self, nil
  elseif self.task == task then
    self.waits = nil
    error("a stream cannot be waited for in a coroutine of one's own, nor in a call from C", 3)
  else
    error("another coroutine waits for this stream", 3)
  end
end

local function needCount(n, least)
  if type(n) ~= "number" or n < least or math.floor(n) ~= n then
    error(("a number of bytes from %d is wanted, not %s"):format(least, tostring(n)), 3)
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
  if self.size == 0 and not code then
    return nil
  end
  return nil, message or ("the stream ended before " .. wanted), code or "ENODATA", take(self, self.size)
end

-- --- reading ----------------------------------------------------------------------------------

--- What has come, at least one byte; waits for it.
---@param n integer? most bytes; none: all that is there
---@return string? data nil at the end of the stream
---@return string? message where the connection was lost, or the time ran out
---@return string? code ECONNRESET and the like; ETIMEDOUT
function Stream:readSome(n)
  needTask(self)
  if n then
    needCount(n, 1)
  end
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
      putBack(self, data)
    elseif not ok then
      return timedOut()
    else
      return self:readSome(n)
    end
  end
  return take(self, math.min(n or self.size, self.size))
end

--- `n` bytes, fewer at an orderly end of the stream; without `n` what has come, as readSome does.
---@param n integer? bytes, from 1
---@return string? data nil at the end of the stream
---@return string? message where the connection was lost, or the time ran out
---@return string? code ECONNRESET and the like; ETIMEDOUT
function Stream:read(n)
  if not n then
    return self:readSome()
  end
  needTask(self)
  needCount(n, 1)
  self.goal = n
  if self.size < n and not self.over and not await(self, "count") then
    return timedOut()
  elseif self.size < n and (self.size == 0 or select(2, ending(self))) then
    return ending(self)
  end
  return take(self, math.min(n, self.size))
end

--- Exactly `n` bytes.
---@param n integer bytes, from 0
---@return string? data nil where the stream ended before
---@return string? message none at an orderly end with nothing unread
---@return string? code ENODATA where it ended in order; ECONNRESET and the like; ETIMEDOUT
---@return string? rest what had come, where it ended
function Stream:readExactly(n)
  needTask(self)
  needCount(n, 0)
  self.goal = n
  if self.size < n and not self.over and not await(self, "count") then
    return timedOut()
  end
  if self.size < n then
    return early(self, ("%.0f bytes had come"):format(n))
  end
  return take(self, n)
end

-- Where a delimiter begins and ends in the head, when it is there; false where what comes before it
-- is too long.
local function find(self, delimiter, most)
  local from, upto = self.head:find(delimiter, self.at, true)
  if not from and self.last > 0 then
    join(self)
    from, upto = self.head:find(delimiter, self.at, true)
  end
  if (from and from - self.at or self.size - #delimiter + 1) > most then
    return false
  end
  return from, upto
end

-- Waits for a delimiter: where it begins and ends in the head; nil, and "early" where the stream ends
-- before it, or a message and a code.
local function locate(self, delimiter, most)
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
    return nil, ("more than %.0f bytes without a delimiter"):format(most), "EMSGSIZE"
  end
  return from, upto
end

local CR = 13

--- A line, without its LF, and without a CR before that. What comes before an orderly end of the
--- stream is a line, too. One that is too long stays there.
---@param max integer? most bytes of the line (16384)
---@return string? line nil at the end of the stream
---@return string? message where the connection was lost, the time ran out, or the line is too long
---@return string? code EMSGSIZE for a line that is too long; ECONNRESET and the like; ETIMEDOUT
function Stream:readLine(max)
  needTask(self)
  if max then
    needCount(max, 0)
  end
  max = max or LINE
  local from, upto, code = locate(self, "\n", max + 1)
  if upto == "early" then
    if self.size == 0 or select(2, ending(self)) then
      return ending(self)
    end
    from = #self.head + 1
    upto = from - 1
  elseif not from and code ~= "EMSGSIZE" then
    return nil, upto, code
  end
  local cut = from and from > self.at and self.head:byte(from - 1) == CR and 1 or 0
  if not from or from - self.at - cut > max then
    return nil, ("a line of more than %.0f bytes"):format(max), "EMSGSIZE"
  end
  return take(self, from - self.at - cut, upto - from + 1 + cut)
end

--- For a loop over the lines: `for line in stream:lines() do`. It ends with what readLine gives nil for.
---@param max integer? most bytes of a line (16384)
---@return fun(): string? each the next line, or nil
function Stream:lines(max)
  return function()
    return self:readLine(max)
  end
end

--- What comes before a delimiter, which is dropped. What is too long stays there.
---@param delimiter string
---@param max integer? most bytes before it (16384)
---@return string? data nil where the stream ended before
---@return string? message none at an orderly end with nothing unread
---@return string? code ENODATA where it ended in order; EMSGSIZE; ECONNRESET and the like; ETIMEDOUT
---@return string? rest what had come, where it ended
function Stream:readUntil(delimiter, max)
  needTask(self)
  if type(delimiter) ~= "string" or delimiter == "" then
    error("readUntil takes a delimiter", 2)
  end
  if max then
    needCount(max, 0)
  end
  local from, upto, code = locate(self, delimiter, max or LINE)
  if from then
    return take(self, from - self.at, upto - from + 1)
  elseif upto == "early" then
    return early(self, "the delimiter")
  end
  return nil, upto, code
end

-- --- writing ----------------------------------------------------------------------------------

-- Whether more is queued than the high water; asked when so much was written since it last was.
local function isFull(self)
  if self.unseen > self.high then
    self.unseen = self.transport:bufferedAmount()
  end
  return self.unseen > self.high
end

-- Waits until all is taken. It is a producer only meanwhile: who ends the connection waits for those.
local function awaitRoom(self)
  if not self.transport:registerProducer(self, false) then
    return nil, "closing", "EPIPE"
  end
  local inTime = await(self, "room")
  self.transport:unregisterProducer()
  async.check(self.task)
  if self.why then
    local _, message, code = ending(self)
    return nil, message or "closing", code or "EPIPE"
  elseif not inTime then
    return timedOut()
  end
  self.unseen = 0
  return true
end

--- Writes; waits while the peer has more than highWater still to take.
---@param data string
---@return boolean? ok nil after the end, or when the time ran out (the bytes are queued all the same,
---unless a write before had missed its time, too, and there was still no room)
---@return string? message
---@return string? code EPIPE, ENOBUFS; ETIMEDOUT
function Stream:write(data)
  needTask(self)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  if isFull(self) and not self.why then -- a write before this one has missed its time
    local ok, message, code = awaitRoom(self)
    if not ok then
      return nil, message, code
    end
  end
  local ok, message, code = self.transport:write(data)
  if not ok then
    return nil, message, code
  end
  self.unseen = self.unseen + #data
  if self.unseen <= self.high or not isFull(self) then
    return true
  end
  return awaitRoom(self)
end

--- Sends what is queued, and closes. Nothing more is read.
function Stream:close()
  self:release()
  self.transport:loseConnection()
end

--- Lets go of what it holds.
---@private
function Stream:release()
  self.closed = true
  self.waits = nil -- which a coroutine of one's own may have left
  if self.alarm then
    self.alarm:cancel()
    self.alarm = nil
  end
end

local function needSeconds(seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds - seconds ~= 0) then -- not NaN, nor without end
    error(("a number of seconds is wanted, or nil, not %s"):format(tostring(seconds)), 3)
  end
end

-- What was due under the former times is due no more.
local function setTimed(self)
  self.timed = self.timeout ~= nil or self.limit ~= nil
  self.due = nil
end

--- Each call that waits gives up after so many seconds; nil: none does.
---@param seconds number? nil: for ever
function Stream:setTimeout(seconds)
  needTask(self)
  needSeconds(seconds)
  self.timeout = seconds
  setTimed(self)
end

--- All that waits gives up so many seconds from now; nil: nothing does.
---@param seconds number? nil: never
function Stream:setDeadline(seconds)
  needTask(self)
  needSeconds(seconds)
  self.limit = seconds and clockOf(self):seconds() + seconds
  setTimed(self)
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
  return text:find(self.delimiter, 1, true) or self.size - #self.delimiter + 1 > self.most
end

--- Bytes came.
---@private
function Stream:feed(data)
  local waits = self.waits
  if self.closed then
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
---@private
---@param why Reason? where the connection is over
function Stream:finish(why)
  self.over, self.why = true, why
  if self.waits and (why or self.waits ~= "room") then
    wake(self)
  end
end

--- All is taken.
---@private
function Stream:resumeProducing()
  if self.waits == "room" then
    wake(self)
  end
end

---@private
function Stream.stopProducing() end

--- The coroutine is cancelled: that is raised where it waits.
---@private
---@param task Task
function Stream:interrupt(task)
  if self.waits and self.task == task then
    wake(self)
  end
end

-- --- the protocol -----------------------------------------------------------------------------

--- A protocol that is a coroutine: `handle(self, stream)`. When that returns, what is queued is sent
--- and the connection closes; what it raises is logged and ends the connection.
---@class StreamProtocol: Protocol
---@field handle fun(self: StreamProtocol, stream: Stream) the conversation, from its beginning to its end
---@field stream Stream what `handle` is given
---@field clock table? by default the reactor
local StreamProtocol = protocol.Protocol {}

local function ended(task, ok, problem)
  local self = task.stream
  local transport = self.transport
  self:release()
  if ok then
    transport:loseConnection()
  elseif transport.fail then
    transport:fail(problem.traceback)
  else
    self.problem = problem -- outside the host it comes out of who fed it
    transport:loseConnection()
  end
end

-- The handler hears of the end though the class has a connectionLost of its own, which is the last.
local function connectionLost(self, reason)
  self.connectionLost = nil
  self.stream:finish(reason)
  self:connectionLost(reason)
end

local function open(self, transport)
  local factory = self.factory
  self.transport = transport
  self.stream = Stream:new(transport, self.clock, factory and factory.highWater)
  return self.stream
end

--- Connects, and runs the handler up to its first wait.
---@param transport Transport
function StreamProtocol:makeConnection(transport)
  local made = open(self, transport)
  if type(self.handle) ~= "function" then
    error("a StreamProtocol has a function handle(self, stream)", 0)
  end
  if self.connectionMade then
    self:connectionMade()
  end
  made.over = transport.disconnecting
  if self.connectionLost ~= StreamProtocol.connectionLost then
    self.connectionLost = connectionLost
  end
  local task = async.task(self.handle, ended)
  task.stream, made.task = made, task
  wake(made, self.handle, self, made)
end

---@private
function StreamProtocol:dataReceived(data)
  self.stream:feed(data)
end

---@private
function StreamProtocol:readConnectionLost()
  self.stream:finish()
end

--- The connection is over: `handle` hears of it where it waits. An override is called after that.
---@param reason Reason
function StreamProtocol:connectionLost(reason)
  self.stream:finish(reason)
end

stream.StreamProtocol = StreamProtocol

-- One that somebody else reads and writes.
local Plain = StreamProtocol {}

Plain.makeConnection = open

--- Connects, for a coroutine to read and write.
---@param endpoint string|ClientEndpoint
---@return Deferred d of the stream, which is to be closed by `close`
function stream.connect(endpoint)
  local endpoints = require "skald.endpoints"
  endpoint = endpoints.client("connect", endpoint, 2)
  return endpoints.connectProtocol(endpoint, Plain:new()):addCallback(function(made)
    return made.stream
  end)
end

return stream
