-- A server that sends each line back, for the benchmark of lines.
local LineReceiver = require("skald.basic").LineReceiver

local Lines = LineReceiver {}

function Lines:lineReceived(line)
  self:sendLine(line)
end

return { listen = "tcp:127.0.0.1:0", protocol = Lines }
