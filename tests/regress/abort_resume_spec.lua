-- A producer is asked for nothing once its connection was aborted.

local host = require "support.host"

describe("abortConnection", function()
  after_each(host.cleanup)

  it("where a file is through asks the producer for nothing more", function()
    local path = host.file("long", ("x"):rep(4000000))
    local h = host.serve(host.commands [[
      function commands.file(self, t, path)
        t:sendFile(path):addCallback(function() t:abortConnection() end)
        t:registerProducer({
          resumeProducing = function() print "resumed" end,
          stopProducing = function() print "stopped" end,
        }, false)
      end
    ]])
    h:connect():send("file " .. path):count()
    assert.equal("stopped", h:line())
    assert.equal("lost\taborted\tlocal", h:line())
  end)
end)
