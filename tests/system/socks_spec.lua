-- The bundled service socks: curl, and every step of the protocol.

local dns = require "support.dns"
local host = require "support.host"
local process = require "support.process"

-- An HTTP server of two lines, which says who came.
local WEB = [[
  local P = {}
  function P:connectionMade() print("came", self.transport:getPeer()) end
  function P:dataReceived(data)
    self.transport:write("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nyou asked for " .. data:match "^GET (%S+)" .. "\n")
    self.transport:loseConnection()
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

local ECHO = host.commands([[
  function P:connectionMade() print("came", self.transport:getPeer()) end
  function commands.say(self, t, rest) t:write(rest .. "\n") end
  function commands.reset(self, t) t:abortConnection() end
  function commands.close(self, t) t:loseConnection() end
  function P:readConnectionLost() self.transport:write "heard\n"; self.transport:loseConnection() end
]])

local function start(...)
  return host.run { "socks", "listen=tcp:127.0.0.1:0", ... }
end

local function serve(text, listen)
  return host.run {
    host.script(text, "server.lua"), listen or "listen=tcp:127.0.0.1:0",
    options = { "--control=" .. host.folder() .. "/server" },
  }
end

local function curl(...)
  return process.run { "curl", "-sS", "--max-time", "20", "--noproxy", "", ... }
end

local function address(port, ip)
  return (ip or "\127\0\0\1") .. string.char(math.floor(port / 256), port % 256)
end

local GREETING, CHOSEN = "\5\1\0", "\5\0"

-- The answer to a request for this port of 127.0.0.1, in one go with the greeting and what follows.
local function ask(h, port, behind)
  local c = h:connect()
  c:send(GREETING .. "\5\1\0\1" .. address(port) .. (behind or ""))
  assert.equal(CHOSEN, c:receive(2))
  return c, c:receive(10)
end

describe("the bundled service socks", function()
  after_each(host.cleanup)

  it("serves curl, by address and by name", function()
    local web, h = serve(WEB), start()
    for _, words in ipairs {
      { "--socks5", "127.0.0.1:" .. h.port, ("http://127.0.0.1:%d/address"):format(web.port), "address" },
      { "--socks5-hostname", "127.0.0.1:" .. h.port, ("http://localhost:%d/name"):format(web.port), "name" },
    } do
      local status, out, log = curl(words[1], words[2], words[3])
      assert.same({ 0, "you asked for /" .. words[4] .. "\n" }, { status, out }, log)
      assert.truthy(web:line "^came")
    end
  end)

  it("serves curl over IPv6", function()
    local web, h = serve(WEB, "listen=tcp:[::1]:0"), start()
    local status, out, log = curl("--socks5-hostname", "127.0.0.1:" .. h.port, ("http://[::1]:%d/six"):format(web.port))
    assert.same({ 0, "you asked for /six\n" }, { status, out }, log)
  end)

  it("asks curl for a user and a password, where there are some", function()
    local web, h = serve(WEB), start("user=me", "password=secret")
    local url = ("http://127.0.0.1:%d/x"):format(web.port)
    local function as(user)
      return curl("--socks5", ("socks5://%s127.0.0.1:%d"):format(user, h.port), url)
    end
    assert.same({ 0, "you asked for /x\n", "" }, { as "me:secret@" })
    assert.equal(97, (as "me:wrong@"))
    assert.equal(97, (as "you:secret@"))
    assert.equal(97, (as ""))
    assert.truthy(web:line "^came")
    assert.is_false(web:has "^came")
  end)

  it("passes on what was sent before the answer, and says where it comes from", function()
    local server, h = serve(ECHO), start()
    local c, answer = ask(h, server.port, "say early")
    assert.equal("early", c:line())
    local port = answer:byte(9) * 256 + answer:byte(10)
    assert.equal("\5\0\0\1\127\0\0\1", answer:sub(1, 8))
    assert.equal("tcp:127.0.0.1:" .. port, server:line "^came\t(.*)$")
  end)

  it("takes each step cut anywhere", function()
    local server, h = serve(ECHO), start("user=me", "password=secret")
    local c = h:connect()
    local function slowly(bytes)
      for i = 1, #bytes do
        c:send(bytes:sub(i, i))
      end
    end
    slowly "\5\2\0\2"
    assert.equal("\5\2", c:receive(2))
    slowly "\1\2me\6secret"
    assert.equal("\1\0", c:receive(2))
    slowly("\5\1\0\3\9localhost" .. string.char(math.floor(server.port / 256), server.port % 256))
    assert.equal("\5\0\0\1", c:receive(10):sub(1, 4))
    assert.equal("x", c:send "say x" and c:line())
  end)

  it("passes on ends of input, ends and resets", function()
    local server, h = serve(ECHO), start()
    local c = ask(h, server.port)
    c:halfClose()
    assert.same({ "heard\n", "eof" }, { c:receiveAll() })
    c = ask(h, server.port)
    c:send "close"
    assert.same({ "", "eof" }, { c:receiveAll() })
    c = ask(h, server.port)
    c:send "reset"
    assert.same({ "", "ECONNRESET" }, { c:receiveAll() })
    server:line "^lost\taborted"
    c = ask(h, server.port)
    c:reset()
    assert.equal("peer", server:line "^lost\tlost\t(.*)$")
  end)

  it("says why there is no connection", function()
    local h = host.run { "socks", "listen=tcp:127.0.0.1:0", env = dns.start({}).env }
    local c, answer = ask(h, 1)
    assert.equal("\5\5\0\1\0\0\0\0\0\0", answer)
    assert.same({ "", "eof" }, { c:receiveAll() })
    for request, code in pairs {
      ["\5\2\0\1" .. address(80)] = 7, -- BIND
      ["\5\3\0\1" .. address(80)] = 7, -- UDP ASSOCIATE
      ["\5\1\0\9" .. address(80)] = 8,
      ["\5\1\0\1" .. address(0)] = 4,
      ["\5\1\0\3\0" .. address(80, "")] = 4,
      ["\5\1\0\3\3a:b" .. address(80, "")] = 4,
      ["\5\1\0\3\12name.invalid" .. address(80, "")] = 4,
    } do
      c = h:connect()
      c:send(GREETING .. request)
      assert.same({ CHOSEN .. ("\5%c\0\1\0\0\0\0\0\0"):format(code), "eof" }, { c:receiveAll() }, ("%q"):format(request))
    end
  end)

  it("refuses who speaks something else, or cannot say who he is", function()
    local h = start("user=me", "password=secret")
    for _, row in ipairs {
      { "GET / HTTP/1.0\r\n\r\n", "" }, { "\4\1\0\80\127\0\0\1\0", "" }, { "\5\1\0", "\5\255" }, { "\5\0", "\5\255" },
      { "\5\1\2\2", "\5\2" }, { "\5\1\2\1\2me\5wrong", "\5\2\1\1" }, { "\5\1\2\1\2me\6secret\4", "\5\2\1\0" },
    } do
      local c = h:connect()
      c:send(row[1])
      assert.same({ row[2], "eof" }, { c:receiveAll() }, ("%q"):format(row[1]))
    end
  end)

  it("gives up on who says nothing", function()
    local h = start "timeout=0.2"
    local c = h:connect()
    c:send "\5"
    assert.same({ "", "eof" }, { c:receiveAll() })
  end)

  it("refuses to start with a user and no password", function()
    local status, _, log = host.command { "run", "socks", "listen=tcp:127.0.0.1:0", "user=me" }
    assert.equal(1, status)
    assert.matches("user= and password= come together", log)
  end)

  it("passes many bytes both ways at once", function()
    local server, h = serve [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      function P:readConnectionLost() self.transport:loseConnection() end
      return { listen = "tcp:127.0.0.1:0", protocol = P, maxBuffered = 2^30 }
    ]], start()
    local list = {}
    for i = 1, 10 do
      list[i] = ask(h, server.port)
    end
    local text = ("0123456789abcdef"):rep(4096)
    for _, c in ipairs(list) do
      for _ = 1, 4 do
        c:send(text)
      end
      c:halfClose()
    end
    for _, c in ipairs(list) do
      local all, ending = c:receiveAll()
      assert.equal("eof", ending)
      assert.is_true(all == text:rep(4))
    end
  end)
end)
