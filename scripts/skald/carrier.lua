-- What the core does to a connection, in Lua, for tests: the queue, the water marks, the producer, the
-- ways to end. Its input and its output are conduits; whoever moves bytes through them is the network.
-- Specs that real transports pass, too, hold it to the truth. Pure.
--
-- A carrier is the state behind a transport. `settle` follows each callback, and calls connectionLost:
-- so that comes last, and never from inside another callback.

local UNHEARD = require("skald.protocol")._UNHEARD
local Conduit = require "skald.conduit"
local class = require "skald.class"
local deferred = require "skald.deferred"
local failure = require "skald.failure"
local members = require "skald.members"
local protocol = require "skald.protocol"
local reason = require "skald.reason"

local READ_SIZE = 65536 -- the most that dataReceived gets

---@class Carrier
---@field transport table what the protocol holds of it
---@field protocol Protocol?
---@field input Conduit
---@field output Conduit what was sent, and the peer has not read
---@field queue Conduit what was written, and is not sent
---@field window number so many bytes may be sent that the peer has not read
---@field within integer callbacks that are running
---@field moves integer how often anything has moved
---@field errors table[] what callbacks raised
---@field how false|"closing"|"dropping"|"reset"|"broken" it ends
---@field lost boolean it has
local Carrier = class.root "Carrier"

--- Called by `:new(transport, window, bounds)`.
---@param transport table
---@param window number bytes
---@param bounds table<string, number> instead of those of a factory
function Carrier:init(transport, window, bounds)
  self.transport, self.window, self.bounds = transport, window, bounds
  self.input, self.output, self.queue = Conduit:new(), Conduit:new(), Conduit:new()
  self.errors, self.within, self.sent, self.moves = {}, 0, 0, 0
  self.marks, self.due = {}, {} -- Deferreds of bytes in the queue, and those that may fire
  self.reading, self.lost, self.ended = true, false, false
  self.how, self.finWanted, self.finSent = false, false, false
end

--- A bound of the factory, or of the one who made the transport.
---@param name string
---@return number value in bytes, seconds or connections
function Carrier:bound(name)
  local value = self.bounds[name]
  local factory = self.protocol and self.protocol.factory
  while value == nil and factory do
    value, factory = factory[name], factory.wrappedFactory
  end
  return value or protocol.defaults[name]
end

-- --- callbacks --------------------------------------------------------------------------------

local function noted(problem)
  return { raised = problem, text = failure.handler(problem).traceback }
end

--- A callback raised: that ends the connection, and whoever moves the network hears of it.
---@param problem table
function Carrier:fail(problem)
  table.insert(self.errors, problem)
  self.text = self.text or problem.text
  self:finish("dropping", "error", "local")
end

--- Calls a method, where there is one, as the host does.
---@param object table
---@param name string
---@param ... any
---@return boolean there
function Carrier:call(object, name, ...)
  local f = object[name]
  if not f then
    return false
  end
  self.within = self.within + 1
  local ok, problem = xpcall(f, noted, object, ...)
  self.within = self.within - 1
  if not ok then
    self:fail(problem)
  end
  return not ok or problem ~= UNHEARD
end

-- The protocol that a factory makes; nil where it refuses, or fails.
local function build(self, factory)
  local ok, made = xpcall(factory.buildProtocol, noted, factory, self.transport:getPeer())
  if not ok then
    table.insert(self.errors, made)
    return nil
  elseif made and made.factory == nil then
    made.factory = factory
  end
  return made
end

local function isFactory(value)
  local methods = class.of(value)
  return methods and class.derives(methods, protocol.Factory)
end

local function connect(made, transport)
  local f = made.makeConnection or protocol.Protocol.makeConnection
  f(made, transport)
end

--- Connects a protocol, or the one that a factory makes, as the host does. Where there is none the peer
--- sees a clean close.
---@param given Protocol|Factory
---@return Protocol?
function Carrier:join(given)
  if isFactory(given) then
    if not self.onJoin then
      members.count(self, given)
    end
    given = build(self, given)
  end
  if given == nil then
    self.lost, self.output.ending = true, "fin"
    self.transport.disconnecting, self.transport.disconnected = true, true
    return nil
  end
  self.protocol = given
  if self.onJoin then
    self.onJoin(self)
  end
  local function call()
    connect(given, self.transport)
  end
  self:call({ connect = call }, "connect")
  return given
