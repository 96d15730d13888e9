-- Bytes on their way, first in, first out, and what comes behind the last of them. Pure.

local class = require "skald.class"

---@class Conduit
---@field bytes integer how many are in it
---@field ending false|"fin"|"reset" what comes behind them
local Conduit = class.root "Conduit"

function Conduit:init()
  self.ending = false
  self:clear()
end

--- Drops the bytes.
function Conduit:clear()
  self.pieces, self.first, self.last, self.bytes = {}, 1, 0, 0
  self.from = 1 -- in the first piece
end

--- Adds bytes.
---@param data string
function Conduit:put(data)
  if #data > 0 then
    self.last = self.last + 1
    self.pieces[self.last] = data
    self.bytes = self.bytes + #data
  end
end

-- All of it is one piece from now on.
local function join(self)
  local whole = table.concat(self.pieces, "", self.first, self.last):sub(self.from)
  self.pieces, self.first, self.last, self.from = { whole }, 1, 1, 1
  return whole
end

--- All bytes, which stay in it.
---@return string
function Conduit:text()
  return self.bytes > 0 and join(self) or ""
end

-- The first bytes of the first piece. A long piece is not copied for each part of it.
local function takePart(self, most)
  local piece, from = self.pieces[self.first], self.from
  local part = (from == 1 and most >= #piece) and piece or piece:sub(from, from + most - 1)
  self.from = from + #part
  if self.from > #piece then
    self.pieces[self.first] = nil
    self.first, self.from = self.first + 1, 1
  end
  return part
end

--- Takes the first bytes out.
---@param most number of bytes
---@return string
function Conduit:take(most)
  local taken, size = {}, 0
  while size < most and self.first <= self.last do
    local part = takePart(self, most - size)
    taken[#taken + 1] = part
    size = size + #part
  end
  self.bytes = self.bytes - size
  return table.concat(taken)
end

return Conduit
