-- Character generator (RFC 864): lines of 72 printing characters, as fast as the peer reads them.
-- A pull producer: asked for more when the last is taken, so that memory stays bounded.
--   skald run chargen listen=tcp:127.0.0.1:7019

local LINE, FIRST, COUNT = 72, 32, 95

-- The pattern repeats after as many lines as there are characters: one string holds it all.
local function pattern()
  local ring = {}
  for i = 0, COUNT - 1 do
    ring[#ring + 1] = string.char(FIRST + i)
  end
  local twice = table.concat(ring):rep(2)
  local lines = {}
  for i = 1, COUNT do
    lines[i] = twice:sub(i, i + LINE - 1) .. "\r\n"
  end
  return table.concat(lines)
end

local lines = pattern()

local Chargen = {}

function Chargen:connectionMade()
  self.transport:registerProducer(self, false)
end

function Chargen:resumeProducing()
  self.transport:write(lines)
end

return { listen = "tcp:127.0.0.1:7019", protocol = Chargen }
