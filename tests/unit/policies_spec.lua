local basic = require "skald.basic"
local UNHEARD = require("skald.protocol")._UNHEARD
local Clock = require "skald.clock"
local policies = require "skald.policies"
local protocol = require "skald.protocol"

local Factory, Protocol = protocol.Factory, protocol.Protocol
local WrappingFactory, ProtocolWrapper = policies.WrappingFactory, policies.ProtocolWrapper

-- A transport that notes what is asked of it.
local Fake = {}
Fake.__index = Fake

local function newTransport()
  return setmetatable({ written = {}, calls = {}, disconnecting = false, state = "producing" }, Fake)
end

function Fake:write(data)
  if type(data) ~= "string" then
    error("write takes a string", 2)
  elseif self.disconnecting then
    return nil, "closing", "EPIPE"
  end
  table.insert(self.written, data)
  return true
end

function Fake:writeSequence(list)
  return self:write(table.concat(list))
end

function Fake:value()
  return table.concat(self.written)
end

function Fake:pauseProducing()
  self.state = "paused"
end

function Fake:resumeProducing()
  self.state = "producing"
end

function Fake:registerProducer(producer, streaming)
  if self.disconnecting then
    return nil, "closing", "EPIPE"
  end
  self.producer, self.streaming = producer, streaming
  return true
end

function Fake:unregisterProducer()
  self.producer = nil
end

function Fake:loseConnection()
  self.disconnecting = true
end

-- What each of the rest answers is the name and the arguments that it got.
for _, name in ipairs {
  "flush", "abortConnection", "loseWriteConnection", "stopProducing", "bufferedAmount", "getPeer", "getHost",
  "setTcpNoDelay", "setTcpKeepAlive", "pipe", "sendFile", "startTLS",
} do
  Fake[name] = function(_, ...)
    return name, ...
  end
end

-- A protocol that notes what it hears.
local function newNoting(extra)
  local Noting = Protocol {
    init = function(self) self.heard = {} end,
    connectionMade = function(self) table.insert(self.heard, "made") end,
    dataReceived = function(self, data) table.insert(self.heard, data) end,
    connectionLost = function(self, reason) table.insert(self.heard, "lost " .. tostring(reason)) end,
  }
  return Noting(extra or {})
end

local function newFactory(extra)
  return Factory({ protocol = newNoting(extra) }):new()
end

-- A connection through a wrapping factory: the outermost wrapper, the protocol at the bottom, the transport.
local function connect(factory, fail)
  local outer = assert(factory:buildProtocol())
  local inner = outer
  while inner.wrappedProtocol do
    inner = inner.wrappedProtocol
  end
  local transport = newTransport()
  transport.fail = fail
  outer:makeConnection(transport)
  return outer, inner, transport
end

local function count(set)
  local n = 0
  for _ in pairs(set) do
    n = n + 1
  end
  return n
end

local function hereIs(problem)
  return problem:match "^[^:]+" == debug.getinfo(2, "S").short_src:match "[^:]+"
end

