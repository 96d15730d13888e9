-- `haproxy:tls:…`: a PROXY header in the clear, then TLS.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

-- A client that sends a header, then speaks TLS, in pieces of so many bytes at the most (0: the header and the first
-- words of TLS in one); a line, and prints what comes back.
local client = [[
import socket, ssl, sys
port, step, header = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape").encode("latin1")
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
session = context.wrap_bio(incoming, outgoing)
s = socket.create_connection(("127.0.0.1", port))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
held = header
def flush():
    global held
    bytes, held = held + outgoing.read(), b""
    for i in range(0, len(bytes), step or 65536):
        s.sendall(bytes[i:i + (step or 65536)])
def run(f, *words):
    while True:
        try:
            result = f(*words)
            flush()
            return result
        except ssl.SSLWantReadError:
            flush()
            data = s.recv(65536)
            if not data:
                sys.exit("closed")
            incoming.write(data)
if step:
    flush()
run(session.do_handshake)
run(session.write, b"hello\n")
print(run(session.read, 100).decode().strip())
]]

describe("an endpoint haproxy:tls:", function()
  local own, h

  before_each(function()
    own = certificates.selfSigned("localhost", { "localhost" })
  end)
  after_each(host.cleanup)

  local function serve(prefix, more)
    h = host.serve([[
      local P = {}
      function P:connectionMade() print("made", tostring(self.transport:getPeer())) end
      function P:handshakeCompleted() print("shaken") end
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(reason) print("lost", reason.code, reason.message) end
      return { listen = (...).at, protocol = P }]], { "at=" .. prefix .. certificates.endpoint(own, more) })
  end

  local function ask(step, header)
    return process.run { "python3", host.file("client.py", client), tostring(h.port), tostring(step), header }
  end

  local V1 = [[PROXY TCP4 192.0.2.7 192.0.2.8 4242 443\r\n]]
  local V2 = [[\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x10\x92\x01\xbb]]

  for name, header in pairs { ["version 1"] = V1, ["version 2"] = V2 } do
    for _, step in ipairs { 0, 1, 7, 1000 } do
      it(("takes a header of %s, then TLS, in pieces of %d bytes"):format(name, step), function()
        serve "haproxy:"
        assert.equal("haproxy:tls:127.0.0.1:" .. h.port, h.endpoints[1].endpoint)
        local status, out, log = ask(step, header)
        assert.equal(0, status, log)
        assert.equal("hello\n", out)
        h:line "^made\ttcp:192.0.2.7:4242"
        h:line "^shaken"
      end)
    end
  end

  it("tells nobody of a bad header, and of TLS that fails behind a good one tells the protocol", function()
    serve "haproxy:"
    h:connect():send "GET / HTTP/1.0\r\n\r\n"
    h:waitLog "PROXY header refused"
    h:connect():send "PROXY UNKNOWN\r\nGET / HTTP/1.0\r\n\r\n"
    h:line "^made"
    assert.truthy(h:line "^lost\tlost\t(.*)$":find "http request")
  end)

  it("ends who says nothing behind the header, when the time for the handshake is over", function()
    serve("haproxy:", "handshakeTimeout=0.2")
    h:connect():send "PROXY UNKNOWN\r\n"
    h:line "^made"
    h:line "^lost\ttimeout\t.*no TLS handshake within 0.2 s"
  end)

  it("reads certificates again at a reload, and may lose its prefix there", function()
    serve "haproxy:"
    assert.equal(0, (ask(0, V1)))
    own = certificates.selfSigned("localhost", { "other.example" })
    host.script [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      return { listen = (...).at:gsub("^haproxy:", ""), protocol = P }]]
    assert.equal(0, (host.command { "reload" }))
    assert.truthy(certificates.sclient(h.port, ""):find "CN = localhost")
  end)
end)
