-- The headers of the PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): read from
-- pieces cut anywhere, and written. Pure.

local address = require "skald.address"
local bit = require "bit"
local inet = require "skald.inet"

local header = {}

local char, concat = string.char, table.concat

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local FIXED = 16 -- bytes of version 2 before the addresses
local LINE = 107 -- the longest line of version 1, with its end
local PATH = 108 -- bytes of a Unix path
local CHECKSUM = 3 -- the type of the TLV that has it
local JOIN = 256 -- pieces that wait before they become one

--- The longest header that can be written down.
header.LARGEST = FIXED + 65535

--- Seconds that one may take, where a factory does not say `headerTimeout`.
header.TIMEOUT = 10

--- The clock that a factory's headers are timed by. Outside the host there is none, unless one is set.
---@param factory Factory
---@return table?
function header.clockOf(factory)
  return factory.clock or package.loaded["skald.core"] and require "skald.reactor" or nil
end

---@class ProxyHeader
---@field version 1|2
---@field command "PROXY"|"LOCAL"
---@field source Address? of who connected to the proxy; none where the header does not say it
---@field destination Address? what it connected to
---@field tlvs table<integer, string>? of version 2: the first value of each type; none where what stands
---behind the addresses is no list of them

-- --- version 1 --------------------------------------------------------------------------------

local function isPort(text, whole)
  if text == "" then
    return not whole
  end
  return text == "0" or (text:find "^[1-9]%d?%d?%d?%d?$" ~= nil and tonumber(text) <= 65535)
end

local function fieldsOf(isAddress)
  return {
    { "source address", isAddress },
    { "destination address", isAddress },
    { "source port", isPort },
    { "destination port", isPort },
  }
end

local families = { TCP4 = fieldsOf(inet.isIPv4), TCP6 = fieldsOf(inet.isIPv6) }
local types = { TCP4 = "TCP", TCP6 = "TCP6" }

-- How long the line is; nil: its end is not here yet; false, message: it is none.
local function checkEnd(text, at)
  local byte = text:byte(at)
  if byte == 10 then
    return at
  elseif byte then
    return false, "a line ends with CR and LF"
  end
  return nil
end

