-- Chat, step 6: what a server needs that strangers use, and its tests.
--
--   build/skald run examples/chat/chat.lua patience=600
--   nc 127.0.0.1 7090          "Are you still there? Goodbye." after ten minutes of silence; then it ends
--   build/skald test examples/chat
--
-- A line of more than 500 bytes is not read to its end. Who does not read what the others say holds
-- up to 1 MB of it, and is sent away then. One address has at most 20 connections. The tests are in
-- chat_spec.lua and chat_host_spec.lua.

local basic = require "skald.basic"
local policies = require "skald.policies"
local protocol = require "skald.protocol"

local options = ...

local Chat = basic.LineReceiver(policies.TimeoutMixin, {
  delimiter = "\n",
  MAX_LENGTH = 500,
  room = "hall",
  patience = tonumber(options.patience or 600), -- seconds
})

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

function commands.said(self, name)
  for _, said in ipairs(self.factory:said(self.room)) do
    if said.name == name then
      self:sendLine(said.text)
    end
  end
end

function commands.quit(self)
  self:sendLine "Goodbye."
  self.transport:loseConnection()
end

-- --- a connection ----------------------------------------------------------------------------

function Chat:connectionMade()
  self:setTimeout(self.patience)
  self:sendLine "What is your name?"
end

function Chat:timeoutConnection()
  self:sendLine "Are you still there? Goodbye."
  self.transport:loseConnection()
end

function Chat:lineLengthExceeded()
  self:sendLine "That was too long. Goodbye."
  self.transport:loseConnection()
end

function Chat:lineReceived(line)
  self:resetTimeout()
  local word, rest = line:match "^/(%a+) *(.*)$"
  if not self.name then
    self:nameReceived(line)
  elseif commands[word] then
    commands[word](self, rest)
  elseif word then
    self:sendLine("There is no /" .. word .. ".")
  else
    self:say(line)
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
  for _, said in ipairs(self.factory:said(self.room)) do
    self:sendLine(("<%s> %s"):format(said.name, said.text))
  end
  self:tellRoom("* " .. self.name .. " is here")
end

function Chat:connectionLost()
  self:setTimeout(nil)
  if self.name then
    self:tellRoom("* " .. self.name .. " is gone")
  end
end

function Chat:say(text)
  self.factory:remember(self.room, { name = self.name, text = text })
  self:tellRoom(("<%s> %s"):format(self.name, text))
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

local KEPT = 5 -- lines of each room

local ChatFactory = protocol.Factory {
  listen = "tcp:127.0.0.1:7090",
  protocol = Chat,
  maxConnectionsPerPeer = 20,
  maxBuffered = 1024 * 1024,
  rooms = { "hall", "garden", "kitchen", "library" },
  version = 2,
  state = { said = {} }, -- lists of { name, text }, by room
}

-- Version 1 had one string for each line: "<name> text".
function ChatFactory.migrate(state)
  for _, said in pairs(state.said) do
    for i, line in ipairs(said) do
      local name, text = line:match "^<(%w+)> (.*)$"
      said[i] = { name = name, text = text }
    end
  end
end

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

function ChatFactory:said(room)
  return self.state.said[room] or {}
end

function ChatFactory:remember(room, line)
  local said = self:said(room)
  self.state.said[room] = said
  table.insert(said, line)
  if #said > KEPT then
    table.remove(said, 1)
  end
end

return ChatFactory
