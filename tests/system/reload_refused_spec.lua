-- A reload that is refused, in whichever phase, leaves the running service as it was.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"
local reload = require "support.reload"

local lineOf = host.lineOf
local names, unix = reload.names, reload.unix

-- A service that shows whatever a refused load leaves behind. `text` goes behind its own, `extra` into its definition.
local function service(text, extra)
  return host.commands([[
    local reactor = require "skald.reactor"
    local service = require "skald.service"
    local ticks = 0
    local function tick()
      ticks = ticks + 1
      reactor.callLater(0.002, tick)
    end
    reactor.callLater(0, tick)
    reactor.callLater(0, print, "timer @")
    reactor.callWhenRunning(print, "running @")
    service.onDispose(function() print "dispose @" end)
    function P:connectionMade() print "made @" end
    function P:reloaded() print "protocol reloaded @" end
    function commands.count(self, t)
      local state = self.factory.state
      self.n, state.n, state.list[#state.list + 1] = (self.n or 0) + 1, state.n + 1, "item"
      t:write(("@ %d %d %d\n"):format(self.n, state.n, #state.list))
    end
    function commands.ticks(self, t)
      local from = ticks
      local function look()
        if ticks >= from + 3 then t:write "ticks @\n" else reactor.callLater(0.001, look) end
      end
      look()
    end
  ]] .. (text or ""), [[
    state = { n = 0, list = {} },
    startFactory = function() print "start @" end, stopFactory = function() print "stop @" end,
    reloaded = function() print "factory reloaded @" end,
  ]] .. (extra or ""))
end

-- Serves version 1 of a text; `check` raises unless that still runs as if nothing had been tried since.
local function untouched(text)
  local h = reload.serve(text)
  local c, n, connections = h:connect(), 0, 1
  local socket = reload.socket(h)
  local self = { h = h, c = c }
  function self.check()
    n = n + 1
    assert.equal(("1 %d %d %d"):format(n, n, n), c:send("count"):line())
    local fresh = h:connect()
    connections = connections + 1
    assert.equal("ticks 1", fresh:send("ticks"):line())
    assert.equal("ticks 1", c:send("ticks"):line())
    assert.equal(socket, reload.socket(h))
    local out = h:output():gsub("dispose [23]\n", "") -- what a refused load had opened it may close
    assert.falsy(out:find("[a-z] 2\n") or out:find("[a-z] 3\n"), out)
    for _, word in ipairs { "lost", "reloaded", "stop 1", "dispose 1" } do
      assert.falsy(out:find(word, 1, true), out)
    end
    for _, word in ipairs { "timer 1\n", "running 1\n", "start 1\n", "listening " } do
      assert.equal(1, select(2, out:gsub(word, "")), word)
    end
    local status = reload.status()
    assert.same({ 1, connections }, { status.generation, status.connections })
    assert.same({ h.endpoints[1].endpoint }, status.endpoints)
  end
  self.check()
  return self
end

-- Asserts what the first error of a report (or the one numbered `which`) says.
local function says(report, phase, file, line, message, which)
  local found = report.errors[which or 1]
  assert.equal(phase, found.phase, found.message)
  assert.truthy(found.message:find(message, 1, true), found.message)
  if file then
    assert.equal(file, tostring(found.file):match "[^/]*$")
    assert.equal(line, found.line, found.message)
  end
end

-- What can be wrong with version 2: the text and the fields that it adds, the phase that refuses it and what is said
-- of the line marked `-- here` (`bare`: of no line in particular). `before` is added to version 1, `last` to a good one.
local faults = {
  ["that does not compile"] = { text = "local = 2 -- here", phase = "compile", says = "=" },
  ["that raises while it loads"] = { text = "error 'no such luck' -- here", phase = "load", says = "no such luck" },
  ["that raises a table while it loads"] = { text = "error { code = 12 }", phase = "load", says = "", bare = true },
  ["that raises nothing while it loads"] = { text = "error()", phase = "load", says = "", bare = true },
  ["that calls nothing while it loads"] = { text = "local nothing; nothing.call() -- here", phase = "load", says = "nothing" },
  ["that asks the host to stop and then raises"] = {
    text = "reactor.stop() error 'no such luck' -- here", phase = "load", says = "no such luck",
  },
  ["that overflows the stack while it loads"] = {
    text = "local function f() return 1 + f() end; f()", phase = "load", says = "stack overflow", bare = true,
  },
  ["that misuses the reactor while it loads"] = {
    text = "reactor.callLater('soon', print) -- here", phase = "load", says = "callLater",
  },
  ["that requires what is not there"] = { text = "require 'nowhere.to.be.found' -- here", phase = "load", says = "nowhere.to" },
  ["that returns no definition"] = { text = "do return 42 end", says = "number", bare = true },
  ["with a slip in a callback's name"] = {
    text = "function P:dataRecieved() end -- here", phase = "check", says = "dataReceived",
  },
  ["with a slip in a definition's key"] = { extra = "protcol = {} -- here\n", phase = "check", says = "protocol" },
  ["with a wrong kind of value"] = { extra = "maxConnections = 'many' -- here\n", phase = "check", says = "maxConnections" },
  ["with bounds that contradict"] = { extra = "lowWater = 70000 -- here\n", phase = "check", says = "lowWater" },
  ["with a bad endpoint"] = { extra = "listen = 'tcp:80x80' -- here\n", phase = "check", says = "column 5", endpoint = true },
  ["of a lower version without a migrate"] = {
    before = "version = 2", extra = "version = 1", says = "migrate", bare = true, last = "version = 2",
  },
  ["that the living factory does not want"] = {
    before = "prepareReload = function(_, new) return new.wanted == true, 'not in the mood' end",
    phase = "prepare", says = "not in the mood", bare = true, last = "wanted = true",
  },
  ["whose predecessor fails in prepareReload"] = {
    before = "prepareReload = function(_, new) if not new.wanted then error 'not prepared' end end",
    phase = "prepare", says = "not prepared", bare = true, last = "wanted = true",
  },
  ["whose migrate fails at once"] = {
    extra = "version = 2, migrate = function() error 'no way' end -- here\n", phase = "prepare", says = "no way",
  },
}

describe("a service stays untouched by a new one", function()
  after_each(host.cleanup)

  for what, fault in pairs(faults) do
    it(what, function()
      local old, new = service(nil, fault.before), service(fault.text, fault.extra)
      if fault.endpoint then
        new = new:gsub('listen = "tcp:127.0.0.1:0",', "")
      end
      local running = untouched(old)
      local report = reload.refuse(new)
      assert.same({ 1, "script" }, { report.generation, report.service })
      says(report, fault.phase or report.errors[1].phase, not fault.bare and "script.lua" or nil,
        not fault.bare and lineOf(new, "-- here") or nil, fault.says)
      running.check()
      reload.refuse(new, 3)
      running.check()
      assert.equal(2, reload.commit(service(nil, fault.last), 4).generation)
      assert.equal("4 4 4 4", running.c:send("count"):line())
    end)
  end

  it("that is nowhere to be found any more", function()
    local running = untouched(service())
    os.remove(host.folder() .. "/script.lua")
    local report = reload.refused()
    assert.truthy(report.errors[1].message:find("script.lua", 1, true) or report.errors[1].file:find("script.lua", 1, true))
    running.check()
    assert.equal(2, reload.commit(service()).generation)
  end)

  it("of which a module fails while it loads, and the traceback leads there", function()
    local module = "local M = {}\nlocal function inner()\n  error 'deep inside' -- here\nend\ninner() -- call\nreturn M"
    local running = untouched(service())
    host.file("deep.lua", module)
    local text = service "require 'deep' -- require"
    local report = reload.refuse(text)
    says(report, "load", "deep.lua", lineOf(module, "-- here"), "deep inside")
    local traceback = report.errors[1].traceback
    assert.truthy(traceback:find("deep.lua:" .. lineOf(module, "-- call"), 1, true), traceback)
    assert.truthy(traceback:find("script.lua:" .. lineOf(text, "-- require"), 1, true), traceback)
    running.check()
  end)

  it("of which two files do not compile, and both are reported", function()
    host.file("words.lua", "return {}")
    local running = untouched(service "require 'words'")
    reload.rewrite("return {\n  'one',\n  local 'two',\n}", "words.lua")
    local text = service "require 'words' = 3 -- here"
    local report = reload.refuse(text)
    assert.equal(2, #report.errors)
    local first = names({ report.errors[1].file }, "script.lua") and 1 or 2
    says(report, "compile", "script.lua", lineOf(text, "-- here"), "=", first)
    says(report, "compile", "words.lua", 3, "local", 3 - first)
    running.check()
  end)

  it("of which a file is bytecode", function()
    host.file("words.lua", "return {}")
    local running = untouched(service "require 'words'")
    reload.rewrite(string.dump(function()
      return {}
    end), "words.lua")
    local report = reload.refused()
    assert.equal("compile", report.errors[1].phase)
    assert.equal("words.lua", report.errors[1].file:match "[^/]*$")
    assert.truthy(report.errors[1].message:find "bytecode" or report.errors[1].message:find "binary", report.errors[1].message)
    running.check()
    reload.rewrite("return {}", "words.lua")
    reload.rewrite(string.dump(function()
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    end))
    assert.equal("script.lua", reload.refused().errors[1].file:match "[^/]*$")
    running.check()
  end)

  it("that requires bytecode anew", function()
    local running = untouched(service())
    host.file("words.lua", string.dump(function()
      return {}
    end))
    local report = reload.refuse(service "require 'words'")
    assert.equal("words.lua", tostring(report.errors[1].file):match "[^/]*$")
    running.check()
  end)

  it("with two factories of one name", function()
    local running = untouched(service())
    local twin = "{ name = 'twin', listen = 'tcp:127.0.0.1:0', protocol = P }"
    local text = service():gsub("return (%b{})%s*$", ("local one = %%1\nreturn { one, %s, %s }"):format(twin, twin))
    local report = reload.refuse(text)
    assert.equal("check", report.errors[1].phase)
    assert.truthy(report.errors[1].message:find("twin", 1, true), report.errors[1].message)
    running.check()
  end)

  it("that breaks several rules, and all of them are reported", function()
    local running = untouched(service())
    local text = service("function P:dataRecieved() end -- first", "idleTimeuot = 3, -- second\n maxBuffered = -1 -- third\n")
    local report = reload.refuse(text)
    assert.is_true(#report.errors >= 3, "only " .. #report.errors .. " of three are reported")
    local lines = {}
    for _, problem in ipairs(report.errors) do
      lines[problem.line or 0] = problem.message
    end
    assert.truthy(lines[lineOf(text, "-- first")]:find "dataReceived")
    assert.truthy(lines[lineOf(text, "-- second")]:find "idleTimeout")
    assert.truthy(lines[lineOf(text, "-- third")]:find "maxBuffered")
    running.check()
  end)
end)

describe("an endpoint that cannot be bound", function()
  after_each(host.cleanup)

  local function listening(list, text, extra)
    return (service(text, extra):gsub('listen = "tcp:127.0.0.1:0",', ("listen = { '%s' },"):format(table.concat(list, "', '"))))
  end

  it("in use by another leaves everything as it was, and lets go of the others that were bound", function()
    local running = untouched(service())
    local other = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local taken = "tcp:127.0.0.1:" .. other.port
    local fresh, path = unix "fresh"
    local report = reload.refuse(listening { "tcp:127.0.0.1:0", fresh, taken })
    assert.equal("prepare", report.errors[1].phase)
    assert.truthy(report.errors[1].message:find(":" .. other.port, 1, true), report.errors[1].message)
    assert.truthy(report.errors[1].message:lower():find("in use", 1, true), report.errors[1].message)
    assert.is_nil((client.tryUnix(path)))
    assert.equal(1, (process.run { "test", "-e", path }))
    running.check()
    local committed = reload.commit(listening { "tcp:127.0.0.1:0", fresh }, 3)
    assert.same({ fresh }, committed.endpoints.added)
    assert.equal("3 3 3 3", running.c:send("count"):line())
    assert.equal("x", other:connect():send("x\n"):line())
  end)

  it("in a folder that is not there leaves everything as it was", function()
    local running = untouched(service())
    local report = reload.refuse(listening { "tcp:127.0.0.1:0", ("unix:%s/nowhere/x.sock"):format(host.folder()) })
    assert.equal("prepare", report.errors[1].phase)
    assert.truthy(report.errors[1].message:lower():find("no such file", 1, true), report.errors[1].message)
    running.check()
  end)

  it("when the old one was to go with it leaves the old one serving", function()
    local running = untouched(service())
    reload.refuse(listening { ("unix:%s/nowhere/x.sock"):format(host.folder()) })
    running.check()
  end)

  it("asked for by listenTCP during load is that call's answer, and what it makes of it counts", function()
    local running = untouched(service())
    local other = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local call = ('reactor.listenTCP(%d, { protocol = {} }, { interface = "127.0.0.1" })'):format(other.port)
    local report = reload.refuse(service(("assert(%s)"):format(call)))
    assert.equal("load", report.errors[1].phase)
    assert.truthy(report.errors[1].message:lower():find("in use", 1, true), report.errors[1].message)
    running.check()
  end)

  it("and one bound by a load that fails is let go of, and not announced", function()
    local running = untouched(service())
    local _, path = unix "fresh"
    reload.refuse(service(("reactor.listenUNIX('%s', { protocol = {} }) error 'too late'"):format(path)))
    assert.is_nil((client.tryUnix(path)))
    assert.equal(1, (process.run { "test", "-e", path }))
    running.check()
  end)

  it("never serves what was adopted by a load that fails with any other code than before", function()
    local text = [[
      local reactor = require "skald.reactor"
      local P = { dataReceived = function(self) self.transport:write "@\n" end }
      reactor.listenTCP(0, { protocol = P }, { interface = "127.0.0.1" })
      if @ == 2 then error "too late" end
    ]]
    local h = reload.serve(text)
    local c, socket = h:connect(), reload.socket(h)
    assert.equal("1", c:send("x"):line())
    reload.refuse(text)
    assert.equal(socket, reload.socket(h))
    assert.equal("1", c:send("x"):line())
    assert.equal("1", h:connect():send("x"):line())
    reload.commit(text, 3)
    assert.equal(socket, reload.socket(h))
    assert.equal("3", c:send("x"):line())
  end)
end)

describe("what a refused reload has changed", function()
  after_each(host.cleanup)

  it("in the state, by a migrate that fails halfway, is put back by identity", function()
    local text = host.commands([[
      local Room = require("skald.class") "Room"
      function Room:word() return "room " .. self.n end
      function commands.hold(self, t)
        local f, state = self.factory, self.factory.state
        state.inner.room = Room:new()
        state.inner.room.n = 1
        f.held = { state = state, inner = state.inner, list = state.inner.list, key = state.inner.key }
        state.byTable = { [f.held.key] = "by table" }
        t:write "ok\n"
      end
      function commands.look(self, t)
        local s, held = self.factory.state, self.factory.held
        local same = s == held.state and s.inner == held.inner and s.inner.list == held.list
        local keys = {}
        for key in pairs(s) do keys[#keys + 1] = key end
        table.sort(keys)
        t:write(("@ %s %s %s %s %s %s %s %s\n"):format(tostring(same), s.n, tostring(s.inner.self == s.inner),
          table.concat(s.inner.list, ","), s.byTable and s.byTable[held.key] or "gone",
          tostring(getmetatable(s.inner)), table.concat(keys, ","), s.inner.room:word()))
      end
    ]], [[
      state = (function()
        local inner = { list = { "a", "b", "c" }, key = {} }
        inner.self = inner
        return { n = 5, inner = inner, byTable = false }
      end)(),
      version = @, migrate = @ == 2 and function(state)
        state.n, state.extra, state.byTable = 6, "extra", nil
        table.remove(state.inner.list, 1)
        state.inner.list[#state.inner.list + 1] = "d"
        state.inner.self, state.inner.room.n = nil, 2
        setmetatable(state.inner, { __index = {} })
        local inner = state.inner
        state.inner = { list = inner.list }
        inner.list = nil
        error "halfway" -- here
      end or function(state) state.n = 7 end
    ]])
    local c = reload.serve(text):connect()
    assert.equal("ok", c:send("hold"):line())
    local before = c:send("look"):line()
    assert.equal("1 true 5 true a,b,c by table nil byTable,inner,n room 1", before)
    says(reload.refuse(text), "prepare", "script.lua", lineOf(text, "-- here"), "halfway")
    assert.equal(before, c:send("look"):line())
    reload.commit(text, 3)
    assert.equal("3 true 7 true a,b,c by table nil byTable,inner,n room 1", c:send("look"):line())
  end)

  it("in one factory's state is put back where the migrate of another fails", function()
    local text = [[
      local function definition(name)
        return {
          name = name, listen = "tcp:127.0.0.1:0", state = { n = 1, made = "@" }, version = @,
          migrate = function(state)
            state.n = state.n + 100
            if @ == 2 and name == "two" then error "not this one" end
          end,
          protocol = { dataReceived = function(self)
            self.transport:write(("@ %s %d %s\n"):format(name, self.factory.state.n, self.factory.state.made))
          end },
        }
      end
      return { definition "one", definition "two", definition "three" }
    ]]
    local h = reload.serve(text, { listening = 3 })
    reload.refuse(text)
    for i, name in ipairs { "one", "two", "three" } do
      assert.equal(("1 %s 1 1"):format(name), h:connect(nil, i):send("x"):line())
    end
    reload.commit(text, 3)
    for i, name in ipairs { "one", "two", "three" } do
      assert.equal(("3 %s 101 1"):format(name), h:connect(nil, i):send("x"):line())
    end
  end)

  it("in the values of persist, while it loaded, is put back", function()
    local text = host.commands [[
      local service = require "skald.service"
      local kept = service.persist("kept", function() return { n = 1, inner = { list = { "a" } } } end)
      local inner = kept.inner
      kept.loads = "@"
      if @ == 2 then
        kept.n, kept.extra = 100, "extra"
        inner.list[2] = "b"
        kept.inner = nil
        service.persist("late", function() print "init late @"; return { made = "@" } end)
        error "too late"
      end
      local late = @ == 3 and service.persist("late", function() print "init late @"; return { made = "@" } end)
      function commands.look(self, t)
        t:write(("@ %d %s %s %s %s %s\n"):format(kept.n, tostring(kept.extra), table.concat(kept.inner.list, ","),
          tostring(kept.inner == inner), kept.loads, late and late.made or "no"))
      end
    ]]
    local h = reload.serve(text)
    local c = h:connect()
    assert.equal("1 1 nil a true 1 no", c:send("look"):line())
    reload.refuse(text)
    assert.equal("1 1 nil a true 1 no", c:send("look"):line())
    reload.commit(text, 3)
    assert.equal("3 1 nil a true 3 3", c:send("look"):line())
    assert.equal("init late 2", h:line "^init")
    assert.equal("init late 3", h:line "^init")
  end)

  it("in the values of persist is put back after a refusal by any later phase as well", function()
    local text = host.commands([[
      local kept = require("skald.service").persist("kept", function() return { n = 0 } end)
      kept.n = kept.n + 1
      function commands.look(self, t) t:write(("@ %d\n"):format(kept.n)) end
    ]], [[
      maxConections = @ == 2 and 5 or nil, state = {},
      version = @, migrate = function() if @ == 3 then error "no way" end end
    ]])
    local c = reload.serve(text):connect()
    assert.equal("1 1", c:send("look"):line())
    assert.equal("check", reload.refuse(text, 2).errors[1].phase)
    assert.equal("1 1", c:send("look"):line())
    assert.equal("prepare", reload.refuse(text, 3).errors[1].phase)
    assert.equal("1 1", c:send("look"):line())
    reload.commit(text, 4)
    assert.equal("4 2", c:send("look"):line())
  end)

  it("in the tables that definitions share with the running service is not there", function()
    local text = host.commands([[
      function commands.fill(self, t, rest) self.factory.rooms[rest] = true; t:write "ok\n" end
      function commands.look(self, t)
        local list = {}
        for name in pairs(self.factory.rooms) do list[#list + 1] = name end
        t:write(("@ %s %s\n"):format(self.factory.motto, table.concat(list, " ")))
      end
    ]], "rooms = {}, motto = 'motto @', state = {}, version = @, migrate = function() error 'no way' end")
    local c = reload.serve(text):connect()
    assert.equal("ok", c:send("fill kitchen"):line())
    reload.refuse(text)
    assert.equal("1 motto 1 kitchen", c:send("look"):line())
  end)
end)

describe("ffi.cdef", function()
  after_each(host.cleanup)

  local text = host.commands [[
    local ffi = require "ffi"
    ffi.cdef "typedef struct { int a; } reload_pair;"
    ffi.cdef "struct reload_named { int a; };"
    local Pair = ffi.typeof "reload_pair"
    function commands.size(self, t) t:write(("@ %d %d\n"):format(ffi.sizeof(Pair), ffi.sizeof "struct reload_named")) end
  ]]

  it("of a text that is declared already is skipped", function()
    local c = reload.serve(text):connect()
    assert.equal("1 4 4", c:send("size"):line())
    reload.commit(text, 2)
    assert.equal("2 4 4", c:send("size"):line())
    reload.commit(text .. "-- again", 3)
    assert.equal("3 4 4", c:send("size"):line())
  end)

  local changes = { ["a named struct"] = "reload_named { int a;", ["an anonymous struct"] = "typedef struct { int a;" }
  for what, pattern in pairs(changes) do
    it("of " .. what .. " that has changed is refused with what to do about it", function()
      local c = reload.serve(text):connect()
      local changed = text:gsub(pattern:gsub("%p", "%%%0"), "%0 int b;")
      local report = reload.refuse(changed)
      says(report, "load", "script.lua", lineOf(changed, "int b;"), "cdef")
      assert.truthy(report.errors[1].message:find "restart" or report.errors[1].message:find "another name"
        or report.errors[1].message:find "redefine", report.errors[1].message)
      assert.equal("1 4 4", c:send("size"):line())
      reload.commit(text, 3)
      assert.equal("3 4 4", c:send("size"):line())
    end)
  end
end)

describe("a refused reload", function()
  after_each(host.cleanup)

  it("is logged once, with phase, file and line, and is counted", function()
    local h = reload.serve(service())
    local text = service "error 'no such luck' -- here"
    reload.refuse(text)
    local place = ("script%%.lua:%d: "):format(lineOf(text, "-- here"))
    h:waitLog("error.*reload script refused %(load%): %S*" .. place .. "no such luck")
    local status = reload.status()
    assert.same({ 1, "refused", 1 }, { status.refused, status.lastReload.result, status.generation })
    assert.equal(1, h:logged "reload script refused")
    reload.refuse(text, 3)
    assert.equal(2, reload.status().refused)
    assert.equal(2, h:logged "reload script refused")
    reload.commit(service(), 4)
    status = reload.status()
    assert.same({ "committed", 2, 2 }, { status.lastReload.result, status.refused, status.generation })
  end)

  it("is not tried again until a file of it has changed, unless forced", function()
    host.file("words.lua", "return {}")
    local h = reload.serve(service())
    local text = service "print 'trying @' require 'words' error 'no such luck' -- here"
    local first = reload.refuse(text)
    local function tries()
      return select(2, h:output():gsub("trying", ""))
    end
    for _ = 1, 3 do
      local again = reload.refused()
      assert.same({ "load", first.errors[1].line, first.errors[1].message },
        { again.errors[1].phase, again.errors[1].line, again.errors[1].message })
    end
    assert.equal(1, tries())
    assert.equal(1, h:logged "reload script refused")
    reload.refused "--force"
    assert.equal(2, tries())
    reload.rewrite("return { 'changed' }", "words.lua")
    reload.refused()
    assert.equal(3, tries())
    reload.refuse(text, 3)
    assert.equal(4, tries())
  end)

  it("that does not compile is not tried again either, and the former text is nothing new", function()
    local h = reload.serve(service())
    local c = h:connect()
    local text = service "local = 3"
    reload.refuse(text)
    reload.refused()
    assert.equal(1, h:logged "reload script refused")
    reload.rewrite(reload.version(service(), 1))
    assert.equal("unchanged", reload.run().result)
    assert.equal("1 1 1 1", c:send("count"):line())
  end)

  it("for a reason outside of the files is tried again", function()
    local blocked = host.file("blocked", "")
    local extra = ([[prepareReload = function()
      local file = io.open "%s"
      if file then file:close() return false, "blocked" end
    end]]):format(blocked)
    local h = reload.serve(service(nil, extra))
    reload.refuse(service())
    reload.refused()
    os.remove(blocked)
    assert.equal(2, reload.committed().generation)
    assert.equal("2 1 1 1", h:connect():send("count"):line())
  end)

  it("ends the command with 1 and says in its text phase, file, line and traceback", function()
    reload.serve(service())
    local text = service "local function f() error 'no such luck' end -- here\n f() -- call"
    reload.rewrite(text)
    local status, out, log = host.command { "reload" }
    assert.equal(1, status)
    local shown = out .. log
    assert.truthy(shown:find "refused", shown)
    assert.truthy(shown:find("load", 1, true), shown)
    assert.truthy(shown:find(("script.lua:%d: no such luck"):format(lineOf(text, "-- here")), 1, true), shown)
    assert.truthy(shown:find(("script.lua:%d"):format(lineOf(text, "-- call")), 1, true), shown)
  end)

  it("is answered in valid JSON, whatever bytes the error has", function()
    reload.serve(service())
    reload.rewrite(service [[error "\200 \255 \7 \"quoted\" \\ \195\164 \226\130 \r end" -- here]])
    local report, status, line = reload.run()
    reload.expect("refused", report, status, line)
    local rest = line:gsub("[\194-\223][\128-\191]", ""):gsub("[\225-\236][\128-\191][\128-\191]", "")
      :gsub("\239\191\189", "")
    assert.falsy(rest:find "[\128-\255]", "it is no UTF-8: " .. line)
    assert.falsy(rest:find "[%z\1-\9\11-\31]", "it has control characters: " .. line)
    local message = report.errors[1].message
    assert.truthy(message:find('"quoted" \\ \195\164', 1, true) and message:find "end$", message)
  end)

  it("runs no timer and no coroutine of a load that fails, but lets it close what it had opened", function()
    local running = untouched(service())
    reload.refuse(service [[
      local function loop() print "loop @"; reactor.callLater(0, loop) end
      reactor.callLater(0, loop)
      coroutine.wrap(function() reactor.callLater(0, coroutine.wrap(print), "routine @") end)()
      service.onDispose(function() error "cannot close" end)
      service.onDispose(function() print "closed what was opened" end)
      error "too late"
    ]])
    running.check()
    assert.truthy(running.h:output():find "closed what was opened\n")
    assert.equal(1, running.h:logged "cannot close")
  end)
end)
