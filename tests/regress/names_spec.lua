-- Every port is announced with the name of the script that opened it, whenever it did.

local host = require "support.host"

describe("a port opened by a running script", function()
  after_each(host.cleanup)

  it("is announced with the script's name, from callWhenRunning and from a callback", function()
    local h = host.serve([[
      local reactor = require "skald.reactor"
      local P = {}
      local function open()
        reactor.listenTCP(0, { protocol = P }, { interface = "127.0.0.1" })
      end
      function P:dataReceived() open() end
      reactor.callWhenRunning(open)
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { listening = 2 })
    local name = h.endpoints[1].name
    assert.is_true(#name > 1)
    assert.equal(name, h.endpoints[2].name)
    h:connect():send "x"
    assert.equal(name, (h:line "^listening %S+ (.*)$"))
    h:connect({}, 2):send "x" -- to the second port
    assert.equal(name, (h:line "^listening %S+ (.*)$"))
    h:stop()
  end)
end)
