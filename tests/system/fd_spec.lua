-- Sockets that come from elsewhere: fd:, systemd:, and descriptors passed over Unix sockets.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"
local client = require "support.client"
local sys = require "support.sys"

-- Becomes a host that has a TCP socket as descriptor 3 and a Unix one as 4, as a service manager would hand them over.
local parent = [[
import os, socket, sys
tcp = socket.socket(); tcp.bind(("127.0.0.1", 0)); tcp.listen(16)
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1] + "/handed"); unix.listen(16)
packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); packets.bind(sys.argv[1] + "/packets"); packets.listen(16)
for fd, s in ((3, tcp), (4, unix), (5, packets)):
    copy = os.dup(s.fileno()) if s.fileno() != fd else fd
    os.dup2(copy, fd); os.set_inheritable(fd, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:side")
if sys.argv[2] == "stranger":
    os.environ["LISTEN_PID"] = "1"
os.execv(sys.argv[3], sys.argv[3:])
]]

local function through(mode)
  return { "python3", host.file("parent.py", parent), host.folder(), mode }
end

local function serve(endpoint)
  return host.serve([[
    local P = {}
    function P:dataReceived(data) self.transport:write(data) end
    return { listen = "tcp:127.0.0.1:0", protocol = P, version = 1 }
  ]], { "listen=" .. endpoint, through = through "own" })
end

local function fails(mode, endpoint)
  local script = host.script [[return { listen = "tcp:127.0.0.1:0", protocol = {} }]]
  local argv = through(mode)
  for _, word in ipairs { host.binary, "run", "--control", host.folder() .. "/c", script, "listen=" .. endpoint } do
    argv[#argv + 1] = word
  end
  local status, _, log = process.run(argv)
  assert.equal(1, status)
  return log
end

describe("a socket that was handed over", function()
  after_each(host.cleanup)

  for endpoint, kind in pairs {
    ["fd:3"] = "tcp", ["fd:4"] = "unix", ["systemd:name=web"] = "tcp", ["systemd:name=side"] = "unix", ["systemd:index=1"] = "unix",
  } do
    it("is served by " .. endpoint, function()
      local h = serve(endpoint)
      assert.equal(kind, h.endpoints[1].kind)
      local c = h:connect()
      assert.equal("hello", c:send "hello" and c:receive(5))
    end)
  end

  for _, over in ipairs { "fd:3", "systemd:name=web", "systemd:index=0" } do
    it("is served with TLS by tls:" .. over, function()
      local own = certificates.selfSigned("localhost", { "localhost" })
      local h = serve(("tls:%s:certificate=%s:privateKey=%s"):format(over, own.certificate, own.key))
      assert.equal("tls", h.endpoints[1].kind)
      local log = certificates.sclient(h.port, "", { "-CAfile", own.certificate, "-verify_return_error", "-brief" })
      assert.truthy(log:find("Verification: OK", 1, true), log)
    end)
  end

  it("stays the parent's: its socket file is there after a stop", function()
    local h = serve "fd:4"
    local path = h.path
    h:stop()
    assert.equal(0, (process.run { "test", "-S", path }))
  end)

  it("is kept by a reload, also where another name leads to it", function()
    local h = serve "fd:3"
    local c = h:connect()
    assert.equal("one", c:send "one" and c:receive(3))
    host.script [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data:upper()) end
      return { listen = "tcp:127.0.0.1:0", protocol = P, version = 2 }
    ]]
    assert.equal(0, (host.command { "reload" }))
    assert.equal("TWO", c:send "two" and c:receive(3))
    local d = h:connect()
    assert.equal("NEW", d:send "new" and d:receive(3))
  end)

  for endpoint, problem in pairs {
    ["systemd:name=none"] = "no such socket among the 2 that were handed over: web, side",
    ["systemd:index=2"] = "no such socket among the 2 that were handed over: web, side",
    ["fd:0"] = "that descriptor is no listening socket of connections",
    ["fd:5"] = "that descriptor is no listening socket of connections", -- packets, though one listens
    ["fd:99"] = "Bad file descriptor",
    ["systemd:"] = "column 9: systemd takes one of both",
    ["systemd:name=a:index=1"] = "systemd takes one of both",
    ["fd:x"] = "column 4: a descriptor is a number from 0, not 'x'",
  } do
    it("is missed in one line by " .. endpoint, function()
      local log = fails("own", endpoint)
      assert.truthy(log:find(problem, 1, true), log)
    end)
  end

  it("is not taken where it was meant for another process", function()
    local log = fails("stranger", "systemd:name=web")
    assert.truthy(log:find("no socket was handed over to this process", 1, true), log)
  end)
end)

-- Python sends or takes descriptors: what comes of it is its output.
local function python(text, ...)
  local status, out, log = process.run { "python3", host.file("peer.py", text), ... }
  assert.equal(0, status, log)
  return out
end

