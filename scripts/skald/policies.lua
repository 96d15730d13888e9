-- Policies: what may be put around a factory, or mixed into a protocol, to hold connections within
-- limits or to watch them. Pure.

local owner = require "skald.owner"
local protocol = require "skald.protocol"
local wrapping = require "skald.wrapping"

local WrappingFactory, ProtocolWrapper = wrapping.WrappingFactory, wrapping.ProtocolWrapper

local policies = { WrappingFactory = WrappingFactory, ProtocolWrapper = ProtocolWrapper }

local function clockOf(who)
  return who.clock or who.factory and who.factory.clock or require "skald.reactor"
end

local function asIs(problem)
  return problem
end

-- A delayed call that belongs to nobody, whoever runs: it ends when its connections do.
local function later(who, seconds, f, ...)
  local clock = clockOf(who)
  local ok, call = owner.call(nil, asIs, clock.callLater, clock, seconds, f, ...)
  if not ok then
    error(call, 0)
  end
  return call
end

local function cancel(call)
  if call then
    call:cancel()
  end
end

-- --- a protocol's own timeout -----------------------------------------------------------------

--- Methods for a protocol that is to end when something has not happened for too long:
--- `LineReceiver(TimeoutMixin, { … })`. Its `connectionLost` should call `setTimeout(nil)`; where it does
--- not, the time still runs out once, which does nothing to a connection that is over.
---@class TimeoutMixin
---@field timeOut number? seconds; none: it is off
---@field clock table? by default the factory's, else the reactor
---@field transport Transport
local TimeoutMixin = {}

-- What an override raises ends its connection.
local function timedOut(self)
  self._timeoutCall = nil
  wrapping.guarded(self.transport, self, "timeoutConnection")
end

--- Sets the timeout, which begins now.
---@param seconds number? nil turns it off
---@return number? former what it was
function TimeoutMixin:setTimeout(seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or not (seconds >= 0 and seconds < math.huge)) then
    error(("setTimeout takes seconds, a number from 0, or nil, not %s"):format(tostring(seconds)), 2)
  end
  local former, call = self.timeOut, self._timeoutCall
  self.timeOut = seconds
  if seconds and call and call:reset(seconds) then
    return former
  end
  cancel(call)
  self._timeoutCall = seconds and later(self, seconds, timedOut, self) or nil
  return former
end

--- It begins anew: something has happened. Does nothing where it is off, or has run out.
function TimeoutMixin:resetTimeout()
  local call = self._timeoutCall
  if call and self.timeOut then
    call:reset(self.timeOut)
  end
end

--- The time has run out. Closes, unless overridden.
function TimeoutMixin:timeoutConnection()
  self.transport:loseConnection()
end

policies.TimeoutMixin = TimeoutMixin

-- --- throttling: the producer of one connection -----------------------------------------------

-- Stands between a transport and who writes to it. Either of them may have it pause: the transport
-- since it is full, the factory since too much was written.
---@class ThrottledProducer
local ThrottledProducer = {}
ThrottledProducer.__index = ThrottledProducer

local function newThrottled(producer, streaming, throttled, no)
  return setmetatable({
    producer = producer,
    streaming = streaming,
    full = no,
    throttled = throttled,
    paused = no, -- a push producer was told to pause
    owed = no, -- a pull producer is to be asked for more
  }, ThrottledProducer)
end

local function hold(self)
  if not self.paused then
    self.paused = true
    self.producer:pauseProducing()
  end
end

function ThrottledProducer:pauseProducing()
  self.full = true
  hold(self)
end

function ThrottledProducer:resumeProducing()
  self.full = false
  if self.throttled then
    self.owed = not self.streaming
  else
    self.paused = false
    self.producer:resumeProducing()
  end
end

function ThrottledProducer:stopProducing()
  local producer = self.producer
  if producer.stopProducing then
    producer:stopProducing()
  end
end

function ThrottledProducer:throttle()
  self.throttled = true
  if self.streaming then
    hold(self)
  end
