local defer = require "skald.defer"
local owner = require "skald.owner"
local task = require "skald.task"
local outcomes = require "support.outcomes"

local isPending, valueOf, failureOf = outcomes.isPending, outcomes.valueOf, outcomes.failureOf

local Deferred, async, await = defer.Deferred, defer.async, defer.await
local MANY = 10000

local function nothing() end

local function here()
  return debug.getinfo(2, "l").currentline
end

local function raisesHere(message, f, ...)
  local ok, problem = pcall(f, ...)
  assert.is_false(ok)
  assert.matches("async_spec%.lua:%d+:", tostring(problem))
  assert.matches(message, tostring(problem))
end

-- How many calls deep we are; beyond 500 it does not matter.
local function depth()
  local level = 1
  while level < 500 and debug.getinfo(level, "l") do
    level = level + 1
  end
  return level
end

before_each(function()
  defer.unhandled()
end)

-- What a test leaves behind unhandled is an error of the test or of the module.
after_each(function()
  local first = defer.unhandled()[1]
  assert.is_nil(first, "left unhandled: " .. tostring(first and first.failure or first))
end)

describe("an async function", function()
  it("gives a Deferred of what it returns", function()
    assert.equal("value", valueOf(async(function() return "value" end)()))
    assert.is_nil(valueOf(async(nothing)()))
    assert.is_false(valueOf(async(function() return false end)()))
  end)

  it("gets the arguments of the call, nils among them", function()
    local d = async(function(...)
      return { n = select("#", ...), ... }
    end)(nil, 2, nil)
    assert.same({ n = 3, nil, 2 }, valueOf(d))
  end)

  it("may be a method", function()
    local object = { greeting = "hello" }
    object.greet = async(function(self, name)
      return self.greeting .. " " .. await(defer.succeed(name))
    end)
    assert.equal("hello you", valueOf(object:greet "you"))
  end)

  it("runs at once up to the first thing that it has to wait for", function()
    local said = {}
    local d = Deferred:new()
    local result = async(function()
      said[#said + 1] = "started"
      await(defer.succeed())
      said[#said + 1] = "went on"
      await(d)
      said[#said + 1] = "ended"
    end)()
    assert.same({ "started", "went on" }, said)
    assert.is_true(isPending(result))
    d:callback()
    assert.same({ "started", "went on", "ended" }, said)
    assert.is_nil(valueOf(result))
  end)

  it("gives a new call each time", function()
    local first, second = Deferred:new(), Deferred:new()
    local double = async(function(d)
      return await(d) * 2
    end)
    local a, b = double(first), double(second)
    second:callback(2)
    first:callback(1)
    assert.equal(2, valueOf(a))
    assert.equal(4, valueOf(b))
  end)

  it("fails its Deferred with what it raises, before and after a wait", function()
    local function breaks(d)
      await(d)
      error("broken", 0)
    end
    assert.equal("broken", failureOf(async(breaks)()).value)
    local d = Deferred:new()
    local result = async(breaks)(d)
    d:callback()
    assert.equal("broken", failureOf(result).value)
  end)

  it("keeps the type and value of a table that it raises", function()
    local raised = { type = "ProtocolError", message = "bad length" }
    local f = failureOf(async(function() error(raised) end)())
    assert.equal("ProtocolError", f.type)
    assert.equal(raised, f.value)
  end)

  it("fails its Deferred if it returns a failure", function()
    local f = defer.failure "no"
    assert.equal(f, failureOf(async(function() return f end)()))
  end)

  it("may be called from others, which wait for it", function()
    local said, clock = {}, task.Clock:new()
    local function later(value)
      local d = Deferred:new()
      clock:callLater(1, function() d:callback(value) end)
      return d
    end
    local inner = async(function()
      said[#said + 1] = 2
      await(later())
      said[#said + 1] = 3
      return "result"
    end)
    local d = async(function()
      said[#said + 1] = 1
      local result = await(inner())
      said[#said + 1] = 4
      await(later())
      said[#said + 1] = 5
      return result
    end)()
    assert.same({ 1, 2 }, said)
    clock:advance(1)
    assert.same({ 1, 2, 3, 4 }, said)
    clock:advance(1)
    assert.same({ 1, 2, 3, 4, 5 }, said)
    assert.equal("result", valueOf(d))
  end)

  it("is made of a function only, at the caller's line", function()
    raisesHere("function", function()
      async "no function"
    end)
  end)

  it("may be a callback", function()
    local d, inner = Deferred:new(), Deferred:new()
    d:addCallback(async(function(value)
      return value + await(inner)
    end))
    d:callback(1)
    assert.is_true(isPending(d))
    inner:callback(2)
    assert.equal(3, valueOf(d))
  end)

  it("may use coroutines of its own", function()
    local result = async(function()
      local sum = 0
      for n in coroutine.wrap(function()
        coroutine.yield(1)
        coroutine.yield(2)
      end) do
        sum = sum + n + await(defer.succeed(10))
      end
      return sum
    end)()
    assert.equal(23, valueOf(result))
  end)

  it("whose Deferred nobody takes leaves its failure to be noted, once", function()
    local d = Deferred:new()
    local inner = async(function() await(d) end)
    async(function() await(inner()) end)()
    d:errback "no"
    local left = defer.unhandled()
    assert.equal(1, #left)
  end)
end)

describe("await", function()
  it("gives the value of a Deferred that has fired", function()
    assert.equal("value", valueOf(async(function() return await(defer.succeed "value") end)()))
  end)

  it("gives the value of a Deferred that fires later", function()
    local d = Deferred:new()
    local result = async(function() return await(d) end)()
    d:callback "value"
    assert.equal("value", valueOf(result))
  end)

  it("gives nil and false, now and later", function()
    for _, early in ipairs { true, false } do
      local a, b = Deferred:new(), Deferred:new()
      local function fire()
        a:callback(nil)
        b:callback(false)
      end
      if early then
        fire()
      end
      local result = async(function()
        local first = await(a)
        return { first == nil, await(b) == false }
      end)()
      if not early then
        fire()
      end
      assert.same({ true, true }, valueOf(result))
    end
  end)

  it("gives back at once what is no Deferred", function()
    local object = {}
    local result = async(function()
      return { await(5), await "text", await(object) == object, await(nil) == nil, await(false) == false }
    end)()
    assert.same({ 5, "text", true, true, true }, valueOf(result))
  end)

  it("raises the failure of a Deferred that has failed: the same one", function()
    local f = defer.failure "no"
    local result = async(function()
      local ok, raised = pcall(await, defer.fail(f))
      return { ok, raised }
    end)()
    local got = valueOf(result)
    assert.is_false(got[1])
    assert.equal(f, got[2])
  end)

  it("raises the failure of a Deferred that fails later: the same one", function()
    local f, d = defer.failure { type = "Broken" }, Deferred:new()
    local result = async(function()
      local ok, raised = pcall(function() return await(d) end)
      return { ok, raised }
    end)()
    d:errback(f)
    assert.same({ false, f }, valueOf(result))
  end)

  it("lets a failure that nobody catches become that of the function: the same one", function()
    local f, d = defer.failure "no", Deferred:new()
    assert.equal(f, failureOf(async(function() await(defer.fail(f)) end)()))
    local result = async(function() await(d) end)()
    d:errback(f)
    assert.equal(f, failureOf(result))
  end)

  it("handles the failure: it is not noted", function()
    local d, failed = Deferred:new(), defer.fail "no"
    async(function()
      pcall(await, failed)
      pcall(await, d)
    end)()
    d:errback "no"
    assert.same({}, defer.unhandled())
  end)

  it("may follow a failure that was caught", function()
    local d = Deferred:new()
    local result = async(function()
      local ok, f = pcall(await, d)
      assert(not ok and f:check "Broken")
      return await(defer.succeed "recovered")
    end)()
    d:errback { type = "Broken" }
    assert.equal("recovered", valueOf(result))
  end)

  it("waits for a Deferred that itself waits, or is paused", function()
    local outer, inner, paused = Deferred:new(), Deferred:new(), defer.succeed "b"
    outer:addCallback(function() return inner end)
    outer:callback()
    paused:pause()
    local result = async(function()
      return await(outer) .. await(paused)
    end)()
    inner:callback "a"
    assert.is_true(isPending(result))
    paused:unpause()
    assert.equal("ab", valueOf(result))
  end)

  it("sees what the callbacks made of it that were there before", function()
    local d = Deferred:new():addCallback(function(n) return n + 1 end)
    local result = async(function() return await(d) end)()
    d:callback(1)
    assert.equal(2, valueOf(result))
  end)

  it("waits for lists, locks and queues alike", function()
    local lock, queue = defer.DeferredLock:new(), defer.DeferredQueue:new()
    lock:acquire()
    local result = async(function()
      assert(await(lock:acquire()) == lock)
      local item = await(queue:get())
      lock:release()
      local values = await(defer.gatherResults { defer.succeed(1), defer.succeed(2) })
      return item + values[1] + values[2]
    end)()
    lock:release()
    queue:put(10)
    assert.equal(13, valueOf(result))
    assert.is_false(lock.locked)
  end)

  it("takes very many that have fired, and values, without going deep", function()
    local result = async(function()
      local sum = 0
      for i = 1, MANY do
        sum = sum + await(defer.succeed(1)) + await(i)
      end
      return { sum, depth() }
    end)()
    local got = valueOf(result)
    assert.equal(MANY + MANY * (MANY + 1) / 2, got[1])
    assert.is_true(got[2] < 100)
  end)

  it("takes very many that fire one after another, without going deep", function()
    local current, deepest = nil, 0
    local result = async(function()
      for _ = 1, MANY do
        current = Deferred:new()
        await(current)
        deepest = math.max(deepest, depth())
      end
      return "done"
    end)()
    for _ = 1, MANY do
      current:callback()
    end
    assert.equal("done", valueOf(result))
    assert.is_true(deepest < 100)
  end)

  it("raises outside an async function, at the caller's line", function()
    raisesHere("async", function()
      await(defer.succeed())
    end)
    raisesHere("async", function()
      await(5)
    end)
    raisesHere("async", coroutine.wrap(function()
      await(Deferred:new())
    end))
  end)

  it("raises in a callback, whoever fires it", function()
    local d = Deferred:new()
    d:addCallback(function()
      await(Deferred:new())
    end)
    local result = async(function()
      d:callback()
      return await(defer.succeed "unharmed")
    end)()
    assert.matches("async", failureOf(d).message)
    assert.equal("unharmed", valueOf(result))
  end)

  it("raises in a coroutine that an async function made", function()
    local result = async(function()
      local co = coroutine.create(function()
        await(Deferred:new())
      end)
      local ok, problem = coroutine.resume(co)
      return { ok, tostring(problem) }
    end)()
    local got = valueOf(result)
    assert.is_false(got[1])
    assert.matches("async", got[2])
  end)

  it("raises again once the async function has ended", function()
    local d = Deferred:new()
    async(function() await(d) end)()
    raisesHere("async", function()
      await(defer.succeed())
    end)
    d:callback()
    raisesHere("async", function()
      await(defer.succeed())
    end)
  end)

  it("raises where it cannot wait, as in a call from C, and harms no later wait", function()
    local unreachable, reachable = Deferred:new(), Deferred:new()
    local caught
    local result = async(function()
      caught = not pcall(table.sort, { 3, 1, 2 }, function()
        return await(unreachable)
      end)
      return await(reachable)
    end)()
    assert.is_true(caught)
    unreachable:callback "wrong"
    assert.is_true(isPending(result))
    reachable:callback "right"
    assert.equal("right", valueOf(result))
  end)

  it("works within pcall, xpcall, metamethods and iterators of the function", function()
    local object = setmetatable({}, {
      __index = function(_, key) return await(defer.succeed(key)) end,
    })
    local d = Deferred:new()
    local function iterator()
      return await(d)
    end
    local result = async(function()
      local list = { object.name }
      list[2] = select(2, pcall(await, defer.succeed "b"))
      list[3] = select(2, xpcall(function() return await(defer.succeed "c") end, debug.traceback))
      for value in iterator do
        list[4] = value
        d = defer.succeed(nil)
      end
      return list
    end)()
    d:callback "d"
    assert.same({ "name", "b", "c", "d" }, valueOf(result))
  end)
end)

describe("cancelling the Deferred of an async call", function()
  it("cancels what it waits for, at once", function()
    local cancelled = false
    local inner = Deferred:new(function() cancelled = true end)
    local d = async(function() await(inner) end)()
    d:cancel()
    assert.is_true(cancelled)
    failureOf(d, "CancelledError")
  end)

  it("raises CancelledError at that await", function()
    local seen
    local d = async(function()
      local ok, f = pcall(await, Deferred:new())
      seen = not ok and f.type
      f:raise()
    end)()
    d:cancel()
    assert.equal("CancelledError", seen)
    failureOf(d, "CancelledError")
  end)

  it("may be caught and become a value", function()
    local d = async(function()
      local ok = pcall(await, Deferred:new())
      return ok and "not cancelled" or "cleaned up"
    end)()
    d:cancel()
    assert.equal("cleaned up", valueOf(d))
  end)

  it("may be caught and become another error", function()
    local d = async(function()
      local ok = pcall(await, Deferred:new(function(self) self:errback { type = "Untranslated" } end))
      if not ok then
        error { type = "Translated" }
      end
    end)()
    d:cancel()
    failureOf(d, "Translated")
  end)

  it("leaves it to the canceller of what it waits for what comes of it", function()
    local enough = Deferred:new(function(self) self:callback(20) end)
    local d = async(function() return await(enough) + 1 end)()
    d:cancel()
    assert.equal(21, valueOf(d))
    local failing = Deferred:new(function(self) self:errback { type = "DontFail", rest = 4 } end)
    d = async(function()
      local _, f = pcall(await, failing)
      return f.value.rest
    end)()
    d:cancel()
    assert.equal(4, valueOf(d))
  end)

  it("does not reach its callbacks before a cleanup that takes its time has ended", function()
    local cleanup, said = Deferred:new(), {}
    local d = async(function()
      local ok = pcall(await, Deferred:new())
      said[#said + 1] = ok and "?" or "cancelled"
      await(cleanup)
      said[#said + 1] = "clean"
      return "cleaned up"
    end)()
    d:cancel()
    assert.same({ "cancelled" }, said)
    assert.is_true(isPending(d))
    cleanup:callback()
    assert.same({ "cancelled", "clean" }, said)
    assert.equal("cleaned up", valueOf(d))
  end)

  it("does not reach its callbacks before what it waits for lets go of it", function()
    local more = Deferred:new()
    local inner = Deferred:new():addErrback(function(f)
      f:trap "CancelledError"
      return more
    end)
    local d = async(function() return await(inner) + 1 end)()
    d:cancel()
    assert.is_true(isPending(d))
    more:callback(1)
    assert.equal(2, valueOf(d))
  end)

  it("a second time cancels what the cleanup waits for", function()
    local caught = {}
    local d = async(function()
      for i = 1, 2 do
        local _, f = pcall(await, Deferred:new())
        caught[i] = f.type
      end
      return "stubborn"
    end)()
    d:cancel()
    assert.same({ "CancelledError" }, caught)
    d:cancel()
    assert.same({ "CancelledError", "CancelledError" }, caught)
    assert.equal("stubborn", valueOf(d))
  end)

  it("lets the late result of what it waited for pass in silence", function()
    local inner = Deferred:new()
    local d = async(function() await(inner) end)()
    d:cancel()
    failureOf(d, "CancelledError")
    assert.is_true(inner:callback "late")
  end)

  it("goes down through async functions that wait for each other", function()
    local said, inner = {}, Deferred:new()
    local function layer(name, f)
      return async(function()
        local ok, f_ = pcall(await, f())
        said[#said + 1] = name .. " " .. (ok and "?" or f_.type)
        f_:raise()
      end)
    end
    local d = layer("outer", layer("middle", layer("inner", function() return inner end)))()
    d:cancel()
    assert.same({ "inner CancelledError", "middle CancelledError", "outer CancelledError" }, said)
    failureOf(d, "CancelledError")
  end)

  it("goes down where it is waited for by a callback", function()
    local d = defer.succeed():addCallback(async(function() await(Deferred:new()) end))
    d:cancel()
    failureOf(d, "CancelledError")
  end)

  it("does nothing once it has ended", function()
    local ended = async(function() return "value" end)()
    ended:cancel()
    assert.equal("value", valueOf(ended))
    local failed = async(function() error("no", 0) end)()
    failed:cancel()
    assert.equal("no", failureOf(failed).value)
  end)

  it("does not touch what it waited for before", function()
    local cancelled = 0
    local function canceller()
      cancelled = cancelled + 1
    end
    local first, second = Deferred:new(canceller), Deferred:new(canceller)
    local d = async(function()
      await(first)
      await(second)
    end)()
    first:callback()
    d:cancel()
    assert.equal(1, cancelled)
    failureOf(d, "CancelledError")
  end)

  it("is what a timeout does, which then is a TimeoutError", function()
    local clock, cancelled = task.Clock:new(), false
    local d = async(function()
      await(Deferred:new(function() cancelled = true end))
    end)():addTimeout(5, clock)
    clock:advance(5)
    assert.is_true(cancelled)
    failureOf(d, "TimeoutError")
  end)

  it("may be done to one that waits for a lock, which is not taken then", function()
    local lock = defer.DeferredLock:new()
    lock:acquire()
    local entered = false
    local d = async(function()
      await(lock:acquire())
      entered = true
    end)()
    d:cancel()
    failureOf(d, "CancelledError")
    lock:release()
    assert.is_false(entered)
    assert.is_false(lock.locked)
  end)
end)

describe("the traceback of a failure in async functions", function()
  local function lineOf(number)
    return ("async_spec%%.lua:%d%%f[%%D]"):format(number)
  end

  local function assertNoneOfTheLibrary(f)
    assert.not_matches("skald/%l+%.lua", f.traceback)
    assert.not_matches("skald/%l+%.lua", f.message)
    assert.not_matches("coroutine%.", f.traceback)
  end

  it("has the lines down to where it was raised", function()
    local raised, called
    local function breaks()
      raised = here() + 1
      error "broken"
    end
    local f = failureOf(async(function()
      await(defer.succeed())
      called = here() + 1
      breaks()
      return nil
    end)())
    assert.matches("broken", f.message)
    assert.matches(lineOf(raised), f.message)
    assert.matches(lineOf(raised), f.traceback)
    assert.matches(lineOf(called), f.traceback)
    assertNoneOfTheLibrary(f)
  end)

  it("has the same after a wait", function()
    local raised, called
    local d = Deferred:new()
    local function breaks()
      await(d)
      raised = here() + 1
      error "broken"
    end
    local result = async(function()
      called = here() + 1
      breaks()
      return nil
    end)()
    d:callback()
    local f = failureOf(result)
    assert.matches(lineOf(raised), f.traceback)
    assert.matches(lineOf(called), f.traceback)
    assertNoneOfTheLibrary(f)
  end)

  it("has the line that awaited, too, where a Deferred had failed", function()
    local raised, awaited
    local failed = defer.maybeDeferred(function()
      raised = here() + 1
      error "broken"
    end)
    local f = failureOf(async(function()
      awaited = here() + 1
      await(failed)
    end)())
    assert.matches(lineOf(raised), f.traceback)
    assert.matches(lineOf(awaited), f.traceback)
    assertNoneOfTheLibrary(f)
  end)

  it("has the line that awaited, too, where a Deferred failed later", function()
    local raised, awaited
    local d = Deferred:new():addCallback(function()
      raised = here() + 1
      error "broken"
    end)
    local result = async(function()
      awaited = here() + 1
      local value = await(d)
      return value
    end)()
    d:callback()
    local f = failureOf(result)
    assert.matches(lineOf(raised), f.traceback)
    assert.matches(lineOf(awaited), f.traceback)
    assertNoneOfTheLibrary(f)
  end)

  it("has the lines of all functions that awaited each other", function()
    local lines = {}
    local erroring = async(function()
      await "something"
      lines[1] = here() + 1
      error "marker"
    end)
    local third = async(function()
      lines[2] = here() + 1
      await(erroring())
    end)
    local second = async(function()
      lines[3] = here() + 1
      await(third())
    end)
    local first = async(function()
      lines[4] = here() + 1
      await(second())
    end)
    local f = failureOf(first())
    for i = 1, 4 do
      assert.matches(lineOf(lines[i]), f.traceback)
    end
    assert.matches("marker", f.traceback)
    assertNoneOfTheLibrary(f)
  end)

  it("stays of a decent length however many functions awaited each other", function()
    local function down(n)
      if n == 0 then
        error "bottom"
      end
      await(async(down)(n - 1))
    end
    local f = failureOf(async(down)(1000))
    assert.matches("bottom", f.traceback)
    assert.is_true(#f.traceback < 20000)
  end)
end)

describe("very many async functions that await each other", function()
  local down
  down = async(function(n, bottom)
    if n == 0 then
      return await(bottom)
    end
    return await(down(n - 1, bottom)) + 1
  end)

  it("may start within each other and end at once", function()
    assert.equal(MANY, valueOf(down(MANY, 0)))
  end)

  it("may start within each other and fail at once", function()
    assert.equal("no", failureOf(down(MANY, defer.fail "no")).value)
  end)

  it("may all wait and then end at once", function()
    local bottom = Deferred:new()
    local d = down(MANY, bottom)
    assert.is_true(isPending(d))
    bottom:callback(0)
    assert.equal(MANY, valueOf(d))
  end)

  it("may all wait and then fail at once", function()
    local bottom = Deferred:new()
    local d = down(MANY, bottom)
    bottom:errback "no"
    assert.equal("no", failureOf(d).value)
  end)

  it("may be cancelled from the top", function()
    local bottom = Deferred:new()
    local d = down(MANY, bottom)
    d:cancel()
    failureOf(d, "CancelledError")
    assert.is_true(bottom.called)
  end)

  it("may be started from the bottom up, too", function()
    local plus = async(function(d) return await(d) + 1 end)
    local bottom = Deferred:new()
    local top = bottom
    for _ = 1, MANY do
      top = plus(top)
    end
    bottom:callback(0)
    assert.equal(MANY, valueOf(top))
    top = defer.succeed(0)
    for _ = 1, MANY do
      top = plus(top)
    end
    assert.equal(MANY, valueOf(top))
  end)

  it("may be mixed with callbacks that wait", function()
    local mixed
    mixed = async(function(n, bottom)
      if n == 0 then
        return await(bottom)
      end
      return await(defer.succeed():addCallback(function() return mixed(n - 1, bottom) end)) + 1
    end)
    local bottom = Deferred:new()
    local d = mixed(MANY, bottom)
    bottom:callback(0)
    assert.equal(MANY, valueOf(d))
    assert.equal(MANY, valueOf(mixed(MANY, 0)))
  end)

  it("run their code in the order of the calls and of the returns", function()
    local said = {}
    local f
    f = async(function(n)
      said[#said + 1] = n
      if n < 1000 then
        await(f(n + 1))
      end
      said[#said + 1] = -n
    end)
    valueOf(f(1))
    assert.equal(2000, #said)
    for i = 1, 1000 do
      assert.equal(i, said[i])
      assert.equal(-i, said[2001 - i])
    end
  end)

  it("may end within one another's calls that nobody waits for", function()
    local count, f = 0, nil
    f = async(function(n)
      count = count + 1
      if n > 0 then
        f(n - 1)
      end
    end)
    f(MANY)
    assert.equal(MANY + 1, count)
  end)
end)

describe("the owner", function()
  local A, B = owner.new(), owner.new()

  after_each(function()
    owner.current = nil
  end)

  local function within(who, f, ...)
    local ok, result = owner.call(who, debug.traceback, f, ...)
    assert.is_true(ok, result)
    return result
  end

  it("in an async function is the one that was current at the call, after each await", function()
    local seen, fired, later, failing = {}, defer.succeed(), Deferred:new(), Deferred:new()
    local function note()
      seen[#seen + 1] = owner.current
    end
    local result = within(A, function()
      local d = async(function()
        note()
        await(fired)
        note()
        await(later)
        note()
        pcall(await, failing)
        note()
      end)()
      assert.equal(A, owner.current)
      return d
    end)
    within(B, function()
      later:callback()
      assert.equal(B, owner.current)
    end)
    failing:errback "no"
    assert.is_nil(owner.current)
    assert.is_nil(valueOf(result))
    assert.equal(4, #seen)
    for i = 1, 4 do
      assert.equal(A, seen[i])
    end
  end)

  it("is nobody in one that nobody owned, whoever resumes it", function()
    local d, seen = Deferred:new(), "not asked"
    async(function()
      await(d)
      seen = owner.current
    end)()
    within(B, function()
      d:callback()
      assert.equal(B, owner.current)
    end)
    assert.is_nil(seen)
  end)

  it("does not change for the caller where the callee changes it", function()
    local d, seen = Deferred:new(), {}
    within(A, function()
      async(function()
        owner.current = B
        await(d)
        seen[1] = owner.current
      end)()
      assert.equal(A, owner.current)
    end)
    assert.is_nil(owner.current)
    d:callback()
    assert.is_nil(owner.current)
    assert.equal(A, seen[1])
  end)

  it("is restored after an async function that failed", function()
    local d = Deferred:new()
    within(A, function()
      async(function() error("no", 0) end)():addErrback(nothing)
      assert.equal(A, owner.current)
    end)
    within(A, function()
      async(function()
        await(d)
        error("no", 0)
      end)():addErrback(nothing)
    end)
    within(B, function()
      d:callback()
      assert.equal(B, owner.current)
    end)
    assert.is_nil(owner.current)
  end)

  it("in callbacks of its Deferred is that of whoever added them", function()
    local d, seen = Deferred:new(), {}
    local result = within(A, function()
      return async(function() await(d) end)()
    end)
    within(B, function()
      result:addCallback(function() seen[1] = owner.current end)
    end)
    d:callback()
    assert.equal(B, seen[1])
    assert.is_nil(owner.current)
  end)

  it("passes to async functions that an async function calls after a wait", function()
    local d, seen = Deferred:new(), {}
    local inner = async(function()
      seen[1] = owner.current
      await(defer.succeed())
      seen[2] = owner.current
    end)
    within(A, function()
      async(function()
        await(d)
        await(inner())
      end)()
    end)
    within(B, function() d:callback() end)
    assert.equal(A, seen[1])
    assert.equal(A, seen[2])
  end)

  it("is kept by each of very many that await each other", function()
    local bottom, wrong = Deferred:new(), 0
    local function down(n)
      if n == 0 then
        return await(bottom)
      end
      await(async(down)(n - 1))
      if owner.current ~= A then
        wrong = wrong + 1
      end
      return n
    end
    local d = within(A, function() return async(down)(1000) end)
    within(B, function()
      bottom:callback()
      assert.equal(B, owner.current)
    end)
    assert.equal(1000, valueOf(d))
    assert.equal(0, wrong)
    assert.is_nil(owner.current)
  end)
end)
