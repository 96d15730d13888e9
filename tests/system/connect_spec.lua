-- connectTCP and connectUNIX: what a client factory hears and in which order, why a connection could not be made, and
-- what is left over; besides, what runs when the host starts and stops.

local ffi = require "ffi"
local alive = require "support.alive"
local host = require "support.host"
local client = require "support.client"
local reload = require "support.reload"
local sys = require "support.sys"

local settled, awaitAgain = alive.settled, alive.awaitAgain

local C = ffi.C

-- A server in the same host, at port `n`, and factories that tell of each callback they get. A field of that name is
-- called besides.
local HEAD = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local Server = protocol.Protocol {}
  function Server:dataReceived(data) self.transport:write(data) end
  local port = reactor.listenTCP(0, { name = "server", protocol = Server }, { interface = "127.0.0.1" })
  local n = port:getHost().port
  local Telling = protocol.Protocol {}
  function Telling:connectionMade()
    print "connectionMade"
    if self.factory.made then self.factory.made(self) end
  end
  function Telling:dataReceived(data) print("dataReceived", data); self.transport:loseConnection() end
  function Telling:connectionLost(why)
    print("connectionLost", why.code, why.by)
    if self.factory.lost then self.factory.lost(self) end
  end
  local function words(...)
    local list = { ... }
    for i, word in ipairs(list) do
      list[i] = type(word) == "table" and (word.code and ("%s %s %s"):format(word.code, word.by, tostring(word.errno))
        or word.state or tostring(word)) or tostring(word)
    end
    return table.concat(list, "\t")
  end
  local function telling(fields)
    local factory = protocol.ClientFactory { protocol = Telling, made = fields.made, lost = fields.lost }:new()
    for _, name in ipairs { "startFactory", "startedConnecting", "buildProtocol", "clientConnectionFailed",
      "clientConnectionLost", "stopFactory" } do
      local own = fields[name]
      factory[name] = function(self, ...)
        print(name .. (select("#", ...) > 0 and "\t" .. words(...) or ""))
        if own then
          return own(self, ...)
        elseif name == "buildProtocol" then
          return protocol.ClientFactory.buildProtocol(self, ...)
        elseif name == "stopFactory" then
          reactor.stop()
        end
      end
    end
    return factory
  end
]]

