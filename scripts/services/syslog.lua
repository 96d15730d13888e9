-- Collects syslog messages (RFC 3164, RFC 5424) over UDP, and over Unix sockets and TCP (RFC 6587), and writes
-- each as a line: when it came, who says it, how urgent it is.
--   skald run syslog listen=udp:127.0.0.1:5514 stream=unix:/tmp/log.sock
--   logger --server 127.0.0.1 --udp --port 5514 hello;  logger --socket /tmp/log.sock hello
-- Options:
--   stream=ENDPOINT   where connections bring messages: unix:PATH, tcp:PORT
--   file=PATH         where the lines go (standard output); a reload opens it anew, for who rotates files
--   least=SEVERITY    leaves out what is less urgent: emerg alert crit err warning notice info debug

local fs = require "skald.fs"
local protocol = require "skald.protocol"

local options = ...

local MAX_LENGTH = 8192 -- bytes of a message; what is behind them is cut off

local severities = { [0] = "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug" }
local facilities = {
  [0] = "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
  "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

local least = 7
if options.least then
  least = nil
  for number, name in pairs(severities) do
    least = name == options.least and number or least
  end
  if not least then
    error(("least=%s: there are emerg, alert, crit, err, warning, notice, info, debug"):format(options.least), 0)
  end
end

local out = io.stdout
out:setvbuf "line"
if options.file then
  assert(io.open(options.file, "a")):close() -- what cannot be written to is told of now
  out = fs.appender(options.file)
end

-- --- what a message says ----------------------------------------------------------------------

-- Where structured data ends that begins at a place: `[id name="value"]` once or more. Within quotes a
-- backslash takes away the meaning of what follows.
local function endOfData(text, at)
  while text:byte(at) == 91 do
    local stop = at
    repeat
      stop = text:find('["%]]', stop + 1)
      local quoted = stop and text:byte(stop) == 34
      while quoted do
        stop = text:find('["\\]', stop + 1)
        quoted = stop and text:byte(stop) == 92
        stop = quoted and stop + 1 or stop
      end
    until not stop or text:byte(stop) == 93
    if not stop then
      return nil
    end
    at = stop + 1
  end
  return at
end

local function given(word)
  return word ~= "-" and word or nil
end

-- What RFC 5424 says; nil where it is not that.
local function parse5424(rest)
  local time, host, app, pid, id, at = rest:match "^1 (%S+) (%S+) (%S+) (%S+) (%S+) ()"
  local stop = at and (rest:byte(at) == 45 and at + 1 or endOfData(rest, at))
  if not stop or stop == at then
    return nil
  end
  local text = rest:sub(stop):gsub("^ ", ""):gsub("^\239\187\191", "") -- a mark that it is UTF-8
  return {
    time = given(time), host = given(host), app = given(app), pid = given(pid), id = given(id),
    data = given(rest:sub(at, stop - 1)), text = text,
  }
end

-- What programs mostly send: RFC 3164, with a host or, by a local socket, without one.
local function parse3164(rest)
  local time, behind = rest:match "^(%a%a%a [ %d]%d %d%d:%d%d:%d%d) (.*)$"
  behind = behind or rest
  local host, tagged = behind:match "^([^%s:%[%]]+) (.+)$"
  if not time or not host or not tagged:find "^[%w_./-]+[%[:]" then
    host, tagged = nil, behind
  end
  local app, pid, text = tagged:match "^([%w_./-]+)%[(%d+)%]: ?(.*)$"
  if not app then
    app, text = tagged:match "^([%w_./-]+): ?(.*)$"
  end
  return { time = time, host = host, app = app, pid = pid, text = text or tagged }
end

-- A message without a priority is user.notice, as RFC 3164 has it.
local function parse(message)
  local priority, rest = message:match "^<(%d%d?%d?)>(.*)$"
  priority = tonumber(priority)
  if not priority or priority > 191 then
    priority, rest = 13, message
  end
  local found = parse5424(rest) or parse3164(rest)
  found.facility, found.severity = math.floor(priority / 8), priority % 8
  return found
end

-- Nothing that comes may look like another line, or like a command to a terminal.
local function printable(text)
  return (text:gsub("%c", function(control)
    return ("#%03o"):format(control:byte())
  end))
end

local function write(message, from)
  message = message:gsub("[%z\r\n]+$", ""):sub(1, MAX_LENGTH)
  if message == "" then
    return
  end
  local found = parse(message)
  if found.severity > least then
    return
  end
  local who = (found.app or "-") .. (found.pid and "[" .. found.pid .. "]" or "")
  local text = (found.data and found.data .. " " or "") .. found.text
  local urgency = facilities[found.facility] .. "." .. severities[found.severity]
  local line = table.concat({ os.date "!%Y-%m-%dT%H:%M:%SZ", found.host or from, who, urgency .. ":", text }, " ")
  out:write(printable(line) .. "\n")
end

-- --- the carriers -----------------------------------------------------------------------------

local Datagrams = protocol.DatagramProtocol {}

function Datagrams:datagramReceived(data, address) -- luacheck: no self
  write(data, address.host or "local")
end

-- A message of a stream begins with its length and a space, or ends with a line end or a zero.
local Stream = protocol.Protocol { held = "" }

function Stream:connectionMade()
  self.from = self.transport:getPeer().host or "local"
end

-- The message at a place, and where the next one begins; nil where its end is not here.
local function cut(bytes, at)
  local length, first = bytes:match("^(%d+) ()", at)
  if length then
    local last = first + length - 1
    return last <= #bytes and bytes:sub(first, last) or nil, last + 1
  end
  local stop = bytes:find("[%z\n]", at)
  return stop and bytes:sub(at, stop - 1), stop and stop + 1
end

-- What is longer than a message may be: the rest of it is not looked for, there is no telling where it ends.
function Stream:dataReceived(data)
  local bytes, at = self.held .. data, 1
  local message, following = cut(bytes, at)
  while message do
    write(message, self.from)
    at = following
    message, following = cut(bytes, at)
  end
  self.held = bytes:sub(at)
  if #self.held > 2 * MAX_LENGTH then
    self.transport:loseConnection()
  end
end

-- The last message may lack its end.
function Stream:connectionLost()
  write(self.held, self.from)
end

local datagrams = { name = "syslog", listen = "udp:127.0.0.1:5514", protocol = Datagrams }
if not options.stream then
  return datagrams
end
return {
  datagrams,
  { name = "syslog-stream", listen = options.stream, protocol = Stream, idleTimeout = 3600, maxConnections = 1000 },
}
