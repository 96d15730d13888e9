-- Connecting that the last connection's end asked for was never heard of again when the host stopped: no
-- clientConnectionFailed, no stopFactory, and Deferreds that never fired.

local dns = require "support.dns"
local host = require "support.host"

describe("a connector made while the host stops", function()
  after_each(host.cleanup)

  it("fails as stopped, and its factory stops", function()
    local server = dns.start { "silent.test=silent" }
    local h = host.serve([[
      local endpoints, protocol = require "skald.endpoints", require "skald.protocol"
      local P = {}
      function P:connectionMade() print "made" end
      function P:connectionLost()
        require("skald.reactor").connectTCP("silent.test", 9, protocol.ClientFactory {
          protocol = {},
          clientConnectionFailed = function(_, _, reason) print("failed", reason.code) end,
          stopFactory = function() print "stopFactory" end,
        })
        endpoints.clientFromString("tcp:silent.test:9"):connect { protocol = {} }:addErrback(function(failure)
          print("endpoint", failure.value.code)
        end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { env = server.env })
    h:connect()
    assert.equal("made", h:line())
    h:kill "TERM"
    h:ends(0)
    local out = h:output()
    assert.truthy(out:find("failed\tstopped\n", 1, true), out)
    assert.truthy(out:find("endpoint\tstopped\n", 1, true), out)
    assert.truthy(out:find("stopFactory\n", 1, true), out)
  end)
end)
