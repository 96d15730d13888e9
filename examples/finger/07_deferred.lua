-- Finger, step 7: an answer that takes time.
--
--   build/skald run examples/finger/07_deferred.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          "alice is painting the fence", after half a second
--   printf 'carol\r\n' | nc 127.0.0.1 7079          "carol: no such user", after as long
--
-- A callback must not wait: all connections would. So getUser gives a Deferred, which is a promise of
-- the user, and the protocol says what is to be done with it, or with the failure, when it is there.

local basic = require "skald.basic"
local protocol = require "skald.protocol"
local task = require "skald.task"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  if self.answer then
    return -- one question a connection
  end
  self.answer = self.factory
    :getUser(name)
    :addErrback(function(failure)
      return ("%s: %s"):format(name, failure.message)
    end)
    :addCallback(function(text)
      self:sendLine(text)
      self.transport:loseConnection()
    end)
end

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
