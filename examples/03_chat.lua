-- A chat: whoever is connected hears what the others say.
--
--   build/skald run examples/03_chat.lua
--   nc 127.0.0.1 7009          in two terminals; type in one, read in the other
--
-- Any connection may write to any other. LineReceiver gives whole lines, however they came, and none
-- that is too long.

local basic = require "skald.basic"

local Chat = basic.LineReceiver {
  delimiter = "\n",
  MAX_LENGTH = 1000, -- bytes of a line
}

function Chat:connectionMade()
  self.name = tostring(self.transport:getPeer())
  self:say("* " .. self.name .. " is here")
end

function Chat:lineReceived(line)
  self:say(("<%s> %s"):format(self.name, line))
end

function Chat:lineLengthExceeded()
  self:sendLine "that line is too long"
  self.transport:loseConnection()
end

function Chat:connectionLost(reason)
  self:say(("* %s is gone: %s"):format(self.name, tostring(reason)))
end

function Chat:say(line)
  for other in self.factory:each() do
    if other ~= self then
      other:sendLine(line)
    end
  end
end

return { listen = "tcp:127.0.0.1:7009", protocol = Chat }
