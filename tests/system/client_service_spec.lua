-- Clients that stay connected: `connect =` in a definition, and ClientService.

local alive = require "support.alive"
local host = require "support.host"
local client = require "support.client"
local reload = require "support.reload"
local sys = require "support.sys"

local printed, settled, awaitAgain = alive.printed, alive.settled, alive.awaitAgain

-- What is said of a Deferred, and a client that tells what happens to it.
local HEAD = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local defer = require "skald.defer"
  local ClientService = require("skald.client").ClientService
  local function tell(name, d)
    d:addCallbacks(function(p) print(name, "value", type(p) == "table" and p.transport and "protocol" or p) end,
      function(failure) print(name, "failed", failure) end)
  end
  local Client = protocol.Protocol {}
  function Client:connectionMade() print "made" end
  function Client:dataReceived(data) print("data", data) end
  function Client:connectionLost(why) print("lost", why.code, why.by) end
]]

-- A clock that tells of the delays that are asked for.
local CLOCK = [[
  local clock = setmetatable({}, { __index = reactor })
  function clock:callLater(seconds, ...)
    print("delay", seconds)
    return reactor.callLater(seconds, ...)
  end
]]

local function serve(text, words)
  words = words or {}
  words.listening = words.listening or 0
  return host.serve(HEAD .. text, words)
end

