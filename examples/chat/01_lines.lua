-- Chat, step 1: whoever is connected hears what the others say.
--
--   build/skald run examples/chat/01_lines.lua
--   nc 127.0.0.1 7090          in two terminals: type in one, read in the other
--
-- `factory:each()` goes over the live protocols, and any of them may be written to. What people type
-- ends with a newline alone, so that is the delimiter.

local basic = require "skald.basic"

local Chat = basic.LineReceiver { delimiter = "\n" }

function Chat:lineReceived(line)
  self:tellOthers(line)
end

function Chat:tellOthers(text)
  for other in self.factory:each() do
    if other ~= self then
      other:sendLine(text)
    end
  end
end

return { listen = "tcp:127.0.0.1:7090", protocol = Chat }
