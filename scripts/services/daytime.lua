-- Daytime (RFC 867): the date and the time of day as a line, then the end.
--   skald run daytime listen=tcp:127.0.0.1:7013

local Daytime = {}

function Daytime:connectionMade()
  self.transport:write(os.date "!%A, %B %d, %Y %H:%M:%S-UTC" .. "\r\n")
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7013", protocol = Daytime }