local function elsewhere()
  return { XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" }
end

-- An echo server of another process; `at` is an endpoint.
local function server(at)
  return host.run { "echo", "listen=" .. (at or "tcp:127.0.0.1:0"), env = elsewhere() }
end

local function kill(h)
  h:kill "KILL"
  h:ends "SIGKILL"
end

-- A Unix endpoint that may come and go.
local function unixAt()
  return "unix:" .. host.folder() .. "/server.sock"
end

-- What `skald check` says of a script.
local function checked(text)
  local status, out, log = host.command { "check", host.script(text) }
  return status, out .. log
end

describe("a definition with connect", function()
  after_each(host.cleanup)

  it("connects, and prints no line of an endpoint bound", function()
    local s = server()
    local h = serve(('return { connect = "tcp:127.0.0.1:%d", protocol = Client }'):format(s.port))
    h:line "^made"
    h:stop()
    assert.equal("made\nlost\tstopped\thost\n", h:output())
  end)

  it("tries again until its server comes, and again when that is gone", function()
    local at = unixAt()
    local h = serve(([[ return { connect = "%s", protocol = Client, initialDelay = 0.01, maxDelay = 0.05,
      startedConnecting = function() print "connecting" end } ]]):format(at))
    for _ = 1, 3 do
      h:line "^connecting"
    end
    for _ = 1, 3 do
      local s = server(at)
      h:line "^made"
      kill(s)
      h:line "^lost"
      h:line "^connecting"
      h:line "^connecting"
    end
    h:stop()
    assert.same({ 3, 3 }, { printed(h, "^made"), printed(h, "^lost") })
    assert.equal(0, h:logged " error ")
  end)

  it("waits initialDelay, then factor times as long, up to maxDelay", function()
    local h = serve(CLOCK .. [[
      local last = reactor.seconds()
      return { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.1, factor = 2, maxDelay = 0.3, jitter = 0,
        clock = clock, startedConnecting = function()
          print("after", reactor.seconds() - last)
          last = reactor.seconds()
        end } ]])
    h:line "^after"
    for _, wanted in ipairs { 0.1, 0.2, 0.3, 0.3 } do
      assert.equal("delay\t" .. wanted, h:line())
      local took = tonumber((h:line "^after\t(.*)"))
      assert.is_true(took >= wanted - 0.001, ("waited %g, not %g"):format(took, wanted))
    end
  end)

  it("tries no more when maxRetries are spent: the factory stops, and the host serves on", function()
    local h = serve [[
      return { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01, maxRetries = 3,
        startFactory = function() print "start" end, stopFactory = function() print "stop" end,
        startedConnecting = function() print "connecting" end } ]]
    h:line "^stop"
    h:stop()
    assert.equal("start\n" .. ("connecting\n"):rep(4) .. "stop\n", h:output())
  end)

  it("begins with initialDelay again when a connection has lasted stableAfter", function()
    local at = unixAt()
    local h = serve(CLOCK .. ([[
      return { connect = "%s", initialDelay = 0.01, factor = 5, maxDelay = 5, jitter = 0, stableAfter = 0.1,
        clock = clock, protocol = Client } ]]):format(at))
    h:line "^delay\t0.01$"
    h:line "^delay\t0.05$"
    local s = server(at)
    h:line "^made"
    sys.pass(0.15)
    kill(s)
    h:line "^lost"
    assert.equal("delay\t0.01", h:line())
  end)

  it("goes to every endpoint of a list, and each has its own tries", function()
    local one, two = server(), server()
    local h = serve(([[
      return { connect = { "tcp:127.0.0.1:%d", "tcp:127.0.0.1:%d", "tcp:127.0.0.1:1", "tcp:127.0.0.1:2" }, protocol = Client,
        initialDelay = 0.01, factor = 1, maxRetries = 2,
        startedConnecting = function(_, c) print("connecting", c:getDestination()) end,
        clientConnectionFailed = function(self, c, why)
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, c, why)
          self.failures = (self.failures or 0) + 1
          if self.failures == 6 then print "spent" end
        end }
    ]]):format(one.port, two.port))
    h:line "^spent"
    h:stop()
    assert.same({ 1, 1, 3, 3, 2 }, { printed(h, "^connecting.*:" .. one.port .. "$"),
      printed(h, "^connecting.*:" .. two.port .. "$"), printed(h, "^connecting.*:1$"), printed(h, "^connecting.*:2$"),
      printed(h, "^made$") })
  end)

  it("stops the retries of all its endpoints with stopTrying", function()
    local h = serve [[
      local factory = protocol.ReconnectingClientFactory {
        connect = { "tcp:127.0.0.1:1", "tcp:127.0.0.1:2" }, protocol = {}, initialDelay = 20,
        startedConnecting = function(_, c) print("connecting", c:getDestination()) end,
        stopFactory = function() print "stop" end }:new()
      reactor.callLater(0.1, function() factory:stopTrying() end)
      return factory ]]
    h:line "^stop"
    h:stop()
    assert.equal(2, printed(h, "^connecting"))
  end)

  it("does as its own clientConnectionLost and clientConnectionFailed say", function()
    local s = server()
    local h = serve(([[
      return {
        { name = "one", connect = "tcp:127.0.0.1:%d", protocol = Client, initialDelay = 0.01, clientConnectionLost = function()
          print "and so be it"
        end, stopFactory = function() print "one stops" end },
        { name = "two", connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01,
          clientConnectionFailed = function() end, stopFactory = function() print "two stops" end },
      } ]]):format(s.port))
    h:line "^two stops"
    kill(s)
    h:line "^and so be it"
    h:line "^one stops"
    h:stop()
    assert.equal(1, printed(h, "^made"))
  end)

  it("is replaced by the word connect= of the command line", function()
    local s = server()
    local h = serve('return { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 20 }',
      { ("connect=tcp:127.0.0.1:%d"):format(s.port) })
    h:line "^made"
    local _, _, log = host.command { "run", host.script(HEAD .. 'return { connect = "tcp:127.0.0.1:1", protocol = Client }'),
      "connect=tcp:127.0.0.1:0", env = elsewhere() }
    assert.truthy(log:find("connect: bad endpoint 'tcp:127.0.0.1:0': column 15: ", 1, true), log)
  end)

  it("leaves the word connect= to a script that only listens", function()
    local h = serve([[
      local options = ...
      print("connect", options.connect)
      return { listen = "tcp:127.0.0.1:0", protocol = Client } ]], { "connect=anything", listening = 1 })
    assert.truthy(h:output():find("connect\tanything", 1, true))
  end)

  it("may be a class of ReconnectingClientFactory, or one of its instances", function()
    local s = server()
    for _, new in ipairs { "", ":new()" } do
      local h = serve(([[ local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Client }
        return F%s ]]):format(s.port, new))
      h:line "^made"
      h:stop()
    end
  end)

  it("retries with a plain Factory class, too", function()
    local h = serve [[
      return protocol.Factory { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01, maxRetries = 2,
        startedConnecting = function() print "connecting" end, stopFactory = function() print "stop" end } ]]
    h:line "^stop"
    assert.equal(3, printed(h, "^connecting"))
  end)

  it("logs what startFactory raises, and does not connect", function()
    local s = server()
    local h = serve(([[ return { connect = "tcp:127.0.0.1:%d", protocol = Client, maxRetries = 0,
      startFactory = function() error "no start" end, stopFactory = function() print "stop" end } ]]):format(s.port))
    h:line "^stop"
    h:stop()
    assert.equal("stop\n", h:output())
    assert.equal(1, h:logged "no start")
  end)

  it("stops each of its factories when the host stops: connected, waiting for a retry, and connecting", function()
    local s, path = server(), host.folder() .. "/full.sock"
    local release = client.occupy(path, true)
    for _ = 1, 6 do
      client.unix(path)
    end
    local h = serve(([[
      local function d(name, to) return { name = name, connect = to, protocol = Client, initialDelay = 20,
        startFactory = function() print(name, "start") end, stopFactory = function() print(name, "stop") end } end
      return { d("one", "tcp:127.0.0.1:%d"), d("two", "tcp:127.0.0.1:1"), d("three", "unix:%s") } ]]):format(s.port, path),
      { options = { "--grace=1000" } })
    h:line "^made"
    h:stop()
    for _, name in ipairs { "one", "two", "three" } do
      assert.same({ 1, 1 }, { printed(h, "^" .. name .. "\tstart"), printed(h, "^" .. name .. "\tstop") }, name)
    end
    release()
  end)

  it("leaves nothing behind at an unload, connected or waiting for a retry", function()
    local s = server()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local before = settled(h)
    for _, to in ipairs { s.port, 1 } do
      local path = host.script(HEAD .. ([[ return { connect = "tcp:127.0.0.1:%d", protocol = Client, initialDelay = 20,
        startedConnecting = function() print "connecting" end,
        clientConnectionFailed = function(self, c, why)
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, c, why)
          print "failed"
        end, stopFactory = function() print "stop" end } ]]):format(to))
      assert.equal(0, (host.command { "load", path }))
      h:line(to == 1 and "^failed" or "^made")
      assert.equal(0, (host.command { "unload", "script" }))
      h:line "^stop"
      awaitAgain(h, before)
    end
  end)

  it("forgets the connectors that are done with", function()
    local h = serve [[
      local factory = protocol.ReconnectingClientFactory { protocol = Client, initialDelay = 0, maxRetries = 1 }:new()
      local alive, failures = setmetatable({}, { __mode = "k" }), 0
      function factory:clientConnectionFailed(c, why)
        protocol.ReconnectingClientFactory.clientConnectionFailed(self, c, why)
        failures = failures + 1
        if failures == 200 then
          reactor.callLater(0.05, function()
            collectgarbage()
            collectgarbage()
            local n = 0
            for _ in pairs(alive) do n = n + 1 end
            print("alive", n)
          end)
        end
      end
      reactor.callWhenRunning(function()
        for _ = 1, 100 do alive[reactor.connectTCP("127.0.0.1", 1, factory)] = true end
      end) ]]
    local left = tonumber((h:line "^alive\t(%d+)"))
    assert.is_true(left <= 3, left .. " connectors are held") -- the last one, and what a stack still shows
  end)
