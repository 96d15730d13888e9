-- The life of a connection as a protocol and its factory see it.

local host = require "support.host"

describe("a protocol", function()
  after_each(host.cleanup)

  it("goes through buildProtocol, connectionMade, dataReceived and one connectionLost, in this order", function()
    local h = host.serve [[
      local Protocol, Factory = require("skald.protocol").Protocol, require("skald.protocol").Factory
      local P = Protocol {}
      function P:connectionMade() print("made", self.transport ~= nil, self.factory ~= nil and self.factory.mark) end
      function P:dataReceived(data) print("data", data) end
      function P:connectionLost(reason) print("lost", reason.code, self.transport ~= nil) end
      local F = Factory { listen = "tcp:127.0.0.1:0", protocol = P, mark = "mine" }
      function F:buildProtocol(addr)
        print("build", addr.type, addr.host, addr.port, tostring(addr))
        return P:new()
      end
      return F
    ]]
    local c = h:connect():send "one"
    local port = c:port()
    assert.equal(("build\tTCP\t127.0.0.1\t%d\ttcp:127.0.0.1:%d"):format(port, port), h:line())
    assert.equal("made\ttrue\tmine", h:line())
    assert.equal("data\tone", h:line())
    c:halfClose()
    assert.equal("lost\tdone\ttrue", h:line())
    assert.equal("eof", select(2, c:receiveAll()))
    h:stop()
    assert.equal(1, select(2, h:output():gsub("\nlost\t", "")))
  end)

  it("gets pieces that are never empty and never above 64 KiB, and every byte of them", function()
    local h = host.serve [[
      local P = { least = math.huge, most = 0, total = 0, sum = 0 }
      function P:dataReceived(data)
        self.least, self.most = math.min(self.least, #data), math.max(self.most, #data)
        self.total, self.sum = self.total + #data, (self.sum + data:byte() + data:byte(#data)) % 1000
      end
      function P:connectionLost() print("sizes", self.least, self.most, self.total) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    c:send(("0123456789abcdef"):rep(262144)) -- 4 MiB
    c:halfClose()
    local least, most, total = h:line "^sizes\t(%d+)\t(%d+)\t(%d+)"
    assert.equal(4194304, tonumber(total))
    assert.is_true(tonumber(least) > 0)
    assert.is_true(tonumber(most) <= 65536)
    assert.is_true(tonumber(most) > 4096, "4 MiB came in small pieces of at most " .. most)
  end)

  it("may be a plain table, with state of its own for each connection", function()
    local h = host.serve [[
      local Counter = { count = 0 }
      function Counter:dataReceived(data)
        self.count = self.count + #data
        self.transport:write(self.count .. "\n")
      end
      return { listen = "tcp:127.0.0.1:0", protocol = Counter }
    ]]
    local a, b = h:connect(), h:connect()
    assert.equal("3", a:send("abc"):line())
    assert.equal("1", b:send("x"):line())
    assert.equal("5", a:send("de"):line())
    assert.equal("1", h:connect():send("y"):line())
  end)

  it("needs no callback at all", function()
    local h = host.serve [[ return { listen = "tcp:127.0.0.1:0", protocol = {} } ]]
    local c = h:connect():send(("x"):rep(100000))
    c:halfClose()
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:connect():reset()
    assert.same({ "", "eof" }, { h:connect():halfClose():receiveAll() })
    h:stop()
    assert.equal(0, h:logged "error")
  end)

  it("is derived by calling its class, made by new, and set up by init", function()
    local h = host.serve([[
      local Protocol = require("skald.protocol").Protocol
      local Base = Protocol { greeting = "hello", mark = "base" }
      function Base:init(name) self.name = name or "nobody" end
      function Base:connectionMade()
        self.transport:write(self.greeting .. " " .. self.name .. " " .. self.mark .. " " .. self:extra() .. "\n")
      end
      function Base:extra() return "-" end
      local Derived = Base({ greeting = "good day" }, { mark = "mixed", mixin = true })
      function Derived:extra() return tostring(self.mixin) end
      return {
        { name = "default", listen = "tcp:127.0.0.1:0", protocol = Base },
        { name = "built", listen = "tcp:127.0.0.1:0", buildProtocol = function(self, addr) return Derived:new(addr.host) end },
      }
    ]], { listening = 2 })
    assert.equal("hello nobody base -", h:connect(nil, 1):line())
    assert.equal("good day 127.0.0.1 mixed true", h:connect(nil, 2):line())
  end)

  it("is refused with a clean close, no callback run, when buildProtocol returns nil", function()
    local h = host.serve [[
      local P = {}
      function P:connectionMade() print "made" end
      function P:dataReceived() print "data" end
      function P:connectionLost() print "lost" end
      return { listen = "tcp:127.0.0.1:0", protocol = P, buildProtocol = function() print "asked"; return nil end }
    ]]
    local c = h:connect():send(("unread "):rep(1000))
    assert.same({ "", "eof" }, { c:receiveAll() })
    assert.equal("asked", h:line())
    c:close()
    h:stop()
    assert.falsy(h:output():find "made" or h:output():find "data" or h:output():find "lost")
  end)

  it("is served from a definition, a Factory subclass, an instance and a list of them", function()
    local P = [[
      local Factory = require("skald.protocol").Factory
      local P = {}
      function P:connectionMade()
        self.transport:write(self.factory.word .. "\n")
        self.transport:loseConnection()
      end
      local function definition(word) return { name = word, word = word, listen = "tcp:127.0.0.1:0", protocol = P } end
    ]]
    local cases = {
      plain = 'return definition "plain"',
      subclass = 'return Factory(definition "subclass")',
      derived = 'local F = Factory(definition "no"); return F { word = "derived", name = "derived" }',
      instance = 'return Factory(definition "instance"):new()',
    }
    for word, code in pairs(cases) do
      local h = host.serve(P .. code)
      assert.equal(word, h:connect():line())
      h:stop()
    end
    local h = host.serve(P .. 'return { definition "a", Factory(definition "b"), Factory(definition "c"):new() }',
      { listening = 3 })
    for i, word in ipairs { "a", "b", "c" } do
      assert.equal(word, h.endpoints[i].name)
      assert.equal(word, h:connect(nil, i):line())
    end
  end)

  it("has a factory that is started on its first port and stopped with its last", function()
    local path = host.folder() .. "/factory.sock"
    local h = host.serve(([[
      return {
        listen = { "tcp:127.0.0.1:0", "unix:%s" },
        startFactory = function(self) self.started = (self.started or 0) + 1; print("started", self.started) end,
        stopFactory = function(self) print("stopped", self.started) end,
        protocol = { connectionMade = function(self) self.transport:write(self.factory.started .. "\n") end },
      }
    ]]):format(path), { listening = 2 })
    assert.equal("1", h:connect(nil, 1):line())
    assert.equal("1", h:connect(nil, 2):line())
    assert.falsy(h:output():find "stopped")
    h:stop()
    assert.equal(1, select(2, h:output():gsub("started\t1\n", "")))
    assert.equal(1, select(2, h:output():gsub("stopped\t1\n", "")))
  end)

  it("never gets connectionLost from inside another callback of its own", function()
    local h = host.serve([[
      local P = {}
      function P:call(what)
        self.inside = true
        self.transport[what](self.transport)
        self.inside = false
      end
      function P:connectionMade() if self.factory.early then self:call(self.factory.early) end end
      function P:dataReceived(data) self:call(data) end
      function P:connectionLost(reason)
        self.count = (self.count or 0) + 1
        print("lost", reason.code, self.inside, self.count)
      end
      return {
        { listen = "tcp:127.0.0.1:0", protocol = P },
        { listen = "tcp:127.0.0.1:0", protocol = P, early = "abortConnection" },
      }
    ]], { listening = 2 })
    for _, case in ipairs { { "loseConnection", "done" }, { "abortConnection", "aborted" }, { "stopProducing", "done" } } do
      h:connect():send(case[1]):receiveAll()
      local code, inside, count = h:line "^lost\t(%a+)\t(%a+)\t(%d)"
      assert.equal(case[2], code, case[1])
      assert.equal("false", inside, case[1] .. " called connectionLost at once")
      assert.equal("1", count)
    end
    h:connect(nil, 2):receiveAll()
    assert.equal("lost\taborted\tfalse\t1", h:line())
  end)

  it("has its methods looked up by name at every event", function()
    local h = host.serve [[
      local P = {}
      function P:dataReceived(data)
        self.transport:write("class\n")
        self.dataReceived = function(self)
          self.transport:write("instance\n")
          self.dataReceived = nil
          P.dataReceived = function(self) self.transport:write("changed class\n") end
        end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    assert.equal("class", c:send("1"):line())
    assert.equal("instance", c:send("2"):line())
    assert.equal("changed class", c:send("3"):line())
  end)

  it("may return anything from a callback", function()
    local h = host.serve [[
      local P = {}
      function P:connectionMade() return nil, "no", 12 end
      function P:dataReceived(data) return self.transport:write(data) end
      function P:connectionLost() print "lost"; return false, {} end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local c = h:connect()
    assert.equal("x", c:send("x\n"):line())
    c:close()
    h:line "^lost"
  end)

  it("is told connectionMade before any data, however early the peer sends", function()
    local h = host.serve [[
      local P = {}
      function P:connectionMade() self.made = true end
      function P:dataReceived(data) self.transport:write(tostring(self.made) .. "\n") end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    for _ = 1, 50 do
      local c = h:connect():send "x"
      assert.equal("true", c:line())
      c:close()
    end
  end)
end)