-- Runs a script that stops by itself; what it printed, as a list of lines.
local function linesOf(text, words)
  words = words or {}
  words.listening = 0
  local h = host.serve(HEAD .. text, words)
  h:ends(0)
  local lines = {}
  for line in h:output():gmatch "([^\n]*)\n" do
    if not line:find "^listening " then
      lines[#lines + 1] = line
    end
  end
  return lines, h
end

local function running(text)
  return ("reactor.callWhenRunning(function()\n%s\nend)"):format(text)
end

local function count(text, wanted)
  local n, at = 0, 1
  while true do
    local from, to = text:find(wanted, at, true)
    if not from then
      return n
    end
    n, at = n + 1, to + 1
  end
end

local deafened = {}

-- A port that answers nobody: its queue is full.
local function deaf()
  local fd = C.socket(2, 1, 0)
  deafened[#deafened + 1] = fd
  local at, size = ffi.new "struct skt_in", ffi.new("unsigned int[1]", 16)
  at.family = 2
  C.inet_pton(2, "127.0.0.1", at.addr)
  assert(C.bind(fd, at, 16) == 0 and C.listen(fd, 0) == 0 and C.getsockname(fd, at, size) == 0)
  local port = C.ntohs(at.port)
  client.tcp(port)
  return port
end

-- A Unix socket that has as many waiting as it takes; a function that takes them, and closes.
local function crowded(path)
  local release = client.occupy(path, true)
  for _ = 1, 6 do
    client.unix(path)
  end
  return release
end

local function cleanup()
  for _, fd in ipairs(deafened) do
    C.close(fd)
  end
  deafened = {}
  host.cleanup()
end

describe("a connection that we make", function()
  after_each(cleanup)

  it("is told of in one order, and stopFactory comes last", function()
    local lines = linesOf(running [[
      local factory = telling { made = function(p) p.transport:write "hello" end }
      reactor.connectTCP("127.0.0.1", n, factory)
      print "returned"
    ]])
    local to = lines[4]:match "^buildProtocol\t(tcp:127.0.0.1:%d+)$"
    assert.same({ "startFactory", "startedConnecting\tconnecting", "returned", "buildProtocol\t" .. tostring(to),
      "connectionMade", "dataReceived\thello", "connectionLost\tdone\tlocal",
      "clientConnectionLost\tdisconnected\tdone local nil", "stopFactory" }, lines)
  end)

  it("to a Unix socket is told of in the same order", function()
    local path = host.folder() .. "/server.sock"
    local lines = linesOf(running(([[
      reactor.listenUNIX("%s", { name = "unix", protocol = Server })
      reactor.connectUNIX("%s", telling { made = function(p)
        print(p.transport:getPeer())
        p.transport:write "hello"
      end })
    ]]):format(path, path)))
    assert.same({ "startFactory", "startedConnecting\tconnecting", "buildProtocol\tunix:" .. path, "connectionMade",
      "unix:" .. path, "dataReceived\thello", "connectionLost\tdone\tlocal",
      "clientConnectionLost\tdisconnected\tdone local nil", "stopFactory" }, lines)
  end)

  it("works with IPv6", function()
    local lines = linesOf(running [[
      local six = reactor.listenTCP(0, { name = "six", protocol = Server }, { interface = "::1" })
      local connector = reactor.connectTCP("::1", six:getHost().port, telling { made = function(p)
        print("peer", p.transport:getPeer().type, p.transport:getPeer().host)
        p.transport:write "hello"
      end })
      print("to", connector:getDestination().type, connector:getDestination().host)
    ]])
    assert.equal("to\tTCP6\t::1", lines[3])
    assert.equal("peer\tTCP6\t::1", lines[6])
    assert.equal("dataReceived\thello", lines[7])
  end)

  it("is described by its connector at each step", function()
    local lines = linesOf(running [[
      local connector, factory
      local function look(where)
        print("look", where, connector and connector.state, connector and connector.transport ~= nil)
      end
      factory = telling {
        startedConnecting = function(self, c) connector = c; look "started"; print("own", c.factory == self) end,
        buildProtocol = function(self, addr) look "build"; return protocol.ClientFactory.buildProtocol(self, addr) end,
        made = function(p)
          look "made"
          print("same", connector.transport == p.transport, p.factory == factory)
          p.transport:loseConnection()
        end,
        lost = function() look "lost" end,
        clientConnectionLost = function(_, c) look "client lost"; print("same", c == connector) end,
      }
      local got = reactor.connectTCP("127.0.0.1", n, factory)
      print("same", got == connector, tostring(got:getDestination()) == "tcp:127.0.0.1:" .. n)
    ]])
    local looks = {}
    for _, line in ipairs(lines) do
      if line:find "^look" or line:find "^same" or line:find "^own" then
        looks[#looks + 1] = line
      end
    end
    assert.same({ "look\tstarted\tconnecting\tfalse", "own\ttrue", "same\ttrue\ttrue", "look\tbuild\tconnecting\tfalse",
      "look\tmade\tconnected\ttrue", "same\ttrue\ttrue", "look\tlost\tconnected\ttrue",
      "look\tclient lost\tdisconnected\tfalse", "same\ttrue" }, looks)
  end)

  it("is asked for with a colon, too", function()
    local lines = linesOf(running [[
      reactor:connectTCP("127.0.0.1", n, telling { made = function(p) p.transport:loseConnection() end })
    ]])
    assert.equal("stopFactory", lines[#lines])
  end)

  it("has its clientConnectionLost called after a connectionLost that raises, which is logged", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling {
        made = function(p) p.transport:loseConnection() end, lost = function() error "in the end" end,
      })
    ]])
    assert.equal("clientConnectionLost\tdisconnected\tdone local nil", lines[#lines - 1])
    assert.equal(1, h:logged "in the end")
  end)

  it("goes on being told of after each callback of the factory that raises", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling {
        made = function(p) p.transport:loseConnection() end,
        startedConnecting = function() error "first" end, clientConnectionLost = function() error "second" end,
      })
    ]])
    assert.equal("stopFactory", lines[#lines])
    assert.same({ 1, 1 }, { h:logged ": first", h:logged ": second" })
  end)

  it("tells why it was lost: closed or reset by the peer, a callback that raised, our own abort", function()
    for how, wanted in pairs {
      ["p.transport:write 'close'"] = "done peer nil",
      ["p.transport:write 'abort'"] = "lost peer ECONNRESET",
      ["error 'no'"] = "error local nil",
      ["p.transport:abortConnection()"] = "aborted local nil",
    } do
      local lines = linesOf(([[
        function Server:dataReceived(word) self.transport[word .. "Connection"](self.transport) end
        Server.closeConnection = nil
        function Server:connectionMade() self.transport.closeConnection = self.transport.loseConnection end
      ]]):gsub("\n%s*", " ") .. running(([[
        reactor.connectTCP("127.0.0.1", n, telling { made = function(p) %s end })
      ]]):format(how)))
      assert.equal("clientConnectionLost\tdisconnected\t" .. wanted, lines[#lines - 1], how)
    end
  end)

  it("ends with its connectionMade's error, which is logged once with its line", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling { made = function() error "not made" end,
        clientConnectionLost = function(_, _, why) print("traceback", why.traceback:find "not made" ~= nil) end })
    ]])
    assert.same({ "connectionMade", "connectionLost\terror\tlocal", "clientConnectionLost\tdisconnected\terror local nil",
      "traceback\ttrue", "stopFactory" }, { unpack(lines, 4) })
    assert.equal(1, h:logged ": not made")
  end)

  it("carries much in both directions", function()
    local lines = linesOf(running [[
      local text = {}
      for i = 1, 60000 do text[i] = ("%06d "):format(i) end
      text = table.concat(text):rep(10)
      local P, got, size = protocol.Protocol {}, {}, 0
      function P:connectionMade() self.transport:write(text) end
      function P:dataReceived(data)
        got[#got + 1], size = data, size + #data
        if size == #text then
          print("same", table.concat(got) == text, size)
          reactor.stop()
        end
      end
      reactor.connectTCP("127.0.0.1", n, protocol.ClientFactory { protocol = P })
    ]])
    assert.same({ "same\ttrue\t4200000" }, lines)
  end)
end)