end)

describe("whenConnected", function()
  after_each(host.cleanup)

  it("gives the protocol of the next connection, and of the one there is", function()
    local at = unixAt()
    local h = serve(([[
      local F = protocol.ReconnectingClientFactory { connect = "%s", protocol = Client, initialDelay = 0.01, maxDelay = 0.02 }
      local factory = F:new()
      reactor.callWhenRunning(function()
        local made
        tell("before", factory:whenConnected())
        factory:whenConnected():addCallback(function(p)
          made = p
          print("same", p.factory == factory, p.transport ~= nil)
          tell("now", factory:whenConnected())
          factory:whenConnected(1):addCallback(function(again) print("again", again == made) end)
          print "after"
        end)
        print "asked"
      end)
      return factory ]]):format(at))
    h:line "^asked"
    server(at)
    h:line "^after"
    h:stop()
    assert.equal("asked\nmade\nbefore\tvalue\tprotocol\nsame\ttrue\ttrue\nnow\tvalue\tprotocol\nagain\ttrue\nafter\n"
      .. "lost\tstopped\thost\n", h:output())
  end)

  it("waits again when the connection is lost", function()
    local at = unixAt()
    local h = serve(([[
      return { connect = "%s", protocol = Client, initialDelay = 0.01, maxDelay = 0.02,
        clientConnectionLost = function(self, c, why)
          tell("next", c:whenConnected())
          protocol.ReconnectingClientFactory.clientConnectionLost(self, c, why)
        end } ]]):format(at))
    local s = server(at)
    h:line "^made"
    kill(s)
    h:line "^lost"
    assert.equal(0, printed(h, "^next"))
    server(at)
    h:line "^next\tvalue\tprotocol"
  end)

  it("fails after as many failed tries as failAfter says, with the reason of the last", function()
    local h = serve [[
      local tries = 0
      return { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01, maxDelay = 0.01,
        startedConnecting = function(_, c)
          tries = tries + 1
          if tries == 1 then
            for i = 1, 3 do
              c:whenConnected(i):addErrback(function(f) print("failed", i, tries, f.value.errno, f) end)
            end
          end
        end } ]]
    for i = 1, 3 do
      h:line(("^failed\t%d\t%d\tECONNREFUSED\tcannot connect to tcp:127.0.0.1:1: "):format(i, i))
    end
  end)

  it("fails when the retries are spent", function()
    local h = serve [[
      local F = { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01, maxRetries = 2 }
      local tries = 0
      function F:startedConnecting(c)
        tries = tries + 1
        if tries == 1 then tell("waits", c:whenConnected()) end
      end
      function F:stopFactory() print("stop", tries) end
      return F ]]
    h:line "^waits\tfailed\tcannot connect"
    h:line "^stop\t3"
  end)

  it("fails at once where the retries are spent already", function()
    local h = serve [[
      return { connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 0.01, maxRetries = 2,
        stopFactory = function(self)
          tell("later", self:whenConnected())
          tell("once", self:whenConnected(1))
        end } ]]
    h:line "^later\tfailed\tcannot connect"
    h:line "^once\tfailed\tcannot connect"
  end)

  it("fails when the host stops, or the service is unloaded", function()
    local text = HEAD .. [[
      return { name = "c", connect = "tcp:127.0.0.1:1", protocol = Client, initialDelay = 20,
        clientConnectionFailed = function(self, c, why)
          tell("waits", c:whenConnected())
          protocol.ReconnectingClientFactory.clientConnectionFailed(self, c, why)
          print "asked"
        end } ]]
    local h = host.serve(text, { listening = 0 })
    h:line "^asked"
    assert.equal(0, (host.command { "unload", "script" }))
    h:line "^waits\tfailed"
    assert.equal(0, (host.command { "load", host.folder() .. "/script.lua" }))
    h:line "^asked"
    h:stop()
    h:line "^waits\tfailed"
  end)

  it("can be cancelled: others still get the connection", function()
    local at = unixAt()
    local h = serve(([[
      local F = protocol.ReconnectingClientFactory { connect = "%s", protocol = Client, initialDelay = 0.01, maxDelay = 0.02 }
      local factory = F:new()
      reactor.callWhenRunning(function()
        local d = factory:whenConnected()
        tell("one", d)
        tell("two", factory:whenConnected())
        d:cancel()
      end)
      return factory ]]):format(at))
    h:line "^one\tfailed\tCancelledError"
    server(at)
    h:line "^two\tvalue\tprotocol"
  end)

  it("of a factory that has no connector raises at the caller's line", function()
    local text = HEAD .. [[
      reactor.callWhenRunning(function()
        print(pcall(function() local d = protocol.ClientFactory:new():whenConnected() return d end)) -- here
      end) ]]
    local h = host.serve(text, { listening = 0 })
    h:line(("^false\t.*script.lua:%d: whenConnected"):format(host.lineOf(text, "-- here")))
  end)
end)

