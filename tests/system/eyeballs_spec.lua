-- Connecting by a host name: which of its addresses is taken, when the next one is tried, what is told, what is left.
-- Names come from a name server of our own (support.dns), what they lead to is here: a port of loopback that one address
-- serves, another refuses, and at a third of which nobody ever answers.

local ffi = require "ffi"
local socket = require "socket"

local client = require "support.client"
local dns = require "support.dns"
local host = require "support.host"
local sys = require "support.sys"

local C = ffi.C

local NEXT_AFTER, IPV6_FIRST = 0.25, 0.05 -- seconds, as RFC 8305 recommends

-- For scripts where it matters that IPv6 is first, or that nothing else is tried, however slow the machine is.
local WAIT_FOR_IPV6 = "dial.IPV6_FIRST = 1000 "
local ONE_AT_A_TIME = WAIT_FOR_IPV6 .. "dial.NEXT_AFTER = 1000 "
local SOONER = 0.08 -- seconds
local NEXT_SOONER = WAIT_FOR_IPV6 .. ("dial.NEXT_AFTER = %g "):format(SOONER)

-- What scripts here begin with. `connect` and `once` tell the same lines of what comes of an attempt.
local HEAD = [[
  local reactor, protocol = require "skald.reactor", require "skald.protocol"
  local endpoints, resolver, dial = require "skald.endpoints", require "skald.resolver", require "skald.dial"
  local connectors, deferreds, began = {}, {}, {}
  local function say(name, what, ...) print(name .. ": " .. what:format(...)) end
  local function sayFailed(name, why)
    say(name, "failed %s %s %s: %s", why.code, why.by, tostring(why.errno), tostring(why))
  end
  local Telling = protocol.Protocol {}
  function Telling:connectionMade()
    say(self.factory.tag, "made %s", tostring(self.transport:getPeer()))
    self.transport:write "hello"
  end
  function Telling:connectionLost(why) say(self.factory.tag, "lost %s %s", why.code, why.by) end
  local function telling(name)
    began[name] = reactor.seconds()
    local factory = protocol.ClientFactory { protocol = Telling }:new()
    factory.tag = name
    function factory:buildProtocol(from)
      say(name, "built %s %.6f", from.host, reactor.seconds() - began[name])
      return protocol.ClientFactory.buildProtocol(self, from)
    end
    function factory:clientConnectionFailed(_, why) sayFailed(name, why) end
    return factory
  end
  local function connect(name, port, opts)
    connectors[name] = reactor.connectTCP(name, port, telling(name), opts)
  end
  local function once(name, port, opts)
    local text = ("tcp:%s:%d"):format(name, port)
    for key, value in pairs(opts or {}) do
      text = text .. (":%s=%s"):format(key, endpoints.quoteStringArgument(tostring(value)))
    end
    local d = endpoints.clientFromString(text):connect(telling(name))
    deferreds[name] = d
    d:addErrback(function(failure)
      if failure:check "CancelledError" then say(name, "cancelled") else sayFailed(name, failure.value) end
    end)
  end
  function P:connectionLost() end
  function commands.hello() print "hello" end
  function commands.stop(_, _, name) print("stop: " .. tostring(connectors[name]:stopConnecting())) end
  function commands.cancel(_, _, name) deferreds[name]:cancel() end
]]

-- --- what names lead to -----------------------------------------------------------------------

local sockets = {}

