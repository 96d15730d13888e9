-- The bundled services, found by name.

local host = require "support.host"

local sys = require "support.sys"

local function service(name, ...)
  return host.run { name, "listen=tcp:127.0.0.1:0", ... }
end

describe("the bundled service", function()
  after_each(host.cleanup)

  it("echo gives back what it gets, byte for byte", function()
    local h = service "echo"
    assert.equal("echo", h.endpoints[1].name)
    local c = h:connect()
    for i = 1, 30 do
      local text = ("%d\0\r\n\255"):format(i):rep(i * i)
      c:send(text)
      assert.equal(text, c:receive(#text))
    end
    c:halfClose()
    assert.same({ "", "eof" }, { c:receiveAll() })
  end)

  it("discard takes everything and says nothing", function()
    local h = service "discard"
    local c = h:connect()
    c:send(("x"):rep(5000000))
    c:halfClose()
    assert.same({ "", "eof" }, { c:receiveAll() })
  end)

  it("chargen sends the lines of RFC 864", function()
    local h = service "chargen"
    local c = h:connect()
    local ring = {}
    for i = 33, 126 do
      ring[#ring + 1] = string.char(i)
    end
    ring = table.concat(ring)
    local first = c:line()
    assert.equal(72, #first)
    local from = (ring .. ring):find(first, 1, true) or (" " .. ring .. " " .. ring):find(first, 1, true)
    assert.truthy(from, first)
    for i = 1, 200 do
      local line = c:line()
      assert.equal(72, #line)
      assert.equal(first:sub(2), line:sub(1, 71), ("line %d does not go on where the one before it was"):format(i))
      first = line
    end
    c:close()
  end)

  it("chargen stays small against readers that do not read", function()
    local h = service "chargen"
    local probe = h:connect()
    probe:line()
    probe:close()
    local before = h:memory()
    local list = {}
    for i = 1, 50 do
      list[i] = h:connect { rcvbuf = 16384 }
      list[i]:line()
    end
    local other = h:connect()
    other:receive(2000000)
    if not host.sanitized then
      local grown = h:memory() - before
      assert.is_true(grown < 51 * 200000, "grew by " .. grown)
    end
    local cpu = h:cpu()
    other:close()
    sys.pass(0.5)
    assert.is_true(h:cpu() - cpu < 0.3, "it spins while nobody reads")
    for _, c in ipairs(list) do
      c:reset()
    end
  end)

  it("daytime says one line and closes", function()
    local h = service "daytime"
    local text, ending = h:connect():receiveAll()
    assert.equal("eof", ending)
    assert.truthy(text:find "^[^\n]*%d%d:%d%d:%d%d[^\n]*\n$", text)
    assert.truthy(text:find(os.date "%Y", 1, true) or text:find(os.date "!%Y", 1, true), text)
  end)

  it("time gives the seconds since 1900 in four bytes", function()
    local h = service "time"
    local from = os.time()
    local text, ending = h:connect():receiveAll()
    local to = os.time()
    assert.equal("eof", ending)
    assert.equal(4, #text)
    local a, b, c, d = text:byte(1, 4)
    local unix = ((a * 256 + b) * 256 + c) * 256 + d - 2208988800
    assert.is_true(unix >= from - 1 and unix <= to + 1, "off by " .. unix - from)
  end)

  it("qotd gives a quote that keeps to RFC 865 and closes", function()
    local h = service "qotd"
    for _ = 1, 20 do
      local c = h:connect():send "not read"
      local text, ending = c:receiveAll()
      assert.equal("eof", ending)
      assert.is_true(#text > 10 and #text <= 512, text)
      c:close()
    end
  end)

  it("poetry gives a whole poem and closes", function()
    local h = service "poetry"
    local text, ending = h:connect():receiveAll()
    assert.equal("eof", ending)
    assert.is_true(#text > 200 and text:sub(-1) == "\n", text)
    for _ = 1, 20 do
      local c = h:connect():send "not read"
      local again
      again, ending = c:receiveAll()
      assert.equal("eof", ending)
      assert.is_true(#again > 200 and again:sub(-1) == "\n", again)
      c:close()
    end
  end)

  it("slowpoetry gives the same poem in pieces, as slowly as it is told", function()
    local fast = service "poetry"
    local poem = fast:connect():receiveAll()
    local h = service("slowpoetry", "bytes=" .. math.ceil(#poem / 10), "delay=0.05")
    local started = sys.now()
    local c = h:connect()
    local pieces = {}
    while true do
      local text, ending = c:read()
      if not text then
        assert.equal("eof", ending)
        break
      end
      pieces[#pieces + 1] = text
    end
    assert.is_true(#pieces >= 2, "the poem came in one piece")
    assert.is_true(sys.now() - started > 0.3, "the poem came at once")
    assert.equal(poem, table.concat(pieces))
  end)

  it("slowpoetry stops its timer when the peer leaves", function()
    local wrapper = host.script [[
      -- Counts the timers that are alive while the real service runs.
      local reactor = require "skald.reactor"
      local later, alive = reactor.callLater, {}
      function reactor.callLater(a, b, ...)
        local timer
        if a == reactor then timer = later(b, ...) else timer = later(a, b, ...) end
        alive[#alive + 1] = timer
        return timer
      end
      local P = {}
      function P:dataReceived()
        local n = 0
        for _, timer in ipairs(alive) do if timer:active() then n = n + 1 end end
        self.transport:write(n .. "\n")
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local h = host.run { wrapper, "slowpoetry", "listen=tcp:127.0.0.1:0", "bytes=1", "delay=60", listening = 2 }
    local probe = h:connect(nil, 1)
    local function timers()
      return tonumber(probe:send("?"):line())
    end
    local list = {}
    for i = 1, 5 do
      list[i] = h:connect(nil, 2)
      list[i]:receive(1)
    end
    assert.equal(5, timers())
    list[1]:reset()
    list[2]:close()
    list[3]:halfClose()
    sys.await(function()
      return timers() == 2
    end, function()
      return h:story(("%d timers are alive for 2 connections"):format(timers()))
    end)
  end)

  it("has poems in the public domain, one of them with more than ASCII, each of them served whole", function()
    local list = io.popen "ls scripts/services/poems"
    local names = {}
    for name in list:lines() do
      names[#names + 1] = name
    end
    list:close()
    assert.is_true(#names >= 2, "there are " .. #names .. " poems")
    local beyond = 0
    for _, name in ipairs(names) do
      local file = assert(io.open("scripts/services/poems/" .. name, "rb"))
      local text = file:read "*a"
      file:close()
      if text:find "[\128-\255]" then
        beyond = beyond + 1
      end
    end
    assert.is_true(beyond >= 1, "every poem is plain ASCII")
  end)
end)
