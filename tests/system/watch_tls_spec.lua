-- `run --watch` and the files of TLS: new ones are read for new handshakes, bad ones change nothing.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

describe("a host that watches", function()
  local first, second, h

  before_each(function()
    first = certificates.selfSigned("first", { "localhost" })
    second = certificates.selfSigned("second", { "localhost" })
  end)
  after_each(host.cleanup)

  local function serve(certificate, key, script)
    script = script or host.file("echo.lua", [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      return { listen = (...).listen, protocol = P }]])
    h = host.run { script, ("listen=tls:127.0.0.1:0:certificate=%s:privateKey=%s"):format(certificate, key),
      options = { "--watch" } }
  end

  local function subject()
    return (certificates.sclient(h.port, ""):match "subject=CN = (%S+)")
  end

  local function sh(text, ...)
    local status, _, log = process.run { "sh", "-c", text, "sh", ... }
    assert.equal(0, status, log)
  end

  it("reads a certificate and a key that are written in place", function()
    serve(first.certificate, first.key)
    assert.equal("first", subject())
    sh('cat "$1" > "$3" && cat "$2" > "$4"', second.certificate, second.key, first.certificate, first.key)
    h:waitLog "generation 1 %-> 2"
    assert.equal("second", subject())
  end)

  it("reads what a link leads to that is turned elsewhere, as certbot does it", function()
    local folder = host.folder()
    sh('mkdir "$1/live" "$1/archive" && cp "$2" "$1/archive/c1.pem" && cp "$3" "$1/archive/k1.pem" &&' ..
      'ln -s ../archive/c1.pem "$1/live/c.pem" && ln -s ../archive/k1.pem "$1/live/k.pem"',
      folder, first.certificate, first.key)
    serve(folder .. "/live/c.pem", folder .. "/live/k.pem")
    assert.equal("first", subject())
    sh('cp "$2" "$1/archive/c2.pem" && cp "$3" "$1/archive/k2.pem" && cd "$1/live" && ln -s ../archive/c2.pem c &&' ..
      'mv -T c c.pem && ln -s ../archive/k2.pem k && mv -T k k.pem', folder, second.certificate, second.key)
    h:waitLog "generation 1 %-> 2"
    assert.equal("second", subject())
  end)

  it("reads what lies behind a link to a link that is turned elsewhere, as in a volume of Kubernetes", function()
    local folder = host.folder()
    sh('cd "$1" && mkdir one two volume && cp "$2" one/c.pem && cp "$3" one/k.pem && cp "$4" two/c.pem &&' ..
      'cp "$5" two/k.pem && cd volume && ln -s ../one data && ln -s data/c.pem c.pem && ln -s data/k.pem k.pem',
      folder, first.certificate, first.key, second.certificate, second.key)
    serve(folder .. "/volume/c.pem", folder .. "/volume/k.pem")
    assert.equal("first", subject())
    sh('cd "$1/volume" && ln -s ../two new && mv -T new data', folder)
    h:waitLog "generation 1 %-> 2"
    assert.equal("second", subject())
  end)

  it("follows a link beside other files, in whichever of its names that folder is given", function()
    local folder = host.folder()
    sh('cd "$1" && mkdir one two && cp "$2" one/c.pem && cp "$3" two/c.pem && ln -s one live', folder,
      first.certificate, second.certificate)
    local text, listen = "return { listen = (...).listen, protocol = {} }", "listen=tls:127.0.0.1:0:privateKey=first.key"
    h = host.run { host.file("a.lua", text), listen .. ":certificate=live/c.pem",
      host.file("b.lua", text), listen .. ":certificate=first.pem", listening = 2, options = { "--watch" },
      through = { "sh", "-c", ('b=$(realpath "$1"); shift; cd %s; exec "$b" "$@"'):format(folder), "sh" } }
    sh('cd "$1" && ln -s two new && mv -T new live', folder)
    h:waitLog "the private key does not fit the certificate"
  end)

  it("serves on with the old ones while only one of both is there, and says so", function()
    serve(first.certificate, first.key)
    sh('cp "$1" "$2.new" && mv "$2.new" "$2"', second.certificate, first.certificate)
    h:waitLog "the private key does not fit the certificate"
    assert.equal("first", subject())
    sh('cp "$1" "$2.new" && mv "$2.new" "$2"', second.key, first.key)
    h:waitLog "generation 1 %-> 2"
    assert.equal("second", subject())
    assert.equal(1, h:logged "the private key does not fit the certificate")
  end)

  it("follows the files of a bundled service, too", function()
    serve(first.certificate, first.key, "echo")
    assert.equal("first", subject())
    sh('cp "$1" "$3" && cp "$2" "$4"', second.certificate, second.key, first.certificate, first.key)
    h:waitLog "generation 1 %-> 2"
    assert.equal("second", subject())
  end)

  it("has authorities read again, too", function()
    local one = certificates.selfSigned("authority", nil)
    local friend = certificates.signed(one, "friend")
    h = host.run { "echo", "listen=" .. certificates.endpoint(first, "clientCA=" .. one.certificate),
      options = { "--watch" } }
    local words = { "-tls1_2", "-cert", friend.certificate, "-key", friend.key, "-brief" }
    assert.truthy(certificates.sclient(h.port, "", words):find "ESTABLISHED")
    sh('cp "$1" "$2"', second.certificate, one.certificate)
    h:waitLog "generation 1 %-> 2"
    assert.falsy(certificates.sclient(h.port, "", words):find "ESTABLISHED")
  end)
end)
