-- A protocol on standard input and output: a filter, under inetd, on a terminal, with files.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"

local UPPER = [[
  local P = {}
  function P:dataReceived(data) self.transport:write(data:upper()) end
  return { listen = "stdio:", protocol = P }
]]

-- Runs a line of shell in which `$S` serves the script (without one: echo), and `$PROGRAM` is the program itself; status,
-- output, log.
local function shell(line, script)
  local words = script and host.script(script) or "echo listen=stdio:"
  local _, real = process.run { "realpath", host.binary }
  local argv = { "sh", "-c", ('S="$PROGRAM run %s"; cd %s; %s'):format(words, host.folder(), line) }
  argv.env = { PROGRAM = real:gsub("\n", ""), XDG_RUNTIME_DIR = host.folder(), SKALD_TRACE = false }
  return process.run(argv)
end

-- Python gives it a socket as all three descriptors, as inetd does; what comes back, and the status.
local INETD = [[
import socket, subprocess, sys
if sys.argv[1] == "unix":
    ours, theirs = socket.socketpair()
else:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
child = subprocess.Popen(sys.argv[2:], stdin=theirs, stdout=theirs, stderr=theirs)
theirs.close()
ours.sendall(b"over a socket\n")
ours.shutdown(socket.SHUT_WR)
got = b""
while True:
    piece = ours.recv(65536)
    if not piece:
        break
    got += piece
sys.stdout.write(got.decode() + "status " + str(child.wait()) + "\n")
]]

-- Whether the descriptors that it was given block while it runs: the flags of the same descriptions, 0 and 0.
local FLAGS = [[
import fcntl, os, pty, socket, subprocess, sys, tty
if sys.argv[1] == "pipe":
    child_in, ours_in = os.pipe()
    ours_out, child_out = os.pipe()
elif sys.argv[1] == "socket":
    one, other = socket.socketpair()
    ours_in = ours_out = one.detach()
    child_in = child_out = other.detach()
else:
    ours_in, child_in = pty.openpty()
    tty.setraw(child_in)
    ours_out, child_out = ours_in, child_in
child = subprocess.Popen(sys.argv[2:], stdin=child_in, stdout=child_out)
os.write(ours_in, b"look\n")
got = b""
while not got.endswith(b"LOOK\n"):
    got += os.read(ours_out, 100)
flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (child_in, child_out)]
sys.stdout.write(got.decode() + "%d %d\n" % tuple(flags))
child.terminate()
sys.stdout.write("status %d\n" % child.wait())
]]

