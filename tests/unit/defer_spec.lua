local defer = require "skald.defer"
local owner = require "skald.owner"
local task = require "skald.task"
local outcomes = require "support.outcomes"

local isPending, valueOf, failureOf = outcomes.isPending, outcomes.valueOf, outcomes.failureOf

local Deferred, DeferredList = defer.Deferred, defer.DeferredList
local MANY = 10000

-- A list, and a callback that appends to it what it is given and passes that on.
local function recorder()
  local seen = { n = 0 }
  return seen, function(value)
    seen.n = seen.n + 1
    seen[seen.n] = value
    return value
  end
end

local function nothing() end

-- A callback that appends a word, whatever it is given.
local function says(list, word)
  return function()
    list[#list + 1] = word
  end
end

local function gives(value)
  return function()
    return value
  end
end

-- How many calls deep we are; beyond 500 it does not matter.
local function depth()
  local level = 1
  while level < 500 and debug.getinfo(level, "l") do
    level = level + 1
  end
  return level
end

local function here()
  return debug.getinfo(2, "l").currentline
end

local function raisesHere(message, f, ...)
  local ok, problem = pcall(f, ...)
  assert.is_false(ok)
  assert.matches("defer_spec%.lua:%d+:", tostring(problem))
  assert.matches(message, tostring(problem))
end

before_each(function()
  defer.unhandled()
end)

-- What a test leaves behind unhandled is an error of the test or of the module.
after_each(function()
  local first = defer.unhandled()[1]
  assert.is_nil(first, "left unhandled: " .. tostring(first and first.failure or first))
end)

describe("a Deferred", function()
  it("gives its value to the callback", function()
    local seen, record = recorder()
    local d = Deferred:new()
    d:addCallback(record)
    assert.equal(0, seen.n)
    assert.is_true(d:callback "hello")
    assert.same({ n = 1, "hello" }, seen)
  end)

  it("gives extra arguments after the value, nils among them", function()
    local count, arguments
    local function note(...)
      count, arguments = select("#", ...), { ... }
    end
    Deferred:new():addCallback(note, nil, "b", nil):callback "a"
    assert.equal(4, count)
    assert.same({ "a", nil, "b" }, arguments)
    Deferred:new():addBoth(note, 1):callback "a"
    assert.same({ "a", 1 }, arguments)
    local failed = Deferred:new():addErrback(note, 1, 2)
    failed:errback "no"
    assert.equal("no", arguments[1].value)
    assert.same({ 1, 2 }, { arguments[2], arguments[3] })
  end)

  it("gives the value of each callback to the next", function()
    local seen, record = recorder()
    Deferred:new():addCallback(record):addCallback(gives(2)):addCallback(record):addCallback(nothing)
      :addCallback(record):callback(1)
    assert.equal(3, seen.n)
    assert.same({ 1, 2 }, { seen[1], seen[2] })
    assert.is_nil(seen[3])
  end)

  it("passes false and nil on as values", function()
    local seen, record = recorder()
    Deferred:new():addCallback(record):addCallback(gives(false)):addCallback(record):callback(nil)
    assert.same({ n = 2, nil, false }, seen)
  end)

  it("runs a callback that is added after it fired at once", function()
    local d = defer.succeed "success"
    local seen, record = recorder()
    d:addCallback(record)
    assert.same({ n = 1, "success" }, seen)
  end)

  it("returns itself from whatever adds to it", function()
    local d = Deferred:new()
    assert.equal(d, d:addCallback(nothing))
    assert.equal(d, d:addErrback(nothing))
    assert.equal(d, d:addBoth(nothing))
    assert.equal(d, d:addCallbacks(nothing, nothing))
    assert.equal(d, d:addTimeout(1, task.Clock:new()))
    assert.equal(d, d:chainDeferred(Deferred:new()))
  end)

  it("shows whether it was called, and with what", function()
    local d = Deferred:new()
    assert.is_false(d.called)
    assert.is_nil(d.result)
    d:callback(5)
    assert.is_true(d.called)
    assert.equal(5, d.result)
  end)

  it("takes a callback and an errback as a pair, of which one runs", function()
    local said = {}
    Deferred:new():addCallbacks(says(said, "callback"), says(said, "errback")):callback()
    Deferred:new():addCallbacks(says(said, "callback"), says(said, "errback")):errback "no"
    assert.same({ "callback", "errback" }, said)
  end)

  it("does not give the error of a callback to the errback of the same pair", function()
    local said = {}
    local d = Deferred:new()
    d:addCallbacks(function() error "no" end, says(said, "same"))
    d:addCallbacks(says(said, "callback"), says(said, "next"))
    d:callback()
    assert.same({ "next" }, said)
  end)

  it("gives each of a pair its own extra arguments", function()
    local seen = {}
    local function note(_, ...)
      seen[#seen + 1] = { ... }
    end
    Deferred:new():addCallbacks(note, note, { 1, 2 }, { 3 }):callback()
    Deferred:new():addCallbacks(note, note, { 1, 2 }, { 3 }):errback "no"
    Deferred:new():addCallbacks(note, note, nil, { 3 }):callback()
    Deferred:new():addCallbacks(note, note, { 1, 2 }):errback "no"
    assert.same({ { 1, 2 }, { 3 }, {}, {} }, seen)
  end)

  it("passes by where one of a pair is missing", function()
    local seen, record = recorder()
    local d = Deferred:new():addCallbacks(record, nil)
    d:errback "no"
    assert.equal(0, seen.n)
    assert.equal("no", failureOf(d).value)
    assert.equal(7, valueOf(defer.succeed(7):addCallbacks(nil, record)))
    assert.equal(0, seen.n)
  end)

  it("runs a callback that a callback adds after those that were there", function()
    local said = {}
    local d = Deferred:new()
    d:addCallback(function()
      said[#said + 1] = 1
      d:addCallback(says(said, 3))
      said[#said + 1] = "added"
    end)
    d:addCallback(says(said, 2))
    d:callback()
    assert.same({ 1, "added", 2, 3 }, said)
  end)

  it("gives the error of a callback that a callback added to the errback after it", function()
    local d = Deferred:new()
    d:addCallback(function()
      d:addCallback(function() error("late", 0) end)
    end)
    d:callback()
    assert.equal("late", failureOf(d).value)
  end)

  it("is called once: later calls say so", function()
    for _, first in ipairs { "callback", "errback" } do
      for _, second in ipairs { "callback", "errback" } do
        local d = Deferred:new():addErrback(nothing)
        assert.is_true(d[first](d, "once"))
        assert.same({ n = 3, nil, "already called", "EALREADY" }, { n = 3, d[second](d, "twice") })
      end
    end
  end)

  it("takes a failure given to callback for what it is", function()
    local f = defer.failure "no"
    local d = Deferred:new()
    d:callback(f)
    assert.equal(f, failureOf(d))
  end)

  it("refuses a Deferred as its value, at the caller's line", function()
    local d = Deferred:new()
    raisesHere("Deferred", function()
      d:callback(Deferred:new())
    end)
    assert.is_false(d.called)
    assert.is_true(d:callback(1))
  end)

  it("refuses a callback that is no function, at the caller's line", function()
    local d = Deferred:new()
    for _, name in ipairs { "addCallback", "addErrback", "addBoth" } do
      raisesHere("function", function()
        d[name](d, "no function")
      end)
      raisesHere("function", function()
        d[name](d)
      end)
    end
    raisesHere("function", function()
      d:addCallbacks(nothing, 5)
    end)
  end)

  it("refuses a canceller that is no function, at the caller's line", function()
    raisesHere("function", function()
      Deferred:new "no function"
    end)
  end)
end)

describe("a failure", function()
  it("is what an errback is given, with what was given to errback unwrapped", function()
    local reason = { code = "lost" }
    local f = failureOf(defer.fail(reason))
    assert.equal(reason, f.value)
    assert.equal("error", f.type)
  end)

  it("is what becomes of an error in a callback", function()
    local d = defer.succeed():addCallback(function() error("broken", 0) end)
    local f = failureOf(d)
    assert.equal("broken", f.value)
    assert.equal("broken", f.message)
    assert.equal("error", f.type)
    assert.equal("broken", tostring(f))
  end)

  it("is what becomes of an error of the interpreter", function()
    local f = failureOf(defer.succeed(1):addCallback(function(x)
      return x.y.z
    end))
    assert.matches("attempt to index", f.message)
    assert.matches("defer_spec%.lua:%d+:", f.message)
  end)

  it("has the type of the table that was raised", function()
    local raised = { type = "ProtocolError", message = "bad length" }
    local f = failureOf(defer.succeed():addCallback(function() error(raised) end))
    assert.equal("ProtocolError", f.type)
    assert.equal("bad length", f.message)
    assert.equal(raised, f.value)
    assert.equal("error", failureOf(defer.fail { type = 5 }).type)
  end)

  it("has a message whatever was raised", function()
    local worded = setmetatable({}, { __tostring = function() return "worded" end })
    assert.equal("worded", defer.failure(worded).message)
    for _, value in ipairs { {}, 5, true, print } do
      assert.equal("string", type(defer.failure(value).message))
      assert.equal("string", type(tostring(defer.failure(value))))
    end
  end)

  it("is made of nil, too", function()
    local f = failureOf(defer.succeed():addCallback(function() error() end))
    assert.is_nil(f.value)
    assert.equal("error", f.type)
    assert.equal("string", type(f.message))
  end)

  it("stays the same one when raised again or given again", function()
    local f = defer.failure "no"
    assert.equal(f, defer.failure(f))
    assert.equal(f, failureOf(defer.fail(f)))
    assert.equal(f, failureOf(defer.succeed():addCallback(function() error(f) end)))
    assert.equal(f, failureOf(defer.fail(f):addErrback(function(given) given:raise() end)))
    local again = Deferred:new()
    again:errback(f)
    assert.equal(f, failureOf(again))
  end)

  it("is known by isFailure, and nothing else is", function()
    assert.is_true(defer.isFailure(defer.failure "no"))
    for _, value in ipairs { { type = "error", message = "no", value = "no" }, "no", 5, Deferred:new(), setmetatable({}, {}) } do
      assert.is_false(defer.isFailure(value))
    end
    assert.is_false(defer.isFailure(nil))
  end)

  it("tells by check which of the types it is", function()
    local f = defer.failure { type = "Second" }
    assert.equal("Second", f:check("First", "Second"))
    assert.is_nil(f:check "First")
    assert.is_nil(f:check())
    assert.equal("error", defer.failure("no"):check "error")
  end)

  it("is raised on by trap unless it is of one of the types", function()
    local f = defer.failure { type = "Second" }
    assert.equal("Second", f:trap("First", "Second"))
    local ok, raised = pcall(f.trap, f, "First", "Third")
    assert.is_false(ok)
    assert.equal(f, raised)
    assert.equal(f, failureOf(defer.fail(f):addErrback(function(given) given:trap "First" end)))
    assert.equal("caught", valueOf(defer.fail(f):addErrback(function(given)
      given:trap "Second"
      return "caught"
    end)))
  end)

  it("is raised by raise", function()
    local f = defer.failure "no"
    local ok, raised = pcall(f.raise, f)
    assert.is_false(ok)
    assert.equal(f, raised)
  end)

  it("begins with its type as a string if it is one of the library's", function()
    local d = Deferred:new()
    d:cancel()
    assert.matches("^CancelledError: .", tostring(failureOf(d)))
  end)

  it("goes past callbacks to the next errback", function()
    local said = {}
    defer.fail("no"):addCallback(says(said, "callback")):addErrback(says(said, "errback")):addErrback(says(said, "second"))
      :addCallback(says(said, "recovered"))
    assert.same({ "errback", "recovered" }, said)
  end)

  it("comes from a callback that returns one", function()
    local f = defer.failure "no"
    assert.equal(f, failureOf(defer.succeed():addCallback(gives(f))))
  end)

  it("is passed on by an errback that returns it", function()
    local f = defer.failure "no"
    assert.equal(f, failureOf(defer.fail(f):addErrback(function(given) return given end)))
  end)

  it("gives way to the error of an errback", function()
    local f = failureOf(defer.fail("first"):addErrback(function() error("second", 0) end))
    assert.equal("second", f.value)
  end)

  it("was caught where it was raised: its traceback has the lines down to there", function()
    local raised, called
    local function breaks()
      raised = here() + 1
      error "broken"
    end
    local d = defer.succeed():addCallback(function()
      called = here() + 1
      breaks()
      return "not reached"
    end)
    local f = failureOf(d)
    assert.matches("defer_spec%.lua:" .. raised .. ": broken", f.message)
    assert.matches("defer_spec%.lua:" .. raised .. ":", f.traceback)
    assert.matches("defer_spec%.lua:" .. called .. ":", f.traceback)
  end)

  it("keeps its traceback when raised again elsewhere", function()
    local line
    local d = defer.succeed():addCallback(function()
      line = here() + 1
      error "broken"
    end)
    d:addErrback(function(f)
      f:raise()
    end)
    assert.matches("defer_spec%.lua:" .. line .. ":", failureOf(d).traceback)
  end)
end)

describe("succeed, fail and maybeDeferred", function()
  it("succeed gives one that has fired", function()
    assert.equal("success", valueOf(defer.succeed "success"))
    assert.is_nil(valueOf(defer.succeed()))
  end)

  it("fail gives one that has failed", function()
    assert.equal("no", failureOf(defer.fail "no").value)
  end)

  it("maybeDeferred gives what a function returned", function()
    local object = {}
    assert.equal(object, valueOf(defer.maybeDeferred(gives(object))))
  end)

  it("maybeDeferred passes arguments, nils among them", function()
    local d = defer.maybeDeferred(function(...)
      return { n = select("#", ...), ... }
    end, nil, 10, nil)
    assert.same({ n = 3, nil, 10 }, valueOf(d))
  end)

  it("maybeDeferred catches an error", function()
    local d = defer.maybeDeferred(function(x) return x + 5 end, "ten")
    assert.matches("arithmetic", failureOf(d).message)
  end)

  it("maybeDeferred takes a failure that was returned for what it is", function()
    local f = defer.failure "no"
    assert.equal(f, failureOf(defer.maybeDeferred(gives(f))))
  end)

  it("maybeDeferred gives the very Deferred that was returned", function()
    local d = Deferred:new()
    assert.equal(d, defer.maybeDeferred(gives(d)))
  end)

  it("maybeDeferred refuses what is no function, at the caller's line", function()
    raisesHere("function", function()
      defer.maybeDeferred "no function"
    end)
  end)
end)

describe("a Deferred that a callback returned", function()
  it("is waited for", function()
    local inner, outer = Deferred:new(), Deferred:new()
    local seen, record = recorder()
    outer:addCallback(gives(inner)):addCallback(record)
    outer:callback()
    assert.equal(0, seen.n)
    inner:callback "orange"
    assert.same({ n = 1, "orange" }, seen)
  end)

  it("gives its value at once if it has fired, and is nil afterwards", function()
    local object = {}
    local inner, outer = defer.succeed(object), Deferred:new()
    outer:addCallback(gives(inner))
    outer:callback()
    assert.is_nil(valueOf(inner))
    assert.equal(object, valueOf(outer))
  end)

  it("is nil for its own later callbacks once it has fired", function()
    local inner, outer = Deferred:new(), Deferred:new()
    outer:addCallback(gives(inner))
    outer:callback()
    local innerSeen, recordInner = recorder()
    local outerSeen, recordOuter = recorder()
    inner:addCallback(recordInner)
    outer:addCallback(recordOuter)
    inner:callback "value"
    assert.same({ n = 1 }, innerSeen)
    assert.same({ n = 1, "value" }, outerSeen)
  end)

  it("gives its failure over, and has none itself then", function()
    local inner, outer = defer.fail "no", Deferred:new()
    outer:addCallback(gives(inner))
    outer:callback()
    assert.is_nil(valueOf(inner))
    assert.equal("no", failureOf(outer).value)
  end)

  it("gives a failure over that comes later", function()
    local inner, outer = Deferred:new(), Deferred:new()
    outer:addCallback(gives(inner))
    outer:callback()
    local said = {}
    outer:addErrback(says(said, "failed")):addCallback(says(said, "recovered"))
    inner:addCallback(says(said, "inner goes on"))
    inner:errback "no"
    table.sort(said)
    assert.same({ "failed", "inner goes on", "recovered" }, said)
  end)

  it("may come from an errback", function()
    local inner = Deferred:new()
    local outer = defer.fail("no"):addErrback(gives(inner))
    assert.is_true(isPending(outer))
    inner:callback "recovered"
    assert.equal("recovered", valueOf(outer))
  end)

  it("runs its own callbacks before those of the one that waits", function()
    local said, inner = {}, Deferred:new()
    local outer = Deferred:new():addCallback(function()
      said[#said + 1] = "outer"
      return defer.succeed():addCallback(function()
        said[#said + 1] = "first"
        return inner
      end):addCallback(function(value)
        said[#said + 1] = "second " .. value
        return value:rep(2)
      end)
    end):addCallback(function(value)
      said[#said + 1] = "final " .. value
    end)
    outer:callback()
    assert.same({ "outer", "first" }, said)
    inner:callback "ab"
    assert.same({ "outer", "first", "second ab", "final abab" }, said)
  end)

  it("may have got callbacks before it was returned", function()
    local inner = Deferred:new()
    local outer = defer.succeed():addCallback(function()
      return defer.succeed():addCallback(function()
        return inner:addCallback(function(value) return { value } end)
      end):addCallback(function(list)
        return { list[1], list[1] }
      end)
    end)
    inner:callback "x"
    assert.same({ "x", "x" }, valueOf(outer))
  end)

  it("may be the DeferredList of others", function()
    local inner = Deferred:new()
    local said = {}
    local outer = defer.succeed():addCallback(function()
      local middle = Deferred:new()
      middle:addCallback(function() return defer.gatherResults { inner } end)
      middle:addCallback(function(list) said[#said + 1] = list[1] end)
      middle:callback()
      return middle
    end):addCallback(says(said, "final"))
    inner:callback "value"
    assert.same({ "value", "final" }, said)
    assert.is_nil(valueOf(outer))
  end)

  it("may itself wait for a third", function()
    local first, second, third = Deferred:new(), Deferred:new(), Deferred:new()
    second:addCallback(gives(first))
    third:addCallback(gives(second))
    second:callback()
    third:callback()
    assert.is_true(isPending(third))
    first:callback "value"
    assert.equal("value", valueOf(third))
  end)

  it("still runs callbacks that were added to it while it waited", function()
    local first, second, third = Deferred:new(), Deferred:new(), Deferred:new()
    first:addCallback(gives(second))
    second:addCallback(gives(third))
    second:callback()
    first:callback()
    third:callback "value"
    local seen, record = recorder()
    second:addCallback(record)
    assert.equal(1, seen.n)
    assert.equal("value", valueOf(first))
  end)

  it("gives its value to the first that waits for it and nil to the second", function()
    local inner, a, b = Deferred:new(), Deferred:new(), Deferred:new()
    a:addCallback(gives(inner)):callback()
    b:addCallback(gives(inner)):callback()
    inner:callback "value"
    assert.equal("value", valueOf(a))
    assert.is_nil(valueOf(b))
  end)

  it("is waited for while it is paused, fired or not", function()
    for _, early in ipairs { true, false } do
      local inner, outer = Deferred:new(), Deferred:new()
      if early then
        inner:callback "value"
      end
      inner:pause()
      outer:addCallback(gives(inner)):callback()
      if not early then
        inner:callback "value"
      end
      assert.is_true(isPending(outer))
      inner:unpause()
      assert.equal("value", valueOf(outer))
    end
  end)

  it("goes on when the one that waits for it is paused", function()
    local first, second = Deferred:new(), Deferred:new()
    first:addCallback(gives(second)):callback()
    first:pause()
    second:callback "value"
    local seen, record = recorder()
    second:addCallback(record)
    assert.equal(1, seen.n)
    assert.is_true(isPending(first))
    first:unpause()
    assert.equal("value", valueOf(first))
  end)

  it("makes it fail if it is the Deferred itself", function()
    local d = Deferred:new()
    d:addCallback(function() return d end)
    d:callback "value"
    assert.equal("string", type(failureOf(d).message))
    assert.is_nil(valueOf(d))
  end)

  it("leaves the Deferred called, so that it cannot be called again while it waits", function()
    local outer = defer.succeed():addCallback(gives(Deferred:new()))
    assert.is_true(outer.called)
    assert.same({ nil, "already called", "EALREADY" }, { outer:callback(1) })
  end)
end)

describe("pause and unpause", function()
  it("hold the callbacks back", function()
    local d = defer.fail "no"
    d:pause()
    local seen, record = recorder()
    d:addErrback(record):addErrback(nothing)
    assert.equal(0, seen.n)
    d:unpause()
    assert.equal("no", seen[1].value)
  end)

  it("are counted", function()
    local d = defer.succeed()
    local seen, record = recorder()
    d:pause()
    d:pause()
    assert.equal(2, d.paused)
    d:addCallback(record)
    d:unpause()
    assert.equal(0, seen.n)
    d:unpause()
    assert.equal(0, d.paused)
    assert.equal(1, seen.n)
  end)

  it("do nothing by themselves before it has fired", function()
    local d = Deferred:new()
    local seen, record = recorder()
    d:pause()
    d:addCallback(record)
    d:unpause()
    assert.equal(0, seen.n)
    d:callback "value"
    assert.same({ n = 1, "value" }, seen)
  end)

  it("may happen within a callback: the rest of the chain waits", function()
    local d = Deferred:new()
    local said = {}
    d:addCallback(function()
      d:pause()
      return "held"
    end)
    d:addCallback(function(value) said[#said + 1] = value end)
    d:callback()
    assert.same({}, said)
    d:unpause()
    assert.same({ "held" }, said)
  end)
end)

describe("chainDeferred", function()
  it("fires the other with the value, and leaves nil", function()
    local a, b = Deferred:new(), Deferred:new()
    a:chainDeferred(b)
    a:callback "value"
    assert.equal("value", valueOf(b))
    assert.is_nil(valueOf(a))
  end)

  it("fails the other with the failure, and leaves nil", function()
    local f = defer.failure "no"
    local a, b = Deferred:new(), Deferred:new()
    a:chainDeferred(b)
    a:errback(f)
    assert.equal(f, failureOf(b))
    assert.is_nil(valueOf(a))
  end)

  it("takes the place of a callback among the others", function()
    local a, b = Deferred:new(), Deferred:new()
    a:addCallback(function(n) return n + 1 end):chainDeferred(b):addCallback(gives "after")
    a:callback(1)
    assert.equal(2, valueOf(b))
    assert.equal("after", valueOf(a))
  end)

  it("does not do it the other way", function()
    local a, b = Deferred:new(), Deferred:new()
    a:chainDeferred(b)
    b:callback "value"
    assert.is_true(isPending(a))
    assert.equal("value", valueOf(b))
  end)

  it("is no trouble when the other was cancelled meanwhile", function()
    local a, b = Deferred:new(), Deferred:new()
    a:chainDeferred(b)
    b:cancel()
    assert.is_true(isPending(a))
    a:callback "late"
    assert.is_nil(valueOf(a))
    failureOf(b, "CancelledError")
  end)

  it("refuses what is no Deferred, at the caller's line", function()
    raisesHere("Deferred", function()
      Deferred:new():chainDeferred {}
    end)
  end)
end)

describe("cancel", function()
  it("fails a Deferred without a canceller with CancelledError", function()
    local said = {}
    local d = Deferred:new()
    d:addCallbacks(says(said, "callback"), function(f) said[#said + 1] = f.type end)
    d:cancel()
    assert.same({ "CancelledError" }, said)
  end)

  it("lets the one late call of whoever knows nothing of it pass in silence", function()
    for _, first in ipairs { "callback", "errback" } do
      local seen, record = recorder()
      local d = Deferred:new():addBoth(record):addErrback(nothing)
      d:cancel()
      assert.is_true(d[first](d, "late"))
      assert.same({ nil, "already called", "EALREADY" }, { d:callback() })
      assert.same({ nil, "already called", "EALREADY" }, { d:errback "no" })
      assert.equal(1, seen.n)
    end
  end)

  it("does nothing a second time, before and after the late call", function()
    local seen, record = recorder()
    local d = Deferred:new():addBoth(record):addErrback(nothing)
    d:cancel()
    d:cancel()
    assert.is_true(d:callback "late")
    d:cancel()
    assert.equal(1, seen.n)
    assert.equal("CancelledError", seen[1].type)
    assert.is_nil((d:callback "later"))
  end)

  it("does nothing once it has fired", function()
    local calls = 0
    local function canceller()
      calls = calls + 1
    end
    local d = Deferred:new(canceller)
    d:callback "value"
    d:cancel()
    assert.equal("value", valueOf(d))
    d = Deferred:new(canceller)
    d:errback "no"
    d:cancel()
    assert.equal("no", failureOf(d).value)
    assert.equal(0, calls)
  end)

  it("calls the canceller with the Deferred, once", function()
    local seen, record = recorder()
    local d = Deferred:new(record)
    d:addErrback(nothing)
    d:cancel()
    d:cancel()
    assert.equal(1, seen.n)
    assert.equal(d, seen[1])
  end)

  it("fails it with CancelledError where the canceller did not fire it, and no late call is let pass", function()
    local d = Deferred:new(nothing)
    d:cancel()
    failureOf(d, "CancelledError")
    assert.same({ nil, "already called", "EALREADY" }, { d:callback() })
    assert.same({ nil, "already called", "EALREADY" }, { d:errback "no" })
  end)

  it("leaves it to the canceller what it fires with", function()
    local d = Deferred:new(function(self) self:callback "hello" end)
    d:cancel()
    assert.equal("hello", valueOf(d))
    d = Deferred:new(function(self) self:errback "gone" end)
    d:cancel()
    assert.equal("gone", failureOf(d).value)
  end)

  it("fails it with the error that a canceller raises", function()
    local d = Deferred:new(function() error("broken canceller", 0) end)
    d:cancel()
    assert.equal("broken canceller", failureOf(d).value)
  end)

  it("goes to the Deferred that is waited for", function()
    local said = {}
    local inner = Deferred:new(says(said, "inner"))
    local outer = Deferred:new(says(said, "outer"))
    outer:callback()
    outer:addCallback(gives(inner))
    outer:cancel()
    assert.same({ "inner" }, said)
    failureOf(outer, "CancelledError")
  end)

  it("goes down to the last of several that wait", function()
    local a, b, c = Deferred:new(), Deferred:new(), Deferred:new()
    b:addCallback(gives(c)):callback()
    a:addCallback(gives(b)):callback()
    a:cancel()
    assert.is_true(c.called)
    failureOf(a, "CancelledError")
  end)

  it("of the one that waits may be answered with a value by the one waited for", function()
    local inner = Deferred:new(function(self) self:callback "enough" end)
    local outer = defer.succeed():addCallback(gives(inner))
    outer:cancel()
    assert.equal("enough", valueOf(outer))
  end)

  it("holds back callbacks until a cleanup that an errback began has ended", function()
    local cleanup = Deferred:new()
    local d = Deferred:new():addErrback(function(f)
      f:trap "CancelledError"
      return cleanup
    end)
    d:cancel()
    assert.is_true(isPending(d))
    cleanup:callback "clean"
    assert.equal("clean", valueOf(d))
  end)

  it("may be called by a callback of the same Deferred", function()
    local d = Deferred:new()
    d:addCallback(function(value)
      d:cancel()
      return value
    end)
    d:callback "value"
    assert.equal("value", valueOf(d))
  end)
end)

describe("addTimeout", function()
  local clock

  before_each(function()
    clock = task.Clock:new()
  end)

  local function override()
    return "overridden"
  end

  it("fails with TimeoutError what has not fired in time", function()
    local d = Deferred:new()
    d:addTimeout(10, clock)
    clock:advance(9.9)
    assert.is_true(isPending(d))
    clock:advance(0.1)
    failureOf(d, "TimeoutError")
  end)

  it("lets the late call pass in silence", function()
    local d = Deferred:new():addTimeout(1, clock):addErrback(nothing)
    clock:advance(2)
    assert.is_true(d:callback "late")
  end)

  it("does nothing to what has fired or failed before, and leaves no timer", function()
    local ok, failed = Deferred:new(), Deferred:new()
    ok:addTimeout(10, clock, override)
    failed:addTimeout(10, clock, override)
    ok:callback "value"
    failed:errback "no"
    assert.equal(0, #clock:getDelayedCalls())
    clock:advance(15)
    assert.equal("value", valueOf(ok))
    assert.equal("no", failureOf(failed).value)
  end)

  it("does nothing any more to what a later callback waits for", function()
    for _, onTimeout in ipairs { false, override } do
      local inner = Deferred:new()
      local d = Deferred:new():addTimeout(10, clock, onTimeout or nil):addBoth(gives(inner))
      d:callback()
      clock:advance(15)
      assert.is_true(isPending(inner))
      local failed = Deferred:new():addTimeout(10, clock, onTimeout or nil):addBoth(gives(Deferred:new()))
      failed:errback "no"
      clock:advance(15)
      assert.is_true(isPending(failed))
    end
  end)

  it("counts what was added before it, and cancels what that waits for", function()
    local cancelled, said = false, {}
    local inner = Deferred:new(function() cancelled = true end)
    local d = defer.succeed():addCallback(gives(inner)):addTimeout(10, clock)
    d:addErrback(function(f) said[1] = f.type end)
    clock:advance(10)
    assert.is_true(cancelled)
    assert.same({ "TimeoutError" }, said)
  end)

  it("gives way to what a canceller fires with, except for a CancelledError", function()
    local d = Deferred:new(function(self) self:callback "cancelled" end):addTimeout(10, clock)
    clock:advance(15)
    assert.equal("cancelled", valueOf(d))
    d = Deferred:new(function(self) self:errback "no" end):addTimeout(10, clock)
    clock:advance(15)
    assert.equal("no", failureOf(d).value)
    d = Deferred:new(nothing):addTimeout(10, clock)
    clock:advance(15)
    failureOf(d, "TimeoutError")
  end)

  it("lets a cancel in time be one", function()
    for _, onTimeout in ipairs { false, override } do
      local inner, seen = Deferred:new(), nil
      local d = Deferred:new():addTimeout(10, clock, onTimeout or nil):addErrback(function(f)
        seen = f.type
        return inner
      end)
      d:cancel()
      assert.equal("CancelledError", seen)
      clock:advance(15)
      assert.is_true(isPending(d))
    end
  end)

  it("shows a CancelledError to errbacks added before it", function()
    local seen, record = recorder()
    local d = Deferred:new():addErrback(record):addTimeout(10, clock)
    clock:advance(15)
    assert.equal("CancelledError", seen[1].type)
    failureOf(d, "TimeoutError")
  end)

  it("gives way to an errback before it that handles the CancelledError", function()
    local d = Deferred:new():addErrback(function(f)
      f:trap "CancelledError"
    end):addTimeout(10, clock)
    clock:advance(15)
    assert.is_nil(valueOf(d))
  end)

  it("shows the value of a canceller to callbacks added before it", function()
    local seen, record = recorder()
    local d = Deferred:new(function(self) self:callback "enough" end):addCallback(record):addTimeout(10, clock)
    clock:advance(15)
    assert.same({ n = 1, "enough" }, seen)
    assert.equal("enough", valueOf(d))
  end)

  it("asks onTimeout instead, with the outcome and the seconds, whatever the outcome is", function()
    local seen = {}
    local function onTimeout(value, seconds)
      seen[#seen + 1] = { value, seconds }
      return "overridden"
    end
    local bare = Deferred:new():addTimeout(10, clock, onTimeout)
    local failing = Deferred:new(function(self) self:errback "no" end):addTimeout(10, clock, onTimeout)
    local handled = Deferred:new():addErrback(gives "handled"):addTimeout(10, clock, onTimeout)
    local fired = Deferred:new(function(self) self:callback "fired" end):addTimeout(10, clock, onTimeout)
    clock:advance(15)
    for _, d in ipairs { bare, failing, handled, fired } do
      assert.equal("overridden", valueOf(d))
    end
    assert.equal("CancelledError", seen[1][1].type)
    assert.equal("no", seen[2][1].value)
    assert.same({ "handled", 10 }, seen[3])
    assert.same({ "fired", 10 }, seen[4])
  end)

  it("takes the failure of onTimeout", function()
    local d = Deferred:new():addTimeout(1, clock, function() error("too slow", 0) end)
    clock:advance(1)
    assert.equal("too slow", failureOf(d).value)
  end)

  it("may be had twice: the shorter one decides", function()
    local d = Deferred:new():addTimeout(10, clock):addTimeout(5, clock)
    clock:advance(5)
    failureOf(d)
    assert.equal(0, #clock:getDelayedCalls())
  end)
end)

describe("a DeferredList", function()
  local function three()
    return Deferred:new(), Deferred:new(), Deferred:new()
  end

  local function enough(d)
    d:callback "enough"
  end

  it("fires with a pair for each, in their order", function()
    local a, b, c = three()
    local list = DeferredList:new { a, b, c }
    c:callback "3"
    b:addErrback(nothing):errback "2"
    assert.is_true(isPending(list))
    a:callback "1"
    local result = valueOf(list)
    assert.equal(3, #result)
    assert.same({ true, "1" }, result[1])
    assert.is_false(result[2][1])
    assert.equal("2", result[2][2].value)
    assert.same({ true, "3" }, result[3])
  end)

  it("tells a nil from a failure", function()
    assert.same({ { true }, { true, false } }, valueOf(DeferredList:new { defer.succeed(), defer.succeed(false) }))
  end)

  it("fires at once when it is empty, but not if it waits for one callback", function()
    assert.same({}, valueOf(DeferredList:new {}))
    assert.same({}, valueOf(DeferredList:new({}, { fireOnOneErrback = true })))
    assert.is_true(isPending(DeferredList:new({}, { fireOnOneCallback = true })))
  end)

  it("takes Deferreds that have fired", function()
    local failed = defer.fail "no"
    local result = valueOf(DeferredList:new { failed, defer.succeed(2) })
    assert.is_false(result[1][1])
    assert.same({ true, 2 }, result[2])
    failureOf(failed)
  end)

  it("sees what the callbacks made of it that were there before", function()
    local d = defer.succeed(1):addCallback(function(n) return n + 1 end)
    assert.same({ { true, 2 } }, valueOf(DeferredList:new { d }))
  end)

  it("leaves values to the Deferreds themselves", function()
    local d = Deferred:new()
    DeferredList:new { d }
    d:callback "value"
    assert.equal("value", valueOf(d))
  end)

  it("leaves failures to the Deferreds themselves", function()
    local d = Deferred:new()
    local list = DeferredList:new { d }
    d:errback "no"
    assert.equal("no", failureOf(d).value)
    assert.equal("no", valueOf(list)[1][2].value)
  end)

  it("takes failures away from them with consumeErrors", function()
    local d = Deferred:new()
    local list = DeferredList:new({ d }, { consumeErrors = true })
    d:errback "no"
    assert.is_nil(valueOf(d))
    assert.equal("no", valueOf(list)[1][2].value)
  end)

  it("fires with the first value and its index with fireOnOneCallback", function()
    local a, b, c = three()
    local list = DeferredList:new({ a, b, c }, { fireOnOneCallback = true, consumeErrors = true })
    a:errback "no"
    assert.is_true(isPending(list))
    c:callback "three"
    assert.same({ "three", 3 }, valueOf(list))
    b:callback "two"
    assert.equal("two", valueOf(b))
  end)

  it("fires with all pairs if none gives a value with fireOnOneCallback", function()
    local a, b = three()
    local list = DeferredList:new({ a, b }, { fireOnOneCallback = true, consumeErrors = true })
    a:errback "no"
    b:errback "neither"
    local result = valueOf(list)
    assert.same({ false, false }, { result[1][1], result[2][1] })
    assert.equal("neither", result[2][2].value)
  end)

  it("fails with FirstError at the first failure with fireOnOneErrback", function()
    local a, b, c = three()
    local list = DeferredList:new({ a, b, c }, { fireOnOneErrback = true })
    a:callback "1"
    assert.is_true(isPending(list))
    b:errback { type = "Broken" }
    local f = failureOf(list, "FirstError")
    assert.equal(2, f.value.index)
    assert.equal("Broken", f.value.subFailure.type)
    assert.equal(f.value.subFailure, failureOf(b))
    assert.matches("^FirstError: ", tostring(f))
    c:errback "too late"
    failureOf(c)
  end)

  it("fails at once if one has failed before, with fireOnOneErrback", function()
    local failed = defer.fail "no"
    local list = DeferredList:new({ failed, Deferred:new() }, { fireOnOneErrback = true })
    assert.equal(1, failureOf(list, "FirstError").value.index)
    failureOf(failed)
  end)

  it("cancels all of them when it is cancelled", function()
    local a, b = three()
    local list = DeferredList:new { a, b }
    list:cancel()
    failureOf(a, "CancelledError")
    failureOf(b, "CancelledError")
    local result = valueOf(list)
    assert.equal("CancelledError", result[1][2].type)
    assert.equal("CancelledError", result[2][2].type)
  end)

  it("fires with the pairs after a cancel, whatever cancellers fired with", function()
    local a, b = Deferred:new(enough), Deferred:new()
    local list = DeferredList:new({ a, b }, { consumeErrors = true })
    list:cancel()
    local result = valueOf(list)
    assert.same({ true, "enough" }, result[1])
    assert.equal("CancelledError", result[2][2].type)
  end)

  it("cancels all of them with fireOnOneCallback, too", function()
    local a, b = three()
    local list = DeferredList:new({ a, b }, { fireOnOneCallback = true })
    list:cancel()
    failureOf(a, "CancelledError")
    failureOf(b, "CancelledError")
    assert.equal(2, #valueOf(list))
    a, b = Deferred:new(enough), Deferred:new()
    list = DeferredList:new({ a, b }, { fireOnOneCallback = true })
    list:cancel()
    failureOf(b, "CancelledError")
    assert.same({ "enough", 1 }, valueOf(list))
  end)

  it("cancels all of them with fireOnOneErrback, too", function()
    local a, b = three()
    local list = DeferredList:new({ a, b }, { fireOnOneErrback = true })
    list:cancel()
    failureOf(a, "CancelledError")
    failureOf(b, "CancelledError")
    assert.equal("CancelledError", failureOf(list, "FirstError").value.subFailure.type)
    list = DeferredList:new({ Deferred:new(enough), Deferred:new(enough) }, { fireOnOneErrback = true })
    list:cancel()
    assert.same({ { true, "enough" }, { true, "enough" } }, valueOf(list))
  end)

  it("cancels those that it was given, not what was put into the table later", function()
    local a, b, c = three()
    local given = { a, b }
    local list = DeferredList:new(given, { consumeErrors = true })
    given[3] = c
    list:cancel()
    assert.is_true(isPending(c))
    assert.equal(2, #valueOf(list))
  end)

  it("cancels all of them even if a canceller raises", function()
    local a, b = Deferred:new(function() error("broken", 0) end), Deferred:new()
    local list = DeferredList:new({ a, b }, { consumeErrors = true })
    list:cancel()
    local result = valueOf(list)
    assert.equal("broken", result[1][2].value)
    assert.equal("CancelledError", result[2][2].type)
  end)

  it("cancels nothing once it has fired, early too", function()
    local a, b = three()
    local list = DeferredList:new({ a, b }, { fireOnOneCallback = true })
    a:callback()
    list:cancel()
    assert.is_true(isPending(b))
    a, b = three()
    list = DeferredList:new({ a, b }, { fireOnOneErrback = true })
    a:errback "no"
    list:cancel()
    assert.is_true(isPending(b))
    failureOf(a)
    failureOf(list, "FirstError")
  end)

  it("may be waited for, and cancelled by the one that waits", function()
    local a = Deferred:new()
    local outer = defer.succeed():addCallback(function()
      return DeferredList:new({ a }, { consumeErrors = true })
    end)
    outer:cancel()
    assert.equal("CancelledError", valueOf(outer)[1][2].type)
  end)

  it("refuses what is no list of Deferreds, at the caller's line", function()
    raisesHere("Deferred", function()
      DeferredList:new { Deferred:new(), "none" }
    end)
    raisesHere("", function()
      DeferredList:new "none"
    end)
  end)

  it("refuses an option that there is not", function()
    raisesHere("fireOnOneCalback", function()
      DeferredList:new({}, { fireOnOneCalback = true })
    end)
  end)
end)

describe("gatherResults", function()
  it("fires with the values, in order", function()
    local a, b = Deferred:new(), Deferred:new()
    local all = defer.gatherResults { a, b }
    b:callback(2)
    a:callback(1)
    assert.same({ 1, 2 }, valueOf(all))
    assert.same({}, valueOf(defer.gatherResults {}))
  end)

  it("leaves gaps where a value is nil", function()
    local result = valueOf(defer.gatherResults { defer.succeed(1), defer.succeed(), defer.succeed(3) })
    assert.same({ [1] = 1, [3] = 3 }, result)
  end)

  it("fails with FirstError at once", function()
    local bad = Deferred:new()
    local all = defer.gatherResults { Deferred:new(), bad }
    bad:errback "no"
    local f = failureOf(all, "FirstError")
    assert.equal(2, f.value.index)
    assert.equal(failureOf(bad), f.value.subFailure)
  end)

  it("takes the failures away with consumeErrors", function()
    local bad = defer.fail "no"
    local all = defer.gatherResults({ defer.succeed(1), bad }, { consumeErrors = true })
    assert.is_nil(valueOf(bad))
    assert.equal("no", failureOf(all, "FirstError").value.subFailure.value)
  end)

  it("cancels all of them when it is cancelled", function()
    local a, b = Deferred:new(), Deferred:new()
    local all = defer.gatherResults { a, b }
    all:cancel()
    failureOf(a, "CancelledError")
    failureOf(b, "CancelledError")
    assert.equal("CancelledError", failureOf(all, "FirstError").value.subFailure.type)
  end)

  it("fires after a cancel if all cancellers gave values", function()
    local function enough(d)
      d:callback "enough"
    end
    local all = defer.gatherResults { Deferred:new(enough), Deferred:new(enough) }
    all:cancel()
    assert.same({ "enough", "enough" }, valueOf(all))
  end)
end)

describe("race", function()
  -- So many Deferreds, and a table that tells which of them were cancelled.
  local function runners(count)
    local list, cancelled = {}, {}
    for i = 1, count do
      list[i] = Deferred:new(function() cancelled[i] = true end)
    end
    return list, cancelled
  end

  it("fires with the index and value of the first, and cancels the others, not the winner", function()
    for winner = 1, 3 do
      local list, cancelled = runners(3)
      local d = defer.race(list)
      assert.is_true(isPending(d))
      list[winner]:callback "won"
      assert.same({ winner, "won" }, valueOf(d))
      for i = 1, 3 do
        assert.equal(i ~= winner or nil, cancelled[i])
      end
    end
  end)

  it("goes on when one fails", function()
    local list, cancelled = runners(3)
    local d = defer.race(list)
    list[1]:errback "no"
    assert.is_true(isPending(d))
    assert.same({}, cancelled)
    list[3]:callback "won"
    assert.same({ 3, "won" }, valueOf(d))
    assert.same({ [2] = true }, cancelled)
  end)

  it("fails with FailureGroup if all fail: the failures in the order of the list", function()
    local list = runners(3)
    local d = defer.race(list)
    for _, i in ipairs { 2, 3, 1 } do
      list[i]:errback("no " .. i)
    end
    local f = failureOf(d, "FailureGroup")
    assert.equal(3, #f.value)
    for i = 1, 3 do
      assert.is_true(defer.isFailure(f.value[i]))
      assert.equal("no " .. i, f.value[i].value)
    end
    assert.matches("^FailureGroup: ", tostring(f))
  end)

  it("takes Deferreds that have fired: the first of them wins", function()
    local late = Deferred:new()
    local d = defer.race { late, defer.succeed "a", defer.succeed "b" }
    assert.same({ 2, "a" }, valueOf(d))
    assert.is_true(late.called)
  end)

  it("ignores what comes after a cancel", function()
    local list = { Deferred:new(), Deferred:new(), Deferred:new() }
    local d = defer.race(list)
    list[1]:callback "won"
    assert.is_true(list[2]:callback "late")
    assert.is_true(list[3]:errback "late")
    assert.same({ 1, "won" }, valueOf(d))
  end)

  it("ignores what cancellers fire with", function()
    local list = { Deferred:new(), Deferred:new(function(d) d:callback "second" end),
      Deferred:new(function(d) d:errback "third" end) }
    local d = defer.race(list)
    list[1]:callback "won"
    assert.same({ 1, "won" }, valueOf(d))
  end)

  it("cancels all of them when it is cancelled, and fails with them", function()
    local list, cancelled = runners(2)
    local d = defer.race(list)
    d:cancel()
    assert.same({ true, true }, cancelled)
    local f = failureOf(d, "FailureGroup")
    assert.equal("CancelledError", f.value[1].type)
    assert.equal("CancelledError", f.value[2].type)
  end)

  it("cancels nothing when it is cancelled after its end", function()
    local cancelled = false
    local held = Deferred:new(function() cancelled = true end)
    local first = Deferred:new()
    local d = defer.race { first }
    first:callback "won"
    first:addCallback(gives(held))
    d:cancel()
    assert.is_false(cancelled)
    assert.same({ 1, "won" }, valueOf(d))
  end)
end)

describe("a DeferredLock", function()
  local lock

  before_each(function()
    lock = defer.DeferredLock:new()
  end)

  it("is had by one at a time, in order", function()
    local said = {}
    assert.is_false(lock.locked)
    lock:acquire():addCallback(says(said, 1))
    assert.is_true(lock.locked)
    lock:acquire():addCallback(says(said, 2))
    lock:acquire():addCallback(says(said, 3))
    assert.same({ 1 }, said)
    lock:release()
    assert.is_true(lock.locked)
    assert.same({ 1, 2 }, said)
    lock:release()
    assert.same({ 1, 2, 3 }, said)
    lock:release()
    assert.is_false(lock.locked)
  end)

  it("fires with itself", function()
    assert.equal(lock, valueOf(lock:acquire()))
  end)

  it("runs a function while it has the lock, and gives its value", function()
    local lockedWithin, arguments
    local d = lock:run(function(...)
      lockedWithin, arguments = lock.locked, { n = select("#", ...), ... }
      return "value"
    end, nil, 2)
    assert.equal("value", valueOf(d))
    assert.is_true(lockedWithin)
    assert.same({ n = 2, nil, 2 }, arguments)
    assert.is_false(lock.locked)
  end)

  it("is held until the Deferred of what it runs has fired", function()
    local control, said = Deferred:new(), {}
    local d = lock:run(gives(control))
    lock:acquire():addCallback(says(said, "next"))
    assert.is_true(isPending(d))
    assert.same({}, said)
    control:callback "value"
    assert.equal("value", valueOf(d))
    assert.same({ "next" }, said)
    assert.is_true(lock.locked)
  end)

  it("is released when what it runs fails", function()
    assert.equal("no", failureOf(lock:run(function() error("no", 0) end)).value)
    assert.is_false(lock.locked)
    assert.equal("later", failureOf(lock:run(gives(defer.fail "later"))).value)
    assert.is_false(lock.locked)
  end)

  it("keeps to cancelled what waits for it, and does not count that any more", function()
    local said = {}
    lock:acquire()
    local d = lock:acquire()
    lock:acquire():addCallback(says(said, "third"))
    d:cancel()
    failureOf(d, "CancelledError")
    lock:release()
    assert.same({ "third" }, said)
    lock:release()
    assert.is_false(lock.locked)
  end)

  it("does not run what was cancelled while it waited", function()
    local said = {}
    lock:acquire()
    local d = lock:run(says(said, "ran"))
    d:cancel()
    failureOf(d, "CancelledError")
    lock:release()
    assert.same({}, said)
    assert.is_false(lock.locked)
  end)

  it("passes a cancel on to what it runs, and is released", function()
    local cancelled = false
    local d = lock:run(gives(Deferred:new(function() cancelled = true end)))
    d:cancel()
    assert.is_true(cancelled)
    failureOf(d, "CancelledError")
    assert.is_false(lock.locked)
  end)

  it("is not given back by a cancel of what has it", function()
    local d = lock:acquire()
    d:cancel()
    assert.is_true(lock.locked)
    assert.equal(lock, valueOf(d))
  end)

  it("is not released by who does not have it, and raises at the caller's line", function()
    raisesHere("release", function()
      lock:release()
    end)
  end)

  it("runs only functions, and is not taken otherwise", function()
    raisesHere("function", function()
      lock:run()
    end)
    assert.is_false(lock.locked)
  end)

  it("serves very many that release at once", function()
    local count = 0
    lock:acquire()
    for _ = 1, MANY do
      lock:run(function()
        count = count + 1
      end)
    end
    lock:release()
    assert.equal(MANY, count)
    assert.is_false(lock.locked)
  end)
end)

describe("a DeferredSemaphore", function()
  it("lets so many in, and the next when one goes", function()
    local limit, count = 13, 0
    local semaphore = defer.DeferredSemaphore:new(limit)
    local function enter()
      count = count + 1
    end
    for i = 1, limit do
      semaphore:acquire():addCallback(enter)
      assert.equal(i, count)
      assert.equal(limit - i, semaphore.tokens)
    end
    local cancelled = semaphore:acquire()
    cancelled:cancel()
    failureOf(cancelled, "CancelledError")
    semaphore:acquire():addCallback(enter)
    assert.equal(limit, count)
    semaphore:release()
    assert.equal(limit + 1, count)
    assert.equal(0, semaphore.tokens)
    for i = 1, limit do
      semaphore:release()
      assert.equal(i, semaphore.tokens)
    end
    assert.equal(limit + 1, count)
    assert.equal(limit, semaphore.limit)
  end)

  it("fires with itself", function()
    local semaphore = defer.DeferredSemaphore:new(1)
    assert.equal(semaphore, valueOf(semaphore:acquire()))
  end)

  it("runs functions, so many at a time", function()
    local semaphore, running, most = defer.DeferredSemaphore:new(2), 0, 0
    local controls, done = {}, {}
    for i = 1, 5 do
      done[i] = semaphore:run(function(n)
        running = running + 1
        most = math.max(most, running)
        controls[n] = Deferred:new():addCallback(function(value)
          running = running - 1
          return value
        end)
        return controls[n]
      end, i)
    end
    assert.equal(2, #controls)
    for i = 1, 5 do
      controls[i]:callback(i * 10)
    end
    assert.same({ 10, 20, 30, 40, 50 }, valueOf(defer.gatherResults(done)))
    assert.equal(2, most)
    assert.equal(2, semaphore.tokens)
  end)

  it("has at least one token, a whole number, or raises at the caller's line", function()
    for _, count in ipairs { 0, -1, 1.5, "2", false } do
      raisesHere("", function()
        defer.DeferredSemaphore:new(count or nil)
      end)
    end
  end)

  it("is not released more often than acquired, and raises at the caller's line", function()
    local semaphore = defer.DeferredSemaphore:new(1)
    raisesHere("release", function()
      semaphore:release()
    end)
    assert.equal(1, semaphore.tokens)
  end)

  it("is not given back by a cancel of what has it", function()
    local semaphore = defer.DeferredSemaphore:new(1)
    local d = semaphore:acquire()
    d:cancel()
    assert.equal(0, semaphore.tokens)
    assert.equal(semaphore, valueOf(d))
  end)
end)

describe("a DeferredQueue", function()
  it("gives what was put to who gets, whichever comes first", function()
    local queue, got, record = defer.DeferredQueue:new(), recorder()
    queue:get():addCallback(record)
    queue:get():addCallback(record)
    queue:put "a"
    queue:put "b"
    queue:put "c"
    assert.same({ n = 2, "a", "b" }, got)
    queue:get():addCallback(record)
    assert.same({ n = 3, "a", "b", "c" }, got)
  end)

  it("counts what is in it, and who waits", function()
    local queue = defer.DeferredQueue:new()
    queue:get()
    queue:get():addErrback(function() end):cancel()
    queue:get()
    assert.equal(2, queue.waiting.count)
    for _, item in ipairs { "a", "b", "c", "d" } do
      queue:put(item)
    end
    assert.equal(0, queue.waiting.count)
    assert.equal(2, queue.pending.count)
  end)

  it("says so when more is put than its size, or got than its backlog", function()
    local queue, got, record = defer.DeferredQueue:new(2, 2), recorder()
    queue:get():addCallback(record)
    queue:get():addCallback(record)
    local nope, message, code = queue:get()
    assert.is_nil(nope)
    assert.equal("string", type(message))
    assert.equal("string", type(code))
    for i = 1, 4 do
      assert.is_truthy(queue:put(i))
    end
    assert.same({ n = 2, 1, 2 }, got)
    nope, message, code = queue:put(5)
    assert.is_nil(nope)
    assert.equal("string", type(message))
    assert.equal("string", type(code))
    assert.equal(3, valueOf(queue:get()))
    assert.equal(4, valueOf(queue:get()))
    assert.is_true(isPending(queue:get()))
  end)

  it("may have no room at all on either side", function()
    assert.is_nil((defer.DeferredQueue:new(0):put "a"))
    assert.is_nil((defer.DeferredQueue:new(nil, 0):get()))
    local queue, got, record = defer.DeferredQueue:new(0), recorder()
    queue:get():addCallback(record)
    assert.is_truthy(queue:put "handed over")
    assert.same({ n = 1, "handed over" }, got)
  end)

  it("gives nil and false like other values", function()
    local queue, got, record = defer.DeferredQueue:new(), recorder()
    queue:get():addCallback(record)
    queue:put(nil)
    assert.equal(1, got.n)
    queue:put(false)
    queue:put(nil)
    queue:put "last"
    for _ = 1, 3 do
      queue:get():addCallback(record)
    end
    assert.same({ n = 4, nil, false, nil, "last" }, got)
  end)

  it("does not give to what was cancelled while it waited", function()
    local queue = defer.DeferredQueue:new(nil, 1)
    local d = queue:get()
    d:cancel()
    failureOf(d, "CancelledError")
    queue:put "kept"
    assert.equal("kept", valueOf(queue:get()))
  end)

  it("takes no notice of a cancel of what has got", function()
    local queue = defer.DeferredQueue:new()
    local d = queue:get()
    queue:put "value"
    d:cancel()
    assert.equal("value", valueOf(d))
  end)

  it("gives a Deferred that failed later on to nobody else", function()
    local queue = defer.DeferredQueue:new()
    local d = queue:get():addCallback(function() error("no", 0) end)
    assert.is_truthy(queue:put "value")
    assert.equal("no", failureOf(d).value)
    assert.is_true(isPending(queue:get()))
  end)

  it("refuses bounds that are none, at the caller's line", function()
    for _, bound in ipairs { -1, "2" } do
      raisesHere("", function()
        defer.DeferredQueue:new(bound)
      end)
      raisesHere("", function()
        defer.DeferredQueue:new(nil, bound)
      end)
    end
  end)

  it("takes very many of both quickly", function()
    local queue, sum = defer.DeferredQueue:new(), 0
    local function add(n)
      sum = sum + n
    end
    for _ = 1, MANY do
      queue:get():addCallback(add)
    end
    for i = 1, 2 * MANY do
      queue:put(i)
    end
    for _ = 1, MANY do
      queue:get():addCallback(add)
    end
    assert.equal(MANY * (2 * MANY + 1), sum)
  end)
end)

describe("a failure that nobody handles", function()
  -- Of each that was noted: its type, or where that says nothing, its value.
  local function left()
    local list = {}
    for i, noted in ipairs(defer.unhandled()) do
      local f = noted.failure or noted
      list[i] = f.type ~= "error" and f.type or f.value
    end
    return list
  end

  it("is noted when the chain ends with it", function()
    defer.fail "no"
    assert.same({ "no" }, left())
  end)

  it("is given itself", function()
    local f = defer.failure "no"
    defer.fail(f)
    assert.equal(f, defer.unhandled()[1])
  end)

  it("is noted once, and the list is empty then", function()
    defer.fail "no"
    assert.same({ "no" }, left())
    assert.same({}, left())
  end)

  it("is noted when a callback or errback failed", function()
    defer.succeed():addCallback(function() error("first", 0) end)
    defer.fail("x"):addErrback(function() error("second", 0) end)
    assert.same({ "first", "second" }, left())
  end)

  it("is noted however many callbacks it went past", function()
    defer.fail("no"):addCallback(nothing):addCallback(nothing):addBoth(function(f) return f end)
    assert.same({ "no" }, left())
  end)

  it("is not noted where an errback takes it, even later", function()
    local d = defer.fail "no"
    d:addErrback(nothing)
    assert.same({}, left())
  end)

  it("is taken once, and noted again if it comes again", function()
    local f = defer.failure "no"
    local d = defer.fail(f)
    assert.same({ "no" }, left())
    d:addErrback(function(given) given:raise() end)
    assert.same({ "no" }, left())
    d:addErrback(nothing)
    assert.same({}, left())
  end)

  it("is noted if it is a CancelledError or TimeoutError, too", function()
    local clock = task.Clock:new()
    Deferred:new():cancel()
    Deferred:new():addTimeout(1, clock)
    clock:advance(1)
    assert.same({ "CancelledError", "TimeoutError" }, left())
  end)

  it("is the last one's only, where one Deferred waits for another", function()
    local inner = Deferred:new()
    local outer = defer.succeed():addCallback(gives(inner))
    inner:errback "no"
    assert.same({ "no" }, left())
    outer:addErrback(nothing)
    defer.succeed():addCallback(function() return defer.fail "no" end):addErrback(nothing)
    assert.same({}, left())
  end)

  it("is none while an errback waits for something else", function()
    local good = Deferred:new()
    defer.fail("no"):addErrback(gives(good))
    assert.same({}, left())
  end)

  it("is not noted while the Deferred is paused", function()
    local d = Deferred:new()
    d:pause()
    d:errback "no"
    assert.same({}, left())
    d:addErrback(nothing)
    d:unpause()
    assert.same({}, left())
  end)

  it("goes over to the other with chainDeferred", function()
    local a, b = Deferred:new(), Deferred:new()
    a:chainDeferred(b)
    a:errback "no"
    assert.same({ "no" }, left())
    b:addErrback(nothing)
  end)

  it("stays with the Deferreds of a list unless it consumes errors", function()
    DeferredList:new { defer.fail "no" }
    assert.same({ "no" }, left())
    DeferredList:new({ defer.fail "no" }, { consumeErrors = true })
    assert.same({}, left())
    defer.gatherResults({ defer.fail "no" }, { consumeErrors = true })
    assert.same({ "FirstError" }, left())
    defer.race { defer.succeed(), Deferred:new(), defer.fail "no" }
    assert.same({}, left())
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

  local function noting(list)
    return function(value)
      list[#list + 1] = owner.current or "nobody"
      return value
    end
  end

  it("in a callback is the one that was current when it was added", function()
    local d, seen = Deferred:new(), {}
    within(A, function() d:addCallback(noting(seen)) end)
    d:addCallback(noting(seen))
    within(B, function() d:addBoth(noting(seen)) end)
    within(B, function()
      d:callback()
      assert.equal(B, owner.current)
    end)
    assert.equal(3, #seen)
    assert.equal(A, seen[1])
    assert.equal("nobody", seen[2])
    assert.equal(B, seen[3])
    assert.is_nil(owner.current)
  end)

  it("in an errback is, too, and in a callback that runs at once", function()
    local seen, d = {}, defer.fail "no"
    within(A, function() d:addErrback(noting(seen)) end)
    d:addErrback(nothing)
    within(B, function() defer.succeed():addCallback(noting(seen)) end)
    assert.equal(A, seen[1])
    assert.equal(B, seen[2])
  end)

  it("is what it was before after an error in a callback", function()
    local d = Deferred:new()
    within(A, function() d:addCallback(function() error "no" end) end)
    d:addErrback(nothing)
    within(B, function()
      d:callback()
      assert.equal(B, owner.current)
    end)
    d:callback()
    assert.is_nil(owner.current)
  end)

  it("in a callback that waited is the one of its adding, whoever fires what it waited for", function()
    local outer, inner, seen = Deferred:new(), Deferred:new(), {}
    within(A, function()
      outer:addCallback(gives(inner)):addCallback(noting(seen))
    end)
    outer:callback()
    within(B, function()
      inner:callback()
      assert.equal(B, owner.current)
    end)
    assert.equal(A, seen[1])
    assert.is_nil(owner.current)
  end)

  it("of a callback added within a callback is that of the callback", function()
    local d, e, seen = Deferred:new(), Deferred:new(), {}
    within(A, function()
      d:addCallback(function() e:addCallback(noting(seen)) end)
    end)
    d:callback()
    e:callback()
    assert.equal(A, seen[1])
  end)

  it("of what a lock runs is that of who asked", function()
    local lock, seen = defer.DeferredLock:new(), {}
    lock:acquire()
    within(A, function() lock:run(noting(seen)) end)
    within(B, function() lock:release() end)
    assert.equal(A, seen[1])
  end)
end)

describe("chains of very many Deferreds", function()
  -- A list of Deferreds, each of which will wait for the next, and what the callback at the head sees.
  local function chain(count)
    local list, seen = {}, {}
    for i = 1, count do
      list[i] = Deferred:new()
    end
    for i = 1, count - 1 do
      list[i]:addCallback(gives(list[i + 1]))
    end
    list[1]:addBoth(function(value)
      seen.value, seen.depth = value, depth()
    end)
    return list, seen
  end

  local function assertShallow(seen)
    local few, shallow = chain(2)
    few[2]:callback()
    few[1]:callback()
    assert.is_true(seen.depth <= shallow.depth + 10, ("%d calls deep"):format(seen.depth))
  end

  it("that fire from the head on need no deep stack", function()
    local list, seen = chain(MANY)
    for i = 1, MANY do
      assert.is_nil(seen.depth)
      list[i]:callback(i)
    end
    assert.equal(MANY, seen.value)
    assertShallow(seen)
  end)

  it("that fire from the tail on need no deep stack", function()
    local list, seen = chain(MANY)
    for i = MANY, 1, -1 do
      assert.is_nil(seen.depth)
      list[i]:callback(i)
    end
    assert.equal(MANY, seen.value)
    assertShallow(seen)
  end)

  it("that fire evens first need no deep stack", function()
    local list, seen = chain(MANY)
    for _, first in ipairs { 2, 1 } do
      for i = first, MANY, 2 do
        list[i]:callback(i)
      end
    end
    assert.equal(MANY, seen.value)
    assertShallow(seen)
  end)

  it("pass a failure on, too", function()
    local list, seen = chain(MANY)
    for i = 1, MANY - 1 do
      list[i]:callback()
    end
    list[MANY]:errback "no"
    assert.equal("no", seen.value.value)
    assertShallow(seen)
  end)

  it("run the callbacks of each on the way", function()
    local list = chain(MANY)
    local count = 0
    for i = 1, MANY do
      list[i]:addCallback(function(value)
        count = count + 1
        return value
      end)
    end
    for i = 1, MANY do
      list[i]:callback()
    end
    assert.equal(MANY, count)
  end)

  it("pass a cancel down, and its failure up", function()
    local list, seen = chain(MANY)
    for i = 1, MANY - 1 do
      list[i]:callback()
    end
    list[1]:cancel()
    assert.equal("CancelledError", seen.value.type)
    assertShallow(seen)
  end)

  it("grow while they run, as a loop by callbacks does", function()
    local pending, rounds
    local function loop(n)
      rounds = n
      if n == MANY then
        return "done"
      end
      pending = Deferred:new()
      return pending:addCallback(function() return loop(n + 1) end)
    end
    local d = loop(0)
    while rounds < MANY do
      pending:callback()
    end
    assert.equal("done", valueOf(d))
  end)

  it("may be a list", function()
    local list, others = {}, {}
    for i = 1, MANY do
      list[i], others[i] = Deferred:new(), Deferred:new()
    end
    local all, winner = defer.gatherResults(list), defer.race(others)
    for i = MANY, 1, -1 do
      list[i]:callback(i)
    end
    others[MANY]:callback "won"
    assert.equal(MANY, valueOf(all)[MANY])
    assert.same({ MANY, "won" }, valueOf(winner))
  end)

  it("may be callbacks of a single one", function()
    local d = Deferred:new()
    for _ = 1, MANY do
      d:addCallback(function(n) return n + 1 end)
    end
    d:callback(0)
    assert.equal(MANY, valueOf(d))
  end)

  it("may be made by chainDeferred", function()
    local list = {}
    for i = 1, MANY do
      list[i] = Deferred:new()
      if i > 1 then
        list[i - 1]:chainDeferred(list[i])
      end
    end
    list[1]:callback "value"
    assert.equal("value", valueOf(list[MANY]))
  end)
end)
