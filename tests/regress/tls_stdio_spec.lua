-- TLS on a socket that is standard input and output, and blocks, as inetd gives it: the host does not wait in it.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

local INETD = [[
import socket, ssl, subprocess, sys
ours, theirs = socket.socketpair()
child = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=theirs)
theirs.close()
ours.settimeout(20)
came, go = ssl.MemoryBIO(), ssl.MemoryBIO()
session = ssl._create_unverified_context().wrap_bio(came, go)

def call(f):
    while True:
        try:
            return f()
        except ssl.SSLWantReadError:
            ours.sendall(go.read())
            came.write(ours.recv(65536) or sys.exit("nothing more comes"))

call(session.do_handshake)
print(call(lambda: session.read(100)).decode())
session.write(b"bye")
ours.sendall(go.read())
ours.close()
print("status", child.wait())
]]

describe("startTLS on standard input and output", function()
  after_each(host.cleanup)

  it("goes on while the socket of inetd has nothing to read", function()
    local own = certificates.selfSigned("localhost", { "localhost" })
    local script = host.script(([[
      local P = {}
      function P:connectionMade() self.transport:startTLS { certificate = %q, privateKey = %q } end
      function P:handshakeCompleted()
        require "skald.reactor".callLater(0.01, function() self.transport:write "secret" end)
      end
      return { listen = "stdio:", protocol = P }
    ]]):format(own.certificate, own.key))
    local argv = { "timeout", "25", "python3", host.file("inetd.py", INETD), host.binary, "run", script }
    argv.env = { XDG_RUNTIME_DIR = host.folder(), SKALD_TRACE = false }
    local status, out, log = process.run(argv)
    assert.equal(0, status, log)
    assert.equal("secret\nstatus 0\n", out)
  end)
end)
