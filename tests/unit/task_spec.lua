local defer = require "skald.defer"
local owner = require "skald.owner"
local task = require "skald.task"

local Clock, LoopingCall, Cooperator, Deferred = task.Clock, task.LoopingCall, task.Cooperator, defer.Deferred

local function nothing() end

local function asIs(problem)
  return problem
end

-- What a Deferred has come to: `{ "value", v }`, `{ "failure", f }`, or an empty table so far.
local function outcomeOf(d)
  local outcome = {}
  d:addCallbacks(function(value)
    outcome[1], outcome[2] = "value", value
  end, function(problem)
    outcome[1], outcome[2] = "failure", problem
  end)
  return outcome
end

local function raisesHere(f, ...)
  local here = debug.getinfo(f, "S").short_src
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.equal(here, message:match "^(.-):%d+: ")
  return message
end

-- Runs `f` with a table in the place of the reactor.
local function withReactor(reactor, f)
  local before = package.loaded["skald.reactor"]
  package.loaded["skald.reactor"] = reactor
  local ok, problem = pcall(f)
  package.loaded["skald.reactor"] = before
  assert(ok, problem)
end

local clock

before_each(function()
  clock = Clock:new()
  defer.unhandled()
end)

after_each(function()
  assert.same({}, defer.unhandled())
  assert.is_nil(owner.current)
end)

