-- A process belongs to whoever started it as long as its pipes are open, and not only as long as it runs itself.

local host = require "support.host"
local reload = require "support.reload"

describe("the pipes of a process that has ended, held by what it started", function()
  after_each(host.cleanup)

  it("end with the service", function()
    local h = host.serve [[
      local reactor, protocol = require "skald.reactor", require "skald.protocol"
      local P = protocol.ProcessProtocol {}
      function P:outReceived(data) print("out " .. data:match "%d+") end
      function P:processExited() print "exited" end
      function P:processEnded() print "ended" end
      local function startFactory()
        reactor.spawnProcess(P:new(), "sh", { "sh", "-c", "sleep 1000 & echo $!" })
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, startFactory = startFactory }
    ]]
    local child = h:line("^out"):match "%d+"
    h:line "^exited$"
    assert.equal("unloaded", (reload.command { "unload", "script" }).result)
    local ended = h:line "^ended$"
    os.execute("kill " .. child)
    assert.equal("ended", ended)
  end)

  it("are named where a test leaves them behind", function()
    local path = host.file("a_spec.lua", [[
      local reactor, protocol, defer = require "skald.reactor", require "skald.protocol", require "skald.defer"
      it("is left behind", function()
        local d = defer.Deferred:new()
        local P = protocol.ProcessProtocol {}
        function P:processExited() d:callback() end
        reactor.spawnProcess(P:new(), "sh", { "sh", "-c", "sleep 3 &" })
        defer.await(d)
      end)
    ]])
    local status, out = host.command { "test", path }
    assert.equal(1, status)
    assert.truthy(out:find("left behind: a process, sh\n", 1, true), out)
  end)
end)
