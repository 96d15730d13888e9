-- Internet addresses as text and as bytes. The text may be a beginning: then it is asked whether it can
-- become an address. Pure.

local inet = {}

local char, concat = string.char, table.concat

local function isOctet(text, whole)
  if text == "" then
    return not whole
  end
  return text == "0" or (text:find "^[1-9]%d?%d?$" ~= nil and tonumber(text) <= 255)
end

--- Whether a text is an IPv4 address: four decimal numbers without leading zeros.
---@param text string
---@param whole boolean false: whether it is one, or the beginning of one
---@return boolean
function inet.isIPv4(text, whole)
  local count, at = 0, 1
  while true do
    local dot = text:find(".", at, true)
    count = count + 1
    if count > 4 or not isOctet(text:sub(at, (dot or 0) - 1), whole or dot ~= nil) then
      return false
    elseif not dot then
      return count == 4 or not whole
    end
    at = dot + 1
  end
end

-- The last two groups may be written as an IPv4 address.
local function readEmbedded(groups, text, whole)
  local left = 8 - #groups.list
  if groups.gap and left < 3 or not groups.gap and left ~= 2 or not inet.isIPv4(text, whole) then
    return false
  elseif whole then
    local a, b, c, d = text:match "(%d+)%.(%d+)%.(%d+)%.(%d+)"
    groups.list[9 - left] = a * 256 + b
    groups.list[10 - left] = c * 256 + d
  end
  return true
end

-- What follows a colon: the gap, or there is room for a group. Where to read on.
local function readColon(groups, text, at)
  if text:sub(at, at) == ":" then
    if groups.gap or #groups.list > 7 then
      return nil
    end
    groups.gap = #groups.list
    return at + 1
  end
  return #groups.list < (groups.gap and 7 or 8) and at or nil
end

-- One group, and the colons behind it. Where to read on, or nil; true: that was all.
local function readGroup(groups, text, at, whole)
  local digits = text:match("^%x*", at)
  local behind = text:sub(at + #digits, at + #digits)
  if behind == "." then
    return readEmbedded(groups, text:sub(at), whole) or nil
  elseif #digits == 0 or #digits > 4 or #groups.list >= (groups.gap and 7 or 8) then
    return nil
  end
  groups.list[#groups.list + 1] = tonumber(digits, 16)
  at = at + #digits
  if behind == "" then
    return true
  elseif behind ~= ":" then
    return nil
  end
  at = readColon(groups, text, at + 1)
  if at and at > #text and text:sub(-2) ~= "::" then
    return not whole or nil
  end
  return at
end

-- The groups of an IPv6 address, as far as it goes: `list`, and `gap`, how many come before the zeros.
local function readIPv6(text, whole)
  local groups, at = { list = {} }, 1
  if text:sub(1, 2) == "::" then
    groups.gap, at = 0, 3
  elseif text:sub(1, 1) == ":" then
    return not whole and #text == 1 and groups or nil
  end
  while at ~= true and at <= #text do
    at = readGroup(groups, text, at, whole)
    if not at then
      return nil
    end
  end
  return (not whole or groups.gap or #groups.list == 8) and groups or nil
end

--- Whether a text is an IPv6 address, without brackets or a zone.
---@param text string
---@param whole boolean false: whether it is one, or the beginning of one
---@return boolean
function inet.isIPv6(text, whole)
  return readIPv6(text, whole) ~= nil
end

--- The bytes of an address, in the order of the network; nil for what is none.
---@param text string
---@return string? bytes 4 or 16 of them
function inet.bytesOf(text)
  if inet.isIPv4(text, true) then
    local a, b, c, d = text:match "(%d+)%.(%d+)%.(%d+)%.(%d+)"
    return char(a, b, c, d)
  end
  local groups = readIPv6(text, true)
  if not groups then
    return nil
  end
  local pieces, list = {}, groups.list
  for i, group in ipairs(list) do
    pieces[i] = char(math.floor(group / 256), group % 256)
  end
  if groups.gap then
    table.insert(pieces, groups.gap + 1, ("\0\0"):rep(8 - #list))
  end
  return concat(pieces)
end

-- The longest run of zero groups, of two or more, the first of equal ones: where it begins, its length.
local function longestZeros(groups)
  local best, length, i = nil, 1, 1
  while i <= 8 do
    local stop = i
    while groups[stop] == 0 do
      stop = stop + 1
    end
    if stop - i > length then
      best, length = i, stop - i
    end
    i = stop + 1
  end
  return best, length
end

local function hexadecimal(groups, from, to)
  local words = {}
  for i = from, to do
    words[#words + 1] = ("%x"):format(groups[i])
  end
  return concat(words, ":")
end

local function textOfIPv6(bytes)
  local groups = {}
  for i = 1, 8 do
    local high, low = bytes:byte(2 * i - 1, 2 * i)
    groups[i] = high * 256 + low
  end
  local gap, length = longestZeros(groups)
  if gap == 1 and (length == 6 or length == 5 and groups[6] == 0xffff) then
    return (length == 6 and "::" or "::ffff:") .. inet.textOf(bytes:sub(13))
  elseif gap then
    return hexadecimal(groups, 1, gap - 1) .. "::" .. hexadecimal(groups, gap + length, 8)
  end
  return hexadecimal(groups, 1, 8)
end

--- The text of an address: IPv6 as RFC 5952 says.
---@param bytes string 4 or 16 of them
---@return string
function inet.textOf(bytes)
  if #bytes == 4 then
    return ("%d.%d.%d.%d"):format(bytes:byte(1, 4))
  end
  return textOfIPv6(bytes)
end

return inet
