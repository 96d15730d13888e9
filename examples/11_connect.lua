-- A client: connectTCP with a factory.
--
--   build/skald run examples/01_echo.lua                  in one terminal
--   build/skald run examples/11_connect.lua port=7007     in another one: "the server says: hello"
--
-- The protocol is of the same kind as a server's. Its factory hears besides when a connection could not
-- be made, and when it is over; ReconnectingClientFactory would connect again then.

local protocol = require "skald.protocol"
local reactor = require "skald.reactor"

local options = ...
local host, port = options.host or "127.0.0.1", tonumber(options.port or 7007)

local Hello = protocol.Protocol {}

function Hello:connectionMade()
  self.transport:write "hello\n"
end

function Hello:dataReceived(data)
  self.factory.answers = self.factory.answers + 1
  io.write("the server says: ", data)
  self.transport:loseConnection()
end

local HelloFactory = protocol.ClientFactory { protocol = Hello, answers = 0 }

function HelloFactory:startedConnecting(connector)
  self.to = tostring(connector:getDestination())
  print("connecting to " .. self.to)
end

function HelloFactory:clientConnectionFailed(_, reason)
  self:stop(reason)
end

function HelloFactory:clientConnectionLost(_, reason)
  self:stop(reason)
end

function HelloFactory:stop(reason)
  print(("%d answers of %s; %s"):format(self.answers, self.to, tostring(reason)))
  reactor.stop(self.answers > 0 and 0 or 1)
end

reactor.connectTCP(host, port, HelloFactory:new())
