-- The PROXY protocol: what a proxy tells, before anything else, of who has connected to it. Whoever can
-- connect can tell anything: a port that takes such headers must be open to nobody but the proxies. Pure.

local held = require "skald.held"
local proxyheader = require "skald.proxyheader"
local wrapping = require "skald.wrapping"

local ProtocolWrapper = wrapping.ProtocolWrapper

local haproxy = {}

-- --- the receiving side -----------------------------------------------------------------------

--- Reads the header of a connection, and then stands between the transport and the protocol that the
--- wrapped factory builds for the address in the header.
---@class HAProxyProtocolWrapper: ProtocolWrapper
---@field source Address? of who connected to the proxy, where the header says it
---@field destination Address? what it connected to
---@field tlvs table<integer, string>? of version 2, by their types
local HAProxyProtocolWrapper = ProtocolWrapper {}

--- The time for the header begins.
function HAProxyProtocolWrapper:connectionMade()
  local factory = self.factory
  local clock = proxyheader.clockOf(factory)
  self._reader = proxyheader.reader(factory.maxHeader)
  self._timer = clock and clock:callLater(factory.headerTimeout, wrapping.guarded, self, self, "_late")
end

function HAProxyProtocolWrapper:_late()
  self._timer = nil
  self:_refuse "the header did not come in time"
end

-- There is nobody to be connected before the header.
function HAProxyProtocolWrapper.connectWrapped() end

function HAProxyProtocolWrapper:_stopTimer()
  local timer = self._timer
  self._timer = nil
  if timer then
    timer:cancel()
  end
end

function HAProxyProtocolWrapper:_refuse(problem)
  self._reader = nil
  self:headerRefused(problem)
end

--- The header is bad, or did not come in time. Inside the host the log says so; closes. An override
--- closes too.
---@param problem string what is wrong with it
function HAProxyProtocolWrapper:headerRefused(problem)
  local log = package.loaded["skald.log"]
  if log then
    log.info("%s: PROXY header refused: %s", tostring(self.transport:getPeer()), problem)
  end
  self:loseConnection()
end

--- Bytes came: of the header, and then the protocol's.
---@param data string
function HAProxyProtocolWrapper:dataReceived(data)
  local reader, waiting = self._reader, self._held
  if waiting then
    waiting:add(data)
  elseif reader and not self.disconnecting then
    local header, rest = reader:feed(data)
    if header ~= nil then
      self:_stopTimer()
      self._reader = nil
      self:_begin(header, rest)
    end
  elseif not self.waits then
    ProtocolWrapper.dataReceived(self, data)
  end
end

-- The protocol for the address in the header; nil refuses.
local function build(self)
  local factory = self.factory.wrappedFactory
  local made = factory:buildProtocol(self:getPeer())
  if made ~= nil and type(made) ~= "table" then
    error(("buildProtocol gave a %s, not a protocol"):format(type(made)), 0)
  elseif made and made.factory == nil then
    made.factory = factory
  end
  return made
end

function HAProxyProtocolWrapper:_begin(header, rest)
  if not header then
    return self:_refuse(rest)
  end
  self.source, self.destination, self.tlvs = header.source, header.destination, header.tlvs
  local made = build(self)
  if not made then
    return self:loseConnection()
  end
  self.wrappedProtocol = made
  local waiting = #rest > 0
    and held.new(rest, self, self.transport, function()
      self._held = nil
    end)
  self._held = waiting or nil
  ProtocolWrapper.connectWrapped(self)
  if waiting then
    waiting:deliver(made)
  end
end

--- The connection is over.
---@param reason Reason
function HAProxyProtocolWrapper:connectionLost(reason)
  self:_stopTimer()
  self._reader, self._held = nil, nil
  ProtocolWrapper.connectionLost(self, reason)
end

-- What a protocol is told that may not be there yet.
for _, name in ipairs { "reloaded", "handshakeCompleted", "writeConnectionLost" } do
  HAProxyProtocolWrapper[name] = function(self)
    if self.wrappedProtocol then
      ProtocolWrapper[name](self)
    end
  end
end

--- Stops reading.
function HAProxyProtocolWrapper:pauseProducing()
  if self._held then
    return self._held:pause()
  end
  return self.transport:pauseProducing()
end

--- Reads again.
function HAProxyProtocolWrapper:resumeProducing()
  if self._held then
    return self._held:resume()
  end
  return self.transport:resumeProducing()
end

