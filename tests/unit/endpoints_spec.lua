local endpoints = require "skald.endpoints"

local function refused(s)
  local result, message = endpoints.parseServer(s)
  assert.is_nil(result)
  return message
end

describe("endpoints", function()
  it("splits fields by position and by name", function()
    local list, named = endpoints.parse "tcp:80:interface=127.0.0.1:backlog=50"
    assert.same({ "tcp", "80" }, list)
    assert.same({ interface = "127.0.0.1", backlog = "50" }, named)
  end)

  it("takes the character behind a backslash as it is", function()
    assert.same({ "unix", "/run/a:b=c\\d" }, (endpoints.parse [[unix:/run/a\:b\=c\\d]]))
  end)

  it("quotes what quoteStringArgument is given so that it comes back", function()
    for _, text in ipairs { "plain", "a:b", "a=b", [[a\b]], "[x]", "", ":=[]\\" } do
      assert.same({ "unix", text }, (endpoints.parse("unix:" .. endpoints.quoteStringArgument(text))))
    end
  end)

  it("keeps colons within brackets", function()
    assert.same({ "tcp", "[::1]", "80" }, (endpoints.parse "tcp:[::1]:80"))
  end)

  it("reads every form of tcp", function()
    assert.same({ type = "tcp", port = 8000 }, endpoints.parseServer "tcp:8000")
    assert.same({ type = "tcp", port = 0, interface = "127.0.0.1" }, endpoints.parseServer "tcp:127.0.0.1:0")
    assert.same({ type = "tcp", port = 8000, interface = "::1" }, endpoints.parseServer "tcp:[::1]:8000")
    assert.same(
      { type = "tcp", port = 8000, interface = "127.0.0.1", backlog = 50 },
      endpoints.parseServer "tcp:8000:interface=127.0.0.1:backlog=50"
    )
    assert.same({ type = "tcp", port = 8, interface = "::1" }, endpoints.parseServer [[tcp:8:interface=\:\:1]])
    assert.same({ type = "tcp", port = 8, interface = "127.0.0.1" }, endpoints.parseServer "tcp:localhost:8")
    assert.same({ type = "tcp", port = 8 }, endpoints.parseServer "tcp:port=8")
  end)

  it("reads unix with its mode as an octal number", function()
    assert.same({ type = "unix", path = "/run/x.sock", mode = 432 }, endpoints.parseServer "unix:/run/x.sock:mode=660")
    assert.equal(438, endpoints.parseServer("unix:/run/x.sock").mode)
  end)

  it("reads every form of udp", function()
    assert.same({ type = "udp", port = 53 }, endpoints.parseServer "udp:53")
    assert.same({ type = "udp", port = 53, interface = "127.0.0.1" }, endpoints.parseServer "udp:127.0.0.1:53")
    assert.same(
      { type = "udp", port = 53, interface = "::1", maxPacketSize = 512, reuse = true, broadcast = false },
      endpoints.parseServer "udp:[::1]:53:maxPacketSize=512:reuse=yes:broadcast=no"
    )
    assert.matches("column 8: maxPacketSize is a number from 1 to 65535, not '0'", refused "udp:53:maxPacketSize=0")
    assert.matches("column 8: reuse is yes or no, not '1'", refused "udp:53:reuse=1")
    assert.matches("column 9: haproxy: stands before connections", refused "haproxy:udp:53")
    assert.matches(
      "column 1: 'udp' is no kind of endpoint %(process, tcp, tls, unix%)", select(2, endpoints.parseClient "udp:a:53"))
  end)

  it("names the column of the field that is wrong", function()
    assert.equal(
      "bad endpoint 'tcp:99999': column 5: a port is a number from 0 to 65535, not '99999'",
      refused "tcp:99999"
    )
    assert.matches("column 10:", refused "tcp:8000:interface=nowhere")
    assert.matches("column 10: tcp knows no 'backlg' %(backlog, interface, port%)", refused "tcp:8000:backlg=5")
    assert.matches("column 5: this bracket is never closed", refused "tcp:[::1:80")
    assert.matches("column 9: a backslash at the end escapes nothing", refused [[unix:/a/\]])
    assert.matches("column 1: 'tpc' is no kind of endpoint %(fd, stdio, systemd, tcp, tls, udp, unix, haproxy%)", refused "tpc:80")
    assert.matches("column 5: an interface is given by its IP address", refused "tcp:[::g]:80")
    assert.matches("column 5: an interface is given by its IP address", refused "tcp:127.0.0.999:80")
    assert.matches("column 8: an interface is given by its IP address", refused "tcp:80:interface=300.1.1.1")
    assert.matches("column 6: the path of a socket has at most 107 bytes", refused("unix:" .. ("x"):rep(108)))
    for s, wanted in pairs { ["tcp:[::g]:80"] = "no IPv6 address", ["tcp:1.2.3:80"] = "no IPv4 address" } do
      local ok, message = endpoints.parseClient(s)
      assert.is_nil(ok)
      assert.matches("column 5: that is " .. wanted, message)
    end
    assert.matches("column 1:", refused "")
    assert.matches("column 4: a port is missing", refused "tcp")
    assert.matches("column 16: one field too many", refused "tcp:1.2.3.4:80:90")
    assert.matches("column 13: mode is octal", refused "unix:/run/x:mode=999")
    assert.matches("column 8: port is given twice", refused "tcp:80:port=90")
    assert.matches("column 5: a port is a number", refused "tcp:-1")
    assert.matches("column 5: a port is a number", refused "tcp:0x50")
    assert.matches("column 6: a path is missing", refused "unix:")
  end)

  it("reads stdio, which has nothing more to say", function()
    assert.same({ type = "stdio" }, endpoints.parseServer "stdio:")
    assert.same({ type = "stdio" }, endpoints.parseServer "stdio")
    assert.matches("column 7: one field too many", refused "stdio:x")
    assert.matches("column 7: stdio knows no 'mode'", refused "stdio:mode=600")
    assert.matches("column 9: haproxy: stands before a socket", refused "haproxy:stdio:")
  end)

  it("reads a process with its arguments, to connect to", function()
    assert.same({ type = "process", path = "/bin/cat", timeout = 30 }, endpoints.parseClient "process:/bin/cat")
    assert.same(
      { type = "process", path = "sh", rest = { "-c", "echo a:b", "" }, cwd = "/tmp", timeout = 5 },
      endpoints.parseClient [[process:sh:-c:echo a\:b::cwd=/tmp:timeout=5]]
    )
    local long = "/" .. ("long/"):rep(50)
    assert.equal(long, endpoints.parseClient("process:" .. long).path)
    local result, message = endpoints.parseClient "process:"
    assert.is_nil(result)
    assert.matches("column 9: a program is missing", message)
    assert.matches("is no kind of endpoint %(fd, stdio, systemd, tcp, tls, udp, unix, haproxy%)", refused "process:cat")
  end)

  it("raises for what is no string", function()
    assert.has_error(function() endpoints.parseServer(80) end)
  end)
end)

