-- A load that asked whenConnected of a connector that lives already had its callback run within the commit, which
-- took what that started for a part of the load: listening raised.

local host = require "support.host"
local reload = require "support.reload"

describe("whenConnected during a reload, of a connection that stays", function()
  after_each(host.cleanup)

  it("fires after the commit, when what it starts is started", function()
    local port = host.run({ "echo", "listen=tcp:127.0.0.1:0" }).port
    local text = ([[
      local protocol, reactor = require "skald.protocol", require "skald.reactor"
      local Client = protocol.ClientFactory { name = "client", protocol = {} }
      reactor.connectTCP("127.0.0.1", %d, Client):whenConnected():addCallback(function()
        print("connected @", (reactor.listenTCP(0, { protocol = {} }, { interface = "127.0.0.1" })) ~= nil)
      end)
      return { listen = "unix:%s/own.sock", protocol = {} }
    ]]):format(port, host.folder())
    local h = reload.serve(text, { options = { "--control=" .. host.folder() .. "/second.sock" } })
    h:line "^connected 1\ttrue"
    reload.rewrite(reload.version(text, 2))
    local answer = reload.run("--control=" .. host.folder() .. "/second.sock")
    assert.equal("committed", answer.result)
    h:line "^connected 2\ttrue"
    assert.equal(0, h:logged "Unhandled")
  end)
end)
