-- A mail server that takes every message and delivers none (a subset of RFC 5321): for testing what sends mail.
--   skald run smtpsink listen=tcp:127.0.0.1:2525 show=tcp:127.0.0.1:2526
--   swaks --server 127.0.0.1:2525 --to you@example.org;  nc 127.0.0.1 2526
-- The last messages are kept in memory, also across a reload. Options:
--   keep=N            how many of them (100, and at most 64 MiB)
--   size=BYTES        the largest message that is taken (10 MiB)
--   show=ENDPOINT     whoever connects there gets what is kept, as an mbox
--   maildir=FOLDER    each message becomes a file in there, too (mkdir -p FOLDER/tmp FOLDER/new FOLDER/cur), and is
--                     taken when that is whole
--   name=HOST         what it calls itself (localhost)
--   certificate=FILE privateKey=FILE   offers STARTTLS

local basic = require "skald.basic"
local defer = require "skald.defer"
local fs = require "skald.fs"
local log = require "skald.log"
local service = require "skald.service"

local options = ...

local function number(name, default)
  local value = options[name] and tonumber(options[name])
  if options[name] and not (value and value >= 1) then
    error(("%s takes a number from 1, not '%s'"):format(name, options[name]), 0)
  end
  return value or default
end

local KEEP, KEEP_BYTES = number("keep", 100), 64 * 1024 * 1024
local SIZE = number("size", 10 * 1024 * 1024)
local NAME = options.name or "localhost"
local MAX_RECIPIENTS, MAX_ERRORS = 100, 20

-- --- what becomes of a message ----------------------------------------------------------------

-- Messages by their numbers, from `first` to `last`: { from, to, text }.
local kept = service.persist("kept", function()
  return { first = 1, last = 0, bytes = 0, messages = {} }
end)

local function keep(message)
  kept.last = kept.last + 1
  kept.messages[kept.last] = message
  kept.bytes = kept.bytes + #message.text
  while kept.last - kept.first >= KEEP or kept.bytes > KEEP_BYTES and kept.first < kept.last do
    kept.bytes = kept.bytes - #kept.messages[kept.first].text
    kept.messages[kept.first] = nil
    kept.first = kept.first + 1
  end
  return kept.last
end

-- Under `new` stand whole messages only: a file is renamed when all of it is there. A Deferred.
local function deliver(folder, message, lines)
  kept.files = (kept.files or 0) + 1
  local name = ("%d.%d.%s"):format(os.time(), kept.files, (NAME:gsub("[/:]", "_")))
  local partial = folder .. "/tmp/" .. name
  local d = fs.writeFile(partial, table.concat(lines, "\n"))
  d:addCallback(function()
    return fs.rename(partial, folder .. "/new/" .. name)
  end)
  d:addErrback(function(problem)
    log.error("a message of <%s>: %s", message.from, problem.message)
    fs.remove(partial):addErrback(function() end) -- may never have been there
    return problem
  end)
  return d
end

local FULL = { ENOSPC = true, EDQUOT = true, EFBIG = true }

