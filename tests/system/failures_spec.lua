-- What becomes of errors in Deferreds, coroutines and streams: each is logged once, with the user's own lines, and the
-- host lives.

local host = require "support.host"
local client = require "support.client"

-- `commands` of host.commands, with what they use.
local HEAD = [[
  local reactor = require "skald.reactor"
  local defer = require "skald.defer"
  local await = defer.await
  local function later(seconds)
    local d = defer.Deferred:new()
    reactor.callLater(seconds, d.callback, d)
    return d
  end
]]

-- Serves commands; the text, for the lines of its marks, and the host.
local function serve(text, words)
  local all = host.commands(HEAD .. text)
  return host.serve(all, words), all
end

-- Sends a command, and waits until the host has ended the turns of what the command does within some milliseconds.
local function run(h, command)
  h:connect():send(command)
  h:line("^done " .. command)
end

-- The place of a mark as the log writes it.
local function at(text, mark)
  return ("script.lua:%d:"):format(host.lineOf(text, mark))
end

-- The part of the log that belongs to one message, from `what` to the next line with a time.
local function entry(h, what)
  local log = h:errors()
  local from = log:find(what, 1, true)
  assert(from, h:story("nothing is logged of " .. what))
  local to = log:find("\n%d%d%d%d%-%d%d%-%d%dT", from) or #log
  return log:sub(from, to)
end

-- That a host still answers.
local function lives(h)
  local c = h:connect()
  c:send "ping"
  assert.equal("pong", c:receive(4))
end

local PING = [[
  function commands.ping(self, t) t:write "pong" end
  local function done(word) reactor.callLater(0.02, reactor.callLater, 0, print, "done " .. word) end
]]

