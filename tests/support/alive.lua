-- What is alive in a host, in its own words, and what it has said.

local sys = require "support.sys"

local alive = {}

-- How often a whole line matching `pattern` stands in the output.
function alive.printed(h, pattern)
  local n = 0
  for line in h:output():gmatch "([^\n]*)\n" do
    n = n + (line:find(pattern) and 1 or 0)
  end
  return n
end

-- What is alive, in the host's own words.
function alive.census(h)
  h:kill "USR1"
  return (h:waitLog "alive: (.*)":gsub(", %d+ KB of Lua", "")) .. (", %d descriptors"):format(h:descriptors())
end

-- The census once nothing moves any more.
function alive.settled(h)
  local last
  return sys.await(function()
    local now = alive.census(h)
    local same = now == last
    last = now
    return same and now
  end, function()
    return "it does not come to rest: " .. last
  end)
end

-- Waits until no more is alive than was.
function alive.awaitAgain(h, before)
  sys.await(function()
    return alive.census(h) == before
  end, function()
    return ("left over: %s, before: %s"):format(alive.census(h), before)
  end)
end

return alive
