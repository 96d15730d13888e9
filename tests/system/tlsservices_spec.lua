-- Bundled services over TLS, and what their real clients say of that.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

local sys = process.sys

describe("a bundled service over TLS", function()
  local own

  before_each(function()
    own = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" })
  end)
  after_each(host.cleanup)

  local function cli(h, ...)
    local status, out, log = process.run {
      "redis-cli", "-h", "127.0.0.1", "-p", h.port, "--tls", "--cacert", own.certificate, ...,
    }
    assert.equal(0, status, log)
    return out
  end

  it("keyvalue answers redis-cli, with pub/sub and values of a megabyte", function()
    local h = host.run { "keyvalue", "listen=" .. certificates.endpoint(own) }
    assert.equal("OK\n", cli(h, "SET", "a", "1"))
    assert.equal("1\n", cli(h, "GET", "a"))
    local big = host.file("big", ("0123456789abcdef"):rep(65536))
    local status, _, log = process.shell(("redis-cli -h 127.0.0.1 -p %d --tls --cacert %s -x SET big <%s"):format(h.port,
      own.certificate, big))
    assert.equal(0, status, log)
    assert.equal(1048576 + 1, #cli(h, "GET", "big"))
    local listener = process.start {
      "redis-cli", "-h", "127.0.0.1", "-p", h.port, "--tls", "--cacert", own.certificate, "SUBSCRIBE", "news",
    }
    assert.equal("1", listener:line "^(1)$")
    assert.equal("1\n", cli(h, "PUBLISH", "news", "hello"))
    assert.equal("hello", listener:line "hello")
  end)

  local function sink()
    return host.run {
      "smtpsink", "listen=tcp:127.0.0.1:0", "show=tcp:127.0.0.1:0", listening = 2,
      "certificate=" .. own.certificate, "privateKey=" .. own.key,
    }
  end

  it("smtpsink takes a message of swaks behind STARTTLS, and offers that once", function()
    local h = sink()
    local status, out = process.run {
      "swaks", "--server", "127.0.0.1", "--port", h.port, "--from", "me@example.org", "--to", "you@example.org", "--tls",
      "--tls-verify", "--tls-ca-path", own.certificate, "--body", "in private",
    }
    assert.equal(0, status, out)
    assert.matches("\n<%-  250%-STARTTLS", out)
    assert.matches("TLS started with cipher TLSv1%.3", out)
    assert.falsy(out:find("<~  250-STARTTLS", 1, true))
    assert.matches("\nin private\n", (h:connect(nil, 2):receiveAll()))
  end)

  it("smtpsink takes nothing that was said before the encryption", function()
    local h = sink()
    local c = h:connect()
    c:send "EHLO me\r\nMAIL FROM:<a@b>\r\n"
    sys.await(function() return c:line():find "^250 ok" end, function() return "the sender is not taken" end)
    c:send "STARTTLS\r\nRCPT TO:<injected@example.org>\r\nDATA\r\n"
    assert.matches("^220 ", c:line())
    c:send "QUIT\r\n" -- no handshake
    local rest = c:receiveAll()
    assert.falsy(rest:find("354", 1, true) or rest:find("250", 1, true), rest)
  end)

  it("smtpsink takes no STARTTLS without a certificate, and no certificate without a key", function()
    local h = host.run { "smtpsink", "listen=tcp:127.0.0.1:0" }
    local c = h:connect()
    c:send "EHLO me\r\nSTARTTLS\r\nQUIT\r\n"
    local all = c:receiveAll()
    assert.falsy(all:find("250-STARTTLS", 1, true))
    assert.matches("\r\n503 [^\r]+\r\n221 ", all)
    local status, _, log = host.command { "run", "smtpsink", "listen=tcp:127.0.0.1:0", "certificate=x" }
    assert.equal(1, status)
    assert.matches("certificate= and privateKey= come together", log)
  end)
end)
