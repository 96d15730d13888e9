-- What a factory may be asked to hold at most, and what happens at the edge.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys
local commands = host.commands

-- True if the connection is served: it answers "ping".
local function served(c)
  local ok, line = pcall(function()
    return c:send("ping\n"):line()
  end)
  return ok and line == "pong"
end

-- Waits until a new connection is served: after one has left, its place is free some moments later.
local function becomesServed(h, options)
  return sys.await(function()
    local c = h:connect(options)
    if served(c) then
      return c
    end
    c:close()
  end, function()
    return h:story "no new connection is served any more"
  end)
end

-- Refused: a clean end without a byte, though we have sent something.
local function refused(c)
  c:send "ping\n"
  assert.same({ "", "eof" }, { c:receiveAll() })
end

local PING = [[
  function P:connectionMade() print "made" end
  function commands.ping(self, t) t:write "pong\n" end
]]

describe("a bound", function()
  after_each(host.cleanup)

  it("of maxConnections refuses one too many, and serves again when one has left", function()
    local h = host.serve(commands(PING, "maxConnections = 2"))
    local a, b = h:connect(), h:connect()
    assert.is_true(served(a) and served(b))
    for _ = 1, 5 do
      local c = h:connect()
      refused(c)
      c:close()
    end
    assert.is_true(served(a) and served(b))
    a:close()
    h:line "^lost"
    becomesServed(h)
    h:stop()
    assert.equal(3, select(2, h:output():gsub("made\n", "")))
  end)

  it("of maxConnectionsPerPeer counts each address for itself", function()
    local h = host.serve(commands(PING, "maxConnectionsPerPeer = 2"))
    for _, source in ipairs { "127.0.0.1", "127.0.0.2", "127.0.0.3" } do
      local a, b = h:connect { source = source }, h:connect { source = source }
      assert.is_true(served(a) and served(b), source)
      local c = h:connect { source = source }
      refused(c)
      c:close()
      a:close()
      h:line "^lost"
      becomesServed(h, { source = source })
    end
  end)

  it("counts a socket that lingers", function()
    local h = host.serve(commands(PING .. [[
      function commands.close(self, t) t:loseConnection() end
    ]], "maxConnections = 1"))
    local a = h:connect():send "close"
    assert.same({ "", "eof" }, { a:receiveAll() })
    h:line "^lost\tdone\tlocal"
    local b = h:connect()
    refused(b)
    b:close()
    local before = h:descriptors()
    a:close()
    sys.await(function()
      return h:descriptors() < before
    end, function()
      return h:story "the lingering socket stays"
    end)
    becomesServed(h)
  end)

  it("of idleTimeout ends who is idle, and neither who speaks, who takes, nor who is paused", function()
    local h = host.serve(commands(PING .. [[
      function commands.pause(self, t) t:write "pong\n"; t:flush(); t:pauseProducing() end
      function commands.much(self, t) t:write(("x"):rep(20000000)) end
    ]], "idleTimeout = 1"))
    local idle, speaker, paused = h:connect(), h:connect(), h:connect()
    local taker = h:connect { rcvbuf = 131072 }
    local started, ended = sys.now(), nil
    assert.is_true(served(idle) and served(speaker))
    assert.equal("pong", paused:send("pause"):line())
    taker:send "much"
    while sys.now() - started < 2.4 do
      assert.is_true(served(speaker), "the one who speaks was ended")
      assert.truthy(taker:read(65536), "the one who takes was ended")
      if not ended and not idle:quiet() then
        ended = sys.now() - started
      end
      sys.pass(0.05)
    end
    assert.same({ "", "eof" }, { idle:receiveAll() })
    assert.is_true(not ended or ended > 0.9, "the idle one was ended too early")
    assert.truthy(h:line "^lost\ttimeout\thost")
    assert.is_true(paused:quiet(), "the paused one was ended")
    assert.is_true(taker:quiet() or #taker.buffer > 0, "the one who takes was ended")
    assert.falsy(h:has "^lost")
  end)

  it("of maxBuffered closes with limit, and memory stays near it", function()
    local h = host.serve(commands([[
      function commands.go(self, t)
        local n = 0
        for i = 1, 200 do
          if t:write(("x"):rep(1000000)) then n = n + 1 end
        end
        print("written", n)
      end
      function commands.ping(self, t) t:write "pong\n" end
    ]], "maxBuffered = 10000000"))
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    local n = tonumber((h:line "^written\t(%d+)"))
    assert.is_true(n >= 10 and n < 25, n .. " MB were taken")
    assert.equal("lost\tlimit\thost", h:line())
    assert.truthy(c:count())
    if not host.sanitized then
      assert.is_true(h:peakMemory() < 64 * 1048576, "the host grew to " .. h:peakMemory())
    end
    assert.is_true(served(h:connect()))
  end)

  it("of 64 MiB buffered holds without being asked for", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        local n = 0
        while t:write(("x"):rep(4194304)) and n < 100 do n = n + 1 end
        print("written", n)
      end
    ]])
    local c = h:connect { rcvbuf = 16384 }
    c:send "go"
    local n = tonumber((h:line "^written\t(%d+)"))
    assert.is_true(n >= 16 and n <= 20, n * 4 .. " MiB were taken")
    assert.equal("lost\tlimit\thost", h:line())
  end)

  it("is changed at run time by setBound, and refused there when it is none", function()
    local text = commands(PING .. [[
      function commands.set(self, t, rest)
        local name, value = rest:match "(%a+) (.+)"
        local ok, message = pcall(function()
          self.factory:setBound(name, tonumber(value) or value) -- set
        end)
        print("set", ok, message)
        t:write "set\n"
      end
    ]], "maxConnections = 1")
    local h = host.serve(text)
    local a = h:connect()
    assert.is_true(served(a))
    refused(h:connect())
    assert.equal("set", a:send("set maxConnections 2"):line())
    assert.is_true(served(h:connect()))
    refused(h:connect())
    for _, wrong in ipairs { "maxConections 3", "maxConnections many", "maxConnections -1" } do
      assert.equal("set", a:send("set " .. wrong):line())
      local message = h:line "^set\tfalse\t(.*)"
      assert.truthy(message:find(("script.lua:%d: "):format(host.lineOf(text, "-- set")), 1, true), message)
    end
    assert.equal("set", a:send("set idleTimeout 0.3"):line())
    assert.same({ "", "eof" }, { a:receiveAll() })
    assert.truthy(h:line "^lost\ttimeout\thost")
  end)

  it("is counted by connectionCount, and each goes over the live protocols", function()
    local h = host.serve(commands [[
      local n = 0
      function P:connectionMade() n = n + 1; self.number = n end
      function commands.list(self, t)
        local numbers = {}
        for p in self.factory:each() do numbers[#numbers + 1] = p.number end
        table.sort(numbers)
        t:write(self.factory:connectionCount() .. ": " .. table.concat(numbers, " ") .. "\n")
      end
      function commands.purge(self, t)
        for p in self.factory:each() do
          if p ~= self then p.transport:abortConnection() end
        end
        commands.list(self, t)
      end
    ]])
    local list = client.many(4, h.port)
    assert.equal("4: 1 2 3 4", list[1]:send("list"):line())
    list[2]:close()
    h:line "^lost"
    assert.equal("3: 1 3 4", list[1]:send("list"):line())
    list[1]:send("purge"):line()
    h:line "^lost\taborted"
    h:line "^lost\taborted"
    assert.equal("1: 1", list[1]:send("list"):line())
  end)

  it("of open descriptors makes the listener wait without spinning; who is connected is served, and it recovers", function()
    local h = host.serve(commands(PING), { limit = 40 })
    local first = h:connect()
    assert.is_true(served(first))
    local crowd = client.many(60, h.port)
    local cpu, started = h:cpu(), sys.now()
    local rounds = 0
    while sys.now() - started < 1.5 do
      assert.is_true(served(first), "a live connection suffers")
      rounds = rounds + 1
      sys.pass(0.05)
    end
    local used = h:cpu() - cpu
    assert.is_true(used < 0.6, ("%.2f s of CPU in 1.5 s with nothing to do"):format(used))
    assert.is_true(select(2, h:errors():gsub("\n", "")) < 40, "the log is flooded")
    for _, c in ipairs(crowd) do
      c:close()
    end
    becomesServed(h):close()
    for _ = 1, 10 do
      local c = h:connect()
      assert.is_true(served(c), "the listener did not recover")
      c:close()
    end
    assert.is_true(served(first))
  end)

  it("of the backlog is taken from the definition without harm", function()
    local h = host.serve(commands(PING, "backlog = 5"))
    for _, c in ipairs(client.many(50, h.port)) do
      assert.is_true(served(c))
    end
  end)
end)
