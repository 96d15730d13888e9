-- What loops, clocks and tasks have in common: whose they are, what they are given, the next turn. Pure.

local owner = require "skald.owner"

local started = {}

local function asIs(problem)
  return problem
end

--- Calls `f(...)`: what it starts belongs to `who`, and it is no part of a coroutine that waits.
function started.as(who, f, ...)
  if owner.current == who and not owner.task then
    return f(...)
  end
  local ok, result = owner.call(who, asIs, f, ...)
  if not ok then
    error(result, 0)
  end
  return result
end

--- The owner of what is started now: nobody, once that has ended.
function started.owner()
  local who = owner.current
  return who and not who.ended and who or nil
end

--- Has the owner end `thing` when it ends.
function started.enter(thing)
  local who = owner.current
  thing.owner = who
  if who and not who.ended then
    who:add(thing)
  end
end

--- Has it do so no more.
function started.leave(thing)
  if thing.owner then
    thing.owner:remove(thing)
  end
end

--- Raises where a value is no function.
function started.needFunction(name, f, level)
  if type(f) ~= "function" then
    error(("%s takes a function, not a %s"):format(name, type(f)), level + 1)
  end
end

--- Raises where a value is no number of seconds.
function started.needSeconds(name, s, level)
  if type(s) ~= "number" or not (s >= 0 and s < math.huge) then
    error(("%s takes seconds, a number from 0, not %s"):format(name, tostring(s)), level + 1)
  end
end

--- Calls `f(...)` in the clock's next turn.
function started.callNextTurn(clock, f, ...)
  local method = clock.callNextTurn
  if method then
    return method(clock, f, ...)
  end
  return clock:callLater(0, f, ...)
end

return started
