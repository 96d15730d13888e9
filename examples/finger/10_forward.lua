-- Finger, step 10: a server that is a client as well.
--
--   build/skald run examples/finger/05_answer.lua                      in one terminal
--   build/skald run examples/finger/10_forward.lua office=tcp:127.0.0.1:7079      in another one
--   printf 'alice@office\r\n' | nc 127.0.0.1 7080          "alice is painting the fence"
--   printf 'alice@moon\r\n' | nc 127.0.0.1 7080            "alice@moon: no way to moon"
--
-- For `user@host` it asks that host's server, and hands on what comes. A Deferred may wait for another:
-- nothing in the protocol has changed since step 8.

local basic = require "skald.basic"
local defer = require "skald.defer"
local protocol = require "skald.protocol"
local question = require "question"

local options = ...

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  self.answer = self.answer or self:reply(name) -- one question a connection
end

Finger.reply = defer.async(function(self, name)
  local ok, result = pcall(defer.await, self.factory:getUser(name))
  self:sendLine(ok and result or ("%s: %s"):format(name, result.message))
  self.transport:loseConnection()
end)

-- Who has hung up waits for nothing: the other server is not asked any longer either.
function Finger:connectionLost()
  if self.answer then
    self.answer:cancel()
  end
end

local FingerFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7080",
  protocol = Finger,
  users = { carol = "carol is at the harbour" },
  hosts = { office = options.office or "tcp:127.0.0.1:7079" }, -- endpoints by name
}

-- What is awaited may be a Deferred, or the value itself.
function FingerFactory:getUser(name)
  local user, host = name:match "^(.*)@([^@]*)$"
  if not host then
    return self.users[name] or defer.fail "no such user"
  elseif not self.hosts[host] then
    return defer.fail("no way to " .. host)
  end
  return question.ask(self.hosts[host], user)
end

return FingerFactory