describe("a failure that nobody handles", function()
  after_each(host.cleanup)

  it("is logged once, with the lines where it was raised", function()
    local h, text = serve(PING .. [[
      local function deeper() error "it broke" end -- deeper
      local function deep() deeper() return nil end -- deep
      function commands.go()
        done "go"
        local d = later(0)
        d:addCallback(function() deep() return nil end) -- callback
      end
    ]])
    run(h, "go")
    local said = entry(h, "Unhandled failure in a Deferred: ")
    for _, mark in ipairs { "-- deeper", "-- deep\n", "-- callback" } do
      local line = mark == "-- deep\n" and host.lineOf(text, "local function deep()") or host.lineOf(text, mark)
      assert.truthy(said:find(("script.lua:%d:"):format(line), 1, true), said)
    end
    assert.falsy(said:find("skald/", 1, true), said)
    assert.same({ 1, 1 }, { h:logged "Unhandled failure", h:logged "it broke" })
    lives(h)
  end)

  it("is logged for each Deferred, and each of a turn", function()
    local h = serve(PING .. [[
      function commands.go()
        done "go"
        for i = 1, 3 do defer.fail("number " .. i) end
        defer.maybeDeferred(error, "number 4", 0)
      end
    ]])
    run(h, "go")
    assert.equal(4, h:logged "Unhandled failure")
    for i = 1, 4 do
      assert.equal(1, h:logged("number " .. i))
    end
  end)

  it("is not logged where somebody handles it in the same turn", function()
    local h = serve(PING .. [[
      function commands.go()
        done "go"
        local d = defer.fail "handled"
        local e = later(0)
        e:addCallback(error, 0)
        e:addErrback(function() end)
        reactor.callLater(0, function() end)
        local f = defer.Deferred:new()
        f:errback "handled"
        f:addBoth(function() return "fine" end)
        d:addErrback(function(failure) print("got", failure) end)
      end
    ]])
    run(h, "go")
    h:stop()
    assert.same({ 0, 0 }, { h:logged "Unhandled", h:logged "handled late" })
  end)

  it("is logged at the end of the turn, and said to be handled late when somebody does", function()
    local h = serve(PING .. [[
      function commands.go()
        local d = defer.fail "too late"
        reactor.callLater(0.01, function() d:addErrback(function(failure) print("got", failure) end) end)
      end
    ]])
    h:connect():send "go"
    h:line "^got\ttoo late"
    h:waitLog "Unhandled failure in a Deferred: too late"
    h:waitLog "info handled late: too late"
    assert.same({ 1, 1 }, { h:logged "Unhandled", h:logged "handled late" })
  end)

  it("is said to be handled late when it is chained or gathered later", function()
    local h = serve(PING .. [[
      function commands.go()
        local list = { defer.fail "one", defer.fail "two" }
        reactor.callLater(0.01, function()
          defer.succeed():addCallback(function() return list[1] end):addErrback(function() end)
          defer.DeferredList:new({ list[2] }, { consumeErrors = true })
          print "done go"
        end)
      end
    ]])
    h:connect():send "go"
    h:line "^done go"
    h:waitLog "handled late: one"
    h:waitLog "handled late: two"
    assert.equal(2, h:logged "Unhandled")
  end)

  it("is said to be handled late when it is awaited later", function()
    local h = serve(PING .. [[
      function commands.go()
        local d = defer.fail "waits"
        reactor.callLater(0.01, defer.async(function() print("got", pcall(await, d)) end))
      end
    ]])
    h:connect():send "go"
    h:line "^got\tfalse\twaits"
    h:waitLog "handled late: waits"
  end)

  it("is logged again when it is a new one, raised by who handled the first", function()
    local h = serve(PING .. [[
      function commands.go()
        done "go"
        defer.fail("first"):addErrback(function() error "second" end)
      end
    ]])
    run(h, "go")
    assert.same({ 1, 0 }, { h:logged "Unhandled", h:logged "Unhandled failure in a Deferred: first" })
    assert.is_true(h:logged "second" > 0)
  end)

  it("is logged before the host ends", function()
    local h = serve(PING .. [[
      function P:connectionLost() defer.fail "at the very end" end
      function commands.go() print "in" end
    ]])
    h:connect():send "go"
    h:line "^in"
    h:stop()
    assert.equal(1, h:logged "Unhandled failure in a Deferred: at the very end")
  end)

  it("of any kind of value is logged as what it is", function()
    local h = serve(PING .. [[
      function commands.go()
        done "go"
        defer.fail { type = "Strange", message = "in its own words" }
        defer.fail(setmetatable({}, { __tostring = function() error "no text" end }))
        defer.fail(nil)
        defer.fail(42)
        local d = defer.Deferred:new()
        d:cancel()
      end
    ]])
    run(h, "go")
    assert.equal(5, h:logged "Unhandled failure in a Deferred: ")
    for _, words in ipairs { "Strange: in its own words", "(a table without a text)", ": nil", ": 42", "CancelledError: " } do
      assert.is_true(h:logged(words) >= 1, words)
    end
    lives(h)
  end)

  it("says with --debug where its Deferred was made, and without does not", function()
    for _, debug in ipairs { true, false } do
      local h, text = serve(PING .. [[
        local function make()
          local d = defer.Deferred:new() -- made
          return d
        end
        function commands.go()
          done "go"
          local d = make()
          reactor.callLater(0, d.errback, d, "of no use")
        end
      ]], { options = debug and { "--debug" } or {} })
      run(h, "go")
      local place = ("the Deferred was made at %s/script.lua:%d"):format(host.folder(), host.lineOf(text, "-- made"))
      assert.equal(debug and 1 or 0, h:logged(place))
      assert.equal(debug and 1 or 0, h:logged "was made at")
      h:stop()
    end
  end)

  it("in thousands holds no memory", function()
    local h = serve(PING .. [[
      function commands.go(self, t)
        for _ = 1, 1000 do defer.fail "many" end
        reactor.callLater(0.02, t.write, t, "done\n")
      end
    ]])
    local function once()
      local c = h:connect()
      assert.equal("done", c:send("go"):line())
      c:close()
      h:kill "USR1"
      return tonumber((h:waitLog "(%d+) KB of Lua"))
    end
    once()
    local before = once()
    for _ = 1, 3 do
      once()
    end
    assert.is_true(once() - before < 100, "memory grows")
  end)
end)

