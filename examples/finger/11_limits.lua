-- Finger, step 11: no visitor may hold the server up.
--
--   build/skald run examples/finger/11_limits.lua patience=5
--   nc 127.0.0.1 7079          "too slow", if you type nothing for five seconds
--
-- A line of more than 512 bytes ends the connection, as does a sixth one at a time from the same
-- address. TimeoutMixin is a table of methods that a class takes in beside its own.

local basic = require "skald.basic"
local policies = require "skald.policies"
local protocol = require "skald.protocol"

local options = ...

local Finger = basic.LineReceiver(policies.TimeoutMixin, { MAX_LENGTH = 512 })

function Finger:connectionMade()
  self:setTimeout(tonumber(options.patience or 10))
end

function Finger:timeoutConnection()
  self:sendLine "too slow"
  self.transport:loseConnection()
end

function Finger:connectionLost()
  self:setTimeout(nil)
end

function Finger:lineReceived(name)
  self:sendLine(self.factory:getUser(name) or "no such user")
  self.transport:loseConnection()
end

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7079",
  protocol = Finger,
  maxConnectionsPerPeer = 5,
  users = {
    alice = "alice is painting the fence",
    bob = "bob sleeps until noon",
  },
}

function FingerFactory:getUser(name)
  return self.users[name]
end

return FingerFactory
