-- A client that stays connected: it connects again whenever its connection is lost or cannot be made.

local class = require "skald.class"
local connectors = require "skald.connectors"
local definition = require "skald.definition"
local deferred = require "skald.deferred"
local endpoints = require "skald.endpoints"
local owner = require "skald.owner"
local program = require "skald.program"
local protocol = require "skald.protocol"

---@class skald.client
local client = {}

--- What `connect =` in a definition makes, for code that wants to start and stop it itself. When and
--- how often it retries, and what is done with a new connection, its factory says: initialDelay, factor,
--- jitter, maxDelay, maxRetries, stableAfter, prepareConnection (skald.protocol).
---@class ClientService: Object
---@field factory Factory
---@field running boolean between startService and stopService
local ClientService = class.root "ClientService"

client.ClientService = ClientService

--- A client of an endpoint, which does not connect yet.
---@param endpoint string|ClientEndpoint
---@param factory table a factory, a Factory class, or a definition
function ClientService:init(endpoint, factory)
  self.endpoint = endpoints.client("ClientService", endpoint, 3).endpoint
  definition.need("ClientService", factory, 3)
  if not class.is(factory) and not class.of(factory) then
    class.adopt(factory, protocol.ReconnectingClientFactory)
  end
  self.factory = definition.factoryOf(factory)
  self.running = false
end

--- Begins to connect.
function ClientService:startService()
  if self.running then
    return
  end
  local who = owner.current
  if not who or who.ended then
    program.enlist(self.factory) -- nobody else ends it
  end
  self.running = true
  self.connector = connectors.new(self.factory, self.endpoint)
  self.connector.persistent = true
  self.connector:start(owner.current)
end

--- Ends its connection, in order, and connects no more.
---@return Deferred d of nothing, when that is done
function ClientService:stopService()
  if not self.running then
    return deferred.succeed()
  end
  self.running = false
  return self.connector:finish()
end

--- A Deferred of the connected protocol: of the one there is, or of the next. It fails at once while the
--- service does not run.
---@param failAfter integer? it fails after so many failed tries; none: it waits on
---@return Deferred d of the protocol
function ClientService:whenConnected(failAfter)
  if not self.running then
    return deferred.fail "the client service does not run"
  end
  return self.connector:whenConnected(failAfter)
end

return client
