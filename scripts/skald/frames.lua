-- Receivers of strings whose length comes first: as digits (netstrings), as a number of 1, 2 or 4
-- bytes, or as a varint; and of those that are all of one size. Pure. What a receiver holds is told in
-- skald.lines; a part has here besides:
--   length   the length, or what its digits make so far
--   whole    how many bytes follow the length; -1 while that is not all here
--   told     lengthLimitExceeded was called for it

local lines = require "skald.lines"
local protocol = require "skald.protocol"

local byte, char, floor, sub = string.byte, string.char, math.floor, string.sub
local addPiece, close, complete = lines.addPiece, lines.close, lines.complete
local isReady, takeAll = lines.isReady, lines.takeAll

local frames = {}

local function make(head, length, whole, told, zero, empty, none)
  return {
    piece = empty,
    more = none,
    size = zero,
    head = head,
    tail = empty,
    length = length,
    whole = whole,
    told = told,
  }
end

local function newPart(head, length, whole, told)
  return make(head, length, whole, told, 0, "", false)
end

-- Whether a string that was too long still is; then nothing of it is wanted, and nothing behind it
-- can be found.
local function isRefused(self, state, part)
  if part.told and part.length > self.MAX_LENGTH then
    state.over = true
    return true
  end
  return false
end

-- Takes what the chunk has of a string that has begun. Gives the string once it is all here.
local function collect(state, part)
  local chunk, from = state.chunk, state.from
  local last = from + part.whole - part.size - 1
  local piece = sub(chunk, from, last)
  if last > #chunk then
    addPiece(part, piece)
    state.chunk, state.from = "", 1
    return nil
  end
  state.from, state.part = last + 1, false
  return complete(part, piece)
end

local function refuse(self, state, head, length, whole)
  state.part = newPart(head, length, whole, true)
  self:lengthLimitExceeded(length)
end

-- The beginning of a length waits for its end, to be looked at anew.
local function keepLength(self, state, nextOne)
  state.part = newPart(sub(state.chunk, state.from), 0, -1, false)
  state.chunk, state.from = "", 1
  return nextOne(self, state)
end

-- What follows a beginning that was kept.
local function continueString(self, state, nextOne)
  local part = state.part
  if (part.whole or -1) < 0 then
    state.chunk = takeAll(self)
  elseif not isRefused(self, state, part) then
    local s = collect(state, part)
    if s then
      return s
    end
  end
  return nextOne(self, state)
end

-- The string behind a length that was read; its first byte is at `first`.
local function takeString(self, state, length, first, nextOne)
  local chunk, from = state.chunk, state.from
  local last = first + length - 1
  if length <= self.MAX_LENGTH and last <= #chunk then
    state.from = last + 1
    return sub(chunk, first, last)
  end
  local head = sub(chunk, from, first - 1)
  state.from = first
  if length > self.MAX_LENGTH then
    refuse(self, state, head, length, length)
  else
    state.part = newPart(head, length, length, false)
  end
  return nextOne(self, state)
end

local function checkString(s)
  if type(s) ~= "string" then
    error(("sendString takes a string, not a %s"):format(type(s)), 3)
  end
end

--- What all receivers of strings have.
---@class StringReceiver: Receiver
local Strings = {}

--- A string came. To be overridden, as all callbacks are.
---@param s string
function Strings:stringReceived(s) end -- luacheck: no unused args

--- Drops what has not been parsed, the beginning of an unfinished string included.
---@return string dropped
function Strings:clearBuffer()
  return takeAll(self)
end

--- What those have whose length comes first.
---@class FrameReceiver: StringReceiver
---@field MAX_LENGTH integer 99999 unless changed
local Frames = { MAX_LENGTH = 99999 }

--- A string is longer than MAX_LENGTH. Closes; an override may raise MAX_LENGTH and have it all the
--- same, or take everything by `clearBuffer`; else nothing more is delivered.
---@param length integer of netstrings: what the digits make up to the one that proves it too long
function Frames:lengthLimitExceeded(length) -- luacheck: no unused args
  close(self)
end

--- Strings behind their length as a number, the highest byte first.
---@class IntStringReceiver: FrameReceiver
---@field prefixLength integer how many bytes that number takes: 1 to 4
local IntStringReceiver = protocol.Protocol(lines.Receiver, Strings, Frames)

local function decode(a, b, c, d)
  if d then
    return ((a * 256 + b) * 256 + c) * 256 + d
  elseif c then
    return (a * 256 + b) * 256 + c
  end
  return b and a * 256 + b or a
end

