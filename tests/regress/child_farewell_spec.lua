-- A host that stops reads what its processes write as they end: they are not ended by a pipe that nobody reads.

local host = require "support.host"

describe("a host that stops", function()
  after_each(host.cleanup)

  it("hears what a process says when it is asked to end", function()
    local h = host.serve [[
      local reactor, protocol = require "skald.reactor", require "skald.protocol"
      local P = protocol.ProcessProtocol {}
      function P:outReceived(data) print("out " .. data:match "%w+") end
      function P:processEnded(reason) print("ended", reason.exitCode) end
      local function startFactory()
        reactor.spawnProcess(P:new(), "sh", { "sh", "-c",
          "trap 'sleep 0.1; echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done" })
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, startFactory = startFactory }
    ]]
    h:line "^out ready$"
    h:stop()
    assert.truthy(h:output():find("out bye\nended\t3\n", 1, true), h:output())
  end)

  it("waits a moment only for who holds the pipes of one that has ended", function()
    local h = host.serve [[
      local reactor, protocol = require "skald.reactor", require "skald.protocol"
      local P = protocol.ProcessProtocol {}
      function P:outReceived(data) print("out " .. data:match "%d+") end
      function P:processEnded(reason) print("ended", reason.code) end
      local function startFactory()
        reactor.spawnProcess(P:new(), "sh", { "sh", "-c", "sleep 1000 & echo $!; wait" })
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, startFactory = startFactory }
    ]]
    local child = h:line("^out"):match "%d+"
    h:stop()
    os.execute("kill " .. child)
    assert.truthy(h:output():find("ended\tstopped\n", 1, true), h:output())
    assert.equal(0, h:logged "grace is over")
  end)

  it("waits no longer for those of one that had ended before", function()
    local h = host.serve [[
      local reactor, protocol = require "skald.reactor", require "skald.protocol"
      local P = protocol.ProcessProtocol {}
      function P:outReceived(data) print("out " .. data:match "%d+") end
      function P:processExited() print "exited" end
      function P:processEnded(reason) print("ended", reason.code) end
      local function startFactory()
        reactor.spawnProcess(P:new(), "sh", { "sh", "-c", "sleep 1000 & echo $!" })
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, startFactory = startFactory }
    ]]
    local child = h:line("^out"):match "%d+"
    h:line "^exited$"
    h:stop()
    os.execute("kill " .. child)
    assert.truthy(h:output():find("ended\tdone\n", 1, true), h:output())
    assert.equal(0, h:logged "grace is over")
  end)
end)
