-- Clients over a reload: what goes on, what ends, and who owns what a load, a connection or a factory has started.

local host = require "support.host"
local client = require "support.client"
local ports = require "support.ports"
local reload = require "support.reload"
local sys = require "support.sys"

local HEAD = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local endpoints = require "skald.endpoints"
  local defer = require "skald.defer"
  local await = defer.await
  local function tell(name, d)
    d:addCallbacks(function(v) print(name, "value", type(v) == "table" and v.transport and "protocol" or v) end,
      function(failure) print(name, "failed", failure) end)
  end
]]

local SERVER = '{ name = "s", listen = "tcp:127.0.0.1:0", protocol = {} }'

-- An echo server of another process.
local function server(at)
  return host.run { "echo", "listen=" .. (at or "tcp:127.0.0.1:0"), env = {
    XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" } }
end

local function kill(h)
  h:kill "KILL"
  h:ends "SIGKILL"
end

local function unixAt()
  return "unix:" .. host.folder() .. "/server.sock"
end

local stopped = {}

-- A server at a Unix endpoint that takes nobody until it is sent CONT: its queue is full.
local function stalled(at)
  local h = host.serve(('return { listen = "%s", protocol = {}, backlog = 1 }'):format(at), { env = {
    XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" } })
  h:kill "STOP"
  stopped[#stopped + 1] = h
  client.unix(h.path)
  client.unix(h.path)
  return h
end

local function cleanup()
  for _, h in ipairs(stopped) do
    h:kill "CONT"
  end
  stopped = {}
  host.cleanup()
end

local function printed(h, pattern)
  local n = 0
  for line in h:output():gmatch "([^\n]*)\n" do
    n = n + (line:find(pattern) and 1 or 0)
  end
  return n
end

-- A script with PORT in it, at a port.
local function with(text, port)
  return HEAD .. text:gsub("PORT", tostring(port))
end

-- Version 2 says `word` so often that version 1 would have, too: it must not, once 2 has begun.
local function assertNeverBoth(h, word, times)
  for _ = 1, times or 1 do
    h:line("^" .. word .. " 2")
  end
  sys.pass(0.1)
  local since = h:output():match(word .. " 2.*")
  assert.falsy(since:find(word .. " 1", 1, true), h:story "the old generation goes on")
end

local awaitGone = reload.awaitOld

local function held(h)
  local old = reload.old(h)[1]
  return old and { timers = old.timers, coroutines = old.coroutines, deferreds = old.deferreds }
end

describe("a client whose factory and endpoint stay", function()
  after_each(cleanup)

  local TALKING = [[
    local P = protocol.Protocol {}
    function P:connectionMade() print "made @"; self.transport:write "one" end
    function P:dataReceived(data) print("data @", data, self.n) end
    function P:connectionLost(why) print("lost @", why.code) end
    local S = { connectionMade = function(self) self.transport:write "ready\n" end, dataReceived = function(self, data)
      for p in reactor.found:each() do p.n = (p.n or 0) + 1; p.transport:write(data) end
    end }
  ]]

  it("keeps its connection, and the new methods run on the live protocol", function()
    local s = server()
    local text = with(TALKING .. [[
      return { { name = "s", listen = "tcp:127.0.0.1:0", protocol = S },
        { name = "c", connect = "tcp:127.0.0.1:PORT", protocol = P,
          startFactory = function(self) reactor.found = self print "start @" end, stopFactory = function() print "stop @" end,
          clientConnectionLost = function() print "factory lost @" end } } ]], s.port)
    local h = reload.serve(text)
    h:line "^data 1\tone"
    local report = reload.commit(text)
    h:connect():send "hello"
    h:line "^data 2\thello\t1"
    assert.same({ 1, 0 }, { report.instances, printed(h, "^lost") })
    kill(s)
    h:line "^lost 2"
    h:line "^factory lost 2"
    h:line "^stop 2"
    assert.same({ 1, 1 }, { printed(h, "^made"), printed(h, "^start") })
  end)

  it("keeps it where the load asks for it by connectTCP, too", function()
    local s = server()
    local text = with(TALKING .. [[
      local F = protocol.ClientFactory { name = "c", protocol = P, startedConnecting = function() print "connecting" end }
      reactor.connectTCP("127.0.0.1", PORT, F)
      return { name = "s", listen = "tcp:127.0.0.1:0", protocol = S,
        startFactory = function() end } ]], s.port)
    local h = reload.serve(text)
    h:line "^data 1\tone"
    for i = 2, 5 do
      reload.commit(text, i)
    end
    kill(s)
    h:line "^lost 5"
    h:stop()
    assert.same({ 1, 1 }, { printed(h, "^made"), printed(h, "^connecting") })
  end)

  it("gives what the script holds of its connector the one that lives: they are equal, and work", function()
    local s = server()
    local text = with([[
      local connector
      local F = protocol.ClientFactory { name = "c", protocol = { connectionMade = function() print "made" end } }
      function F:clientConnectionLost(c, why)
        print("equal @", c == connector, connector == c, connector.state, why.code)
        if @ == 2 then print("connect", connector:connect(), connector.state, c.state) end
      end
      connector = reactor.connectTCP("127.0.0.1", PORT, F)
      local S = { connectionMade = function(self) self.transport:write "ready\n" end, dataReceived = function()
        print("state @", connector.state, tostring(connector:getDestination()), connector.transport ~= nil,
          connector.factory.name)
        print("again", connector:connect())
        print("disconnect", connector:disconnect())
      end }
      return { name = "s", listen = "tcp:127.0.0.1:0", protocol = S } ]], s.port)
    local h = reload.serve(text)
    h:line "^made"
    reload.commit(text)
    local c = h:connect()
    c:line()
    c:send "go"
    assert.equal(("state 2\tconnected\ttcp:127.0.0.1:%d\ttrue\tc"):format(s.port), h:line "^state")
    h:line "^again\tnil\talready connected\tEALREADY"
    h:line "^disconnect\ttrue"
    h:line "^equal 2\ttrue\ttrue\tdisconnected\tdone"
    h:line "^connect\ttrue\tconnecting\tconnecting"
    h:line "^made"
  end)

  it("gives whenConnected of a connector that the load asked for the connection that lives", function()
    local s = server()
    local text = with([[
      local c = reactor.connectTCP("127.0.0.1", PORT, protocol.ClientFactory { name = "c", protocol = {} })
      tell("connected @", c:whenConnected())
      return ]] .. SERVER, s.port)
    local h = reload.serve(text)
    h:line "^connected 1\tvalue\tprotocol"
    reload.commit(text)
    h:line "^connected 2\tvalue\tprotocol"
  end)

  it("ends its connection where the new load asks for it and then disconnects", function()
    local s = server()
    local text = with([[
      local c = reactor.connectTCP("127.0.0.1", PORT, protocol.ClientFactory { name = "c", protocol = {
        connectionMade = function() print "made" end, connectionLost = function(_, why) print("lost", why.code) end } })
      if @ == 2 then print("disconnect", c:disconnect()) end
      return ]] .. SERVER, s.port)
    local h = reload.serve(text)
    h:line "^made"
    reload.commit(text)
    h:line "^disconnect\ttrue"
    h:line "^lost\tdone"
  end)

  it("keeps its back-off, and the retry that is pending", function()
    local text = with([[
      return { ]] .. SERVER .. [[, { name = "c", connect = "tcp:127.0.0.1:1", protocol = {}, initialDelay = 0.2, factor = 2,
        jitter = 0, startedConnecting = function() print("connecting @", reactor.seconds()) end } } ]])
    local h = reload.serve(text)
    local last = tonumber((h:line "^connecting 1\t(.*)"))
    for i, least in ipairs { 0.2, 0.4, 0.8 } do
      local report = reload.commit(text, i + 1)
      assert.same({ 0, {} }, { report.timers.ended, report.warnings })
      local now = tonumber((h:line(("^connecting %d\t(.*)"):format(i + 1))))
      assert.is_true(now - last > 0.9 * least, ("%g s instead of %g"):format(now - last, least))
      last = now
    end
  end)

  it("keeps its back-off where the script retries what it holds of the connector", function()
    local text = with([[
      local connector
      local F = protocol.ReconnectingClientFactory { name = "c", protocol = {}, initialDelay = 0.01, factor = 3, jitter = 0,
        maxRetries = @ == 1 and 1000 or 3,
        startedConnecting = function() print "connecting @" end, stopFactory = function() print "stop @" end }
      function F:clientConnectionFailed() self:retry(connector) end
      connector = reactor.connectTCP("127.0.0.1", 1, F)
      return ]] .. SERVER)
    local h = reload.serve(text)
    for _ = 1, 3 do
      h:line "^connecting 1"
    end
    reload.commit(text)
    h:line "^stop 2"
    assert.is_true(printed(h, "^connecting 2") <= 1, h:output())
  end)

  it("takes its new delays and callbacks from the new definition", function()
    local text = with([[
      return { ]] .. SERVER .. [[, { name = "c", connect = "tcp:127.0.0.1:1", protocol = {}, maxDelay = 0.05,
        initialDelay = 0.01, maxRetries = @ == 1 and 1000000 or 0,
        clientConnectionFailed = function(self, ...)
          print "failed @"
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, ...)
        end, stopFactory = function() print "stop @" end } } ]])
    local h = reload.serve(text)
    h:line "^failed 1"
    h:line "^failed 1"
    reload.commit(text)
    h:line "^stop 2"
    assert.equal(1, printed(h, "^failed 2"))
  end)

  it("goes on connecting where it was connecting, and the new code is told", function()
    local at = unixAt()
    local s = stalled(at)
    local text = with([[
      return { ]] .. SERVER .. ([[, { name = "c", connect = "%s", protocol = { connectionMade = function() print "made @" end },
        startedConnecting = function() print "connecting @" end } } ]]):format(at))
    local h = reload.serve(text)
    h:line "^connecting 1"
    reload.commit(text)
    s:kill "CONT"
    h:line "^made 2"
    assert.equal(0, printed(h, "^connecting 2"))
  end)

  it("takes a plain connectTCP of the old load for the connect of a definition, and retries from then on", function()
    local s = server()
    local text = with([[
      local F = { name = "c", protocol = { connectionMade = function() print "made" end }, initialDelay = 0.01, maxRetries = 1,
        startedConnecting = function() print "connecting @" end, stopFactory = function() print "stop @" end }
      if @ == 1 then
        reactor.connectTCP("127.0.0.1", PORT, F)
        return ]] .. SERVER .. [[
      end
      F.connect = "tcp:127.0.0.1:PORT"
      return { ]] .. SERVER .. ", F }", s.port)
    local h = reload.serve(text)
    h:line "^made"
    reload.commit(text)
    kill(s)
    h:line "^stop 2"
    assert.same({ 1, 1, 1 }, { printed(h, "^made"), printed(h, "^connecting 1"), printed(h, "^connecting 2") })
  end)

  it("does not call the fields that its connector leaves on the factory kept", function()
    local text = with([[
      return { ]] .. SERVER .. [[, { name = "c", connect = "tcp:127.0.0.1:1", protocol = {}, initialDelay = 20, hello = @,
        clientConnectionFailed = function(self, c, r)
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, c, r)
          print "failed"
        end } } ]])
    local h = reload.serve(text)
    h:line "^failed"
    assert.same({}, reload.commit(text).kept)
  end)
end)

describe("a client whose endpoint changes", function()
  after_each(cleanup)

  local TEXT = [[
    return { { name = "s", listen = "tcp:127.0.0.1:0", protocol = {} },
      { name = "c", connect = @ == 1 and "ONE" or "TWO", protocol = {
          connectionMade = function(self) print("made @", (self.transport:getPeer())) end,
          connectionLost = function(_, why) print("lost @", why.code, why.by) end },
        initialDelay = 0.02, maxRetries = 1, startFactory = function() print "start @" end,
        startedConnecting = function(_, c) print("connecting @", c:getDestination()) end,
        clientConnectionLost = function(self, c, why)
          print("factory lost @", c:getDestination())
          protocol.ReconnectingClientFactory.clientConnectionLost(self, c, why)
        end,
        stopFactory = function() print "stop @" end } }
  ]]

  local function to(one, two)
    return HEAD .. TEXT:gsub("ONE", one):gsub("TWO", two)
  end

  it("ends the old connection in order and makes the new one, and the factory never stops", function()
    local a, b = server(), server()
    local one, two = "tcp:127.0.0.1:" .. a.port, "tcp:127.0.0.1:" .. b.port
    local text = to(one, two)
    local h = reload.serve(text)
    h:line("^made 1\t" .. one)
    reload.commit(text)
    h:line "^lost 2\tdone\tlocal"
    h:line("^factory lost 2\t" .. one)
    if printed(h, "^made 2") == 0 then
      h:line("^made 2\t" .. two)
    end
    h:stop()
    assert.same({ 1, 0, 1, 1, 1 }, { printed(h, "^start"), printed(h, "^stop 1"), printed(h, "^stop 2"),
      printed(h, "^connecting 1"), printed(h, "^connecting 2") })
  end)

  it("has its own tries: those of the old connector are not spent from its", function()
    local a = server()
    local text = to("tcp:127.0.0.1:" .. a.port, "tcp:127.0.0.1:1")
    local h = reload.serve(text)
    h:line "^made"
    reload.commit(text)
    h:line "^stop 2"
    assert.equal(2, printed(h, "^connecting 2\ttcp:127.0.0.1:1$"))
  end)

  it("leaves no retry of the old connector", function()
    local b = server()
    local text = to("tcp:127.0.0.1:1", "tcp:127.0.0.1:" .. b.port):gsub("0.02", "3600")
    local h = reload.serve(text)
    local function awaitTimers(n)
      sys.await(function()
        h:kill "USR1"
        return tonumber((h:waitLog "alive: .-(%d+) timers")) == n
      end, function()
        return h:story(("there are not %d timers"):format(n))
      end)
    end
    awaitTimers(1)
    local report = reload.commit(text)
    h:line "^made 2"
    awaitTimers(0)
    assert.equal(1, printed(h, "^connecting.*:1$"))
    assert.same({}, report.warnings)
  end)

  it("that no definition has any more ends: connection, retry, factory", function()
    local a = server()
    local text = with([[
      local function d(name, to) return { name = name, connect = to, protocol = {
          connectionMade = function() print("made", name) end,
          connectionLost = function(_, why) print("lost", name, why.code) end },
        initialDelay = 0.05, startedConnecting = function() print("connecting", name) end,
        stopFactory = function() print("stop", name) end } end
      if @ == 2 then return ]] .. SERVER .. [[ end
      return { ]] .. SERVER .. [[, d("one", "tcp:127.0.0.1:PORT"), d("two", "tcp:127.0.0.1:1") } ]], a.port)
    local h = reload.serve(text)
    h:line "^made\tone"
    reload.commit(text)
    sys.await(function()
      return printed(h, "^stop") == 2
    end, function()
      return h:story "the factories do not stop"
    end)
    local tries = printed(h, "^connecting\ttwo")
    sys.pass(0.2)
    assert.same({ 1, 1, tries }, { printed(h, "^lost\tone\tdone"), printed(h, "^connecting\tone"),
      printed(h, "^connecting\ttwo") })
    awaitGone(h)
  end)
end)

describe("a reload that is refused", function()
  after_each(cleanup)

  -- Each fails in another phase.
  local broken = {
    load = "error 'no'",
    check = "return { listen = 'tcp:x', protocol = {} }",
    prepare = "return { { name = 's', listen = 'unix:/no/such/folder/x', protocol = {} }, { name = 'c', "
      .. "connect = 'tcp:127.0.0.1:2', protocol = {} } }",
  }

  it("leaves connection, back-off and pending retry as they were, whatever phase it fails in", function()
    local s = server()
    local text = with([[
      local function d(name, to) return { name = name, connect = to, protocol = {
          connectionMade = function() print("made", name) end, connectionLost = function() print("lost", name) end,
          dataReceived = function() end },
        initialDelay = 0.4, jitter = 0, startedConnecting = function() print("connecting", name) end,
        clientConnectionFailed = function(self, ...)
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, ...)
          reactor.callLater(0.42, print, "behind it", name)
        end,
        startFactory = function() print("start", name) end, stopFactory = function() print("stop", name) end } end
      return { ]] .. SERVER .. [[, d("one", "tcp:127.0.0.1:PORT"), d("two", "tcp:127.0.0.1:1") } ]], s.port)
    local h = reload.serve(text)
    h:line "^connecting\ttwo"
    for phase, bad in pairs(broken) do
      reload.rewrite(HEAD .. bad)
      assert.equal(phase, reload.refused().phase)
    end
    h:line "^behind it\ttwo"
    assert.is_true(printed(h, "^connecting\ttwo") >= 2, "the retry has begun anew")
    h:stop()
    assert.same({ 1, 1, 2, 2 }, { printed(h, "^made\tone"), printed(h, "^lost\tone"), printed(h, "^start"), printed(h, "^stop") })
    assert.equal(1, printed(h, "^connecting\tone"))
  end)

  it("never connects what its load asked for, in any way", function()
    local s = host.serve([[ return { listen = "tcp:127.0.0.1:0",
      protocol = { connectionMade = function(self) print("somebody") end } } ]], { env = {
        XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" } })
    local asking = with([[
      if @ > 1 then
        local F = protocol.ClientFactory { protocol = {}, startFactory = function() print "start" end,
          startedConnecting = function() print "connecting" end, stopFactory = function() print "stop" end }
        reactor.connectTCP("127.0.0.1", PORT, F)
        endpoints.clientFromString("tcp:127.0.0.1:PORT"):connect(F)
        endpoints.connectProtocol(endpoints.clientFromString "tcp:127.0.0.1:PORT", protocol.Protocol:new())
        require("skald.client").ClientService:new("tcp:127.0.0.1:PORT", F):startService()
        defer.async(function() await(endpoints.clientFromString("tcp:127.0.0.1:PORT"):connect(F)) end)()
      end
    ]], s.port)
    local h = reload.serve(asking .. "return " .. SERVER)
    local n = 1
    for phase, bad in pairs(broken) do
      n = n + 1
      reload.rewrite(reload.version(asking .. bad, n))
      assert.equal(phase, reload.refused().phase)
    end
    reload.rewrite(reload.version(asking, 1) .. "return " .. SERVER .. " -- again")
    reload.committed()
    h:stop()
    s:stop()
    assert.same({ 0, 0, 0 }, { printed(h, "^connecting"), printed(h, "^start"), printed(h, "^stop") })
    assert.falsy(s:output():find("somebody", 1, true))
  end)

  it("takes no word of the new code: the living callbacks answer", function()
    local s = server()
    local text = with([[
      local P = { connectionMade = function(self) print "made @" end, connectionLost = function() print "lost @" end }
      local d = { name = "c", connect = "tcp:127.0.0.1:PORT", protocol = P, maxRetries = 0,
        clientConnectionLost = function() print "factory lost @" end, stopFactory = function() print "stop @" end }
      return { { name = "s", listen = @ == 1 and "tcp:127.0.0.1:0" or "unix:/no/such/folder/x", protocol = {} }, d } ]], s.port)
    local h = reload.serve(text)
    h:line "^made 1"
    assert.equal("prepare", reload.refuse(text).phase)
    kill(s)
    h:line "^lost 1"
    h:line "^factory lost 1"
    h:line "^stop 1"
  end)

  it("is what becomes of one whose migrate connects", function()
    local text = with [[
      return { listen = "tcp:127.0.0.1:0", protocol = {}, state = {}, version = @, migrate = function()
        local F = { protocol = {}, startedConnecting = function() print "connecting" end }
        if @ == 2 then
          reactor.connectTCP("127.0.0.1", 1, F)
        else
          endpoints.clientFromString("tcp:127.0.0.1:1"):connect(F)
        end
      end } ]]
    local h = reload.serve(text)
    assert.equal("prepare", reload.refuse(text).phase)
    h:stop()
    assert.equal(0, printed(h, "^connecting"))
  end)
end)

describe("what a load starts", function()
  after_each(cleanup)

  it("connects by an endpoint after the commit, with the factory started then", function()
    local text = with [[
      if @ == 2 then
        endpoints.clientFromString("tcp:127.0.0.1:1"):connect(protocol.ClientFactory {
          protocol = {}, startFactory = function() print("start", require("skald.service").generation) end,
          stopFactory = function() print "stop" end,
        }):addErrback(function(f) print("failed", f) end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, reloaded = function() print "reloaded" end } ]]
    local h = reload.serve(text)
    reload.commit(text)
    h:line "^failed\tcannot connect to tcp:127.0.0.1:1: "
    h:line "^stop"
  end)

  it("by an endpoint ends with it, connecting or connected", function()
    local s, at = server(), unixAt()
    stalled(at)
    local text = with([[
      local P = { connectionMade = function() print "made @" end, connectionLost = function(_, why) print("lost @", why.code) end }
      if @ == 1 then
        endpoints.clientFromString("tcp:127.0.0.1:PORT"):connect { protocol = P, stopFactory = function() print "stop one" end }
        tell("two", endpoints.clientFromString("]] .. at .. [["):connect {
          protocol = P, stopFactory = function() print "stop two" end })
      end
      return ]] .. SERVER, s.port)
    local h = reload.serve(text)
    h:line "^made 1"
    reload.commit(text)
    sys.await(function()
      return printed(h, "^stop") == 2 and printed(h, "^lost 1\tdone") == 1 and printed(h, "^two\tfailed") == 1
    end, function()
      return h:story "it goes on"
    end)
    awaitGone(h)
  end)

  it("as a coroutine that awaits in a loop ends with it: never both", function()
    local text = with [[
      local function later(s)
        local d = defer.Deferred:new()
        reactor.callLater(s, d.callback, d)
        return d
      end
      defer.async(function()
        while true do
          print "tick @"
          await(later(0.01))
        end
      end)():addErrback(function() end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} } ]]
    local h = reload.serve(text)
    h:line "^tick 1"
    h:line "^tick 1"
    reload.commit(text)
    assertNeverBoth(h, "tick", 5)
    awaitGone(h)
  end)

  it("as a coroutine is told by CancelledError where it waits, and is left where it waits on", function()
    local text = with [[
      if @ == 1 then
        defer.async(function()
          local ok, failure = pcall(await, defer.Deferred:new())
          print("told", ok, failure)
          pcall(await, defer.Deferred:new())
          print "never"
        end)()
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {} } ]]
    local h = reload.serve(text)
    reload.commit(text)
    h:line "^told\tfalse\tCancelledError"
    awaitGone(h)
    h:stop()
    assert.equal(0, printed(h, "^never"))
    assert.equal(0, h:logged "Unhandled")
  end)

  it("as a chain of timers that a Deferred's callbacks go on with ends with it: never both", function()
    local text = with [[
      local function tick()
        print "tick @"
        local d = defer.Deferred:new()
        reactor.callLater(0.01, d.callback, d)
        d:addCallback(tick)
      end
      tick()
      return { listen = "tcp:127.0.0.1:0", protocol = {} } ]]
    local h = reload.serve(text)
    h:line "^tick 1"
    h:line "^tick 1"
    reload.commit(text)
    assertNeverBoth(h, "tick", 5)
    awaitGone(h)
  end)

  it("as a loop that connects, and waits when that fails or the connection ends, ends with it: never both", function()
    local at = unixAt()
    stalled(at)
    for _, to in ipairs { "tcp:127.0.0.1:1", at } do
      local text = with([[
        local endpoint = endpoints.clientFromString "]] .. to .. [["
        local function try()
          print "try @"
          endpoint:connect { protocol = {} }:addBoth(function()
            print "again @"
            reactor.callLater(0.02, try)
          end)
        end
        try()
        return { listen = "tcp:127.0.0.1:0", protocol = {} } ]])
      local h = reload.serve(text)
      reload.commit(text)
      assertNeverBoth(h, "try")
      h:stop()
    end
  end)

  it("as connectors that clientConnectionFailed makes anew each time end with it: never both", function()
    local at = unixAt()
    stalled(at)
    local text = with([[
      local function try()
        print "try @"
        reactor.connectUNIX("]] .. at:match "unix:(.*)" .. [[", protocol.ClientFactory { name = "c", protocol = {},
          clientConnectionFailed = function() reactor.callLater(0.02, try) end }, { timeout = 0.02 })
      end
      reactor.callWhenRunning(try)
      return ]] .. SERVER)
    local h = reload.serve(text)
    h:line "^try 1"
    reload.commit(text)
    assertNeverBoth(h, "try", 3)
  end)

  it("from a coroutine that is told of its end does not outlive it either", function()
    local text = with [[
      local function tick()
        print "tick @"
        reactor.callLater(0.02, tick)
      end
      if @ == 1 then
        defer.async(function()
          pcall(await, defer.Deferred:new())
          print "told"
          tick()
        end)()
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {} } ]]
    local h = reload.serve(text)
    reload.commit(text)
    h:line "^told"
    sys.pass(0.1)
    assert.is_true(printed(h, "^tick") <= 1, "it ticks on")
  end)

  it("as a listener, by an endpoint, goes on where the new load asks for it again", function()
    local text = with [[
      endpoints.serverFromString("tcp:127.0.0.1:0"):listen { name = "s", protocol = {
        dataReceived = function(self) self.transport:write "@" end } } ]]
    local h = host.serve(reload.version(text, 1), { listening = 1 })
    local c = h:connect()
    c:send "x"
    assert.equal("1", c:receive(1))
    reload.commit(text)
    assert.equal("2", c:send("x"):receive(1))
    local d = h:connect()
    assert.equal("2", d:send("x"):receive(1))
  end)
end)

describe("what a connection starts", function()
  after_each(cleanup)

  it("as a coroutine goes on in its old code, to its end", function()
    local text = with [[
      local P = {}
      local function later(s)
        local d = defer.Deferred:new()
        reactor.callLater(s, d.callback, d)
        return d
      end
      P.dataReceived = defer.async(function(self)
        for i = 1, 1000 do
          print("tick @", i)
          await(later(0.01))
          if self.over then break end
        end
        self.transport:write "over @\n"
      end)
      function P:stop() self.over = true end
      function P:readConnectionLost() self:stop() end
      return { listen = "tcp:127.0.0.1:0", protocol = P } ]]
    local h = reload.serve(text)
    local c = h:connect():send "go"
    h:line "^tick 1\t3"
    reload.commit(text)
    h:line "^tick 1"
    h:line "^tick 1"
    assert.same({ timers = 0, coroutines = 1, deferreds = 0 }, held(h))
    c:halfClose()
    assert.equal("over 1", c:line())
    c:close()
    awaitGone(h)
  end)

  it("as a connect by an endpoint is made, whatever is reloaded meanwhile", function()
    local at = unixAt()
    local text = with([[
      local P = { connectionMade = function(self) self.transport:write "ready\n" end }
      function P:dataReceived()
        print "asked"
        endpoints.clientFromString("]] .. at .. [["):connect {
          protocol = { connectionMade = function() print "made @" end } }:addBoth(function(result)
          self.transport:write((defer.isFailure(result) and "failed" or "connected") .. " @\n")
        end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P } ]])
    local late = stalled(at)
    local h = reload.serve(text)
    local c = h:connect()
    c:line()
    c:send "go"
    h:line "^asked"
    reload.commit(text)
    late:kill "CONT"
    assert.equal("connected 1", c:line())
    h:line "^made 1"
  end)

  it("as connectors lives on with its connection, and in the code that its factory was made of", function()
    local port = ports.tcp()
    local s = server("tcp:127.0.0.1:" .. port)
    local text = with([[
      local P = { connectionMade = function(self) self.transport:write "ready\n" end }
      local C = protocol.Protocol { connectionMade = function() print "made @" end,
        connectionLost = function(_, why) print("lost @", why.code) end }
      function P:dataReceived()
        reactor.connectTCP("127.0.0.1", PORT, protocol.ReconnectingClientFactory { protocol = C, initialDelay = 0.01 })
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P } ]], s.port)
    local h = reload.serve(text)
    local c = h:connect()
    c:line()
    c:send "go"
    h:line "^made 1"
    reload.commit(text)
    kill(s)
    h:line "^lost %d"
    local again = server("tcp:127.0.0.1:" .. port)
    h:line "^made %d"
    again:stop()
  end)

  it("as timers and callbacks of Deferreds runs on, once each, in old code", function()
    local text = with [[
      local P = {}
      function P:dataReceived(data)
        local waits = defer.Deferred:new()
        waits:addCallback(function()
          reactor.callLater(0.02, function()
            local d = defer.Deferred:new()
            d:addCallback(function() self.transport:write "done @\n" end)
            reactor.callLater(0.02, d.callback, d)
          end)
        end)
        if self.waits then self.waits:callback() else self.waits = waits; self.transport:write "waits @\n" end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P } ]]
    local h = reload.serve(text)
    local c = h:connect():send "x"
    assert.equal("waits 1", c:line())
    reload.commit(text)
    c:send "y"
    assert.equal("done 1", c:line())
    assert.is_true(c:quiet())
  end)
end)

describe("what startFactory starts", function()
  after_each(cleanup)

  it("lives through reloads and ends at stopFactory: coroutines, timers, what their callbacks go on with", function()
    local text = with [[
      local function later(s)
        local d = defer.Deferred:new()
        reactor.callLater(s, d.callback, d)
        return d
      end
      local looping = defer.async(function()
        while true do
          print "coroutine @"
          await(later(0.01))
        end
      end)
      local function chain()
        print "chain @"
        later(0.01):addCallback(chain)
      end
      local function tick()
        print "timer @"
        reactor.callLater(0.01, tick)
      end
      local F = { name = "f", listen = "tcp:127.0.0.1:0", protocol = {} }
      function F:startFactory()
        looping():addErrback(function(f) print("coroutine ends", f) end)
        chain()
        tick()
      end
      function F:stopFactory() print "stop @" end
      if @ == 3 then return { name = "other", listen = "unix:FOLDER/x.sock", protocol = {} } end
      return F ]]
    text = text:gsub("FOLDER", host.folder())
    local h = reload.serve(text)
    h:line "^timer 1"
    reload.commit(text)
    for _, kind in ipairs { "coroutine", "chain", "timer" } do
      local before = printed(h, "^" .. kind .. " 1")
      sys.await(function()
        return printed(h, "^" .. kind .. " 1") > before + 2
      end, function()
        return h:story(kind .. " has ended")
      end)
      assert.equal(0, printed(h, "^" .. kind .. " 2"))
    end
    reload.commit(text, 3)
    h:line "^stop 2"
    h:line "^coroutine ends\tCancelledError"
    local before = { printed(h, "^coroutine 1"), printed(h, "^chain 1"), printed(h, "^timer 1") }
    sys.pass(0.1)
    assert.same(before, { printed(h, "^coroutine 1"), printed(h, "^chain 1"), printed(h, "^timer 1") })
    awaitGone(h)
  end)

  it("as a connector lives through reloads and ends at stopFactory", function()
    local s = server()
    local text = with([[
      local C = { connectionMade = function() print "made @" end, connectionLost = function(_, why) print("lost", why.code) end }
      local F = { name = "f", listen = "tcp:127.0.0.1:0", protocol = {} }
      function F:startFactory()
        reactor.connectTCP("127.0.0.1", PORT, protocol.ReconnectingClientFactory { protocol = C, initialDelay = 0.01,
          stopFactory = function() print "client stops" end })
        reactor.connectTCP("127.0.0.1", 1, protocol.ReconnectingClientFactory { protocol = C, initialDelay = 20,
          stopFactory = function() print "other stops" end })
      end
      if @ == 3 then return { name = "other", listen = "unix:]] .. host.folder() .. [[/x.sock", protocol = {} } end
      return F ]], s.port)
    local h = reload.serve(text)
    h:line "^made 1"
    reload.commit(text)
    assert.equal(0, printed(h, "^lost"))
    reload.commit(text, 3)
    sys.await(function()
      return printed(h, "^lost\tdone") == 1 and printed(h, "^client stops") == 1 and printed(h, "^other stops") == 1
    end, function()
      return h:story "the connectors go on"
    end)
    awaitGone(h)
  end)
end)

describe("the status", function()
  after_each(cleanup)

  it("names the timers, coroutines and Deferreds that hold an old generation, until they are gone", function()
    local text = with [[
      local P = {}
      local word = {}
      function word.timer(self) self.kept = reactor.callLater(3600, function() end) end
      function word.coroutine(self)
        self.kept = defer.Deferred:new()
        defer.async(function() await(self.kept) end)()
      end
      function word.deferred(self) self.kept = defer.Deferred:new(); self.kept:addCallback(function() return "@" end) end
      function P:dataReceived(data)
        if data == "release" then
          if self.kept.cancel and not self.kept.callback then self.kept:cancel() else self.kept:callback() end
          self.kept = nil
        else
          word[data](self)
        end
        self.transport:write "done\n"
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P } ]]
    local h = reload.serve(text)
    local n = 1
    for _, kind in ipairs { "timer", "coroutine", "deferred" } do
      local c = h:connect()
      assert.equal("done", c:send(kind):line())
      n = n + 1
      reload.commit(text, n)
      local wanted = { timers = 0, coroutines = 0, deferreds = 0 }
      wanted[kind .. "s"] = 1
      assert.same(wanted, held(h), kind)
      assert.equal("done", c:send("release"):line())
      awaitGone(h)
      c:close()
    end
  end)

  it("has no old generation for clients that go on", function()
    local s = server()
    local text = with([[
      local P = { connectionMade = function() print "made" end }
      local connector = reactor.connectTCP("127.0.0.1", PORT, { name = "a", protocol = P })
      tell("connected", connector:whenConnected())
      return { ]] .. SERVER .. [[,
        { name = "b", connect = "tcp:127.0.0.1:PORT", protocol = P,
          prepareConnection = function() return defer.succeed() end },
        { name = "c", connect = "tcp:127.0.0.1:1", protocol = {}, initialDelay = 20 } } -- @
    ]], s.port)
    local h = reload.serve(text)
    h:line "^made"
    h:line "^made"
    for i = 2, 6 do
      reload.commit(text, i)
    end
    awaitGone(h)
    assert.equal(2, printed(h, "^made"))
  end)

  it("counts what a hundred reloads leave behind of clients: nothing", function()
    local at = unixAt()
    local text = with([[
      local c = reactor.connectUNIX("]] .. at:match "unix:(.*)" .. [[", { name = "a", protocol = {} })
      c:whenConnected()
      defer.async(function() await(c:whenConnected()); await(defer.Deferred:new()) end)():addErrback(function() end)
      endpoints.clientFromString("]] .. at .. [["):connect { protocol = {} }:addErrback(function() end)
      return { ]] .. SERVER .. [[, { name = "b", connect = "]] .. at .. [[", protocol = {}, initialDelay = 0.01 },
        { name = "c" .. @ % 2, connect = "tcp:127.0.0.1:1", protocol = {}, initialDelay = 0.01 } } ]])
    local s = server(at)
    local h = reload.serve(text)
    local function census()
      awaitGone(h)
      h:kill "USR1"
      return (h:waitLog "alive: (.*)":gsub(", %d+ KB of Lua", ""):gsub("%d+ timers", "")) .. h:descriptors()
    end
    for i = 2, 11 do
      reload.commit(text, i)
    end
    local before, last
    sys.await(function()
      last, before = before, census()
      return last == before
    end, function()
      return "it does not come to rest: " .. before
    end)
    for i = 12, 101 do
      reload.commit(text, i)
    end
    sys.await(function()
      return census() == before
    end, function()
      return ("after: %s, before: %s"):format(census(), before)
    end)
    s:stop()
  end)
end)
