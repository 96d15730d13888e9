-- skald.resp: commands of the Redis protocol, however they are cut.

local resp = require "skald.resp"

local FakeTransport = {}
FakeTransport.__index = FakeTransport

function FakeTransport:write(data)
  self.written = self.written .. data
  return true
end

function FakeTransport:loseConnection()
  self.closes = self.closes + 1
  self.disconnecting = true
end

function FakeTransport:pauseProducing()
  self.reading = false
end

function FakeTransport:resumeProducing()
  self.reading = true
end

local function connected(methods)
  local made = resp.CommandReceiver(methods or {}):new()
  made.seen = {}
  made:makeConnection(setmetatable({ written = "", closes = 0, disconnecting = false }, FakeTransport))
  return made
end

local function noted(words, count)
  assert(#words == count, "the count is wrong")
  return table.concat(words, "|")
end

local Noting = {
  commandReceived = function(self, words, count)
    self.seen[#self.seen + 1] = noted(words, count)
  end,
}

-- A command as clients send it.
local function command(...)
  local out = { ("*%d\r\n"):format(select("#", ...)) }
  for _, word in ipairs { ... } do
    out[#out + 1] = ("$%d\r\n%s\r\n"):format(#word, word)
  end
  return table.concat(out)
end

local function pieces(data, size)
  local list = {}
  for at = 1, #data, size do
    list[#list + 1] = data:sub(at, at + size - 1)
  end
  return list
end

local function randomPieces(data, longest)
  local list, at = {}, 1
  while at <= #data do
    local size = math.random(longest)
    list[#list + 1] = data:sub(at, at + size - 1)
    at = at + size
  end
  return list
end

local function cutsOf(data)
  local cuts = { { data }, pieces(data, 1), pieces(data, 2), pieces(data, 3) }
  for i = 1, #data - 1 do
    cuts[#cuts + 1] = { data:sub(1, i), data:sub(i + 1) }
  end
  for i = 1, 60 do
    cuts[#cuts + 1] = randomPieces(data, 1 + i % 15)
  end
  return cuts
end

-- However `data` is cut, these commands come, this is answered, and it closes as often.
local function assertCuts(data, expected, methods)
  for _, cut in ipairs(cutsOf(data)) do
    local made = connected(setmetatable(methods or {}, { __index = Noting }))
    made.commandReceived = Noting.commandReceived
    for _, piece in ipairs(cut) do
      made:dataReceived(piece)
    end
    local where = "cut as " .. table.concat(cut, "~", 1, math.min(#cut, 50))
    assert.same(expected.commands, made.seen, where)
    assert.equal(expected.answer or "", made.transport.written, where)
    assert.equal(expected.answer and 1 or 0, made.transport.closes, where)
  end
end

local function refused(message, ...)
  return { commands = { ... }, answer = "-ERR Protocol error: " .. message .. "\r\n" }
end

describe("a receiver of commands", function()
  it("gives the same commands however they are cut", function()
    local many = {}
    for i = 1, 12 do
      many[i] = ("w"):rep(i)
    end
    local data = command "PING" .. command("GET", "key") .. command("SET", "k", ("v"):rep(120))
      .. command("SET", "", "\r\n$3\r\n\0")
      .. command("A", "b", "c", "d") .. command("A", "b", "c", "d", "e") .. command(unpack(many)) .. command("L", ("x"):rep(1234))
    assertCuts(data, { commands = {
      "PING", "GET|key", "SET|k|" .. ("v"):rep(120), "SET||\r\n$3\r\n\0", "A|b|c|d", "A|b|c|d|e", table.concat(many, "|"),
      "L|" .. ("x"):rep(1234),
    } })
  end)

  it("takes commands as people type them, between others", function()
    assertCuts("ping\r\n  set  a b \n\r\n\n" .. command("GET", "x") .. "*0\r\n*-1\r\nquit\r\n", {
      commands = { "ping", "set|a|b", "GET|x", "quit" },
    })
  end)

  it("takes what people put into quotes for one word", function()
    assertCuts([[set "a b" 'c  d']] .. "\r\n" .. [[get "\x41\n\"\\\q" 'it\'s\n' pre"fix ed" ""]] .. "\r\n", {
      commands = { "set|a b|c  d", "get|A\n\"\\q|it's\\n|prefix ed|" },
    })
    for _, bad in ipairs { [[get "a]], [[get 'a]], [[get "a"b]], [[get "a\]], [[get 'a"]] } do
      assertCuts("ping\r\n" .. bad .. "\r\nping\r\n", refused("unbalanced quotes in request", "ping"))
    end
  end)

  it("refuses numbers that are none, after what came before them", function()
    for _, bad in ipairs { "*x\r\n", "*1x\r\n", "*01\r\n", "*\r\n", "*+1\r\n", "*1\n", "*1 \r\n", "*99999999999999999999\r\n" } do
      assertCuts(command "PING" .. bad .. command "PING", refused("invalid multibulk length", "PING"))
    end
    for _, bad in ipairs { "$x\r\n", "$01\r\n", "$-1\r\n", "$\r\n", "$3\n", "$ 3\r\n", "$99999999999999999999\r\n" } do
      assertCuts(command "PING" .. "*2\r\n$1\r\nx\r\n" .. bad .. "abc\r\n", refused("invalid bulk length", "PING"))
    end
    assertCuts("*1\r\n:3\r\nabc\r\n", refused "expected '$', got ':'")
    assertCuts("*1\r\n\r\nabc\r\n", refused "expected '$', got '?'")
  end)

  it("refuses strings whose end is not where they say", function()
    assertCuts("*1\r\n$3\r\nabcd\r\n", refused "invalid bulk length")
    assertCuts("*2\r\n$3\r\nabc\rx$1\r\na\r\n", refused "invalid bulk length")
    assertCuts("*1\r\n$12\r\n123456789012\n\n", refused "invalid bulk length")
  end)

  it("takes what is as long as MAX_LENGTH together, and refuses what is longer as soon as that is told", function()
    local bounds = { MAX_LENGTH = 20 }
    assertCuts(command("SET", "key", ("v"):rep(14)), { commands = { "SET|key|" .. ("v"):rep(14) } }, bounds)
    assertCuts(command("SET", "key", ("v"):rep(15)), refused "invalid bulk length", bounds)
    local made = connected { MAX_LENGTH = 20 }
    made:dataReceived "*2\r\n$3\r\nSET\r\n$18\r\n"
    assert.equal(1, made.transport.closes)
  end)

  it("takes MAX_COUNT strings, and no more", function()
    local bounds = { MAX_COUNT = 3 }
    assertCuts(command("a", "b", "c") .. "a b c\n", { commands = { "a|b|c", "a|b|c" } }, bounds)
    assertCuts(command("a", "b", "c", "d"), refused "invalid multibulk length", bounds)
    assertCuts("a b c d\n", refused "invalid multibulk length", bounds)
  end)

  it("refuses a line that does not end", function()
    for _, size in ipairs { 1000, 7, 65536 } do
      local made = connected(Noting)
      for _, piece in ipairs(pieces(("x"):rep(65535), size)) do
        made:dataReceived(piece)
      end
      assert.equal(0, made.transport.closes)
      made:dataReceived "yy"
      assert.equal(1, made.transport.closes)
      assert.same({}, made.seen)
    end
  end)

  it("delivers nothing after it closed, nor while it is paused", function()
    local made = connected {
      commandReceived = function(self, words)
        self.seen[#self.seen + 1] = words[1]
        if words[1] == "stop" then
          self:pauseProducing()
        elseif words[1] == "quit" then
          self.transport:loseConnection()
        end
      end,
    }
    made:dataReceived(command "a" .. command "stop" .. command "b" .. command "quit" .. command "c")
    assert.same({ "a", "stop" }, made.seen)
    made:dataReceived(command "d")
    made:resumeProducing()
    assert.same({ "a", "stop", "b", "quit" }, made.seen)
  end)

  it("delivers no command twice when a handler raises", function()
    local made = connected {
      commandReceived = function(self, words)
        self.seen[#self.seen + 1] = words[1]
        error "no"
      end,
    }
    assert.is_false(pcall(made.dataReceived, made, command "a" .. command "b"))
    pcall(made.dataReceived, made, command "c")
    assert.equal("a", made.seen[1])
    for i = 2, #made.seen do
      assert.not_equal("a", made.seen[i])
    end
  end)

  it("may be fed from inside a handler, and keeps the order", function()
    local made = connected {
      commandReceived = function(self, words)
        self.seen[#self.seen + 1] = words[1]
        if words[1] == "a" then
          self:dataReceived(command "c")
          self.seen[#self.seen + 1] = "after"
        end
      end,
    }
    made:dataReceived(command "a" .. command "b")
    assert.same({ "a", "after", "b", "c" }, made.seen)
  end)

  it("gives commands that a handler may keep", function()
    local made = connected {
      commandReceived = function(self, words, count)
        self.seen[#self.seen + 1] = { words, count }
      end,
    }
    for i = 1, 300 do
      made:dataReceived(command("SET", "k" .. i, "v" .. i) .. command("GET", "k" .. i))
    end
    for i = 1, 300 do
      assert.same({ { "SET", "k" .. i, "v" .. i }, 3 }, made.seen[2 * i - 1])
      assert.same({ { "GET", "k" .. i }, 2 }, made.seen[2 * i])
    end
  end)

  it("works in proportion to what comes, however small the pieces", function()
    local function allocated(size)
      local made = connected(Noting)
      local list = pieces(command("SET", "k", ("v"):rep(size)), 5)
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      for _, piece in ipairs(list) do
        made:dataReceived(piece)
      end
      local after = collectgarbage "count"
      collectgarbage "restart"
      assert.equal(1, #made.seen)
      return after - before
    end
    allocated(10000)
    local small, large = allocated(20000), allocated(200000)
    assert.is_true(large < small * 15, ("%d KB for 20,000 bytes, %d KB for 200,000"):format(small, large))
  end)
end)

describe("a receiver of commands replies", function()
  local function written(f)
    local made = connected()
    f(made)
    return made.transport.written
  end

  it("with statuses, errors, integers, strings, nothing, lists", function()
    assert.equal("+OK\r\n", written(function(r) r:sendStatus "OK" end))
    assert.equal("-ERR a  b\r\n", written(function(r) r:sendError "ERR a\r\nb" end))
    assert.equal(":0\r\n:255\r\n:256\r\n:-1\r\n:9007199254740992\r\n", written(function(r)
      for _, n in ipairs { 0, 255, 256, -1, 2 ^ 53 } do
        r:sendInteger(n)
      end
    end))
    assert.equal("$0\r\n\r\n$3\r\na\r\n\r\n$-1\r\n", written(function(r)
      r:sendBulk ""
      r:sendBulk "a\r\n"
      r:sendBulk(nil)
    end))
    local long = ("x"):rep(1000)
    assert.equal("$1000\r\n" .. long .. "\r\n", written(function(r) r:sendBulk(long) end))
    assert.equal("*2\r\n$1\r\na\r\n$2\r\nbc\r\n*0\r\n", written(function(r)
      r:sendList { "a", "bc" }
      r:sendList {}
    end))
  end)

  it("and tells what the transport answered", function()
    local made = connected()
    function made.transport.write() return nil, "closing", "EPIPE" end
    for _, call in ipairs { { "sendStatus", "OK" }, { "sendError", "ERR" }, { "sendInteger", 1 }, { "sendBulk", "x" },
      { "sendBulk" }, { "sendCount", 3 }, { "sendList", { "x" } } } do
      assert.same({ nil, "closing", "EPIPE" }, { made[call[1]](made, call[2]) })
    end
  end)
end)
