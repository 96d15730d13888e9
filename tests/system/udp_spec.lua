-- UDP ports: datagrams both ways, what is wrong with one of them, ends, groups, reloads.

local ffi = require "ffi"
local host = require "support.host"
local ports = require "support.ports"
local reload = require "support.reload"
local udp = require "support.udp"

local ECHO = [[
  local P = {}
  function P:datagramReceived(data, from) self.transport:write(data, from) end
  return { listen = "udp:127.0.0.1:0", protocol = P }
]]

-- The text of a service: its port runs commands[word](self, from, rest) for the first word of what comes.
local function commands(text, extra)
  return ([[
    local P, commands = {}, {}
    local function try(...) print(select(2, pcall(...))) end
    local function say(...) print(...) end
    function P:datagramReceived(data, from, truncated)
      local word, rest = data:match "^(%%w+) ?([^\n]*)"
      local command = commands[word] or error("no command " .. tostring(word))
      command(self, from, rest, truncated)
    end
    %s
    return { listen = "udp:127.0.0.1:0", protocol = P %s }
  ]]):format(text, extra and "," .. extra or "")
end

-- What was printed before the host listened.
local function before(h, pattern)
  local found = h:output():match("^" .. pattern .. "\n") or h:output():match("\n" .. pattern .. "\n")
  return found or error(h:story("no line " .. pattern), 2)
end

-- Sends while the host stands still, so that it finds them all at once.
local function sendAtOnce(h, peer, list)
  h:kill "STOP"
  for _, data in ipairs(list) do
    peer:send(data)
  end
  h:kill "CONT"
end

