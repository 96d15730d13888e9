-- The next version of examples/04_reload.lua: see there. It also runs by itself.
--
--   build/skald run examples/04_reload_next.lua
--   nc 127.0.0.1 7011          try /top
--
-- `version` and `migrate` bring the state that the running chat has into the new shape.

local basic = require "skald.basic"

local PROMPT = "chat> "

local Chat = basic.LineReceiver { delimiter = "\n" }
local commands = {}

-- /top: who has said most, and what they said last
function commands.top(self)
  local list = {}
  for name, talker in pairs(self.factory.state.talkers) do
    list[#list + 1] = { name = name, lines = talker.lines, last = talker.last }
  end
  table.sort(list, function(a, b)
    return a.lines > b.lines
  end)
  for i, talker in ipairs(list) do
    self:sendLine(("%d. %s: %d, last %q"):format(i, talker.name, talker.lines, talker.last))
  end
end

function Chat:connectionMade()
  self.name = "guest " .. self.factory:connectionCount()
  self.transport:write(PROMPT)
end

-- Right before the first event of a connection that was open before this version came.
function Chat:reloaded()
  self:sendLine "\n* the chat is new: try /top"
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
  local talkers = self.factory.state.talkers
  local talker = talkers[self.name] or { lines = 0 }
  talkers[self.name] = talker
  talker.lines, talker.last = talker.lines + 1, line
  for other in self.factory:each() do
    if other ~= self then
      other:sendLine(("<%s> %s"):format(self.name, line))
    end
  end
end

local function migrate(state, from)
  assert(from == 1, "only version 1 is known")
  state.talkers = {}
  for name, lines in pairs(state.said) do
    state.talkers[name] = { lines = lines, last = "" }
  end
  state.said = nil
end

return {
  listen = "tcp:127.0.0.1:7011",
  protocol = Chat,
  version = 2,
  state = { talkers = {} }, -- { lines, last } by name
  migrate = migrate,
}
