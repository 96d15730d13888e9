-- A Deferred is a result that comes later: a value, or a failure.
--
--   build/skald run examples/10_deferred.lua
--
-- prints after a second "half of 10 is 5" and "no half of 7: 7 is odd", and ends.
--
-- Whoever promises the result fires the Deferred, once. Whoever wants it adds callbacks, before or
-- after that; what one of them gives is what the next one gets.

local defer = require "skald.defer"
local reactor = require "skald.reactor"

-- Takes its time.
local function half(number)
  local d = defer.Deferred:new()
  if number % 2 == 0 then
    reactor.callLater(1, d.callback, d, number / 2)
  else
    reactor.callLater(1, d.errback, d, number .. " is odd")
  end
  return d
end

local function tell(number)
  return half(number)
    :addCallback(function(result)
      print(("half of %d is %d"):format(number, result))
    end)
    :addErrback(function(failure)
      print(("no half of %d: %s"):format(number, failure.message))
    end)
end

defer.DeferredList:new({ tell(10), tell(7) }):addCallback(function()
  reactor.stop()
end)
