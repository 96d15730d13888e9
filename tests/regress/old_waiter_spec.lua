-- What a load had asked of a connector that lived on was called in old code, too, once for each load, and kept the old
-- generations until then.

local dns = require "support.dns"
local host = require "support.host"
local reload = require "support.reload"

describe("whenConnected of a load that was replaced", function()
  after_each(host.cleanup)

  it("ends with that, and the new load's fires", function()
    local server = dns.start { "held.test=127.0.0.1,held" }
    local peer = host.run({ "echo", "listen=tcp:127.0.0.1:0" }).port
    local text = ([[
      local protocol, reactor = require "skald.protocol", require "skald.reactor"
      local Client = protocol.ClientFactory { name = "client", protocol = {} }
      reactor.connectTCP("held.test", %d, Client):whenConnected():addCallback(function() print "connected @" end)
      return { listen = "unix:%s/own.sock", protocol = {} }
    ]]):format(peer, host.folder())
    local control = "--control=" .. host.folder() .. "/second.sock"
    local h = reload.serve(text, { options = { control }, env = server.env })
    server:asked "held.test"
    for n = 2, 3 do
      reload.rewrite(reload.version(text, n))
      assert.equal("committed", reload.run(control).result)
    end
    server:release "held.test"
    assert.equal("connected 3", h:line "^connected")
    h:stop()
    assert.equal(1, select(2, h:output():gsub("connected %d", "")))
    assert.equal(0, h:logged "Unhandled")
  end)
end)
