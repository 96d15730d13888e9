-- ReconnectingClientFactory on a clock of its own, with connectors that only note what they are asked.

local protocol = require "skald.protocol"
local task = require "skald.task"

local Reconnecting = protocol.ReconnectingClientFactory

local clock, random

-- A connector: `times` are those of its connects.
local function newConnector(fields)
  local connector = { times = {}, stopped = 0, state = "disconnected" }
  function connector:connect()
    self.times[#self.times + 1] = clock:seconds()
    self.state = "connecting"
  end
  function connector:stopConnecting()
    self.stopped = self.stopped + 1
    self.state = "disconnected"
  end
  for key, value in pairs(fields or {}) do
    connector[key] = value
  end
  return connector
end

local function newFactory(fields)
  local factory = Reconnecting { clock = clock, jitter = 0 }:new()
  for key, value in pairs(fields or {}) do
    factory[key] = value
  end
  return factory
end

local function fail(factory, connector)
  connector.state = "disconnected"
  factory:clientConnectionFailed(connector, {})
end

-- Passes the time until the connector is asked to connect; how long that took, or nil.
local function wait(connector, most)
  local since, before = clock:seconds(), #connector.times
  local calls = clock:getDelayedCalls()
  if #calls == 0 then
    return nil
  end
  clock:advance(most or calls[1]:getTime() - since)
  local took = math.floor((clock:seconds() - since) * 1e6 + 0.5) / 1e6
  return #connector.times == before + 1 and took or nil
end

-- The delays of so many failures in a row.
local function delays(factory, connector, n)
  local list = {}
  for i = 1, n do
    fail(factory, connector)
    list[i] = wait(connector)
  end
  return list
end

describe("a ReconnectingClientFactory", function()
  before_each(function()
    clock, random = task.Clock:new(), math.random
  end)

  after_each(function()
    math.random = random -- luacheck: ignore 122
  end)

  -- What math.random gives from now on.
  local function chance(value)
    math.random = function() -- luacheck: ignore 122
      return value
    end
  end

  it("waits initialDelay first, then factor times as long each time, and never longer than maxDelay", function()
    assert.same({ 1, 2, 4, 8, 16, 32, 60, 60, 60 }, delays(newFactory(), newConnector(), 9))
    local factory = newFactory { initialDelay = 0.5, factor = 3, maxDelay = 10 }
    assert.same({ 0.5, 1.5, 4.5, 10, 10 }, delays(factory, newConnector(), 5))
  end)

  it("connects once for each failure, and not before its time", function()
    local factory, connector = newFactory(), newConnector()
    fail(factory, connector)
    clock:advance(0.999)
    assert.equal(0, #connector.times)
    clock:advance(0.002)
    assert.equal(1, #connector.times)
    clock:advance(1000)
    assert.equal(1, #connector.times)
  end)

  it("retries a lost connection as it does a failed one", function()
    local factory, connector = newFactory(), newConnector()
    factory:clientConnectionLost(connector, {})
    assert.equal(1, wait(connector))
    fail(factory, connector)
    assert.equal(2, wait(connector))
  end)

  it("spreads each delay by jitter, and that does not add up", function()
    for value, wanted in pairs { [0] = { 0.9, 1.8, 3.6 }, [0.5] = { 1, 2, 4 }, [1] = { 1.1, 2.2, 4.4 } } do
      chance(value)
      for i, delay in ipairs(delays(newFactory { jitter = 0.1 }, newConnector(), 3)) do
        assert.is_true(math.abs(delay - wanted[i]) < 1e-6, delay .. " instead of " .. wanted[i])
      end
    end
  end)

  it("spreads by a tenth where nothing is said, and as chance will have it", function()
    local seen = {}
    for _ = 1, 50 do
      local factory = Reconnecting { clock = clock }:new()
      local delay = delays(factory, newConnector(), 1)[1]
      assert.is_true(delay >= 0.9 and delay <= 1.1, "waited " .. delay)
      seen[delay] = true
    end
    assert.truthy(next(seen, (next(seen))))
  end)

  it("is exact with a jitter of 0, whatever chance says", function()
    chance(1)
    assert.same({ 1, 2, 4 }, delays(newFactory(), newConnector(), 3))
  end)

  it("caps after it has spread: no delay is over maxDelay", function()
    chance(1)
    local factory = newFactory { initialDelay = 10, maxDelay = 10, jitter = 0.5 }
    assert.same({ 10, 10 }, delays(factory, newConnector(), 2))
    chance(0)
    assert.same({ 5, 5 }, delays(newFactory { initialDelay = 10, maxDelay = 10, jitter = 0.5 }, newConnector(), 2))
  end)

  it("never waits a negative time, nor longer than maxDelay, whatever its fields say", function()
    local values = { 0, -1, -1e308, 1e308, 1e-308, math.huge, -math.huge, 0 / 0 }
    local list = {} -- what callLater was given
    local watched = setmetatable({}, { __index = clock })
    function watched.callLater(_, seconds)
      list[#list + 1] = seconds
      return { cancel = function() end }
    end
    for _, field in ipairs { "initialDelay", "factor", "jitter" } do
      for _, value in ipairs(values) do
        for _, luck in ipairs { 0, 0.5, 1 } do
          chance(luck)
          local factory, connector = newFactory { jitter = 0.1, [field] = value, clock = watched }, newConnector()
          for _ = 1, 5 do
            factory:retry(connector)
          end
        end
      end
    end
    assert.equal(3 * #values * 3 * 5, #list)
    for _, seconds in ipairs(list) do
      assert.is_true(seconds >= 0 and seconds <= 60, "waited " .. seconds)
    end
  end)

  it("waits a finite time that is not negative, whatever maxDelay says", function()
    local given
    local watched = { seconds = function() return 0 end }
    function watched.callLater(_, seconds)
      given = seconds
      return { cancel = function() end }
    end
    for _, maxDelay in ipairs { 0, -1, 1e308, math.huge, -math.huge, 0 / 0 } do
      local factory = newFactory { maxDelay = maxDelay, initialDelay = 1e300, clock = watched }
      factory:retry(newConnector())
      assert.is_true(given >= 0 and given < math.huge, "waited " .. given)
      assert.is_true(maxDelay > 0 or maxDelay ~= maxDelay or given == 0)
    end
  end)

  it("retries maxRetries times in a row, and no more", function()
    local factory, connector = newFactory { maxRetries = 3 }, newConnector()
    assert.same({ 1, 2, 4 }, delays(factory, connector, 5))
    assert.equal(3, #connector.times)
    local none = newConnector()
    fail(newFactory { maxRetries = 0 }, none)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("has its retries back after resetDelay", function()
    local factory, connector = newFactory { maxRetries = 2 }, newConnector()
    delays(factory, connector, 3)
    factory:resetDelay()
    assert.same({ 1, 2 }, delays(factory, connector, 3))
  end)

  it("begins again with initialDelay after resetDelay, of all connectors or of one", function()
    local factory, a, b = newFactory(), newConnector(), newConnector()
    delays(factory, a, 3)
    delays(factory, b, 3)
    factory:resetDelay(a)
    assert.same({ 1 }, delays(factory, a, 1))
    assert.same({ 8 }, delays(factory, b, 1))
    factory:resetDelay()
    assert.same({ 1 }, delays(factory, b, 1))
  end)

  it("begins again when a connection has lasted stableAfter, and not when it has not", function()
    for seconds, wanted in pairs { [4.9] = 8, [5] = 1, [500] = 1 } do
      local factory, connector = newFactory { protocol = protocol.Protocol {} }, newConnector()
      delays(factory, connector, 3)
      factory:buildProtocol()
      clock:advance(seconds)
      factory:clientConnectionLost(connector, {})
      assert.equal(wanted, wait(connector), seconds)
    end
  end)

  it("measures how long each connection lasted by its own connector", function()
    local factory, old, young = newFactory(), newConnector(), newConnector()
    delays(factory, old, 3)
    delays(factory, young, 3)
    old.since = clock:seconds()
    clock:advance(6)
    young.since = clock:seconds()
    factory:clientConnectionLost(young, {})
    assert.equal(8, wait(young))
    factory:clientConnectionLost(old, {})
    assert.equal(1, wait(old))
  end)

  it("takes stableAfter from its field", function()
    local factory, connector = newFactory { stableAfter = 0.5 }, newConnector()
    delays(factory, connector, 2)
    connector.since = clock:seconds()
    clock:advance(0.6)
    factory:clientConnectionLost(connector, {})
    assert.equal(1, wait(connector))
  end)

  it("keeps a back-off for each of its connectors", function()
    local factory, a, b = newFactory { maxRetries = 4 }, newConnector(), newConnector()
    assert.same({ 1, 2, 4 }, delays(factory, a, 3))
    assert.same({ 1, 2, 4, 8 }, delays(factory, b, 5))
    assert.same({ 8 }, delays(factory, a, 2))
  end)

  it("has the retries of its connectors under way side by side", function()
    local factory, a, b = newFactory(), newConnector(), newConnector()
    fail(factory, a)
    clock:advance(0.5)
    fail(factory, b)
    clock:pump { 0.5, 0.5, 5 }
    assert.same({ { 1 }, { 1.5 } }, { a.times, b.times })
  end)

  it("retries the connector that it last heard of where none is named", function()
    local factory, a, b = newFactory(), newConnector(), newConnector()
    fail(factory, a)
    fail(factory, b)
    clock:advance(5)
    b.state = "disconnected"
    factory:retry()
    clock:advance(5)
    assert.same({ 1, 2 }, { #a.times, #b.times })
  end)

  it("raises at the caller's line where there is no connector to retry", function()
    local ok, message = pcall(function()
      newFactory():retry()
    end)
    assert.is_false(ok)
    assert.truthy(message:find("^[^:]*reconnect_spec.lua:%d+: retry: "), message)
  end)

  it("connects once where it is asked twice to retry", function()
    local factory, connector = newFactory(), newConnector()
    factory:retry(connector)
    factory:retry(connector)
    clock:advance(100)
    assert.equal(1, #connector.times)
  end)

  it("retries no connector that has ended", function()
    local factory, connector = newFactory(), newConnector { ended = true }
    fail(factory, connector)
    assert.same({}, clock:getDelayedCalls())
  end)

  it("tries no more after stopTrying: no retry is left, and what connects is stopped", function()
    local factory, a, b, c = newFactory(), newConnector(), newConnector(), newConnector()
    fail(factory, a)
    delays(factory, b, 1)
    delays(factory, c, 1)
    c.state = "connected"
    fail(factory, a)
    assert.equal("connecting", b.state)
    factory:stopTrying()
    assert.same({}, clock:getDelayedCalls())
    assert.same({ 0, 1, 0 }, { a.stopped, b.stopped, c.stopped })
    fail(factory, a)
    factory:clientConnectionLost(c, {})
    assert.same({}, clock:getDelayedCalls())
  end)

  it("tells how many retries in a row there were", function()
    local factory, connector = newFactory(), newConnector()
    delays(factory, connector, 3)
    assert.equal(3, factory.retries)
    factory:resetDelay()
    assert.equal(0, factory.retries)
  end)

  it("has its retry belong to the connector's owner, who ends it", function()
    local things = {}
    local who = {
      add = function(_, thing) things[thing] = true end,
      remove = function(_, thing) things[thing] = nil end,
    }
    local factory, connector = newFactory(), newConnector { owner = who }
    fail(factory, connector)
    local pending = next(things)
    assert.truthy(pending)
    assert.equal(1, wait(connector))
    assert.is_nil(next(things))
    fail(factory, connector)
    next(things):finish()
    assert.is_nil(next(things))
    assert.same({}, clock:getDelayedCalls())
  end)

  it("forgets connectors that nobody else knows", function()
    local factory = newFactory { maxRetries = 1 }
    local alive = setmetatable({}, { __mode = "k" })
    for _ = 1, 100 do
      local connector = newConnector()
      -- as the owner of a real one does, it knows its connector
      connector.owner = { add = function() end, remove = function() end, idle = function() return connector end }
      alive[connector] = true
      delays(factory, connector, 2)
    end
    collectgarbage()
    collectgarbage()
    local count = 0
    for _ in pairs(alive) do
      count = count + 1
    end
    assert.is_true(count <= 1, count .. " connectors are held") -- the last one, by factory.connector
  end)

  it("can be derived from, and its callbacks called from one's own", function()
    local heard = {}
    local Own = Reconnecting { initialDelay = 2, jitter = 0 }
    function Own:clientConnectionFailed(connector, reason)
      heard[#heard + 1] = reason
      Reconnecting.clientConnectionFailed(self, connector, reason)
    end
    local factory, connector = Own:new(), newConnector()
    factory.clock = clock
    factory:clientConnectionFailed(connector, "why")
    assert.same({ "why" }, heard)
    assert.equal(2, wait(connector))
  end)

  it("does not share anything with another one of its class", function()
    local Own = Reconnecting { clock = clock, jitter = 0 }
    local one, other = Own:new(), Own:new()
    delays(one, newConnector(), 3)
    one:stopTrying()
    assert.same({ 1, 2 }, delays(other, newConnector(), 2))
  end)
end)
