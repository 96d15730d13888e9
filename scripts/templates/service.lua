-- NAME: keeps a list of things for everybody who connects.
--
--   skald run NAME.lua listen=tcp:127.0.0.1:7000      and then:  nc 127.0.0.1 7000
--
-- A line is a command: `add WORDS`, `list`, `quit`. Edit this file and say `skald reload`: who is
-- connected stays connected, and the list stays what it is.

local LineReceiver = require("skald.basic").LineReceiver

-- One of these for each connection. Lines end with "\n"; a "\r" before that is dropped below.
local Keeper = LineReceiver { delimiter = "\n" }

-- What can be asked for. Each gets the protocol and the rest of the line.
local commands = {}

function commands.add(self, words)
  if words == "" then
    return self:sendLine "add what?"
  end
  local things = self.factory.state.things
  things[#things + 1] = words
  self:sendLine(("%d: %s"):format(#things, words))
end

function commands.list(self)
  for i, words in ipairs(self.factory.state.things) do
    self:sendLine(("%d: %s"):format(i, words))
  end
  self:sendLine "."
end

function commands.quit(self)
  self:sendLine "bye"
  self.transport:loseConnection() -- what is queued is sent first
end

function Keeper:connectionMade()
  self:sendLine "add WORDS, list or quit?"
end

function Keeper:lineReceived(line)
  local word, rest = line:match "^%s*(%S*)%s*(.-)%s*$"
  local command = commands[word]
  if command then
    command(self, rest)
  else
    self:sendLine(("'%s' is no command"):format(word))
  end
end

return {
  name = "NAME",
  listen = "tcp:127.0.0.1:7000",
  protocol = Keeper,
  state = { things = {} }, -- one for all connections; survives a reload
  idleTimeout = 300, -- seconds; who is silent for longer is sent away
}