-- A Deferred of the reply.
local function take(message, lines)
  local d = options.maildir and deliver(options.maildir, message, lines) or defer.succeed()
  d:addCallbacks(function()
    local id, to = keep(message), table.concat(message.to, ">, <")
    log.info("message %d from <%s> to <%s>: %d bytes", id, message.from, to, #message.text)
    return ("250 kept as %d"):format(id)
  end, function(problem)
    return (FULL[problem.value.code] and "452 " or "451 ") .. problem.message
  end)
  return d
end

-- --- the protocol -----------------------------------------------------------------------------

-- `message` is the one that is being made: from, to. While its text comes, `lines` are those so far, and
-- `bytes` how many those take; where it is refused in the end, `refusal` is the reply, and nothing is kept.
local Sink = basic.LineOnlyReceiver { MAX_LENGTH = 4096, errors = 0, heloName = false, message = false, lines = false }

function Sink:connectionMade()
  self:sendLine(("220 %s ESMTP, for tests only"):format(NAME))
end

-- Who only makes mistakes is no mail program.
function Sink:complain(reply)
  self.errors = self.errors + 1
  if self.errors <= MAX_ERRORS then
    self:sendLine(reply)
  else
    self:sendLine(("421 %s too many errors"):format(NAME))
    self.transport:loseConnection()
  end
end

function Sink:lineReceived(line)
  if self.lines then
    return self:textReceived(line)
  end
  local word, rest = line:match "^%s*(%a*)%s*(.-)%s*$"
  local command = self["smtp_" .. word:upper()]
  if command then
    command(self, rest)
  else
    self:complain "500 I do not know that command"
  end
end

function Sink:lineLengthExceeded()
  if self.lines then
    self.refusal = "500 a line of the message is too long"
  else
    self:complain "500 that line is too long"
  end
end

-- --- the commands: smtp_ and the name

local function greet(self, name)
  if name == "" then
    self:complain "501 who are you?"
    return false
  end
  self.heloName, self.message = name, false
  return true
end

function Sink:smtp_HELO(name)
  if greet(self, name) then
    self:sendLine("250 " .. NAME)
  end
end

function Sink:smtp_EHLO(name)
  if greet(self, name) then
    self:sendLine("250-" .. NAME)
    if options.certificate and not self.secure then
      self:sendLine "250-STARTTLS"
    end
    self:sendLine "250-PIPELINING"
    self:sendLine "250-8BITMIME"
    self:sendLine(("250 SIZE %d"):format(SIZE))
  end
end

-- Text that came behind STARTTLS came from anybody: it is dropped, and so is all that was said before.
function Sink:smtp_STARTTLS(rest)
  if not options.certificate or self.secure then
    return self:complain "503 there is no STARTTLS now"
  elseif rest ~= "" then
    return self:complain "501 STARTTLS takes no words"
  end
  self:sendLine "220 go ahead"
  self:clearLineBuffer()
  self.secure, self.heloName, self.message = true, false, false
  self.transport:startTLS { certificate = options.certificate, privateKey = options.privateKey }
end

-- `FROM:<address> KEY=VALUE …` or `TO:…`: the address, and the text of the parameters; nil if it is neither.
local function addressIn(text, before)
  local prefix, address, rest = text:match "^(%a+):%s*<([^<>]*)>(.*)$"
  if not prefix or prefix:upper() ~= before or #address > 320 or (rest ~= "" and not rest:find "^%s") then
    return nil
  end
  return address, rest
end

local parameters = {}

function parameters.SIZE(value)
  local bytes = value:find "^%d+$" and #value <= 20 and tonumber(value)
  if not bytes then
    return "501 SIZE is a number of bytes"
  end
  return bytes > SIZE and ("552 at most %d bytes"):format(SIZE) or nil
end

function parameters.BODY(value)
  local known = value:upper() == "8BITMIME" or value:upper() == "7BIT"
  return not known and "501 BODY is 7BIT or 8BITMIME" or nil
end

local function problemWith(text)
  for word in text:gmatch "%S+" do
    local key, value = word:match "^([^=]+)=(.*)$"
    local check = parameters[(key or ""):upper()]
    local problem = check and check(value)
    if not check or problem then
      return problem or "555 I do not know that parameter"
    end
  end
end

function Sink:smtp_MAIL(rest)
  local address, words = addressIn(rest, "FROM")
  if not self.heloName then
    self:complain "503 who are you? Say HELO or EHLO first"
  elseif self.message then
    self:complain "503 there is a sender already"
  elseif not address then
    self:complain "501 it is MAIL FROM:<address>"
  elseif problemWith(words) then
    self:complain(problemWith(words))
  else
    self.message = { from = address, to = {} }
    self:sendLine "250 ok"
  end
end

function Sink:smtp_RCPT(rest)
  local address, words = addressIn(rest, "TO")
  if not self.message then
    self:complain "503 who sends it? Say MAIL first"
  elseif not address or address == "" then
    self:complain "501 it is RCPT TO:<address>"
  elseif words:find "%S" then
    self:complain "555 I do not know that parameter"
  elseif #self.message.to >= MAX_RECIPIENTS then
    self:complain(("452 at most %d recipients"):format(MAX_RECIPIENTS))
  else
    table.insert(self.message.to, address)
    self:sendLine "250 ok"
  end
end

function Sink:smtp_DATA()
  if not self.message then
    self:complain "503 who sends it? Say MAIL first"
  elseif #self.message.to == 0 then
    self:complain "554 there is no recipient"
  else
    self.lines, self.bytes, self.refusal = self:trace(), 0, nil
    self:sendLine "354 the message, and a line with a dot"
  end
end

function Sink:smtp_RSET()
  self.message = false
  self:sendLine "250 ok"
end

function Sink:smtp_NOOP()
  self:sendLine "250 ok"
end

function Sink:smtp_VRFY()
  self:sendLine "252 I take everything"
end

function Sink:smtp_QUIT()
  self:sendLine(("221 %s"):format(NAME))
  self.transport:loseConnection()
end

-- --- the text of a message

-- The lines that stand above it: where it came from, and when.
function Sink:trace()
  local host = self.transport:getPeer().host
  local name = self.heloName:gsub("[^%w%.:%[%]_-]", "?")
  return {
    ("Return-Path: <%s>"):format(self.message.from),
    ("Received: from %s (%s)"):format(name, host and "[" .. host .. "]" or "local"),
    ("\tby %s; %s"):format(NAME, os.date "!%a, %d %b %Y %H:%M:%S +0000"),
  }
end

-- A dot alone ends it; one that begins a line was put there by the client.
function Sink:textReceived(line)
  if line == "." then
    return self:textEnded()
  elseif line:byte() == 46 then
    line = line:sub(2)
  end
  self.bytes = self.bytes + #line + 2
  if self.bytes > SIZE then
    self.refusal = ("552 at most %d bytes"):format(SIZE)
  end
  if self.refusal then
    self.lines = {}
  else
    self.lines[#self.lines + 1] = line
  end
end

function Sink:textEnded()
  local message, lines, refusal = self.message, self.lines, self.refusal
  self.message, self.lines = false, false
  if refusal then
    return self:complain(refusal)
  end
  lines[#lines + 1] = ""
  message.text = table.concat(lines, "\r\n")
  self:pauseProducing() -- a disk may be slow; what is said meanwhile waits its turn
  take(message, lines):addCallback(function(reply)
    self:sendLine(reply)
    self:resumeProducing()
  end)
end

-- --- whoever wants to read them ---------------------------------------------------------------

local Show = {}

-- As an mbox: a line that begins with From is marked.
function Show:connectionMade()
  for id = kept.first, kept.last do
    local message = kept.messages[id]
    local text = message.text:gsub("\r\n", "\n"):gsub("\n(>*From )", "\n>%1")
    self.transport:write(("From %s %d\n%s\n"):format(message.from == "" and "MAILER-DAEMON" or message.from, id, text))
  end
  self.transport:loseConnection()
end

-- ----------------------------------------------------------------------------------------------

if (options.certificate == nil) ~= (options.privateKey == nil) then
  error("certificate= and privateKey= come together", 0)
end
if options.maildir then
  local probe = options.maildir .. "/tmp/.probe"
  local file, problem = io.open(probe, "wb")
  if not file then
    error(("maildir: %s (mkdir -p FOLDER/tmp FOLDER/new FOLDER/cur)"):format(problem), 0)
  end
  file:close()
  os.remove(probe)
end

local sink = {
  name = "smtpsink",
  listen = "tcp:127.0.0.1:2525",
  protocol = Sink,
  idleTimeout = 300,
  maxConnections = 100,
}
if not options.show then
  return sink
end
return { sink, { name = "show", listen = options.show, protocol = Show, maxBuffered = 2 * KEEP_BYTES } }
