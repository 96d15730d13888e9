-- Raw stream sockets for tests: TCP, TCP6 and Unix, non-blocking with deadlines, by FFI.
-- It tells a clean end ("eof") from a reset ("ECONNRESET"), which higher interfaces blur.

local ffi = require "ffi"
local bit = require "bit"
local sys = require "support.sys"

local C = ffi.C

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local SOL_SOCKET, SO_RCVBUF, SO_SNDBUF, SO_LINGER, SO_ERROR, SO_REUSEADDR = 1, 8, 7, 13, 4, 2
local MSG_NOSIGNAL = 0x4000

local Client = {}
Client.__index = Client

local client = {}

local open = {}

local function address(family, host, port)
  local at
  if family == AF_INET then
    at = ffi.new "struct skt_in"
  else
    at = ffi.new "struct skt_in6"
  end
  at.family, at.port = family, C.htons(port)
  assert(C.inet_pton(family, host, at.addr) == 1, "bad address " .. host)
  return at
end

local function setInt(fd, level, name, value)
  local v = ffi.new("int[1]", value)
  assert(C.setsockopt(fd, level, name, v, 4) == 0, "setsockopt")
end

local function newSocket(family, options)
  local fd = C.socket(family, 1, 0)
  if fd < 0 then
    error("socket: " .. sys.errname(ffi.errno()), 0)
  end
  sys.prepare(fd)
  if options.rcvbuf then
    setInt(fd, SOL_SOCKET, SO_RCVBUF, options.rcvbuf)
  end
  if options.sndbuf then
    setInt(fd, SOL_SOCKET, SO_SNDBUF, options.sndbuf)
  end
  if options.source then
    setInt(fd, SOL_SOCKET, SO_REUSEADDR, 1)
    local from = address(family, options.source, 0)
    assert(C.bind(fd, from, ffi.sizeof(from)) == 0, "cannot bind the source address " .. options.source)
  end
  local self = setmetatable({ fd = fd, buffer = "", entry = { { fd = fd, events = 0 } } }, Client)
  open[self] = true
  return self
end

