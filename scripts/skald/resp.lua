-- skald.resp: the Redis protocol (RESP2) from the server's side: commands come, replies go. Pure.
--
-- What a receiver holds is told in skald.lines; a part has here besides:
--   command, count   the strings of an unfinished command, and how many of them are here
--   wanted           how many there will be; 0 while that is not known
--   total            the bytes that they take together, so far as it is known
--   whole            how many bytes the next string takes, its line end included; -1 while that is not known

local lines = require "skald.lines"
local protocol = require "skald.protocol"

local byte, find, sub = string.byte, string.find, string.sub
local addPiece, complete, isReady = lines.addPiece, lines.complete, lines.isReady

local resp = {}

local CR, LF, DOLLAR, STAR, MINUS, ZERO, NINE = byte("\r\n$*-09", 1, 7)
local MAX_LINE = 65536

-- --- what comes -------------------------------------------------------------------------------

-- The fields that change come from variables, as in skald.lines.
local function make(command, zero, unknown, empty, none)
  return {
    command = command,
    count = zero,
    wanted = zero,
    total = zero,
    whole = unknown,
    piece = empty,
    more = none,
    size = zero,
    head = empty,
    tail = empty,
  }
end

local function newPart()
  return make({}, 0, -1, "", false)
end

local function readDigits(chunk, at)
  local digit, number = byte(chunk, at), nil
  while digit and digit >= ZERO and digit <= NINE and number ~= 0 and (number or 0) < 1e12 do
    number = (number or 0) * 10 + digit - ZERO
    at = at + 1
    digit = byte(chunk, at)
  end
  return number, at
end

-- A length with its line end, and where that ends; nil where it is not all here, or is none. Those of
-- one and two digits are read without a loop: they are nearly all, and the compiler likes it better.
local function readLength(chunk, at)
  local a, b, c = byte(chunk, at), byte(chunk, at + 1), byte(chunk, at + 2)
  if not c or a < ZERO or a > NINE then
    return nil
  elseif b == CR then
    return c == LF and a - ZERO or nil, at + 3
  elseif c == CR and a > ZERO and b >= ZERO and b <= NINE then
    return byte(chunk, at + 3) == LF and a * 10 + b - 11 * ZERO or nil, at + 4
  end
  local number, stop = readDigits(chunk, at)
  if byte(chunk, stop) == CR and byte(chunk, stop + 1) == LF then
    return number, stop + 2
  end
end

-- A string at its dollar, and where it ends; nil where it is not all here, or is none.
local function readString(chunk, at)
  if not at or byte(chunk, at) ~= DOLLAR then
    return nil
  end
  local length, first = readLength(chunk, at + 1)
  if not length then
    return nil
  end
  local stop = first + length
  if byte(chunk, stop) ~= CR or byte(chunk, stop + 1) ~= LF then
    return nil
  end
  return sub(chunk, first, stop - 1), stop + 2
end

-- The fifth string of a command to the eighth, as far as it has them, and where the last one ends.
local function readMore(chunk, at, count)
  local a, b, c, d
  a, at = readString(chunk, at)
  if count > 5 then
    b, at = readString(chunk, at)
  end
  if count > 6 then
    c, at = readString(chunk, at)
  end
  if count > 7 then
    d, at = readString(chunk, at)
  end
  return a, b, c, d, at
end

-- A command of up to eight strings that is all here, as most are: it, their number, and where it ends. One
-- by one, since the compiler does not take a loop within the one that delivers.
local function readWhole(chunk, from)
  local count, at = readLength(chunk, from + 1)
  if not count or count == 0 or count > 8 then
    return nil
  end
  local a, b, c, d
  a, at = readString(chunk, at)
  if count > 1 then
    b, at = readString(chunk, at)
  end
  if count > 2 then
    c, at = readString(chunk, at)
  end
  if count > 3 then
    d, at = readString(chunk, at)
  end
  if count < 5 then
    return at and { a, b, c, d }, count, at
  end
  local e, f, g, h
  e, f, g, h, at = readMore(chunk, at, count)
  return at and { a, b, c, d, e, f, g, h }, count, at
end

local nextCommand

local function refuse(self, message)
  self:protocolError(message)
  lines.close(self)
  return nil
end

local function finish(state, part)
  state.part = false
  return part.command, part.count
end

-- The strings are here one by one: the first of them says how long it is.
local function expectString(part)
  part.whole, part.piece, part.more, part.size = -1, "", false, 0
end

