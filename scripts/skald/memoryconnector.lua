-- Connectors of the reactor that has no network: each waits until the test says what comes of it. Pure.

local address = require "skald.address"
local deferred = require "skald.deferred"
local owner = require "skald.owner"
local reason = require "skald.reason"

local memoryconnector = {}

--- One more of a factory is up: it starts where that is the first.
---@param memory MemoryReactor
---@param factory Factory
function memoryconnector.raise(memory, factory)
  local ups = memory.ups
  ups[factory] = (ups[factory] or 0) + 1
  if ups[factory] == 1 and factory.startFactory then
    factory:startFactory()
  end
end

--- One of a factory is down: it stops where that was the last.
---@param memory MemoryReactor
---@param factory Factory
function memoryconnector.lower(memory, factory)
  local ups = memory.ups
  ups[factory] = ups[factory] - 1
  if ups[factory] == 0 and factory.stopFactory then
    factory:stopFactory()
  end
end

--- What connectTCP of a MemoryReactor gives: a connector, as far as its user can tell. A test answers it
--- by `memory:connect(connector, …)` or `memory:fail(connector, …)`.
---@class MemoryConnector: Connector
---@field factory Factory
---@field endpoint table as endpoints.parseClient gives it
---@field state "disconnected"|"connecting"|"connected"
---@field attempts integer how often it was told to connect
---@field protocol Protocol? while it is connected
---@field transport Transport? while it is connected
local Connector = {}
Connector.__index = Connector

local function asIs(problem)
  return problem
end

-- What its callbacks start belongs to it.
local function tell(self, name, ...)
  local f = not self.once and self.factory[name]
  if f then
    local ok, problem = owner.call(self.owner, asIs, f, self.factory, self, ...)
    if not ok then
      error(problem, 0)
    end
  end
end

-- It is up while something is to come: it connects, is connected, or a retry is pending.
local function rest(self)
  if self.up and self.state == "disconnected" and not self.owner:isBusy() then
    self.up = false
    memoryconnector.lower(self.memory, self.factory)
  end
end

local function eachWaiter(self, f)
  local waiters = self.waiters
  self.waiters = {}
  for _, waiter in ipairs(waiters) do
    if not waiter.d.called and f(waiter) then
      table.insert(self.waiters, waiter)
    end
  end
end

local function tellWaiters(self, why)
  eachWaiter(self, function(waiter)
    waiter.left = waiter.left - 1
    if waiter.left > 0 then
      return true
    end
    waiter.d:errback(why)
  end)
end

--- Connects: waits for the test to say what comes of it.
---@return boolean? ok nil, message, code where it is connecting or connected
---@return string? message
---@return string? code
function Connector:connect()
  if self.state ~= "disconnected" then
    return nil, "already " .. self.state, "EALREADY"
  end
  self.state, self.attempts = "connecting", self.attempts + 1
  rawset(self.factory, "_connector", self)
  if not self.up then
    self.up = true
    memoryconnector.raise(self.memory, self.factory)
  end
  tell(self, "startedConnecting")
  return true
end

--- No connection could be made.
---@param self MemoryConnector
---@param code string
---@param by string
---@param detail string?
---@param errno string?
function memoryconnector.failed(self, code, by, detail, errno)
  local why = reason.unconnected(tostring(self:getDestination()), code, by, detail, errno)
  self.state = "disconnected"
  tell(self, "clientConnectionFailed", why)
  tellWaiters(self, why)
  rest(self)
end

local function tellReady(self, made)
  self.protocol = made
  eachWaiter(self, function(waiter)
    waiter.d:callback(made)
  end)
end

-- The protocol of its factory, or nil.
local function build(self, carrier)
  local ok, made = xpcall(self.factory.buildProtocol, debug.traceback, self.factory, carrier.transport:getPeer())
  if not ok then
    table.insert(carrier.errors, { raised = made, text = made })
    memoryconnector.failed(self, "error", "local")
    return nil
  elseif made == nil then
    memoryconnector.failed(self, "aborted", "local", "buildProtocol gave no protocol")
  elseif made.factory == nil then
    made.factory = self.factory
  end
  return made
end

