-- The example of a chat that is rewritten while people talk, as its head says to try it.

local host = require "support.host"
local reload = require "support.reload"

local function read(name)
  local file = assert(io.open("examples/" .. name))
  local text = file:read "*a"
  file:close()
  return (text:gsub("tcp:127%.0%.0%.1:7011", "tcp:127.0.0.1:0"))
end

describe("the chat of the examples", function()
  after_each(host.cleanup)

  it("changes its prompt, its commands and the shape of its state while people talk", function()
    local h = host.serve(read "04_reload.lua")
    local a = h:connect()
    a:receive(2)
    local b = h:connect()
    b:receive(2)
    a:send "hello\n"
    assert.equal("<guest 1> hello\n", b:receive(#"<guest 1> hello\n"))
    a:receive(2)
    b:send "half a li"
    reload.rewrite(read "04_reload_next.lua")
    assert.equal(2, reload.committed().instances)
    b:send "ne\n"
    local news = "\n* the chat is new: try /top\n"
    assert.equal(news .. "chat> ", b:receive(#news + 6))
    assert.equal("<guest 2> half a line\n", a:receive(#"<guest 2> half a line\n"))
    b:send "say more\n"
    b:receive(6)
    b:send "/top\n"
    local top = '1. guest 2: 2, last "say more"\n2. guest 1: 1, last ""\nchat> '
    assert.equal(top, b:receive(#top))
  end)
end)
