-- What stands around a factory: its traffic is printed, and held to a rate.
--
--   build/skald run examples/16_wrapped.lua
--   printf 'hello\n' | nc -N 127.0.0.1 7029          "hello"
--
-- prints "*", then 'C 1: "hello\n"' for what the client sent, 'S 1: "hello\n"' for what the server did, and
-- why the connection ended. The echo knows of none of that. Each wrapper takes what it stands around, so
-- they may be put together in any order.

local policies = require "skald.policies"
local protocol = require "skald.protocol"

local RATE = 100000 -- bytes a second, of all connections together, each way

local Echo = protocol.Protocol {}

function Echo:dataReceived(data)
  self.transport:write(data)
end

local EchoFactory = protocol.Factory { listen = "tcp:127.0.0.1:7029", protocol = Echo }
local held = policies.ThrottlingFactory:new(EchoFactory, 100, RATE, RATE)

return policies.TrafficLoggingFactory:new(held, print)
