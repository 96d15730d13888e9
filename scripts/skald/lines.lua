-- Receivers of lines, and what every receiver shares. Pure: bytes come in by dataReceived, cut anywhere.
--
-- What a receiver holds stands in its `_state`, a table of one shape for all of them:
--   chunk, from   what is being parsed, and the first byte in it that is not parsed yet
--   queue         what came behind it, while a handler ran or while paused
--   part          the beginning of a message whose end has not come: `piece` and a list of `more`, `size`
--                 together; the `head` before them (a length), the `tail` behind (half a delimiter)
--   busy          a handler may be running: what comes now is parsed when that has returned
--   over          closed by us: nothing more is delivered
--   raw           a LineReceiver's: what comes are no lines
-- All of it is right before a handler is called, and is looked at again after it: a handler may pause,
-- feed, close, raise, take the rest, change the delimiter.

local failure = require "skald.failure"
local fresh = require "skald.fresh"
local protocol = require "skald.protocol"

local ownMethod = fresh.method
local byte, concat, find, sub = string.byte, table.concat, string.find, string.sub

local lines = {}

-- In compiled code, the LuaJITs of 2022 take the constants of a table constructor for what is in each
-- table that came from it, and may not notice that its length or the place of a number in it has
-- changed. So here all fields come from variables, keep their types where they can, and lists count.

local function newList(zero)
  return { count = zero, joined = zero }
end

local function append(list, item)
  local count = list.count + 1
  list[count], list.count = item, count
end

local function join(list)
  return concat(list, "", 1, list.count)
end

-- So many small pieces become one: a message that comes byte by byte takes about its own size.
local MANY = 256

local function merge(list)
  local first, last = list.joined + 1, list.count
  list[first] = concat(list, "", first, last)
  for i = last, first + 1, -1 do
    list[i] = nil
  end
  list.count, list.joined = first, first
end

--- Adds to the beginning of a message.
---@param part table
---@param piece string
function lines.addPiece(part, piece)
  local more = part.more
  if not more then
    more = newList(0)
    part.more = more
  end
  append(more, piece)
  part.size = part.size + #piece
  if more.count - more.joined == MANY then
    merge(more)
  end
end

--- The beginning of a message with its end.
---@param part table
---@param ending string
---@return string
function lines.complete(part, ending)
  local more = part.more
  if more then
    return part.piece .. join(more) .. ending
  end
  return part.piece .. ending
end

local addPiece, complete = lines.addPiece, lines.complete

-- What of a chunk is not parsed; the whole of it is not copied.
local function restOf(chunk, from)
  return from == 1 and chunk or sub(chunk, from)
end

local function newState(empty, one, no)
  return { chunk = empty, from = one, queue = no, part = no, busy = no, over = no, raw = no }
end

local function stateOf(self)
  local state = self._state
  if not state then
    state = newState("", 1, false)
    self._state = state
  end
  return state
end

local function forget(state)
  state.chunk, state.from, state.queue, state.part = "", 1, false, false
end

--- Takes all that is not parsed.
---@param self Receiver
---@return string
function lines.takeAll(self)
  local state = self._state
  if not state then
    return ""
  end
  local part, queue = state.part, state.queue
  local rest = restOf(state.chunk, state.from)
  forget(state)
  if part then
    rest = part.head .. complete(part, part.tail .. rest)
  end
  return queue and rest .. join(queue) or rest
end

local takeAll = lines.takeAll

-- What waits behind the chunk becomes the chunk. All at once: each byte is joined once.
local function advance(state)
  local queue = state.queue
  state.chunk, state.from, state.queue = queue and join(queue) or "", 1, false
  return queue and true
end

--- Whether there is a byte to parse, and what comes of it may be delivered.
---@param self Receiver
---@param state table
---@return boolean
function lines.isReady(self, state)
  local transport = self.transport
  if state.over or transport and transport.disconnecting then
    forget(state)
    return false
  elseif self.paused then
    return false
  end
  return state.from <= #state.chunk or advance(state)
