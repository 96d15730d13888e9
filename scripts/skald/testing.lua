-- skald.testing: what tests of protocols need, inside the host and outside. Pure.

local protocol = require "skald.protocol"
local pump = require "skald.pump"
local stringtransport = require "skald.stringtransport"

local testing = {
  StringTransport = stringtransport.StringTransport,
  Clock = require "skald.clock",
  feed = stringtransport.feed,
  finish = stringtransport.finish,
  lose = stringtransport.lose,
  turn = stringtransport.turn,
  connect = pump.connect,
}

--- Keeps what comes: for the other side of what is tested.
---@class AccumulatingProtocol: Protocol
---@field made boolean connectionMade was called
---@field data string all that came
---@field reason Reason? of connectionLost
local AccumulatingProtocol = protocol.Protocol { made = false, data = "" }

function AccumulatingProtocol:connectionMade()
  self.made = true
end

function AccumulatingProtocol:dataReceived(data)
  self.data = self.data .. data
end

function AccumulatingProtocol:connectionLost(reason)
  self.reason = reason
end

testing.AccumulatingProtocol = AccumulatingProtocol

--- Cuts a string into pieces.
---@param bytes string
---@param n integer bytes of each piece; the last one may be shorter
---@return string[]
function testing.chunks(bytes, n)
  if type(bytes) ~= "string" then
    error(("chunks takes a string, not a %s"):format(type(bytes)), 2)
  elseif type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
    error(("chunks takes a number of bytes from 1, not %s"):format(tostring(n)), 2)
  end
  local pieces = {}
  for at = 1, #bytes, n do
    pieces[#pieces + 1] = bytes:sub(at, at + n - 1)
  end
  return pieces
end

return testing
