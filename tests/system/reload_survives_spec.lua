-- What a committed reload keeps, what it replaces, and what becomes of what is gone.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"
local reload = require "support.reload"

local commands = host.commands
local serve, commit = reload.serve, reload.commit
local names, unix = reload.names, reload.unix

-- How often a plain text stands in what the host has printed.
local function printed(h, text)
  local n, at, out = 0, 1, h:output()
  while true do
    local from, to = out:find(text, at, true)
    if not from then
      return n
    end
    n, at = n + 1, to + 1
  end
end

-- The answer to one command.
local function ask(c, text)
  return c:send(text):line()
end

describe("connections", function()
  after_each(host.cleanup)

  it("stay open, and the new code answers them", function()
    local text = commands [[
      function P:connectionMade() print "made" end
      function commands.who(self, t) t:write(("@ from %d\n"):format(t:getPeer().port)) end
    ]]
    local h = serve(text)
    local list = {}
    for i = 1, 5 do
      list[i] = h:connect()
      assert.equal("1 from " .. list[i]:port(), ask(list[i], "who"))
    end
    local report = commit(text)
    for _, c in ipairs(list) do
      assert.equal("2 from " .. c:port(), ask(c, "who"))
    end
    assert.same({ 1, 2, 5 }, { report.from, report.generation, report.instances })
    assert.equal(5, printed(h, "made"))
    assert.equal(0, printed(h, "lost"))
  end)

  it("stay through ten reloads in a row", function()
    local text = commands([[
      function commands.count(self, t)
        self.n, self.factory.state.n = (self.n or 0) + 1, self.factory.state.n + 1
        t:write(("@ %d %d\n"):format(self.n, self.factory.state.n))
      end
    ]], "state = { n = 0 }")
    local h = serve(text)
    local a, b = h:connect(), h:connect()
    for i = 1, 10 do
      assert.equal(("%d %d %d"):format(i, i, i * 2 - 1), ask(a, "count"))
      assert.equal(("%d %d %d"):format(i, i, i * 2), ask(b, "count"))
      assert.equal(i + 1, commit(text, i + 1).generation)
    end
    assert.equal("11 11 21", ask(a, "count"))
    assert.equal(11, reload.status().generation)
  end)

  it("keep all of the output that was queued", function()
    local text = commands [[
      function commands.fill(self, t)
        for i = 1, 400 do t:write((("%07d "):format(i)):rep(4096)) end
      end
      function commands.queued(self, t)
        local most = 0
        for p in self.factory:each() do most = math.max(most, p.transport:bufferedAmount()) end
        t:write(most .. "\n")
      end
      function commands.who(self, t) t:write "@" end
    ]]
    local h = serve(text)
    local c, probe = h:connect { rcvbuf = 16384 }, h:connect()
    local got = { c:send("fill"):receive(8) }
    assert.is_true(tonumber(ask(probe, "queued")) > 1000000)
    commit(text)
    assert.is_true(tonumber(ask(probe, "queued")) > 1000000)
    c:send "who"
    got[2] = c:receive(400 * 32768 - 8)
    local want = {}
    for i = 1, 400 do
      want[i] = (("%07d "):format(i)):rep(4096)
    end
    assert.is_true(table.concat(want) == table.concat(got), "the output is not what was written")
    assert.equal("2", c:receive(1))
  end)

  it("that do not read stay so, and the new code gets what has come meanwhile", function()
    local text = commands [[
      function commands.hold(self, t) t:pauseProducing(); self.held = true; t:write "held\n" end
      function commands.release(self, t)
        for p in self.factory:each() do if p.held then p.transport:resumeProducing() end end
        t:write "released\n"
      end
      function commands.say(self, t, rest) t:write("@ " .. rest .. "\n") end
    ]]
    local h = serve(text)
    local c, probe = h:connect(), h:connect()
    assert.equal("held", ask(c, "hold"))
    c:send "say hello"
    commit(text)
    assert.equal("2 probe", ask(probe, "say probe"))
    assert.is_true(c:quiet())
    assert.equal("released", ask(probe, "release"))
    assert.equal("2 hello", c:line())
  end)

  it("that are closing send what is queued and end once, in the new code", function()
    local text = commands [[
      function commands.bye(self, t) t:write(("x"):rep(9000000)); t:loseConnection() end
      function commands.count(self, t) t:write(self.factory:connectionCount() .. "\n") end
      function P:connectionLost(reason) print("lost @", reason.code, reason.by) end
    ]]
    local h = serve(text)
    local c, probe = h:connect { rcvbuf = 16384 }, h:connect()
    c:send("bye"):receive(1)
    commit(text)
    assert.equal("2", ask(probe, "count"))
    assert.same({ 8999999, "eof" }, { c:count() })
    assert.equal("lost 2\tdone\tlocal", h:line "^lost")
    assert.equal("1", ask(probe, "count"))
    assert.equal(1, printed(h, "lost"))
  end)

  it("are counted on: the bounds of a factory hold across a reload", function()
    local text = commands([[
      function P:connectionMade() self.transport:write "in\n" end
    ]], "maxConnections = @ + 1")
    local h = serve(text)
    local a, b = h:connect(), h:connect()
    assert.same({ "in", "in" }, { a:line(), b:line() })
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    commit(text)
    assert.equal("in", h:connect():line())
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
  end)
end)

describe("bounds", function()
  after_each(host.cleanup)

  it("that the new definition has no more are lifted", function()
    local text = commands([[
      function P:connectionMade() self.transport:write "in\n" end
    ]], "maxConnections = @ == 1 and 1 or nil")
    local h = serve(text)
    assert.equal("in", h:connect():line())
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    commit(text)
    assert.equal("in", h:connect():line())
    assert.equal("in", h:connect():line())
  end)

  it("that are new hold for the connections that are there", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end", "idleTimeout = @ == 2 and 0.05 or nil")
    local h = serve(text)
    local c = h:connect()
    assert.equal("1", ask(c, "who"))
    commit(text)
    assert.same({ "", "eof" }, { c:receiveAll() })
    assert.equal("lost\ttimeout\thost", h:line "^lost")
  end)
end)

