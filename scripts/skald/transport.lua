-- The transport of a connection: thin words over the C core. Nothing here waits, and nothing is
-- sent before the running callback returns, but by `flush` and at the high water.

local bit = require "bit"
local core = require "skald.core"
local ffi = require "ffi"

local C, pointer = core.C, core.pointer
local band, rshift = bit.band, bit.rshift

-- From this size on, a string is sent from where Lua holds it; smaller ones are cheaper to copy.
local REFER = 4096

--- A connection, as a protocol has it in `self.transport`. Whatever it is asked for, no callback is called before the
--- running one returns, but a producer's.
---@class Transport
---@field disconnecting boolean true after loseConnection and abortConnection
---@field tlvs table<integer, string>? of a PROXY header, the first value of each type
local Transport = { disconnecting = false }
Transport.__index = Transport

local transport = {}

-- Strings that the core refers to, by anchor: the core empties a place when it has sent them.
transport.anchors = {}

-- Producers by the place of their connection.
transport.producers = {}

-- Texts of errors, by place, until the connection is lost and its reason says so.
transport.failures = {}

-- Files and pipes that are under way, by the place of their connection (skald.transfers).
transport.transfers = {}

local anchors, producers = transport.anchors, transport.producers

--- What every transport of a connection has.
transport.methods = Transport

function transport.new(handle)
  return setmetatable({ handle }, Transport)
end

