-- Endpoints that a running script listens on and connects to: Deferreds of ports and protocols.

local alive = require "support.alive"
local host = require "support.host"
local client = require "support.client"
local sys = require "support.sys"

local settled, awaitAgain = alive.settled, alive.awaitAgain

-- A server in the same host at port `n`, and `tell`, which prints what becomes of a Deferred.
local HEAD = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local endpoints = require "skald.endpoints"
  local defer = require "skald.defer"
  local Echo = protocol.Protocol {}
  function Echo:dataReceived(data) self.transport:write(data) end
  local port = reactor.listenTCP(0, { name = "server", protocol = Echo }, { interface = "127.0.0.1" })
  local n = port:getHost().port
  local to = endpoints.clientFromString("tcp:127.0.0.1:" .. n)
  local nowhere = endpoints.clientFromString "tcp:127.0.0.1:1"
  local function tell(name, d)
    return d:addCallbacks(function(v)
      print(name, "value", type(v) == "table" and (v.transport and "protocol" or v.getHost and "port") or v)
      return v
    end, function(failure) print(name, "failed", failure.value.code, failure.value.errno, failure) end)
  end
  local Client = protocol.Protocol {}
  function Client:connectionMade() print "made" end
  function Client:connectionLost(why) print("lost", why.code, why.by) end
]]

-- Runs `text` once the host runs; `before` at its load.
local function serve(text, before)
  return host.serve(("%s%s\nreactor.callWhenRunning(function()\n%s\nend)"):format(HEAD, before or "", text))
end

local function printed(h, pattern)
  local n = 0
  for line in h:output():gmatch "([^\n]*)\n" do
    n = n + (line:find(pattern) and 1 or 0)
  end
  return n
end

local releases = {}

