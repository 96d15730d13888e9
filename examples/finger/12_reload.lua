-- Finger, step 12: step 6 learns more, while it serves.
--
--   cp examples/finger/06_state.lua /tmp/finger.lua
--   build/skald run --watch /tmp/finger.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence (asked once)"
--   nc -C 127.0.0.1 7079                            and type nothing yet
--   cp examples/finger/12_reload.lua /tmp/finger.lua
--
-- Now type "alice" where nc waits: "alice has finished the fence (asked 2 times, last from somewhere)". Nobody
-- was disconnected, and no question is forgotten: `version` and `migrate` bring the state that is there
-- into the new shape. By itself: build/skald run examples/finger/12_reload.lua

local basic = require "skald.basic"
local protocol = require "skald.protocol"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  self:sendLine(self.factory:getUser(name, self.transport:getPeer().host) or "no such user")
  self.transport:loseConnection()
end

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7079",
  protocol = Finger,
  users = {
    alice = "alice has finished the fence",
    bob = "bob sleeps until noon",
  },
  version = 2,
  state = { asked = {} }, -- { times, last } by name
}

-- Version 1 had a number for each name.
function FingerFactory.migrate(state)
  for name, times in pairs(state.asked) do
    state.asked[name] = { times = times, last = "somewhere" }
  end
end

function FingerFactory:getUser(name, from)
  local user = self.users[name]
  if not user then
    return nil
  end
  local asked = self.state.asked[name] or { times = 0 }
  self.state.asked[name] = asked
  local last = asked.last
  asked.times, asked.last = asked.times + 1, from
  if last then
    return ("%s (asked %d times, last from %s)"):format(user, asked.times, last)
  end
  return user .. " (asked once)"
end

return FingerFactory