local function encode(number, width)
  local bytes = char(floor(number / 0x1000000), floor(number / 0x10000) % 256, floor(number / 256) % 256, number % 256)
  return sub(bytes, 5 - width)
end

local nextInt

function nextInt(self, state)
  if not isReady(self, state) then
    return nil
  elseif state.part then
    return continueString(self, state, nextInt)
  end
  local chunk, from = state.chunk, state.from
  local first = from + self.prefixLength
  if first > #chunk + 1 then
    return keepLength(self, state, nextInt)
  end
  return takeString(self, state, decode(byte(chunk, from, first - 1)), first, nextInt)
end

IntStringReceiver._parse = lines.parser(nextInt, "stringReceived")

--- Sends a string behind its length; answers as `transport:write` does.
---@param s string shorter than 256^prefixLength, else it raises
---@return boolean? ok
---@return string? message
---@return string? code
function IntStringReceiver:sendString(s)
  checkString(s)
  local width = self.prefixLength
  if #s >= 256 ^ width then
    error(("sendString: %d bytes are too many for a length of %d bytes"):format(#s, width), 2)
  end
  return self.transport:write(encode(#s, width) .. s)
end

--- Strings behind their length as a number of one byte.
---@class Int8StringReceiver: IntStringReceiver
frames.Int8StringReceiver = IntStringReceiver { prefixLength = 1 }

--- Strings behind their length as a number of two bytes.
---@class Int16StringReceiver: IntStringReceiver
frames.Int16StringReceiver = IntStringReceiver { prefixLength = 2 }

--- Strings behind their length as a number of four bytes.
---@class Int32StringReceiver: IntStringReceiver
frames.Int32StringReceiver = IntStringReceiver { prefixLength = 4 }

--- Netstrings: `5:hello,`.
---@class NetstringReceiver: FrameReceiver
---@field brokenPeer boolean the peer sent what is no netstring, or one that is too long
local NetstringReceiver = protocol.Protocol(lines.Receiver, Strings, Frames, { brokenPeer = false })

local COLON, COMMA, ZERO, NINE = byte(":,09", 1, 4)

local function breakOff(self)
  self.brokenPeer = true
  close(self)
end

function NetstringReceiver:lengthLimitExceeded(length) -- luacheck: no unused args
  breakOff(self)
end

-- Reads digits: the number so far, and where it stopped, which is at what is no digit (nor may be one
-- behind a leading zero), behind the end, or behind the digit that proves it too long.
local function readDigits(chunk, at, number, limit)
  local digit = byte(chunk, at)
  while digit and digit >= ZERO and digit <= NINE and number ~= 0 do
    number = (number or 0) * 10 + digit - ZERO
    at = at + 1
    if number > limit then
      break
    end
    digit = byte(chunk, at)
  end
  return number, at
end

local nextNetstring

local function continueNetstring(self, state, part)
  local s = not isRefused(self, state, part) and collect(state, part)
  if not s then
    return nextNetstring(self, state)
  elseif byte(s, #s) ~= COMMA then
    return breakOff(self)
  end
  return sub(s, 1, -2)
end

function nextNetstring(self, state)
  local part = state.part
  if not isReady(self, state) then
    return nil
  elseif part and not part.whole then
    state.chunk = takeAll(self) -- what another class held
    return nextNetstring(self, state)
  elseif part and (part.whole >= 0 or isRefused(self, state, part)) then
    return continueNetstring(self, state, part)
  end
  local chunk, from, limit = state.chunk, state.from, self.MAX_LENGTH
  local length, at = readDigits(chunk, from, part and part.length or nil, limit)
  local head = (part and part.head or "")
  if length and length > limit then
    state.from = at
    refuse(self, state, head .. sub(chunk, from, at - 1), length, -1)
    return nextNetstring(self, state)
  elseif at > #chunk then
    state.part = newPart(head .. sub(chunk, from), length, -1, false)
    state.chunk, state.from = "", 1
    return nextNetstring(self, state)
  elseif not length or byte(chunk, at) ~= COLON then
    return breakOff(self)
  end
  local comma = at + 1 + length
  if comma > #chunk then
    state.from = at + 1
    state.part = newPart(head .. sub(chunk, from, at), length, length + 1, false)
    return nextNetstring(self, state)
  elseif byte(chunk, comma) ~= COMMA then
    return breakOff(self)
  end
  state.from, state.part = comma + 1, false
  return sub(chunk, at + 1, comma - 1)
end

NetstringReceiver._parse = lines.parser(nextNetstring, "stringReceived")

--- Sends a netstring; answers as `transport:write` does.
---@param s string
---@return boolean? ok
---@return string? message
---@return string? code
function NetstringReceiver:sendString(s)
  checkString(s)
  return self.transport:write(#s .. ":" .. s .. ",")
end

frames.NetstringReceiver = NetstringReceiver

--- Strings behind their length as an unsigned varint: seven bits a byte, the lowest first, the highest
--- bit set where more follow. It takes at most five bytes; zeros that fill it up are no fault.
---@class VarintStringReceiver: FrameReceiver
---@field brokenPeer boolean the peer sent a length that does not end within five bytes
local VarintStringReceiver = protocol.Protocol(lines.Receiver, Strings, Frames, { brokenPeer = false })

local VARINT = 5 -- bytes

-- The number, and how many bytes it takes; none where its end is not here. Each byte but the last has
-- 128 too much.
local function decodeVarint(a, b, c, d, e)
  if a < 128 then
    return a, 1
  elseif b and b < 128 then
    return a + b * 0x80 - 0x80, 2
  elseif c and c < 128 then
    return a + b * 0x80 + c * 0x4000 - 0x4080, 3
  elseif d and d < 128 then
    return a + b * 0x80 + c * 0x4000 + d * 0x200000 - 0x204080, 4
  elseif e and e < 128 then
    return a + b * 0x80 + c * 0x4000 + d * 0x200000 + e * 0x10000000 - 0x10204080, 5
  end
  return nil
end

local function encodeVarint(number)
  local bytes = ""
  while number >= 128 do
    bytes = bytes .. char(number % 128 + 128)
    number = floor(number / 128)
  end
  return bytes .. char(number)
end

local nextVarint

function nextVarint(self, state)
  if not isReady(self, state) then
    return nil
  elseif state.part then
    return continueString(self, state, nextVarint)
  end
  local chunk, from = state.chunk, state.from
  local length, width = decodeVarint(byte(chunk, from, from + VARINT - 1))
  if length then
    return takeString(self, state, length, from + width, nextVarint)
  elseif #chunk - from + 1 >= VARINT then
    return breakOff(self)
  end
  return keepLength(self, state, nextVarint)
end

VarintStringReceiver._parse = lines.parser(nextVarint, "stringReceived")

--- Sends a string behind its length; answers as `transport:write` does.
---@param s string
---@return boolean? ok
---@return string? message
---@return string? code
function VarintStringReceiver:sendString(s)
  checkString(s)
  return self.transport:write(encodeVarint(#s) .. s)
end

frames.VarintStringReceiver = VarintStringReceiver

--- Strings of one size, with nothing between them.
---@class FixedStringReceiver: StringReceiver
---@field SIZE integer of each, at least 1; to be set, and may be changed: what is not delivered is cut anew
local FixedStringReceiver = protocol.Protocol(lines.Receiver, Strings, { SIZE = false })

local nextFixed

-- A string whose beginning came before this chunk; the size may be another by now.
local function continueFixed(self, state, part)
  if part.whole ~= self.SIZE or part.head ~= "" then
    state.chunk = takeAll(self)
    return nextFixed(self, state)
  end
  local s = collect(state, part)
  if s then
    return s
  end
  return nextFixed(self, state)
end

-- Of a string that is half here: it may be all of it by now.
function FixedStringReceiver:_isStale(part)
  return part.whole ~= self.SIZE
end

local function isSize(size)
  return type(size) == "number" and size >= 1 and size % 1 == 0
end

function nextFixed(self, state)
  if not isReady(self, state) then
    return nil
  elseif state.part then
    return continueFixed(self, state, state.part)
  end
  local chunk, from, size = state.chunk, state.from, self.SIZE
  if not isSize(size) then
    error("SIZE is no whole number of bytes from 1 on: " .. tostring(size), 0)
  end
  local last = from + size - 1
  if last <= #chunk then
    state.from = last + 1
    return sub(chunk, from, last)
  end
  state.part = newPart("", size, size, false)
  return nextFixed(self, state)
end

FixedStringReceiver._parse = lines.parser(nextFixed, "stringReceived")

--- Sends a string; answers as `transport:write` does.
---@param s string of SIZE bytes, else it raises
---@return boolean? ok
---@return string? message
---@return string? code
function FixedStringReceiver:sendString(s)
  checkString(s)
  if #s ~= self.SIZE then
    error(("sendString: a string of %d bytes, where SIZE is %s"):format(#s, tostring(self.SIZE)), 2)
  end
  return self.transport:write(s)
end

frames.FixedStringReceiver = FixedStringReceiver

return frames