local function checkFields(text, fields, at)
  for i, field in ipairs(fields) do
    local stop = text:find(i < #fields and " " or "\r", at, true)
    if not field[2](text:sub(at, (stop or 0) - 1), stop ~= nil) then
      return false, ("the %s is wrong"):format(field[1])
    elseif not stop then
      return nil
    end
    at = stop + 1
  end
  return checkEnd(text, at)
end

-- Behind UNKNOWN comes the end of the line, or a space and anything.
local function checkUnknown(text)
  local behind = text:sub(14, 14)
  if behind == "\r" then
    return checkEnd(text, 15)
  elseif behind ~= " " and behind ~= "" then
    return false, "the family is neither TCP4 nor TCP6 nor UNKNOWN"
  end
  local _, stop = text:find("\r\n", 14, true)
  return stop
end

local function checkFamily(text)
  for name, fields in pairs(families) do
    if text:sub(7, 11) == name .. " " then
      return checkFields(text, fields, 12)
    end
  end
  if text:sub(7, 13) == "UNKNOWN" then
    return checkUnknown(text)
  end
  local begun = text:sub(7)
  for _, word in ipairs { "TCP4 ", "TCP6 ", "UNKNOWN" } do
    if word:sub(1, #begun) == begun then
      return nil
    end
  end
  return false, "the family is neither TCP4 nor TCP6 nor UNKNOWN"
end

-- Of at most LINE bytes. When there is one byte left to come, the one before must be the CR.
local function checkLine(text)
  local length, problem = checkFamily(text)
  if length == nil and (#text >= LINE or #text == LINE - 1 and text:byte(-1) ~= 13) then
    return false, "the line is longer than 107 bytes"
  end
  return length, problem
end

local function addressOf(kind, host, port)
  return address.inet(kind, inet.textOf(inet.bytesOf(host)), tonumber(port))
end

local function readLine(text)
  local made = { version = 1, command = "PROXY" }
  local family, source, destination, from, to = text:match "^PROXY (TCP[46]) (%S+) (%S+) (%d+) (%d+)\r\n$"
  if family then
    made.source = addressOf(types[family], source, from)
    made.destination = addressOf(types[family], destination, to)
  end
  return made
end

-- --- version 2 --------------------------------------------------------------------------------

local lengths = { [0] = 0, 12, 36, 2 * PATH } -- of the addresses, by their families

local function lengthAt(text, at)
  local high, low = text:byte(at, at + 1)
  return high * 256 + low
end

-- What the two bytes behind the signature say, as far as they are here; LOCAL ignores the second.
local function checkKind(command, family)
  if command and command ~= 0x20 and command ~= 0x21 then
    return false, "neither LOCAL nor PROXY of version 2"
  elseif command == 0x21 and family and (family >= 0x40 or family % 16 > 2) then
    return false, "no such family or protocol"
  end
  return true
end

local function checkBinary(text, most)
  local command, family = text:byte(13, 14)
  local ok, problem = checkKind(command, family)
  if not ok then
    return false, problem
  elseif #text < FIXED then
    return nil
  end
  local length = lengthAt(text, 15)
  local short = command == 0x21 and family % 16 > 0 and length < lengths[bit.rshift(family, 4)]
  if short then
    return false, "too short for its addresses"
  elseif length + FIXED > most then
    return false, "too long"
  end
  return FIXED + length
end

-- A path ends with the first NUL. One that begins with a NUL is in the abstract namespace, or is none.
local function pathIn(bytes)
  local path = bytes:match "^(%z?[^%z]*)"
  return address.unix(path ~= "\0" and path or "")
end

local function readPaths(made, text)
  made.source = pathIn(text:sub(FIXED + 1, FIXED + PATH))
  made.destination = pathIn(text:sub(FIXED + PATH + 1, FIXED + 2 * PATH))
end

local function readInet(made, text, kind, size)
  local ports = FIXED + 2 * size + 1
  made.source = address.inet(kind, inet.textOf(text:sub(FIXED + 1, FIXED + size)), lengthAt(text, ports))
  made.destination =
    address.inet(kind, inet.textOf(text:sub(FIXED + size + 1, FIXED + 2 * size)), lengthAt(text, ports + 2))
end

-- The TLVs behind the addresses, and where the value of the checksum stands.
local function readTlvs(text, at)
  local tlvs, checksum = {}, nil
  while at <= #text do
    local stop = at + 2 < #text + 1 and at + 2 + lengthAt(text, at + 1)
    if not stop or stop > #text then
      return nil
    end
    local kind = text:byte(at)
    if kind == CHECKSUM then
      checksum = checksum or at + 3
    end
    tlvs[kind] = tlvs[kind] or text:sub(at + 3, stop)
    at = stop + 1
  end
  return tlvs, checksum
end

local crcs = {}
for i = 0, 255 do
  local value = i
  for _ = 1, 8 do
    value = bit.bxor(bit.rshift(value, 1), value % 2 == 1 and 0x82F63B78 or 0)
  end
  crcs[i] = value
end

-- CRC32C (RFC 4960, appendix B), in the order of the network.
local function crcOf(text)
  local value = bit.bnot(0)
  for i = 1, #text do
    value = bit.bxor(crcs[bit.band(bit.bxor(value, text:byte(i)), 255)], bit.rshift(value, 8))
  end
  value = bit.bnot(value)
  return char(
    bit.rshift(value, 24),
    bit.band(bit.rshift(value, 16), 255),
    bit.band(bit.rshift(value, 8), 255),
    bit.band(value, 255)
  )
end

--- The CRC32C of bytes, as a TLV has it.
header.checksum = crcOf

local function isIntact(text, at)
  return crcOf(text:sub(1, at - 1) .. "\0\0\0\0" .. text:sub(at + 4)) == text:sub(at, at + 3)
end

local kinds = { [0x11] = "TCP", [0x12] = "UDP", [0x21] = "TCP6", [0x22] = "UDP6" }

-- Of a whole header that `checkBinary` has found good so far. LOCAL and what is unspecified have
-- nothing to be read.
local function readBinary(text)
  local command, family = text:byte(13, 14)
  local made = { version = 2, command = command == 0x20 and "LOCAL" or "PROXY" }
  if command == 0x20 or family < 0x10 or family % 16 == 0 then
    return made
  elseif kinds[family] then
    readInet(made, text, kinds[family], family < 0x20 and 4 or 16)
  else
    readPaths(made, text)
  end
  local tlvs, checksum = readTlvs(text, FIXED + lengths[bit.rshift(family, 4)] + 1)
  if checksum and (#tlvs[CHECKSUM] ~= 4 or not isIntact(text, checksum)) then
    return false, "the checksum is wrong"
  end
  made.tlvs = tlvs
  return made
end

-- --- reading ----------------------------------------------------------------------------------

-- How many bytes the header has that begins so; nil: not known yet; false, message: it is none.
local function check(text, most)
  local size = math.min(#text, #SIGNATURE)
  if text:sub(1, size) == SIGNATURE:sub(1, size) then
    return checkBinary(text, most)
  elseif text:sub(1, 6) == ("PROXY "):sub(1, #text) then
    return checkLine(text)
  end
  return false, "it begins with neither version's signature"
end

--- Takes the pieces of a header.
---@class ProxyHeaderReader
---@field held integer bytes that it holds
local Reader = {}
Reader.__index = Reader

-- What is changed later comes from variables: compiled code may believe constants.
local function newReader(most, head, count, none)
  return setmetatable({ most = most, head = head, held = count, needed = none, pieces = none }, Reader)
end

--- A reader.
---@param most integer? bytes of the longest header that it takes: LARGEST unless given
---@return ProxyHeaderReader
function header.reader(most)
  return newReader(most or header.LARGEST, "", 0, nil)
end

-- Many small pieces become one, so that they take no more room than their bytes.
local function keep(self, data)
  local pieces = self.pieces
  pieces[#pieces + 1] = data
  if #pieces >= JOIN then
    self.pieces = { concat(pieces) }
  end
end

local function collect(self, data)
  local needed = self.needed
  self.held = self.held + #data
  keep(self, data)
  if self.held < needed then
    return nil
  end
  local text = concat(self.pieces)
  self.pieces, self.held = {}, 0
  local made, problem = (text:byte(1) == 80 and readLine or readBinary)(text:sub(1, needed))
  return made, made and text:sub(needed + 1) or problem
end

--- Takes the next piece. What is no header is known as such by its first byte that cannot be.
---@param data string
---@return ProxyHeader|false|nil header nil: more is to come; false: it is none
---@return string? rest what follows the header, or what is wrong
function Reader:feed(data)
  if self.needed then
    return collect(self, data)
  end
  local text = self.head .. data:sub(1, LINE - #self.head)
  local needed, problem = check(text, self.most)
  if needed == false then
    return false, problem
  elseif not needed then
    self.head, self.held = text, #text
    return nil
  end
  self.needed, self.pieces = needed, { self.head }
  return collect(self, data)
end

-- --- writing ----------------------------------------------------------------------------------

local internet = { TCP = "TCP4", TCP6 = "TCP6" }
local codes = { TCP = 0x11, UDP = 0x12, TCP6 = 0x21, UDP6 = 0x22, UNIX = 0x31 }
local sizes = { TCP = 4, UDP = 4, TCP6 = 16, UDP6 = 16 }

local function two(n)
  return char(math.floor(n / 256), n % 256)
end

-- A zone (`%eth0`) means nothing to anybody else.
local function hostOf(at)
  return inet.bytesOf((at.host:gsub("%%.*$", "")))
end

local function problemOf(name, at)
  if at == nil then
    return nil
  elseif type(at) ~= "table" or not codes[at.type] then
    return ("%s is an address"):format(name)
  elseif at.type == "UNIX" then
    return (type(at.path) ~= "string" or #at.path > PATH) and ("%s has no path of 108 bytes"):format(name) or nil
  end
  local bytes = type(at.host) == "string" and hostOf(at)
  if not bytes or #bytes ~= sizes[at.type] then
    return ("%s has no address of %s, but '%s'"):format(name, at.type, tostring(at.host))
  elseif type(at.port) ~= "number" or at.port % 1 ~= 0 or at.port < 0 or at.port > 65535 then
    return ("%s has no port from 0 to 65535, but %s"):format(name, tostring(at.port))
  end
  return nil
end

-- Whether there is a pair of addresses to be told; where they are of two types, there is none.
local function isPair(fields)
  local source, destination = fields.source, fields.destination
  return fields.command ~= "LOCAL" and source and destination and source.type == destination.type
end

local function writeLine(fields)
  local family = isPair(fields) and internet[fields.source.type]
  if not family then
    return "PROXY UNKNOWN\r\n"
  end
  local from, to = fields.source, fields.destination
  return ("PROXY %s %s %s %d %d\r\n"):format(
    family,
    inet.textOf(hostOf(from)),
    inet.textOf(hostOf(to)),
    from.port,
    to.port
  )
end

local function writeAddresses(from, to)
  if from.type == "UNIX" then
    return from.path .. ("\0"):rep(PATH - #from.path) .. to.path .. ("\0"):rep(PATH - #to.path)
  end
  return hostOf(from) .. hostOf(to) .. two(from.port) .. two(to.port)
end

local function writeTlvs(tlvs)
  local order, pieces = {}, {}
  for kind in pairs(tlvs) do
    order[#order + 1] = kind
  end
  table.sort(order)
  for i, kind in ipairs(order) do
    pieces[i] = char(kind) .. two(#tlvs[kind]) .. tlvs[kind]
  end
  return concat(pieces)
end

local function writeBinary(fields)
  local pair = isPair(fields)
  local body = pair and writeAddresses(fields.source, fields.destination) or ""
  body = body .. writeTlvs(fields.tlvs or {})
  local size = #body + (fields.checksum and 7 or 0)
  local command = char(fields.command == "LOCAL" and 0x20 or 0x21, pair and codes[fields.source.type] or 0)
  local text = SIGNATURE .. command .. two(size) .. body
  if not fields.checksum then
    return text
  end
  text = text .. char(CHECKSUM) .. two(4)
  return text .. crcOf(text .. "\0\0\0\0")
end

local function tlvProblem(tlvs)
  local size = 0
  for kind, value in pairs(tlvs) do
    if type(kind) ~= "number" or kind % 1 ~= 0 or kind < 0 or kind > 255 or type(value) ~= "string" then
      return "tlvs are strings by their types, numbers from 0 to 255"
    end
    size = size + 3 + #value
  end
  return size > 65535 - 2 * PATH - 7 and "the tlvs are too long" or nil
end

local allowed = { version = true, command = true, source = true, destination = true, tlvs = true, checksum = true }

--- What is wrong with the fields of a header, or nil.
---@param fields table
---@return string?
function header.problem(fields)
  if type(fields) ~= "table" then
    return ("takes a table, not a %s"):format(type(fields))
  end
  for key in pairs(fields) do
    if not allowed[key] then
      return ("knows no field '%s'"):format(tostring(key))
    end
  end
  local version, command = fields.version, fields.command
  if version ~= 1 and version ~= 2 then
    return ("version is 1 or 2, not %s"):format(tostring(version))
  elseif command ~= nil and command ~= "PROXY" and command ~= "LOCAL" then
    return ('command is "PROXY" or "LOCAL", not %s'):format(tostring(command))
  elseif version == 1 and (fields.tlvs or fields.checksum) then
    return "version 1 has neither tlvs nor a checksum"
  elseif fields.tlvs ~= nil and type(fields.tlvs) ~= "table" then
    return "tlvs are a table"
  end
  return problemOf("source", fields.source)
    or problemOf("destination", fields.destination)
    or fields.tlvs and tlvProblem(fields.tlvs)
    or nil
end

--- The bytes of a header. Addresses that its version has no word for (or none, or two of different
--- types) are told as unknown.
---@param fields ProxyHeader of which `header.problem` finds nothing wrong
---@return string
function header.write(fields)
  return fields.version == 1 and writeLine(fields) or writeBinary(fields)
end

return header