describe("an error in an async function", function()
  after_each(host.cleanup)

  it("is logged once, with its line and those that awaited it", function()
    local h, text = serve(PING .. [[
      local inner = defer.async(function()
        await(later(0))
        error "inside" -- inner
      end)
      local outer = defer.async(function()
        local value = await(inner()) -- outer
        return value
      end)
      function commands.go()
        done "go"
        outer()
      end
    ]])
    run(h, "go")
    local said = entry(h, "Unhandled failure in a Deferred: ")
    assert.truthy(said:find(at(text, "-- inner"), 1, true), said)
    assert.truthy(said:find(("awaited at %s/script.lua:%d"):format(host.folder(), host.lineOf(text, "-- outer")), 1, true), said)
    assert.falsy(said:find("skald/", 1, true), said)
    assert.equal(1, h:logged "Unhandled failure")
    lives(h)
  end)

  it("before its first await does not reach the caller, and does not end its connection", function()
    local h = serve(PING .. [[
      commands.go = defer.async(function(self, t)
        done "go"
        error "early"
      end)
    ]])
    local c = h:connect()
    c:send "go"
    h:line "^done go"
    c:send "ping"
    assert.equal("pong", c:receive(4))
    assert.equal(1, h:logged "Unhandled failure")
  end)

  it("that is caught around await is nobody's business", function()
    local h = serve(PING .. [[
      commands.go = defer.async(function()
        local ok, failure = pcall(await, later(0):addCallback(error, "caught"))
        print("caught", ok, defer.isFailure(failure))
        print("again", pcall(await, defer.fail "at once"))
        done "go"
      end)
    ]])
    h:connect():send "go"
    h:line "^caught\tfalse\ttrue"
    h:line "^again\tfalse\tat once"
    h:line "^done go"
    assert.same({ 0, 0 }, { h:logged "Unhandled", h:logged " error " })
  end)

  it("is a plain yield, which is said so", function()
    local h = serve(PING .. [[
      commands.go = defer.async(function()
        done "go"
        coroutine.yield(1)
        print "never"
      end)
    ]])
    run(h, "go")
    assert.equal(1, h:logged "an async function waits by await, not by coroutine.yield")
    assert.falsy(h:output():find("never", 1, true))
  end)

  it("is an await outside, or in a coroutine of its own, which raises at the caller's line", function()
    local h, text = serve(PING .. [[
      function commands.go()
        print("outside", pcall(function() local v = await(defer.succeed(1)) return v end)) -- outside
        defer.async(function()
          print("inside", coroutine.wrap(function()
            return pcall(function() local v = await(defer.Deferred:new()) return v end) -- inside
          end)())
          done "go"
        end)()
      end
    ]])
    h:connect():send "go"
    local line = h:line "^outside\tfalse"
    assert.truthy(line:find(at(text, "-- outside"), 1, true), line)
    line = h:line "^inside\tfalse"
    assert.truthy(line:find(at(text, "-- inside"), 1, true), line)
  end)

  it("in hundreds at once harms nobody", function()
    local h = serve(PING .. [[
      local failing = defer.async(function(i)
        await(later(0.001 * (i % 7)))
        error("failing " .. i)
      end)
      function commands.go()
        for i = 1, 300 do failing(i) end
        reactor.callLater(0.1, reactor.callLater, 0, print, "done go")
      end
    ]])
    h:connect():send "go"
    h:line "^done go"
    assert.equal(300, h:logged "Unhandled failure")
    lives(h)
  end)
end)

