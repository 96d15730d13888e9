-- Receivers beside a naive model of what they promise: random programs of feeding, pausing, closing, raising and
-- changing limits, in handlers and between events, must come to the same with both. `luajit tests/fuzz/receivers.lua
-- [COUNT] [SEED]`, from the project's root; 100000 with seed 1 unless told.

package.path = "scripts/?.lua;" .. package.path

local basic = require "skald.basic"
local testing = require "skald.testing"

local fuzz = {}

local random = math.random

-- --- the model: all that is not parsed is one string ------------------------------------------

local Model = {}
Model.__index = Model

function Model:pauseProducing()
  self.paused = true
end

function Model:resumeProducing()
  self.paused = false
  self:parse(false)
end

function Model:stopProducing()
  self.paused, self.over, self.closed = true, true, true
end

Model.close = Model.stopProducing

function Model:clear()
  local pending = self.pending
  self.pending, self.told = "", false
  return pending
end

-- Of the receiver of lines only.
local function setRawMode(self)
  self.raw = true
end

local function setLineMode(self, rest)
  self.raw = false
  if rest and #rest > 0 then
    self.pending = self.pending .. rest
    self:parse(false)
  end
end

function Model:dataReceived(data)
  self.pending = self.pending .. data
  self:parse(true)
end

-- What raises in dataReceived ends it all; elsewhere the rest waits to be asked for.
function Model:parse(fatal)
  if self.busy then
    return
  end
  self.busy = true
  local ok, problem = pcall(function()
    while self:isReady() and self:step() do end
  end)
  self.busy = not ok and fatal
  if not ok then
    error(problem, 0)
  end
end

function Model:isReady()
  if self.over then
    self.pending, self.told = "", false
  end
  return not self.paused and self.pending ~= ""
end

function Model:deliver(last, from, to)
  local message = self.pending:sub(from, to)
  self.pending, self.told = self.pending:sub(last + 1), false
  self.handlers[self.lines and "lineReceived" or "stringReceived"](self, message)
  return true
end

