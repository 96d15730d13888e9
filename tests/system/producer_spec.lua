-- Producers: a transport tells who feeds it when to pause and when to go on, and memory stays in bounds.

local client = require "support.client"
local host = require "support.host"

local commands = host.commands

describe("a producer", function()
  after_each(host.cleanup)

  it("is paused once, inside the write that crosses highWater, and resumed once at lowWater", function()
    local h = host.serve(commands([[
      function commands.go(self, t)
        local producer, chunk = { pauses = 0, resumes = 0 }, ("x"):rep(100000)
        function producer:pauseProducing()
          self.pauses, self.paused = self.pauses + 1, true
          print("pause", self.pauses, t:bufferedAmount())
        end
        function producer:resumeProducing()
          self.resumes, self.paused = self.resumes + 1, false
          print("resume", self.resumes, t:bufferedAmount())
          if self.resumes == 3 then
            t:unregisterProducer()
            t:loseConnection()
            return
          end
          self:fill()
        end
        function producer:stopProducing() print "stopped" end
        function producer:fill()
          while not self.paused do t:write(chunk) end
          for i = 1, 50 do t:write(chunk) end -- above the mark: no second call
        end
        t:registerProducer(producer, true)
        print "registered"
        producer:fill()
      end
    ]], "highWater = 8000000, lowWater = 1000000"))
    local c = h:connect { rcvbuf = 65536 }
    c:send "go"
    assert.equal("registered", h:line()) -- a streaming producer is not asked to start
    local pauses, amount = h:line "^pause\t(%d+)\t(%d+)"
    assert.equal("1", pauses)
    assert.is_true(tonumber(amount) > 8000000 and tonumber(amount) <= 8100000, "paused at " .. amount)
    local n, ending = c:count()
    assert.equal("eof", ending)
    for i = 1, 3 do
      local resumes
      resumes, amount = h:line "^resume\t(%d+)\t(%d+)"
      assert.equal(tostring(i), resumes)
      assert.is_true(tonumber(amount) <= 1000000, "resumed at " .. amount)
      if i < 3 then
        pauses, amount = h:line "^pause\t(%d+)\t(%d+)"
        assert.equal(tostring(i + 1), pauses)
        assert.is_true(tonumber(amount) > 8000000, "paused at " .. amount)
      end
    end
    assert.equal(0, n % 100000)
    assert.equal("lost\tdone\tlocal", h:line())
    assert.falsy(h:output():find "stopped")
  end)

  it("has marks of 64 KiB and 16 KiB unless its factory says otherwise", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local producer = {}
        function producer:pauseProducing() self.paused = true; print("pause", t:bufferedAmount()) end
        function producer:resumeProducing() print("resume", t:bufferedAmount()); t:unregisterProducer(); t:loseConnection() end
        function producer:stopProducing() end
        t:registerProducer(producer, true)
        while not producer.paused do t:write(("x"):rep(100)) end
      end
    ]])
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    local paused = tonumber((h:line "^pause\t(%d+)"))
    assert.is_true(paused > 65536 and paused <= 65636, "paused at " .. paused)
    assert.equal("eof", select(2, c:count()))
    assert.is_true(tonumber((h:line "^resume\t(%d+)")) <= 16384)
  end)

  it("is not paused by a write that crosses highWater when the kernel takes it", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local producer = { pauseProducing = function() print "paused" end, resumeProducing = function() end,
                           stopProducing = function() end }
        t:registerProducer(producer, true)
        t:write(("x"):rep(60000))
        local below = t:bufferedAmount()
        t:write(("x"):rep(60000))
        print("amounts", below, t:bufferedAmount())
        t:unregisterProducer()
        t:loseConnection()
      end
    ]])
    assert.same({ 120000, "eof" }, { h:connect():send("go"):count() })
    assert.equal("amounts\t60000\t0", h:line())
  end)

  it("that is pulled is asked for the next piece each time the last one is gone", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local producer, n, most = {}, 0, 0
        function producer:resumeProducing()
          n = n + 1
          if n > 100 then
            print("most", most)
            t:unregisterProducer()
            t:loseConnection()
          else
            t:write((string.char(n)):rep(50000))
            most = math.max(most, t:bufferedAmount())
          end
        end
        function producer:stopProducing() print "stopped" end
        t:registerProducer(producer, false)
      end
    ]])
    local text, ending = h:connect({ rcvbuf = 32768 }):send("go"):receiveAll()
    assert.equal("eof", ending)
    assert.equal(5000000, #text)
    for n = 1, 100 do
      assert.equal(n, text:byte((n - 1) * 50000 + 1))
      assert.equal(n, text:byte(n * 50000))
    end
    local most = tonumber((h:line "^most\t(%d+)"))
    assert.is_true(most <= 100000, most .. " bytes waited")
    assert.falsy(h:output():find "stopped")
  end)

  it("stays in bounds against a reader that stops, and is stopped once when the reader leaves", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local producer, most = {}, 0
        function producer:pauseProducing() self.paused = true; print("paused", most) end
        function producer:resumeProducing()
          self.paused = false
          while not self.paused do
            t:write(("x"):rep(4096))
            most = math.max(most, t:bufferedAmount())
          end
        end
        function producer:stopProducing()
          self.paused = true
          self.stops = (self.stops or 0) + 1
          print("stopped", self.stops, most)
        end
        t:registerProducer(producer, true)
        producer:resumeProducing()
      end
      function commands.ping(self, t) t:write "pong\n" end
    ]])
    local other = h:connect()
    assert.equal("pong", other:send("ping"):line())
    local before = h:memory()
    local readers = {}
    for i = 1, 10 do
      readers[i] = h:connect { rcvbuf = 16384 }
      readers[i]:send "go"
      h:line "^paused"
    end
    assert.equal("pong", other:send("ping"):line())
    if not host.sanitized then
      assert.is_true(h:memory() - before < 10 * 131072 + 1048576, "the host keeps more than the marks allow")
    end
    for i, reader in ipairs(readers) do
      reader:reset()
      local stops, most = h:line "^stopped\t(%d+)\t(%d+)"
      assert.equal("1", stops)
      assert.is_true(tonumber(most) <= 65536 + 4096, ("reader %d: %s bytes waited"):format(i, most))
      assert.truthy(h:line "^lost\tlost\tpeer")
    end
  end)

  it("finishes before loseConnection closes", function()
    local h = host.serve(commands [[
      local function piece(n) return (string.char(n)):rep(100000) end
      function commands.pull(self, t)
        local n, producer = 0, {}
        function producer:resumeProducing()
          n = n + 1
          t:write(piece(n))
          if n == 10 then t:unregisterProducer() end
        end
        function producer:stopProducing() print "stopped" end
        t:registerProducer(producer, false)
        t:loseConnection()
        print("closing", t.disconnecting)
      end
      function commands.push(self, t)
        local n, producer = 0, {}
        function producer:pauseProducing() self.paused = true end
        function producer:resumeProducing()
          self.paused = false
          while n < 10 and not self.paused do
            n = n + 1
            t:write(piece(n))
          end
          if n == 10 then t:unregisterProducer() end
        end
        function producer:stopProducing() print "stopped" end
        t:registerProducer(producer, true)
        producer:resumeProducing()
        t:loseConnection()
        print("closing", t.disconnecting)
      end
      function commands.late() print "delivered" end
    ]])
    for _, kind in ipairs { "pull", "push" } do
      local c = h:connect { rcvbuf = 32768 }
      c:send(kind)
      assert.equal("closing\ttrue", h:line())
      c:send "late"
      local text, ending = c:receiveAll()
      assert.equal("eof", ending, kind)
      assert.equal(1000000, #text, kind)
      for n = 1, 10 do
        assert.equal(n, text:byte(n * 100000), kind)
      end
      assert.equal("lost\tdone\tlocal", h:line())
      c:close()
    end
    assert.falsy(h:output():find "stopped" or h:output():find "delivered")
  end)

  it("cannot be registered twice, which raises at the caller's line", function()
    local text = commands [[
      function commands.go(self, t)
        local producer = { pauseProducing = function() end, resumeProducing = function() end, stopProducing = function() end }
        t:registerProducer(producer, true)
        local ok, message = pcall(function()
          t:registerProducer(producer, true) -- second
        end)
        print("second", ok, message)
        t:unregisterProducer()
        t:registerProducer(producer, true)
        t:unregisterProducer()
        print("third", pcall(function()
          t:registerProducer(12, true) -- number
        end))
        t:loseConnection()
      end
    ]]
    local h = host.serve(text)
    assert.equal("eof", select(2, h:connect():send("go"):receiveAll()))
    local second = h:line "^second\tfalse\t(.*)"
    assert.truthy(second:find(("script.lua:%d: "):format(host.lineOf(text, "-- second")), 1, true), second)
    local third = h:line "^third\tfalse\t(.*)"
    assert.truthy(third:find(("script.lua:%d: "):format(host.lineOf(text, "-- number")), 1, true), third)
  end)

  it("is stopped at once when the connection is already gone", function()
    local h = host.serve [[
      local P = {}
      function P:connectionLost()
        local producer = {}
        function producer:pauseProducing() end
        function producer:resumeProducing() print "asked" end
        function producer:stopProducing() print "stopped" end
        self.transport:registerProducer(producer, false)
        print "over"
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    h:connect():close()
    assert.equal("stopped", h:line())
    assert.equal("over", h:line())
    h:stop()
    assert.falsy(h:output():find "asked")
  end)

  it("may be another transport: a slow reader slows the one who feeds it", function()
    local h = host.serve(commands [[
      local sink
      function commands.sink(self, t) sink = self; t:write "ready\n" end
      function commands.source(self, t)
        sink.transport:registerProducer(t, true)
        self.dataReceived = function(_, data) sink.transport:write(data) end
        self.readConnectionLost = function()
          sink.transport:unregisterProducer()
          sink.transport:loseConnection()
          t:loseConnection()
        end
        t:write "ready\n"
      end
    ]])
    local sink, source = h:connect { rcvbuf = 16384 }, h:connect { sndbuf = 65536 }
    assert.equal("ready", sink:send("sink"):line())
    assert.equal("ready", source:send("source"):line())
    local before = h:memory()
    local sent = source:flood(64 * 1048576, 0.3)
    assert.is_true(sent < 32 * 1048576, "the source was never held back")
    if not host.sanitized then
      assert.is_true(h:memory() - before < 2097152, "the host keeps what the sink does not take")
    end
    source:halfClose()
    local n, ending = sink:count()
    assert.same({ sent, "eof" }, { n, ending })
  end)

  it("does not take a turn for itself where there are many, and none of them starves", function()
    local h = host.serve [[
      local task = require "skald.task"
      local P, piece = {}, ("x"):rep(16384)
      local written, most, live = 0, 0, {}
      function P:connectionMade()
        live[#live + 1] = self
        self.bytes = 0
        self.transport:registerProducer(self, true)
        self:resumeProducing()
      end
      function P:pauseProducing() self.paused = true end
      function P:stopProducing() self.paused = true end
      function P:resumeProducing()
        self.paused = false
        while not self.paused and self.transport:write(piece) do
          self.bytes, written = self.bytes + #piece, written + #piece
        end
      end
      task.LoopingCall:new(function()
        most, written = math.max(most, written), 0
        local least = math.huge
        for _, p in ipairs(live) do least = math.min(least, p.bytes) end
        if #live == 200 and least > 1e6 then
          print("most", most)
          require("skald.reactor").stop(0)
        end
      end):start(0)
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    h:kill "STOP"
    for _ = 1, 200 do
      h:connect()
    end
    h:kill "CONT"
    local most = tonumber(h:line "^most\t(%d+)")
    assert.is_true(most < 32e6, most)
    client.closeAll()
    h:ends(0)
  end)
end)
