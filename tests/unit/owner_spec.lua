local owner = require "skald.owner"

local function asIs(problem)
  return problem
end

describe("an owner", function()
  it("is the current one while what it calls runs, and no longer", function()
    local who, seen = owner.new(), nil
    local ok, result = owner.call(who, asIs, function(a)
      seen = owner.current
      return a
    end, 5)
    assert.same({ true, 5 }, { ok, result })
    assert.equal(who, seen)
    assert.is_nil(owner.current)
  end)

  it("is no longer the current one after an error, and the one before is again", function()
    local outer, inner = owner.new(), owner.new()
    owner.call(outer, asIs, function()
      local ok, problem = owner.call(inner, asIs, error, "no", 0)
      assert.same({ false, "no" }, { ok, problem })
      assert.equal(outer, owner.current)
    end)
    assert.is_nil(owner.current)
  end)

  it("finishes what stays open, too, but is not busy with it", function()
    local who, finished, idle = owner.new(), {}, 0
    local function thing(name)
      return { finish = function()
        finished[#finished + 1] = name
      end }
    end
    local open, closed, task = thing "open", thing "closed", thing "task"
    who:keep(open)
    who:keep(closed)
    who:letGo(closed)
    who:letGo(task) -- which it never kept
    assert.is_false(who:isBusy())
    function who.idle()
      idle = idle + 1
    end
    who:add(task)
    who:remove(task)
    assert.equal(1, idle)
    who:finish()
    assert.same({ "open" }, finished)
  end)

  it("cancels what is pending when it finishes, and counts it", function()
    local who, cancelled = owner.new(), 0
    for _ = 1, 3 do
      local call = {}
      function call.cancel()
        cancelled = cancelled + 1
        who:drop(call)
      end
      who:hold(call)
    end
    assert.equal(3, who:finish())
    assert.equal(3, cancelled)
    assert.is_true(who.ended)
    assert.equal(0, who:finish())
  end)
end)
