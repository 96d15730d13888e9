-- Quote of the day: say something, and hang up.
--
--   build/skald run examples/05_quote.lua
--   nc 127.0.0.1 7021 < /dev/null          a quote, and nc ends
--
-- loseConnection sends what was written before it closes.

local Quote = {}

function Quote:connectionMade()
  self.transport:write "An apple a day keeps the doctor away.\r\n"
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7021", protocol = Quote }
