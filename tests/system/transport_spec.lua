-- The transport: writing, pausing, the ways to end, and what it tells of itself.

local ffi = require "ffi"
local host = require "support.host"
local client = require "support.client"

local commands = host.commands

describe("a transport", function()
  after_each(host.cleanup)

  it("answers a write with true, and with nil, closing and a code once it is closing or gone", function()
    local h = host.serve(commands [[
      local kept
      function commands.go(self, t)
        kept = t
        print("open", t:write "one ")
        print("list", t:writeSequence { "two ", "three" })
        t:loseConnection()
        local ok, message, code = t:write "never"
        print("closing", ok, message, type(code))
        ok, message, code = t:writeSequence { "never" }
        print("closing", ok, message, type(code))
      end
      function P:connectionLost()
        local ok, message, code = self.transport:write "gone"
        print("inside", ok, message, type(code))
      end
      function commands.again(self, t)
        local ok, message, code = kept:write "gone"
        print("after", ok, message, type(code))
      end
    ]])
    local c = h:connect():send "go"
    assert.same({ "one two three", "eof" }, { c:receiveAll() })
    c:close()
    assert.equal("open\ttrue", h:line())
    assert.equal("list\ttrue", h:line())
    assert.equal("closing\tnil\tclosing\tstring", h:line())
    assert.equal("closing\tnil\tclosing\tstring", h:line())
    assert.equal("inside\tnil\tclosing\tstring", h:line())
    h:connect():send "again"
    assert.equal("after\tnil\tclosing\tstring", h:line())
  end)

  it("raises at the caller's line when something else than a string is written", function()
    local text = commands [[
      function commands.go(self, t)
        local function try(f) print("try", pcall(f)) end
        try(function() t:write(42) end) -- number
        try(function() t:write() end) -- nothing
        try(function() t:writeSequence { "a", {}, "b" } end) -- list
        try(function() t:writeSequence "text" end) -- text
        t:write "clean\n"
      end
    ]]
    local h = host.serve(text)
    local c = h:connect():send "go"
    for _, mark in ipairs { "-- number", "-- nothing", "-- list", "-- text" } do
      local line = h:line "^try\tfalse\t"
      local at = ("script.lua:%d: "):format(host.lineOf(text, mark))
      assert.truthy(line:find(at, 1, true), ("%q is not at %s"):format(line, at))
    end
    assert.equal("clean", c:line()) -- and nothing of the bad list was queued
  end)

  it("sends a pair of strings as it would one, whatever their sizes, in order with what is written", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local sizes = { 0, 1, 2, 64, 4095, 4096, 5000, 16384, 20000 }
        for i, first in ipairs(sizes) do
          for j, second in ipairs(sizes) do
            assert(t:writePair(string.char(64 + i):rep(first), string.char(96 + j):rep(second)) == true)
            t:write "."
          end
        end
        t:loseConnection()
      end
    ]])
    local sizes, expected = { 0, 1, 2, 64, 4095, 4096, 5000, 16384, 20000 }, {}
    for i, first in ipairs(sizes) do
      for j, second in ipairs(sizes) do
        expected[#expected + 1] = string.char(64 + i):rep(first) .. string.char(96 + j):rep(second)
      end
    end
    local got, why = h:connect():send("go"):receiveAll()
    assert.equal("eof", why)
    assert.is_true(table.concat(expected, ".") .. "." == got)
  end)

  it("answers a pair as it does a write, and takes both or none", function()
    local text = commands([[
      function commands.go(self, t)
        print("large", t:writePair(("x"):rep(8000000), "the tail"))
        print("full", t:writePair("no", "ne"))
        local ok, message, code = t:writePair("gone", "gone")
        print("gone", ok, message, code)
      end
      function commands.close(self, t)
        print("whole", t:writePair(("x"):rep(8000000), "the tail"))
        t:loseConnection()
        print("closing", t:writePair("ne", "ver"))
      end
      function commands.raise(self, t)
        print("raised", pcall(function() t:writePair("a", 2) end)) -- here
        print("raised", pcall(function() t:writePair(nil, "b") end)) -- there
        t:loseConnection()
      end
      function P:connectionLost(reason) print("lost", reason.code) end
    ]], "maxBuffered = 1000000")
    local h = host.serve(text)
    local c = h:connect():send "go"
    for _, line in ipairs { "large\ttrue", "full\tnil\tclosing\tENOBUFS", "gone\tnil\tclosing\tEPIPE", "lost\tlimit" } do
      assert.equal(line, h:line())
    end
    c:close()
    local got, why = h:connect():send("close"):receiveAll()
    assert.same({ 8000008, "the tail", "eof" }, { #got, got:sub(-8), why })
    for _, line in ipairs { "whole\ttrue", "closing\tnil\tclosing\tEPIPE", "lost\tdone" } do
      assert.equal(line, h:line())
    end
    assert.same({ "", "eof" }, { h:connect():send("raise"):receiveAll() })
    for _, mark in ipairs { "-- here", "-- there" } do
      local at = ("script.lua:%d: writePair takes two strings"):format(host.lineOf(text, mark))
      local line = h:line()
      assert.truthy(line:find(at, 1, true), ("%q is not at %s"):format(line, at))
    end
  end)

  it("pauses a producer at a pair that crosses the high water", function()
    local h = host.serve(commands [[
      local producer = { resumeProducing = function() end, stopProducing = function() end }
      function producer.pauseProducing() print "paused" end
      function commands.go(self, t)
        t:pauseProducing()
        t:registerProducer(producer, true)
        for _ = 1, 200 do t:writePair(("x"):rep(100000), "\r\n") end
        print "written"
      end
    ]])
    local c = h:connect():send "go"
    assert.equal("paused", h:line())
    assert.equal("written", h:line())
    c:close()
  end)

  it("carries every byte value, and a list in its order", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local all, reverse = {}, {}
        for i = 0, 255 do all[i + 1] = string.char(i); reverse[i + 1] = string.char(255 - i) end
        t:writeSequence(all)
        t:write("")
        t:writeSequence {}
        t:writeSequence { table.concat(reverse) }
        t:loseConnection()
      end
    ]])
    local expected = {}
    for i = 0, 255 do
      expected[i + 1], expected[512 - i] = string.char(i), string.char(i)
    end
    assert.same({ table.concat(expected), "eof" }, { h:connect():send("go"):receiveAll() })
  end)

  it("holds what a callback writes until it returns, or until flush", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local before = t:bufferedAmount()
        t:write(("x"):rep(1000))
        t:writeSequence { "abc", "de" }
        local held = t:bufferedAmount()
        t:flush()
        print("held", before, held, t:bufferedAmount())
        t:write "\n"
      end
    ]])
    local c = h:connect():send "go"
    assert.equal(1005, #c:line())
    assert.equal("held\t0\t1005\t0", h:line())
  end)

  it("sends the writes of one callback together, to its own connection and to others", function()
    local h = host.serve(commands [[
      local all = {}
      function P:connectionMade() all[#all + 1] = self; self.transport:write "ready\n" end
      function commands.go(self)
        for i = 1, 300 do
          for _, p in ipairs(all) do p.transport:write(string.char(32 + i % 90)) end
        end
      end
    ]])
    local list = client.many(5, h.port)
    for _, c in ipairs(list) do
      assert.equal("ready", c:line())
    end
    for _ = 1, 20 do
      list[1]:send "go"
      for i, c in ipairs(list) do
        local text = c:read()
        assert.equal(300, #text, ("connection %d got its bytes in pieces"):format(i))
      end
    end
  end)

  it("stops reading while paused, and loses nothing", function()
    local h = host.serve(commands [[
      local paused
      function commands.pause(self, t) paused = t; t:pauseProducing(); t:write "paused\n" end
      function commands.ping(self, t) print "pong"; t:write "pong\n" end
      function commands.resume(self, t) paused:resumeProducing() end
      function commands.late(self, t) print "late"; t:write "late\n" end
    ]])
    local a, b = h:connect(), h:connect()
    assert.equal("paused", a:send("pause"):line())
    a:send "late"
    for _ = 1, 10 do
      assert.equal("pong", b:send("ping"):line())
    end
    assert.is_true(a:quiet())
    b:send "resume"
    assert.equal("late", a:line())
    for _ = 1, 10 do
      assert.equal("pong", h:line())
    end
    assert.equal("late", h:line())
  end)

  it("lets a peer send only what the kernel holds while paused", function()
    local h = host.serve(commands [[
      local paused, total = nil, 0
      function commands.pause(self, t)
        paused = t
        t:pauseProducing()
        self.dataReceived = function(_, data)
          total = total + #data
          if data:byte(#data) == 10 then print("total", total) end
        end
        t:write "paused\n"
      end
      function commands.resume(self, t) paused:resumeProducing() end
    ]])
    local c = h:connect { sndbuf = 65536 }
    assert.equal("paused", c:send("pause"):line())
    local before = h:memory()
    local sent = c:flood(64 * 1048576, 0.3)
    assert.is_true(sent < 32 * 1048576, "a paused connection took " .. sent .. " bytes")
    if not host.sanitized then
      assert.is_true(h:memory() - before < 1048576, "the host kept what a paused connection was sent")
    end
    h:connect():send "resume"
    c:send "\n"
    assert.equal(sent + 1, tonumber((h:line "^total\t(%d+)")))
  end)

  it("sends everything queued at loseConnection, and reads nothing more", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        print("before", t.disconnecting)
        for i = 1, 512 do t:write((string.char(i % 256)):rep(16384)) end
        t:loseConnection()
        t:loseConnection()
        print("after", t.disconnecting)
      end
      function commands.more() print "delivered" end
    ]])
    local c = h:connect { rcvbuf = 32768 }
    c:send "go"
    assert.truthy(h:line "^before\t[fn]")
    h:line "^after\ttrue"
    c:send "more"
    local text, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.equal(512 * 16384, #text)
    for i = 1, 512 do
      assert.equal(i % 256, text:byte((i - 1) * 16384 + 1))
      assert.equal(i % 256, text:byte(i * 16384))
    end
    assert.equal("lost\tdone\tlocal", h:line())
    assert.falsy(h:output():find "delivered")
  end)

  it("drops the queue and resets at abortConnection", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        t:write(("x"):rep(8388608))
        t:abortConnection()
        t:abortConnection()
        print("write", t:write "never")
      end
    ]])
    local c = h:connect { rcvbuf = 32768 }
    local n, ending = c:send("go"):count()
    assert.equal("ECONNRESET", ending)
    assert.is_true(n < 8388608)
    assert.truthy(h:line "^write\tnil\tclosing")
    assert.equal("lost\taborted\tlocal", h:line())
  end)

  it("sends FIN at loseWriteConnection after the queue, says so, and reads on", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        t:write(("x"):rep(1000000))
        t:loseWriteConnection()
        print("write", t:write "never")
      end
      function P:writeConnectionLost() print "half" end
      function commands.still(self, t) print "still" end
    ]])
    local c = h:connect():send "go"
    local n, ending = c:count()
    assert.same({ 1000000, "eof" }, { n, ending })
    assert.truthy(h:line "^write\tnil")
    assert.equal("half", h:line())
    c:send "still"
    assert.equal("still", h:line())
    c:halfClose()
    assert.equal("lost\tdone\tpeer", h:line())
  end)

  it("leaves the closing to a protocol with readConnectionLost when the peer half-closes", function()
    local h = host.serve(commands [[
      local waiting
      function P:readConnectionLost() waiting = self; print "half"; self.transport:write "and then " end
      function commands.finish(self)
        waiting.transport:write "the end"
        waiting.transport:loseConnection()
      end
    ]])
    local c = h:connect():halfClose()
    assert.equal("half", h:line())
    assert.equal("and then ", c:receive(9))
    assert.is_true(c:quiet())
    h:connect():send "finish"
    assert.same({ "the end", "eof" }, { c:receiveAll() })
    assert.equal("lost\tdone\tlocal", h:line())
  end)

  it("answers a half-close with what is queued and its own end", function()
    local h = host.serve(commands [[
      function commands.go(self, t) t:write(("x"):rep(3000000)) end
    ]])
    local c = h:connect { rcvbuf = 32768 }
    c:send "go"
    c:halfClose()
    assert.same({ 3000000, "eof" }, { c:count() })
    assert.equal("lost\tdone\tpeer", h:line())
  end)

  it("knows both ends of TCP, TCP6 and Unix connections", function()
    local path = host.folder() .. "/ends.sock"
    local h = host.serve(([[
      local P = {}
      function P:connectionMade()
        for _, name in ipairs { "getPeer", "getHost" } do
          local a = self.transport[name](self.transport)
          print(name, a.type, a.host or a.path, a.port, tostring(a))
        end
      end
      return { listen = { "tcp:127.0.0.1:0", "tcp:[::1]:0", "unix:%s" }, protocol = P }
    ]]):format(path), { listening = 3 })
    local four = client.tcp(h.endpoints[1].port):port()
    assert.equal(("getPeer\tTCP\t127.0.0.1\t%d\ttcp:127.0.0.1:%d"):format(four, four), h:line())
    local port = h.endpoints[1].port
    assert.equal(("getHost\tTCP\t127.0.0.1\t%d\ttcp:127.0.0.1:%d"):format(port, port), h:line())
    port = h.endpoints[2].port
    assert.equal(("tcp:[::1]:%d"):format(port), h.endpoints[2].endpoint)
    local six = client.tcp(port, { host = "::1" }):port()
    assert.equal(("getPeer\tTCP6\t::1\t%d\ttcp:[::1]:%d"):format(six, six), h:line())
    assert.equal(("getHost\tTCP6\t::1\t%d\ttcp:[::1]:%d"):format(port, port), h:line())
    client.unix(path)
    assert.truthy(h:line "^getPeer\tUNIX\t")
    assert.equal(("getHost\tUNIX\t%s\tnil\tunix:%s"):format(path, path), h:line())
  end)

  it("sets the keep-alive timer of the real socket", function()
    local h = host.serve(commands [[
      function commands.keep(self, t)
        t:setTcpKeepAlive(true, 30)
        t:write "set\n"
      end
      function commands.drop(self, t) t:setTcpKeepAlive(false); t:write "unset\n" end
    ]])
    local c = h:connect()
    -- The kernel's table of sockets: local and remote port in hex, and which timer runs (02: keep-alive).
    local function timer()
      local row = ("0100007F:%04X 0100007F:%04X 01 %%x+:%%x+ (%%x%%x):"):format(h.port, c:port())
      for line in io.lines "/proc/net/tcp" do
        local found = line:match(row)
        if found then
          return found
        end
      end
    end
    local function awaitTimer(wanted) -- 01 for a moment, until the answer is acknowledged
      client.sys.await(function()
        return timer() == wanted
      end, function()
        return ("the socket's timer is %s, not %s"):format(tostring(timer()), wanted)
      end)
    end
    assert.equal("set", c:send("keep"):line())
    awaitTimer "02"
    assert.equal("unset", c:send("drop"):line())
    awaitTimer "00"
  end)

  it("sends small pieces without delay unless asked otherwise: so the real socket says", function()
    local h = host.serve(commands [[
      local ffi = require "ffi"
      ffi.cdef [=[
        int getsockopt(int fd, int level, int name, void *value, unsigned int *size);
        int getpeername(int fd, void *address, unsigned int *size);
      ]=]
      local TCP, NODELAY = 6, 1
      -- Of the only connection of TCP that there is.
      local function noDelay()
        local address, size, value = ffi.new "char[128]", ffi.new "unsigned int[1]", ffi.new "int[1]"
        for fd = 0, 100 do
          size[0] = 128
          local connected = ffi.C.getpeername(fd, address, size) == 0
          size[0] = 4
          if connected and ffi.C.getsockopt(fd, TCP, NODELAY, value, size) == 0 then return value[0] end
        end
      end
      function commands.look(self, t) t:write(noDelay() .. "\n") end
      function commands.set(self, t, word)
        t:setTcpNoDelay(word == "on")
        t:write(noDelay() .. "\n")
      end
    ]])
    local c = h:connect()
    assert.equal("1", c:send("look"):line())
    assert.equal("0", c:send("set off"):line())
    assert.equal("1", c:send("set on"):line())
  end)

  it("keeps both directions of a large exchange in order", function()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local c = h:connect()
    local words = ffi.new("uint32_t[?]", 2097152) -- 8 MiB that never repeat
    for i = 0, 2097151 do
      words[i] = i * 2654435761 % 4294967296
    end
    local text = ffi.string(words, 8388608)
    local at, pieces, have = 0, {}, 0
    local entry = { { fd = c.fd, events = 5 } }
    local limit = client.sys.now() + client.sys.deadline
    while have < #text do
      assert.is_true(client.sys.now() < limit, "the echo stalls after " .. have .. " bytes")
      entry[1].events = at < #text and 5 or 1
      client.sys.poll(entry, 1)
      if at < #text then
        at = at + assert(c:trySend(text, at))
      end
      local piece, code = c:pull()
      if piece then
        pieces[#pieces + 1], have = piece, have + #piece
      else
        assert.equal("again", code)
      end
    end
    assert.is_true(table.concat(pieces) == text, "the echo differs")
  end)
end)
