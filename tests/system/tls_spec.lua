-- TLS: servers with real clients, our clients with real servers, and both with each other.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

local BIG = ("0123456789abcdef"):rep(65536)

-- A socat that speaks TLS to the port, with what the words add.
local function socat(port, words, input)
  local address = ("OPENSSL:127.0.0.1:%d,%s"):format(port, words)
  return { "socat", "-t", "10", "-", address, input = input }
end

-- A host whose script connects to an endpoint and prints what comes of it.
local function clientOf(endpoint, more)
  return host.serve(([[
    local endpoints, protocol = require "skald.endpoints", require "skald.protocol"
    local reactor = require "skald.reactor"
    local P = protocol.Protocol {}
    function P:connectionMade() print "made" self.transport:write "hello\n" end
    function P:handshakeCompleted() print("shaken", self.transport.negotiatedProtocol) %s end
    function P:dataReceived(data) print("data", data) end
    function P:connectionLost(reason) print("lost", reason.code, reason.by, reason.message) end
    local d = endpoints.clientFromString(%q):connect(protocol.ClientFactory { protocol = P })
    d:addCallbacks(function() print "connected" end, function(f) print("failed", tostring(f.value or f)) end)
  ]]):format(more or "", endpoint), { listening = 0 })
end

describe("a TLS server", function()
  local own

  before_each(function()
    own = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" })
  end)
  after_each(host.cleanup)

  local function echo(more)
    return host.run { "echo", "listen=" .. certificates.endpoint(own, more) }
  end

  it("echoes what openssl s_client sends, by TLS 1.3, with a certificate that verifies", function()
    local h = echo()
    assert.equal("tls:127.0.0.1:" .. h.port, h.endpoints[1].endpoint)
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-CAfile", own.certificate,
      "-verify_return_error", "-verify_hostname", "localhost", "-quiet", "-no_ign_eof" }
    s:write "hello\n"
    assert.equal("hello", s:line "hello")
    s:closeInput()
    s:wait()
    local log = certificates.sclient(h.port, "", { "-CAfile", own.certificate, "-brief" })
    assert.truthy(log:find("TLSv1.3", 1, true) and log:find("Verification: OK", 1, true), log)
  end)

  it("takes and gives megabytes, byte for byte, over TLS 1.2 and 1.3", function()
    local h = echo()
    local path = host.file("big", BIG:rep(4))
    for _, version in ipairs { "TLS1.2", "TLS1.3" } do
      local words = ("cafile=%s,commonname=localhost,openssl-min-proto-version=%s,openssl-max-proto-version=%s")
        :format(own.certificate, version, version)
      local status, out, log = process.run(socat(h.port, words, path))
      assert.equal(0, status, log)
      assert.is_true(out == BIG:rep(4), #out .. " bytes came back")
    end
  end)

  it("is what loads OpenSSL: a host without one does not", function()
    local function loads(h)
      local maps = assert(io.open(("/proc/%d/maps"):format(h.process.pid)))
      local text = maps:read "*a"
      maps:close()
      return text:find("libssl", 1, true) ~= nil
    end
    local plain = host.run { "echo", "listen=tcp:127.0.0.1:0", options = { "--control=" .. host.folder() .. "/2" } }
    plain:connect():send("x\n"):line()
    assert.is_false(loads(plain))
    assert.is_true(loads(echo()))
  end)

  it("speaks to curl", function()
    local h = host.serve([[
      local P = require "skald.basic".LineReceiver {}
      function P:lineReceived(line)
        if line == "" then
          self.transport:write "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
          self.transport:loseConnection()
        end
      end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    local status, out, log = process.run { "curl", "-sS", "--cacert", own.certificate,
      ("https://localhost:%d/"):format(h.port) }
    assert.equal(0, status, log)
    assert.equal("hello", out)
  end)

  it("speaks on a Unix socket", function()
    local path = host.folder() .. "/tls.sock"
    local h = host.run { "echo", ("listen=tls:unix:%s:certificate=%s:privateKey=%s"):format(path, own.certificate, own.key) }
    assert.equal("tls:unix:" .. path, h.endpoints[1].endpoint)
    local s = process.start { "openssl", "s_client", "-unix", path, "-quiet" }
    s:write "over unix\n"
    assert.equal("over unix", s:line "over unix")
  end)

  it("refuses what is below TLS 1.2", function()
    local h = echo()
    for _, version in ipairs { "-tls1", "-tls1_1" } do
      local log = certificates.sclient(h.port, "", { version, "-cipher", "ALL:@SECLEVEL=0" })
      assert.truthy(log:find "alert protocol version" or log:find "no protocols available", log)
    end
  end)

  it("gives sslscan nothing to complain of", function()
    local _, out = process.run { "sslscan", "--no-colour", "--no-cipher-details", "127.0.0.1:" .. echo().port, deadline = 60 }
    for _, old in ipairs { "SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1" } do
      assert.truthy(out:find(old .. " +disabled"), out)
    end
    assert.truthy(out:find "TLSv1.2 +enabled" and out:find "TLSv1.3 +enabled", out)
    assert.truthy(out:find "Session renegotiation not supported", out)
    assert.is_nil(out:find "[^t]%s+vulnerable to heartbleed")
    assert.is_nil(out:find "Compression enabled")
    local count = 0
    for cipher in out:gmatch "%a+ +TLSv1%.[23] +%d+ bits +([%u%d_-]+)" do
      count = count + 1
      assert.truthy(cipher:find "GCM" or cipher:find "POLY1305", cipher)
    end
    assert.is_true(count >= 5, out)
  end)

  it("does not renegotiate, and goes on", function()
    local h = echo()
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-tls1_2" }
    s:line "^    Verify return code"
    s:write "R\n"
    s:errorLine "no renegotiation"
    local log = certificates.sclient(h.port, "", { "-brief" })
    assert.truthy(log:find "ESTABLISHED", log)
  end)

  it("picks the certificate by the name that is asked for, else the first", function()
    local other = certificates.selfSigned("other.example", { "other.example", "*.wild.example" })
    local h = host.run { "echo", ("listen=tls:127.0.0.1:0:certificate=%s,%s:privateKey=%s,%s")
      :format(own.certificate, other.certificate, own.key, other.key) }
    for name, subject in pairs { ["other.example"] = "other.example", ["a.wild.example"] = "other.example",
      ["localhost"] = "localhost", ["nobody.example"] = "localhost" } do
      local log = certificates.sclient(h.port, "", { "-servername", name })
      assert.truthy(log:find("subject=CN = " .. subject, 1, true), log)
    end
  end)

  it("shows a certificate that the client can check, of those of the same names", function()
    local names = { "localhost", "two.example" }
    local rsa = certificates.selfSigned("localhost", { "two.example", "localhost" }, { kind = "RSA", file = "rsa" })
    own = certificates.selfSigned("localhost", names)
    local h = host.run { "echo", ("listen=tls:127.0.0.1:0:certificate=%s,%s:privateKey=%s,%s")
      :format(own.certificate, rsa.certificate, own.key, rsa.key) }
    local function signature(...)
      local found = {}
      for i, name in ipairs(names) do
        local log = certificates.sclient(h.port, "", { "-servername", name, "-brief", ... })
        assert.truthy(log:find "ESTABLISHED", log)
        found[i] = log:match "Signature type: ([^\n]*)"
      end
      assert.equal(found[1], found[2])
      return found[1]
    end
    assert.equal("ECDSA", signature "-tls1_3")
    assert.equal("RSA-PSS", signature("-tls1_3", "-sigalgs", "RSA-PSS+SHA256"))
    assert.equal("ECDSA", signature "-tls1_2")
    assert.equal("RSA-PSS", signature("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"))
  end)

  it("refuses a pair whose key is another one's of the same names", function()
    local rsa = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" }, { kind = "RSA", file = "rsa" })
    local status, _, log = host.command { "check", "echo", ("listen=tls:0:certificate=%s,%s:privateKey=%s,%s")
      :format(own.certificate, rsa.certificate, own.key, own.key) }
    assert.equal(1, status)
    assert.truthy(log:find("the private key does not fit the certificate", 1, true), log)
    status, _, log = host.command { "check", "echo", ("listen=tls:0:certificate=%s,%s:privateKey=%s,%s")
      :format(rsa.certificate, own.certificate, rsa.key, rsa.key) }
    assert.equal(1, status)
    assert.truthy(log:find("the private key does not fit the certificate", 1, true), log)
  end)

  it("sends its chain", function()
    local root = certificates.selfSigned("root", nil)
    local middle = certificates.selfSigned("middle", nil)
    local leaf = certificates.signed(middle, "leaf.example")
    local file = assert(io.open(leaf.certificate, "ab"))
    file:write(assert(io.open(middle.certificate)):read "*a")
    file:close()
    local h = host.run { "echo", "listen=" .. certificates.endpoint(leaf) }
    local log = certificates.sclient(h.port, "", { "-CAfile", middle.certificate, "-verify_return_error" })
    assert.truthy(log:find("Verify return code: 0 (ok)", 1, true), log)
    assert.truthy(log:find " 1 s:CN = middle", log)
    assert.truthy(root)
  end)

  it("chooses what is spoken by its own order, and refuses who speaks nothing of it", function()
    local h = echo "alpn=h2,http/1.1"
    local log = certificates.sclient(h.port, "", { "-alpn", "http/1.1,h2" })
    assert.truthy(log:find("ALPN protocol: h2", 1, true), log)
    log = certificates.sclient(h.port, "", { "-alpn", "smtp" })
    assert.truthy(log:find "alert no application protocol", log)
    log = certificates.sclient(h.port, "", {})
    assert.truthy(log:find "No ALPN negotiated", log)
  end)

  describe("that asks for certificates", function()
    local authority, friend, stranger
    local script = [[
      local P = {}
      function P:handshakeCompleted()
        local c = self.transport:getPeerCertificate()
        print("shaken", c and c.subject, c and table.concat(c.names, " "), c and c.issuer)
      end
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(reason) print("lost", reason.code, reason.message) end
      return { listen = (...).at, protocol = P }]]

    before_each(function()
      authority = certificates.selfSigned("authority", nil)
      friend = certificates.signed(authority, "friend", { "friend.example", "10.1.2.3" })
      stranger = certificates.selfSigned("stranger", { "stranger.example" })
    end)

    local function serve(demand)
      local more = ("clientCA=%s:clientCertificate=%s"):format(authority.certificate, demand)
      return host.serve(script, { "at=" .. certificates.endpoint(own, more) })
    end

    local function try(h, with, version)
      local words = { version or "-tls1_3" }
      if with then
        words = { version or "-tls1_3", "-cert", with.certificate, "-key", with.key }
      end
      return (certificates.sclient(h.port, "", words))
    end

    it("takes those of its authority, and knows whose they are", function()
      local h = serve "required"
      try(h, friend)
      assert.same({ "CN=friend", "friend.example 10.1.2.3", "CN=authority" },
        { h:line "^shaken\t([^\t]*)\t([^\t]*)\t([^\t]*)$" })
    end)

    it("refuses others, and who has none", function()
      local h = serve "required"
      try(h, stranger)
      assert.truthy(h:line "^lost\tlost\t(.*)$":find "certificate is not accepted")
      try(h, nil, "-tls1_2")
      assert.truthy(h:line "^lost\tlost\t(.*)$":find "did not return a certificate")
    end)

    it("lets who has none in where it is optional, but not who has a wrong one", function()
      local h = serve "optional"
      try(h)
      assert.equal("nil", (h:line "^shaken\t([^\t]*)"))
      h:line "^lost"
      try(h, stranger)
      assert.truthy(h:line "^lost\tlost\t(.*)$":find "certificate is not accepted")
    end)

    it("asks again where the session was made without being asked", function()
      local session = host.folder() .. "/session"
      local plain = host.run { "echo", "listen=" .. certificates.endpoint(own),
        options = { "--control=" .. host.folder() .. "/2" } }
      certificates.sclient(plain.port, "", { "-tls1_2", "-sess_out", session })
      local h = serve "required"
      certificates.sclient(h.port, "", { "-tls1_2", "-sess_in", session })
      assert.equal("lost", (h:line "^lost\t(%w+)"))
    end)
  end)

  it("ends a client that says nothing, when the time for the handshake is over", function()
    local h = host.serve([[
      local P = {}
      function P:connectionLost(reason) print("lost", reason.code, reason.by, reason.message) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own, "handshakeTimeout=0.2") })
    local c = h:connect()
    assert.same({ "", "eof" }, { c:receiveAll() })
    assert.truthy(h:line "^lost\ttimeout\thost\t(.*)$":find "no TLS handshake within 0.2 s")
  end)

  it("tells what it could not make of a client", function()
    local h = host.serve([[
      local P = {}
      function P:connectionLost(reason) print("lost", reason.code, reason.by, reason.message) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    h:connect():send "GET / HTTP/1.0\r\n\r\n"
    assert.truthy(h:line "^lost\tlost\tpeer\t(.*)$":find "http request")
    h:connect():halfClose()
    assert.truthy(h:line "^lost\tlost\tpeer\t(.*)$":find "closed during the TLS handshake")
  end)

  it("calls a stream that ends without close_notify lost, one with it done", function()
    local h = host.serve([[
      local P = {}
      function P:handshakeCompleted() print "shaken" end
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(reason) print("lost", reason.code, reason.message) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-quiet" }
    s:write "x\n"
    s:line "x" -- it has read what came before too, so that its end is no reset
    s:kill "KILL"
    assert.truthy(h:line "^lost\tlost\t(.*)$":find "truncated")
    certificates.sclient(h.port, "")
    h:line "shaken"
    h:line "^lost\tdone"
  end)

  it("sends the rest, close_notify and FIN after the client's close_notify", function()
    local h = host.serve([[
      local P = {}
      function P:readConnectionLost()
        self.transport:write(("z"):rep(3000000))
        self.transport:loseConnection()
      end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    local status, out, log = process.run(socat(h.port, "verify=0", "/dev/null"))
    assert.equal(0, status, log)
    assert.equal(3000000, #out)
  end)

  it("goes on reading after loseWriteConnection", function()
    local h = host.serve([[
      local P, n = {}, 0
      function P:handshakeCompleted()
        self.transport:write "bye"
        self.transport:loseWriteConnection()
      end
      function P:writeConnectionLost() print "closed" end
      function P:dataReceived(data) n = n + #data end
      function P:connectionLost(reason) print("lost", reason.code, n) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    local peer = clientOf(("tls:127.0.0.1:%d:trust=%s"):format(h.port, own.certificate), [[
      self.readConnectionLost = function() self.transport:write(("y"):rep(500000)) self.transport:loseConnection() end
    ]])
    h:line "closed"
    assert.equal("500006", (h:line "^lost\tdone\t(%d+)$"))
    peer:line "lost\tdone"
  end)

  it("holds a producer back while the client does not read, and drops nothing", function()
    local h = host.serve([[
      local P, paused = {}, 0
      function P:handshakeCompleted()
        self.left = 200
        self.transport:registerProducer(self, true)
        self:resumeProducing()
      end
      function P:pauseProducing() self.waiting = true paused = paused + 1 end
      function P:resumeProducing()
        self.waiting = false
        while self.left > 0 and not self.waiting do
          self.left = self.left - 1
          self.transport:write(("p"):rep(50000))
        end
        if self.left == 0 then
          self.transport:unregisterProducer()
          self.transport:loseConnection()
        end
      end
      function P:connectionLost(reason) print("lost", reason.code, paused > 0) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own) })
    local status, out = process.shell(("openssl s_client -connect 127.0.0.1:%d -quiet 2>/dev/null </dev/zero | (sleep 0.3; wc -c)")
      :format(h.port))
    assert.equal(0, status)
    assert.equal(10000000, tonumber(out))
    assert.equal("true", (h:line "^lost\tdone\t(%w+)$"))
  end)

  it("sends files, and pipes", function()
    local path = host.file("big", BIG)
    local h = host.serve(([[
      local Sender, path = {}, %q
      function Sender:handshakeCompleted()
        self.transport:write "head"
        self.transport:sendFile(path, 16):addCallback(function(n) print("sent", n) end)
        self.transport:write "tail"
        self.transport:loseConnection()
      end
      local Pipe = {}
      function Pipe:connectionMade() self.transport:pipe(self.transport) end
      local o = ...
      return { { name = "a", listen = o.at, protocol = Sender }, { name = "b", listen = o.at, protocol = Pipe } }
    ]]):format(path), { "at=" .. certificates.endpoint(own), listening = 2 })
    local _, out = process.run(socat(h.endpoints[1].port, "verify=0,ignoreeof", "/dev/null"))
    assert.is_true(out == "head" .. BIG:sub(17) .. "tail", #out .. " bytes")
    assert.equal(tostring(#BIG - 16), (h:line "^sent\t(%d+)"))
    _, out = process.run(socat(h.endpoints[2].port, "verify=0", path))
    assert.is_true(out == BIG, #out .. " bytes")
  end)

  it("that cannot read its certificate does not start, and says the line", function()
    local script = host.script(('return {\n  listen = "tls:127.0.0.1:0:certificate=%s/none.pem",\n  protocol = {} }')
      :format(host.folder()))
    for _, command in ipairs { "check", "run" } do
      local status, _, log = host.command { command, script }
      assert.equal(1, status)
      assert.truthy(log:find(script .. ":2: ", 1, true) and log:find "none.pem: No such file", log)
    end
  end)

  it("refuses a key that is another certificate's", function()
    local other = certificates.selfSigned("other", nil)
    local status, _, log = host.command { "run", "echo",
      ("listen=tls:127.0.0.1:0:certificate=%s:privateKey=%s"):format(own.certificate, other.key) }
    assert.equal(1, status)
    assert.truthy(log:find("does not fit", 1, true), log)
  end)
end)

describe("a reload", function()
  local own, script, h

  before_each(function()
    own = certificates.selfSigned("first", { "localhost" })
    script = host.file("service.lua", [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      return { listen = (...).at, protocol = P }]])
    h = host.run { script, "at=" .. certificates.endpoint(own) }
  end)
  after_each(host.cleanup)

  local function subject()
    return certificates.sclient(h.port, ""):match "subject=CN = (%w+)"
  end

  local function replace(made)
    process.shell(("cp %s/%s.pem %s && cp %s/%s.key %s"):format(host.folder(), made, own.certificate, host.folder(), made,
      own.key))
  end

  it("reads certificates again for new handshakes, and leaves live sessions alone", function()
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-quiet" }
    s:write "before\n"
    s:line "before"
    certificates.selfSigned("second", { "localhost" })
    replace "second"
    assert.equal("first", subject())
    local status, out = host.command { "reload" }
    assert.equal(0, status, out)
    assert.equal("second", subject())
    s:write "after\n"
    s:line "after"
  end)

  it("is refused by a bad certificate, which changes nothing, and tried again when that is better", function()
    host.file("first.pem", "no certificate at all")
    local status, out, log = host.command { "reload" }
    assert.equal(1, status)
    assert.truthy((out .. log):find "no certificate in it", out .. log)
    assert.equal("first", subject())
    certificates.selfSigned("second", { "localhost" })
    replace "second"
    assert.equal(0, (host.command { "reload" }))
    assert.equal("second", subject())
  end)

  it("has nothing to do while the files are as they were", function()
    local _, out = host.command { "reload" }
    assert.truthy(out:find "unchanged" or out:find "nothing", out)
  end)
end)

describe("a TLS client", function()
  local authority, server

  before_each(function()
    authority = certificates.selfSigned("authority", nil)
    server = certificates.signed(authority, "server", { "server.example", "127.0.0.1" })
  end)
  after_each(host.cleanup)

  local function echo(more)
    return host.run { "echo", "listen=" .. certificates.endpoint(server, more),
      options = { "--control=" .. host.folder() .. "/echo.ctl" } }
  end

  it("is connected when the handshake is over, and sends what was written before", function()
    local h = echo "alpn=echo"
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:alpn=other,echo"):format(h.port, authority.certificate))
    c:line "^made"
    c:line "^shaken\techo"
    c:line "^connected"
    c:line "^data\thello"
  end)

  it("checks the name that it is given", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:hostname=server.example"):format(h.port, authority.certificate))
    c:line "^connected"
  end)

  it("fails where the name is another one", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:hostname=other.example"):format(h.port, authority.certificate))
    assert.truthy(c:line "^failed\t(.*)$":lower():find "hostname mismatch")
    assert.is_false(c:has "^connected")
    assert.is_false(c:has "^shaken")
  end)

  it("takes a name with a dot at its end for the name without", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:hostname=server.example."):format(h.port, authority.certificate))
    c:line "^connected"
  end)

  it("does not look for the name in the certificate's subject", function()
    server = certificates.signed(authority, "server.example", { "127.0.0.1" })
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:hostname=server.example"):format(h.port, authority.certificate))
    assert.truthy(c:line "^failed\t(.*)$":lower():find "hostname mismatch")
  end)

  it("says where the server does not speak TLS", function()
    local plain = host.serve([[
      local Plain = {}
      function Plain:connectionMade() self.transport:write "220 good morning\r\n" end
      return { listen = "tcp:127.0.0.1:0", protocol = Plain }
    ]], { options = { "--control=" .. host.folder() .. "/2" } })
    local c = clientOf(("tls:127.0.0.1:%d:verify=no"):format(plain.port))
    assert.truthy(c:line "^failed\t(.*)$":find("TLS: what the peer sends is no TLS", 1, true))
  end)

  it("fails where nobody vouches for the server: the system's certificates by default", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d"):format(h.port))
    assert.truthy(c:line "^failed\t(.*)$":find "unable to get local issuer certificate")
  end)

  it("takes anybody where it is told to, and says so in the log", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:verify=no"):format(h.port))
    c:line "^connected"
    assert.equal(1, c:logged "verify=no")
  end)

  it("shows its own certificate to openssl s_server", function()
    local friend = certificates.signed(authority, "friend")
    local s = process.start { "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", server.certificate, "-key",
      server.key, "-CAfile", authority.certificate, "-Verify", "1" }
    local port = s:line "^ACCEPT .*:(%d+)$"
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s:certificate=%s:privateKey=%s"):format(port, authority.certificate,
      friend.certificate, friend.key))
    c:line "^connected"
    s:errorLine "CN = friend"
    s:line "hello"
  end)

  it("knows the server's certificate", function()
    local h = echo()
    local c = clientOf(("tls:127.0.0.1:%d:trust=%s"):format(h.port, authority.certificate), [[
      local found = self.transport:getPeerCertificate()
      print("peer", found.subject, found.issuer, table.concat(found.names, ","), found.fingerprint,
        found.notAfter - found.notBefore, #found.pem)
    ]])
    local subject, issuer, names, fingerprint, life = c:line "^peer\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(%d+)"
    assert.same({ "CN=server", "CN=authority", "server.example,127.0.0.1" }, { subject, issuer, names })
    assert.equal(30 * 86400, tonumber(life))
    local _, out = process.run { "openssl", "x509", "-in", server.certificate, "-noout", "-fingerprint", "-sha256" }
    assert.equal(out:match("=(%S+)"):gsub(":", ""):lower(), fingerprint)
  end)

  it("gives up a server that does not shake hands", function()
    local silent = host.serve([[return { listen = "tcp:127.0.0.1:0", protocol = {} }]],
      { options = { "--control=" .. host.folder() .. "/2" } })
    local c = clientOf(("tls:127.0.0.1:%d:verify=no:handshakeTimeout=0.2"):format(silent.port))
    assert.truthy(c:line "^failed\t(.*)$":find "no TLS handshake within 0.2 s")
  end)
end)

describe("the reactor", function()
  after_each(host.cleanup)

  it("listens and connects with TLS, on ports and on Unix sockets", function()
    local own = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" })
    local h = host.serve(([[
      local reactor, protocol = require "skald.reactor", require "skald.protocol"
      local Echo, Client = protocol.Protocol {}, protocol.Protocol {}
      function Echo:dataReceived(data) self.transport:write(data) end
      function Client:connectionMade() self.transport:write(self.factory.name) end
      function Client:dataReceived(data) print("back", data) end
      local server = { certificate = %q, privateKey = { %q }, alpn = { "x" } }
      local client = { trust = server.certificate, alpn = "x" }
      local function with(options, more)
        local all = {}
        for k, v in pairs(options) do all[k] = v end
        for k, v in pairs(more) do all[k] = v end
        return all
      end
      local function factory(name) return protocol.ClientFactory { protocol = Client, name = name } end
      local port = reactor.listenSSL(0, { protocol = Echo }, with(server, { interface = "127.0.0.1" }))
      reactor.listenUNIX(%q, { protocol = Echo }, { tls = server })
      reactor.callWhenRunning(function()
        reactor.connectSSL("localhost", port:getHost().port, factory "port", client)
        reactor.connectUNIX(%q, factory "path", { tls = with(client, { hostname = "localhost" }) })
      end)
    ]]):format(own.certificate, own.key, host.folder() .. "/s", host.folder() .. "/s"), { listening = 2 })
    local back = { h:line "^back\t(.*)$", (h:line "^back\t(.*)$") }
    table.sort(back)
    assert.same({ "path", "port" }, back)
  end)

  it("raises misuse of TLS at the caller's line, and answers what a file is not", function()
    local text = [[
      local reactor = require "skald.reactor"
      local f = { protocol = {} }
      local function try(...) print("said", select(2, pcall(...))) end
      try(function() reactor.listenSSL(0, f) end) -- none
      try(function() reactor.listenSSL(0, f, { certificate = "c", trust = "t" }) end) -- unknown
      try(function() reactor.connectSSL("a", 1, f, { verify = 1 }) end) -- wrong
      try(function() reactor.connectUNIX("/x", f, { tls = {} }) end) -- nobody
      try(function() reactor.listenUNIX("/x", f, { tls = { certificate = 1 } }) end) -- number
      reactor.callWhenRunning(function() print("said", reactor.listenSSL(0, f, { certificate = "/none" })) end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = host.serve(text)
    for mark, message in pairs {
      ["-- none"] = "listenSSL: a server takes a certificate",
      ["-- unknown"] = "listenSSL knows no option 'trust'",
      ["-- wrong"] = "connectSSL: verify is 'yes' or 'no', not 1",
      ["-- nobody"] = "connectUNIX: whom to expect is not said",
      ["-- number"] = "listenUNIX: certificate is a string, or a list of them, not 1",
    } do
      local expected = ("script.lua:%d: %s"):format(host.lineOf(text, mark), message)
      assert.truthy(h:output():find(expected, 1, true), expected)
    end
    assert.equal("/none: No such file or directory\tENOENT", h:line "^said\tnil\t(.*)$")
  end)
end)

describe("startTLS", function()
  local own

  before_each(function()
    own = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" })
  end)
  after_each(host.cleanup)

  -- A service that turns to TLS in mid-stream, and back to echo.
  local function service()
    return host.serve(([[
      local P = require "skald.basic".LineReceiver {}
      function P:connectionMade() self:sendLine "220 ready" end
      function P:lineReceived(line)
        if line == "STARTTLS" then
          self:sendLine "220 go on"
          print(self.transport:startTLS { certificate = %q, privateKey = %q })
          self:sendLine "250 encrypted"
        else
          self:sendLine((self.safe and "safe " or "plain ") .. line)
        end
      end
      function P:handshakeCompleted() self.safe = true print "shaken" end
      function P:connectionLost(reason) print("lost", reason.code, reason.message) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(own.certificate, own.key), { options = { "--control=" .. host.folder() .. "/2" } })
  end

  it("serves openssl s_client -starttls smtp", function()
    local h = host.serve(([[
      local P = require "skald.basic".LineReceiver {}
      function P:connectionMade() self:sendLine "220 ready" end
      function P:lineReceived(line)
        if line:find "^EHLO" then
          self:sendLine "250-here" self:sendLine "250 STARTTLS"
        elseif line == "STARTTLS" then
          self:sendLine "220 go on"
          self.transport:startTLS { certificate = %q, privateKey = %q }
        else
          self:sendLine("echo " .. line)
        end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(own.certificate, own.key))
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-starttls", "smtp", "-quiet" }
    s:write "hello\r\n"
    s:line "echo hello"
  end)

  it("begins in mid-stream from either side, in order with what is written", function()
    local h = service()
    local c = host.serve(([[
      local reactor, basic = require "skald.reactor", require "skald.basic"
      local P = basic.LineReceiver {}
      function P:lineReceived(line)
        print("line", line)
        if line == "220 ready" then
          self:sendLine "one"
        elseif line == "plain one" then
          self:sendLine "STARTTLS"
        elseif line == "220 go on" then
          print("start", self.transport:startTLS { trust = %q })
          self:sendLine "two"
        end
      end
      function P:handshakeCompleted() print "shaken" end
      reactor.connectTCP("127.0.0.1", %d, require "skald.protocol".ClientFactory { protocol = P })
    ]]):format(own.certificate, h.port), { listening = 0 })
    c:line "line\tplain one"
    c:line "start\ttrue"
    c:line "shaken"
    c:line "line\t250 encrypted"
    c:line "line\tsafe two"
  end)

  it("keeps what it has read for other names, too", function()
    local h = service()
    local c = host.serve(([[
      local reactor, basic, protocol = require "skald.reactor", require "skald.basic", require "skald.protocol"
      local trust = %q
      local function connect(name)
        local P = basic.LineReceiver {}
        function P:lineReceived(line)
          if line == "220 ready" then
            self:sendLine "STARTTLS"
          elseif line == "220 go on" then
            print("start", self.transport:startTLS { trust = trust, hostname = name })
          end
        end
        function P:handshakeCompleted()
          print("shaken", name)
          if name == "localhost" then
            os.remove(trust)
            connect "127.0.0.1"
          end
        end
        reactor.connectTCP("127.0.0.1", %d, protocol.ClientFactory { protocol = P })
      end
      connect "localhost"
    ]]):format(own.certificate, h.port), { listening = 0 })
    c:line "^start\ttrue"
    c:line "^shaken\tlocalhost"
    c:line "^start\ttrue"
    c:line "^shaken\t127%.0%.0%.1"
  end)

  it("drops what came in the clear behind the line that asked for it", function()
    local h = service()
    local c = h:connect()
    assert.equal("220 ready", c:line())
    c:send "STARTTLS\r\nINJECTED\r\n"
    assert.equal("220 go on", c:line())
    h:line "^true"
    c:close()
    assert.equal("lost", (h:line "^lost\t(%w+)"))
    assert.is_false(h:has "INJECTED")
  end)

  it("sends a long queue in the clear first", function()
    local h = host.serve(([[
      local P = {}
      function P:dataReceived(data)
        if self.begun then
          self.transport:write(data)
        else
          self.begun = true
          for i = 1, 40 do self.transport:write(("c"):rep(50000)) end
          self.transport:startTLS { certificate = %q, privateKey = %q }
          self.transport:write "encrypted"
        end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(own.certificate, own.key))
    local c = h:connect { rcvbuf = 4096 }
    c:send "go"
    assert.equal(("c"):rep(2000000), c:receive(2000000))
    c:send "no handshake\n\n\n\n"
    local rest = c:receiveAll()
    assert.is_nil(rest:find "encrypted")
  end)

  it("answers what cannot be", function()
    local h = host.serve(host.commands(([[
      local good = { certificate = %q, privateKey = %q }
      function commands.none(p, t) print("none", t:startTLS { certificate = "/none.pem" }) end
      function commands.twice(p, t) t:startTLS(good) print("twice", t:startTLS(good)) end
      function commands.closed(p, t) t:loseConnection() print("closed", t:startTLS(good)) end
      function commands.misuse(p, t) print("misuse", pcall(t.startTLS, t, { certificat = 1 })) end
    ]]):format(own.certificate, own.key)))
    h:connect():send "none\n"
    assert.equal("none\tnil\t/none.pem: No such file or directory\tENOENT", h:line "^none.*")
    h:connect():send "twice\n"
    assert.truthy(h:line "^twice.*":find "EALREADY")
    h:connect():send "closed\n"
    assert.truthy(h:line "^closed.*":find "EPIPE")
    h:connect():send "misuse\n"
    assert.truthy(h:line "^misuse.*":find "knows no option 'certificat'")
  end)
end)
