-- A pipe between transports that are not both the core's own: wrappers that look at the bytes, and
-- those of the test kit. Pure.

local deferred = require "skald.deferred"
local UNHEARD = require("skald.protocol")._UNHEARD

local relay = {}

-- The callbacks of the source's protocol that a relay takes over, while it lasts.
local TAKEN = { "dataReceived", "readConnectionLost", "connectionLost" }

local Relay = {}
Relay.__index = Relay

-- What the protocol had of its own, its class aside.
local function take(self)
  for _, name in ipairs(TAKEN) do
    self.before[name] = rawget(self.receiver, name)
    local f = Relay[name]
    rawset(self.receiver, name, function(_, ...)
      return f(self, ...)
    end)
  end
end

local function restore(self)
  self.over = true
  rawset(self.receiver, "_relay", nil)
  for _, name in ipairs(TAKEN) do
    rawset(self.receiver, name, self.before[name])
  end
end

local function giveBack(self)
  restore(self)
  self.sink:unregisterProducer()
end

local function breakOff(self)
  giveBack(self)
  self.source:pauseProducing()
  self.deferred:errback { message = "pipe: the sink takes no more", code = "EPIPE", bytes = self.bytes }
end

function Relay:dataReceived(data)
  if self.sink:write(data) then
    self.bytes = self.bytes + #data
  elseif not self.over then
    breakOff(self)
  end
end

function Relay:readConnectionLost()
  giveBack(self)
  self.sink:loseWriteConnection()
  self.deferred:callback(self.bytes)
  local ended = self.receiver.readConnectionLost
  if ended then
    ended(self.receiver)
  else
    return UNHEARD
  end
end

function Relay:connectionLost(reason)
  giveBack(self)
  self.deferred:errback(reason)
  local lost = self.receiver.connectionLost
  if lost then
    lost(self.receiver, reason)
  end
end

-- The sink's word to its producer.

function Relay:pauseProducing()
  self.paused = true
  self.source:pauseProducing()
end

function Relay:resumeProducing()
  self.paused = false
  self.source:resumeProducing()
end

function Relay:stopProducing()
  if not self.over then
    breakOff(self)
  end
end

--- What the protocol of `source` receives goes to `sink` from now on.
---@param receiver Protocol
---@param source Transport its transport
---@param sink Transport
---@return Deferred? d of the number of bytes, as Transport:pipe says; nil: it does so already, or
---the sink takes no producer
---@return string? problem what the sink says of that
function relay.start(receiver, source, sink)
  if rawget(receiver, "_relay") then
    return nil
  end
  local self = setmetatable({ receiver = receiver, source = source, sink = sink, before = {}, bytes = 0 }, Relay)
  self.deferred = deferred.Deferred:new(function()
    giveBack(self)
    if self.paused then -- nobody else would have it read again
      source:resumeProducing()
    end
  end)
  rawset(receiver, "_relay", self)
  take(self)
  local ok, problem = pcall(sink.registerProducer, sink, self, true)
  if not ok then
    restore(self)
    return nil, "pipe: " .. tostring(problem):gsub("^[^:\n]*:%d+: ", "")
  end
  return self.deferred
end

return relay
