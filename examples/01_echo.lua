-- The smallest service: every byte comes back.
--
--   build/skald run examples/01_echo.lua
--   nc 127.0.0.1 7007          type a line: it comes back
--
-- A protocol is a table of callbacks; `self.transport` is the way to the peer.

local Echo = {}

function Echo:dataReceived(data)
  self.transport:write(data)
end

return { listen = "tcp:127.0.0.1:7007", protocol = Echo }
