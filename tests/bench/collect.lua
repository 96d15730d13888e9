-- collect.lua - a second service for the benchmarks: any byte asks for a full collection of the
-- host's Lua heap, and is answered with what is left of it, in KB.
local Collect = {}

function Collect:dataReceived()
  collectgarbage()
  collectgarbage()
  self.transport:write(("%.1f\n"):format(collectgarbage("count")))
end

return { name = "collect", protocol = Collect }
