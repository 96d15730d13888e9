-- Connectors: each makes connections to one endpoint for one factory, one at a time.

local address = require "skald.address"
local core = require "skald.core"
local deferred = require "skald.deferred"
local dial = require "skald.dial"
local failure = require "skald.failure"
local log = require "skald.log"
local owner = require "skald.owner"
local protocol = require "skald.protocol"
local reason = require "skald.reason"
local roster = require "skald.roster"
local turn = require "skald.turn"

local connectors = {
  up = {}, -- those that are
}

local TIMEOUT = 30 -- seconds
local NOTHING = { cancel = function() end } -- an attempt that has not begun

--- Makes connections to one endpoint for one factory, one at a time: what connectTCP and connectUNIX give.
---@class Connector
---@field factory Factory
---@field state "disconnected"|"connecting"|"connected"
---@field transport Transport? while it is connected
---@field private endpoint table as endpoints.parseClient gives it
---@field private persistent boolean? it retries, where its factory does not say otherwise
local Connector = {}
Connector.__index = Connector

-- What a script holds of a connector may stand for another one.
local function standsFor(connector)
  return getmetatable(connector).stands or connector
end

function Connector.__eq(a, b)
  return rawequal(standsFor(a), standsFor(b))
end

--- What makes two connectors of a factory the same.
---@param endpoint table
---@return string
function connectors.key(endpoint)
  local kind = endpoint.type == "tls" and "tls:" or ""
  if endpoint.type == "process" then
    return ("to process:%s in %s"):format(table.concat({ endpoint.path, unpack(endpoint.rest or {}) }, "\0"),
      endpoint.cwd or "")
  elseif endpoint.path then
    return ("to %sunix:%s"):format(kind, endpoint.path)
  end
  local from = endpoint.bindAddress
  local key = ("to %stcp:%s:%d"):format(kind, core.canonical(endpoint.host), endpoint.port)
  return from and ("%s from %s:%d"):format(key, core.canonical(from[1]), from[2]) or key
end

-- --- what it tells its factory ----------------------------------------------------------------

-- What its callbacks start belongs to it.
local function tell(self, name, ...)
  local factory = self.factory
  if self.once then
    return
  end
  local f = factory[name]
  if self.persistent and (not f or f == protocol.ClientFactory[name]) then
    f = protocol.ReconnectingClientFactory[name]
  end
  if not f then
    return
  end
  local ok, problem = owner.call(self.owner, core.traceback, f, factory, self, ...)
  if not ok then
    log.error("%s", problem)
  end
end

local tellFailed

-- It is up while it connects, is connected, or something that it started is still to come: a retry.
local function lookWhetherDown(self)
  self.looking = nil
  if not self.up or self.state ~= "disconnected" or self.owner:isBusy() then
    return
  end
  self.up = false
  connectors.up[self] = nil
  if self.belongs then
    self.belongs:remove(self)
  end
  tellFailed(self, self.last or "the connector has ended", true)
  roster.lower(self.factory)
  if self.stopped then
    self.stopped:callback(self)
    self.stopped = nil
  end
end

local function rest(self)
  if not self.looking then
    self.looking = true
    turn.atEnd(function()
      lookWhetherDown(self)
    end)
  end
end

local function raise(self)
  if self.up then
    return true
  end
  self.up = true
  connectors.up[self] = true
  if self.belongs then
    self.belongs:add(self)
  end
  return roster.raise(self.factory)
end

-- --- who waits for it -------------------------------------------------------------------------

-- Its owner has ended: that nobody handles this is no error.
local function cancelWaiter(waiter)
  waiter.d.handled = true
  waiter.d:errback(failure.own("CancelledError", "what it belonged to has ended"))
end

