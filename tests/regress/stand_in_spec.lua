-- A connector that stood for a living one after a reload was noted beside it, and one of both stayed among those that
-- are up for ever.

local dns = require "support.dns"
local host = require "support.host"
local reload = require "support.reload"

describe("a connector that a reload went on with", function()
  after_each(host.cleanup)

  it("is up no more when the new load's stand-in stopped it", function()
    local server = dns.start { "silent.test=silent" }
    local text = [[
      local protocol, reactor = require "skald.protocol", require "skald.reactor"
      local connectors = require "skald.connectors"
      local connector = reactor.connectTCP("silent.test", 9, protocol.ClientFactory {
        name = "client",
        protocol = {},
        stopFactory = function() print("stopped", next(connectors.up)) end,
      })
      if @ == 2 then
        reactor.callLater(0, function() connector:stopConnecting() end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = reload.serve(text, { env = server.env })
    server:asked "silent.test"
    reload.rewrite(reload.version(text, 2))
    assert.equal("committed", reload.run().result)
    assert.equal("stopped\tnil", h:line "^stopped")
  end)
end)
