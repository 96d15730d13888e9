-- What outlives a connection is kept by the factory.
--
--   build/skald run examples/02_visitors.lua greeting=Ahoy
--   nc 127.0.0.1 7008          "Ahoy, visitor 1 (1 here now)"
--
-- Words `key=value` behind the script arrive in `...`.

local options = ...
local greeting = options.greeting or "Hello"

local Visitor = {}

function Visitor:connectionMade()
  local factory = self.factory
  factory.state.visitors = factory.state.visitors + 1
  self.transport:write(
    ("%s, visitor %d (%d here now)\n"):format(greeting, factory.state.visitors, factory:connectionCount())
  )
end

return {
  listen = "tcp:127.0.0.1:7008",
  protocol = Visitor,
  state = { visitors = 0 },
  maxConnections = 100,
  idleTimeout = 60, -- seconds
}
