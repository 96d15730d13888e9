-- A transport without a network: what a protocol writes is a string. Pure.

local Carrier = require "skald.carrier"
local address = require "skald.address"
local class = require "skald.class"
local deferred = require "skald.deferred"
local relay = require "skald.relay"

local READ_SIZE = 65536

--- Stands in for a connection's transport in tests, and answers as that does. What is written is taken
--- at once, unless a `window` is given: then so many bytes are, and the rest waits until `clear` makes room.
---
--- What a peer does is told by the functions of `skald.testing`: `feed`, `finish`, `lose`, `turn`. They
--- call the protocol as the host does: what it writes is sent, and connectionLost comes, when the callback
--- has returned. Where a test calls `dataReceived` by hand, no connectionLost follows.
---@class StringTransport: Object, Transport
---@field disconnecting boolean loseConnection or abortConnection was called, or the connection is lost
---@field disconnected boolean abortConnection was called, or the connection is lost
---@field writeDisconnecting boolean loseWriteConnection was called
---@field producerState "producing"|"paused"|"stopped" whether the protocol wants to read
---@field producer table? that is registered
---@field streaming boolean? how it is
---@field noDelay boolean? as it was set
---@field keepAlive boolean? as it was set
local StringTransport = class.root("StringTransport", {
  disconnecting = false,
  disconnected = false,
  writeDisconnecting = false,
  producerState = "producing",
})

-- --- making one -------------------------------------------------------------------------------

--- What a StringTransport is to be like.
---@class StringTransportOptions
---@field peer table?
---@field host table?
---@field window integer? so many bytes are taken that `clear` has not forgotten; none: all
---@field highWater integer? bytes, as the bound of a factory
---@field lowWater integer? bytes, as the bound of a factory
---@field maxBuffered integer? bytes, as the bound of a factory

local known = { peer = "table", host = "table", window = "number" }
for _, name in ipairs { "highWater", "lowWater", "maxBuffered" } do
  known[name] = "number"
end

local function needOptions(options, level)
  if type(options) ~= "table" then
    error(("StringTransport takes its options as a table, not a %s"):format(type(options)), level + 1)
  end
  for key, value in pairs(options) do
    if not known[key] then
      error(("StringTransport knows no option '%s'"):format(tostring(key)), level + 1)
    elseif type(value) ~= known[key] then
      error(("StringTransport: %s is a %s, not a %s"):format(key, known[key], type(value)), level + 1)
    end
  end
end

local function toAddress(given, name, level)
  if given.type == "UNIX" and type(given.path) == "string" then
    return address.unix(given.path)
  elseif (given.type == "TCP" or given.type == "TCP6") and type(given.host) == "string" and tonumber(given.port) then
    return address.inet(given.type, given.host, given.port)
  end
  error(("StringTransport: %s is no address: { type =, host =, port = } or { type = \"UNIX\", path = }"):format(name),
    level + 1)
end

--- A transport; addresses are `{ type =, host =, port = }` or `{ type = "UNIX", path = }`.
---@param options? StringTransportOptions
function StringTransport:init(options)
  options = options or {}
  needOptions(options, 3)
  self.peer = toAddress(options.peer or { type = "TCP", host = "192.0.2.1", port = 54321 }, "peer", 3)
  self.host = toAddress(options.host or { type = "TCP", host = "192.0.2.2", port = 7007 }, "host", 3)
  self._fake = Carrier:new(self, options.window or math.huge, options)
end

-- Outside of callbacks there is nothing to wait for.
local function sendNow(self)
  local carrier = self._fake
  if carrier.within == 0 and not carrier.linked then
    carrier:send()
  end
end

-- --- what it was given ------------------------------------------------------------------------

--- What was written since the beginning, or since `clear`, and not dropped.
---@return string
function StringTransport:value()
  return self._fake.output:text() .. self._fake.queue:text()
end

--- The peer has read what was sent: forgets that. With a `window`, what waited is sent.
function StringTransport:clear()
  self._fake.output:clear()
  sendNow(self)
end

-- --- writing ----------------------------------------------------------------------------------

--- Queues bytes.
---@param data string
---@return boolean? ok true, or nil with "closing" and a code
---@return string? message
---@return string? code
function StringTransport:write(data)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  local ok, message, code = self._fake:write(data)
  sendNow(self)
  return ok, message, code
end

--- Queues a list of strings; answers as `write` does, at the first that is not taken.
---@param list string[]
---@return boolean? ok
---@return string? message
---@return string? code
function StringTransport:writeSequence(list)
  if type(list) ~= "table" then
    error(("writeSequence takes a list of strings, not a %s"):format(type(list)), 2)
  end
  for i = 1, #list do
    if type(list[i]) ~= "string" then
      error(("writeSequence takes strings, but number %d is a %s"):format(i, type(list[i])), 2)
    end
  end
  for i = 1, #list do
    local ok, message, code = self:write(list[i])
    if not ok then
      return nil, message, code
    end
  end
  return true
