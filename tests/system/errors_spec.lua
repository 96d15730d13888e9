-- Errors in a script's callbacks: logged once with the user's lines, one connection closed, nobody else harmed.

local host = require "support.host"
local client = require "support.client"

local commands = host.commands

-- The line `-- here` of a script, as the log must show it.
local function place(text, mark)
  return ("script.lua:%d: "):format(host.lineOf(text, mark or "-- here"))
end

describe("an error", function()
  after_each(host.cleanup)

  for _, callback in ipairs { "connectionMade", "dataReceived", "readConnectionLost" } do
    it("in " .. callback .. " closes that connection cleanly, is logged once and told to connectionLost", function()
      local text = ([[
        local P = {}
        function P:connectionLost(reason)
          print("lost", reason.code, tostring(reason):find "\n", type(reason.traceback), reason.message)
        end
        function P:%s()
          error "this went wrong" -- here
        end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]]):format(callback)
      local h = host.serve(text)
      for i = 1, 3 do
        local c = h:connect():send(("unread "):rep(20000)):halfClose()
        assert.same({ "", "eof" }, { c:receiveAll() })
        local message = h:line "^lost\terror\tnil\tstring\t(.*)"
        assert.truthy(message:find("this went wrong", 1, true), message)
        h:waitLog(place(text):gsub("%p", "%%%0") .. "this went wrong")
        assert.equal(i, h:logged(place(text) .. "this went wrong"))
      end
      h:stop()
      assert.equal(3, select(2, h:output():gsub("lost\t", "")))
    end)
  end

  it("in buildProtocol closes cleanly and calls nothing else", function()
    local text = [[
      local P = {}
      function P:connectionMade() print "made" end
      function P:connectionLost() print "lost" end
      return { listen = "tcp:127.0.0.1:0", protocol = P, buildProtocol = function(self)
        self.n = (self.n or 0) + 1
        if self.n == 1 then error "cannot build" end -- here
        if self.n == 2 then return 42 end
        return nil
      end }
    ]]
    local h = host.serve(text)
    assert.same({ "", "eof" }, { h:connect():send("unread"):receiveAll() })
    h:waitLog "script%.lua:%d+: cannot build"
    assert.equal(1, h:logged(place(text) .. "cannot build"))
    assert.same({ "", "eof" }, { h:connect():send("unread"):receiveAll() }) -- something that is no protocol
    h:waitLog "buildProtocol"
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    h:stop()
    assert.falsy(h:output():find "made" or h:output():find "lost")
  end)

  it("in connectionLost is only logged", function()
    local text = commands [[
      function commands.ping(self, t) t:write "pong\n" end
      function P:connectionLost()
        print "lost"
        error "at the end" -- here
      end
    ]]
    local h = host.serve(text)
    local other = h:connect()
    h:connect():reset()
    h:connect():close()
    assert.same({ "", "eof" }, { h:connect():halfClose():receiveAll() })
    for _ = 1, 3 do
      h:line "^lost"
      h:waitLog "at the end"
    end
    assert.equal("pong", other:send("ping"):line())
    assert.equal(3, h:logged(place(text) .. "at the end"))
  end)

  it("in a timer is only logged, and other timers of the same turn still run", function()
    local text = commands [[
      local reactor = require "skald.reactor"
      function commands.go(self, t)
        for i = 1, 5 do
          reactor.callLater(0.01, function()
            if i % 2 == 0 then error("timer " .. i) end -- here
            t:write("timer " .. i .. "\n")
          end)
        end
      end
    ]]
    local h = host.serve(text)
    local c = h:connect():send "go"
    for _, i in ipairs { 1, 3, 5 } do
      assert.equal("timer " .. i, c:line())
    end
    h:waitLog "timer 4"
    assert.equal(1, h:logged(place(text) .. "timer 2"))
    assert.equal(1, h:logged(place(text) .. "timer 4"))
    c:send "go"
    assert.equal("timer 1", c:line())
  end)

  it("drops what is queued but leaves what was sent", function()
    local h = host.serve(commands [[
      function commands.go(self, t)
        t:write "sent before"
        t:flush()
        t:write "never sent"
        error "stop here"
      end
    ]])
    assert.same({ "sent before", "eof" }, { h:connect():send("go"):receiveAll() })
    assert.truthy(h:line "^lost\terror")
  end)

  it("in a producer closes the connection it feeds", function()
    local h = host.serve(commands [[
      function commands.pull(self, t)
        t:registerProducer({ resumeProducing = function() error "dry" end, stopProducing = function() print "stopped" end }, false)
      end
      function commands.push(self, t)
        local p = { stopProducing = function() print "stopped" end, resumeProducing = function() end }
        function p:pauseProducing() error "no pause" end
        t:registerProducer(p, true)
        t:write(("x"):rep(50000000))
      end
    ]])
    assert.equal("eof", select(2, h:connect():send("pull"):receiveAll()))
    assert.truthy(h:line "^lost\terror")
    h:waitLog "script%.lua:%d+: dry"
    local c = h:connect { rcvbuf = 16384 }
    assert.equal("eof", select(2, c:send("push"):count()))
    assert.truthy(h:line "^lost\terror")
    h:waitLog "script%.lua:%d+: no pause"
  end)

  it("may be any value", function()
    local h = host.serve(commands [[
      function commands.none() error() end
      function commands.table() error { code = 7 } end
      function commands.number() error(12) end
      function commands.traitor() error(setmetatable({}, { __tostring = function() error "inner" end })) end
      function commands.deep() local function f() return 1 + f() end; return f() end
      function commands.ping(self, t) t:write "pong\n" end
    ]])
    local other = h:connect()
    for _, word in ipairs { "none", "table", "number", "traitor", "deep" } do
      assert.same({ "", "eof" }, { h:connect():send(word):receiveAll() })
      assert.truthy(h:line "^lost\terror", word)
      assert.equal("pong", other:send("ping"):line())
    end
    h:waitLog "stack overflow" -- LuaJIT itself does not always know the line of this one
  end)

  it("is logged with the lines of the functions it came through", function()
    local text = commands [[
      local function inner(x)
        local y = x + 1
        return y.field.other -- inner
      end
      local function outer(x)
        local z = inner(x) -- outer
        return z
      end
      function commands.go() local r = outer(12); return r end -- handler
    ]]
    local h = host.serve(text)
    h:connect():send("go"):receiveAll()
    h:line "^lost\terror"
    h:waitLog("script%.lua:" .. host.lineOf(text, "-- inner"))
    for _, mark in ipairs { "-- inner", "-- outer", "-- handler" } do
      assert.truthy(h:errors():find("script.lua:" .. host.lineOf(text, mark), 1, true), mark .. " is not in " .. h:errors())
    end
  end)

  it("while the script loads leaves nothing running", function()
    local status, out, log = host.command { "run", host.script [[
      local reactor = require "skald.reactor"
      local Factory = require("skald.protocol").Factory
      reactor.listenTCP(0, Factory { protocol = {} }:new(), { interface = "127.0.0.1" })
      error "too late"
    ]] }
    assert.equal(1, status)
    assert.truthy(log:find("script.lua:4: too late", 1, true), log)
    assert.falsy(log:find("leftover", 1, true) or log:find("Sanitizer", 1, true), log)
    assert.falsy(out:find("listening", 1, true), out)
  end)

  it("of one among a thousand connections, at every event, never reaches the others", function()
    local text = [[
      local Good, Bad = {}, {}
      function Good:dataReceived(data) self.transport:write(data) end
      function Good:connectionLost(reason) if reason.code ~= "done" then print("harmed", tostring(reason)) end end
      function Bad:connectionMade() self.transport:write "made"; error "bad made" end
      function Bad:connectionLost() error "bad lost" end
      local Late = {}
      function Late:dataReceived() error "bad data" end
      function Late:connectionLost() error "bad lost" end
      local n = 0
      return { listen = "tcp:127.0.0.1:0", protocol = Good, backlog = 2000, buildProtocol = function(self, addr)
        n = n + 1
        local P = require("skald.protocol").Protocol
        if n <= 999 then return P(Good):new() end
        if n % 3 == 0 then error "bad build" end
        return P(n % 3 == 1 and Bad or Late):new()
      end }
    ]]
    local h = host.serve(text)
    local good = client.many(999, h.port)
    local rounds = 9
    for i, c in ipairs(good) do
      c:send(("x"):rep(i % 50) .. i .. "\n")
    end
    for round = 1, rounds do
      for _ = 1, 3 do
        local c = h:connect():send "hello"
        local _, ending = c:receiveAll()
        assert.equal("eof", ending)
        c:close()
      end
      for i, c in ipairs(good) do
        assert.equal(("x"):rep(i % 50) .. i, c:line())
        if round < rounds then
          c:send(("x"):rep(i % 50) .. i .. "\n")
        end
      end
    end
    for _, what in ipairs { "bad made", "bad data", "bad build" } do
      local expected = ("script.lua:%d: %s"):format(host.lineOf(text, what), what)
      assert.equal(rounds, h:logged(expected), expected)
    end
    for _, c in ipairs(good) do
      c:close()
    end
    h:stop()
    assert.equal(2 * rounds, h:logged ": bad lost")
    assert.falsy(h:output():find "harmed", h:output())
  end)
end)