describe("prepareConnection", function()
  after_each(host.cleanup)

  it("comes after connectionMade, and is waited for", function()
    local s = server()
    local h = serve(([[
      local ready = defer.Deferred:new()
      local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Client }
      function F:prepareConnection(p)
        print("prepare", p.transport ~= nil, p.factory == self)
        tell("connected", self:whenConnected())
        p.transport:write "login"
        reactor.callLater(0.05, function() print "ready"; ready:callback("whatever") end)
        return ready
      end
      return F ]]):format(s.port))
    h:line "^connected"
    local lines = h:output():gsub("data\tlogin\n", "")
    assert.equal("made\nprepare\ttrue\ttrue\nready\nconnected\tvalue\tprotocol\n", lines)
  end)

  it("that gives no Deferred is not waited for", function()
    local s = server()
    local h = serve(([[
      return { connect = "tcp:127.0.0.1:%d", protocol = Client, prepareConnection = function(self, p)
        print "prepare"
        tell("connected", self:whenConnected())
      end } ]]):format(s.port))
    h:line "^prepare"
    h:line "^connected\tvalue\tprotocol"
  end)

  it("that raises or fails ends the connection, is logged once, and is tried again", function()
    local s = server()
    local h = serve(([[
      local times = 0
      local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Client, initialDelay = 0.01 }
      function F:prepareConnection(p)
        times = times + 1
        if times == 1 then
          tell("fails", self:whenConnected(1))
          tell("comes", self:whenConnected(3))
          error "first of all"
        elseif times == 2 then
          return defer.fail "second of all"
        end
      end
      return F ]]):format(s.port))
    h:line "^fails\tfailed\t.*script.lua:%d+: first of all"
    h:line "^comes\tvalue\tprotocol"
    h:stop()
    assert.equal(3, printed(h, "^made"))
    assert.same({ 1, 1, 0 }, { h:logged "first of all\n", h:logged "second of all\n", h:logged "Unhandled" })
  end)

  it("whose Deferred fires late says nothing of the next connection", function()
    local s = server()
    local h = serve(([[
      local first, times = defer.Deferred:new(), 0
      local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Client, initialDelay = 0 }
      function F:prepareConnection(p)
        times = times + 1
        if times == 1 then
          p.transport:loseConnection()
          return first
        elseif times == 2 then
          first:errback "late"
          tell("second", self:whenConnected(1))
          reactor.callLater(0.05, function() p.transport:loseConnection() end)
          return defer.Deferred:new()
        end
      end
      return F ]]):format(s.port))
    local line = h:line "^second\t"
    assert.truthy(line:find "^second\tfailed\t")
    assert.falsy(line:find("late", 1, true))
  end)

  it("may be an async function that awaits an answer", function()
    local s = server()
    local h = serve(([[
      local Asking = protocol.Protocol {}
      function Asking:ask(text)
        self.answer = defer.Deferred:new()
        self.transport:write(text)
        return self.answer
      end
      function Asking:dataReceived(data) self.answer:callback(data) end
      local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Asking }
      F.prepareConnection = defer.async(function(self, p)
        tell("connected", self:whenConnected())
        print("answer", defer.await(p:ask "login"))
      end)
      return F ]]):format(s.port))
    h:line "^answer\tlogin"
    h:line "^connected\tvalue\tprotocol"
  end)

  it("gives up waiting when the connection is lost meanwhile", function()
    local s = server()
    local h = serve(([[
      local F = protocol.ReconnectingClientFactory { connect = "tcp:127.0.0.1:%d", protocol = Client, maxRetries = 0 }
      function F:prepareConnection()
        tell("waits", self:whenConnected())
        print "prepare"
        return defer.Deferred:new()
      end
      return F ]]):format(s.port))
    h:line "^prepare"
    kill(s)
    h:line "^waits\tfailed"
  end)
