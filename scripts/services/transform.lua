-- Transforms poems: each request is a netstring `name.poem`, each answer one with the new poem.
--   skald run transform listen=tcp:127.0.0.1:7003
--   printf '23:cummingsify.I Am A POEM,' | nc -N 127.0.0.1 7003
-- Who asks for a transform that there is not, or sends no netstring, is closed.

local basic = require "skald.basic"

-- Each gives the new poem. To add another, write its function.
local transforms = {}

--- No capital letters, as E. E. Cummings would have it.
function transforms.cummingsify(poem)
  return poem:lower()
end

local Transform = basic.NetstringReceiver {}

function Transform:stringReceived(request)
  local name, poem = request:match "^([^.]*)%.(.*)$"
  local transform = transforms[name]
  if transform then
    self:sendString(transform(poem))
  else
    self.transport:loseConnection()
  end
end

return { listen = "tcp:127.0.0.1:7003", protocol = Transform }
