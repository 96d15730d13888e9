-- Time (RFC 868): the seconds since 1900 as 32 bits, the highest first, then the end.
--   skald run time listen=tcp:127.0.0.1:7037

local FROM_1900_TO_1970 = 2208988800 -- seconds

local Time = {}

function Time:connectionMade()
  local now = (os.time() + FROM_1900_TO_1970) % 2 ^ 32
  local bytes = {}
  for i = 4, 1, -1 do
    bytes[i] = string.char(now % 256)
    now = math.floor(now / 256)
  end
  self.transport:write(table.concat(bytes))
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7037", protocol = Time }
