-- Lines come back one by one, and the host tells who is there.
--
--   build/skald run examples/08_lines.lua
--   nc 127.0.0.1 7024          type lines; the host prints who came, and, when you end, why you left
--
-- However the network has cut them, LineReceiver gives whole lines.

local basic = require "skald.basic"

local LineEcho = basic.LineReceiver { delimiter = "\n" }

function LineEcho:connectionMade()
  self.lines = 0
  print("connected: " .. tostring(self.transport:getPeer()))
end

function LineEcho:lineReceived(line)
  self.lines = self.lines + 1
  self:sendLine(("%d: %s"):format(self.lines, line))
end

function LineEcho:connectionLost(reason)
  local peer = tostring(self.transport:getPeer())
  print(("disconnected: %s, after %d lines: %s"):format(peer, self.lines, tostring(reason)))
end

return { listen = "tcp:127.0.0.1:7024", protocol = LineEcho }