describe("WrappingFactory", function()
  it("puts its wrapper around what the wrapped factory builds", function()
    local inner = newFactory()
    local outer = WrappingFactory:new(inner)
    local wrapper = outer:buildProtocol()
    assert.equal(outer, wrapper.factory)
    assert.equal(inner, outer.wrappedFactory)
    assert.equal(inner, wrapper.wrappedProtocol.factory)
  end)

  it("makes the factory of a plain definition, and of a class", function()
    local P = newNoting()
    for _, definition in ipairs { { protocol = P }, Factory { protocol = P } } do
      local outer = WrappingFactory:new(definition)
      assert.equal(outer.wrappedFactory, outer:buildProtocol().wrappedProtocol.factory)
    end
  end)

  it("passes a refusal through, however deep it comes from", function()
    local inner = Factory({ buildProtocol = function() end }):new()
    local outer = policies.TimeoutFactory:new(policies.ThrottlingFactory:new(WrappingFactory:new(inner), 5), 9)
    assert.is_nil(outer:buildProtocol())
  end)

  it("gives the address to the wrapped factory, and the factory to what has none", function()
    local seen
    local inner = Factory({ buildProtocol = function(_, addr)
      seen = addr
      return {}
    end }):new()
    local wrapper = WrappingFactory:new(inner):buildProtocol "an address"
    assert.equal("an address", seen)
    assert.equal(inner, wrapper.wrappedProtocol.factory)
  end)

  it("raises where the wrapped factory builds what is no protocol", function()
    local outer = WrappingFactory:new(Factory({ buildProtocol = function() return 7 end }):new())
    local ok, problem = pcall(outer.buildProtocol, outer)
    assert.is_false(ok)
    assert.equal("buildProtocol gave a number, not a protocol", problem)
  end)

  it("blames the caller for what is no factory", function()
    for _, make in ipairs {
      function() return (WrappingFactory:new()) end,
      function() return (policies.ThrottlingFactory:new("x")) end,
      function() return (policies.TrafficLoggingFactory:new(Protocol)) end,
      function() return (policies.LimitConnectionsByPeer:new(Protocol:new())) end,
    } do
      local ok, problem = pcall(make)
      assert.is_false(ok)
      assert.is_true(hereIs(problem), problem)
      assert.matches("a wrapping factory takes a factory, not a", problem)
    end
  end)

  it("passes on what happens to a factory", function()
    local heard = {}
    local methods = { protocol = newNoting() }
    local names = { "startFactory", "stopFactory", "reloaded", "startedConnecting", "clientConnectionFailed",
      "clientConnectionLost" }
    for _, name in ipairs(names) do
      methods[name] = function(_, ...)
        table.insert(heard, { name, ... })
      end
    end
    local outer = WrappingFactory:new(WrappingFactory:new(methods))
    local connector = {}
    outer:startFactory()
    outer:startedConnecting(connector)
    outer:clientConnectionFailed(connector, "why")
    outer:clientConnectionLost(connector, "why not")
    outer:reloaded(1, 2)
    outer:stopFactory()
    assert.same({
      { "startFactory" },
      { "startedConnecting", connector },
      { "clientConnectionFailed", connector, "why" },
      { "clientConnectionLost", connector, "why not" },
      { "reloaded", 1, 2 },
      { "stopFactory" },
    }, heard)
  end)

  it("starts a factory once that stands in two others, and stops it with the last", function()
    local heard = {}
    local inner = Factory({
      protocol = newNoting(),
      startFactory = function() table.insert(heard, "start") end,
      stopFactory = function() table.insert(heard, "stop") end,
    }):new()
    local a, b = WrappingFactory:new(inner), WrappingFactory:new(inner)
    a:startFactory()
    b:startFactory()
    a:stopFactory()
    assert.same({ "start" }, heard)
    b:stopFactory()
    assert.same({ "start", "stop" }, heard)
  end)

  it("retries for a factory that says nothing, where its connector is to retry", function()
    local clock = Clock:new()
    local inner = Factory({ protocol = newNoting(), clock = clock, jitter = 0 }):new()
    local tried = 0
    local connector = { persistent = true, connect = function() tried = tried + 1 end }
    WrappingFactory:new(inner):clientConnectionFailed(connector, "why")
    clock:advance(1)
    assert.equal(1, tried)
  end)

  it("retries for a ReconnectingClientFactory in it, until that stops trying", function()
    local clock = Clock:new()
    local inner = protocol.ReconnectingClientFactory({ protocol = newNoting(), clock = clock, jitter = 0 }):new()
    local outer = WrappingFactory:new(inner)
    local tried, given = 0, false
    local connector = {
      state = "connecting",
      connect = function() tried = tried + 1 end,
      stopConnecting = function() given = true end,
    }
    outer:startedConnecting(connector)
    outer:clientConnectionFailed(connector, "why")
    clock:advance(1)
    assert.equal(1, tried)
    inner:stopTrying()
    outer:clientConnectionFailed(connector, "why")
    clock:advance(100)
    assert.same({ 1, true }, { tried, given })
  end)

  it("has the wrapped factory prepare its own protocol", function()
    local seen
    local inner = protocol.ClientFactory({ protocol = newNoting(), prepareConnection = function(_, made) seen = made end }):new()
    local outer = WrappingFactory:new(inner)
    local wrapper, made = connect(outer)
    outer:prepareConnection(wrapper)
    assert.equal(made, seen)
    assert.is_nil(WrappingFactory:new(newFactory()):prepareConnection(wrapper))
  end)

  it("serves where the factory in it says, unless it says so itself", function()
    local outer = WrappingFactory:new { listen = "tcp:7000", name = "inner", protocol = newNoting() }
    assert.same({ "tcp:7000", "inner" }, { outer.listen, outer.name })
    local other = (WrappingFactory { name = "outer" }):new { listen = "tcp:7000", name = "inner" }
    assert.same({ "tcp:7000", "outer" }, { other.listen, other.name })
  end)

  it("shows the wrapped factory its live protocols", function()
    local inner = newFactory()
    local outer = WrappingFactory:new(WrappingFactory:new(inner))
    local a, first = connect(outer)
    local _, second = connect(outer)
    assert.equal(2, inner:connectionCount())
    local seen = {}
    for made in inner:each() do
      seen[made] = true
    end
    assert.same({ [first] = true, [second] = true }, seen)
    a:connectionLost "over"
    assert.equal(1, inner:connectionCount())
    assert.equal(second, inner:each()())
  end)

  it("shows it those beside them that stand in no wrapper", function()
    local inner = newFactory()
    local _, wrapped = connect(WrappingFactory:new(inner))
    local bare = { "bare" }
    inner._group = { -- as the host gives it
      count = function() return #bare end,
      each = function()
        local i = 0
        return function()
          i = i + 1
          return bare[i]
        end
      end,
    }
    assert.equal(2, inner:connectionCount())
    local seen = {}
    for made in inner:each() do
      table.insert(seen, made)
    end
    assert.same({ "bare", wrapped }, seen)
  end)

  it("leaves out of the iteration those that end meanwhile", function()
    local inner = newFactory()
    local outer = WrappingFactory:new(inner)
    local list = { connect(outer), (connect(outer)), (connect(outer)) }
    local found = 0
    for made in inner:each() do
      found = found + 1
      for _, wrapper in ipairs(list) do
        if wrapper.wrappedProtocol and wrapper.wrappedProtocol ~= made then
          wrapper:connectionLost "over"
        end
      end
    end
    assert.equal(1, found)
  end)
end)

