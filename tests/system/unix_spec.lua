-- Listening on Unix sockets: the path, its mode, and what lies there already.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"

local function modeOf(path)
  local _, out = process.run { "stat", "-c", "%a %F", path }
  return (out:gsub("\n", ""))
end

local function exists(path)
  return (process.run { "test", "-e", path }) == 0
end

describe("a Unix socket", function()
  after_each(host.cleanup)

  it("is served, has the mode asked for, and is gone when the host has stopped", function()
    local path = host.folder() .. "/echo.sock"
    local h = host.run { "echo", "listen=unix:" .. path .. ":mode=600" }
    assert.equal("unix:" .. path, h.endpoints[1].endpoint)
    assert.equal("600 socket", modeOf(path))
    local c = h:connect()
    local text = ("0123456789abcdef"):rep(65536)
    c:send(text:sub(1, 100000))
    assert.equal(text:sub(1, 100000), c:receive(100000))
    c:halfClose()
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:stop()
    assert.is_false(exists(path))
  end)

  it("has mode 666 unless asked otherwise", function()
    local path = host.folder() .. "/echo.sock"
    host.run { "echo", "listen=unix:" .. path }
    assert.equal("666 socket", modeOf(path))
  end)

  it("takes the place of a stale one that nobody listens on", function()
    local path = host.folder() .. "/stale.sock"
    client.occupy(path)
    assert.is_true(exists(path))
    local h = host.run { "echo", "listen=unix:" .. path }
    assert.equal("x", h:connect():send("x\n"):line())
  end)

  it("never takes the place of one that somebody listens on", function()
    local path = host.folder() .. "/taken.sock"
    local first = host.run { "echo", "listen=unix:" .. path }
    local status, _, log = host.command { "run", "echo", "listen=unix:" .. path }
    assert.equal(1, status)
    assert.truthy(log:find(path, 1, true) and log:lower():find("in use", 1, true), log)
    assert.equal("x", first:connect():send("x\n"):line())
    -- Nor does it remove that one's path when it ends: a third one sees it taken as well.
    assert.equal(1, (host.command { "run", "echo", "listen=unix:" .. path }))
  end)

  it("never removes a file that is no socket", function()
    local path = host.file("plain.txt", "precious")
    local status, _, log = host.command { "run", "echo", "listen=unix:" .. path }
    assert.equal(1, status)
    assert.truthy(log:find(path, 1, true), log)
    assert.equal("precious", io.open(path):read "*a")
  end)

  it("that cannot be made is refused with the reason", function()
    local path = host.folder() .. "/nowhere/echo.sock"
    local status, _, log = host.command { "run", "echo", "listen=unix:" .. path }
    assert.equal(1, status)
    assert.truthy(log:lower():find("no such file", 1, true), log)
    path = host.folder() .. "/" .. ("long"):rep(40) .. ".sock"
    status, _, log = host.command { "run", "echo", "listen=unix:" .. path }
    assert.equal(1, status)
    assert.truthy(log:find("long", 1, true), log)
    assert.is_false(exists(path))
  end)

  it("keeps its bounds, its order and its clean end like TCP", function()
    local path = host.folder() .. "/poem.sock"
    local h = host.serve([[
      local reactor = require "skald.reactor"
      local Factory = require("skald.protocol").Factory
      local P = {}
      function P:connectionMade()
        for i = 1, 300 do self.transport:write((string.char(i % 251)):rep(10000)) end
        self.transport:loseConnection()
      end
      function P:connectionLost(reason) print("lost", reason.code, reason.by) end
      reactor.listenUNIX((...).path, Factory { protocol = P }:new(), { mode = tonumber("600", 8) })
    ]], { "path=" .. path })
    assert.equal("600 socket", modeOf(path))
    local c = h:connect():send "unread"
    local text, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.equal(3000000, #text)
    for i = 1, 300 do
      assert.equal(i % 251, text:byte(i * 10000))
    end
    assert.equal("lost\tdone\tlocal", h:line())
  end)
end)