local unixService = [[
  local P = {}
  function P:fileDescriptorReceived(fd)
    print("fd", fd > 2)
    self.fd = fd
  end
  function P:dataReceived(data)
    print("data", data)
    if data == "back" then
      print("sent", self.transport:sendFileDescriptor(self.fd))
      self.transport:write "here"
    end
    if data == "who" then
      local who = self.transport:getPeerCredentials()
      self.transport:write(("%d %d %d"):format(who.pid, who.uid, who.gid))
    end
  end
  function P:connectionLost() print "lost" end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

describe("a descriptor over a Unix socket", function()
  after_each(host.cleanup)

  local function start(text)
    return host.serve(text or unixService, { "listen=unix:" .. host.folder() .. "/s" })
  end

  it("comes before the bytes that it came with, and can be sent on", function()
    local h = start()
    local out = python([[
import socket, os, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
r, w = os.pipe()
socket.send_fds(s, [b"back"], [w])
os.close(w)
data, fds, flags, peer = socket.recv_fds(s, 100, 4)
os.write(fds[0], b"through the pipe")
print(data.decode(), len(fds), os.read(r, 100).decode())
]], h.path)
    assert.equal("here 1 through the pipe\n", out)
    assert.equal("fd\ttrue", h:line())
    assert.equal("data\tback", h:line())
    assert.equal("sent\ttrue", h:line())
  end)

  it("is closed where nobody takes it", function()
    local h = start [[
      local P = {}
      function P:dataReceived(data) self.transport:write "ok" end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local before = h:descriptors()
    local out = python([[
import socket, os, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
for i in range(200):
    r, w = os.pipe()
    socket.send_fds(s, [b"x"], [w, w, w])
    os.close(w)
    s.recv(2)
    if os.read(r, 1) != b"": raise SystemExit("still open")
    os.close(r)
print("all closed")
]], h.path)
    assert.equal("all closed\n", out)
    assert.is_true(h:descriptors() <= before + 1)
  end)

  it("says who is at the other end", function()
    local h = start()
    local out = python([[
import socket, os, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.send(b"who")
print(s.recv(100).decode() == "%d %d %d" % (os.getpid(), os.getuid(), os.getgid()))
]], h.path)
    assert.equal("True\n", out)
  end)

  it("is refused over TCP, for a number that is none, after the end, and where too many wait", function()
    local h = host.serve([[
      local P = {}
      function P:dataReceived(data)
        local t = self.transport
        print("bad", t:sendFileDescriptor(999))
        if t:getHost().type == "UNIX" then
          local n = 0
          while t:sendFileDescriptor(1) do n = n + 1 end
          print("many", n, select(3, t:sendFileDescriptor(1)))
          t:abortConnection()
          print("late", t:sendFileDescriptor(1))
        else
          print("tcp", t:sendFileDescriptor(1))
          print("who", t:getPeerCredentials())
        end
        print(pcall(t.sendFileDescriptor, t, "x"))
      end
      return { listen = { "tcp:127.0.0.1:0", "unix:]] .. host.folder() .. [[/s" }, protocol = P }
    ]], { listening = 2 })
    h:connect():send "go"
    assert.equal("EBADF", (h:line "^bad\tnil\t.*\t(%u+)"))
    assert.equal("ENOTSUP", (h:line "^tcp\tnil\t.*\t(%u+)"))
    assert.equal("who\tnil", h:line())
    assert.truthy(h:line("sendFileDescriptor takes a descriptor's number, not x"))
    h:connect(nil, 2):send "go"
    assert.truthy(h:line "^bad")
    assert.equal("many\t64\tENOBUFS", h:line())
    assert.equal("EPIPE", (h:line "^late\tnil\t.*\t(%u+)"))
  end)

  it("that waits for a byte is closed with the connection", function()
    local h = start [[
      local P = {}
      function P:dataReceived(data)
        for _ = 1, 10 do self.transport:sendFileDescriptor(1) end
        self.transport:loseConnection()
      end
      function P:connectionLost() print "lost" end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local before = h:descriptors()
    local c = h:connect()
    c:send "x"
    assert.is_nil(c:read())
    assert.equal("lost", h:line())
    c:close()
    h:connect():close()
    assert.equal("lost", h:line())
    sys.await(function()
      return h:descriptors() == before
    end, function()
      return h:story(("%d descriptors are open, not %d"):format(h:descriptors(), before))
    end)
  end)
end)

describe("an abstract Unix address", function()
  after_each(host.cleanup)

  it("is listened on and connected to, and leaves no file", function()
    local name = "@" .. host.folder() .. "/none"
    local h = host.serve([[
      local P = {}
      function P:dataReceived(data) self.transport:write(tostring(self.transport:getHost())) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { "listen=unix:" .. name })
    assert.equal("unix", h.endpoints[1].kind)
    assert.equal(name, h.path)
    local forward = host.run { "portforward", "listen=tcp:127.0.0.1:0", "connect=unix:" .. name,
      options = { "--control=" .. host.folder() .. "/other" } }
    local c = forward:connect()
    assert.equal("unix:" .. name, c:send "x" and c:receive(#name + 5))
    local status = host.command { "run", "echo", "listen=unix:" .. name, "--control=" .. host.folder() .. "/third" }
    assert.equal(1, status) -- it is taken
  end)
end)

describe("a Unix socket's file", function()
  after_each(host.cleanup)

  it("is taken by one of those who start at the same time, and lost by none", function()
    local path = host.folder() .. "/s"
    client.occupy(path) -- a stale one
    local script = host.script [[return { listen = "tcp:127.0.0.1:0", protocol = { dataReceived = function() end } }]]
    local list = {}
    for i = 1, 8 do
      list[i] = process.start {
        host.binary, "run", "--control", host.folder() .. "/c" .. i, script, "listen=unix:" .. path,
      }
    end
    local serving = 0
    for _, p in ipairs(list) do
      local ok = pcall(p.line, p, "^listening")
      serving = serving + (ok and 1 or 0)
    end
    assert.equal(1, serving)
    assert.truthy(client.unix(path))
    for _, p in ipairs(list) do
      p:kill "TERM"
      p:wait()
    end
  end)
end)
