-- A host that stops opens no new ports.

local host = require "support.host"

describe("listenTCP", function()
  after_each(host.cleanup)

  it("gives nil, a message and a code while the host stops", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionMade() print "made" end
      function P:connectionLost(reason)
        local port, message, code = reactor.listenTCP(0, { protocol = {} }, { interface = "127.0.0.1" })
        print(reason.code, port, type(message), type(code))
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    assert.equal("made", h:line())
    h:kill "TERM"
    assert.equal("stopped\tnil\tstring\tstring", h:line())
    c:close()
    h:ends(0)
    assert.equal(1, select(2, h:output():gsub("listening ", "")))
  end)
end)
