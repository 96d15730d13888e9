-- What README.md shows is what happens.

local host = require "support.host"
local process = require "support.process"

local function readme()
  local file = assert(io.open "README.md")
  local text = file:read "*a"
  file:close()
  return text
end

describe("the README", function()
  after_each(host.cleanup)

  it("has a service that check and run take, and that answers as it says", function()
    local text = readme()
    local script = host.script(assert(text:match "```lua\n(.-)```"), "shout.lua")
    local check = process.start { host.binary, "check", script }
    assert.matches("shout.lua: ok$", check:line())
    assert.equal(0, check:wait())

    local h = host.run { script, "listen=tcp:127.0.0.1:0" }
    local wanted = text:match "nc %-N 127%.0%.0%.1 7010\n(.-)\n\n"
    local nc = process.start { "nc", "-N", "127.0.0.1", h.port }
    nc:write(assert(text:match "printf '(%w+)\\n' | nc") .. "\n")
    nc:closeInput()
    for line in wanted:gmatch "[^\n]+" do
      assert.equal(line:match "^%s*(.*)$", nc:line())
    end
    assert.equal(0, nc:wait())
  end)

  it("has a service that asks another one, and waits for its answers", function()
    local text = readme()
    local shout, front = text:match "```lua\n(%-%- shout.-)```.-```lua\n(%-%- front.-)```"
    local upstream = host.run { host.script(shout, "shout.lua"), "listen=tcp:127.0.0.1:0" }
    front = front:gsub("127%.0%.0%.1:7010", "127.0.0.1:" .. upstream.port)
    local h = host.run { host.script(front, "front.lua"), "listen=tcp:127.0.0.1:0" }
    local c = h:connect()
    c:send((text:match "printf '(good\\nmorning\\n)' | nc":gsub("\\n", "\n")))
    for line in text:match "nc %-N 127%.0%.0%.1 7011\n(.-)\n\n":gmatch "[^\n]+" do
      assert.equal(line:match "^%s*(.*)$", c:line())
    end
    c:halfClose()
    assert.equal("", (c:receiveAll()))
  end)

  it("names the bundled services that there are, and so does --help", function()
    local help = process.start { host.binary, "--help" }
    assert.equal(0, help:wait())
    local said = help:output()
    local listing = io.popen "ls scripts/services/*.lua"
    for path in listing:lines() do
      local name = path:match "([^/]+)%.lua$"
      assert.truthy(readme():find("`" .. name .. "`", 1, true), name .. " is not in the README")
      assert.truthy(said:find("%f[%w]" .. name:gsub("%-", "%%-") .. "%f[%W]"), name .. " is not in --help")
    end
    listing:close()
  end)

  it("has examples that check takes", function()
    local listing = io.popen "ls examples/*.lua"
    for path in listing:lines() do
      local check = process.start { host.binary, "check", path }
      assert.equal(0, check:wait(), path)
    end
    listing:close()
  end)
end)
