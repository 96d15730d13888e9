-- Reloads of scripts that do what few scripts do.

local host = require "support.host"
local ports = require "support.ports"
local process = require "support.process"
local reload = require "support.reload"

local commands = host.commands

local function ask(c, words)
  return c:send(words):line()
end

describe("what running code has filled", function()
  after_each(host.cleanup)

  it("is kept where an object in it, or a weak table, was filled", function()
    local text = [[
      local class = require "skald.class"
      local Room = class "Room"
    ]] .. commands([[
      local function count(t) local n = 0 for _ in pairs(t) do n = n + 1 end return n end
      function commands.fill(self, t)
        self.factory.rooms.lobby[1], self.factory.weak[self] = "ann", true
        t:write "ok\n"
      end
      function commands.look(self, t)
        t:write(("@ %s %d\n"):format(tostring(self.factory.rooms.lobby[1]), count(self.factory.weak)))
      end
    ]], "rooms = { lobby = Room:new() }, weak = setmetatable({}, { __mode = 'k' })")
    local c = reload.serve(text):connect()
    assert.equal("ok", ask(c, "fill"))
    for n = 2, 3 do
      reload.commit(text, n)
      assert.equal(n .. " ann 1", ask(c, "look"))
    end
  end)

  it("may be as deep as it likes", function()
    local text = commands([[
      function commands.look(self, t) t:write("@ " .. self.factory.list.n .. "\n") end
    ]], [[list = require("skald.service").persist("list", function()
      local list = { n = 0 }
      for i = 1, 30000 do list = { n = i, rest = list } end
      return list
    end)]])
    local c = reload.serve(text):connect()
    reload.commit(text, 2)
    assert.equal("2 30000", ask(c, "look"))
  end)
end)