local function keep(s)
  s:settimeout(0)
  sockets[#sockets + 1] = s
  return s
end

local function cleanup()
  host.cleanup()
  for _, s in ipairs(sockets) do
    s:close()
  end
  sockets = {}
end

local function bind(at, port)
  local s = keep(at:find(":", 1, true) and socket.tcp6() or socket.tcp4())
  return s:bind(at, port) and s
end

-- All addresses at one port, or nil where one of them is taken.
local function bindAll(addresses)
  local list, port = {}, 0
  for at in pairs(addresses) do
    list[at] = bind(at, port)
    if not list[at] then
      return nil
    end
    port = select(2, list[at]:getsockname())
  end
  return list, tonumber(port)
end

-- Sockets by their addresses, at one port; each of them is "served", "refused", or "mute": its queue is full, and what
-- knocks is not answered. `filler[address]` fills the queue.
local function place(addresses)
  for _ = 1, 100 do
    local list, port = bindAll(addresses)
    if list then
      local filler = {}
      for at, what in pairs(addresses) do
        if what ~= "refused" then
          assert(list[at]:listen(what == "mute" and 0 or 512))
        end
        filler[at] = what == "mute" and client.tcp(port, { host = at }) or nil
      end
      list.port, list.filler = port, filler
      return list
    end
  end
  error "no port to be had"
end

local function accept(listener)
  local entry = { fd = listener:getfd(), events = sys.POLLIN }
  return keep(sys.await(function()
    return (listener:accept())
  end, function()
    return "nobody comes"
  end, nil, { entry }))
end

local bytes = ffi.new "char[16]"

-- What a socket has to say: bytes, "eof", or the name of an errno.
local function hear(s)
  local entry, n, code = { fd = s:getfd(), events = sys.POLLIN }, nil, nil
  sys.await(function()
    n = tonumber(C.recv(entry.fd, bytes, 16, 0))
    code = n < 0 and ffi.errno()
    return code ~= sys.EAGAIN
  end, function()
    return "nothing is heard"
  end, nil, { entry })
  return code and sys.errname(code) or n > 0 and ffi.string(bytes, n) or "eof"
end

-- How many sockets knock at a port without being answered.
local function knocking(kind, port)
  local n, pattern = 0, ("^%%s*%%d+: %%x+:%%x+ %%x+:%04X 02 "):format(port)
  for line in io.lines("/proc/net/" .. kind) do
    n = n + (line:find(pattern) and 1 or 0)
  end
  return n
end

local function awaitKnocking(h, kind, port, n)
  sys.await(function()
    return knocking(kind, port) == (n or 1)
  end, function()
    return h:story(("%d sockets of %s knock, not %d"):format(knocking(kind, port), kind, n or 1))
  end)
end

-- --- hosts ------------------------------------------------------------------------------------

-- A host that does `body` at the word `go`, where %PORT is the port, and the connection that gives it the word; it is
-- in a state from which descriptors can be counted.
local function prepare(server, port, body)
  body = body:gsub("%%PORT", port)
  local h = host.serve(host.commands(HEAD .. "function commands.go(self)\n" .. body .. "\nend"), { env = server.env })
  local c = h:connect():send "hello"
  h:line "^hello$"
  return h, c, h:descriptors()
end

local function go(server, port, body)
  local h, c, before = prepare(server, port, body)
  c:send "go"
  return h, c, before
end

local function awaitDescriptors(h, n)
  sys.await(function()
    return h:descriptors() == n
  end, function()
    return h:story(("%d descriptors are open, not %d"):format(h:descriptors(), n))
  end)
end

local function escape(name)
  return (name:gsub("%p", "%%%0"))
end

-- Waits for the protocol that is made for a name; the address that it was made for, and after how many seconds.
local function built(h, name)
  local at, seconds = h:line("^" .. escape(name) .. ": built (%S+) (%S+)$")
  return at, tonumber(seconds)
end

local function failed(h, name)
  return h:line("^" .. escape(name) .. ": failed (.*)$")
end

-- How many lines the host has said that match.
local function count(h, pattern)
  local n = 0
  for line in h:output():gmatch "[^\n]+" do
    n = n + (line:find(pattern) and 1 or 0)
  end
  return n
end

-- No descriptor is left, no look-up, no timer; then the host stops in order.
local function assertNothingLeft(h, before)
  awaitDescriptors(h, before)
  sys.await(function()
    h:kill "USR1"
    return h:waitLog "alive: ":find "[^%d]0 lookups, 0 timers"
  end, function()
    return h:story "something is left"
  end)
  h:stop()
end

-- What the host has told of a name, by the first words.
local function assertTold(h, name, wanted)
  local seen = {}
  for what in h:output():gmatch("\n" .. escape(name) .. ": (%w+)") do
    seen[#seen + 1] = what
  end
  assert.same(wanted, seen)
end

local LOST, FAILED = { "built", "made", "lost" }, { "failed" }
local NAMED = "cannot connect to tcp:%s:%d: %s"

local calls = { connect = "connectTCP", once = "clientFromString" }
if host.sanitized then
  calls.once = nil -- the core has no part in what they differ in
end

for call, how in pairs(calls) do
  -- `CALL("name", port, opts)` in a script.
  local function start(server, port, body)
    return go(server, port, (body:gsub("CALL", call)))
  end

  describe(how .. " by a name", function()
    after_each(cleanup)

    it("prefers IPv6 where both answer", function()
      local server = dns.start { "both.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h = start(server, at.port, ONE_AT_A_TIME .. [[CALL("both.test", %PORT)]])
      assert.equal("::1", (built(h, "both.test")))
      assert.equal("hello", hear(accept(at["::1"])))
      h:stop()
      assert.is_nil((at["127.0.0.1"]:accept()))
      assertTold(h, "both.test", LOST)
    end)

    it("takes the one family that there is", function()
      local server = dns.start { "four.test=127.0.0.1", "six.test=::1" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h = start(server, at.port, [[CALL("four.test", %PORT) CALL("six.test", %PORT)]])
      assert.equal("hello", hear(accept(at["127.0.0.1"])))
      assert.equal("hello", hear(accept(at["::1"])))
      h:stop()
      assertTold(h, "four.test", LOST)
      assertTold(h, "six.test", LOST)
    end)

    it("takes IPv4 where IPv6 refuses", function()
      local server = dns.start { "both.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "refused", ["127.0.0.1"] = "served" }
      local h = start(server, at.port, [[CALL("both.test", %PORT)]])
      assert.equal("127.0.0.1", (built(h, "both.test")))
      assert.equal("hello", hear(accept(at["127.0.0.1"])))
    end)

    it("waits for nothing where an address refuses: a hundred of them take less than a hundred waits", function()
      local rule, addresses = "truncated,::1", { ["::1"] = "refused", ["127.0.2.1"] = "served" }
      for i = 1, 99 do
        addresses["127.0.1." .. i], rule = "refused", ("%s,127.0.1.%d"):format(rule, i)
      end
      local server, at = dns.start { "many.test=" .. rule .. ",127.0.2.1" }, place(addresses)
      local h = start(server, at.port, ([[CALL("many.test", %%PORT, { timeout = %g })]]):format(100 * NEXT_AFTER))
      assert.equal("127.0.2.1", (built(h, "many.test")))
      h:stop()
      assertTold(h, "many.test", LOST)
    end)

    it("tries IPv4 beside an IPv6 that does not answer, after a delay, and lets go of that one then", function()
      local server = dns.start { "both.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "served" }
      local h, _, before = start(server, at.port, WAIT_FOR_IPV6 .. [[CALL("both.test", %PORT)]])
      local address, seconds = built(h, "both.test")
      assert.equal("127.0.0.1", address)
      assert.is_true(seconds >= NEXT_AFTER, seconds)
      local peer = accept(at["127.0.0.1"])
      assert.equal("hello", hear(peer))
      awaitKnocking(h, "tcp6", at.port, 0)
      awaitDescriptors(h, before + 1)
      peer:close()
      h:line "^both.test: lost done peer"
      assertNothingLeft(h, before)
    end)

    it("takes the IPv6 that was mute at first, where nothing better has come", function()
      local server = dns.start { "both.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "refused" }
      local h, _, before = start(server, at.port, [[CALL("both.test", %PORT)]])
      awaitKnocking(h, "tcp6", at.port)
      sys.pass(NEXT_AFTER) -- IPv4 has been refused then, or will be
      accept(at["::1"])
      local peer = accept(at["::1"]) -- the kernel knocks again after a second
      assert.equal("::1", (built(h, "both.test")))
      peer:close()
      h:line "^both.test: lost"
      assertNothingLeft(h, before)
      assertTold(h, "both.test", LOST)
    end)

    it("takes IPv4 where the answer about IPv6 never comes, without waiting for the end of the look-up", function()
      local server = dns.start { "mute6.test=127.0.0.1,::1,silent6" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h, _, before = start(server, at.port, [[CALL("mute6.test", %PORT, { timeout = 10 })]])
      local address, seconds = built(h, "mute6.test")
      assert.equal("127.0.0.1", address)
      assert.is_true(seconds >= IPV6_FIRST, seconds)
      local peer = accept(at["127.0.0.1"])
      awaitDescriptors(h, before + 1)
      peer:close()
      h:line "^mute6.test: lost"
      assertNothingLeft(h, before)
    end)

    it("takes IPv6 at once where the answer about IPv4 is late", function()
      local server = dns.start { "late4.test=127.0.0.1,::1,held4" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h, _, before = start(server, at.port, [[CALL("late4.test", %PORT, { timeout = 10 })]])
      assert.equal("::1", (built(h, "late4.test")))
      server:release "late4.test"
      accept(at["::1"]):close()
      h:line "^late4.test: lost"
      assertNothingLeft(h, before)
      assertTold(h, "late4.test", LOST)
    end)

    it("waits for the late answer where the other family leads nowhere", function()
      local server = dns.start { "late4.test=127.0.0.1,::1,held4", "late6.test=127.0.0.2,::1,held6" }
      local at = place { ["::1"] = "refused", ["127.0.0.1"] = "served", ["127.0.0.2"] = "refused" }
      local other = place { ["::1"] = "served", ["127.0.0.2"] = "refused" }
      local h = start(server, at.port, ([[CALL("late4.test", %%PORT) CALL("late6.test", %d)]]):format(other.port))
      server:asked "late4.test A "
      server:asked "late6.test A "
      sys.pass(IPV6_FIRST) -- IPv4 alone is tried then
      server:release "all"
      accept(other["::1"])
      accept(at["127.0.0.1"])
      h:stop()
      assertTold(h, "late4.test", LOST)
      assertTold(h, "late6.test", LOST)
    end)

    it("tries IPv6 beside an IPv4 that does not answer, when its answer comes at last", function()
      local server = dns.start { "late6.test=127.0.0.1,::1,held6" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "mute" }
      local h, _, before = start(server, at.port, [[CALL("late6.test", %PORT)]])
      awaitKnocking(h, "tcp", at.port)
      server:release "late6.test"
      assert.equal("::1", (built(h, "late6.test")))
      awaitKnocking(h, "tcp", at.port, 0)
      accept(at["::1"]):close()
      h:line "^late6.test: lost"
      assertNothingLeft(h, before)
    end)

    it("tries IPv4 when its answer comes long after an IPv6 that does not answer was tried", function()
      local server = dns.start { "late4.test=127.0.0.1,::1,held4" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "served" }
      local h, _, before = start(server, at.port, [[CALL("late4.test", %PORT)]])
      awaitKnocking(h, "tcp6", at.port)
      sys.pass(NEXT_AFTER) -- the next would be due, were there one
      server:release "late4.test"
      assert.equal("127.0.0.1", (built(h, "late4.test")))
      accept(at["127.0.0.1"]):close()
      h:line "^late4.test: lost"
      assertNothingLeft(h, before)
    end)

    it("goes on with what is open when the other family is found to have no address", function()
      local server = dns.start { "six.test=::1,held4" }
      local at = place { ["::1"] = "mute" }
      local h = start(server, at.port, [[CALL("six.test", %PORT)]])
      awaitKnocking(h, "tcp6", at.port)
      server:release "six.test"
      accept(at["::1"])
      accept(at["::1"])
      assert.equal("::1", (built(h, "six.test")))
      h:stop()
      assertTold(h, "six.test", LOST)
    end)

    it("tries all addresses of a family", function()
      local server = dns.start { "four.test=127.0.0.2,127.0.0.3,127.0.0.4", "six.test=::1,::ffff:7f00:5" }
      local at = place {
        ["127.0.0.2"] = "refused", ["127.0.0.3"] = "mute", ["127.0.0.4"] = "served", ["::1"] = "refused",
        ["127.0.0.5"] = "served",
      }
      local h = start(server, at.port, NEXT_SOONER .. [[CALL("four.test", %PORT) CALL("six.test", %PORT)]])
      accept(at["127.0.0.5"])
      local address, seconds = built(h, "four.test")
      assert.equal("127.0.0.4", address)
      assert.is_true(seconds >= SOONER, seconds)
      awaitKnocking(h, "tcp", at.port, 0)
      h:stop()
      assertTold(h, "four.test", LOST)
      assertTold(h, "six.test", LOST)
    end)

    it("tries the families in turn, IPv6 first", function()
      local server = dns.start { "both.test=127.0.0.3,127.0.0.4,::1,::ffff:7f00:2" }
      local at = place {
        ["::1"] = "mute", ["127.0.0.2"] = "mute", ["127.0.0.3"] = "mute", ["127.0.0.4"] = "served",
      }
      local h, _, before = start(server, at.port, NEXT_SOONER .. [[CALL("both.test", %PORT)]])
      local address, seconds = built(h, "both.test")
      assert.equal("127.0.0.4", address)
      assert.is_true(seconds >= 3 * SOONER, seconds)
      accept(at["127.0.0.4"]):close()
      h:line "^both.test: lost"
      assertNothingLeft(h, before)
    end)

    it("fails once where all addresses refuse, and says to which name and how", function()
      local server = dns.start { "both.test=127.0.0.1,127.0.0.2,::1", "late4.test=::1,held4", "late6.test=127.0.0.1,held6" }
      local at = place { ["::1"] = "refused", ["127.0.0.1"] = "refused", ["127.0.0.2"] = "refused" }
      local h, _, before = start(server, at.port,
        [[CALL("both.test", %PORT) CALL("late4.test", %PORT) CALL("late6.test", %PORT)]])
      for _, name in ipairs { "both.test", "late4.test", "late6.test" } do
        if name == "late4.test" then
          sys.pass(IPV6_FIRST)
          server:release "all"
        end
        sys.await(function()
          return h:output():find(name .. ": failed [^\n]*\n")
        end, function()
          return h:story(name .. " has not failed")
        end)
        local wanted = "lost peer ECONNREFUSED: " .. NAMED:format(name, at.port, "Connection refused")
        assert.equal(wanted, h:output():match(name .. ": failed ([^\n]*)\n"))
      end
      assertNothingLeft(h, before)
      for _, name in ipairs { "both.test", "late4.test", "late6.test" } do
        assertTold(h, name, FAILED)
      end
    end)

    it("fails in one line where there is no such name, or no address of it, or it is no name", function()
      local server = dns.start { "empty.test=many:0", "broken.test=servfail" }
      local h, _, before = start(server, 9, [[
        for _, name in ipairs { "none.test", "empty.test", "broken.test", ("x"):rep(64) } do CALL(name, %PORT) end
      ]])
      local long = ("x"):rep(64)
      for _ = 1, 4 do
        h:line ": failed "
      end
      for name, words in pairs {
        ["none.test"] = { "ENOTFOUND", "no such name" },
        ["empty.test"] = { "ENODATA", "the name has no address" },
        ["broken.test"] = { "ESERVFAIL", "the name server failed, or refused" },
        [long] = { "EBADNAME", "not a host name" },
      } do
        local what = ("cannot resolve '%s': %s"):format(name, words[2])
        local line = h:output():match("\n" .. escape(name) .. ": failed ([^\n]*)\n")
        assert.equal(("lost host %s: %s"):format(words[1], NAMED:format(name, 9, what)), line)
      end
      assertNothingLeft(h, before)
    end)

    it("has one time for looking up and connecting together", function()
      local server = dns.start { "slow.test=::1,127.0.0.1,delay:0.15" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "mute" }
      -- Were it counted from the look-up's end, the time would be over at 0.45 s at the soonest.
      local h, _, before = start(server, at.port, [[
        CALL("slow.test", %PORT, { timeout = 0.3 })
        reactor.callLater(0.28, print, "early")
        reactor.callLater(0.43, print, "late")
      ]])
      h:line "^late$"
      local wanted = "timeout host ETIMEDOUT: " .. NAMED:format("slow.test", at.port, "no answer within 0.3 s")
      assert.equal(wanted, h:output():match "early\nslow.test: failed ([^\n]*)\nlate\n")
      assertNothingLeft(h, before)
      assertTold(h, "slow.test", FAILED)
    end)

    it("has no more time for a look-up that is never answered", function()
      local server = dns.start { "*.silent.test=silent" }
      local h, _, before = start(server, 9, [[
        resolver.MOST = 1
        CALL("a.silent.test", %PORT, { timeout = 0.1 }) CALL("b.silent.test", %PORT, { timeout = 0.1 })
        reactor.callLater(0.3, print, "late")
      ]])
      h:line "^late$"
      for _, name in ipairs { "a.silent.test", "b.silent.test" } do
        local wanted = "timeout host ETIMEDOUT: " .. NAMED:format(name, 9, "no answer within 0.1 s")
        assert.equal(wanted, h:output():match(name .. ": failed ([^\n]*)\n"))
      end
      assertNothingLeft(h, before)
    end)

    it("makes one protocol where two addresses answer in the same turn, and resets the other", function()
      local server = dns.start { "both.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "mute" }
      local h, _, before = start(server, at.port, [[CALL("both.test", %PORT, { timeout = 60 })]])
      awaitKnocking(h, "tcp6", at.port)
      awaitKnocking(h, "tcp", at.port)
      h:kill "STOP"
      sys.await(function()
        return io.lines(("/proc/%d/stat"):format(h.pid))():find "%) T "
      end, function()
        return h:story "it does not halt"
      end)
      local peers = {}
      for _, address in ipairs { "::1", "127.0.0.1" } do
        accept(at[address]) -- makes room
      end
      for _, address in ipairs { "::1", "127.0.0.1" } do
        peers[address] = accept(at[address]) -- the kernel knocks again after a second or two
      end
      h:kill "CONT"
      local won = built(h, "both.test")
      local lost = won == "::1" and "127.0.0.1" or "::1"
      assert.equal("hello", hear(peers[won]))
      assert.equal("ECONNRESET", hear(peers[lost]))
      awaitDescriptors(h, before + 1)
      peers[won]:close()
      h:line "^both.test: lost"
      assertNothingLeft(h, before)
      assertTold(h, "both.test", LOST)
    end)

    it("ends with the host, which stops, while it looks up and while it connects", function()
      local server = dns.start { "held.test=::1,held", "late4.test=::1,held4", "mute.test=127.0.0.1" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "mute" }
      local h = start(server, at.port, [[CALL("held.test", %PORT) CALL("late4.test", %PORT) CALL("mute.test", %PORT)]])
      server:asked "held.test A "
      awaitKnocking(h, "tcp6", at.port)
      awaitKnocking(h, "tcp", at.port)
      h:stop()
      for _, name in ipairs { "held.test", "late4.test", "mute.test" } do
        local wanted = "stopped host nil: " .. NAMED:format(name, at.port, "the host stops")
        assert.equal(wanted, h:output():match("\n" .. name .. ": failed ([^\n]*)\n"))
        assertTold(h, name, FAILED)
      end
      assert.equal(0, knocking("tcp6", at.port) + knocking("tcp", at.port))
    end)

    it("goes past addresses of another family than the one that it is to come from", function()
      local server = dns.start { "both.test=127.0.0.1,::1", "same.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h = start(server, at.port, [[
        CALL("both.test", %PORT, { bindAddress = "127.0.0.9" }) CALL("same.test", %PORT, { bindAddress = "::1" })
      ]])
      assert.equal("127.0.0.9", (accept(at["127.0.0.1"]):getpeername()))
      assert.equal("::1", (accept(at["::1"]):getpeername()))
      h:stop()
      assertTold(h, "both.test", LOST)
      assertTold(h, "same.test", LOST)
    end)

    it("makes 200 connections at once, and ends where it began", function()
      local server = dns.start { "*.many.test=127.0.0.1,::1" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h, _, before = start(server, at.port, [[for i = 1, 200 do CALL(i .. ".many.test", %PORT) end]])
      sys.await(function()
        return count(h, ": made ") == 200
      end, function()
        return h:story "they are not all made"
      end)
      awaitDescriptors(h, before + 200)
      for _, s in pairs { at["::1"], at["127.0.0.1"] } do
        while true do
          local peer = s:accept()
          if not peer then
            break
          end
          peer:close()
        end
      end
      sys.await(function()
        return count(h, ": lost ") == 200
      end, function()
        return h:story "they are not all lost"
      end)
      assert.equal(200, count(h, ": built "))
      assert.equal(0, count(h, ": failed "))
      assertNothingLeft(h, before)
    end)
  end)
end

-- Look-ups that end as a test says, in the order that it says: `ends["name"]` lists what the callback is given.
local LOOKUP = [[
  local ends = {}
  function resolver.lookup(name, onFamily)
    local steps = ends[name] or {}
    local function step(i)
      if steps[i] then
        onFamily(unpack(steps[i], 1, 5))
        reactor.callLater(0, step, i + 1)
      end
    end
    reactor.callLater(0, step, 1)
    return { cancel = function() steps = {} end }
  end
]]

describe("a connection by a name", function()
  after_each(cleanup)

  it("is made by IPv6 where that comes soon after IPv4", function()
    local at = place { ["::1"] = "mute", ["127.0.0.1"] = "served" }
    local h, _, before = go({}, at.port, LOOKUP .. WAIT_FOR_IPV6 .. [[
      ends["both.test"] = { { "TCP", { "127.0.0.1" }, nil, nil, false }, { "TCP6", { "::1" }, nil, nil, true } }
      connect("both.test", %PORT)
    ]])
    local address, seconds = built(h, "both.test")
    assert.equal("127.0.0.1", address)
    assert.is_true(seconds >= NEXT_AFTER, seconds) -- the mute one was tried before
    accept(at["127.0.0.1"]):close()
    h:line "^both.test: lost"
    assertNothingLeft(h, before)
  end)
end)

describe("a connection by a name that fails", function()
  after_each(cleanup)

  local NONE, SILENT = [[nil, "it has none", "ENODATA"]], [[nil, "it is silent", "ETIMEOUT"]]
  local BROKEN = [[nil, "it is broken", "ESERVFAIL"]]
  local FOUND = { TCP = [[{ "127.0.0.1" }, nil, nil]], TCP6 = [[{ "::1" }, nil, nil]] }
  local refused = "lost peer ECONNREFUSED: %s: Connection refused"
  local foreign = "lost local EAFNOSUPPORT: %s: Address family not supported by protocol"
  local broken, silent = "lost host ESERVFAIL: %s: it is broken", "timeout host ETIMEDOUT: %s: it is silent"

  -- What comes of IPv6, of IPv4, the address to come from, and what is told.
  local cases = {
    { SILENT, SILENT, nil, silent }, { BROKEN, BROKEN, nil, broken }, { FOUND.TCP6, BROKEN, nil, refused },
    { BROKEN, FOUND.TCP, nil, refused }, { FOUND.TCP6, NONE, "127.0.0.1", foreign }, { NONE, FOUND.TCP, "::1", foreign },
    { FOUND.TCP6, FOUND.TCP, "127.0.0.1", refused }, { FOUND.TCP6, FOUND.TCP, "::1", refused },
    { FOUND.TCP6, BROKEN, "127.0.0.1", broken }, { BROKEN, FOUND.TCP, "::1", broken },
    { FOUND.TCP6, SILENT, "127.0.0.1", silent }, { SILENT, FOUND.TCP, "::1", silent },
  }

  -- The script of all cases, the families told of in one order.
  local function scriptOf(first, second)
    local list = { LOOKUP }
    for i, case in ipairs(cases) do
      local of = { TCP6 = case[1], TCP = case[2] }
      list[#list + 1] = ('ends["%d.test"] = { { "%s", %s, false }, { "%s", %s, true } }'):format(i, first, of[first], second,
        of[second])
      list[#list + 1] = ('connect("%d.test", %%PORT, { bindAddress = %s })'):format(i, case[3] and ("%q"):format(case[3]))
    end
    return table.concat(list, "\n")
  end

  it("is told at once that the host stops, where it was begun after that", function()
    local h, c = go({}, 9, LOOKUP .. [[
      ends["again.test"] = { { "TCP", { "127.0.0.1" }, nil, nil, false } }
      reactor.addSystemEventTrigger("during", "shutdown", function()
        self.transport:write(("x"):rep(2 ^ 24))
        reactor.callLater(0, connect, "again.test", %PORT)
      end)
      print "go"
    ]])
    h:line "^go$"
    h:kill "TERM"
    local wanted = "stopped host nil: " .. NAMED:format("again.test", 9, "the host stops")
    assert.equal(wanted, failed(h, "again.test"))
    assert.equal(2 ^ 24, (c:count()))
    h:ends()
  end)

  for first, second in pairs { TCP = "TCP6", TCP6 = "TCP" } do
    it(("tells what the peer said, else what the look-up, else what the system: %s first"):format(first), function()
      local at = place { ["::1"] = "refused", ["127.0.0.1"] = "refused" }
      local h, _, before = go({}, at.port, scriptOf(first, second))
      for _ = 1, #cases do
        h:line ": failed "
      end
      for i, case in ipairs(cases) do
        local name = i .. ".test"
        local wanted = case[4]:format(("cannot connect to tcp:%s:%d"):format(name, at.port))
        assert.equal(wanted, h:output():match("\n" .. name .. ": failed ([^\n]*)\n"))
      end
      assertNothingLeft(h, before)
      assert.equal(#cases, count(h, "^%d+%.test: "))
    end)
  end
end)

describe("connecting by a name can be given up", function()
  after_each(cleanup)

  for call, word in pairs { connect = "stop", once = "cancel" } do
    local function start(server, port, name)
      return go(server, port, ([[%s("%s", %%PORT)]]):format(call, name))
    end

    -- Gives up, and sees that it is told once and that nothing follows.
    local function giveUp(h, c, name, port, before)
      c:send(word .. " " .. name)
      if word == "stop" then
        assert.equal("aborted local nil: " .. NAMED:format(name, port, "the attempt was given up"), failed(h, name))
      else
        h:line("^" .. escape(name) .. ": cancelled$")
      end
      awaitDescriptors(h, before)
      assert.equal(0, knocking("tcp6", port) + knocking("tcp", port))
    end

    it(("by %s, while it looks up"):format(word), function()
      local server = dns.start { "held.test=::1,127.0.0.1,held" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
      local h, c, before = start(server, at.port, "held.test")
      server:asked "held.test A "
      giveUp(h, c, "held.test", at.port, before)
      server:release "all"
      assertNothingLeft(h, before)
      assert.equal(0, count(h, "built"))
      assertTold(h, "held.test", { word == "stop" and "failed" or "cancelled" })
    end)

    it(("by %s, while it waits for IPv6's answer or tries IPv4 already"):format(word), function()
      local server = dns.start { "late6.test=::1,127.0.0.1,held6" }
      local at = place { ["::1"] = "served", ["127.0.0.1"] = "mute" }
      local h, c, before = start(server, at.port, "late6.test")
      server:asked "late6.test A "
      giveUp(h, c, "late6.test", at.port, before)
      server:release "all"
      assertNothingLeft(h, before)
      assert.equal(0, count(h, "built"))
    end)

    it(("by %s, while it connects"):format(word), function()
      local server = dns.start { "both.test=::1,127.0.0.1" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "mute" }
      local h, c, before = start(server, at.port, "both.test")
      awaitKnocking(h, "tcp6", at.port)
      awaitKnocking(h, "tcp", at.port)
      giveUp(h, c, "both.test", at.port, before)
      assertNothingLeft(h, before)
      assertTold(h, "both.test", { word == "stop" and "failed" or "cancelled" })
    end)

    it(("by %s, while one family is tried and the other looked up"):format(word), function()
      local server = dns.start { "late4.test=::1,127.0.0.1,held4" }
      local at = place { ["::1"] = "mute", ["127.0.0.1"] = "served" }
      local h, c, before = start(server, at.port, "late4.test")
      awaitKnocking(h, "tcp6", at.port)
      giveUp(h, c, "late4.test", at.port, before)
      server:release "all"
      assertNothingLeft(h, before)
      assert.equal(0, count(h, "built"))
    end)
  end

  it("before it began: within startedConnecting, or by who called", function()
    local server = dns.start { "both.test=::1,127.0.0.1" }
    local h, _, before = go(server, 9, [[
      connect("both.test", %PORT)
      connectors["both.test"]:stopConnecting()
      local factory = telling "other"
      function factory:startedConnecting(connector) connector:stopConnecting() end
      reactor.connectTCP("both.test", %PORT, factory)
      once("a.test", %PORT)
      deferreds["a.test"]:cancel()
      print "done"
    ]])
    h:line "^done$"
    assertNothingLeft(h, before)
    assertTold(h, "both.test", FAILED)
    assertTold(h, "other", FAILED)
    assertTold(h, "a.test", { "cancelled" })
    assert.same({}, server:questions())
  end)

  it("within buildProtocol, which closes the one that had come", function()
    local server = dns.start { "both.test=::1,127.0.0.1" }
    local at = place { ["::1"] = "served", ["127.0.0.1"] = "served" }
    local h, _, before = go(server, at.port, ONE_AT_A_TIME .. [[
      local factory = telling "both.test"
      function factory:buildProtocol(from)
        say("both.test", "built")
        connectors["both.test"]:stopConnecting()
        return protocol.ClientFactory.buildProtocol(self, from)
      end
      connectors["both.test"] = reactor.connectTCP("both.test", %PORT, factory)
    ]])
    h:line "^both.test: failed aborted local"
    local peer = accept(at["::1"])
    assert.equal("eof", hear(peer))
    peer:close()
    assertNothingLeft(h, before)
    assert.is_nil((at["127.0.0.1"]:accept()))
    assertTold(h, "both.test", { "built", "failed" })
  end)

  it("and begun anew by who is told of the failure", function()
    local server = dns.start { "both.test=::1,127.0.0.1" }
    local at = place { ["::1"] = "refused", ["127.0.0.1"] = "refused" }
    local h, _, before = go(server, at.port, [[
      local factory = telling "both.test"
      local left = 20
      function factory:clientConnectionFailed(connector, why)
        say("both.test", "failed")
        left = left - 1
        if left > 0 then connector:connect() else print "done" end
      end
      reactor.connectTCP("both.test", %PORT, factory)
    ]])
    h:line "^done$"
    assertNothingLeft(h, before)
    assert.equal(20, count(h, "^both.test: failed"))
  end)
end)

describe("an address that is connected to", function()
  after_each(cleanup)

  it("is not cut at a byte 0", function()
    local server = dns.start {}
    local at = place { ["127.0.0.1"] = "served" }
    local h = go(server, at.port, [[
      reactor.connectTCP("127.0.0.1\0.test", %PORT, telling "cut")
    ]])
    assert.truthy(failed(h, "cut"):find("EBADNAME", 1, true))
    assert.is_nil((at["127.0.0.1"]:accept()))
  end)
end)