end

-- --- the end ----------------------------------------------------------------------------------

--- It is to end. The first reason stands, unless an orderly end turns into a hard one, or the host ends
--- what waits for a producer.
---@param how "closing"|"dropping"|"reset"|"broken"
---@param code string
---@param by string
---@param errno string?
---@param detail string?
function Carrier:finish(how, code, by, errno, detail)
  local overrules = how ~= "closing" or by == "host" and self:hasProducer()
  if self.lost or self.how and (self.how ~= "closing" or not overrules) then
    return
  end
  self.how, self.code, self.by, self.errno, self.detail = how, code, by, errno, detail
end

--- Whether it ends without what is queued.
---@return boolean
function Carrier:isHard()
  return self.how and self.how ~= "closing"
end

local function makeReason(self)
  if self.code == "error" and self.text then
    return reason.new("error", self.by, self.text:match "^[^\n]*", nil, self.text)
  end
  return reason.new(self.code, self.by, self.detail, self.errno)
end

local function stopProducer(self)
  local producer = self.producer
  self:setProducer(nil)
  if producer then
    self:call(producer, "stopProducing")
  end
end

-- Deferreds of bytes that will not be sent.
local function failMarks(self, why)
  local marks = self.marks
  self.marks = {}
  for _, mark in ipairs(marks) do
    mark.deferred:errback(why)
  end
end

--- It ends now: the last that a protocol hears.
function Carrier:lose()
  local transport, why = self.transport, makeReason(self)
  self.queue:clear()
  self.output.ending = (self.how == "reset" or self.how == "broken") and "reset" or "fin"
  self.lost, self.moves = true, self.moves + 1
  transport.disconnecting, transport.disconnected = true, true
  if self.onLost then
    self.onLost(self)
  end
  stopProducer(self)
  failMarks(self, why)
  if self.protocol then
    self:call(self.protocol, "connectionLost", why)
  end
  if self.onOver then
    self.onOver(self, why)
  end
end

local function finishWriting(self)
  self.finSent, self.moves = true, self.moves + 1
  self.output.ending = "fin"
  self:call(self.protocol, "writeConnectionLost")
  if self.ended then
    self:finish("closing", "done", "local")
  end
end

-- Never from inside the call that wrote, or flushed, the last of it.
local function fireMarks(self)
  local due = self.due
  self.due = {}
  for _, mark in ipairs(due) do
    mark.deferred:callback(mark.length)
  end
end

local function isFinishing(self)
  return self.how == "closing" or self.finWanted and not self.finSent
end

--- A callback has returned: sends what is queued, and ends what is to end.
function Carrier:settle()
  while not self.lost do
    if not self:isHard() then
      self:send()
      fireMarks(self)
    end
    if self:isHard() then
      self:lose()
    elseif self.queue.bytes > 0 or not isFinishing(self) or self:hasProducer() then
      return
    elseif self.how then
      self:lose()
    else
      finishWriting(self)
    end
  end
end

-- --- output -----------------------------------------------------------------------------------

local function countMarks(self, count)
  self.sent = self.sent + count
  while self.marks[1] and self.marks[1].at <= self.sent do
    table.insert(self.due, table.remove(self.marks, 1))
  end
end

