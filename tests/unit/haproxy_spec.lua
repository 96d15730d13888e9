-- The PROXY protocol: headers of both versions, read and written; what a wrapped factory sees of them.

local address = require "skald.address"
local endpoints = require "skald.endpoints"
local fuzz = require "fuzz.haproxy"
local haproxy = require "skald.haproxy"
local inet = require "skald.inet"
local protocol = require "skald.protocol"
local proxyheader = require "skald.proxyheader"
local task = require "skald.task"
local wrapping = require "skald.wrapping"

local SIGNATURE = "\13\10\13\10\0\13\10\81\85\73\84\10"
local OWN, PEER = address.inet("TCP", "127.0.0.1", 80), address.inet("TCP", "127.0.0.9", 4000)

-- The bytes that hexadecimal digits stand for.
local function hex(digits)
  return (digits:gsub("%s", ""):gsub("%x%x", function(pair)
    return string.char(tonumber(pair, 16))
  end))
end

-- A header of version 2 around what follows its length.
local function binary(command, family, body)
  return SIGNATURE .. string.char(command, family, math.floor(#body / 256), #body % 256) .. body
end

local function path(text)
  return text .. ("\0"):rep(108 - #text)
end

-- What a connection's transport is to a wrapper.
local Fake = {}
Fake.__index = Fake

local function newFake(fields)
  return setmetatable({ written = "", disconnecting = false, log = {}, fields = fields }, Fake)
end

function Fake:write(data)
  self.written = self.written .. data
  return true
end

function Fake:loseConnection()
  self.disconnecting = true
end

function Fake:pauseProducing()
  self.paused = true
end

function Fake:resumeProducing()
  self.paused = false
end

function Fake:getPeer() -- luacheck: no self
  return PEER
end

function Fake:getHost() -- luacheck: no self
  return OWN
end

-- A factory whose protocols note what they are told, in `log`; `more` are methods of them besides.
local function recording(more)
  local log = {}
  local Recorder = protocol.Protocol {
    connectionMade = function(self)
      local at = self.transport
      log[#log + 1] = ("made %s %s"):format(tostring(at:getPeer()), tostring(at:getHost()))
    end,
    dataReceived = function(_, data)
      log.data = (log.data or "") .. data
    end,
    connectionLost = function(_, reason)
      log[#log + 1] = "lost " .. tostring(reason)
    end,
  }
  for name, f in pairs(more or {}) do
    Recorder[name] = f
  end
  local factory = protocol.Factory {
    protocol = Recorder,
    buildProtocol = function(self, addr)
      log[#log + 1] = "build " .. tostring(addr)
      return protocol.Factory.buildProtocol(self, addr)
    end,
  }
  return factory:new(), log
end

-- A connected wrapper: it, its transport, its factory.
local function connect(inner, clock)
  local factory = haproxy.HAProxyWrappingFactory:new(inner)
  factory.clock = clock
  local wrapper, transport = factory:buildProtocol(PEER), newFake()
  wrapper:makeConnection(transport)
  return wrapper, transport, factory
end

local LONG = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"

-- Good headers: who is told to have connected, and to what; none: the connection's own.
local good = {
  ["the line of the specification"] = {
    "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "tcp:192.168.0.1:56324", "tcp:192.168.0.11:443" },
  ["the longest line of TCP4"] = {
    "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "tcp:255.255.255.255:65535",
    "tcp:255.255.255.255:65535" },
  ["the shortest line of TCP4"] = { "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "tcp:0.0.0.0:0", "tcp:0.0.0.0:0" },
  ["the longest line of TCP6"] = {
    "PROXY TCP6 " .. ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "):rep(2) .. "65535 65535\r\n",
    "tcp:[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "tcp:[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535" },
  ["a short line of TCP6"] = { "PROXY TCP6 ::1 :: 1 2\r\n", "tcp:[::1]:1", "tcp:[::]:2" },
  ["TCP6 in capitals and with zeros"] = {
    "PROXY TCP6 2001:0DB8:0:0:0:0:0:0001 ::FFFF:1.2.3.4 1 2\r\n", "tcp:[2001:db8::1]:1", "tcp:[::ffff:1.2.3.4]:2" },
  ["the short line of UNKNOWN"] = { "PROXY UNKNOWN\r\n" },
  ["the longest line of UNKNOWN"] = { LONG },
  ["UNKNOWN with anything, a lone CR and LF too"] = { "PROXY UNKNOWN a\rb\nc \0\255\r\r\n" },
  ["TCP over IPv4"] = {
    binary(0x21, 0x11, hex "C0A80001 C0A8000B DC04 01BB"), "tcp:192.168.0.1:56324", "tcp:192.168.0.11:443" },
  ["UDP over IPv4"] = {
    binary(0x21, 0x12, hex "7F000001 7F000002 1F90 22B8"), "udp:127.0.0.1:8080", "udp:127.0.0.2:8888" },
  ["TCP over IPv6"] = {
    binary(0x21, 0x21, hex "20010DB8000000000000000000000001 00000000000000000000000000000002 1F90 22B8"),
    "tcp:[2001:db8::1]:8080", "tcp:[::2]:8888" },
  ["UDP over IPv6"] = {
    binary(0x21, 0x22, hex "FE800000000000000001000000000001 00000000000000000000FFFF01020304 0001 FFFF"),
    "udp:[fe80::1:0:0:1]:1", "udp:[::ffff:1.2.3.4]:65535" },
  ["a UNIX stream"] = {
    binary(0x21, 0x31, path "/run/a.sock" .. path "/run/b.sock"), "unix:/run/a.sock", "unix:/run/b.sock" },
  ["UNIX datagrams, of a name in the abstract namespace, and none"] = {
    binary(0x21, 0x32, path "\0name" .. path ""), "unix:\0name", "unix:" },
  ["UNIX paths without a NUL"] = {
    binary(0x21, 0x31, ("a"):rep(108) .. ("b"):rep(108)), "unix:" .. ("a"):rep(108), "unix:" .. ("b"):rep(108) },
  ["LOCAL"] = { binary(0x20, 0x00, "") },
  ["LOCAL with a family, which is ignored"] = { binary(0x20, 0x11, hex "C0A80001 C0A8000B DC04 01BB") },
  ["LOCAL with a family that there is not"] = { binary(0x20, 0xFF, "xyz") },
  ["PROXY of UNSPEC"] = { binary(0x21, 0x00, "") },
  ["PROXY of UNSPEC with something"] = { binary(0x21, 0x00, "anything") },
  ["an unspecified family of streams"] = { binary(0x21, 0x01, hex "C0A80001 C0A8000B DC04 01BB") },
  ["IPv4 of an unspecified protocol"] = { binary(0x21, 0x10, hex "C0A80001 C0A8000B DC04 01BB") },
  ["IPv6 of an unspecified protocol"] = { binary(0x21, 0x20, "") },
  ["TLVs behind IPv4"] = {
    binary(0x21, 0x11, hex "C0A80001 C0A8000B DC04 01BB" .. "\1\0\2h2\4\0\0\48\0\3net"), "tcp:192.168.0.1:56324",
    "tcp:192.168.0.11:443" },
  ["TLVs that are none"] = {
    binary(0x21, 0x11, hex "C0A80001 C0A8000B DC04 01BB" .. "\1\255\255h2"), "tcp:192.168.0.1:56324",
    "tcp:192.168.0.11:443" },
}

-- Bad headers; the last byte of each is the first one that cannot be.
local bad = {
  "x", "G", "p", "PROXy", "PROXY\t", "PROXY  ", "PROXY\r", "PROXY TCP5", "PROXY TCP4\r", "PROXY TCP44", "PROXY TCP4  ",
  "PROXY t", "PROXY UD", "PROXY UNKNOWNS", "PROXY UNKNOWN\n", "PROXY UNKNOWN\rx", "PROXY UNKNOWN\r\r", "PROXY UNKNOWN\0",
  "PROXY TCP4 256", "PROXY TCP4 01", "PROXY TCP4 1..", "PROXY TCP4 .", "PROXY TCP4 1.2.3.4.", "PROXY TCP4 1.2.3 ",
  "PROXY TCP4 -", "PROXY TCP4 +", "PROXY TCP4 1.2.3.4\r", "PROXY TCP4 1.2.3.4  ", "PROXY TCP4 1.2.3.4 1.2.3.4 01",
  "PROXY TCP4 0x", "PROXY TCP4 :", "PROXY TCP4 a", "PROXY TCP4 1.2.3.4 1.2.3.4 65536", "PROXY TCP4 1.2.3.4 1.2.3.4 -",
  "PROXY TCP4 1.2.3.4 1.2.3.4 1 +", "PROXY TCP4 1.2.3.4 1.2.3.4 1 00", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
  "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx", "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r",
  "PROXY TCP4 1.2.3.4 1.2.3.4 123456", "PROXY TCP4 1.2.3.4 1.2.3.4 1.", "PROXY TCP6 1.", "PROXY TCP6 12345",
  "PROXY TCP6 g", "PROXY TCP6 :1", "PROXY TCP6 ::1::", "PROXY TCP6 :::", "PROXY TCP6 1:2:3:4:5:6:7:8:", "PROXY TCP6 1:2 ",
  "PROXY TCP6 1:2:3:4:5:6:7 ", "PROXY TCP6 ::1:2:3:4:5:6:7:", "PROXY TCP6 [", "PROXY TCP6 ::1%", "PROXY TCP6 ::256.",
  "PROXY TCP6 ::1.2.3.4:", "PROXY TCP6 ::1.2.3 ", "PROXY TCP6 1: ", "PROXY TCP6 ::1 1.", LONG:sub(1, 105) .. "x",
  "PROXY UNKNOWN " .. ("x"):rep(92), "PROXY UNKNOWN " .. ("x"):rep(91) .. "\rx",
  "\13\13", "\n", "\13\10\13\10\13", SIGNATURE:sub(1, 11) .. "\13", SIGNATURE .. "\17", SIGNATURE .. "\1",
  SIGNATURE .. "\34", SIGNATURE .. "\47", SIGNATURE .. "\49", SIGNATURE .. "\33\64", SIGNATURE .. "\33\241",
  SIGNATURE .. "\33\19", SIGNATURE .. "\33\3", SIGNATURE .. "\33\31", SIGNATURE .. "\33\17\0\11", SIGNATURE .. "\33\18\0\0",
  SIGNATURE .. "\33\33\0\35", SIGNATURE .. "\33\49\0\215",
  binary(0x21, 0x11, hex "C0A80001 C0A8000B DC04 01BB 03 0004 00000000"), -- a checksum that is not right
  binary(0x21, 0x11, hex "C0A80001 C0A8000B DC04 01BB 03 0003 000000"), -- and one that is too short
}

-- Feeds the pieces; what the protocol was told.
local function told(pieces)
  local inner, log = recording()
  local wrapper, transport = connect(inner)
  for _, piece in ipairs(pieces) do
    if #piece > 0 then
      wrapper:dataReceived(piece)
    end
  end
  return { log = log, closed = transport.disconnecting, written = transport.written }
end

local function byBytes(s)
  local pieces = {}
  for i = 1, #s do
    pieces[i] = s:sub(i, i)
  end
  return pieces
end

describe("a header of the PROXY protocol", function()
  for name, case in pairs(good) do
    it("is read wherever it is cut: " .. name, function()
      local source, destination = case[2] or tostring(PEER), case[3] or tostring(OWN)
      local expected = {
        log = { "build " .. source, ("made %s %s"):format(source, destination), data = "GET /" },
        closed = false,
        written = "",
      }
      local stream = case[1] .. "GET /"
      for at = 0, #stream do
        assert.same(expected, told { stream:sub(1, at), stream:sub(at + 1) })
      end
      assert.same(expected, told(byBytes(stream)))
    end)
  end

  it("is refused at its first byte that cannot be, and nothing of it is delivered, nor what follows", function()
    local nothing = { log = {}, closed = true, written = "" }
    for _, text in ipairs(bad) do
      local waits = told(byBytes(text:sub(1, -2)))
      assert.same({ {}, false }, { waits.log, waits.closed }, text)
      assert.same(nothing, told(byBytes(text)), text)
      for at = 0, #text do
        assert.same(nothing, told { text:sub(1, at), text:sub(at + 1), "PROXY UNKNOWN\r\n", "x" }, text)
      end
    end
  end)

  it("is refused where it is longer than the factory takes", function()
    for most, closed in pairs { [36] = false, [35] = true } do
      local factory = haproxy.HAProxyWrappingFactory { maxHeader = most }:new((recording()))
      local wrapper, transport = factory:buildProtocol(PEER), newFake()
      wrapper:makeConnection(transport)
      wrapper:dataReceived(binary(0x20, 0, ("x"):rep(20)))
      assert.equal(closed, transport.disconnecting)
    end
  end)

  it("of the greatest length is read byte by byte", function()
    local reader = proxyheader.reader()
    local text = binary(0x21, 0, ("x"):rep(65535))
    for i = 1, #text - 1 do
      assert.is_nil((reader:feed(text:sub(i, i))))
    end
    assert.equal(65550, reader.held)
    local found, rest = reader:feed(text:sub(-1) .. "more")
    assert.same({ "PROXY", "more", 0 }, { found.command, rest, reader.held })
  end)

  it("of a line holds no more than 107 bytes", function()
    local reader = proxyheader.reader()
    assert.is_nil((reader:feed "PROXY UNKNOWN "))
    local found, problem = reader:feed(("x"):rep(60000))
    assert.same({ false, "the line is longer than 107 bytes", 14 }, { found, problem, reader.held })
  end)

  it("gives its TLVs by their types, the first of each", function()
    local wrapper = connect((recording()))
    wrapper:dataReceived(binary(0x21, 0x11, ("\0"):rep(12) .. "\1\0\2h2\4\0\0\1\0\2h3"))
    assert.same({ [1] = "h2", [4] = "" }, wrapper.tlvs)
  end)

  it("has no TLVs where what stands behind the addresses is no list of them", function()
    for _, text in ipairs { "\1", "\1\0", "\1\0\1", "\1\0\0\1\0\2x" } do
      local wrapper = connect((recording()))
      wrapper:dataReceived(binary(0x21, 0x11, ("\0"):rep(12) .. text))
      assert.is_nil(wrapper.tlvs)
      assert.is_table(wrapper.wrappedProtocol)
    end
  end)

  it("has its checksum verified", function()
    -- CRC32C of "123456789", as it is published
    assert.equal(hex "E3069283", proxyheader.checksum "123456789")
    local text = haproxy.header { version = 2, source = PEER, destination = OWN, tlvs = { [1] = "h2" }, checksum = true }
    for i = 17, 28 do -- an address or a port that is not the one that was sent
      local reader = proxyheader.reader()
      local changed = text:sub(1, i - 1) .. string.char((text:byte(i) + 1) % 256) .. text:sub(i + 1)
      assert.same({ false, "the checksum is wrong" }, { reader:feed(changed) })
    end
    assert.equal("h2", proxyheader.reader():feed(text).tlvs[1])
  end)

  it("survives mutation", function()
    local counts = fuzz.run(20000, 7)
    assert.truthy(counts.taken > 2000 and counts.refused > 2000 and counts.waits > 200)
  end)
end)

describe("HAProxyWrappingFactory", function()
  it("gives the connection's own addresses before the header", function()
    local wrapper = connect((recording()))
    assert.equal(PEER, wrapper:getPeer())
    assert.equal(OWN, wrapper:getHost())
  end)

  it("refuses in order where the wrapped factory builds nothing, and delivers nothing", function()
    local wrapper, transport, factory = connect(protocol.Factory { buildProtocol = function() end })
    wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
    assert.is_true(transport.disconnecting)
    wrapper:dataReceived "more"
    wrapper:connectionLost "why"
    assert.is_nil(next(factory.protocols))
  end)

  it("stands around other wrappers, and within them", function()
    for _, order in ipairs { "outside", "inside" } do
      local inner, log = recording {
        readConnectionLost = function() end,
      }
      local factory
      if order == "outside" then
        factory = haproxy.HAProxyWrappingFactory:new(wrapping.WrappingFactory:new(inner))
      else
        factory = wrapping.WrappingFactory:new(haproxy.HAProxyWrappingFactory:new(inner))
      end
      local outer = factory:buildProtocol(PEER)
      outer:makeConnection(newFake())
      assert.is_nil(outer.readConnectionLost)
      outer:dataReceived "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET /"
      assert.is_function(outer.readConnectionLost)
      outer:connectionLost "why"
      assert.same({ "build tcp:1.1.1.1:1", "made tcp:1.1.1.1:1 tcp:2.2.2.2:2", "lost why", data = "GET /" }, log)
    end
  end)

  it("has each() of the wrapped factory leave out those whose header is to come", function()
    local inner = recording()
    local factory = haproxy.HAProxyWrappingFactory:new(inner)
    local made = {}
    for i = 1, 8 do
      local wrapper = factory:buildProtocol(PEER)
      wrapper:makeConnection(newFake())
      if i % 2 == 0 then
        wrapper:dataReceived "PROXY UNKNOWN\r\n"
        made[wrapper.wrappedProtocol] = true
      end
    end
    local found = {}
    for one in inner:each() do
      found[one] = true
    end
    assert.same(made, found)
    assert.equal(8, inner:connectionCount())
  end)

  it("fails the connection where an override raises at the end of the time", function()
    local clock = task.Clock:new()
    local factory = haproxy.HAProxyWrappingFactory { clock = clock }:new((recording()))
    factory.protocol = haproxy.HAProxyProtocolWrapper {
      headerRefused = function()
        error "refused badly"
      end,
    }
    local wrapper, transport = factory:buildProtocol(PEER), newFake()
    function transport:fail(text)
      self.failed = text
    end
    wrapper:makeConnection(transport)
    clock:advance(10)
    assert.matches("refused badly", transport.failed)
  end)

  it("lets an error of buildProtocol and of connectionMade up, and delivers nothing then", function()
    local log = {}
    local function fail()
      error("no", 0)
    end
    for _, definition in ipairs {
      { buildProtocol = fail },
      { protocol = { connectionMade = fail, dataReceived = function(_, data) log[#log + 1] = data end } },
    } do
      local wrapper = connect(definition)
      assert.has_error(function()
        wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
      end, "no")
    end
    assert.same({}, log)
  end)

  it("tells no protocol of a connection that ends before its header", function()
    local inner, log = recording()
    local wrapper, _, factory = connect(inner)
    wrapper:dataReceived "PROXY "
    assert.is_true(factory.protocols[wrapper])
    wrapper:connectionLost "why"
    assert.same({}, log)
    assert.is_nil(next(factory.protocols))
  end)

  it("tells the protocol of the end once", function()
    local inner, log = recording()
    local wrapper = connect(inner)
    wrapper:dataReceived "PROXY UNKNOWN\r\n"
    wrapper:connectionLost "why"
    assert.equal("lost why", log[3])
  end)

  it("delivers nothing that came with the header to a protocol that closes as it is connected", function()
    local inner, log = recording {
      connectionMade = function(self)
        self.transport:loseConnection()
      end,
    }
    connect(inner):dataReceived "PROXY UNKNOWN\r\nGET /"
    assert.is_nil(log.data)
  end)

  it("holds what came with the header while the protocol has paused, and delivers it once, in order", function()
    local inner, log = recording {
      connectionMade = function(self)
        self.transport:pauseProducing()
      end,
    }
    local wrapper, transport = connect(inner)
    wrapper:dataReceived "PROXY UNKNOWN\r\none "
    assert.is_true(transport.paused)
    wrapper:dataReceived "two " -- a transport that does not stop at once
    assert.is_nil(log.data)
    wrapper:resumeProducing()
    assert.same({ "one two ", false }, { log.data, transport.paused })
    wrapper:dataReceived "three"
    wrapper:pauseProducing()
    wrapper:resumeProducing()
    assert.equal("one two three", log.data)
  end)

  it("delivers after connectionMade what a protocol has resumed within it", function()
    local order = {}
    local wrapper = connect {
      protocol = {
        connectionMade = function(self)
          self.transport:pauseProducing()
          self.transport:resumeProducing()
          order[1] = "made"
        end,
        dataReceived = function(_, data)
          order[#order + 1] = data
        end,
      },
    }
    wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
    assert.same({ "made", "GET /" }, order)
  end)

  it("ends the connection by the transport's fail where what was held raises as somebody resumes", function()
    local wrapper, transport = connect {
      protocol = {
        connectionMade = function(self)
          self.transport:pauseProducing()
        end,
        dataReceived = function()
          error "bad data"
        end,
      },
    }
    wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
    assert.has_error(function()
      wrapper:resumeProducing()
    end)
    function transport:fail(text)
      self.failed = text
    end
    wrapper, transport = wrapper.factory:buildProtocol(PEER), transport
    wrapper:makeConnection(transport)
    wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
    wrapper:resumeProducing()
    assert.matches("bad data", transport.failed)
  end)

  it("keeps what is held for the protocol where a pipe's sink has ended", function()
    local testing = require "skald.testing"
    local _, sink = testing.attach(protocol.Protocol:new())
    local App, heard = protocol.Protocol {}, {}
    function App:connectionMade()
      sink:loseConnection()
      self.transport:pipe(sink):addErrback(function(problem) heard[1] = problem.value.code end)
    end
    function App.dataReceived(_, data) heard[#heard + 1] = data end
    local factory = haproxy.HAProxyWrappingFactory:new(protocol.Factory { protocol = App }:new())
    local wrapper = testing.attach(factory)
    testing.feed(wrapper, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nearly")
    testing.feed(wrapper, "later")
    assert.same({ "EPIPE", "early", "later" }, heard)
  end)

  it("has what is held go before what is piped, and counts it", function()
    local wrapper, transport = connect {
      protocol = {
        connectionMade = function(self)
          self.transport:pauseProducing()
        end,
      },
    }
    local deferred = require "skald.deferred"
    local sink, through, count = newFake(), deferred.Deferred:new(), nil
    function transport.pipe(_, into)
      assert.equal(sink, into)
      return through
    end
    wrapper:dataReceived "PROXY UNKNOWN\r\nGET /"
    wrapper:pipe(sink):addCallback(function(n)
      count = n
    end)
    assert.equal("GET /", sink.written)
    through:callback(100)
    assert.equal(105, count)
  end)

  it("closes where the header does not come in time, and is timed no more when it has", function()
    local clock = task.Clock:new()
    local _, slow = connect((recording()), clock)
    local wrapper, quick = connect((recording()), clock)
    local ended = connect((recording()), clock)
    ended:connectionLost "why"
    clock:advance(9)
    wrapper:dataReceived "PROXY UNKNOWN\r\n"
    assert.is_false(slow.disconnecting)
    clock:advance(1)
    assert.same({ true, false }, { slow.disconnecting, quick.disconnecting })
    assert.equal(0, #clock:getDelayedCalls())
  end)

  it("takes its time from the factory's headerTimeout", function()
    local clock = task.Clock:new()
    local factory = haproxy.HAProxyWrappingFactory { headerTimeout = 2, clock = clock }:new((recording()))
    local wrapper, transport = factory:buildProtocol(PEER), newFake()
    wrapper:makeConnection(transport)
    clock:advance(2)
    assert.is_true(transport.disconnecting)
    wrapper:dataReceived "PROXY UNKNOWN\r\n"
    assert.is_nil(wrapper.wrappedProtocol)
  end)

  it("tells an override what is wrong with a header", function()
    local problem
    local factory = haproxy.HAProxyWrappingFactory:new((recording()))
    factory.protocol = haproxy.HAProxyProtocolWrapper {
      headerRefused = function(self, what)
        problem = what
        self.transport:loseConnection()
      end,
    }
    local wrapper = factory:buildProtocol(PEER)
    wrapper:makeConnection(newFake())
    wrapper:dataReceived "PROXY TCP4 1.2.3.4 300"
    assert.equal("the destination address is wrong", problem)
  end)
end)

describe("haproxy.header", function()
  local six = address.inet("TCP6", "2001:db8::1", 7)

  it("writes the lines of version 1", function()
    local function line(source, destination, command)
      return haproxy.header { version = 1, source = source, destination = destination, command = command }
    end
    assert.equal("PROXY TCP4 127.0.0.9 127.0.0.1 4000 80\r\n", line(PEER, OWN))
    assert.equal("PROXY TCP6 2001:db8::1 2001:db8::1 7 7\r\n", line(six, six))
    assert.equal("PROXY TCP6 fe80::1 ::1 7 8\r\n",
      line(address.inet("TCP6", "fe80::1%eth0", 7), address.inet("TCP6", "0:0::1", 8)))
    for _, at in ipairs { { PEER, six }, { PEER }, {}, { address.unix "/a", address.unix "/b" }, { PEER, OWN, "LOCAL" } } do
      assert.equal("PROXY UNKNOWN\r\n", line(unpack(at)))
    end
  end)

  it("writes the bytes of version 2", function()
    assert.equal(good["TCP over IPv4"][1], haproxy.header { version = 2,
      source = address.inet("TCP", "192.168.0.1", 56324), destination = address.inet("TCP", "192.168.0.11", 443) })
    assert.equal(good["a UNIX stream"][1], haproxy.header { version = 2,
      source = address.unix "/run/a.sock", destination = address.unix "/run/b.sock" })
    assert.equal(binary(0x20, 0, ""), haproxy.header { version = 2, command = "LOCAL", source = PEER, destination = OWN })
    assert.equal(binary(0x21, 0, "\1\0\2h2\5\0\1x"), haproxy.header { version = 2, tlvs = { [5] = "x", [1] = "h2" } })
  end)

  it("writes what is read again, of every type of address", function()
    for _, kind in ipairs { "TCP", "UDP", "TCP6", "UDP6" } do
      local host = kind:find "6" and "2001:db8::5" or "10.1.2.3"
      local source, destination = address.inet(kind, host, 1), address.inet(kind, host, 65535)
      local text = haproxy.header { version = 2, source = source, destination = destination, checksum = true }
      local found, rest = proxyheader.reader():feed(text)
      assert.same({ source, destination, "" }, { found.source, found.destination, rest })
    end
  end)

  it("raises what is wrong with its fields", function()
    for message, fields in pairs {
      ["header: version is 1 or 2, not 3"] = { version = 3 },
      ["header: version is 1 or 2, not nil"] = {},
      ['header: command is "PROXY" or "LOCAL", not proxy'] = { version = 2, command = "proxy" },
      ["header: knows no field 'src'"] = { version = 1, src = PEER },
      ["header: source is an address"] = { version = 1, source = "1.2.3.4" },
      ["header: destination has no address of TCP, but 'name'"] = { version = 1, destination = address.inet("TCP", "name", 1) },
      ["header: source has no port from 0 to 65535, but 70000"] = { version = 1, source = address.inet("TCP", "1.2.3.4", 70000) },
      ["header: source has no path of 108 bytes"] = { version = 2, source = address.unix(("x"):rep(109)) },
      ["header: version 1 has neither tlvs nor a checksum"] = { version = 1, tlvs = {} },
      ["header: tlvs are strings by their types, numbers from 0 to 255"] = { version = 2, tlvs = { [256] = "" } },
      ["header: the tlvs are too long"] = { version = 2, tlvs = { [1] = ("x"):rep(65533) } },
    } do
      local ok, problem = pcall(haproxy.header, fields)
      assert.same({ false, message }, { ok, (tostring(problem):gsub("^[^:]+:%d+: ", "")) })
    end
  end)

  it("tells of a transport's peer and host, by forTransport", function()
    assert.equal("PROXY TCP4 127.0.0.9 127.0.0.1 4000 80\r\n", haproxy.forTransport(newFake()))
    local found = proxyheader.reader():feed(haproxy.forTransport(newFake(), 2))
    assert.same({ PEER, OWN }, { found.source, found.destination })
    assert.has_error(function()
      haproxy.forTransport(newFake(), 3)
    end, "forTransport: version is 1 or 2, not 3")
  end)
end)

describe("HAProxyClientFactory", function()
  local function sent(fields)
    local inner, log = recording {
      connectionMade = function(self)
        self.transport:write "hello"
      end,
    }
    local wrapper, transport = haproxy.HAProxyClientFactory:new(inner, fields):buildProtocol(OWN), newFake()
    wrapper:makeConnection(transport)
    wrapper:dataReceived "answer"
    assert.equal("answer", log.data)
    return transport.written
  end

  it("sends the header first: by default that of its own connection", function()
    assert.equal("PROXY TCP4 127.0.0.1 127.0.0.9 80 4000\r\nhello", sent())
    assert.equal("PROXY TCP4 127.0.0.9 127.0.0.1 4000 80\r\nhello", sent { source = PEER, destination = OWN })
    assert.equal(binary(0x20, 0, "") .. "hello", sent { version = 2, command = "LOCAL" })
  end)

  it("raises what is wrong with the header when it is made", function()
    assert.has_error(function()
      haproxy.HAProxyClientFactory:new({ protocol = {} }, { version = 7 })
    end, "HAProxyClientFactory: version is 1 or 2, not 7")
  end)

  it("passes a refusal through", function()
    assert.is_nil(haproxy.HAProxyClientFactory:new({ buildProtocol = function() end }):buildProtocol(OWN))
  end)
end)

describe("an address", function()
  it("comes back from its bytes as RFC 5952 writes it", function()
    for text, canonical in pairs {
      ["0:0:0:0:0:0:0:0"] = "::", ["1::0:0:0:0:0:8"] = "1::8", ["1:0:0:2:0:0:0:3"] = "1:0:0:2::3",
      ["0:0:1:0:0:1:0:0"] = "::1:0:0:1:0:0", ["1:2:3:4:5:6:7::"] = "1:2:3:4:5:6:7:0", ["::FFFF:255.0.0.1"] = "::ffff:255.0.0.1",
      ["ABCD::1.2.3.4"] = "abcd::102:304", ["10.0.0.1"] = "10.0.0.1", ["1:2:3:4:5:6:1.2.3.4"] = "1:2:3:4:5:6:102:304",
    } do
      assert.equal(canonical, inet.textOf(inet.bytesOf(text)))
    end
  end)

  it("of neither kind has no bytes", function()
    for _, text in ipairs { "", "1.2.3", "1.2.3.4.5", "01.2.3.4", ":", ":::", "1:", "1:2:3:4:5:6:7", "::1%lo", "[::1]", "x" } do
      assert.is_nil(inet.bytesOf(text))
    end
  end)
end)

describe("an endpoint haproxy:", function()
  it("has another one within", function()
    assert.same({ type = "haproxy", inner = { type = "tcp", port = 80, interface = "127.0.0.1" } },
      endpoints.parseServer "haproxy:tcp:80:interface=127.0.0.1")
    assert.same({ type = "haproxy", inner = { type = "tcp", port = 80, interface = "::1" } },
      endpoints.parseServer "haproxy:tcp:[::1]:80")
    assert.same({ type = "haproxy", inner = { type = "unix", path = "/run/x", mode = 438 } },
      endpoints.parseServer "haproxy:unix:/run/x")
  end)

  it("is refused with the column in the whole of it", function()
    for text, message in pairs {
      ["haproxy:tcp:99999"] = "column 13: a port is a number",
      ["haproxy:tcp"] = "column 12: a port is missing",
      ["haproxy:tpc:80"] = "column 9: 'tpc' is no kind of endpoint",
      ["haproxy:haproxy:tcp:80"] = "column 9: haproxy: does not stand within itself",
      ["haproxy"] = "column 8: an endpoint is missing behind haproxy:",
      ["haproxy:"] = "column 9: an endpoint is missing behind haproxy:",
      ["haproxy:udp:53"] = "column 9: haproxy: stands before connections",
      ["haproxy:tcp:80:trusted=1"] = "column 16: tcp knows no 'trusted'",
    } do
      local result, problem = endpoints.parseServer(text)
      assert.is_nil(result)
      assert.truthy(problem:find(message, 1, true), problem)
    end
  end)

  it("is none to connect to", function()
    assert.matches("column 1: haproxy: is an endpoint to listen on", select(2, endpoints.parseClient "haproxy:tcp:a:80"))
  end)
end)
