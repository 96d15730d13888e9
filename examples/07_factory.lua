-- A factory that makes its protocols itself.
--
--   build/skald run examples/07_factory.lua
--   nc 127.0.0.1 7023          the first quote; again: the second
--
-- Without a buildProtocol of its own, a factory makes an instance of its `protocol`. One of its own may
-- hand something in, choose by the peer's address, or give nil, which refuses the connection.

local protocol = require "skald.protocol"

local Quote = protocol.Protocol {}

function Quote:init(quote)
  self.quote = quote
end

function Quote:connectionMade()
  self.transport:write(self.quote .. "\r\n")
  self.transport:loseConnection()
end

local QuoteFactory = protocol.Factory { listen = "tcp:127.0.0.1:7023" }

function QuoteFactory:init(quotes)
  self.quotes, self.served = quotes, 0
end

function QuoteFactory:buildProtocol(addr)
  local quote = Quote:new(self.quotes[self.served % #self.quotes + 1])
  quote.factory = self
  self.served = self.served + 1
  print(("quote %d goes to %s"):format(self.served, tostring(addr)))
  return quote
end

return QuoteFactory:new {
  "A fool and his money are soon parted.",
  "Many hands make light work.",
}