--- Has what comes from now on go to a sink, and what came with the header before it.
---@param sink Transport
---@return Deferred d of the number of bytes, as of any transport
function HAProxyProtocolWrapper:pipe(sink)
  return (self._held or self.transport):pipe(sink)
end

--- The peer's address: of who connected to the proxy, where the header says it.
---@return Address
function HAProxyProtocolWrapper:getPeer()
  return self.source or self.transport:getPeer()
end

--- Our own address: what was connected to at the proxy, where the header says it.
---@return Address
function HAProxyProtocolWrapper:getHost()
  return self.destination or self.transport:getHost()
end

haproxy.HAProxyProtocolWrapper = HAProxyProtocolWrapper

--- Takes connections that begin with a header; the wrapped factory sees the addresses in it. Inside the
--- host an endpoint `haproxy:tcp:80` does the same, without a wrapper; a factory that listens there may
--- have these three fields, too.
---@class HAProxyWrappingFactory: WrappingFactory
---@field headerTimeout number seconds that a header may take: 10
---@field maxHeader integer bytes of the longest header: 65551, as many as can be written down
---@field clock table? by default the reactor
local HAProxyWrappingFactory = wrapping.WrappingFactory {
  protocol = HAProxyProtocolWrapper,
  headerTimeout = proxyheader.TIMEOUT,
  maxHeader = proxyheader.LARGEST,
}

--- A wrapper; the wrapped factory is asked when the header is there.
---@param addr Address? the proxy's
---@return HAProxyProtocolWrapper
function HAProxyWrappingFactory:buildProtocol(addr) -- luacheck: no unused args
  return self.protocol:new(self, nil)
end

haproxy.HAProxyWrappingFactory = HAProxyWrappingFactory

-- --- the sending side -------------------------------------------------------------------------

--- The bytes of a header. What its version cannot tell (a datagram in version 1, two addresses of
--- different types, none) it tells as unknown.
---@param fields table `version` 1 or 2; `source` and `destination`, addresses; `command`, "PROXY" unless
---it is "LOCAL"; of version 2 also `tlvs`, strings by their types, and `checksum`, true: with one
---@return string bytes
function haproxy.header(fields)
  local problem = proxyheader.problem(fields)
  if problem then
    error("header: " .. problem, 2)
  end
  return proxyheader.write(fields)
end

--- The header that tells the next server who is connected here, and to what.
---@param transport Transport
---@param version? integer 1 or 2 of the protocol; 1 unless given
---@return string bytes
function haproxy.forTransport(transport, version)
  version = version or 1
  if version ~= 1 and version ~= 2 then
    error(("forTransport: version is 1 or 2, not %s"):format(tostring(version)), 2)
  end
  local fields = { version = version, source = transport:getPeer(), destination = transport:getHost() }
  if proxyheader.problem(fields) then -- such as a path that is too long: nothing to blame the caller for
    fields.source, fields.destination = nil, nil
  end
  return proxyheader.write(fields)
end

--- Sends the header, then connects the protocol that it wraps.
---@class HAProxyClientWrapper: ProtocolWrapper
local HAProxyClientWrapper = ProtocolWrapper {}

function HAProxyClientWrapper:connectionMade()
  self.transport:write(self.factory:headerFor(self))
end

--- Connections that begin with a header which we send.
---@class HAProxyClientFactory: WrappingFactory
---@field header table what `haproxy.header` takes
local HAProxyClientFactory = wrapping.WrappingFactory { protocol = HAProxyClientWrapper }

--- Called by `:new(factory, fields)`.
---@param factory Factory or what makes one
---@param fields? table as `haproxy.header` takes it, of version 1 unless it says otherwise. Where no address is
---given, the connection's own are told: that it is ours, and relayed for nobody
function HAProxyClientFactory:init(factory, fields)
  local given = {}
  for key, value in pairs(fields or {}) do
    given[key] = value
  end
  given.version = given.version or 1
  local problem = proxyheader.problem(given)
  if problem then
    error("HAProxyClientFactory: " .. problem, 3)
  end
  wrapping.setUp(self, factory)
  self.header = given
end

--- The header of a connection. To be overridden where each has another.
---@param wrapper HAProxyClientWrapper
---@return string bytes
function HAProxyClientFactory:headerFor(wrapper)
  local fields = self.header
  if fields.source or fields.destination or fields.command == "LOCAL" then
    return proxyheader.write(fields)
  end
  local own = setmetatable({ source = wrapper:getHost(), destination = wrapper:getPeer() }, { __index = fields })
  return proxyheader.write(own)
end

haproxy.HAProxyClientFactory = HAProxyClientFactory

return haproxy
