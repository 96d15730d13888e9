-- `skald test`: specs that run within a host.

local cjson = require "cjson"
local host = require "support.host"
local process = require "support.process"

local HEAD = [[
  local reactor = require "skald.reactor"
  local defer = require "skald.defer"
  local task = require "skald.task"
  local stream = require "skald.stream"
  local spec = require "skald.spec"
  local endpoints = require "skald.endpoints"
  local await = defer.await
  local function sleep(s) return task.deferLater(reactor, s, function() return "slept" end) end
  local Echo = { dataReceived = function(self, data) self.transport:write(data) end }
  local function listen() return reactor.listenTCP(0, { protocol = Echo }, { interface = "127.0.0.1" }) end
  local function dial(port) return await(stream.connect("tcp:127.0.0.1:" .. port:getHost().port)) end
]]

local SERVICE = [[
  local words = require "words"
  local P = {}
  function P:dataReceived(data)
    if data == "fail" then error "asked to" end
    local state = self.factory.state
    state.count = state.count + 1
    self.transport:write(words.greeting .. state.count)
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P, state = { count = 0 } }
]]

-- Folders first: host.file writes into the test's own.
local function folder(name)
  process.run { "mkdir", "-p", host.folder() .. "/" .. name }
end

local function write(files)
  for name, text in pairs(files) do
    host.file(name, text)
  end
end

-- In the test's folder: `skald test WORDS`; the outcome with what it printed.
local function test(words)
  table.insert(words, 1, "test")
  words.folder = words.folder or host.folder()
  local status, out, err = host.command(words)
  assert.falsy(err:find "Sanitizer" or err:find "leftover", err)
  return { status = status, out = out, err = err }
end

-- Runs one spec, whose text follows HEAD.
local function run(text, words)
  write { ["it_spec.lua"] = HEAD .. text }
  words = words or {}
  table.insert(words, 1, "it_spec.lua")
  return test(words)
end

local function summary(outcome)
  return outcome.out:match "([^\n]*)\n$"
end

local function passes(text, count, words)
  local outcome = run(text, words)
  assert.equal(("skald test: %d passed, 0 failed"):format(count), summary(outcome), outcome.out .. outcome.err)
  assert.equal(0, outcome.status)
  return outcome
end

local function says(text, ...)
  for _, word in ipairs { ... } do
    assert.truthy(text:find(word, 1, true), ("%q is not in: %s"):format(word, text))
  end
end

