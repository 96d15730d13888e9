-- What has come of a Deferred.

local defer = require "skald.defer"
local assert = require "luassert"

local outcomes = {}

-- What a callback added now is given. A failure is thereby handled.
function outcomes.outcome(d)
  local seen = { fired = false }
  d:addBoth(function(value)
    seen.fired, seen.value = true, value
  end)
  return seen
end

function outcomes.isPending(d)
  local fired = false
  d:addBoth(function(value)
    fired = true
    return value
  end)
  return not fired
end

function outcomes.valueOf(d)
  local seen = outcomes.outcome(d)
  assert.is_true(seen.fired, "it has not fired")
  assert.is_false(defer.isFailure(seen.value), tostring(seen.value))
  return seen.value
end

function outcomes.failureOf(d, kind)
  local seen = outcomes.outcome(d)
  assert.is_true(seen.fired, "it has not fired")
  assert.is_true(defer.isFailure(seen.value), "it has not failed")
  if kind then
    assert.equal(kind, seen.value.type)
  end
  return seen.value
end

return outcomes
