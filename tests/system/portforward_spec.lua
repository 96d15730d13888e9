-- The bundled service portforward: any endpoint to any endpoint, inside the core.

local host = require "support.host"

local LOOPBACK = "listen=tcp:127.0.0.1:0"

-- An upstream whose clients give it orders; it says who comes and how each leaves.
local upstream = host.commands([[
  function P:connectionMade() print "came"; self.transport:write "welcome\n" end
  function commands.say(self, t, rest) t:write(rest .. "\n") end
  function commands.reset(self, t) t:abortConnection() end
  function commands.close(self, t) t:loseConnection() end
  function commands.half(self, t) t:loseWriteConnection() end
  function P:readConnectionLost() print "half"; self.transport:write "heard\n"; self.transport:loseConnection() end
]])

-- A host with both services, and the port of the forwarder.
local function start(...)
  local server = host.run { host.script(upstream, "upstream.lua"), options = { "--control=" .. host.folder() .. "/up" } }
  local h = host.run { "portforward", LOOPBACK, "connect=tcp:127.0.0.1:" .. server.port, ... }
  return h, server
end

describe("the bundled service portforward", function()
  after_each(host.cleanup)

  it("forwards what comes, both ways, whoever speaks first", function()
    local h, server = start()
    local c = h:connect()
    assert.equal("welcome", c:line())
    assert.equal("came", server:line())
    for i = 1, 20 do
      assert.equal("line " .. i, c:send("say line " .. i) and c:line())
    end
  end)

  it("forwards what a client sent before the server was there, and its end of input", function()
    local h, server = start()
    local c = h:connect()
    c:send "say early"
    c:halfClose()
    local all, ending = c:receiveAll()
    assert.equal("welcome\nearly\nheard\n", all)
    assert.equal("eof", ending)
    assert.equal("came", server:line())
    assert.equal("half", server:line())
    assert.equal("lost\tdone\tlocal", server:line())
  end)

  it("forwards the server's end of input, and goes on the other way", function()
    local h, server = start()
    local c = h:connect()
    assert.equal("welcome", c:line())
    c:send "half"
    assert.is_nil(c:read())
    c:send "close"
    assert.equal("came", server:line())
    assert.truthy(server:line "^lost\tdone")
  end)

  it("resets the client when the server resets", function()
    local h = start()
    local c = h:connect()
    assert.equal("welcome", c:line())
    c:send "reset"
    local _, ending = c:read()
    assert.equal("ECONNRESET", ending)
  end)

  it("resets the server's side when the client resets", function()
    local h, server = start()
    local c = h:connect()
    assert.equal("welcome", c:line())
    c:reset()
    assert.equal("came", server:line())
    assert.equal("lost\tlost\tpeer", server:line())
  end)

  it("resets a client whose server cannot be reached, and says so in the log", function()
    local h = host.run { "portforward", LOOPBACK, "connect=tcp:127.0.0.1:1" }
    local c = h:connect()
    local _, ending = c:read()
    assert.equal("ECONNRESET", ending)
    h:waitLog "cannot connect to tcp:127.0.0.1:1: "
  end)

  it("leaves nothing unhandled where both sides fail at once", function()
    local h = host.run { "portforward", LOOPBACK, "connect=unix:" .. host.folder() .. "/nobody" }
    local c = h:connect()
    c:reset()
    h:stop()
    assert.falsy(h:errors():find("Unhandled", 1, true))
  end)

  it("leads from Unix sockets to TCP and back", function()
    local path = host.folder() .. "/front"
    local server = host.run {
      host.script(upstream, "upstream.lua"), "listen=unix:" .. host.folder() .. "/back",
      options = { "--control=" .. host.folder() .. "/up" },
    }
    assert.truthy(server.path)
    local h = host.run { "portforward", "listen=unix:" .. path, "connect=unix:" .. server.path }
    local c = h:connect()
    assert.equal("welcome", c:line())
    assert.equal("x", c:send "say x" and c:line())
  end)

  it("ends connections in which nothing moves, where idle= says so", function()
    local h, server = start "idle=0.3"
    local c = h:connect()
    assert.equal("welcome", c:line())
    assert.is_nil(c:read())
    assert.equal("came", server:line())
    assert.truthy(server:line "^half")
  end)

  it("sends what it has read when it is stopped", function()
    local h = start()
    local c = h:connect()
    assert.equal("welcome", c:line())
    h:kill "TERM"
    assert.is_nil(c:read())
    c:close()
    h:ends(0)
    assert.falsy(h:errors():find("Unhandled", 1, true))
  end)

  it("holds no more than its bounds for a reader that has stopped", function()
    local source = host.run {
      host.script([[
        local P = {}
        function P:connectionMade() self.transport:registerProducer(self, false) end
        function P:resumeProducing() self.transport:write(("x"):rep(65536)) end
        function P:stopProducing() end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]], "source.lua"),
      options = { "--control=" .. host.folder() .. "/up" },
    }
    local h = host.run { "portforward", LOOPBACK, "connect=tcp:127.0.0.1:" .. source.port }
    local clients = {}
    for i = 1, 20 do
      clients[i] = h:connect { rcvbuf = 4096 }
      clients[i]:receive(100000)
    end
    local before = h:memory()
    for _ = 1, 5 do
      assert.truthy(h:connect { rcvbuf = 4096 }:read())
    end
    assert.is_true(h:memory() - before < 3000000, "a stopped reader takes memory")
  end)

  for option, what in pairs {
    ["proxy=3"] = "there is a PROXY header 1 and a 2, but no '3'",
    ["prxy=1"] = "there is no option 'prxy' (listen, connect, proxy, idle)",
    ["idle=soon"] = "idle takes a number from 0, not 'soon'",
    ["connect=tcp:nobody"] = "column 11: a port is missing",
  } do
    it("refuses " .. option, function()
      local status, _, log = host.command { "run", "portforward", option }
      assert.equal(1, status)
      assert.truthy(log:find(what, 1, true), log)
    end)
  end
end)
