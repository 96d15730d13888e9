-- A DNS server that answers from a Lua table, over UDP and TCP (RFC 1034, 1035, EDNS of RFC 6891).
--   skald run dns listen=udp:127.0.0.1:5353 zone=zone.lua
--   dig @127.0.0.1 -p 5353 www.example.test
-- zone= names a file that returns a table like `example` below; `skald reload --force` reads it again. The
-- names with a SOA are the zones; what is below none of them is refused. No delegations, no wildcards, no transfers.
-- TCP has the same address and port, unless tcp=ENDPOINT names another.

local basic = require "skald.basic"
local inet = require "skald.inet"
local protocol = require "skald.protocol"

local options = ...

local example = {
  ["example.test"] = {
    ttl = 300, -- seconds; of names that do not say, it is the zone's
    SOA = { "ns.example.test", "hostmaster.example.test", 1, 7200, 900, 1209600, 300 },
    NS = { "ns.example.test" },
    A = { "192.0.2.1", "192.0.2.2" },
    AAAA = { "2001:db8::1" },
    MX = { { 10, "mail.example.test" } },
    TXT = { "v=spf1 mx -all" },
  },
  ["www.example.test"] = { CNAME = "example.test" },
  ["ns.example.test"] = { A = { "192.0.2.3" } },
  ["mail.example.test"] = { A = { "192.0.2.4" }, ttl = 60 },
}

-- --- the table as bytes -----------------------------------------------------------------------

local UDP_SIZE = 1232 -- the most that is sent in a datagram: more may be cut on its way
local SMALL = 512 -- to those who say nothing of EDNS

local function int16(n)
  return string.char(math.floor(n / 256) % 256, n % 256)
end

local function int32(n)
  return int16(math.floor(n / 65536)) .. int16(n % 65536)
end