describe("buildProtocol of a client", function()
  after_each(cleanup)

  it("that gives nil refuses: the peer sees a clean close, and the factory hears of a failure", function()
    local lines = linesOf([[
      function Server:connectionLost(why) print("server", why.code, why.by) reactor.stop() end
    ]] .. running [[
      reactor.connectTCP("127.0.0.1", n, telling { buildProtocol = function() end, stopFactory = function() end })
    ]])
    table.sort(lines)
    assert.equal("clientConnectionFailed\tdisconnected\taborted local nil", lines[2])
    assert.equal("server\tdone\tpeer", lines[3])
    assert.equal(6, #lines)
  end)

  it("that raises fails the connection with its error, which is logged once", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling { buildProtocol = function() error "not built" end,
        clientConnectionFailed = function(_, _, why)
          print("says", tostring(why), why.traceback:find "not built" ~= nil)
        end })
    ]])
    assert.equal("clientConnectionFailed\tdisconnected\terror local nil", lines[4])
    assert.truthy(lines[5]:find("^says\tcannot connect to tcp:127.0.0.1:%d+: buildProtocol failed\ttrue$"), lines[5])
    assert.equal("stopFactory", lines[6])
    assert.equal(1, h:logged ": not built")
  end)

  it("that gives something else fails it, too", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling { buildProtocol = function() return 5 end })
    ]])
    assert.equal("clientConnectionFailed\tdisconnected\terror local nil", lines[4])
    assert.equal(1, h:logged "buildProtocol gave a number, not a protocol")
  end)

  it("that stops connecting is believed: nothing is connected, whatever it gives", function()
    local lines = linesOf(running [[
      local connector
      local factory = telling {
        buildProtocol = function(self, addr)
          connector:stopConnecting()
          return protocol.ClientFactory.buildProtocol(self, addr)
        end,
      }
      connector = reactor.connectTCP("127.0.0.1", n, factory)
    ]])
    assert.same({ "clientConnectionFailed\tdisconnected\taborted local nil", "stopFactory" }, { unpack(lines, 4) })
  end)
end)

