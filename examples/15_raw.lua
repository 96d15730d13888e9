-- Lines, and raw bytes in between: a line says how many bytes follow it.
--
--   build/skald run examples/15_raw.lua
--   printf 'put 6\nhello\nput 3\na\nb' | nc -N 127.0.0.1 7028          "6 bytes, 1 of them newlines"
--
-- In raw mode everything goes to rawDataReceived, cut anywhere. What is behind the last byte wanted is
-- given back to setLineMode.

local basic = require "skald.basic"

local MOST = 1000000

local Count = basic.LineReceiver { delimiter = "\n" }

function Count:lineReceived(line)
  local bytes = tonumber(line:match "^put (%d+)$")
  if not bytes or bytes < 1 or bytes > MOST then
    self:sendLine(("put BYTES, from 1 to %d"):format(MOST))
    return
  end
  self.bytes, self.missing, self.newlines = bytes, bytes, 0
  self:setRawMode()
end

function Count:rawDataReceived(data)
  local wanted = data:sub(1, self.missing)
  self.missing = self.missing - #wanted
  self.newlines = self.newlines + select(2, wanted:gsub("\n", ""))
  if self.missing == 0 then
    self:sendLine(("%d bytes, %d of them newlines"):format(self.bytes, self.newlines))
    self:setLineMode(data:sub(#wanted + 1))
  end
end

return { listen = "tcp:127.0.0.1:7028", protocol = Count }
