-- Finger, step 5: answer.
--
--   build/skald run examples/finger/05_answer.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence"
--   printf 'carol\r\n' | nc 127.0.0.1 7079          "no such user"
--
-- sendLine writes a line and its end. Nothing waits for the network here: what is written is queued,
-- and loseConnection closes when all of it has been sent.

local basic = require "skald.basic"
local protocol = require "skald.protocol"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  self:sendLine(self.factory:getUser(name) or "no such user")
  self.transport:loseConnection()
end

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7079",
  protocol = Finger,
  users = {
    alice = "alice is painting the fence",
    bob = "bob sleeps until noon",
  },
}

function FingerFactory:getUser(name)
  return self.users[name]
end

return FingerFactory