describe("ProtocolWrapper", function()
  it("is the transport of the protocol in it, and tells it everything in order", function()
    local wrapper, made = connect(WrappingFactory:new(newFactory()))
    assert.equal(wrapper, made.transport)
    wrapper:dataReceived "a"
    wrapper:dataReceived "b"
    wrapper:connectionLost "over"
    assert.same({ "made", "a", "b", "lost over" }, made.heard)
  end)

  it("stands in the protocols of its factory while it is connected", function()
    local outer = WrappingFactory:new(newFactory())
    local wrapper = connect(outer)
    assert.same({ [wrapper] = true }, outer.protocols)
    wrapper:connectionLost "over"
    assert.same({}, outer.protocols)
  end)

  it("lets the protocol in it go at the end", function()
    local wrapper = connect(WrappingFactory:new(newFactory()))
    wrapper:connectionLost "over"
    assert.is_nil(wrapper.wrappedProtocol)
  end)

  it("has every call of a transport, with its arguments and results", function()
    local wrapper = connect(WrappingFactory:new(newFactory()))
    for _, answer in ipairs {
      { "flush" }, { "bufferedAmount" }, { "getPeer" }, { "getHost" }, { "setTcpNoDelay", true },
      { "setTcpKeepAlive", true, 60 }, { "pipe", { write = print } }, { "sendFile", "a path", 1, 2 }, { "startTLS", "options" },
      { "loseWriteConnection" }, { "stopProducing" }, { "abortConnection" },
    } do
      assert.same(answer, { wrapper[answer[1]](wrapper, unpack(answer, 2)) })
    end
  end)

  it("passes writes on with their answers", function()
    local wrapper, made, transport = connect(WrappingFactory:new(newFactory()))
    assert.is_true(made.transport:write "a")
    assert.is_true(made.transport:writeSequence { "b", "c" })
    assert.equal("abc", transport:value())
    wrapper:loseConnection()
    assert.same({ n = 3, nil, "closing", "EPIPE" }, { n = 3, made.transport:write "d" })
  end)

  it("blames the caller for a misuse of the transport", function()
    local _, made = connect(policies.TrafficLoggingFactory:new(policies.ThrottlingFactory:new(newFactory()), print))
    local ok, problem = pcall(function()
      local result = made.transport:write(7)
      return result
    end)
    assert.is_false(ok)
    assert.is_true(hereIs(problem), problem)
  end)

  it("gives a pipe to its transport unless it looks at what comes", function()
    local sink = newTransport()
    local wrapper, made, transport = connect(policies.TrafficLoggingFactory:new(newFactory(), function() end))
    local bytes
    made.transport:pipe(sink):addCallback(function(n) bytes = n end)
    wrapper:dataReceived "by way of Lua"
    assert.equal("by way of Lua", sink:value())
    assert.same({ "made" }, made.heard)
    sink.loseWriteConnection = function(self) self.ended = true end
    assert.equal(UNHEARD, wrapper:readConnectionLost()) -- whoever carries it closes
    assert.same({ 13, true, false }, { bytes, sink.ended, transport.disconnecting })
  end)

  it("blames the caller for a pipe to nowhere", function()
    for _, wrap in ipairs { policies.TrafficLoggingFactory, WrappingFactory } do
      local _, made = connect(wrap:new(newFactory()))
      local ok, problem = pcall(function()
        local d = made.transport:pipe {}
        return d
      end)
      assert.is_false(ok)
      assert.is_true(hereIs(problem), problem)
    end
  end)

  it("closes at a half-close when a pipe that was cancelled had made it care", function()
    local wrapper, made, transport = connect(policies.TrafficLoggingFactory:new(newFactory(), function() end))
    local d = made.transport:pipe(newTransport())
    d:addErrback(function() end)
    d:cancel()
    wrapper:dataReceived "back"
    assert.equal(UNHEARD, wrapper:readConnectionLost())
    assert.same({ { "made", "back" }, false }, { made.heard, transport.disconnecting })
  end)

  it("lets a pipe past it where it does not look at what is written", function()
    local real = newTransport()
    real.carrier = function() return real end
    local wrapper = WrappingFactory:new(newFactory()):buildProtocol()
    wrapper:makeConnection(real)
    assert.equal(real, wrapper:carrier())
    local other = policies.ThrottlingFactory:new(newFactory()):buildProtocol()
    other:makeConnection(real)
    assert.is_nil(other.carrier)
  end)

  it("passes producers on", function()
    local _, made, transport = connect(WrappingFactory:new(newFactory()))
    local producer = {}
    assert.is_true(made.transport:registerProducer(producer, true))
    assert.same({ producer, true }, { transport.producer, transport.streaming })
    made.transport:unregisterProducer()
    assert.is_nil(transport.producer)
    made.transport:pauseProducing()
    assert.equal("paused", transport.state)
    made.transport:resumeProducing()
    assert.equal("producing", transport.state)
  end)

  for _, name in ipairs { "loseConnection", "abortConnection", "stopProducing" } do
    it("says to all in it that it is disconnecting, after " .. name, function()
      local outer, made, transport = connect(WrappingFactory:new(WrappingFactory:new(newFactory())))
      assert.is_false(made.transport.disconnecting)
      outer[name](outer)
      assert.is_true(made.transport.disconnecting)
      assert.is_nil(rawget(made, "disconnecting"))
      assert.equal(name == "loseConnection", transport.disconnecting)
    end)
  end

  it("is disconnecting at the end, whoever ended it", function()
    local seen
    local wrapper = connect(WrappingFactory:new(newFactory {
      connectionLost = function(self) seen = self.transport.disconnecting end,
    }))
    wrapper:connectionLost "over"
    assert.is_true(seen)
  end)

  it("keeps a receiver from delivering once an outer wrapper has closed", function()
    local lines = {}
    local outer
    local Receiver = basic.LineReceiver {
      lineReceived = function(_, line)
        table.insert(lines, line)
        outer:loseConnection()
      end,
    }
    outer = connect(WrappingFactory:new(WrappingFactory:new { protocol = Receiver }))
    outer:dataReceived "a\r\nb\r\n"
    assert.same({ "a" }, lines)
  end)

  it("leaves out what the protocol in it does not define", function()
    local factory = WrappingFactory:new(Factory({ buildProtocol = function() return {} end }):new())
    local wrapper = connect(factory)
    wrapper:dataReceived "a"
    wrapper:writeConnectionLost()
    wrapper:handshakeCompleted()
    wrapper:reloaded()
    wrapper:connectionLost "over"
    assert.same({}, factory.protocols)
  end)

  it("has readConnectionLost just where the protocol in it has", function()
    local wrap = function(inner) return WrappingFactory:new(WrappingFactory:new(inner)) end
    local deaf = connect(wrap(newFactory()))
    assert.is_nil(deaf.readConnectionLost)
    local ended
    local wrapper, made = connect(wrap(newFactory { readConnectionLost = function(self) ended = self end }))
    wrapper:readConnectionLost()
    assert.equal(made, ended)
  end)

  it("has readConnectionLost as soon as a reload gives it to the protocol, and loses it so", function()
    local inner = newFactory()
    local wrapper = connect(WrappingFactory:new(WrappingFactory:new(inner)))
    local ended = 0
    inner.protocol.readConnectionLost = function() ended = ended + 1 end
    wrapper:reloaded()
    wrapper:readConnectionLost()
    assert.equal(1, ended)
    inner.protocol.readConnectionLost = nil
    wrapper:reloaded()
    assert.is_nil(wrapper.readConnectionLost)
  end)

  it("leaves a wrapper its own readConnectionLost", function()
    local own = 0
    local Wrapper = ProtocolWrapper { readConnectionLost = function() own = own + 1 end }
    local Wrapping = WrappingFactory { protocol = Wrapper }
    local wrapper = connect(Wrapping:new(newFactory { readConnectionLost = function() error "the wrapper's is meant" end }))
    wrapper:readConnectionLost()
    assert.equal(1, own)
  end)

  it("tells of the end of writing, of the handshake and of a reload", function()
    local heard = {}
    local inner = newFactory {
      writeConnectionLost = function() table.insert(heard, "written") end,
      handshakeCompleted = function(self) table.insert(heard, self.transport.negotiatedProtocol) end,
      reloaded = function() table.insert(heard, "reloaded") end,
    }
    local wrapper, _, transport = connect(WrappingFactory:new(WrappingFactory:new(inner)))
    transport.negotiatedProtocol = "h2"
    wrapper:writeConnectionLost()
    wrapper:handshakeCompleted()
    wrapper:reloaded()
    assert.same({ "written", "h2", "reloaded" }, heard)
  end)

  it("lets an error go up, and tells of the end once all the same", function()
    local lost = 0
    local outer = WrappingFactory:new(newFactory {
      dataReceived = function() error("on purpose", 0) end,
      connectionLost = function() lost = lost + 1 end,
    })
    local wrapper = connect(outer)
    local ok, problem = pcall(wrapper.dataReceived, wrapper, "a")
    assert.same({ false, "on purpose" }, { ok, problem })
    wrapper:connectionLost "error"
    wrapper:connectionLost "again"
    assert.equal(1, lost)
    assert.same({}, outer.protocols)
  end)

  it("unregisters where the protocol's connectionLost raises", function()
    local outer = WrappingFactory:new(newFactory { connectionLost = function() error "on purpose" end })
    local wrapper = connect(outer)
    assert.is_false(pcall(wrapper.connectionLost, wrapper, "over"))
    assert.same({}, outer.protocols)
    assert.equal(0, outer.wrappedFactory:connectionCount())
  end)

  it("tells a protocol of no end whose beginning it never heard of", function()
    local Wrapping = WrappingFactory { protocol = ProtocolWrapper { connectionMade = function() error("on purpose", 0) end } }
    local outer = Wrapping:new(newFactory())
    local wrapper = outer:buildProtocol()
    local made = wrapper.wrappedProtocol
    assert.is_false(pcall(wrapper.makeConnection, wrapper, newTransport()))
    wrapper:connectionLost "error"
    assert.same({}, made.heard)
    assert.same({}, outer.protocols)
  end)

  it("can be told that code of its protocol failed, where the transport can", function()
    local failed
    local _, made = connect(WrappingFactory:new(WrappingFactory:new(newFactory())), function(_, text) failed = text end)
    made.transport:fail "a traceback"
    assert.equal("a traceback", failed)
    local _, other = connect(WrappingFactory:new(newFactory()))
    assert.is_nil(other.transport.fail)
  end)

  it("may connect its protocol later, whose half-close is seen from outside then", function()
    local Late = ProtocolWrapper {
      connectWrapped = function() end,
      dataReceived = function(self) ProtocolWrapper.connectWrapped(self) end,
    }
    local Wrapping = WrappingFactory { protocol = Late }
    local wrapper, made = connect(WrappingFactory:new(Wrapping:new(newFactory { readConnectionLost = function() end })))
    assert.same({}, made.heard)
    assert.is_nil(wrapper.readConnectionLost)
    wrapper:dataReceived "go"
    assert.same({ "made" }, made.heard)
    assert.is_function(wrapper.readConnectionLost)
  end)
end)

