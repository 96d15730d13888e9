-- Real clients, unmodified, as people have them.

local host = require "support.host"
local process = require "support.process"

local PYTHON = "/usr/bin/python3" -- the one that Debian's python3-twisted belongs to

describe("a real client", function()
  after_each(host.cleanup)

  local function echo()
    return host.run { "echo", "listen=tcp:127.0.0.1:0" }
  end

  local function poetry()
    return host.run { "poetry", "listen=tcp:127.0.0.1:0" }
  end

  it("nc talks line by line and gets its end", function()
    local h = echo()
    local nc = process.start { "nc", "-N", "127.0.0.1", h.port }
    for _, word in ipairs { "one", "two", "three" } do
      nc:write(word .. "\n")
      assert.equal(word, nc:line())
    end
    nc:closeInput()
    assert.equal(0, nc:wait())
  end)

  it("nc without -N gets a poem, though it never ends its own half", function()
    local h = poetry()
    local status, poem = process.run { "nc", "-d", "127.0.0.1", h.port }
    assert.equal(0, status)
    assert.is_true(#poem > 200)
    local expected = h:connect():receiveAll()
    assert.equal(expected, poem)
  end)

  it("nc speaks to a Unix socket", function()
    local path = host.folder() .. "/echo.sock"
    host.run { "echo", "listen=unix:" .. path }
    local status, out = process.run { "nc", "-N", "-U", path, text = "over unix\n" }
    assert.equal(0, status)
    assert.equal("over unix\n", out)
  end)

  it("socat sends a megabyte through and gets it back", function()
    local h = echo()
    local text = ("0123456789abcdef"):rep(65536)
    local status, out, log = process.run {
      "socat", "-t", "10", "-", "tcp:127.0.0.1:" .. h.port, input = host.file("megabyte", text),
    }
    assert.equal(0, status, log)
    assert.is_true(out == text, #out .. " bytes came back")
  end)

  it("telnet talks and sees the end of a poem", function()
    local h = echo()
    local telnet = process.start { "telnet", "127.0.0.1", h.port }
    telnet:line "Escape character"
    telnet:write "hello\r\n"
    telnet:line "hello"
    telnet:closeInput()
    telnet:wait()
    h = poetry()
    telnet = process.start { "telnet", "127.0.0.1", h.port }
    telnet:line "Escape character"
    telnet:errorLine "Connection closed by foreign host"
    telnet:wait()
    local expected = h:connect():receiveAll()
    assert.truthy(telnet:output():gsub("\r", ""):find(expected:gsub("\r", ""), 1, true), telnet:output())
  end)

  it("curl telnet:// reads a poem to its end", function()
    local h = poetry()
    local status, poem, log = process.run { "curl", "-sS", "--max-time", "15", "telnet://127.0.0.1:" .. h.port }
    assert.equal(0, status, log)
    assert.equal((h:connect():receiveAll()), poem)
  end)

  it("a Python socket makes a hundred round trips and a half-close", function()
    local h = echo()
    local script = host.file("client.py", [[
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=15)
f = s.makefile("rwb")
for i in range(100):
    line = b"line %d " % i + b"x" * (i * 37) + b"\n"
    f.write(line)
    f.flush()
    assert f.readline() == line, i
s.shutdown(socket.SHUT_WR)
assert f.read() == b""
print("fine")
]])
    local status, out, log = process.run { PYTHON, script, h.port }
    assert.equal(0, status, log)
    assert.equal("fine\n", out)
  end)

  it("Twisted's own client makes round trips, half-closes and sees a clean end", function()
    local h = echo()
    local script = host.file("client.py", [[
import sys
from twisted.internet import protocol, reactor
from twisted.protocols import basic

class Client(basic.LineReceiver):
    count = 0
    def connectionMade(self):
        self.sendLine(b"0")
    def lineReceived(self, line):
        assert line == b"%d" % self.count, line
        self.count += 1
        if self.count < 100:
            self.sendLine(b"%d" % self.count)
        else:
            self.transport.loseWriteConnection()
    def connectionLost(self, reason):
        print(self.count, reason.type.__name__)
        reactor.stop()

class Factory(protocol.ClientFactory):
    protocol = Client
    def clientConnectionFailed(self, connector, reason):
        print(reason)
        reactor.stop()

reactor.connectTCP("127.0.0.1", int(sys.argv[1]), Factory(), timeout=15)
reactor.callLater(20, reactor.stop)
reactor.run()
]])
    local status, out, log = process.run { PYTHON, script, h.port }
    assert.equal(0, status, log)
    assert.equal("100 ConnectionDone\n", out)
  end)

  it("Twisted's poetry client reads the poem to a clean end", function()
    local h = poetry()
    local script = host.file("client.py", [[
import sys
from twisted.internet import protocol, reactor

class Poem(protocol.Protocol):
    def connectionMade(self):
        self.data = b""
    def dataReceived(self, data):
        self.data += data
    def connectionLost(self, reason):
        print(len(self.data), reason.type.__name__)
        reactor.stop()

factory = protocol.ClientFactory()
factory.protocol = Poem
reactor.connectTCP("127.0.0.1", int(sys.argv[1]), factory, timeout=15)
reactor.callLater(20, reactor.stop)
reactor.run()
]])
    local status, out, log = process.run { PYTHON, script, h.port }
    assert.equal(0, status, log)
    assert.equal(#(h:connect():receiveAll()) .. " ConnectionDone\n", out)
  end)
end)