-- A Unix socket that has as many waiting as it takes: who connects, waits.
local function crowded()
  local path = host.folder() .. "/full.sock"
  releases[#releases + 1] = client.occupy(path, true)
  for _ = 1, 6 do
    client.unix(path)
  end
  return "unix:" .. path
end

local function cleanup()
  for _, release in ipairs(releases) do
    release()
  end
  releases = {}
  host.cleanup()
end

describe("clientFromString(…):connect", function()
  after_each(cleanup)

  it("gives the connected protocol, whose factory is the one given", function()
    local h = serve [[
      local F = protocol.ClientFactory { protocol = Client }:new()
      to:connect(F):addCallback(function(p)
        print("same", p.factory == F, p.transport:getPeer().port == n)
        p.transport:loseConnection()
      end) ]]
    h:line "^lost\tdone\tlocal"
    assert.truthy(h:output():find "made\nsame\ttrue\ttrue\nlost")
  end)

  it("takes an instance, a class, or a plain definition", function()
    local h = serve [[
      for _, factory in ipairs { { protocol = Client }, protocol.Factory { protocol = Client },
        protocol.ClientFactory { protocol = Client }, protocol.ClientFactory { protocol = Client }:new() } do
        tell("connected", to:connect(factory))
      end ]]
    for _ = 1, 4 do
      h:line "^connected\tvalue\tprotocol"
    end
  end)

  it("works with IPv6, and with Unix sockets", function()
    local h = serve(([[
      local list = { "tcp:0:interface=\\:\\:1", "unix:%s/x.sock" }
      for _, text in ipairs(list) do
        endpoints.serverFromString(text):listen({ protocol = Echo }):addCallback(function(p)
          local at = tostring(p:getHost())
          print("at", at)
          tell("connected", endpoints.clientFromString(at):connect { protocol = Client })
        end)
      end ]]):format(host.folder()))
    h:line "^at\ttcp:%[::1%]:%d+"
    h:line "^at\tunix:/"
    h:line "^connected\tvalue\tprotocol"
    h:line "^connected\tvalue\tprotocol"
  end)

  it("starts its factory and stops it, and calls nothing else of a client factory", function()
    local h = serve [[
      local function never(name) return function() print("never", name) end end
      local function factory(name) return protocol.ReconnectingClientFactory { protocol = Client, initialDelay = 0,
        startFactory = function() print("start", name) end, stopFactory = function() print("stop", name) end,
        startedConnecting = never "started", clientConnectionLost = never "lost",
        clientConnectionFailed = never "failed" } end
      to:connect(factory "one"):addCallback(function(p) p.transport:loseConnection() end)
      nowhere:connect(factory "two"):addErrback(function() end) ]]
    sys.await(function()
      return printed(h, "^stop") == 2
    end, function()
      return h:story "a factory does not stop"
    end)
    h:stop()
    assert.same({ 1, 1, 0, 1 }, { printed(h, "^start\tone"), printed(h, "^start\ttwo"), printed(h, "^never"),
      printed(h, "^made") })
  end)

  it("connects each time it is called, with one endpoint and one factory", function()
    local h = serve [[
      local count, F = 0, nil
      F = protocol.ClientFactory { protocol = Client, startFactory = function() print "start" end }:new()
      for _ = 1, 5 do
        to:connect(F):addCallback(function() count = count + 1; print("count", count, F:connectionCount()) end)
      end ]]
    h:line "^count\t5\t5"
    assert.equal(1, printed(h, "^start"))
  end)

  it("fails with the reason where nobody listens, after its timeout, and where the name makes no sense", function()
    local full = crowded()
    local h = serve(([[
      local F = { protocol = Client }
      tell("refused", nowhere:connect(F))
      tell("timeout", endpoints.clientFromString("%s:timeout=0.1"):connect(F))
      tell("none", endpoints.clientFromString("unix:/no/such/socket"):connect(F))
      tell("from", endpoints.clientFromString("tcp:127.0.0.1:1:bindAddress=192.0.2.1"):connect(F)) ]]):format(full))
    h:line "^timeout\tfailed\ttimeout\tETIMEDOUT\tTimeoutError: cannot connect to unix:[^:]*: no answer within 0.1 s$"
    h:stop()
    for _, line in ipairs {
      "refused\tfailed\tlost\tECONNREFUSED\tcannot connect to tcp:127.0.0.1:1: Connection refused",
      "none\tfailed\tlost\tENOENT\tcannot connect to unix:/no/such/socket: No such file or directory",
      "from\tfailed\tlost\tEADDRNOTAVAIL\tcannot connect to tcp:127.0.0.1:1: Cannot assign requested address",
    } do
      assert.truthy(h:output():find(line, 1, true), line)
    end
    assert.equal(0, printed(h, "^made"))
  end)

  it("fails where startFactory, buildProtocol or connectionMade raises, or buildProtocol gives nil", function()
    local h = serve [[
      local function raising() error "no" end
      tell("start", to:connect { protocol = Client, startFactory = raising })
      tell("build", to:connect { buildProtocol = raising })
      tell("nil", to:connect { buildProtocol = function() end })
      tell("made", to:connect { protocol = { connectionMade = raising } }) ]]
    sys.await(function()
      return printed(h, "\tfailed\t") == 4
    end, function()
      return h:story "a Deferred does not fail"
    end)
    assert.same({ 1, 1, 1, 1 }, { printed(h, "^start\tfailed\terror"), printed(h, "^build\tfailed\terror"),
      printed(h, "^nil\tfailed\taborted"), printed(h, "^made\tfailed\terror") })
    assert.equal(3, h:logged ": no\n")
  end)

  it("fails where the connection ends before prepareConnection is done", function()
    local h = serve [[
      tell("lost", to:connect { protocol = { connectionMade = function(self) self.transport:loseConnection() end },
        prepareConnection = function() return defer.Deferred:new() end })
      tell("unprepared", to:connect { protocol = Client, prepareConnection = function() return defer.fail "unready" end }) ]]
    sys.await(function()
      return printed(h, "\tfailed\t") == 2
    end, function()
      return h:story "a Deferred does not fail"
    end)
    assert.truthy(h:output():find "unprepared\tfailed\t[^\n]*unready")
  end)

  it("gives a protocol that closes at once, and its end comes after", function()
    local h = serve [[
      tell("connected", to:connect { protocol = Client {
        connectionMade = function(self) self.transport:loseConnection() end } }) ]]
    h:line "^lost\tdone\tlocal"
    h:stop()
    assert.equal(1, printed(h, "^connected"))
  end)

  it("fails as stopped when the host stops meanwhile, and its factory stops", function()
    local full = crowded()
    local h = serve(([[
      tell("waits", endpoints.clientFromString("%s"):connect { protocol = Client, stopFactory = function() print "stop" end })
      print "asked" ]]):format(full))
    h:line "^asked"
    h:stop()
    h:line "^waits\tfailed\tstopped"
    h:line "^stop"
  end)

  it("may be awaited, in turn and at once", function()
    local h = serve [[
      defer.async(function()
        for i = 1, 3 do
          local p = defer.await(to:connect { protocol = Client })
          p.transport:loseConnection()
          print("round", i)
        end
        local ok, failure = pcall(defer.await, nowhere:connect { protocol = Client })
        print("failed", ok, failure.value.errno)
        local list = defer.await(defer.gatherResults { to:connect { protocol = Client }, to:connect { protocol = Client } })
        print("both", #list, list[1] ~= list[2])
      end)() ]]
    h:line "^round\t3"
    h:line "^failed\tfalse\tECONNREFUSED"
    h:line "^both\t2\ttrue"
  end)

  it("works while a script loads: it connects when the host runs", function()
    local h = serve("", [[
      print "asking"
      tell("connected", to:connect { protocol = Client, startFactory = function() print "start" end })
      print "asked" ]])
    h:line "^connected\tvalue\tprotocol"
    assert.equal(1, printed(h, "^start"))
    assert.truthy(h:output():find "asking\nasked\n.*start\n.*made")
  end)

  it("leaves nothing behind after a thousand connects that failed or were cancelled", function()
    local full = crowded()
    local h = host.serve(HEAD .. ([[
      local full = endpoints.clientFromString "%s"
      local Server = { dataReceived = defer.async(function(self)
        for _ = 1, 50 do
          local list = {}
          for i = 1, 20 do
            local d = (i %% 2 == 0 and nowhere or full):connect { protocol = Client }
            list[i] = d
          end
          reactor.callLater(0, function() for _, d in ipairs(list) do d:cancel() end end)
          defer.await(defer.DeferredList:new(list, { consumeErrors = true }))
        end
        self.transport:write "done\n"
      end) }
      return { listen = "tcp:127.0.0.1:0", protocol = Server } ]]):format(full), { listening = 2 })
    local c = h:connect(nil, 2)
    assert.equal("done", c:send("x"):line())
    local before = settled(h)
    for _ = 1, 2 do
      assert.equal("done", c:send("x"):line())
    end
    awaitAgain(h, before)
  end)
end)

describe("cancelling a connect", function()
  after_each(cleanup)

  it("gives it up: the Deferred fails with CancelledError, nobody is connected, the factory stops", function()
    local full = crowded()
    local h = serve(([[
      local function factory(name) return { protocol = Client, stopFactory = function() print("stop", name) end } end
      local at = { full = endpoints.clientFromString "%s", to = to }
      for name, endpoint in pairs(at) do
        local d = endpoint:connect(factory(name))
        d:addErrback(function(f) print("cancelled", name, f.type) end)
        if name == "full" then reactor.callLater(0.05, d.cancel, d) else d:cancel() end
      end ]]):format(full))
    sys.await(function()
      return printed(h, "^stop") == 2
    end, function()
      return h:story "a factory does not stop"
    end)
    h:stop()
    assert.same({ 1, 1, 0 }, { printed(h, "^cancelled\tfull\tCancelledError"), printed(h, "^cancelled\tto\tCancelledError"),
      printed(h, "^made") })
  end)

  it("within buildProtocol or connectionMade closes what was connected, and the factory stops", function()
    local h = serve [[
      local d, e
      d = to:connect(protocol.ClientFactory {
        buildProtocol = function() d:cancel() return Client:new() end, stopFactory = function() print("stop", 1) end,
      })
      tell("one", d:addErrback(function(f) return f.type end))
      e = to:connect(protocol.ClientFactory {
        protocol = Client { connectionMade = function() e:cancel() end }, stopFactory = function() print("stop", 2) end,
      })
      tell("two", e:addErrback(function(f) return f.type end)) ]]
    sys.await(function()
      return printed(h, "^stop") == 2
    end, function()
      return h:story "a factory does not stop"
    end)
    h:stop()
    assert.same({ 1, 1, 0, 1 }, { printed(h, "^one\tvalue\tCancelledError"), printed(h, "^two\tvalue\tCancelledError"),
      printed(h, "^made"), printed(h, "^lost\tdone\tlocal") })
  end)

  it("when it is connected does nothing", function()
    local h = serve [[
      local d = to:connect { protocol = Client }
      d:addCallback(function(p)
        d:cancel()
        reactor.callLater(0.02, function() print("still", p.transport:write "x") end)
      end) ]]
    h:line "^still\ttrue"
    assert.equal(0, printed(h, "^lost"))
  end)

  it("while prepareConnection is under way ends the connection", function()
    local h = serve [[
      local d
      d = to:connect { protocol = Client, prepareConnection = function()
        reactor.callLater(0, function() d:cancel() end)
        return defer.Deferred:new()
      end }
      d:addErrback(function(f) print("cancelled", f.type) end) ]]
    h:line "^cancelled\tCancelledError"
    h:line "^lost\tdone\tlocal"
  end)

  it("is what addTimeout does", function()
    local full = crowded()
    local h = serve(([[
      endpoints.clientFromString("%s"):connect({ protocol = Client, stopFactory = function() print "stop" end }):addTimeout(0.05)
        :addErrback(function(f) print("failed", f.type) end) ]]):format(full))
    sys.await(function()
      return printed(h, "^stop") == 1 and printed(h, "^failed\tTimeoutError") == 1
    end, function()
      return h:story "it goes on"
    end)
  end)
end)

describe("connectProtocol", function()
  after_each(cleanup)

  it("connects the very protocol that it is given", function()
    local h = serve [[
      local mine = Client:new()
      mine.hello = "here"
      endpoints.connectProtocol(to, mine):addCallback(function(p)
        print("same", p == mine, mine.factory ~= nil, mine.transport:getPeer().port == n)
        p.transport:loseConnection()
      end) ]]
    h:line "^same\ttrue\ttrue\ttrue"
    h:line "^lost"
  end)

  it("fails and is cancelled as connect is", function()
    local h = serve [[
      tell("refused", endpoints.connectProtocol(nowhere, Client:new()))
      local d = endpoints.connectProtocol(to, Client:new())
      d:addErrback(function(f) print("cancelled", f.type) end)
      d:cancel() ]]
    h:line "^refused\tfailed\tlost\tECONNREFUSED"
    h:stop()
    assert.same({ 1, 0 }, { printed(h, "^cancelled\tCancelledError"), printed(h, "^made") })
  end)
end)

describe("serverFromString(…):listen", function()
  after_each(cleanup)

  it("gives a port, which says where it listens, and prints its line", function()
    local h = serve [[
      endpoints.serverFromString("tcp:127.0.0.1:0"):listen({ name = "second", protocol = Echo }):addCallback(function(p)
        print("port", p:getHost().port, p:getHost().type, p:getHost().host)
      end) ]]
    local at = tonumber((h:line "^listening tcp:127.0.0.1:(%d+) second$"))
    h:line(("^port\t%d\tTCP\t127.0.0.1$"):format(at))
    assert.equal("hello", client.tcp(at):send("hello"):receive(5))
  end)

  it("listens on a Unix socket with its mode", function()
    local path = host.folder() .. "/mode.sock"
    local h = serve(([[
      tell("port", endpoints.serverFromString("unix:%s:mode=600"):listen { protocol = Echo }) ]]):format(path))
    h:line "^port\tvalue\tport"
    assert.equal("hello", client.unix(path):send("hello"):receive(5))
    local pipe = io.popen("stat -c %a " .. path)
    assert.equal("600", pipe:read "*l")
    pipe:close()
  end)

  it("fails where the address is taken or not there, and where startFactory raises", function()
    local h = serve [[
      tell("taken", endpoints.serverFromString("tcp:127.0.0.1:" .. n):listen { protocol = Echo })
      tell("none", endpoints.serverFromString("tcp:192.0.2.1:0"):listen { protocol = Echo })
      tell("folder", endpoints.serverFromString("unix:/no/such/folder/x.sock"):listen { protocol = Echo })
      tell("start", endpoints.serverFromString("tcp:127.0.0.1:0"):listen { protocol = Echo,
        startFactory = function() error "no start" end })
      print "end" ]]
    h:line "^end"
    for _, wanted in ipairs {
      "taken\tfailed\tEADDRINUSE\tnil\ttcp:127.0.0.1:" .. h.port .. ": ", "none\tfailed\tEADDRNOTAVAIL",
      "folder\tfailed\tENOENT\tnil\tunix:/no/such/folder/x.sock: ", "start\tfailed",
    } do
      assert.truthy(h:output():find(wanted, 1, true), wanted)
    end
    h:stop()
  end)

  it("closes with port:stopListening(), which gives a Deferred, and its connections live on", function()
    local h = serve [[
      local server = { protocol = Echo, startFactory = function() print "start" end, stopFactory = function() print "stop" end }
      endpoints.serverFromString("tcp:127.0.0.1:0"):listen(server):addCallback(function(p)
        print("at", p:getHost().port)
        function Echo:dataReceived(data)
          if data == "close" then
            tell("closed", p:stopListening())
            tell("again", p:stopListening())
          end
          self.transport:write(data)
        end
      end) ]]
    local at = tonumber((h:line "^at\t(%d+)"))
    local c = client.tcp(at)
    c:send "close"
    assert.equal("close", c:receive(5))
    h:line "^closed\tvalue"
    h:line "^again\tvalue"
    assert.same({ 1, 1 }, { printed(h, "^start"), printed(h, "^stop") })
    assert.equal("ECONNREFUSED", select(2, client.try(at)))
    assert.equal("still", c:send("still"):receive(5))
  end)

  it("frees the address within stopListening: it can be listened on at once", function()
    local h = serve [[
      local at = endpoints.serverFromString("tcp:127.0.0.1:" .. n)
      port:stopListening():addCallback(function()
        return at:listen { name = "again", protocol = Echo }
      end):addCallback(function(p) tell("again", p:stopListening()) end) ]]
    h:line "^again\tvalue"
  end)
end)

describe("a bad endpoint string", function()
  after_each(cleanup)

  it("raises one line with the column, at the caller's line; so does misuse", function()
    local cases = {
      { 'endpoints.clientFromString("tcp:a b:1")', "bad endpoint 'tcp:a b:1': column 5: a host is a name or an IP address" },
      { 'endpoints.clientFromString("tcp:127.0.0.1:65536")', "column 15: a port to connect to is a number from 1 to 65535" },
      { 'endpoints.clientFromString("tcp:127.0.0.1:80:timout=3")', "column 18: tcp knows no 'timout'" },
      { 'endpoints.clientFromString("tcp:[::1:80")', "column 5: this bracket is never closed" },
      { 'endpoints.clientFromString("unix")', "column 5: a path is missing" },
      { 'endpoints.clientFromString("udp:a:443")', "column 1: 'udp' is no kind of endpoint" },
      { "endpoints.clientFromString(80)", "an endpoint is a string, not a number" },
      { "endpoints.clientFromString()", "an endpoint is a string, not a nil" },
      { 'endpoints.serverFromString("tcp:a")', "column 5: a port is a number from 0 to 65535" },
      { 'endpoints.serverFromString("tcp:80:interface=nowhere")', "column 8: an interface is given by its IP address" },
      { 'endpoints.serverFromString("unix:/x:mode=9")', "column 9: mode is octal" },
      { "endpoints.serverFromString {}", "an endpoint is a string, not a table" },
      { "to:connect()", "connect takes a factory, not a nil" },
      { "to:connect(Echo)", "connect takes a factory, not a protocol" },
      { "to:connect { protocol = Echo, maxBuffered = -1 }", "maxBuffered takes a number from 0" },
      { "server:listen()", "listen takes a factory, not a nil" },
      { "server:listen(Echo)", "listen takes a factory, not a protocol" },
      { "endpoints.connectProtocol(nil, Echo:new())", "connectProtocol takes an endpoint to connect to" },
      { "endpoints.connectProtocol(server, Echo:new())", "connectProtocol takes an endpoint to connect to" },
      { "endpoints.connectProtocol(to, Echo)", "connectProtocol takes a protocol: an instance" },
      { "endpoints.connectProtocol(to)", "connectProtocol takes a protocol: an instance" },
    }
    local text = { HEAD, 'local server = endpoints.serverFromString "tcp:127.0.0.1:0"\nreactor.callWhenRunning(function()\n' }
    for i, case in ipairs(cases) do
      text[#text + 1] = ("print(%d, pcall(function() local x = %s return x end)) -- case %d.\n"):format(i, case[1], i)
    end
    text[#text + 1] = "print 'end' end)"
    text = table.concat(text)
    local h = host.serve(text)
    h:line "^end"
    local wrong = {}
    for i, case in ipairs(cases) do
      local line = h:output():match(("\n(%d\t[^\n]*)"):format(i))
      local at = ("\tfalse\t%s/script.lua:%d: "):format(host.folder(), host.lineOf(text, ("-- case %d."):format(i)))
      if not line:find(at, 1, true) or not line:find(case[2], 1, true) then
        wrong[#wrong + 1] = case[1] .. ": " .. line
      end
    end
    assert.same({}, wrong)
  end)
end)
