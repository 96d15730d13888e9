-- Finger, step 13: the whole of it, and its tests.
--
--   build/skald run examples/finger/finger.lua office=tcp:127.0.0.1:7080
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence (asked once)"
--   build/skald test examples/finger
--
-- What the steps have added one by one, together. finger_spec.lua tests it without a socket, and
-- finger_host_spec.lua with real connections, in a host.

local basic = require "skald.basic"
local defer = require "skald.defer"
local policies = require "skald.policies"
local protocol = require "skald.protocol"
local question = require "question"

local options = ...

local Finger = basic.LineReceiver(policies.TimeoutMixin, {
  MAX_LENGTH = 512,
  patience = tonumber(options.patience or 10), -- seconds for all: the question and its answer
})

function Finger:connectionMade()
  self:setTimeout(self.patience)
end

function Finger:timeoutConnection()
  self:sendLine "too slow"
  self.transport:loseConnection()
end

function Finger:connectionLost()
  self:setTimeout(nil)
  if self.answer then
    self.answer:cancel()
  end
end

function Finger:lineReceived(name)
  self.answer = self.answer or self:reply(name) -- one question a connection
end

Finger.reply = defer.async(function(self, name)
  local ok, result = pcall(defer.await, self.factory:getUser(name))
  self:sendLine(ok and result or ("%s: %s"):format(name, result.message))
  self.transport:loseConnection()
end)

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7079",
  protocol = Finger,
  maxConnectionsPerPeer = 5,
  users = {
    alice = "alice is painting the fence",
    bob = "bob sleeps until noon",
  },
  hosts = { office = options.office }, -- endpoints by name
  state = { asked = {} }, -- how often, by name
}

-- What finger says of `user`, or of `user@host`: the text, or a Deferred of it.
function FingerFactory:getUser(name)
  local user, host = name:match "^(.*)@([^@]*)$"
  if not host then
    return self:getOwnUser(name)
  elseif not self.hosts[host] then
    return defer.fail("no way to " .. host)
  end
  return question.ask(self.hosts[host], user)
end

function FingerFactory:getOwnUser(name)
  local user = self.users[name]
  if not user then
    return defer.fail "no such user"
  end
  local asked = self.state.asked
  asked[name] = (asked[name] or 0) + 1
  return ("%s (asked %s)"):format(user, asked[name] == 1 and "once" or asked[name] .. " times")
end

return FingerFactory
