-- What stands between a protocol and its transport: a wrapper is the transport of the protocol that
-- it wraps, and the protocol of the transport that it has. Wrappers may stand in each other. Pure.

local class = require "skald.class"
local failure = require "skald.failure"
local protocol = require "skald.protocol"

local Protocol, Factory, ClientFactory = protocol.Protocol, protocol.Factory, protocol.ClientFactory
local Reconnecting = protocol.ReconnectingClientFactory

local wrapping = {}

local ProtocolWrapper

local function isWrapper(value)
  return class.derives(class.of(value), ProtocolWrapper)
end

--- Calls a method of some object that belongs to the connection of `transport`: what it raises ends that
--- connection, and no other suffers from it. Where the transport cannot be told, as in a test, that is
--- raised on.
---@param transport Transport
---@param object table
---@param name string
function wrapping.guarded(transport, object, name)
  local ok, problem = xpcall(object[name], failure.handler, object)
  if ok then
    return
  elseif transport and transport.fail then
    transport:fail(problem.traceback)
  else
    error(problem.value, 0)
  end
end

-- --- the wrapper ------------------------------------------------------------------------------

--- The transport of one protocol, and the protocol of another transport. What a subclass does not
--- override goes through unchanged.
---@class ProtocolWrapper: Protocol, Transport
---@field factory WrappingFactory
---@field wrappedProtocol Protocol? none once the connection is over
---@field transport Transport the real one, or the wrapper around this one
---@field disconnecting boolean
ProtocolWrapper = Protocol { disconnecting = false }

--- Called by `:new(factory, wrappedProtocol)`.
---@param factory WrappingFactory
---@param wrappedProtocol Protocol
function ProtocolWrapper:init(factory, wrappedProtocol)
  self.factory, self.wrappedProtocol = factory, wrappedProtocol
end

-- Whether a peer's half-close reaches the protocol depends on whether it has this method; so a wrapper
-- must have it exactly where the protocol in it has.
local function readConnectionLost(self)
  local wrapped = self.wrappedProtocol
  if wrapped.readConnectionLost then
    return wrapped:readConnectionLost()
  end
  return protocol._UNHEARD -- it had it only for a while
end

local function showHalfClose(self)
  while isWrapper(self) do
    local wrapped = self.wrappedProtocol
    if class.of(self).readConnectionLost == nil then
      rawset(self, "readConnectionLost", wrapped and wrapped.readConnectionLost and readConnectionLost or nil)
    end
    self = self.transport
  end
end

-- Code of a protocol that runs outside of its callbacks (a coroutine, a receiver that is resumed) fails
-- its connection by this, where the transport can be told.
local function fail(self, text)
  self.transport:fail(text)
end

-- A protocol in it sees at once that it closes, however deep it stands.
local function markDisconnecting(self)
  while isWrapper(self) do
    self.disconnecting = true
    self = self.wrappedProtocol
  end
end

-- Where what is written goes through unchanged, and uncounted, a pipe may go past this one.
local function carrier(self)
  return self.transport
end

local function carries(self)
  return self.write == ProtocolWrapper.write and self.writeSequence == ProtocolWrapper.writeSequence
end

--- Connects by hand: enters itself with its factory, then connects the protocol that it wraps.
---@param transport Transport
function ProtocolWrapper:makeConnection(transport)
  self.transport, self.waits = transport, true
  self.fail = transport.fail and fail
  self.carrier = transport.carrier and carries(self) and carrier or nil
  self.factory:registerProtocol(self)
  self:connectionMade()
  self:connectWrapped()
end

--- Connects the protocol that it wraps. A wrapper that has to wait for something first overrides this
--- by a function that does nothing, and calls this one later.
function ProtocolWrapper:connectWrapped()
  local wrapped = self.wrappedProtocol
  self.waits = nil
  local connect = wrapped.makeConnection or Protocol.makeConnection
  connect(wrapped, self)
  showHalfClose(self)
end

--- Bytes came.
---@param data string
function ProtocolWrapper:dataReceived(data)
  local wrapped = self.wrappedProtocol
  local received = wrapped.dataReceived
  if received then
    received(wrapped, data)
  end