describe("an error in a handler of a stream", function()
  after_each(host.cleanup)

  local function stream(handle)
    local text = HEAD .. ([[
      local stream = require "skald.stream"
      local S = stream.StreamProtocol {}
      function S:connectionLost(why)
        print("lost", why.code, why.by, why.traceback ~= nil)
      end
      function S:handle(peer)
        %s
      end
      return { listen = "tcp:127.0.0.1:0", protocol = S }
    ]]):format(handle)
    return host.serve(text), text
  end

  it("is logged once with its line, and ends the connection as an error, what was sent staying sent", function()
    local h, text = stream [[
      local function parse(line) error("bad line: " .. line) end -- parse
      while true do
        local line = peer:readLine()
        if not line then return end
        if line == "bad" then parse(line) end -- loop
        peer:write(line .. "\n")
      end
    ]]
    local c = h:connect()
    assert.equal("good", c:send("good\n"):line())
    c:send "bad\n"
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:line "^lost\terror\tlocal\ttrue"
    local said = entry(h, "bad line: bad")
    assert.truthy(said:find(at(text, "-- parse"), 1, true), said)
    assert.truthy(said:find(at(text, "-- loop"), 1, true), said)
    assert.same({ 1, 0 }, { h:logged ": bad line: bad", h:logged "Unhandled" })
    assert.equal("good", h:connect():send("good\n"):line())
  end)

  it("before its first wait, and after an await, is logged the same way", function()
    for _, handle in ipairs { 'error "oops" -- here', 'await(later(0.01)) error "oops" -- here',
      'await(defer.fail "oops") -- here', 'peer:write "x" await(defer.async(function() error "oops" end)()) -- here' } do
      local h, text = stream(handle)
      local c = h:connect()
      assert.equal("eof", select(2, c:receiveAll()), handle)
      h:line "^lost\terror\tlocal\ttrue"
      local said = entry(h, "oops")
      assert.truthy(said:find(("script.lua:%d"):format(host.lineOf(text, "-- here")), 1, true), said)
      assert.equal(0, h:logged "Unhandled")
      h:stop()
    end
  end)

  it("after the connection was lost is logged, too", function()
    local h = stream [[
      peer:readLine()
      error "nobody is there"
    ]]
    h:connect():close()
    h:line "^lost"
    h:waitLog "nobody is there"
    h:stop()
    assert.equal(1, h:logged ": nobody is there")
  end)

  it("is reading where nothing can wait, and while another coroutine waits for the stream", function()
    local h, text = stream [[
      reactor.callLater(0, function()
        print("timer", pcall(function() local x = peer:readLine() return x end)) -- timer
        defer.async(function()
          print("other", pcall(function() local x = peer:readLine() return x end)) -- other
        end)()
      end)
      peer:write(peer:readLine())
    ]]
    local c = h:connect()
    for _, word in ipairs { "timer", "other" } do
      local line = h:line("^" .. word .. "\tfalse\t")
      assert.truthy(line:find(at(text, "-- " .. word), 1, true), line)
    end
    assert.equal("fine", c:send("fine\n"):receive(4))
  end)
end)

