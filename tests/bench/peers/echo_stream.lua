-- The echo as a coroutine, to be set beside the one by callbacks.
local stream = require "skald.stream"

local Echo = stream.StreamProtocol {}

function Echo.handle(_, peer)
  local data = peer:read()
  while data do
    peer:write(data)
    data = peer:read()
  end
end

return { listen = "tcp:127.0.0.1:0", protocol = Echo }
