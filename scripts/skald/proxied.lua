-- Connections of an endpoint `haproxy:…`: what has the place of a protocol until the header is read. From
-- then on the protocol has the connection's own transport, which knows the addresses of the header. Behind
-- the header, which comes in the clear, TLS may begin.

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local held = require "skald.held"
local log = require "skald.log"
local proxyheader = require "skald.proxyheader"
local roster = require "skald.roster"
local transport = require "skald.transport"

local C, pointer = core.C, core.pointer

local proxied = {}

---@class Proxied
---@field transport Transport
local Proxied = {}
Proxied.__index = Proxied

dispatch.Proxied = Proxied -- so that no factory counts them among its protocols

local function late(self)
  self.timer = nil
  self:refuse "the header did not come in time"
end

--- What reads the header of a connection that was just accepted.
---@param place integer
---@param port Listener
---@param carrier Transport
---@param introduce fun(place: integer, factory: Factory, carrier: Transport, ready: fun(made: Protocol)): boolean
---@return Proxied
function proxied.new(place, port, carrier, introduce)
  local factory = port.factory
  local self = setmetatable({
    place = place,
    factory = factory,
    context = port.context,
    transport = carrier,
    introduce = introduce,
    reader = proxyheader.reader(factory.maxHeader),
    timer = nil,
  }, Proxied)
  self.timer = proxyheader.clockOf(factory):callLater(factory.headerTimeout or proxyheader.TIMEOUT, late, self)
  return self
end

local function stopTimer(self)
  local timer = self.timer
  self.timer = nil
  if timer then
    timer:cancel()
  end
end

--- Closes: no protocol hears of this connection.
---@param problem string
function Proxied:refuse(problem)
  log.info("%s: PROXY header refused: %s", tostring(self.transport:getPeer()), problem)
  self.reader = nil
  self.transport:loseConnection()
end

-- While bytes are held, these stand in the transport, before the methods of its class.
local function hold(carrier, bytes)
  local inner = { [1] = carrier[1] }
  for _, name in ipairs { "pauseProducing", "resumeProducing", "pipe" } do
    inner[name] = function(_, ...)
      return transport.methods[name](carrier, ...)
    end
  end
  local waiting = held.new(bytes, carrier, inner, function()
    carrier.pauseProducing, carrier.resumeProducing, carrier.pipe = nil, nil, nil
  end)
  function carrier.pauseProducing()
    waiting:pause()
  end
  function carrier.resumeProducing()
    waiting:resume()
  end
  function carrier.pipe(_, sink)
    return waiting:pipe(sink)
  end
  return waiting
end

local function begin(self, header, rest)
  local carrier = self.transport
  carrier.peer = header.source or carrier:getPeer()
  carrier.host = header.destination or carrier:getHost()
  carrier.tlvs = header.tlvs
  if self.context then
    if C.skald_secure_behind(pointer, carrier[1], self.context.handle, rest, #rest) ~= 0 then
      carrier:loseConnection() -- it ends: nobody is to speak to it in the clear
      return
    end
    rest = ""
  end
  local waiting, made
  local there = self.introduce(self.place, roster.successor(self.factory), carrier, function(protocol)
    made = protocol
    waiting = #rest > 0 and hold(carrier, rest) or nil
  end)
  if not there then
    carrier:loseConnection()
  elseif waiting then
    waiting:deliver(made)
  end
end

--- Bytes came: of the header, or behind one that was refused.
---@param data string
function Proxied:dataReceived(data)
  local reader = self.reader
  if not reader then
    return
  end
  local header, rest = reader:feed(data)
  if header == nil then
    return
  end
  stopTimer(self)
  self.reader = nil
  if header then
    begin(self, header, rest)
  else
    self:refuse(rest)
  end
end

--- The connection is over, before there was a protocol.
function Proxied:connectionLost()
  self.reader = nil
  stopTimer(self)
end

return proxied