describe("skald test", function()
  after_each(host.cleanup)

  describe("runs specs and", function()
    it("ends with 0 where all pass, the count in its last line", function()
      passes([[ describe("a", function()
        it("one", function() assert.equal(1, 1) end)
        it("two", function() assert.is_true(true) end)
      end) ]], 2)
    end)

    it("ends with 1 where one fails, and runs those behind it", function()
      local outcome = run [[
        it("one", function() assert.equal(1, 2) end)
        it("two", function() error "no" end)
        it("three", function() end)
        pending "four"
      ]]
      assert.equal(1, outcome.status)
      assert.equal("skald test: 1 passed, 2 failed, 1 pending", summary(outcome))
      says(outcome.out, "it_spec.lua:12: Expected objects to be equal", "it_spec.lua:13: no")
    end)

    it("awaits in tests and in what stands around them", function()
      passes([[ describe("a", function()
        local seen = {}
        setup(function() seen[#seen + 1] = await(sleep(0)) end)
        before_each(function() seen[#seen + 1] = await(sleep(0)) end)
        it("one", function() seen[#seen + 1] = await(sleep(0)) assert.equal(3, #seen) end)
        it("two", function() finally(function() await(sleep(0)) end) assert.equal(5, #seen) end)
        after_each(function() seen[#seen + 1] = await(sleep(0)) end)
        teardown(function() await(sleep(0)) assert.equal(6, #seen) end)
      end) ]], 2)
    end)

    it("awaits a real connection", function()
      passes([[ it("echoes", function()
        local port = listen()
        local peer = dial(port)
        peer:write "hello\n"
        assert.equal("hello", peer:readLine())
        peer:close()
        await(port:stopListening())
      end) ]], 1)
    end)

    it("counts a failure that is awaited as what was raised, at the user's line", function()
      local outcome = run([[
        it("one", function() await(defer.async(function() assert.equal(1, 2) end)()) end)
        it("two", function() await(defer.fail { type = "Odd", message = "so" }) end)
        it("three", function() await(defer.async(function() pending "later" end)()) end)
      ]], { "--output=json" })
      local result = cjson.decode(outcome.out)
      assert.equal(1, #result.failures)
      assert.equal(1, #result.errors)
      assert.equal(1, #result.pendings)
      says(result.failures[1].message, "it_spec.lua:12: Expected")
      assert.equal("it_spec.lua:13: Odd: so", result.errors[1].message)
    end)

    it("says which spec does not compile or load, and runs the others", function()
      write { ["a_spec.lua"] = "it('one', function(", ["b_spec.lua"] = "error 'no'",
        ["c_spec.lua"] = "it('two', function() end)" }
      local outcome = test {}
      assert.equal("skald test: 1 passed, 2 failed", summary(outcome))
      says(outcome.out, "a_spec.lua:1: ", "b_spec.lua:1: no")
    end)

    it("finds modules beside the spec, beside its folder, and the host's own", function()
      folder "spec"
      write {
        ["outer.lua"] = "return 'outer'",
        ["spec/inner.lua"] = "return 'inner'",
        ["spec/protocol.lua"] = "return 'mine'",
        ["spec/it_spec.lua"] = [[ it("finds", function()
          assert.equal("outer", require "outer")
          assert.equal("inner", require "inner")
          assert.equal("mine", require "protocol")
          assert.equal("table", type(require "skald.protocol"))
        end) ]],
      }
      assert.equal(0, test({}).status)
      assert.equal(0, test({ host.folder() .. "/spec/it_spec.lua", folder = "/" }).status)
    end)

    it("loads the modules of each spec for it alone, and those of the library once", function()
      local text = [[
        local class = require("skald.stream").StreamProtocol
        it("sees", function()
          local count = require "count"
          count.n = count.n + 1
          assert.equal(1, count.n)
          rawset(package.loaded["skald.defer"], "seen", rawget(package.loaded["skald.defer"], "seen") or class)
          assert.equal(class, rawget(package.loaded["skald.defer"], "seen"))
        end)
      ]]
      write { ["a_spec.lua"] = text, ["b_spec.lua"] = text, ["count.lua"] = "return { n = 0 }" }
      assert.equal("skald test: 2 passed, 0 failed", summary(test {}))
    end)

    it("finds busted's own modules before those of the same names in this folder", function()
      local files = {}
      for _, name in ipairs { "mediator", "system", "term", "lfs", "say" } do
        files[name .. ".lua"] = "error 'not this one'"
      end
      write(files)
      passes("it('one', function() end)", 1)
    end)

    it("says what failed where the stack is full", function()
      local outcome = run [[ it("one", function() local function deeper() return 1 + deeper() end deeper() end) ]]
      says(outcome.out, "it_spec.lua:12: stack overflow")
      assert.equal("skald test: 0 passed, 1 failed", summary(outcome))
    end)

    it("goes on where a test would end the program", function()
      local outcome = run [[
        it("one", function() os.exit(0) end)
        it("two", function() reactor.stop() end)
        it("three", function() end)
      ]]
      assert.equal("skald test: 1 passed, 2 failed", summary(outcome))
      says(outcome.out, "it_spec.lua:12: os.exit would end", "it_spec.lua:13: reactor.stop would end")
    end)

    it("compiles the same declarations of C for each spec", function()
      local text = 'require("ffi").cdef "struct of_a_spec { int a; };" it("one", function() end)'
      write { ["a_spec.lua"] = text, ["b_spec.lua"] = text }
      assert.equal("skald test: 2 passed, 0 failed", summary(test {}))
    end)

    it("opens no control socket", function()
      passes([[ it("looks", function()
        assert.is_nil(io.open(os.getenv "XDG_RUNTIME_DIR" .. "/skald.sock"))
        assert.is_nil((require("lfs").attributes(os.getenv "XDG_RUNTIME_DIR" .. "/skald.sock")))
      end) ]], 1)
    end)
  end)

  describe("takes", function()
    it("files and folders, and by default those in spec, in tests, or here", function()
      folder "tests/deep"
      local function outcomeOf(words)
        return test(words).out:match "%d+ passed"
      end
      write { ["here_spec.lua"] = "it('one', function() end)" }
      assert.equal("1 passed", outcomeOf {})
      write { ["tests/deep/a_spec.lua"] = "it('one', function() end) it('two', function() end)",
        ["tests/other.lua"] = "error 'this is no spec'" }
      assert.equal("2 passed", outcomeOf {})
      folder "spec"
      assert.equal("2 passed", outcomeOf {})
      write { ["spec/b_spec.lua"] = "for i = 1, 3 do it('three', function() end) end" }
      assert.equal("3 passed", outcomeOf {})
      assert.equal("5 passed", outcomeOf { "tests/", "spec/b_spec.lua" })
      assert.equal("6 passed", outcomeOf { "." })
    end)

    it("no folder without specs, nor a file that is not there", function()
      folder "empty"
      local outcome = test {}
      assert.equal(1, outcome.status)
      assert.equal("skald test: no specs: looked for *_spec.lua in spec/, in tests/ and here\n", outcome.err)
      outcome = test { "empty" }
      assert.equal(1, outcome.status)
      says(outcome.err, "empty: no specs")
      outcome = test { "gone_spec.lua" }
      assert.equal(1, outcome.status)
      says(outcome.err, "gone_spec.lua")
    end)

    it("a filter, and fails where it leaves no test", function()
      local text = "it('early bird', function() end) it('late', function() error 'no' end)"
      passes(text, 1, { "--filter=^early" })
      local outcome = run(text, { "--filter", "nothing" })
      assert.equal(1, outcome.status)
      assert.equal("skald test: no test matches 'nothing'", summary(outcome))
      assert.equal(1, run("").status)
    end)

    it("the outputs of busted, the last line beside those that programs read", function()
      for _, name in ipairs { "TAP", "json", "junit" } do
        local outcome = run("it('one', function() end)", { "--output=" .. name })
        assert.equal("skald test: 1 passed, 0 failed\n", outcome.err, name)
        assert.falsy(outcome.out:find "skald test", name)
        assert.truthy(outcome.out:find "one", outcome.out)
      end
      for _, name in ipairs { "plainTerminal", "utfTerminal", "gtest" } do
        passes("it('one', function() end)", 1, { "--output=" .. name })
      end
    end)

    it("nothing else: wrong usage ends with 2", function()
      for words, say in pairs {
        ["--output=loud"] = "--output: 'loud' is none of plainTerminal, ",
        ["--filter=["] = "--filter: '[' is no pattern",
        ["--timeout=0"] = "--timeout",
        ["--watch"] = "--watch",
      } do
        local outcome = run("it('one', function() end)", { words })
        assert.equal(2, outcome.status, words)
        says(outcome.err, say)
      end
    end)

    it("busted from where Lua finds modules, and says what to install where it is not", function()
      local outcome = run("it('one', function() end)", { env = { LUA_PATH = "/nowhere/?.lua" } })
      assert.equal(1, outcome.status)
      assert.equal("skald test: busted is not installed (module 'busted.core' not found:): "
        .. "on Debian, apt install lua-busted\n", outcome.err)
    end)
  end)

  describe("limits how long", function()
    it("a test waits, and says where it does", function()
      local outcome = run([[
        it("one", function() await(defer.Deferred:new()) end) -- one
        it("two", function() await(sleep(0)) end)
        it("three", function()
          local port = listen()
          finally(function() port:stopListening() end)
          local peer = dial(port)
          peer:readLine() -- three
        end)
        it("four", function() end)
      ]], { "--timeout=0.5" })
      assert.equal("skald test: 2 passed, 2 failed", summary(outcome))
      says(outcome.out, "it_spec.lua:12: waited here for longer than the time limit of 0.5 s",
        "it_spec.lua:18: waited here for longer than the time limit of 0.5 s")
    end)

    it("a test waits that catches the error", function()
      local outcome = run([[
        it("one", function() assert.is_false(pcall(await, defer.Deferred:new())) end)
        it("two", function() end)
      ]], { "--timeout=0.2" })
      assert.equal("skald test: 1 passed, 1 failed", summary(outcome))
    end)

    it("a test goes on waiting after that: the run ends", function()
      local outcome = run([[
        it("one", function() while true do pcall(await, defer.Deferred:new()) end end)
        it("two", function() print "never" end)
      ]], { "--timeout=0.05" })
      assert.equal(1, outcome.status)
      assert.equal("", outcome.out)
      says(outcome.err, "skald test: it_spec.lua:12: waited here", "and cannot be stopped")
    end)

    it("a test runs that never waits: the run ends, and says which", function()
      local outcome = run([[
        it("one", function() end)
        describe("two", function()
          it("loops", function() while true do end end)
        end)
      ]], { "--timeout=0.1" })
      assert.equal(1, outcome.status)
      assert.equal("skald test: it_spec.lua:14: 'loops' has run for 0.6 s without waiting, and cannot be stopped; "
        .. "before it 1 passed, 0 failed\n", outcome.err)
    end)

    it("what stands around a test runs without waiting, and the loading of a spec", function()
      local outcome = run([[
        before_each(function() while true do end end)
        it("one", function() end)
      ]], { "--timeout=0.1" })
      says(outcome.err, "it_spec.lua:13: 'one' has run", "cannot be stopped")
      outcome = run("while true do end", { "--timeout=0.1" })
      says(outcome.err, "'it_spec.lua' has run", "cannot be stopped")
    end)

    it("no test that works for longer, and comes to its end", function()
      passes([[ it("works", function()
        local stop = reactor.seconds() + 1.1
        while reactor.seconds() < stop do end
      end) ]], 1, { "--timeout=1" })
    end)

    it("what stands around a test waits", function()
      local outcome = run([[
        describe("a", function()
          setup(function() await(defer.Deferred:new()) end)
          it("is not run", function() end)
        end)
        describe("b", function()
          after_each(function() await(defer.Deferred:new()) end)
          it("passes", function() end)
        end)
      ]], { "--timeout=0.2" })
      assert.equal(1, outcome.status)
      says(outcome.out, "it_spec.lua:13: waited here", "it_spec.lua:17: waited here")
    end)

    it("a signal is waited for: the run ends, and has failed", function()
      write { ["it_spec.lua"] = HEAD .. [[ it("one", function() print "waits" await(defer.Deferred:new()) end) ]] }
      local p = host.start { "test", "it_spec.lua", folder = host.folder() }
      p:line "waits"
      p:kill "TERM"
      assert.equal(1, p:wait())
    end)
  end)

  describe("fails a test that leaves", function()
    local cases = {
      ["a timer"] = { "reactor.callLater(60, print)", "a timer that is due in ", ", set at it_spec.lua:13" },
      ["a timer of a coroutine"] = { "await(sleep(0)) reactor.callLater(60, print)", "set at it_spec.lua:13" },
      ["a LoopingCall"] = { "task.LoopingCall:new(function() end):start(60)",
        "a LoopingCall of the function at it_spec.lua:13" },
      ["a port"] = { "listen()", "a port that listens on tcp:127.0.0.1:" },
      ["a coroutine with a timer"] = { "defer.async(function() await(sleep(60)) end)()",
        "a timer that is due in ", "set at it_spec.lua:13" },
      ["a cooperative task"] = { "task.Cooperator:new():cooperate(function() return 1 end)",
        "a task of the function at it_spec.lua:13" },
      ["a trigger"] = { "reactor.addSystemEventTrigger('before', 'shutdown', function() end)",
        "a trigger before shutdown, of the function at it_spec.lua:13" },
      ["a UDP port"] = { "reactor.listenUDP(0, {}, { interface = '127.0.0.1' })",
        "a port that listens on udp:127.0.0.1:" },
      ["a process"] = { "reactor.spawnProcess({}, '/bin/sleep', { 'sleep', '60' })", "a process, /bin/sleep" },
      ["a connection"] = { "local port = listen() local peer = dial(port) port:stopListening() return peer",
        "a connection that was made (tcp:127.0.0.1:", "a connection that was accepted",
        "its protocol at it_spec.lua:9" },
      ["a wrapped connection"] = { [[ local policies = require "skald.policies"
        local port = reactor.listenTCP(0, policies.WrappingFactory:new { protocol = Echo }, { interface = "127.0.0.1" })
        local peer = dial(port) port:stopListening() return peer ]],
        "a connection that was accepted", "its protocol at it_spec.lua:9" },
      ["a connector"] = { "reactor.connectTCP('127.0.0.1', 1, require('skald.protocol').ReconnectingClientFactory "
        .. "{ protocol = {}, initialDelay = 60 })", "a connector to tcp:127.0.0.1:1" },
      ["a failure that nobody handled"] = { "defer.fail 'boom'", "Unhandled failure in a Deferred: boom",
        "made at it_spec.lua:13" },
      ["an error that was logged"] = { "require('skald.log').error('bad')", "an error that nobody handled: bad" },
      ["an error of a timer"] = { "reactor.callLater(0, function() error 'oops' end) await(sleep(0.01))",
        "it_spec.lua:13: oops" },
      ["a timer that a connection set"] = { [[ local port = reactor.listenTCP(0, { protocol = { dataReceived =
        function(self) reactor.callLater(60, print) self.transport:write "x" end } }, { interface = "127.0.0.1" })
        local peer = dial(port) peer:write "x" peer:readExactly(1) peer:close() await(port:stopListening()) ]],
        "set at it_spec.lua:14" },
    }
    for name, case in pairs(cases) do
      it(name .. ", which is gone for the next one", function()
        local outcome = run(([[
          it("leaves", function()
            %s
          end)
          it("is left alone", function()
            for _, what in ipairs { "connections", "timers", "listeners", "children" } do
              local census = require("ffi").new "struct skald_census"
              require("skald.core").C.skald_census(require("skald.core").pointer, census)
              assert.equal(what == "timers" and 1 or 0, census[what]) -- the time limit's
            end
          end)
        ]]):format(case[1]), { "--output=json" })
        local result = cjson.decode(outcome.out)
        assert.equal("skald test: 1 passed, 1 failed\n", outcome.err)
        assert.equal("leaves", result.failures[1].name)
        says(result.failures[1].message, unpack(case, 2))
      end)
    end

    it("something, once what stands around it has run: after_each may clean up", function()
      passes([[ describe("a", function()
        local call
        it("one", function() call = reactor.callLater(60, print) end)
        after_each(function() call:cancel() end)
      end) ]], 1)
    end)

    it("something, but not what is about to end", function()
      passes([[
        it("closes", function()
          local port = listen()
          local peer = dial(port)
          peer:write(("x"):rep(1000000))
          peer:close()
          port:stopListening()
        end)
        it("handles late", function()
          local d = defer.fail "boom"
          await(sleep(0.01))
          d:addErrback(function() end)
        end)
        it("is done in the next turn", function() reactor.callLater(0, function() end) end)
      ]], 3)
    end)

    it("something, but not what waits by no means of the host's", function()
      passes([[
        it("waits for nothing", function() defer.async(function() await(defer.Deferred:new()) end)() end)
        it("feeds by hand what reads on", function()
          local transport = { write = function() end, registerProducer = function() end,
            pauseProducing = function() end, resumeProducing = function() end, loseConnection = function() end }
          local Reader = stream.StreamProtocol { handle = function(_, s) s:readLine() end }
          Reader:new():makeConnection(transport)
        end)
        it("has a clock", function()
          local clock = task.Clock:new()
          clock:callLater(60, print)
          local loop = task.LoopingCall:new(function() end)
          loop.clock = clock
          loop:start(1)
          task.Cooperator:new { clock = clock }:cooperate(function() return 1 end)
        end)
      ]], 3)
    end)

    it("something, and a service that fails as it stops", function()
      write { ["script.lua"] = [[
        return { listen = "tcp:127.0.0.1:0", protocol = {}, stopFactory = function() error "cannot stop" end }
      ]] }
      local outcome = run [[ it("one", function() spec.serve "script.lua" end) ]]
      assert.equal("skald test: 0 passed, 1 failed", summary(outcome))
      says(outcome.out, "script.lua:1: cannot stop")
    end)

    it("something, not what a block around it has made", function()
      passes([[ describe("a", function()
        local port, call, loop, peer
        local ticks = 0
        setup(function()
          port, call = listen(), reactor.callLater(60, print)
          loop = task.LoopingCall:new(function() ticks = ticks + 1 end)
          loop:start(0.001)
          peer = dial(port)
        end)
        for i = 1, 3 do
          it("one" .. i, function()
            peer:write "hello\n"
            assert.equal("hello", peer:readLine())
            local before = ticks
            await(sleep(0.01))
            assert.is_true(ticks > before)
          end)
        end
        teardown(function() port:stopListening() call:cancel() loop:stop() peer:close() end)
      end) ]], 3)
    end)

    it("something, and a block that does so", function()
      local outcome = run([[ describe("the block", function()
        setup(function() reactor.callLater(60, print) end) -- set
        it("one", function() end)
      end) ]], { "--output=json" })
      assert.equal(1, outcome.status)
      local result = cjson.decode(outcome.out)
      assert.equal(1, #result.successes)
      assert.equal("the block teardown", result.errors[1].name)
      says(result.errors[1].message, "a timer that is due", "it_spec.lua:13")
    end)

    it("an error, but not one that it asks for", function()
      passes([[ it("one", function()
        require("skald.log").error "first"
        require("skald.log").error "second"
        assert.same({ "second" }, spec.flushLoggedErrors "^sec")
        assert.same({ "first" }, spec.flushLoggedErrors())
        assert.same({}, spec.flushLoggedErrors())
      end) ]], 1)
    end)

    it("and shows what was logged with another failure", function()
      local outcome = run([[ it("one", function()
        require("skald.log").error "the reason"
        assert.equal(1, 2)
      end) ]])
      assert.equal(1, outcome.status)
      says(outcome.out, "Expected objects", "meanwhile: the reason")
    end)
  end)

  describe("serves a script that", function()
    before_each(function()
      folder "spec"
      write { ["script.lua"] = SERVICE, ["words.lua"] = "return { greeting = 'hello ' }" }
    end)

    local function serving(text)
      write { ["spec/it_spec.lua"] = HEAD .. text }
      local outcome = test {}
      assert.equal("", outcome.err)
      assert.equal(0, outcome.status, outcome.out)
      assert.falsy(outcome.out:find "listening")
    end

    it("listens on an endpoint of the test's own, and ends with the test", function()
      serving [[
        local port
        for i = 1, 2 do
          it("serves", function()
            local service = spec.serve("script.lua", { listen = "tcp:127.0.0.1:0" })
            assert.equal("TCP", service:getHost().type)
            port = service:getHost().port
            assert.equal("tcp:127.0.0.1:" .. port, service:getEndpoint())
            local peer = await(stream.connect(service:getEndpoint()))
            peer:write "x"
            assert.equal("hello 1", peer:readSome())
            assert.equal(1, service.factory.state.count)
            assert.equal(1, service.factory:connectionCount())
            peer:close()
          end)
        end
        it("is gone", function()
          local ok, problem = pcall(await, stream.connect("tcp:127.0.0.1:" .. port))
          assert.is_false(ok)
          assert.matches("ECONNREFUSED", problem.message .. (problem.value.errno or ""))
        end)
      ]]
    end)

    it("is found beside the spec's folder, wherever the run starts", function()
      write { ["spec/it_spec.lua"] = HEAD .. [[ it("serves", function() spec.serve "script.lua" end) ]] }
      assert.equal(0, test({ host.folder() .. "/spec", folder = "/" }).status)
    end)

    it("is reloaded, and keeps connections and state", function()
      write { ["next.lua"] = SERVICE:gsub("words.greeting", "'bye '") .. "" }
      serving [[ it("reloads", function()
        local service = spec.serve "script.lua"
        local peer = await(stream.connect(service:getEndpoint()))
        local function ask() peer:write "x" return peer:readSome() end
        assert.equal("hello 1", ask())
        assert.equal("committed", await(service:reload()).result)
        assert.equal("hello 2", ask())
        assert.equal("committed", await(service:reload { file = "next.lua" }).result)
        assert.equal("bye 3", ask())
        local report = await(service:reload { text = "return nonsense(" })
        assert.equal("refused", report.result)
        assert.equal("compile", report.phase)
        assert.equal("bye 4", ask())
        peer:close()
        await(service:stop())
        assert.has_error(function() service:reload() end)
      end) ]]
    end)

    it("lasts as long as the block that started it", function()
      serving [[ describe("a", function()
        local service
        setup(function() service = spec.serve "script.lua" end)
        for i = 1, 3 do
          it("counts on", function()
            local peer = await(stream.connect(service:getEndpoint()))
            peer:write "x"
            assert.equal("hello " .. i, peer:readSome())
            peer:close()
          end)
        end
      end) ]]
    end)

    it("fails, whose errors fail the test", function()
      write { ["spec/it_spec.lua"] = HEAD .. [[
        local function ask()
          local peer = await(stream.connect(spec.serve("script.lua"):getEndpoint()))
          peer:write "fail"
          assert.is_nil((peer:readSome()))
          peer:close()
        end
        it("fails", ask)
        it("expects it", function() ask() assert.equal(1, #spec.flushLoggedErrors "asked to") end)
      ]] }
      local outcome = test { "--output=json" }
      assert.equal("skald test: 1 passed, 1 failed\n", outcome.err)
      says(outcome.out, "script.lua:4: asked to")
    end)

    it("is refused, at the line that is wrong", function()
      write { ["wrong.lua"] = "local x = 1\nreturn { listen = 'tcp:0', protcol = {} }", ["bad.lua"] = "return (" }
      serving [[ it("is refused", function()
        local function problem(...)
          local _, text = pcall(spec.serve, ...)
          return text
        end
        assert.matches("^bad.lua:1: ", problem "bad.lua")
        assert.matches("^wrong.lua:2: .*protocol", problem "wrong.lua")
        assert.matches("gone.lua: no such script here, nor beside spec", problem "gone.lua")
        assert.matches("listen: .*column 5", problem("script.lua", { listen = "tcp:x" }))
        assert.matches("takes the path", problem())
        assert.matches("options as strings", problem("script.lua", { listen = {} }))
      end) ]]
    end)

    it("would stop the host is not let", function()
      write { ["stops.lua"] = [[
        local reactor = require "skald.reactor"
        return { listen = "tcp:127.0.0.1:0", protocol = { connectionMade = function() reactor.stop() end } }
      ]] }
      serving [[ it("goes on", function()
        local peer = await(stream.connect(spec.serve("stops.lua"):getEndpoint()))
        assert.is_nil((peer:readSome()))
        peer:close()
        assert.matches("reactor.stop would end the run", spec.flushLoggedErrors()[1])
      end) ]]
    end)
  end)

  it("is the only place for skald.spec", function()
    local h = host.serve [[
      local spec = require "skald.spec"
      print(pcall(spec.serve, "x.lua"))
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.truthy(h:output():find("serve is for specs that `skald test` runs", 1, true), h:output())
  end)
end)
