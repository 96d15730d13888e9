-- What --watch reads while it is being written is no new version: it comes again. A reload asked for twice forgot
-- to ask whether that was so, and one that failed did not ask again.

local host = require "support.host"
local reload = require "support.reload"

describe("a reload whose files change under way", function()
  after_each(host.cleanup)

  -- `go` reloads so often at once; the n-th question whether the files have changed is answered by `stale(n)`.
  local function serve(stale, times)
    local h = host.serve(host.commands(([[
      local jobs, program = require "skald.jobs", require "skald.program"
      function commands.go(self, t)
        local asked = 0
        local options = { isStale = function()
          asked = asked + 1
          return (%s)(asked)
        end }
        for _ = 1, %d do
          jobs.reload(program.find "script", options, function(report) print(report.result) end)
        end
      end
    ]]):format(stale, times)))
    return h, h:connect()
  end

  it("is none, also where it was asked for twice", function()
    local h, c = serve("function() return true end", 2)
    reload.rewrite "return { listen = 'tcp:127.0.0.1:0', protocol = {} }"
    c:send "go"
    assert.equal("unchanged", h:line())
    assert.equal("unchanged", h:line())
    assert.equal(1, reload.status().generation)
  end)

  for what, text in pairs {
    ["does not compile"] = "return {", ["fails to load"] = "error 'half of it'", ["returns nothing"] = "",
  } do
    it(("is not refused where what was read %s"):format(what), function()
      local h, c = serve("function(n) return n > 1 end", 1)
      reload.rewrite(text)
      c:send "go"
      assert.equal("unchanged", h:line())
      assert.equal(0, h:logged "refused")
      assert.equal(0, reload.status().refused)
    end)
  end
end)
