-- The transports of skald.testing, held to what real ones do (tests/system/carriers_spec.lua).

local fakes = require "support.fakes"

-- It describes as if it stood here.
local carriers = setfenv(assert(loadfile "tests/support/carriers.lua"), getfenv(1))()

local address = "^tcp:192%.0%.2%.%d+:%d+$"

local rows = {
  { name = "a pump", serve = fakes.pumped(), address = address },
  { name = "a pump that cuts off the end", serve = fakes.pumped(60001), address = address },
  {
    name = "a wrapper on a pump",
    serve = function(text)
      return fakes.pumped()(carriers.wrapped(text))
    end,
    address = address,
  },
  { name = "a StringTransport", serve = fakes.fed, address = address },
}

for _, row in ipairs(rows) do
  carriers.describe(row)
end