local function beginCommand(self, state, part, line)
  local count, stop = readLength(line .. "\n", 2)
  if byte(line, 2) == MINUS or count == 0 then
    state.part = false -- no command at all
    return nextCommand(self, state)
  elseif not count or stop ~= #line + 2 or count > self.MAX_COUNT then
    return refuse(self, "invalid multibulk length")
  end
  part.wanted = count
  expectString(part)
  return nextCommand(self, state)
end

local function beginString(self, state, part, line)
  if byte(line, 1) ~= DOLLAR then
    return refuse(self, ("expected '$', got '%s'"):format(sub(line, 1, 1):gsub("%c", "?")))
  end
  local length, stop = readLength(line .. "\n", 2)
  if not length or stop ~= #line + 2 or part.total + length > self.MAX_LENGTH then
    return refuse(self, "invalid bulk length")
  end
  expectString(part)
  part.whole, part.total = length + 2, part.total + length
  return nextCommand(self, state)
end

local escapes = { n = "\n", r = "\r", t = "\t", b = "\b", a = "\a" }

-- What stands in quotes from that place on, and where it ends; nil where it does not. Within double quotes a
-- backslash has a meaning, within single ones before such a quote only.
local function quoted(line, at)
  local quote = sub(line, at, at)
  local plain = quote == '"' and '^[^"\\]+' or "^[^'\\]+"
  local pieces, n = {}, 0
  at = at + 1
  while sub(line, at, at) ~= quote do
    local piece, width = line:match(plain, at), nil
    if not piece then
      local two, hex = sub(line, at + 1, at + 1), line:match("^\\x(%x%x)", at)
      if two == "" then
        return nil
      elseif quote == "'" then
        piece, width = two == "'" and two or "\\", two == "'" and 2 or 1
      elseif hex then
        piece, width = string.char(tonumber(hex, 16)), 4
      else
        piece, width = escapes[two] or two, 2
      end
    end
    n = n + 1
    pieces[n], at = piece, at + (width or #piece)
  end
  return table.concat(pieces), at + 1
end

-- The next word of a line, from a place that is no space, and where it ends; nil where its quotes do not.
local function nextWord(line, at)
  local word = line:match("^[^%s\"']*", at)
  at = at + #word
  if not line:find("^[\"']", at) then
    return word, at
  end
  local rest, stop = quoted(line, at)
  if rest and line:find("^%S", stop) then
    return nil
  end
  return rest and word .. rest, stop
end

-- What people type: words with spaces in between, in quotes where they have some within.
local function inline(self, state, part, line)
  local at = line:find "%S"
  while at do
    local word, stop = nextWord(line, at)
    if not word then
      return refuse(self, "unbalanced quotes in request")
    end
    part.count = part.count + 1
    part.command[part.count] = word
    at = line:find("%S", stop)
  end
  if part.count == 0 then
    state.part = false
    return nextCommand(self, state)
  elseif part.count > self.MAX_COUNT then
    return refuse(self, "invalid multibulk length")
  end
  return finish(state, part)
end

-- Takes what there is of a line.
local function continueLine(self, state, part)
  local chunk, from = state.chunk, state.from
  local stop = find(chunk, "\n", from, true)
  local last = stop and stop - 1 or #chunk
  if part.size + last - from >= MAX_LINE then
    return refuse(self, "too big a line")
  end
  local piece = sub(chunk, from, last)
  if not stop then
    addPiece(part, piece)
    state.chunk, state.from = "", 1
    return nextCommand(self, state)
  end
  local line = complete(part, piece)
  state.from = stop + 1
  if part.wanted > 0 then
    return beginString(self, state, part, line)
  elseif byte(line, 1) == STAR then
    return beginCommand(self, state, part, line)
  end
  return inline(self, state, part, line)
end

-- Takes what there is of a string.
local function continueString(self, state, part)
  local chunk, from = state.chunk, state.from
  local last = from + part.whole - part.size - 1
  local piece = sub(chunk, from, last)
  if last > #chunk then
    addPiece(part, piece)
    state.chunk, state.from = "", 1
    return nextCommand(self, state)
  end
  local whole = complete(part, piece)
  state.from = last + 1
  if byte(whole, -2) ~= CR or byte(whole, -1) ~= LF then
    return refuse(self, "invalid bulk length")
  end
  part.count = part.count + 1
  part.command[part.count] = sub(whole, 1, -3)
  if part.count == part.wanted then
    return finish(state, part)
  end
  expectString(part)
  return nextCommand(self, state)
end

local function append(state, part, s, at)
  local count = part.count + 1
  part.command[count], part.count = s, count
  state.from = at
end

-- The next string of an unfinished command, where all of it is here.
local function takeString(self, state, part)
  local s, at = readString(state.chunk, state.from)
  if not s or part.total + #s > self.MAX_LENGTH then
    return continueLine(self, state, part)
  end
  part.total = part.total + #s
  append(state, part, s, at)
  if part.count == part.wanted then
    return finish(state, part)
  end
  return nextCommand(self, state)
end

-- The next command that may be delivered and the number of its strings, or nothing.
function nextCommand(self, state)
  if not isReady(self, state) then
    return nil
  end
  local part = state.part
  if part then
    if part.whole >= 0 then
      return continueString(self, state, part)
    elseif part.wanted > 0 and part.size == 0 then
      return takeString(self, state, part)
    end
    return continueLine(self, state, part)
  end
  local chunk, from = state.chunk, state.from
  if byte(chunk, from) == STAR then
    local command, count, at = readWhole(chunk, from)
    if command and at - from <= self.MAX_LENGTH and count <= self.MAX_COUNT then
      state.from = at
      return command, count
    end
  end
  state.part = newPart()
  return nextCommand(self, state)
end

--- Commands of a client of the Redis protocol, and the replies to them. What a reply needs is queued: the replies to
--- what came together leave together.
---@class CommandReceiver: Receiver
---@field MAX_LENGTH integer the most bytes that the strings of a command take together: 16 MiB unless changed
---@field MAX_COUNT integer the most strings of a command: 65536 unless changed
local CommandReceiver = protocol.Protocol(lines.Receiver, { MAX_LENGTH = 16777216, MAX_COUNT = 65536 })

local function deliver(self, state)
  local command, count = nextCommand(self, state)
  if command then
    self:commandReceived(command, count)
    return true
  end
  return false
end

-- Most reads hold few commands, and a loop that is left at once is none that the compiler can use.
function CommandReceiver:_parse(state)
  if deliver(self, state) and deliver(self, state) and deliver(self, state) then
    local command, count = nextCommand(self, state)
    while command do
      self:commandReceived(command, count)
      command, count = nextCommand(self, state)
    end
  end
end

--- A command came. To be overridden, as all callbacks are.
---@param command string[] its name as the client spelled it, then the arguments; the handler may keep it
---@param count integer how many strings that is
function CommandReceiver:commandReceived(command, count) end -- luacheck: no unused args

--- What came is no command, or one that is too long. Says so; when it returns, the connection closes.
---@param message string
function CommandReceiver:protocolError(message)
  self:sendError("ERR Protocol error: " .. message)
end

-- --- what goes --------------------------------------------------------------------------------

local EMPTY_BULK = "$-1\r\n"

-- The beginnings of replies that are short are made once.
local bulks, integers = {}, {}
for n = 0, 255 do
  bulks[n], integers[n] = ("$%d\r\n"):format(n), (":%d\r\n"):format(n)
end

--- Replies with a status: `OK`.
---@param status string without a line end in it
---@return boolean? ok as `transport:write` answers
---@return string? message
---@return string? code
function CommandReceiver:sendStatus(status)
  return self.transport:write("+" .. status .. "\r\n")
end

--- Replies with an error, whose first word is its kind: `ERR no such key`.
---@param message string line ends in it are sent as spaces
---@return boolean? ok as `transport:write` answers
---@return string? errorMessage
---@return string? code
function CommandReceiver:sendError(message)
  return self.transport:write("-" .. message:gsub("[\r\n]", " ") .. "\r\n")
end

--- Replies with an integer.
---@param n integer a number of whatever the command counts
---@return boolean? ok as `transport:write` answers
---@return string? message
---@return string? code
function CommandReceiver:sendInteger(n)
  return self.transport:write(integers[n] or (":%d\r\n"):format(n))
end

--- Replies with a string, or with nothing.
---@param s string?
---@return boolean? ok as `transport:write` answers
---@return string? message
---@return string? code
function CommandReceiver:sendBulk(s)
  local transport = self.transport
  if not s then
    return transport:write(EMPTY_BULK)
  end
  transport:write(bulks[#s] or ("$%d\r\n"):format(#s))
  transport:write(s)
  return transport:write "\r\n"
end

--- Begins a reply of several parts: so many replies follow.
---@param count integer
---@return boolean? ok as `transport:write` answers
---@return string? message
---@return string? code
function CommandReceiver:sendCount(count)
  return self.transport:write(("*%d\r\n"):format(count))
end

--- Replies with a list of strings.
---@param list string[]
---@return boolean? ok as `transport:write` answers
---@return string? message
---@return string? code
function CommandReceiver:sendList(list)
  local ok, message, code = self:sendCount(#list)
  for _, s in ipairs(list) do
    ok, message, code = self:sendBulk(s)
  end
  return ok, message, code
end

resp.CommandReceiver = CommandReceiver

return resp
