-- Finger, step 6: remember.
--
--   build/skald run examples/finger/06_state.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence (asked once)"
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence (asked 2 times)"
--
-- What a service learns while it runs goes into `state`. The factory gives it to every connection, and
-- it outlives them, and this file: see step 12.

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
  state = { asked = {} }, -- how often, by name
}

function FingerFactory:getUser(name)
  local user = self.users[name]
  if not user then
    return nil
  end
  local asked = self.state.asked
  asked[name] = (asked[name] or 0) + 1
  return ("%s (asked %s)"):format(user, asked[name] == 1 and "once" or asked[name] .. " times")
end

return FingerFactory