end

--- Sends now what is queued, as far as there is room.
function StringTransport:flush()
  self._fake:send()
end

--- What is queued and not yet sent.
---@return integer bytes
function StringTransport:bufferedAmount()
  return self._fake.queue.bytes
end

-- --- ending -----------------------------------------------------------------------------------

--- Stops reading, sends everything queued (a registered producer finishes first), then closes.
function StringTransport:loseConnection()
  self.disconnecting = true
  self._fake:finish("closing", "done", "local")
end

--- Drops what is queued and resets the connection.
function StringTransport:abortConnection()
  local carrier = self._fake
  self.disconnecting, self.disconnected = true, true
  carrier:finish("reset", "aborted", "local")
  if carrier:isHard() then
    carrier.queue:clear()
  end
end

--- Sends what is queued, then our FIN; reading goes on. `writeConnectionLost` follows.
function StringTransport:loseWriteConnection()
  local carrier = self._fake
  if not carrier.how and not carrier.lost then
    self.writeDisconnecting, carrier.finWanted = true, true
  end
end

-- --- reading ----------------------------------------------------------------------------------

local function setReading(self, on)
  if self.producerState ~= "stopped" then
    self._fake.reading, self.producerState = on, on and "producing" or "paused"
  end
end

--- Stops reading.
function StringTransport:pauseProducing()
  setReading(self, false)
end

--- Reads again.
function StringTransport:resumeProducing()
  setReading(self, true)
end

--- Ends, as loseConnection does.
function StringTransport:stopProducing()
  setReading(self, false)
  self.producerState = "stopped"
  self:loseConnection()
end

-- --- producers --------------------------------------------------------------------------------

--- Registers who writes here.
---@param producer table with resumeProducing, stopProducing and, for streaming, pauseProducing
---@param streaming boolean true: it writes by itself, is paused above highWater and resumed at
---lowWater; false: it writes once at each resumeProducing, which comes when the queue is empty
---@return boolean? ok nil, "closing", code when the connection is gone (the producer is stopped)
---@return string? message
---@return string? code
function StringTransport:registerProducer(producer, streaming)
  local needed = streaming and { "pauseProducing", "resumeProducing" } or { "resumeProducing" }
  if type(producer) ~= "table" then
    error(("registerProducer takes a producer, not a %s"):format(type(producer)), 2)
  end
  for _, method in ipairs(needed) do
    if type(producer[method]) ~= "function" then
      error(("registerProducer: the producer has no %s"):format(method), 2)
    end
  end
  if self._fake.lost then
    if producer.stopProducing then
      producer:stopProducing()
    end
    return nil, "closing", "EPIPE"
  elseif self._fake.producer then
    error("registerProducer: a producer is registered already", 2)
  end
  self._fake:setProducer(producer, streaming and true or false)
  return true
end

--- The producer is done.
function StringTransport:unregisterProducer()
  if not self._fake.lost then
    self._fake:setProducer(nil)
  end
end

-- --- who and how ------------------------------------------------------------------------------

--- The peer's address.
---@return Address
function StringTransport:getPeer()
  return self.peer
end

--- Our own address.
---@return Address
function StringTransport:getHost()
  return self.host
end

local function whileOpen(self, name, on)
  if self._fake.lost then
    return nil, "Transport endpoint is not connected", "ENOTCONN"
  end
  self[name] = on and true or false
  return true
end

--- Whether small writes are sent at once: noted in `noDelay`.
---@param on boolean
---@return boolean? ok
---@return string? message
---@return string? code
function StringTransport:setTcpNoDelay(on)
  return whileOpen(self, "noDelay", on)
end

--- Whether a silent peer is probed: noted in `keepAlive`.
---@param on boolean
---@param seconds integer?
---@return boolean? ok
---@return string? message
---@return string? code
function StringTransport:setTcpKeepAlive(on, seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or not (seconds >= 1 and seconds <= 32767)) then
    error(("setTcpKeepAlive takes seconds from 1 to 32767, not %s"):format(tostring(seconds)), 2)
  end
  return whileOpen(self, "keepAlive", on)
end

-- --- files and pipes --------------------------------------------------------------------------

-- It has no `carrier`, by which a pipe finds the core's own transport: its pipes go through Lua.

local function needNumber(value, name)
  if type(value) ~= "number" or not (value >= 0 and value < 2 ^ 53) or value % 1 ~= 0 then
    error(("sendFile: %s is a number of bytes, not %s"):format(name, tostring(value)), 3)
  end
end