end

local isReady = lines.isReady

--- Closes for a fault of the peer: nothing more is delivered, whatever the transport is.
---@param self Receiver
function lines.close(self)
  local state = stateOf(self)
  state.over = true
  forget(state)
  self.transport:loseConnection()
end

local function store(state, data)
  if state.from > #state.chunk and not state.queue then
    state.chunk, state.from = data, 1
    return
  elseif not state.queue then
    state.queue = newList(0)
  end
  append(state.queue, data)
end

local function noted(problem)
  return { raised = problem, failure = failure.handler(problem) }
end

-- Parses what is held. Whoever calls may have nothing to do with this connection: where the transport
-- can be told that its code failed, the error ends there. Else it goes up, and what follows it is
-- delivered when it is asked for again.
local function deliverHeld(self)
  local state = stateOf(self)
  if state.busy then
    return
  end
  if state.part and self._isStale and self:_isStale(state.part) then
    state.chunk = takeAll(self) -- is parsed anew
  end
  state.busy = true
  local ok, problem = xpcall(ownMethod(self, "_parse"), noted, self, state)
  state.busy = false
  if ok then
    return
  elseif self.transport and self.transport.fail then
    state.over = true
    forget(state)
    self.transport:fail(problem.failure.traceback)
  else
    error(problem.raised, 0)
  end
end

-- Three messages and their ends within so many bytes: what is read are the shortest there are.
local DENSE = 10

--- What parses all that is held: a loop of asking for the next message and giving it to its handler.
--- One that is left at once is none that the compiler can use, and most reads hold few messages.
---@param nextOne fun(self: Receiver, state: table): string? nil: none is ready
---@param handler string the name of a method
---@param nextShort? fun(self: Receiver, state: table): string? quicker for the shortest; nil: ask nextOne
---@return fun(self: Receiver, state: table)
function lines.parser(nextOne, handler, nextShort)
  local function deliver(self, state)
    local message = nextOne(self, state)
    if message then
      self[handler](self, message)
      return true
    end
    return false
  end
  local function deliverShort(self, state)
    local message = nextShort(self, state)
    while message do
      self[handler](self, message)
      message = nextShort(self, state)
    end
  end
  return function(self, state)
    if deliver(self, state) and deliver(self, state) and deliver(self, state) then
      if nextShort and state.from <= DENSE then
        deliverShort(self, state)
      end
      local message = nextOne(self, state)
      while message do
        self[handler](self, message)
        message = nextOne(self, state)
      end
    end
  end
end

--- What every receiver has.
---@class Receiver: Protocol
---@field paused boolean
local Receiver = { paused = false, _state = false }

--- Bytes came, cut anywhere. An error in a handler goes up to the host, which ends the connection.
---@param data string
function Receiver:dataReceived(data)
  local state = stateOf(self)
  if type(data) ~= "string" then
    error(("dataReceived takes a string, not a %s"):format(type(data)), 2)
  elseif #data > 0 then
    store(state, data)
  end
  if not state.busy then
    state.busy = true
    ownMethod(self, "_parse")(self, state)
    state.busy = false
  end
end

--- Stops reading; nothing more is delivered until `resumeProducing`.
function Receiver:pauseProducing()
  self.paused = true
  self.transport:pauseProducing()
end

--- Reads again, and delivers at once what was held; from inside a handler, when that has returned.
function Receiver:resumeProducing()
  self.paused = false
  self.transport:resumeProducing()
  deliverHeld(self)
end

--- Ends: nothing more is delivered.
function Receiver:stopProducing()
  self.paused = true
  stateOf(self).over = true
  self.transport:stopProducing()
end

lines.Receiver = Receiver

local function findTailFrom(chunk, at, delimiter)
  local length = #chunk
  while at <= length and sub(chunk, at) ~= sub(delimiter, 1, length - at + 1) do
    at = at + 1
  end
  return at
