-- Poetry: a whole poem to whoever connects, then the end.
--   skald run poetry listen=tcp:127.0.0.1:7001 poem=tyger
-- poem= names a bundled one (lorelei, ozymandias, tyger) or a file.

local texts = require "skald.texts"

local options = ...
local poem = texts.poem(options.poem or "ozymandias")

local Poetry = {}

function Poetry:connectionMade()
  self.transport:write(poem)
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7001", protocol = Poetry }
