-- skald.testing: what tests of protocols need, inside the host and outside. Pure.

local stringtransport = require "skald.stringtransport"

local testing = {
  StringTransport = stringtransport.StringTransport,
  Clock = require "skald.clock",
  feed = stringtransport.feed,
  finish = stringtransport.finish,
  lose = stringtransport.lose,
  turn = stringtransport.turn,
}

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
