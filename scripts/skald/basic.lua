-- skald.basic: from bytes to messages. Pure.

local class = require "skald.class"
local frames = require "skald.frames"
local lines = require "skald.lines"

local basic = {
  LineReceiver = lines.LineReceiver,
  LineOnlyReceiver = lines.LineOnlyReceiver,
  NetstringReceiver = frames.NetstringReceiver,
  Int8StringReceiver = frames.Int8StringReceiver,
  Int16StringReceiver = frames.Int16StringReceiver,
  Int32StringReceiver = frames.Int32StringReceiver,
  VarintStringReceiver = frames.VarintStringReceiver,
  FixedStringReceiver = frames.FixedStringReceiver,
}

--- A mixin for receivers of strings: each string goes to `proto_<state>(self, s)`, which may return
--- the next state.
---@class StatefulStringProtocol
---@field state string "init" to begin with; "done" closes
local StatefulStringProtocol = { state = "init" }

-- The log exists only inside the host.
local function warn(text)
  local ok, log = pcall(require, "skald.log")
  if ok then
    log.warning(text)
  else
    io.stderr:write(text, "\n")
  end
end

--- Calls the method of the state. What it returns is the next one; nil (or what is no string) stays.
---@param s string
function StatefulStringProtocol:stringReceived(s)
  local name = "proto_" .. tostring(self.state)
  local method = self[name]
  if not method then
    warn(("a message was dropped: there is no %s"):format(name))
    return
  end
  local state = method(self, s)
  if type(state) == "string" then
    self.state = state
    if state == "done" then
      lines.close(self)
    end
  end
end

basic.StatefulStringProtocol = StatefulStringProtocol

--- Sends a file to a consumer, a piece each time that there is room.
---@class FileSender: Object
---@field CHUNK_SIZE integer the most that is read at once: 16384 unless changed
local FileSender = class.root("FileSender", { CHUNK_SIZE = 16384, lastSent = "" })

--- Begins; the file is left open, and at its end.
---@param file file* or anything with `read(self, n)`
---@param consumer Transport or anything with registerProducer, write and unregisterProducer
---@param transform? fun(piece: string): string is given each piece, and gives what is to be sent
---@return Deferred d the last byte sent ("" if none was); fails when the consumer stops before
function FileSender:beginFileTransfer(file, consumer, transform)
  if self.file then
    error("beginFileTransfer: a transfer is under way", 2)
  end
  local deferred = require("skald.defer").Deferred:new(function()
    self.file = nil
    consumer:unregisterProducer()
  end)
  self.file, self.consumer, self.transform, self.deferred = file, consumer, transform, deferred
  consumer:registerProducer(self, false)
  return deferred
end

local function finish(self)
  local deferred = self.deferred
  self.file, self.deferred = nil, nil
  return deferred
end

-- The next piece that is not empty, as it is to be sent.
local function nextPiece(self)
  local piece, message
  repeat
    piece, message = self.file:read(self.CHUNK_SIZE)
    if piece and self.transform then
      piece = self.transform(piece)
    end
  until piece ~= ""
  return piece, message
end

--- The consumer has room.
function FileSender:resumeProducing()
  if not self.file then
    return
  end
  local piece, message = nextPiece(self)
  if piece then
    self.lastSent = piece:sub(-1)
    self.consumer:write(piece)
    return
  end
  local deferred = finish(self)
  self.consumer:unregisterProducer()
  if message then
    deferred:errback(message)
  else
    deferred:callback(self.lastSent)
  end
end

--- It writes only when it is asked to.
function FileSender.pauseProducing() end

--- The consumer wants no more.
function FileSender:stopProducing()
  local deferred = finish(self)
  if deferred then
    deferred:errback "the consumer stopped before the end of the file"
  end
end

basic.FileSender = FileSender

return basic
