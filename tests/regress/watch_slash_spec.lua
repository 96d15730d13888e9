-- A path may end with a slash, also where there is nothing yet.

local host = require "support.host"

describe("fs.watch of a folder that is not there, its name with a slash behind", function()
  after_each(host.cleanup)

  it("tells of that alone, not of everything beside it", function()
    local h = host.serve(([[
      local fs = require "skald.fs"
      local reactor = require "skald.reactor"
      reactor.callWhenRunning(function()
        local folder = %q
        fs.watch(folder .. "/later/", function(change) print(change.what, change.name) end)
        fs.makeDirectory(folder .. "/other"):addCallback(function()
          fs.makeDirectory(folder .. "/later")
        end)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]):format(host.file("mark", ""):match "^(.*)/"))
    assert.equal("created\tlater", h:line "^created")
  end)
end)