--- Ends the connection because code of its protocol failed: that is logged, the queue is dropped, and
--- connectionLost gets the code `error`.
---@private
---@param text string what was raised, with its traceback
function Transport:fail(text)
  if C.skald_is_open(pointer, self[1]) then
    transport.failures[core.place(self[1])] = text
  end
  C.skald_fail(pointer, self[1], text, #text)
end

-- The writer is not to blame for a producer that raises: that connection fails, and the log has it.
local function pauseProducer(self)
  local place = core.place(self[1])
  local producer = producers[place]
  local ok, message = xpcall(producer.pauseProducing, core.traceback, producer)
  if not ok then
    self:fail(message)
  end
end

local function writeOutcome(self, data, result)
  if result == -1 then
    return nil, "closing", "EPIPE"
  elseif result == -2 then
    return nil, "closing", "ENOBUFS"
  end
  if result > 1 then
    anchors[rshift(result, 1)] = data
  end
  if band(result, 1) == 1 then
    pauseProducer(self)
  end
  return true
end

--- Queues bytes, to be sent when the running callback returns.
---@param data string
---@return boolean? ok true, or nil with "closing" and a code: EPIPE after loseConnection and after
---the end, ENOBUFS when more than maxBuffered waits (the connection then ends as "limit")
---@return string? message
---@return string? code
function Transport:write(data)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  end
  local result = C.skald_write(pointer, self[1], data, #data, #data >= REFER)
  if result == 0 then
    return true
  end
  return writeOutcome(self, data, result)
end

--- Queues two strings as if they were one, without joining them; answers as `write` does. What sends a
--- line uses it where the transport has it.
---@private
---@param first string
---@param second string copied, whatever its size
---@return boolean? ok
---@return string? message
---@return string? code
function Transport:writePair(first, second)
  if type(first) ~= "string" or type(second) ~= "string" then
    error(("writePair takes two strings, not a %s and a %s"):format(type(first), type(second)), 2)
  end
  local result = C.skald_write_pair(pointer, self[1], first, #first, #first >= REFER, second, #second)
  if result == 0 then
    return true
  end
  return writeOutcome(self, first, result)
end

--- Queues a list of strings; answers as `write` does, at the first that is not taken.
---@param list string[]
---@return boolean? ok
---@return string? message
---@return string? code EPIPE, ENOBUFS
function Transport:writeSequence(list)
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

--- Sends now what is queued, as far as the kernel takes it.
function Transport:flush()
  C.skald_flush(pointer, self[1])
end

--- Stops reading, sends everything queued (a registered producer finishes first), then closes.
function Transport:loseConnection()
  self.disconnecting = true
  C.skald_close(pointer, self[1])
end

--- Drops what is queued and resets the connection.
function Transport:abortConnection()
  self.disconnecting = true
  C.skald_abort(pointer, self[1])
end

--- Sends what is queued, then our FIN; reading goes on. `writeConnectionLost` follows.
function Transport:loseWriteConnection()
  C.skald_close_write(pointer, self[1])
end

--- Stops reading.
function Transport:pauseProducing()
  C.skald_pause(pointer, self[1])
end

--- Reads again.
function Transport:resumeProducing()
  C.skald_resume(pointer, self[1])
end

--- The same as loseConnection: what a consumer calls where a transport is its producer.
---@type fun(self: Transport)
Transport.stopProducing = Transport.loseConnection

--- Registers who writes here, so that it is told when to pause and when there is room.
---@param producer table with resumeProducing, stopProducing and, for streaming, pauseProducing
---@param streaming boolean true: it writes by itself, is paused above highWater and resumed at
---lowWater; false: it writes once at each resumeProducing, which comes when the queue is empty
---@return boolean? ok nil, "closing", code when the connection is gone (the producer is stopped)
---@return string? message
---@return string? code EPIPE
function Transport:registerProducer(producer, streaming)
  local needed = streaming and { "pauseProducing", "resumeProducing" } or { "resumeProducing" }
  if type(producer) ~= "table" then
    error(("registerProducer takes a producer, not a %s"):format(type(producer)), 2)
  end
  for _, method in ipairs(needed) do
    if type(producer[method]) ~= "function" then
      error(("registerProducer: the producer has no %s"):format(method), 2)
    end
  end
  local place = core.place(self[1])
  if not C.skald_is_open(pointer, self[1]) then
    if producer.stopProducing then
      producer:stopProducing()
    end
    return nil, "closing", "EPIPE"
  end
  if producers[place] then
    error("registerProducer: a producer is registered already", 2)
  end
  producers[place] = producer
  C.skald_set_producer(pointer, self[1], streaming and 1 or 2)
  return true
end

--- The producer is done.
function Transport:unregisterProducer()
  if C.skald_is_open(pointer, self[1]) then
    producers[core.place(self[1])] = nil
    C.skald_set_producer(pointer, self[1], 0)
  end
end

--- What is queued and not yet taken by the kernel.
---@return integer bytes
function Transport:bufferedAmount()
  return C.skald_buffered(pointer, self[1])
end

local buffer = core.addressBuffer()

local function look(self, which, field)
  if not self[field] and which(pointer, self[1], buffer) == 0 then
    self[field] = core.addressIn(buffer)
  end
  return self[field]
end

--- The peer's address; known after the end, too.
---@return Address
function Transport:getPeer()
  return look(self, C.skald_peer, "peer")
end

--- Our own address; known after the end, too.
---@return Address
function Transport:getHost()
  return look(self, C.skald_host, "host")
end

local function outcome(errno)
  if errno == 0 then
    return true
  end
  return nil, core.errorOf(errno)
end

--- Whether small writes are sent at once (they are, unless turned off). No effect but on TCP.
---@param on boolean
---@return boolean? ok
---@return string? message
---@return string? code of the system
function Transport:setTcpNoDelay(on)
  return outcome(C.skald_set_nodelay(pointer, self[1], on and true or false))
end

--- Whether a silent peer is probed, after and each so many seconds. No effect but on TCP.
---@param on boolean
---@param seconds integer? from 1 to 32767; the system's when not given
---@return boolean? ok
---@return string? message
---@return string? code of the system
function Transport:setTcpKeepAlive(on, seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or not (seconds >= 1 and seconds <= 32767)) then
    error(("setTcpKeepAlive takes seconds from 1 to 32767, not %s"):format(tostring(seconds)), 2)
  end
  return outcome(C.skald_set_keepalive(pointer, self[1], on and true or false, seconds or 0))
end

local function needNumber(value, name)
  if type(value) ~= "number" or not (value >= 0 and value < 2 ^ 53) or value % 1 ~= 0 then
    error(("sendFile: %s is a number of bytes, not %s"):format(name, tostring(value)), 3)
  end
end

--- Queues a part of a file, in order with what is written; the core reads it as the peer takes it.
---@param path string of a plain file
---@param offset integer? bytes before the part; 0 when not given
---@param length integer? bytes; to the end of the file when not given
---@return Deferred d of the number of bytes, when the kernel has taken the last one; fails with `code`
---and `bytes` (that were sent) where the file cannot be read (ENOENT, EACCES, EISDIR …), has no such
---part or becomes shorter meanwhile (ERANGE), where 64 files wait already (ENOBUFS), after
---loseConnection (EPIPE), and with the reason where the connection ends before
function Transport:sendFile(path, offset, length)
  if type(path) ~= "string" then
    error(("sendFile takes the path of a file, not a %s"):format(type(path)), 2)
  elseif path:find("\0", 1, true) then
    error("sendFile takes the path of a file, not a zero byte", 2)
  end
  needNumber(offset or 0, "offset")
  needNumber(length or 0, "length")
  return require("skald.transfers").sendFile(self[1], path, offset or 0, length or -1)
end

--- The transport that moves the bytes: itself. A wrapper that neither looks at bytes nor counts them
--- may have this method and give the one that it wraps, so that `pipe` need not pass through Lua.
---@return Transport
function Transport:carrier()
  return self
end

-- Where the bytes for a sink may go without its looking at them, or nil.
local function carrierOf(sink)
  while getmetatable(sink) ~= Transport do
    local carrier = sink.carrier
    if not carrier then
      return nil
    end
    sink = carrier(sink)
  end
  return sink
end

-- Who receives what it reads; nil once it is lost: its place may be another's then.
local function receiverOf(self)
  return C.skald_is_open(pointer, self[1]) and require("skald.dispatch").protocols[core.place(self[1])] or nil
end

--- From now on, what this transport reads goes to `sink`, inside the core; reading waits while the
--- sink has more to send than its lowWater. The end of our input becomes the sink's
--- loseWriteConnection; then `readConnectionLost` is called as ever, and where there is none, the
--- connection closes, unless another pipe brings what it is to send. `bytes` that a receiver of the
--- protocol holds are not part of it.
---@param sink Transport the same one: what comes goes back
---@return Deferred d of the number of bytes, at the end of our input; fails with `code` EPIPE and
---`bytes` where the sink takes no more (then this transport is paused, and what comes goes to
---dataReceived again), and with the reason where our connection ends otherwise. Cancelling it ends
---the pipe: what comes goes to dataReceived again.
function Transport:pipe(sink)
  if type(sink) ~= "table" or type(sink.write) ~= "function" then
    error(("pipe takes the transport that is to send, not a %s"):format(type(sink)), 2)
  end
  local transfers = require "skald.transfers"
  local carrier, receiver = carrierOf(sink), receiverOf(self)
  local through, problem
  if not receiver then
    through = transfers.pipe(self[1], self[1]) -- which says that it has ended
  elseif carrier and not rawget(receiver, "_relay") then
    through = transfers.pipe(self[1], carrier[1])
  elseif not carrier and not transfers.isPiped(self[1]) then
    through, problem = require("skald.relay").start(receiver, self, sink)
  end
  return through or error(problem or "pipe: one of both is part of a pipe already", 2)
end

--- Queues a copy of a descriptor, which goes with the next byte that is written; the peer's protocol
--- gets its `fileDescriptorReceived(fd)` before that byte. Unix sockets only.
---@param fd integer stays the caller's
---@return boolean? ok nil, message, code: ENOTSUP on what is no Unix socket, EBADF, EPIPE after the end,
---ENOBUFS where 64 wait for a byte already
---@return string? message
---@return string? code
function Transport:sendFileDescriptor(fd)
  if type(fd) ~= "number" or fd < 0 or fd % 1 ~= 0 then
    error(("sendFileDescriptor takes a descriptor's number, not %s"):format(tostring(fd)), 2)
  end
  return outcome(C.skald_pass(pointer, self[1], fd))
end

--- Who is at the other end of a Unix socket.
---@return { pid: integer, uid: integer, gid: integer }? credentials nil on others, and after the end
function Transport:getPeerCredentials()
  local who = ffi.new "struct skald_credentials"
  if not C.skald_credentials(pointer, self[1], who) then
    return nil
  end
  return { pid = who.process, uid = who.user, gid = who.group }
end

-- Where the connection was made to; nil where it was accepted.
local function destinationOf(self)
  local connector = require("skald.dispatch").connectors[core.place(self[1])]
  return connector and connector.endpoint
end

--- Encrypts from now on: what is queued goes as it is, then the handshake begins, and the protocol hears
--- `handshakeCompleted()` when it is over. What is written meanwhile waits for that. Who accepted the
--- connection is the server, who made it the client. Bytes that a receiver of the protocol still holds
--- are dropped: they came in the clear.
---@param options TLSServerOptions|TLSClientOptions? of the side that this is
---@return boolean? ok nil, message, code where a file is not what it should be (ENOENT, EACCES, EINVAL),
---where it is encrypted already (EALREADY), where a descriptor waits for the byte that it goes with (EBUSY),
---and after the end (EPIPE)
---@return string? message
---@return string? code
function Transport:startTLS(options)
  local dispatch = require "skald.dispatch"
  local receiver = C.skald_is_open(pointer, self[1]) and dispatch.protocols[core.place(self[1])]
  local ok, message, code = require("skald.tls").start(self[1], options, receiver, destinationOf(self))
  return ok, message, code -- no tail call: an error names the caller
end

--- The certificate that the peer has shown.
---@return table? certificate `{ subject, issuer, names, notBefore, notAfter, fingerprint, pem }`: names is a
---list, times are seconds since 1970, fingerprint is SHA-256 as hexadecimal; nil where there is none
function Transport:getPeerCertificate()
  return require("skald.tls").certificateOf(self[1])
end

--- Whether the TLS session of this connection goes on from an earlier one, known when the handshake is
--- over: hands were shaken without certificates, those of then count.
---@return boolean reused false without TLS, and after the end
function Transport:sessionReused()
  return C.skald_session_reused(pointer, self[1])
end

return transport