-- Those who wait for a connection; `f(waiter)` says whether it goes on waiting. What a load asked for
-- ends with that.
local function filterWaiters(self, f)
  local waiters = self.waiters
  self.waiters = {}
  for _, waiter in ipairs(waiters) do
    local who = waiter.owner
    if waiter.left and not waiter.d.called and who and who.generation and who.ended then
      cancelWaiter(waiter)
    elseif waiter.left and not waiter.d.called and f(waiter) then
      self.waiters[#self.waiters + 1] = waiter
    end
  end
end

local function tellReady(self, made)
  self.protocol = made
  filterWaiters(self, function(waiter)
    waiter.d:callback(made)
  end)
end

-- A try has failed; or it was the last.
function tellFailed(self, why, last)
  filterWaiters(self, function(waiter)
    waiter.left = waiter.left - 1
    if waiter.left <= 0 or last or self.ended then
      waiter.d.handled = self.belongs and self.belongs.ended -- nobody is left to handle it
      waiter.d:errback(why)
      return false
    end
    return true
  end)
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
  elseif self.ended then
    d:errback "the connector has ended"
  elseif self.last and not self.up then
    d:errback(self.last)
  else
    table.insert(self.waiters, { d = d, left = failAfter or math.huge, owner = owner.current })
  end
  return d
end

-- --- what the attempt tells it ----------------------------------------------------------------

--- No connection could be made.
---@private
---@param code string
---@param by string
---@param detail string?
---@param errno string?
---@param traceback string?
function Connector:failed(code, by, detail, errno, traceback)
  self = standsFor(self)
  local why = reason.unconnected(tostring(self:getDestination()), code, by, detail, errno, traceback)
  self.attempt, self.last = nil, why
  self.state = "disconnected"
  tell(self, "clientConnectionFailed", why)
  tellFailed(self, why)
  rest(self)
end

local function timeOf(factory)
  return (factory.clock or require "skald.reactor"):seconds()
end

--- The socket is connected: its protocol, or nil, which closes it.
---@private
function Connector:build(carrier, build)
  local attempt, since, made = self.attempt, nil, nil
  local ok, problem = owner.call(nil, core.traceback, function()
    since = timeOf(self.factory)
    made = build(self.factory, carrier)
  end)
  if not ok then
    log.error("%s", problem)
  end
  if self.attempt ~= attempt then
    return nil -- it was given up meanwhile
  elseif not ok then
    self:failed("error", "local", nil, nil, problem)
    return nil
  elseif made == nil then
    self:failed("aborted", "local", "buildProtocol gave no protocol")
    return nil
  end
  self.attempt = nil
  self.state, self.transport, self.since = "connected", carrier, since
  return made
end

--- Its protocol's connectionMade has returned.
---@private
---@param made Protocol
function Connector:ready(made)
  local prepare = self.factory.prepareConnection
  if self.state ~= "connected" then
    return
  elseif not prepare then
    tellReady(self, made)
    return
  end
  local carrier = self.transport
  deferred.maybeDeferred(prepare, self.factory, made):addCallbacks(function()
    if self.transport == carrier then
      tellReady(self, made)
    end
  end, function(problem)
    log.error("prepareConnection failed: %s", problem.traceback)
    if self.transport == carrier then
      self.unprepared = problem
      carrier:loseConnection()
    end
  end)
end

--- The connection is over.
---@private
---@param why Reason
function Connector:lost(why)
  local unprepared, wasReady = self.unprepared, self.protocol ~= nil
  self.state, self.transport, self.protocol, self.unprepared = "disconnected", nil, nil, nil
  self.last = unprepared or why
  tell(self, "clientConnectionLost", why)
  if not wasReady or self.ended then
    tellFailed(self, self.last)
  end
  rest(self)
end

-- --- what its user may ask --------------------------------------------------------------------

-- It cannot even begin: the factory hears of it when the caller has returned.
local function failSoon(self, raised, problem)
  local attempt = { cancel = function() end }
  self.attempt = attempt
  if raised then
    log.error("%s", raised)
    problem = "startFactory failed"
  end
  turn.atEnd(function()
    if self.attempt == attempt then
      self:failed("error", "local", problem, nil, raised or nil)
    end
  end)
end

--- Connects. What comes of it the factory hears.
---@return boolean? ok nil, message, code where it is connecting or connected, or has ended
---@return string? message
---@return string? code
function Connector:connect()
  self = standsFor(self)
  if self.ended then
    return nil, "the connector has ended", "ECANCELED"
  elseif self.state ~= "disconnected" then
    return nil, "already " .. self.state, "EALREADY"
  end
  if self.held then
    self.unwanted = nil -- it will, when the load is committed
    return true
  end
  self.state, self.attempt = "connecting", NOTHING
  rawset(self.factory, "_connector", self)
  local group, problem = roster.groupOf(self.factory)
  local ok, raised = raise(self)
  if self.attempt ~= NOTHING then -- startFactory gave it up
    if not ok then
      log.error("%s", raised)
    end
  elseif ok and group then
    self.attempt = dial.start(self, self.endpoint, group)
    tell(self, "startedConnecting")
  else
    failSoon(self, not ok and raised, problem)
  end
  return true
end

--- Belongs to somebody from now on, and ends with them.
---@private
---@param who Owner?
function Connector:belong(who)
  if who and who.connector then
    who = who.connector.belongs -- else each try that a script makes by a new one would hold the last
  end
  self.belongs = who
  self.ended = who and who.ended or nil
end

-- It connects no more: what it started ends, and so does what waits for it.
local function close(self)
  self.ended, self.held = true, nil
  self.owner:finish()
  if self.state == "disconnected" then
    tellFailed(self, "the connector has ended")
  end
  rest(self)
end

--- Connects for somebody, who owns it from now on. What a load starts connects when that is committed.
---@private
---@param who Owner?
function Connector:start(who)
  self:belong(who)
  who = self.belongs
  if self.ended then
    close(self)
  elseif who and who.held then
    table.insert(who.generation.starts, self)
    who:add(self)
  else
    self:connect()
  end
end

--- Connects once.
---@private
---@param who Owner?
---@return Deferred d of the protocol
function Connector:connectOnce(who)
  local waiter = { left = 1 }
  waiter.d = deferred.Deferred:new(function()
    waiter.left = nil
    self:finish()
  end)
  table.insert(self.waiters, waiter)
  self:start(who)
  return waiter.d
end

--- Gives up connecting: the factory hears of it as a failure, `aborted`.
---@return boolean? ok nil, message, code where it is not connecting
---@return string? message
---@return string? code
function Connector:stopConnecting()
  if self.held and not self.unwanted then
    self.unwanted = true
    return true
  elseif self.state ~= "connecting" then
    return nil, "not connecting", "ENOTCONN"
  end
  self.attempt:cancel()
  self:failed("aborted", "local")
  return true
end

--- Ends what it has: gives up connecting, or closes the connection once all is sent.
---@return boolean? ok nil, message, code where it is disconnected
---@return string? message
---@return string? code
function Connector:disconnect()
  if self.state == "connecting" or self.held then
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
  if endpoint.type == "process" then
    return address.named("PROCESS", endpoint.path)
  elseif endpoint.path then
    return address.unix(endpoint.path)
  end
  return address.inet(endpoint.host:find(":", 1, true) and "TCP6" or "TCP", endpoint.host, endpoint.port)
end

--- It ends, with what it started, and connects no more.
---@private
---@return Deferred d of the connector, when its connection is over
function Connector:finish()
  if self.belongs and self.belongs.ended then
    filterWaiters(self, cancelWaiter)
  end
  close(self)
  self:disconnect()
  if not self.up then
    return deferred.succeed(self)
  end
  self.stopped = self.stopped or deferred.Deferred:new()
  return self.stopped
end

--- The host, or its service, stops: it connects no more. A connection that it has is ended by whoever
--- ends all of them.
---@private
function Connector:stop()
  close(self)
  if self.attempt then
    self.attempt:cancel()
    self:failed("stopped", "host")
  end
end

--- A connector, which is yet to connect.
---@param factory Factory
---@param endpoint table as endpoints.parseClient gives it
---@return Connector
function connectors.new(factory, endpoint)
  local self = setmetatable({
    factory = factory,
    endpoint = endpoint,
    key = connectors.key(endpoint),
    state = "disconnected",
    waiters = {},
    owner = owner.new(),
  }, Connector)
  endpoint.timeout = endpoint.timeout or TIMEOUT
  self.owner.connector = self
  self.owner.idle = function()
    rest(self)
  end
  return self
end

local MOST_ROUNDS = 10

--- The host, or a service, stops: so do those that are up, and those that their ends make.
---@param factories table<Factory, true>? only connectors of these
function connectors.stopAll(factories)
  local any, rounds = true, 0
  while any and rounds < MOST_ROUNDS do
    local list = {}
    for connector in pairs(connectors.up) do
      list[#list + 1] = not connector.ended and (not factories or factories[connector.factory]) and connector or nil
    end
    for _, connector in ipairs(list) do
      connector:stop()
    end
    any, rounds = #list > 0, rounds + 1
  end
end

local function waits()
  return true
end

--- What a script holds of `connector` stands for another one from now on.
---@param connector Connector
---@param living Connector
function connectors.forward(connector, living)
  local unwanted = connector.unwanted
  for _, waiter in ipairs(connector.waiters) do
    table.insert(living.waiters, waiter)
  end
  turn.atEnd(function() -- a commit runs nobody's code
    if unwanted then
      living:disconnect()
    end
    if living.protocol then
      tellReady(living, living.protocol)
    else
      filterWaiters(living, waits)
    end
  end)
  for key in pairs(connector) do
    connector[key] = nil
  end
  setmetatable(connector, { __index = living, __newindex = living, __eq = Connector.__eq, stands = living })
end

return connectors
