-- A client through an endpoint: where to connect is a string, and the connection a Deferred.
--
--   build/skald run examples/01_echo.lua                                in one terminal
--   build/skald run examples/12_endpoint.lua to=tcp:127.0.0.1:7007      in another one
--
-- prints "the server says: hello". The same with a Unix socket: to=unix:/tmp/echo.sock.

local endpoints = require "skald.endpoints"
local protocol = require "skald.protocol"
local reactor = require "skald.reactor"

local options = ...

local Greeter = protocol.Protocol {}

function Greeter:greet(text)
  self.transport:write(text .. "\n")
end

function Greeter:dataReceived(data)
  self.answered = true
  io.write("the server says: ", data)
  self.transport:loseConnection()
end

function Greeter:connectionLost()
  reactor.stop(self.answered and 0 or 1)
end

local endpoint = endpoints.clientFromString(options.to or "tcp:127.0.0.1:7007")

reactor.callWhenRunning(function()
  endpoints.connectProtocol(endpoint, Greeter:new()):addCallbacks(function(greeter)
    greeter:greet "hello"
  end, function(failure)
    print(failure.message)
    reactor.stop(1)
  end)
end)
