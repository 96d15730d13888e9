-- A bound that is none is misuse: it raises at the line that gave it.

local host = require "support.host"

local SCRIPT = [[
  local reactor = require "skald.reactor"
  local P = {}
  local function listen(bound, value)
    local port = reactor.listenTCP(0, { protocol = P, [bound] = value }, { interface = "127.0.0.1" }) -- listen
    return port
  end
  print(select(2, pcall(listen, "maxConnections", "five")))
  print(select(2, pcall(listen, "maxConnections", -5)))
  print(select(2, pcall(listen, "idleTimeout", 0 / 0)))
  local function keepAlive(self, seconds)
    local ok = self.transport:setTcpKeepAlive(true, seconds) -- keep
    return ok
  end
  function P:connectionMade()
    for _, seconds in ipairs { "abc", -1, 0 / 0, 1e9 } do
      print(select(2, pcall(keepAlive, self, seconds)))
    end
    print("right", keepAlive(self, 30))
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

describe("a wrong number", function()
  after_each(host.cleanup)

  it("as a bound given to listenTCP raises at the caller's line and opens nothing", function()
    local h = host.serve(SCRIPT)
    local place = ("script%%.lua:%d: .*"):format(host.lineOf(SCRIPT, "-- listen"))
    h:stop()
    local lines = {}
    for line in h:output():gmatch "[^\n]+" do
      lines[#lines + 1] = line
    end
    assert.equal(4, #lines) -- and the one listening line
    assert.matches(place .. "maxConnections", lines[1])
    assert.matches(place .. "maxConnections", lines[2])
    assert.matches(place .. "idleTimeout", lines[3])
    assert.matches("^listening ", lines[4])
  end)

  it("of seconds for setTcpKeepAlive raises at the caller's line", function()
    local h = host.serve(SCRIPT)
    h:connect()
    local place = ("script%%.lua:%d: setTcpKeepAlive"):format(host.lineOf(SCRIPT, "-- keep"))
    for _ = 1, 4 do
      assert.matches(place, h:line())
    end
    assert.equal("right\ttrue", h:line())
    h:stop()
  end)
end)
