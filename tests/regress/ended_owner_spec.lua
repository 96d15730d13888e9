-- A reload logged an unhandled failure for each coroutine, and each connecting endpoint, that ended with the old load.

local dns = require "support.dns"
local host = require "support.host"
local reload = require "support.reload"

describe("what a load has started and a reload ends", function()
  after_each(host.cleanup)

  it("is no unhandled failure", function()
    local server = dns.start { "silent.test=silent" }
    local text = [[
      local defer, endpoints = require "skald.defer", require "skald.endpoints"
      local function connect()
        return endpoints.clientFromString "tcp:silent.test:9":connect { protocol = {} }
      end
      if @ == 1 then
        connect()
        for _ = 1, 10 do
          defer.async(function() defer.await(connect()) end)()
        end
        defer.async(function() defer.await(defer.Deferred:new()) end)()
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = reload.serve(text, { env = server.env })
    server:asked "silent.test"
    reload.rewrite(reload.version(text, 2))
    assert.equal("committed", reload.run().result)
    h:stop()
    assert.equal(0, h:logged "Unhandled")
  end)
end)
