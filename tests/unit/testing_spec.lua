-- skald.testing: what only the fakes have. What they share with real transports stands in carriers_spec.lua.

local address = require "skald.address"
local basic = require "skald.basic"
local defer = require "skald.defer"
local host = require "support.host"
local policies = require "skald.policies"
local process = require "support.process"
local protocol = require "skald.protocol"
local reactors = require "support.reactors"
local stream = require "skald.stream"
local task = require "skald.task"
local testing = require "skald.testing"

local Protocol = protocol.Protocol
local Recorder = testing.AccumulatingProtocol

local Echo = Protocol {}

function Echo:dataReceived(data)
  return self.transport:write(data)
end

-- Calls `f`, which raises at the line that calls it; what it says.
local function raisesHere(f, ...)
  local function call(...)
    local result = f(...) -- here: no tail call
    return result
  end
  local ok, message = pcall(call, ...)
  assert.is_false(ok)
  local at, text = message:match "testing_spec%.lua:(%d+): (.*)$"
  local first = debug.getinfo(call, "S").linedefined
  assert.truthy(at, message)
  return tonumber(at) == first + 1 and text or message
end

describe("a StringTransport", function()
  it("keeps what is written, and forgets it at clear", function()
    local t = testing.StringTransport:new()
    t:write "one "
    t:writeSequence { "two", " three" }
    assert.equal("one two three", t:value())
    assert.equal("one two three", t:value())
    assert.equal(0, t:bufferedAmount())
    t:clear()
    assert.equal("", t:value())
    t:write "more"
    assert.equal("more", t:value())
  end)

  it("shows what its protocol asked for", function()
    local t = testing.StringTransport:new()
    assert.same({ "producing", false, false, false },
      { t.producerState, t.disconnecting, t.disconnected, t.writeDisconnecting })
    t:pauseProducing()
    assert.equal("paused", t.producerState)
    t:resumeProducing()
    assert.equal("producing", t.producerState)
    t:loseWriteConnection()
    assert.same({ true, false }, { t.writeDisconnecting, t.disconnecting })
    t:stopProducing()
    assert.same({ "stopped", true, false }, { t.producerState, t.disconnecting, t.disconnected })
    t:resumeProducing()
    assert.equal("stopped", t.producerState)
    t:setTcpNoDelay(false)
    t:setTcpKeepAlive(true, 5)
    assert.same({ false, true }, { t.noDelay, t.keepAlive })
  end)

  it("is disconnecting after loseConnection, and disconnected besides after abortConnection", function()
    local lost, aborted = testing.StringTransport:new(), testing.StringTransport:new()
    lost:write "kept"
    lost:loseConnection()
    assert.same({ true, false }, { lost.disconnecting, lost.disconnected })
    assert.same({ nil, "closing", "EPIPE" }, { lost:write "never" })
    assert.equal("kept", lost:value())
    aborted:abortConnection()
    assert.same({ true, true }, { aborted.disconnecting, aborted.disconnected })
    assert.same({ nil, "closing", "EPIPE" }, { aborted:write "never" })
  end)

  it("shows the producer that is registered", function()
    local t, producer = testing.StringTransport:new(), { resumeProducing = function() end }
    assert.is_true(t:registerProducer(producer, false))
    assert.is_true(rawequal(producer, t.producer))
    assert.is_false(t.streaming)
    t:unregisterProducer()
    assert.is_nil(t.producer)
  end)

  it("has the addresses that it is given", function()
    local t = testing.StringTransport:new {
      peer = { type = "TCP6", host = "::1", port = 4 }, host = { type = "UNIX", path = "/run/x" },
    }
    assert.equal("tcp:[::1]:4", tostring(t:getPeer()))
    assert.equal("unix:/run/x", tostring(t:getHost()))
    assert.is_true(t:getHost() == address.unix "/run/x")
    assert.equal("TCP", testing.StringTransport:new():getPeer().type)
  end)

  it("takes only so much as its window, until what was taken is cleared", function()
    local t = testing.StringTransport:new { window = 3, highWater = 4, lowWater = 2 }
    local calls, producer = {}, {}
    for _, name in ipairs { "pauseProducing", "resumeProducing", "stopProducing" } do
      producer[name] = function()
        calls[#calls + 1] = name
      end
    end
    local made = testing.attach(Echo:new(), t)
    t:registerProducer(producer, true)
    t:write "1234567"
    assert.equal(4, t:bufferedAmount())
    assert.same({}, calls)
    t:write "8"
    assert.same({ "pauseProducing" }, calls)
    assert.equal("12345678", t:value())
    t:clear()
    assert.equal("45678", t:value())
    assert.same({ "pauseProducing" }, calls)
    testing.turn(made)
    assert.same({ "pauseProducing", "resumeProducing" }, calls)
  end)

  it("refuses options that it does not know, at the caller's line", function()
    local function make(options)
      return function()
        testing.StringTransport:new(options)
      end
    end
    for message, options in pairs {
      ["StringTransport knows no option 'pear'"] = { pear = {} },
      ["StringTransport: peer is a table, not a string"] = { peer = "tcp:1.2.3.4:5" },
      ["StringTransport: window is a number, not a string"] = { window = "3" },
      ["StringTransport takes its options as a table, not a number"] = 12,
    } do
      local ok, raised = pcall(make(options))
      assert.is_false(ok)
      assert.matches("testing_spec%.lua:%d+: " .. message:gsub("%p", "%%%0") .. "$", raised)
    end
  end)

end)

describe("a fake", function()
  -- whose, where the real one stands, how its methods begin there, what is between the core and its own, and methods
  local network = testing.MemoryReactor:new()
  local rows = {
    { "StringTransport", "transport", "Transport", { fail = true, carrier = true, writePair = true },
      testing.StringTransport:new(), 15 },
    { "MemoryDatagramPort", "datagram", "Transport", {}, network.listenUDP(0, protocol.DatagramProtocol:new()), 12 },
    { "MemoryProcess", "process", "Process", { exited = true, finish = true },
      network.spawnProcess(protocol.ProcessProtocol:new(), "/bin/true"), 12 },
  }
  for _, row in ipairs(rows) do
    local name, file, class, own, fake, least = unpack(row)
    it("has every method of the real one: " .. name, function()
      local opened = assert(io.open("scripts/skald/" .. file .. ".lua"))
      local source = opened:read "*a"
      opened:close()
      local count = 0
      for method in source:gmatch("\nfunction " .. class .. ":(%w+)") do
        if not own[method] then
          count = count + 1
          assert.equal("function", type(fake[method]), method)
        end
      end
      assert.is_true(count >= least, ("only %d methods are found"):format(count))
    end)
  end
end)

describe("what a peer does", function()
  local Noting = Protocol {}

  function Noting:init()
    self.seen = {}
  end

  for _, name in ipairs { "connectionMade", "dataReceived", "readConnectionLost", "writeConnectionLost" } do
    Noting[name] = function(self, data)
      table.insert(self.seen, data and name .. " " .. data or name)
    end
  end

  function Noting:connectionLost(reason)
    table.insert(self.seen, ("connectionLost %s %s"):format(reason.code, reason.by))
  end

  it("is fed in pieces", function()
    local made = testing.attach(Noting:new())
    assert.equal(0, testing.feed(made, "abcdefg", 3))
    assert.same({ "connectionMade", "dataReceived abc", "dataReceived def", "dataReceived g" }, made.seen)
  end)

  it("waits while the transport is paused, and is dropped once it closes", function()
    local made, transport = testing.attach(Noting:new())
    transport:pauseProducing()
    assert.equal(4, testing.feed(made, "held"))
    assert.same({ "connectionMade" }, made.seen)
    transport:resumeProducing()
    testing.turn(made)
    assert.same({ "connectionMade", "dataReceived held" }, made.seen)
    transport:loseConnection()
    testing.feed(made, "dropped")
    assert.same({ "connectionMade", "dataReceived held", "connectionLost done local" }, made.seen)
  end)

  it("may be told by dataReceived itself: then no connectionLost follows until lose", function()
    local made = Noting:new()
    made:makeConnection(testing.StringTransport:new())
    function made:dataReceived()
      self.transport:loseConnection()
    end
    made:dataReceived "x"
    assert.same({ "connectionMade" }, made.seen)
    assert.is_true(testing.lose(made))
    assert.same({ "connectionMade", "connectionLost done local" }, made.seen)
    assert.is_true(made.transport.disconnected)
  end)

  it("ends its half, and the rest is the protocol's", function()
    local made = testing.attach(Noting:new())
    testing.finish(made)
    assert.same({ "connectionMade", "readConnectionLost" }, made.seen)
    made.transport:loseConnection()
    testing.turn(made)
    assert.equal("connectionLost done local", made.seen[3])
    local other = testing.attach(Echo:new())
    testing.finish(other)
    assert.is_true(other.transport.disconnected)
  end)

  it("loses the connection with the code that is asked for", function()
    for code, by in pairs {
      done = "peer", lost = "peer", aborted = "local", timeout = "host", limit = "host", error = "local", stopped = "host",
    } do
      local made = testing.attach(Noting:new())
      assert.is_true(testing.lose(made, code))
      assert.same({ "connectionMade", ("connectionLost %s %s"):format(code, by) }, made.seen)
      assert.same({ nil, "lost already", "EALREADY" }, { testing.lose(made) })
      assert.same({ nil, "closing", "EPIPE" }, { made.transport:write "x" })
      assert.equal(2, #made.seen)
    end
  end)

  it("loses it as the protocol has ended it, where no code is given", function()
    local made, transport = testing.attach(Noting:new())
    transport:abortConnection()
    testing.lose(made)
    assert.equal("connectionLost aborted local", made.seen[2])
  end)

  it("stops a producer before connectionLost", function()
    local made, transport = testing.attach(Noting:new())
    transport:registerProducer({
      resumeProducing = function() end,
      stopProducing = function() table.insert(made.seen, "stop") end,
    }, false)
    testing.lose(made, "lost")
    assert.same({ "connectionMade", "stop", "connectionLost lost peer" }, made.seen)
  end)

  it("brings out what a callback raises, when the connection has ended by it", function()
    local made = testing.attach(Noting:new())
    function made:dataReceived()
      self.transport:write "dropped"
      error("boom", 0)
    end
    assert.same({ false, "boom" }, { pcall(testing.feed, made, "x") })
    assert.same({ "connectionMade", "connectionLost error local" }, made.seen)
    assert.equal("", made.transport:value())
    testing.feed(made, "nothing more")
    assert.equal(2, #made.seen)
  end)

  it("has a pull producer asked until it is done", function()
    local made, transport = testing.attach(Echo:new())
    local file = io.tmpfile()
    file:write(("x"):rep(50000))
    file:seek "set"
    local last
    basic.FileSender:new():beginFileTransfer(file, transport):addCallback(function(byte)
      last = byte
    end)
    transport:loseConnection()
    testing.turn(made)
    file:close()
    assert.equal("x", last)
    assert.equal(50000, #transport:value())
    assert.is_true(transport.disconnected)
  end)

  it("is told to a protocol that a factory makes, or refuses", function()
    local factory = protocol.Factory:new()
    factory.protocol = Echo
    local made, transport = testing.attach(factory)
    assert.is_true(rawequal(factory, made.factory))
    testing.feed(made, "hello")
    assert.equal("hello", transport:value())
    function factory.buildProtocol() end
    made, transport = testing.attach(factory)
    assert.is_nil(made)
    assert.is_true(transport.disconnected)
  end)

  it("is refused from inside a callback, and where there is no StringTransport", function()
    local made = testing.attach(Noting:new())
    local problem
    function made:dataReceived()
      problem = raisesHere(testing.feed, self, "more")
    end
    testing.feed(made, "x")
    assert.equal("feed: a callback of this protocol is running", problem)
    assert.equal("lose takes a protocol that is connected to a StringTransport", raisesHere(testing.lose, Echo:new()))
    assert.equal("lose: 'gone' is no code of a reason", raisesHere(testing.lose, made, "gone"))
    assert.equal("feed takes a string, not a nil", raisesHere(testing.feed, made))
    assert.equal("feed takes pieces of a number of bytes from 1, not 0", raisesHere(testing.feed, made, "x", 0))
    assert.equal("attach takes a protocol or a factory: an instance, not a class", raisesHere(testing.attach, Echo))
    local pump = testing.connect(Echo:new(), Recorder:new())
    assert.equal("feed: a pump moves the bytes of this protocol", raisesHere(testing.feed, pump.server, "x"))
  end)
end)

describe("testing.connect", function()
  it("brings to each side what the other writes, when it is told to", function()
    local client = Recorder:new()
    local pump = testing.connect(Echo:new(), client)
    client.transport:write "hello"
    assert.equal("", client.data)
    assert.equal(5, client.transport:bufferedAmount())
    pump:flush()
    assert.equal("hello", client.data)
    assert.is_false(pump:step())
  end)

  it("cuts as it is told to", function()
    local sizes, Sizes = {}, Protocol {}
    function Sizes:dataReceived(data)
      sizes[#sizes + 1] = #data
      self.transport:write(data)
    end
    local client = Recorder:new()
    local pump = testing.connect(Sizes:new(), client, { cut = 3 })
    client.transport:write "12345678"
    assert.is_true(pump:step())
    pump:flush()
    assert.same({ 3, 3, 2 }, sizes)
    sizes = {}
    local other = testing.connect(Sizes:new(), Recorder:new(), 7)
    other.client.transport:write "12345678"
    other:flush()
    assert.same({ 7, 1 }, sizes)
    local turn = 0
    function pump.cut()
      turn = turn + 1
      return turn
    end
    sizes = {}
    client.transport:write(("x"):rep(20))
    pump:flush()
    assert.is_true(#sizes > 2)
    assert.equal("12345678" .. ("x"):rep(20), client.data)
  end)

  it("delivers at most 64 KiB at once", function()
    local sizes, client = {}, Recorder:new()
    local server = Protocol { dataReceived = function(_, data) sizes[#sizes + 1] = #data end }:new()
    local pump = testing.connect(server, client, { window = 200000 })
    client.transport:write(("x"):rep(150000))
    pump:flush()
    assert.same({ 65536, 65536, 18928 }, sizes)
  end)

  it("takes factories for protocols, and shows what they made", function()
    local factory, seen = protocol.Factory:new(), nil
    factory.protocol = Echo
    function factory:buildProtocol(addr)
      seen = tostring(addr)
      return protocol.Factory.buildProtocol(self, addr)
    end
    local pump = testing.connect(factory, Recorder:new(), { peer = { type = "TCP", host = "10.0.0.9", port = 9 } })
    assert.is_true(rawequal(factory, pump.server.factory))
    assert.equal("tcp:10.0.0.9:9", seen)
    assert.equal("tcp:10.0.0.9:9", tostring(pump.client.transport:getHost()))
    assert.is_true(pump.client.transport:getPeer() == pump.server.transport:getHost())
  end)

  it("closes cleanly to the one whose partner is refused", function()
    local factory, client = protocol.Factory:new(), Recorder:new()
    function factory.buildProtocol() end
    local pump = testing.connect(factory, client)
    pump:flush()
    assert.is_nil(pump.server)
    assert.is_true(client.made)
    assert.same({ "done", "peer" }, { client.reason.code, client.reason.by })
  end)

  it("holds what a paused side does not read, and the writer's producer", function()
    local server, client = Recorder:new(), Recorder:new()
    local pump = testing.connect(server, client, { window = 1000 })
    local producer, paused = {}, false
    function producer.pauseProducing() paused = true end
    function producer.resumeProducing() paused = false end
    server.transport:pauseProducing()
    client.transport:registerProducer(producer, true)
    client.transport:write(("x"):rep(70000))
    pump:flush()
    assert.is_true(paused)
    assert.equal("", server.data)
    assert.equal(69000, client.transport:bufferedAmount())
    server.transport:resumeProducing()
    pump:flush()
    assert.is_false(paused)
    assert.equal(70000, #server.data)
  end)

  it("tells both sides of a close, and who it was", function()
    local server, client = Recorder:new(), Recorder:new()
    local pump = testing.connect(server, client)
    client.transport:write "bye"
    client.transport:loseConnection()
    assert.is_nil(client.reason)
    pump:flush()
    assert.equal("bye", server.data)
    assert.same({ "done", "local" }, { client.reason.code, client.reason.by })
    assert.same({ "done", "peer" }, { server.reason.code, server.reason.by })
  end)

  it("breaks for both sides at reset", function()
    local server, client = Recorder:new(), Recorder:new()
    local pump = testing.connect(server, client)
    client.transport:write "on its way"
    pump:reset()
    assert.is_nil(client.reason)
    pump:flush()
    assert.equal("", server.data)
    for _, side in ipairs { server, client } do
      assert.same({ "lost", "peer", "ECONNRESET" }, { side.reason.code, side.reason.by, side.reason.errno })
    end
  end)

  it("brings out what a callback raises, or gives it to onError", function()
    local Failing = Protocol { dataReceived = function() error("boom", 0) end }
    local client = Recorder:new()
    local pump = testing.connect(Failing:new(), client)
    client.transport:write "x"
    assert.same({ false, "boom" }, { pcall(pump.flush, pump) })
    pump:flush()
    assert.equal("done", client.reason.code)
    local texts = {}
    client = Recorder:new()
    pump = testing.connect(Failing:new(), client, { onError = function(text) table.insert(texts, text) end })
    client.transport:write "x"
    pump:flush()
    assert.equal(1, #texts)
    assert.matches("^boom\n.*testing_spec", texts[1])
  end)

  it("takes a cut of whole bytes only, and brings every byte whatever a function gives", function()
    for _, cut in ipairs { 0, 1.5, -1, 0 / 0, "x" } do
      assert.matches("cut", (raisesHere(testing.connect, Recorder:new(), Recorder:new(), { cut = cut })))
      local pump = testing.connect(Recorder:new(), Recorder:new(), { cut = function() return cut end })
      pump.client.transport:write "abc"
      local ok, problem = pcall(pump.flush, pump)
      assert.is_false(ok)
      assert.equal(("the cut is a number of bytes from 1, not %s"):format(tostring(cut)), problem)
    end
  end)

  it("brings many small pieces of one long write", function()
    local pieces = {}
    local Keeper = protocol.Protocol { dataReceived = function(_, data) pieces[#pieces + 1] = data end }
    local pump = testing.connect(Keeper:new(), Recorder:new(), 1)
    local text = ("0123456789"):rep(12000)
    pump.client.transport:write(text)
    pump:flush()
    assert.is_true(table.concat(pieces) == text)
  end)

  it("gives up on two that never come to rest", function()
    local pump = testing.connect(Echo:new(), Echo:new())
    pump.client.transport:write "x"
    assert.equal("flush: the two do not come to rest in 200000 steps", raisesHere(pump.flush, pump))
  end)

  it("refuses what is no protocol, and what is no cut", function()
    assert.equal("connect takes protocols or factories: instances, not classes",
      raisesHere(testing.connect, Echo, Recorder:new()))
    assert.equal("connect knows no option 'cuts'",
      raisesHere(testing.connect, Echo:new(), Recorder:new(), { cuts = 3 }))
    assert.equal("connect: cut is a number of bytes from 1, not 0",
      raisesHere(testing.connect, Echo:new(), Recorder:new(), { cut = 0 }))
  end)
end)

describe("a factory whose connections a test makes", function()
  local Chat = basic.LineReceiver {}
  function Chat:lineReceived(line)
    for other in self.factory:each() do
      other:sendLine(line)
    end
  end

  it("counts them, and iterates over them, with attach", function()
    local factory = protocol.Factory({ protocol = Chat }):new()
    local a, one = testing.attach(factory)
    local b, other = testing.attach(factory)
    assert.equal(2, factory:connectionCount())
    testing.feed(a, "hi\r\n")
    assert.same({ "hi\r\n", "hi\r\n" }, { one:value(), other:value() })
    testing.lose(a)
    assert.equal(1, factory:connectionCount())
    assert.is_true(rawequal(b, factory:each()()))
    testing.lose(b)
    assert.equal(0, factory:connectionCount())
  end)

  it("does so with connect, on both sides, and within wrappers", function()
    local factory = protocol.Factory({ protocol = Chat }):new()
    local clients = protocol.Factory({ protocol = Recorder }):new()
    local outer = policies.WrappingFactory:new(factory)
    local pumps = { testing.connect(outer, clients), testing.connect(outer, clients) }
    assert.same({ 2, 2, 2 }, { factory:connectionCount(), outer:connectionCount(), clients:connectionCount() })
    pumps[1].client.transport:write "hi\r\n"
    pumps[1]:flush()
    pumps[2]:flush()
    assert.same({ "hi\r\n", "hi\r\n" }, { pumps[1].client.data, pumps[2].client.data })
    for _, pump in ipairs(pumps) do
      pump.client.transport:loseConnection()
      pump:flush()
    end
    assert.same({ 0, 0, 0 }, { factory:connectionCount(), outer:connectionCount(), clients:connectionCount() })
  end)

  it("does not count one that it refuses", function()
    local factory = protocol.Factory({ buildProtocol = function() end }):new()
    assert.is_nil((testing.attach(factory)))
    assert.equal(0, factory:connectionCount())
  end)
end)

describe("a MemoryReactor", function()
  local memory, uninstall

  before_each(function()
    memory = testing.MemoryReactor:new()
    uninstall = memory:install()
  end)

  after_each(function()
    uninstall()
  end)

  local function reactor()
    return require "skald.reactor"
  end

  for name, case in pairs(reactors.cases) do
    it("does as the real one: " .. name, function()
      local lines = {}
      local function say(...)
        local words = { ... }
        for i = 1, select("#", ...) do
          words[i] = tostring(words[i])
        end
        table.insert(lines, table.concat(words, "\t"))
      end
      local script = assert(loadstring(reactors.scriptOf(case)))
      setfenv(script, setmetatable({ print = say }, { __index = _G }))
      if case.prepare then
        case.prepare(memory)
      end
      script()
      memory:flush()
      if case.play then
        case.play(memory)
      end
      memory:flush()
      assert.same(case.lines, lines)
      assert.is_true(memory.stopped)
    end)
  end

  it("is the reactor while it is installed", function()
    assert.is_true(rawequal(memory, reactor()))
    uninstall()
    uninstall()
    assert.is_false((pcall(require, "skald.reactor")))
    assert.is_nil(package.loaded["skald.log"])
    assert.is_nil(package.loaded["skald.program"])
  end)

  it("is a clock, with a dot and a colon", function()
    local calls = {}
    reactor().callLater(1, table.insert, calls, "dot")
    reactor():callLater(2, table.insert, calls, "colon")
    memory:advance(1)
    assert.same({ "dot" }, calls)
    memory:advance(1)
    assert.same({ "dot", "colon" }, calls)
    assert.same({ 2, 2 }, { reactor().seconds(), reactor():seconds() })
    assert.matches("callLater takes seconds", raisesHere(reactor().callLater, "x", print))
  end)

  it("serves what deferLater, timeouts and loops take from the reactor", function()
    local fired
    task.deferLater(nil, 3, function() return "late" end):addCallback(function(value) fired = value end)
    memory:advance(3)
    assert.equal("late", fired)
  end)

  it("has endpoints listen and connect, whatever they are of", function()
    local asked = { "tcp:0", "tls:0:certificate=c.pem", "unix:/run/x", "haproxy:tcp:0", "udp:0" }
    for i, text in ipairs(asked) do
      local port
      require("skald.endpoints").serverFromString(text)
        :listen({ protocol = text == "udp:0" and {} or Echo })
        :addCallback(function(made) port = made end)
      assert.is_true(rawequal(port, ({
        memory.tcpServers[1], memory.sslServers[1], memory.unixServers[1], memory.tcpServers[2], memory.udpPorts[1],
      })[i]), text)
    end
    for _, text in ipairs { "tcp:192.0.2.1:7", "tls:192.0.2.1:7", "unix:/run/x" } do
      require("skald.endpoints").clientFromString(text):connect({ protocol = Echo })
    end
    assert.same({ 1, 1, 1 }, { #memory.tcpClients, #memory.sslClients, #memory.unixClients })
    assert.equal("tcp:192.0.2.1:7", tostring(memory.sslClients[1]:getDestination()))
  end)

  it("listens and connects for TLS, of which both sides hear that it is up", function()
    local Asking = Recorder {}
    function Asking:handshakeCompleted()
      self.transport:write("over " .. self.transport.negotiatedProtocol)
    end
    local port = reactor().listenSSL(0, { protocol = Asking }, { certificate = "c.pem", alpn = "h2" })
    local client = Asking:new()
    memory:connect(port, client, { negotiatedProtocol = "h2" })
    memory:flush()
    assert.equal("over h2", client.data)
    local factory = protocol.ClientFactory({ protocol = Asking }):new()
    local connector = reactor().connectSSL("example.org", 443, factory, { trust = "ca.pem" })
    assert.is_true(rawequal(connector, memory.sslClients[1]))
    assert.equal("ca.pem", connector.endpoint.trust)
    local server = Recorder:new()
    memory:connect(connector, server, { negotiatedProtocol = "x" })
    memory:flush()
    assert.equal("over x", server.data)
    assert.matches("certificate", (raisesHere(reactor().listenSSL, 0, { protocol = Asking }, {})))
    assert.same({ nil, "Address already in use", "EADDRINUSE" },
      { reactor().listenTCP(port:getHost().port, { protocol = Echo }) })
  end)

  it("has a client ready when TLS is up, and tells why it was not prepared", function()
    local seen = {}
    local Client = Protocol { handshakeCompleted = function() table.insert(seen, "completed") end }
    local to = require("skald.endpoints").clientFromString "tls:192.0.2.1:7:alpn=h2"
    to:connect({
      protocol = Client,
      prepareConnection = function(_, made) table.insert(seen, "prepares " .. made.transport.negotiatedProtocol) end,
    }):addCallback(function(made) table.insert(seen, "has " .. made.transport.negotiatedProtocol) end)
    memory:connect(memory.sslClients[1], Recorder:new(), { negotiatedProtocol = "h2" })
    assert.same({ "completed", "prepares h2", "has h2" }, seen)
    local why
    to:connect({ protocol = Client, prepareConnection = function() return defer.fail "unready" end }):addErrback(function(problem)
      why = problem.value
    end)
    local pump = memory:connect(memory.sslClients[2], Recorder:new())
    memory:flush()
    assert.equal("unready", why)
    assert.is_true(pump.sides[2].transport.disconnected)
  end)

  it("has a test send datagrams, and keeps those that are sent", function()
    local P = protocol.DatagramProtocol {
      datagramReceived = function(self, data, from) self.transport:write(data:upper(), from) end,
    }
    local port = reactor().listenUDP(53, P)
    assert.is_true(memory:datagram(port, "abc"))
    assert.is_true(memory:datagram(port, "", address.inet("UDP", "192.0.2.7", 5)))
    assert.same({ "ABC", "udp:192.0.2.1:54321" }, { port.sent[1].data, tostring(port.sent[1].address) })
    assert.same({ "", "udp:192.0.2.7:5" }, { port.sent[2].data, tostring(port.sent[2].address) })
    assert.same({ nil, "Address already in use", "EADDRINUSE" }, { reactor().listenUDP(53, P) })
    assert.equal("listenUDP: this protocol has a port already", raisesHere(reactor().listenUDP, 54, port.protocol))
    assert.is_true(port:joinGroup "239.1.1.1")
    local heard
    local other = reactor().listenUDP(0, { datagramReceived = function(_, data, from) heard = data .. tostring(from) end })
    other:connect("127.0.0.1", 53)
    other:write "x"
    memory:flush()
    assert.equal("Xudp:127.0.0.1:53", heard)
    port:stopListening()
    assert.same({ nil, "Connection refused", "ECONNREFUSED" }, { memory:datagram(port, "x") })
    assert.same({ nil, "closing", "EPIPE" }, { port:setTTL(1) })
  end)

  it("tells what was set of a UDP port, or what a port begins with", function()
    local port = memory.listenUDP(0, protocol.DatagramProtocol:new())
    local function all()
      return { port:getBroadcastAllowed(), port:getTTL(), port:getLoopbackMode(), port:getOutgoingInterface() }
    end
    assert.same({ false, 1, true, "" }, all())
    port:setBroadcastAllowed(true)
    port:setTTL(9)
    port:setLoopbackMode(false)
    port:setOutgoingInterface "lo"
    assert.same({ true, 9, false, "lo" }, all())
    port:stopListening()
    assert.same({ nil, "closing", "EPIPE" }, { port:getTTL() })
  end)

  it("brings a datagram for a group to all that have joined it", function()
    local heard = {}
    local function member(number)
      return reactor().listenUDP(5353, { datagramReceived = function(_, data) table.insert(heard, data .. number) end },
        { interface = "127.0.0." .. number })
    end
    local a, _, c = member(1), member(2), member(3)
    a:joinGroup "224.0.0.251"
    c:joinGroup "224.0.0.251"
    assert.same({ nil, "Address already in use", "EADDRINUSE" }, { a:joinGroup "224.0.0.251" })
    reactor().listenUDP(0, {}):write("q", "224.0.0.251", 5353)
    memory:flush()
    assert.same({ "q1", "q3" }, heard)
    assert.is_true(c:leaveGroup "224.0.0.251")
    assert.same({ nil, "Cannot assign requested address", "EADDRNOTAVAIL" }, { c:leaveGroup "224.0.0.251" })
  end)

  it("knows an address however it is spelled, and tells groups from other addresses", function()
    local P = protocol.DatagramProtocol {}
    local port = reactor().listenUDP(5353, P, { interface = "0:0::1" })
    assert.equal("udp:[::1]:5353", tostring(port:getHost()))
    assert.same({ nil, "Address already in use", "EADDRINUSE" }, { reactor().listenUDP(5353, P, { interface = "::1" }) })
    assert.is_true(port:joinGroup "FF02::1:0")
    assert.same({ nil, "Address already in use", "EADDRINUSE" }, { port:joinGroup "ff02:0::1:0" })
    local heard
    function port.protocol.datagramReceived(_, data, from) heard = data .. tostring(from) end
    local other = reactor().listenUDP(7, P, { interface = "::" })
    other:write("q", "ff02:0:0::0001:0", 5353)
    memory:flush()
    assert.equal("qudp:[::1]:7", heard)
    assert.is_true(port:connect("0::1", 7))
    assert.is_true(port:write("a", "::1", 7))
    assert.same({ nil, "Invalid argument", "EINVAL" }, { port:joinGroup "fe80::1" })
    local family = { nil, "Address family not supported by protocol", "EAFNOSUPPORT" }
    assert.same(family, { port:joinGroup "239.1.1.1" })
    assert.same(family, { reactor().listenUDP(0, P):leaveGroup "ff02::1" })
    assert.same({ nil, "Invalid argument", "EINVAL" }, { reactor().listenUDP(0, P):joinGroup "10.0.0.1" })
  end)

  it("brings out what a UDP protocol raises, when all that has to be done is", function()
    local heard, stopped = {}, 0
    local factory = protocol.Factory({
      stopFactory = function() stopped = stopped + 1 end,
      protocol = {
        datagramReceived = function(_, data)
          table.insert(heard, data)
          error("cannot read " .. data, 0)
        end,
        stopProtocol = function() error("cannot stop", 0) end,
      },
      listen = "udp:127.0.0.1:53",
    }):new()
    local port = memory:serve(factory)[1]
    local other = reactor().listenUDP(0, {})
    other:write("a", "127.0.0.1", 53)
    other:write("b", "127.0.0.1", 53)
    assert.same({ false, "cannot read a" }, { pcall(memory.flush, memory) })
    assert.same({ "a", "b" }, heard)
    assert.same({ false, "cannot stop" }, { pcall(port.stopListening, port) })
    assert.equal(1, stopped)
  end)

  it("notes processes, of which the test says what they do", function()
    local lines = {}
    local P = protocol.ProcessProtocol {
      errReceived = function(_, data) table.insert(lines, "err " .. data) end,
      outConnectionLost = function() table.insert(lines, "out lost") end,
      processEnded = function(_, reason) table.insert(lines, "ended " .. reason.exitCode) end,
    }
    local made = reactor().spawnProcess(P:new(), "cat", { "cat", "-n" }, { cwd = "/", env = { A = "1" } })
    assert.is_true(rawequal(made, memory.processes[1]))
    assert.same({ "cat", { "cat", "-n" }, "/", { A = "1" } }, { made.path, made.args, made.cwd, made.env })
    made:write "some"
    made:write "thing"
    assert.equal("something", made:written())
    memory:output(made, "oops", 2)
    made:closeStdout()
    memory:flush()
    assert.same({ nil, "Broken pipe", "EPIPE" }, { memory:output(made, "late") })
    made:abortConnection()
    assert.same({ "KILL" }, made.signals)
    assert.equal("exit takes a status from 0 to 255 or the name of a signal, not TREM",
      raisesHere(memory.exit, memory, made, "TREM"))
    memory:exit(made)
    assert.same({ "err oops", "out lost", "ended 0" }, lines)
    assert.same({ nil, "the process has ended", "ESRCH" }, { memory:exit(made) })
    made:abortConnection()
    assert.same({ "KILL" }, made.signals) -- none goes to what is gone
  end)

  it("holds the output of a process that is paused, and its end with it", function()
    local lines = {}
    local made = reactor().spawnProcess({
      outReceived = function(_, data) table.insert(lines, data) end,
      processExited = function() table.insert(lines, "exited") end,
      processEnded = function() table.insert(lines, "ended") end,
    }, "cat")
    made:pauseProducing()
    memory:output(made, "held")
    memory:exit(made, "KILL")
    assert.same({ nil, "Broken pipe", "EPIPE" }, { memory:output(made, "after its end") })
    assert.same({ "exited" }, lines)
    made:resumeProducing()
    memory:flush()
    assert.same({ "exited", "held", "ended" }, lines)
  end)

  it("writes to a process by a producer, and ends one whose callback raises", function()
    local why
    local made = reactor().spawnProcess({
      outReceived = function() error("boom", 0) end,
      processEnded = function(_, reason) why = reason end,
    }, "cat", nil, { pty = { rows = 5 } })
    local left = 3
    made:registerProducer({
      resumeProducing = function()
        made:write "x"
        left = left - 1
        if left == 0 then
          made:unregisterProducer()
        end
      end,
      stopProducing = function() end,
    }, false)
    memory:flush()
    assert.equal("xxx", made:written())
    assert.is_true(made:setWindowSize(6, 7))
    assert.same({ 6, 7 }, { made.rows, made.columns })
    assert.same({ false, "boom" }, { pcall(memory.output, memory, made, "x") })
    assert.same({ "TERM" }, made.signals)
    memory:exit(made, "TERM")
    assert.same({ "error", "local" }, { why.code, why.by })
  end)

  it("notes the ports that are listened on, and starts and stops their factories", function()
    local calls = {}
    local function note(name)
      return function() table.insert(calls, name) end
    end
    local definition = { protocol = Echo, startFactory = note "start", stopFactory = note "stop" }
    local port = reactor().listenTCP(7007, definition, { interface = "127.0.0.1", backlog = 5 })
    local other = reactor().listenUNIX("/run/x", port.factory)
    assert.same({ "start" }, calls)
    assert.is_true(rawequal(port, memory.tcpServers[1]))
    assert.same({ "tcp:127.0.0.1:7007", 5 }, { tostring(port:getHost()), port.endpoint.backlog })
    assert.equal("unix:/run/x", tostring(memory.unixServers[1]:getHost()))
    assert.same({ nil, "Address already in use", "EADDRINUSE" },
      { reactor().listenTCP(7007, { protocol = Echo }, { interface = "127.0.0.1" }) })
    assert.is_true(reactor().listenTCP(0, { protocol = Echo }):getHost().port > 0)
    port:stopListening()
    assert.same({ "start" }, calls)
    other:stopListening()
    assert.same({ "start", "stop" }, calls)
    assert.same({ nil, "Connection refused", "ECONNREFUSED" }, { memory:connect(port, Recorder:new()) })
  end)

  it("connects to a port, whose factory counts its connections", function()
    local Chat = basic.LineReceiver {}
    function Chat:lineReceived(line)
      for other in self.factory:each() do
        other:sendLine(line)
      end
    end
    local atEnd
    function Chat:connectionLost()
      atEnd = self.factory:connectionCount()
    end
    local port = reactor().listenTCP(0, { protocol = Chat, maxConnections = 2 })
    local a, b, refused = Recorder:new(), Recorder:new(), Recorder:new()
    memory:connect(port, a, { cut = 1 })
    memory:connect(port, b)
    memory:connect(port, refused)
    assert.equal(2, port.factory:connectionCount())
    a.transport:write "hi\r\n"
    memory:flush()
    assert.same({ "hi\r\n", "hi\r\n", "done" }, { a.data, b.data, refused.reason.code })
    assert.is_true(b.transport:getPeer() == port:getHost())
    b.transport:loseConnection()
    memory:flush()
    assert.equal(1, atEnd)
    assert.equal(1, port.factory:connectionCount())
  end)

  it("notes the connectors, which a test answers or fails", function()
    local told = {}
    local factory = protocol.ClientFactory { protocol = Echo }:new()
    for _, name in ipairs { "startedConnecting", "clientConnectionFailed", "clientConnectionLost", "stopFactory" } do
      factory[name] = function(_, _, reason)
        table.insert(told, name .. (reason and " " .. tostring(reason) or ""))
      end
    end
    local connector = reactor().connectTCP("example.org", 79, factory, { timeout = 3 })
    assert.is_true(rawequal(connector, memory.tcpClients[1]))
    assert.same({ "connecting", 3 }, { connector.state, connector.endpoint.timeout })
    assert.is_true(memory:fail(connector))
    assert.same({ nil, "the connector is disconnected", "EALREADY" }, { memory:fail(connector) })
    connector:connect()
    local server = Recorder:new()
    local pump = memory:connect(connector, server)
    assert.equal("connected", connector.state)
    assert.equal("tcp:example.org:79", tostring(pump.client.transport:getPeer()))
    server.transport:loseConnection()
    pump:flush()
    assert.equal("disconnected", connector.state)
    assert.same({
      "startedConnecting", "clientConnectionFailed cannot connect to tcp:example.org:79: Connection refused", "stopFactory",
      "startedConnecting", "clientConnectionLost the peer closed the connection", "stopFactory",
    }, told)
  end)

  it("lets a ReconnectingClientFactory retry as time passes", function()
    local factory = protocol.ReconnectingClientFactory { protocol = Echo, jitter = 0 }:new()
    local connector = reactor().connectUNIX("/run/x", factory)
    for i = 1, 3 do
      memory:fail(connector, "ENOENT")
      memory:advance(2 ^ (i - 1) - 0.1)
      assert.equal("disconnected", connector.state)
      memory:advance(0.1)
      assert.same({ "connecting", i + 1 }, { connector.state, connector.attempts })
    end
    factory:stopTrying()
    assert.equal("disconnected", connector.state)
    memory:advance(1000)
    assert.equal(4, connector.attempts)
  end)

  it("gives endpoints what they ask for", function()
    local endpoints = require "skald.endpoints"
    local port, made, failed
    endpoints.serverFromString("tcp:7007"):listen({ protocol = Echo }):addCallback(function(p) port = p end)
    assert.is_true(rawequal(port, memory.tcpServers[1]))
    endpoints.connectProtocol(endpoints.clientFromString "tcp:127.0.0.1:7007", Recorder:new())
      :addCallback(function(p) made = p end)
    memory:connect(memory.tcpClients[1], Echo:new())
    assert.is_true(made.made)
    endpoints.clientFromString("unix:/run/x"):connect(protocol.ClientFactory { protocol = Echo })
      :addErrback(function(f) failed = tostring(f) end)
    memory:fail(memory.unixClients[1])
    assert.equal("cannot connect to unix:/run/x: Connection refused", failed)
  end)

  it("serves a definition by its own endpoints", function()
    local records = memory:serve { protocol = Echo, listen = { "tcp:7007", "unix:/run/x" } }
    local client = Recorder:new()
    memory:connect(records[2], client)
    client.transport:write "x"
    memory:flush()
    assert.equal("x", client.data)
    assert.equal("tcp:0.0.0.0:7007", tostring(records[1]:getHost()))
  end)

  it("reads the header of a haproxy: endpoint", function()
    local port, client = memory:serve({ protocol = Echo, listen = "haproxy:tcp:80" })[1], Recorder:new()
    local seen
    function Echo:connectionMade()
      seen = tostring(self.transport:getPeer())
    end
    memory:connect(port, client)
    client.transport:write "PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\nhello"
    memory:flush()
    Echo.connectionMade = nil
    assert.same({ "tcp:192.0.2.9:1234", "hello" }, { seen, client.data })
    assert.equal("tcp:0.0.0.0:80", tostring(port:getHost()))
  end)

  it("notes lookups, triggers, logs and the stop", function()
    local found, calls = nil, {}
    reactor().resolve("example.org"):addCallback(function(host_) found = host_ end)
    assert.equal("example.org", memory.lookups[1].name)
    memory.lookups[1].deferred:callback "192.0.2.7"
    assert.equal("192.0.2.7", found)
    reactor().addSystemEventTrigger("after", "shutdown", table.insert, calls, "after")
    local taken = reactor().addSystemEventTrigger("before", "shutdown", table.insert, calls, "never")
    reactor().addSystemEventTrigger("before", "shutdown", table.insert, calls, "before")
    assert.is_true(reactor().removeSystemEventTrigger(taken))
    reactor().stop(3)
    assert.same({ true, 3, 0 }, { memory.stopped, memory.exitStatus, #calls })
    memory:fire "shutdown"
    assert.same({ "before", "after" }, calls)
    require("skald.log").warning("%d things", 3)
    assert.same({ { level = "warning", text = "3 things" } }, memory.logged)
  end)

  it("calls what waits for it to run once it does", function()
    local calls, sleeping = {}, testing.MemoryReactor:new { running = false }
    reactor().callWhenRunning(table.insert, calls, "now")
    sleeping.callWhenRunning(table.insert, calls, "later")
    assert.same({ "now" }, calls)
    sleeping:start()
    assert.same({ "now", "later" }, calls)
  end)

  it("refuses what the real one refuses, at the caller's line", function()
    local r, good = reactor(), { protocol = Echo }
    for message, f in pairs {
      ["listenTCP takes a port from 0 to 65535, not the string '7': tonumber makes a number of it"] = function()
        r.listenTCP("7", good)
      end,
      ["listenTCP takes a factory, not a protocol"] = function() r.listenTCP(7, Echo) end,
      ["listenTCP knows no option 'interfaces'"] = function() r.listenTCP(7, good, { interfaces = "x" }) end,
      ["listenTCP: 'localhost' is no IP address"] = function() r.listenTCP(7, good, { interface = "localhost" }) end,
      ["listenUNIX takes a path"] = function() r.listenUNIX("", good) end,
      ["connectTCP takes a host"] = function() r.connectTCP(nil, 7, good) end,
      ["connectTCP: timeout is a number of seconds, not 0"] = function() r.connectTCP("x", 7, good, { timeout = 0 }) end,
      ["resolve takes a name, not a nil"] = function() r.resolve() end,
      ["callWhenRunning takes a function, not a nil"] = function() r.callWhenRunning() end,
      ["stop takes an exit status from 0 to 255, not 256"] = function() r.stop(256) end,
      ["addSystemEventTrigger: a phase is before, during or after, not x"] = function()
        r.addSystemEventTrigger("x", "shutdown", print)
      end,
      ["connect takes a port or a connector of this reactor"] = function() memory:connect({}, Recorder:new()) end,
      ["fail takes a connector of this reactor"] = function() memory:fail {} end,
    } do
      local ok, raised = pcall(f)
      assert.is_false(ok)
      assert.matches("testing_spec%.lua:%d+: " .. message:gsub("%p", "%%%0") .. "$", raised)
    end
    assert.same({}, memory.tcpServers)
  end)
end)

describe("testing.load", function()
  after_each(host.cleanup)

  it("gives the factory of a script, with state of its own each time", function()
    local path = host.script [[
      local basic = require "skald.basic"
      local greeting = require "words"
      local options = ...
      local Finger = basic.LineReceiver {}
      function Finger:lineReceived(user)
        self.factory.state.asked = self.factory.state.asked + 1
        self:sendLine(greeting .. (options.users or "nobody") .. user)
        self.transport:loseConnection()
      end
      return { listen = "tcp:79", protocol = Finger, state = { asked = 0 } }
    ]]
    host.file("words.lua", [[ return "hello " ]])
    local one, two = testing.load(path), testing.load(path, { users = "all ", listen = "tcp:7079" })
    local a, b = Recorder:new(), Recorder:new()
    for client, factory in pairs { [a] = one, [b] = two } do
      local pump = testing.connect(factory, client)
      client.transport:write "moshez\r\n"
      pump:flush()
    end
    assert.same({ "hello nobodymoshez\r\n", "hello all moshez\r\n" }, { a.data, b.data })
    assert.same({ 1, 1, "tcp:7079" }, { one.state.asked, two.state.asked, two.listen })
    assert.is_nil(package.loaded.words)
  end)

  it("gives a list where the script returns one, and nothing where it returns nothing", function()
    local list = testing.load(host.script [[
      return { { name = "a", listen = "tcp:1", protocol = {} }, { name = "b", connect = "tcp:h:2", protocol = {} } }
    ]])
    assert.same({ "a", "b" }, { list[1].name, list[2].name })
    assert.equal("function", type(list[2].stopTrying))
    local memory = testing.MemoryReactor:new()
    local uninstall = memory:install()
    assert.is_nil((testing.load(host.script [[
      require("skald.reactor").listenTCP(7, { protocol = {} })
    ]])))
    uninstall()
    assert.equal(7, memory.tcpServers[1]:getHost().port)
  end)

  it("gives a script what skald.service gives it, and its own libraries", function()
    local disposed = {}
    _G.disposedBySpec = disposed
    local factory, script = testing.load(host.script([[
      local service = require "skald.service"
      string.shout = function() end -- of its own string
      service.onDispose(function() table.insert(disposedBySpec, service.name) end)
      local kept = service.persist("kept", function() return { n = 1 } end)
      assert(kept == service.persist("kept", {}) and service.options.x == "y")
      return { name = "quiet", protocol = {}, kept = kept }
    ]], "quiet.lua"), { x = "y" })
    assert.is_nil(rawget(string, "shout"))
    assert.equal(1, factory.kept.n)
    assert.is_true(rawequal(script.kept.kept, factory.kept))
    script:dispose()
    script:dispose()
    _G.disposedBySpec = nil
    assert.same({ "quiet" }, disposed)
  end)

  it("raises what is wrong with a script, at its line", function()
    assert.matches("script.lua:2:", select(2, pcall(testing.load, host.script "\nreturn +")))
    assert.matches("script.lua:1: no", select(2, pcall(testing.load, host.script "error 'no'")))
    assert.matches("returned a protocol", select(2, pcall(testing.load, host.script [[
      return require("skald.protocol").Protocol {}
    ]])))
    assert.matches("^load: .*missing.lua: No such file", raisesHere(testing.load, host.folder() .. "/missing.lua"))
  end)

  it("loads every example", function()
    local memory = testing.MemoryReactor:new()
    local uninstall = memory:install()
    local pipe, count = io.popen "ls examples/*.lua", 0
    for path in pipe:lines() do
      assert(pcall(testing.load, path))
      count = count + 1
    end
    pipe:close()
    uninstall()
    assert.is_true(count > 10)
  end)
end)

describe("testing.chunks", function()
  it("cuts into pieces of one size, the last of them shorter", function()
    assert.same({ "abc", "def", "g" }, testing.chunks("abcdefg", 3))
    assert.same({ "abc" }, testing.chunks("abc", 3))
    assert.same({}, testing.chunks("", 3))
    assert.equal("chunks takes a number of bytes from 1, not 0", raisesHere(testing.chunks, "x", 0))
    assert.equal("chunks takes a string, not a nil", raisesHere(testing.chunks, nil, 1))
  end)
end)

-- How each receiver frames a message.
local function binary(width)
  return function(s)
    local head, n = "", #s
    for _ = 1, width do
      head, n = string.char(n % 256) .. head, math.floor(n / 256)
    end
    return head .. s
  end
end

local receivers = {
  LineReceiver = function(s) return s .. "\r\n" end,
  LineOnlyReceiver = function(s) return s .. "\r\n" end,
  NetstringReceiver = function(s) return ("%d:%s,"):format(#s, s) end,
  Int8StringReceiver = binary(1),
  Int16StringReceiver = binary(2),
  Int32StringReceiver = binary(4),
}

local messages = { "hello", "", "a\r", "\n\r\0", "12:34,", "stop", "never" }

describe("testing.everyCut", function()
  for name, frame in pairs(receivers) do
    local framed = {}
    for i, message in ipairs(messages) do
      framed[i] = frame(message)
    end
    local bytes = table.concat(framed)

    -- It answers, pauses, and closes.
    local function received(self, message)
      local send = self.sendLine or self.sendString
      send(self, "<" .. message .. ">")
      if message == "stop" then
        self.transport:loseConnection()
      end
    end

    local Answering = basic[name] { lineReceived = received, stringReceived = received }

    it("finds that " .. name .. " does not mind", function()
      assert.is_true(testing.everyCut(function() return Answering:new() end, bytes))
    end)

    it("finds that " .. name .. " does not mind being paused", function()
      local function pauses(self, message)
        received(self, message)
        self:pauseProducing()
      end
      local Pausing = basic[name] { lineReceived = pauses, stringReceived = pauses }
      assert.is_true(testing.everyCut(function() return Pausing:new() end, bytes, {
        after = function(made)
          for _ = 1, #messages do
            made:resumeProducing()
            testing.turn(made)
          end
        end,
      }))
    end)

    it("finds that " .. name .. " refuses what is too long", function()
      local Short = Answering { MAX_LENGTH = 4 }
      assert.is_true(testing.everyCut(function() return Short:new() end, bytes))
    end)
  end

  it("finds that raw data between lines does not matter", function()
    local Raw = basic.LineReceiver {}
    function Raw:lineReceived(line)
      self.left = tonumber(line)
      if self.left then
        self:setRawMode()
      end
    end
    function Raw:rawDataReceived(data)
      local own = data:sub(1, self.left)
      self.left = self.left - #own
      self.transport:write(own)
      if self.left == 0 then
        self:setLineMode(data:sub(#own + 1))
      end
    end
    assert.is_true(testing.everyCut(function() return Raw:new() end, "a\r\n5\r\nraw\r\nline\r\n3\r\nabcend\r\n"))
  end)

  it("finds that a StatefulStringProtocol and a StreamProtocol do not mind", function()
    local Stateful = basic.NetstringReceiver(basic.StatefulStringProtocol, {
      proto_init = function() return "next" end,
      proto_next = function(self, s) self:sendString(s) return s == "end" and "done" or nil end,
    })
    assert.is_true(testing.everyCut(function() return Stateful:new() end, "1:a,2:bc,3:end,5:never,"))
    local Stream = stream.StreamProtocol {
      handle = function(_, s)
        local n = tonumber(s:readLine())
        s:write("<" .. s:readExactly(n) .. ">")
        s:write(tostring(s:readUntil ";") .. tostring(s:readLine()))
      end,
    }
    assert.is_true(testing.everyCut(function() return Stream:new() end, "5\r\n12345to;rest\nand more"))
  end)

  it("looks through wrappers at the protocol in them", function()
    local factory = policies.WrappingFactory:new { protocol = basic.LineReceiver {
      lineReceived = function(self, line) self:sendLine(line) end,
    } }
    assert.is_true(testing.everyCut(function() return factory:buildProtocol() end, "a\r\nb\r\n"))
    local careless = policies.WrappingFactory:new { protocol = {
      dataReceived = function(self, data) self:lineReceived(data) end,
      lineReceived = function() end,
    } }
    assert.matches('callback 1 is lineReceived%("a"%)', select(2, testing.everyCut(function()
      return careless:buildProtocol()
    end, "ab")))
  end)

  -- It takes each read for a line.
  local Careless = Protocol {}

  function Careless:dataReceived(data)
    for line in data:gmatch "[^\n]+" do
      self:lineReceived(line)
    end
  end

  function Careless:lineReceived(line)
    self.transport:write(line .. ".")
  end

  it("finds a protocol that is cut by reads, and shows the cut and the difference", function()
    local same, message = testing.everyCut(function() return Careless:new() end, "ab\ncd\n")
    assert.is_nil(same)
    assert.equal([[cut behind byte 1 ("a" | "b\ncd\n"): callback 1 is lineReceived("a"); uncut it is lineReceived("ab")]], message)
  end)

  it("finds a difference in what is written, in the end, in the state, and in what is raised", function()
    local function try(received, lost)
      local Odd = Protocol { dataReceived = received, connectionLost = lost }
      local same, message = testing.everyCut(function() return Odd:new() end, "abc")
      assert.is_nil(same)
      return message
    end
    assert.equal([[cut behind byte 1 ("a" | "bc"): the output differs from byte 2 on: "2"; uncut it is ""]],
      (try(function(self, data) self.transport:write(#data == 3 and "1" or tostring(3 - #data == 2 and 1 or 2)) end)))
    assert.matches("the end is: done by local .*; uncut: done by peer", (try(function(self, data)
      if data == "bc" then self.transport:loseConnection() end
    end)))
    assert.matches("the state is bc at the end; uncut it is abc", (try(function(self, data) self.state = data end)))
    assert.matches("it raises no; uncut nothing", (try(function(_, data) if data == "c" then error("no", 0) end end)))
  end)

  it("compares what a protocol notes by itself, and callbacks that it is told of", function()
    local function make(note)
      local made = Protocol:new()
      function made.dataReceived(_, data) note("read", #data) end
      return made
    end
    assert.matches('callback 1 is read%(1%); uncut it is read%(3%)', select(2, testing.everyCut(make, "abc")))
    local Own = Protocol { dataReceived = function(self, data) self:heard(data) end, heard = function() end }
    assert.is_true(testing.everyCut(function() return Own:new() end, "abc"))
    assert.matches('heard%("a"%)', select(2, testing.everyCut(function() return Own:new() end, "abc", { callbacks = { "heard" } })))
  end)

  it("tries the same cuts each time, and others for another seed", function()
    local function cutsOf(seed)
      local all = {}
      assert.is_true(testing.everyCut(function()
        local made = Protocol:new()
        function made.dataReceived(_, data) all[#all + 1] = #data end
        return made
      end, ("x"):rep(30), { seed = seed }))
      return table.concat(all, " ")
    end
    assert.equal(cutsOf(1), cutsOf(1))
    assert.not_equal(cutsOf(1), cutsOf(2))
  end)

  it("tries a whole text, each byte by itself, each place to cut in two, and in three where it is short", function()
    local seen = {}
    assert.is_true(testing.everyCut(function()
      local made, sizes = Protocol:new(), {}
      function made.dataReceived(_, data) sizes[#sizes + 1] = #data end
      function made.connectionLost() seen[table.concat(sizes, " ")] = true end
      return made
    end, "abcde", { rounds = 0 }))
    local count = 0
    for _ in pairs(seen) do
      count = count + 1
    end
    assert.equal(1 + 1 + 4 + 6, count)
    assert.is_true(seen["5"] and seen["1 1 1 1 1"] and seen["2 3"] and seen["1 2 2"])
  end)

  it("is linear enough for some thousand bytes", function()
    local calls, Counting = 0, basic.LineOnlyReceiver { lineReceived = function() end }
    assert.is_true(testing.everyCut(function()
      calls = calls + 1
      return Counting:new()
    end, ("some line\r\n"):rep(200)))
    assert.is_true(calls < 5000)
  end)

  it("takes time from a clock that is handed in", function()
    local function make()
      local made, clock = Protocol:new(), testing.Clock:new()
      made.clock = clock
      function made:connectionMade() self.timer = clock:callLater(5, function() self.transport:abortConnection() end) end
      function made:dataReceived() self.timer:reset(5) end
      return made
    end
    assert.is_true(testing.everyCut(make, "abcdef", { after = function(made) made.clock:advance(5) end }))
  end)

  it("refuses what it cannot use, at the caller's line", function()
    assert.equal("everyCut takes a function that makes a protocol, not a table", raisesHere(testing.everyCut, {}, ""))
    assert.equal("everyCut takes a string, not a nil", raisesHere(testing.everyCut, print))
    assert.equal("everyCut knows no option 'round'", raisesHere(testing.everyCut, print, "", { round = 1 }))
    assert.matches("gives a protocol: an instance, not a class", select(2, pcall(testing.everyCut, function() return Echo end, "")))
  end)
end)

describe("the test kit", function()
  after_each(host.cleanup)

  it("works under plain luajit, with the scripts' folder alone", function()
    local path = host.file("plain.lua", [[
      local testing = require "skald.testing"
      local basic = require "skald.basic"
      local Echo = basic.LineReceiver { lineReceived = function(self, line) self:sendLine(line) end }
      local made, transport = testing.attach(Echo:new())
      testing.feed(made, "one\r\ntwo\r\n", 1)
      assert(transport:value() == "one\r\ntwo\r\n")
      local memory = testing.MemoryReactor:new()
      local uninstall = memory:install()
      local port = require("skald.reactor").listenTCP(0, { protocol = Echo })
      local client = testing.AccumulatingProtocol:new()
      memory:connect(port, client, { cut = 2 })
      client.transport:write "three\r\n"
      memory:flush()
      uninstall()
      assert(client.data == "three\r\n")
      assert(testing.everyCut(function() return Echo:new() end, "a\r\nb\r\n"))
      for key in pairs(_G) do assert(not tostring(key):find "skald") end
      print(not pcall(require, "skald.core"))
    ]])
    local status, output, errors = process.run {
      "luajit", path, env = { LUA_PATH = "scripts/?.lua;;", LUA_CPATH = false },
    }
    assert.same({ 0, "true\n", "" }, { status, output, errors })
  end)

  it("works in a busted spec of a user's own", function()
    local path = host.file("echo_spec.lua", [[
      local testing = require "skald.testing"
      describe("echo", function()
        it("echoes", function()
          local factory = testing.load "scripts/services/echo.lua"
          local client = testing.AccumulatingProtocol:new()
          local pump = testing.connect(factory, client)
          client.transport:write "hello"
          pump:flush()
          assert.equal("hello", client.data)
        end)
      end)
    ]])
    local status, output = process.run {
      "busted", "--lua=luajit", "-o", "TAP", path,
      env = { LUA_PATH = "scripts/?.lua;;", LUA_CPATH = false },
    }
    assert.equal(0, status, output)
    assert.matches("ok 1", output)
  end)

  it("has a Clock that is skald.task's", function()
    assert.is_true(rawequal(task.Clock, testing.Clock))
    local d = defer.Deferred:new()
    local clock, failed = testing.Clock:new(), nil
    d:addTimeout(5, clock):addErrback(function(f) failed = f.type end)
    clock:advance(5)
    assert.equal("TimeoutError", failed)
  end)
end)