end

--- What loseWriteConnection asked for is done.
function ProtocolWrapper:writeConnectionLost()
  local wrapped = self.wrappedProtocol
  if wrapped.writeConnectionLost then
    wrapped:writeConnectionLost()
  end
end

--- TLS is up.
function ProtocolWrapper:handshakeCompleted()
  local wrapped = self.wrappedProtocol
  self.negotiatedProtocol = self.transport.negotiatedProtocol
  if wrapped.handshakeCompleted then
    wrapped:handshakeCompleted()
  end
end

--- The code was reloaded; the next event follows.
function ProtocolWrapper:reloaded()
  local wrapped = self.wrappedProtocol
  if wrapped.reloaded then
    wrapped:reloaded()
  end
  showHalfClose(self)
end

--- The connection is over. The protocol hears of it where it has heard of its beginning.
---@param reason Reason
function ProtocolWrapper:connectionLost(reason)
  local wrapped = self.wrappedProtocol
  markDisconnecting(self)
  self.factory:unregisterProtocol(self)
  self.wrappedProtocol = nil
  if wrapped and not self.waits and wrapped.connectionLost then
    wrapped:connectionLost(reason)
  end
end

-- What the wrapped protocol asks of its transport. Tail calls: misuse is blamed on who called.

--- Queues bytes, as any transport does.
---@param data string
---@return boolean? ok nil, "closing", code where they are not taken
---@return string? message
---@return string? code
function ProtocolWrapper:write(data)
  return self.transport:write(data)
end

--- Queues a list of strings.
---@param list string[]
---@return boolean? ok nil, "closing", code where they are not taken
---@return string? message
---@return string? code
function ProtocolWrapper:writeSequence(list)
  return self.transport:writeSequence(list)
end

--- Sends now what is queued.
function ProtocolWrapper:flush()
  return self.transport:flush()
end

--- Stops reading, sends everything queued, then closes.
function ProtocolWrapper:loseConnection()
  markDisconnecting(self)
  return self.transport:loseConnection()
end

--- Drops what is queued and resets the connection.
function ProtocolWrapper:abortConnection()
  markDisconnecting(self)
  return self.transport:abortConnection()
end

--- Sends what is queued, then our FIN.
function ProtocolWrapper:loseWriteConnection()
  return self.transport:loseWriteConnection()
end

--- Stops reading.
function ProtocolWrapper:pauseProducing()
  return self.transport:pauseProducing()
end

--- Reads again.
function ProtocolWrapper:resumeProducing()
  return self.transport:resumeProducing()
end

--- Ends the connection, as loseConnection does.
function ProtocolWrapper:stopProducing()
  markDisconnecting(self)
  return self.transport:stopProducing()
end

--- Registers who writes here.
---@param producer table
---@param streaming boolean
---@return boolean? ok nil, "closing", code when the connection is gone
---@return string? message
---@return string? code
function ProtocolWrapper:registerProducer(producer, streaming)
  return self.transport:registerProducer(producer, streaming)
end

--- The producer is done.
function ProtocolWrapper:unregisterProducer()
  return self.transport:unregisterProducer()
end

--- What is queued and not yet taken by the kernel.
---@return integer bytes
function ProtocolWrapper:bufferedAmount()
  return self.transport:bufferedAmount()
end

--- Has what comes from now on go to a sink; by way of Lua where this wrapper looks at it.
---@param sink Transport
---@return Deferred d of the number of bytes
function ProtocolWrapper:pipe(sink)
  if type(sink) ~= "table" or type(sink.write) ~= "function" then
    error(("pipe takes the transport that is to send, not a %s"):format(type(sink)), 2)
  elseif not self.wrappedProtocol or rawget(self, "_relay") or self.dataReceived == ProtocolWrapper.dataReceived then
    return self.transport:pipe(sink) -- which refuses a second one
  end
  local through, problem = require("skald.relay").start(self.wrappedProtocol, self, sink)
  showHalfClose(self)
  return through or error(problem or "pipe: one of both is part of a pipe already", 2)
end

