-- A module that failed to load is not there.

local host = require "support.host"

describe("a module that fails to load", function()
  after_each(host.cleanup)

  it("fails again at the second require", function()
    host.file("raises.lua", "local M = {}\nerror 'boom'\nreturn M\n")
    host.file("broken.lua", "local M = = {}\n")
    host.file("later.lua", [[
      attempts = (attempts or 0) + 1
      if attempts == 1 then error "not yet" end
      return { attempts = attempts }
    ]])
    local h = host.serve [[
      for _, name in ipairs { "raises", "broken" } do
        for i = 1, 2 do
          local ok, problem = pcall(require, name)
          print(name, ok, tostring(problem):match "[%w]+%.lua:%d+")
        end
      end
      print("later", pcall(require, "later") == true)
      print("later", (pcall(require, "later")), require("later").attempts)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    h:stop()
    local lines = {}
    for line in h:output():gmatch "[^\n]+" do
      lines[#lines + 1] = line
    end
    assert.same({
      "raises\tfalse\traises.lua:2", "raises\tfalse\traises.lua:2",
      "broken\tfalse\tbroken.lua:1", "broken\tfalse\tbroken.lua:1",
      "later\tfalse", "later\ttrue\t2",
    }, { unpack(lines, 1, 6) })
  end)
end)