-- A name as it is sent: each label behind its length, a zero at the end.
local function wireName(name)
  local labels = {}
  for label in name:gmatch "[^.]+" do
    if #label > 63 then
      error(("'%s' has a label of more than 63 bytes"):format(name), 0)
    end
    labels[#labels + 1] = string.char(#label) .. label
  end
  local bytes = table.concat(labels) .. "\0"
  if #bytes > 255 then
    error(("'%s' is longer than 255 bytes"):format(name), 0)
  end
  return bytes
end

local function addressOf(size)
  return function(text)
    local bytes = inet.bytesOf(text)
    if not bytes or #bytes ~= size then
      error(("'%s' is no such address"):format(text), 0)
    end
    return bytes
  end
end

-- For each type its number, and what makes the bytes of a record from what the table has.
local types = {
  A = { number = 1, encode = addressOf(4) },
  NS = { number = 2, encode = wireName },
  CNAME = { number = 5, encode = wireName },
  SOA = { number = 6 },
  PTR = { number = 12, encode = wireName },
  MX = { number = 15 },
  TXT = { number = 16 },
  AAAA = { number = 28, encode = addressOf(16) },
}
local CNAME, OPT, ANY = types.CNAME.number, 41, 255
local HEADER = 12
local IN = "\0\1" -- the class of them all
local OWNER = "\192\12" -- the name of the question, where it stands in the message

function types.SOA.encode(soa)
  local numbers = {}
  for i = 3, 7 do
    numbers[i - 2] = int32(soa[i])
  end
  return wireName(soa[1]) .. wireName(soa[2]) .. table.concat(numbers)
end

function types.MX.encode(mx)
  return int16(mx[1]) .. wireName(mx[2])
end

-- Texts of more than 255 bytes are sent as several.
function types.TXT.encode(text)
  local pieces = {}
  for at = 1, math.max(#text, 1), 255 do
    local piece = text:sub(at, at + 254)
    pieces[#pieces + 1] = string.char(#piece) .. piece
  end
  return table.concat(pieces)
end

-- A record without the name that it is of.
local function record(number, ttl, data)
  return int16(number) .. IN .. int32(ttl) .. int16(#data) .. data
end

-- A name may have one record of a type, or a list of them.
local function listOf(kind, value)
  local single = type(value) ~= "table" or kind == "SOA" or kind == "MX" and type(value[1]) == "number"
  return single and { value } or value
end

-- The records of a name by the numbers of their types.
local function recordsOf(entry, ttl)
  local records = {}
  for kind, value in pairs(entry) do
    local known = types[kind]
    if not known and kind ~= "ttl" then
      error(("there is no type %s here"):format(tostring(kind)), 0)
    elseif known then
      local list = {}
      for i, one in ipairs(listOf(kind, value)) do
        list[i] = record(known.number, ttl, known.encode(one))
      end
      records[known.number] = list
    end
  end
  return records
end

-- The ends of a wire name, from itself on to the root.
local function ends(wire)
  local at = 1
  return function()
    local from = at
    if from > #wire then
      return nil
    end
    at = at + wire:byte(at) + 1
    return wire:sub(from)
  end
end

-- Appends the records of a name to `out`; a CNAME is followed while that leads to names of ours.
local function collect(out, names, found, wanted)
  local owner, count = OWNER, 0
  for _ = 1, 8 do
    local list = found.records[wanted]
    local alias = not list and found.records[CNAME]
    for _, one in ipairs(list or alias or {}) do
      out[#out + 1] = owner
      out[#out + 1] = one
      count = count + 1
    end
    owner = alias and alias[1]:sub(11) -- behind type, class, time and length stands the name
    found = owner and names[owner:lower()]
    if not found then
      break
    end
  end
  return count
end

-- An OPT record with the upper bits of the code: 1 is BADVERS.
local function opt(code)
  return "\0\0\41" .. int16(UDP_SIZE) .. string.char(code) .. "\0\0\0\0\0"
end

local plainOpt, badVersion = opt(0), opt(1)

local COUNTS = 7 -- bytes of them but the last, which counts an OPT record

-- What stands in a message before the question and behind it, as one string: tables would take five times the
-- memory, and what is out of the cache is most of what an answer costs. `ofZone` counts what is no answer, but
-- told of the zone.
local function newAnswer(count, ofZone, bytes)
  return "\0\1" .. int16(count) .. int16(ofZone) .. "\0" .. bytes
end

-- The answer for one type, or nil where there is nothing.
local function answerOf(names, found, wanted)
  local out = {}
  local count = collect(out, names, found, wanted)
  return count > 0 and newAnswer(count, 0, table.concat(out)) or nil
end

-- All answers are made now, so that none is to be made when somebody asks. Whoever asks for everything gets
-- something (RFC 8482): all there is would serve those who forge addresses.
local function addAnswers(answers, names, wire, found)
  for _, known in pairs(types) do
    answers[wire .. int16(known.number) .. IN] = answerOf(names, found, known.number)
  end
  answers[wire .. int16(ANY) .. IN] = answerOf(names, found, next(found.records) or CNAME)
  found.alias = found.records[CNAME] and answerOf(names, found, 0)
end

local function addSoa(found)
  local soa = found.entry.SOA
  if soa then
    found.ttl = found.entry.ttl or 3600
    found.soa = record(types.SOA.number, math.min(found.ttl, soa[7]), types.SOA.encode(soa))
  end
end

-- The zone of a name, and by their names those above it that are there only since this one is.
local function place(names, wire, found, between)
  for suffix in ends(wire) do
    local above = names[suffix]
    if above and above.soa then
      found.zone = suffix
      break
    end
  end
  if not found.zone then
    error(("'%s' is in no zone: no name above it has a SOA"):format(found.name), 0)
  end
  for suffix in ends(wire) do
    if suffix == found.zone then
      break
    end
    between[suffix] = { zone = found.zone, records = {} }
  end
end

-- The answers by their questions, as those come but in small letters; and the names: `zone`, `alias`, the
-- answer for types that we do not know, and of a zone's own name `soa`, the record for what is not there.
local function compile(zone)
  local names, between = {}, {}
  for name, entry in pairs(zone) do
    local found = { name = name, entry = entry }
    names[wireName(name:lower())] = found
    addSoa(found)
  end
  for wire, found in pairs(names) do
    place(names, wire, found, between)
    found.records = recordsOf(found.entry, found.entry.ttl or names[found.zone].ttl)
  end
  for wire, found in pairs(between) do
    names[wire] = names[wire] or found
  end
  local answers = {}
  for wire, found in pairs(names) do
    addAnswers(answers, names, wire, found)
  end
  for wire, found in pairs(names) do
    names[wire] = { zone = found.zone, alias = found.alias, soa = found.soa }
  end
  return answers, names
end

local function load()
  if not options.zone then
    return compile(example)
  end
  local chunk, problem = loadfile(options.zone)
  local zone = chunk and setfenv(chunk, {})() or error(problem or "the zone is no table", 0)
  return compile(zone)
end

local answers, names = load()

-- --- questions and answers --------------------------------------------------------------------

local NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
local transfers = { [int16(251)] = true, [int16(252)] = true } -- IXFR, AXFR: of whole zones
local empty = newAnswer(0, 0, "")

-- The zone of a name that is not in the table; nil where it is in none, or is no name. The pattern, which
-- LuaJIT does not compile, keeps this loop out of the compiled code for names that are there.
local function zoneAbove(wire)
  local at, zone = 1, nil
  while wire:find("^[\1-\63]", at) do
    local above = not zone and names[wire:sub(at)]
    zone = above and above.zone or zone
    at = at + wire:byte(at) + 1
  end
  return at == #wire and zone or nil
end

-- What the OPT record behind the question says: the size that the client takes, and the version; nil where
-- there is none.
local function readOpt(data, at)
  local root, high, low, size1, size2, _, version = data:byte(at, at + 6)
  if version and root == 0 and high * 256 + low == OPT then
    return math.max(size1 * 256 + size2, SMALL), version
  end
end

local function refuse(data, code)
  local _, _, high = data:byte(1, 3)
  return data:sub(1, 2) .. string.char(128 + high % 128 - high % 8 + high % 2, code) .. ("\0"):rep(8)
end

-- What is not there is told with the zone's SOA. The zone is an end of the name that was asked for.
local function nothing(wire, zone)
  return newAnswer(0, 1, int16(0xC000 + HEADER + #wire - #zone) .. names[zone].soa)
end

-- What no answer was made for: the code, and the answer.
local function answerFor(question)
  local wire = question:sub(1, -5):lower()
  local found = names[wire]
  if question:sub(-2) ~= IN or transfers[question:sub(-4, -3)] then
    return REFUSED, empty
  elseif found then
    return NOERROR, found.alias or nothing(wire, found.zone)
  end
  local zone = zoneAbove(wire)
  if zone then
    return NXDOMAIN, nothing(wire, zone)
  end
  return REFUSED, empty
end

-- The answer to a question that ends at `stop`. In a datagram it is cut where it is longer than the client
-- takes: it comes again by TCP then.
local function answerQuestion(data, stop, isDatagram)
  local question, code = data:sub(HEADER + 1, stop), NOERROR
  local made = answers[question] or answers[question:lower()]
  local size, version = readOpt(data, stop + 1)
  local extra, extras = size and plainOpt or "", size and "\1" or "\0"
  if version and version > 0 then
    made, extra = empty, badVersion
  elseif not made then
    code, made = answerFor(question)
  end
  local id1, id2, flags = data:byte(1, 3)
  flags = flags % 2 + (code == REFUSED and 128 or 132)
  local limit = isDatagram and math.min(size or SMALL, UDP_SIZE) or 65535
  if HEADER + #question + #made - COUNTS + #extra > limit then
    flags, made = flags + 2, empty
  end
  -- one expression, so that the compiler copies the parts and makes no strings of them
  return string.char(id1, id2, flags, code)
    .. made:sub(1, COUNTS)
    .. extras
    .. question
    .. made:sub(COUNTS + 1)
    .. extra
end

-- The answer to a message. Nil: none is due.
local function answer(data, isDatagram)
  local _, _, high, _, questions1, questions2 = data:byte(1, 6)
  if #data < HEADER or high >= 128 then
    return nil -- no question: an answer to one would go back and forth for ever
  elseif high >= 8 then
    return refuse(data, NOTIMP)
  end
  -- the first zero ends the name, unless there is one within a label, as in no name that we have
  local zero = data:find("\0", HEADER + 1, true)
  if not zero or #data < zero + 4 or questions1 * 256 + questions2 ~= 1 then
    return refuse(data, FORMERR)
  end
  return answerQuestion(data, zero + 4, isDatagram)
end

-- --- the carriers -----------------------------------------------------------------------------

local Datagrams = protocol.DatagramProtocol {}

function Datagrams:datagramReceived(data, address)
  local reply = answer(data, true)
  if reply then
    self.transport:write(reply, address)
  end
end

-- Over TCP each message stands behind its length.
local Stream = basic.Int16StringReceiver {}

function Stream:stringReceived(data)
  local reply = answer(data, false)
  if reply then
    self:sendString(reply)
  else
    self.transport:loseConnection()
  end
end

local listen = options.listen or "udp:127.0.0.1:5353"

return {
  { name = "dns", listen = listen, protocol = Datagrams },
  {
    name = "dns-tcp",
    listen = options.tcp or listen:gsub("^udp:", "tcp:"),
    protocol = Stream,
    idleTimeout = 10,
    maxConnections = 1000,
    maxBuffered = 4 * 1024 * 1024,
  },
}
