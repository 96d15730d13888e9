-- reactor.callLater and what goes with it. The scripts print what happens; the tests wait for the lines.

local host = require "support.host"
local sys = require "support.sys"

-- Runs a script that needs no connection and stops by itself; returns what it printed, as a list of lines.
local function linesOf(text)
  local h = host.serve(([[
    local reactor = require "skald.reactor"
    %s
    return { listen = "tcp:127.0.0.1:0", protocol = {} }
  ]]):format(text), { listening = 0 })
  h:ends(0)
  local lines = {}
  for line in h:output():gmatch "([^\n]*)\n" do
    if not line:find "^listening " then
      lines[#lines + 1] = line
    end
  end
  return lines, h
end

describe("a timer", function()
  after_each(host.cleanup)

  it("runs in the order of due times, and in the order of the calls where these are equal", function()
    local lines = linesOf [[
      for _, n in ipairs { 5, 1, 4, 2, 3 } do reactor.callLater(n / 20, print, "at", n) end
      for i = 1, 5 do reactor.callLater(0, print, "now", i) end
      reactor.callLater(0.3, reactor.stop)
    ]]
    assert.same({ "now\t1", "now\t2", "now\t3", "now\t4", "now\t5", "at\t1", "at\t2", "at\t3", "at\t4", "at\t5" }, lines)
  end)

  it("hands its arguments on, nils too", function()
    local lines = linesOf [[
      reactor.callLater(0, function(...) print(select("#", ...), ...) end, 1, nil, "three", nil)
      reactor.callLater(0, reactor.stop)
    ]]
    assert.same({ "4\t1\tnil\tthree\tnil" }, lines)
  end)

  it("is not early", function()
    local lines = linesOf [[
      local started = reactor.seconds()
      reactor.callLater(0.25, function()
        print(reactor.seconds() - started)
        reactor.stop()
      end)
    ]]
    local took = tonumber(lines[1])
    assert.is_true(took >= 0.249, "ran after " .. took)
  end)

  it("can be cancelled, reset, delayed and asked", function()
    local lines = linesOf [[
      local cancelled = reactor.callLater(0.02, print, "never")
      print("active", cancelled:active())
      print("cancel", cancelled:cancel())
      print("active", cancelled:active())
      local a = reactor.callLater(0.02, print, "a, moved behind b")
      reactor.callLater(0.06, print, "b")
      a:reset(0.12)
      local c = reactor.callLater(0.15, print, "c")
      c:delay(0.09)
      reactor.callLater(0.18, print, "before c")
      reactor.callLater(5, print, "sooner"):reset(0.3)
      reactor.callLater(0.36, reactor.stop)
    ]]
    assert.equal("active\ttrue", lines[1])
    assert.truthy(lines[2]:find "^cancel" and not lines[2]:find "closing", lines[2])
    assert.equal("active\tfalse", lines[3])
    assert.same({ "b", "a, moved behind b", "before c", "c", "sooner" }, { unpack(lines, 4) })
  end)

  it("that ran or was cancelled answers cancel, reset and delay with nil and a message", function()
    local lines = linesOf [[
      local function ask(timer)
        for _, name in ipairs { "cancel", "reset", "delay" } do
          local ok, message = timer[name](timer, 1)
          print(name, ok, type(message))
        end
        print("active", timer:active())
      end
      local ran = reactor.callLater(0, function() end)
      local cancelled = reactor.callLater(0, print, "never")
      cancelled:cancel()
      local inside
      inside = reactor.callLater(0.01, function() ask(inside) end)
      reactor.callLater(0.02, function()
        ask(ran)
        ask(cancelled)
        reactor.stop()
      end)
    ]]
    local once = { "cancel\tnil\tstring", "reset\tnil\tstring", "delay\tnil\tstring", "active\tfalse" }
    for i = 0, 2 do
      assert.same(once, { unpack(lines, i * 4 + 1, i * 4 + 4) })
    end
    assert.equal(12, #lines)
  end)

  it("can cancel another one that is due in the same turn", function()
    local lines = linesOf [[
      local second
      reactor.callLater(0, function() print "first"; second:cancel() end)
      second = reactor.callLater(0, print, "second")
      reactor.callLater(0, print, "third")
      reactor.callLater(0.02, reactor.stop)
    ]]
    assert.same({ "first", "third" }, lines)
  end)

  it("misused raises at the caller's line", function()
    local lines = linesOf [[
      local wrong = {
        function() reactor.callLater("soon", print) end,
        function() reactor.callLater(-1, print) end,
        function() reactor.callLater(0/0, print) end,
        function() reactor.callLater(1) end,
        function() reactor.callLater(1, "print") end,
        function() reactor.callWhenRunning() end,
        function() reactor.callLater(1e9, print):reset "x" end,
      }
      for _, f in ipairs(wrong) do
        local ok, message = pcall(f)
        print(ok, message:match "script%.lua:(%d+): " == tostring(debug.getinfo(f).linedefined), message)
      end
      reactor.callWhenRunning(reactor.stop)
    ]]
    assert.equal(7, #lines)
    for _, line in ipairs(lines) do
      assert.truthy(line:find "^false\ttrue\t", line)
    end
  end)

  it("set with a dot or a colon is the same", function()
    local lines = linesOf [[
      reactor:callLater(0, print, "colon")
      reactor.callLater(0, print, "dot")
      reactor:callWhenRunning(print, "running", "colon")
      print(math.abs(reactor:seconds() - reactor.seconds()) < 1)
      reactor:run()
      reactor.run()
      reactor:callLater(0.02, function() reactor:stop() end)
    ]]
    assert.equal("true", lines[1])
    table.sort(lines)
    assert.same({ "colon", "dot", "running\tcolon", "true" }, lines)
  end)

  it("comes after callWhenRunning, which comes after the script has loaded", function()
    local lines = linesOf [[
      reactor.callLater(0, print, "timer")
      reactor.callWhenRunning(print, "running", 1)
      reactor.callWhenRunning(function()
        print "running 2"
        reactor.callWhenRunning(print, "already running")
      end)
      reactor.callLater(0.02, reactor.stop)
      print "loaded"
    ]]
    assert.equal("loaded", lines[1])
    assert.equal("running\t1", lines[2])
    table.sort(lines)
    assert.same({ "already running", "loaded", "running\t1", "running 2", "timer" }, lines)
  end)

  it("keeps its order among ten thousand", function()
    local lines = linesOf [[
      local cancelled, last, wrong, ran, x = 0, -1, 0, 0, 12345
      for i = 1, 10000 do
        x = (x * 1103515245 + 12345) % 2147483648
        local delay = x % 200000 / 1000000
        local least, most, timer = reactor.seconds() + delay
        timer = reactor.callLater(delay, function()
          ran = ran + 1
          if most < last then wrong = wrong + 1 end
          last = math.max(last, least)
        end)
        most = reactor.seconds() + delay
        if math.floor(x / 1024) % 7 == 0 then timer:cancel(); cancelled = cancelled + 1 end
      end
      assert(cancelled > 1000)
      reactor.callLater(0.5, function()
        print(ran + cancelled, wrong)
        reactor.stop()
      end)
    ]]
    assert.same({ "10000\t0" }, lines)
  end)

  it("that sets itself anew at once does not starve the connections", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local turns = 0
      local function again() turns = turns + 1; reactor.callLater(0, again) end
      reactor.callLater(0, again)
      local P = {}
      function P:dataReceived(data) self.transport:write(turns .. "\n") end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    local first, last = tonumber(c:send("x"):line()), -1
    local limit = sys.now() + sys.deadline
    repeat
      local turns = tonumber(c:send("x"):line())
      assert.is_true(turns >= last and sys.now() < limit)
      last = turns
    until last >= first + 20
  end)

  it("writes to a connection, and what it writes leaves when it returns", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionMade()
        local n = 0
        local function tick()
          n = n + 1
          self.transport:write("tick " .. n)
          self.transport:write "\n"
          if n < 5 then self.timer = reactor.callLater(0.01, tick) else self.transport:loseConnection() end
        end
        tick()
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    assert.same({ "tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n", "eof" }, { h:connect():receiveAll() })
  end)

  it("that is still pending does not hold up the end", function()
    local _, h = linesOf [[
      for i = 1, 100 do reactor.callLater(3600, print, "never") end
      reactor.callLater(0, reactor.stop)
    ]]
    assert.falsy(h:output():find "never")
  end)

  it("measures seconds that only grow", function()
    local lines = linesOf [[
      local last, wrong = reactor.seconds(), 0
      for i = 1, 1000 do
        reactor.callLater(i / 20000, function()
          local t = reactor.seconds()
          if t < last then wrong = wrong + 1 end
          last = t
          if i == 1000 then print(wrong, t - math.floor(t) ~= 0); reactor.stop() end
        end)
      end
    ]]
    assert.same({ "0\ttrue" }, lines)
  end)
end)