describe("ThrottlingFactory", function()
  local clock

  local function throttle(inner, ...)
    local factory = policies.ThrottlingFactory:new(inner, ...)
    factory.clock = clock
    return factory
  end

  -- A push producer that notes.
  local function newProducer()
    local producer = { state = "producing", resumed = 0, paused = 0 }
    function producer:pauseProducing()
      self.state, self.paused = "paused", self.paused + 1
    end
    function producer:resumeProducing()
      self.state, self.resumed = "producing", self.resumed + 1
    end
    function producer:stopProducing()
      self.state = "stopped"
    end
    return producer
  end

  before_each(function()
    clock = Clock:new()
  end)

  it("refuses more connections than it may have, until one has ended", function()
    local factory = throttle(newFactory(), 2)
    local first = connect(factory)
    connect(factory)
    assert.is_nil(factory:buildProtocol())
    first:connectionLost "over"
    assert.is_table(factory:buildProtocol())
  end)

  it("counts those that are built and not connected yet", function()
    local factory = throttle(newFactory(), 1)
    local built = factory:buildProtocol()
    assert.is_nil(factory:buildProtocol())
    built:makeConnection(newTransport())
    assert.is_nil(factory:buildProtocol())
  end)

  it("does not count what the wrapped factory refuses", function()
    local refusing = true
    local inner = newFactory()
    inner.buildProtocol = function(self, addr)
      return not refusing and Factory.buildProtocol(self, addr) or nil
    end
    local factory = throttle(inner, 1)
    assert.is_nil(factory:buildProtocol())
    refusing = false
    assert.is_table(factory:buildProtocol())
  end)

  it("pauses every connection for bytes / limit - 1 seconds when more was read", function()
    local factory = throttle(newFactory(), nil, 10)
    local reader, made, transport = connect(factory)
    local _, _, other = connect(factory)
    reader:dataReceived(("x"):rep(25))
    clock:advance(0.99)
    assert.equal("producing", transport.state)
    clock:advance(0.01)
    assert.same({ "paused", "paused" }, { transport.state, other.state })
    clock:advance(1.49)
    assert.same({ "paused", "paused" }, { transport.state, other.state })
    clock:advance(0.01)
    assert.same({ "producing", "producing" }, { transport.state, other.state })
    assert.equal(("x"):rep(25), made.heard[2])
  end)

  it("pauses nobody for just the limit", function()
    local reader, _, transport = connect(throttle(newFactory(), nil, 10))
    for _ = 1, 3 do
      reader:dataReceived(("x"):rep(10))
      clock:advance(1)
      assert.equal("producing", transport.state)
    end
  end)

  it("has new connections wait while it throttles", function()
    local factory = throttle(newFactory(), nil, 10)
    connect(factory):dataReceived(("x"):rep(30))
    clock:advance(1)
    local _, made, transport = connect(factory)
    assert.same({ "paused", { "made" } }, { transport.state, made.heard })
    clock:advance(2)
    assert.equal("producing", transport.state)
  end)

  it("leaves paused who has paused by itself, before or meanwhile", function()
    local factory = throttle(newFactory(), nil, 10)
    local reader, before, one = connect(factory)
    local _, meanwhile, two = connect(factory)
    before.transport:pauseProducing()
    reader:dataReceived(("x"):rep(20))
    clock:advance(1)
    meanwhile.transport:pauseProducing()
    clock:advance(1)
    assert.same({ "paused", "paused" }, { one.state, two.state })
    before.transport:resumeProducing()
    meanwhile.transport:resumeProducing()
    assert.same({ "producing", "producing" }, { one.state, two.state })
  end)

  it("lets nobody resume before it does", function()
    local reader, made, transport = connect(throttle(newFactory(), nil, 10))
    reader:dataReceived(("x"):rep(20))
    clock:advance(1)
    made.transport:pauseProducing()
    made.transport:resumeProducing()
    assert.equal("paused", transport.state)
    clock:advance(1)
    assert.equal("producing", transport.state)
  end)

  local twenty = os.tmpname()

  setup(function()
    local file = assert(io.open(twenty, "w"))
    file:write(("x"):rep(20))
    file:close()
  end)

  teardown(function()
    os.remove(twenty)
  end)

  it("pauses producers when more was written, whichever way, and resumes them", function()
    for _, write in ipairs {
      function(t) t:write(("x"):rep(20)) end,
      function(t) t:writeSequence { ("x"):rep(10), ("x"):rep(10) } end,
      function(t) t:sendFile(twenty, 0, 20) end,
      function(t) t:sendFile(twenty) end,
      function(t) t:sendFile(twenty, 0) end,
    } do
      local _, made = connect(throttle(newFactory(), nil, nil, 10))
      local producer = newProducer()
      made.transport:registerProducer(producer, true)
      write(made.transport)
      clock:advance(1)
      assert.equal("paused", producer.state)
      clock:advance(1)
      assert.equal("producing", producer.state)
    end
  end)

  it("counts nothing of a file, or a part, that there is not", function()
    local factory = throttle(newFactory(), nil, nil, 10)
    local _, made = connect(factory)
    made.transport:sendFile(twenty .. ".none")
    made.transport:sendFile(twenty, 21)
    made.transport:sendFile(twenty, 5, 16)
    assert.equal(0, factory.writtenThisSecond)
    made.transport:sendFile(twenty, 5)
    assert.equal(15, factory.writtenThisSecond)
  end)

  it("does not read less for what was written", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    assert.equal("producing", transport.state)
  end)

  it("does not count what is not taken any more", function()
    local factory = throttle(newFactory(), nil, nil, 10)
    local _, made = connect(factory)
    made.transport:loseConnection()
    made.transport:write(("x"):rep(20))
    assert.equal(0, factory.writtenThisSecond)
  end)

  it("keeps a producer paused for as long as the transport is full, too", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    local producer = newProducer()
    made.transport:registerProducer(producer, true)
    made.transport:write(("x"):rep(20))
    transport.producer:pauseProducing()
    clock:pump { 1, 1 }
    assert.same({ "paused", 1, 0 }, { producer.state, producer.paused, producer.resumed })
    transport.producer:resumeProducing()
    assert.same({ "producing", 1 }, { producer.state, producer.resumed })
  end)

  it("does not let the transport resume a producer that it has paused", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    local producer = newProducer()
    made.transport:registerProducer(producer, true)
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    transport.producer:pauseProducing()
    transport.producer:resumeProducing()
    assert.same({ "paused", 1, 0 }, { producer.state, producer.paused, producer.resumed })
    clock:advance(1)
    assert.same({ "producing", 1 }, { producer.state, producer.resumed })
  end)

  it("asks a pull producer for more once it may write again", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    local producer = { resumed = 0 }
    function producer:resumeProducing()
      self.resumed = self.resumed + 1
    end
    made.transport:registerProducer(producer, false)
    transport.producer:resumeProducing()
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    assert.equal(1, producer.resumed)
    transport.producer:resumeProducing()
    assert.equal(1, producer.resumed)
    clock:advance(1)
    assert.equal(2, producer.resumed)
    clock:advance(5)
    assert.equal(2, producer.resumed)
  end)

  it("pauses a producer that comes while it throttles", function()
    local _, made = connect(throttle(newFactory(), nil, nil, 10))
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    local producer = newProducer()
    made.transport:registerProducer(producer, true)
    assert.equal("paused", producer.state)
    clock:advance(1)
    assert.equal("producing", producer.state)
  end)

  it("pauses a producer once that comes while it throttles and the transport is full", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    function transport:registerProducer(producer)
      producer:pauseProducing()
      self.producer = producer
      return true
    end
    local producer = newProducer()
    made.transport:registerProducer(producer, true)
    assert.equal(1, producer.paused)
    clock:advance(1)
    assert.equal("paused", producer.state)
    transport.producer:resumeProducing()
    assert.equal("producing", producer.state)
  end)

  it("forgets a producer that is done, and takes another", function()
    local _, made, transport = connect(throttle(newFactory(), nil, nil, 10))
    local first, second = newProducer(), newProducer()
    made.transport:registerProducer(first, true)
    assert.has_error(function() made.transport:registerProducer(second, true) end)
    made.transport:unregisterProducer()
    assert.is_nil(transport.producer)
    made.transport:registerProducer(second, true)
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    assert.same({ "producing", "paused" }, { first.state, second.state })
    transport.producer:stopProducing()
    assert.equal("stopped", second.state)
  end)

  it("blames the caller for what is no producer", function()
    local _, made = connect(throttle(newFactory()))
    for _, producer in ipairs { 7, {}, { resumeProducing = print } } do
      local ok, problem = pcall(function()
        local result = made.transport:registerProducer(producer, true)
        return result
      end)
      assert.is_false(ok)
      assert.is_true(hereIs(problem), problem)
    end
  end)

  it("keeps no producer that the transport refuses", function()
    local wrapper, made = connect(throttle(newFactory(), nil, nil, 10))
    wrapper:loseConnection()
    local producer = newProducer()
    assert.same({ n = 3, nil, "closing", "EPIPE" }, { n = 3, made.transport:registerProducer(producer, true) })
    made.transport:write(("x"):rep(20))
    clock:advance(1)
    assert.equal(0, producer.paused)
  end)

  it("resumes the others though one producer raises, and fails the connection of that one alone", function()
    local factory = throttle(newFactory(), nil, nil, 10)
    local states, failed = {}, {}
    for i = 1, 4 do
      local _, made, transport = connect(factory)
      transport.fail = function(_, text) failed[i] = text end
      local producer = newProducer()
      if i == 2 then
        producer.resumeProducing = function() error "on purpose" end
      end
      states[i] = producer
      made.transport:registerProducer(producer, true)
      made.transport:write(("x"):rep(10))
    end
    clock:pump { 1, 3 }
    assert.same({ 1, 0, 1, 1 }, { states[1].resumed, states[2].resumed, states[3].resumed, states[4].resumed })
    assert.same({ true, 1 }, { failed[2]:match "on purpose" ~= nil, count(failed) })
  end)

  it("leaves no timer behind its last connection, and begins anew with the next", function()
    local factory = throttle(newFactory(), nil, 10, 10)
    local a, made = connect(factory)
    local b = connect(factory)
    a:dataReceived(("x"):rep(50))
    made.transport:write(("x"):rep(50))
    clock:advance(1)
    a:connectionLost "over"
    assert.is_true(#clock:getDelayedCalls() > 0)
    b:connectionLost "over"
    assert.same({}, clock:getDelayedCalls())
    local _, _, transport = connect(factory)
    assert.equal("producing", transport.state)
  end)

  it("needs no timer without a limit, and follows one that is set meanwhile", function()
    local factory = throttle(newFactory(), 5)
    local reader, _, transport = connect(factory)
    assert.same({}, clock:getDelayedCalls())
    factory.readLimit = 10
    reader:dataReceived(("x"):rep(20))
    clock:advance(1)
    assert.equal("paused", transport.state)
  end)

  it("holds the longer of two pauses", function()
    local factory = throttle(newFactory(), nil, nil, 10)
    local _, made = connect(factory)
    local producer = newProducer()
    made.transport:registerProducer(producer, true)
    made.transport:write(("x"):rep(30)) -- till 3
    clock:advance(1)
    made.transport:write(("x"):rep(50)) -- till 6
    clock:advance(1)
    clock:advance(3.9)
    assert.equal("paused", producer.state)
    clock:advance(0.1)
    assert.equal("producing", producer.state)
  end)

  it("refuses limits that are none", function()
    for _, bad in ipairs { 0, -1, "10", 0 / 0 } do
      local ok, problem = pcall(function()
        return (policies.ThrottlingFactory:new(newFactory(), nil, bad))
      end)
      assert.is_false(ok)
      assert.is_true(hereIs(problem), problem)
      assert.matches("readLimit takes a number above 0", problem)
    end
  end)

  it("works in both orders with another", function()
    for _, make in ipairs {
      function(inner) return throttle(throttle(inner, nil, 10), nil, 20) end,
      function(inner) return throttle(throttle(inner, nil, 20), nil, 10) end,
    } do
      clock = Clock:new()
      local reader, _, transport = connect(make(newFactory()))
      reader:dataReceived(("x"):rep(40)) -- till 4 for one, till 2 for the other
      clock:pump { 1, 1.5 }
      assert.equal("paused", transport.state)
      clock:advance(1.5)
      assert.equal("producing", transport.state)
      reader:connectionLost "over"
      assert.same({}, clock:getDelayedCalls())
    end
  end)
end)

describe("TrafficLoggingFactory", function()
  local lines

  local function logged(inner)
    lines = {}
    return policies.TrafficLoggingFactory:new(inner, function(line) table.insert(lines, line) end)
  end

  it("logs a line for the beginning, for what comes, what goes, and the end", function()
    local wrapper, made = connect(logged(newFactory()))
    wrapper:dataReceived "here"
    made.transport:write "there"
    made.transport:writeSequence { "and ", "everywhere" }
    wrapper:connectionLost "the peer closed the connection"
    assert.same({
      "*",
      'C 1: "here"',
      'S 1: "there"',
      'S 1: "and everywhere"',
      "C 1: the peer closed the connection",
    }, lines)
  end)

  it("says of a file how much of it goes, and which it is", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write "twelve bytes"
    file:close()
    local _, made = connect(logged(newFactory()))
    made.transport:sendFile(path)
    made.transport:sendFile(path, 7)
    made.transport:sendFile(path .. ".none")
    os.remove(path)
    assert.same({ "*", ('S 1: 12 bytes of "%s"'):format(path), ('S 1: 5 bytes of "%s"'):format(path) }, lines)
  end)

  it("numbers connections, and begins anew where it is told to", function()
    local factory = logged(newFactory())
    local a, b = connect(factory), (connect(factory))
    factory:resetCounter()
    local c = connect(factory)
    a:dataReceived "a"
    b:dataReceived "b"
    c:dataReceived "c"
    assert.same({ "*", "*", "*", 'C 1: "a"', 'C 2: "b"', 'C 1: "c"' }, lines)
  end)

  it("gives no number to a connection that is refused", function()
    local factory = logged(Factory({ buildProtocol = function() end }):new())
    assert.is_nil(factory:buildProtocol())
    assert.equal(0, factory.counter)
  end)

  it("quotes on one line of ASCII, as Lua reads it", function()
    local wrapper = connect(logged(newFactory()))
    wrapper:dataReceived 'a "b" \\ c\r\n\t\0\0001\27\127\200é'
    assert.equal([[C 1: "a \"b\" \\ c\r\n\t\0\0001\27\127\200\195\169"]], lines[2])
  end)

  it("quotes any bytes so that Lua reads them back", function()
    local bytes = {}
    for i = 0, 255 do
      bytes[#bytes + 1] = string.char(i) .. "7" .. string.char(i) .. string.char(255 - i)
    end
    local data = table.concat(bytes)
    local wrapper = connect(logged(newFactory()))
    wrapper:dataReceived(data)
    local quoted = lines[2]:match "^C 1: (.*)$"
    assert.is_nil(quoted:find "[^\32-\126]")
    assert.equal(data, loadstring("return " .. quoted)())
  end)

  it("does not log what is not taken any more", function()
    local _, made = connect(logged(newFactory()))
    made.transport:loseConnection()
    made.transport:write "late"
    made.transport:writeSequence { "later" }
    assert.same({ "*" }, lines)
  end)

  it("tells the protocol of the end though the log fails", function()
    local wrapper, made = connect(policies.TrafficLoggingFactory:new(newFactory(), function(line)
      if line:find "over" then
        error("full", 0)
      end
    end))
    local ok, problem = pcall(wrapper.connectionLost, wrapper, "over")
    assert.same({ false, "full" }, { ok, problem })
    assert.same({ "made", "lost over" }, made.heard)
  end)

  it("logs to standard error where it is given no log, outside the host", function()
    local text = {}
    local stderr = io.stderr
    io.stderr = { write = function(_, ...) table.insert(text, table.concat { ... }) end } -- luacheck: ignore
    local ok, problem = pcall(function()
      connect(policies.TrafficLoggingFactory:new(newFactory())):dataReceived "100%d"
    end)
    io.stderr = stderr -- luacheck: ignore
    assert.is_true(ok, problem)
    assert.same({ "*\n", 'C 1: "100%d"\n' }, text)
  end)

  it("blames the caller for what is no log", function()
    local ok, problem = pcall(function()
      return (policies.TrafficLoggingFactory:new(newFactory(), "prefix"))
    end)
    assert.is_false(ok)
    assert.is_true(hereIs(problem), problem)
  end)
end)

describe("the names for bounds", function()
  it("set the bound on themselves", function()
    assert.equal(30, policies.TimeoutFactory:new(newFactory(), 30).idleTimeout)
    assert.equal(3, policies.LimitTotalConnectionsFactory:new(newFactory(), 3).maxConnections)
    assert.equal(2, policies.LimitConnectionsByPeer:new(newFactory(), 2).maxConnectionsPerPeer)
  end)

  it("have Twisted's defaults", function()
    assert.equal(1800, policies.TimeoutFactory:new(newFactory()).idleTimeout)
    assert.is_nil(policies.LimitTotalConnectionsFactory:new(newFactory()).maxConnections)
    assert.equal(5, policies.LimitConnectionsByPeer:new(newFactory()).maxConnectionsPerPeer)
  end)

  it("blame the caller for a bad bound", function()
    local ok, problem = pcall(function()
      return (policies.TimeoutFactory:new(newFactory(), -1))
    end)
    assert.is_false(ok)
    assert.is_true(hereIs(problem), problem)
    assert.matches("idleTimeout takes a number from 0, not %-1", problem)
  end)

  it("change at run time as those of any factory", function()
    local factory = policies.TimeoutFactory:new(newFactory(), 30)
    factory:setBound("idleTimeout", 5)
    assert.equal(5, factory.idleTimeout)
  end)
end)

describe("TimeoutMixin", function()
  local clock, timed, transport

  local function start(extra)
    clock, transport = Clock:new(), newTransport()
    local Timed = basic.LineReceiver(policies.TimeoutMixin, { clock = clock }, extra or {})
    timed = Timed:new()
    timed:makeConnection(transport)
  end

  it("closes when the time has run out", function()
    start()
    timed:setTimeout(5)
    clock:advance(4.9)
    assert.is_false(transport.disconnecting)
    clock:advance(0.1)
    assert.is_true(transport.disconnecting)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("does nothing unless it is set", function()
    start()
    timed:resetTimeout()
    assert.same({}, clock:getDelayedCalls())
  end)

  it("begins anew at each reset", function()
    start { lineReceived = function(self) self:resetTimeout() end }
    timed:setTimeout(5)
    for _ = 1, 3 do
      clock:advance(4)
      timed:dataReceived "a line\r\n"
      assert.equal(1, #clock:getDelayedCalls())
    end
    assert.is_false(transport.disconnecting)
    clock:advance(5)
    assert.is_true(transport.disconnecting)
  end)

  it("is turned off by nil", function()
    start()
    timed:setTimeout(5)
    timed:setTimeout(nil)
    assert.same({}, clock:getDelayedCalls())
    timed:resetTimeout()
    clock:advance(10)
    assert.is_false(transport.disconnecting)
    timed:setTimeout(nil)
  end)

  it("gives the former time when it gets another, which begins now", function()
    start()
    assert.is_nil(timed:setTimeout(10))
    assert.equal(10, timed:setTimeout(20))
    assert.equal(20, timed:setTimeout(3))
    assert.equal(1, #clock:getDelayedCalls())
    clock:advance(3)
    assert.is_true(transport.disconnecting)
    assert.equal(3, timed:setTimeout(nil))
    assert.is_nil(timed:setTimeout(1))
  end)

  it("may be set again when it has run out", function()
    local ran = 0
    start { timeoutConnection = function(self)
      ran = ran + 1
      self:setTimeout(2)
    end }
    timed:setTimeout(1)
    clock:pump { 1, 2, 2 }
    assert.equal(3, ran)
    timed:setTimeout(nil)
  end)

  it("calls timeoutConnection of the class as it is then", function()
    start()
    timed:setTimeout(1)
    local ran
    timed.timeoutConnection = function() ran = true end
    clock:advance(1)
    assert.is_true(ran)
    assert.is_false(transport.disconnecting)
  end)

  it("does no harm to a connection that is over", function()
    start()
    timed:setTimeout(1)
    timed:connectionLost "over"
    transport.disconnecting = true
    clock:advance(1)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("ends the connection of an override that raises, where it can", function()
    start { timeoutConnection = function() error "on purpose" end }
    local failed
    transport.fail = function(_, text) failed = text end
    timed:setTimeout(1)
    clock:advance(1)
    assert.matches("on purpose", failed)
    transport.fail = nil
    timed:setTimeout(1)
    local ok, problem = pcall(clock.advance, clock, 1)
    assert.is_false(ok)
    assert.matches("on purpose", problem)
  end)

  it("ends the connection of an override that raises through wrappers, too", function()
    clock = Clock:new()
    local Timed = Protocol(policies.TimeoutMixin, { clock = clock, timeoutConnection = function() error "on purpose" end })
    local failed
    local _, made = connect(WrappingFactory:new(WrappingFactory:new { protocol = Timed }), function(_, text)
      failed = text
    end)
    made:setTimeout(1)
    clock:advance(1)
    assert.matches("on purpose", failed)
  end)

  it("blames the caller for what is no time", function()
    start()
    for _, bad in ipairs { -1, "5", 0 / 0, math.huge } do
      local ok, problem = pcall(function()
        local former = timed:setTimeout(bad)
        return former
      end)
      assert.is_false(ok)
      assert.is_true(hereIs(problem), problem)
    end
  end)
end)