describe("a UDP port", function()
  after_each(host.cleanup)

  it("is announced, tells who sent what, and answers", function()
    local h = host.serve [[
      local P = {}
      function P:startProtocol() print("start", self.transport:getHost(), self.factory.name) end
      function P:stopProtocol() print "stop" end
      function P:datagramReceived(data, from, truncated)
        print(data, from.type, from.host, from.port, from, truncated)
        self.transport:write(data:upper(), from)
      end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]]
    assert.matches("^udp:127%.0%.0%.1:%d+$", h.endpoints[1].endpoint)
    assert.equal("script", h.endpoints[1].name)
    assert.equal(h.endpoints[1].endpoint, before(h, "start\t(%S+)\tscript"))
    local peer = udp.connect(h.port)
    assert.equal("HELLO", peer:ask "hello")
    local from = peer:localPort()
    h:line(("^hello\tUDP\t127%%.0%%.0%%.1\t%d\tudp:127%%.0%%.0%%.1:%d\tfalse$"):format(from, from))
    h:stop()
    assert.truthy(h:line "^stop$")
  end)

  it("keeps datagrams apart, whatever their size", function()
    local h = host.serve(ECHO, { "listen=udp:127.0.0.1:0:maxPacketSize=65535" })
    local peer = udp.connect(h.port)
    for _, size in ipairs { 0, 1, 2, 1000, 8192, 8193, 32768, 65507 } do
      local data = (string.char(size % 251)):rep(size)
      assert.is_true(data == peer:ask(data))
    end
    local list = {}
    for i = 1, 100 do
      list[i] = ("%03d"):format(i):rep(i % 7)
    end
    sendAtOnce(h, peer, list)
    for i = 1, 100 do
      assert.equal(list[i], peer:receive())
    end
  end)

  it("delivers an empty datagram, and says of a longer one than maxPacketSize that it is truncated", function()
    local h = host.serve([[
      local P = {}
      function P:datagramReceived(data, from, truncated) print(#data, data, truncated) end
      return { listen = "udp:127.0.0.1:0:maxPacketSize=5", protocol = P }
    ]])
    local peer = udp.connect(h.port)
    peer:send(""):send("12345"):send("123456"):send("")
    h:line "^0\t\tfalse$"
    h:line "^5\t12345\tfalse$"
    h:line "^5\t12345\ttrue$"
    h:line "^0\t\tfalse$"
  end)

  it("truncates at 8192 bytes unless asked otherwise", function()
    local h = host.serve [[
      local P = {}
      function P:datagramReceived(data, from, truncated) print(#data, truncated) end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]]
    udp.connect(h.port):send(("x"):rep(8192)):send(("x"):rep(8193))
    h:line "^8192\tfalse$"
    h:line "^8192\ttrue$"
  end)

  it("goes on after an error, which is logged with its traceback and the port", function()
    local text = commands [[
      function commands.boom() error "boom" end -- here
      function commands.echo(self, from, rest) self.transport:write(rest, from) end
    ]]
    local h = host.serve(text)
    local peer = udp.connect(h.port)
    sendAtOnce(h, peer, { "echo one", "boom", "echo two" })
    assert.equal("one", peer:receive())
    assert.equal("two", peer:receive())
    h:waitLog(("script%%.lua:%d: boom"):format(host.lineOf(text, "-- here")))
    h:waitLog "stack traceback:"
    h:waitLog(("on port %%d+ udp 127%%.0%%.0%%.1:%d"):format(h.port))
    assert.equal(1, h:logged ": boom")
  end)

  it("has no callbacks that it must have", function()
    local h = host.serve [[return { listen = "udp:127.0.0.1:0", protocol = {} }]]
    udp.connect(h.port):send "x"
    h:stop()
    assert.equal(0, h:logged "error")
  end)

  it("takes addresses as objects, and as an IP address with a port", function()
    local other = udp.bind()
    local h = host.serve(commands [[
      local kept
      function commands.keep(self, from) kept = from; self.transport:write("kept", from) end
      function commands.old(self) self.transport:write("to the old one", kept) end
      function commands.to(self, from, port) self.transport:write("by its port", "127.0.0.1", tonumber(port)) end
      function commands.changed(self, from, port)
        from.port = tonumber(port)
        self.transport:write("changed", from)
      end
    ]])
    local first, second = udp.connect(h.port), udp.connect(h.port)
    assert.equal("kept", first:ask "keep")
    second:send "old"
    assert.equal("to the old one", first:receive())
    second:send("to " .. other.port)
    assert.equal("by its port", (other:receive()))
    second:send("changed " .. other.port)
    assert.equal("changed", (other:receive()))
  end)

  it("gives each datagram an address of its own", function()
    local h = host.serve(commands [[
      local kept
      function commands.one(self, from) kept = from; from.port = 1; from.host = "spoiled" end
      function commands.two(self, from) print(from, rawequal(from, kept)); self.transport:write("two", from) end
    ]])
    local peer = udp.connect(h.port)
    peer:send "one"
    assert.equal("two", peer:ask "two")
    h:line(("^udp:127%%.0%%.0%%.1:%d\tfalse$"):format(peer:localPort()))
  end)

  it("tells senders of many addresses from each other", function()
    local h = host.serve [[
      local P = {}
      function P:datagramReceived(data, from) self.transport:write(data .. " " .. from.host, from) end
      return { listen = "udp:0.0.0.0:0", protocol = P }
    ]]
    for i = 1, 600 do
      local address = ("127.%d.%d.1"):format(i % 3, i % 200 + 1)
      local peer = udp.bind(address)
      peer:send("from", "127.0.0.1", h.port)
      assert.equal("from " .. address, (peer:receive()))
      peer:close()
    end
  end)

  it("answers nil, a message and a code for what it does not take", function()
    local h = host.serve(commands [[
      function commands.go(self, from)
        print("long", self.transport:write(("x"):rep(65508), from))
        print("longer", self.transport:write(("x"):rep(70000), "127.0.0.1", 9))
        print("six", self.transport:write("x", "::1", 9))
        print("fine", self.transport:write("x", from))
      end
    ]])
    assert.equal("x", udp.connect(h.port):ask "go")
    h:line "^long\tnil\tMessage too long\tEMSGSIZE$"
    h:line "^longer\tnil\tMessage too long\tEMSGSIZE$"
    h:line "^six\tnil\tAddress family not supported by protocol\tEAFNOSUPPORT$"
    h:line "^fine\ttrue$"
  end)

  it("raises at the caller's line what is no use", function()
    local text = commands [[
      function commands.go(self, from)
        local t = self.transport
        try(function() t:write(12, from) end) -- number
        try(function() t:write("x") end) -- nowhere
        try(function() t:write("x", "localhost", 9) end) -- name
        try(function() t:write("x", "127.0.0.1") end) -- no port
        try(function() t:write("x", { host = "127.0.0.1", port = 0 }) end) -- port 0
        try(function() t:write("x", 9) end) -- a number
        try(function() t:connect("localhost", 9) end) -- connect
        try(function() t:joinGroup("group") end) -- group
        try(function() t:setTTL(256) end) -- ttl
        try(function() t:setOutgoingInterface() end) -- interface
        t:write("done", from)
      end
    ]]
    local h = host.serve(text)
    assert.equal("done", udp.connect(h.port):ask "go")
    for _, case in ipairs {
      { "-- number", "write takes a string, not a number" },
      { "-- nowhere", "write takes an address: the port is not connected" },
      { "-- name", "write takes an IP address, not localhost (reactor.resolve looks names up)" },
      { "-- no port", "write takes a port from 1 to 65535, not nil" },
      { "-- port 0", "write takes a port from 1 to 65535, not 0" },
      { "-- a number", "write takes an IP address, not 9 (reactor.resolve looks names up)" },
      { "-- connect", "connect takes an IP address, not localhost (reactor.resolve looks names up)" },
      { "-- group", "joinGroup takes the IP address of a group, not group" },
      { "-- ttl", "setTTL takes a number from 0 to 255, not 256" },
      { "-- interface", "setOutgoingInterface takes an interface's name or address, not a nil" },
    } do
      local expected = ("script.lua:%d: %s"):format(host.lineOf(text, case[1]), case[2])
      assert.equal(expected, h:line("^(.*)$"):sub(-#expected))
    end
  end)

  it("goes on, and says so once, when datagrams cannot be sent", function()
    local h = host.serve(commands [[
      function commands.go(self, from)
        for i = 1, 100 do self.transport:write("x", "127.255.255.255", 9) end
        self.transport:write("after", from)
      end
    ]])
    local peer = udp.connect(h.port)
    assert.equal("after", peer:ask "go")
    assert.equal("after", peer:ask "go")
    h:waitLog "warning a datagram was not sent: Permission denied %(EACCES%) on port"
    assert.equal(1, h:logged "EACCES")
  end)

  it("sends to broadcast addresses where that is allowed", function()
    local all = udp.bind("0.0.0.0")
    local h = host.serve(commands [[
      function commands.go(self, from, port)
        self.transport:setBroadcastAllowed(true)
        self.transport:write("to all", "127.255.255.255", tonumber(port))
      end
    ]])
    udp.connect(h.port):send("go " .. all.port)
    assert.equal("to all", (all:receive()))
    local given = host.serve(commands([[
      function commands.go(self, from, port) self.transport:write("to all", "127.255.255.255", tonumber(port)) end
    ]]), { "listen=udp:127.0.0.1:0:broadcast=yes" })
    udp.connect(given.port):send("go " .. all.port)
    assert.equal("to all", (all:receive()))
  end)

  it("takes no more than its share of a turn", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P, count = {}, 0
      function P:datagramReceived()
        count = count + 1
        if count == 1 then
          reactor.callLater(0, function() print("between", count) end)
        elseif count == 200 then
          print "all"
        end
      end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]]
    local list = {}
    for i = 1, 200 do
      list[i] = "x"
    end
    sendAtOnce(h, udp.connect(h.port), list)
    local between = tonumber((h:line "^between\t(%d+)$"))
    assert.is_true(between <= 128, between .. " before anybody else's turn")
    h:line "^all$"
  end)
end)

describe("a connected UDP port", function()
  after_each(host.cleanup)

  it("writes without an address, and hears of its peer alone", function()
    local peer, stranger = udp.bind(), udp.bind()
    local h = host.serve(([[
      local reactor = require "skald.reactor"
      local P = require("skald.protocol").DatagramProtocol {}
      function P:startProtocol()
        print("connect", self.transport:connect("127.0.0.1", %d))
        print("write", self.transport:write "hello")
        print("again", select(2, pcall(self.transport.connect, self.transport, "127.0.0.1", 9)))
        print("other", select(2, pcall(self.transport.write, self.transport, "x", "127.0.0.1", 9)))
      end
      function P:datagramReceived(data, from)
        print("data", data, from)
        self.transport:write("to an address", from)
        self.transport:write "to the peer"
      end
      reactor.listenUDP(0, P, { interface = "127.0.0.1" })
    ]]):format(peer.port))
    before(h, "connect\ttrue")
    before(h, "write\ttrue")
    before(h, "again\t[^\n]*connect: the port is connected already")
    before(h, "other\t[^\n]*write: the port is connected to another address")
    local port = h.port
    local data, from, fromPort = peer:receive()
    assert.same({ "hello", "127.0.0.1", port }, { data, from, fromPort })
    stranger:send("not for you", "127.0.0.1", port)
    peer:send("answer", "127.0.0.1", port)
    h:line(("^data\tanswer\tudp:127%%.0%%.0%%.1:%d$"):format(peer.port))
    assert.equal("to an address", (peer:receive()))
    assert.equal("to the peer", (peer:receive()))
  end)

  it("hears that nobody listens there, and goes on", function()
    local port = ports.udp()
    local h = host.serve(([[
      local reactor = require "skald.reactor"
      local P, count = {}, 0
      function P:startProtocol()
        self.transport:connect("127.0.0.1", %d)
        self.transport:write "anybody?"
      end
      function P:connectionRefused()
        count = count + 1
        print("refused", count)
        if count < 3 then self.transport:write "anybody?" end
      end
      function P:datagramReceived(data) print("data", data) end
      reactor.listenUDP(0, P, { interface = "127.0.0.1" })
    ]]):format(port))
    for i = 1, 3 do
      h:line("^refused\t" .. i .. "$")
    end
    udp.bind("127.0.0.1", port):send("here I am", "127.0.0.1", h.port)
    h:line "^data\there I am$"
  end)
end)

describe("the end of a UDP port", function()
  after_each(host.cleanup)

  it("sends what was written, delivers nothing more, and is told once", function()
    local h = host.serve(commands [[
      function commands.stop(self, from)
        for i = 1, 200 do self.transport:write("answer " .. i, from) end
        local d = self.transport:stopListening()
        print("asked", self.transport:write("late", from))
        d:addCallback(function() print "closed"; self.transport:stopListening():addCallback(print, "again") end)
      end
      function commands.more() print "more" end
      function P:stopProtocol()
        print("stop", self.transport:getHost().port, self.transport:write("late", "127.0.0.1", 9))
      end
    ]])
    local peer = udp.connect(h.port)
    sendAtOnce(h, peer, { "stop", "more", "more" })
    for i = 1, 200 do
      assert.equal("answer " .. i, peer:receive())
    end
    assert.equal("asked\tnil\tclosing\tEPIPE", h:line "^(.*)$")
    assert.equal(("stop\t%d\tnil\tclosing\tEPIPE"):format(h.port), h:line "^(.*)$")
    assert.equal("closed", h:line "^(.*)$")
    h:stop()
    assert.is_nil(h:output():find("\nmore", 1, true))
    assert.equal(1, select(2, h:output():gsub("stop\t", "")))
  end)

  it("comes with the host's, after what was written in the same moment", function()
    local h = host.serve(commands [[
      function commands.go(self, from)
        for i = 1, 100 do self.transport:write("last " .. i, from) end
        require("skald.reactor").stop()
      end
      function P:stopProtocol() print "stop" end
    ]])
    local peer = udp.connect(h.port)
    peer:send "go"
    for i = 1, 100 do
      assert.equal("last " .. i, peer:receive())
    end
    h:line "^stop$"
    h:ends()
  end)

  it("frees the port for who binds it next, at once", function()
    local h = host.serve(commands [[
      local reactor = require "skald.reactor"
      function commands.go(self)
        local port = self.transport:getHost().port
        local Q = {}
        function Q:startProtocol() print("second", self.transport:getHost().port == port) end
        function Q:datagramReceived(data, from) self.transport:write("second", from) end
        print("taken", reactor.listenUDP(port, Q, { interface = "127.0.0.1" }))
        self.transport:stopListening()
        reactor.listenUDP(port, Q, { interface = "127.0.0.1" })
      end
      function P:stopProtocol() print "first" end
    ]])
    local peer = udp.connect(h.port)
    peer:send "go"
    h:line "^taken\tnil\tAddress already in use\tEADDRINUSE$"
    h:line "^second\ttrue$"
    h:line "^first$"
    assert.equal("second", peer:ask "x")
  end)

  it("ends what startProtocol has started, and no reload does", function()
    local text = [[
      local task = require "skald.task"
      local P = { version = @ }
      function P:tick() self.ticks = (self.ticks or 0) + 1 print("tick", self.version) end
      function P:startProtocol()
        self.loop = task.LoopingCall:new(function() self:tick() end)
        self.loop:start(0.01)
      end
      function P:stopProtocol() print("running", self.loop.running) end
      function P:datagramReceived()
        self.transport:stopListening():addCallback(function() print("ended", self.loop.running) end)
      end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]]
    local h = reload.serve(text)
    h:line "^tick\t1$"
    reload.commit(text)
    h:line "^tick\t2$"
    udp.connect(h.port):send "stop"
    h:line "^running\ttrue$"
    h:line "^ended\tfalse$"
  end)

  it("comes when its service is unloaded", function()
    local h = host.serve(commands [[
      local service = require "skald.service"
      function P:stopProtocol() print "stop" end
      service.onDispose(function() print "dispose" end)
    ]])
    assert.equal("unloaded", (reload.command { "unload", "script" }).result)
    assert.equal("stop", h:line "^(.*)$")
    assert.equal("dispose", h:line "^(.*)$")
    udp.bind("127.0.0.1", h.port)
  end)
end)

describe("UDP over IPv6", function()
  after_each(host.cleanup)

  it("answers, with addresses of the type UDP6", function()
    local h = host.serve([[
      local P = {}
      function P:datagramReceived(data, from)
        print(from.type, from.host, from, self.transport:getHost().type)
        self.transport:write(data, from)
        self.transport:write(data, from.host, from.port)
      end
      return { listen = "udp:[::1]:0", protocol = P }
    ]])
    assert.matches("^udp:%[::1%]:%d+$", h.endpoints[1].endpoint)
    local peer = udp.connect(h.port, "::1")
    assert.equal("six", peer:ask "six")
    assert.equal("six", peer:receive())
    h:line(("^UDP6\t::1\tudp:%%[::1%%]:%d\tUDP6$"):format(peer:localPort()))
  end)

  it("has its address in the log as it is written elsewhere", function()
    local h = host.serve([[
      local P = {}
      function P:datagramReceived() error "boom" end
      return { listen = "udp:[::1]:0", protocol = P }
    ]])
    udp.connect(h.port, "::1"):send "x"
    h:waitLog(("on port %%d+ udp %%[::1%%]:%d,"):format(h.port))
  end)

  it("takes IPv4 too where it is bound to all, and answers that", function()
    local h = host.serve([[
      local P = {}
      function P:datagramReceived(data, from)
        print(from)
        self.transport:write("quick", from)
        self.transport:write("by its text", from.host, from.port)
      end
      return { listen = "udp:[::]:0", protocol = P }
    ]])
    local peer = udp.connect(h.port)
    assert.equal("quick", peer:ask "four")
    assert.equal("by its text", peer:receive())
    h:line(("^udp:127%%.0%%.0%%.1:%d$"):format(peer:localPort()))
    assert.equal("quick", udp.connect(h.port, "::1"):ask "six")
  end)
end)

describe("multicast", function()
  after_each(host.cleanup)

  -- A group of this process's own: a port hears also of groups that another program has joined.
  local pid = ffi.C.getpid()
  local GROUP = ("239.255.%d.%d"):format(pid / 256 % 256, pid % 256)

  local MEMBER = [[
    local P, group, interface = {}, %q, %q
    function P:startProtocol() print("join", self.transport:joinGroup(group, interface)) end
    function P:datagramReceived(data, from)
      if data == "leave" then
        print("leave", self.transport:leaveGroup(group, interface))
        print("twice", self.transport:leaveGroup(group, interface))
      elseif data == "spread" then
        local t = self.transport
        print("set", t:setOutgoingInterface(interface), t:setTTL(1), t:setLoopbackMode(true))
        t:write("to the group", group, t:getHost().port)
      elseif data == "alone" then
        self.transport:setLoopbackMode(false)
        self.transport:write("unheard", group, self.transport:getHost().port)
        self.transport:write("heard", from)
      else
        print("data", data)
      end
    end
    return { listen = %q, protocol = P }
  ]]

  it("comes while the group is joined", function()
    local h = host.serve(MEMBER:format(GROUP, "127.0.0.1", "udp:0"))
    before(h, "join\ttrue")
    local peer = udp.connect(h.port)
    peer:send "spread"
    h:line "^set\ttrue\ttrue\ttrue$"
    h:line "^data\tto the group$"
    peer:send "leave"
    h:line "^leave\ttrue$"
    h:line "^twice\tnil\t.*\tEADDRNOTAVAIL$"
    peer:send "spread"
    peer:send "not in between"
    h:line "^set\t"
    assert.equal("data\tnot in between", h:line "^(.*)$")
  end)

  for _, endpoint in ipairs { "udp:127.0.0.1:0", "udp:[::1]:0" } do
    it("is set and asked for: " .. endpoint, function()
      local h = host.serve((commands([[
        function commands.go(self, from)
          local t = self.transport
          local function show() say("are", t:getTTL(), t:getLoopbackMode(), t:getOutgoingInterface(), t:getBroadcastAllowed()) end
          show()
          say("set", t:setTTL(7), t:setLoopbackMode(false), t:setOutgoingInterface "lo", t:setBroadcastAllowed(true))
          show()
          t:setOutgoingInterface "no-such-interface"
          show()
          t:stopListening()
          say("over", t:getTTL())
          say("over", t:getLoopbackMode())
          say("over", t:getBroadcastAllowed())
        end
      ]]):gsub("udp:127%.0%.0%.1:0", endpoint)))
      udp.connect(h.port, endpoint:match "%[(.-)%]"):send "go"
      assert.equal("1\ttrue\t\tfalse", h:line "^are\t(.*)")
      assert.equal("true\ttrue\ttrue\ttrue", h:line "^set\t(.*)")
      assert.equal("7\tfalse\tlo\ttrue", h:line "^are\t(.*)")
      assert.equal("7\tfalse\tlo\ttrue", h:line "^are\t(.*)")
      for _ = 1, 3 do
        assert.equal("nil\tclosing\tEPIPE", h:line "^over\t(.*)")
      end
    end)
  end

  -- The loopback interface has no route for groups of IPv6: nothing can be sent to one there.
  it("has groups of IPv6 as well, joined and left by interface", function()
    local h = host.serve(MEMBER:format("ff01::707", "lo", "udp:[::]:0"))
    before(h, "join\ttrue")
    local groups = io.open("/proc/net/igmp6"):read "*a"
    assert.truthy(groups:find "lo%s+ff010000000000000000000000000707")
    local peer = udp.connect(h.port, "::1")
    peer:send "spread"
    h:line "^set\ttrue\ttrue\ttrue$"
    peer:send "leave"
    h:line "^leave\ttrue$"
    h:line "^twice\tnil\t.*\tEADDRNOTAVAIL$"
    peer:send "on"
    h:line "^data\ton$"
  end)

  it("does not come back to its own machine where that is turned off", function()
    local h = host.serve(MEMBER:format(GROUP, "127.0.0.1", "udp:0"))
    before(h, "join\ttrue")
    local peer = udp.connect(h.port)
    assert.equal("heard", peer:ask "alone")
    peer:send "later"
    assert.equal("data\tlater", h:line "^(.*)$")
  end)

  it("says why a group cannot be joined", function()
    local h = host.serve(commands [[
      function commands.go(self)
        print(self.transport:joinGroup("239.255.7.7", "no-such-interface"))
        print(self.transport:joinGroup("239.255.7.7", "192.0.2.77"))
        print(self.transport:joinGroup("127.0.0.1", "127.0.0.1"))
        print(self.transport:joinGroup("ff01::707"))
        print(self.transport:setOutgoingInterface "no-such-interface")
      end
    ]])
    udp.connect(h.port):send "go"
    h:line "^nil\tNo such device\tENODEV$"
    h:line "^nil\tCannot assign requested address\tEADDRNOTAVAIL$"
    h:line "^nil\tInvalid argument\tEINVAL$"
    h:line "^nil\t.*\tEAFNOSUPPORT$"
    h:line "^nil\tNo such device\tENODEV$"
  end)

  it("lets several ports have the same address where all say so", function()
    local text = ([[
      local P = {}
      function P:startProtocol() self.transport:joinGroup(%q, "127.0.0.1") end
      function P:datagramReceived(data) print("data", data) end
      return { listen = "udp:0:reuse=yes", protocol = P }
    ]]):format(GROUP)
    local first = host.serve(text)
    local second = host.serve(text, { "listen=udp:" .. first.port .. ":reuse=yes" })
    local sender = udp.bind()
    sender.socket:setoption("ip-multicast-if", "127.0.0.1")
    sender:send("both", GROUP, first.port)
    first:line "^data\tboth$"
    second:line "^data\tboth$"
    local status, _, log = host.command { "run", host.script(text, "third.lua"), "listen=udp:" .. first.port }
    assert.equal(1, status)
    assert.truthy(log:find("in use", 1, true), log)
  end)
end)

describe("reactor.listenUDP", function()
  after_each(host.cleanup)

  it("takes an instance, a class or a table, and gives a port", function()
    local h = host.serve([[
      local reactor = require "skald.reactor"
      local DatagramProtocol = require("skald.protocol").DatagramProtocol
      local opts = { interface = "127.0.0.1" }
      local Named = DatagramProtocol { name = "class" }
      function Named:init(name) self.name = name end
      local function answer(self, data, from) self.transport:write(self.name, from) end
      Named.datagramReceived = answer
      local ports = {
        reactor.listenUDP(0, Named:new "instance", opts),
        reactor.listenUDP(0, DatagramProtocol { name = "class", datagramReceived = answer }, opts),
        reactor.listenUDP(0, { name = "table", datagramReceived = answer }, opts),
        reactor:listenUDP(0, { name = "colon", datagramReceived = answer }, opts),
      }
      for _, port in ipairs(ports) do print("port", port:getHost().port) end
      function Named:stopProtocol() print("stopped", self.name) end
      reactor.callWhenRunning(function()
        ports[1]:stopListening():addCallback(function() print "closed" end)
      end)
    ]], { listening = 4 })
    h:line "^stopped\tinstance$"
    h:line "^closed$"
    for i, name in ipairs { "instance", "class", "table", "colon" } do
      local port = h.endpoints[i].port
      before(h, "port\t" .. port)
      assert.equal(name, i == 1 and name or udp.connect(port):ask "x")
    end
  end)

  it("raises at the caller's line what is no use", function()
    local text = [[
      local reactor = require "skald.reactor"
      local protocol = require "skald.protocol"
      local function try(f) print(select(2, pcall(f))) end
      try(function() reactor.listenUDP("9", {}) end) -- text
      try(function() reactor.listenUDP(70000, {}) end) -- port
      try(function() reactor.listenUDP(0, "x") end) -- protocol
      try(function() reactor.listenUDP(0, protocol.Protocol {}) end) -- stream
      try(function() reactor.listenUDP(0, {}, { interface = "localhost" }) end) -- name
      try(function() reactor.listenUDP(0, {}, { maxPacketSize = 0 }) end) -- size
      try(function() reactor.listenUDP(0, {}, { backlog = 5 }) end) -- option
      local p = protocol.DatagramProtocol {}:new()
      reactor.callWhenRunning(function()
        reactor.listenUDP(0, p, { interface = "127.0.0.1" })
        try(function() reactor.listenUDP(0, p) end) -- twice
      end)
    ]]
    local h = host.serve(text, { listening = 0 })
    for _, case in ipairs {
      { "-- text", "listenUDP takes a port from 0 to 65535, not the string '9': tonumber makes a number of it" },
      { "-- port", "listenUDP takes a port from 0 to 65535, not 70000" },
      { "-- protocol", "listenUDP takes a DatagramProtocol, not a string" },
      { "-- stream", "listenUDP takes a DatagramProtocol" },
      { "-- name", "listenUDP: 'localhost' is no IP address" },
      { "-- size", "listenUDP: maxPacketSize is a number from 1 to 65535, not 0" },
      { "-- option", "listenUDP knows no option 'backlog'" },
      { "-- twice", "listenUDP: this protocol has a port already" },
    } do
      local expected = ("script.lua:%d: %s"):format(host.lineOf(text, case[1]), case[2])
      local line = h:line "^(.*script%.lua.*)$"
      assert.equal(expected, line:sub(-#expected))
    end
  end)

  it("raises what startProtocol raises while the host runs, and ends it when the script is loaded", function()
    local h = host.serve([[
      local reactor = require "skald.reactor"
      reactor.callWhenRunning(function()
        local P = {}
        function P:startProtocol() error "boom" end
        function P:stopProtocol() print "stopped" end
        print(pcall(reactor.listenUDP, 0, P, { interface = "127.0.0.1" }))
      end)
    ]], { listening = 0 })
    h:line "^stopped$"
    h:line "^false\t.*boom"
    local path = host.script([[
      local P = {}
      function P:startProtocol() error "boom" end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]], "bad.lua")
    local status, _, log = host.command { "run", path }
    assert.equal(1, status)
    assert.truthy(log:find("bad.lua:2: boom", 1, true), log)
  end)
end)

describe("a definition of a UDP port", function()
  after_each(host.cleanup)

  local function check(text)
    local status, out, log = host.command { "check", host.script(text) }
    return status, out .. log
  end

  it("is checked: slips, and protocols of the other kind", function()
    local cases = {
      { [[local P = {} function P:datagramRecieved() end return { listen = "udp:0", protocol = P }]],
        "script.lua:1: a protocol has no 'datagramRecieved': is 'datagramReceived' meant?" },
      { [[return { listen = "udp:0", protocol = require("skald.protocol").Protocol {} }]],
        "a UDP port takes a DatagramProtocol" },
      { [[return { listen = "tcp:0", protocol = require("skald.protocol").DatagramProtocol {} }]],
        "a DatagramProtocol takes a UDP port, not 'tcp:0'" },
      { [[return { listen = { "udp:0", "tcp:0" }, protocol = {} }]], "UDP ports and connections take a definition each" },
      { [[return { listen = "udp:0:backlog=5", protocol = {} }]],
        "column 7: udp knows no 'backlog' (broadcast, interface, maxPacketSize, port, reuse)" },
    }
    for _, case in ipairs(cases) do
      local status, text = check(case[1])
      assert.equal(1, status)
      assert.truthy(text:find(case[2], 1, true), text)
    end
    local _, wrong = check [[return { listen = "udp:99999", protocol = require("skald.protocol").DatagramProtocol {} }]]
    assert.is_nil(wrong:find "takes a UDP port", wrong)
    assert.equal(0, (check [[return { listen = { "udp:0", "udp:[::1]:0" }, protocol = {} }]]))
    assert.equal(0, (check [[
      local reactor = require "skald.reactor"
      assert(tostring(reactor.listenUDP(5353, {}):getHost()) == "udp:0.0.0.0:5353")
      assert(tostring(reactor.listenUDP(5353, {}, { interface = "::1" }):getHost()) == "udp:[::1]:5353")
    ]]))
  end)

  it("makes a protocol for each of its ports, by buildProtocol, and starts and stops the factory once", function()
    local h = host.serve([[
      local protocol = require "skald.protocol"
      local P = protocol.DatagramProtocol {}
      function P:startProtocol() print("start", self.number, self.factory.built) end
      function P:datagramReceived(data, from) self.transport:write(tostring(self.number), from) end
      local F = protocol.Factory { listen = { "udp:127.0.0.1:0", "udp:127.0.0.1:0" }, protocol = P, built = 0 }
      function F:startFactory() print "startFactory" end
      function F:stopFactory() print "stopFactory" end
      function F:buildProtocol()
        self.built = self.built + 1
        local made = P:new()
        made.number, made.factory = self.built, self
        return made
      end
      return F
    ]], { listening = 2 })
    assert.equal("1", udp.connect(h.endpoints[1].port):ask "x")
    assert.equal("2", udp.connect(h.endpoints[2].port):ask "x")
    h:stop()
    local lines = {}
    for line in h:output():gmatch "(%a+)[^\n]*\n" do
      lines[#lines + 1] = line ~= "listening" and line or nil
    end
    assert.same({ "startFactory", "start", "start", "stopFactory" }, lines)
  end)

  it("whose factory makes no protocol for it fails to start", function()
    local path = host.script [[
      return { listen = "udp:127.0.0.1:0", protocol = {}, buildProtocol = function() end }
    ]]
    local status, _, log = host.command { "run", path }
    assert.equal(1, status)
    assert.truthy(log:find("a UDP port takes a factory of a DatagramProtocol", 1, true), log)
  end)
end)

describe("a reload of a UDP port", function()
  after_each(host.cleanup)

  local COUNTER = [[
    local P = {}
    function P:startProtocol() print("start @", self.transport ~= nil) end
    function P:stopProtocol() print "stop @" end
    function P:reloaded() print "reloaded @" end
    function P:datagramReceived(data, from)
      self.count = (self.count or 0) + 1
      self.factory.state.all = self.factory.state.all + 1
      local answer = ("@ %s %d %d"):format(data, self.count, self.factory.state.all)
      self.transport:write(answer, from)
    end
    return { listen = "udp:127.0.0.1:0", protocol = P, state = { all = 0 } }
  ]]

  it("keeps the socket, the instance and the state, and runs the new code", function()
    local h = reload.serve(COUNTER)
    local peer = udp.connect(h.port)
    assert.equal("1 a 1 1", peer:ask "a")
    local report = reload.commit(COUNTER)
    assert.same({ h.endpoints[1].endpoint }, report.endpoints.kept)
    assert.equal("2 b 2 2", peer:ask "b")
    reload.commit(COUNTER, 3)
    assert.equal("3 c 3 3", peer:ask "c")
    h:stop()
    local _, starts = h:output():gsub("start", "")
    assert.equal(1, starts)
    assert.truthy(h:output():find("reloaded 2\nreloaded 3\nstop 3", 1, true), h:output())
  end)

  it("loses no datagram that waits", function()
    local h = reload.serve(COUNTER)
    local peer = udp.connect(h.port)
    assert.equal("1 x 1 1", peer:ask "x")
    for n = 2, 10 do
      reload.rewrite(reload.version(COUNTER, n))
      local finish = reload.start()
      for i = 1, 20 do
        peer:send(("%d.%d"):format(n, i))
      end
      assert.equal("committed", finish().result)
      for i = 1, 20 do
        assert.matches(("^%%d+ %d%%.%d %d "):format(n, i, (n - 2) * 20 + i + 1), peer:receive())
      end
    end
  end)

  it("changes maxPacketSize and broadcast in place, and back where it is refused", function()
    local port = ports.udp()
    local text = ([[
      local P = {}
      function P:datagramReceived(data, from, truncated)
        self.transport:write(("%d %s"):format(#data, tostring(truncated)), from)
      end
      return { listen = "udp:127.0.0.1:PORT:maxPacketSize=@", protocol = P, prepareReload = function(self, new)
        return new.listen:match "%d+$" ~= "7"
      end }
    ]]):gsub("PORT", port)
    local h = reload.serve(text)
    local peer = udp.connect(port)
    assert.equal("1 true", peer:ask "123456789")
    reload.commit(text, 5)
    assert.equal("5 true", peer:ask "123456789")
    reload.refuse(text, 7)
    assert.equal("5 true", peer:ask "123456789")
    h:stop()
  end)

  it("stops a port that is gone after what waits, and starts one that is new", function()
    local text = [[
      local P = {}
      function P:startProtocol() print("start @", self.transport:getHost().port) end
      function P:stopProtocol() print "stop @" end
      function P:datagramReceived(data, from) self.transport:write("@ " .. data, from) end
      return { name = "x", listen = "udp:127.0.0.1:0:maxPacketSize=100", protocol = P }
    ]]
    local h = reload.serve(text)
    local peer = udp.connect(h.port)
    h:kill "STOP"
    local finish
    reload.rewrite((reload.version(text, 2):gsub("udp:127", "udp:[::1]:0", 1):gsub("%[::1%]:0[^\"]*", "[::1]:0")))
    finish = reload.start()
    for i = 1, 5 do
      peer:send("waits " .. i)
    end
    h:kill "CONT"
    local report = finish()
    assert.equal("committed", report.result)
    assert.same({ 1, 1 }, { #report.endpoints.added, #report.endpoints.removed })
    for i = 1, 5 do
      assert.matches("^%d waits " .. i .. "$", peer:receive())
    end
    local port = tonumber((h:line "^start 2\t(%d+)$"))
    h:line "^stop 2$"
    assert.equal("2 six", udp.connect(port, "::1"):ask "six")
  end)

  it("goes on with the protocol of listenUDP; what the script holds of the new one stands for it", function()
    local port = ports.udp()
    local text = ([[
      local reactor = require "skald.reactor"
      local P = require("skald.protocol").DatagramProtocol { version = @ }
      function P:init() self.count = 0 end
      function P:startProtocol() print "start @" end
      function P:stopProtocol() print "stop @" end
      function P:datagramReceived(data, from)
        self.count = self.count + 1
        self.transport:write(("@ %d"):format(self.count), from)
      end
      local p = P:new()
      reactor.listenUDP(PORT, p, { interface = "127.0.0.1" })
      reactor.callWhenRunning(function() print("held", p.version, p.count, p.transport ~= nil) end)
    ]]):gsub("PORT", port)
    local h = reload.serve(text)
    h:line "^held\t1\t0\ttrue$"
    local peer = udp.connect(port)
    assert.equal("1 1", peer:ask "x")
    for n = 2, 4 do
      reload.commit(text, n)
      h:line(("^held\t%d\t%d\ttrue$"):format(n, n - 1))
      assert.equal(("%d %d"):format(n, n), peer:ask "x")
    end
    h:stop()
    assert.truthy(h:output():find "stop 4\n$")
    assert.equal(1, select(2, h:output():gsub("start", "")))
  end)

  it("gives a protocol of the library's own class the one that the script has now", function()
    local text = [[
      local DatagramProtocol = require("skald.protocol").DatagramProtocol
      local Echo = DatagramProtocol { datagramReceived = function(self, data, from) self.transport:write("@", from) end }
      return { listen = "udp:127.0.0.1:0", protocol = @ > 1 and Echo or DatagramProtocol }
    ]]
    local h = reload.serve(text)
    reload.commit(text)
    assert.equal("2", udp.connect(h.port):ask "x")
    reload.commit(text, 3)
    assert.equal("3", udp.connect(h.port):ask "x")
  end)

  it("takes back what a refused one has bound", function()
    local port = ports.udp()
    local text = ([[
      local reactor = require "skald.reactor"
      local P = {}
      function P:datagramReceived(data, from) self.transport:write("@", from) end
      if @ == 2 then
        reactor.listenUDP(PORT, {}, { interface = "127.0.0.1" })
        error "no"
      end
      return { listen = "udp:127.0.0.1:0", protocol = P }
    ]]):gsub("PORT", port)
    local h = reload.serve(text)
    reload.refuse(text)
    assert.equal("1", udp.connect(h.port):ask "x")
    udp.bind("127.0.0.1", port):close()
    h:stop()
  end)

  it("leaves the old generation to the collector", function()
    local h = reload.serve(COUNTER)
    local peer = udp.connect(h.port)
    for n = 2, 6 do
      for _ = 1, 200 do
        peer:ask "x"
      end
      reload.commit(COUNTER, n)
    end
    reload.awaitOld(h)
    h:stop()
  end)
end)