--- Queues a part of a file.
---@param path string
---@param offset integer? bytes before the part; 0 when not given
---@param length integer? bytes; to the end of the file when not given
---@return Deferred d of the number of bytes
function ProtocolWrapper:sendFile(path, offset, length)
  return self.transport:sendFile(path, offset, length)
end

--- The peer's address.
---@return Address
function ProtocolWrapper:getPeer()
  return self.transport:getPeer()
end

--- Our own address.
---@return Address
function ProtocolWrapper:getHost()
  return self.transport:getHost()
end

--- Whether small writes are sent at once.
---@param on boolean
---@return boolean? ok
---@return string? message
---@return string? code of the system
function ProtocolWrapper:setTcpNoDelay(on)
  return self.transport:setTcpNoDelay(on)
end

--- Whether a silent peer is probed, after and each so many seconds.
---@param on boolean
---@param seconds integer? from 1 to 32767; the system's when not given
---@return boolean? ok
---@return string? message
---@return string? code of the system
function ProtocolWrapper:setTcpKeepAlive(on, seconds)
  return self.transport:setTcpKeepAlive(on, seconds)
end

--- Goes on encrypted.
---@param options TLSServerOptions|TLSClientOptions as of `Transport:startTLS`
---@return boolean? ok
---@return string? message
---@return string? code
function ProtocolWrapper:startTLS(options)
  return self.transport:startTLS(options)
end

--- The certificate that the peer has shown.
---@return table? certificate as of `Transport:getPeerCertificate`
function ProtocolWrapper:getPeerCertificate()
  return self.transport:getPeerCertificate()
end

--- Whether its TLS session goes on from an earlier one.
---@return boolean reused as of `Transport:sessionReused`
function ProtocolWrapper:sessionReused()
  return self.transport:sessionReused()
end

--- Queues a copy of a descriptor, which goes with the next byte that is written.
---@param fd integer stays the caller's
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function ProtocolWrapper:sendFileDescriptor(fd)
  return self.transport:sendFileDescriptor(fd)
end

--- Who is at the other end of a Unix socket.
---@return table? credentials as of `Transport:getPeerCredentials`
function ProtocolWrapper:getPeerCredentials()
  return self.transport:getPeerCredentials()
end

--- A descriptor came, with bytes that follow.
---@param fd integer a descriptor's number
---@return any unheard where the protocol does not take it
function ProtocolWrapper:fileDescriptorReceived(fd)
  local wrapped = self.wrappedProtocol
  if wrapped.fileDescriptorReceived then
    return wrapped:fileDescriptorReceived(fd)
  end
  return protocol._UNHEARD
end

wrapping.ProtocolWrapper = ProtocolWrapper

-- --- the factory ------------------------------------------------------------------------------

--- Puts a wrapper around each protocol of another factory.
---@class WrappingFactory: ClientFactory
---@field wrappedFactory Factory
---@field protocol table the class of its wrappers
---@field protocols table<ProtocolWrapper, true> the live ones
local WrappingFactory = ClientFactory { protocol = ProtocolWrapper }

-- Where it serves is what the factory in it says, unless it says so itself.
local places = { "name", "listen", "connect", "backlog" }

-- An instance is what it is; a class or a plain definition makes one.
local function living(definition, level)
  level = level + 1
  if type(definition) ~= "table" then
    error(("a wrapping factory takes a factory, not a %s"):format(type(definition)), level)
  end
  local meta = getmetatable(definition)
  if type(meta) == "table" and rawget(meta, "livingFactory") then
    return meta.livingFactory
  end
  local methods = class.is(definition) and definition or class.of(definition)
  if methods and not class.derives(methods, Factory) then
    error("a wrapping factory takes a factory, not a protocol", level)
  elseif class.of(definition) then
    return definition
  end
  return class.adopt(definition, Factory):new()
end

--- What `init` of a wrapping factory does.
---@param self WrappingFactory
---@param factory any
---@param level integer? of the one to blame, as `error` counts for a function that `init` calls
function wrapping.setUp(self, factory, level)
  local wrapped = living(factory, level or 4)
  self.wrappedFactory = wrapped
  self.protocols = {}
  for _, key in ipairs(places) do
    if self[key] == nil then
      self[key] = wrapped[key]
    end
  end
