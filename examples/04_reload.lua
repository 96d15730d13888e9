-- A chat to be rewritten while people talk.
--
--   cp examples/04_reload.lua /tmp/chat.lua
--   build/skald run --watch /tmp/chat.lua
--   nc 127.0.0.1 7011                              in two terminals; talk, and try /said
--   cp examples/04_reload_next.lua /tmp/chat.lua   in a third one
--
-- The next version has another prompt, another command, and counts in another shape. Nobody is
-- disconnected, no count is lost, and a line that is half typed is still half typed.

local basic = require "skald.basic"

local PROMPT = "> "

local Chat = basic.LineReceiver { delimiter = "\n" }
local commands = {}

-- /said: who has said how many lines
function commands.said(self)
  for name, lines in pairs(self.factory.state.said) do
    self:sendLine(("%s: %d"):format(name, lines))
  end
end

function Chat:connectionMade()
  self.name = "guest " .. self.factory:connectionCount()
  self.transport:write(PROMPT)
end

function Chat:lineReceived(line)
  local command = commands[line:match "^/(%a+)"]
  if command then
    command(self)
  else
    self:say(line)
  end
  self.transport:write(PROMPT)
end

function Chat:say(line)
  local said = self.factory.state.said
  said[self.name] = (said[self.name] or 0) + 1
  for other in self.factory:each() do
    if other ~= self then
      other:sendLine(("<%s> %s"):format(self.name, line))
    end
  end
end

return {
  listen = "tcp:127.0.0.1:7011",
  protocol = Chat,
  state = { said = {} }, -- lines by name
}
