-- The bundled service keyvalue, and its real clients: redis-cli, redis-benchmark.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"

local sys = process.sys

local function start(...)
  return host.run { "keyvalue", "listen=tcp:127.0.0.1:0", ... }
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

-- What redis-cli prints for a command, without the last line end.
local function cli(h, ...)
  local status, out, log = process.run { "redis-cli", "-p", h.port, ... }
  assert.equal(0, status, log)
  return (out:gsub("\n$", ""))
end

-- What it prints for a list of commands on one connection.
local function script(h, commands)
  local status, out, log = process.run { "redis-cli", "-p", h.port, text = table.concat(commands, "\n") .. "\n" }
  assert.equal(0, status, log)
  return (out:gsub("\n$", ""))
end

-- A time of so many seconds, of which some may have passed.
local function seconds(text, most)
  local n = tonumber(text)
  return n and n <= most and n > most - 40
end

-- Each row: a command, and what redis-cli prints; a number: that many seconds.
local function assertAnswers(h, rows)
  for _, row in ipairs(rows) do
    local words = {}
    for word in row[1]:gmatch "%S+" do
      words[#words + 1] = word
    end
    local answer = cli(h, unpack(words))
    if type(row[2]) == "number" then
      assert.is_true(seconds(answer, row[2]), ("%s: %s"):format(row[1], answer))
    else
      assert.equal(row[2], answer, row[1])
    end
  end
end

local WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value\n"
local NUMBER = "ERR value is not an integer or out of range\n"

describe("the bundled service keyvalue", function()
  after_each(host.cleanup)

  it("keeps strings, and answers redis-cli as Redis does", function()
    assertAnswers(start(), {
      { "PING", "PONG" }, { "ping hello", "hello" }, { "ECHO x", "x" },
      { "GET a", "" }, { "SET a 1", "OK" }, { "get a", "1" }, { "SET a 2 NX", "" }, { "SET a 3 XX", "OK" },
      { "SET b 1 XX", "" }, { "SET b 1 NX", "OK" }, { "MGET a b c", "3\n1\n" }, { "EXISTS a b c a", "3" },
      { "MSET c 5 d 6", "OK" }, { "MSET c", "ERR wrong number of arguments for 'mset' command\n" },
      { "MSET c 1 d", "ERR wrong number of arguments for 'mset' command\n" }, { "DBSIZE", "4" },
      { "INCR n", "1" }, { "INCR n", "2" }, { "DECR n", "1" }, { "INCRBY n 41", "42" }, { "DECRBY n 50", "-8" },
      { "GET n", "-8" }, { "SET text x", "OK" }, { "INCR text", NUMBER }, { "INCRBY n 1.5", NUMBER },
      { "INCRBY n 9007199254740993", NUMBER }, { "SET n 9007199254740991", "OK" },
      { "INCR n", "ERR increment or decrement would overflow\n" },
      { "APPEND t ab", "2" }, { "APPEND t cd", "4" }, { "GET t", "abcd" }, { "STRLEN t", "4" }, { "STRLEN none", "0" },
      { "DEL a b none", "2" }, { "TYPE t", "string" }, { "TYPE none", "none" }, { "SET a b c", "ERR syntax error\n" },
      { "SET a b EX", "ERR syntax error\n" }, { "SET a b EX x", NUMBER },
      { "SET a b EX 0", "ERR invalid expire time in 'set' command\n" }, { "EXISTS a", "0" },
      { "FLUSHALL", "OK" }, { "DBSIZE", "0" }, { "NOSUCH x", "ERR unknown command 'NOSUCH'\n" },
      { "GET", "ERR wrong number of arguments for 'get' command\n" },
      { "PING a b", "ERR wrong number of arguments for 'ping' command\n" }, { "SELECT x", NUMBER },
    })
  end)

  it("sets, renames and lists keys in the ways of older clients", function()
    assertAnswers(start(), {
      { "SETNX a 1", "1" }, { "SETNX a 2", "0" }, { "GETSET a 3", "1" }, { "GETSET b 1", "" }, { "SET a 4 GET", "3" },
      { "SET c 1 XX GET", "" }, { "EXISTS c", "0" }, { "SETEX a 100 x", "OK" }, { "TTL a", "100" },
      { "SET a y KEEPTTL", "OK" }, { "TTL a", "100" }, { "GETSET a z", "y" }, { "TTL a", "-1" },
      { "PSETEX a 50000 x", "OK" }, { "TTL a", "50" }, { "SETEX a 0 x", "ERR invalid expire time in 'setex' command\n" },
      { "SETEX a x x", NUMBER }, { "SET a x KEEPTTL EX 5", "ERR syntax error\n" },
      { "RENAME a d", "OK" }, { "TTL d", "50" }, { "RENAME a d", "ERR no such key\n" }, { "RENAME d d", "OK" },
      { "GETDEL d", "x" }, { "GETDEL d", "" }, { "UNLINK b d", "1" }, { "DBSIZE", "0" },
      { "RPUSH l x", "1" }, { "GETSET l x", WRONG }, { "GETDEL l", WRONG }, { "SET l x GET", WRONG }, { "LLEN l", "1" },
      { "MSET ka 1 kb 2", "OK" }, { "SCAN 0 MATCH ka COUNT 1", "0\nka" }, { "SCAN 0 TYPE list", "0\nl" },
      { "SCAN 7", "0\n" }, { "SCAN x", "ERR invalid cursor\n" }, { "SCAN 0 COUNT", "ERR syntax error\n" },
      { "--scan --pattern ka", "ka" }, { "FLUSHDB", "OK" }, { "DBSIZE", "0" },
    })
  end)

  it("keeps lists, hashes and sets", function()
    assertAnswers(start(), {
      { "RPUSH l b c", "2" }, { "LPUSH l a z", "4" }, { "LRANGE l 0 -1", "z\na\nb\nc" }, { "LRANGE l 1 2", "a\nb" },
      { "LRANGE l -2 100", "b\nc" }, { "LRANGE l 3 1", "" }, { "LRANGE l -100 0", "z" }, { "LLEN l", "4" }, { "LLEN none", "0" },
      { "LPOP l", "z" }, { "RPOP l", "c" }, { "LPOP l 5", "a\nb" }, { "EXISTS l", "0" }, { "LPOP l", "" },
      { "HSET h x 1 y 2", "2" }, { "HSET h x 3", "0" }, { "HGET h x", "3" }, { "HGET h none", "" }, { "HLEN h", "2" },
      { "HDEL h x none", "1" }, { "HGETALL h", "y\n2" }, { "HDEL h y", "1" }, { "TYPE h", "none" }, { "HGETALL h", "" },
      { "SADD s a b a", "2" }, { "SISMEMBER s a", "1" }, { "SISMEMBER s c", "0" }, { "SCARD s", "2" }, { "SREM s a c", "1" },
      { "SMEMBERS s", "b" }, { "TYPE s", "set" }, { "GET s", WRONG }, { "LPUSH s x", WRONG }, { "HGET s x", WRONG },
      { "INCR s", WRONG }, { "APPEND s x", WRONG }, { "SREM s b", "1" }, { "DBSIZE", "0" },
      { "RPUSH l a b c d", "4" }, { "LINDEX l 1", "b" }, { "LINDEX l -1", "d" }, { "LINDEX l 4", "" }, { "LINDEX l -5", "" },
      { "LSET l -1 e", "OK" }, { "LSET l 4 x", "ERR index out of range\n" }, { "LSET l x x", NUMBER },
      { "LSET none 0 x", "ERR no such key\n" }, { "LTRIM l 1 -1", "OK" }, { "LRANGE l 0 -1", "b\nc\ne" },
      { "LTRIM l -100 0", "OK" }, { "LRANGE l 0 -1", "b" }, { "LTRIM l 5 1", "OK" }, { "EXISTS l", "0" },
      { "LTRIM none 0 1", "OK" },
      { "HMSET h x 1 y a", "OK" }, { "HMSET h x", "ERR wrong number of arguments for 'hmset' command\n" },
      { "HMGET h x none y", "1\n\na" }, { "HMGET none x", "" }, { "HEXISTS h x", "1" }, { "HEXISTS h z", "0" },
      { "HINCRBY h x 5", "6" }, { "HINCRBY h y 5", "ERR hash value is not an integer\n" }, { "HINCRBY h x z", NUMBER },
      { "HINCRBY h n -2", "-2" }, { "HSETNX h x 9", "0" }, { "HSETNX h m 9", "1" }, { "HDEL h n m y", "3" },
      { "HKEYS h", "x" }, { "HVALS h", "6" }, { "HDEL h x", "1" }, { "DBSIZE", "0" },
    })
  end)

  it("finds keys by patterns", function()
    local h = start()
    cli(h, "MSET", "one", "1", "two", "2", "three", "3", "t[x]", "4", "a.b", "5")
    local function keys(pattern)
      local found = {}
      for key in cli(h, "KEYS", pattern):gmatch "[^\n]+" do
        found[#found + 1] = key
      end
      table.sort(found)
      return table.concat(found, " ")
    end
    assert.equal("a.b one t[x] three two", keys "*")
    assert.equal("t[x] three two", keys "t*")
    assert.equal("one two", keys "?[nw][oe]")
    assert.equal("two", keys "t[^h[]*")
    assert.equal("t[x]", keys "t\\[*")
    assert.equal("a.b", keys "a.b")
    assert.equal("", keys "a.")
  end)

  it("takes any byte in a pattern, and in a name", function()
    local h = start()
    local c = h:connect()
    local function ask(...)
      local words = { ("*%d\r\n"):format(select("#", ...)) }
      for _, word in ipairs { ... } do
        words[#words + 1] = ("$%d\r\n%s\r\n"):format(#word, word)
      end
      c:send(table.concat(words))
    end
    ask("SET", "a\0b", "x")
    assert.equal("+OK", c:line())
    for _, pattern in ipairs { "a\0b", "?\0*", "*[\0]?", "a[^\1]b", "a\\\0b", "a[%\0]b" } do
      ask("KEYS", pattern)
      assert.equal("*1\r\n$3\r\na\0b\r\n", c:receive(13))
    end
    ask("KEYS", "a\0")
    assert.equal("*0", c:line())
    local listener = h:connect()
    listener:send "*2\r\n$10\r\nPSUBSCRIBE\r\n$3\r\na*\0\r\n"
    assert.equal("*3", listener:line())
    ask("PUBLISH", "ab", "x")
    assert.equal(":0", c:line())
    ask("PUBLISH", "ab\0", "x")
    assert.equal(":1", c:line())
  end)

  it("keeps databases apart", function()
    local h = start()
    assert.equal("OK\nOK\n\nOK\n1\nERR DB index is out of range", (script(h, {
      "SET a 1", "SELECT 3", "GET a", "SELECT 0", "GET a", "SELECT 16",
    }):gsub("\n$", "")))
  end)

  it("lets keys expire: for who looks, and by itself", function()
    local h = start()
    assertAnswers(h, {
      { "SET a 1 EX 100", "OK" }, { "TTL a", 100 }, { "PERSIST a", "1" }, { "PERSIST a", "0" }, { "TTL a", "-1" },
      { "TTL none", "-2" }, { "EXPIRE none 5", "0" }, { "PEXPIRE a 90000", "1" }, { "TTL a", 90 }, { "SET a 2", "OK" },
      { "PTTL a", "-1" }, { "EXPIRE a 50", "1" }, { "INCR a", "3" }, { "TTL a", 50 }, { "EXPIRE a -1", "1" }, { "GET a", "" },
    })
    assert.equal("OK\n1", script(h, { "SET b 1 PX 60000", "GET b" }))
    cli(h, "SET", "c", "1", "PX", "1")
    sys.await(function() return cli(h, "EXISTS", "c") == "0" end, function() return "the key does not expire" end)
    local many = {}
    for i = 1, 2000 do
      many[i] = ("SET key%d x PX %d"):format(i, i % 2 == 0 and 5 or 60000)
    end
    script(h, many)
    sys.await(function() return cli(h, "DBSIZE") == "1001" end, function() return "what has expired is not swept away" end)
  end)

  it("brings messages to those who have subscribed", function()
    local h = start()
    local one = process.start { "redis-cli", "-p", h.port, "SUBSCRIBE", "news", "talk" }
    local two = process.start { "redis-cli", "-p", h.port, "PSUBSCRIBE", "n*" }
    assert.equal("2", one:line "^(2)$")
    assert.equal("1", two:line "^(1)$")
    assert.equal("2", cli(h, "PUBLISH", "news", "hello there"))
    assert.equal("0", cli(h, "PUBLISH", "other", "nobody"))
    assert.equal("1", cli(h, "PUBLISH", "talk", "well"))
    for _, expected in ipairs { "message", "news", "hello there", "message", "talk", "well" } do
      assert.equal(expected, one:line())
    end
    for _, expected in ipairs { "pmessage", "n*", "news", "hello there" } do
      assert.equal(expected, two:line())
    end
    one:kill "TERM"
    one:wait()
    sys.await(function() return cli(h, "PUBLISH", "talk", "gone?") == "0" end, function() return "who has left is still told" end)
  end)

  it("takes only what concerns subscriptions from who has some", function()
    local h = start()
    local c = h:connect()
    c:send "subscribe a b\r\nget x\r\nping\r\nunsubscribe\r\nget x\r\nunsubscribe\r\n"
    local expected = {}
    for _, word in ipairs { "*3", "$9", "subscribe", "$1", "a", ":1", "*3", "$9", "subscribe", "$1", "b", ":2",
      "-ERR Can't execute 'get': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT are allowed in this context",
      "*2", "$4", "pong", "$0", "" } do
      expected[#expected + 1] = word .. "\r\n"
    end
    expected = table.concat(expected)
    assert.equal(expected, c:receive(#expected))
    local first, last = "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
    local rest = c:receive(#first * 2 + #"$-1\r\n" + #last)
    assert.matches(":1\r\n.*:0\r\n%$%-1\r\n%*3\r\n%$11\r\nunsubscribe\r\n%$%-1\r\n:0\r\n$", rest)
  end)

  it("keeps values, subscribers and what they have selected across a reload", function()
    local text = read "scripts/services/keyvalue.lua"
    local h = host.serve(text, { "listen=tcp:127.0.0.1:0" })
    local c = h:connect()
    c:send "select 2\r\nset a 1\r\nsubscribe news\r\n"
    assert.equal("+OK", c:line())
    assert.equal("+OK", c:line())
    for _ = 1, 6 do
      c:line()
    end
    cli(h, "SET", "b", "x", "EX", "1000")
    local half = h:connect()
    half:send "*2\r\n$3\r\nGET\r\n$1"
    reload.rewrite((text:gsub('"PONG"', '"PONG AGAIN"')))
    assert.equal("committed", reload.run().result)
    assert.equal("PONG AGAIN", cli(h, "PING"))
    assert.equal("x", cli(h, "GET", "b"))
    assert.is_true(seconds(cli(h, "TTL", "b"), 1000))
    half:send "\r\nb\r\n"
    assert.equal("$1", half:line())
    assert.equal("1", cli(h, "PUBLISH", "news", "fresh"))
    assert.equal("fresh", (c:receive(#"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nfresh\r\n"):match "(fresh)\r\n$"))
    c:send "unsubscribe news\r\nget a\r\n"
    for _ = 1, 6 do
      c:line()
    end
    assert.equal("$1", c:line())
    cli(h, "SET", "short", "x", "PX", "1")
    sys.await(function() return cli(h, "DBSIZE") == "1" end, function() return "nothing is swept away after the reload" end)
  end)

  it("says what was wrong and closes where no command comes; QUIT closes, and so does the end of input", function()
    local h = start()
    local c = h:connect()
    c:send "*1\r\n$x\r\n"
    assert.same({ "-ERR Protocol error: invalid bulk length\r\n", "eof" }, { c:receiveAll() })
    c = h:connect()
    c:send "ping\r\nquit\r\nping\r\n"
    assert.same({ "+PONG\r\n+OK\r\n", "eof" }, { c:receiveAll() })
    c = h:connect()
    c:send "ping\r\nping\r\n"
    c:halfClose()
    assert.same({ "+PONG\r\n+PONG\r\n", "eof" }, { c:receiveAll() })
  end)

  it("reads no further while its answers are not taken, and all of them come in the end", function()
    local h = start()
    local c = h:connect { rcvbuf = 4096 }
    local value = ("v"):rep(100000)
    c:send(("set big %s\r\n"):format(value:sub(1, 60000)))
    assert.equal("+OK", c:line())
    local before = h:memory()
    local times = host.sanitized and 300 or 1000
    c:send(("get big\r\n"):rep(times))
    c:send "quit\r\n"
    assert.equal(times * #("$60000\r\n" .. value:sub(1, 60000) .. "\r\n") + #"+OK\r\n", (c:count()))
    if not host.sanitized then
      assert.is_true(h:peakMemory() - before < 20e6, "answers that nobody takes pile up")
    end
  end)

  it("grows no further than maxmemory", function()
    local h = start "maxmemory=8000000"
    local c = h:connect()
    for i = 1, 200 do
      c:send(("set key%d %05d%s\r\n"):format(i, i, ("x"):rep(49995)))
      local answer = c:line()
      if answer ~= "+OK" then
        assert.matches("^%-OOM ", answer)
        assert.is_true(i > 50)
        c:send "get key1\r\n"
        assert.equal("$50000", c:line())
        return
      end
    end
    error "it took everything"
  end)

  it("serves redis-benchmark, with and without pipelining", function()
    local h = start()
    local count = host.sanitized and "2000" or "10000"
    for _, words in ipairs { { "-P", "16", "-n", count, "-t", "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,mset,lrange_100" },
      { "-n", "2000", "-c", "20", "-d", "1000", "-r", "500", "-t", "ping_inline,ping_mbulk,set,get" } } do
      local status, out, log = process.run { "redis-benchmark", "-p", h.port, "-q", "--csv", unpack(words) }
      assert.equal(0, status, log)
      assert.falsy(log:find("rror", 1, true), log)
      local _, rows = out:gsub('\n"[^"]+","%d', "")
      assert.equal(words[1] == "-P" and 11 or 4, math.min(rows, words[1] == "-P" and 11 or 4), out)
    end
    assert.matches("db0:keys=", cli(h, "INFO"))
    assert.equal("save\n", cli(h, "CONFIG", "GET", "save"))
  end)
end)
