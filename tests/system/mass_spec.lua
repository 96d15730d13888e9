-- Many connections at once. The short form is a small number; SKALD_LONG=1 asks for the numbers of the promise.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"

local LOAD = "build/bench/load"

local function fileExists(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end

local POEM = [[
  local options = ...
  local count = tonumber(options.count)
  local poem = ("0123456789abcde\n"):rep(tonumber(options.size) / 16)
  local made, lost, bad = 0, 0, 0
  local P = {}
  function P:connectionMade()
    self.transport:write(poem)
    self.transport:loseConnection()
    made = made + 1
    if made == count then
      collectgarbage()
      print "all"
    end
  end
  function P:connectionLost(reason)
    lost = lost + 1
    if reason.code ~= "done" then bad = bad + 1 end
    if lost == count then print("none", bad) end
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P, backlog = 4096 }
]]

describe("many connections", function()
  after_each(host.cleanup)

  it("that read a poem slowly share one copy of it, and each gets all of it", function()
    local count, size = host.sanitized and 20 or 50, 8 * 1048576 -- much more than the kernel takes for each
    if host.long then
      count, size = 5000, 1048576
    end
    local h = host.serve(POEM, { "count=" .. count, "size=" .. size })
    local before = h:memory()
    local list, load
    if host.long then
      assert(fileExists(LOAD), LOAD .. " is not built: make bench")
      load = process.start { LOAD, "slow", h.port, count, size }
      load:line "^ready"
    else
      list = client.many(count, h.port, { rcvbuf = 8192 })
    end
    h:line("^all", 60)
    if not host.sanitized then
      local grown = h:memory() - before
      assert.is_true(grown < count * 2048 + 2 * 1048576, ("memory grew by %d bytes for %d"):format(grown, count))
    end
    if load then
      load:write "go\n"
      load:closeInput()
      assert.equal(0, load:wait(600), load:errors())
    else
      local got = {}
      client.each(list, function(c, text, ending)
        if text then
          got[c] = (got[c] or 0) + #text
        else
          assert.equal("eof", ending)
          assert.equal(size, got[c])
        end
      end, 60)
    end
    assert.equal("none\t0", h:line("^none", 60))
  end)

  it("stay open and are all served", function()
    local count = host.long and 15000 or (host.sanitized and 500 or 2000)
    local h = host.serve([[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      return { listen = "tcp:127.0.0.1:0", protocol = P, backlog = 4096, buildProtocol = function(self)
        self.n = (self.n or 0) + 1
        if self.n == tonumber(self.count) then print "all" end
        return require("skald.protocol").Protocol(P):new()
      end, count = (...).count }
    ]], { "count=" .. count })
    if host.long then
      assert(fileExists(LOAD), LOAD .. " is not built: make bench")
      local load = process.start { LOAD, "idle", h.port, count }
      load:line("^ready", 60)
      h:line("^all", 60)
      assert.is_true(h:descriptors() >= count)
      local c = h:connect()
      for i = 1, 1000 do
        assert.equal(tostring(i), c:send(i .. "\n"):line())
      end
      c:close()
      load:closeInput()
      assert.equal(0, load:wait(60), load:errors())
      return
    end
    local list = client.many(count, h.port)
    h:line "^all"
    for i, c in ipairs(list) do
      c:send(i .. "\n")
    end
    for i, c in ipairs(list) do
      assert.equal(tostring(i), c:line())
    end
  end)

  it("come and go without leaving anything behind", function()
    local h = host.run { "echo", "listen=tcp:127.0.0.1:0" }
    local function round(n)
      for i = 1, n do
        local c = h:connect():send(("x"):rep(i % 300) .. "\n")
        assert.equal(i % 300, #c:line())
        if i % 3 == 0 then
          c:reset()
        elseif i % 3 == 1 then
          c:close()
        else
          assert.same({ "", "eof" }, { c:halfClose():receiveAll() })
          c:close()
        end
      end
    end
    round(host.sanitized and 200 or 4000) -- until the collector has found its level
    local probe = h:connect()
    probe:send("x\n"):line()
    local descriptors, memory = h:descriptors(), h:memory()
    round(host.long and 40000 or (host.sanitized and 1000 or 4000))
    probe:send("x\n"):line()
    client.sys.await(function()
      return h:descriptors() <= descriptors
    end, function()
      return h:story(("%d descriptors are open, %d were before"):format(h:descriptors(), descriptors))
    end)
    if not host.sanitized then
      local grown = h:memory() - memory
      assert.is_true(grown < 524288, "memory grew by " .. grown)
    end
  end)

  it("that all leave at once are all told so", function()
    local count = host.sanitized and 200 or 500
    local h = host.serve([[
      local P, n, lost = {}, 0, 0
      function P:connectionMade() n = n + 1; if n == 500 or n == 200 then print("made", n) end end
      function P:connectionLost() lost = lost + 1; if lost == n then print("all lost", lost) end end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]])
    local list = client.many(count, h.port)
    h:line("^made\t" .. count)
    for i, c in ipairs(list) do
      if i % 2 == 0 then
        c:close()
      else
        c:reset()
      end
    end
    h:line("^all lost\t" .. count)
  end)
end)
