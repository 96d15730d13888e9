-- Chat, step 3: rooms, and commands.
--
--   build/skald run examples/chat/03_rooms.lua
--   nc 127.0.0.1 7090          say your name, then /join garden, /rooms, /who, /quit
--
-- A command is a function in a table, so that a new one is one function more. Who is in a room is asked
-- of the live connections: a list of them that nobody keeps cannot be wrong.

local basic = require "skald.basic"
local protocol = require "skald.protocol"

local Chat = basic.LineReceiver { delimiter = "\n", room = "hall" }

-- --- what people may ask for: functions of the protocol and the rest of the line -------------

local commands = {}

function commands.join(self, room)
  if not self.factory:hasRoom(room) then
    return self:sendLine "There is no such room: try /rooms."
  end
  self:tellRoom("* " .. self.name .. " goes to the " .. room)
  self.room = room
  self:enter()
end

function commands.rooms(self)
  self:sendLine(table.concat(self.factory.rooms, ", "))
end

function commands.who(self)
  local names = {}
  for other in self.factory:each() do
    if other.name and other.room == self.room then
      names[#names + 1] = other.name
    end
  end
  table.sort(names)
  self:sendLine(table.concat(names, ", "))
end

function commands.quit(self)
  self:sendLine "Goodbye."
  self.transport:loseConnection()
end

-- --- a connection ----------------------------------------------------------------------------

function Chat:connectionMade()
  self:sendLine "What is your name?"
end

function Chat:lineReceived(line)
  local word, rest = line:match "^/(%a+) *(.*)$"
  if not self.name then
    self:nameReceived(line)
  elseif commands[word] then
    commands[word](self, rest)
  elseif word then
    self:sendLine("There is no /" .. word .. ".")
  else
    self:tellRoom(("<%s> %s"):format(self.name, line))
  end
end

function Chat:nameReceived(name)
  if not name:find "^%w+$" then
    self:sendLine "A name has letters and digits. What is your name?"
  elseif self.factory:hasName(name) then
    self:sendLine(name .. " is here already. What is your name?")
  else
    self.name = name
    self:enter()
  end
end

function Chat:enter()
  self:sendLine(("Welcome to the %s, %s!"):format(self.room, self.name))
  self:tellRoom("* " .. self.name .. " is here")
end

function Chat:connectionLost()
  if self.name then
    self:tellRoom("* " .. self.name .. " is gone")
  end
end

-- All others in the same room.
function Chat:tellRoom(text)
  for other in self.factory:each() do
    if other ~= self and other.name and other.room == self.room then
      other:sendLine(text)
    end
  end
end

-- --- what they have in common ----------------------------------------------------------------

local ChatFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7090",
  protocol = Chat,
  rooms = { "hall", "garden", "kitchen" },
}

function ChatFactory:hasRoom(name)
  for _, room in ipairs(self.rooms) do
    if room == name then
      return true
    end
  end
  return false
end

function ChatFactory:hasName(name)
  for other in self:each() do
    if other.name == name then
      return true
    end
  end
  return false
end

return ChatFactory
