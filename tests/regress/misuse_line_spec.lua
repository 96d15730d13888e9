-- Misuse that was raised at a line of the library, or at none.

local host = require "support.host"

describe("misuse of what waits", function()
  after_each(host.cleanup)

  it("is raised at the caller's line", function()
    local script = host.script [[
      local client, defer, endpoints = require "skald.client", require "skald.defer", require "skald.endpoints"
      local protocol, reactor, stream = require "skald.protocol", require "skald.reactor", require "skald.stream"
      local Service = client.ClientService
      local calls = {
        function() local d = reactor.resolve("x", { timeout = -1 }) return d end,
        function() local t = reactor.addSystemEventTrigger("later", "shutdown", print) return t end,
        function() local t = reactor.addSystemEventTrigger("before", "shutdown", 1) return t end,
        function() local d = stream.connect "tcp:x" return d end,
        function() local d = stream.connect(1) return d end,
        function() local s = Service:new("tcp:x", { protocol = {} }) return s end,
        function() local s = Service:new(endpoints.serverFromString "tcp:1", { protocol = {} }) return s end,
        function() local s = Service:new("tcp:x:1", protocol.Protocol {}) return s end,
        function() local d = defer.Deferred:new():addTimeout(-1) return d end,
        function() local d = defer.Deferred:new():addTimeout(1, nil, 1) return d end,
      }
      for _, call in ipairs(calls) do
        local ok, problem = pcall(call)
        local line = tostring(problem):match "script.lua:(%d+):"
        print("said", not ok and tonumber(line) == debug.getinfo(call, "S").linedefined, problem)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local _, out = host.command { "check", script }
    local count = 0
    for said in out:gmatch "said\t([^\n]*)" do
      count = count + 1
      assert.equal("true", said:match "^%a+", said)
    end
    assert.equal(10, count)
  end)
end)
