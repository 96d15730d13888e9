---@meta
-- What the C core publishes, for the Lua language server. tests/unit/meta_spec.lua holds it against
-- the library's sources, so that it does not drift.

---@class Transport
---@field disconnecting boolean true after loseConnection
local Transport = {}

--- Queues bytes; they leave when the running callback returns.
---@param data string
---@return boolean? ok nil after loseConnection and after the end
---@return string? message "closing"
---@return string? code "EPIPE", or "ENOBUFS" over maxBuffered
function Transport:write(data) end

--- Queues a list of strings.
---@param list string[]
---@return boolean? ok
---@return string? message
---@return string? code
function Transport:writeSequence(list) end

--- Sends now what is queued.
function Transport:flush() end

--- Stops reading, sends everything queued, then closes.
function Transport:loseConnection() end

--- Drops what is queued and resets.
function Transport:abortConnection() end

--- Sends what is queued, then FIN; reading goes on.
function Transport:loseWriteConnection() end

--- Ends the connection because code of its protocol failed: that is logged, the queue is dropped, and
--- connectionLost gets the code `error`.
---@param text string what was raised, with its traceback
function Transport:fail(text) end

--- Stops reading.
function Transport:pauseProducing() end

--- Reads again.
function Transport:resumeProducing() end

--- The same as loseConnection.
function Transport:stopProducing() end

--- Registers who writes here.
---@param producer { resumeProducing: fun(self), pauseProducing: fun(self)?, stopProducing: fun(self)? }
---@param streaming boolean true: writes by itself; false: writes once at each resumeProducing
---@return boolean? ok
---@return string? message
---@return string? code
function Transport:registerProducer(producer, streaming) end

--- The producer is done.
function Transport:unregisterProducer() end

--- Bytes queued and not yet taken by the kernel.
---@return integer
function Transport:bufferedAmount() end

--- Queues a part of a file, in order with what is written.
---@param path string of a plain file
---@param offset integer? bytes before the part; 0 when not given
---@param length integer? bytes; to the end of the file when not given
---@return Deferred d of the number of bytes; fails with `code` and `bytes`: ENOENT, EACCES, EISDIR,
---ERANGE (no such part), ENOBUFS (64 wait already), EPIPE (after loseConnection)
function Transport:sendFile(path, offset, length) end

--- The transport that moves the bytes; a wrapper that leaves them as they are gives the one it wraps.
---@return Transport
function Transport:carrier() end

--- What this transport reads goes to `sink` from now on.
---@param sink Transport
---@return Deferred d of the number of bytes, at the end of our input; fails with `code` EPIPE and `bytes`
---where the sink takes no more, and with the reason where our connection ends otherwise
function Transport:pipe(sink) end

--- Encrypts from now on. Not in this version.
function Transport:startTLS() end

--- The peer's address.
---@return Address
function Transport:getPeer() end

--- Our own address.
---@return Address
function Transport:getHost() end

--- Whether small writes are sent at once; on unless turned off.
---@param on boolean
---@return boolean? ok
---@return string? message
---@return string? code
function Transport:setTcpNoDelay(on) end

--- Whether a silent peer is probed.
---@param on boolean
---@param seconds integer? between probes
---@return boolean? ok
---@return string? message
---@return string? code
function Transport:setTcpKeepAlive(on, seconds) end

---@class Address
---@field type "TCP"|"TCP6"|"UNIX"
---@field host string?
---@field port integer?
---@field path string?

---@class Reason
---@field code "done"|"lost"|"aborted"|"timeout"|"limit"|"error"|"stopped"
---@field by "peer"|"local"|"host"
---@field message string
---@field errno string? such as "ECONNRESET"
---@field traceback string? of the callback that raised

---@class Port
local Port = {}

--- The address it listens on.
---@return Address
function Port:getHost() end

--- Closes the socket; connections live on.
---@return Deferred of nothing, when that is done
function Port:stopListening() end

---@class DelayedCall
local DelayedCall = {}

--- Takes the call back.
---@return boolean? ok
---@return string? message
---@return string? code
function DelayedCall:cancel() end

--- Puts it off until so many seconds from now.
---@param s number
---@return boolean? ok
---@return string? message
---@return string? code
function DelayedCall:reset(s) end

--- Puts it off by so many seconds.
---@param s number
---@return boolean? ok
---@return string? message
---@return string? code
function DelayedCall:delay(s) end

--- Whether it is still to come.
---@return boolean
function DelayedCall:active() end

--- When it is due, in seconds of reactor.seconds().
---@return number
function DelayedCall:getTime() end
