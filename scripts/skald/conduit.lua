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
  local whole = table.concat(self.pieces, "", self.first, self.last)
  self.pieces, self.first, self.last = { whole }, 1, 1
  return whole
end

--- All bytes, which stay in it.
---@return string
function Conduit:text()
  return self.bytes > 0 and join(self) or ""
end

-- Enough pieces for so many bytes; the last of them may be more than is wanted.
local function takePieces(self, most)
  local taken, size = {}, 0
  while size < most and self.first <= self.last do
    local piece = self.pieces[self.first]
    self.pieces[self.first] = nil
    self.first = self.first + 1
    taken[#taken + 1] = piece
    size = size + #piece
  end
  return table.concat(taken), size
end

--- Takes the first bytes out.
---@param most number of bytes
---@return string
function Conduit:take(most)
  local data, size = takePieces(self, most)
  if size > most then
    self.first = self.first - 1
    self.pieces[self.first] = data:sub(most + 1)
    data, size = data:sub(1, most), most
  end
  self.bytes = self.bytes - size
  return data
end

return Conduit