end

function ThrottledProducer:unthrottle()
  local due = self.owed or self.paused and not self.full
  self.throttled, self.owed = false, false
  if due then
    self.paused = false
    self.producer:resumeProducing()
  end
end

local function needProducer(producer, streaming)
  if type(producer) ~= "table" then
    error(("registerProducer takes a producer, not a %s"):format(type(producer)), 3)
  end
  for _, method in ipairs { "resumeProducing", streaming and "pauseProducing" or nil } do
    if type(producer[method]) ~= "function" then
      error(("registerProducer: the producer has no %s"):format(method), 3)
    end
  end
end

-- How much of a file would be sent; nil where there is nothing to send, or nothing that makes sense.
local function sizeOf(path, offset, length)
  offset = offset or 0
  if type(path) ~= "string" or type(offset) ~= "number" or not (length == nil or type(length) == "number") then
    return nil
  end
  local file = io.open(path, "rb")
  local size = file and file:seek "end"
  if file then
    file:close()
  end
  length = size and (length or size - offset)
  return length and length > 0 and offset + length <= size and length or nil
end

-- --- throttling: one connection ---------------------------------------------------------------

---@class ThrottlingProtocol: ProtocolWrapper
---@field factory ThrottlingFactory
local ThrottlingProtocol = ProtocolWrapper {
  held = false, -- the protocol has paused its transport
  throttled = false, -- the factory has
}

function ThrottlingProtocol:connectionMade()
  if self.factory.readsThrottled then
    self:throttleReads()
  end
end