--- Sends as much of the queue as the window allows.
function Carrier:send()
  local room = self.window - self.output.bytes
  if self:isHard() or self.lost or room <= 0 then
    return
  end
  local data = self.queue:take(room)
  self.moves = self.moves + (data == "" and 0 or 1)
  self.output:put(data)
  countMarks(self, #data)
end

--- What the host or the peer ends does not wait for a producer; loseConnection does.
---@return boolean
function Carrier:hasProducer()
  return self.producer ~= nil and (self.how ~= "closing" or self.by == "local")
end

--- Who writes here from now on.
---@param producer table? nil: nobody
---@param streaming boolean?
function Carrier:setProducer(producer, streaming)
  self.producer, self.streaming = producer, streaming
  self.paused, self.asked = false, false
  self.transport.producer, self.transport.streaming = producer, producer and streaming
end

--- Whether a write would be taken.
---@return boolean
function Carrier:accepts()
  if self.lost or self:isHard() then
    return false
  end
  return not self.how and not self.finWanted or self:hasProducer()
end

local function crossHighWater(self, before)
  local high = self:bound "highWater"
  if self.queue.bytes <= high then
    return
  elseif before <= high then
    self:send()
  end
  if self.queue.bytes > high and self.producer and self.streaming and not self.paused then
    self.paused = true
    self:call(self.producer, "pauseProducing")
  end
end

--- Queues bytes.
---@param data string
---@return boolean? ok true, or nil with "closing" and a code
---@return string? message
---@return string? code
function Carrier:write(data)
  if not self:accepts() then
    return nil, "closing", "EPIPE"
  elseif data == "" then
    return true
  end
  if self.queue.bytes > self:bound "maxBuffered" then
    self:send()
  end
  local before = self.queue.bytes
  if before > self:bound "maxBuffered" then
    self:finish("reset", "limit", "host")
    return nil, "closing", "ENOBUFS"
  end
  self.queue:put(data)
  self.asked = false
  crossHighWater(self, before)
  return true
end

--- Queues bytes that stand for a file: a Deferred of their number, which fires when they are sent; nil
--- where nothing is taken any more.
---@param data string
---@return Deferred?
function Carrier:writeMarked(data)
  if not self:accepts() then
    return nil
  elseif data == "" then
    return deferred.succeed(0)
  end
  self.queue:put(data)
  self.asked = false
  local mark = { at = self.sent + self.queue.bytes, length = #data, deferred = deferred.Deferred:new() }
  table.insert(self.marks, mark)
  return mark.deferred
end

-- A producer is resumed from here only.
local function resumeProducer(self)
  if self.lost or self:isHard() or not self:hasProducer() then
    return
  end
  local ready
  if self.streaming then
    ready = self.paused and self.queue.bytes <= self:bound "lowWater"
    self.paused = self.paused and not ready
  else
    ready = self.queue.bytes == 0 and not self.asked
    self.asked = self.asked or ready
  end
  if ready then
    self.moves = self.moves + 1
    self:call(self.producer, "resumeProducing")
  end
end

-- --- input ------------------------------------------------------------------------------------

local function wantsInput(self)
  return self.reading and not self.ended and not self.how
end

--- Whether something may still be read.
---@return boolean
function Carrier:isReadable()
  return not (self.lost or self.ended or self.how)
end

local function deliver(self, most)
  local data = self.input:take(math.min(most, READ_SIZE))
  self:call(self.protocol, "dataReceived", data)
end

local function deliverEnd(self)
  if self.input.ending == "reset" then
    self:finish("broken", "lost", "peer", "ECONNRESET", "Connection reset by peer")
    return
  end
  self.ended = true
  local handled = self:call(self.protocol, "readConnectionLost")
  if not handled or self.finSent then
    self:finish("closing", "done", "peer")
  end
end

local function writes(self)
  return self.queue.bytes > 0 or self:hasProducer() and (self.paused or not self.streaming)
end

-- A piece of the input, or its end. Where nobody reads any more, what comes is dropped, so that the peer
-- is not held up; who only writes hears of a reset, too.
local function read(self, most)
  local input = self.input
  if self.lost then
    input:clear()
  elseif wantsInput(self) and input.bytes > 0 then
    deliver(self, most)
  elseif input.ending and (wantsInput(self) or input.ending == "reset" and not self:isHard() and writes(self)) then
    deliverEnd(self)
  else
    return
  end
  self.moves = self.moves + 1
end

local function isMoving(self)
  return not self.lost or self.input.bytes > 0
end

--- One turn of the loop: what has come, and a producer that there is room for. Whether anything moved.
---@param most number of bytes that are read at once
---@return boolean
function Carrier:turn(most)
  local before = self.moves
  self:settle()
  if isMoving(self) then
    read(self, most)
    self:settle()
    resumeProducer(self)
    self:settle()
  end
  return self.moves > before
end

return Carrier
