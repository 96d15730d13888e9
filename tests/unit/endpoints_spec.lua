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
    assert.matches("column 1: 'udp' is no kind of endpoint %(tcp, unix%)", select(2, endpoints.parseClient "udp:a:53"))
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
    assert.matches("column 1: 'tpc' is no kind of endpoint %(fd, systemd, tcp, udp, unix, haproxy%)", refused "tpc:80")
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

  it("says of what comes later that it is not in this version", function()
    assert.matches("udp: not in this version", refused "udp:53")
  end)

  it("raises for what is no string", function()
    assert.has_error(function() endpoints.parseServer(80) end)
  end)
end)
