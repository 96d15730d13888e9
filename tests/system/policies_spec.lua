-- Policies around real connections. Time that matters is a Clock of the script's, which `advance` on the second
-- endpoint has pass.

local host = require "support.host"
local reload = require "support.reload"

-- What every script here begins with: an echo that tells what it hears, and who advances the clock.
local HEAD = [[
  local policies = require "skald.policies"
  local task = require "skald.task"
  local clock = task.Clock:new()
  local Echo = {}
  function Echo:connectionMade() print "made" end
  function Echo:dataReceived(data)
    print("got " .. #data)
    self.transport:write(data)
  end
  function Echo:connectionLost(reason) print("lost", reason.code, reason.by) end
  local inner = { listen = "tcp:127.0.0.1:0", name = "echo", protocol = Echo }
  local Control = {}
  function Control:dataReceived(data)
    local seconds = data:match "advance ([%d.]+)"
    if seconds then clock:advance(tonumber(seconds)) end
    self.transport:write "ok\n"
  end
  local control = { listen = "tcp:127.0.0.1:0", name = "control", protocol = Control }
]]

local function serve(text)
  local h = host.serve(HEAD .. text, { listening = 2 })
  return h, h:connect(nil, 2)
end

local function advance(control, seconds)
  control:send(("advance %g\n"):format(seconds))
  assert.equal("ok", control:line())
end

-- Two turns of the loop at least: what had come to the host by now has been read, where it was to be read.
local function settle(control)
  for _ = 1, 3 do
    control:send "settle\n"
    control:line()
  end
end

local function echoes(c, text)
  c:send(text)
  return c:receive(#text) == text
end

-- A clean end without a byte, though we have sent something.
local function refused(c)
  c:send "hello"
  assert.same({ "", "eof" }, { c:receiveAll() })
end

local function countOf(h, text)
  return select(2, h:output():gsub(text, ""))
end

describe("ThrottlingFactory", function()
  after_each(host.cleanup)

  it("refuses one too many, and serves again when one has left", function()
    local h = serve [[
      return { policies.ThrottlingFactory:new(inner, 2), control }
    ]]
    local a, b = h:connect(), h:connect()
    assert.is_true(echoes(a, "one") and echoes(b, "two"))
    refused(h:connect())
    a:close()
    h:line "^lost"
    assert.is_true(echoes(h:connect(), "three"))
    h:stop()
    assert.equal(3, countOf(h, "made\n"))
  end)

  it("reads nothing while it throttles, and all of it afterwards", function()
    local h, control = serve [[
      local factory = policies.ThrottlingFactory:new(inner, nil, 10)
      factory.clock = clock
      return { factory, control }
    ]]
    local a, b = h:connect(), h:connect()
    assert.is_true(echoes(a, ("x"):rep(30)) and echoes(b, "y"))
    advance(control, 1)
    a:send "more"
    b:send "more"
    local late = h:connect()
    late:send "late"
    settle(control)
    assert.is_true(a:quiet() and b:quiet() and late:quiet())
    advance(control, 2.1)
    assert.same({ "more", "more", "late" }, { a:receive(4), b:receive(4), late:receive(4) })
  end)

  it("leaves paused who paused by itself", function()
    local h, control = serve [[
      local held
      function Echo:dataReceived(data)
        if data == "hold" then
          held = self.transport
          held:pauseProducing()
        elseif data == "release" then
          held:resumeProducing()
        end
        self.transport:write(data)
      end
      local factory = policies.ThrottlingFactory:new(inner, nil, 10)
      factory.clock = clock
      return { factory, control }
    ]]
    local a, b = h:connect(), h:connect()
    assert.is_true(echoes(a, "hold") and echoes(b, ("x"):rep(16)))
    a:send "held"
    advance(control, 1)
    advance(control, 1)
    settle(control)
    assert.is_true(a:quiet())
    assert.is_true(echoes(b, "release"))
    assert.equal("held", a:receive(4))
  end)

  it("pauses a producer that has written too much, and resumes it", function()
    local h, control = serve [[
      local Stream = {}
      function Stream:connectionMade()
        local transport, producer = self.transport, { paused = false }
        function producer:pauseProducing() self.paused = true print "paused" end
        function producer:resumeProducing() self.paused = false print "resumed" transport:write "again\n" end
        function producer:stopProducing() print "stopped" end
        transport:registerProducer(producer, true)
        transport:write(("x"):rep(19) .. "\n")
      end
      inner.protocol = Stream
      local factory = policies.ThrottlingFactory:new(inner, nil, nil, 10)
      factory.clock = clock
      return { factory, control }
    ]]
    local c = h:connect()
    assert.equal(20, #c:receive(20))
    advance(control, 1)
    h:line "^paused"
    advance(control, 1)
    h:line "^resumed"
    assert.equal("again", c:line())
    c:close()
    h:line "^stopped"
  end)

  it("holds back a pull producer, too", function()
    local h, control = serve [[
      local Pull = {}
      function Pull:connectionMade()
        self.transport:write(("x"):rep(20))
      end
      function Pull:dataReceived()
        local transport, left = self.transport, 3
        local producer = { stopProducing = function() end }
        function producer:resumeProducing()
          left = left - 1
          transport:write "y"
          if left == 0 then
            transport:unregisterProducer()
            transport:loseConnection()
          end
        end
        transport:registerProducer(producer, false)
      end
      inner.protocol = Pull
      local factory = policies.ThrottlingFactory:new(inner, nil, nil, 10)
      factory.clock = clock
      return { factory, control }
    ]]
    local c = h:connect()
    assert.equal(20, #c:receive(20))
    advance(control, 1)
    c:send "go"
    settle(control)
    assert.is_true(c:quiet())
    advance(control, 1)
    assert.same({ "yyy", "eof" }, { c:receiveAll() })
  end)

  it("ends a connection whose producer raises when it is resumed, and resumes the others", function()
    local h, control = serve [[
      local n = 0
      local Stream = {}
      function Stream:connectionMade()
        n = n + 1
        local transport, bad, producer = self.transport, n == 1, {}
        function producer:pauseProducing() end
        function producer:resumeProducing()
          if bad then error "on purpose" end
          transport:write "again\n"
        end
        function producer:stopProducing() end
        transport:registerProducer(producer, true)
        transport:write(("x"):rep(19) .. "\n")
      end
      Stream.connectionLost = Echo.connectionLost
      inner.protocol = Stream
      local factory = policies.ThrottlingFactory:new(inner, nil, nil, 20)
      factory.clock = clock
      return { policies.WrappingFactory:new(factory), control }
    ]]
    local bad, good = h:connect(), h:connect()
    assert.equal(40, #bad:receive(20) + #good:receive(20))
    advance(control, 1)
    advance(control, 1)
    assert.equal("again", good:line())
    h:line "^lost\terror\tlocal"
    assert.same({ "", "eof" }, { bad:receiveAll() })
    h:stop()
    assert.equal(1, h:logged "on purpose")
  end)

  it("leaves nothing behind when the host stops while it throttles by the host's own time", function()
    local h = serve [[
      return { policies.ThrottlingFactory:new(inner, nil, 1, 1), control }
    ]]
    local c = h:connect()
    assert.is_true(echoes(c, "hello"))
    h:stop()
    assert.matches("lost\tstopped\thost", h:output())
  end)

  it("throttles by the host's own time", function()
    local h = serve [[
      local factory = policies.ThrottlingFactory:new(inner, nil, 100)
      function factory:throttleReads()
        print "throttled"
        policies.ThrottlingFactory.throttleReads(self)
      end
      function factory:unthrottleReads()
        print "free"
        policies.ThrottlingFactory.unthrottleReads(self)
      end
      return { factory, control }
    ]]
    local c = h:connect()
    assert.is_true(echoes(c, ("x"):rep(110)))
    h:line "^throttled"
    c:send "more"
    h:line "^free"
    assert.equal("more", c:receive(4))
  end)
end)

describe("TrafficLoggingFactory", function()
  after_each(host.cleanup)

  it("writes to the host's log what comes and goes", function()
    local h = serve [[
      return { policies.TrafficLoggingFactory:new(inner), control }
    ]]
    local c = h:connect()
    c:send "hello\r\n"
    c:receive(7)
    c:close()
    h:waitLog "%*$"
    h:waitLog 'C 1: "hello\\r\\n"$'
    h:waitLog 'S 1: "hello\\r\\n"$'
    h:waitLog "C 1: the peer closed the connection$"
  end)

  it("calls the log that it is given", function()
    local h = serve [[
      return { policies.TrafficLoggingFactory:new(inner, function(line) print("log " .. line) end), control }
    ]]
    local c = h:connect()
    assert.is_true(echoes(c, "\0a"))
    h:line "^log %*"
    h:line '^log C 1: "\\0a"'
    h:line '^log S 1: "\\0a"'
  end)
end)

describe("the names for bounds", function()
  after_each(host.cleanup)

  it("LimitTotalConnectionsFactory refuses one too many", function()
    local h = serve [[
      return { policies.LimitTotalConnectionsFactory:new(inner, 1), control }
    ]]
    local a = h:connect()
    assert.is_true(echoes(a, "one"))
    refused(h:connect())
    assert.is_true(echoes(a, "two"))
  end)

  it("LimitConnectionsByPeer refuses one too many of a peer, and serves another", function()
    local h = serve [[
      return { policies.LimitConnectionsByPeer:new(inner, 1), control }
    ]]
    local a = h:connect()
    assert.is_true(echoes(a, "one"))
    refused(h:connect())
    assert.is_true(echoes(h:connect { source = "127.0.0.2" }, "two"))
  end)

  it("TimeoutFactory ends an idle connection", function()
    local h = serve [[
      return { policies.TimeoutFactory:new(inner, 0.05), control }
    ]]
    local c = h:connect()
    h:line "^lost\ttimeout\thost"
    assert.same({ "", "eof" }, { c:receiveAll() })
  end)
end)

describe("TimeoutMixin", function()
  after_each(host.cleanup)

  local MIXED = HEAD .. [[
    local basic = require "skald.basic"
    local Timed = basic.LineReceiver(policies.TimeoutMixin, { delimiter = "\n" })
    function Timed:connectionMade() self:setTimeout(0.05) end
    function Timed:connectionLost(reason) print("lost", reason.code, reason.by) end
    inner.protocol = Timed
  ]]

  it("closes a silent connection", function()
    local h = host.serve(MIXED .. "return inner")
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    h:line "^lost\tdone\tlocal"
  end)

  it("closes it through wrappers", function()
    local h = host.serve(MIXED .. [[
      return policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(inner, print), 3)
    ]])
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    h:line "^lost\tdone\tlocal"
  end)

  it("does not trouble a connection that ended before", function()
    local h = host.serve(MIXED .. [[
      function Timed:connectionMade() end
      function Timed:timeoutConnection()
        print "ran out"
        self.transport:write "too late"
        policies.TimeoutMixin.timeoutConnection(self)
      end
      function Timed:lineReceived()
        self:setTimeout(0.01)
        self.transport:abortConnection()
      end
      return policies.WrappingFactory:new(inner)
    ]])
    local c = h:connect()
    c:send "end\n"
    h:line "^lost"
    h:line "^ran out"
    h:stop()
    assert.equal(0, h:logged "error")
  end)

  it("ends the connection whose timeoutConnection raises", function()
    local h = host.serve(MIXED .. [[
      function Timed:timeoutConnection() error "on purpose" end
      return policies.WrappingFactory:new(inner)
    ]])
    local c = h:connect()
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:line "^lost\terror\tlocal"
    h:stop()
    assert.equal(1, h:logged "on purpose")
  end)
end)

describe("a wrapper", function()
  after_each(host.cleanup)

  local WRAPS = {
    ["throttling within logging"] = [[
      local function wrap(factory)
        return policies.TrafficLoggingFactory:new(policies.ThrottlingFactory:new(factory, 10, 1e9, 1e9), print)
      end
    ]],
    ["logging within throttling"] = [[
      local function wrap(factory)
        return policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(factory, print), 10, 1e9, 1e9)
      end
    ]],
  }

  for name, wrap in pairs(WRAPS) do
    it(("passes bytes, addresses and the end on, with %s"):format(name), function()
      local h = serve(wrap .. [[
        function Echo:connectionMade()
          print("peer " .. self.transport:getPeer().port, "host " .. self.transport:getHost().port)
        end
        return { wrap(inner), control }
      ]])
      local c = h:connect()
      assert.is_true(echoes(c, "hello"))
      h:line(("^peer %d\thost %d"):format(c:port(), h.port))
      h:line '^C 1: "hello"'
      h:line '^S 1: "hello"'
      c:close()
      h:line "^lost\tdone\tpeer"
    end)

    it(("passes a refusal through, with %s"):format(name), function()
      local h = serve(wrap .. [[
        function inner:buildProtocol() end
        return { wrap(inner), control }
      ]])
      refused(h:connect())
    end)

    it(("ends one connection by an error in it, and tells it once, with %s"):format(name), function()
      local h = serve(wrap .. [[
        function Echo:dataReceived(data)
          self.transport:write(data)
          if data == "bad" then error "on purpose" end
        end
        return { wrap(inner), control }
      ]])
      local bad, good = h:connect(), h:connect()
      bad:send "bad"
      assert.same({ "", "eof" }, { bad:receiveAll() })
      h:line "^lost\terror\tlocal"
      assert.is_true(echoes(good, "good"))
      h:stop()
      assert.equal(2, countOf(h, "lost\t"))
      assert.equal(1, h:logged "on purpose")
    end)

    it(("closes at a half-close where the protocol does not care, with %s"):format(name), function()
      local h = serve(wrap .. "return { wrap(inner), control }")
      local c = h:connect()
      c:send("x"):halfClose()
      assert.same({ "x", "eof" }, { c:receiveAll() })
      h:line "^lost\tdone\tpeer"
    end)

    it(("leaves a half-closed connection to a protocol that does, with %s"):format(name), function()
      local h = serve(wrap .. [[
        function Echo:readConnectionLost()
          self.transport:write "bye"
          self.transport:loseConnection()
        end
        return { wrap(inner), control }
      ]])
      local c = h:connect()
      c:send("x"):halfClose()
      assert.same({ "xbye", "eof" }, { c:receiveAll() })
      h:line "^lost\tdone\tlocal"
    end)

    it(("shows a factory its live protocols, with %s"):format(name), function()
      local h = serve(wrap .. [[
        function Echo:dataReceived(data)
          for other in self.factory:each() do
            other.transport:write(data .. self.factory:connectionCount())
          end
        end
        return { wrap(inner), control }
      ]])
      local a, b = h:connect(), h:connect()
      h:line "^made"
      h:line "^made"
      a:send "all "
      assert.same({ "all 2", "all 2" }, { a:receive(5), b:receive(5) })
      b:close()
      h:line "^lost"
      a:send "one "
      assert.equal("one 1", a:receive(5))
    end)
  end

  it("has its factory start and stop the one in it", function()
    local h = serve [[
      function inner:startFactory() print("start " .. self.name) end
      function inner:stopFactory() print("stop " .. self.name) end
      return { policies.WrappingFactory:new(policies.WrappingFactory:new(inner)), control }
    ]]
    h:stop()
    assert.same({ 1, 1 }, { countOf(h, "start echo\n"), countOf(h, "stop echo\n") })
  end)

  it("stands around clients, whose factory hears of everything", function()
    local h = serve [[
      local protocol = require "skald.protocol"
      local reactor = require "skald.reactor"
      local Client = protocol.ClientFactory { protocol = {} }
      function Client.protocol:connectionMade() self.transport:write "hello" end
      function Client.protocol:dataReceived(data)
        print("client got " .. data)
        self.transport:loseConnection()
      end
      function Client:startedConnecting() print "started" end
      function Client:clientConnectionFailed(connector, reason) print("failed " .. reason.code) end
      function Client:clientConnectionLost(connector, reason)
        print("client lost " .. reason.code)
        reactor.connectUNIX("/nowhere/at/all", policies.WrappingFactory:new(self))
      end
      function Client:stopFactory() print "client stops" end
      function Control:dataReceived(port)
        reactor.connectTCP("127.0.0.1", tonumber(port),
          policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(Client, print), 3))
      end
      return { inner, control }
    ]]
    h:connect(nil, 2):send(tostring(h.port))
    h:line "^started"
    h:line '^S 1: "hello"'
    h:line '^C 1: "hello"'
    h:line "^client got hello"
    h:line "^client lost done"
    h:line "^failed lost"
  end)

  it("may stand around a protocol that is a coroutine", function()
    local h = serve [[
      local stream = require "skald.stream"
      inner.protocol = stream.StreamProtocol { handle = function(self, s)
        s:write(s:readLine() .. "!\n")
      end }
      return { policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(inner, print), 3), control }
    ]]
    local c = h:connect()
    c:send "hello\n"
    assert.same({ "hello!\n", "eof" }, { c:receiveAll() })
  end)

  local PIPES = {
    ["that does not look"] = "WrappingFactory:new(policies.TimeoutFactory:new(inner))",
    ["that logs"] = "WrappingFactory:new(policies.TrafficLoggingFactory:new(inner, print))",
    ["that throttles"] = "TrafficLoggingFactory:new(policies.ThrottlingFactory:new(inner, 9, 1e9, 1e9), print)",
  }
  for what, wrap in pairs(PIPES) do
    it(("%s leaves a pipe whole"):format(what), function()
      local h = serve(([[
        function Echo:connectionMade()
          local transport = self.transport
          transport:pipe(transport):addCallback(function(bytes) print("piped " .. bytes) end)
        end
        return { policies.%s, control }
      ]]):format(wrap))
      local c = h:connect()
      local data = ("0123456789"):rep(20000)
      c:send(data):halfClose()
      assert.is_true(data .. "eof" == table.concat { c:receiveAll() })
      h:line "^piped 200000"
      h:line "^lost\tdone"
      h:stop()
      assert.equal(what == "that does not look", h:output():find('C 1: "', 1, true) == nil)
      assert.equal(0, countOf(h, "got"))
    end)
  end

  it("ends the connection of a coroutine that fails after it has waited", function()
    local h = serve [[
      local stream = require "skald.stream"
      inner.protocol = stream.StreamProtocol {
        handle = function(self, s)
          s:readLine()
          require("skald.defer").await(task.deferLater(clock, 1, function() end))
          error "on purpose"
        end,
        connectionLost = Echo.connectionLost,
      }
      local wrapped = policies.TrafficLoggingFactory:new(policies.ThrottlingFactory:new(inner, 9), print)
      return { wrapped, control }
    ]]
    local c, control = h:connect(), h:connect(nil, 2)
    c:send "go\n"
    h:line "^C 1"
    advance(control, 1)
    h:line "^lost\terror\tlocal"
    h:stop()
    assert.equal(1, h:logged "on purpose")
  end)

  it("ends the connection of a receiver whose handler fails when it is resumed by another", function()
    local h = serve [[
      local basic = require "skald.basic"
      local paused
      inner.protocol = basic.LineReceiver {
        delimiter = "\n",
        connectionLost = Echo.connectionLost,
        lineReceived = function(self, line)
          if line == "pause" then
            paused = self
            self:pauseProducing()
            print "paused"
          else
            error "on purpose"
          end
        end,
      }
      function Control:dataReceived()
        paused:resumeProducing()
        self.transport:write "ok\n"
      end
      return { policies.WrappingFactory:new(policies.WrappingFactory:new(inner)), control }
    ]]
    local c, control = h:connect(), h:connect(nil, 2)
    c:send "pause\nfail\n"
    h:line "^paused"
    control:send "resume\n"
    assert.equal("ok", control:line())
    h:line "^lost\terror\tlocal"
    h:stop()
    assert.equal(1, h:logged "on purpose")
  end)
end)

describe("a wrapped factory", function()
  after_each(host.cleanup)

  it("has its own bounds hold", function()
    local h = serve [[
      inner.maxConnections = 1
      return { policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(inner, print), 9), control }
    ]]
    local a = h:connect()
    assert.is_true(echoes(a, "one"))
    refused(h:connect())
  end)

  it("has its own bounds hold when it changes them", function()
    local h = serve [[
      function Echo:dataReceived(data)
        self.factory:setBound("maxConnections", 1)
        self.transport:write(data)
      end
      return { policies.ThrottlingFactory:new(policies.TrafficLoggingFactory:new(inner, print), 9), control }
    ]]
    local a = h:connect()
    assert.is_true(echoes(a, "one"))
    refused(h:connect())
  end)

  it("cannot hide a slip in it from check", function()
    local path = host.script [[
      local policies = require "skald.policies"
      local P = { dataRecieved = function() end }
      return policies.WrappingFactory:new { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local status, _, errors = host.command { "check", path }
    assert.equal(1, status)
    assert.matches("dataReceived", errors)
  end)
end)

describe("after a reload a wrapped factory", function()
  after_each(host.cleanup)

  -- In the orders in which wrappers may stand; each version says another word, `@`.
  local SERVICE = [[
    local policies = require "skald.policies"
    local service = require "skald.service"
    local clock = service.persist("clock", function() return require("skald.task").Clock:new() end)
    local P = {}
    function P:connectionMade()
      local f = self.factory
      f.total = (f.total or 0) + 1
      f.state.names[#f.state.names + 1] = "n" .. f.total
    end
    function P:dataReceived(data)
      local f = self.factory
      self.heard = (self.heard or 0) + 1
      if data:find "all" then
        for other in f:each() do other.transport:write("all from @\n") end
        return
      elseif data:find "advance" then
        clock:advance(1)
      end
      self.transport:write(("@ heard %d of %d, %d\n"):format(self.heard, f.total, #f.state.names))
    end
    function P:connectionLost(reason) print("lost @", reason.code) end
    local inner = {
      listen = "tcp:127.0.0.1:0", name = "wrapped", protocol = P, state = { names = {} },
      startFactory = function() print "start @" end,
      stopFactory = function() print "stop @" end,
    }
    local function log(line) print("log @ " .. line) end
  ]]

  local ORDERS = {
    ["throttling within logging"] = [[
      local wrapped = policies.ThrottlingFactory:new(inner, 2)
      return policies.TrafficLoggingFactory:new(wrapped, log)
    ]],
    ["logging within throttling"] = [[
      local wrapped = policies.TrafficLoggingFactory:new(inner, log)
      return policies.ThrottlingFactory:new(wrapped, 2)
    ]],
  }

  local function say(c, text)
    c:send(text)
    return c:line()
  end

  for name, order in pairs(ORDERS) do
    it(("runs new methods on old connections and keeps what it stored, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      local b = h:connect()
      assert.equal("1 heard 1 of 2, 2", say(b, "x"))
      reload.commit(SERVICE .. order)
      assert.equal("2 heard 2 of 2, 2", say(a, "x"))
      reload.commit(SERVICE .. order, 3)
      assert.equal("3 heard 2 of 2, 2", say(b, "x"))
      b:close()
      h:line "^lost 3\tdone"
      local c = h:connect()
      assert.equal("3 heard 1 of 3, 3", say(c, "x"))
      h:stop()
      assert.same({ 1, 0, 1 }, { countOf(h, "start %d"), countOf(h, "stop 1"), countOf(h, "stop 3") })
    end)

    it(("sees its live protocols, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      reload.commit(SERVICE .. order)
      local b = h:connect()
      assert.equal("2 heard 1 of 2, 2", say(b, "x"))
      assert.equal("all from 2", say(b, "all"))
      assert.equal("all from 2", a:line())
    end)

    it(("counts its connections on, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      h:line "^log 1 %*"
      reload.commit(SERVICE .. order)
      local b = h:connect()
      assert.equal("2 heard 1 of 2, 2", say(b, "x"))
      h:line '^log 2 C 2: "x"'
      refused(h:connect())
      reload.commit((SERVICE .. order):gsub("2%)", "3)"), 3)
      assert.equal("3 heard 1 of 3, 3", say(h:connect(), "x"))
      refused(h:connect())
    end)

    it(("hears of the reload, as its protocols do, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      reload.commit(SERVICE .. [[
        function inner:reloaded(from, to) print("factory", from, to, #self.state.names) end
        function P:reloaded() print("protocol", self.heard) end
      ]] .. order)
      h:line "^factory\t1\t2\t1"
      assert.equal("2 heard 2 of 1, 1", say(a, "x"))
      h:line "^protocol\t1"
    end)

    it(("may begin to care for half-closes, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      reload.commit(SERVICE .. [[
        function P:readConnectionLost()
          self.transport:write "bye"
          self.transport:loseConnection()
        end
      ]] .. order)
      a:halfClose()
      assert.same({ "bye", "eof" }, { a:receiveAll() })
    end)

    it(("migrates its state, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      reload.commit(SERVICE .. [[
        inner.version = 2
        function inner.migrate(state, from) state.names[#state.names + 1] = "from " .. from end
      ]] .. order)
      assert.equal("2 heard 2 of 1, 2", say(a, "x"))
    end)

    it(("is as it was where the reload is refused, with %s"):format(name), function()
      local h = reload.serve(SERVICE .. order)
      local a = h:connect()
      assert.equal("1 heard 1 of 1, 1", say(a, "x"))
      reload.refuse(SERVICE .. "error 'on purpose'")
      assert.equal("1 heard 2 of 1, 1", say(a, "x"))
      assert.equal("1 heard 1 of 2, 2", say(h:connect(), "x"))
      refused(h:connect())
    end)
  end

  it("reads again what it had paused before", function()
    local order = [[
      local factory = policies.ThrottlingFactory:new(inner, nil, 10)
      factory.clock = clock
      local Control = {}
      function Control:dataReceived(data)
        clock:advance(1)
        self.transport:write "ok\n"
      end
      return { factory, { listen = "tcp:127.0.0.1:0", name = "control", protocol = Control } }
    ]]
    local h = reload.serve(SERVICE .. order, { listening = 2 })
    local a, control = h:connect(), h:connect(nil, 2)
    assert.equal("1 heard 1 of 1, 1", say(a, ("x"):rep(20)))
    assert.equal("ok", say(control, "advance"))
    a:send "x"
    reload.commit(SERVICE .. order)
    assert.equal("ok", say(control, "advance"))
    assert.equal("2 heard 2 of 1, 1", a:line())
  end)

  it("comes under a limit that is new", function()
    local order = [[
      local factory = policies.ThrottlingFactory:new(inner, nil, LIMIT)
      factory.clock = clock
      function factory:throttleReads()
        print "throttled"
        policies.ThrottlingFactory.throttleReads(self)
      end
      return factory
    ]]
    local h = reload.serve(SERVICE .. order:gsub("LIMIT", "nil"))
    local a = h:connect()
    assert.equal("1 heard 1 of 1, 1", say(a, ("x"):rep(20)))
    reload.commit(SERVICE .. order:gsub("LIMIT", "10"))
    assert.equal("2 heard 2 of 1, 1", say(a, ("x"):rep(20)))
    assert.equal("2 heard 3 of 1, 1", say(a, "advance"))
    h:line "^throttled"
  end)
end)
