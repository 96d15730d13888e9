-- An echo for a hundred: whoever comes beyond is told so, and closed.
--
--   build/skald run examples/06_hundred.lua
--   nc 127.0.0.1 7022          "Welcome! You are number 1 of 100."
--
-- Each connection has a protocol of its own; what they share they find through `self.factory`. A count
-- that is kept there is right across reloads, too. (Only to refuse them, `maxConnections = 100` will
-- do, at no cost.)

local MOST = 100

local Echo = {}

function Echo:connectionMade()
  local factory = self.factory
  factory.numProtocols = factory.numProtocols + 1
  if factory.numProtocols <= MOST then
    self.transport:write(("Welcome! You are number %d of %d.\n"):format(factory.numProtocols, MOST))
  else
    self.transport:write "Too many connections, try later.\n"
    self.transport:loseConnection()
  end
end

function Echo:connectionLost()
  self.factory.numProtocols = self.factory.numProtocols - 1
end

function Echo:dataReceived(data)
  self.transport:write(data)
end

return { listen = "tcp:127.0.0.1:7022", protocol = Echo, numProtocols = 0 }