describe("a Clock", function()
  local log

  local function note(what)
    log[#log + 1] = { what, clock:seconds() }
  end

  before_each(function()
    log = {}
  end)

  it("begins at 0, and has nothing to call", function()
    assert.equal(0, clock:seconds())
    assert.same({}, clock:getDelayedCalls())
  end)

  it("tells when a call is due, and that it is still to come", function()
    clock:advance(0.5)
    local call = clock:callLater(1, nothing)
    assert.equal(1.5, call:getTime())
    assert.is_true(call:active())
  end)

  it("calls once its time has come, and not before", function()
    local call = clock:callLater(2, note, "a")
    clock:advance(1)
    assert.same({}, log)
    clock:advance(1)
    assert.same({ { "a", 2 } }, log)
    assert.is_false(call:active())
    clock:advance(10)
    assert.equal(1, #log)
  end)

  it("passes all arguments, nils among them", function()
    local got
    clock:callLater(1, function(...)
      got = { select("#", ...), ... }
    end, nil, "b", nil)
    clock:advance(1)
    assert.same({ 3, nil, "b", nil }, got)
  end)

  it("makes another call each time", function()
    assert.are_not.equal(clock:callLater(10, nothing), clock:callLater(1, nothing))
  end)

  it("calls in the order of the times", function()
    for _, seconds in ipairs { 5, 1, 4, 2, 3 } do
      clock:callLater(seconds, note, seconds)
    end
    clock:advance(9)
    assert.same({ { 1, 9 }, { 2, 9 }, { 3, 9 }, { 4, 9 }, { 5, 9 } }, log)
  end)

  it("calls those of one time in the order in which they were made", function()
    for i = 1, 100 do
      clock:callLater(i % 2 + 1, note, i)
    end
    clock:advance(2)
    local order = {}
    for i = 1, 100 do
      order[i] = log[i][1]
    end
    local expected = {}
    for i = 1, 50 do
      expected[i], expected[50 + i] = 2 * i, 2 * i - 1
    end
    assert.same(expected, order)
  end)

  it("keeps the order of times among many calls that are moved and cancelled", function()
    math.randomseed(7)
    local calls, last, count, left = {}, -1, 0, 500
    for i = 1, 500 do
      calls[i] = clock:callLater(math.random(100), function()
        assert.is_true(calls[i]:getTime() >= last)
        last, count = calls[i]:getTime(), count + 1
      end)
    end
    for i = 1, 500, 3 do
      calls[i]:reset(math.random(200))
      calls[i + 1]:delay(math.random(50))
    end
    for i = 1, 500, 7 do
      assert.is_true(calls[i]:cancel())
      left = left - 1
    end
    assert.equal(left, #clock:getDelayedCalls())
    clock:advance(300)
    assert.equal(left, count)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("lists what is pending, the next one first", function()
    local b, a, c = clock:callLater(2, nothing), clock:callLater(1, nothing), clock:callLater(2, nothing)
    assert.same({ a, b, c }, clock:getDelayedCalls())
    b:cancel()
    clock:advance(1)
    assert.same({ c }, clock:getDelayedCalls())
  end)

  it("stands at the end of an advance while it calls", function()
    clock:callLater(1, note, "a")
    clock:callLater(2, note, "b")
    clock:advance(5)
    assert.same({ { "a", 5 }, { "b", 5 } }, log)
  end)

  it("calls what is added meanwhile, where that is due, too", function()
    clock:callLater(1, function()
      clock:callLater(0, note, "at once")
      clock:callLater(1, note, "later")
    end)
    clock:advance(5)
    assert.same({ { "at once", 5 } }, log)
    clock:advance(1)
    assert.same({ { "at once", 5 }, { "later", 6 } }, log)
  end)

  it("may be advanced by what it calls", function()
    clock:callLater(1, function()
      clock:advance(2)
      note "outer"
    end)
    clock:callLater(3, note, "inner")
    clock:advance(1)
    assert.same({ { "inner", 3 }, { "outer", 3 } }, log)
  end)

  it("is pumped by several amounts", function()
    clock:callLater(1, note, "a")
    clock:callLater(2, note, "b")
    clock:pump { 0.5, 0.5, 0.25, 1 }
    assert.same({ { "a", 1 }, { "b", 2.25 } }, log)
    clock:pump {}
    assert.equal(2.25, clock:seconds())
  end)

  it("adds up without loss", function()
    for _ = 1, 100000 do
      clock:advance(0.1)
    end
    assert.equal(10000, clock:seconds())
  end)

  it("does not miss a call for the rounding of a sum", function()
    clock:advance(0.3)
    for _ = 1, 7 do
      clock:callLater(0.7, note, "a")
      for _ = 1, 7 do
        clock:advance(0.1)
      end
    end
    assert.equal(7, #log)
  end)

  it("may be turned back", function()
    clock:callLater(1, note, "a")
    clock:callNextTurn(note, "b")
    clock:advance(-1)
    clock:advance(1)
    assert.same({ { "b", -1 } }, log)
    clock:advance(1)
    assert.same({ "a", 1 }, log[2])
  end)

  it("lets out what a call raises; the others stay", function()
    local bad = clock:callLater(1, error, "oh", 0)
    clock:callLater(1, note, "good")
    local ok, problem = pcall(clock.advance, clock, 1)
    assert.same({ false, "oh" }, { ok, problem })
    assert.is_false(bad:active())
    clock:advance(0)
    assert.same({ { "good", 1 } }, log)
  end)

  it("lets a call go when it has run or was cancelled", function()
    local weak = setmetatable({ {}, {} }, { __mode = "v" })
    local calls = { clock:callLater(1, nothing, weak[1]), clock:callLater(1, nothing, weak[2]) }
    calls[1]:cancel()
    clock:advance(1)
    collectgarbage()
    collectgarbage()
    assert.same({ false, false }, { calls[1]:active(), calls[2]:active() })
    assert.is_nil(next(weak))
  end)

  it("refuses what is no time and no function, at the caller's line", function()
    for _, bad in ipairs { -1, 0 / 0, math.huge, "1", {} } do
      assert.matches("callLater takes seconds", raisesHere(function()
        clock:callLater(bad, nothing)
      end))
    end
    assert.matches("callLater takes a function, not a nil", raisesHere(function()
      clock:callLater(1)
    end))
    assert.matches("callNextTurn takes a function", raisesHere(function()
      clock:callNextTurn(1)
    end))
    for _, bad in ipairs { 0 / 0, math.huge, "1" } do
      assert.matches("advance takes seconds", raisesHere(function()
        clock:advance(bad)
      end))
      assert.matches("pump takes seconds", raisesHere(function()
        clock:pump { 1, bad }
      end))
    end
    assert.matches("pump takes a list", raisesHere(function()
      clock:pump(1)
    end))
    assert.equal(0, clock:seconds())
  end)

  it("has little more work with each call where there are many", function()
    -- counted in instructions, which compiled code would hide
    local function work(count)
      local hundreds, compiling = 0, jit.status()
      jit.off()
      jit.flush()
      debug.sethook(function()
        hundreds = hundreds + 1
      end, "", 100)
      for i = 1, count do
        clock:callLater((i * 7919) % count, nothing)
      end
      clock:advance(count)
      debug.sethook()
      if compiling then
        jit.on()
      end
      return hundreds
    end
    local few, many = work(500), work(16000)
    assert.is_true(few > 100)
    assert.is_true(many < 32 * 3 * few, ("%d and %d"):format(few, many))
  end)

  it("does not make what it calls a part of the coroutine that advances it", function()
    local problem
    clock:callLater(1, function()
      problem = select(2, pcall(defer.await, Deferred:new()))
    end)
    defer.async(clock.advance)(clock, 1)
    assert.matches("await works within a function made by async", problem)
  end)

  it("runs a call for whoever made it", function()
    local who, seen = owner.new(), nil
    owner.call(who, asIs, function()
      clock:callLater(1, function(value)
        seen = { owner.current, value }
      end, 5)
      clock:callLater(1, error, "oh", 0)
    end)
    assert.same({ false, "oh" }, { pcall(clock.advance, clock, 1) })
    assert.same({ who, 5 }, seen)
  end)
end)

describe("a call of a Clock", function()
  local count

  local function add(n)
    count = count + (n or 1)
  end

  before_each(function()
    count = 0
  end)

  it("is taken back by cancel", function()
    local call = clock:callLater(1, add)
    assert.is_true(call:cancel())
    assert.is_false(call:active())
    clock:advance(1)
    assert.equal(0, count)
  end)

  it("says that it was cancelled before", function()
    local call = clock:callLater(1, nothing)
    call:cancel()
    for _, method in ipairs { "cancel", "reset", "delay" } do
      assert.same({ nil, "already cancelled", "ECANCELED" }, { call[method](call, 1) })
    end
  end)

  it("says that it ran already, from within, too", function()
    local call, within
    call = clock:callLater(1, function()
      within = { call:active(), call:cancel() }
    end)
    clock:advance(1)
    assert.same({ false, nil, "already called", "EALREADY" }, within)
    for _, method in ipairs { "cancel", "reset", "delay" } do
      assert.same({ nil, "already called", "EALREADY" }, { call[method](call, 1) })
    end
  end)

  it("is put off by delay, from when it was due", function()
    local call = clock:callLater(1, add, 5)
    clock:advance(0.5)
    assert.is_true(call:delay(1))
    assert.equal(2, call:getTime())
    clock:advance(1)
    assert.equal(0, count)
    clock:advance(1)
    assert.equal(5, count)
  end)

  it("is put off by reset, from now", function()
    local call = clock:callLater(2, add)
    clock:advance(1)
    assert.is_true(call:reset(3))
    assert.equal(4, call:getTime())
    clock:advance(2)
    assert.equal(0, count)
    clock:advance(1)
    assert.equal(1, count)
  end)

  it("comes sooner by reset, too", function()
    local call = clock:callLater(4, add)
    call:reset(3)
    assert.equal(3, call:getTime())
    clock:advance(3)
    assert.equal(1, count)
  end)

  local function order(prepare)
    local log = {}
    prepare(function(what)
      log[#log + 1] = ("%s %g"):format(what, clock:seconds())
    end)
    clock:pump { 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5 }
    return table.concat(log, ", ")
  end

  it("gives way when it is moved behind one that is made later", function()
    assert.equal("b 2, a 3", order(function(note)
      clock:callLater(1, note, "a"):reset(3)
      clock:callLater(2, note, "b")
    end))
  end)

  it("gives way when it is moved behind one that is there", function()
    assert.equal("b 2, a 3", order(function(note)
      local a = clock:callLater(1, note, "a")
      clock:callLater(2, note, "b")
      a:reset(3)
    end))
  end)

  it("gives way when it is moved within an advance", function()
    assert.equal("c 3, b 4", order(function(note)
      local b = clock:callLater(2, note, "b")
      clock:callLater(1, function()
        b:reset(3)
      end)
      clock:callLater(3, note, "c")
    end))
  end)

  it("may be cancelled or moved by one that is due with it", function()
    assert.equal("d 1, c 1.5", order(function(note)
      local b, c
      clock:callLater(1, function()
        b:cancel()
        c:delay(0.5)
      end)
      b, c = clock:callLater(1, note, "b"), clock:callLater(1, note, "c")
      clock:callLater(1, note, "d")
    end))
  end)

  it("stands behind those of the time that it is moved to", function()
    assert.equal("b 2, a 2", order(function(note)
      local a = clock:callLater(1, note, "a")
      clock:callLater(2, note, "b")
      a:reset(2)
    end))
  end)

  it("refuses what is no time, at the caller's line", function()
    local call = clock:callLater(1, nothing)
    for _, bad in ipairs { -1, 0 / 0, math.huge, "1" } do
      assert.matches("reset takes seconds", raisesHere(function()
        call:reset(bad)
      end))
    end
    for _, bad in ipairs { 0 / 0, math.huge, "1" } do
      assert.matches("delay takes seconds", raisesHere(function()
        call:delay(bad)
      end))
    end
    assert.equal(1, call:getTime())
  end)
end)

describe("a call for the next turn of a Clock", function()
  it("runs at the next advance, however short, and once", function()
    local log = {}
    local call = clock:callNextTurn(function(...)
      log[#log + 1] = { ... }
    end, 1, 2)
    assert.is_true(call:active())
    assert.same({ call }, clock:getDelayedCalls())
    clock:advance(0)
    clock:advance(5)
    assert.same({ { 1, 2 } }, log)
    assert.is_false(call:active())
  end)

  it("does not run within the advance that is under way", function()
    local count = 0
    local function again()
      count = count + 1
      clock:callNextTurn(again)
    end
    clock:callLater(1, again)
    for i = 1, 3 do
      clock:advance(10)
      assert.equal(i, count)
    end
  end)

  it("is cancelled, moved and asked like any other", function()
    local count = 0
    local function add()
      count = count + 1
    end
    clock:callNextTurn(add):cancel()
    local call = clock:callNextTurn(add)
    assert.is_true(call:delay(2))
    assert.equal(2, call:getTime())
    clock:advance(1)
    assert.equal(0, count)
    clock:advance(1)
    assert.equal(1, count)
    assert.same({}, clock:getDelayedCalls())
  end)
end)

describe("a LoopingCall", function()
  local times

  local function note(...)
    times[#times + 1] = { clock:seconds(), ... }
  end

  local function looping(f, ...)
    local loop = LoopingCall:new(f, ...)
    loop.clock = clock
    return loop
  end

  local function counting(f)
    local loop = LoopingCall:withCount(f)
    loop.clock = clock
    return loop
  end

  -- One that blocks for so many seconds at each run, as `block.seconds` says then.
  local function blocking()
    local block = { seconds = 0 }
    block.loop = looping(function()
      note()
      clock:advance(block.seconds)
    end)
    return block
  end

  before_each(function()
    times = {}
  end)

  it("calls at once and at each interval, with its arguments", function()
    local loop = looping(note, "a", nil, "c", nil)
    local outcome = outcomeOf(loop:start(0.1))
    clock:pump { 0.05, 0.1, 0.1 }
    assert.equal(3, #times)
    for _, run in ipairs(times) do
      assert.same({ "a", nil, "c", nil }, { unpack(run, 2, 5) })
    end
    assert.same({}, outcome)
    loop:stop()
    assert.equal(loop, outcome[2])
    assert.same({}, clock:getDelayedCalls())
  end)

  it("calls an interval later, if told not to begin now", function()
    local loop = looping(note)
    loop:start(0.1, false)
    clock:pump { 0.05, 0.1, 0.1 }
    assert.equal(2, #times)
    loop:stop()
    assert.same({}, clock:getDelayedCalls())
  end)

  it("tells that it is running, how often, and what start gave", function()
    local loop = looping(nothing)
    assert.is_false(loop.running)
    assert.is_nil(loop.deferred)
    local d = loop:start(2)
    assert.same({ true, 2 }, { loop.running, loop.interval })
    assert.equal(d, loop.deferred)
    loop:stop()
    assert.is_false(loop.running)
    assert.is_nil(loop.deferred)
  end)

  it("ignores what the function gives", function()
    local loop = looping(function()
      note()
      return false, "x"
    end)
    loop:start(1)
    clock:advance(1)
    assert.same({ { 0 }, { 1 } }, times)
  end)

  it("skips what a long run has missed, the present included, and keeps to the grid", function()
    local block = blocking()
    block.seconds = 2
    block.loop:start(0.5)
    assert.same({ { 0 } }, times)
    assert.equal(2, clock:seconds())
    clock:advance(0)
    assert.same({ { 0 } }, times)
    block.seconds = 1
    clock:advance(0.5)
    assert.same({ { 0 }, { 2.5 } }, times)
    clock:advance(0)
    assert.equal(2, #times)
    block.seconds = 0
    clock:advance(0.5)
    assert.same({ { 0 }, { 2.5 }, { 4 } }, times)
  end)

  it("runs once after the clock has jumped, and not in a burst", function()
    looping(note):start(0.5)
    clock:advance(2)
    assert.same({ { 0 }, { 2 } }, times)
    clock:advance(1)
    clock:advance(0)
    assert.same({ { 0 }, { 2 }, { 3 } }, times)
  end)

  it("is back on the grid after a late run", function()
    looping(note):start(1)
    clock:pump { 1.75, 0.25, 1.5, 0.5 }
    assert.same({ { 0 }, { 1.75 }, { 2 }, { 3.5 }, { 4 } }, times)
  end)

  it("keeps a grid that began between two whole seconds", function()
    clock:advance(0.25)
    looping(note):start(1, false)
    clock:pump { 0.75, 0.25, 0.75, 0.25, 2 }
    assert.same({ { 1.25 }, { 2.25 }, { 4.25 } }, times)
  end)

  it("counts runs that were missed", function()
    counting(note):start(0.5)
    clock:pump { 0.51, 1.51, 0 }
    assert.same({ { 0, 1 }, { 0.51, 1 }, { 2.02, 3 } }, times)
  end)

  it("counts no run as missed that is merely late", function()
    counting(note):start(0.5)
    clock:pump { 0.51, 0.875, 0.125 }
    assert.same({ 1, 1, 1, 1 }, { times[1][2], times[2][2], times[3][2], times[4][2] })
    assert.equal(4, #times)
  end)

  it("counts what a Deferred has kept it from", function()
    local d, counts = Deferred:new(), {}
    counting(function(count)
      counts[#counts + 1] = count
      return #counts == 1 and d or nil
    end):start(0.2, false)
    assert.same({}, counts)
    clock:pump { 0.2, 0.4 }
    assert.same({ 1 }, counts)
    d:callback()
    clock:advance(0.2)
    assert.same({ 1, 3 }, counts)
  end)

  it("counts what its own long run has missed", function()
    local loop
    loop = counting(function(count)
      note(count)
      clock:advance(#times == 1 and 2.5 or 0)
    end)
    loop:start(1)
    clock:pump { 0.5, 1 }
    assert.same({ { 0, 1 }, { 3, 3 }, { 4, 1 } }, times)
  end)

  it("counts as many runs as there are intervals, whatever the rounding", function()
    for _, steps in ipairs { 3, 7, 10, 49, 1000 } do
      clock = Clock:new()
      local sum, least, interval = 0, math.huge, 1 / steps
      counting(function(count)
        sum, least = sum + count, math.min(least, count)
      end):start(interval, false)
      local total = 0
      for _ = 1, steps do
        clock:advance(interval)
        total = total + interval
      end
      clock:advance(math.max(0, 1 - total))
      assert.same({ steps, 1 }, { sum, least })
    end
  end)

  it("counts from the new start when it is started again", function()
    local loop = counting(note)
    loop:start(1)
    clock:advance(1)
    loop:stop()
    clock:advance(100)
    loop:start(1)
    clock:advance(1)
    assert.same({ { 0, 1 }, { 1, 1 }, { 101, 1 }, { 102, 1 } }, times)
    loop:stop()
    clock:advance(100)
    loop:start(1, false)
    clock:advance(2)
    assert.same({ 204, 2 }, times[5])
  end)

  it("counts 1 at its start, whenever that is", function()
    local interval = 0.1
    for i = 1, 1000 do
      clock:advance(i / 7)
      local loop = counting(note)
      loop:start(interval)
      loop:stop()
      assert.equal(1, times[i][2])
    end
  end)

  it("does not call, where it counts and nothing was due, and counts that later", function()
    local loop = counting(note)
    loop:start(1)
    loop.interval = 10
    clock:advance(5)
    assert.same({ { 0, 1 } }, times)
    loop.interval = 2
    clock:advance(5)
    assert.same({ { 0, 1 }, { 10, 5 } }, times)
  end)

  it("runs once where it is called a rounding before its time", function()
    counting(note):start(1, false)
    clock:advance(10 - 7e-15)
    clock:advance(0.5)
    assert.equal(1, #times)
    assert.equal(10, times[1][2])
    clock:advance(0.5)
    assert.equal(2, #times)
  end)

  it("runs once at each step of its interval, however long it goes on", function()
    for origin, steps in pairs { [0] = 100000, [0.3] = 20000, [1e6 + 0.1] = 20000 } do
      for _, interval in ipairs { 0.1, 0.3, 0.7, 1 / 3, 1.1, 0.001 } do
        clock = Clock:new()
        clock:advance(origin)
        local count, worst = 0, 1
        counting(function(due)
          count, worst = count + 1, math.max(worst, due)
        end):start(interval, false)
        for i = 1, steps do
          clock:advance(interval)
          if count ~= i then
            error(("%d runs after %d steps of %g from %g"):format(count, i, interval, origin))
          end
        end
        assert.equal(1, worst)
      end
    end
  end)

  it("does not drift from its grid, woken exactly when it asks", function()
    for _, interval in ipairs { 0.1, 7 / 60 } do
      clock = Clock:new()
      local count = 0
      local loop = looping(function()
        count = count + 1
      end)
      loop:start(interval, false)
      for i = 1, 100000 do
        clock:advance(loop.call:getTime() - clock:seconds())
        assert(count == i)
      end
      assert.is_true(math.abs(clock:seconds() - 100000 * interval) < 1e-9)
    end
  end)

  it("runs once, not twice, where a timer is early", function()
    local now, set, count = 0, nil, 0
    local early = {}
    function early.seconds()
      return now
    end
    function early.callLater(_, seconds, f)
      set = { at = now + seconds, f = f, cancel = nothing }
      return set
    end
    local loop = LoopingCall:withCount(function(due)
      count = count + 1
      assert.equal(1, due)
    end)
    loop.clock = early
    loop:start(1, false)
    for i = 1, 100 do
      assert.is_true(math.abs(set.at - i) < 1e-9)
      now = set.at - 0.01
      set.f()
      assert.equal(i, count)
    end
  end)

  it("runs once a turn where its interval is too small for the clock", function()
    clock:advance(2 ^ 40)
    for _, interval in ipairs { 1e-9, 5e-324 } do
      times = {}
      local loop = counting(note)
      loop:start(interval)
      for i = 1, 3 do
        assert.equal(i, #times)
        assert.equal(1, times[i][2])
        clock:advance(1)
      end
      loop:stop()
    end
  end)

  it("runs once at each advance with an interval of 0", function()
    local loop = looping(note)
    loop:start(0)
    assert.equal(1, #times)
    clock:pump { 0, 5, 0 }
    assert.same({ { 0 }, { 0 }, { 5 }, { 5 } }, times)
    loop:stop()
    assert.same({}, clock:getDelayedCalls())
  end)

  it("waits for the first turn with an interval of 0, if told not to begin now", function()
    looping(note):start(0, false)
    assert.same({}, times)
    clock:advance(0)
    assert.same({ { 0 } }, times)
  end)

  it("asks for no time at all with an interval of 0, where a clock knows no turns", function()
    local asked, f
    local loop = LoopingCall:new(note)
    loop.clock = {
      seconds = function()
        return 0
      end,
      callLater = function(_, seconds, g)
        asked, f = seconds, g
        return { cancel = nothing }
      end,
    }
    loop:start(0)
    assert.equal(0, asked)
    f()
    assert.equal(2, #times)
  end)

  it("counts 1 with an interval of 0, and ends when it is stopped from within", function()
    local counts, loop = {}, nil
    loop = counting(function(count)
      counts[#counts + 1] = count
      if #counts > 4 then
        loop:stop()
      end
    end)
    local outcome = outcomeOf(loop:start(0, false))
    clock:pump { 0, 0, 3, 0 }
    assert.same({}, outcome)
    clock:pump { 1, 0, 0 }
    assert.equal(loop, outcome[2])
    assert.same({ 1, 1, 1, 1, 1 }, counts)
  end)

  it("waits for a Deferred with an interval of 0, and counts 1 after it", function()
    local d, counts = Deferred:new(), {}
    counting(function(count)
      counts[#counts + 1] = count
      return #counts == 2 and d or nil
    end):start(0, false)
    clock:pump { 0, 0, 0, 2, 0 }
    assert.same({ 1, 1 }, counts)
    d:callback()
    assert.same({ 1, 1 }, counts)
    clock:pump { 0, 0 }
    assert.same({ 1, 1, 1, 1 }, counts)
  end)

  it("goes on in the turn after the one in which its Deferred fires", function()
    looping(function()
      note()
      local d = Deferred:new()
      clock:callLater(1, d.callback, d, nil)
      return d
    end):start(0)
    clock:pump { 1, 0, 0, 1, 0 }
    assert.same({ { 0 }, { 1 }, { 2 } }, times)
  end)

  it("takes up an interval that is set while it waits, and counts by it", function()
    local d, counts = Deferred:new(), {}
    local loop = counting(function(count)
      counts[#counts + 1] = count
      return #counts == 2 and d or nil
    end)
    loop:start(0, false)
    clock:pump { 10, 0 }
    assert.same({ 1, 1 }, counts)
    loop.interval = 2
    d:callback()
    clock:advance(7)
    assert.same({ 1, 1, 3 }, counts)
    clock:advance(2)
    assert.same({ 1, 1, 3, 1 }, counts)
    clock:advance(4)
    assert.same({ 1, 1, 3, 1, 2 }, counts)
  end)

  it("takes up an interval that the function sets", function()
    local loop
    loop = looping(function()
      note()
      loop.interval = 3
    end)
    loop:start(1, false)
    clock:pump { 1, 1, 1, 1, 1, 1 }
    assert.same({ { 1 }, { 3 }, { 6 } }, times)
  end)

  it("waits for a Deferred before it goes on, on its grid", function()
    local waits = {}
    looping(function()
      note()
      waits[#waits + 1] = Deferred:new()
      return waits[#waits]
    end):start(1)
    clock:advance(1.5)
    assert.same({ { 0 } }, times)
    assert.same({}, clock:getDelayedCalls())
    waits[1]:callback "ignored"
    assert.same({ { 0 } }, times)
    clock:advance(0.5)
    assert.same({ { 0 }, { 2 } }, times)
    waits[2]:callback()
    clock:advance(1)
    assert.same({ { 0 }, { 2 }, { 3 } }, times)
  end)

  it("goes on at once after a Deferred that has fired already", function()
    looping(function()
      note()
      return defer.succeed "ignored"
    end):start(1)
    clock:pump { 1, 1 }
    assert.same({ { 0 }, { 1 }, { 2 } }, times)
  end)

  it("takes a function made by async", function()
    local d = Deferred:new()
    looping(defer.async(function()
      note()
      defer.await(d)
    end)):start(1)
    clock:advance(1)
    assert.equal(1, #times)
    d:callback()
    clock:advance(1)
    assert.same({ { 0 }, { 2 } }, times)
  end)

  it("is no part of the coroutine that starts it", function()
    local outcome
    defer.async(function()
      outcome = outcomeOf(looping(function()
        return defer.await(Deferred:new())
      end):start(1))
    end)()
    assert.equal("failure", outcome[1])
    assert.matches("await works within a function made by async", outcome[2].message)
  end)

  it("bears 10,000 runs that give Deferreds that have fired", function()
    local loop = looping(function()
      note()
      return defer.succeed()
    end)
    loop:start(0)
    for _ = 1, 10000 do
      clock:advance(0)
    end
    assert.equal(10001, #times)
  end)

  for when, now in pairs { ["at once"] = true, later = false } do
    it("fails with what the function raises, and is over: " .. when, function()
      local problem = { type = "Odd", message = "oh" }
      local loop = looping(error, problem)
      local outcome = outcomeOf(loop:start(0.1, now))
      clock:advance(0.1)
      assert.equal("failure", outcome[1])
      assert.equal("Odd", outcome[2]:check "Odd")
      assert.equal(problem, outcome[2].value)
      assert.is_false(loop.running)
      assert.is_nil(loop.deferred)
      assert.same({}, clock:getDelayedCalls())
    end)
  end

  it("has the function's line in the traceback of its failure", function()
    local line = debug.getinfo(1, "l").currentline + 2
    local outcome = outcomeOf(looping(function()
      error "oh"
    end):start(1))
    assert.matches("task_spec.lua:" .. line .. ": oh", outcome[2].message)
    assert.matches("task_spec.lua:" .. line .. ":", outcome[2].traceback:match "\n.*")
  end)

  it("fails with the failure of the Deferred that it waited for", function()
    local loop = looping(function()
      local d = Deferred:new()
      clock:callLater(0.3, d.errback, d, { type = "Odd" })
      return d
    end)
    local outcome = outcomeOf(loop:start(1))
    clock:advance(0.3)
    assert.equal("Odd", outcome[2].type)
    assert.is_false(loop.running)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("fails where the function gives a failure", function()
    local outcome = outcomeOf(looping(function()
      return defer.failure { type = "Odd" }
    end):start(1))
    assert.equal("Odd", outcome[2].type)
  end)

  it("fails when it cannot be called again", function()
    local full = false
    local loop = LoopingCall:new(nothing)
    loop.clock = {
      seconds = function()
        return 0
      end,
      callLater = function()
        if full then
          error "too many"
        end
      end,
    }
    full = true
    local outcome = outcomeOf(loop:start(1))
    assert.matches("too many", outcome[2].message)
    assert.is_false(loop.running)
  end)

  it("fails, once, when the function stops it and then raises", function()
    local loop
    loop = looping(function()
      loop:stop()
      error "oh"
    end)
    local outcome = outcomeOf(loop:start(0.1))
    assert.equal("failure", outcome[1])
    assert.same({}, clock:getDelayedCalls())
  end)

  it("leaves a failure that nobody handles to be reported", function()
    looping(error, "oh", 0):start(1)
    assert.equal("oh", defer.unhandled()[1].message)
  end)

  for _, interval in ipairs { 0, 10 } do
    it(("runs no more once it is stopped: interval %d"):format(interval), function()
      local loop = looping(note)
      local outcome = outcomeOf(loop:start(interval, false))
      loop:stop()
      assert.equal(loop, outcome[2])
      assert.same({}, clock:getDelayedCalls())
      clock:advance(20)
      assert.same({}, times)
    end)
  end

  it("is not running any more when its Deferred fires", function()
    local seen
    local loop = looping(nothing)
    loop:start(1):addCallback(function(same)
      seen = { same, same.running }
    end)
    loop:stop()
    assert.same({ loop, false }, seen)
  end)

  it("is stopped by another call in time", function()
    local loop = looping(note)
    loop:start(1, false)
    clock:callLater(0, loop.stop, loop)
    clock:pump { 0, 1, 1 }
    assert.same({}, times)
  end)

  it("may be stopped from within: its Deferred fires when the run is over", function()
    local loop, outcome
    local first = true
    loop = looping(function()
      note()
      if not first then
        loop:stop()
        assert.is_false(loop.running)
        assert.same({}, outcome)
      end
      first = false
    end)
    outcome = outcomeOf(loop:start(1))
    clock:pump { 1, 1 }
    assert.equal(2, #times)
    assert.equal(loop, outcome[2])
    assert.same({}, clock:getDelayedCalls())
  end)

  it("may be stopped while it waits: its Deferred fires when that one does", function()
    local d = Deferred:new()
    local loop = looping(function()
      return d
    end)
    local outcome = outcomeOf(loop:start(1))
    loop:stop()
    assert.is_false(loop.running)
    assert.same({}, outcome)
    d:callback()
    assert.equal(loop, outcome[2])
    assert.same({}, clock:getDelayedCalls())
  end)

  it("may be stopped by a callback of the Deferred that it waits for", function()
    local loop
    loop = looping(function()
      local d = Deferred:new()
      d:addCallback(function()
        loop:stop()
      end)
      clock:callLater(1, d.callback, d, nil)
      return d
    end)
    local outcome = outcomeOf(loop:start(0.2))
    clock:pump { 0.2, 0.8 }
    assert.equal(loop, outcome[2])
    assert.same({}, clock:getDelayedCalls())
  end)

  it("may be started again, by the callback of its Deferred, too", function()
    local loop = looping(note)
    loop:start(1):addCallback(function()
      loop:start(3, false)
    end)
    clock:advance(1)
    loop:stop()
    assert.is_true(loop.running)
    clock:pump { 1, 1, 1, 3 }
    assert.same({ { 0 }, { 1 }, { 4 }, { 7 } }, times)
    assert.equal(1, #clock:getDelayedCalls())
  end)

  it("may be started again by what raised", function()
    local loop, again
    loop = looping(function()
      note()
      if not again then
        error "oh"
      end
    end)
    loop:start(1):addErrback(function()
      again = true
      loop:start(2, false)
    end)
    clock:pump { 1, 1, 2 }
    assert.same({ { 0 }, { 2 }, { 4 } }, times)
  end)

  for _, how in ipairs { "callback", "errback" } do
    it("keeps two starts apart when it was started anew while it waited: " .. how, function()
      local d = Deferred:new()
      local loop = looping(function()
        note()
        return #times == 1 and d or nil
      end)
      local first = outcomeOf(loop:start(1))
      loop:stop()
      local second = outcomeOf(loop:start(2))
      assert.equal(2, #times)
      d[how](d, "x")
      assert.equal(how == "callback" and "value" or "failure", first[1])
      assert.same({}, second)
      assert.is_true(loop.running)
      clock:pump { 1, 1 }
      assert.equal(3, #times)
      assert.equal(1, #clock:getDelayedCalls())
      loop:stop()
      assert.equal(loop, second[2])
    end)
  end

  it("keeps two starts apart when the function itself starts it anew", function()
    local loop, second
    loop = looping(function()
      note()
      if #times == 1 then
        loop:stop()
        second = outcomeOf(loop:start(2))
      end
    end)
    local first = outcomeOf(loop:start(1))
    assert.equal(loop, first[2])
    assert.same({}, second)
    clock:pump { 1, 1 }
    assert.equal(3, #times)
    assert.equal(1, #clock:getDelayedCalls())
  end)

  it("begins a new grid at a reset", function()
    local loop = looping(note)
    loop:start(2, false)
    clock:advance(1)
    loop:reset()
    clock:advance(1)
    assert.same({}, times)
    clock:advance(1)
    clock:advance(2)
    assert.same({ { 3 }, { 5 } }, times)
    assert.equal(1, #clock:getDelayedCalls())
  end)

  it("counts across a reset what was missed before it", function()
    local block = 3.5
    local loop = counting(function(count)
      note(count)
      clock:advance(block)
    end)
    loop:start(1)
    block = 0
    loop:reset()
    clock:advance(1)
    assert.same({ { 0, 1 }, { 4.5, 4 } }, times)
    loop:reset()
    clock:advance(1)
    assert.same({ 5.5, 1 }, times[3])
  end)

  it("is not moved by a reset while it runs or waits", function()
    local d
    local loop
    loop = looping(function()
      note()
      loop:reset()
      d = Deferred:new()
      return d
    end)
    loop:start(2)
    clock:advance(1)
    loop:reset()
    assert.same({}, clock:getDelayedCalls())
    d:callback()
    clock:advance(1)
    assert.same({ { 0 }, { 2 } }, times)
  end)

  it("refuses to be started, stopped and reset out of turn, at the caller's line", function()
    local loop = looping(nothing)
    assert.matches("stop: the LoopingCall is not running", raisesHere(function()
      loop:stop()
    end))
    assert.matches("reset: the LoopingCall is not running", raisesHere(function()
      loop:reset()
    end))
    loop:start(1)
    assert.matches("start: the LoopingCall is running already", raisesHere(function()
      loop:start(1)
    end))
    assert.equal(1, #clock:getDelayedCalls())
  end)

  it("refuses a bad interval and what is no function, at the caller's line", function()
    local loop = looping(nothing)
    for _, bad in ipairs { -1, 0 / 0, math.huge, "1", {} } do
      assert.matches("start takes seconds", raisesHere(function()
        loop:start(bad)
      end))
    end
    assert.is_false(loop.running)
    assert.matches("LoopingCall takes a function, not a nil", raisesHere(function()
      LoopingCall:new()
    end))
    assert.matches("withCount takes a function, not a table", raisesHere(function()
      LoopingCall:withCount {}
    end))
  end)

  it("goes by the reactor, where it has no clock", function()
    withReactor(clock, function()
      local loop = LoopingCall:new(note)
      assert.is_nil(loop.clock)
      loop:start(1)
      assert.equal(clock, loop.clock)
      clock:advance(1)
    end)
    assert.same({ { 0 }, { 1 } }, times)
  end)

  it("may be derived from", function()
    local Named = LoopingCall { name = "n" }
    local loop = Named:new(note, "a")
    loop.clock = clock
    loop:start(1)
    local counted = Named:withCount(note)
    assert.same({ "n", "n" }, { loop.name, counted.name })
    assert.same({ { 0, "a" } }, times)
  end)

  describe("with an owner", function()
    local who

    before_each(function()
      who = owner.new()
    end)

    local function owned(f, ...)
      local results = { owner.call(who, asIs, f, ...) }
      assert(results[1], results[2])
      return unpack(results, 2)
    end

    it("belongs to the one that was current at its start, until it is stopped", function()
      local loop = looping(nothing)
      owned(loop.start, loop, 1)
      assert.is_true(who.things[loop])
      loop:stop()
      assert.same({}, who.things)
    end)

    it("is let go when it fails", function()
      local outcome = outcomeOf(owned(function()
        return looping(error, "oh"):start(1)
      end))
      assert.equal("failure", outcome[1])
      assert.same({}, who.things)
    end)

    it("ends with it, without an error", function()
      local loop = looping(note)
      local outcome = outcomeOf(owned(loop.start, loop, 1, false))
      who:finish()
      assert.is_false(loop.running)
      assert.equal(loop, outcome[2])
      assert.same({}, clock:getDelayedCalls())
      loop:finish()
    end)

    it("is nobody's when its owner has ended", function()
      who:finish()
      local loop = looping(nothing)
      owned(loop.start, loop, 1)
      assert.same({}, who.things)
      assert.is_true(loop.running)
    end)

    it("runs for its owner, whoever moves it on", function()
      local seen, d = {}, Deferred:new()
      local loop = looping(function()
        seen[#seen + 1] = owner.current or false
        return #seen == 2 and d or nil
      end)
      owned(loop.start, loop, 1)
      clock:advance(1)
      owner.call(owner.new(), asIs, d.callback, d)
      clock:advance(1)
      owner.call(owner.new(), asIs, loop.reset, loop)
      clock:advance(1)
      assert.same({ who, who, who, who }, seen)
      loop:stop()
    end)

    it("sets its timers for its owner, whoever moves it on", function()
      local seen, d = {}, Deferred:new()
      local loop = LoopingCall:new(function()
        return d
      end)
      loop.clock = {
        seconds = function()
          return 0
        end,
        callLater = function()
          seen[#seen + 1] = owner.current or false
          return { cancel = nothing }
        end,
      }
      owned(loop.start, loop, 1)
      d:callback()
      loop:reset()
      assert.same({ who, who }, seen)
    end)

    it("stays nobody's, whoever moves it on", function()
      local seen, d = {}, Deferred:new()
      looping(function()
        seen[#seen + 1] = owner.current or false
        return #seen == 1 and d or nil
      end):start(1)
      owned(d.callback, d)
      clock:advance(1)
      owned(clock.advance, clock, 1)
      assert.same({ false, false, false }, seen)
    end)
  end)
end)

describe("deferLater", function()
  it("fires with what the function gives, after so many seconds", function()
    local flag, got = {}, nil
    local outcome = outcomeOf(task.deferLater(clock, 3, function(...)
      got = { select("#", ...), ... }
      return flag
    end, "foo", nil))
    clock:advance(2)
    assert.is_nil(got)
    assert.same({}, outcome)
    clock:advance(1)
    assert.same({ 2, "foo", nil }, got)
    assert.equal(flag, outcome[2])
  end)

  it("waits for a Deferred that the function gives", function()
    local inner = Deferred:new()
    local outcome = outcomeOf(task.deferLater(clock, 1, function()
      return inner
    end))
    clock:advance(1)
    assert.same({}, outcome)
    inner:callback(5)
    assert.same({ "value", 5 }, outcome)
  end)

  it("fails with what the function raises", function()
    local outcome = outcomeOf(task.deferLater(clock, 1, error, { type = "Odd" }))
    clock:advance(1)
    assert.equal("Odd", outcome[2].type)
  end)

  it("is taken back by cancel", function()
    local called = false
    local d = task.deferLater(clock, 1, function()
      called = true
    end)
    local outcome = outcomeOf(d)
    d:cancel()
    assert.equal("CancelledError", outcome[2].type)
    assert.same({}, clock:getDelayedCalls())
    clock:advance(1)
    assert.is_false(called)
  end)

  it("cancels what the function gave, once that is waited for", function()
    local cancelled
    local d = task.deferLater(clock, 1, function()
      return Deferred:new(function()
        cancelled = true
      end)
    end)
    local outcome = outcomeOf(d)
    clock:advance(1)
    d:cancel()
    assert.is_true(cancelled)
    assert.equal("CancelledError", outcome[2].type)
  end)

  it("fires with nil where there is no function", function()
    local outcome = outcomeOf(task.deferLater(clock, 2))
    assert.same({}, outcome)
    clock:advance(2)
    assert.same({ "value", nil }, outcome)
  end)

  it("goes by the reactor, where it has no clock", function()
    local outcome
    withReactor(clock, function()
      outcome = outcomeOf(task.deferLater(nil, 1, tostring, 5))
    end)
    clock:advance(1)
    assert.same({ "value", "5" }, outcome)
  end)

  it("refuses what it cannot work with, at the caller's line", function()
    assert.matches("the clock is a number", raisesHere(function()
      task.deferLater(1, nothing)
    end))
    assert.matches("deferLater takes seconds", raisesHere(function()
      task.deferLater(clock, -1, nothing)
    end))
    assert.matches("deferLater takes a function", raisesHere(function()
      task.deferLater(clock, 1, "f")
    end))
    assert.same({}, clock:getDelayedCalls())
  end)
end)

describe("a Cooperator", function()
  local cooperator, log

  -- A function that notes `name` and a number so many times, and is done then.
  local function worker(name, times)
    local i = 0
    return function()
      i = i + 1
      if i > times then
        return nil
      end
      log[#log + 1] = name .. i
      return i
    end
  end

  local function text()
    return table.concat(log, " ")
  end

  before_each(function()
    cooperator = Cooperator:new { clock = clock }
    log = {}
  end)

  it("calls each task once a turn, in order, until they are done", function()
    cooperator:cooperate(worker("a", 3))
    cooperator:cooperate(worker("b", 1))
    cooperator:cooperate(worker("c", 2))
    assert.equal("", text())
    clock:advance(0)
    assert.equal("a1 b1 c1", text())
    clock:advance(7)
    assert.equal("a1 b1 c1 a2 c2", text())
    clock:pump { 0, 0 }
    assert.equal("a1 b1 c1 a2 c2 a3", text())
    assert.same({}, clock:getDelayedCalls())
  end)

  it("goes on with what is false", function()
    local count = 0
    cooperator:cooperate(function()
      count = count + 1
      return false
    end)
    clock:pump { 0, 0 }
    assert.equal(2, count)
  end)

  it("takes a coroutine's function", function()
    local outcome = outcomeOf(cooperator:cooperate(coroutine.wrap(function()
      for i = 1, 3 do
        log[#log + 1] = i
        coroutine.yield(i)
      end
    end)):whenDone())
    clock:pump { 0, 0, 0, 0 }
    assert.equal("1 2 3", text())
    assert.equal("value", outcome[1])
  end)

  it("calls tasks that come while it works from the next turn on, behind the others", function()
    local added
    cooperator:cooperate(function()
      log[#log + 1] = "a"
      if not added then
        added = cooperator:cooperate(worker("new", 5))
      end
      return true
    end)
    cooperator:cooperate(worker("b", 5))
    clock:advance(0)
    assert.equal("a b1", text())
    clock:advance(0)
    assert.equal("a b1 a b2 new1", text())
  end)

  it("asks for one turn at a time, be tasks added by those that are done", function()
    local calls, done = {}, false
    cooperator = Cooperator:new {
      clock = {
        callLater = function(_, seconds, f, ...)
          assert.same({ 0, 0 }, { seconds, #calls })
          calls[1] = { f, ... }
          return { cancel = nothing }
        end,
      },
    }
    cooperator:cooperate(nothing):whenDone():addCallback(function()
      return cooperator:cooperate(nothing):whenDone()
    end):addCallback(function()
      done = true
    end)
    for _ = 1, 2 do
      local call = table.remove(calls)
      call[1](unpack(call, 2))
    end
    assert.is_true(done)
    assert.same({}, calls)
  end)

  it("asks for a turn only while there are tasks", function()
    local first, second = cooperator:cooperate(worker("a", 5)), cooperator:cooperate(worker("b", 5))
    assert.equal(1, #clock:getDelayedCalls())
    first:stop()
    assert.equal(1, #clock:getDelayedCalls())
    second:stop()
    assert.same({}, clock:getDelayedCalls())
    cooperator:cooperate(worker("c", 5))
    assert.equal(1, #clock:getDelayedCalls())
    clock:advance(0)
    assert.equal("c1", text())
  end)

  it("bears tasks that stop and pause each other", function()
    local tasks = {}
    for i = 1, 6 do
      tasks[i] = cooperator:cooperate(function()
        log[#log + 1] = i
        if i == 2 then
          tasks[1]:stop()
          tasks[3]:stop()
          tasks[4]:pause()
        elseif i == 5 then
          tasks[4]:resume()
          tasks[5]:stop()
        end
        return true
      end)
    end
    clock:advance(0)
    assert.equal("1 2 5 6", text())
    log = {}
    tasks[2]:stop()
    clock:advance(0)
    assert.equal("6 4", text())
  end)

  it("runs till the task that stops it", function()
    local a = cooperator:cooperate(function()
      cooperator:stop()
      return true
    end)
    local b = cooperator:cooperate(worker("b", 3))
    local outcomes = { outcomeOf(a:whenDone()), outcomeOf(b:whenDone()) }
    clock:pump { 0, 0 }
    assert.equal("", text())
    assert.same({ "SchedulerStopped", "SchedulerStopped" }, { outcomes[1][2].type, outcomes[2][2].type })
  end)

  it("is not entered again by a task that moves the clock on", function()
    local inside = false
    cooperator:cooperate(function()
      assert(not inside, "within itself")
      inside = true
      cooperator:cooperate(worker("b", 5))
      clock:advance(1)
      inside = false
      return true
    end)
    clock:pump { 0, 0, 0 }
    assert.equal("b1 b2 b1", text())
  end)

  it("is running, unless made otherwise or stopped", function()
    assert.is_true(Cooperator:new().running)
    local waiting = Cooperator:new { clock = clock, started = false }
    assert.is_false(waiting.running)
    waiting:start()
    assert.is_true(waiting.running)
    waiting:stop()
    assert.is_false(waiting.running)
  end)

  it("holds its tasks until it is started", function()
    local waiting = Cooperator:new { clock = clock, started = false }
    waiting:cooperate(worker("a", 1))
    assert.same({}, clock:getDelayedCalls())
    clock:advance(1)
    assert.equal("", text())
    waiting:start()
    waiting:start()
    assert.equal(1, #clock:getDelayedCalls())
    clock:advance(0)
    assert.equal("a1", text())
  end)

  it("fails all its tasks when it is stopped, and works no more", function()
    local outcomes = {}
    for i = 1, 5 do
      outcomes[i] = outcomeOf(cooperator:cooperate(worker("a", 3)):whenDone())
    end
    cooperator:stop()
    for i = 1, 5 do
      assert.equal("SchedulerStopped", outcomes[i][2].type)
    end
    assert.same({}, clock:getDelayedCalls())
    clock:advance(0)
    assert.equal("", text())
  end)

  it("refuses tasks once it is stopped", function()
    cooperator:stop()
    local one = cooperator:cooperate(worker("a", 3))
    assert.equal("SchedulerStopped", outcomeOf(one:whenDone())[2].type)
    assert.same({ nil, "already stopped", "ECANCELED" }, { one:stop() })
    assert.same({}, clock:getDelayedCalls())
  end)

  it("ends a task that waits when that would go on", function()
    local d = Deferred:new()
    local one = cooperator:cooperate(function()
      log[#log + 1] = "x"
      return d
    end)
    local outcome = outcomeOf(one:whenDone())
    clock:advance(0)
    cooperator:stop()
    d:callback "arglebargle"
    assert.equal("SchedulerStopped", outcome[2].type)
    clock:advance(0)
    assert.equal("x", text())
  end)

  it("works on with what is left when it is started again", function()
    local one = cooperator:cooperate(worker("a", 5))
    clock:advance(0)
    one:pause()
    cooperator:stop()
    cooperator:start()
    assert.is_true(cooperator.running)
    one:resume()
    cooperator:cooperate(worker("b", 5))
    clock:advance(0)
    assert.equal("a1 a2 b1", text())
  end)

  it("may be stopped by the Deferred of a task that is done", function()
    local phases = {}
    local function f()
      return nil
    end
    cooperator:cooperate(f):whenDone():addCallback(function(result)
      phases[#phases + 1] = result
      cooperator:stop()
      phases[#phases + 1] = "done"
    end)
    clock:advance(0)
    assert.same({ f, "done" }, phases)
  end)

  it("bears that the end of one task ends others, or adds some", function()
    local a, b = cooperator:cooperate(worker("a", 5)), cooperator:cooperate(worker("b", 5))
    local late
    a:whenDone():addErrback(function()
      b:stop()
      late = outcomeOf(cooperator:cooperate(worker("c", 5)):whenDone())
    end)
    local outcome = outcomeOf(b:whenDone())
    cooperator:stop()
    assert.equal("TaskStopped", outcome[2].type)
    assert.equal("SchedulerStopped", late[2].type)
  end)

  it("goes by the reactor, where it has no clock", function()
    withReactor(clock, function()
      Cooperator:new():cooperate(worker("a", 1))
      clock:pump { 0, 0 }
    end)
    assert.equal("a1", text())
  end)

  it("refuses what it cannot work with, at the caller's line", function()
    assert.matches("cooperate takes a function, not a table", raisesHere(function()
      cooperator:cooperate {}
    end))
    assert.matches("knows no option 'clok'", raisesHere(function()
      Cooperator:new { clok = clock }
    end))
    assert.matches("clock takes a table, not a number", raisesHere(function()
      Cooperator:new { clock = 1 }
    end))
    assert.matches("takes its options as a table, not a number", raisesHere(function()
      Cooperator:new(1)
    end))
  end)

  describe("'s task", function()
    local work, one, f, nextDeferred, nextEnd, nextError

    before_each(function()
      work, nextDeferred, nextEnd, nextError = {}, false, false, nil
      local i = 0
      function f()
        i = i + 1
        if nextEnd then
          return nil
        elseif nextError then
          error(nextError, 0)
        elseif nextDeferred then
          nextDeferred = false
          work[#work + 1] = Deferred:new()
        else
          work[#work + 1] = i
        end
        return work[#work]
      end
      one = cooperator:cooperate(f)
    end)

    it("is kept by pause, and goes on a turn after resume", function()
      clock:pump { 0, 0 }
      assert.same({ 1, 2 }, work)
      assert.is_true(one:pause())
      clock:advance(0)
      assert.same({ 1, 2 }, work)
      assert.same({}, clock:getDelayedCalls())
      assert.is_true(one:resume())
      assert.same({ 1, 2 }, work)
      clock:advance(0)
      assert.same({ 1, 2, 3 }, work)
    end)

    it("needs as many resumes as it had pauses", function()
      one:pause()
      one:pause()
      one:resume()
      clock:advance(0)
      assert.same({}, work)
      one:resume()
      clock:advance(0)
      assert.same({ 1 }, work)
    end)

    it("refuses a resume without a pause, at the caller's line", function()
      local function resume()
        one:resume()
      end
      assert.matches("resume: the task is not paused", raisesHere(resume))
      one:pause()
      one:resume()
      raisesHere(resume)
      nextDeferred = true
      clock:advance(0)
      raisesHere(resume)
    end)

    it("is held by a Deferred until that fires", function()
      nextDeferred = true
      clock:pump { 0, 0, 5 }
      assert.equal(1, #work)
      assert.same({}, clock:getDelayedCalls())
      work[1]:callback "ignored"
      assert.equal(1, #work)
      clock:advance(0)
      assert.equal(2, work[2])
    end)

    it("goes on a turn after a Deferred that has fired already, with nil, too", function()
      local count = 0
      cooperator:cooperate(function()
        count = count + 1
        return defer.succeed(nil)
      end)
      clock:advance(0)
      assert.equal(1, count)
      clock:advance(0)
      assert.equal(2, count)
    end)

    it("needs both the Deferred and the resume, in either order", function()
      nextDeferred = true
      clock:advance(0)
      one:pause()
      one:resume()
      clock:advance(0)
      assert.equal(1, #work)
      one:pause()
      work[1]:callback()
      clock:advance(0)
      assert.equal(1, #work)
      one:resume()
      clock:advance(0)
      assert.equal(2, work[2])
    end)

    it("may pause itself", function()
      local runs = 0
      local other
      other = cooperator:cooperate(function()
        runs = runs + 1
        other:pause()
        return true
      end)
      clock:pump { 0, 0 }
      assert.equal(1, runs)
      other:resume()
      clock:advance(0)
      assert.equal(2, runs)
    end)

    it("gives a Deferred at each whenDone, none of which changes what another fires with", function()
      local results, final = {}, {}
      for i = 1, 2 do
        one:whenDone():addCallback(function(result)
          results[i] = result
          return i
        end):addCallback(function(result)
          final[i] = result
        end)
      end
      nextEnd = true
      clock:advance(0)
      assert.same({ { f, f }, { 1, 2 } }, { results, final })
      assert.equal(f, outcomeOf(one:whenDone())[2])
    end)

    it("fails with what it raises, once and for all who ask", function()
      nextError = { type = "Odd", message = "oh" }
      local outcomes = { outcomeOf(one:whenDone()), outcomeOf(one:whenDone()) }
      clock:advance(0)
      outcomes[3] = outcomeOf(one:whenDone())
      for i = 1, 3 do
        assert.equal("Odd", outcomes[i][2]:check "Odd")
        assert.equal(nextError, outcomes[i][2].value)
      end
      assert.same({}, clock:getDelayedCalls())
    end)

    it("does not lose an error that nobody asked for", function()
      nextError = "oh"
      clock:advance(0)
      assert.equal("oh", defer.unhandled()[1].message)
    end)

    it("reports nothing where somebody asks in time, though later", function()
      nextError = "oh"
      clock:advance(0)
      assert.equal("oh", outcomeOf(one:whenDone())[2].message)
      assert.equal("oh", outcomeOf(one:whenDone())[2].message)
    end)

    for when, before in pairs { before = true, later = false } do
      it("fails with the failure of a Deferred that holds it: " .. when, function()
        local d = Deferred:new()
        if before then
          d:errback "oh"
        end
        local outcome = outcomeOf(cooperator
          :cooperate(function()
            return d
          end)
          :whenDone())
        one:stop()
        clock:advance(0)
        if not before then
          assert.same({}, outcome)
          d:errback "oh"
        end
        assert.equal("oh", outcome[2].message)
        assert.same({}, clock:getDelayedCalls())
      end)
    end

    it("is over when it is stopped", function()
      local outcome = outcomeOf(one:whenDone())
      assert.is_true(one:stop())
      assert.equal("TaskStopped", outcome[2]:check "TaskStopped")
      assert.equal("TaskStopped", outcomeOf(one:whenDone())[2].type)
      for _, method in ipairs { "stop", "pause", "resume" } do
        assert.same({ nil, "already stopped", "ECANCELED" }, { one[method](one) })
      end
      clock:advance(0)
      assert.same({}, work)
    end)

    it("may be stopped while it is paused, and is not woken by a resume", function()
      one:pause()
      one:stop()
      one:resume()
      clock:advance(0)
      assert.same({}, work)
      assert.same({}, clock:getDelayedCalls())
    end)

    it("may be stopped while a Deferred holds it, and is not woken by that", function()
      nextDeferred = true
      clock:advance(0)
      local d = table.remove(work)
      local results = {}
      d:addBoth(function(result)
        results[1] = { result }
      end)
      one:stop()
      d:callback(7)
      clock:advance(0)
      assert.same({ {} }, results)
      assert.same({}, work)
    end)

    it("leaves a failure that comes after its end to whom it may concern", function()
      nextDeferred = true
      clock:advance(0)
      local d = table.remove(work)
      local outcome = outcomeOf(one:whenDone())
      one:stop()
      d:errback "oh"
      assert.equal("TaskStopped", outcome[2].type)
      assert.equal("oh", defer.unhandled()[1].message)
    end)

    it("may stop itself, whatever it gives then", function()
      for _, gives in ipairs { true, false, defer.succeed(1) } do
        local other
        other = cooperator:cooperate(function()
          other:stop()
          return gives or nil
        end)
        local outcome = outcomeOf(other:whenDone())
        clock:advance(0)
        assert.equal("TaskStopped", outcome[2].type)
      end
      local other
      other = cooperator:cooperate(function()
        other:stop()
        error("oh", 0)
      end)
      clock:advance(0)
      assert.equal("oh", defer.unhandled()[1].message)
    end)

    it("says that it is done", function()
      nextEnd = true
      clock:advance(0)
      for _, method in ipairs { "stop", "pause", "resume" } do
        assert.same({ nil, "already done", "EALREADY" }, { one[method](one) })
      end
    end)

    it("says that it has failed", function()
      nextError = "oh"
      local outcome = outcomeOf(one:whenDone())
      clock:advance(0)
      assert.equal("failure", outcome[1])
      for _, method in ipairs { "stop", "pause", "resume" } do
        assert.same({ nil, "already failed", "EALREADY" }, { one[method](one) })
      end
    end)

    it("is not stopped when one of those Deferreds is cancelled", function()
      local d = one:whenDone()
      local outcome = outcomeOf(d)
      d:cancel()
      assert.equal("CancelledError", outcome[2].type)
      clock:advance(0)
      nextEnd = true
      clock:advance(0)
      assert.same({ 1 }, work)
    end)
  end)

  describe("with owners", function()
    local who

    before_each(function()
      who = owner.new()
    end)

    local function owned(g)
      local ok, one = owner.call(who, asIs, cooperator.cooperate, cooperator, g)
      assert(ok, one)
      return one
    end

    it("has each task belong to the one that was current when it came, till its end", function()
      local ends = { owned(nothing), owned(worker("a", 9)), owned(error) }
      local outcome = outcomeOf(ends[3]:whenDone())
      for _, one in ipairs(ends) do
        assert.is_true(who.things[one])
      end
      clock:advance(0)
      assert.equal("failure", outcome[1])
      assert.same({ [ends[2]] = true }, who.things)
      ends[2]:stop()
      assert.same({}, who.things)
    end)

    it("runs each task for its owner", function()
      local seen = {}
      local function look()
        seen[#seen + 1] = owner.current or false
        return true
      end
      owned(look)
      cooperator:cooperate(look)
      clock:pump { 0, 0 }
      assert.same({ who, false, who, false }, seen)
    end)

    it("has its turns belong to nobody", function()
      local seen = {}
      cooperator = Cooperator:new {
        clock = {
          callLater = function()
            seen[#seen + 1] = owner.current or false
            return { cancel = nothing }
          end,
        },
      }
      owned(nothing)
      assert.same({ false }, seen)
    end)

    it("works on for the others when one of them ends, without an error", function()
      local one = owned(worker("a", 9))
      one:whenDone()
      local paused = owned(worker("b", 9))
      paused:pause()
      cooperator:cooperate(worker("c", 9))
      clock:advance(0)
      who:finish()
      clock:advance(0)
      assert.equal("a1 c1 c2", text())
      assert.same({ nil, "already stopped", "ECANCELED" }, { paused:resume() })
      one:finish()
    end)
  end)
end)