describe("endpoints of TLS", function()
  local function server(s)
    return assert(endpoints.parseServer(s))
  end

  it("stand on a port, on an address, on a Unix socket", function()
    local options = ":certificate=c.pem,d.pem:privateKey=k.pem:alpn=h2,http/1.1:clientCA=ca.pem:clientCertificate=optional"
    assert.same({
      type = "tls", port = 443, certificate = "c.pem,d.pem", privateKey = "k.pem", alpn = "h2,http/1.1",
      clientCA = "ca.pem", clientCertificate = "optional",
    }, server("tls:443" .. options))
    assert.same({ type = "tls", interface = "127.0.0.1", port = 443, certificate = "c", handshakeTimeout = 2.5 },
      server "tls:127.0.0.1:443:certificate=c:handshakeTimeout=2.5")
    assert.same({ type = "tls", path = "/run/x", mode = 384, certificate = "c" },
      server "tls:unix:/run/x:mode=600:certificate=c")
    assert.same({ type = "tls", fd = 3, certificate = "c" }, server "tls:fd:3:certificate=c")
    assert.same({ type = "tls", name = "web", certificate = "c" }, server "tls:systemd:name=web:certificate=c")
    assert.same({ type = "haproxy", inner = { type = "tls", port = 443, certificate = "c" } },
      server "haproxy:tls:443:certificate=c")
  end)

  it("connect to a host, or to a Unix socket whose name is said", function()
    assert.same({ type = "tls", host = "a.example", port = 443, timeout = 30, hostname = "b.example", verify = "yes",
      trust = "ca.pem" }, endpoints.parseClient "tls:a.example:443:hostname=b.example:verify=yes:trust=ca.pem")
    assert.same({ type = "tls", path = "/run/x", timeout = 30, verify = "no" },
      endpoints.parseClient "tls:unix:/run/x:verify=no")
  end)

  it("say what is missing or wrong, and where", function()
    for s, message in pairs {
      ["tls:443"] = "column 8: a certificate is missing",
      ["tls:443:certificate="] = "column 9: files are given as NAME,NAME",
      ["tls:443:certificate=c:alpn=a,,b"] = "column 23: protocols are given as",
      ["tls:443:certificate=c:clientCertificate=maybe"] = "column 23: clientCertificate is required or optional",
      ["tls:443:certificate=c:clientCertificate=required"] = "column 49: clientCertificate takes a clientCA",
      ["tls:443:certificate=c:trust=x"] = "column 23: tls knows no 'trust' (alpn, backlog, certificate, clientCA, "
        .. "clientCertificate, handshakeTimeout, interface, port, privateKey)",
      ["tls:systemd:name=web:certificate=c:trust=x"] = "column 36: tls knows no 'trust' (alpn, certificate, clientCA, "
        .. "clientCertificate, handshakeTimeout, index, name, privateKey)",
      ["tls:443:certificate=c:handshakeTimeout=soon"] = "column 23: handshakeTimeout is a number of seconds, not 'soon'",
      ["tls:unix:certificate=c"] = "a path is missing",
      ["tls:fd:certificate=c"] = "a descriptor is missing",
      ["tls:fd:x:certificate=c"] = "column 8: a descriptor is a number from 0",
      ["tls:fd:3:mode=600:certificate=c"] = "tls knows no 'mode' on fd:",
      ["tls:443:fd=3:certificate=c"] = "tls knows no 'fd' on a port",
      ["tls:unix:/x:port=443:certificate=c"] = "tls knows no 'port' on unix:",
      ["tls:fd:3:interface=127.0.0.1:certificate=c"] = "tls knows no 'interface' on fd:",
      ["tls:443:path=/x:certificate=c"] = "tls knows no 'path' on a port",
      ["tls:systemd:certificate=c"] = "systemd takes one of both",
      ["tls:systemd:name=web:index=0:certificate=c"] = "systemd takes one of both",
      ["tls:systemd:name=web"] = "column 21: a certificate is missing",
    } do
      assert.matches(message, (select(2, endpoints.parseServer(s))), 1, true)
    end
    for s, message in pairs {
      ["tls:a"] = "column 6: a port is missing",
      ["tls:a:443:verify=maybe"] = "column 11: verify is yes or no",
      ["tls:unix:/x"] = "column 12: whom to expect on a Unix socket is not said",
    } do
      assert.matches(message, (select(2, endpoints.parseClient(s))), 1, true)
    end
  end)
end)
