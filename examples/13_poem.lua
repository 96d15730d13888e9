-- A server of one poem, which listens where its options say.
--
--   build/skald run examples/13_poem.lua port=10000 iface=127.0.0.1 poem=scripts/services/poems/tyger.txt
--   nc 127.0.0.1 10000         the poem
--
-- prints "Serving scripts/services/poems/tyger.txt on tcp:127.0.0.1:10000." With port=0 the system
-- chooses one, and the line says which: a port that listenTCP gave knows where it is.

local protocol = require "skald.protocol"
local reactor = require "skald.reactor"

local options = ...
local file = options.poem or "scripts/services/poems/ozymandias.txt"

local Poetry = protocol.Protocol {}

function Poetry:connectionMade()
  self.transport:write(self.factory.poem)
  self.transport:loseConnection()
end

local PoetryFactory = protocol.Factory { protocol = Poetry }

function PoetryFactory:init(poem)
  self.poem = poem
end

local function read(path)
  local handle = assert(io.open(path, "rb"))
  local text = handle:read "*a"
  handle:close()
  return text
end

local port = reactor.listenTCP(tonumber(options.port or 10000), PoetryFactory:new(read(file)), {
  interface = options.iface or "127.0.0.1",
})

reactor.callWhenRunning(function()
  print(("Serving %s on %s."):format(file, tostring(port:getHost())))
end)
