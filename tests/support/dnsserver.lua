-- A name server for tests, on loopback by UDP and TCP: `luajit dnsserver.lua NAME=WORD,WORD …`. The words of a name:
--   192.0.2.1, 2001:db8::1   its addresses; a name without rule is answered with NXDOMAIN
--   many:N                   N IPv4 addresses more
--   delay:S delay4:S …       the answer leaves after S seconds
--   held held6 held4         the answer leaves when the control connection says `release NAME`
--   silent silent6 …         there is none
--   servfail refused         that
--   truncated                by UDP only that there is more by TCP
-- `*.NAME=…` is a rule for all names below. A word that ends in 4 or 6 is about that family alone.
-- Prints `listening PORT CONTROL`, then `query NAME A|AAAA udp|tcp PORT` for each question, the port being the asker's.

local socket = require "socket"
local bit = require "bit"

io.stdout:setvbuf "line"

local A, AAAA = 1, 28
local TYPES = { [A] = "A", [AAAA] = "AAAA" }
local rules, held, delayed = {}, {}, {}

-- --- rules ------------------------------------------------------------------------------------

local function ipv4(text)
  return string.char(text:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
end

local function groups(text)
  local list = {}
  for group in text:gmatch "%x+" do
    local n = tonumber(group, 16)
    list[#list + 1] = string.char(math.floor(n / 256), n % 256)
  end
  return table.concat(list)
end

local function ipv6(text)
  local before, after = text:match "^(.-)::(.*)$"
  before, after = groups(before or text), groups(after or "")
  return before .. ("\0"):rep(16 - #before - #after) .. after
end

local function parse(text)
  local rule = { [A] = {}, [AAAA] = {} }
  for word in text:gmatch "[^,]+" do
    local name, value = word:match "^(%a+%d?):([%d.]+)$"
    if word:find "^%d+%.%d+%.%d+%.%d+$" then
      table.insert(rule[A], ipv4(word))
    elseif word:find "::" then
      table.insert(rule[AAAA], ipv6(word))
    elseif name == "many" then
      for i = 1, tonumber(value) do
        table.insert(rule[A], string.char(10, 0, math.floor(i / 256), i % 256))
      end
    else
      rule[name or word] = tonumber(value) or true
    end
  end
  return rule
end

local function ruleOf(name)
  return rules[name] or rules["*" .. (name:match "%..*$" or "")]
end

-- What a rule says under a word, of a family or of both.
local function says(rule, word, kind)
  return rule[word] or rule[word .. (kind == A and "4" or "6")]
end

-- --- messages ---------------------------------------------------------------------------------

local function u16(n)
  return string.char(math.floor(n / 256) % 256, n % 256)
end

local function read16(text, at)
  local high, low = text:byte(at, at + 1)
  return high * 256 + low
end

local function question(message)
  local labels, at = {}, 13
  while message:byte(at) ~= 0 do
    local length = message:byte(at)
    labels[#labels + 1] = message:sub(at + 1, at + length)
    at = at + length + 1
  end
  return table.concat(labels, "."):lower(), read16(message, at + 1), message:sub(13, at + 4)
end

local function answer(message, text, code, records, kind, truncated)
  local flags = bit.bor(0x8180, code, truncated and 0x0200 or 0)
  local parts = { message:sub(1, 2), u16(flags), u16(1), u16(#records), u16(0), u16(0), text }
  for _, record in ipairs(records) do
    parts[#parts + 1] = u16(0xc00c) .. u16(kind) .. u16(1) .. u16(0) .. u16(60) .. u16(#record) .. record
  end
  return table.concat(parts)
end

local function respond(rule, message, text, kind, carrier)
  if not rule then
    return answer(message, text, 3, {}, kind)
  elseif rule.servfail or rule.refused then
    return answer(message, text, rule.servfail and 2 or 5, {}, kind)
  elseif rule.truncated and carrier == "udp" then
    return answer(message, text, 0, {}, kind, true)
  end
  return answer(message, text, 0, rule[kind] or {}, kind)
end

local function serve(message, carrier, port, send)
  local name, kind, text = question(message)
  print(("query %s %s %s %d"):format(name, TYPES[kind] or kind, carrier, port))
  local rule = ruleOf(name)
  local response = respond(rule, message, text, kind, carrier)
  rule = not (rule and rule.truncated and carrier == "udp") and rule or {} -- the rest is about the whole answer
  local delay = says(rule, "delay", kind)
  if says(rule, "silent", kind) then
    return
  elseif says(rule, "held", kind) then
    held[#held + 1] = { name = name, send = send, response = response }
  elseif delay then
    delayed[#delayed + 1] = { at = socket.gettime() + delay, send = send, response = response }
  else
    send(response)
  end
end

-- --- sockets ----------------------------------------------------------------------------------

local function bind()
  for _ = 1, 100 do
    local tcp = assert(socket.bind("127.0.0.1", 0, 64))
    local _, port = tcp:getsockname()
    local udp = socket.udp()
    if udp:setsockname("127.0.0.1", port) then
      return udp, tcp, port
    end
    tcp:close()
    udp:close()
  end
  error "no port to be had"
end

local udp, tcp, port = bind()
local control = assert(socket.bind("127.0.0.1", 0, 8))
local readers, watched = {}, {}

local function watch(s, f)
  s:settimeout(0)
  watched[#watched + 1] = s
  readers[s] = f
end

local function unwatch(s)
  for i, other in ipairs(watched) do
    if other == s then
      table.remove(watched, i)
    end
  end
  readers[s] = nil
  s:close()
end

watch(udp, function()
  while true do
    local message, host, from = udp:receivefrom()
    if not message then
      return
    end
    serve(message, "udp", from, function(response)
      udp:sendto(response, host, from)
    end)
  end
end)

watch(tcp, function()
  local s = tcp:accept()
  local rest = ""
  local _, from = s:getpeername()
  watch(s, function()
    local text, code, partial = s:receive(65536)
    rest = rest .. (text or partial)
    while #rest >= 2 and #rest >= 2 + read16(rest, 1) do
      local length = read16(rest, 1)
      local message = rest:sub(3, 2 + length)
      rest = rest:sub(3 + length)
      serve(message, "tcp", tonumber(from), function(response)
        s:settimeout(5)
        s:send(u16(#response) .. response)
        s:settimeout(0)
      end)
    end
    if code == "closed" then
      unwatch(s)
    end
  end)
end)

local function release(name)
  local rest = {}
  for _, entry in ipairs(held) do
    if name == "all" or entry.name == name then
      entry.send(entry.response)
    else
      rest[#rest + 1] = entry
    end
  end
  held = rest
end

watch(control, function()
  local s = control:accept()
  watch(s, function()
    local line, code = s:receive "*l"
    if code == "closed" then
      unwatch(s)
    elseif line then
      release(line:match "^release (.*)$")
    end
  end)
end)

-- Sends what is due, and gives back the seconds until the next is. All delays of a rule are the same: in order.
local function sendDue()
  local now, rest, first = socket.gettime(), {}, nil
  for _, entry in ipairs(delayed) do
    if entry.at <= now then
      entry.send(entry.response)
    else
      rest[#rest + 1] = entry
      first = math.min(first or entry.at, entry.at)
    end
  end
  delayed = rest
  return first and math.max(first - now, 0)
end

for _, word in ipairs(arg) do
  local name, text = word:match "^([^=]+)=(.*)$"
  rules[name] = parse(text)
end

local _, controlPort = control:getsockname()
print(("listening %d %d"):format(port, controlPort))
while true do
  for _, s in ipairs((socket.select(watched, nil, sendDue()))) do
    if readers[s] then
      readers[s]()
    end
  end
end
