-- Poetry in all its parts: the client in five styles, the transform service, the proxy.

local client = require "support.client"
local host = require "support.host"
local reload = require "support.reload"
local sys = require "support.sys"

local LOOPBACK = "listen=tcp:127.0.0.1:0"
local styles = { "callback", "deferred", "chain", "coroutine", "list" }

-- A poem that a test recites as it likes: half of it comes at once; the words that the second endpoint is sent say what
-- becomes of all who wait. Each that asks is a line, and so is each that leaves.
local reciter = [[
  local reactor = require "skald.reactor"
  local waiting, asked = {}, 0
  local Poem, Control, words = {}, {}, {}
  function Poem:connectionMade()
    asked = asked + 1
    waiting[#waiting + 1] = self
    print("asked " .. asked)
    self.transport:write "The first half,\n"
  end
  function Poem:connectionLost(reason) print("left " .. reason.code) end
  function words.finish(transport)
    transport:write "and the second.\n"
    transport:loseConnection()
  end
  function words.reset(transport) transport:abortConnection() end
  function Control:dataReceived(word)
    local list = waiting
    waiting = {}
    for _, poem in ipairs(list) do words[word](poem.transport) end
    self.transport:write(asked .. "\n")
  end
  return {
    { name = "poem", listen = "tcp:127.0.0.1:0", protocol = Poem },
    { name = "control", listen = "tcp:127.0.0.1:0", protocol = Control },
  }
]]

local DEAD = 1 -- a port that nobody listens on, and that no other test is given by the system
local WHOLE = "The first half,\nand the second.\n"

local Reciter = {}
Reciter.__index = Reciter

local reciters

local function newReciter()
  reciters = reciters + 1
  local name = "reciter" .. reciters
  local h = host.run {
    host.script(reciter, name .. ".lua"),
    options = { "--control=" .. host.folder() .. "/" .. name },
    listening = 2,
  }
  return setmetatable({ host = h, port = h.port, control = h:connect(nil, 2) }, Reciter)
end

-- Waits until one more has asked.
function Reciter:asked()
  return self.host:line "^asked (%d+)$"
end

-- Says what becomes of those who wait; returns how many have ever asked.
function Reciter:say(word)
  return tonumber(self.control:send(word):line())
end

local function poem(name)
  local file = assert(io.open(("scripts/services/poems/%s.txt"):format(name), "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function poetry(name, endpoint)
  return host.run { "poetry", "listen=" .. (endpoint or "tcp:127.0.0.1:0"), "poem=" .. name }
end

local function getPoetry(...)
  return host.command { "run", "get-poetry", ... }
end

-- A client that runs on, and tells of each read.
local function startGetPoetry(...)
  return host.run {
    "get-poetry",
    listening = 0,
    options = { "--log-level=debug", "--control=" .. host.folder() .. "/get-poetry" },
    env = { SKALD_TRACE = "io" },
    ...,
  }
end

-- What the client complained of, line by line.
local function complaints(log)
  local list = {}
  for line in log:gmatch "[^\n]+" do
    list[#list + 1] = line:match "^get%-poetry: (.*)$"
  end
  return list
end

local function has(text, part)
  return text:find(part, 1, true) ~= nil
end

before_each(function()
  reciters = 0
end)

for _, style in ipairs(styles) do
  describe("get-poetry in the style " .. style, function()
    after_each(host.cleanup)

    it("prints the poems of two servers and ends with 0", function()
      local a, b = poetry "tyger", poetry "lorelei"
      local status, out, log = getPoetry(("poems=127.0.0.1:%d,127.0.0.1:%d"):format(a.port, b.port), "style=" .. style)
      assert.equal(0, status, log)
      assert.is_true(has(out, poem "tyger"), out)
      assert.is_true(has(out, poem "lorelei"), out)
      assert.same({}, complaints(log))
    end)

    it("asks all servers at the same time", function()
      local a, b = newReciter(), newReciter()
      local p = startGetPoetry(("poems=%d,%d"):format(a.port, b.port), "style=" .. style)
      a:asked()
      b:asked()
      b:say "finish"
      a:say "finish"
      p:ends(0)
      local _, count = p:output():gsub(WHOLE, "")
      assert.equal(2, count)
    end)

    it("prints nothing of a poem whose server resets in the middle, and ends with 1", function()
      local a, b = newReciter(), poetry "tyger"
      local p = startGetPoetry(("poems=%d"):format(a.port), "style=" .. style)
      p:waitLog("data: connection %d+ tcp 127%.0%.0%.1:" .. a.port)
      a:say "reset"
      p:ends(1)
      assert.is_false(has(p:output():lower(), "half"), p:output())
      local said = complaints(p:errors())
      assert.equal(1, #said, p:errors())
      assert.is_true(has(said[1], "tcp:127.0.0.1:" .. a.port), said[1])

      p = startGetPoetry(("poems=%d,%d"):format(a.port, b.port), "style=" .. style)
      a:asked()
      a:asked()
      a:say "reset"
      p:ends(1)
      assert.is_false(has(p:output():lower(), "half"), p:output())
      assert.is_true(has(p:output(), poem "tyger"), p:output())
      assert.equal(1, #complaints(p:errors()), p:errors())
    end)

    it("says in one line that nobody answers at an endpoint, prints the others, and ends with 1", function()
      local a = poetry "ozymandias"
      local status, out, log = getPoetry(("poems=127.0.0.1:%d,127.0.0.1:%d"):format(DEAD, a.port), "style=" .. style)
      assert.equal(1, status, log)
      assert.is_true(has(out, poem "ozymandias"), out)
      local said = complaints(log)
      assert.equal(1, #said, log)
      assert.matches("^cannot connect to tcp:127%.0%.0%.1:" .. DEAD .. ": %a", said[1])
      assert.is_false(has(log, "traceback"), log)
    end)

    it("takes a server that closes without a word for one without a poem", function()
      local a = host.run { "poetry", LOOPBACK, "poem=" .. host.file("empty.txt", "") }
      local status, out, log = getPoetry("poems=" .. a.port, "style=" .. style)
      assert.equal(1, status, log)
      assert.equal("tcp:127.0.0.1:" .. a.port .. ": the connection was closed without a poem", complaints(log)[1])
      assert.equal(style == "list" and 1 or 0, select(2, out:gsub("\n", "")), out)
    end)

    it("fetches from Unix sockets and over IPv6, too", function()
      local path = host.folder() .. "/poem.sock"
      poetry("tyger", "unix:" .. path)
      local six = poetry("lorelei", "tcp:[::1]:0")
      local status, out, log = getPoetry(("poems=unix:%s,[::1]:%d"):format(path, six.port), "style=" .. style)
      assert.equal(0, status, log)
      assert.is_true(has(out, poem "tyger"), out)
      assert.is_true(has(out, poem "lorelei"), out)
    end)

    it("complains of what it has not got when it is stopped, and ends with 1", function()
      local a = newReciter()
      local p = startGetPoetry("poems=" .. a.port, "style=" .. style)
      a:asked()
      p:waitLog "data: connection"
      p:kill "TERM"
      p:ends(1)
      assert.equal("tcp:127.0.0.1:" .. a.port .. ": the host stops", complaints(p:errors())[1])
      assert.is_false(has(p:output():lower(), "half"), p:output())
    end)

    it("gets a poem of megabytes byte for byte", function()
      local text = ("%s\0\255\r\n"):format(poem "lorelei"):rep(3000)
      local a = host.run { "poetry", LOOPBACK, "poem=" .. host.file("long.txt", text) }
      local status, out, log = getPoetry("poems=" .. a.port, "style=" .. style)
      assert.equal(0, status, log)
      assert.is_true(has(out, text), #out .. " bytes came")
    end)
  end)
end

describe("get-poetry", function()
  after_each(host.cleanup)

  it("prints a list in the order that was asked for, and the sum", function()
    local a, b = newReciter(), poetry "tyger"
    local p = startGetPoetry(("poems=%d,%d,%d"):format(a.port, b.port, DEAD), "style=list")
    a:asked()
    p:waitLog("lost: connection %d+ tcp 127%.0%.0%.1:" .. b.port)
    a:say "finish"
    p:ends(1)
    local rest = p:output():sub(#WHOLE + #poem "tyger" + 1)
    assert.equal(WHOLE .. poem "tyger", p:output():sub(1, -#rest - 1))
    assert.matches(("^2 of 3 poems, %d bytes in %%d+%%.%%d+ s\n$"):format(#WHOLE + #poem "tyger"), rest)
  end)

  it("has a chain send each poem through a transform service", function()
    local a, b = poetry "tyger", poetry "lorelei"
    local t = host.serve([[
      -- Counts what the real service would answer, in capitals to tell it from what is done here.
      local basic = require "skald.basic"
      local T = basic.NetstringReceiver {}
      function T:stringReceived(request)
        print("request " .. request:match "^%w+")
        self:sendString(request:match "^cummingsify%.(.*)$":upper())
      end
      return { listen = "tcp:127.0.0.1:0", protocol = T }
    ]])
    local words = { ("poems=%d,%d"):format(a.port, b.port), "style=chain" }
    local status, out, log = getPoetry(words[1], words[2], "transform=127.0.0.1:" .. t.port)
    assert.equal(0, status, log)
    assert.is_true(has(out, poem("tyger"):upper()), out)
    assert.is_true(has(out, poem("lorelei"):upper()), out)
    t:line "^request cummingsify$"
    t:line "^request cummingsify$"

    local real = host.run { "transform", LOOPBACK }
    status, out, log = getPoetry(words[1], words[2], "transform=127.0.0.1:" .. real.port)
    assert.equal(0, status, log)
    assert.is_true(has(out, poem("tyger"):lower()), out)
    assert.is_true(has(out, poem("lorelei"):lower()), out)
  end)

  it("prints a poem as it is where the transform service fails, names that, and ends with 1", function()
    local a = poetry "tyger"
    local deaf = poetry "lorelei" -- no netstring
    local shut = host.run { "poetry", LOOPBACK, "poem=" .. host.file("empty.txt", "") }
    for _, port in ipairs { DEAD, deaf.port, shut.port } do
      local status, out, log = getPoetry("poems=" .. a.port, "style=chain", "transform=127.0.0.1:" .. port)
      assert.equal(1, status, log)
      assert.equal(poem "tyger", out)
      local said = complaints(log)
      assert.equal(1, #said, log)
      assert.is_true(has(said[1], "tcp:127.0.0.1:" .. port), said[1])
    end
  end)

  it("finds a server by its name", function()
    local a = poetry "tyger"
    local status, out, log = getPoetry("poems=localhost:" .. a.port)
    assert.equal(0, status, log)
    assert.equal(poem "tyger", out)
    status, out, log = getPoetry("poems=localhost:" .. DEAD)
    assert.equal(1, status)
    assert.equal("", out)
    assert.matches("^cannot connect to tcp:localhost:" .. DEAD .. ": %a", complaints(log)[1])
  end)

  it("says what is wrong with its options, and ends with 1", function()
    for wrong, wanted in pairs {
      ["style=list"] = "poems=HOST:PORT,HOST:PORT is missing",
      ["poems="] = "poems=HOST:PORT,HOST:PORT is missing",
      ["poems=127.0.0.1:verse"] = "column 15: a port",
      ["poems=7001,127.0.0.1"] = "a port is missing",
      ["poems=127.0.0.1:0"] = "column 15: a port",
    } do
      local status, out, log = getPoetry(wrong)
      assert.equal(1, status, wrong)
      assert.equal("", out)
      assert.is_true(has(log, wanted), log)
      assert.is_false(has(log, "traceback"), log)
    end
    local status, _, log = getPoetry("poems=7001", "style=haiku")
    assert.equal(1, status)
    assert.is_true(has(log, "callback, deferred, chain, coroutine, list"), log)
  end)
end)

describe("the bundled service transform", function()
  after_each(host.cleanup)

  local function transform()
    return host.run { "transform", LOOPBACK }
  end

  local function netstring(text)
    return ("%d:%s,"):format(#text, text)
  end

  local function answer(c, text)
    local wanted = netstring(text)
    assert.equal(wanted, c:receive(#wanted))
  end

  it("cummingsifies as many poems as it is sent, whatever they are made of", function()
    local c = transform():connect()
    for _, text in ipairs { "I Am A POEM", "", "a.b.C", "Line\r\nLINE\0\255, 3:ABC,", poem "lorelei" } do
      c:send(netstring("cummingsify." .. text))
      answer(c, text:lower())
    end
    c:send(netstring "cummingsify.ONE" .. netstring "cummingsify.TWO")
    answer(c, "one")
    answer(c, "two")
  end)

  it("takes requests wherever they are cut", function()
    local c = transform():connect()
    local request = netstring "cummingsify.Cut\nME."
    for cut = 1, #request - 1 do
      c:send(netstring("cummingsify." .. cut) .. request:sub(1, cut))
      answer(c, tostring(cut)) -- so that the cut has come
      c:send(request:sub(cut + 1))
      answer(c, "cut\nme.")
    end
  end)

  it("closes whoever asks for a transform that it has not, or sends no netstring", function()
    local h = transform()
    local other = h:connect()
    for _, wrong in ipairs {
      netstring "shout.poem", netstring "cummingsify", netstring "", netstring ".poem", netstring "Cummingsify.Poem",
      "GET / HTTP/1.0\r\n\r\n", "5;hello,", "15:cummingsify.Poe;", "016:cummingsify.POEM,", "-1:,", "999999999:",
    } do
      local c = h:connect()
      c:send(netstring "cummingsify.BEFORE" .. wrong)
      answer(c, "before")
      local text = c:receiveAll()
      assert.equal("", text, wrong)
      c:close()
    end
    other:send(netstring "cummingsify.STILL HERE")
    answer(other, "still here")
  end)
end)

describe("the bundled service poetryproxy", function()
  after_each(host.cleanup)

  local function proxy(connect)
    return host.run { "poetryproxy", LOOPBACK, "connect=" .. connect }
  end

  -- Waits until as many are connected to the proxy, those that it makes included.
  local function connections(h, count)
    local seen
    sys.await(function()
      seen = reload.status("poetryproxy").connections
      return seen == count
    end, function()
      return h:story(("%d connections, not %d"):format(seen, count))
    end)
  end

  local function expectWhole(c)
    assert.same({ WHOLE, "eof" }, { c:receiveAll() })
  end

  it("fetches the poem when somebody asks first, and has it from then on", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local c = h:connect()
    upstream:asked()
    assert.is_true(c:quiet())
    upstream:say "finish"
    expectWhole(c)
    upstream.host:stop()
    for _ = 1, 5 do
      expectWhole(h:connect())
    end
  end)

  it("has those who ask meanwhile wait for the same poem", function()
    local upstream = newReciter()
    local h = proxy("127.0.0.1:" .. upstream.port)
    local list = client.many(20, h.port)
    upstream:asked()
    connections(h, 21)
    upstream:say "finish"
    for _, c in ipairs(list) do
      expectWhole(c)
    end
    assert.equal(1, upstream:say "finish")
  end)

  it("gives up fetching when its only client leaves, and fetches anew for the next", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    for _, leave in ipairs { "close", "reset", "halfClose" } do
      local c = h:connect()
      upstream:asked()
      c[leave](c)
      upstream.host:line "^left lost$"
    end
    local c = h:connect()
    upstream:asked()
    assert.equal(4, upstream:say "finish")
    expectWhole(c)
    assert.equal("", (h:errors():gsub("[^\n]* info [^\n]*\n", "")))
  end)

  it("goes on fetching as long as somebody waits", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local first = h:connect()
    upstream:asked()
    local second, third = h:connect(), h:connect()
    connections(h, 4)
    first:close()
    third:reset()
    connections(h, 2)
    assert.equal(1, upstream:say "finish")
    expectWhole(second)
  end)

  it("gives up connecting, too", function()
    local upstream = poetry("tyger", "tcp:127.0.0.1:0:backlog=1")
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local before = h:descriptors()
    upstream:kill "STOP"
    local queue = client.many(2, upstream.port) -- there is no room for more
    local c = h:connect()
    local function descriptors(count)
      sys.await(function()
        return h:descriptors() == count
      end, function()
        return h:story(("%d descriptors, not %d"):format(h:descriptors(), count))
      end)
    end
    descriptors(before + 2)
    c:close()
    descriptors(before)
    upstream:kill "CONT"
    for _, waiting in ipairs(queue) do
      waiting:receiveAll()
    end
    assert.equal(poem "tyger", (h:connect():receiveAll()))
  end)

  it("closes all who wait when upstream resets, keeps nothing of it, and tries again", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local a = h:connect()
    upstream:asked()
    local b = h:connect()
    connections(h, 3)
    upstream:say "reset"
    assert.same({ "", "eof" }, { a:receiveAll() })
    assert.same({ "", "eof" }, { b:receiveAll() })
    h:waitLog("warning .*127%.0%.0%.1:" .. upstream.port)
    local c = h:connect()
    upstream:asked()
    assert.equal(2, upstream:say "finish")
    expectWhole(c)
  end)

  it("closes a client where upstream is not there, and tries again for the next", function()
    local path = host.folder() .. "/upstream.sock"
    local h = proxy("unix:" .. path)
    for _ = 1, 2 do
      assert.same({ "", "eof" }, { h:connect():receiveAll() })
      h:waitLog("warning .*cannot connect to unix:" .. path:gsub("%p", "%%%0"))
    end
    poetry("tyger", "unix:" .. path)
    assert.equal(poem "tyger", (h:connect():receiveAll()))
  end)

  it("keeps the poem across a reload, and those who wait for it", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local a = h:connect()
    upstream:asked()
    reload.committed "--force"
    local b = h:connect()
    connections(h, 3)
    assert.equal(1, upstream:say "finish")
    expectWhole(a)
    expectWhole(b)
    upstream.host:stop()
    reload.committed "--force"
    expectWhole(h:connect())
  end)

  it("is left clean by a stop in the middle of a fetch", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local c = h:connect()
    upstream:asked()
    h:stop()
    assert.equal("", (c:receiveAll()))
  end)

  it("serves get-poetry, and a failure of upstream is one of the client", function()
    local upstream = newReciter()
    local h = proxy("tcp:127.0.0.1:" .. upstream.port)
    local p = startGetPoetry(("poems=%d,%d"):format(h.port, h.port), "style=coroutine")
    upstream:asked()
    upstream:say "finish"
    p:ends(0)
    assert.equal(WHOLE:rep(2), p:output())
    local broken = host.run {
      "poetryproxy", LOOPBACK, "connect=127.0.0.1:" .. DEAD, options = { "--control=" .. host.folder() .. "/broken" },
    }
    local status, out = getPoetry("poems=" .. broken.port)
    assert.equal(1, status)
    assert.equal("", out)
  end)

  it("says what is wrong with connect=, and ends with 1", function()
    local status, _, log = host.command { "run", "poetryproxy", LOOPBACK, "connect=tcp:127.0.0.1:verse" }
    assert.equal(1, status)
    assert.is_true(has(log, "column 15: a port"), log)
  end)
end)
