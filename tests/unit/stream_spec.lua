local defer = require "skald.defer"
local stream = require "skald.stream"

local Deferred = defer.Deferred
local ME = debug.getinfo(1, "S").short_src

-- The line that called this, as it stands in a message.
local function here()
  return ("%s:%d:"):format(ME, debug.getinfo(2, "l").currentline)
end

-- Time passes when it is told to.
local Clock = {}
Clock.__index = Clock

local function newClock()
  return setmetatable({ now = 0, calls = {} }, Clock)
end

function Clock:seconds()
  return self.now
end

function Clock:callLater(seconds, f, ...)
  assert(seconds >= 0 and seconds < math.huge, "callLater: " .. tostring(seconds))
  local call = { time = self.now + seconds, f = f, ... }
  self.calls[call] = true
  function call.cancel()
    assert(self.calls[call], "cancelled twice, or after it ran")
    self.calls[call] = nil
    return true
  end
  return call
end

function Clock:pending()
  local n = 0
  for _ in pairs(self.calls) do
    n = n + 1
  end
  return n
end

local function earliest(clock, limit)
  local found
  for call in pairs(clock.calls) do
    if call.time <= limit and (not found or call.time < found.time) then
      found = call
    end
  end
  return found
end

function Clock:advance(seconds)
  local limit = self.now + seconds
  local call = earliest(self, limit)
  while call do
    self.calls[call] = nil
    self.now = math.max(self.now, call.time)
    call.f(unpack(call))
    call = earliest(self, limit)
  end
  self.now = limit
end

-- A transport that keeps what is written, and takes it when told to.
local Transport = {}
Transport.__index = Transport

local HIGH = 100

local function newTransport()
  return setmetatable({ pieces = {}, queued = 0, reading = true, disconnecting = false }, Transport)
end

