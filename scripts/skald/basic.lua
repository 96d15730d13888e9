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

-- Of a value that has what is needed of it; blames who called the method that asks.
local function needMethods(name, value, methods)
  for _, method in ipairs(methods) do
    local ok, f = pcall(function()
      return value[method]
    end)
    if not ok or type(f) ~= "function" then
      error(("beginFileTransfer: the %s has no %s"):format(name, method), 3)
    end
  end
end

--- Begins; the file is left open, and at its end.
---@param file file* or anything with `read(self, n)`
---@param consumer Transport or anything with registerProducer, write and unregisterProducer
---@param transform? fun(piece: string): string is given each piece, and gives what is to be sent
---@return Deferred d the last byte sent ("" if none was); fails when the consumer stops before
function FileSender:beginFileTransfer(file, consumer, transform)
  if self.file then
    error("beginFileTransfer: a transfer is under way", 2)
  end
  needMethods("file", file, { "read" })
  needMethods("consumer", consumer, { "registerProducer", "unregisterProducer", "write" })
  if transform ~= nil and type(transform) ~= "function" then
    error(("beginFileTransfer: the transform is a function, not a %s"):format(type(transform)), 2)
  end
  local deferred = require("skald.defer").Deferred:new(function()
    self.file = nil
    consumer:unregisterProducer()
  end)
  self.file, self.consumer, self.transform, self.deferred = file, consumer, transform, deferred
  local ok, problem = pcall(consumer.registerProducer, consumer, self, false)
  if not ok then
    self.file, self.deferred = nil, nil
    error((tostring(problem):gsub("^[^:]*:%d+: ", "")), 2)
  end
  return deferred
end

local function finish(self)
  local deferred = self.deferred
  self.file, self.deferred = nil, nil
  return deferred
end

-- The next piece that is not empty, as it is to be sent; nil at the end, or nil and what went wrong.
local function nextPiece(self)
  local piece, message
  repeat
    piece, message = self.file:read(self.CHUNK_SIZE)
    if piece and self.transform then
      piece = self.transform(piece)
      if type(piece) ~= "string" then
        error(("the transform gave a %s, not a string"):format(type(piece)), 0)
      end
    end
  until piece ~= ""
  return piece, message
end

local function conclude(self, how, value)
  local deferred = finish(self)
  self.consumer:unregisterProducer()
  deferred[how](deferred, value)
end

--- The consumer has room. A transform that raises, or a file that cannot be read, fails the transfer.
function FileSender:resumeProducing()
  if not self.file then
    return
  end
  local ok, piece, message = pcall(nextPiece, self)
  if not ok then
    conclude(self, "errback", piece)
  elseif piece then
    self.lastSent = piece:sub(-1)
    self.consumer:write(piece)
  elseif message then
    conclude(self, "errback", message)
  else
    conclude(self, "callback", self.lastSent)
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
