-- A pattern that a client gives is no pattern of Lua: it neither fails nor takes for ever where others publish.

local host = require "support.host"

describe("the bundled service keyvalue with odd patterns", function()
  after_each(host.cleanup)

  it("brings messages to those who match, and spares who publishes", function()
    local h = host.run { "keyvalue", "listen=tcp:127.0.0.1:0" }
    local function bulk(...)
      local words = { ... }
      for i, word in ipairs(words) do
        words[i] = ("$%d\r\n%s\r\n"):format(#word, word)
      end
      return ("*%d\r\n%s"):format(#words, table.concat(words))
    end
    local c, publisher = h:connect(), h:connect()
    local patterns = { "[^]", "[^", "[]", "[a-", "[%", "x[^%]", "\\", ("*"):rep(500) .. "b", ("*a"):rep(30) .. "*b" }
    for _, pattern in ipairs(patterns) do
      c:send(bulk("psubscribe", pattern))
      for _ = 1, 6 do
        c:line()
      end
    end
    publisher:send(bulk("publish", ("a"):rep(5000), "text"))
    assert.equal(":0", publisher:line())
    publisher:send(bulk("publish", "ab", "text"))
    assert.equal(":1", publisher:line())
    publisher:send(bulk("publish", "]", "text"))
    assert.equal(":1", publisher:line())
  end)

  it("tells a star that must not take what stands behind it", function()
    local h = host.run { "keyvalue", "listen=tcp:127.0.0.1:0" }
    local c = h:connect()
    local function count(channel)
      c:send(("publish %s x\r\n"):format(channel))
      return c:line()
    end
    local s = h:connect()
    s:send "psubscribe a*a x*y*z *[0-9]\r\n"
    for _ = 1, 18 do
      s:line()
    end
    assert.equal(":0", count "a")
    assert.equal(":1", count "aa")
    assert.equal(":1", count "abca")
    assert.equal(":0", count "xz")
    assert.equal(":1", count "xyyz")
    assert.equal(":1", count "7")
    assert.equal(":0", count "7q")
  end)
end)
