-- TLS sessions that are resumed: what a server lets pass, and what it looks at anew.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

local NAMES = { "localhost", "127.0.0.1" }

describe("a TLS server", function()
  local own, session, h

  before_each(function()
    own = certificates.selfSigned("localhost", NAMES)
    session = host.folder() .. "/session"
  end)
  after_each(host.cleanup)

  local function serve(more)
    h = host.serve([[
      local P = {}
      function P:dataReceived(data)
        if data == "renew\n" then
          require "skald.tls".renewTickets()
        end
        self.transport:write(data)
        self.transport:loseConnection()
      end
      return { listen = (...).at, protocol = P }]], { "at=" .. certificates.endpoint(own, more) })
  end

  local function shake(version, word, ...)
    local log = certificates.sclient(h.port, "x\n", { "-ign_eof", version, word, session, ... })
    return log:match "\n(%a+), TLSv" or log, log
  end

  local function begin(version, ...)
    assert.equal("New", (shake(version, "-sess_out", ...)))
  end

  local function resume(version, ...)
    return (shake(version, "-sess_in", ...))
  end

  for _, version in ipairs { "-tls1_2", "-tls1_3" } do
    describe("by " .. version, function()
      it("resumes sessions, also after a reload with another certificate of the same names", function()
        serve()
        begin(version)
        assert.equal("Reused", resume(version))
        own = certificates.selfSigned("localhost", NAMES)
        assert.equal(0, (host.command { "reload" }))
        assert.equal("Reused", resume(version))
      end)

      it("resumes none after a reload with a certificate of other names", function()
        serve()
        begin(version)
        own = certificates.selfSigned("localhost", { "other.example" })
        assert.equal(0, (host.command { "reload" }))
        assert.equal("New", resume(version))
      end)

      it("resumes none after a reload that asks for certificates of another authority", function()
        local first = certificates.selfSigned("first", nil)
        local friend = certificates.signed(first, "friend")
        local words = { "-cert", friend.certificate, "-key", friend.key }
        serve("clientCA=" .. first.certificate)
        begin(version, unpack(words))
        assert.equal("Reused", resume(version, unpack(words)))
        certificates.selfSigned("first", nil)
        assert.equal(0, (host.command { "reload" }))
        local log = select(2, shake(version, "-sess_in", unpack(words)))
        assert.is_nil(log:find "\nReused")
        assert.truthy(log:find "alert unknown ca" or log:find "alert certificate unknown", log)
      end)

      it("resumes what the former key has sealed, and not what one before that has", function()
        serve()
        begin(version)
        local function renew()
          certificates.sclient(h.port, "renew\n", { "-ign_eof", "-quiet" })
        end
        renew()
        assert.equal("Reused", resume(version))
        renew()
        assert.equal("New", resume(version))
      end)
    end)
  end

  it("hands a session on from ticket to ticket, unless the client has shown a certificate", function()
    serve()
    begin "-tls1_3"
    local log = select(2, shake("-tls1_3", "-sess_in"))
    assert.truthy(log:find "\nReused" and log:find "New Session Ticket arrived", log)
    h:stop()
    local authority = certificates.selfSigned("authority", nil)
    local friend = certificates.signed(authority, "friend")
    local words = { "-cert", friend.certificate, "-key", friend.key }
    serve("clientCA=" .. authority.certificate)
    begin("-tls1_3", unpack(words))
    log = select(2, shake("-tls1_3", "-sess_in", unpack(words)))
    assert.truthy(log:find "\nReused" and not log:find "New Session Ticket arrived", log)
  end)
end)

-- A server that gives two more tickets to who resumes, and says what comes.
local generous = [[
local ffi = require "ffi"
ffi.cdef "void *TLS_server_method(void); void *SSL_CTX_new(void *); void *SSL_new(void *); void SSL_free(void *);"
ffi.cdef "int SSL_CTX_use_certificate_file(void *, const char *, int), SSL_CTX_use_PrivateKey_file(void *, const char *, int);"
ffi.cdef "int SSL_set_fd(void *, int), SSL_accept(void *), SSL_session_reused(void *), SSL_new_session_ticket(void *);"
ffi.cdef "int SSL_do_handshake(void *), SSL_read(void *, char *, int), SSL_write(void *, const char *, int);"
ffi.cdef "int socket(int, int, int), listen(int, int), accept(int, void *, void *), getsockname(int, void *, void *), close(int);"
local ssl, bytes, certificate, key = ffi.load "ssl.so.3", ffi.new "char[128]", ...
local fd, length = ffi.C.socket(2, 1, 0), ffi.new("int[1]", 16)
ffi.C.listen(fd, 10)
ffi.C.getsockname(fd, bytes, length)
local high, low = ffi.string(bytes, 4):byte(3, 4)
print(high * 256 + low)
io.flush()
local context = ssl.SSL_CTX_new(ssl.TLS_server_method())
ssl.SSL_CTX_use_certificate_file(context, certificate, 1)
ssl.SSL_CTX_use_PrivateKey_file(context, key, 1)
while true do
  local peer, session = ffi.C.accept(fd, nil, nil), ssl.SSL_new(context)
  ssl.SSL_set_fd(session, peer)
  if ssl.SSL_accept(session) == 1 then
    for _ = 1, ssl.SSL_session_reused(session) do
      ssl.SSL_new_session_ticket(session)
      ssl.SSL_do_handshake(session)
    end
    ssl.SSL_write(session, bytes, ssl.SSL_read(session, bytes, 128))
    ssl.SSL_read(session, bytes, 128)
  end
  ssl.SSL_free(session)
  ffi.C.close(peer)
end
]]