describe("standard input and output", function()
  after_each(host.cleanup)

  it("are a filter: the end of input is the end of the host, which is 0", function()
    local status, out, log = shell("printf 'a line' | $S", UPPER)
    assert.same({ 0, "A LINE" }, { status, out })
    assert.is_nil(log:find "error", log)
  end)

  it("pass on all that comes, however much that is", function()
    local status, out = shell "seq 1 1000000 | $S | md5sum; seq 1 1000000 | md5sum"
    local first, second = out:match "^(%x+)  %-\n(%x+)  %-\n$"
    assert.equal(0, status)
    assert.equal(second, first)
  end)

  it("may be files, which are read and written to their ends", function()
    local status, out = shell [[
      seq 1 100000 > in; $S <in >out 2>log && cmp in out && echo same
      $S <in | cmp - in && echo same
      cat in | $S >out 2>log && cmp in out && echo same
      (read one; read two; $S; echo after) <in >out 2>log; tail -n +3 in > rest; echo after >> rest; cat out | tail -1
    ]]
    assert.same({ 0, "same\nsame\nsame\nafter\n" }, { status, out })
  end)

  it("may be /dev/null, or closed", function()
    local status, out = shell "$S </dev/null >/dev/null && echo null; $S <&- >&- && echo closed; $S 2>&- </dev/null && echo err"
    assert.same({ 0, "null\nclosed\nerr\n" }, { status, out })
  end)

  it("that cannot be written to end the connection as lost, and the host", function()
    local script = [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(r) io.stderr:write("lost ", r.code, " ", r.by, " ", r.errno or "-", "\n") end
      return { listen = "stdio:", protocol = P }
    ]]
    local status, out, log = shell("yes | $S | head -n 1", script)
    assert.same({ 0, "y\n" }, { status, out })
    assert.truthy(log:find("lost lost peer EPIPE", 1, true), log)
    status, out, log = shell("echo x | $S > /dev/full", script)
    assert.equal("", out)
    assert.equal(0, status)
    assert.truthy(log:find("lost lost peer ENOSPC", 1, true), log)
  end)

  it("are lost where the reader goes and nothing is written", function()
    local status, _, log = shell("mkfifo f; sleep 1000 > f & $S < f 2>log | true; kill $!; cat log >&2", [[
      local P = {}
      function P:connectionLost(r) io.stderr:write("lost ", r.code, "\n") end
      return { listen = "stdio:", protocol = P }
    ]])
    assert.equal(0, status)
    assert.truthy(log:find("lost lost", 1, true), log)
  end)

  it("print no line, and what a script prints goes to standard error", function()
    local status, out, log = shell("printf x | $S", [[
      print "while loading"
      local P = {}
      function P:connectionMade()
        print "while running"
        self.transport:write(tostring(self.transport:getPeer()) .. " " .. tostring(self.transport:getHost()) .. "\n")
      end
      return { { listen = "stdio:", protocol = P }, { name = "other", listen = "tcp:127.0.0.1:0", protocol = {} } }
    ]])
    assert.equal(0, status)
    assert.equal("while loading\nstdio: stdio:\n", out) -- that was before they were taken
    assert.truthy(log:find("while running\n", 1, true))
    assert.truthy(log:find "listening tcp:127.0.0.1:%d+ other\n")
  end)

  it("may be half closed", function()
    local status, out = shell("printf 'a\\nb\\n' | $S | cat", [[
      local P, reactor = {}, require "skald.reactor"
      function P:dataReceived(data) self.got = (self.got or "") .. data end
      function P:readConnectionLost()
        reactor.callLater(0.02, function()
          self.transport:write("all: " .. #self.got .. "\n")
          self.transport:loseConnection()
        end)
      end
      return { listen = "stdio:", protocol = P }
    ]])
    assert.same({ 0, "all: 4\n" }, { status, out })
    local script = [[
      local P = {}
      function P:connectionMade() self.transport:write "out\n"; self.transport:loseWriteConnection() end
      function P:writeConnectionLost() io.stderr:write "closed\n" end
      function P:dataReceived(data) io.stderr:write("got ", data) end
      return { listen = "stdio:", protocol = P }
    ]]
    local _, ours, log = shell("mkfifo back; (cat back >/dev/null; echo later) | $S | tee back", script)
    assert.equal("out\n", ours) -- its reader has seen the end, and only then more is sent
    assert.truthy(log:find "closed\n.*got later\n", log)
  end)

  it("send files, and are piped through the core", function()
    host.file("poem", ("a line of it\n"):rep(50000))
    local script = ([[
      local P = {}
      function P:connectionMade()
        self.transport:write "before\n"
        self.transport:sendFile(%q):addBoth(function() self.transport:loseConnection() end)
        self.transport:write "behind\n"
      end
      return { listen = "stdio:", protocol = P }
    ]]):format(host.folder() .. "/poem")
    local status, out = shell("mkfifo hold; sleep 1000 > hold & $S < hold | md5sum; kill $!;"
      .. "(echo before; cat poem; echo behind) | md5sum; $S < /dev/null > out; true", script)
    local first, second = out:match "^(%x+)  %-\n(%x+)  %-\n$"
    assert.equal(0, status)
    assert.equal(second, first)
    status, out = shell("seq 1 200000 | $S | md5sum; seq 1 200000 | md5sum", [[
      local P = {}
      function P:connectionMade() self.transport:pipe(self.transport) end
      return { listen = "stdio:", protocol = P }
    ]])
    first, second = out:match "^(%x+)  %-\n(%x+)  %-\n$"
    assert.equal(0, status)
    assert.equal(second, first)
  end)

  it("are given a socket by inetd, whose addresses they have, and which the log is kept out of", function()
    local path = host.file("inetd.py", INETD)
    local status, out = shell(("python3 %s unix $S; python3 %s tcp $S"):format(path, path))
    assert.same({ 0, "over a socket\nstatus 0\nover a socket\nstatus 0\n" }, { status, out })
    status, out = shell(("python3 %s tcp $S"):format(path), [[
      local P = {}
      function P:connectionMade()
        self.transport:write(tostring(self.transport:getPeer()) .. "\n" .. tostring(self.transport:getHost()) .. "\n")
      end
      return { listen = "stdio:", protocol = P }
    ]])
    assert.equal(0, status)
    assert.truthy(out:find "^tcp:127.0.0.1:%d+\ntcp:127.0.0.1:%d+\nstatus 0\n$", out)
  end)

  it("are what socat joins to a socket", function()
    local status, out = shell("echo through socat | socat -t 20 - EXEC:\"$S\"", UPPER)
    assert.same({ 0, "THROUGH SOCAT\n" }, { status, out })
  end)

  it("keep blocking for others who have them, be they pipes, a socket or a terminal", function()
    local path = host.file("flags.py", FLAGS)
    for _, kind in ipairs { "pipe", "socket", "terminal" } do
      local status, out = shell(("python3 %s %s $S"):format(path, kind), UPPER)
      assert.same({ 0, "LOOK\n0 0\nstatus 0\n" }, { status, out:gsub("\r", "") .. "" }, kind)
    end
  end)

  it("end the host as it was told to stop", function()
    local status = shell("printf x | $S", [[
      local P = {}
      function P:dataReceived() require("skald.reactor").stop(7) end
      return { listen = "stdio:", protocol = P }
    ]])
    assert.equal(7, status)
  end)

  it("end the host where no protocol is made, or that raises", function()
    local status, out = shell("printf x | $S", [[
      return { listen = "stdio:", protocol = {}, buildProtocol = function() return nil end }
    ]])
    assert.same({ 0, "" }, { status, out })
    local log
    status, out, log = shell("printf x | $S", [[
      return { listen = "stdio:", protocol = {}, buildProtocol = function() error "not built" end }
    ]])
    assert.same({ 0, "" }, { status, out })
    assert.truthy(log:find("not built", 1, true))
  end)

  it("are taken once", function()
    local status, _, log = shell("printf x | $S", [[
      return { { name = "a", listen = "stdio:", protocol = {} }, { name = "b", listen = "stdio:", protocol = {} } }
    ]])
    assert.equal(1, status)
    assert.truthy(log:find("b: stdio:: Device or resource busy", 1, true), log)
  end)

  it("are forwarded: standard input and output become a connection's", function()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local _, out = shell(("seq 1 50000 | %s run portforward listen=stdio: connect=tcp:127.0.0.1:%d | md5sum"):format(
      "$PROGRAM", h.port))
    local _, expected = process.shell "seq 1 50000 | md5sum"
    assert.equal(expected, out)
    h:stop()
  end)

  it("pass check without being read", function()
    local path = host.script(UPPER)
    local status, out = shell(("printf x | ($PROGRAM check %s; cat)"):format(path))
    assert.same({ 0, path .. ": ok\nx" }, { status, out })
    status = host.command { "check", "echo", "listen=stdio:extra" }
    assert.equal(1, status)
  end)

  it("stay with their protocol over a reload, which runs new code", function()
    local text = [[
      local P = {}
      function P:dataReceived(data) self.n = (self.n or 0) + 1; self.transport:write("@ " .. self.n .. " " .. data) end
      return { listen = "stdio:", protocol = P }
    ]]
    local path = host.script((text:gsub("@", "first")))
    local p = host.start { "run", path }
    p:write "one\n"
    assert.equal("first 1 one", p:line())
    reload.rewrite((text:gsub("@", "second")))
    reload.committed()
    p:write "two\n"
    assert.equal("second 2 two", p:line())
    p:closeInput()
    assert.equal(0, p:wait())
  end)

  it("are put back where the load that took them fails", function()
    local status, out = shell("echo rest | ($S 2>/dev/null; cat)", [[
      return { { name = "a", listen = "stdio:", protocol = {} },
        { name = "b", listen = "unix:/no/such/folder/x", protocol = {} } }
    ]])
    assert.same({ 0, "rest\n" }, { status, out })
  end)
end)