local function await(self, events, what, done, seconds)
  self.entry[1].events = events
  return sys.await(done, function()
    return ("client: %s: nothing happened in time (%d bytes received and not taken%s)"):format(what, #self.buffer,
      #self.buffer > 0 and (": " .. ("%q"):format(self.buffer:sub(1, 200))) or "")
  end, seconds, self.entry)
end

-- Starts the connect; nil, code when it fails at once.
local function begin(self, at, size)
  if C.connect(self.fd, at, size) ~= 0 then
    local code = ffi.errno()
    if code ~= sys.EINPROGRESS then
      return nil, sys.errname(code)
    end
    self.connecting = true
  end
  return self
end

local function finish(self)
  if self.connecting then
    await(self, sys.POLLOUT, "connect", function()
      return bit.band(self.entry[1].revents or 0, sys.POLLOUT + sys.POLLERR + sys.POLLHUP) ~= 0
    end)
    self.connecting = nil
  end
  local code, size = ffi.new "int[1]", ffi.new("unsigned int[1]", 4)
  C.getsockopt(self.fd, SOL_SOCKET, SO_ERROR, code, size)
  if code[0] == sys.ECONNRESET then
    self.finished = "ECONNRESET" -- it was accepted, and reset before we looked
  elseif code[0] ~= 0 then
    return nil, sys.errname(code[0])
  end
  return self
end

local function connected(self, at, size)
  local ok, code = begin(self, at, size)
  if ok then
    ok, code = finish(self)
  end
  if not ok then
    self:close()
    return nil, code
  end
  return self
end

--- Tries to connect; returns the client, or nil and the name of the errno. Options: `host`, `source` (the address to
--- come from), `rcvbuf`, `sndbuf`.
function client.try(port, options)
  options = options or {}
  local host = options.host or "127.0.0.1"
  local family = host:find(":", 1, true) and AF_INET6 or AF_INET
  local self = newSocket(family, options)
  local at = address(family, host, port)
  return connected(self, at, ffi.sizeof(at))
end

--- Connects by TCP or raises.
function client.tcp(port, options)
  local self, code = client.try(port, options)
  if not self then
    error(("cannot connect to port %s: %s"):format(tostring(port), code), 2)
  end
  return self
end

--- Tries to connect to a Unix socket; returns the client, or nil and the name of the errno.
function client.tryUnix(path, options)
  local self = newSocket(AF_UNIX, options or {})
  local at = ffi.new "struct skt_un"
  at.family = AF_UNIX
  ffi.copy(at.path, path)
  return connected(self, at, 2 + #path + 1)
end

--- Connects to a Unix socket or raises.
function client.unix(path, options)
  local self, code = client.tryUnix(path, options)
  if not self then
    error(("cannot connect to %s: %s"):format(path, code), 2)
  end
  return self
end

--- Binds a Unix socket to `path` and leaves it there: closed it is stale, open it is taken.
function client.occupy(path, keep)
  local fd = C.socket(AF_UNIX, 1, 0)
  local at = ffi.new "struct skt_un"
  at.family = AF_UNIX
  ffi.copy(at.path, path)
  assert(C.bind(fd, at, 2 + #path + 1) == 0, "cannot bind " .. path)
  if keep then
    C.listen(fd, 5)
    return function()
      C.close(fd)
    end
  end
  C.close(fd)
end

--- The port this client comes from.
function Client:port()
  local at, size = ffi.new "struct skt_in6", ffi.new("unsigned int[1]", 28)
  C.getsockname(self.fd, at, size)
  return C.ntohs(at.port)
end

--- Sends what the kernel takes at once; returns how many bytes, or nil and the name of the errno.
function Client:trySend(text, at)
  at = at or 0
  local n = tonumber(C.send(self.fd, ffi.cast("const uint8_t *", text) + at, #text - at, MSG_NOSIGNAL))
  if n < 0 then
    local code = ffi.errno()
    if code == sys.EAGAIN then
      return 0
    end
    return nil, sys.errname(code)
  end
  return n
end

--- Sends all of `text`; an error raises.
function Client:send(text, seconds)
  local at = 0
  await(self, sys.POLLOUT, "send", function()
    while at < #text do
      local n, code = self:trySend(text, at)
      if not n then
        error("client: send: " .. code, 0)
      elseif n == 0 then
        return false
      end
      at = at + n
    end
    return true
  end, seconds)
  return self
end

--- Sends zeros until the kernel takes no more for `quiet` seconds or `limit` bytes went; returns how many went.
function Client:flood(limit, quiet, piece)
  piece = piece or ("\0"):rep(65536)
  local sent, last = 0, sys.now()
  self.entry[1].events = sys.POLLOUT
  while sent < limit and sys.now() - last < quiet do
    local n, code = self:trySend(piece)
    if not n then
      return sent, code
    elseif n > 0 then
      sent, last = sent + n, sys.now()
    else
      sys.poll(self.entry, quiet)
    end
  end
  return sent
end

local chunk = ffi.new("uint8_t[?]", 262144)

-- Reads once: a string, or nil and "again", "eof" or the name of the errno. The end is remembered.
function Client:pull(limit)
  if self.finished then
    return nil, self.finished
  end
  local n = tonumber(C.recv(self.fd, chunk, math.min(limit or 262144, 262144), 0))
  if n > 0 then
    return ffi.string(chunk, n)
  elseif n == 0 then
    self.finished = "eof"
  else
    local code = ffi.errno()
    if code == sys.EAGAIN then
      return nil, "again"
    end
    self.finished = sys.errname(code)
  end
  return nil, self.finished
end

--- Waits for something to read and reads once (at most `limit` bytes): a string, or nil and how the stream ended.
function Client:read(limit, seconds)
  if #self.buffer > 0 then
    local text = self.buffer
    self.buffer = ""
    return text
  end
  local text, code
  await(self, sys.POLLIN, "read", function()
    text, code = self:pull(limit)
    return code ~= "again"
  end, seconds)
  return text, code
end

--- Exactly `n` bytes; the end of the stream before them raises.
function Client:receive(n, seconds)
  local pieces, have = { self.buffer }, #self.buffer
  self.buffer = ""
  while have < n do
    local text, code = self:read(nil, seconds)
    if not text then
      error(("client: the stream ended (%s) after %d of %d bytes: %q"):format(code, have, n,
        table.concat(pieces):sub(1, 300)), 2)
    end
    pieces[#pieces + 1] = text
    have = have + #text
  end
  local all = table.concat(pieces)
  self.buffer = all:sub(n + 1)
  return all:sub(1, n)
end

--- One line without its end (LF or CRLF); the end of the stream before it raises.
function Client:line(seconds)
  while true do
    local line, rest = self.buffer:match "^([^\n]*)\n(.*)$"
    if line then
      self.buffer = rest
      return (line:gsub("\r$", ""))
    end
    local held = self.buffer
    self.buffer = ""
    local text, code = self:read(nil, seconds)
    if not text then
      error(("client: the stream ended (%s) before a line: %q"):format(code, held:sub(1, 300)), 2)
    end
    self.buffer = held .. text
  end
end

--- Everything to the end. Returns the bytes and how it ended: "eof", or the name of the errno.
function Client:receiveAll(seconds)
  local pieces = {}
  while true do
    local text, code = self:read(nil, seconds)
    if not text then
      return table.concat(pieces), code
    end
    pieces[#pieces + 1] = text
  end
end

--- Counts everything to the end without keeping it. Returns the number and how it ended.
function Client:count(seconds)
  local n = 0
  while true do
    local text, code = self:read(nil, seconds)
    if not text then
      return n, code
    end
    n = n + #text
  end
end

--- True when the kernel has nothing for us right now: no bytes, no end.
function Client:quiet()
  if #self.buffer > 0 then
    return false
  end
  local text, code = self:pull()
  if text then
    self.buffer = text
  end
  return code == "again"
end

--- Sends FIN and goes on reading.
function Client:halfClose()
  C.shutdown(self.fd, 1)
  return self
end

--- Closes. Unread bytes make the kernel send a reset: that is what real clients do too.
function Client:close()
  if open[self] then
    open[self] = nil
    C.close(self.fd)
  end
end

--- Closes with a reset.
function Client:reset()
  local linger = ffi.new("struct skt_linger", 1, 0)
  C.setsockopt(self.fd, SOL_SOCKET, SO_LINGER, linger, 8)
  self:close()
end

--- Opens `n` connections, a batch at a time.
function client.many(n, port, options)
  local list = {}
  for i = 1, n do
    list[i] = client.tcp(port, options)
  end
  return list
end

--- Serves a list of clients until `f(client, text, ending)` has given something true for each of them: `text` is
--- what it just received, or nil with `ending`.
function client.each(list, f, seconds)
  local entries, left = {}, #list
  local by = {}
  for _, c in ipairs(list) do
    local entry = { fd = c.fd, events = sys.POLLIN }
    entries[#entries + 1] = entry
    by[entry] = c
  end
  local limit = sys.now() + (seconds or sys.deadline)
  while left > 0 do
    if sys.now() > limit then
      error(("client: %d of %d connections are not done in time"):format(left, #list), 2)
    end
    local ready = sys.poll(entries, 0.25)
    if ready > 0 then
      local keep = {}
      for _, entry in ipairs(entries) do
        local done = false
        if entry.revents ~= 0 then
          local text, ending = by[entry]:pull()
          if ending ~= "again" then
            done = f(by[entry], text, ending) or ending ~= nil
          end
        end
        if done then
          left = left - 1
        else
          keep[#keep + 1] = entry
        end
      end
      entries = keep
    end
  end
end

--- Closes every client that is still open.
function client.closeAll()
  for c in pairs(open) do
    c:close()
  end
end

client.sys = sys

return client
