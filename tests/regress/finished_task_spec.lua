-- A call that is put off because too many coroutines run within each other, and whose owner ends meanwhile, was run
-- all the same.

local async = require "skald.async"
local failure = require "skald.failure"
local owner = require "skald.owner"

describe("an async call that is put off", function()
  it("is not run when its owner has ended before its turn", function()
    local who, ran, result = owner.new(), false, nil
    local function nest(n)
      if n > 0 then
        return async.async(nest)(n - 1)
      end
      owner.call(who, failure.handler, function()
        result = async.async(function() ran = true end)()
      end)
      assert.is_false(ran)
      who:finish()
    end
    nest(100)
    assert.is_false(ran)
    assert.equal("CancelledError", result.result.type)
    result:addErrback(function() end)
  end)
end)