describe("an attempt to connect", function()
  after_each(cleanup)

  it("that is refused says so, and by whom", function()
    local lines = linesOf(running [[
      reactor.connectTCP("127.0.0.1", 1, telling { clientConnectionFailed = function(_, _, why) print(why) end })
    ]])
    assert.same({ "startFactory", "startedConnecting\tconnecting",
      "clientConnectionFailed\tdisconnected\tlost peer ECONNREFUSED",
      "cannot connect to tcp:127.0.0.1:1: Connection refused", "stopFactory" }, lines)
  end)

  it("that nobody answers ends after its timeout, and not before", function()
    local lines = linesOf(running(([[
      local since = reactor.seconds()
      reactor.connectTCP("127.0.0.1", %d, telling { clientConnectionFailed = function(_, _, why)
        print(why)
        print(reactor.seconds() - since)
      end }, { timeout = 0.3 })
    ]]):format(deaf())))
    assert.equal("clientConnectionFailed\tdisconnected\ttimeout host ETIMEDOUT", lines[3])
    assert.truthy(lines[4]:find("no answer within 0.3 s", 1, true), lines[4])
    local took = tonumber(lines[5])
    assert.is_true(took >= 0.299, "it took " .. took)
  end)

  it("stops within stopConnecting, at once", function()
    local lines = linesOf(running(([[
      local connector = reactor.connectTCP("127.0.0.1", %d, telling { stopFactory = function() end })
      reactor.callLater(0.05, function()
        print("stop", connector:stopConnecting())
        print("again", connector:stopConnecting())
        reactor.callLater(0, reactor.stop)
      end)
    ]]):format(deaf())))
    assert.same({ "clientConnectionFailed\tdisconnected\taborted local nil", "stop\ttrue",
      "again\tnil\tnot connecting\tENOTCONN", "stopFactory" }, { unpack(lines, 3) })
  end)

  it("stops where startedConnecting or disconnect says so", function()
    for _, text in ipairs {
      'reactor.connectTCP("127.0.0.1", n, telling { startedConnecting = function(_, c) c:stopConnecting() end })',
      'reactor.connectTCP("127.0.0.1", n, telling {}):disconnect()',
    } do
      local lines = linesOf(running(text))
      assert.same({ "startFactory", "startedConnecting\tconnecting",
        "clientConnectionFailed\tdisconnected\taborted local nil", "stopFactory" }, lines)
    end
  end)

  it("that is under way when the host stops fails as stopped, and holds nobody up", function()
    local h = host.serve(HEAD .. running(([[
      for _ = 1, 3 do reactor.connectTCP("127.0.0.1", %d, telling {}) end
      print "connecting"
    ]]):format(deaf())), { options = { "--grace=1000" } })
    h:line "^connecting"
    h:stop()
    assert.equal(3, count(h:output(), "clientConnectionFailed\tdisconnected\tstopped host nil\n"))
    assert.equal(3, count(h:output(), "stopFactory\n"))
  end)

  it("of a factory whose startFactory raises fails, and that one is stopped", function()
    local lines, h = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling { startFactory = function() error "not started" end })
      print "returned"
    ]])
    assert.same({ "startFactory", "returned", "clientConnectionFailed\tdisconnected\terror local nil", "stopFactory" }, lines)
    assert.equal(1, h:logged ": not started")
  end)

  it("does not take its own socket for a peer", function()
    local lines = linesOf([[
      local free = reactor.listenTCP(0, { name = "free", protocol = Server }, { interface = "127.0.7.9" })
      local p = free:getHost().port
      free:stopListening()
    ]] .. running [[
      reactor.connectTCP("127.0.7.9", p, telling {}, { bindAddress = { "127.0.7.9", p } })
    ]])
    assert.equal("clientConnectionFailed\tdisconnected\tlost peer ECONNREFUSED", lines[3])
  end)

  it("comes from its bindAddress", function()
    local lines = linesOf([[
      function Server:connectionMade()
        local from = self.transport:getPeer()
        print("from", from.host, from.port == n)
        self.transport:loseConnection()
      end
    ]] .. running [[
      reactor.connectTCP("127.0.0.1", n, telling { stopFactory = function()
        reactor.connectTCP("127.0.0.1", n, telling {}, { bindAddress = { "127.0.0.7", n } })
      end }, { bindAddress = "127.0.0.9" })
    ]])
    local from = {}
    for _, line in ipairs(lines) do
      from[#from + 1] = line:match "^from\t.*"
    end
    assert.same({ "from\t127.0.0.9\tfalse", "from\t127.0.0.7\ttrue" }, from)
  end)

  it("from an address that this machine has not, or of the other family, fails as our own fault", function()
    for address, errno in pairs { ["192.0.2.1"] = "EADDRNOTAVAIL", ["::1"] = "E%u+" } do
      local lines = linesOf(running(([[
        reactor.connectTCP("127.0.0.1", n, telling {}, { bindAddress = "%s" })
      ]]):format(address)))
      assert.truthy(lines[3]:find("^clientConnectionFailed\tdisconnected\tlost local " .. errno .. "$"), lines[3])
      assert.equal("stopFactory", lines[4])
    end
  end)

  it("fails where no descriptor is left, and works when there is one again", function()
    local lines = linesOf(running [[
      local failed, made, list = nil, 0, {}
      local factory
      factory = protocol.ClientFactory {
        protocol = { connectionMade = function(self)
          made = made + 1
          list[made] = self
          if failed then print "again"; reactor.stop() else reactor.connectTCP("127.0.0.1", n, factory) end
        end },
        clientConnectionFailed = function(_, connector, why)
          if not failed then
            failed = why
            print(why.code, why.by, why.errno)
            for _, p in ipairs(list) do p.transport:loseConnection() end
          end
          reactor.callLater(0.05, connector.connect, connector)
        end }:new()
      reactor.connectTCP("127.0.0.1", n, factory)
    ]], { limit = 64 })
    assert.same({ "lost\tlocal\tEMFILE", "again" }, { lines[1], lines[2] })
  end)

  it("leaves no descriptor, timer or anchor behind after a thousand failures", function()
    local path = host.folder() .. "/nobody.sock"
    client.occupy(path)
    local h = host.serve(HEAD .. ([[
      local left = 0
      local factory = protocol.ClientFactory { protocol = {}, clientConnectionFailed = function(_, c, why)
        left = left - 1
        if left == 0 then print("done", why.errno) elseif left >= 10 then c:connect() end
      end }
      function Server:dataReceived()
        left = 1000
        for i = 1, 10 do
          if i %% 2 == 0 then reactor.connectTCP("127.0.0.1", 1, factory) else reactor.connectUNIX("%s", factory) end
        end
      end
    ]]):format(path))
    local c = h:connect()
    c:send "go" -- once, so that all that is made once is there
    assert.equal("ECONNREFUSED", (h:line "^done\t(.*)"))
    local before = settled(h)
    c:send "go"
    h:line "^done"
    awaitAgain(h, before)
  end)
end)

