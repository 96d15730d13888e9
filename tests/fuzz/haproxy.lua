-- Mutated headers of the PROXY protocol: each is taken or refused without an error, holds no more than it may, and
-- comes to the same however it is cut. `luajit tests/fuzz/haproxy.lua [COUNT] [SEED]`, from the project's root; a
-- million with seed 1 unless told.

package.path = "scripts/?.lua;" .. package.path

local address = require "skald.address"
local proxyheader = require "skald.proxyheader"

local fuzz = {}

local LINE = 107 -- bytes that version 1 may hold
local random, char = math.random, string.char

local function inet(kind, host, port)
  return address.inet(kind, host, port)
end

local function pair(version, a, b, more)
  local fields = { version = version, source = a, destination = b }
  for key, value in pairs(more or {}) do
    fields[key] = value
  end
  return proxyheader.write(fields)
end

local four, otherFour = inet("TCP", "192.168.0.1", 56324), inet("TCP", "255.255.255.255", 65535)
local six, otherSix = inet("TCP6", "2001:db8::1", 1), inet("TCP6", "::ffff:1.2.3.4", 0)
local tlvs = { [1] = "h2", [2] = "example.org", [4] = ("\0"):rep(40) }

--- Good headers, which are mutated.
fuzz.headers = {
  pair(1, four, otherFour),
  pair(1, six, otherSix),
  "PROXY TCP6 1:2:3:4:5:6:7:8 fe80::1:0:0:1 1 2\r\n",
  "PROXY UNKNOWN\r\n",
  "PROXY UNKNOWN " .. ("x"):rep(91) .. "\r\n",
  pair(2, four, otherFour),
  pair(2, six, otherSix, { tlvs = tlvs }),
  pair(2, four, otherFour, { tlvs = tlvs, checksum = true }),
  pair(2, inet("UDP", "10.0.0.1", 53), inet("UDP", "10.0.0.2", 53)),
  pair(2, inet("UDP6", "::1", 53), inet("UDP6", "::2", 53)),
  pair(2, address.unix "/run/a.sock", address.unix "/run/b.sock", { tlvs = { [5] = "id" } }),
  pair(2, nil, nil, { command = "LOCAL", tlvs = { [4] = ("x"):rep(700) } }),
  pair(2, nil, nil),
}

local function byte()
  return char(random(0, 255))
end

local pieces = { " ", "\r", "\n", "\r\n", ".", ":", "::", "0", "00", "255", "256", "65536", "ffff", "PROXY ", "TCP4" }

local mutations = {
  function(s, at)
    return s:sub(1, at - 1) .. byte() .. s:sub(at + 1)
  end,
  function(s, at)
    return s:sub(1, at - 1) .. char(bit.bxor(s:byte(at), 2 ^ random(0, 7))) .. s:sub(at + 1)
  end,
  function(s, at)
    return s:sub(1, at - 1) .. s:sub(at + random(1, 4))
  end,
  function(s, at)
    return s:sub(1, at) .. pieces[random(#pieces)] .. s:sub(at + random(0, 3))
  end,
  function(s, at)
    return s:sub(1, at) .. s:sub(random(at, #s))
  end,
  function(s, at)
    return s:sub(1, at) .. fuzz.headers[random(#fuzz.headers)]:sub(at)
  end,
  function(s)
    return s:sub(1, 14) .. byte() .. byte() .. s:sub(17)
  end,
  function(s, at)
    return s:sub(1, at - 1) .. s:sub(at, at):rep(random(2, 200)) .. s:sub(at + 1)
  end,
}

--- A header, mutated up to three times, and bytes behind it.
function fuzz.make()
  local s = fuzz.headers[random(#fuzz.headers)]
  for _ = 1, random(0, 3) do
    if #s > 0 then
      s = mutations[random(#mutations)](s, random(#s))
    end
  end
  return s .. (random(3) == 1 and "GET / HTTP/1.1\r\n\r\n" or ("z"):rep(random(0, 300)))
end

local function textOf(found)
  local list = {}
  for kind, value in pairs(found.tlvs or {}) do
    list[#list + 1] = ("%d=%q"):format(kind, value)
  end
  table.sort(list)
  return ("%d %s %s %s %s %s"):format(found.version, found.command, tostring(found.source), tostring(found.destination),
    tostring(found.tlvs ~= nil), table.concat(list, ","))
end

-- What comes of a header that is fed in pieces of at most `most` bytes, or whole.
local function outcome(s, most)
  local reader, at = proxyheader.reader(), 1
  while at <= #s do
    local n = most and random(most) or #s
    local found, rest = reader:feed(s:sub(at, at + n - 1))
    at = at + n
    local bound = s:byte(1) == 80 and LINE or proxyheader.LARGEST
    if reader.held > bound then
      error(("%d bytes are held of %q"):format(reader.held, s), 0)
    elseif found == false then
      return "refused: " .. rest
    elseif found then
      return textOf(found) .. " " .. #s - #(rest .. s:sub(at))
    end
  end
  return "waits"
end

--- Feeds `count` headers; how many were taken, refused, and left waiting for more.
---@param count integer
---@param seed integer
---@return { taken: integer, refused: integer, waits: integer }
function fuzz.run(count, seed)
  math.randomseed(seed)
  local counts = { taken = 0, refused = 0, waits = 0 }
  for _ = 1, count do
    local s = fuzz.make()
    local whole = outcome(s)
    for _, most in ipairs { 1, 3, 40 } do
      local cut = outcome(s, most)
      if cut ~= whole then
        error(("cut in pieces up to %d: %s, whole: %s: %q"):format(most, cut, whole, s), 0)
      end
    end
    local kind = whole == "waits" and "waits" or whole:find "^refused" and "refused" or "taken"
    counts[kind] = counts[kind] + 1
  end
  return counts
end

if arg and arg[0] and arg[0]:find "fuzz/haproxy%.lua$" then
  local count, seed = tonumber(arg[1] or 1000000), tonumber(arg[2] or 1)
  local counts = fuzz.run(count, seed)
  print(("%d headers, seed %d: %d taken, %d refused, %d incomplete"):format(count, seed, counts.taken, counts.refused,
    counts.waits))
end

return fuzz
