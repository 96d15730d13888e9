-- `skald new`: what it writes runs, passes its own spec, and is clean.

local host = require "support.host"
local process = require "support.process"

local function new(name)
  return host.command { "new", name, folder = host.folder() }
end

local function read(name)
  local file = assert(io.open(host.folder() .. "/" .. name))
  local text = file:read "*a"
  file:close()
  return text
end

describe("skald new", function()
  after_each(host.cleanup)

  it("writes a service with its spec, and says what comes next", function()
    local status, out, err = new "things"
    assert.equal(0, status, err)
    assert.equal("", err)
    for _, word in ipairs { "cd things", "skald test", "skald run things.lua", "nc 127.0.0.1 7000" } do
      assert.truthy(out:find(word, 1, true), out)
    end
    assert.falsy((read "things/things.lua" .. read "things/things_spec.lua"):find "NAME")
  end)

  it("writes what check and luacheck have nothing against", function()
    new "my-things"
    local folder = host.folder() .. "/my-things"
    local status, out, err = host.command { "check", "my-things.lua", folder = folder }
    assert.equal(0, status, err)
    assert.equal("my-things.lua: ok\n", out)
    status, out = process.run { "luacheck", "--no-config", "--std=luajit+busted", folder }
    assert.equal(0, status, out)
  end)

  it("writes a service that runs as its head says", function()
    new "things"
    local h = host.run { host.folder() .. "/things/things.lua", "listen=tcp:127.0.0.1:0" }
    local one, other = h:connect(), h:connect()
    assert.equal("add WORDS, list or quit?", one:line())
    one:send "add milk\n"
    assert.equal("1: milk", one:line())
    other:send "list\r\nquit\r\n"
    other:line()
    assert.equal("1: milk", other:line())
    assert.equal(".", other:line())
    assert.equal("bye", other:line())
    assert.same({ "", "eof" }, { other:receiveAll() })
  end)

  it("writes a spec that passes", function()
    new "things"
    local status, out, err = host.command { "test", folder = host.folder() .. "/things" }
    assert.equal("skald test: 6 passed, 0 failed", out:match "([^\n]*)\n$", out .. err)
    assert.equal(0, status)
    assert.equal("", err)
  end)

  it("writes a spec that finds what is broken in the service", function()
    new "things"
    local text = read "things/things.lua"
    host.file("things/things.lua", (text:gsub("#things, words", "#things + 1, words")))
    local status, out = host.command { "test", folder = host.folder() .. "/things" }
    assert.equal(1, status)
    assert.equal("skald test: 2 passed, 4 failed", out:match "([^\n]*)\n$", out)
  end)

  it("overwrites nothing", function()
    new "things"
    host.file("things/things.lua", "mine")
    local status, out, err = new "things"
    assert.equal(1, status)
    assert.equal("", out)
    assert.equal("skald: new: things: File exists\n", err)
    assert.equal("mine", read "things/things.lua")
  end)

  it("refuses a name that is none, with one line", function()
    for name, say in pairs {
      ["a b"] = "'a b' is no name: a letter first, then letters, digits, - and _",
      ["1st"] = "'1st' is no name",
      ["a.lua"] = "'a.lua' is no name",
      [""] = "'' is no name",
      ["sub/things"] = "'sub/things' is a path: go to the folder first",
      echo = "'echo' is the name of a bundled service",
      string = "'string' is the name of a module that Lua or the tests have",
      mediator = "'mediator' is the name of a module that Lua or the tests have",
      busted = "'busted' is the name of a module that Lua or the tests have",
    } do
      local status, out, err = new(name)
      assert.equal(2, status, name)
      assert.equal("", out)
      assert.truthy(err:find("^skald: new: [^\n]*\n$"), err)
      assert.truthy(err:find(say, 1, true), err)
    end
  end)
end)
