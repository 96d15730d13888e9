-- What every transport does, whatever carries it: one set of specs for real and for fake ones. A carrier is a row
--   name       of it
--   serve      function(text) → a session: the service of that script, with
--                session:connect() → peer:send(s), :receive(n), :line(), :receiveAll() → bytes, "eof" or "ECONNRESET",
--                                    :halfClose(), :reset()
--                session:line() → the next line that the service prints
--   reset      what the peer sees of a reset ("ECONNRESET" where nothing is said)
--   resets     false: a peer cannot reset
--   early      what the peer sees of a close before anything was said ("eof" where nothing is said)
--   address    pattern of both addresses, as endpoint strings
-- To have the specs checked against another kind of transport, call `carriers.describe` with its row.

local support = require "support.host"

local commands, lineOf = support.commands, support.lineOf

local carriers = {}

-- Lines that a service is to print now, one by one.
local function prints(session, ...)
  for i = 1, select("#", ...) do
    assert.equal((select(i, ...)), session:line())
  end
end

local function describeWriting(serve)
  it("answers a write with true, and with nil, closing and a code once it is closing or gone", function()
    local session = serve(commands [[
      local kept
      function commands.go(self, t)
        kept = t
        print("open", t:write "one ", t:write "", t:writeSequence { "two ", "three" }, t:writeSequence {})
        t:loseConnection()
        print("closing", t:write "never")
        print("closing", t:write "")
        print("closing", t:writeSequence { "never" })
        print("closing", t:writeSequence {})
      end
      function P:connectionLost() print("inside", self.transport:write "gone") end
      function commands.again(self, t)
        print("after", kept:write "gone")
        print("after", kept:writeSequence { "gone" })
      end
    ]])
    assert.same({ "one two three", "eof" }, { session:connect():send("go"):receiveAll() })
    prints(session, "open\ttrue\ttrue\ttrue\ttrue", "closing\tnil\tclosing\tEPIPE", "closing\tnil\tclosing\tEPIPE",
      "closing\tnil\tclosing\tEPIPE", "closing\ttrue", "inside\tnil\tclosing\tEPIPE")
    session:connect():send "again"
    prints(session, "after\tnil\tclosing\tEPIPE", "after\tnil\tclosing\tEPIPE")
  end)

  it("carries every byte value, and a list in its order", function()
    local session = serve(commands [[
      function commands.go(self, t)
        local all, reverse = {}, {}
        for i = 0, 255 do all[i + 1] = string.char(i); reverse[i + 1] = string.char(255 - i) end
        t:writeSequence(all)
        t:writeSequence { table.concat(reverse) }
        t:loseConnection()
      end
    ]])
    local expected = {}
    for i = 0, 255 do
      expected[i + 1], expected[512 - i] = string.char(i), string.char(i)
    end
    assert.same({ table.concat(expected), "eof" }, { session:connect():send("go"):receiveAll() })
  end)

  it("holds what a callback writes until it returns, or until flush", function()
    local session = serve(commands [[
      function commands.go(self, t)
        local before = t:bufferedAmount()
        t:write(("x"):rep(1000))
        t:writeSequence { "abc", "de" }
        local held = t:bufferedAmount()
        t:flush()
        print("held", before, held, t:bufferedAmount())
        t:write "\n"
      end
      function commands.now(self, t) print("now", t:bufferedAmount()) end
    ]])
    local peer = session:connect():send "go"
    assert.equal(1005, #peer:line())
    prints(session, "held\t0\t1005\t0")
    peer:send "now"
    prints(session, "now\t0")
  end)

  it("flushes a write that crosses highWater", function()
    local session = serve(commands([[
      function commands.go(self, t)
        t:write(("x"):rep(900))
        local below = t:bufferedAmount()
        t:write(("x"):rep(101))
        print("amounts", below, t:bufferedAmount())
        t:loseConnection()
      end
    ]], "highWater = 1000, lowWater = 10"))
    assert.equal(1001, #session:connect():send("go"):receiveAll())
    prints(session, "amounts\t900\t0")
  end)

  it("ends as limit when more is written while more than maxBuffered waits", function()
    local session = serve(commands([[
      function commands.go(self, t)
        local ok, message, code
        repeat ok, message, code = t:write(("x"):rep(100000)) until not ok
        print("write", ok, message, code)
        print("again", t:write "x")
      end
    ]], "maxBuffered = 1000000"))
    session:connect():send "go"
    prints(session, "write\tnil\tclosing\tENOBUFS", "again\tnil\tclosing\tEPIPE", "lost\tlimit\thost")
  end)
end

local misuse = [[
  local good = { pauseProducing = function() end, resumeProducing = function() end, stopProducing = function() end }
  function commands.go(self, t)
    local function try(f) print(select(2, pcall(f))) end
    try(function() t:write(42) end) -- number
    try(function() t:write() end) -- nothing
    try(function() t:writeSequence { "a", {}, "b" } end) -- list
    try(function() t:writeSequence "text" end) -- text
    try(function() t:registerProducer(12, true) end) -- no table
    try(function() t:registerProducer({}, false) end) -- no resume
    try(function() t:registerProducer({ resumeProducing = print }, true) end) -- no pause
    t:registerProducer(good, true)
    try(function() t:registerProducer(good, false) end) -- second
    t:unregisterProducer()
    try(function() t:setTcpKeepAlive(true, 0) end) -- too often
    try(function() t:setTcpKeepAlive(true, "5") end) -- a string
    t:write "clean\n"
  end
]]

local misused = {
  { "-- number", "write takes a string, not a number" },
  { "-- nothing", "write takes a string, not a nil" },
  { "-- list", "writeSequence takes strings, but number 2 is a table" },
  { "-- text", "writeSequence takes a list of strings, not a string" },
  { "-- no table", "registerProducer takes a producer, not a number" },
  { "-- no resume", "registerProducer: the producer has no resumeProducing" },
  { "-- no pause", "registerProducer: the producer has no pauseProducing" },
  { "-- second", "registerProducer: a producer is registered already" },
  { "-- too often", "setTcpKeepAlive takes seconds from 1 to 32767, not 0" },
  { "-- a string", "setTcpKeepAlive takes seconds from 1 to 32767, not 5" },
}

local function describeMisuse(serve)
  it("raises at the caller's line what is no use", function()
    local text = commands(misuse)
    local session = serve(text)
    local peer = session:connect():send "go"
    assert.equal("clean", peer:line()) -- and nothing of the bad list was queued
    for _, case in ipairs(misused) do
      local line = session:line()
      local expected = ("script.lua:%d: %s"):format(lineOf(text, case[1]), case[2])
      assert.equal(expected, line:sub(-#expected))
    end
  end)
end

local function describeReading(serve)
  it("delivers pieces that are never empty and never above 64 KiB, and every byte of them", function()
    local session = serve [[
      local P = { count = 0 }
      function P:dataReceived(data)
        if data == "" or #data > 65536 then print("piece", #data) end
        self.count = self.count + #data
        if self.count == 300000 then print("all", self.count) end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    session:connect():send(("x"):rep(300000))
    prints(session, "all\t300000")
  end)

  it("stops reading while paused, and loses nothing", function()
    local session = serve(commands [[
      local paused
      function commands.pause(self, t) paused = t; t:pauseProducing(); t:pauseProducing(); t:write "paused\n" end
      function commands.ping(self, t) t:write "pong\n" end
      function commands.resume(self, t) print "resume"; paused:resumeProducing(); paused:resumeProducing() end
      function commands.late(self, t) print "late"; t:write "late\n" end
    ]])
    local peer, other = session:connect(), session:connect()
    assert.equal("paused", peer:send("pause"):line())
    peer:send "late"
    for _ = 1, 10 do
      assert.equal("pong", other:send("ping"):line())
    end
    other:send "resume"
    prints(session, "resume", "late")
    assert.equal("late", peer:line())
  end)

  it("hears of a half-close when it reads again", function()
    local session = serve(commands [[
      local paused
      function commands.pause(self, t) paused = t; t:pauseProducing(); t:write "paused\n" end
      function commands.ping(self, t) t:write "pong\n" end
      function commands.resume(self, t) print "resume"; paused:resumeProducing() end
      function P:readConnectionLost() print "half"; self.transport:loseConnection() end
    ]])
    local peer, other = session:connect(), session:connect()
    assert.equal("paused", peer:send("pause"):line())
    peer:halfClose()
    for _ = 1, 10 do
      assert.equal("pong", other:send("ping"):line())
    end
    other:send "resume"
    prints(session, "resume", "half", "lost\tdone\tlocal")
  end)
end

local function describeClosing(serve)
  it("sends everything queued at loseConnection, and reads nothing more", function()
    local session = serve(commands [[
      function commands.go(self, t)
        print("before", t.disconnecting)
        for i = 1, 512 do t:write((string.char(i % 256)):rep(16384)) end
        t:loseConnection()
        t:loseConnection()
        print("after", t.disconnecting)
      end
      function commands.more() print "delivered" end
    ]])
    local peer = session:connect():send "go"
    prints(session, "before\tfalse", "after\ttrue")
    peer:send "more"
    local text, ending = peer:receiveAll()
    assert.equal("eof", ending)
    assert.equal(512 * 16384, #text)
    for i = 1, 512 do
      assert.equal(i % 256, text:byte((i - 1) * 16384 + 1))
      assert.equal(i % 256, text:byte(i * 16384))
    end
    prints(session, "lost\tdone\tlocal")
  end)

  it("ends at stopProducing as at loseConnection", function()
    local session = serve(commands [[
      function commands.go(self, t) t:write "bye"; t:stopProducing(); print(t.disconnecting, t:write "never") end
    ]])
    assert.same({ "bye", "eof" }, { session:connect():send("go"):receiveAll() })
    prints(session, "true\tnil\tclosing\tEPIPE", "lost\tdone\tlocal")
  end)

  it("tells connectionLost last, once, and never from inside another callback", function()
    local session = serve [[
      local P = {}
      function P:connectionMade() print("made", self.factory ~= nil) end
      function P:dataReceived(data)
        local t = self.transport
        print("data", data)
        if data == "close" then t:loseConnection() else t:abortConnection() end
        t:flush()
        print("returns", t.disconnecting)
      end
      function P:connectionLost(reason)
        self.transport:loseConnection()
        self.transport:abortConnection()
        self.transport:loseWriteConnection()
        self.transport:flush()
        print("lost", reason.code, reason.by, self.transport.disconnecting, self.transport:bufferedAmount())
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    session:connect():send "close"
    prints(session, "made\ttrue", "data\tclose", "returns\ttrue", "lost\tdone\tlocal\ttrue\t0")
    session:connect():send "abort"
    prints(session, "made\ttrue", "data\tabort", "returns\ttrue", "lost\taborted\tlocal\ttrue\t0")
    session:connect():send "close"
    prints(session, "made\ttrue") -- and nothing more of the one before
  end)

  it("answers a half-close with what is queued and its own end", function()
    local session = serve(commands [[
      function commands.go(self, t) t:write(("x"):rep(3000000)) end
    ]])
    local peer = session:connect():send "go"
    peer:halfClose()
    local text, ending = peer:receiveAll()
    assert.same({ 3000000, "eof" }, { #text, ending })
    prints(session, "lost\tdone\tpeer")
  end)

  it("leaves the closing to a protocol with readConnectionLost when the peer half-closes", function()
    local session = serve(commands [[
      local waiting
      function P:readConnectionLost() waiting = self; print "half"; self.transport:write "and then " end
      function commands.finish(self)
        waiting.transport:write "the end"
        waiting.transport:loseConnection()
      end
    ]])
    local peer = session:connect()
    peer:halfClose()
    prints(session, "half")
    assert.equal("and then ", peer:receive(9))
    session:connect():send "finish"
    assert.same({ "the end", "eof" }, { peer:receiveAll() })
    prints(session, "lost\tdone\tlocal")
  end)

  it("sends FIN at loseWriteConnection after the queue, says so, and reads on", function()
    local session = serve(commands [[
      function commands.go(self, t)
        t:write(("x"):rep(1000000))
        t:loseWriteConnection()
        t:loseWriteConnection()
        print("write", t.disconnecting, t:write "never")
      end
      function P:writeConnectionLost() print "half" end
      function commands.still(self, t) print "still" end
    ]])
    local peer = session:connect():send "go"
    local text, ending = peer:receiveAll()
    assert.same({ 1000000, "eof" }, { #text, ending })
    prints(session, "write\tfalse\tnil\tclosing\tEPIPE", "half")
    peer:send "still"
    prints(session, "still")
    peer:halfClose()
    prints(session, "lost\tdone\tpeer")
  end)

  it("ends once both halves are closed, whichever is first", function()
    local session = serve(commands [[
      function commands.go(self, t) t:loseWriteConnection() end
      function P:readConnectionLost() print "read"; self.transport:loseWriteConnection() end
      function P:writeConnectionLost() print "write" end
    ]])
    session:connect():halfClose()
    prints(session, "read", "write", "lost\tdone\tlocal")
    local peer = session:connect():send "go"
    prints(session, "write")
    peer:halfClose()
    prints(session, "read", "lost\tdone\tpeer")
  end)
end

local function describeBreaking(serve, carrier)
  it("drops the queue and resets at abortConnection", function()
    local session = serve(commands [[
      function commands.go(self, t)
        t:write(("x"):rep(8388608))
        t:abortConnection()
        t:abortConnection()
        print("write", t.disconnecting, t:write "never")
      end
    ]])
    local text, ending = session:connect():send("go"):receiveAll()
    assert.equal(carrier.reset or "ECONNRESET", ending)
    assert.is_true(#text < 8388608)
    prints(session, "write\ttrue\tnil\tclosing\tEPIPE", "lost\taborted\tlocal")
  end)

  it("is aborted by abortConnection, whether loseConnection comes before or after", function()
    local session = serve(commands [[
      function commands.first(self, t) t:abortConnection(); t:loseConnection() end
      function commands.last(self, t) t:loseConnection(); t:abortConnection() end
      function commands.half(self, t) t:loseWriteConnection(); t:abortConnection() end
    ]])
    for _, word in ipairs { "first", "last", "half" } do
      session:connect():send(word)
      prints(session, "lost\taborted\tlocal")
    end
  end)

  if carrier.resets ~= false then
    it("is lost when the peer resets", function()
      local session = serve [[
        local P = {}
        function P:connectionMade() print "made" end
        function P:connectionLost(reason) print(reason.code, reason.by, reason.errno, reason) end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]]
      local peer = session:connect()
      prints(session, "made")
      peer:reset()
      prints(session, "lost\tpeer\tECONNRESET\tthe connection was lost: Connection reset by peer")
    end)
  end

  it("is closed by an error in a callback: what was queued is dropped, what was sent stays sent", function()
    local text = commands [[
      function commands.fine(self, t) t:write "fine\n" end
      function commands.go(self, t)
        t:write "dropped"
        error "boom" -- here
      end
      function P:connectionLost(reason)
        print(reason.code, reason.by, reason.errno, reason)
        print(reason.traceback:match "^[^\n]*")
        print("queued", self.transport:bufferedAmount())
      end
    ]]
    local session = serve(text)
    local peer = session:connect():send "fine"
    assert.equal("fine", peer:line())
    assert.same({ "", "eof" }, { peer:send("go"):receiveAll() })
    local raised = ("script.lua:%d: boom"):format(lineOf(text, "-- here"))
    assert.matches("^error\tlocal\tnil\ta callback failed: .*" .. raised:gsub("%p", "%%%0") .. "$", session:line())
    assert.equal(raised, session:line():sub(-#raised))
    prints(session, "queued\t0")
  end)

  it("refuses with a clean close, and calls nothing, where there is no protocol", function()
    local session = serve [[
      local P, n = {}, 0
      for _, name in ipairs { "connectionMade", "dataReceived", "connectionLost" } do
        P[name] = function() print(name) end
      end
      local protocol
      local function build(self)
        n = n + 1
        print("build", n)
        if n == 2 then error "no" end
        return nil
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P, buildProtocol = build }
    ]]
    for i = 1, 3 do
      assert.same({ "", carrier.early or "eof" }, { session:connect():receiveAll() })
      prints(session, "build\t" .. i)
    end
  end)

  it("is closed by an error in connectionMade, and tells connectionLost", function()
    local session = serve [[
      local P = {}
      function P:connectionMade() self.transport:write "dropped"; print "made"; error "boom" end
      function P:connectionLost(reason) print(reason.code, reason.by) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    assert.same({ "", carrier.early or "eof" }, { session:connect():receiveAll() })
    prints(session, "made", "error\tlocal")
  end)
end

-- A streaming producer that writes until it is paused, so many pieces.
local STREAMING = [[
  local function newProducer(t, pieces, size)
    local producer = { n = 0 }
    function producer:pauseProducing() self.paused = true; print "pause" end
    function producer:resumeProducing() self.paused = false; print "resume"; self:fill() end
    function producer:stopProducing() self.paused = true; print "stop" end
    function producer:fill()
      while not self.paused and self.n < pieces do
        self.n = self.n + 1
        t:write((string.char(self.n % 256)):rep(size))
      end
      if self.n == pieces then t:unregisterProducer() end
    end
    return producer
  end
]]

local function assertPieces(text, pieces, size)
  assert.equal(pieces * size, #text)
  for n = 1, pieces do
    assert.equal(n % 256, text:byte((n - 1) * size + 1))
    assert.equal(n % 256, text:byte(n * size))
  end
end

local function describeProducers(serve)
  it("pauses a producer inside the write that crosses highWater, and resumes it at lowWater", function()
    local session = serve(commands([[
      function commands.go(self, t)
        local producer, chunk = { pauses = 0, resumes = 0 }, ("x"):rep(100000)
        function producer:pauseProducing()
          self.pauses, self.paused = self.pauses + 1, true
          local amount = t:bufferedAmount()
          print("pause", self.pauses, amount > 1000000 and amount <= 1100000)
        end
        function producer:resumeProducing()
          self.resumes, self.paused = self.resumes + 1, false
          print("resume", self.resumes, t:bufferedAmount() <= 100000)
          if self.resumes == 3 then
            t:unregisterProducer()
            t:loseConnection()
          else
            self:fill()
          end
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
    ]], "highWater = 1000000, lowWater = 100000"))
    local text, ending = session:connect():send("go"):receiveAll()
    assert.equal("eof", ending)
    assert.equal(0, #text % 100000)
    prints(session, "registered") -- a streaming producer is not asked to start
    for i = 1, 3 do
      prints(session, ("pause\t%d\ttrue"):format(i), ("resume\t%d\ttrue"):format(i))
    end
    prints(session, "lost\tdone\tlocal")
  end)

  it("asks a producer that is pulled for the next piece each time the last one is gone", function()
    local session = serve(commands [[
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
    local text, ending = session:connect():send("go"):receiveAll()
    assert.equal("eof", ending)
    assertPieces(text, 100, 50000)
    prints(session, "most\t50000", "lost\tdone\tlocal")
  end)

  for _, streaming in ipairs { true, false } do
    it(("lets a %s producer finish before loseConnection closes"):format(streaming and "streaming" or "pulled"), function()
      local session = serve(commands(STREAMING .. ([[
        function commands.go(self, t)
          local producer = newProducer(t, 200, 100000)
          local streaming = %s
          if not streaming then
            function producer:resumeProducing()
              self.n = self.n + 1
              t:write((string.char(self.n)):rep(100000))
              if self.n == 200 then t:unregisterProducer() end
            end
          end
          t:registerProducer(producer, streaming)
          if streaming then producer:fill() end
          t:loseConnection()
          print("closing", t.disconnecting)
        end
      ]]):format(tostring(streaming))))
      local text, ending = session:connect():send("go"):receiveAll()
      assert.equal("eof", ending)
      assertPieces(text, 200, 100000)
      local line
      repeat
        line = session:line()
      until line ~= "pause" and line ~= "resume" and line ~= "closing\ttrue"
      assert.equal("lost\tdone\tlocal", line)
    end)
  end

  it("stops a producer when the connection ends before it has finished", function()
    local session = serve(commands(STREAMING .. [[
      function commands.go(self, t)
        local producer = newProducer(t, 100000, 1000)
        t:registerProducer(producer, true)
        t:write "x"
        t:abortConnection()
      end
    ]]))
    session:connect():send "go"
    prints(session, "stop", "lost\taborted\tlocal")
  end)

  it("stops a producer at once that is registered when the connection is gone", function()
    local session = serve(commands [[
      function P:connectionLost()
        local producer = {}
        function producer:resumeProducing() print "asked" end
        function producer:stopProducing() print "stopped" end
        print("registered", self.transport:registerProducer(producer, false))
        print("registered", self.transport:registerProducer({ resumeProducing = function() end }, false))
        self.transport:unregisterProducer()
      end
      function commands.go(self, t) t:loseConnection() end
    ]])
    session:connect():send "go"
    prints(session, "stopped", "registered\tnil\tclosing\tEPIPE", "registered\tnil\tclosing\tEPIPE")
  end)

  it("ends the connection of a producer that raises, and not the writer's callback", function()
    local session = serve(commands [[
      function commands.go(self, t)
        local producer = {}
        function producer:pauseProducing() error "boom" end
        function producer:resumeProducing() end
        t:registerProducer(producer, true)
        local count = 0
        repeat
          count = count + 1
          local ok, message, code = t:write(("x"):rep(100000))
        until not ok or count > 1000
        print("writer", t:write "x")
      end
    ]])
    session:connect():send "go"
    prints(session, "writer\tnil\tclosing\tEPIPE", "lost\terror\tlocal")
  end)
end

-- What becomes of a file or a pipe is a line.
local TOLD = [[
  local function tell(name, d)
    d:addBoth(function(r)
      if type(r) == "number" then print(name, r) else print(name, r.value.code or r.type, r.value.bytes) end
    end)
  end
]]

local function describeFiles(serve)
  it("sends files in order with what is written, and tells when they are sent", function()
    local path = support.file("file.txt", ("0123456789"):rep(30000))
    local session = serve(commands(TOLD .. ([[
      function commands.go(self, t)
        t:write "<"
        tell("whole", t:sendFile(%q))
        t:write "|"
        tell("part", t:sendFile(%q, 5, 7))
        tell("nothing", t:sendFile(%q, 300000))
        t:write ">"
        print("returns", t:bufferedAmount() > 0)
      end
    ]]):format(path, path, path)))
    local peer = session:connect():send "go"
    assert.is_true("<" .. ("0123456789"):rep(30000) .. "|5678901>" == peer:receive(300010))
    prints(session, "nothing\t0", "returns\ttrue", "whole\t300000", "part\t7")
  end)

  it("fails to send a file that is not there, has no such part, or comes too late", function()
    local path = support.file("file.txt", ("x"):rep(100))
    local session = serve(commands(TOLD .. ([[
      function commands.go(self, t)
        local d = t:sendFile(%q .. "/missing")
        d:addErrback(function(f) print(f.value.message) end)
        tell("missing", t:sendFile(%q .. "/missing"))
        tell("folder", t:sendFile(%q))
        tell("behind", t:sendFile(%q, 101))
        tell("more", t:sendFile(%q, 90, 11))
        t:loseConnection()
        tell("late", t:sendFile(%q))
      end
    ]]):format(support.folder(), support.folder(), support.folder(), path, path, path)))
    assert.same({ "", "eof" }, { session:connect():send("go"):receiveAll() })
    prints(session, ("cannot send %s/missing: No such file or directory"):format(support.folder()), "missing\tENOENT\t0",
      "folder\tEISDIR\t0", "behind\tERANGE\t0", "more\tERANGE\t0", "late\tEPIPE\t0", "lost\tdone\tlocal")
  end)

  it("fails to send a file whose connection is lost before, and says why", function()
    local path = support.file("file.txt", ("x"):rep(20000000))
    local session = serve(commands(TOLD .. ([[
      function commands.go(self, t) tell("file", t:sendFile(%q)); t:abortConnection() end
    ]]):format(path)))
    session:connect():send "go"
    prints(session, "file\taborted\tnil", "lost\taborted\tlocal")
  end)
end

local function describePipes(serve)
  local pair = TOLD .. [[
    local sink, pipe
    function commands.take(self, t) sink = t; t:write "ok\n" end
    function commands.give(self, t) pipe = t:pipe(sink); tell("piped", pipe); t:write "go\n" end
    function commands.cancel(self, t) pipe:cancel(); t:write "ok\n" end
    function commands.abort(self, t) sink:abortConnection() end
  ]]

  local function join(session)
    local sink, source = session:connect(), session:connect()
    assert.equal("ok", sink:send("take"):line())
    assert.equal("go", source:send("give"):line())
    return sink, source
  end

  it("pipes what it reads to another, and its end", function()
    local session = serve(commands(pair))
    local sink, source = join(session)
    local bytes = ("0123456789abcdef"):rep(3000)
    source:send(bytes)
    assert.is_true(bytes == sink:receive(#bytes))
    source:halfClose()
    assert.same({ "", "eof" }, { sink:receiveAll() })
    prints(session, "piped\t48000", "lost\tdone\tpeer")
  end)

  it("pipes no more once that is cancelled", function()
    local session = serve(commands(pair))
    local sink, source = join(session)
    source:send "piped"
    assert.equal("piped", sink:receive(5))
    assert.equal("ok", source and session:connect():send("cancel"):line())
    prints(session, "piped\tCancelledError\tnil")
    assert.equal("ok", source:send("take"):line())
  end)

  it("is told that the one it is piped to takes no more", function()
    local session = serve(commands(pair))
    local sink, source = join(session)
    source:send "twelve bytes"
    assert.equal("twelve bytes", sink:receive(12))
    session:connect():send "abort"
    local lines = { session:line(), session:line() }
    table.sort(lines)
    assert.same({ "lost\taborted\tlocal", "piped\tEPIPE\t12" }, lines)
  end)

  it("refuses a second pipe, and what is no transport, at the caller's line", function()
    local text = commands [[
      function commands.go(self, t)
        t:pipe(t)
        local function try(f) print(select(2, pcall(f))) end
        try(function() t:pipe(t) end) -- again
        try(function() t:pipe("x") end) -- text
        try(function() t:pipe({}) end) -- empty
        try(function() t:sendFile(12) end) -- number
        try(function() t:sendFile("a\0b") end) -- zero
        try(function() t:sendFile("a", -1) end) -- offset
        try(function() t:sendFile("a", 0, 1.5) end) -- length
      end
    ]]
    local session = serve(text)
    session:connect():send "go"
    for _, case in ipairs {
      { "-- again", "pipe: one of both is part of a pipe already" },
      { "-- text", "pipe takes the transport that is to send, not a string" },
      { "-- empty", "pipe takes the transport that is to send, not a table" },
      { "-- number", "sendFile takes the path of a file, not a number" },
      { "-- zero", "sendFile takes the path of a file, not a zero byte" },
      { "-- offset", "sendFile: offset is a number of bytes, not -1" },
      { "-- length", "sendFile: length is a number of bytes, not 1.5" },
    } do
      local expected = ("script.lua:%d: %s"):format(lineOf(text, case[1]), case[2])
      assert.equal(expected, session:line():sub(-#expected))
    end
  end)
end

local function describeRest(serve, carrier)
  it("knows both addresses, to the end and after it", function()
    local session = serve [[
      local P = {}
      function P:connectionMade()
        local t = self.transport
        self.peer, self.host = t:getPeer(), t:getHost()
        print(self.peer.type, self.peer)
        print(self.host.type, self.host)
        t:loseConnection()
      end
      function P:connectionLost()
        print(self.transport:getPeer() == self.peer, self.transport:getHost() == self.host)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    session:connect()
    for _ = 1, 2 do
      local kind, text = session:line():match "^(%w+)\t(.*)$"
      assert.matches(carrier.address, text)
      assert.equal(kind:lower():gsub("6", ""), text:match "^%w+", nil)
    end
    prints(session, "true\ttrue")
  end)

  it("takes no-delay and keep-alive while it is open", function()
    local session = serve(commands [[
      local kept
      function commands.go(self, t)
        kept = t
        print(t:setTcpNoDelay(false), t:setTcpNoDelay(true), t:setTcpKeepAlive(true, 60), t:setTcpKeepAlive(false))
        t:loseConnection()
      end
      function commands.after()
        print("after", kept:setTcpNoDelay(true))
        print("after", kept:setTcpKeepAlive(true))
      end
    ]])
    assert.same({ "", "eof" }, { session:connect():send("go"):receiveAll() })
    prints(session, "true\ttrue\ttrue\ttrue", "lost\tdone\tlocal")
    session:connect():send "after"
    for _ = 1, 2 do
      prints(session, "after\tnil\tTransport endpoint is not connected\tENOTCONN")
    end
  end)

  it("writes to other connections, too", function()
    local session = serve(commands [[
      local all = {}
      function P:connectionMade() all[#all + 1] = self; self.transport:write "ready\n" end
      function commands.go(self)
        for i = 1, 300 do
          for _, p in ipairs(all) do p.transport:write(string.char(32 + i % 90)) end
        end
        for i, p in ipairs(all) do p.transport:loseConnection() end
      end
    ]])
    local peers = {}
    for i = 1, 5 do
      peers[i] = session:connect()
      assert.equal("ready", peers[i]:line())
    end
    peers[1]:send "go"
    for _, peer in ipairs(peers) do
      local text, ending = peer:receiveAll()
      assert.same({ 300, "eof" }, { #text, ending })
    end
    for _ = 1, 5 do
      prints(session, "lost\tdone\tlocal")
    end
  end)
end

--- The text of a service with a wrapper around each of its protocols; its lines stay where they are.
function carriers.wrapped(text)
  return "local function service() " .. text
    .. "\nend return require('skald.policies').WrappingFactory:new(service())"
end

--- Describes what a carrier's transports do.
function carriers.describe(carrier)
  describe(("a transport of %s"):format(carrier.name), function()
    after_each(support.cleanup)
    describeWriting(carrier.serve)
    describeMisuse(carrier.serve)
    describeReading(carrier.serve)
    describeClosing(carrier.serve)
    describeBreaking(carrier.serve, carrier)
    describeProducers(carrier.serve)
    describeFiles(carrier.serve)
    describePipes(carrier.serve)
    describeRest(carrier.serve, carrier)
  end)
end

return carriers
