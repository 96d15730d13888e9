-- A part of the soak: portforward between clients and a server of numbered bytes. Some clients have stopped reading and
-- others stream, while more come, and go in the midst of it, and reset. Whatever comes must be right, byte by byte.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

-- What a client asks for in a line: so many bytes from a place of the pattern. "echo": all that it sends, after that.
local SERVICE = [[
local PATTERN = %q
local P = {}

function P:resumeProducing()
  local n = math.min(self.left, #PATTERN, 65536)
  self.left = self.left - n
  self.transport:write(PATTERN:rep(2):sub(self.at + 1, self.at + n))
  self.at = (self.at + n) %% #PATTERN
  if self.left == 0 then
    self.transport:unregisterProducer()
    self.transport:loseConnection()
  end
end

function P:stopProducing() end

function P:dataReceived(data)
  if self.echoes then
    return self.transport:write(data)
  end
  self.line = (self.line or "") .. data
  local at, bytes, rest = self.line:match "^(%%d+) (%%d+)\n(.*)$"
  if not at then
    return
  end
  self.echoes, self.at, self.left = bytes == "0", tonumber(at), tonumber(bytes)
  if self.echoes then
    self.transport:write(rest)
  else
    self.transport:registerProducer(self, false)
  end
end

return { listen = "tcp:127.0.0.1:0", protocol = P, backlog = 4096 }
]]

local PERIOD = 99991 -- bytes of the pattern: a prime, so that no chunk begins where another did

local function newPattern()
  local bytes = {}
  for i = 1, PERIOD do
    bytes[i] = string.char(math.random(0, 255))
  end
  return table.concat(bytes)
end

-- The kinds of visitors

local ENDLESS = 1e12
local visitor = {}
visitor.__index = visitor

-- Asks for bytes of the pattern, from anywhere on.
local function visit(soak, kind, bytes, options)
  local c = soak.host:connect(options)
  local v = setmetatable({ kind = kind, client = c, soak = soak, wanted = bytes, got = 0,
    began = sys.now(), at = math.random(0, PERIOD - 1) }, visitor)
  c:send(("%d %d\n"):format(v.at, bytes))
  return v
end

-- Sends what it wants to have back, whole, and then its end.
local function visitEcho(soak, bytes)
  local v = visit(soak, "echo", 0)
  v.wanted, v.sent, v.echoes = bytes, 0, true
  return v
end

-- The next `n` bytes of the pattern from a place on, as far as to its end.
local function piece(soak, from, n)
  from = from % PERIOD
  return soak.pattern:sub(from + 1, math.min(from + n, PERIOD))
end

function visitor:push()
  if self.echoes and self.sent < self.wanted then
    local n = self.client:trySend(piece(self.soak, self.at + self.sent, self.wanted - self.sent))
    self.sent = self.sent + (n or 0)
    if self.sent == self.wanted then
      self.client:halfClose()
    end
  end
end

function visitor:isRight(text)
  local at = 0
  while at < #text do
    local expected = piece(self.soak, self.at + self.got + at, #text - at)
    if text:sub(at + 1, at + #expected) ~= expected then
      return false
    end
    at = at + #expected
  end
  return true
end

-- Takes what has come; how it ended, where it did: "done", or what is a fault.
function visitor:pull()
  local text, code = self.client:pull(65536)
  if text then
    local right = self:isRight(text)
    self.got = self.got + #text
    self.soak.bytes = self.soak.bytes + #text
    return not right and "wrong" or self.got > self.wanted and "long" or nil
  elseif code == "eof" then
    return self.got == self.wanted and "done" or "short"
  elseif code ~= "again" then
    self.soak.story = ("%s, %s, %d of %d bytes came, after %.1f s"):format(code, self.kind, self.got, self.wanted,
      sys.now() - self.began)
    return "broken"
  end
end

-- The crowd

local function add(soak, v)
  soak.crowd[#soak.crowd + 1] = v
  soak.entries[#soak.crowd] = { fd = v.client.fd, events = v.echoes and sys.POLLIN + sys.POLLOUT or sys.POLLIN }
end

local function remove(soak, i)
  local last = #soak.crowd
  soak.crowd[i], soak.entries[i] = soak.crowd[last], soak.entries[last]
  soak.crowd[last], soak.entries[last] = nil, nil
end

local function count(soak, what)
  soak.counts[what] = (soak.counts[what] or 0) + 1
end

-- Somebody new, of one of the kinds that come and go.
local function arrive(soak)
  local bytes = math.random(1, soak.plan.most)
  if math.random(3) == 1 then
    add(soak, visitEcho(soak, bytes))
  else
    add(soak, visit(soak, "fetch", bytes))
  end
end

-- Somebody leaves before the end: closed or reset, with bytes on the way.
local function depart(soak)
  local i = math.random(#soak.crowd)
  local v = soak.crowd[i]
  if v.kind ~= "stream" then
    v.client[math.random(2) == 1 and "reset" or "close"](v.client)
    remove(soak, i)
    count(soak, "left")
  end
end

local function serve(soak, i)
  local v, entry = soak.crowd[i], soak.entries[i]
  if entry.revents == 0 then
    return
  end
  v:push()
  if v.echoes and v.sent == v.wanted then
    entry.events = sys.POLLIN
  end
  local ending = v:pull()
  if ending then
    count(soak, ending)
    v.client:close()
    remove(soak, i)
  end
end

-- One turn: those who can move do; some leave, and others come in their place.
local function turn(soak, arrivals)
  sys.poll(soak.entries, 0.05)
  for i = #soak.crowd, 1, -1 do
    serve(soak, i)
  end
  for _ = 1, arrivals and soak.plan.visitors / 10 or 0 do
    depart(soak)
  end
  while arrivals and #soak.crowd < soak.plan.streams + soak.plan.visitors do
    arrive(soak)
  end
end

local function seen(bars, text, value)
  bars[#bars + 1] = { text = text, value = value }
end

local function bar(bars, text, value, relation, limit)
  local met = relation == "=" and value == limit or relation == ">=" and value >= limit
    or relation == "<=" and value <= limit
  bars[#bars + 1] = { text = text, value = value, relation = relation, limit = limit, met = met }
end

-- How many connections the kernel has reset so far for want of memory of its own: hundreds of full queues take much.
local function abortedByKernel()
  local file = assert(io.open "/proc/net/netstat")
  local names, values = file:read "*a":match "TcpExt: (%D[^\n]*)\nTcpExt: ([^\n]*)"
  file:close()
  local value = values:gmatch "%S+"
  for name in names:gmatch "%S+" do
    local number = value()
    if name == "TCPAbortOnMemory" then
      return tonumber(number)
    end
  end
end

-- What is alive in the forwarder, in its own words, and its descriptors; once nothing moves any more.
local function census(h)
  h:kill "USR1"
  local text = h:waitLog("alive: (.*)"):gsub(", %d+ KB of Lua", "")
  return text .. (", %d descriptors"):format(h:descriptors())
end

local function awaitAgain(h, before)
  local last
  return pcall(sys.await, function()
    last = census(h)
    return last == before
  end, function()
    return ("left: %s; before: %s"):format(last, before)
  end)
end

-- What is alive when somebody was there, and is gone.
local function atRest(h)
  local c = h:connect():send "0 1\n"
  c:receiveAll()
  c:close()
  return sys.await(function()
    local text = census(h)
    return text:find("^0 connections, 0 lingering") and text
  end, function()
    return "a first visit does not end: " .. census(h)
  end)
end

-- Readers that stop after a few bytes; a few at a time, until what can be on its way is.
local function stopReaders(soak, number)
  for i = 1, number do
    local v = visit(soak, "stopped", ENDLESS, { rcvbuf = 4096 })
    v.client:receive(1000)
    soak.stopped[i] = v
  end
end

local function finish(soak)
  for i = #soak.crowd, 1, -1 do
    local v = soak.crowd[i]
    if v.kind == "stream" then
      v.client:reset()
      remove(soak, i)
    end
  end
  sys.await(function()
    turn(soak, false)
    return #soak.crowd == 0
  end, function()
    return ("%d visitors do not come to their end"):format(#soak.crowd)
  end)
  for _, v in ipairs(soak.stopped) do
    v.client:reset()
  end
end

local forward = {
  title = "forward: portforward with stopped readers, streams, and those who come, go and reset",
  long = { stopped = 200, streams = 200, visitors = 100, most = 4000000, seconds = 60, grown = 200 * 300 + 16384 },
  short = { stopped = 10, streams = 10, visitors = 10, most = 500000, seconds = 1, grown = 10 * 300 + 16384 },
}

--- Runs the part; its bars.
---@param plan table
---@return table[]
function forward.run(plan)
  math.randomseed(plan.seed or 5)
  local bars, pattern = {}, newPattern()
  local server = host.run { host.script(SERVICE:format(pattern)), options = {
    "--control=" .. host.folder() .. "/server" } }
  local h = host.run { "portforward", "listen=tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:" .. server.port }
  local soak = { plan = plan, host = h, pattern = pattern, crowd = {}, entries = {}, stopped = {}, counts = {},
    bytes = 0 }
  local before, memory, aborted = atRest(h), h:memory(), abortedByKernel()
  stopReaders(soak, plan.stopped)
  for _ = 1, plan.streams do
    add(soak, visit(soak, "stream", ENDLESS))
  end
  seen(bars, "KB resident of one stopped reader", (h:memory() - memory) / 1024 / plan.stopped)
  local limit, most = sys.now() + plan.seconds, 0
  while sys.now() < limit do
    turn(soak, true)
    most = math.max(most, h:memory())
  end
  finish(soak)
  seen(bars, "GB that came", soak.bytes / 1e9)
  bar(bars, "visits, all bytes right", soak.counts.done or 0, ">=", 1)
  seen(bars, "visits that were left", soak.counts.left or 0)
  for _, fault in ipairs { "wrong", "short", "long" } do
    bar(bars, fault, soak.counts[fault] or 0, "=", 0)
  end
  bar(bars, "broken, at most what the kernel had no memory for", soak.counts.broken or 0, "<=",
    abortedByKernel() - aborted)
  -- the sanitizer keeps what was freed for a while
  bar(bars, "KB resident grown, at the most", (most - memory) / 1024, "<=", plan.grown * (host.sanitized and 8 or 1))
  local again, why = awaitAgain(h, before)
  bar(bars, "alive as before, and as many descriptors", again and 1 or 0, "=", 1)
  bars.complaints = not again and why or soak.story and "the last that broke: " .. soak.story
  h:stop()
  server:stop()
  return bars
end

return forward
