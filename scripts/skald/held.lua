-- Bytes that came for a protocol before it was there: it gets them first, and only while it has not
-- paused its transport. Pure.

local failure = require "skald.failure"

local held = {}

---@class Held
---@field bytes string? none once they are delivered
---@field paused boolean
---@field busy boolean a handler of the protocol runs, or has failed
---@field transport Transport the protocol's
---@field inner Transport what pauses and resumes
---@field done fun() called once, before the last of them is delivered
local Held = {}
Held.__index = Held

-- What is changed later comes from variables: compiled code may believe constants.
local function newHeld(bytes, transport, inner, done, protocol, no)
  return setmetatable({
    bytes = bytes,
    transport = transport,
    inner = inner,
    done = done,
    protocol = protocol,
    paused = no,
    busy = no,
  }, Held)
end

--- Bytes that are held back until `deliver`.
---@param bytes string
---@param transport Transport the protocol's; its `disconnecting` ends the delivery
---@param inner table its `pauseProducing`, `resumeProducing` and `pipe` are called through this
---@param done fun() nothing is held any more
---@return Held
function held.new(bytes, transport, inner, done)
  return newHeld(bytes, transport, inner, done, nil, false)
end

--- What is held, which is the caller's then.
---@return string
function Held:take()
  local bytes = self.bytes or ""
  self.bytes = nil
  self.done()
  return bytes
end

--- More came, which nobody may get before the rest.
---@param data string
function Held:add(data)
  self.bytes = self.bytes .. data
end

--- Delivers, unless the protocol has paused, or closes.
---@param protocol Protocol
function Held:deliver(protocol)
  self.protocol = protocol
  if not self.bytes or self.paused or self.busy then
    return
  end
  local bytes = self:take()
  if not self.transport.disconnecting and protocol.dataReceived then
    self.busy = true
    protocol:dataReceived(bytes)
    self.busy = false
  end
end

--- Stops reading, and delivering.
function Held:pause()
  self.paused = true
  self.inner:pauseProducing()
end

--- Reads again, and delivers at once. Whoever calls may have nothing to do with this connection: where
--- the transport can be told that its code failed, the error ends there.
function Held:resume()
  self.paused = false
  self.inner:resumeProducing()
  if self.protocol then -- it is connected
    local ok, problem = xpcall(self.deliver, failure.handler, self, self.protocol)
    if not ok and self.transport.fail then
      self.transport:fail(problem.traceback)
    elseif not ok then
      error(problem.value, 0)
    end
  end
end

--- Has what is held go to a sink, and then what comes.
---@param sink Transport
---@return Deferred d of the number of bytes
function Held:pipe(sink)
  local through = self.inner:pipe(sink) -- raises where that is no sink; brings nothing before we return
  local bytes = self.bytes or ""
  local ok, message = sink:write(bytes)
  if ok == nil and message then -- the pipe fails, and they are still the protocol's
    return through
  end
  self:take()
  return through:addCallback(function(count)
    return count + #bytes
  end)
end

return held
