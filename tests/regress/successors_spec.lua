-- What is put around a factory by one reload, and replaced by the next, may be collected in between: the listener
-- still finds who goes on.

local host = require "support.host"

describe("a factory that reloads wrap twice", function()
  after_each(host.cleanup)

  it("stops with its last listener, once", function()
    local text = [[
      local policies = require "skald.policies"
      local protocol = require "skald.protocol"
      local App = protocol.Factory { name = "app", listen = "tcp:127.0.0.1:0", protocol = {} }
      function App:startFactory() print "started" end
      function App:stopFactory() print "stopped" end
      function App.protocol:dataReceived(data) collectgarbage() collectgarbage() self.transport:write(data) end
      return %s
    ]]
    local h = host.serve(text:format "App")
    assert.truthy(h:output():find "^started")
    for _, definition in ipairs {
      "policies.TrafficLoggingFactory:new(App)", "policies.ThrottlingFactory:new(App)",
      "policies.TrafficLoggingFactory:new(App)", "App",
    } do
      host.script(text:format(definition))
      assert.equal(0, (host.command { "reload" }), definition)
      local c = h:connect()
      assert.equal("x", c:send "x" and c:receive(1))
      c:close()
    end
    h:kill "TERM"
    assert.equal("stopped", h:line())
    h:ends(0)
    assert.falsy(h:errors():find("error", 1, true))
  end)
end)
