-- Finger, step 4: look the user up.
--
--   build/skald run examples/finger/04_lookup.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          ends without an answer
--
-- prints "alice is painting the fence". What all connections share belongs to the factory, and a
-- protocol finds it as `self.factory`.

local basic = require "skald.basic"
local protocol = require "skald.protocol"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  print(self.factory:getUser(name) or "no such user")
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
