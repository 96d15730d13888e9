-- Chat, step 2: everybody has a name, and no two the same.
--
--   build/skald run examples/chat/02_names.lua
--   nc 127.0.0.1 7090          "What is your name?", in two terminals
--
-- What one connection knows is kept in its protocol, `self`. The first line is a name, the others are
-- said to all: what a line means depends on what came before.

local basic = require "skald.basic"

local Chat = basic.LineReceiver { delimiter = "\n" }

function Chat:connectionMade()
  self:sendLine "What is your name?"
end

function Chat:lineReceived(line)
  if self.name then
    self:tellOthers(("<%s> %s"):format(self.name, line))
  else
    self:nameReceived(line)
  end
end

function Chat:nameReceived(name)
  if not name:find "^%w+$" then
    self:sendLine "A name has letters and digits. What is your name?"
  elseif self:isTaken(name) then
    self:sendLine(name .. " is here already. What is your name?")
  else
    self.name = name
    self:sendLine("Welcome, " .. name .. "!")
    self:tellOthers("* " .. name .. " is here")
  end
end

function Chat:connectionLost()
  if self.name then
    self:tellOthers("* " .. self.name .. " is gone")
  end
end

function Chat:isTaken(name)
  for other in self.factory:each() do
    if other.name == name then
      return true
    end
  end
  return false
end

function Chat:tellOthers(text)
  for other in self.factory:each() do
    if other ~= self and other.name then
      other:sendLine(text)
    end
  end
end

return { listen = "tcp:127.0.0.1:7090", protocol = Chat }