end

--- Called by `:new(factory)`.
---@param factory Factory or what makes one: a class, a plain definition
function WrappingFactory:init(factory)
  wrapping.setUp(self, factory)
end

--- A wrapper around what the wrapped factory builds; where that refuses, so does this.
---@param addr Address?
---@return ProtocolWrapper?
function WrappingFactory:buildProtocol(addr)
  local factory = self.wrappedFactory
  local wrapped = factory:buildProtocol(addr)
  if wrapped == nil then
    return nil
  elseif type(wrapped) ~= "table" then
    error(("buildProtocol gave a %s, not a protocol"):format(type(wrapped)), 0)
  elseif wrapped.factory == nil then
    wrapped.factory = factory
  end
  return self.protocol:new(self, wrapped)
end

-- What a factory knows of those who wrap it: the live wrappers of its protocols, and how many
-- wrapping factories are up.
local function wrappersOf(factory)
  local wrappers = factory._wrappers
  if not wrappers then
    wrappers = { live = {}, count = 0, up = 0 }
    factory._wrappers = wrappers
  end
  return wrappers
end

--- A wrapper is connected.
---@param wrapper ProtocolWrapper
function WrappingFactory:registerProtocol(wrapper)
  local wrappers = wrappersOf(self.wrappedFactory)
  self.protocols[wrapper] = true
  wrapper.among = wrappers
  wrappers.live[wrapper] = true
  wrappers.count = wrappers.count + 1
end

--- A wrapper's connection is over.
---@param wrapper ProtocolWrapper
function WrappingFactory:unregisterProtocol(wrapper)
  local wrappers = wrapper.among
  self.protocols[wrapper] = nil
  if wrappers then
    wrapper.among = nil
    wrappers.live[wrapper] = nil
    wrappers.count = wrappers.count - 1
  end
end

local function pass(self, name, ...)
  local wrapped = self.wrappedFactory
  local f = wrapped[name]
  if f then
    return f(wrapped, ...)
  end
end

--- The factory in it starts, with the first of those that it stands in.
function WrappingFactory:startFactory()
  local wrappers = wrappersOf(self.wrappedFactory)
  wrappers.up = wrappers.up + 1
  if wrappers.up == 1 then
    pass(self, "startFactory")
  end
end

--- The factory in it stops, with the last of those that it stands in.
function WrappingFactory:stopFactory()
  local wrappers = wrappersOf(self.wrappedFactory)
  wrappers.up = wrappers.up - 1
  if wrappers.up == 0 then
    pass(self, "stopFactory")
  end
end

--- The code was reloaded.
---@param from integer the former generation
---@param to integer the one that runs now
function WrappingFactory:reloaded(from, to)
  pass(self, "reloaded", from, to)
end

-- A connector that retries unless its factory says otherwise asks the factory in here.
local function passAttempt(self, name, connector, ...)
  local wrapped = self.wrappedFactory
  local f = wrapped[name]
  local retries = type(connector) == "table" and connector.persistent
  if retries and (not f or f == ClientFactory[name]) then
    f = Reconnecting[name]
  end
  if f then
    f(wrapped, connector, ...)
  end
end

--- Tells the factory in it.
---@param connector Connector
function WrappingFactory:startedConnecting(connector)
  rawset(self.wrappedFactory, "_connector", connector)
  passAttempt(self, "startedConnecting", connector)
end

--- Tells the factory in it, which may retry.
---@param connector Connector
---@param reason Reason
function WrappingFactory:clientConnectionFailed(connector, reason)
  passAttempt(self, "clientConnectionFailed", connector, reason)
end

--- Tells the factory in it, which may retry.
---@param connector Connector
---@param reason Reason
function WrappingFactory:clientConnectionLost(connector, reason)
  passAttempt(self, "clientConnectionLost", connector, reason)
end

--- Has the wrapped factory prepare the connection of its own protocol.
---@param wrapper ProtocolWrapper
---@return Deferred?
function WrappingFactory:prepareConnection(wrapper)
  return pass(self, "prepareConnection", wrapper.wrappedProtocol)
end

wrapping.WrappingFactory = WrappingFactory

return wrapping
