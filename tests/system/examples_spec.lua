-- The examples do what their heads say.

local client = require "support.client"
local host = require "support.host"
local process = require "support.process"

local LOOPBACK = "listen=tcp:127.0.0.1:0"

local function serve(name, ...)
  return host.run { ("examples/%s.lua"):format(name), ... }
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function names()
  local list = {}
  local listing = io.popen "ls examples/*.lua"
  for path in listing:lines() do
    list[#list + 1] = path:match "([^/]+)%.lua$"
  end
  listing:close()
  return list
end

-- Everything to the end, which must be an orderly one.
local function all(c)
  local text, ending = c:receiveAll()
  assert.equal("eof", ending)
  return text
end

describe("the examples", function()
  after_each(host.cleanup)

  it("say in their heads how they are run", function()
    for _, name in ipairs(names()) do
      local head = read(("examples/%s.lua"):format(name)):match "^(%-%-.-)\n[^-]"
      local path = ("examples/%s.lua"):format(name)
      assert.truthy(head:find("build/skald run " .. path, 1, true) or head:find("cp " .. path, 1, true), name)
    end
  end)

  it("can be run side by side: no two have the same port", function()
    local taken = {}
    for _, name in ipairs(names()) do
      if name ~= "04_reload_next" then
        for port in read(("examples/%s.lua"):format(name)):gmatch 'listen = "tcp:[^"]*:(%d+)"' do
          assert.is_nil(taken[port], ("%s and %s"):format(name, tostring(taken[port])))
          taken[port] = name
        end
      end
    end
  end)

  it("01_echo gives back every byte", function()
    local c = serve("01_echo", LOOPBACK):connect()
    c:send "hello\r\n\0"
    assert.equal("hello\r\n\0", c:receive(8))
  end)

  it("02_visitors counts them, and greets as it is told", function()
    local h = serve("02_visitors", LOOPBACK, "greeting=Ahoy")
    local first = h:connect()
    assert.equal("Ahoy, visitor 1 (1 here now)", first:line())
    assert.equal("Ahoy, visitor 2 (2 here now)", h:connect():line())
  end)

  it("03_chat lets each hear the others", function()
    local h = serve("03_chat", LOOPBACK)
    local a = h:connect()
    local b = h:connect()
    local guest = a:line():match "^%* (%S+) is here$"
    assert.equal("tcp:127.0.0.1:" .. b:port(), guest)
    b:send "hello\n"
    assert.equal(("<%s> hello"):format(guest), a:line())
    b:send "good mor"
    b:send "ning\n"
    assert.equal(("<%s> good morning"):format(guest), a:line())
    b:close()
    assert.matches("^%* " .. guest:gsub("%p", "%%%0") .. " is gone: ", a:line())
  end)

  it("03_chat sends away whose line is too long", function()
    local h = serve("03_chat", LOOPBACK)
    local c = h:connect()
    c:send(("x"):rep(1001))
    assert.equal("that line is too long\n", all(c))
  end)

  it("05_quote says its quote and hangs up", function()
    assert.equal("An apple a day keeps the doctor away.\r\n", all(serve("05_quote", LOOPBACK):connect()))
  end)

  it("06_hundred serves a hundred, refuses the next, and takes one when one has left", function()
    local h = serve("06_hundred", LOOPBACK)
    local list = {}
    for i = 1, 100 do
      list[i] = h:connect()
      assert.equal(("Welcome! You are number %d of 100."):format(i), list[i]:line())
    end
    for _ = 1, 3 do
      assert.equal("Too many connections, try later.\n", all(h:connect()))
    end
    list[7]:send "still here\n"
    assert.equal("still here", list[7]:line())
    list[50]:halfClose()
    assert.equal("", all(list[50]))
    assert.equal("Welcome! You are number 100 of 100.", h:connect():line())
  end)

  it("07_factory hands its quotes in by turns, and tells who gets them", function()
    local h = serve("07_factory", LOOPBACK)
    local quotes = {
      "A fool and his money are soon parted.\r\n",
      "Many hands make light work.\r\n",
      "A fool and his money are soon parted.\r\n",
    }
    for i, quote in ipairs(quotes) do
      local c = h:connect()
      local port = c:port()
      assert.equal(quote, all(c))
      assert.equal(("quote %d goes to tcp:127.0.0.1:%d"):format(i, port), h:line "^quote")
    end
  end)

  it("08_lines gives back lines however they are cut, and reports who comes and goes", function()
    local h = serve("08_lines", LOOPBACK)
    local c = h:connect()
    local port = c:port()
    assert.equal("connected: tcp:127.0.0.1:" .. port, h:line "^connected")
    c:send "one\ntwo\nthr"
    assert.equal("1: one", c:line())
    assert.equal("2: two", c:line())
    c:send "ee\n"
    assert.equal("3: three", c:line())
    c:halfClose()
    assert.equal("", all(c))
    assert.equal(
      ("disconnected: tcp:127.0.0.1:%d, after 3 lines: the peer closed the connection"):format(port),
      h:line "^disconnected"
    )
    c = h:connect()
    h:line "^connected"
    c:reset()
    assert.matches("after 0 lines: the connection was lost", h:line "^disconnected")
  end)

  it("09_strings gives back strings of any bytes, and closes who announces too long a one", function()
    local h = serve("09_strings", LOOPBACK)
    local c = h:connect()
    c:send "\0\0\0\5hello\0\0\0\0\0\0"
    assert.equal("\0\0\0\5hello\0\0\0\0", c:receive(13))
    c:send("\1\0" .. ("\0"):rep(256))
    assert.equal("\0\0\1\0" .. ("\0"):rep(256), c:receive(260))
    c:send "\0\15\66\65" -- 1000001
    assert.equal("", (c:receiveAll()))
    local status, out = process.shell(("printf '\\0\\0\\0\\5hello' | nc -N 127.0.0.1 %d"):format(h.port))
    assert.equal(0, status)
    assert.equal("\0\0\0\5hello", out)
  end)

  it("10_deferred has a value and a failure a second later, and ends", function()
    local h = host.run { "examples/10_deferred.lua", listening = 0 }
    h:ends(0)
    local said = h:output()
    assert.truthy(said:find("half of 10 is 5\n", 1, true), said)
    assert.truthy(said:find("no half of 7: 7 is odd\n", 1, true), said)
  end)

  it("11_connect talks to the echo and ends; without one it says so and ends with 1", function()
    local echo = serve("01_echo", LOOPBACK)
    local to = "tcp:127.0.0.1:" .. echo.port
    local status, out, log = host.command { "run", "examples/11_connect.lua", "port=" .. echo.port }
    assert.equal(0, status, log)
    assert.equal(("connecting to %s\nthe server says: hello\n1 answers of %s; the connection was closed\n"):format(to, to), out)
    status, out = host.command { "run", "examples/11_connect.lua", "port=1" } -- which nobody has
    assert.equal(1, status)
    assert.matches("^connecting to (%S+)\n0 answers of %1; cannot connect to %1: %a", out)
  end)

  it("12_endpoint talks to the echo by TCP and Unix socket; without one it says so and ends with 1", function()
    local path = host.folder() .. "/echo.sock"
    local echo = serve("01_echo", LOOPBACK)
    serve("01_echo", "listen=unix:" .. path)
    for _, word in ipairs { "to=tcp:127.0.0.1:" .. echo.port, "to=unix:" .. path } do
      local status, out, log = host.command { "run", "examples/12_endpoint.lua", word }
      assert.equal(0, status, log)
      assert.equal("the server says: hello\n", out)
    end
    local status, out = host.command { "run", "examples/12_endpoint.lua", "to=tcp:127.0.0.1:1" } -- which nobody has
    assert.equal(1, status)
    assert.matches("^cannot connect to tcp:127%.0%.0%.1:1: %a", out)
  end)

  it("13_poem serves its poem where it is told, and says where that is", function()
    local file = "scripts/services/poems/tyger.txt"
    local h = serve("13_poem", "port=0", "iface=127.0.0.1", "poem=" .. file)
    assert.equal(("Serving %s on tcp:127.0.0.1:%d."):format(file, h.port), h:line "^Serving")
    assert.equal(read(file), all(h:connect()))
    h = serve("13_poem", "port=0", "iface=::1")
    assert.equal(
      ("Serving scripts/services/poems/ozymandias.txt on tcp:[::1]:%d."):format(h.port),
      h:line "^Serving"
    )
    assert.equal(read "scripts/services/poems/ozymandias.txt", all(client.tcp(h.port, { host = "::1" })))
  end)

  it("13_poem says which file it cannot read, and ends with 1", function()
    local status, _, log = host.command { "run", "examples/13_poem.lua", "port=0", "poem=no/such.txt" }
    assert.equal(1, status)
    assert.truthy(log:find("no/such.txt: No such file", 1, true), log)
  end)

  it("15_files keeps a log, gives it back, and tells of changes by others", function()
    local log = host.folder() .. "/visits.log"
    local text = read("examples/15_files.lua"):gsub("tcp:127%.0%.0%.1:%d+", "tcp:127.0.0.1:0")
    local h = host.serve(text, { "log=" .. log })
    assert.equal("one\n", all(h:connect():send "one\n"))
    assert.equal("one\ntwo\n", all(h:connect():send "two\n"))
    host.file("visits.log", "other\n")
    h:line "visits%.log: changed, 6 bytes now$"
    h:stop()
  end)

  it("14_two serves two ports, and the one knows what the other has done", function()
    local text = read("examples/14_two.lua"):gsub("tcp:127%.0%.0%.1:%d+", "tcp:127.0.0.1:0")
    local h = host.serve(text, { listening = 2 })
    assert.same({ "shout", "report" }, { h.endpoints[1].name, h.endpoints[2].name })
    assert.equal("0 bytes have been shouted.\n", all(h:connect(nil, 2)))
    local c = h:connect()
    c:send "hello"
    assert.equal("HELLO", c:receive(5))
    assert.equal("5 bytes have been shouted.\n", all(h:connect(nil, 2)))
  end)

  it("15_raw counts raw bytes between lines, however they are cut", function()
    local h = serve("15_raw", LOOPBACK)
    local c = h:connect()
    c:send "put 6\nhello\nput 3\na\nb"
    assert.equal("6 bytes, 1 of them newlines", c:line())
    assert.equal("3 bytes, 1 of them newlines", c:line())
    for byte in ("put 2\nxyput 0\nput 1\n\n"):gmatch "." do
      c:send(byte)
    end
    assert.equal("2 bytes, 0 of them newlines", c:line())
    assert.equal("put BYTES, from 1 to 1000000", c:line())
    assert.equal("1 bytes, 1 of them newlines", c:line())
  end)

  it("16_wrapped gives back every byte, and prints what came and went", function()
    local h = serve("16_wrapped", LOOPBACK)
    local c = h:connect()
    c:send "hello\n"
    assert.equal("hello", c:line())
    c:halfClose()
    assert.equal("", all(c))
    assert.equal("*", h:line())
    assert.equal('C 1: "hello\\n"', h:line())
    assert.equal('S 1: "hello\\n"', h:line())
    assert.equal("C 1: the peer closed the connection", h:line())
  end)
end)