function ThrottlingProtocol:dataReceived(data)
  self.factory:registerRead(#data)
  return ProtocolWrapper.dataReceived(self, data)
end

-- What is no string raises below; nothing goes once it closes.
local function countWritten(self, data)
  if type(data) == "string" and not self.disconnecting then
    self.factory:registerWritten(#data)
  end
end

function ThrottlingProtocol:write(data)
  countWritten(self, data)
  return self.transport:write(data)
end

function ThrottlingProtocol:writeSequence(list)
  for i = 1, type(list) == "table" and #list or 0 do
    countWritten(self, list[i])
  end
  return self.transport:writeSequence(list)
end

function ThrottlingProtocol:sendFile(path, offset, length)
  local bytes = not self.disconnecting and sizeOf(path, offset, length)
  if bytes then
    self.factory:registerWritten(bytes)
  end
  return self.transport:sendFile(path, offset, length)
end

function ThrottlingProtocol:pauseProducing()
  self.held = true
  return self.transport:pauseProducing()
end

function ThrottlingProtocol:resumeProducing()
  self.held = false
  if not self.throttled then
    return self.transport:resumeProducing()
  end
end

function ThrottlingProtocol:registerProducer(producer, streaming)
  needProducer(producer, streaming)
  if self.producer then
    error("registerProducer: a producer is registered already", 2)
  end
  local throttled = newThrottled(producer, streaming and true or false, self.factory.writesThrottled, false)
  self.producer = throttled
  local ok, message, code = self.transport:registerProducer(throttled, streaming)
  if ok == nil and message then
    self.producer = nil
    return nil, message, code
  elseif throttled.throttled then
    self:throttleWrites()
  end
  return ok
end

function ThrottlingProtocol:unregisterProducer()
  self.producer = nil
  return self.transport:unregisterProducer()
end

function ThrottlingProtocol:connectionLost(reason)
  self.producer = nil
  return ProtocolWrapper.connectionLost(self, reason)
end

--- Reads no more for now.
function ThrottlingProtocol:throttleReads()
  self.throttled = true
  self.transport:pauseProducing()
end

--- Reads again, unless the protocol itself has paused.
function ThrottlingProtocol:unthrottleReads()
  self.throttled = false
  if not self.held then
    self.transport:resumeProducing()
  end
end

--- Pauses who writes here, where that is a registered producer.
function ThrottlingProtocol:throttleWrites()
  if self.producer then
    wrapping.guarded(self.transport, self.producer, "throttle")
  end
end

--- Resumes it, unless the transport is full.
function ThrottlingProtocol:unthrottleWrites()
  if self.producer then
    wrapping.guarded(self.transport, self.producer, "unthrottle")
  end
end

-- --- throttling: the factory ------------------------------------------------------------------

--- Holds the bytes a second of all its connections together, and their number. Bytes are counted once a
--- second; after more than the limit everything pauses for bytes / limit - 1 seconds. What is written is
--- held back only where a producer is registered. With its last connection a count ends.
---@class ThrottlingFactory: WrappingFactory
---@field maxConnectionCount integer? more are refused
---@field readLimit number? bytes a second
---@field writeLimit number? bytes a second
---@field clock table? by default the reactor
---@field readThisSecond integer bytes
---@field writtenThisSecond integer bytes
---@field readsThrottled boolean
---@field writesThrottled boolean
local ThrottlingFactory = WrappingFactory { protocol = ThrottlingProtocol }

local function needLimit(name, value)
  if value ~= nil and (type(value) ~= "number" or value ~= value or value <= 0) then
    error(("%s takes a number above 0, not %s"):format(name, tostring(value)), 4)
  end
end

--- Called by `:new(factory, maxConnectionCount, readLimit, writeLimit)`; a limit that is nil is none.
---@param factory Factory
---@param maxConnectionCount integer? connections; more are refused
---@param readLimit number? bytes a second
---@param writeLimit number? bytes a second
function ThrottlingFactory:init(factory, maxConnectionCount, readLimit, writeLimit)
  wrapping.setUp(self, factory)
  needLimit("maxConnectionCount", maxConnectionCount)
  needLimit("readLimit", readLimit)
  needLimit("writeLimit", writeLimit)
  self.maxConnectionCount, self.readLimit, self.writeLimit = maxConnectionCount, readLimit, writeLimit
  self.readThisSecond, self.writtenThisSecond = 0, 0
  self.readsThrottled, self.writesThrottled = false, false
  self._liveCount = 0
  self._built = setmetatable({}, { __mode = "k" }) -- and not connected yet
end

-- Those that were built and came to nothing count until they are collected.
local function isFull(self)
  local count, most = self._liveCount, self.maxConnectionCount
  for _ in pairs(most and self._built or {}) do
    count = count + 1
  end
  return most and count >= most
end

--- As any wrapping factory's; nil where there are maxConnectionCount.
---@param addr Address?
---@return ProtocolWrapper?
function ThrottlingFactory:buildProtocol(addr)
  if isFull(self) then
    return nil
  end
  local made = WrappingFactory.buildProtocol(self, addr)
  if made then
    self._built[made] = true
  end
  return made
end

local function count(self)
  self._counting = later(self, 1, count, self)
  self:checkReadBandwidth()
  self:checkWriteBandwidth()
end

-- Limits may be set, or come with a reload, while there are connections.
local function beginCounting(self)
  if self._liveCount > 0 and not self._counting then
    self._counting = later(self, 1, count, self)
  end
end

-- Nothing is left behind.
local function endCounting(self)
  cancel(self._counting)
  cancel(self._untilReads)
  cancel(self._untilWrites)
  self._counting, self._untilReads, self._untilWrites = nil, nil, nil
  self.readThisSecond, self.writtenThisSecond = 0, 0
  self.readsThrottled, self.writesThrottled = false, false
end

--- A wrapper is connected.
---@param wrapper ProtocolWrapper
function ThrottlingFactory:registerProtocol(wrapper)
  self._built[wrapper] = nil
  self._liveCount = self._liveCount + 1
  if self.readLimit or self.writeLimit then
    beginCounting(self)
  end
  return WrappingFactory.registerProtocol(self, wrapper)
end

--- A wrapper's connection is over.
---@param wrapper ProtocolWrapper
function ThrottlingFactory:unregisterProtocol(wrapper)
  if not self.protocols[wrapper] then
    return
  end
  self._liveCount = self._liveCount - 1
  if self._liveCount == 0 then
    endCounting(self)
  end
  return WrappingFactory.unregisterProtocol(self, wrapper)
end

--- So many bytes came.
---@param length integer bytes
function ThrottlingFactory:registerRead(length)
  if self.readLimit then
    self.readThisSecond = self.readThisSecond + length
    beginCounting(self)
  end
end

--- So many bytes were written.
---@param length integer bytes
function ThrottlingFactory:registerWritten(length)
  if self.writeLimit then
    self.writtenThisSecond = self.writtenThisSecond + length
    beginCounting(self)
  end
end

local function call(self, name)
  self[name](self)
end

-- The pause that is longer holds.
local function holdFor(self, seconds, pending, name)
  if pending and pending:active() then
    if pending:getTime() < clockOf(self):seconds() + seconds then
      pending:reset(seconds)
    end
    return pending
  end
  return later(self, seconds, call, self, name)
end

--- Counts what was read in this second.
function ThrottlingFactory:checkReadBandwidth()
  local bytes, limit = self.readThisSecond, self.readLimit
  self.readThisSecond = 0
  if limit and bytes > limit then
    self._untilReads = holdFor(self, bytes / limit - 1, self._untilReads, "unthrottleReads")
    self:throttleReads()
  end
end

--- Counts what was written in this second.
function ThrottlingFactory:checkWriteBandwidth()
  local bytes, limit = self.writtenThisSecond, self.writeLimit
  self.writtenThisSecond = 0
  if limit and bytes > limit then
    self._untilWrites = holdFor(self, bytes / limit - 1, self._untilWrites, "unthrottleWrites")
    self:throttleWrites()
  end
end

-- Calls a method of each live wrapper. What one of them raises keeps it from none of the others.
local function each(self, name)
  local list, failed, problem = {}, false, nil
  for wrapper in pairs(self.protocols) do
    list[#list + 1] = wrapper
  end
  for _, wrapper in ipairs(list) do
    local ok, raised = pcall(wrapper[name], wrapper)
    if not ok and not failed then
      failed, problem = true, raised
    end
  end
  if failed then
    error(problem, 0)
  end
end

--- No connection reads for now.
function ThrottlingFactory:throttleReads()
  if not self.readsThrottled then
    self.readsThrottled = true
    each(self, "throttleReads")
  end
end

--- They read again.
function ThrottlingFactory:unthrottleReads()
  self._untilReads, self.readsThrottled = nil, false
  each(self, "unthrottleReads")
end

--- No registered producer writes for now.
function ThrottlingFactory:throttleWrites()
  if not self.writesThrottled then
    self.writesThrottled = true
    each(self, "throttleWrites")
  end
end

--- They write again.
function ThrottlingFactory:unthrottleWrites()
  self._untilWrites, self.writesThrottled = nil, false
  each(self, "unthrottleWrites")
end

policies.ThrottlingFactory = ThrottlingFactory

-- --- the traffic in a log ---------------------------------------------------------------------

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function decimal(character, digit)
  return ((digit ~= "" and "\\%03d" or "\\%d"):format(character:byte())) .. digit
end

-- A Lua string on one line, of printable ASCII only: `\n`, `\r`, `\t`, and `\0` for the other bytes, with
-- three digits where a digit follows.
local function quote(data)
  local text = data:gsub('["\\\n\r\t]', escapes)
  local found
  repeat
    text, found = text:gsub("([^\32-\126])(%d?)", decimal)
  until found == 0
  return '"' .. text .. '"'
end

-- Inside the host its log; else standard error.
local function logByDefault(line)
  local log = package.loaded["skald.log"]
  if log then
    log.info(line)
  else
    io.stderr:write(line, "\n")
  end
end

---@class TrafficLoggingProtocol: ProtocolWrapper
---@field number integer
---@field factory TrafficLoggingFactory
local TrafficLoggingProtocol = ProtocolWrapper {}

function TrafficLoggingProtocol:init(factory, wrappedProtocol)
  ProtocolWrapper.init(self, factory, wrappedProtocol)
  factory.counter = factory.counter + 1
  self.number = factory.counter
end

local function tell(self, side, text)
  self.factory.log(("%s %d: %s"):format(side, self.number, text))
end

function TrafficLoggingProtocol:connectionMade()
  self.factory.log "*"
end

function TrafficLoggingProtocol:dataReceived(data)
  tell(self, "C", quote(data))
  return ProtocolWrapper.dataReceived(self, data)
end

-- Nothing goes once it closes.
function TrafficLoggingProtocol:write(data)
  if type(data) == "string" and data ~= "" and not self.disconnecting then
    tell(self, "S", quote(data))
  end
  return self.transport:write(data)
end

function TrafficLoggingProtocol:writeSequence(list)
  if type(list) == "table" and not self.disconnecting then
    local ok, data = pcall(table.concat, list)
    if ok and data ~= "" then
      tell(self, "S", quote(data))
    end
  end
  return self.transport:writeSequence(list)
end

-- Its bytes do not pass through here.
function TrafficLoggingProtocol:sendFile(path, offset, length)
  local bytes = not self.disconnecting and sizeOf(path, offset, length)
  if bytes then
    tell(self, "S", ("%d bytes of %s"):format(bytes, quote(path)))
  end
  return self.transport:sendFile(path, offset, length)
end

-- A log that fails keeps the end from nobody.
function TrafficLoggingProtocol:connectionLost(reason)
  local ok, problem = pcall(tell, self, "C", tostring(reason))
  ProtocolWrapper.connectionLost(self, reason)
  if not ok then
    error(problem, 0)
  end
end

--- Logs what comes and goes, a line each: `*` for a connection, `C n: "data"` for what comes, `S n: "data"`
--- for what goes, `C n: ` and the reason at the end. Of a file that is sent: how many bytes, and its name.
---@class TrafficLoggingFactory: WrappingFactory
---@field log fun(line: string)
---@field counter integer the number of the last connection
local TrafficLoggingFactory = WrappingFactory { protocol = TrafficLoggingProtocol, counter = 0, log = logByDefault }

--- Called by `:new(factory, log)`.
---@param factory Factory
---@param log fun(line: string)? by default the host's log, at info; outside the host standard error
function TrafficLoggingFactory:init(factory, log)
  wrapping.setUp(self, factory)
  if log ~= nil and type(log) ~= "function" then
    error(("TrafficLoggingFactory takes a function for the log, not a %s"):format(type(log)), 3)
  end
  self.log = log
end

--- The next connection is number 1 again.
function TrafficLoggingFactory:resetCounter()
  self.counter = 0
end

policies.TrafficLoggingFactory = TrafficLoggingFactory

-- --- names for the factory's own bounds -------------------------------------------------------

local function bounded(bound, default)
  local Bounded = WrappingFactory {}
  function Bounded:init(factory, value)
    wrapping.setUp(self, factory)
    value = value == nil and default or value
    local problem = value ~= nil and protocol.boundProblem(bound, value)
    if problem then
      error(problem, 3)
    end
    self[bound] = value
  end
  return Bounded
end

--- `TimeoutFactory:new(factory, seconds)`: the factory's `idleTimeout` (1800 s where not given).
---@class TimeoutFactory: WrappingFactory
policies.TimeoutFactory = bounded("idleTimeout", 30 * 60)

--- `LimitTotalConnectionsFactory:new(factory, n)`: the factory's `maxConnections`.
---@class LimitTotalConnectionsFactory: WrappingFactory
policies.LimitTotalConnectionsFactory = bounded "maxConnections"

--- `LimitConnectionsByPeer:new(factory, n)`: the factory's `maxConnectionsPerPeer` (5 where not given).
---@class LimitConnectionsByPeer: WrappingFactory
policies.LimitConnectionsByPeer = bounded("maxConnectionsPerPeer", 5)

return policies
