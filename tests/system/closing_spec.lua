-- The ways a connection ends: nothing that was queued is lost, every end has its reason, and every end comes.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"

local sys = client.sys
local commands = host.commands

local TIMES = host.long and 1000 or 15

-- Waits until the host accepts nobody any more.
local function awaitRefusal(h)
  sys.await(function()
    local c, code = client.try(h.port)
    if c then
      c:close()
    end
    return code == "ECONNREFUSED"
  end, function()
    return h:story "the host still accepts"
  end)
end

describe("closing", function()
  after_each(host.cleanup)

  for _, size in ipairs { 2, 1000, 65536 } do
    it(("answers `printf x | nc -N` in full, every time, with %d bytes"):format(size), function()
      local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
      local text = ("0123456789abcdef"):rep(math.ceil(size / 16)):sub(1, size)
      local path = host.file("input", text)
      for i = 1, TIMES do
        local nc = process.start { "nc", "-N", "127.0.0.1", h.port, input = path }
        assert.equal(0, nc:wait())
        assert.is_true(nc:output() == text, ("run %d: %d of %d bytes came back"):format(i, #nc:output(), size))
      end
    end)
  end

  it("gives 5 MB to a slow reader who has sent bytes nobody read, then a clean end", function()
    local h = host.serve(commands [[
      function P:connectionMade()
        for i = 1, 500 do self.transport:write((string.char(i % 251)):rep(10000)) end
        self.transport:loseConnection()
      end
    ]])
    local c = h:connect { rcvbuf = 16384 }
    c:send(("unread "):rep(1000))
    local pieces, total = {}, 0
    while true do
      local text, ending = c:read(8192)
      if not text then
        assert.equal("eof", ending)
        break
      end
      pieces[#pieces + 1], total = text, total + #text
      if #pieces % 50 == 0 then
        c:trySend "more that nobody reads"
      end
    end
    assert.equal(5000000, total)
    local all = table.concat(pieces)
    for i = 1, 500 do
      assert.equal(i % 251, all:byte((i - 1) * 10000 + 1))
      assert.equal(i % 251, all:byte(i * 10000))
    end
    assert.equal("lost\tdone\tlocal", h:line())
  end)

  it("tells connectionLost when the queue is taken and FIN is sent, and then reads what still comes", function()
    local h = host.serve(commands [[
      function commands.go(self, t) t:write "bye"; t:loseConnection() end
    ]])
    local before = h:descriptors()
    local c = h:connect():send "go"
    assert.same({ "bye", "eof" }, { c:receiveAll() })
    assert.equal("lost\tdone\tlocal", h:line())
    assert.equal(before + 1, h:descriptors()) -- it lingers: our half is still open
    c:send(("unread "):rep(100000)) -- a reset would make this fail
    c:halfClose()
    sys.await(function()
      return h:descriptors() == before
    end, function()
      return h:story "the lingering socket is never closed"
    end)
  end)

  -- Both at once: it takes seconds.
  it("lingers no longer than about 5 s, with a peer that never ends, or one who sleeps and finds the rest then", function()
    local h = host.serve(commands [[
      function commands.finish(self, t) t:loseConnection() end
      function commands.poem(self, t)
        t:write(("x"):rep(2000000)) -- the kernel takes all of it at once
        t:loseConnection()
      end
    ]])
    local before, started = h:descriptors(), sys.now()
    local talker, sleeper = h:connect():send "finish", h:connect({ rcvbuf = 16384 }):send "poem"
    assert.same({ "", "eof" }, { talker:receiveAll() })
    for _ = 1, 2 do
      assert.equal("lost\tdone\tlocal", h:line())
    end
    sys.await(function()
      talker:trySend "still here"
      return h:descriptors() == before
    end, function()
      return h:story "one of them is kept for ever"
    end)
    local took = sys.now() - started
    assert.is_true(took > 2, ("lingered for %.1f s"):format(took))
    assert.same({ 2000000, "eof" }, { sleeper:count() })
  end)

  -- One that takes a little now and then may need many times as long. What counts is what the peer takes, not
  -- what the kernel's send buffer takes, which is several megabytes ahead.
  it("aborts a peer that takes nothing for closeTimeout, with reason timeout, and not one that takes little", function()
    local h = host.serve(commands([[
      local seconds = require("skald.reactor").seconds
      function commands.go(self, t) self.since = seconds(); t:write(("x"):rep(20000000)); t:loseConnection() end
      function P:connectionLost(reason) print("lost", reason.code, seconds() - self.since) end
    ]], "closeTimeout = 1.5"))
    local stuck, slow = h:connect { rcvbuf = 16384 }, h:connect { rcvbuf = 131072 }
    stuck:send "go"
    slow:send "go"
    local started, got = sys.now(), 0
    while sys.now() - started < 3 do
      sys.pass(0.05)
      local text, ending = slow:read(65536)
      assert.truthy(text, ("a peer that takes some bytes every 0.05 s was ended after %.1f s: %s"):format(
        sys.now() - started, tostring(ending)))
      got = got + #text
    end
    local took = tonumber((h:line "^lost\ttimeout\t(.*)"))
    assert.is_true(took > 1.4, ("aborted after %.2f s"):format(took))
    assert.equal("ECONNRESET", select(2, stuck:count()))
    local n, ending = slow:count()
    assert.same({ 20000000, "eof" }, { got + n, ending })
    assert.truthy(h:line "^lost\tdone")
  end)

  it("sends all of 8 MB that is queued when the host is asked to stop", function()
    local h = host.serve(commands [[
      function commands.go(self, t) t:write(("0123456789abcdef"):rep(524288)) end
      function commands.idle(self, t) t:write "idle\n" end
    ]])
    local c, idle = h:connect { rcvbuf = 16384 }, h:connect()
    c:send "go"
    assert.equal("idle", idle:send("idle"):line())
    c:receive(16)
    h:kill "TERM"
    assert.same({ "", "eof" }, { idle:receiveAll() })
    idle:close()
    local total = 16 + #c.buffer
    c.buffer = ""
    while true do
      local text, ending = c:read(16384)
      if not text then
        assert.equal("eof", ending)
        break
      end
      total = total + #text
    end
    assert.equal(8388608, total)
    c:close()
    h:ends(0)
    assert.equal(2, select(2, h:output():gsub("lost\tstopped\thost\n", "")))
  end)

  it("refuses new connections at once when the host is asked to stop", function()
    local h = host.serve(commands([[
      function commands.go(self, t) t:write(("x"):rep(20000000)) end
    ]]))
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    c:receive(1)
    h:kill "TERM"
    awaitRefusal(h)
    assert.equal("eof", select(2, c:count()))
    c:close()
    h:ends(0)
  end)

  it("aborts after --grace what a peer does not take, and still ends with 0", function()
    local h = host.serve(commands [[
      function commands.go(self, t) t:write(("x"):rep(20000000)) end
    ]], { options = { "--grace=0.5" } })
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    c:receive(1)
    local started = sys.now()
    h:kill "TERM"
    assert.truthy(h:line "^lost\tstopped\thost")
    h:ends(0)
    local took = sys.now() - started
    assert.is_true(took >= 0.45, ("ended after %.2f s"):format(took))
    assert.equal("ECONNRESET", select(2, c:count()))
  end)

  it("ends at once at a second signal", function()
    local h = host.serve(commands([[
      function commands.go(self, t) t:write(("x"):rep(20000000)) end
    ]]), { options = { "--grace=1000" } })
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    c:receive(1)
    h:kill "TERM"
    awaitRefusal(h)
    h:kill "INT"
    h:ends(0)
  end)

  it("has a reason with code, by and one readable sentence for every end", function()
    local text = [[
      local P, commands = {}, {}
      function P:dataReceived(data) commands[data](self, self.transport) end
      function P:connectionLost(reason)
        print("lost", reason.code, reason.by, type(reason.message), #tostring(reason) > 5, tostring(reason):find "\n")
      end
      function commands.close(self, t) t:loseConnection() end
      function commands.abort(self, t) t:abortConnection() end
      function commands.stop(self, t) t:stopProducing() end
      function commands.flood(self, t)
        for i = 1, 100 do
          local ok, message, code = t:write(("x"):rep(1000000))
          if not ok then print("write", i, message, type(code)) break end
        end
      end
      function commands.fail() error "failed" end
      return { listen = "tcp:127.0.0.1:0", protocol = P, maxBuffered = 8000000 }
    ]]
    local h = host.serve(text)
    local function lost(code, by)
      assert.equal(("lost\t%s\t%s\tstring\ttrue\tnil"):format(code, by), h:line "^lost")
    end
    h:connect():close()
    lost("done", "peer")
    h:connect():halfClose()
    lost("done", "peer")
    h:connect():send "close"
    lost("done", "local")
    h:connect():send "stop"
    lost("done", "local")
    h:connect():send "abort"
    lost("aborted", "local")
    h:connect():reset()
    lost("lost", "peer")
    local c = h:connect { rcvbuf = 16384 }
    c:send "flood"
    h:line "^write\t%d+\tclosing\tstring"
    lost("limit", "host")
    c:count()
    h:connect():send "fail"
    assert.truthy(h:line "^lost\terror\t%a+\tstring\ttrue\tnil")
    c = h:connect()
    h:connect():send "close"
    lost("done", "local")
    h:kill "TERM"
    lost("stopped", "host")
    c:receiveAll()
    c:close()
    client.closeAll()
    h:ends(0)
  end)

  it("survives peers that vanish while being written to", function()
    local h = host.serve(commands [[
      local reactor = require "skald.reactor"
      function commands.go(self, t)
        local function more()
          if t:write(("x"):rep(1000)) then reactor.callLater(0, more) else print "refused" end
        end
        more()
      end
      function commands.ping(self, t) t:write "pong\n" end
    ]])
    for _ = 1, 20 do
      local c = h:connect()
      c:send("go"):receive(1)
      c:reset()
      assert.truthy(h:line "^lost\tlost\tpeer")
      h:line "^refused"
    end
    assert.equal("pong", h:connect():send("ping"):line())
  end)
end)