describe("a TLS client", function()
  local own, server
  after_each(host.cleanup)

  -- A host that connects when it is told to, by what the script's `connect` is asked for.
  local function clientOf(words)
    return host.serve([[
      local protocol = require "skald.protocol"
      local reactor, endpoints = require "skald.reactor", require "skald.endpoints"
      local options = ...
      local P = protocol.Protocol {}
      function P:connectionMade() self.transport:write "x\n" end
      function P:dataReceived() self.transport:loseConnection() end
      function P:handshakeCompleted()
        local c = self.transport:getPeerCertificate()
        print("shaken", self.transport:sessionReused(), c and c.subject)
      end
      function P:connectionLost(reason) print("lost", reason.code) end
      local Control = {}
      function Control:dataReceived(data)
        local text = data:match "^[^\n]*"
        local d = endpoints.clientFromString(text):connect(protocol.ClientFactory { protocol = P })
        d:addErrback(function(f) print("failed", tostring(f.value or f)) end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = Control }]], words)
  end

  local function serve(version, more)
    own = certificates.selfSigned("localhost", NAMES)
    local script = host.file("server.lua", [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      return { listen = (...).at, protocol = P }]])
    server = host.run { script, "at=" .. certificates.endpoint(own, more),
      env = { OPENSSL_CONF = host.file("openssl.cnf", ([[
openssl_conf = conf
[conf]
ssl_conf = ssl
[ssl]
system_default = all
[all]
MaxProtocol = TLSv%s
]]):format(version)) }, options = { "--control=" .. host.folder() .. "/server" } }
  end

  local function ask(c, endpoint)
    c:connect():send(endpoint .. "\n")
    local reused = c:line "^shaken\t(%w+)\tCN=localhost"
    c:line "^lost\tdone"
    return reused
  end

  local function endpoint(more)
    return ("tls:127.0.0.1:%d:trust=%s%s"):format(server.port, own.certificate, more or "")
  end

  for _, version in ipairs { "1.2", "1.3" } do
    it("resumes its session with the same server by TLS " .. version, function()
      serve(version)
      local c = clientOf()
      assert.equal("false", ask(c, endpoint()))
      assert.equal("true", ask(c, endpoint()))
      assert.equal("true", ask(c, endpoint()))
    end)

    it("resumes none by other options, or for another name, by TLS " .. version, function()
      serve(version)
      local c = clientOf()
      assert.equal("false", ask(c, endpoint()))
      local copy = host.file("copy.pem", assert(io.open(own.certificate)):read "*a")
      assert.equal("false", ask(c, ("tls:127.0.0.1:%d:trust=%s"):format(server.port, copy)))
      assert.equal("false", ask(c, endpoint ":alpn=x"))
      assert.equal("false", ask(c, endpoint ":verify=no"))
      assert.equal("false", ask(c, endpoint ":hostname=localhost"))
      assert.equal("false", ask(c, ("tls:localhost:%d:trust=%s"):format(server.port, own.certificate)))
      assert.equal("true", ask(c, endpoint()))
    end)
  end

  it("reads the system's certificates again at a reload, also where it shows one of its own", function()
    serve "1.3"
    local friend = certificates.selfSigned("friend", nil)
    local function believe(made)
      return host.file("system.pem", assert(io.open(made.certificate)):read "*a")
    end
    local c = host.serve([[
      local P = {}
      function P:handshakeCompleted()
        print "shaken"
        self.transport:loseConnection()
      end
      function P:connectionLost(reason) print("lost", reason.message) end
      return { connect = (...).to, protocol = P }]],
      { ("to=tls:localhost:%d:certificate=%s:privateKey=%s"):format(server.port, friend.certificate, friend.key),
        listening = 0, env = { SSL_CERT_FILE = believe(own) } })
    c:line "^shaken"
    believe(friend)
    assert.equal(0, (host.command { "reload", "--force" }))
    c:line "^lost.*the certificate is not accepted" -- it connects again and again
  end)

  it("offers a ticket of TLS 1.3 once", function()
    local authority = certificates.selfSigned("authority", nil)
    local friend = certificates.signed(authority, "friend")
    serve("1.3", "clientCA=" .. authority.certificate) -- hands no session on
    local c = clientOf()
    local mine = endpoint((":certificate=%s:privateKey=%s"):format(friend.certificate, friend.key))
    assert.equal("false", ask(c, mine))
    assert.equal("true", ask(c, mine))
    assert.equal("false", ask(c, mine))
  end)

  it("goes on with the last of the tickets that it was given, however many those are", function()
    own = certificates.selfSigned("localhost", NAMES)
    local child = process.start { "luajit", host.file("generous.lua", generous), own.certificate, own.key }
    server = { port = tonumber(child:line "%d+") }
    local c = clientOf()
    assert.equal("false", ask(c, endpoint()))
    for _ = 1, 3 do
      assert.equal("true", ask(c, endpoint()))
    end
  end)

  it("begins anew, and is served, where the server has forgotten it", function()
    serve "1.2"
    local c = clientOf()
    assert.equal("false", ask(c, endpoint ":verify=no"))
    certificates.selfSigned("localhost", { "127.0.0.1" })
    assert.equal(0, (host.command { "reload", "--control=" .. host.folder() .. "/server" }))
    assert.equal("false", ask(c, endpoint ":verify=no"))
    assert.equal("true", ask(c, endpoint ":verify=no"))
  end)
end)