end)

describe("check", function()
  after_each(host.cleanup)

  it("accepts definitions that connect, to one endpoint or to several", function()
    for _, connect in ipairs { '"tcp:127.0.0.1:80"', '"tcp:example.org:80"', '"unix:/run/x.sock"', '"tcp:[::1]:80:timeout=5"',
      '{ "tcp:a:1", "unix:/b" }', '"tcp:host=a:port=1:bindAddress=127.0.0.1"' } do
      local status, said = checked(("return { connect = %s, protocol = {}, initialDelay = 0.5, factor = 2, jitter = 0, "
        .. "maxDelay = 9, maxRetries = 3, stableAfter = 1 }"):format(connect))
      assert.same({ 0, host.folder() .. "/script.lua: ok\n" }, { status, said })
    end
  end)

  it("says of a bad connect at which line, and at which column, what is wrong", function()
    for bad, wanted in pairs {
      ['"tcp:127.0.0.1"'] = "column 14: a port is missing",
      ['"tcp:127.0.0.1:0"'] = "column 15: a port to connect to is a number from 1 to 65535",
      ['"tcp:80"'] = "column 7: a port is missing",
      ['"tcp:a b:80"'] = "column 5: a host is a name or an IP address",
      ['"tcp:[::1:80"'] = "column 5: this bracket is never closed",
      ['"tcp:a:80:timeout=soon"'] = "column 10: timeout is a number of seconds",
      ['"tcp:a:80:backlog=5"'] = "column 10: tcp knows no 'backlog'",
      ['"tcp:a:80:81"'] = "column 10: one field too many",
      ['"tpc:a:80"'] = "column 1: 'tpc' is no kind of endpoint",
      ['"unix:"'] = "column 6: a path is missing",
      ['"udp:a:443"'] = "column 1: 'udp' is no kind of endpoint (process, tcp, tls, unix)",
      ['{ "tcp:a:80", "tcp:b:x" }'] = "column 7: a port to connect to",
      ['{ "tcp:a:80", 81 }'] = "connect takes strings, not a number",
      ["{}"] = "connect is an empty list",
      ["81"] = "connect takes an endpoint string or a list of them, not a number",
    } do
      local status, said = checked(("return {\n  protocol = {},\n  connect = %s,\n}\n"):format(bad))
      assert.equal(1, status, bad)
      assert.truthy(said:find(host.folder() .. "/script.lua:3: ", 1, true), said)
      assert.truthy(said:find(wanted, 1, true), said)
    end
  end)

  it("finds slips in the names of what a client says", function()
    for slip, meant in pairs {
      ['conect = "tcp:a:1"'] = "connect", ["initialDealy = 3"] = "initialDelay", ["maxRetrys = 3, maxRetires = 3"] = "maxRetries",
      ["maxdelay = 3"] = "maxDelay", ["jiter = 0"] = "jitter", ["stableAftre = 3"] = "stableAfter",
      ["clientConnectionlost = print"] = "clientConnectionLost", ["clientConectionFailed = print"] = "clientConnectionFailed",
      ["startedConecting = print"] = "startedConnecting", ["prepareConection = print"] = "prepareConnection",
    } do
      local status, said = checked(("return {\n  listen = 'tcp:0',\n  protocol = {},\n  %s,\n}\n"):format(slip))
      assert.equal(1, status, slip)
      assert.truthy(said:find("/script.lua:4: a factory has no ", 1, true), said)
      assert.truthy(said:find(("is '%s' meant?"):format(meant), 1, true), said)
    end
  end)

  it("says which numbers a client takes", function()
    for field, wanted in pairs {
      ["initialDelay = -1"] = "initialDelay takes a number from 0", ["maxDelay = 0/0"] = "maxDelay takes a number from 0",
      ["factor = 1/0"] = "factor takes a number from 0", ['jitter = "0.1"'] = "jitter takes a number, not a string",
      ["maxRetries = {}"] = "maxRetries takes a number, not a table", ["stableAfter = -0.5"] = "stableAfter takes a number from 0",
    } do
      local status, said = checked(("return {\n  connect = 'tcp:a:1',\n  protocol = {},\n  %s,\n}\n"):format(field))
      assert.equal(1, status, field)
      assert.truthy(said:find("/script.lua:4: " .. wanted, 1, true), said)
    end
  end)

  it("connects nowhere", function()
    local s = host.serve([[ return { listen = "tcp:127.0.0.1:0",
      protocol = { connectionMade = function() print "somebody" end } } ]])
    local status = checked(HEAD .. ([[
      local endpoints = require "skald.endpoints"
      local c = reactor.connectTCP("127.0.0.1", %d, { protocol = Client })
      endpoints.clientFromString("tcp:127.0.0.1:%d"):connect { protocol = Client }
      local service = ClientService:new("tcp:127.0.0.1:%d", { protocol = Client })
      service:startService()
      return { connect = "tcp:127.0.0.1:%d", protocol = Client } ]]):format(s.port, s.port, s.port, s.port))
    assert.equal(0, status)
    s:stop()
    assert.falsy(s:output():find("somebody", 1, true))
  end)
end)

