-- A chat: whoever is connected hears what the others say.
--
--   build/skald run examples/03_chat.lua
--   nc 127.0.0.1 7009          in two terminals; type in one, read in the other
--
-- Any connection may write to any other. Lines may arrive cut anywhere, so a protocol keeps what it
-- has of an unfinished one.

local protocol = require "skald.protocol"

local MOST = 1000 -- bytes of a line

local Chat = protocol.Protocol {}

function Chat:connectionMade()
  self.rest = ""
  self.name = tostring(self.transport:getPeer())
  self:say("* " .. self.name .. " is here")
end

function Chat:dataReceived(data)
  local text = self.rest .. data
  local from = 1
  for line, to in text:gmatch "([^\n]*)\n()" do
    self:say(("<%s> %s"):format(self.name, line))
    from = to
  end
  self.rest = text:sub(from)
  if #self.rest > MOST then
    self.transport:write "that line is too long\n"
    self.transport:loseConnection()
  end
end

function Chat:connectionLost(reason)
  self:say(("* %s is gone: %s"):format(self.name, tostring(reason)))
end

function Chat:say(line)
  for other in self.factory:each() do
    if other ~= self then
      other.transport:write(line .. "\n")
    end
  end
end

return { listen = "tcp:127.0.0.1:7009", protocol = Chat }