local function tailOf(text, delimiter)
  for size = math.min(#delimiter - 1, #text), 1, -1 do
    if text:sub(-size) == delimiter:sub(1, size) then
      return size
    end
  end
  return 0
end

local steps = {}

function steps.line(self)
  local pending = self.pending
  if self.raw then
    self.pending = ""
    self.handlers.rawDataReceived(self, pending)
    return true
  end
  local start, stop = pending:find(self.delimiter, 1, true)
  local length = start and start - 1 or #pending - tailOf(pending, self.delimiter)
  if length > self.MAX_LENGTH then
    self.pending = ""
    self.handlers.lineLengthExceeded(self, pending)
    return true
  end
  return start and self:deliver(stop, 1, length)
end

-- A length that was told as too long: more bytes decide whether it still is.
local function refuse(self, length, first)
  if not self.told then
    self.told = true
    self.handlers.lengthLimitExceeded(self, length)
    return true
  end
  self.over = #self.pending >= first
  return self.over
end

local function takeCounted(self, length, first)
  if length > self.MAX_LENGTH then
    return refuse(self, length, first)
  end
  local last = first + length - 1
  return #self.pending >= last and self:deliver(last, first, last)
end

function steps.int(self)
  local width, length = self.prefixLength, 0
  if #self.pending < width then
    return false
  end
  for i = 1, width do
    length = length * 256 + self.pending:byte(i)
  end
  return takeCounted(self, length, width + 1)
end

function steps.varint(self)
  local length, unit = 0, 1
  for i = 1, 5 do
    local byte = self.pending:byte(i)
    if not byte then
      return false
    end
    length, unit = length + byte % 128 * unit, unit * 128
    if byte < 128 then
      return takeCounted(self, length, i + 1)
    end
  end
  self:close()
end

function steps.fixed(self)
  return #self.pending >= self.SIZE and self:deliver(self.SIZE, 1, self.SIZE)
end

-- --- kinds, and programs ----------------------------------------------------------------------

local lines = { "a", "b", "\r", "\n", "\r\n", "aaaa", "ab\r\n" }

local kinds = {
  { class = basic.LineReceiver, step = steps.line, lines = true, bytes = lines },
  { class = basic.Int8StringReceiver, step = steps.int, width = 1,
    bytes = { "\0", "\1", "\1x", "\2ab", "\3", "\4abcd", "\5", "\9", "zz", "\7abcdefg" } },
  { class = basic.Int16StringReceiver, step = steps.int, width = 2,
    bytes = { "\0", "\1", "\0\1x", "\0\2ab", "\0\3", "\0\4abcd", "\0\9", "\0\7abcdefg", "\1\1" } },
  { class = basic.Int32StringReceiver, step = steps.int, width = 4,
    bytes = { "\0", "\0\0\0", "\0\0\0\1", "\0\0\0\2ab", "\0\0\0\3", "\0\0\0\9", "\0\0\0\7abcdefg", "\255\1" } },
  { class = basic.VarintStringReceiver, step = steps.varint,
    bytes = { "\0", "\1", "\1x", "\2ab", "\4abcd", "\129\0", "\128", "\7abcdefg", "\9", "\131\128\128\128\0abc" } },
  { class = basic.FixedStringReceiver, step = steps.fixed, bytes = { "a", "b", "cdef", "ghijklmn", "o" } },
}

local delimiters = { "\r\n", "\n", "ab", "\r\na", "aab", "a", "\r\r\n" }

local function bytesOf(kind, count)
  local pieces = {}
  for i = 1, count do
    pieces[i] = kind.bytes[random(#kind.bytes)]
  end
  return table.concat(pieces)
end

-- What may be done between events, and in handlers; the latter ones in handlers only.
local actions = {
  function(self, _, act) self:dataReceived(act.bytes) end,
  function(self) self:pauseProducing() end,
  function(self) self:resumeProducing() end,
  function(self, api) api.close(self) end,
  function(self) self:stopProducing() end,
  function(self, api, _, trace)
    local wasOpen, cleared = not api.isClosed(self), api.clear(self)
    trace[#trace + 1] = wasOpen and ("cleared %q"):format(cleared) or nil
  end,
  function(self) if self.setRawMode then self:setRawMode() end end,
  function(self, _, act) if self.setLineMode then self:setLineMode(act.bytes) end end,
  function(self, _, act) self.SIZE = self.SIZE and act.size end,
  function(self, _, act) self.MAX_LENGTH = act.length end,
  function(self, _, act) self.delimiter = act.delimiter end,
  function() error("boom", 0) end,
}
local BETWEEN = 9

local function newAct(kind, most)
  return { f = actions[random(most)], bytes = bytesOf(kind, random(3)), size = random(5), length = random(0, 9),
    delimiter = delimiters[random(#delimiters)] }
end

local function newProgram(kind)
  local program = { outer = {}, inner = {}, length = random(0, 9), size = random(5), closes = random(2) == 1 }
  for i = 1, random(8) do
    program.outer[i] = random(3) == 1 and newAct(kind, BETWEEN) or { f = actions[1], bytes = bytesOf(kind, random(5)) }
  end
  for i = 1, 14 do
    program.inner[i] = random(3) == 1 and newAct(kind, #actions) or nil
  end
  return program
end

-- --- running one ------------------------------------------------------------------------------

local MANY = 300
local names = { "lineReceived", "rawDataReceived", "stringReceived", "lineLengthExceeded", "lengthLimitExceeded" }

-- Handlers that note what they get, and do what the program says.
local function handlersOf(program, api, trace)
  local count, handlers = 0, {}
  for _, name in ipairs(names) do
    handlers[name] = function(self, given)
      count = count + 1
      trace[#trace + 1] = ("%s %q"):format(name, tostring(given))
      if count > MANY then
        error("too many", 0)
      elseif name:find "Exceeded" and program.closes then
        api.close(self)
      end
      local act = program.inner[count]
      if act then
        act.f(self, api, act, trace)
      end
    end
  end
  return handlers
end

local function run(program, self, api, trace)
  self.MAX_LENGTH, self.delimiter = program.length, "\r\n"
  for i, act in ipairs(program.outer) do
    trace[#trace + 1] = "-- " .. i
    local ok, problem = pcall(act.f, self, api, act, trace)
    if not ok then
      trace[#trace + 1] = "raised " .. tostring(problem)
      if act.f == actions[1] then
        break
      end
    end
  end
  trace[#trace + 1] = "closed " .. tostring(api.isClosed(self))
  return table.concat(trace, "\n")
end

local real = {
  close = function(self) self.transport:loseConnection() end,
  isClosed = function(self) return self.transport.disconnecting end,
  clear = function(self) return (self.clearBuffer or self.clearLineBuffer)(self) end,
}

local function runReal(kind, program)
  local made, trace = kind.class:new(), {}
  for name, f in pairs(handlersOf(program, real, trace)) do
    made[name] = f
  end
  made.SIZE = kind.step == steps.fixed and program.size or nil
  made:makeConnection(testing.StringTransport:new())
  return run(program, made, real, trace)
end

local model = {
  close = function(self) self.over, self.closed = true, true end,
  isClosed = function(self) return self.closed end,
  clear = Model.clear,
}

local function runModel(kind, program)
  local trace = {}
  local made = setmetatable({
    pending = "", paused = false, over = false, closed = false, busy = false, raw = false, told = false,
    step = kind.step, lines = kind.lines, prefixLength = kind.width, SIZE = kind.step == steps.fixed and program.size,
    handlers = handlersOf(program, model, trace),
    setRawMode = kind.lines and setRawMode, setLineMode = kind.lines and setLineMode,
  }, Model)
  return run(program, made, model, trace)
end

--- Runs `count` programs; raises where a receiver does not as the model does.
---@param count integer
---@param seed integer
function fuzz.run(count, seed)
  math.randomseed(seed)
  for i = 1, count do
    local kind = kinds[random(#kinds)]
    local program = newProgram(kind)
    local a, b = runReal(kind, program), runModel(kind, program)
    if a ~= b then
      error(("program %d of seed %d: a receiver does\n%s\nand the model\n%s"):format(i, seed, a, b), 0)
    end
  end
  return count
end

if arg and arg[0] and arg[0]:find "fuzz/receivers%.lua$" then
  print(("%d programs"):format(fuzz.run(tonumber(arg[1] or 100000), tonumber(arg[2] or 1))))
end

return fuzz
