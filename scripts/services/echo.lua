-- Echo (RFC 862): every byte comes back.
--   skald run echo listen=tcp:127.0.0.1:7007

local Echo = {}

function Echo:dataReceived(data)
  self.transport:write(data)
end

return { listen = "tcp:127.0.0.1:7007", protocol = Echo }