local names = { [2] = "ENOENT", [13] = "EACCES", [21] = "EISDIR" }

local function withoutName(path, message)
  return message:sub(1, #path + 2) == path .. ": " and message:sub(#path + 3) or message
end

-- A part of a file: nil, message, code where there is none.
local function readPart(path, offset, length)
  local file, message, errno = io.open(path, "rb")
  local text
  if file then
    text, message, errno = file:read "*a"
    file:close()
  end
  if not text then
    return nil, withoutName(path, message), names[errno] or "EIO"
  end
  length = length or #text - offset
  if length < 0 or offset + length > #text then
    return nil, "the file has no such part", "ERANGE"
  end
  return text:sub(offset + 1, offset + length)
end

--- Queues a part of a file, in order with what is written. The file is read at once.
---@param path string
---@param offset integer? bytes before the part; 0 when not given
---@param length integer? bytes; to the end of the file when not given
---@return Deferred d of the number of bytes; it fires in the turn that sends the last one, and fails as
---that of a real transport
function StringTransport:sendFile(path, offset, length)
  if type(path) ~= "string" then
    error(("sendFile takes the path of a file, not a %s"):format(type(path)), 2)
  elseif path:find("\0", 1, true) then
    error("sendFile takes the path of a file, not a zero byte", 2)
  end
  needNumber(offset or 0, "offset")
  needNumber(length or 0, "length")
  local data, message, code = readPart(path, offset or 0, length)
  local d = data and self._fake:writeMarked(data)
  if data and not d then
    message, code = "Broken pipe", "EPIPE"
  end
  sendNow(self)
  return d or deferred.fail { message = ("cannot send %s: %s"):format(path, message), code = code, bytes = 0 }
end

--- From now on, what this transport reads goes to `sink`; its end becomes the sink's
--- loseWriteConnection, as with a real one.
---@param sink Transport
---@return Deferred d of the number of bytes, at the end of our input; fails as that of a real transport
function StringTransport:pipe(sink)
  if type(sink) ~= "table" or type(sink.write) ~= "function" then
    error(("pipe takes the transport that is to send, not a %s"):format(type(sink)), 2)
  elseif not self._fake.protocol then
    error("pipe: connect the protocol by testing.attach or testing.connect", 2)
  end
  local other = sink._fake
  if not self._fake:isReadable() or other and not other:accepts() then
    return deferred.fail { message = "pipe: the source or the sink has ended", code = "EPIPE", bytes = 0 }
  end
  local through, problem
  if not (other and other.producer) then
    through, problem = relay.start(self._fake.protocol, self, sink)
  end
  return through or error(problem or "pipe: one of both is part of a pipe already", 2)
end

--- Notes in `startedTLS` what it was given; nothing is encrypted. The test calls `handshakeCompleted` of the
--- protocol when it likes.
---@param options TLSServerOptions|TLSClientOptions?
---@return boolean? ok nil, message, code where it was called before, and after the end
---@return string? message
---@return string? code
function StringTransport:startTLS(options)
  if options ~= nil and type(options) ~= "table" then
    error(("startTLS takes its options as a table, not a %s"):format(type(options)), 2)
  elseif self.disconnecting then
    return nil, "closing", "EPIPE"
  elseif self.startedTLS then
    return nil, "encrypted already", "EALREADY"
  end
  self.startedTLS = options or {}
  return true
end

--- What the test has put into `peerCertificate`.
---@return table? certificate
function StringTransport:getPeerCertificate()
  return self.peerCertificate
end

--- Whether the test has put true into `reused`.
---@return boolean reused
function StringTransport:sessionReused()
  return self.reused == true
end

--- Notes the descriptor in `descriptors`, where this is a Unix socket.
---@param fd integer a descriptor's number
---@return boolean? ok nil, message, "ENOTSUP" on others; nil, "closing", "EPIPE" after the end
---@return string? message
---@return string? code
function StringTransport:sendFileDescriptor(fd)
  if type(fd) ~= "number" or fd < 0 or fd % 1 ~= 0 then
    error(("sendFileDescriptor takes a descriptor's number, not %s"):format(tostring(fd)), 2)
  elseif self:getHost().type ~= "UNIX" then
    return nil, "Operation not supported", "ENOTSUP"
  elseif self.disconnecting then
    return nil, "closing", "EPIPE"
  end
  self.descriptors = self.descriptors or {}
  table.insert(self.descriptors, fd)
  return true
end

--- What the test has put into `peerCredentials`.
---@return table? credentials
function StringTransport:getPeerCredentials()
  return self.peerCredentials
end

-- --- what the peer does -----------------------------------------------------------------------

local stringtransport = { StringTransport = StringTransport }

-- The carrier of a protocol; what hears of it is the outermost of the wrappers around that.
local function needProtocol(name, made, level)
  local transport = type(made) == "table" and made.transport
  while type(transport) == "table" and not transport._fake do
    made, transport = transport, transport.transport
  end
  local carrier = type(transport) == "table" and transport._fake
  if not carrier then
    error(("%s takes a protocol that is connected to a StringTransport"):format(name), level + 1)
  elseif carrier.linked then
    error(("%s: a pump moves the bytes of this protocol"):format(name), level + 1)
  elseif carrier.within > 0 then
    error(("%s: a callback of this protocol is running"):format(name), level + 1)
  end
  carrier.protocol = made
  return carrier
end

--- Raises what callbacks have raised: the first of it.
---@param errors table[]
function stringtransport.raise(errors)
  local first = errors[1]
  for i = #errors, 1, -1 do
    errors[i] = nil
  end
  if first then
    error(first.raised, 0)
  end
end

local function run(carrier)
  local most = 1e6 -- a pull producer that never ends would go on for ever
  while carrier:turn(READ_SIZE) do
    most = most - 1
    if most == 0 then
      error("the protocol never comes to rest", 0)
    end
  end
  stringtransport.raise(carrier.errors)
end

--- Connects a protocol to a StringTransport as the host does; of a factory, the one that it makes, which
--- connectionCount and each know from then on. What connectionMade raises ends the connection, and comes out of here.
---@param given Protocol|Factory
---@param transport StringTransport? a new one where there is none
---@return Protocol? made nil where the factory refuses
---@return StringTransport transport
function stringtransport.attach(given, transport)
  transport = transport or StringTransport:new()
  if type(given) ~= "table" or class.is(given) then
    error(("attach takes a protocol or a factory: an instance, not a %s"):format(
      class.is(given) and "class" or type(given)), 2)
  elseif type(transport) ~= "table" or not transport._fake then
    error("attach takes a StringTransport", 2)
  end
  local carrier = transport._fake
  local made = carrier:join(given)
  carrier:settle()
  stringtransport.raise(carrier.errors)
  return made, transport
end

--- The peer sends bytes: the protocol gets them as from the host, in pieces of at most `n` bytes. While
--- its transport is paused they wait; once it closes they are dropped. What a callback raises ends the
--- connection, and comes out of here.
---@param made Protocol
---@param data string
---@param n integer? none: 65536
---@return integer held bytes that wait
function stringtransport.feed(made, data, n)
  local carrier = needProtocol("feed", made, 2)
  if type(data) ~= "string" then
    error(("feed takes a string, not a %s"):format(type(data)), 2)
  elseif n ~= nil and (type(n) ~= "number" or n < 1 or n % 1 ~= 0) then
    error(("feed takes pieces of a number of bytes from 1, not %s"):format(tostring(n)), 2)
  end
  n = n or READ_SIZE
  for at = 1, #data, n do
    carrier.input:put(data:sub(at, at + n - 1))
    run(carrier)
  end
  return carrier.input.bytes
end

--- The peer sends its FIN: a protocol with readConnectionLost is told so, any other is closed.
---@param made Protocol
function stringtransport.finish(made)
  local carrier = needProtocol("finish", made, 2)
  carrier.input.ending = carrier.input.ending or "fin"
  run(carrier)
end

--- A turn of the loop: sends what there is room for, delivers what waited while the transport was
--- paused, resumes a producer; and once more, until nothing moves.
---@param made Protocol
function stringtransport.turn(made)
  run(needProtocol("turn", made, 2))
end

local endings = {
  done = { "closing", "peer" },
  lost = { "broken", "peer", "ECONNRESET", "Connection reset by peer" },
  aborted = { "reset", "local" },
  timeout = { "reset", "host" },
  limit = { "reset", "host" },
  error = { "dropping", "local" },
  stopped = { "closing", "host" },
}

--- The connection ends now: connectionLost is called, once. Where the protocol has ended it itself, the
--- reason says that; else it is the one of `code`, by default `done`: the peer closed.
---@param made Protocol
---@param code? "done"|"lost"|"aborted"|"timeout"|"limit"|"error"|"stopped"
---@return boolean? ok nil, message, code where it was lost before
---@return string? message
---@return string? code
function stringtransport.lose(made, code)
  local carrier = needProtocol("lose", made, 2)
  local ending = endings[code or "done"]
  if not ending then
    error(("lose: '%s' is no code of a reason"):format(tostring(code)), 2)
  elseif carrier.lost then
    return nil, "lost already", "EALREADY"
  end
  if code or not carrier.how then
    carrier:finish(ending[1], code or "done", unpack(ending, 2, 4))
  end
  carrier:send()
  carrier:lose()
  stringtransport.raise(carrier.errors)
  return true
end

return stringtransport
