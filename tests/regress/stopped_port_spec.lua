-- A script may stop a port of its own before the host runs.

local host = require "support.host"

describe("a port that is stopped while the script loads", function()
  after_each(host.cleanup)

  it("is not announced, and the other ports accept", function()
    local h = host.serve([[
      local reactor = require "skald.reactor"
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      local port = reactor.listenTCP(0, { protocol = P }, { interface = "127.0.0.1" })
      port:stopListening()
      reactor.callWhenRunning(function() print "running" end)
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]])
    assert.equal("running", h:line())
    assert.equal("hi", h:connect():send("hi"):receive(2))
    h:stop()
    assert.equal(1, select(2, h:output():gsub("listening ", "")))
  end)
end)
