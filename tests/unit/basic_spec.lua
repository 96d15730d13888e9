local basic = require "skald.basic"
local class = require "skald.class"
local fuzz = require "fuzz.receivers"
local protocol = require "skald.protocol"

local FakeTransport = {}
FakeTransport.__index = FakeTransport

function FakeTransport:write(data)
  self.written[#self.written + 1] = data
  return true
end

function FakeTransport:loseConnection()
  self.closes = self.closes + 1
  self.disconnecting = true
end

function FakeTransport:abortConnection()
  self.aborted = true
  self.disconnecting = true
end

function FakeTransport:pauseProducing()
  self.reading = false
end

function FakeTransport:resumeProducing()
  self.reading = true
end

function FakeTransport:stopProducing()
  self.stopped = true
end

local function newTransport()
  return setmetatable({ written = {}, closes = 0, disconnecting = false, reading = true }, FakeTransport)
end

-- One that closes without a word about it.
local function newMuteTransport()
  local transport = newTransport()
  function transport:loseConnection()
    self.closes = self.closes + 1
  end
  return transport
end

-- An instance of a class, connected; `seen` of it takes what the handlers note.
local function connected(receiver, transport)
  local made = receiver:new()
  made.seen = {}
  made:makeConnection(transport or newTransport())
  return made
end

-- A handler that notes what it is given.
local function noting(name)
  return function(self, data)
    self.seen[#self.seen + 1] = name and name .. " " .. tostring(data) or data
  end
end

local function deriving(receiver, methods)
  return receiver({ lineReceived = noting(), stringReceived = noting() }, methods or {})
end

local function feed(receiver, pieces)
  for _, piece in ipairs(pieces) do
    receiver:dataReceived(piece)
  end
end

local function bytesOf(data)
  local pieces = {}
  for i = 1, #data do
    pieces[i] = data:sub(i, i)
  end
  return pieces
end

local function randomPieces(data, longest)
  local pieces, at = {}, 1
  while at <= #data do
    local size = math.random(1, longest)
    pieces[#pieces + 1] = data:sub(at, at + size - 1)
    at = at + size
  end
  return pieces
end

-- Every way to cut that is tried: whole, in two everywhere, byte by byte, and at random.
local function cutsOf(data)
  local cuts = { { data }, bytesOf(data) }
  for i = 1, #data - 1 do
    cuts[#cuts + 1] = { data:sub(1, i), data:sub(i + 1) }
  end
  math.randomseed(5)
  for i = 1, 60 do
    cuts[#cuts + 1] = randomPieces(data, 1 + i % 12)
  end
  return cuts
end

local function isSame(a, b)
  for key, value in pairs(a) do
    if b[key] ~= value then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

-- However `data` is cut, the handlers of a class note `expected`, and the connection closes `closes` times.
local function assertCuts(receiver, data, expected, closes)
  for _, pieces in ipairs(cutsOf(data)) do
    local made = connected(receiver)
    feed(made, pieces)
    -- luassert takes its time, even with what is right
    if not isSame(expected, made.seen) or made.transport.closes ~= (closes or 0) then
      local where = ("cut as <%s>"):format(table.concat(pieces, "|", 1, math.min(#pieces, 60)))
      assert.same(expected, made.seen, where)
      assert.equal(closes or 0, made.transport.closes, where)
    end
  end
end

-- What `f` allocates, in bytes, and what of it stays.
local function measure(f)
  collectgarbage()
  collectgarbage()
  local before = collectgarbage "count"
  collectgarbage "stop"
  f()
  local after = collectgarbage "count"
  collectgarbage "restart"
  collectgarbage()
  collectgarbage()
  return (after - before) * 1024, (collectgarbage "count" - before) * 1024
end

local function raisesHere(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches("basic_spec%.lua:%d+: ", message)
  return message
end

local int = {
  [1] = function(n) return string.char(n) end,
  [2] = function(n) return string.char(math.floor(n / 256), n % 256) end,
  [4] = function(n)
    return string.char(math.floor(n / 2 ^ 24), math.floor(n / 2 ^ 16) % 256, math.floor(n / 256) % 256, n % 256)
  end,
}

-- How each kind frames a message, and how its handlers are called.
local kinds = {
  {
    name = "LineReceiver", frame = function(s) return s .. "\r\n" end, handler = "lineReceived",
    clear = "clearLineBuffer", exceeded = "lineLengthExceeded",
  },
  {
    name = "LineOnlyReceiver", frame = function(s) return s .. "\r\n" end, handler = "lineReceived",
    clear = "clearLineBuffer", exceeded = "lineLengthExceeded",
  },
  {
    name = "NetstringReceiver", frame = function(s) return #s .. ":" .. s .. "," end, handler = "stringReceived",
    clear = "clearBuffer", exceeded = "lengthLimitExceeded",
  },
}

local function varint(n)
  local bytes = ""
  while n >= 128 do
    bytes = bytes .. string.char(128 + n % 128)
    n = math.floor(n / 128)
  end
  return bytes .. string.char(n)
end

kinds[#kinds + 1] = {
  name = "VarintStringReceiver", frame = function(s) return varint(#s) .. s end, handler = "stringReceived",
  clear = "clearBuffer", exceeded = "lengthLimitExceeded",
}

for width, bits in pairs { 8, 16, [4] = 32 } do
  kinds[#kinds + 1] = {
    name = ("Int%dStringReceiver"):format(bits), frame = function(s) return int[width](#s) .. s end,
    handler = "stringReceived", clear = "clearBuffer", exceeded = "lengthLimitExceeded",
  }
end

local function framed(kind, messages)
  local all = {}
  for i, message in ipairs(messages) do
    all[i] = kind.frame(message)
  end
  return table.concat(all)
end

for _, kind in ipairs(kinds) do
  local Receiver = basic[kind.name]

  -- A class whose handler notes each message, then does `f`.
  local function doing(f, more)
    return Receiver({ [kind.handler] = function(self, message)
      self.seen[#self.seen + 1] = message
      return f(self, message)
    end }, more or {})
  end

  describe(kind.name, function()
    local messages = { "hello", "", "x", "a: b, c", "\r", "\n\r", "", "1:a,", ("long "):rep(12), "\0\0\1", "end" }

    it("delivers the same messages however the stream is cut", function()
      assertCuts(deriving(Receiver), framed(kind, messages), messages)
    end)

    it("delivers what is whole, and waits for what is not", function()
      local made = connected(deriving(Receiver))
      local last = kind.frame "unfinished"
      made:dataReceived(framed(kind, { "one", "two" }) .. last:sub(1, -2))
      assert.same({ "one", "two" }, made.seen)
      made:dataReceived(last:sub(-1))
      assert.same({ "one", "two", "unfinished" }, made.seen)
    end)

    it("delivers megabytes, cut at random", function()
      math.randomseed(11)
      local list, made = {}, connected(deriving(Receiver))
      for i = 1, 20000 do
        list[i] = ("%x"):format(math.random(0, 2 ^ 31)):rep(math.random(1, 12))
      end
      feed(made, randomPieces(framed(kind, list), 20000))
      assert.same(list, made.seen)
    end)

    it("takes messages of exactly MAX_LENGTH, and none that is longer", function()
      local Seven = deriving(Receiver, { MAX_LENGTH = 7 })
      assertCuts(Seven, framed(kind, { "1234567", "", "1234567" }), { "1234567", "", "1234567" })
      assertCuts(Seven, framed(kind, { "1234567", "12345678", "never" }), { "1234567" }, 1)
      assertCuts(Seven, framed(kind, { ("x"):rep(100), "never" }), {}, 1)
    end)

    it("delivers nothing after it refused a message, whatever the transport says", function()
      for _, pieces in ipairs(cutsOf(framed(kind, { "ok", "12345678", "never", "ever" }))) do
        local made = connected(deriving(Receiver, { MAX_LENGTH = 7 }), newMuteTransport())
        feed(made, pieces)
        made:dataReceived(framed(kind, { "again" }))
        assert.same({ "ok" }, made.seen)
        assert.equal(1, made.transport.closes)
      end
    end)

    for _, ending in ipairs { "loseConnection", "abortConnection" } do
      it("delivers nothing after " .. ending, function()
        local Closing = doing(function(self, message)
          if message == "stop" then
            self.transport[ending](self.transport)
          end
        end)
        assertCuts(Closing, framed(kind, { "a", "stop", "b", "c" }), { "a", "stop" }, ending == "loseConnection" and 1 or 0)
      end)

      it("delivers nothing that was held after " .. ending, function()
        local made = connected(doing(function(self) self:pauseProducing() end))
        made:dataReceived(framed(kind, { "a", "b" }))
        made.transport[ending](made.transport)
        made:resumeProducing()
        made:dataReceived(kind.frame "c")
        assert.same({ "a" }, made.seen)
        assert.equal("", made[kind.clear](made))
      end)
    end

    it("keeps nothing of what comes after loseConnection", function()
      local made = connected(deriving(Receiver))
      made.transport:loseConnection()
      local _, kept = measure(function()
        for i = 1, 200 do
          made:dataReceived(kind.frame "abc" .. ("x"):rep(1000 + i))
        end
      end)
      assert.is_true(kept < 20000)
      assert.same({}, made.seen)
    end)

    it("holds what comes while it is paused, and delivers it at once when resumed", function()
      local made = connected(deriving(Receiver))
      made:pauseProducing()
      assert.is_true(made.paused)
      assert.is_false(made.transport.reading)
      feed(made, bytesOf(framed(kind, { "a", "b" })))
      assert.same({}, made.seen)
      made:resumeProducing()
      assert.is_false(made.paused)
      assert.is_true(made.transport.reading)
      assert.same({ "a", "b" }, made.seen)
    end)

    it("delivers one message at a time to a handler that pauses each time", function()
      local made = connected(doing(function(self) self:pauseProducing() end))
      made:dataReceived(framed(kind, { "a", "b" }) .. kind.frame("cde"):sub(1, 3))
      assert.same({ "a" }, made.seen)
      made:dataReceived(kind.frame("cde"):sub(4) .. kind.frame "f")
      assert.same({ "a" }, made.seen)
      local expected = { "a" }
      for _, message in ipairs { "b", "cde", "f" } do
        made:resumeProducing()
        expected[#expected + 1] = message
        assert.same(expected, made.seen)
        assert.is_true(made.paused)
        assert.is_false(made.transport.reading)
      end
      made:resumeProducing()
      assert.same(expected, made.seen)
      assert.is_false(made.paused)
    end)

    it("delivers what was held before what a resumed transport brings at once", function()
      local made = connected(deriving(Receiver))
      made:pauseProducing()
      made:dataReceived(kind.frame "first")
      function made.transport.resumeProducing()
        made:dataReceived(kind.frame "second")
      end
      made:resumeProducing()
      assert.same({ "first", "second" }, made.seen)
    end)

    it("goes on after a handler that pauses and resumes, in order and without recursion", function()
      local depth, deepest = 0, 0
      local Restless = doing(function(self)
        depth = depth + 1
        deepest = math.max(deepest, depth)
        self:pauseProducing()
        self:resumeProducing()
        depth = depth - 1
      end)
      assertCuts(Restless, framed(kind, messages), messages)
      local made = connected(Restless)
      made:dataReceived(kind.frame("x"):rep(5000))
      assert.equal(5000, #made.seen)
      assert.equal(1, deepest)
    end)

    it("puts what a handler feeds behind what is here, without recursion", function()
      local depth, deepest = 0, 0
      local made = connected(doing(function(self, message)
        depth = depth + 1
        deepest = math.max(deepest, depth)
        local n = tonumber(message)
        if n and n > 0 then
          feed(self, bytesOf(kind.frame(tostring(n - 1))))
        end
        depth = depth - 1
      end))
      made:dataReceived(framed(kind, { "3", "a", "b" }))
      assert.same({ "3", "a", "b", "2", "1", "0" }, made.seen)
      made:dataReceived(kind.frame "5000")
      assert.equal(6 + 5001, #made.seen)
      assert.equal(1, deepest)
    end)

    it("holds what a handler feeds after it paused", function()
      local made = connected(doing(function(self, message)
        if message == "a" then
          self:pauseProducing()
          self:dataReceived(kind.frame "fed")
        end
      end))
      made:dataReceived(framed(kind, { "a", "b" }))
      assert.same({ "a" }, made.seen)
      made:resumeProducing()
      assert.same({ "a", "b", "fed" }, made.seen)
    end)

    it("takes up what comes while a handler waits in a coroutine", function()
      local made = connected(doing(function(_, message)
        if message == "wait" then
          coroutine.yield()
        end
      end))
      local co = coroutine.create(made.dataReceived)
      assert(coroutine.resume(co, made, framed(kind, { "wait", "b" })))
      feed(made, bytesOf(framed(kind, { "c", "d" })))
      assert.same({ "wait" }, made.seen)
      assert(coroutine.resume(co))
      assert.equal("dead", coroutine.status(co))
      assert.same({ "wait", "b", "c", "d" }, made.seen)
    end)

    it("lets an error of a handler out as it is, and delivers no message twice", function()
      local problem = { "raised" }
      for at = 0, 8 do
        local list = {}
        for i = 1, 10 do
          list[i] = tostring(i)
        end
        local made = connected(doing(function(_, message)
          if message == list[at + 1] then
            error(problem)
          end
        end))
        local ok, raised = pcall(made.dataReceived, made, framed(kind, list))
        assert.is_false(ok)
        assert.equal(problem, raised)
        pcall(made.dataReceived, made, kind.frame "later")
        pcall(made.resumeProducing, made)
        local times = {}
        for _, message in ipairs(made.seen) do
          times[message] = (times[message] or 0) + 1
          assert.equal(1, times[message])
        end
      end
    end)

    it("lets an error out of resumeProducing, and delivers the rest when it is resumed again", function()
      local made = connected(doing(function(_, message)
        if message == "bad" then
          error("no good", 0)
        end
      end))
      made:pauseProducing()
      made:dataReceived(framed(kind, { "a", "bad", "b" }) .. kind.frame("cut"):sub(1, 2))
      local ok, raised = pcall(made.resumeProducing, made)
      assert.same({ false, "no good" }, { ok, raised })
      assert.same({ "a", "bad" }, made.seen)
      made:resumeProducing()
      made:dataReceived(kind.frame("cut"):sub(3))
      assert.same({ "a", "bad", "b", "cut" }, made.seen)
    end)

    it("tells a transport that takes it of an error in resumeProducing, and spares the caller", function()
      local text
      local made = connected(doing(function() error("no good", 0) end))
      function made.transport:fail(told)
        text = told
        self.disconnecting = true
      end
      made:pauseProducing()
      made:dataReceived(framed(kind, { "a", "b" }))
      made:resumeProducing()
      made:resumeProducing()
      assert.same({ "a" }, made.seen)
      assert.matches("^no good\nstack traceback:.*basic_spec%.lua", text)
    end)

    it("delivers nothing after stopProducing, not even when resumed", function()
      local Stopping = doing(function(self, message)
        if message == "stop" then
          self:stopProducing()
        end
      end)
      for _, pieces in ipairs(cutsOf(framed(kind, { "a", "stop", "b" }))) do
        local made = connected(Stopping)
        feed(made, pieces)
        made:resumeProducing()
        made:dataReceived(kind.frame "c")
        assert.same({ "a", "stop" }, made.seen)
        assert.is_true(made.transport.stopped)
      end
    end)

    it("gives back all that was not parsed, and begins anew", function()
      local data = framed(kind, { "a", "take", "b", "c" }) .. kind.frame("unfinished"):sub(1, 4)
      local made = connected(doing(function(self, message)
        if message == "take" then
          self.rest = self[kind.clear](self)
        end
      end))
      made:dataReceived(data)
      assert.equal(framed(kind, { "b", "c" }) .. kind.frame("unfinished"):sub(1, 4), made.rest)
      made:dataReceived(kind.frame "d")
      assert.same({ "a", "take", "d" }, made.seen)
      assert.equal("", made[kind.clear](made))
    end)

    it("gives back the bytes of an unfinished message as they came, wherever it was cut", function()
      local whole = kind.frame "0123456789abcdef"
      for _, pieces in ipairs(cutsOf(whole:sub(1, -2))) do
        local made = connected(deriving(Receiver))
        feed(made, pieces)
        assert.equal(whole:sub(1, -2), made[kind.clear](made))
        made:dataReceived(kind.frame "next")
        assert.same({ "next" }, made.seen)
      end
    end)

    it("gives back what was fed while it was paused, too", function()
      local made = connected(doing(function(self) self:pauseProducing() end))
      local data = framed(kind, { "a", "b", "c" })
      feed(made, { data, data })
      assert.equal(data:sub(#kind.frame "a" + 1) .. data, made[kind.clear](made))
      made:resumeProducing()
      assert.same({ "a" }, made.seen)
    end)

    it("looks its handlers up at each message", function()
      local made = connected(deriving(Receiver))
      made[kind.handler] = function(self, message)
        self[kind.handler] = nil
        self.seen[#self.seen + 1] = "own " .. message
      end
      made:dataReceived(framed(kind, { "a", "b" }))
      assert.same({ "own a", "b" }, made.seen)
    end)

    it("goes on with half a message when its class is succeeded by another", function()
      local data = framed(kind, { "one", "two" })
      for cut = 1, #data - 1 do
        local Old, New = deriving(Receiver), Receiver { [kind.handler] = noting "new" }
        local made = connected(Old)
        made:dataReceived(data:sub(1, cut))
        local before = #made.seen
        class.succeed(Old, New, true)
        made:dataReceived(data:sub(cut + 1))
        local expected = { "one", "two" }
        for i = before + 1, 2 do
          expected[i] = "new " .. expected[i]
        end
        assert.same(expected, made.seen)
      end
    end)

    it("goes on where a plain protocol was, when its class is succeeded by a receiver", function()
      local Old, New = protocol.Protocol {}, deriving(Receiver)
      local made = connected(Old)
      class.succeed(Old, New, true)
      made:dataReceived(kind.frame "a")
      assert.same({ "a" }, made.seen)
    end)

    it("needs no handler, no connection and no call of its base", function()
      connected(Receiver):dataReceived(framed(kind, messages))
      local made = deriving(Receiver):new()
      made.seen = {}
      feed(made, { framed(kind, { "a" }), "" })
      assert.same({ "a" }, made.seen)
      assert.equal("", Receiver:new()[kind.clear](Receiver:new()))
    end)

    it("works in time and memory that grow as the bytes do, down to single bytes", function()
      local message = ("0123456789abcdef"):rep(kind.name == "Int8StringReceiver" and 15 or 960)
      local whole = bytesOf(kind.frame(message))
      local made = connected(deriving(Receiver))
      local used = measure(function()
        for _ = 1, 10 do
          feed(made, whole)
        end
      end)
      assert.equal(10, #made.seen)
      assert.equal(message, made.seen[10])
      -- one copy of what is pending for each byte would be thousands
      assert.is_true(used < 10 * #whole * 150, ("%.0f bytes for each"):format(used / #whole / 10))
    end)

    it("takes no more memory for an unfinished message that came in small pieces than about its size", function()
      local size = kind.name == "Int8StringReceiver" and 250 or 16000
      local start = kind.frame(("x"):rep(size)):sub(1, size)
      local made = connected(deriving(Receiver))
      feed(made, bytesOf(start))
      local _, kept = measure(function() made[kind.clear](made) end)
      assert.is_true(-kept < 2 * size + 8192, ("%.0f bytes"):format(-kept))
    end)

    it("does not rescan: a chunk with many messages is not copied for each", function()
      local made = connected(doing(function(self)
        self.seen = {}
      end))
      local chunk = kind.frame("x"):rep(50000)
      local used = measure(function()
        made:dataReceived(chunk)
      end)
      assert.is_true(used < 50000 * 200)
    end)
  end)
end

for _, name in ipairs { "LineReceiver", "LineOnlyReceiver" } do
  local Receiver = basic[name]

  describe(name .. ", of lines,", function()
    it("ends lines at its delimiter, whatever that is made of", function()
      for _, delimiter in ipairs { "\n", "\r\n", "--\r\n", "aab", "aba", "abab", "aa", "\0", "....", "%d+" } do
        local data = table.concat({ "one", "", "-", "--\r", "b", "\r", ".", "%d", "last" }, delimiter) .. delimiter .. "rest"
        local expected = {}
        local from = 1
        repeat
          local start, stop = data:find(delimiter, from, true)
          expected[#expected + 1] = start and data:sub(from, start - 1)
          from = stop and stop + 1
        until not start
        assertCuts(deriving(Receiver, { delimiter = delimiter }), data, expected)
      end
    end)

    it("ends a line at the first delimiter, even where one begins within another's beginning", function()
      assertCuts(deriving(Receiver, { delimiter = "aab" }), "aaab.aaaab.aabaab", { "a", ".aa", ".", "" })
      assertCuts(deriving(Receiver, { delimiter = "abab" }), "aabab.ababab.abaabab.abababab", { "a", ".", "ab.aba", ".", "" })
      assertCuts(deriving(Receiver, { delimiter = "aaa" }), "aaaaa.aa.aaaa.aaaaaa", { "", "aa.aa.", "a.", "" })
      assertCuts(deriving(Receiver), "a\r\r\nb\r\n\r\r\r\n\n\r\n", { "a\r", "b", "\r\r", "\n" })
    end)

    -- in all that can be made of two letters
    it("ends lines at any delimiter of up to four bytes where a plain search does", function()
      math.randomseed(3)
      local function word(size)
        local letters = {}
        for i = 1, size do
          letters[i] = math.random(2) == 1 and "a" or "b"
        end
        return table.concat(letters)
      end
      for size = 1, 4 do
        for _ = 1, 2 ^ size * 3 do
          local delimiter, data = word(size), word(24)
          local expected, from = {}, 1
          local start, stop = data:find(delimiter, 1, true)
          while start do
            expected[#expected + 1], from = data:sub(from, start - 1), stop + 1
            start, stop = data:find(delimiter, from, true)
          end
          assertCuts(deriving(Receiver, { delimiter = delimiter }), data, expected)
        end
      end
    end)

    it("delivers the shortest lines as it does others, in long rows of them and where a row ends", function()
      local expected, lengths = {}, { 1, 1, 1, 1, 1, 0, 1, 2, 1, 1, 0, 0, 3, 1, 70, 1 }
      for i = 1, 4000 do
        expected[i] = (i % 7 == 0 and "\r" or "x"):rep(i < 2000 and 1 or lengths[i % #lengths + 1])
      end
      for _, delimiter in ipairs { "\n", "\r\n", "--\n" } do
        local made = connected(deriving(Receiver, { delimiter = delimiter }))
        local data = table.concat(expected, delimiter) .. delimiter
        made:dataReceived(data)
        assert.is_true(isSame(expected, made.seen), delimiter)
        made.seen = {}
        feed(made, randomPieces(data, 50))
        assert.is_true(isSame(expected, made.seen), delimiter)
      end
    end)

    it("keeps among the shortest lines to a MAX_LENGTH of none, a mode and a delimiter that its handler has changed", function()
      assertCuts(deriving(Receiver, { delimiter = "--\n" }), "--\n--\n--\nx--\ny--\n", { "", "", "", "x", "y" })
      assertCuts(deriving(Receiver, { MAX_LENGTH = 0, delimiter = "\n" }), "\n\n\n\nx\n\n", { "", "", "", "" }, 1)
      local Changing = deriving(Receiver, { delimiter = "\n", lineReceived = function(self, line)
        self.seen[#self.seen + 1] = line
        if #self.seen == 6 then
          self.delimiter = "."
        elseif #self.seen == 8 then
          self.transport:loseConnection()
        end
      end })
      assertCuts(Changing, "1\n2\n3\n4\n5\n6\n7\n.8.9.", { "1", "2", "3", "4", "5", "6", "7\n", "8" }, 1)
      local made = connected(deriving(Receiver, { delimiter = "\n", lineReceived = function(self, line)
        self.seen[#self.seen + 1] = line
        if line == "7" then
          self.delimiter = ""
        end
      end }))
      assert.has_error(function() made:dataReceived "1\n2\n3\n4\n5\n6\n7\n8" end, "the delimiter is empty")
      assert.equal(7, #made.seen)
    end)

    it("takes a line of exactly MAX_LENGTH whose delimiter is cut in two", function()
      local line = ("x"):rep(Receiver.MAX_LENGTH)
      local made = connected(deriving(Receiver))
      made:dataReceived(line .. "\r")
      assert.equal(0, made.transport.closes)
      made:dataReceived("\nnext\r\n")
      assert.equal(2, #made.seen)
      assert.equal(line, made.seen[1])
      assert.equal("next", made.seen[2])
      assert.equal(16384, Receiver.MAX_LENGTH)
    end)

    it("refuses a line as soon as it is sure to be too long, and not before", function()
      local Four = deriving(Receiver, { MAX_LENGTH = 4, delimiter = "-=-" })
      for data, closes in pairs { ["1234"] = 0, ["1234-"] = 0, ["1234-="] = 0, ["12345"] = 1, ["1234--"] = 1, ["1234-=="] = 1 } do
        assertCuts(Four, data, {}, closes)
      end
      assertCuts(Four, "123--=-", { "123-" })
      assertCuts(Four, "1-=--=-1234-=-", { "1", "", "1234" })
    end)

    it("ends lines at a delimiter that its handler has changed", function()
      local Changing = deriving(Receiver, { lineReceived = function(self, line)
        self.seen[#self.seen + 1] = line
        if line == "dot" then
          self.delimiter = "."
        elseif line == "stars" then
          self.delimiter = "***"
        end
      end })
      assertCuts(Changing, "a\r\ndot\r\nb.\r\n.stars.c.*.**.***d***e*", { "a", "dot", "b", "\r\n", "stars", "c.*.**.", "d" })
    end)

    it("ends lines at a delimiter that was changed between two events, in what it holds as well", function()
      local made = connected(deriving(Receiver))
      made:dataReceived "a.b.\r"
      made.delimiter = "."
      made:dataReceived "c."
      assert.same({ "a", "b", "\rc" }, made.seen)
      made:dataReceived "d\r\ne"
      made.delimiter = "\r\n"
      made:dataReceived "\r"
      made:dataReceived "\n"
      assert.same({ "a", "b", "\rc", "d", "e" }, made.seen)
    end)

    it("delivers what it holds as soon as it is resumed, by a delimiter that was changed meanwhile", function()
      local made = connected(deriving(Receiver))
      made:dataReceived "a.b."
      made:pauseProducing()
      made.delimiter = "."
      made:resumeProducing()
      assert.same({ "a", "b" }, made.seen)
    end)

    it("keeps to a MAX_LENGTH that its handler has changed", function()
      local Changing = deriving(Receiver, { lineReceived = function(self, line)
        self.seen[#self.seen + 1] = line
        self.MAX_LENGTH = tonumber(line)
      end })
      assertCuts(Changing, "3\r\n6\r\n000006\r\n2\r\n003\r\n6\r\n", { "3", "6", "000006", "2" }, 1)
    end)

    it("raises for a delimiter that is empty", function()
      local made = connected(deriving(Receiver, { delimiter = "" }))
      assert.has_error(function() made:dataReceived "abc" end, "the delimiter is empty")
    end)

    it("sends a line with its delimiter, and answers as the transport does", function()
      local made = connected(deriving(Receiver, { delimiter = "\n" }))
      assert.is_true(made:sendLine "hello")
      assert.is_true(made:sendLine "")
      assert.same({ "hello\n", "\n" }, made.transport.written)
      function made.transport.write()
        return nil, "closing", "EPIPE"
      end
      assert.same({ nil, "closing", "EPIPE" }, { made:sendLine "late" })
    end)

    it("sends a line as a pair where the transport takes pairs", function()
      local made = connected(deriving(Receiver))
      function made.transport:writePair(first, second)
        self.written[#self.written + 1] = { first, second }
        return true
      end
      assert.is_true(made:sendLine "hello")
      assert.same({ { "hello", "\r\n" } }, made.transport.written)
    end)

    it("raises at the caller's line when what is to be sent is no string", function()
      local made = connected(deriving(Receiver))
      for _, value in ipairs { 7, {}, true } do
        local message = raisesHere(function() made:sendLine(value) end)
        assert.matches("sendLine takes a string, not a " .. type(value), message)
      end
      raisesHere(function() made:sendLine() end)
    end)

    it("holds no more of an endless line than MAX_LENGTH and what came last", function()
      local longest = 0
      local made = connected(deriving(Receiver, { MAX_LENGTH = 1000, lineLengthExceeded = function(_, line)
        longest = math.max(longest, #line)
      end }), newMuteTransport())
      for _ = 1, 200 do
        made:dataReceived(("x"):rep(700))
      end
      assert.is_true(longest > 1000 and longest <= 1700)
      assert.is_true(#made:clearLineBuffer() <= 1700)
    end)
  end)
end

describe("a receiver of one kind that becomes one of another", function()
  it("parses anew what was held of an unfinished line", function()
    for name, data in pairs {
      Int16StringReceiver = "\0\5hello",
      VarintStringReceiver = "\5hello",
      NetstringReceiver = "5:hello,",
      LineOnlyReceiver = "hello\r\n",
    } do
      for cut = 1, #data - 1 do
        local Old = basic.LineReceiver { delimiter = "never" }
        local made = connected(Old)
        feed(made, bytesOf(data:sub(1, cut)))
        class.succeed(Old, deriving(basic[name]), true)
        made:dataReceived(data:sub(cut + 1))
        assert.same({ "hello" }, made.seen, name)
      end
    end
  end)

  it("parses anew what was held of an unfinished string", function()
    local Old = basic.Int8StringReceiver {}
    local made = connected(Old)
    feed(made, bytesOf "\65bc")
    class.succeed(Old, deriving(basic.LineReceiver), true)
    made:dataReceived "d\r\n"
    assert.same({ "Abcd" }, made.seen)
  end)

  it("cuts anew what was held of an unfinished string", function()
    local Old = basic.Int8StringReceiver {}
    local made = connected(Old)
    feed(made, bytesOf "\4ab")
    class.succeed(Old, deriving(basic.FixedStringReceiver, { SIZE = 4 }), true)
    made:dataReceived "cdefg"
    assert.same({ "\4abc", "defg" }, made.seen)
  end)
end)

describe("a receiver", function()
  it("does as a naive model of it does, whatever is done to it", function()
    assert.equal(2000, fuzz.run(2000, 1))
  end)
end)

describe("LineReceiver, with raw data,", function()
  -- A line "len N" announces N raw bytes; they are noted in one piece, so that cuts do not show.
  local Mixed = basic.LineReceiver {
    delimiter = "\n",
    MAX_LENGTH = 64,
    lineReceived = function(self, line)
      self.seen[#self.seen + 1] = line
      self.missing = tonumber(line:match "^len (%d+)$") or self.missing
      if line == "" then
        self.seen[#self.seen + 1] = ""
        self:setRawMode()
      end
    end,
    rawDataReceived = function(self, data)
      self.seen.empty = #data == 0 or nil
      local piece = data:sub(1, self.missing)
      self.missing = self.missing - #piece
      self.seen[#self.seen] = self.seen[#self.seen] .. piece
      if self.missing == 0 then
        self:setLineMode(data:sub(#piece + 1))
      end
    end,
  }

  it("gives lines and raw data to their handlers, however the stream is cut", function()
    local data = "len 10\n\n0123456789len 5\n\n1234\nlen 20\nfoo 123\n\n0123456789\n012345678len 1\nfoo 5\n\n1len 1\n\na"
    assertCuts(Mixed, data, {
      "len 10", "", "0123456789", "len 5", "", "1234\n", "len 20", "foo 123", "", "0123456789\n012345678",
      "len 1", "foo 5", "", "1", "len 1", "", "a",
    })
  end)

  it("holds raw data as it does lines while it is paused", function()
    local made = connected(Mixed({ lineReceived = function(self, line)
      Mixed.lineReceived(self, line)
      if line == "" then
        self:pauseProducing()
      end
    end }))
    feed(made, bytesOf "a\nlen 5\n\n12345b\n")
    assert.same({ "a", "len 5", "", "" }, made.seen)
    made:resumeProducing()
    assert.same({ "a", "len 5", "", "12345", "b" }, made.seen)
  end)

  it("gives half a line to rawDataReceived as soon as it is resumed", function()
    local made = connected(basic.LineReceiver { lineReceived = noting(), rawDataReceived = noting "raw" })
    made:dataReceived "a\r\nbc\r"
    made:pauseProducing()
    made:setRawMode()
    made:resumeProducing()
    assert.same({ "a", "raw bc\r" }, made.seen)
  end)

  it("gives all that it holds to rawDataReceived when a line was half here", function()
    local made = connected(basic.LineReceiver { rawDataReceived = noting "raw" })
    feed(made, { "half ", "a li\r" })
    made:setRawMode()
    assert.same({}, made.seen)
    made:dataReceived "ne"
    made:dataReceived "\r\nmore"
    assert.same({ "raw half a li\rne", "raw \r\nmore" }, made.seen)
  end)

  it("delivers no raw data after loseConnection, abortConnection or stopProducing", function()
    for _, ending in ipairs { "loseConnection", "abortConnection", "stopProducing" } do
      local made = connected(basic.LineReceiver {
        rawDataReceived = noting "raw",
        lineReceived = function(self, line)
          self.seen[#self.seen + 1] = line
          self:setRawMode()
          if ending == "stopProducing" then
            self:stopProducing()
          else
            self.transport[ending](self.transport)
          end
        end,
      })
      made:dataReceived "a\r\nraw"
      made:dataReceived "raw"
      assert.same({ "a" }, made.seen)
    end
  end)

  it("needs no handler for raw data", function()
    local made = connected(deriving(basic.LineReceiver))
    made:setRawMode()
    made:dataReceived "anything"
    made:setLineMode()
    made:dataReceived "a line\r\n"
    assert.same({ "a line" }, made.seen)
  end)

  it("parses what setLineMode is given outside of a handler, at once", function()
    local made = connected(deriving(basic.LineReceiver))
    made:setRawMode()
    made:setLineMode "a\r\nb\r\nhalf"
    assert.same({ "a", "b" }, made.seen)
    made:dataReceived " of it\r\n"
    assert.same({ "a", "b", "half of it" }, made.seen)
  end)

  it("lets an error out of setLineMode, and goes on behind it", function()
    local made = connected(basic.LineReceiver { lineReceived = function(self, line)
      self.seen[#self.seen + 1] = line
      if line == "bad" then
        error("no good", 0)
      end
    end })
    assert.has_error(function() made:setLineMode "a\r\nbad\r\nb\r\n" end, "no good")
    made:setLineMode "c\r\n"
    assert.same({ "a", "bad", "b", "c" }, made.seen)
  end)

  it("holds what setLineMode is given while it is paused", function()
    local made = connected(deriving(basic.LineReceiver))
    made:pauseProducing()
    made:setLineMode "a\r\n"
    assert.same({}, made.seen)
    made:resumeProducing()
    assert.same({ "a" }, made.seen)
  end)

  it("changes its mode any number of times within one chunk, without recursion", function()
    local depth, deepest = 0, 0
    local made = connected(basic.LineReceiver {
      delimiter = "\n",
      lineReceived = function(self, line)
        self.seen[#self.seen + 1] = line
        self:setRawMode()
      end,
      rawDataReceived = function(self, data)
        depth = depth + 1
        deepest = math.max(deepest, depth)
        self:setLineMode(data:sub(2))
        depth = depth - 1
      end,
    })
    made:dataReceived(("x\nx"):rep(3000))
    assert.equal(("x"):rep(3000), table.concat(made.seen))
    assert.equal(1, deepest)
  end)
end)

describe("LineReceiver, of a line that is too long,", function()
  local Catching = basic.LineReceiver {
    MAX_LENGTH = 6,
    lineReceived = noting(),
    lineLengthExceeded = noting "exceeded",
  }

  it("gives the line and all that came behind it to lineLengthExceeded, and holds nothing then", function()
    local long = ("x"):rep(14)
    for given, expected in pairs {
      [long] = { "exceeded " .. long },
      ["x\r\n" .. long] = { "x", "exceeded " .. long },
      [long .. "\r\n" .. long .. "\r\n"] = { "exceeded " .. long .. "\r\n" .. long .. "\r\n" },
      ["x\r\n" .. long .. "\r\nx\r\n"] = { "x", "exceeded " .. long .. "\r\nx\r\n" },
    } do
      local made = connected(Catching)
      made:dataReceived(given)
      assert.same(expected, made.seen)
      assert.equal("", made:clearLineBuffer())
    end
  end)

  it("gives what was held of the line, and what its handler's feeding brought, as well", function()
    local made = connected(Catching)
    feed(made, { "x\r\n123", "45\r", "67\r\nz" })
    assert.same({ "x", "exceeded 12345\r67\r\nz" }, made.seen)
    made = connected(Catching({ lineReceived = function(self)
      self:dataReceived "fed"
    end }))
    made:dataReceived "x\r\n1234567\r\n"
    assert.same({ "exceeded 1234567\r\nfed" }, made.seen)
  end)

  it("goes on with what an override gives to setLineMode, however the stream is cut", function()
    -- the first six bytes are a line, what follows is another
    local Folding = Catching({ lineLengthExceeded = function(self, rest)
      self.seen[#self.seen + 1] = "folded " .. rest:sub(1, 6)
      self:setLineMode(rest:sub(7))
    end })
    assertCuts(Folding, "a\r\n123456789\r\nb\r\n0123456789012345\r\nc\r\n", {
      "a", "folded 123456", "789", "b", "folded 012345", "folded 678901", "2345", "c",
    })
  end)

  it("goes raw where an override says so", function()
    local made = connected(Catching({ rawDataReceived = noting "raw", lineLengthExceeded = function(self, rest)
      self:setRawMode()
      self:dataReceived(rest)
    end }))
    feed(made, { "a\r\n12345678\r\n", "b\r\n" })
    assert.same({ "a", "raw 12345678\r\n", "raw b\r\n" }, made.seen)
  end)
end)

describe("LineOnlyReceiver, of a line that is too long,", function()
  it("gives its first bytes to lineLengthExceeded, and skips it where that does not close", function()
    local Catching = basic.LineOnlyReceiver {
      MAX_LENGTH = 6,
      lineReceived = noting(),
      lineLengthExceeded = noting "exceeded",
    }
    assertCuts(Catching, "a\r\n12345678\r\nb\r\n1234567\r\n123456\r\r\r\nx\r\n\r\n0123456789\r\r", {
      "a", "exceeded 1234567", "b", "exceeded 1234567", "exceeded 123456\r", "x", "", "exceeded 0123456",
    })
  end)

  it("skips to a delimiter that lineLengthExceeded has changed", function()
    assertCuts(basic.LineOnlyReceiver {
      MAX_LENGTH = 6,
      lineReceived = noting(),
      lineLengthExceeded = function(self)
        self.delimiter = "--"
      end,
    }, "a\r\n12345678-9\r\n0--b--", { "a", "b" })
  end)

  it("skips from behind what it has shown, wherever that was cut", function()
    assertCuts(basic.LineOnlyReceiver {
      MAX_LENGTH = 6,
      lineReceived = noting(),
      lineLengthExceeded = function(self)
        self.delimiter = "-"
      end,
    }, "a\r\n1-3-567-b-", { "a", "b" })
  end)

  it("keeps nothing of what it skips", function()
    local made = connected(basic.LineOnlyReceiver { MAX_LENGTH = 6, lineLengthExceeded = noting "exceeded" })
    made:dataReceived "a line\r\n" -- its class has its code now
    local _, kept = measure(function()
      for i = 1, 1000 do
        made:dataReceived(("x"):rep(100 + i))
      end
    end)
    assert.equal(1, #made.seen)
    assert.is_true(kept < 20000)
  end)
end)

for width, name in pairs { "Int8StringReceiver", "Int16StringReceiver", [4] = "Int32StringReceiver" } do
  local Receiver = basic[name]

  describe(name .. ", of its lengths,", function()
    it("sends a string behind its length, and answers as the transport does", function()
      local made = connected(deriving(Receiver))
      assert.is_true(made:sendString(("b"):rep(16)))
      assert.is_true(made:sendString "")
      assert.same({ int[width](16) .. ("b"):rep(16), int[width](0) }, made.transport.written)
      function made.transport.write()
        return nil, "closing", "EPIPE"
      end
      assert.same({ nil, "closing", "EPIPE" }, { made:sendString "late" })
    end)

    it("receives what it sends, up to the longest", function()
      local made = connected(deriving(Receiver))
      local longest = math.min(99999, 256 ^ width - 1)
      for _, size in ipairs { 0, 1, 127, 128, 255, 256, 257, 65535, 65536, 99999 } do
        if size <= longest then
          made.seen = {}
          made:sendString(("s"):rep(size))
          feed(made, randomPieces(table.concat(made.transport.written), 9000))
          made.transport.written = {}
          assert.equal(("s"):rep(size), made.seen[1])
        end
      end
      assert.equal(99999, Receiver.MAX_LENGTH)
    end)

    it("raises at the caller's line for what cannot be sent", function()
      local made = connected(deriving(Receiver))
      raisesHere(function() made:sendString(7) end)
      raisesHere(function() made:sendString() end)
      if width < 4 then
        raisesHere(function() made:sendString(("x"):rep(256 ^ width)) end)
        assert.is_true(made:sendString(("x"):rep(256 ^ width - 1)))
      end
    end)

    it("delivers nothing of a part", function()
      for _, part in ipairs { int[width](9):sub(1, -2), int[width](9), int[width](9) .. "12345678" } do
        assertCuts(deriving(Receiver), part, {})
      end
    end)

    it("tells lengthLimitExceeded once, as soon as the length is here, and delivers nothing more", function()
      local Limited = deriving(Receiver, { MAX_LENGTH = 10, lengthLimitExceeded = noting "exceeded" })
      assertCuts(Limited, int[width](2) .. "ab" .. int[width](11), { "ab", "exceeded 11" })
      assertCuts(Limited, int[width](11) .. ("x"):rep(11) .. int[width](1) .. "a" .. int[width](12), { "exceeded 11" })
      local made = connected(Limited)
      made:dataReceived(int[width](11))
      local _, kept = measure(function()
        for i = 1, 1000 do
          made:dataReceived(("x"):rep(100 + i))
        end
      end)
      assert.is_true(kept < 20000)
    end)

    it("delivers a long string for which lengthLimitExceeded raises MAX_LENGTH", function()
      local Generous = deriving(Receiver, { MAX_LENGTH = 3, lengthLimitExceeded = function(self, length)
        self.seen[#self.seen + 1] = "raised to " .. length
        self.MAX_LENGTH = length
      end })
      assertCuts(Generous, int[width](2) .. "ab" .. int[width](5) .. "abcde" .. int[width](1) .. "z" .. int[width](5) .. "edcba",
        { "ab", "raised to 5", "abcde", "z", "edcba" })
    end)

    it("gives lengthLimitExceeded all that is not parsed, the length first, and begins anew then", function()
      local data = int[width](11) .. ("x"):rep(11)
      local made = connected(deriving(Receiver, { MAX_LENGTH = 10, lengthLimitExceeded = function(self)
        self.rest = self:clearBuffer()
      end }))
      made:dataReceived(int[width](1) .. "a" .. data)
      assert.equal(data, made.rest)
      made:dataReceived(int[width](1) .. "b")
      assert.same({ "a", "b" }, made.seen)
    end)

    it("keeps to a MAX_LENGTH that its handler has changed", function()
      local Changing = deriving(Receiver, { stringReceived = function(self, s)
        self.seen[#self.seen + 1] = s
        self.MAX_LENGTH = tonumber(s)
      end })
      local function frames(...)
        local all = {}
        for i, s in ipairs { ... } do
          all[i] = int[width](#s) .. s
        end
        return table.concat(all)
      end
      assertCuts(Changing, frames("3", "6", "000006", "2", "003", "6"), { "3", "6", "000006", "2" }, 1)
    end)
  end)
end

describe("Int32StringReceiver, of lengths that no peer can mean,", function()
  it("refuses them", function()
    assertCuts(deriving(basic.Int32StringReceiver), "\255\255\255\255aaaaaa", {}, 1)
    assertCuts(deriving(basic.Int32StringReceiver), "\16\0\0\0aaaaaa", {}, 1)
  end)

  it("tells lengthLimitExceeded of the number itself", function()
    local Telling = deriving(basic.Int32StringReceiver, { lengthLimitExceeded = noting "exceeded" })
    assertCuts(Telling, "\255\0\0\1", { "exceeded 4278190081" })
  end)
end)

describe("VarintStringReceiver, of its lengths,", function()
  local Receiver = deriving(basic.VarintStringReceiver)

  it("sends a string behind its length in as few bytes as that takes, and answers as the transport does", function()
    local made = connected(Receiver)
    for size, length in pairs {
      [0] = "\0", [1] = "\1", [127] = "\127", [128] = "\128\1", [300] = "\172\2", [16383] = "\255\127",
      [16384] = "\128\128\1", [2097152] = "\128\128\128\1",
    } do
      made.transport.written = {}
      assert.is_true(made:sendString(("v"):rep(size)))
      assert.is_true(length .. ("v"):rep(size) == table.concat(made.transport.written), tostring(size))
    end
    function made.transport.write()
      return nil, "closing", "EPIPE"
    end
    assert.same({ nil, "closing", "EPIPE" }, { made:sendString "late" })
    raisesHere(function() made:sendString(7) end)
    raisesHere(function() made:sendString() end)
  end)

  it("receives what it sends, up to the longest", function()
    local made = connected(Receiver)
    for _, size in ipairs { 0, 1, 127, 128, 129, 16383, 16384, 16385, 99999 } do
      made.seen, made.transport.written = {}, {}
      made:sendString(("s"):rep(size))
      feed(made, randomPieces(table.concat(made.transport.written), 9000))
      assert.is_true(("s"):rep(size) == made.seen[1], tostring(size))
    end
    assert.equal(99999, basic.VarintStringReceiver.MAX_LENGTH)
  end)

  it("takes a length that is filled up with zeros to at most five bytes", function()
    assertCuts(Receiver, "\130\0ab\129\128\0c\128\128\128\0\131\128\128\128\0def\0", { "ab", "c", "", "def", "" })
  end)

  it("closes and says so when a length does not end within five bytes", function()
    for _, bad in ipairs { "\128\128\128\128\128", "\255\255\255\255\255\255\1", "\129\128\128\128\128\0" } do
      assertCuts(Receiver, "\2ok" .. bad .. "\2no", { "ok" }, 1)
      local made = connected(Receiver)
      feed(made, bytesOf(bad:sub(1, 4)))
      assert.is_false(made.brokenPeer)
      assert.equal(0, made.transport.closes)
      made:dataReceived(bad:sub(5, 5))
      assert.is_true(made.brokenPeer)
      assert.equal(1, made.transport.closes)
    end
  end)

  it("delivers nothing of a part", function()
    for _, part in ipairs { "\128", "\128\128\128\128", "\9", "\0091234567", "\137\0" } do
      assertCuts(Receiver, part, {})
    end
  end)

  it("tells lengthLimitExceeded once, of the whole length, and delivers nothing more", function()
    local Limited = Receiver { MAX_LENGTH = 10, lengthLimitExceeded = noting "exceeded" }
    assertCuts(Limited, "\2ab\11", { "ab", "exceeded 11" })
    assertCuts(Limited, "\172\2" .. ("x"):rep(300) .. "\1a\12", { "exceeded 300" })
    assertCuts(Limited, "\255\255\255\255\127", { "exceeded 34359738367" })
    assertCuts(Limited, "\10" .. ("x"):rep(10) .. "\129\128\0a", { ("x"):rep(10), "a" })
  end)

  it("delivers a long string for which lengthLimitExceeded raises MAX_LENGTH", function()
    local Generous = Receiver { MAX_LENGTH = 3, lengthLimitExceeded = function(self, length)
      self.seen[#self.seen + 1] = "raised to " .. length
      self.MAX_LENGTH = length
    end }
    assertCuts(Generous, "\2ab\5abcde\1z\133\0edcba", { "ab", "raised to 5", "abcde", "z", "edcba" })
  end)

  it("gives lengthLimitExceeded all that is not parsed, the length first, and begins anew then", function()
    for _, pieces in ipairs { { "\1a\172\2xyz" }, { "\1a\172", "\2xyz" } } do
      local made = connected(Receiver { MAX_LENGTH = 99, lengthLimitExceeded = function(self)
        self.rest = self:clearBuffer()
      end })
      feed(made, pieces)
      assert.equal("\172\2xyz", made.rest)
      made:dataReceived "\1b"
      assert.same({ "a", "b" }, made.seen)
    end
  end)
end)

describe("FixedStringReceiver", function()
  local Fixed = deriving(basic.FixedStringReceiver)
  local Three = Fixed { SIZE = 3 }

  -- A class of strings of three bytes whose handler notes each, then does `f`.
  local function doing(f)
    return Three { stringReceived = function(self, s)
      self.seen[#self.seen + 1] = s
      return f(self, s)
    end }
  end

  it("delivers strings of one size however the stream is cut, and waits for what is not whole", function()
    assertCuts(Three, "onetwo\r\n\0six10", { "one", "two", "\r\n\0", "six" })
    assertCuts(Fixed { SIZE = 1 }, "abc", { "a", "b", "c" })
    assertCuts(Fixed { SIZE = 100 }, ("x"):rep(99), {})
    assertCuts(Fixed { SIZE = 100 }, ("x"):rep(201), { ("x"):rep(100), ("x"):rep(100) })
  end)

  it("sends strings of that size, and answers as the transport does", function()
    local made = connected(Three)
    assert.is_true(made:sendString "abc")
    assert.same({ "abc" }, made.transport.written)
    function made.transport.write()
      return nil, "closing", "EPIPE"
    end
    assert.same({ nil, "closing", "EPIPE" }, { made:sendString "abc" })
  end)

  it("raises at the caller's line for a string of another size", function()
    local made = connected(Three)
    assert.matches("a string of 2 bytes, where SIZE is 3", raisesHere(function() made:sendString "ab" end))
    raisesHere(function() made:sendString "abcd" end)
    raisesHere(function() made:sendString "" end)
    assert.matches("takes a string, not a number", raisesHere(function() made:sendString(123) end))
    raisesHere(function() connected(Fixed):sendString "abc" end)
    assert.same({}, made.transport.written)
  end)

  it("raises for a SIZE that is none", function()
    for _, size in ipairs { 0, -1, 1.5, "3", 0 / 0, math.huge } do
      local made = connected(Fixed { SIZE = size })
      local ok, message = pcall(made.dataReceived, made, "abc")
      assert.is_false(ok)
      assert.matches("^SIZE is no whole number of bytes from 1 on: ", message)
    end
    assert.is_false(pcall(function() connected(Fixed):dataReceived "abc" end))
  end)

  it("cuts what follows as a handler says that changes SIZE", function()
    local Changing = doing(function(self, s)
      self.SIZE = tonumber(s) or self.SIZE
    end)
    assertCuts(Changing, "abc002xy01z", { "abc", "002", "xy", "01", "z" })
  end)

  it("cuts anew what it holds of a string when SIZE was changed between two events", function()
    for cut = 0, 4 do
      local made = connected(Fixed { SIZE = 5 })
      feed(made, bytesOf(("abcd"):sub(1, cut)))
      made.SIZE = 2
      made:dataReceived(("abcd"):sub(cut + 1) .. "ef")
      assert.same({ "ab", "cd", "ef" }, made.seen)
    end
  end)

  it("cuts anew what it holds as soon as it is resumed when SIZE was changed", function()
    local made = connected(Fixed { SIZE = 5 })
    made:dataReceived "abcd"
    made:pauseProducing()
    made.SIZE = 2
    made:resumeProducing()
    assert.same({ "ab", "cd" }, made.seen)
  end)

  for _, ending in ipairs { "loseConnection", "abortConnection" } do
    it("delivers nothing after " .. ending, function()
      assertCuts(doing(function(self, s)
        if s == "end" then
          self.transport[ending](self.transport)
        end
      end), "oneendtwosix", { "one", "end" }, ending == "loseConnection" and 1 or 0)
    end)
  end

  it("delivers nothing after stopProducing, and holds what comes while it is paused", function()
    local made = connected(doing(function(self, s)
      if s == "end" then
        self:stopProducing()
      else
        self:pauseProducing()
      end
    end))
    feed(made, bytesOf "onetwoendsix")
    assert.same({ "one" }, made.seen)
    made:resumeProducing()
    assert.same({ "one", "two" }, made.seen)
    made:resumeProducing()
    made:resumeProducing()
    made:dataReceived "ten"
    assert.same({ "one", "two", "end" }, made.seen)
  end)

  it("puts what a handler feeds behind what is here, without recursion", function()
    local depth, deepest, left = 0, 0, 5000
    local made = connected(doing(function(self)
      depth = depth + 1
      deepest = math.max(deepest, depth)
      if left > 0 then
        left = left - 1
        self:dataReceived "fed"
        self:pauseProducing()
        self:resumeProducing()
      end
      depth = depth - 1
    end))
    made:dataReceived "onetwo"
    assert.same({ "one", "two", "fed" }, { made.seen[1], made.seen[2], made.seen[3] })
    assert.equal(5002, #made.seen)
    assert.equal(1, deepest)
  end)

  it("lets an error of a handler out, and delivers no string twice", function()
    local made = connected(doing(function(_, s)
      if s == "bad" then
        error("no good", 0)
      end
    end))
    assert.has_error(function() made:dataReceived "onebadtwos" end, "no good")
    pcall(made.resumeProducing, made)
    assert.is_true(#made.seen <= 3)
    assert.same({ "one", "bad" }, { made.seen[1], made.seen[2] })
    assert.not_equal("bad", made.seen[3])
  end)

  it("gives back all that was not parsed, and begins anew", function()
    for _, pieces in ipairs(cutsOf "abcde") do
      local made = connected(Fixed { SIZE = 9 })
      feed(made, pieces)
      assert.equal("abcde", made:clearBuffer())
      made:dataReceived "123456789"
      assert.same({ "123456789" }, made.seen)
    end
  end)

  it("works in time and memory that grow as the bytes do, down to single bytes", function()
    local made, whole = connected(Fixed { SIZE = 16000 }), bytesOf(("0123456789abcdef"):rep(1000))
    local used = measure(function()
      for _ = 1, 5 do
        feed(made, whole)
      end
    end)
    assert.equal(5, #made.seen)
    assert.is_true(used < 5 * #whole * 150)
  end)

  it("goes on with half a string when its class is succeeded by another", function()
    for cut = 1, 5 do
      local Old = Three {}
      local made = connected(Old)
      made:dataReceived(("onetwo"):sub(1, cut))
      class.succeed(Old, Three {}, true)
      made:dataReceived(("onetwo"):sub(cut + 1))
      assert.same({ "one", "two" }, made.seen)
    end
  end)

  it("calls the methods of a StatefulStringProtocol", function()
    assertCuts(basic.FixedStringReceiver(basic.StatefulStringProtocol, {
      SIZE = 2,
      proto_init = function(self, s)
        self.seen[#self.seen + 1] = s
        return s
      end,
      proto_go = function(self, s)
        self.seen[#self.seen + 1] = "gone " .. s
        return "done"
      end,
    }), "goonno", { "go", "gone on" }, 1)
  end)
end)

describe("NetstringReceiver, of its syntax,", function()
  local Receiver = deriving(basic.NetstringReceiver)

  it("sends netstrings, and answers as the transport does", function()
    local made = connected(Receiver)
    assert.is_true(made:sendString "hello")
    assert.is_true(made:sendString "")
    assert.same({ "5:hello,", "0:," }, made.transport.written)
    function made.transport.write()
      return nil, "closing", "EPIPE"
    end
    assert.same({ nil, "closing", "EPIPE" }, { made:sendString "late" })
    raisesHere(function() made:sendString(7) end)
    raisesHere(function() made:sendString() end)
  end)

  it("receives empty ones, short ones, and those within others", function()
    assertCuts(Receiver, "0:,1:a,2:ab,4:1:a,,10:0123456789,", { "", "a", "ab", "1:a,", "0123456789" })
  end)

  it("refuses whatever is no netstring, and says so", function()
    for _, bad in ipairs {
      "abc", ":aaa,", "3aaa,", "aaa,", ",", "2:aaa,", "0:a,", "4:abcde", "51 :a", "+1:a,", "-1:a,", " 1:a,", "1 :a,", "\n1:a,",
      "00:,", "01:a,", "007:abcdefg,", "0 :,", "1.0:a,", "1e0:a,", "0x1:a,", "1:a;", "1:a\n", "1;a,",
    } do
      assertCuts(Receiver, "2:ok," .. bad .. "2:no,", { "ok" }, 1)
      local made = connected(Receiver)
      feed(made, { "2:ok,", bad })
      assert.is_true(made.brokenPeer)
    end
    assert.is_false(connected(Receiver).brokenPeer)
  end)

  it("refuses a length as soon as its digits prove it wrong", function()
    for bad, at in pairs { ["01"] = 2, ["x"] = 1, ["100000"] = 6, ["9999999999999999"] = 6, ["123456:"] = 6 } do
      local made = connected(Receiver)
      feed(made, bytesOf(bad:sub(1, at - 1)))
      assert.equal(0, made.transport.closes, bad)
      made:dataReceived(bad:sub(at, at))
      assert.equal(1, made.transport.closes, bad)
    end
  end)

  it("takes MAX_LENGTH and no byte more", function()
    local made = connected(Receiver)
    made:dataReceived("99999:" .. ("a"):rep(99999) .. ",")
    assert.equal(99999, #made.seen[1])
    made:dataReceived "100000:"
    assert.equal(1, made.transport.closes)
    assertCuts(Receiver { MAX_LENGTH = 12 }, "12:0123456789ab,13:", { "0123456789ab" }, 1)
    assertCuts(Receiver { MAX_LENGTH = 11 }, "12:", {}, 1)
    assertCuts(Receiver { MAX_LENGTH = 0 }, "0:,0:,1:a,", { "", "" }, 1)
  end)

  it("tells lengthLimitExceeded of what the digits make so far, however they are cut", function()
    local Limited = Receiver { MAX_LENGTH = 50, lengthLimitExceeded = noting "exceeded" }
    assertCuts(Limited, "1:a,51234:aaaa,1:b,", { "a", "exceeded 51" })
    assertCuts(Limited, "99999999999999999999999999:aaaa,1:b,", { "exceeded 99" })
  end)

  it("delivers a long string for which lengthLimitExceeded raises MAX_LENGTH", function()
    local Generous = Receiver { MAX_LENGTH = 3, lengthLimitExceeded = function(self, length)
      self.seen[#self.seen + 1] = "raised from " .. length
      self.MAX_LENGTH = 20
    end }
    assertCuts(Generous, "2:ab,12:0123456789ab,1:z,", { "ab", "raised from 12", "0123456789ab", "z" })
    assertCuts(Generous, "120:", { "raised from 12", "raised from 120" })
  end)

  it("gives lengthLimitExceeded all that is not parsed, the digits first, and begins anew then", function()
    for _, pieces in ipairs { { "1:a,123:xyz" }, { "1:a,1", "2", "3:xyz" } } do
      local made = connected(Receiver { MAX_LENGTH = 99, lengthLimitExceeded = function(self)
        self.rest = self:clearBuffer()
      end })
      feed(made, pieces)
      assert.equal("123:xyz", made.rest)
      made:dataReceived "1:b,"
      assert.same({ "a", "b" }, made.seen)
    end
  end)
end)

describe("StatefulStringProtocol", function()
  local Greeting = {
    proto_init = function(self, s)
      self.seen[#self.seen + 1] = "init " .. s
      return "hello"
    end,
    proto_hello = function(self, s)
      self.seen[#self.seen + 1] = "hello " .. s
      if s == "stay" then
        return nil
      elseif s == "send" then
        return self:sendString "sent"
      end
      return s
    end,
    proto_done = noting "never",
  }

  for _, kind in ipairs(kinds) do
    if kind.handler == "stringReceived" then
      it("calls the method of its state, with " .. kind.name, function()
        assertCuts(basic[kind.name](basic.StatefulStringProtocol, Greeting),
          framed(kind, { "a", "stay", "send", "init", "b", "c" }),
          { "init a", "hello stay", "hello send", "hello init", "init b", "hello c" })
      end)

      it("closes in the state done, whatever the transport says, with " .. kind.name, function()
        local Done = basic[kind.name](basic.StatefulStringProtocol, Greeting)
        assertCuts(Done, framed(kind, { "a", "done", "b" }), { "init a", "hello done" }, 1)
        local made = connected(Done, newMuteTransport())
        made:dataReceived(framed(kind, { "a", "done", "b" }))
        made:dataReceived(framed(kind, { "c" }))
        assert.same({ "init a", "hello done" }, made.seen)
        assert.equal("done", made.state)
      end)
    end
  end

  it("logs a state that has no method, and drops the messages", function()
    local logged, before = {}, package.loaded["skald.log"]
    package.loaded["skald.log"] = { warning = function(text) logged[#logged + 1] = text end }
    local made = connected(basic.Int8StringReceiver(basic.StatefulStringProtocol, Greeting))
    made:dataReceived "\1a\6nosuch\1b\1c"
    package.loaded["skald.log"] = before
    assert.same({ "init a", "hello nosuch" }, made.seen)
    assert.equal(2, #logged)
    assert.matches("proto_nosuch", logged[1])
    assert.equal(0, made.transport.closes)
    made.state = "init"
    made:dataReceived "\1d"
    assert.equal("init d", made.seen[3])
  end)
end)

describe("FileSender", function()
  -- Takes a pull producer, and asks it for as much as the test says.
  local function newConsumer()
    local consumer = newTransport()
    function consumer:registerProducer(producer, streaming)
      self.producer, self.streaming = producer, streaming
    end
    function consumer:unregisterProducer()
      self.producer = nil
    end
    return consumer
  end

  local function fileOf(text)
    local file = assert(io.tmpfile())
    file:write(text)
    file:seek "set"
    return file
  end

  local function outcomeOf(d)
    local outcome = {}
    d:addCallbacks(function(value)
      outcome.value = value
    end, function(problem)
      outcome.failure = problem
    end)
    return outcome
  end

  local function begin(text, methods, transform)
    local sender, consumer = basic.FileSender(methods or {}):new(), newConsumer()
    local d = sender:beginFileTransfer(fileOf(text), consumer, transform)
    return consumer, outcomeOf(d), sender, d
  end

  it("registers as a pull producer, and sends nothing before it is asked", function()
    local consumer, outcome, sender = begin "content"
    assert.equal(sender, consumer.producer)
    assert.is_false(consumer.streaming)
    assert.same({}, consumer.written)
    assert.same({}, outcome)
  end)

  it("sends a piece each time it is asked, and fires with the last byte at the end", function()
    local consumer, outcome = begin("Test content", { CHUNK_SIZE = 5 })
    for _, sofar in ipairs { { "Test " }, { "Test ", "conte" }, { "Test ", "conte", "nt" } } do
      consumer.producer:resumeProducing()
      assert.same(sofar, consumer.written)
      assert.same({}, outcome)
    end
    consumer.producer:resumeProducing()
    assert.same({ value = "t" }, outcome)
    assert.is_nil(consumer.producer)
    assert.equal(3, #consumer.written)
  end)

  it("reads at most 16384 bytes at once unless told otherwise", function()
    local consumer = begin(("x"):rep(20000))
    consumer.producer:resumeProducing()
    assert.equal(16384, #consumer.written[1])
  end)

  it("fires with an empty string for an empty file", function()
    local consumer, outcome = begin ""
    consumer.producer:resumeProducing()
    assert.same({ value = "" }, outcome)
    assert.same({}, consumer.written)
  end)

  it("sends what the transform makes of each piece, and reads on where that is nothing", function()
    local consumer, outcome = begin("one two", { CHUNK_SIZE = 1 }, function(piece)
      return (piece:gsub("[aeiou ]", ""):upper())
    end)
    while consumer.producer do
      consumer.producer:resumeProducing()
    end
    assert.same({ "N", "T", "W" }, consumer.written)
    assert.same({ value = "W" }, outcome)
  end)

  it("fails when the consumer stops it, and sends no more", function()
    local consumer, outcome, sender = begin "content"
    sender:pauseProducing()
    sender:stopProducing()
    assert.matches("stopped before the end", outcome.failure.message)
    sender:resumeProducing()
    sender:stopProducing()
    assert.same({}, consumer.written)
  end)

  it("fails with what the file says when it cannot be read", function()
    local consumer = newConsumer()
    local broken = { read = function() return nil, "no such luck", 5 end }
    local outcome = outcomeOf(basic.FileSender:new():beginFileTransfer(broken, consumer))
    consumer.producer:resumeProducing()
    assert.equal("no such luck", outcome.failure.value)
    assert.is_nil(consumer.producer)
  end)

  it("fails with what the transform raises, or where that gives no string", function()
    for _, transform in ipairs { function() error("no good", 0) end, function() return 5 end, function() end } do
      local consumer, outcome = begin("content", nil, transform)
      consumer.producer:resumeProducing()
      assert.matches("no good", outcome.failure.message:gsub("the transform gave a %a+, not a string", "no good"))
      assert.is_nil(consumer.producer)
      assert.same({}, consumer.written)
    end
  end)

  it("refuses what is no file, no consumer and no transform at the caller's line, and can begin after that", function()
    local sender, consumer = basic.FileSender:new(), newConsumer()
    local function refuses(wanted, ...)
      local arguments = { n = select("#", ...), ... }
      local ok, message = pcall(function()
        sender:beginFileTransfer(unpack(arguments, 1, arguments.n)) -- here
      end)
      assert.is_false(ok)
      assert.matches("basic_spec.lua:%d+: " .. wanted, message)
    end
    refuses("beginFileTransfer: the file has no read", nil, consumer)
    refuses("beginFileTransfer: the file has no read", "path", consumer)
    refuses("beginFileTransfer: the file has no read", 5, consumer)
    refuses("beginFileTransfer: the consumer has no registerProducer", fileOf "x")
    refuses("beginFileTransfer: the transform is a function, not a number", fileOf "x", consumer, 5)
    local full = newConsumer()
    full.registerProducer = function() error "a producer is registered already" end
    refuses("a producer is registered already", fileOf "x", full)
    sender:beginFileTransfer(fileOf "x", consumer)
    assert.equal(sender, consumer.producer)
  end)

  it("ends when its Deferred is cancelled", function()
    local consumer, outcome, sender, d = begin "content"
    d:cancel()
    assert.equal("CancelledError", outcome.failure.type)
    assert.is_nil(consumer.producer)
    sender:resumeProducing()
    sender:stopProducing()
    assert.same({}, consumer.written)
  end)

  it("sends one file after the other, not two at once", function()
    local consumer, _, sender = begin "one"
    raisesHere(function() sender:beginFileTransfer(fileOf "two", consumer) end)
    consumer.producer:resumeProducing()
    consumer.producer:resumeProducing()
    local outcome = outcomeOf(sender:beginFileTransfer(fileOf "two", consumer))
    consumer.producer:resumeProducing()
    consumer.producer:resumeProducing()
    assert.same({ "one", "two" }, consumer.written)
    assert.same({ value = "o" }, outcome)
  end)
end)