describe("a ClientService", function()
  after_each(host.cleanup)

  -- Those of a list of calls that do not raise at their own lines.
  local function wrongPlaces(cases)
    local text = { HEAD, "reactor.callWhenRunning(function()\n" }
    for i, case in ipairs(cases) do
      text[#text + 1] = ("print(%d, pcall(function() local x = %s return x end)) -- case %d.\n"):format(i, case, i)
    end
    text[#text + 1] = "print 'end' end)"
    text = table.concat(text)
    local h = host.serve(text, { listening = 0 })
    h:line "^end"
    local wrong = {}
    for i, case in ipairs(cases) do
      local line = ("\n" .. h:output()):match(("\n(%d\t[^\n]*)"):format(i))
      if not line:find(("\tfalse\t%s/script.lua:%d: "):format(host.folder(), host.lineOf(text, ("-- case %d."):format(i))), 1,
        true) then
        wrong[#wrong + 1] = case .. ": " .. line
      end
    end
    return wrong
  end

  it("connects when it is started, and retries", function()
    local at = unixAt()
    local h = serve(([[
      reactor.callWhenRunning(function()
        local service = ClientService:new("%s", { protocol = Client, initialDelay = 0.01, maxDelay = 0.02 })
        print("running", service.running)
        service:startService()
        service:startService()
        print("running", service.running)
        tell("connected", service:whenConnected())
      end) ]]):format(at))
    h:line "^running\tfalse"
    h:line "^running\ttrue"
    local s = server(at)
    h:line "^connected\tvalue\tprotocol"
    kill(s)
    h:line "^lost"
    server(at)
    h:line "^made"
    assert.equal(2, printed(h, "^made"))
  end)

  it("ends its connection in order when it is stopped, and tells when that is done", function()
    local s = server()
    local h = serve(([[
      reactor.callWhenRunning(function()
        local service = ClientService:new("tcp:127.0.0.1:%d", { protocol = Client, initialDelay = 0,
          stopFactory = function() print "stop" end })
        service:startService()
        service:whenConnected():addCallback(function(p)
          p.transport:write(("x"):rep(3000000))
          tell("stopped", service:stopService():addCallback(function() print("running", service.running) end))
          tell("again", service:stopService())
          tell("none", service:whenConnected())
        end)
      end) ]]):format(s.port))
    h:line "^stopped"
    local out = h:output():gsub("data[^\n]*\n", "")
    assert.truthy(out:find "lost\tdone\tlocal\nstop\nrunning\tfalse\nstopped\t", out)
    assert.truthy(out:find "none\tfailed\tthe client service does not run", out)
    h:stop()
    assert.equal(1, printed(h, "^made"))
  end)

  it("stops while it waits for a retry, while it connects, and when it was never started", function()
    local h = serve [[
      local control = { connectionMade = function(self) self.transport:write "in\n" end, dataReceived = function(self, what)
        local service = ClientService:new("tcp:127.0.0.1:1", { protocol = Client, initialDelay = 20,
          stopFactory = function() print "stop" end })
        if what == "never" then
          tell(what, service:stopService())
        elseif what == "connecting" then
          service:startService()
          tell("waiter", service:whenConnected())
          tell(what, service:stopService())
        else
          service:startService()
          service:whenConnected(1):addErrback(function()
            tell("waiter", service:whenConnected())
            tell(what, service:stopService())
          end)
        end
      end }
      return { listen = "tcp:127.0.0.1:0", protocol = control } ]]
    local c = client.tcp(tonumber((h:line "^listening tcp:127.0.0.1:(%d+)")))
    c:line()
    local before = settled(h)
    c:send "never"
    h:line "^never\tvalue"
    for _, word in ipairs { "connecting", "waiting" } do
      c:send(word)
      h:line "^waiter\tfailed"
      h:line("^" .. word .. "\tvalue")
    end
    assert.equal(2, printed(h, "^stop"))
    awaitAgain(h, before)
  end)

  it("can be started again", function()
    local s = server()
    local h = serve(([[
      local service = ClientService:new("tcp:127.0.0.1:%d", { protocol = Client, initialDelay = 0 })
      local again = defer.async(function()
        for i = 1, 3 do
          service:startService()
          defer.await(service:whenConnected())
          defer.await(service:stopService())
          print("round", i)
        end
      end)
      reactor.callWhenRunning(again) ]]):format(s.port))
    h:line "^round\t3"
    assert.equal(3, printed(h, "^made"))
  end)

  it("takes an endpoint of endpoints.clientFromString, and any factory", function()
    local s = server()
    local h = serve(([[
      local endpoint = require("skald.endpoints").clientFromString "tcp:127.0.0.1:%d"
      reactor.callWhenRunning(function()
        local F = protocol.ClientFactory { protocol = Client, initialDelay = 0 }
        for _, factory in ipairs { F, F:new(), protocol.ReconnectingClientFactory { protocol = Client }:new() } do
          ClientService:new(endpoint, factory):startService()
        end
      end) ]]):format(s.port))
    for _ = 1, 3 do
      h:line "^made"
    end
  end)

  it("says what it takes, at the caller's line", function()
    assert.same({}, wrongPlaces { "ClientService:new(5, {})", 'ClientService:new("tcp:a:1")', "ClientService:new({}, {})" })
  end)

  it("says of a bad endpoint string, an endpoint to listen on, or a protocol at the caller's line", function()
    assert.same({}, wrongPlaces { 'ClientService:new("tcp:a", {})', 'ClientService:new("tcp:a:1", Client)',
      'ClientService:new(require("skald.endpoints").serverFromString "tcp:0", { protocol = Client })' })
  end)

  it("that a script's load starts ends with a reload, its connection too, and the new one's begins", function()
    local s = server()
    local text = HEAD .. ([[
      local P = Client { connectionLost = function(_, why) print("gone @", why.code) end,
        connectionMade = function() print "up @" end }
      local service = ClientService:new("tcp:127.0.0.1:%d", { protocol = P, stopFactory = function() print "stop @" end })
      service:startService()
      tell("connected @", service:whenConnected())
      return { name = "s", listen = "tcp:127.0.0.1:0", protocol = {} } ]]):format(s.port)
    local h = reload.serve(text)
    h:line "^connected 1\tvalue"
    reload.commit(text)
    h:line "^connected 2\tvalue"
    h:stop()
    assert.same({ 1, 1, 1 }, { printed(h, "^up 1"), printed(h, "^gone 1\tdone"), printed(h, "^stop 1") })
  end)

  it("that startFactory starts lives until stopFactory, through reloads", function()
    local s = server()
    local text = HEAD .. ([[
      return { name = "s", listen = "tcp:127.0.0.1:0", protocol = {}, startFactory = function(self)
        self.client = ClientService:new("tcp:127.0.0.1:%d", { protocol = Client })
        self.client:startService()
      end, reloaded = function(self) print("still", self.client.connector.state) end,
      stopFactory = function() print "stop" end } ]]):format(s.port)
    local h = reload.serve(text)
    h:line "^made"
    reload.commit(text .. "-- @")
    h:line "^still\tconnected"
    assert.equal(0, (host.command { "load", host.script('return { listen = "tcp:127.0.0.1:0", protocol = {} }', "other.lua") }))
    assert.equal(0, (host.command { "unload", "script" }))
    h:line "^lost\tdone"
    assert.equal(1, printed(h, "^made"))
  end)
end)

describe("a client service whose server is killed again and again", function()
  after_each(host.cleanup)

  it("is connected again each time, and nothing is left over", function()
    local at = unixAt()
    local h = serve(([[ return { connect = "%s", protocol = Client, initialDelay = 0.01, maxDelay = 0.05 } ]]):format(at))
    local s = server(at)
    h:line "^made"
    local before = settled(h)
    for _ = 1, 10 do
      kill(s)
      h:line "^lost"
      s = server(at)
      h:line "^made"
    end
    awaitAgain(h, before)
  end)
end)