-- Its connection is over; the protocol has heard of it.
local function lost(self, why)
  local unprepared = self.unprepared
  self.state, self.protocol, self.transport, self.unprepared = "disconnected", nil, nil, nil
  tell(self, "clientConnectionLost", why)
  tellWaiters(self, unprepared or why)
  rest(self)
end

--- Its side of a pump is there.
---@param self MemoryConnector
---@param carrier Carrier
---@return Protocol?
function memoryconnector.join(self, carrier)
  local made = build(self, carrier)
  if made then
    self.state, self.transport, self.since = "connected", carrier.transport, self.memory.seconds()
    function carrier.onOver(_, why)
      carrier:call({ lost = function() lost(self, why) end }, "lost")
    end
  end
  carrier:join(made)
  return made
end

--- Its protocol's connectionMade has returned, and TLS is up where it was asked for.
---@param self MemoryConnector
---@param carrier Carrier
---@param made Protocol?
function memoryconnector.ready(self, carrier, made)
  if self.transport ~= carrier.transport then
    return
  end
  local prepare = self.factory.prepareConnection
  deferred.maybeDeferred(prepare or asIs, self.factory, made):addCallbacks(function()
    if self.transport == carrier.transport then
      tellReady(self, made)
    end
  end, function(problem)
    if self.transport == carrier.transport then
      self.unprepared = problem
      carrier.transport:loseConnection()
    end
  end)
end

--- Gives up connecting: the factory hears of it as a failure, `aborted`.
---@return boolean? ok nil, message, code where it is not connecting
---@return string? message
---@return string? code
function Connector:stopConnecting()
  if self.state ~= "connecting" then
    return nil, "not connecting", "ENOTCONN"
  end
  memoryconnector.failed(self, "aborted", "local")
  return true
end

--- Ends what it has: gives up connecting, or closes the connection.
---@return boolean? ok nil, message, code where it is disconnected
---@return string? message
---@return string? code
function Connector:disconnect()
  if self.state == "connecting" then
    return self:stopConnecting()
  elseif self.state == "connected" then
    self.transport:loseConnection()
    return true
  end
  return nil, "not connected", "ENOTCONN"
end

--- Where it connects to.
---@return Address
function Connector:getDestination()
  local endpoint = self.endpoint
  if endpoint.type == "unix" then
    return address.unix(endpoint.path)
  end
  return address.inet(endpoint.host:find(":", 1, true) and "TCP6" or "TCP", endpoint.host, endpoint.port)
end

--- A Deferred of the connected protocol: of the one there is, or of the next.
---@param failAfter integer? it fails after so many failed tries; none: it waits on
---@return Deferred d of the protocol
function Connector:whenConnected(failAfter)
  if failAfter ~= nil and (type(failAfter) ~= "number" or failAfter < 1) then
    error(("whenConnected takes a number of tries from 1, not %s"):format(tostring(failAfter)), 2)
  end
  local d = deferred.Deferred:new()
  if self.protocol then
    d:callback(self.protocol)
  else
    table.insert(self.waiters, { d = d, left = failAfter or math.huge })
  end
  return d
end

--- Connects once: nothing of the factory is called but buildProtocol.
---@param self MemoryConnector
---@return Deferred d of the protocol
function memoryconnector.connectOnce(self)
  local d = deferred.Deferred:new(function()
    self:stopConnecting()
  end)
  self.once = true
  table.insert(self.waiters, { d = d, left = 1 })
  self:connect()
  return d
end

--- A connector, which is yet to connect.
---@param memory MemoryReactor
---@param factory Factory
---@param endpoint table
---@return MemoryConnector
function memoryconnector.new(memory, factory, endpoint)
  local self = setmetatable({
    memory = memory,
    factory = factory,
    endpoint = endpoint,
    state = "disconnected",
    attempts = 0,
    waiters = {},
    owner = owner.new(),
  }, Connector)
  endpoint.timeout = endpoint.timeout or 30
  function self.owner.idle()
    rest(self)
  end
  return self
end

--- Whether a value is one.
---@param value any
---@return boolean
function memoryconnector.is(value)
  return getmetatable(value) == Connector
end

return memoryconnector
