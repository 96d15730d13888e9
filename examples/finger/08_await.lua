-- Finger, step 8: the same, written straight down.
--
--   build/skald run examples/finger/08_await.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence", after half a second
--   printf 'carol\r\n' | nc 127.0.0.1 7079          "carol: no such user", after as long
--
-- `async` makes a function that may wait: `await` gives the value of a Deferred, or raises its failure.
-- Only this one connection waits. Nothing else has changed since step 7.

local basic = require "skald.basic"
local defer = require "skald.defer"
local protocol = require "skald.protocol"
local task = require "skald.task"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  self.answer = self.answer or self:reply(name) -- one question a connection
end

Finger.reply = defer.async(function(self, name)
  local ok, result = pcall(defer.await, self.factory:getUser(name))
  self:sendLine(ok and result or ("%s: %s"):format(name, result.message))
  self.transport:loseConnection()
end)

-- Who has hung up waits for nothing.
function Finger:connectionLost()
  if self.answer then
    self.answer:cancel()
  end
end

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7079",
  protocol = Finger,
  users = {
    alice = "alice is painting the fence",
    bob = "bob sleeps until noon",
  },
}

-- It stands for a database that is asked over the network. deferLater gives a Deferred of what the
-- function gives then; what that raises is a failure.
function FingerFactory:getUser(name)
  return task.deferLater(self.clock, 0.5, function()
    return self.users[name] or error("no such user", 0)
  end)
end

return FingerFactory