describe("an attempt to connect to a Unix socket", function()
  after_each(cleanup)

  it("fails where there is no socket, nobody listens, or the path is too long", function()
    local stale = host.folder() .. "/stale.sock"
    client.occupy(stale)
    for path, wanted in pairs {
      [host.folder() .. "/none.sock"] = "lost local ENOENT",
      [stale] = "lost peer ECONNREFUSED",
      ["/tmp/" .. ("x"):rep(200)] = "lost local ENAMETOOLONG",
    } do
      local lines = linesOf(running(('reactor.connectUNIX("%s", telling {})'):format(path)))
      assert.same({ "startFactory", "startedConnecting\tconnecting", "clientConnectionFailed\tdisconnected\t" .. wanted,
        "stopFactory" }, lines)
    end
  end)

  it("waits for room in a queue that is full, until its timeout", function()
    local path = host.folder() .. "/full.sock"
    local release = crowded(path)
    local lines = linesOf(running(([[
      reactor.connectUNIX("%s", telling {}, { timeout = 0.2 })
    ]]):format(path)))
    assert.equal("clientConnectionFailed\tdisconnected\ttimeout host ETIMEDOUT", lines[3])
    release()
  end)

  it("is connected as soon as there is room in the queue", function()
    local path = host.folder() .. "/full.sock"
    local h = host.serve(([[ return { listen = "unix:%s", protocol = {
      connectionMade = function(self) self.transport:loseConnection() end }, backlog = 1 } ]]):format(path), { env = {
        XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" } })
    h:kill "STOP"
    client.unix(path)
    client.unix(path)
    assert.equal("EAGAIN", select(2, client.tryUnix(path)))
    local mine = host.script(HEAD .. running(([[
      reactor.connectUNIX("%s", telling {})
      reactor.callLater(0.1, print, "waited")
    ]]):format(path)), "mine.lua")
    local p = host.run { mine }
    p:line "^waited"
    assert.falsy(p:output():find("connectionMade", 1, true))
    h:kill "CONT"
    p:line "^connectionMade"
    p:ends(0)
  end)
end)

describe("a connector", function()
  after_each(cleanup)

  it("answers what cannot be done now with nil, a message and a code", function()
    local lines = linesOf(running [[
      local connector
      connector = reactor.connectTCP("127.0.0.1", n, telling {
        made = function()
          print("connect", connector:connect())
          print("stop", connector:stopConnecting())
          print("disconnect", connector:disconnect())
        end,
        clientConnectionLost = function(_, c)
          print("stop", c:stopConnecting())
          print("disconnect", c:disconnect())
        end,
      })
      print("connect", connector:connect())
    ]])
    assert.same({ "startFactory", "startedConnecting\tconnecting", "connect\tnil\talready connecting\tEALREADY",
      lines[4], "connectionMade", "connect\tnil\talready connected\tEALREADY", "stop\tnil\tnot connecting\tENOTCONN",
      "disconnect\ttrue", "connectionLost\tdone\tlocal", "clientConnectionLost\tdisconnected\tdone local nil",
      "stop\tnil\tnot connecting\tENOTCONN", "disconnect\tnil\tnot connected\tENOTCONN", "stopFactory" }, lines)
  end)

  it("sends all that is queued before it disconnects", function()
    local lines = linesOf([[
      local got = 0
      function Server:dataReceived(data) got = got + #data end
      function Server:connectionLost() print("got", got); reactor.stop() end
    ]] .. running [[
      local connector
      connector = reactor.connectTCP("127.0.0.1", n, telling { stopFactory = function() end, made = function(p)
        p.transport:write(("x"):rep(5000000))
        connector:disconnect()
      end })
    ]])
    assert.equal("got\t5000000", lines[#lines])
  end)

  it("connects again from clientConnectionLost, without its factory being stopped in between", function()
    local lines = linesOf(running [[
      local times = 0
      reactor.connectTCP("127.0.0.1", n, telling {
        made = function(p) p.transport:loseConnection() end,
        clientConnectionLost = function(_, c)
          times = times + 1
          if times < 3 then print("connect", c:connect()) end
        end,
      })
    ]])
    local text = table.concat(lines, "\n")
    assert.same({ 1, 3, 3, 1 }, { count(text, "startFactory"), count(text, "startedConnecting"),
      count(text, "connectionMade"), count(text, "stopFactory") })
    assert.equal("stopFactory", lines[#lines])
  end)

  it("connects again from clientConnectionFailed, without its factory being stopped in between", function()
    local lines = linesOf(running [[
      local times = 0
      reactor.connectTCP("127.0.0.1", 1, telling { clientConnectionFailed = function(_, c)
        times = times + 1
        if times < 50 then c:connect() end
      end })
    ]])
    local text = table.concat(lines, "\n")
    assert.same({ 1, 50, 50, 1 }, { count(text, "startFactory"), count(text, "startedConnecting"),
      count(text, "clientConnectionFailed"), count(text, "stopFactory") })
  end)

  it("connects again later, when its factory has stopped, and starts that again", function()
    local lines = linesOf(running [[
      local times = 0
      local connector
      connector = reactor.connectTCP("127.0.0.1", n, telling {
        made = function(p) p.transport:loseConnection() end,
        stopFactory = function()
          times = times + 1
          if times == 2 then reactor.stop() else reactor.callLater(0.02, connector.connect, connector) end
        end,
      })
    ]])
    local once = { "startFactory", "startedConnecting\tconnecting", lines[3], "connectionMade",
      "connectionLost\tdone\tlocal", "clientConnectionLost\tdisconnected\tdone local nil", "stopFactory" }
    assert.same(once, { unpack(lines, 1, 7) })
    assert.same(once, { unpack(lines, 8) })
  end)

  it("connects again within stopFactory: what startFactory starts then is there to stay", function()
    local lines = linesOf(running [[
      local starts, ticks, connector = 0, {}, nil
      connector = reactor.connectTCP("127.0.0.1", n, telling {
        startFactory = function()
          starts = starts + 1
          local mine = starts
          local function tick()
            ticks[mine] = (ticks[mine] or 0) + 1
            if ticks[2] == 10 then print("ticks", 2); connector:disconnect() else reactor.callLater(0.01, tick) end
          end
          tick()
        end,
        made = function(p) if starts == 1 then p.transport:loseConnection() end end,
        stopFactory = function()
          if starts == 1 then connector:connect() else reactor.stop() end
        end,
      })
      reactor.callLater(15, reactor.stop) -- it would go on
    ]])
    local text = table.concat(lines, "\n")
    assert.same({ 2, 1, 2 }, { count(text, "startFactory"), count(text, "ticks\t2"), count(text, "stopFactory") })
  end)

  it("that waits with a timer of clientConnectionFailed keeps its factory up", function()
    local lines = linesOf(running [[
      local times = 0
      reactor.connectTCP("127.0.0.1", 1, telling { clientConnectionFailed = function(_, c)
        times = times + 1
        if times < 3 then reactor.callLater(0.02, c.connect, c) end
      end })
    ]])
    local text = table.concat(lines, "\n")
    assert.same({ 1, 3, 1 }, { count(text, "startFactory"), count(text, "clientConnectionFailed"), count(text, "stopFactory") })
  end)

  it("is one of several of a factory, which starts with the first and stops with the last", function()
    local lines = linesOf(running [[
      local list, factory = {}, nil
      factory = telling {
        made = function(p)
          list[#list + 1] = p
          print("count", factory:connectionCount())
          if #list == 3 then
            local each = 0
            for one in factory:each() do each = each + 1 end
            print("each", each)
            for _, one in ipairs(list) do one.transport:loseConnection() end
          end
        end,
      }
      for _ = 1, 3 do reactor.connectTCP("127.0.0.1", n, factory) end
      reactor.connectTCP("127.0.0.1", 1, factory)
    ]])
    local text = table.concat(lines, "\n")
    assert.same({ 1, 4, 1, 1, 3, 1 }, { count(text, "startFactory"), count(text, "startedConnecting"),
      count(text, "clientConnectionFailed"), count(text, "each\t3"), count(text, "clientConnectionLost"),
      count(text, "stopFactory") })
    assert.equal("stopFactory", lines[#lines])
  end)

  it("of a factory that listens, too, leaves that up", function()
    local lines = linesOf(running [[
      local factory = telling { made = function(p) p.transport:loseConnection() end, stopFactory = function() end,
        clientConnectionLost = function() reactor.callLater(0.05, function() print "still"; reactor.stop() end) end }
      reactor.listenTCP(0, factory, { interface = "127.0.0.1" })
      reactor.connectTCP("127.0.0.1", n, factory)
    ]])
    local text = table.concat(lines, "\n")
    assert.equal(1, count(text, "startFactory"))
    assert.truthy(text:find "still\nstopFactory$")
  end)

  it("is not connected where the load that asked for it stops it again", function()
    local h = host.serve(HEAD .. [[
      local connector = reactor.connectTCP("127.0.0.1", n, telling {})
      print("stop", connector:stopConnecting())
      print("again", connector:stopConnecting())
      local other = reactor.connectTCP("127.0.0.1", n, telling { made = function() print "other" end })
      other:disconnect()
      other:connect()
    ]])
    h:line "^other"
    h:stop()
    assert.truthy(h:output():find "^stop\ttrue\nagain\tnil\tnot connecting\tENOTCONN\n")
    assert.same({ 1, 1 }, { count(h:output(), "startFactory"), count(h:output(), "startedConnecting") })
  end)

  it("is ended by the stop of the host as stopped, and its factory with it", function()
    local h = host.serve(HEAD .. running [[
      reactor.connectTCP("127.0.0.1", n, telling { clientConnectionLost = function(_, c)
        print("connect", c:connect())
      end })
    ]])
    h:line "^connectionMade"
    h:stop()
    assert.truthy(h:output():find("connectionLost\tstopped\thost\nclientConnectionLost\tdisconnected\tstopped host nil\n"
      .. "connect\tnil\tthe connector has ended\tECANCELED\nstopFactory\n", 1, true), h:output())
  end)

  it("that is asked for while the host stops is told as stopped, and its factory stopped", function()
    local h = host.serve(HEAD .. running(([[
      local second = telling { clientConnectionFailed = function(_, _, why) print("second", why.code) end,
        stopFactory = function() end }
      for _ = 1, 40 do
        reactor.connectTCP("127.0.0.1", %d, protocol.ClientFactory { protocol = {}, clientConnectionFailed = function()
          for _ = 1, 3 do reactor.connectTCP("127.0.0.1", n, second) end
        end })
      end
      print "connecting"
    ]]):format(deaf())))
    h:line "^connecting"
    h:stop()
    assert.same({ 120, 1, 1 }, { count(h:output(), "second\tstopped\n"), count(h:output(), "startFactory\n"),
      count(h:output(), "stopFactory\n") })
    assert.equal(0, h:logged "error")
  end)
end)

describe("a bound of a client's factory", function()
  after_each(cleanup)

  it("maxBuffered ends a connection that has too much waiting", function()
    local lines = linesOf([[
      function Server:connectionMade() self.transport:pauseProducing() end
    ]] .. running [[
      local factory = telling { made = function(p)
        for _ = 1, 200 do p.transport:write(("x"):rep(100000)) end
      end }
      factory.maxBuffered = 1000000
      reactor.connectTCP("127.0.0.1", n, factory)
    ]])
    assert.equal("clientConnectionLost\tdisconnected\tlimit host nil", lines[#lines - 1])
  end)

  it("idleTimeout ends a connection on which nothing moves", function()
    local lines = linesOf(running [[
      local factory = telling {}
      factory.idleTimeout = 0.1
      reactor.connectTCP("127.0.0.1", n, factory)
    ]])
    assert.equal("clientConnectionLost\tdisconnected\ttimeout host nil", lines[#lines - 1])
  end)

  it("can be set at run time", function()
    local lines = linesOf(running [[
      reactor.connectTCP("127.0.0.1", n, telling { made = function(p) p.factory:setBound("idleTimeout", 0.1) end })
    ]])
    assert.equal("clientConnectionLost\tdisconnected\ttimeout host nil", lines[#lines - 1])
  end)
end)

describe("misuse", function()
  after_each(cleanup)

  -- Those of a list of calls that do not raise at their own lines.
  local function wrongPlaces(cases)
    local text = { HEAD, 'local f = { protocol = {} } reactor.callWhenRunning(function()\n' }
    for i, case in ipairs(cases) do
      text[#text + 1] = ("print(%d, pcall(function() local x = reactor.%s return x end)) -- case %d.\n"):format(i, case, i)
    end
    text[#text + 1] = "reactor.stop() end)"
    text = table.concat(text)
    local h = host.serve(text, { listening = 0 })
    h:ends(0)
    local wrong = {}
    for i, case in ipairs(cases) do
      local line = h:output():match(("\n(%d\t[^\n]*)"):format(i))
      local at = ("script.lua:%d: "):format(host.lineOf(text, ("-- case %d."):format(i)))
      if not line:find("\tfalse\t", 1, true) or not line:find(at, 1, true) then
        wrong[#wrong + 1] = case .. ": " .. line
      end
    end
    return wrong
  end

  it("of connectTCP and connectUNIX raises at the caller's line", function()
    local cases = {
      [[connectTCP(5, n, f)]], [[connectTCP("", n, f)]], [[connectTCP("127.0.0.1", 0, f)]],
      [[connectTCP("127.0.0.1", 65536, f)]], [[connectTCP("127.0.0.1", "80", f)]], [[connectTCP("127.0.0.1", 1.5, f)]],
      [[connectTCP("127.0.0.1", n)]], [[connectTCP("127.0.0.1", n, Server)]],
      [[connectTCP("127.0.0.1", n, f, { timout = 3 })]], [[connectTCP("127.0.0.1", n, f, { timeout = "3" })]],
      [[connectTCP("127.0.0.1", n, f, { timeout = 0 })]], [[connectTCP("127.0.0.1", n, f, { timeout = 0/0 })]],
      [[connectTCP("127.0.0.1", n, f, { timeout = 1/0 })]], [[connectTCP("127.0.0.1", n, f, { bindAddress = "here" })]],
      [[connectTCP("127.0.0.1", n, f, { bindAddress = { "127.0.0.1", -1 } })]], [[connectTCP("127.0.0.1", n, f, 5)]],
      [[connectTCP("127.0.0.1", n, { protocol = {}, maxBuffered = -1 })]],
      [[connectUNIX("", f)]], [[connectUNIX(5, f)]], [[connectUNIX("/x", 5)]], [[connectUNIX("/x", f, { mode = 5 })]],
      [[connectUNIX("/x", f, { timeout = -1 })]],
      [[connectTCP("127.0.0.1", n, f):whenConnected(0)]], [[connectTCP("127.0.0.1", n, f):whenConnected "3"]],
    }
    assert.same({}, wrongPlaces(cases))
  end)

  it("of addSystemEventTrigger raises at the caller's line", function()
    assert.same({}, wrongPlaces {
      [[addSystemEventTrigger("amid", "shutdown", print)]], [[addSystemEventTrigger("before", "lunch", print)]],
      [[addSystemEventTrigger("before", "shutdown")]],
    })
  end)
end)

describe("a system event trigger", function()
  after_each(cleanup)

  it("runs in its phase, in the order of the asking, with its arguments", function()
    local lines = linesOf [[
      local add = reactor.addSystemEventTrigger
      for _, event in ipairs { "shutdown", "startup" } do
        for _, phase in ipairs { "after", "during", "before" } do
          for i = 1, 2 do add(phase, event, print, event, phase, i, nil) end
        end
      end
      reactor.callWhenRunning(print, "running")
      reactor.callLater(0.02, reactor.stop)
    ]]
    local wanted = {}
    for _, event in ipairs { "startup", "shutdown" } do
      for _, phase in ipairs { "before", "during", "after" } do
        if event == "startup" and phase == "after" then
          wanted[#wanted + 1] = "running"
        end
        for i = 1, 2 do
          wanted[#wanted + 1] = ("%s\t%s\t%d\tnil"):format(event, phase, i)
        end
      end
    end
    assert.same(wanted, lines)
  end)

  it("runs before shutdown while connections are open, and after it when they have ended", function()
    local h = host.serve(HEAD .. [[
      function Server:connectionLost(why) print("lost", why.code) end
      local add = reactor.addSystemEventTrigger
      local function look(name) print(name, port.listener.factory:connectionCount()) end
      for _, phase in ipairs { "before", "during", "after" } do add(phase, "shutdown", look, phase) end
      function Server:dataReceived() print "data" end
    ]])
    h:connect():send "x"
    h:line "^data"
    h:stop()
    assert.truthy(h:output():find("before\t1\nduring\t1\nlost\tstopped\nafter\t0\n", 1, true), h:output())
  end)

  it("before shutdown is waited for where it gives a Deferred, and the host serves on meanwhile", function()
    local h = host.serve(HEAD .. [[
      local d = require("skald.defer").Deferred:new()
      reactor.addSystemEventTrigger("before", "shutdown", function() print "asked" return d end)
      reactor.addSystemEventTrigger("before", "shutdown", print, "second")
      reactor.addSystemEventTrigger("during", "shutdown", print, "during")
      function Server:dataReceived(data)
        self.transport:write(data)
        if data == "go" then d:callback() end
      end
    ]])
    h:kill "TERM"
    h:line "^asked"
    h:line "^second"
    local c = h:connect()
    assert.equal("hello", c:send("hello"):receive(5))
    assert.falsy(h:output():find("during", 1, true))
    c:send "go"
    h:line "^during"
    h:ends(0)
  end)

  it("after shutdown connects nobody any more, and says so", function()
    local h = host.serve(HEAD .. [[
      local protocol = require "skald.protocol"
      local F = protocol.ClientFactory { protocol = {} }
      function F:startFactory() print "started" end
      function F:clientConnectionFailed(_, reason) print("failed", reason.code) end
      function F:stopFactory() print "over" end
      reactor.addSystemEventTrigger("after", "shutdown", function() reactor.connectTCP("127.0.0.1", 9, F:new()) end)
    ]])
    h:stop()
    assert.truthy(h:output():find("started\nfailed\tstopped\nover\n", 1, true), h:output())
  end)

  it("before shutdown that fails holds nothing up", function()
    local h = host.serve(HEAD .. [[
      reactor.addSystemEventTrigger("before", "shutdown", function() return require("skald.defer").fail "no" end)
      reactor.addSystemEventTrigger("after", "shutdown", print, "after")
    ]])
    h:stop()
    h:line "^after"
  end)

  it("before shutdown is waited for no longer than --grace says", function()
    local h = host.serve(HEAD .. [[
      local defer = require "skald.defer"
      reactor.addSystemEventTrigger("before", "shutdown", function()
        return defer.Deferred:new(function() print "cancelled" end)
      end)
      reactor.addSystemEventTrigger("after", "shutdown", print, "after")
    ]], { options = { "--grace=0.3" } })
    local began = sys.now()
    h:stop()
    local took = sys.now() - began
    assert.is_true(took >= 0.29, "the stop took " .. took)
    h:line "^cancelled"
    h:line "^after"
    assert.equal(1, h:logged "grace is over")
  end)

  it("before shutdown is waited for no longer after a second signal", function()
    local h = host.serve(HEAD .. [[
      reactor.addSystemEventTrigger("before", "shutdown", function()
        print "waits"
        return require("skald.defer").Deferred:new()
      end)
    ]], { options = { "--grace=1000" } })
    h:kill "TERM"
    h:line "^waits"
    h:kill "TERM"
    h:wait()
  end)

  it("may wait for a connection that it makes itself", function()
    local h = host.serve(HEAD .. [[
      local endpoints = require "skald.endpoints"
      local defer = require "skald.defer"
      reactor.addSystemEventTrigger("before", "shutdown", defer.async(function()
        local made = defer.await(endpoints.clientFromString("tcp:127.0.0.1:" .. n):connect { protocol = Telling })
        print("made", made.transport:getPeer().port == n)
      end))
    ]])
    h:stop()
    h:line "^made\ttrue"
  end)

  it("can be taken back, once", function()
    local lines = linesOf [[
      local id = reactor.addSystemEventTrigger("before", "shutdown", print, "never")
      reactor.addSystemEventTrigger("before", "shutdown", print, "still")
      print("first", reactor.removeSystemEventTrigger(id))
      print("second", reactor.removeSystemEventTrigger(id))
      reactor.callLater(0, reactor.stop)
    ]]
    assert.same({ "first\ttrue", "second\tnil\tno such trigger\tENOENT", "still" }, lines)
  end)

  it("that raises is logged, and the others run", function()
    local lines, h = linesOf [[
      reactor.addSystemEventTrigger("before", "shutdown", error, "it raised")
      reactor.addSystemEventTrigger("before", "shutdown", print, "next")
      reactor.addSystemEventTrigger("after", "shutdown", error, "at the end")
      reactor.addSystemEventTrigger("after", "shutdown", print, "last")
      reactor.callLater(0, reactor.stop)
    ]]
    assert.same({ "next", "last" }, lines)
    assert.same({ 1, 1 }, { h:logged "it raised", h:logged "at the end" })
  end)

  it("of a script's load ends with it, those of connections and factories do not", function()
    local text = [[
      local reactor = require "skald.reactor"
      reactor.addSystemEventTrigger("before", "shutdown", print, "load @")
      local P = {}
      function P:dataReceived()
        reactor.addSystemEventTrigger("before", "shutdown", print, "connection @")
        self.transport:write "done\n"
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P,
        startFactory = function() reactor.addSystemEventTrigger("before", "shutdown", print, "factory @") end }
    ]]
    local h = reload.serve(text)
    assert.equal("done", h:connect():send("x"):line())
    reload.commit(text)
    reload.refuse(text .. "error 'no'", 3)
    h:stop()
    assert.equal("factory 1\nconnection 1\nload 2\n", h:output():gsub("^[^\n]*\n", ""))
  end)
end)