describe("a protocol instance", function()
  after_each(host.cleanup)

  it("is the same table with its fields", function()
    local text = commands [[
      function commands.mark(self, t) self.x = 5; self.factory.who = self; t:write "ok\n" end
      function commands.look(self, t) t:write(("@ %s %d\n"):format(tostring(self.factory.who == self), self.x)) end
    ]]
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "mark"))
    commit(text)
    assert.equal("2 true 5", ask(c, "look"))
  end)

  it("makes one line of the half that came before and the half that comes after", function()
    local text = [[
      local P = {}
      function P:dataReceived(data)
        self.rest = ((self.rest or "") .. data):gsub("([^\n]*)\n", function(line)
          self.transport:write("@ " .. line .. "\n")
          return ""
        end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = serve(text):connect()
    assert.equal("1 whole", ask(c, "whole\nhal"))
    commit(text)
    assert.equal("2 half a line", ask(c, "f a line\n"))
  end)

  it("takes its new methods from the next event on, those that the old code did not have too", function()
    local text = [[
      local P = {}
      function P:dataReceived(data) self.transport:write(data .. "@\n") end
      if @ == 2 then
        function P:readConnectionLost() self.transport:write "half-closed\n"; self.transport:loseConnection() end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local h = serve(text)
    local c, d = h:connect(), h:connect()
    assert.equal("x1", ask(c, "x"))
    assert.equal("x1", ask(d, "x"))
    commit(text, 2)
    assert.equal("x2", ask(c, "x"))
    assert.same({ "half-closed\n", "eof" }, { c:halfClose():receiveAll() })
    commit(text, 3)
    assert.same({ "", "eof" }, { d:halfClose():receiveAll() })
  end)

  it("hears reloaded right before its next event, and only once", function()
    local text = commands [[
      function P:reloaded() self.transport:write "reloaded @\n" end
      function commands.who(self, t) t:write "who @\n" end
    ]]
    local h = serve(text)
    local c, silent = h:connect(), h:connect()
    assert.equal("who 1", ask(c, "who"))
    assert.equal("who 1", ask(silent, "who"))
    commit(text)
    local fresh = h:connect()
    assert.equal("who 2", ask(fresh, "who"))
    assert.equal("reloaded 2", ask(c, "who"))
    assert.equal("who 2", c:line())
    assert.equal("who 2", ask(c, "who"))
    assert.is_true(silent:quiet())
    commit(text, 3)
    assert.equal("reloaded 3", ask(c, "who"))
    assert.equal("who 3", c:line())
    assert.equal("reloaded 3", ask(fresh, "who"))
  end)

  it("hears reloaded before connectionLost where that is the next event", function()
    local text = [[
      local P = {}
      function P:connectionMade() self.transport:write "in\n" end
      function P:reloaded() print "reloaded @" end
      function P:connectionLost() print "lost @" end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local h = serve(text)
    local c = h:connect()
    assert.equal("in", c:line())
    commit(text)
    c:reset()
    assert.equal("reloaded 2", h:line())
    assert.equal("lost 2", h:line())
  end)

  it("hears reloaded before its producer is asked for more", function()
    local text = commands [[
      function commands.produce(self, t)
        local p = { left = 300 }
        function p.resumeProducing()
          self:say "resume"
          p.paused = false
          while not p.paused and p.left > 0 do
            p.left = p.left - 1
            t:write(("x"):rep(65536))
          end
          if p.left == 0 then t:unregisterProducer(); t:loseConnection() end
        end
        function p.pauseProducing() p.paused = true end
        function p.stopProducing() end
        t:registerProducer(p, true)
        p.resumeProducing()
      end
      function P:say(word) print(word .. " @") end
      function P:reloaded() print "reloaded @" end
    ]]
    local h = serve(text)
    local c = h:connect { rcvbuf = 16384 }
    c:send("produce"):receive(1)
    commit(text)
    assert.same({ 300 * 65536 - 1, "eof" }, { c:count() })
    assert.equal("lost\tdone\tlocal", h:line "^lost")
    local out = h:output()
    assert.truthy(out:find "\nreloaded 2\nresume 2\n", out)
    assert.equal(1, printed(h, "reloaded"))
  end)

  it("whose reloaded fails is closed as by any callback that fails, and no other one is", function()
    local text = commands [[
      function P:reloaded() if self.bad then error "not this one" end end
      function commands.bad(self, t) self.bad = true; t:write "bad\n" end
      function commands.who(self, t) t:write "@\n" end
    ]]
    local h = serve(text)
    local bad, good = h:connect(), h:connect()
    assert.equal("bad", ask(bad, "bad"))
    assert.equal("1", ask(good, "who"))
    commit(text)
    assert.same({ "", "eof" }, { bad:send("who"):receiveAll() })
    assert.equal("lost\terror\tlocal", h:line "^lost")
    assert.equal("2", ask(good, "who"))
    h:waitLog "script%.lua:%d+: not this one"
    assert.equal(1, h:logged "not this one")
  end)
end)

describe("factory.state", function()
  after_each(host.cleanup)

  local look = [[
    function commands.hold(self, t) self.factory.held = self.factory.state; self.factory.state.n = 7; t:write "ok\n" end
    function commands.look(self, t)
      local f, list = self.factory, {}
      for key, value in pairs(f.state) do list[#list + 1] = key .. "=" .. tostring(value) end
      table.sort(list)
      t:write(("@ %s %s\n"):format(tostring(f.held == f.state), table.concat(list, " ")))
    end
  ]]

  it("is the same table; keys that are new in the defaults are added, none is changed or removed", function()
    local text = commands(look, [[state = @ == 1 and { n = 0, old = "kept" } or { n = 100, extra = "new" }]])
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "hold"))
    commit(text)
    assert.equal("2 true extra=new n=7 old=kept", ask(c, "look"))
  end)

  it("that a factory did not have before comes with its defaults", function()
    local text = commands(look, [[state = @ == 2 and { n = 3 } or nil]])
    local c = serve(text):connect()
    commit(text)
    assert.equal("2 false n=3", ask(c, "look"))
  end)

  it("is changed by migrate when the version goes up, and gets its new defaults after that", function()
    local text = commands(look, [[
      state = @ == 1 and { n = 0 } or { n = 0, motto = "default", seen = "default" }, version = 1 + @,
      migrate = function(...)
        local state, from = ...
        print("migrate @", select("#", ...), from, state.n, state.motto)
        state.n, state.seen = state.n * 10, "by migrate"
      end
    ]])
    local h = serve(text)
    local c = h:connect()
    assert.equal("ok", ask(c, "hold"))
    commit(text)
    assert.equal("migrate 2\t2\t2\t7\tnil", h:line "^migrate")
    assert.equal("2 true motto=default n=70 seen=by migrate", ask(c, "look"))
  end)

  it("counts as version 1 where none is given, and migrate is not called while the version stays", function()
    local text = commands(look, [[
      state = { n = 0 }, version = @ > 2 and 2 or nil, migrate = function(_, from) print("migrate @", from) end
    ]])
    local h = serve(text)
    commit(text, 2)
    commit(text, 3)
    assert.equal("migrate 3\t1", h:line "^migrate")
    commit(text, 4)
    assert.equal(1, printed(h, "migrate"))
  end)

  it("may go down in version where migrate can", function()
    local text = commands(look, [[
      state = { n = 0 }, version = 3 - @, migrate = function(state, from) state.n = state.n - from end
    ]])
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "hold"))
    commit(text)
    assert.equal("2 true n=5", ask(c, "look"))
  end)

  it("stays as it is, with a warning, when the version goes up without a migrate", function()
    local text = commands(look, [[state = { n = 0 }, version = @]])
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "hold"))
    local report = commit(text)
    assert.is_true(names(report.warnings, "migrate"), table.concat(report.warnings, "\n"))
    assert.equal("2 true n=7", ask(c, "look"))
    assert.same({}, commit(text:gsub("version = @", "version = 2"), 3).warnings)
  end)

  it("belongs to each factory of a script by itself", function()
    local text = [[
      local function definition(name)
        return {
          name = name, listen = "tcp:127.0.0.1:0", state = { n = 0 }, version = @,
          migrate = function(state) state.n = state.n + (name == "one" and 100 or 200) end,
          protocol = { dataReceived = function(self)
            local state = self.factory.state
            state.n = state.n + 1
            self.transport:write(name .. " " .. state.n .. "\n")
          end },
        }
      end
      return { definition "one", definition "two" }
    ]]
    local h = serve(text, { listening = 2 })
    local one, two = h:connect(nil, 1), h:connect(nil, 2)
    assert.equal("one 1", ask(one, "x"))
    assert.equal("two 1", ask(two, "x"))
    assert.equal("two 2", ask(two, "x"))
    commit(text)
    assert.equal("one 102", ask(one, "x"))
    assert.equal("two 203", ask(two, "x"))
  end)
end)

-- The same service as a plain table, as a Factory class and as an instance of one.
local forms = {
  ["a plain table"] = "return { %s }",
  ["a Factory class"] = 'local F = require("skald.protocol").Factory { %s }\nreturn F',
  ["a Factory instance"] = 'local F = require("skald.protocol").Factory { %s }\nreturn F:new()',
  ["an instance with fields of its own"] = [[
    local f = require("skald.protocol").Factory {}:new()
    for key, value in pairs { %s } do f[key] = value end
    return f
  ]],
  ["a class derived from one"] = 'local Base = require("skald.protocol").Factory { %s }\nreturn Base {}',
}

for form, returned in pairs(forms) do
  describe("a factory given as " .. form, function()
    after_each(host.cleanup)

    local function service(fields)
      local definition = ([[listen = "tcp:127.0.0.1:0", protocol = P, %s]]):format(fields)
      return [[
        local P = {}
        function P:dataReceived(data)
          local f = self.factory
          local word, rest = data:match "^(%w+) ?(.*)"
          local function say(...)
            local list = { ... }
            for i = 1, select("#", ...) do list[i] = tostring(list[i]) end
            self.transport:write(table.concat(list, " ") .. "\n")
          end
          if word == "fill" then
            f.rooms[rest] = rest
            f.tree.leaf.n = f.tree.leaf.n + 1
            f.hits, f.added = f.hits + 1, "added"
            f.held = f.rooms
            say "filled"
          elseif word == "rooms" then
            local list = {}
            for name in pairs(f.rooms) do list[#list + 1] = name end
            table.sort(list)
            say("@", f.held == f.rooms, f.tree.leaf.n, unpack(list))
          elseif word == "fields" then
            say("@", f.hits, f.added, f.motto, f.gone, f.menu[1], f:hello())
          elseif word == "factory" then
            f.first = f.first or f
            say(f.first == f, f.state.n)
            f.state.n = f.state.n + 1
          end
        end
      ]] .. returned:gsub("%%s", function()
        return definition
      end)
    end

    local all = [[
      state = { n = 0 }, hits = @ * 100, motto = "motto @", gone = @ == 1 and "soon gone" or nil, menu = { "menu @" },
      rooms = { }, tree = { leaf = { n = 0 } }, hello = function() return "hello @" end
    ]]

    it("stays one object with its state", function()
      local text = service(all)
      local c = serve(text):connect()
      assert.equal("true 0", ask(c, "factory"))
      commit(text)
      assert.equal("true 1", ask(c, "factory"))
    end)

    it("keeps the tables that running code has filled, and the report names them and no others", function()
      local text = service(all)
      local c = serve(text):connect()
      assert.equal("filled", ask(c, "fill kitchen"))
      assert.equal("1 true 1 kitchen", ask(c, "rooms"))
      local report = commit(text)
      assert.equal("2 true 1 kitchen", ask(c, "rooms"))
      assert.is_true(names(report.kept, "rooms"))
      assert.is_true(names(report.kept, "tree"))
      assert.is_false(names(report.kept, "menu"))
      assert.equal("filled", ask(c, "fill hall"))
      assert.is_true(names(commit(text, 3).kept, "rooms"))
      assert.equal("3 true 2 hall kitchen", ask(c, "rooms"))
    end)

    it("keeps the fields that running code has set, and takes the others from the new definition", function()
      local text = service(all)
      local c = serve(text):connect()
      assert.equal("1 100 nil motto 1 soon gone menu 1 hello 1", ask(c, "fields"))
      assert.equal("filled", ask(c, "fill x"))
      commit(text)
      assert.equal("2 101 added motto 2 nil menu 2 hello 2", ask(c, "fields"))
    end)
  end)
end

describe("a factory", function()
  after_each(host.cleanup)

  it("may be given in another form than before", function()
    local text = [[
      local Factory = require("skald.protocol").Factory
      local P = {}
      function P:dataReceived(data)
        local f = self.factory
        f.state.n, f.rooms[#f.rooms + 1], f.hits = f.state.n + 1, "room", (f.hits or 0) + 1
        self.transport:write(("@ %d %d %d %s\n"):format(f.state.n, #f.rooms, f.hits, f:hello()))
      end
      local d = {
        listen = "tcp:127.0.0.1:0", protocol = P, state = { n = 0 }, rooms = {},
        hello = function() return "hello @" end,
      }
      if @ % 3 == 0 then return Factory(d) elseif @ % 3 == 1 then return d else return Factory(d):new() end
    ]]
    local c = serve(text):connect()
    assert.equal("1 1 1 1 hello 1", ask(c, "x"))
    for i = 2, 7 do
      commit(text, i)
      assert.equal(("%d %d %d %d hello %d"):format(i, i, i, i, i), ask(c, "x"))
    end
  end)

  it("that builds its protocols itself switches those whose class a module exports", function()
    local text = [[
      local talk = require "talk"
      return { listen = "tcp:127.0.0.1:0", protocol = {}, state = { n = 0 }, buildProtocol = function(self)
        self.state.n = self.state.n + 1
        local p = talk.Talk:new()
        p.factory, p.number = self, self.state.n
        return p
      end }
    ]]
    local module = [[
      local Talk = require("skald.protocol").Protocol {}
      function Talk:dataReceived() self.transport:write(("@ %d %d\n"):format(self.number, self.factory.state.n)) end
      return { Talk = Talk }
    ]]
    host.file("talk.lua", reload.version(module, 1))
    local h = serve(text)
    local a, b = h:connect(), h:connect()
    assert.equal("1 1 2", ask(a, "x"))
    reload.rewrite(reload.version(module, 2), "talk.lua")
    commit(text)
    assert.equal("2 1 2", ask(a, "x"))
    assert.equal("2 2 2", ask(b, "x"))
    assert.equal("2 3 3", ask(h:connect(), "x"))
  end)

  it("may get another protocol class, and its connections follow", function()
    local text = [[
      local Protocol = require("skald.protocol").Protocol
      local One = { dataReceived = function(self) self.transport:write "one @\n" end }
      local Two = Protocol { dataReceived = function(self) self.transport:write("two @ " .. tostring(self.x) .. "\n") end }
      function Two:connectionMade() self.x = "made" end
      return { listen = "tcp:127.0.0.1:0", protocol = @ == 1 and One or Two }
    ]]
    local h = serve(text)
    local c = h:connect()
    assert.equal("one 1", ask(c, "x"))
    commit(text)
    assert.equal("two 2 nil", ask(c, "x"))
    assert.equal("two 2 made", ask(h:connect(), "x"))
    commit(text, 3)
    assert.equal("two 3 nil", ask(c, "x"))
  end)

  it("that stays is neither stopped nor started, and hears reloaded with both generations", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end", [[
      startFactory = function() print "start @" end, stopFactory = function() print "stop @" end,
      reloaded = function(self, from, to) print("reloaded @", from, to, self.state.n) end, state = { n = 4 }
    ]])
    local h = serve(text)
    commit(text)
    assert.equal("reloaded 2\t1\t2\t4", h:line "^reloaded")
    assert.equal("2", ask(h:connect(), "who"))
    h:stop()
    assert.same({ 1, 0, 1 }, { printed(h, "start"), printed(h, "stop 1"), printed(h, "stop 2") })
    assert.equal(1, printed(h, "reloaded"))
  end)

  it("whose reloaded fails is reloaded all the same, and the failure is logged", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end", "reloaded = function() error 'too late' end")
    local h = serve(text)
    commit(text)
    h:waitLog "script%.lua:%d+: too late"
    assert.equal("2", ask(h:connect(), "who"))
  end)

  it("keeps its state where the new definition declares none", function()
    local text = commands([[
      function commands.n(self, t)
        local state = self.factory.state
        state.n = state.n + 1
        t:write(("@ %d\n"):format(state.n))
      end
    ]], "state = @ == 1 and { n = 0 } or nil")
    local c = serve(text):connect()
    assert.equal("1 1", ask(c, "n"))
    commit(text, 2)
    assert.equal("2 2", ask(c, "n"))
    commit(text, 3)
    assert.equal("3 3", ask(c, "n"))
  end)

  it("keeps what running code has stored in the class of its protocols, and takes the rest from the new class", function()
    local text = commands [[
      P.count, P.all, P.motto = 0, {}, "motto @"
      function commands.count(self, t)
        P.count = P.count + 1
        P.all[#P.all + 1] = P.count
        t:write(("@ %d %s %s\n"):format(self.count, table.concat(self.all, " "), self.motto))
      end
    ]]
    local c = serve(text):connect()
    assert.equal("1 1 1 motto 1", ask(c, "count"))
    assert.is_true(names(commit(text).kept, "all"))
    assert.equal("2 2 1 2 motto 2", ask(c, "count"))
    commit(text, 3)
    assert.equal("3 3 1 2 3 motto 3", ask(c, "count"))
  end)

  it("is asked by the old prepareReload, with the new definition", function()
    local text = commands("function commands.n(self, t) self.factory.state.n = 9; t:write 'ok\\n' end", [[
      motto = "motto @", state = { n = 0 },
      prepareReload = function(self, new) print("prepare @", self.state.n, self.motto, new.motto) end
    ]])
    local h = serve(text)
    assert.equal("ok", ask(h:connect(), "n"))
    commit(text)
    assert.equal("prepare 1\t9\tmotto 1\tmotto 2", h:line "^prepare")
    assert.equal(1, printed(h, "prepare"))
  end)

  it("keeps a bound that running code has set, and takes the new definition's where none has", function()
    local text = commands([[
      function P:connectionMade() self.transport:write "in\n" end
      function commands.set(self, t, rest) self.factory:setBound("maxConnections", tonumber(rest)); t:write "ok\n" end
    ]], "maxConnections = 3 - @")
    local h = serve(text)
    local a = h:connect()
    assert.equal("in", a:line())
    assert.equal("ok", ask(a, "set 3"))
    commit(text)
    assert.equal("in", h:connect():line())
    assert.equal("in", h:connect():line())
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
  end)

  it("keeps the options of the command line, and the endpoint that they gave", function()
    local _, path = unix "given"
    local text = [[
      local options = ...
      local service = require "skald.service"
      local P = { dataReceived = function(self)
        self.transport:write(("@ %s %s\n"):format(options.word, tostring(service.options.word == options.word)))
      end }
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local h = serve(text, { "word=hi", "listen=unix:" .. path })
    local c = h:connect()
    assert.equal("1 hi true", ask(c, "x"))
    local report = commit(text)
    assert.equal("2 hi true", ask(c, "x"))
    assert.equal("2 hi true", ask(h:connect(), "x"))
    assert.same({ {}, {} }, { report.endpoints.added, report.endpoints.removed })
  end)
end)

describe("service.persist", function()
  after_each(host.cleanup)

  it("keeps its value, and runs init once per name for the life of the service", function()
    local text = commands [[
      local service = require "skald.service"
      local function persist(name, value)
        return service.persist(name, function() print("init " .. name .. " @"); return value end)
      end
      local kept, never = persist("kept", { n = 0 }), persist("never", false)
      local late = @ > 1 and persist("late", { n = 10 })
      function commands.count(self, t)
        kept.n = kept.n + 1
        if late then late.n = late.n + 1 end
        t:write(("@ %d %s %s %s\n"):format(kept.n, tostring(never), tostring(late and late.n),
          tostring(persist("kept") == kept)))
      end
    ]]
    local h = serve(text)
    local c = h:connect()
    assert.equal("1 1 false false true", ask(c, "count"))
    commit(text)
    assert.equal("2 2 false 11 true", ask(c, "count"))
    commit(text, 3)
    assert.equal("3 3 false 12 true", ask(c, "count"))
    assert.equal(3, printed(h, "init "))
    for _, line in ipairs { "init kept 1", "init never 1", "init late 2" } do
      assert.equal(1, printed(h, line))
    end
  end)

  it("keeps the value of a name that a generation did not ask for", function()
    local text = commands [[
      local kept = @ ~= 2 and require("skald.service").persist("kept", function() return { made = "@" } end)
      function commands.look(self, t) t:write(("@ %s\n"):format(kept and kept.made or "none")) end
    ]]
    local c = serve(text):connect()
    commit(text, 2)
    assert.equal("2 none", ask(c, "look"))
    commit(text, 3)
    assert.equal("3 1", ask(c, "look"))
  end)
end)

describe("locals, globals and modules", function()
  after_each(host.cleanup)

  it("are fresh with each generation, what was changed in Lua's libraries too", function()
    local text = commands [[
      local counter = require "counter"
      counter.n = counter.n + 1
      total = (total or 0) + 1
      string.marked = (string.marked or 0) + 1
      local calls = 0
      function commands.count(self, t)
        calls, later = calls + 1, (later or 0) + 1
        t:write(("@ %d %d %d %d %d\n"):format(calls, later, total, counter.n, string.marked))
      end
    ]]
    host.file("counter.lua", "return { n = 0 }")
    local c = serve(text):connect()
    assert.equal("1 1 1 1 1 1", ask(c, "count"))
    assert.equal("1 2 2 1 1 1", ask(c, "count"))
    local report = commit(text)
    assert.equal("2 1 1 1 1 1", ask(c, "count"))
    assert.is_true(names(report.modules.changed, "script.lua"))
    assert.is_false(names(report.modules.changed, "counter.lua"))
  end)

  it("come from the new files where only a module of the script's folder has changed", function()
    host.file("words.lua", "return require 'deeper' .. ' words 1'")
    host.file("deeper.lua", "return 'deep 1'")
    local c = serve(commands "local w = require 'words' function commands.say(self, t) t:write(w .. '\\n') end"):connect()
    assert.equal("deep 1 words 1", ask(c, "say"))
    local path = reload.rewrite("return 'deep 2'", "deeper.lua")
    local report = reload.committed()
    assert.equal("deep 2 words 1", ask(c, "say"))
    assert.equal(1, #report.modules.changed)
    assert.truthy(report.modules.changed[1]:find("deeper.lua", 1, true), path)
  end)

  it("of modules that come or go are named by the report", function()
    host.file("one.lua", "return 'one'")
    host.file("two.lua", "return 'two'")
    local text = commands [[
      local word = require(@ == 1 and "one" or "two")
      function commands.say(self, t) t:write(word .. "\n") end
    ]]
    local c = serve(text):connect()
    assert.equal("one", ask(c, "say"))
    local modules = commit(text).modules
    assert.equal("two", ask(c, "say"))
    assert.is_true(names(modules.added, "two.lua"))
    assert.is_true(names(modules.removed, "one.lua"))
    assert.is_true(names(modules.changed, "script.lua"))
    reload.rewrite("return 'one, but nobody asks'", "one.lua")
    assert.equal("unchanged", reload.run().result)
    reload.rewrite("return 'two again'", "two.lua")
    reload.committed()
    assert.equal("two again", ask(c, "say"))
  end)

  it("of one file are loaded once, by whatever names it is required", function()
    host.file("real.lua", "print 'loaded real' return { n = 0 }")
    process.run { "ln", "-s", "real.lua", host.folder() .. "/alias.lua" }
    local text = commands [[
      local a, b = require "real", require "alias"
      function commands.same(self, t) t:write(("@ %s\n"):format(tostring(a == b))) end
    ]]
    local h = serve(text)
    assert.equal("1 true", ask(h:connect(), "same"))
    commit(text)
    assert.equal("2 true", ask(h:connect(), "same"))
    assert.equal(2, printed(h, "loaded real"))
  end)

  it("from outside the service's folder are shared and never reloaded", function()
    local folder = host.folder()
    process.run { "mkdir", folder .. "/own", folder .. "/lib" }
    host.file("lib/outside.lua", "print 'loaded outside' return { n = 0, word = 'first' }")
    local text = commands [[
      local outside = require "outside"
      outside.n = outside.n + 1
      function commands.look(self, t) t:write(("@ %d %s\n"):format(outside.n, outside.word)) end
    ]]
    local script = host.file("own/script.lua", reload.version(text, 1))
    local h = host.run { script, env = { LUA_PATH = folder .. "/lib/?.lua;;" } }
    local c = h:connect()
    assert.equal("1 1 first", ask(c, "look"))
    reload.rewrite("print 'loaded outside' return { n = 0, word = 'second' }", "lib/outside.lua")
    assert.equal("unchanged", reload.run().result)
    reload.rewrite(reload.version(text, 2), "own/script.lua")
    reload.committed()
    assert.equal("2 2 first", ask(c, "look"))
    assert.equal(1, printed(h, "loaded outside"))
  end)

  it("stay where nothing has changed, unless the reload is forced", function()
    local text = commands [[
      print "loading"
      function commands.who(self, t) t:write "@\n" end
    ]]
    local h = serve(text)
    local report, status = reload.run()
    assert.same({ "unchanged", 0, 1 }, { report.result, status, report.generation })
    reload.rewrite(reload.version(text, 1))
    assert.equal("unchanged", reload.run().result)
    assert.equal(1, printed(h, "loading"))
    assert.equal(2, reload.committed("--force").generation)
    assert.equal(2, printed(h, "loading"))
  end)
end)

describe("a listening socket", function()
  after_each(host.cleanup)

  it("whose endpoint is unchanged stays the same descriptor of the same socket", function()
    local text = commands "function commands.who(self, t) t:write '@\\n' end"
    local h = serve(text)
    local before = reload.socket(h)
    local report = commit(text)
    assert.equal(before, reload.socket(h))
    assert.equal("2", ask(h:connect(), "who"))
    assert.is_true(names(report.endpoints.kept, ":" .. h.port))
    assert.same({ {}, {} }, { report.endpoints.added, report.endpoints.removed })
    assert.equal(1, printed(h, "listening"))
  end)

  it("stays where only the spelling of its endpoint has changed", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end")
      :gsub('"tcp:127.0.0.1:0"', '@ == 1 and "tcp:127.0.0.1:0" or { "tcp:0:interface=127.0.0.1:backlog=50" }')
    local h = serve(text)
    local before = reload.socket(h)
    local report = commit(text)
    assert.same({ {}, {} }, { report.endpoints.added, report.endpoints.removed })
    assert.equal(before, reload.socket(h))
    assert.equal("2", ask(h:connect(), "who"))
  end)

  it("of a Unix path gets the mode that is new, and keeps it where the reload is refused", function()
    local endpoint, path = unix "moded"
    local text = commands("", "state = {}, version = @ == 3 and 3 or 1, migrate = function() error 'refused' end")
      :gsub('"tcp:127.0.0.1:0"', ('"%s:mode=" .. ({ 600, 660, 666, 606 })[@]'):format(endpoint))
    local h = serve(text)
    local function mode()
      local _, out = process.run { "stat", "-c", "%a", path }
      return (out:gsub("\n", ""))
    end
    assert.equal("600", mode())
    commit(text, 2)
    assert.equal("660", mode())
    assert.equal("prepare", reload.refuse(text, 3).errors[1].phase)
    assert.equal("660", mode())
    assert.same({ endpoint }, commit(text, 4).endpoints.kept)
    assert.equal("606", mode())
    assert.equal(1, printed(h, "listening"))
  end)

  it("keeps those who wait to be accepted while the new code loads, for the new code", function()
    local text = commands(reload.gate() .. [[
      function P:connectionMade() self.transport:write "made @\n" end
      function commands.who(self, t) t:write "@\n" end
      if @ == 2 then gate "load" end
    ]])
    local h = serve(text)
    assert.equal("made 1", h:connect():line())
    reload.rewrite(reload.version(text, 2))
    local finish = reload.start()
    h:line "^waiting at load"
    local list = {}
    for i = 1, 20 do
      list[i] = h:connect():send "who"
    end
    reload.open "load"
    reload.expect("committed", finish())
    for _, c in ipairs(list) do
      assert.equal("made 2", c:line())
      assert.equal("2", c:line())
    end
    assert.equal(21, reload.status().connections)
  end)

  it("that is new is announced and serves, beside the one that was there", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end", "")
      :gsub('listen = "tcp:127.0.0.1:0"', ('listen = @ == 1 and "%s" or { "%s", "%s" }'):format(unix "a", unix "a", unix "b"))
    local h = serve(text)
    local a = h:connect()
    assert.equal("1", ask(a, "who"))
    local report = commit(text)
    assert.equal("script", h:line("^listening " .. unix("b"):gsub("%p", "%%%0") .. " (.*)"))
    assert.equal("2", ask(reload.connect "b", "who"))
    assert.equal("2", ask(a, "who"))
    assert.same({ { (unix "a") }, { (unix "b") }, {} },
      { report.endpoints.kept, report.endpoints.added, report.endpoints.removed })
    assert.same({ (unix "a"), (unix "b") }, reload.status().endpoints)
  end)

  it("that is new is bound before migrate runs, so that nothing can fail after that", function()
    local _, path = unix "b"
    local text = commands("", ([[
      state = {}, version = @, migrate = function() print((select(2, io.open "%s"))) end
    ]]):format(path)):gsub('listen = "tcp:127.0.0.1:0"',
      ('listen = @ == 1 and "%s" or { "%s", "%s" }'):format(unix "a", unix "a", unix "b"))
    local h = serve(text)
    commit(text)
    assert.truthy(h:line():find "No such device or address$") -- what open says of a socket
    assert.equal("listening " .. unix "b" .. " script", h:line())
  end)

  it("that is removed takes who is in its queue, then closes, and all its connections live on", function()
    local text = commands(reload.gate() .. [[
      function commands.who(self, t) t:write "@\n" end
      if @ == 2 then gate "load" end
    ]], ""):gsub('listen = "tcp:127.0.0.1:0"',
      ('listen = @ == 1 and { "%s", "%s" } or "%s"'):format(unix "a", unix "b", unix "a"))
    local h = serve(text, { listening = 2 })
    local before = reload.connect "b"
    assert.equal("1", ask(before, "who"))
    reload.rewrite(reload.version(text, 2))
    local finish = reload.start()
    h:line "^waiting at load"
    local waiting = {}
    for i = 1, 10 do
      waiting[i] = reload.connect "b"
    end
    reload.open "load"
    local report = reload.expect("committed", finish())
    assert.same({ (unix "b") }, report.endpoints.removed)
    for _, c in ipairs(waiting) do
      assert.equal("2", ask(c, "who"))
    end
    assert.equal("2", ask(before, "who"))
    assert.equal("2", ask(reload.connect "a", "who"))
    local _, path = unix "b"
    local late, code = client.tryUnix(path)
    assert.is_nil(late)
    assert.truthy(code == "ENOENT" or code == "ECONNREFUSED", code)
    assert.equal(12, reload.status().connections)
  end)

  it("asked for with listenTCP while the script loads is adopted, with its factory", function()
    local text = [[
      local reactor = require "skald.reactor"
      local Factory = require("skald.protocol").Factory
      local P = {}
      function P:dataReceived()
        local state = self.factory.state
        state.n, self.factory.hits = state.n + 1, (self.factory.hits or 0) + 1
        self.transport:write(("@ %d %d\n"):format(state.n, self.factory.hits))
      end
      local factory = Factory { protocol = P, state = { n = 0 } }:new()
      local port = reactor.listenTCP(0, factory, { interface = "127.0.0.1" })
      print("port @ " .. port:getHost().port)
    ]]
    local h = serve(text)
    assert.equal(1, printed(h, "port 1 " .. h.port .. "\n"))
    local before, c = reload.socket(h), h:connect()
    assert.equal("1 1 1", ask(c, "x"))
    commit(text)
    assert.equal(1, printed(h, "port 2 " .. h.port .. "\n"))
    assert.equal(before, reload.socket(h))
    assert.equal("2 2 2", ask(c, "x"))
    assert.equal("2 3 3", ask(h:connect(), "x"))
    assert.equal(1, printed(h, "listening"))
  end)

  it("asked for with listenTCP serves the living factory, and so does what the new script holds of its own", function()
    local text = [[
      local reactor = require "skald.reactor"
      local factory = require("skald.protocol").Factory { state = { n = 0 }, hits = 0 }:new()
      factory.protocol = { dataReceived = function(self)
        factory.state.n, factory.hits = factory.state.n + 1, factory.hits + 1
        self.transport:write(("@ %d %d %d\n"):format(self.factory.state.n, self.factory.hits, factory:connectionCount()))
      end }
      reactor.listenTCP(0, factory, { interface = "127.0.0.1" })
    ]]
    local c = serve(text):connect()
    assert.equal("1 1 1 1", ask(c, "x"))
    commit(text, 2)
    assert.equal("2 2 2 1", ask(c, "x"))
    commit(text, 3)
    assert.equal("3 3 3 1", ask(c, "x"))
  end)

  it("that running code has opened belongs to nobody's load and stays", function()
    local text = commands(([[
      local reactor = require "skald.reactor"
      function commands.who(self, t) t:write "@\n" end
      function commands.open(self, t) reactor.listenUNIX("%s", self.factory); t:write "ok\n" end
    ]]):format(select(2, unix "late")))
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "open"))
    local late = reload.connect "late"
    assert.equal("1", ask(late, "who"))
    commit(text)
    assert.equal("2", ask(late, "who"))
    assert.equal("2", ask(reload.connect "late", "who"))
  end)
end)

describe("what a connection has started", function()
  after_each(host.cleanup)

  it("a timer runs once, in the old code, and the methods that it calls are the new ones", function()
    local text = commands [[
      local reactor = require "skald.reactor"
      function P:word() return "method @" end
      function commands.start(self, t)
        self.timer = reactor.callLater(1000, function(argument)
          self.runs = (self.runs or 0) + 1
          t:write(("function @, %s, %s\n"):format(self:word(), argument))
          self.timer = reactor.callLater(1000, function() t:write(("then @, %s\n"):format(self:word())) end)
        end, "argument @")
        t:write "ok\n"
      end
      function commands.fire(self, t) self.timer:reset(0) end
      function commands.runs(self, t) t:write(self.runs .. "\n") end
    ]]
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "start"))
    local report = commit(text)
    assert.same({ 0, 1 }, { report.timers.ended, report.timers.left })
    assert.equal("function 1, method 2, argument 1", ask(c, "fire"))
    commit(text, 3)
    assert.equal("then 1, method 3", ask(c, "fire"))
    assert.equal("1", ask(c, "runs"))
  end)

  it("a coroutine goes on where it was, in the old code, and the methods that it calls are the new ones", function()
    local text = commands [[
      function P:word() return "method @" end
      function commands.start(self, t)
        self.step = coroutine.wrap(function()
          for i = 1, 3 do
            t:write(("step %d @, %s\n"):format(i, self:word()))
            coroutine.yield()
          end
          t:write "end @\n"
        end)
        self.step()
      end
      function commands.step(self, t) self.step() end
    ]]
    local c = serve(text):connect()
    assert.equal("step 1 1, method 1", ask(c, "start"))
    commit(text, 2)
    assert.equal("step 2 1, method 2", ask(c, "step"))
    commit(text, 3)
    assert.equal("step 3 1, method 3", ask(c, "step"))
    assert.equal("end 1", ask(c, "step"))
  end)
end)

describe("what a load has started", function()
  after_each(host.cleanup)

  local starts = {
    ["a timer that starts itself again"] = [[
      local function tick()
        n = n + 1
        print("tick @", n)
        reactor.callLater(0.002, tick)
      end
      reactor.callLater(0.002, tick)
    ]],
    ["a coroutine that sleeps"] = [[
      local routine
      routine = coroutine.wrap(function()
        while true do
          reactor.callLater(0.002, routine)
          coroutine.yield()
          n = n + 1
          print("tick @", n)
        end
      end)
      routine()
    ]],
    ["a loop begun by callWhenRunning"] = [[
      local function tick()
        n = n + 1
        print("tick @", n)
        reactor.callLater(0.002, tick)
      end
      reactor.callWhenRunning(tick)
    ]],
  }

  for what, start in pairs(starts) do
    it(what .. " ends with its generation, and the new one starts its own", function()
      local text = commands("local reactor = require 'skald.reactor'\nlocal n = 0\n" .. start)
      local h = serve(text)
      h:line "^tick 1\t3"
      assert.equal(1, commit(text).timers.ended)
      h:line "^tick 2\t10$"
      local after = h:output():match "\n(tick 2.*)"
      assert.falsy(after:find("tick 1", 1, true), after)
      local want = 0
      for n in after:gmatch "tick 2\t(%d+)" do
        want = want + 1
        assert.equal(want, tonumber(n))
      end
      commit(text, 3)
      h:line "^tick 3\t10$"
      assert.falsy(h:output():match("\n(tick 3.*)"):find("tick 2", 1, true))
    end)
  end

  it("a timer that is cancelled or asked while its script loads answers as ever, and runs once", function()
    local text = commands [[
      local reactor = require "skald.reactor"
      local never = reactor.callLater(0, print, "never @")
      print("cancel @", never:active(), never:cancel(), never:active())
      local moved = reactor.callLater(1000, print, "moved @")
      moved:reset(0)
      print("active @", moved:active())
      reactor.callLater(0.01, print, "last @")
    ]]
    local h = serve(text)
    h:line "^last 1"
    commit(text)
    h:line "^last 2"
    for i = 1, 2 do
      assert.equal(1, printed(h, ("cancel %d\ttrue\ttrue\tfalse\n"):format(i)))
      assert.equal(1, printed(h, ("active %d\ttrue\n"):format(i)))
      assert.equal(1, printed(h, ("moved %d\n"):format(i)))
      assert.equal(1, printed(h, ("last %d\n"):format(i)))
    end
    assert.equal(0, printed(h, "never"))
  end)

  it("a call of callWhenRunning runs once for each generation, after the commit", function()
    local text = commands([[
      local reactor = require "skald.reactor"
      reactor.callWhenRunning(function(a) print("running @", a) end, "argument")
    ]], "reloaded = function() print 'reloaded @' end, startFactory = function() print 'start @' end")
    local h = serve(text)
    h:line "^running 1\targument"
    commit(text)
    h:line "^running 2\targument"
    assert.equal(2, printed(h, "running"))
  end)

  it("onDispose is called when its generation ends, and a failure in it is only logged", function()
    local text = commands [[
      local service = require "skald.service"
      service.onDispose(function() error "no good end" end)
      service.onDispose(function() print "dispose @" end)
      function commands.who(self, t) t:write "@\n" end
    ]]
    local h = serve(text)
    local c = h:connect()
    commit(text)
    h:line "^dispose 1"
    h:waitLog "script%.lua:%d+: no good end"
    assert.equal(1, h:logged "no good end")
    assert.equal("2", ask(c, "who"))
    assert.equal(0, printed(h, "dispose 2"))
    h:stop()
    assert.same({ 1, 1 }, { printed(h, "dispose 1"), printed(h, "dispose 2") })
  end)
end)

describe("what startFactory has started", function()
  after_each(host.cleanup)

  it("goes on across reloads, once, until the factory is stopped", function()
    local text = [[
      local reactor = require "skald.reactor"
      local function definition(name)
        return {
          name = name, listen = "tcp:127.0.0.1:0", protocol = {},
          beat = function(self) self.n = (self.n or 0) + 1; print("beat " .. name .. " @", self.n) end,
          startFactory = function(self)
            print("start " .. name)
            local function tick()
              self:beat()
              reactor.callLater(0.002, tick)
            end
            tick()
          end,
          stopFactory = function() print("stop " .. name .. " @") end,
        }
      end
      return @ < 3 and { definition "one", definition "two" } or { definition "one" }
    ]]
    local h = serve(text, { listening = 2 })
    h:line "^beat two 1\t3$"
    assert.equal(0, commit(text).timers.ended)
    h:line "^beat two 2"
    h:line "^beat one 2"
    commit(text, 3)
    h:line "^stop two"
    for _ = 1, 10 do
      h:line "^beat one 3"
    end
    local stopped = h:output():match "stop two.*"
    assert.falsy(stopped:find("beat two", 1, true), stopped)
    local want = 0
    for n in h:output():gmatch "beat one %d\t(%d+)" do
      want = want + 1
      assert.equal(want, tonumber(n))
    end
    h:stop()
    assert.same({ 1, 1, 1, 1 },
      { printed(h, "start one"), printed(h, "start two"), printed(h, "stop one"), printed(h, "stop two") })
  end)
end)

-- A script of several factories: each argument is the text of a definition's fields.
local function definitions(...)
  return ([[
    local P = {}
    function P:dataReceived()
      local state = self.factory.state
      state.n = state.n + 1
      self.transport:write(("%s %d\n"):format(self.factory.tag, state.n))
    end
    local function definition(fields)
      fields.protocol, fields.state = P, { n = 0 }
      fields.startFactory = function() print("start " .. fields.tag) end
      fields.stopFactory = function() print("stop " .. fields.tag) end
      return fields
    end
    return { definition { ]]) .. table.concat({ ... }, " }, definition { ") .. " } }"
end

-- `listen` for the Unix endpoints of these names.
local function at(...)
  local list = {}
  for i, name in ipairs { ... } do
    list[i] = ("%q"):format((unix(name)))
  end
  return ("listen = { %s }, "):format(table.concat(list, ", "))
end

describe("factories are matched", function()
  after_each(host.cleanup)

  -- Serves one list of definitions, talks n times to the nth endpoint, and reloads with the other list.
  local function replaced(before, after, endpoints)
    local h = serve(definitions(unpack(before)), { listening = #endpoints })
    local list = {}
    for i, name in ipairs(endpoints) do
      list[i] = reload.connect(name)
      for _ = 1, i * 10 do
        ask(list[i], "x")
      end
    end
    reload.rewrite(definitions(unpack(after)))
    return h, list
  end

  it("by their names, in whatever order they come", function()
    local h, list = replaced(
      { at "a" .. "name = 'one', tag = 'one 1'", at "b" .. "name = 'two', tag = 'two 1'" },
      { at "b" .. "name = 'two', tag = 'two 2'", at "a" .. "name = 'one', tag = 'one 2'" }, { "a", "b" })
    reload.committed()
    assert.equal("one 2 11", ask(list[1], "x"))
    assert.equal("two 2 21", ask(list[2], "x"))
    assert.equal("two 2 22", ask(reload.connect "b", "x"))
    assert.same({ 2, 0 }, { printed(h, "start"), printed(h, "stop") })
  end)

  it("by their names even where they change places", function()
    local _, list = replaced(
      { at "a" .. "name = 'one', tag = 'one 1'", at "b" .. "name = 'two', tag = 'two 1'" },
      { at "b" .. "name = 'one', tag = 'one 2'", at "a" .. "name = 'two', tag = 'two 2'" }, { "a", "b" })
    reload.committed()
    assert.equal("one 2 11", ask(list[1], "x"))
    assert.equal("two 2 21", ask(list[2], "x"))
    assert.equal("one 2 12", ask(reload.connect "b", "x"))
    assert.equal("two 2 22", ask(reload.connect "a", "x"))
  end)

  it("by their endpoints where they have no names", function()
    local h, list = replaced({ at "a" .. "tag = 'a 1'", at("b", "c") .. "tag = 'b 1'" },
      { at("c", "d") .. "tag = 'b 2'", at "a" .. "tag = 'a 2'" }, { "a", "b", "c" })
    reload.committed()
    assert.equal("a 2 11", ask(list[1], "x"))
    assert.equal("b 2 51", ask(list[2], "x"))
    assert.equal("b 2 52", ask(list[3], "x"))
    assert.equal("b 2 53", ask(reload.connect "d", "x"))
    assert.same({ 2, 0 }, { printed(h, "start"), printed(h, "stop") })
  end)

  it("by their positions where neither names nor endpoints tell", function()
    local h, list = replaced({ at "a" .. "tag = 'a 1'", at "b" .. "tag = 'b 1'" },
      { at "c" .. "tag = 'a 2'", at "d" .. "tag = 'b 2'" }, { "a", "b" })
    reload.committed()
    assert.equal("a 2 11", ask(list[1], "x"))
    assert.equal("b 2 21", ask(list[2], "x"))
    assert.equal("a 2 12", ask(reload.connect "c", "x"))
    assert.equal("b 2 22", ask(reload.connect "d", "x"))
    assert.same({ 2, 0 }, { printed(h, "start"), printed(h, "stop") })
  end)

  it("by their positions where all of them ask for any port", function()
    local text = definitions("listen = 'tcp:127.0.0.1:0', tag = 'a @'", "listen = 'tcp:127.0.0.1:0', tag = 'b @'")
    local h = serve(text, { listening = 2 })
    local a, b = h:connect(nil, 1), h:connect(nil, 2)
    assert.equal("a 1 1", ask(a, "x"))
    assert.equal("b 1 1", ask(b, "x"))
    commit(text)
    assert.equal("a 2 2", ask(a, "x"))
    assert.equal("b 2 2", ask(b, "x"))
    assert.equal("a 2 3", ask(h:connect(nil, 1), "x"))
    assert.equal("b 2 3", ask(h:connect(nil, 2), "x"))
  end)

  it("and one that is new starts, one that is gone stops while its connections live on", function()
    local h, list = replaced(
      { at "a" .. "name = 'one', tag = 'one 1'", at "b" .. "name = 'two', tag = 'two 1'" },
      { at "a" .. "name = 'one', tag = 'one 2'", at "c" .. "name = 'three', tag = 'three 2'" }, { "a", "b" })
    reload.committed()
    assert.equal("one 2 11", ask(list[1], "x"))
    assert.equal("two 1 21", ask(list[2], "x"))
    assert.equal("three 2 1", ask(reload.connect "c", "x"))
    assert.is_nil((client.tryUnix(select(2, unix "b"))))
    h:stop()
    for _, name in ipairs { "one", "two", "three" } do
      assert.same({ 1, 1 }, { printed(h, "start " .. name), printed(h, "stop " .. name) })
    end
  end)

  -- Old lists and new ones that leave it open which is which.
  local riddles = {
    ["one that has the endpoints of two"] = {
      function() return at "a" .. "tag = 'a'", at "b" .. "tag = 'b'" end,
      function() return at("a", "b") .. "tag = 'both'", at "c" .. "tag = 'c'" end,
    },
    ["two that share the endpoints of one"] = {
      function() return at("a", "b") .. "tag = 'both'", at "c" .. "tag = 'c'" end,
      function() return at "a" .. "tag = 'a'", at "b" .. "tag = 'b'" end,
    },
    ["fewer without names, some at new endpoints"] = {
      function() return at "a" .. "tag = 'a'", at "b" .. "tag = 'b'", at "c" .. "tag = 'c'" end,
      function() return at "b" .. "tag = 'b'", at "d" .. "tag = 'd'" end,
    },
  }

  for what, riddle in pairs(riddles) do
    it("only if it is clear how: refused is " .. what, function()
      local before, after = { riddle[1]() }, { riddle[2]() }
      serve(definitions(unpack(before)))
      local c = reload.connect "b"
      local answer = ask(c, "x")
      reload.rewrite(definitions(unpack(after)))
      local report = reload.refused()
      assert.truthy(report.errors[1].message:find "name", report.errors[1].message)
      assert.equal(answer:gsub("1$", "2"), ask(c, "x"))
    end)
  end
end)

describe("objects held in state", function()
  after_each(host.cleanup)

  -- Ways by which a class of one generation is found again in the next.
  local ways = {
    ["by a name of its own"] = { script = [[
      local Room = require("skald.class") "Room"
      function Room:word() return "room @" end
    ]] },
    ["by a name of its own, in a module"] = { script = "local Room = require 'rooms'", module = [[
      local Room = require("skald.class") "Room"
      function Room:word() return "room @" end
      return Room
    ]] },
    ["by the field that a module exports"] = { script = "local Room = require('rooms').Room", module = [[
      local Room = require("skald.class").Object {}
      function Room:word() return "room @" end
      return { Room = Room, other = 12 }
    ]] },
    ["as what a module returns"] = { script = "local Room = require 'rooms'", module = [[
      local Room = require("skald.class").Object {}
      function Room:word() return "room @" end
      return Room
    ]] },
  }

  local use = [[
    function commands.make(self, t)
      self.factory.state.room = Room:new()
      self.factory.state.room.x = 5
      t:write "ok\n"
    end
    function commands.look(self, t)
      local room = self.factory.state.room
      local is = require("skald.class").of(room) == Room
      t:write(("@ %s %d %s\n"):format(room:word(), room.x, tostring(is)))
    end
  ]]

  for way, text in pairs(ways) do
    it("get the new methods where their class is known " .. way, function()
      local script = commands(text.script .. "\n" .. use, "state = {}")
      local function module(n)
        if text.module then
          reload.rewrite(reload.version(text.module, n), "rooms.lua")
        end
      end
      module(1)
      local c = serve(script):connect()
      assert.equal("ok", ask(c, "make"))
      assert.equal("1 room 1 5 true", ask(c, "look"))
      module(2)
      local report = commit(script)
      assert.equal("2 room 2 5 true", ask(c, "look"))
      assert.is_false(names(report.classes.stayed, "oom"), table.concat(report.classes.stayed, " "))
      assert.is_true(names(report.classes.switched, "oom"), table.concat(report.classes.switched, " "))
      module(3)
      commit(script, 3)
      assert.equal("3 room 3 5 true", ask(c, "look"))
    end)
  end

  it("keep their class where it has no successor, and the report lists it", function()
    local text = commands([[
      local class = require "skald.class"
      local Room = class(@ == 1 and "Old" or "New")
      function Room:word() return "room @" end
    ]] .. use, "state = {}")
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "make"))
    local report = commit(text)
    assert.equal("2 room 1 5 false", ask(c, "look"))
    assert.is_true(names(report.classes.stayed, "Old"))
    assert.is_false(names(report.classes.switched, "Old"))
    assert.is_false(names(report.classes.stayed, "New"))
  end)

  it("of a class that was gone for a generation follow it again when it is back", function()
    local text = commands([[
      local class = require "skald.class"
      local Room = class(@ == 2 and "Slip" or "Room")
      function Room:word() return "room @" end
    ]] .. use, "state = {}")
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "make"))
    commit(text, 2)
    assert.equal("2 room 1 5 false", ask(c, "look"))
    commit(text, 3)
    assert.equal("3 room 3 5 true", ask(c, "look"))
  end)

  it("get the new methods of a class from a module that only running code requires", function()
    local module = [[
      local Room = require("skald.class").Object {}
      function Room:word() return "room @" end
      return Room
    ]]
    host.file("rooms.lua", reload.version(module, 1))
    local c = serve(commands([[
      function commands.make(self, t) self.factory.state.room = require("rooms"):new(); t:write "ok\n" end
      function commands.look(self, t) t:write(self.factory.state.room:word() .. "\n") end
    ]], "state = {}")):connect()
    assert.equal("ok", ask(c, "make"))
    assert.equal("room 1", ask(c, "look"))
    reload.rewrite(reload.version(module, 2), "rooms.lua")
    assert.is_true(names(reload.committed().modules.changed, "rooms.lua"))
    assert.equal("room 2", ask(c, "look"))
    reload.rewrite("local = 3", "rooms.lua")
    assert.equal("compile", reload.refused().errors[1].phase)
    assert.equal("room 2", ask(c, "look"))
  end)

  it("fall back to the new base class where a method has vanished, never to the stale one", function()
    local text = [[
      local Protocol = require("skald.protocol").Protocol
      local Base = Protocol { word = function() return "base @" end, own = function() return "own @" end }
      local P = Base {}
      if @ == 1 then
        function P:word() return "derived @" end
        function P:vanished() end
      end
      function P:dataReceived()
        self.transport:write(("%s, %s, %s\n"):format(self:word(), self:own(), tostring(self.vanished)))
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = serve(text):connect()
    assert.truthy(ask(c, "x"):find "^derived 1, own 1, function")
    commit(text)
    assert.equal("base 2, own 2, nil", ask(c, "x"))
  end)

  it("get the new methods of a base class where only the module of that has changed", function()
    local base = "return require('skald.class').Object { word = function() return 'base @' end }"
    host.file("base.lua", reload.version(base, 1))
    host.file("leaf.lua", "return require 'base' {}")
    local c = serve(commands([[
      local Leaf = require "leaf"
      function commands.make(self, t) self.factory.state.leaf = Leaf:new(); t:write "ok\n" end
      function commands.look(self, t) t:write(self.factory.state.leaf:word() .. "\n") end
    ]], "state = {}")):connect()
    assert.equal("ok", ask(c, "make"))
    assert.equal("base 1", ask(c, "look"))
    reload.rewrite(reload.version(base, 2), "base.lua")
    reload.committed()
    assert.equal("base 2", ask(c, "look"))
  end)

  it("get the new metamethods, and lose those that have vanished", function()
    local text = commands([[
      local Money = require("skald.class") "Money"
      if @ < 3 then
        function Money:__tostring() return self.n .. " coins @" end
        function Money.__add(a, b) return a.n + b.n + @ * 100 end
      end
      function commands.make(self, t)
        self.factory.state.a, self.factory.state.b = Money:new(), Money:new()
        self.factory.state.a.n, self.factory.state.b.n = 3, 4
        t:write "ok\n"
      end
      function commands.look(self, t)
        local s = self.factory.state
        local can, sum = pcall(function() return s.a + s.b end)
        t:write(("%s, %s\n"):format(tostring(s.a), can and sum or "no sum"))
      end
    ]], "state = {}")
    local c = serve(text):connect()
    assert.equal("ok", ask(c, "make"))
    assert.equal("3 coins 1, 107", ask(c, "look"))
    commit(text, 2)
    assert.equal("3 coins 2, 207", ask(c, "look"))
    commit(text, 3)
    assert.truthy(ask(c, "look"):find "^table: %S+, no sum$")
    commit(text:gsub("@ < 3", "true"), 4)
    assert.equal("3 coins 4, 407", ask(c, "look"))
  end)

  it("are seen anew by old code that is compiled and hot", function()
    local text = commands [[
      function P:word() return @ end
      function commands.start(self, t)
        self.spin = coroutine.wrap(function()
          while true do
            local sum = 0
            for _ = 1, 200000 do sum = sum + self:word() end
            coroutine.yield(sum)
          end
        end)
        t:write(self.spin() .. "\n")
      end
      function commands.spin(self, t) t:write(self.spin() .. "\n") end
    ]]
    local c = serve(text):connect()
    assert.equal("200000", ask(c, "start"))
    assert.equal("200000", ask(c, "spin"))
    commit(text)
    assert.equal("400000", ask(c, "spin"))
    commit(text, 3)
    assert.equal("600000", ask(c, "spin"))
  end)
end)

describe("the old generation", function()
  after_each(host.cleanup)

  it("is freed, be it ever so hot and compiled", function()
    local text = commands [[
      local module = require "module"
      function commands.say(self, t, rest) t:write(module.line(rest) .. "@\n") end
    ]]
    host.file("module.lua", "return { line = function(text) return text .. ' by ' end }")
    local h = serve(text)
    local c = h:connect()
    for i = 2, 5 do
      for n = 1, 300 do
        assert.equal(("%d by %d"):format(n, i - 1), ask(c, "say " .. n))
      end
      commit(text, i)
      reload.awaitOld(h)
    end
  end)

  it("is freed, and as long as a timer holds it the status says so", function()
    local text = commands [[
      local reactor = require "skald.reactor"
      function commands.start(self, t)
        self.timer = reactor.callLater(1000, function() t:write "fired @\n" end)
        t:write "ok\n"
      end
      function commands.fire(self, t) self.timer:reset(0); self.timer = nil end
    ]]
    local h = serve(text)
    local c = h:connect()
    assert.equal("ok", ask(c, "start"))
    commit(text)
    local old = reload.old(h)
    assert.same({ 1, 1, 1 }, { #old, old[1].generation, old[1].timers })
    commit(text, 3)
    assert.equal(1, reload.awaitOld(h, 1)[1].generation)
    assert.equal("fired 1", ask(c, "fire"))
    reload.awaitOld(h)
  end)
end)

describe("the report of a reload", function()
  after_each(host.cleanup)

  it("says what was done, how long it took and what of the old is left", function()
    local text = commands [[
      function commands.who(self, t) t:write "@\n" end
    ]]
    local h = serve(text)
    h:connect():send("who"):line()
    local report = commit(text)
    assert.same({ "script", 1, 2, 1 }, { report.service, report.from, report.generation, report.instances })
    assert.same({ {}, {} }, { report.warnings, report.errors })
    assert.is_true(report.pause_us > 0 and report.stall_us >= report.pause_us, "the pause is not measured")
    for _, phase in ipairs { "snapshot", "compile", "load", "check", "prepare", "commit", "retire" } do
      assert.equal("number", type(report.phases[phase]), phase)
    end
    h:waitLog "reload script: generation 1 %-> 2"
    assert.equal("committed", reload.status().lastReload.result)
  end)
end)

describe("a listening socket that was given a port", function()
  after_each(host.cleanup)

  it("stays when the script comes to ask for just that port, and is asked for by it from then on", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end")
    local h = serve(text)
    local before = reload.socket(h)
    local pinned = text:gsub('"tcp:127.0.0.1:0"', ('"tcp:127.0.0.1:%d"'):format(h.port))
    for n = 2, 3 do
      local report = commit(pinned, n)
      assert.same({ {}, {} }, { report.endpoints.added, report.endpoints.removed })
      assert.equal(before, reload.socket(h))
    end
    assert.equal("3", ask(h:connect(), "who"))
  end)

  it("in the way of a wider endpoint is named, with the way out", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end")
    local h = serve(text)
    local wider = text:gsub('"tcp:127.0.0.1:0"', ('"tcp:%d"'):format(h.port))
    local message = reload.refuse(wider, 2).errors[1].message
    assert.truthy(message:find(("the service itself listens on tcp:127.0.0.1:%d"):format(h.port), 1, true), message)
  end)
end)