function Transport:write(data)
  if type(data) ~= "string" then
    error("write takes a string", 2)
  elseif self.disconnecting and not self.producer or self.gone then
    return nil, "closing", "EPIPE"
  end
  self.pieces[#self.pieces + 1] = data
  self.queued = self.queued + #data
  return true
end

function Transport:bufferedAmount()
  return self.queued
end

function Transport:written()
  return table.concat(self.pieces)
end

--- The peer takes all.
function Transport:drain()
  self.queued = 0
  if self.producer then
    self.producer:resumeProducing()
  end
end

function Transport:registerProducer(producer)
  self.producer = producer
  return true
end

function Transport:unregisterProducer()
  self.producer = nil
end

function Transport:pauseProducing()
  self.reading = false
end

function Transport:resumeProducing()
  self.reading = true
end

function Transport:loseConnection()
  self.disconnecting = true
end

function Transport:loseWriteConnection()
  self.writeEnded = self.producer == nil
end

local DONE = { code = "done", by = "peer", message = "the peer closed the connection" }
local RESET = { code = "lost", by = "peer", message = "the connection was lost: reset", errno = "ECONNRESET" }

-- A connection whose handler runs: the protocol, its transport, the clock.
local function start(handle, methods)
  local clock, carrier = newClock(), newTransport()
  local made = stream.StreamProtocol({ handle = handle, clock = clock }, methods or {}):new()
  made.factory = { highWater = HIGH }
  made:makeConnection(carrier)
  return made, carrier, clock
end

local function lose(made, why)
  made.transport.gone, made.transport.producer = true, nil
  made:connectionLost(why)
end

-- What a call gave, as one text: strings in quotes, messages left out.
local function shown(...)
  local value, _, code, rest = ...
  local words = { type(value) == "string" and ("%q"):format(value) or tostring(value) }
  words[#words + 1] = code
  words[#words + 1] = rest and ("%q"):format(rest) or nil
  return table.concat(words, " ")
end

-- A handler that makes calls, `{ method, arguments … }`, and notes what they give; `before` is awaited first.
local function caller(calls, results, before)
  return function(_, s)
    if before then
      defer.await(before)
    end
    for _, call in ipairs(calls) do
      results[#results + 1] = shown(s[call[1]](s, unpack(call, 2)))
    end
    results.ended = true
  end
end

-- --- every cut -------------------------------------------------------------------------------

local function pieces(input, cuts)
  local list, from = {}, 1
  for _, cut in ipairs(cuts) do
    list[#list + 1] = input:sub(from, cut)
    from = cut + 1
  end
  list[#list + 1] = input:sub(from)
  return list
end

local function single(input)
  local list = {}
  for i = 1, #input do
    list[i] = input:sub(i, i)
  end
  return list
end

-- A generator of its own, so that the cuts are the same everywhere.
local function newRandom(seed)
  return function(n)
    seed = (seed * 16807) % 2147483647
    return seed % n + 1
  end
end

local function randomCuts(input, random)
  local list = {}
  for at = 1, #input - 1 do
    if random(4) == 1 then
      list[#list + 1] = at
    end
  end
  return pieces(input, list)
end

-- All ways in which an input is cut here: whole, each split in two, byte by byte, at random.
local function everyCut(input)
  local all = { { input }, single(input) }
  for at = 1, #input - 1 do
    all[#all + 1] = pieces(input, { at })
  end
  local random = newRandom(20240229)
  for _ = 1, 60 do
    all[#all + 1] = randomCuts(input, random)
  end
  return all
end

-- What the calls give when the input comes in these pieces; the handler is busy until `late` of them
-- have come (none: from the start).
local function outcome(calls, list, why, late)
  local results, before = {}, late and Deferred:new()
  local made = start(caller(calls, results, before))
  for i, piece in ipairs(list) do
    if i - 1 == late then
      before:callback()
    end
    if #piece > 0 then
      made:dataReceived(piece)
    end
  end
  if late and late >= #list then
    before:callback()
  end
  if not results.ended then
    if why then
      lose(made, why)
    else
      made:readConnectionLost()
    end
  end
  assert(results.ended, "the handler still waits after the end of the stream")
  return table.concat(results, "\n")
end

-- Asserts that the calls give what is expected, however the input is cut, and however late it is asked for.
local function always(input, calls, expected, why)
  expected = table.concat(expected, "\n")
  for _, list in ipairs(everyCut(input)) do
    for _, late in ipairs { false, 1, math.ceil(#list / 2), #list } do
      local got = outcome(calls, list, why, late or nil)
      if got ~= expected then
        assert.equal(expected, got, ("in the pieces %q, late %s"):format(table.concat(list, "|"), tostring(late)))
      end
    end
  end
end

local function times(n, ...)
  local list = {}
  for i = 1, n do
    list[i] = { ... }
  end
  return list
end

describe("what a handler reads is the same for every cut:", function()
  it("lines with LF and with CRLF, empty ones, and a last one without an end", function()
    always("one\ntwo\r\n\n\r\nfi\rve\n\r\r\nlast", times(8, "readLine"),
      { '"one"', '"two"', '""', '""', shown "fi\rve", shown "\r", '"last"', "nil" })
  end)

  it("a line of exactly the most bytes, with LF and with CRLF", function()
    always("abcde\nabcde\r\nabcde", times(4, "readLine", 5), { '"abcde"', '"abcde"', '"abcde"', "nil" })
  end)

  it("a line of one byte more than that, which stays there", function()
    for _, ending in ipairs { "\n", "\r\n", "" } do
      always("abcdef" .. ending .. "x\n", { { "readLine", 5 }, { "readLine", 5 }, { "readLine", 20 } },
        { "nil EMSGSIZE", "nil EMSGSIZE", ending == "" and '"abcdefx"' or '"abcdef"' })
    end
    always("abcdef", { { "readLine", 5 }, { "readLine", 5 }, { "readLine", 6 } },
      { "nil EMSGSIZE", "nil EMSGSIZE", '"abcdef"' })
  end)

  it("a line much longer than that", function()
    always(("x"):rep(40) .. "\nshort\n", { { "readLine", 8 }, { "readLine", 40 }, { "readLine", 8 } },
      { "nil EMSGSIZE", ('"%s"'):format(("x"):rep(40)), '"short"' })
  end)

  it("an empty line where no byte is allowed", function()
    always("\n\r\nx\n", times(3, "readLine", 0), { '""', '""', "nil EMSGSIZE" })
  end)

  it("bytes by number", function()
    always("abcdefghijklmnop", { { "readExactly", 5 }, { "readExactly", 0 }, { "readExactly", 1 }, { "readExactly", 10 },
      { "readExactly", 1 } }, { '"abcde"', '""', '"f"', '"ghijklmnop"', "nil" })
  end)

  it("fewer bytes than asked for, at the end", function()
    always("abcdefgh", { { "readExactly", 5 }, { "readExactly", 5 }, { "readExactly", 5 } },
      { '"abcde"', 'nil ENODATA "fgh"', "nil" })
  end)

  it("what comes before delimiters of each length", function()
    for _, delimiter in ipairs { ";", "\r\n", "--", "END", "aab", "\r\n.\r\n" } do
      always(("a%sab%s%saa"):format(delimiter, delimiter, delimiter), times(5, "readUntil", delimiter),
        { '"a"', '"ab"', '""', 'nil ENODATA "aa"', "nil" })
    end
  end)

  it("what comes before a delimiter whose beginning stands there twice", function()
    always("--e--end-----end-", { { "readUntil", "--end" }, { "readUntil", "--end" }, { "readLine" } },
      { '"--e"', '"---"', '"-"' })
    always("aaaabaab", times(2, "readUntil", "aab"), { '"aa"', '""' })
  end)

  it("a delimiter that another kind of call has cut in two", function()
    always("ab--end--cd--end--", { { "readExactly", 5 }, { "readUntil", "--end--" }, { "readLine" } },
      { '"ab--e"', '"nd--cd"', "nil" })
  end)

  it("exactly the most bytes before a delimiter, and one more, which stay there", function()
    always("abcde--end--abcdef--end--", { { "readUntil", "--end--", 5 }, { "readUntil", "--end--", 5 },
      { "readUntil", "--end--", 6 }, { "readLine" } }, { '"abcde"', "nil EMSGSIZE", '"abcdef"', "nil" })
  end)

  it("what never has a delimiter", function()
    always(("x"):rep(30), { { "readUntil", "--end--", 8 }, { "readExactly", 30 } },
      { "nil EMSGSIZE", ('"%s"'):format(("x"):rep(30)) })
  end)

  it("calls of each kind, one after the other", function()
    always("GET /\r\nlength: 4\r\n\r\nbody;rest\nof it", { { "readLine" }, { "readUntil", ": " }, { "readLine" },
      { "readLine" }, { "readExactly", 4 }, { "readUntil", ";" }, { "readLine" }, { "readExactly", 9 } },
      { '"GET /"', '"length"', '"4"', '""', '"body"', '""', '"rest"', 'nil ENODATA "of it"' })
  end)

  it("all bytes, where it reads what has come", function()
    for _, n in ipairs { 1, 3, false } do
      local input = "abcdefghijklmnopqrstuvwxyz"
      for _, list in ipairs(everyCut(input)) do
        local read = {}
        local made = start(function(_, s)
          local data = s:readSome(n or nil)
          while data do
            assert(#data > 0 and #data <= (n or #data))
            read[#read + 1] = data
            data = s:readSome(n or nil)
          end
          read.ended = true
        end)
        for _, piece in ipairs(list) do
          made:dataReceived(piece)
        end
        made:readConnectionLost()
        assert.equal(input, table.concat(read))
        assert.is_true(read.ended)
      end
    end
  end)
end)

-- --- the end of the stream -------------------------------------------------------------------

describe("the end of the stream", function()
  -- What a call gives that waits when the stream ends, and one that is made after that.
  local function atEnd(call, before, why)
    local results = {}
    local made = start(caller({ call, call }, results))
    if before ~= "" then
      made:dataReceived(before)
    end
    assert.same({}, results)
    if why then
      lose(made, why)
    else
      made:readConnectionLost()
    end
    return table.concat(results, ", ")
  end

  it("is nil and nothing else in each call, when it is orderly", function()
    local calls = { { "read" }, { "read", 5 }, { "readSome", 5 }, { "readExactly", 5 }, { "readLine" }, { "readUntil", "--" } }
    for _, call in ipairs(calls) do
      for _, why in ipairs { false, DONE } do
        local given
        local made = start(function(_, s)
          given = { n = 2, s[call[1]](s, call[2]) }
          assert(select("#", s[call[1]](s, call[2])) >= 1)
        end)
        if why then
          lose(made, why)
        else
          made:readConnectionLost()
        end
        assert.same({ n = 2 }, given, call[1])
      end
    end
  end)

  it("is nil, a message and a code in each call, when the connection is lost", function()
    for _, call in ipairs { { "read" }, { "readSome", 5 }, { "readLine" } } do
      assert.equal("nil ECONNRESET, nil ECONNRESET", atEnd(call, "", RESET))
    end
    for _, call in ipairs { { "readExactly", 5 }, { "readUntil", "--" } } do
      assert.equal('nil ECONNRESET "", nil ECONNRESET ""', atEnd(call, "", RESET))
    end
  end)

  it("says in the message why the connection was lost", function()
    local message
    local made = start(function(_, s)
      message = select(2, s:read())
    end)
    lose(made, RESET)
    assert.equal(RESET.message, message)
  end)

  it("has the code of the reason, where no system error is behind it", function()
    local results = {}
    local made = start(caller({ { "read" } }, results))
    lose(made, { code = "stopped", by = "host", message = "the host stops" })
    assert.same({ "nil stopped", ended = true }, results)
  end)

  it("gives what had come to who wanted more", function()
    assert.equal('nil ENODATA "abc", nil', atEnd({ "readExactly", 5 }, "abc"))
    assert.equal('nil ENODATA "abc", nil', atEnd({ "readUntil", "--" }, "abc"))
    assert.equal('nil ECONNRESET "abc", nil ECONNRESET ""', atEnd({ "readExactly", 5 }, "abc", RESET))
    assert.equal('nil ECONNRESET "abc", nil ECONNRESET ""', atEnd({ "readUntil", "--" }, "abc", RESET))
    assert.equal('"abc", nil', atEnd({ "readLine" }, "abc"))
  end)

  it("does not make a line of what a lost connection left", function()
    assert.equal("nil ECONNRESET, nil ECONNRESET", atEnd({ "readLine" }, "abc", RESET))
  end)

  it("comes after all that came before it", function()
    for _, why in ipairs { false, RESET } do
      local results, before = {}, Deferred:new()
      local made = start(caller(times(3, "readLine"), results, before))
      made:dataReceived "one\ntwo\n"
      if why then
        lose(made, why)
      else
        made:readConnectionLost()
      end
      before:callback()
      assert.same({ '"one"', '"two"', why and "nil ECONNRESET" or "nil", ended = true }, results)
    end
  end)

  it("of the peer's sending half leaves the other half to write to", function()
    local made, carrier = start(function(_, s)
      s:read()
      assert(s:write "an answer")
    end)
    made:readConnectionLost()
    assert.equal("an answer", carrier:written())
    assert.is_true(carrier.disconnecting)
  end)

  it("is heard of once, though the connection ends after it", function()
    local ends = 0
    local made = start(function(_, s)
      while s:read() do
        error "nothing came"
      end
      ends = ends + 1
      defer.await(Deferred:new())
    end)
    made:readConnectionLost()
    lose(made, DONE)
    assert.equal(1, ends)
  end)

  it("is read when somebody else has lost the connection, which does not wait for the handler", function()
    local results = {}
    local made, carrier = start(function(_, s)
      results[#results + 1] = shown(s:readLine())
      results[#results + 1] = shown(s:write "bye")
    end)
    made.transport:loseConnection()
    assert.is_nil(carrier.producer)
    lose(made, DONE)
    assert.same({ "nil", "nil EPIPE" }, results)
  end)

  it("is read after the handler itself has lost the connection", function()
    local results = {}
    local made, carrier = start(function(self, s)
      self.transport:loseConnection()
      results[1] = shown(s:read())
    end)
    assert.is_nil(carrier.producer)
    lose(made, DONE)
    assert.same({ "nil" }, results)
  end)

  it("is read when connectionMade has lost the connection", function()
    local results = {}
    start(function(_, s)
      results[1] = shown(s:read())
    end, {
      connectionMade = function(self)
        self.transport:loseConnection()
      end,
    })
    assert.same({ "nil" }, results)
  end)

  it("of our own half can be sent while reading goes on", function()
    local results = {}
    local made, carrier = start(function(self, s)
      s:write "request"
      self.transport:loseWriteConnection()
      results[1] = shown(s:read())
    end)
    assert.is_true(carrier.writeEnded)
    made:dataReceived "answer"
    assert.same({ '"answer"' }, results)
  end)

  it("is told to a connectionLost of one's own, after the handler has read it", function()
    local order = {}
    local made = start(function(_, s)
      order[#order + 1] = shown(s:read())
    end, {
      connectionLost = function(_, why)
        order[#order + 1] = why.errno
      end,
    })
    lose(made, RESET)
    assert.same({ "nil ECONNRESET", "ECONNRESET" }, order)
  end)

  it("is told once to a handler whose connectionLost calls that of StreamProtocol", function()
    local order = {}
    local made = start(function(_, s)
      order[#order + 1] = shown(s:read())
    end, {
      connectionLost = function(self, why)
        stream.StreamProtocol.connectionLost(self, why)
        order[#order + 1] = "own"
      end,
    })
    lose(made, RESET)
    assert.same({ "nil ECONNRESET", "own" }, order)
  end)
end)

-- --- input that nobody waits for -------------------------------------------------------------

describe("input that comes while the handler is busy", function()
  it("is there when it reads", function()
    local results, busy = {}, Deferred:new()
    local made = start(caller({ { "readLine" }, { "readExactly", 2 }, { "read" }, { "read" } }, results, busy))
    for _, piece in ipairs { "on", "e\nt", "w", "o", "rest" } do
      made:dataReceived(piece)
    end
    assert.same({}, results)
    busy:callback()
    assert.same({ '"one"', '"tw"', '"orest"' }, results)
    made:dataReceived "more"
    assert.equal('"more"', results[4])
  end)

  it("pauses the transport from 64 KiB on, and lets it go on when half of that is read", function()
    local busy, goOn = Deferred:new(), Deferred:new()
    local made, carrier = start(function(_, s)
      defer.await(busy)
      assert(#s:read(32767) == 32767)
      defer.await(goOn)
      assert(#s:read(2) == 2)
      defer.await(Deferred:new())
    end)
    for _ = 1, 15 do
      made:dataReceived(("x"):rep(4096))
    end
    made:dataReceived(("x"):rep(4095))
    assert.is_true(carrier.reading)
    made:dataReceived "x"
    assert.is_false(carrier.reading)
    busy:callback()
    assert.is_false(carrier.reading)
    goOn:callback()
    assert.is_true(carrier.reading)
  end)

  it("lets the transport go on when more is wanted than may lie there", function()
    for _, call in ipairs { { "readExactly", 100000 }, { "readUntil", "--", 100000 }, { "readLine", 100000 } } do
      local results, busy = {}, Deferred:new()
      local made, carrier = start(caller({ call }, results, busy))
      made:dataReceived(("x"):rep(65536))
      assert.is_false(carrier.reading)
      busy:callback()
      assert.is_true(carrier.reading)
      made:dataReceived(("x"):rep(34464 - 3))
      made:dataReceived "x--\n"
      assert.is_true(results.ended, call[1])
      assert.is_true(#results[1] >= 100000, call[1])
    end
  end)

  it("pauses the transport while the handler waits for room", function()
    local made, carrier = start(function(_, s)
      s:write(("y"):rep(HIGH + 1))
      assert(#s:read() == 65536)
    end)
    made:dataReceived(("x"):rep(65536))
    assert.is_false(carrier.reading)
    carrier:drain()
    assert.is_true(carrier.disconnecting)
  end)

  it("is dropped when the handler has ended", function()
    local made, carrier = start(function() end)
    assert.is_true(carrier.disconnecting)
    made:dataReceived "late"
    made:readConnectionLost()
    lose(made, DONE)
  end)
end)

-- --- writing ---------------------------------------------------------------------------------

describe("a write", function()
  it("of little is done at once", function()
    local results = {}
    local _, carrier = start(caller({ { "write", "one" }, { "write", "" }, { "write", "two" } }, results))
    assert.same({ "true", "true", "true", ended = true }, results)
    assert.equal("onetwo", carrier:written())
  end)

  it("waits while more is queued than may be, and goes on when there is room", function()
    local results = {}
    local _, carrier = start(caller(times(3, "write", ("x"):rep(HIGH)), results))
    assert.same({ "true" }, results)
    assert.equal(2 * HIGH, carrier.queued)
    carrier:drain()
    assert.same({ "true", "true", "true", ended = true }, results)
    assert.is_true(carrier.disconnecting)
  end)

  it("that waits is told when the connection is lost", function()
    for why, expected in pairs { [RESET] = "nil ECONNRESET", [DONE] = "nil EPIPE" } do
      local results = {}
      local made = start(caller({ { "write", ("x"):rep(HIGH + 1) }, { "write", "more" } }, results))
      assert.same({}, results)
      lose(made, why)
      assert.same({ expected, "nil EPIPE", ended = true }, results)
    end
  end)

  it("that waits does not mind that the peer sends no more", function()
    local results = {}
    local made, carrier = start(caller({ { "write", ("x"):rep(HIGH + 1) }, { "read" } }, results))
    made:readConnectionLost()
    assert.same({}, results)
    carrier:drain()
    assert.same({ "true", "nil", ended = true }, results)
  end)

  it("that waits goes on when somebody ends our half of the connection", function()
    local results = {}
    local _, carrier = start(caller({ { "write", ("x"):rep(HIGH + 1) } }, results))
    carrier:loseWriteConnection()
    carrier:drain()
    assert.same({ "true", ended = true }, results)
    assert.is_nil(carrier.producer)
  end)

  it("that waits gives up at the deadline", function()
    local results = {}
    local _, carrier, clock = start(function(_, s)
      s:setDeadline(5)
      results[1] = shown(s:write(("x"):rep(HIGH + 1)))
    end)
    clock:advance(4.9)
    assert.same({}, results)
    clock:advance(0.1)
    assert.same({ "nil ETIMEDOUT" }, results)
    assert.equal(HIGH + 1, #carrier:written())
  end)

  it("queues no more as long as there is no room, however often the time runs out", function()
    local results = {}
    local made, carrier, clock = start(function(_, s)
      s:setTimeout(1)
      for i = 1, 5 do
        results[i] = shown(s:write(("x"):rep(HIGH + 1)))
      end
    end)
    clock:advance(3.5)
    assert.same({ "nil ETIMEDOUT", "nil ETIMEDOUT", "nil ETIMEDOUT" }, results)
    assert.equal(HIGH + 1, carrier.queued)
    carrier:drain()
    assert.equal(HIGH + 1, carrier.queued)
    clock:advance(1)
    assert.equal("nil ETIMEDOUT", results[4])
    lose(made, RESET)
    assert.equal("nil ECONNRESET", results[5])
  end)

  it("after the end of the connection is refused, and does not raise", function()
    local results, busy = {}, Deferred:new()
    local made = start(caller({ { "write", "x" } }, results, busy))
    lose(made, DONE)
    busy:callback()
    assert.same({ "nil EPIPE", ended = true }, results)
  end)
end)

-- --- time ------------------------------------------------------------------------------------

describe("time", function()
  it("that runs out ends each call that waits, and what had come stays there", function()
    for _, call in ipairs { { "readExactly", 5 }, { "readLine" }, { "readUntil", "--" } } do
      local results = {}
      local made, _, clock = start(function(_, s)
        s:setTimeout(1)
        results[1] = shown(s[call[1]](s, call[2]))
        s:setTimeout(nil)
        results[2] = shown(s:read())
        results[3] = shown(s:read())
      end)
      made:dataReceived "abc"
      clock:advance(1)
      assert.same({ "nil ETIMEDOUT", '"abc"' }, results)
      clock:advance(100)
      made:dataReceived "d"
      assert.equal('"d"', results[3])
    end
  end)

  it("that runs out has a message", function()
    local message
    local _, _, clock = start(function(_, s)
      s:setTimeout(1)
      message = select(2, s:read())
    end)
    clock:advance(1)
    assert.equal("timed out", message)
  end)

  it("of a timeout begins anew with each call", function()
    local results = {}
    local made, _, clock = start(function(_, s)
      s:setTimeout(2)
      for i = 1, 4 do
        results[i] = shown(s:readLine())
      end
    end)
    for _ = 1, 3 do
      clock:advance(1.5)
      made:dataReceived "x\n"
    end
    clock:advance(1.9)
    assert.equal(3, #results)
    clock:advance(0.1)
    assert.equal("nil ETIMEDOUT", results[4])
  end)

  it("of a timeout or a deadline is not prolonged by what comes byte by byte", function()
    for _, set in ipairs { "setTimeout", "setDeadline" } do
      for _, call in ipairs { { "readLine", 1000 }, { "readExactly", 1000 }, { "readUntil", "--end--", 1000 } } do
        local results = {}
        local made, _, clock = start(function(_, s)
          s[set](s, 5)
          results[1] = shown(s[call[1]](s, unpack(call, 2)))
          results[2] = s.clock:seconds()
        end)
        for _ = 1, 60 do
          clock:advance(0.1)
          made:dataReceived "-"
        end
        assert.same({ "nil ETIMEDOUT", 5 }, { results[1], math.floor(results[2] + 0.05) }, call[1])
      end
    end
  end)

  it("of a deadline is that of all calls together", function()
    local results = {}
    local made, _, clock = start(function(_, s)
      s:setDeadline(5)
      repeat
        results[#results + 1] = shown(s:read())
      until results[#results] ~= '"x"'
      results[#results + 1] = shown(s:readLine())
    end)
    for _ = 1, 10 do
      clock:advance(1)
      made:dataReceived "x"
    end
    assert.same({ '"x"', '"x"', '"x"', '"x"', "nil ETIMEDOUT", "nil ETIMEDOUT" }, results)
  end)

  it("of a deadline that is past gives what is there, and does not wait", function()
    for _, seconds in ipairs { 0, -1 } do
      local results, busy = {}, Deferred:new()
      local made = start(function(_, s)
        defer.await(busy)
        s:setDeadline(seconds)
        results[1] = shown(s:read())
        results[2] = shown(s:read())
        results[3] = shown(s:readLine())
        results[4] = shown(s:write(("x"):rep(HIGH + 1)))
      end)
      made:dataReceived "abc"
      busy:callback()
      assert.same({ '"abc"', "nil ETIMEDOUT", "nil ETIMEDOUT", "nil ETIMEDOUT" }, results)
    end
  end)

  it("that is lifted does not run out", function()
    for _, set in ipairs { "setTimeout", "setDeadline" } do
      for _, call in ipairs { { "read" }, { "readLine" }, { "readExactly", 2 }, { "write", ("x"):rep(HIGH + 1) } } do
        local results = {}
        local made, carrier, clock = start(function(_, s)
          s[set](s, 5)
          s:read()
          s[set](s, nil)
          results[1] = shown(s[call[1]](s, call[2]))
        end)
        clock:advance(1)
        made:dataReceived "x"
        clock:advance(1000)
        assert.same({}, results, call[1])
        made:dataReceived "y\n"
        carrier:drain()
        assert.is_nil(results[1]:find "ETIMEDOUT", call[1])
      end
    end
  end)

  it("that was lifted takes nothing from a call with a time of its own", function()
    local results = {}
    local made, _, clock = start(function(_, s)
      s:setTimeout(1)
      s:read()
      s:setTimeout(nil)
      results[1] = shown(s:read())
      s:setTimeout(1)
      results[2] = shown(s:read())
      results[3] = shown(s:read())
    end)
    clock:advance(0.5)
    made:dataReceived "a"
    clock:advance(10)
    made:dataReceived "b"
    clock:advance(0.5)
    made:dataReceived "c"
    assert.same({ '"b"', '"c"' }, results)
    clock:advance(1)
    assert.equal("nil ETIMEDOUT", results[3])
  end)

  it("may be made shorter and longer", function()
    local results = {}
    local made, _, clock = start(function(_, s)
      s:setTimeout(100)
      s:read()
      s:setTimeout(1)
      results[1] = shown(s:read())
      s:setTimeout(10)
      results[2] = shown(s:read())
    end)
    made:dataReceived "x"
    clock:advance(1)
    assert.same({ "nil ETIMEDOUT" }, results)
    clock:advance(9.9)
    assert.equal(1, #results)
    clock:advance(0.1)
    assert.equal("nil ETIMEDOUT", results[2])
  end)

  it("of timeout and deadline together is the shorter of the two", function()
    local results = {}
    local _, _, clock = start(function(_, s)
      s:setDeadline(5)
      s:setTimeout(2)
      for _ = 1, 3 do
        s:read()
        results[#results + 1] = s.clock:seconds()
      end
    end)
    clock:advance(10)
    assert.same({ 2, 4, 5 }, results)
  end)

  it("does not run while something else is awaited", function()
    local results, busy = {}, Deferred:new()
    local made, _, clock = start(function(_, s)
      s:setTimeout(1)
      s:read()
      results[1] = defer.await(busy)
      results[2] = shown(s:read())
    end)
    made:dataReceived "x"
    clock:advance(10)
    assert.same({}, results)
    busy:callback "done"
    clock:advance(0.9)
    made:dataReceived "y"
    assert.same({ "done", '"y"' }, results)
  end)

  it("leaves no timer behind when the handler ends", function()
    for _, ending in ipairs { "return", "raise" } do
      local made, _, clock = start(function(_, s)
        s:setTimeout(100)
        s:read()
        assert(ending == "return", "raised")
      end)
      assert.equal(1, clock:pending())
      pcall(made.dataReceived, made, "x")
      assert.equal(0, clock:pending())
    end
  end)

  it("has one timer, whatever number of calls it is for", function()
    local most = 0
    local made, _, clock = start(function(_, s)
      s:setTimeout(10)
      while s:read() do
        s:setDeadline(20)
      end
    end)
    for _ = 1, 100 do
      clock:advance(0.3)
      made:dataReceived "x"
      most = math.max(most, clock:pending())
    end
    assert.equal(1, most)
  end)
end)

-- --- errors ----------------------------------------------------------------------------------

describe("an error in handle", function()
  -- Asserts that `f` raises the error of that line.
  local function raises(mark, f)
    local ok, message = pcall(f)
    assert.is_false(ok)
    assert.truthy(message:find(mark .. " oops", 1, true), message)
    assert.truthy(message:find "stack traceback", message)
  end

  it("comes out of who connected", function()
    local line
    raises(here():gsub(":(%d+):$", function(n) return (":%d:"):format(n + 2) end), function()
      start(function()
        line = here() error "oops"
      end)
    end)
    assert.is_string(line)
  end)

  it("comes out of who fed it, and the connection closes", function()
    local line
    local made, carrier = start(function(_, s)
      s:read()
      line = here() error "oops"
    end)
    assert.is_false(carrier.disconnecting)
    local ok, message = pcall(made.dataReceived, made, "x")
    assert.is_false(ok)
    assert.truthy(message:find(line .. " oops", 1, true), message)
    assert.is_true(carrier.disconnecting)
    assert.is_nil(carrier.producer)
    made:dataReceived "y"
  end)

  it("comes out of who told of the end, of the room, and of the time", function()
    local line
    local function failing(_, s)
      s:setTimeout(1)
      s:write(("x"):rep(HIGH + 1))
      s:read()
      line = here() error "oops"
    end
    local _, carrier, clock = start(failing)
    carrier:drain()
    local ok, message = pcall(clock.advance, clock, 1)
    assert.is_false(ok)
    assert.truthy(message:find(line .. " oops", 1, true), message)
    local made, other = start(failing)
    other:drain()
    ok, message = pcall(lose, made, RESET)
    assert.is_false(ok)
    assert.truthy(message:find(line .. " oops", 1, true), message)
    local third = select(2, start(function(_, s)
      s:write(("x"):rep(HIGH + 1))
      line = here() error "oops"
    end))
    ok, message = pcall(third.drain, third)
    assert.is_false(ok)
    assert.truthy(message:find(line .. " oops", 1, true), message)
  end)

  it("comes out once", function()
    local made = start(function(_, s)
      s:read()
      error "oops"
    end)
    assert.has_error(function() made:dataReceived "x" end)
    made:dataReceived "y"
    made:readConnectionLost()
    lose(made, DONE)
  end)

  it("shows the lines of all functions that it went through", function()
    local inner, outer
    local function parse(s)
      local line = s:readLine()
      inner = here() error("bad line " .. line)
    end
    local made = start(function(_, s)
      outer = here() parse(s)
    end)
    local _, message = pcall(made.dataReceived, made, "x\n")
    assert.truthy(message:find(inner .. " bad line x", 1, true), message)
    assert.truthy(message:find(outer, 1, true), message)
    assert.is_nil(message:find("skald/stream.lua", 1, true), message)
  end)

  it("may be a table, and is shown as what it says", function()
    local made = start(function(_, s)
      s:read()
      error { type = "Teapot", message = "short and stout" }
    end)
    local _, message = pcall(made.dataReceived, made, "x")
    assert.matches("Teapot: short and stout", message)
  end)

  it("may be caught by the handler, around what waits", function()
    local results = {}
    local made = start(function(_, s)
      results[1] = select(2, pcall(function()
        error("no " .. s:readLine(), 0)
      end))
      results[2] = s:readLine()
    end)
    made:dataReceived "a\nb\n"
    assert.same({ "no a", "b" }, results)
  end)

  it("is that a protocol has none", function()
    local made = stream.StreamProtocol({}):new()
    assert.has_error(function() made:makeConnection(newTransport()) end)
  end)

  it("is a coroutine.yield of one's own", function()
    local made = start(function(_, s)
      s:read()
      coroutine.yield(1)
    end)
    local ok, message = pcall(made.dataReceived, made, "x")
    assert.is_false(ok)
    assert.matches("coroutine.yield", message)
  end)
end)

-- --- the handler -----------------------------------------------------------------------------

describe("a handler", function()
  it("gets its protocol and the stream, after connectionMade", function()
    local seen = {}
    local made = start(function(self, s)
      seen[#seen + 1] = self
      seen[#seen + 1] = s
    end, {
      connectionMade = function(self)
        seen[#seen + 1] = self.transport
      end,
    })
    assert.same({ made.transport, made, made.stream }, seen)
  end)

  it("that returns at once closes the connection, and what it wrote is sent", function()
    local _, carrier = start(function(_, s)
      s:write "hello"
    end)
    assert.equal("hello", carrier:written())
    assert.is_true(carrier.disconnecting)
    assert.is_nil(carrier.producer)
  end)

  it("awaits Deferreds, and their failures", function()
    local results, value, failing = {}, Deferred:new(), Deferred:new()
    local made = start(function(_, s)
      results[1] = s:readLine()
      results[2] = defer.await(value)
      results[3] = s:readLine()
      results[4] = tostring(select(2, pcall(defer.await, failing)))
      results[5] = s:readLine()
    end)
    made:dataReceived "one\n"
    made:dataReceived "two\n"
    value:callback "a value"
    failing:errback "no luck"
    made:dataReceived "three\n"
    assert.same({ "one", "a value", "two", "no luck", "three" }, results)
  end)

  it("that awaits something for ever is not disturbed by its stream", function()
    local ran = 0
    local made, _, clock = start(function(_, s)
      s:setTimeout(1)
      s:read()
      ran = ran + 1
      defer.await(Deferred:new())
      ran = ran + 1
    end)
    made:dataReceived "x"
    made:dataReceived "y"
    clock:advance(10)
    made:readConnectionLost()
    lose(made, DONE)
    assert.equal(1, ran)
  end)

  it("may run beside others, which feed each other", function()
    local results, others = {}, {}
    for i = 1, 150 do
      others[i] = start(function(_, s)
        local line = s:readLine()
        while line do
          results[#results + 1] = line .. i
          if others[i + 1] then
            others[i + 1]:dataReceived(line .. "\n")
          end
          line = s:readLine()
        end
      end)
    end
    others[1]:dataReceived "a\nb"
    others[1]:dataReceived "\n"
    assert.equal(300, #results)
    assert.equal("a150", results[150])
    assert.equal("b1", results[151])
  end)

  it("gets its bytes in order, though as many coroutines as may be within each other feed it", function()
    for depth = 95, 105 do
      local read = {}
      local last = start(function(_, s)
        for _ = 1, 6 do
          read[#read + 1] = s:readSome(2)
        end
      end)
      local function feed(n)
        if n == 0 then
          last:dataReceived "abcd"
          last:dataReceived "efgh"
          last:dataReceived "ijkl"
          return
        end
        start(function(_, s)
          s:read()
          feed(n - 1)
        end):dataReceived "go"
      end
      feed(depth)
      assert.equal("abcdefghijkl", table.concat(read))
    end
  end)
end)

describe("a stream", function()
  local calls = {
    read = {}, readExactly = { 1 }, readLine = {}, readUntil = { "x" }, write = { "x" }, setTimeout = { 1 },
    setDeadline = { 1 },
  }

  local function raisesAt(mark, f, ...)
    local ok, message = pcall(f, ...)
    assert.is_false(ok)
    assert.equal(mark, message:sub(1, #mark))
    return message:sub(#mark + 2)
  end

  it("is for its handler only: others raise at their own line", function()
    local made = start(function(_, s)
      s:read()
    end)
    local s = made.stream
    for name, arguments in pairs(calls) do
      local mark
      local said = raisesAt(here():gsub("%d+", function(n) return n + 2 end), function()
        mark = here()
        s[name](s, unpack(arguments))
      end)
      assert.is_string(mark)
      assert.matches("handler", said)
    end
  end)

  it("is read by so many bytes, however they come, and by fewer at its end", function()
    local seen = {}
    local made = start(function(_, s)
      for i = 1, 4 do
        seen[i] = shown(s:read(4))
      end
    end)
    for byte in ("abcdefghij"):gmatch "." do
      made:dataReceived(byte)
    end
    made:readConnectionLost()
    assert.same({ '"abcd"', '"efgh"', '"ij"', "nil" }, seen)
  end)

  it("is not read short where the connection is lost", function()
    local seen = {}
    local made = start(function(_, s)
      seen[1] = shown(s:read(4))
    end)
    made:dataReceived "ab"
    lose(made, RESET)
    assert.same({ "nil ECONNRESET" }, seen)
  end)

  it("gives its lines to a loop", function()
    local seen = {}
    local made = start(function(_, s)
      for line in s:lines() do
        seen[#seen + 1] = line
      end
      seen[#seen + 1] = "end"
    end)
    made:dataReceived "a\nb\r\nc"
    made:readConnectionLost()
    assert.same({ "a", "b", "c", "end" }, seen)
  end)

  it("is waited for by one coroutine at a time", function()
    local problem
    local first = start(function(_, s)
      s:read()
    end)
    start(function()
      problem = select(2, pcall(first.stream.read, first.stream))
    end)
    assert.matches("another coroutine waits", problem)
    first:dataReceived "x"
  end)

  it("is read and written by any coroutine that has it", function()
    local results = {}
    local made, carrier = start(function(_, s)
      defer.await(defer.async(function()
        results[1] = s:read()
        s:write "from an async function"
      end)())
      results[2] = s:read()
    end)
    made:dataReceived "x"
    made:dataReceived "y"
    assert.same({ "x", "y" }, results)
    assert.equal("from an async function", carrier:written())
  end)

  it("says what is wrong when a coroutine of the handler, or a call from C, has waited for it", function()
    for _, wait in ipairs {
      function(s) coroutine.wrap(s.read)(s) end,
      function(s) pcall(string.gsub, "x", "x", function() s:read() end) end,
    } do
      local results = {}
      local made = start(function(_, s)
        wait(s)
        results[1] = select(2, pcall(s.read, s))
        results[2] = s:read()
      end)
      assert.matches("in a coroutine of one's own, nor in a call from C", results[1])
      made:dataReceived "x"
      assert.equal("x", results[2])
      lose(made, DONE)
    end
  end)

  it("has nothing to do with a handler that has ended, whatever a coroutine of that still waits for", function()
    local made = start(function(_, s)
      coroutine.wrap(s.read)(s)
    end)
    made:dataReceived "x"
    made:readConnectionLost()
    lose(made, DONE)
  end)

  it("raises at the caller's line for arguments that make no sense", function()
    local wrong = {
      { "read", 0 }, { "read", -1 }, { "read", 1.5 }, { "read", "5" }, { "read", 0 / 0 },
      { "readExactly" }, { "readExactly", -1 }, { "readExactly", 0.5 }, { "readExactly", "5" },
      { "readLine", -1 }, { "readLine", "5" }, { "readLine", {} },
      { "readUntil" }, { "readUntil", "" }, { "readUntil", 5 }, { "readUntil", "x", -1 }, { "readUntil", "x", "5" },
      { "write" }, { "write", 5 }, { "write", {} },
      { "setTimeout", "5" }, { "setTimeout", 0 / 0 }, { "setTimeout", math.huge },
      { "setDeadline", "5" }, { "setDeadline", 0 / 0 }, { "setDeadline", math.huge },
    }
    local seen = 0
    local _, carrier = start(function(_, s)
      for _, call in ipairs(wrong) do
        local f = s[call[1]]
        local mark = here():gsub("%d+", function(n) return n + 2 end)
        local ok, message = pcall(function()
          f(s, call[2], call[3])
        end)
        assert.is_false(ok, call[1] .. " " .. tostring(call[2]))
        assert.equal(mark, message:sub(1, #mark), call[1])
        seen = seen + 1
      end
    end)
    assert.equal(#wrong, seen)
    assert.equal("", carrier:written())
  end)
end)

-- --- work ------------------------------------------------------------------------------------

-- Runs `f` and gives the number of bytes that string and table functions went through meanwhile.
local function bytesMoved(f)
  local sub, find, concat = string.sub, string.find, table.concat
  local moved = 0
  rawset(string, "sub", function(s, from, upto)
    local result = sub(s, from, upto)
    moved = moved + #result
    return result
  end)
  rawset(string, "find", function(s, pattern, from, plain)
    local at, upto = find(s, pattern, from, plain)
    moved = moved + (upto or #s) - (from or 1) + 1
    return at, upto
  end)
  rawset(table, "concat", function(...)
    local result = concat(...)
    moved = moved + #result
    return result
  end)
  local ok, problem = pcall(f)
  rawset(string, "sub", sub)
  rawset(string, "find", find)
  rawset(table, "concat", concat)
  assert(ok, problem)
  return moved
end

describe("the work is linear", function()
  -- Asserts it for `f(n)`, which handles n bytes; each byte is gone through `most` times.
  local function linear(n, most, f)
    local once, twice = bytesMoved(function() f(n) end), bytesMoved(function() f(2 * n) end)
    assert.is_true(once >= n, once .. " bytes were counted")
    assert.is_true(twice <= 3 * once, ("%d bytes for %d, %d for twice as many"):format(once, n, twice))
    assert.is_true(twice <= most * 2 * n, ("%d bytes for %d"):format(twice, 2 * n))
  end

  -- Feeds n bytes one by one, then an end, to a handler with one call.
  local function byteByByte(n, ending, call, ...)
    local got
    local arguments = { ... }
    local made = start(function(_, s)
      got = s[call](s, unpack(arguments))
    end)
    for _ = 1, n do
      made:dataReceived "x"
    end
    made:dataReceived(ending)
    assert.equal(n, #got)
  end

  it("in a line of a megabyte that comes byte by byte", function()
    linear(524288, 10, function(n) byteByByte(n, "\n", "readLine", n) end)
  end)

  it("in bytes by number that come one by one", function()
    linear(262144, 10, function(n) byteByByte(n - 1, "x", "readExactly", n - 1) end)
  end)

  it("in what comes before a long delimiter, byte by byte", function()
    linear(131072, 40, function(n) byteByByte(n, "--boundary--", "readUntil", "--boundary--", n) end)
  end)

  it("in what is almost too long before a long delimiter", function()
    local delimiter = ("-"):rep(200)
    linear(65536, 1000, function(n)
      local results = {}
      local made = start(caller({ { "readUntil", delimiter, n } }, results))
      for _ = 1, n + #delimiter do
        made:dataReceived "x"
      end
      assert.same({ "nil EMSGSIZE", ended = true }, results)
    end)
  end)

  it("in many short lines of one piece", function()
    linear(65536, 10, function(n)
      local count = 0
      local made = start(function(_, s)
        while s:readLine() do
          count = count + 1
        end
      end)
      made:dataReceived(("1234567\n"):rep(n / 8))
      assert.equal(n / 8, count)
    end)
  end)

  it("in lines that are read slowly while more come", function()
    linear(32768, 10, function(n)
      local count, gate = 0, nil
      local made = start(function(_, s)
        while s:readLine() do
          count = count + 1
          gate = Deferred:new()
          defer.await(gate)
        end
      end)
      made:dataReceived(("1234567\n"):rep(n / 16))
      for _ = 1, n / 16 do
        made:dataReceived "1234567\n"
        gate:callback()
      end
      for _ = 1, n / 16 do
        gate:callback()
      end
      assert.equal(n / 8, count)
    end)
  end)

  it("and what comes byte by byte takes little more memory than it has bytes", function()
    local n = 1048576
    local made = start(function(_, s)
      s:readLine(2 * n)
    end)
    collectgarbage()
    local before = collectgarbage "count"
    for _ = 1, n do
      made:dataReceived "x"
    end
    collectgarbage()
    local grown = (collectgarbage "count" - before) * 1024
    assert.is_true(grown < 2 * n, ("%d bytes for %d"):format(grown, n))
    made:dataReceived "\n"
  end)
end)