end

-- Where the end of a chunk may be the beginning of a delimiter; behind the end if nowhere.
local function findTail(chunk, from, delimiter)
  local length, width = #chunk, #delimiter
  if width > 2 then
    return findTailFrom(chunk, math.max(from, length - width + 2), delimiter)
  elseif width == 2 and from <= length and byte(chunk, length) == byte(delimiter, 1) then
    return length
  end
  return length + 1
end

local function newPart(piece, tail, delimiter, skipped, size, empty, none)
  return {
    piece = piece,
    more = none,
    size = size,
    head = empty,
    tail = tail,
    delimiter = delimiter,
    skipped = skipped,
  }
end

local nextLine

-- There is no delimiter in what is left. It waits for more, unless it is too long already.
local function keepLine(self, state, part)
  local chunk, from, delimiter = state.chunk, state.from, self.delimiter
  local at = findTail(chunk, from, delimiter)
  if (part and part.size or 0) + at - from > self.MAX_LENGTH then
    self:_exceeded(state)
    return nextLine(self, state)
  end
  local piece = sub(chunk, from, at - 1)
  if part then
    addPiece(part, piece)
    part.tail = sub(chunk, at)
  else
    state.part = newPart(piece, sub(chunk, at), delimiter, false, #piece, "", false)
  end
  state.chunk, state.from = "", 1
  return nextLine(self, state)
end

-- A delimiter may lie across the cut.
local function findAcross(self, state, part)
  local tail = part.tail
  if tail ~= "" then
    state.chunk, state.from, part.tail = tail .. restOf(state.chunk, state.from), 1, ""
  end
  return find(state.chunk, self.delimiter, state.from, true)
end

-- The rest of a line that was too long.
local function skipLine(self, state, part)
  local _, stop = findAcross(self, state, part)
  if stop then
    state.from, state.part = stop + 1, false
  else
    part.tail = sub(state.chunk, findTail(state.chunk, state.from, self.delimiter))
    state.chunk, state.from = "", 1
  end
  return nextLine(self, state)
end

-- A line whose beginning came before this chunk.
local function continueLine(self, state, part)
  if part.skipped then
    return skipLine(self, state, part)
  elseif part.delimiter ~= self.delimiter then
    -- another one by now, perhaps in what was looked at
    state.chunk = takeAll(self)
    return nextLine(self, state)
  end
  local start, stop = findAcross(self, state, part)
  if not start then
    return keepLine(self, state, part)
  elseif part.size + start - 1 > self.MAX_LENGTH then
    self:_exceeded(state)
    return nextLine(self, state)
  end
  state.from, state.part = stop + 1, false
  return complete(part, sub(state.chunk, 1, start - 1))
end

-- The next line that may be delivered, or nothing. What is no line is dealt with on the way.
function nextLine(self, state)
  if not isReady(self, state) then
    return nil
  elseif state.raw then
    self:rawDataReceived(takeAll(self))
    return nextLine(self, state)
  elseif state.part then
    return continueLine(self, state, state.part)
  end
  local chunk, from = state.chunk, state.from
  local start, stop = find(chunk, self.delimiter, from, true)
  if not start then
    return keepLine(self, state)
  elseif start - from > self.MAX_LENGTH then
    self:_exceeded(state)
    return nextLine(self, state)
  elseif stop < start then
    error("the delimiter is empty", 0)
  end
  state.from = stop + 1
  return sub(chunk, from, start - 1)
end

--- What both receivers of lines have.
---@class LinesReceiver: Receiver
---@field delimiter string "\r\n" unless changed
---@field MAX_LENGTH integer the longest legal line, without its delimiter: 16384 unless changed
local Lines = { delimiter = "\r\n", MAX_LENGTH = 16384 }

-- The next line where that has one byte: the call of `find` would be half of what such lines cost.
local function nextShort(self, state)
  if not isReady(self, state) or state.raw or state.part then
    return nil
  end
  local chunk, from = state.chunk, state.from
  local first, second, third = byte(self.delimiter, 1, 3)
  if not first or third or self.MAX_LENGTH < 1 then
    return nil
  elseif byte(chunk, from) == first or byte(chunk, from + 1) ~= first then
    return nil
  elseif second and byte(chunk, from + 2) ~= second then
    return nil
  end
  state.from = from + (second and 3 or 2)
  return sub(chunk, from, from)
end

-- Of what is half here: the mode or the delimiter is another by now.
function Lines:_isStale(part)
  return not part.skipped and (self._state.raw or part.delimiter ~= self.delimiter)
end

Lines._parse = lines.parser(nextLine, "lineReceived", nextShort)

--- A line came. To be overridden, as all callbacks are.
---@param line string without its delimiter
function Lines:lineReceived(line) end -- luacheck: no unused args

--- Drops what has not been parsed.
---@return string dropped
function Lines:clearLineBuffer()
  return takeAll(self)
end

--- Sends a line and the delimiter; answers as `transport:write` does.
---@param line string
---@return boolean? ok
---@return string? message
---@return string? code
function Lines:sendLine(line)
  if type(line) ~= "string" then
    error(("sendLine takes a string, not a %s"):format(type(line)), 2)
  end
  local transport = self.transport
  if transport.writePair then
    return transport:writePair(line, self.delimiter)
  end
  return transport:write(line .. self.delimiter)
end

--- Lines, and raw data in between.
---@class LineReceiver: LinesReceiver
local LineReceiver = protocol.Protocol(Receiver, Lines)

--- Raw data came.
---@param data string cut anywhere
function LineReceiver:rawDataReceived(data) end -- luacheck: no unused args

--- A line is longer than MAX_LENGTH. Closes; an override closes too, or goes on by `setLineMode(rest)`
--- with what it wants parsed of it.
---@param rest string the line, and all that came behind it
function LineReceiver:lineLengthExceeded(rest) -- luacheck: no unused args
  lines.close(self)
end

function LineReceiver:_exceeded()
  self:lineLengthExceeded(takeAll(self))
end

--- What follows goes to `rawDataReceived`.
function LineReceiver:setRawMode()
  stateOf(self).raw = true
end

--- What follows are lines.
---@param rest string? what `rawDataReceived` or `lineLengthExceeded` was given and leaves to be parsed
function LineReceiver:setLineMode(rest)
  if rest ~= nil and type(rest) ~= "string" then
    error(("setLineMode takes what is left as a string, not a %s"):format(type(rest)), 2)
  end
  local state = stateOf(self)
  state.raw = false
  if rest and #rest > 0 then
    store(state, rest)
    deliverHeld(self)
  end
end

lines.LineReceiver = LineReceiver

--- Lines, and nothing else.
---@class LineOnlyReceiver: LinesReceiver
local LineOnlyReceiver = protocol.Protocol(Receiver, Lines)

--- A line is longer than MAX_LENGTH. Closes; where an override does not, the rest of the line is skipped.
---@param line string its first MAX_LENGTH + 1 bytes
function LineOnlyReceiver:lineLengthExceeded(line) -- luacheck: no unused args
  lines.close(self)
end

-- What is skipped begins behind what is shown, wherever the line was cut.
function LineOnlyReceiver:_exceeded(state)
  local longest = self.MAX_LENGTH + 1
  local part, from = state.part, state.from
  if part then
    state.chunk, from = complete(part, part.tail .. restOf(state.chunk, from)), 1
  end
  local line = sub(state.chunk, from, from + longest - 1)
  state.from, state.part = from + #line, newPart("", "", "", true, 0, "", false)
  self:lineLengthExceeded(line)
end

lines.LineOnlyReceiver = LineOnlyReceiver

return lines