describe("an error in a callback", function()
  after_each(host.cleanup)

  it("of a Deferred that a connection waits for does not end the connection", function()
    local h = serve(PING .. [[
      function commands.go(self)
        done "go"
        later(0):addCallback(function() error "mine" end)
      end
    ]])
    local c = h:connect()
    c:send "go"
    h:line "^done go"
    c:send "ping"
    assert.equal("pong", c:receive(4))
    assert.equal(1, h:logged "Unhandled")
  end)

  it("of whenRunning, a timer, or a trigger is logged once with its line", function()
    local text = HEAD .. [[
      reactor.callWhenRunning(function() error "running" end) -- running
      reactor.callLater(0, function() error "timer" end) -- timer
      reactor.addSystemEventTrigger("before", "shutdown", function() error "trigger" end) -- trigger
      reactor.callLater(0.02, reactor.stop)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = host.serve(text)
    h:ends(0)
    for _, word in ipairs { "running", "timer", "trigger" } do
      assert.equal(1, h:logged(("script.lua:%d: %s"):format(host.lineOf(text, "-- " .. word), word)), word)
    end
  end)

  it("is none where what a load had started ends with it, at a reload and after a refusal", function()
    local text = HEAD .. [[
      local path = "]] .. host.folder() .. [[/none.sock"
      require("skald.client").ClientService:new("unix:" .. path, { protocol = {}, initialDelay = 20 }):startService()
      defer.async(function() await(later(20)) end)()
      defer.async(function() await(defer.Deferred:new()) end)()
    ]]
    local definition = 'return { listen = "tcp:127.0.0.1:0", protocol = {} }'
    local h = host.serve(text .. definition)
    host.script(text .. "print 'again' " .. definition)
    assert.equal(0, (host.command { "reload" }))
    host.script(text .. "error 'no'")
    assert.equal(1, (host.command { "reload" }))
    h:stop()
    assert.equal(0, h:logged "Unhandled", h:errors())
  end)
end)

describe("coroutines within each other", function()
  after_each(host.cleanup)

  it("end in a stack overflow that can be caught, and the host lives", function()
    for _, text in ipairs {
      "local function nest(n) return coroutine.wrap(function() return nest(n + 1) end)() end",
      "local function nest(n) local ok, m = coroutine.resume(coroutine.create(nest), n + 1) "
        .. "if not ok then error(m, 0) end return m end",
      "local function nest(n) return coroutine.wrap(function() local ok, m = pcall(nest, n + 1) error(m, 0) end)() end",
    } do
      local h = serve(PING .. text .. [[
        function commands.go() print("nested", pcall(nest, 1)) end
        function commands.bare() nest(1) end
        commands.async = defer.async(function() await(later(0)); print("nested", pcall(nest, 1)) end)
      ]])
      local c = h:connect()
      for _, word in ipairs { "go", "async", "go" } do
        c:send(word)
        assert.truthy(h:line("^nested\tfalse"):find("stack overflow", 1, true))
      end
      c:send "bare"
      h:line "^lost\terror"
      lives(h)
      h:stop()
    end
  end)

  it("work to a good depth, and again after an overflow", function()
    local h = serve(PING .. [[
      local function nest(n, most) return coroutine.wrap(function() return n == most and n or nest(n + 1, most) end)() end
      function commands.go()
        for _ = 1, 20 do
          local ok = pcall(nest, 1, 1e9)
          print("deep", ok, nest(1, 150))
        end
        done "go"
      end
    ]])
    h:connect():send "go"
    for _ = 1, 20 do
      h:line "^deep\tfalse\t150"
    end
    h:line "^done go"
  end)

  it("of async functions nest as deep as they like", function()
    local h = serve(PING .. [[
      local nest
      nest = defer.async(function(n)
        if n == 0 then await(later(0)) return 0 end
        return await(nest(n - 1)) + 1
      end)
      function commands.go() nest(20000):addBoth(function(n) print("depth", n) end) end
    ]])
    h:connect():send "go"
    h:line "^depth\t20000"
    lives(h)
  end)

  it("that a script leaves suspended in hundreds harm nobody", function()
    local h = serve(PING .. [[
      local left = {}
      function commands.go()
        for i = 1, 1000 do
          left[i] = coroutine.wrap(function() coroutine.yield(i) error("late " .. i) end)
          left[i]()
        end
        local failed = 0
        for i = 1, 1000 do if not pcall(left[i]) then failed = failed + 1 end end
        print("failed", failed)
      end
    ]])
    h:connect():send "go"
    h:line "^failed\t1000"
    assert.equal("pong", client.tcp(h.port):send("ping"):receive(4))
  end)
end)
