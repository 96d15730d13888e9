-- The program itself: options, exit statuses, what check and run refuse and what they say.

local host = require "support.host"
local client = require "support.client"
local ports = require "support.ports"

local ECHO = [[
return {
  listen = "tcp:127.0.0.1:0",
  protocol = { dataReceived = function(self, data) self.transport:write(data) end },
}
]]

-- Both `check` and `run` must refuse the script with 1, and say each of the words on stderr.
local function refused(path, ...)
  for _, command in ipairs { "check", "run" } do
    local status, _, log = host.command { command, path }
    assert.equal(1, status, command .. " gave another status; stderr: " .. log)
    for _, word in ipairs { ... } do
      assert.truthy(log:find(word, 1, true), ("%s does not say %q: %s"):format(command, word, log))
    end
  end
end

describe("the program", function()
  after_each(host.cleanup)

  it("prints its usage for --help and ends with 0", function()
    local status, out = host.command { "--help" }
    assert.equal(0, status)
    for _, word in ipairs { "run", "check", "--grace", "--log-level", "--jit" } do
      assert.truthy(out:find(word, 1, true), "the help does not mention " .. word)
    end
  end)

  it("names the versions of LuaJIT, libuv and OpenSSL for --version", function()
    local status, out = host.command { "--version" }
    assert.equal(0, status)
    assert.truthy(out:find "^skald %d", out)
    assert.truthy(out:find "LuaJIT 2%.1", out)
    assert.truthy(out:find "libuv %d+%.%d+%.%d+", out)
    assert.truthy(out:find "OpenSSL %d+%.%d+%.%d+", out)
  end)

  it("ends with 2 for wrong usage and says on stderr what is wrong", function()
    local wrong = {
      { "frobnicate", say = "frobnicate" },
      { "run", "--frobnicate", "echo", say = "frobnicate" },
      { "run", "--grace", "soon", "echo", say = "grace" },
      { "run", "--grace=-1", "echo", say = "grace" },
      { "run", "--log-level=loud", "echo", say = "loud" },
      { "run", "--jit=nonsense", "echo", say = "nonsense" },
      { "run", say = "run" },
      { "check", say = "check" },
    }
    for _, words in ipairs(wrong) do
      local status, out, log = host.command(words)
      local shown = table.concat(words, " ")
      assert.equal(2, status, shown .. ": " .. log)
      assert.truthy(log:find(words.say, 1, true), ("%s does not say %q: %s"):format(shown, words.say, log))
      assert.equal("", out, shown)
    end
    assert.equal(2, (host.command {}))
  end)

  it("ends with 0 after SIGTERM, after SIGINT and after reactor.stop", function()
    host.run({ "echo", "listen=tcp:127.0.0.1:0" }):stop()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    h:kill "INT"
    h:ends(0)
    host.serve([[
      local reactor = require "skald.reactor"
      reactor.callLater(0, reactor.stop)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]):ends(0)
  end)

  it("ends with the first status that is not 0, whoever stops it once more", function()
    host.serve([[
      local reactor = require "skald.reactor"
      reactor.callLater(0, function()
        reactor.stop()
        reactor.stop(3)
        reactor.stop()
        reactor.stop(4)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]):ends(3)
  end)

  it("takes options as two words and with an equals sign", function()
    host.run({ "echo", "listen=tcp:127.0.0.1:0", options = { "--grace", "3" } }):stop()
    host.run({ "echo", "listen=tcp:127.0.0.1:0", options = { "--grace=3" } }):stop()
  end)

  it("checks a good script without binding its endpoint", function()
    local h = host.serve(ECHO)
    local path = host.script(ECHO:gsub(":0\"", ":" .. h.port .. '"'), "taken.lua")
    local status, out, log = host.command { "check", path }
    assert.equal(0, status, log)
    assert.falsy(out:find("listening", 1, true))
  end)

  it("checks several scripts and complains only of the bad one", function()
    local good = host.script(ECHO, "good.lua")
    local bad = host.script("return {\n  listen = ", "bad.lua")
    local status, _, log = host.command { "check", good, bad }
    assert.equal(1, status)
    assert.truthy(log:find "bad%.lua:%d+: ", log)
    assert.falsy(log:find("good.lua", 1, true), log)
  end)

  it("gives file and line of a script that does not compile", function()
    refused(host.script "local x = 1\nlocal = 2\n", "script.lua:2: ")
  end)

  it("gives file and line of a script that raises while it loads", function()
    refused(host.script "local x = 1\n\nerror 'no such luck'\n", "script.lua:3: ", "no such luck")
  end)

  it("refuses an unknown script with 1 and names it", function()
    refused("nowhere-at-all", "nowhere-at-all")
    refused(host.folder() .. "/missing.lua", "missing.lua")
  end)

  it("refuses a script that returns no definition", function()
    refused(host.script "return 42", "script.lua")
    refused(host.script 'return { listen = "tcp:127.0.0.1:0" }', "script.lua", "protocol")
    refused(host.script 'return { listen = 7, protocol = {} }', "script.lua", "listen")
    refused(host.script 'return { listen = "tcp:0", protocol = {}, maxConnections = "many" }', "maxConnections")
  end)

  it("refuses a bad endpoint in one line with the column of the bad field", function()
    local cases = {
      ["tcp:80x80"] = 5,
      ["tcp:127.0.0.1:99999"] = 15,
      ["bogus:1"] = 1,
      ["tcp:8000:interfase=127.0.0.1"] = 10,
      ["unix:/tmp/x.sock:mode=9z"] = 18,
    }
    for endpoint, column in pairs(cases) do
      local status, _, log = host.command { "run", "echo", "listen=" .. endpoint }
      assert.equal(1, status, endpoint .. ": " .. log)
      assert.truthy(log:find("column " .. column .. "%f[%D]"), ("%s is wrong in column %d: %s"):format(endpoint, column, log))
      local _, lines = log:gsub("\n", "")
      assert.equal(1, lines, log)
      status = host.command { "check", host.script(("return { listen = %q, protocol = {} }"):format(endpoint)) }
      assert.equal(1, status, "check accepts " .. endpoint)
    end
  end)

  it("says in one line with status 1 that a port is in use", function()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local status, out, log = host.command { "run", "echo", "listen=tcp:127.0.0.1:" .. h.port }
    assert.equal(1, status)
    assert.equal("", out)
    assert.truthy(log:find(":" .. h.port, 1, true), log)
    assert.truthy(log:lower():find("in use", 1, true), log)
    local _, lines = log:gsub("\n", "")
    assert.equal(1, lines, log)
  end)

  it("refuses a slip in a known key and names the key that was meant", function()
    local definition = 'return { listen = "tcp:127.0.0.1:0", protocol = { %s } %s }'
    local slips = {
      { "dataRecieved = function() end", "", "dataReceived" },
      { "dataReceved = function() end", "", "dataReceived" },
      { "connectionMadee = function() end", "", "connectionMade" },
      { "connectionlost = function() end", "", "connectionLost" },
      { "", ", protcol = {}", "protocol" },
      { "", ", maxConections = 3", "maxConnections" },
      { "", ", Listen = 'tcp:127.0.0.1:0'", "listen" },
      { "", ", buildProtocl = function() end", "buildProtocol" },
      { "", ", idleTimeuot = 3", "idleTimeout" },
    }
    for _, slip in ipairs(slips) do
      refused(host.script(definition:format(slip[1], slip[2])), "script.lua", slip[3])
    end
  end)

  it("accepts plurals, real words and slips whose value is of another kind", function()
    local status, _, log = host.command { "check", host.script [[
      return {
        listen = "tcp:127.0.0.1:0",
        names = { "a", "b" }, stats = {}, reach = function() end, protocols = {}, maxConection = "a text",
        protocol = { names = {}, stats = {}, reach = function() end, lines = 0, dataRecieved = 12 },
      }
    ]] }
    assert.equal(0, status, log)
  end)

  it("hands the options of the command line to the script as strings in ...", function()
    local h = host.serve([[
      local options = ...
      print("greeting " .. options.greeting, "limit " .. type(options.limit) .. " " .. options.limit, options.listen)
      print("path " .. options.path)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]], { "greeting=hi there", "limit=12", "path=a=b:c" })
    assert.truthy(h:output():find("greeting hi there\tlimit string 12", 1, true), h:output())
    assert.truthy(h:output():find("path a=b:c\n", 1, true), h:output())
  end)

  it("replaces the endpoint of the first factory by listen=, and only that", function()
    local path = host.folder() .. "/override.sock"
    local h = host.serve([[
      return {
        { name = "one", listen = "tcp:127.0.0.1:0", protocol = {} },
        { name = "two", listen = "tcp:127.0.0.1:0", protocol = {} },
      }
    ]], { "listen=unix:" .. path, listening = 2 })
    assert.equal("unix", h.endpoints[1].kind)
    assert.equal(path, h.endpoints[1].path)
    assert.equal("tcp", h.endpoints[2].kind)
  end)

  it("runs several services in one host, each with its own options", function()
    local one = host.script([[
      local options = ...
      return { listen = "tcp:127.0.0.1:0", protocol = {
        connectionMade = function(self) self.transport:write(options.word .. "\n"); self.transport:loseConnection() end } }
    ]], "sayer.lua")
    local h = host.run { one, "word=first", "echo", "listen=tcp:127.0.0.1:0", one, "word=second", listening = 3 }
    assert.equal("sayer", h.endpoints[1].name)
    assert.equal("echo", h.endpoints[2].name)
    assert.equal("first", h:connect(nil, 1):line())
    assert.equal("second", h:connect(nil, 3):line())
    local c = h:connect(nil, 2):send "echo\n"
    assert.equal("echo", c:line())
  end)

  it("serves a list of factories, and refuses two of the same name", function()
    local function list(a, b)
      return ([[
        local P = { connectionMade = function(self) self.transport:write(self.factory.word); self.transport:loseConnection() end }
        return { { %s word = "a", listen = "tcp:127.0.0.1:0", protocol = P },
                 { %s word = "b", listen = "tcp:127.0.0.1:0", protocol = P } }
      ]]):format(a, b)
    end
    refused(host.script(list('name = "twin",', 'name = "twin",')), "twin")
    local h = host.serve(list("", ""), { listening = 2 })
    assert.equal("a", (h:connect(nil, 1):receiveAll()))
    assert.equal("b", (h:connect(nil, 2):receiveAll()))
  end)

  it("serves what the script itself gave to reactor.listenTCP", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local Factory = require("skald.protocol").Factory
      local Protocol = require("skald.protocol").Protocol
      local Echo = Protocol {}
      function Echo:dataReceived(data) self.transport:write(data) end
      local port = reactor.listenTCP(0, Factory { protocol = Echo }:new(), { interface = "127.0.0.1" })
      print("port " .. port:getHost().port .. " " .. port:getHost().host)
    ]]
    assert.truthy(h:output():find("port " .. h.port .. " 127.0.0.1", 1, true) or h:line("^port " .. h.port))
    assert.equal("hi", h:connect():send("hi\n"):line())
  end)

  it("says file, line and caller when the script misuses the reactor", function()
    refused(host.script [[
      local reactor = require "skald.reactor"
      reactor.callLater("soon", print)
    ]], "script.lua:2: ")
  end)

  it("logs more at debug than at error, where a quiet run says nothing", function()
    local function logOf(level)
      local h = host.run { "echo", "listen=tcp:127.0.0.1:0", options = { "--log-level=" .. level } }
      local c = h:connect():send "x\n"
      c:line()
      c:halfClose()
      assert.equal("eof", select(2, c:receiveAll()))
      c:close()
      h:stop()
      return h:errors()
    end
    assert.equal("", logOf "error")
    assert.is_true(#logOf "debug" > 0)
  end)

  it("still logs a handler's error at --log-level=error", function()
    local h = host.serve([[
      return { listen = "tcp:127.0.0.1:0", protocol = { connectionMade = function() error "boom" end } }
    ]], { options = { "--log-level=error" } })
    h:connect():receiveAll()
    h:waitLog "script%.lua:1: boom"
  end)

  it("runs with --jit=off and with options as luajit -O takes them", function()
    local script = [[
      print("jit", jit.status())
      return { listen = "tcp:127.0.0.1:0", protocol = { dataReceived = function(self, data) self.transport:write(data) end } }
    ]]
    local off = host.serve(script, { options = { "--jit=off" } })
    assert.truthy(off:output():find "jit\tfalse", off:output())
    local on = host.serve(script, { options = { "--jit=hotloop=1,hotexit=1" } })
    assert.truthy(on:output():find "jit\ttrue", on:output())
    for _, h in ipairs { off, on } do
      local c = h:connect()
      for i = 1, 200 do
        assert.equal("line " .. i, c:send("line " .. i .. "\n"):line())
      end
    end
  end)

  it("refuses connections once it has ended, and the port can be taken again at once", function()
    local port = ports.tcp()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:" .. port }
    local c = h:connect()
    assert.equal("x", c:send("x\n"):line())
    h:stop()
    assert.equal("eof", select(2, c:receiveAll()))
    local _, code = client.try(port)
    assert.equal("ECONNREFUSED", code)
    local again = host.run { "echo", "listen=tcp:127.0.0.1:" .. port }
    assert.equal(port, again.port)
  end)
end)