describe("a factory", function()
  after_each(host.cleanup)

  it("that was kept by persist, and then is a plain definition, keeps its connections", function()
    local kept = [[
      local protocol = require "skald.protocol"
      local P = protocol.Protocol {}
      function P:dataReceived() self.transport:write("@ " .. self.factory:connectionCount() .. "\n") end
      local factory = require("skald.service").persist("factory", function()
        return protocol.Factory { name = "one", listen = "tcp:127.0.0.1:0" }:new()
      end)
      factory.protocol = P
      return factory
    ]]
    local plain = [[
      local P = {}
      function P:dataReceived() self.transport:write("@ " .. self.factory:connectionCount() .. "\n") end
      return { name = "one", listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local h = reload.serve(kept)
    local c = h:connect()
    assert.equal("1 1", ask(c, "?"))
    reload.commit(kept, 2)
    reload.commit(plain, 3)
    assert.equal("3 2", ask(h:connect(), "?"))
    assert.same({ 3, 2 }, { reload.status().generation, reload.status().connections })
  end)

  it("whose definition hides its metatable is reloaded like any other", function()
    local text = commands("function commands.who(self, t) t:write '@\\n' end", "__metatable = 'mine'")
    local c = reload.serve(text):connect()
    reload.commit(text, 2)
    assert.equal("2", ask(c, "who"))
    assert.equal(2, reload.status().generation)
  end)

  it("that shares its name with another one given to listenTCP is refused", function()
    local text = [[
      local reactor = require "skald.reactor"
      local function one(answer)
        return { name = answer, protocol = { dataReceived = function(self) self.transport:write(answer .. "\n") end } }
      end
      reactor.listenTCP(0, one "a", { interface = "127.0.0.1" })
      reactor.listenTCP(0, one(@ == 2 and "a" or "b"), { interface = "127.0.0.1" })
    ]]
    local h = reload.serve(text, { listening = 2 })
    assert.truthy(reload.refuse(text, 2).errors[1].message:find "two factories are called 'a'")
    assert.same({ "a", "b" }, { ask(h:connect(nil, 1), "?"), ask(h:connect(nil, 2), "?") })
  end)

  it("with a buildProtocol of its own has its protocols told of the reload", function()
    local text = [[
      local protocol = require "skald.protocol"
      local Talk = require "skald.class" "Talk"
      Talk.makeConnection = protocol.Protocol.makeConnection
      function Talk:reloaded() self.news = "@" end
      function Talk:dataReceived() self.transport:write((self.news or "none") .. "\n") end
      return { listen = "tcp:127.0.0.1:0", buildProtocol = function(self)
        local made = Talk:new()
        made.factory = self
        return made
      end }
    ]]
    local c = reload.serve(text):connect()
    assert.equal("none", ask(c, "?"))
    reload.commit(text, 2)
    assert.equal("2", ask(c, "?"))
  end)
end)

describe("a port that a load asked for", function()
  after_each(host.cleanup)

  local text = [[
    local reactor = require "skald.reactor"
    local P = {}
    local port = reactor.listenTCP(0, { name = "second", protocol = P }, { interface = "127.0.0.1" })
    if @ == 2 then port:stopListening() end
    function P:dataReceived() self.transport:write "here\n" end
  ]] .. commands [[
    function commands.stop(self, t) port:stopListening():addCallback(function() t:write "closed\n" end) end
  ]]

  it("closes when running code says so", function()
    local h = reload.serve(text, { listening = 2 })
    assert.equal("here", ask(h:connect(nil, 1), "?"))
    assert.equal("closed", ask(h:connect(nil, 2), "stop"))
    assert.equal(1, #reload.status().endpoints)
    local ok, message = pcall(h.connect, h, nil, 1)
    assert.is_false(ok)
    assert.truthy(message:find "ECONNREFUSED")
  end)

  it("is not served when the load itself takes it back, and the socket is gone after the reload", function()
    reload.serve(text, { listening = 2 })
    local report = reload.commit(text, 2)
    assert.equal(1, #report.endpoints.removed)
    assert.equal(1, #reload.status().endpoints)
  end)

  it("and that was taken is tried again once it is free, though no file has changed", function()
    local blocker = host.run {
      "echo", "listen=tcp:127.0.0.1:" .. ports.tcp(), options = { "--control=" .. host.folder() .. "/b.sock" },
    }
    local busy = ([[
      local reactor = require "skald.reactor"
      if @ == 2 then reactor.listenTCP(%d, { name = "second", protocol = {} }, { interface = "127.0.0.1" }) end
    ]]):format(blocker.port) .. commands "function commands.who(self, t) t:write '@\\n' end"
    local c = reload.serve(busy):connect()
    assert.equal("prepare", reload.refuse(busy, 2).errors[1].phase)
    assert.equal("1", ask(c, "who"))
    blocker:stop()
    reload.committed()
    assert.equal("2", ask(c, "who"))
  end)

  it("makes a load into a running host fail where it is taken", function()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local path = host.script(([[
      require("skald.reactor").listenTCP(%d, { protocol = {} }, { interface = "127.0.0.1" })
    ]]):format(h.port), "busy.lua")
    local status, _, log = host.command { "load", path }
    assert.equal(1, status)
    assert.truthy(log:find "in use", log)
    assert.equal(1, #reload.command({ "status" }).services)
  end)

  it("is refused while a state is migrated", function()
    local migrating = commands("function commands.who(self, t) t:write '@\\n' end", [[
      version = @, state = {}, migrate = function()
        require("skald.reactor").listenTCP(0, { protocol = {} })
      end]])
    local c = reload.serve(migrating):connect()
    assert.equal("prepare", reload.refuse(migrating, 2).errors[1].phase)
    assert.equal("1", ask(c, "who"))
  end)
end)

describe("a load", function()
  after_each(host.cleanup)

  it("of a script that was emptied is refused, and done when forced", function()
    local h = reload.serve(commands "function commands.who(self, t) t:write '@\\n' end")
    local c = h:connect()
    reload.rewrite "-- nothing is left"
    assert.truthy(reload.refused().errors[1].message:find "unload")
    assert.equal("1", ask(c, "who"))
    assert.equal(1, #reload.committed("--force").endpoints.removed)
    assert.equal("1", ask(c, "who"))
  end)

  it("with a module that yields in a coroutine raises, and owns nothing that comes later", function()
    host.file("yields.lua", "coroutine.yield() return {}")
    local text = [[
      local thread = coroutine.create(function() return require "yields" end)
      local ok, message = coroutine.resume(thread)
      local reactor = require "skald.reactor"
    ]] .. commands [[
      function commands.what(self, t) t:write(tostring(ok) .. " " .. tostring(message) .. "\n") end
      function commands.later(self, t) reactor.callLater(0.05, function() t:write "later @\n" end) t:write "ok\n" end
    ]]
    local c = reload.serve(text):connect()
    assert.equal("false a module cannot yield while it loads", ask(c, "what"))
    assert.equal("ok", ask(c, "later"))
    assert.equal(0, reload.commit(text, 2).timers.ended)
    assert.equal("later 1", c:line())
  end)

  it("that --watch is to notice is not held up by a fifo in the folder", function()
    local text = commands "function commands.who(self, t) t:write '@\\n' end"
    local h = host.run { host.script(reload.version(text, 1)), options = { "--watch" } }
    assert.equal(0, (process.run { "mkfifo", host.folder() .. "/z.lua" }))
    reload.rewrite(reload.version(text, 2))
    h:waitLog "generation 1 %-> 2"
    assert.equal("2", ask(h:connect(), "who"))
  end)
end)

describe("an unloaded service", function()
  after_each(host.cleanup)

  it("leaves neither what its startFactory asked for nor what its connections opened as they ended", function()
    local path = host.script([[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionLost() reactor.listenTCP(0, { name = "late", protocol = {} }, { interface = "127.0.0.1" }) end
      return { listen = "tcp:127.0.0.1:0", protocol = P, startFactory = function()
        reactor.callWhenRunning(function()
          local function tick() print "tick" reactor.callLater(0.01, tick) end
          tick()
        end)
      end }
    ]], "leaving.lua")
    local h = host.run { path, "echo", "listen=tcp:127.0.0.1:0", listening = 2 }
    h:line "^tick"
    local c = h:connect(nil, 1)
    local echo = h:connect(nil, 2)
    assert.equal(0, (host.command { "unload", "leaving" }))
    c:receiveAll()
    assert.equal("hi", ask(echo, "hi\n"))
    local ticks = h:output()
    echo:send "there\n"
    assert.equal("there", echo:line())
    local status = reload.command { "status" }
    assert.same({ "echo", 1 }, { status.services[1].name, #status.services[1].endpoints })
    h:kill "USR1"
    assert.equal("2", h:waitLog "(%d+) listeners")
    assert.is_true(#h:output() - #ticks < 20)
  end)
end)
