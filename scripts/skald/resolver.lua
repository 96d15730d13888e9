-- Host names to addresses, off the loop: what /etc/hosts says, then the name servers of
-- /etc/resolv.conf, or those of SKALD_RESOLVER ("127.0.0.1:5353,[::1]:53").
--
-- `lookup` is for who connects (RFC 8305): IPv6 and IPv4 are asked for at once, and each is told of
-- by itself, as soon as its answer has come.
--
--     local lookup = resolver.lookup(name, function(kind, hosts, message, code, last)
--       add(kind, hosts or {})
--       if last and nothing has come at all then fail(message, code)    -- the word about both
--       elseif last or kind == "TCP6" and hosts then begin, if not begun
--       elseif hosts then begin 0.05 s from now end                     -- IPv6 may still come
--     end)
--     lookup:cancel() -- nothing is told any more
--
-- `resolve` waits for both and gives a Deferred of one list.
--
-- At most MOST look-ups are under way; others wait, first come, first served, at most WAITING of
-- them. A time-out counts from the request on, waiting included. No answer is kept for later.

local core = require "skald.core"
local log = require "skald.log"
local owner = require "skald.owner"
local timers = require "skald.timers"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local resolver = {
  MOST = 256,
  WAITING = 10000,
  TIMEOUT = 15, -- seconds
}

-- Seconds of one turn that starting look-ups and telling of those that timed out may take, one at least: each start
-- reads files, and hundreds may have the same deadline.
local SLICE = 0.001

-- enum lookup_family of host/io/resolver.h
local numbers = { TCP6 = 1, TCP = 2 }
local kinds = { "TCP6", "TCP" }

local texts = {
  EBADNAME = "not a host name",
  ECONNREFUSED = "no name server answers",
  EFILE = "a file of the system's cannot be read",
  ENOBUFS = "too many look-ups are waiting",
  ENODATA = "the name has no address",
  ENOMEM = "out of memory",
  ENOTFOUND = "no such name",
  ENOTIMP = "the name server does not know how",
  EREFUSED = "the name server refused",
  ESERVFAIL = "the name server failed, or refused",
  ETIMEOUT = "no answer in time",
}

local flying = {} -- look-ups under way, by their handles
local flights = 0
local first, last -- of those that wait: a list, doubly linked
local waiting = 0
local expired, told = {}, 0 -- a queue of those that timed out, and how many of it were told so
local pumping -- a turn was asked for, to go on with all that
local buffer, handleBuffer = core.addressBuffer(), ffi.new "double[1]"

-- --- problems ---------------------------------------------------------------------------------

local Problem = {}
Problem.__index = Problem

function Problem:__tostring()
  return self.message
end

---@class DNSLookupError
---@field type "DNSLookupError"
---@field message string
---@field code string ENOTFOUND, ENODATA, ETIMEOUT, ESERVFAIL, EREFUSED, ECONNREFUSED, EBADNAME, ENOBUFS, EMFILE …
---@field name string
local function problemOf(name, message, code)
  return setmetatable({ type = "DNSLookupError", message = message, code = code, name = name }, Problem)
end

local function newProblem(name, code, text)
  text = text or texts[code] or "the name server's answer makes no sense"
  return problemOf(name, ("cannot resolve '%s': %s"):format((name:gsub("%c", "?")), text), code)
end

-- Which of two problems says more: whether a name has no address is known only where nothing else went wrong.
local ranks = { ENOTFOUND = 1, ENODATA = 2 }

local function worse(a, b)
  return a and (ranks[a.code] or 3) >= (ranks[b.code] or 3) and a or b
end

-- --- names and servers ------------------------------------------------------------------------

--- The address that a text is already (IPv4, IPv6, with a zone), or nil.
---@param text string
---@return { type: "TCP"|"TCP6", host: string }?
function resolver.literal(text)
  if text:find("\0", 1, true) or C.skald_canonical(text, buffer) ~= 0 then
    return nil
  end
  return { type = ffi.string(buffer.kind), host = ffi.string(buffer.text) }
end

local function isHostName(name)
  if name:find "[^%w%-_.]" or #name > 254 then
    return false
  end
  for label in (name:gsub("%.$", "") .. "."):gmatch "([^.]*)%." do
    if #label == 0 or #label > 63 then
      return false
    end
  end
  return true
end

-- All names below localhost are this machine, and no server is asked for them.
local function asked(name)
  local plain = name:lower():gsub("%.$", "")
  return (plain == "localhost" or plain:find "%.localhost$") and "localhost" or name
end

local function serverOf(piece)
  local host, port = piece:match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then
    host, port = piece:match "^([%d.]+):(%d+)$"
  end
  host, port = host or piece, tonumber(port ~= "" and port or 53)
  if host:find("%", 1, true) or not C.skald_is_address(host) or port < 1 or port > 65535 then
    return nil
  end
  return (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
end

local function serversOf(text)
  local list = {}
  for piece in (text .. ","):gmatch "%s*([^,]-)%s*," do
    local server = serverOf(piece)
    if not server then
      return nil
    end
    list[#list + 1] = server
  end
  return table.concat(list, ",")
end

local known -- what SKALD_RESOLVER says: `servers`, or `problem`

-- Read once, when the first look-up starts.
local function readServers()
  known = {}
  local text = os.getenv "SKALD_RESOLVER"
  if not text or text == "" then
    return
  end
  known.servers = serversOf(text)
  if not known.servers then
    known.problem = ("SKALD_RESOLVER is '%s', not a list such as 127.0.0.1:5353,[::1]:53"):format(text)
    log.error("%s: no name can be resolved", known.problem)
  end
end

-- --- one look-up ------------------------------------------------------------------------------

---@class Lookup
---@field name string
---@field onFamily function? until it is over
---@field wanted table<"TCP6"|"TCP", true> what has not been told
---@field handle number? while it is under way
---@field waits boolean? while it waits
local Lookup = {}
Lookup.__index = Lookup

local pump

local function wake()
  if not pumping and (#expired > 0 or waiting > 0 and flights < resolver.MOST) then
    pumping = timers.own(0, pump)
  end
end

local function enqueue(lookup)
  lookup.waits, lookup.previous = true, last
  if last then
    last.next = lookup
  else
    first = lookup
  end
  last = lookup
  waiting = waiting + 1
end

local function dequeue(lookup)
  local before, after = lookup.previous, lookup.next
  if before then
    before.next = after
  else
    first = after
  end
  if after then
    after.previous = before
  else
    last = before
  end
  lookup.waits, lookup.previous, lookup.next = nil, nil, nil
  waiting = waiting - 1
end

-- Its place is free.
local function land(lookup)
  flying[lookup.handle] = nil
  lookup.handle = nil
  flights = flights - 1
  wake()
end

-- Nothing more is to come: its place is given up.
local function release(lookup)
  lookup.onFamily = nil
  lookup.timer:cancel()
  if lookup.waits then
    dequeue(lookup)
  elseif lookup.handle then
    C.skald_lookup_cancel(pointer, lookup.handle)
    land(lookup)
  end
end

local function disown(lookup)
  local who = lookup.owner
  lookup.owner = nil
  if who then
    who:remove(lookup)
  end
end

-- The place is given up before the last is told of, so that what is asked for then finds it.
local function tell(lookup, kind, hosts, problem)
  local onFamily, who = lookup.onFamily, lookup.owner
  lookup.wanted[kind] = nil
  local isLast = next(lookup.wanted) == nil
  if problem then
    lookup.problem = worse(lookup.problem, problem)
    problem = isLast and lookup.problem or problem
  end
  if isLast then
    release(lookup)
  end
  local message, code = problem and problem.message, problem and problem.code
  local ok, text = owner.call(who, core.traceback, onFamily, kind, hosts, message, code, isLast)
  if not ok then
    log.error("%s", text)
  end
  if isLast then
    disown(lookup)
  end
end

-- Tells the same of all that has not been told of.
local function tellAll(lookup, problem)
  for _, kind in ipairs(kinds) do
    if lookup.onFamily and lookup.wanted[kind] then
      tell(lookup, kind, nil, problem)
    end
  end
end

--- Ends it: nothing is told any more.
---@return boolean? ok nil, message, code when it was over before
---@return string? message
---@return string? code
function Lookup:cancel()
  if not self.onFamily then
    return nil, "already over", "EALREADY"
  end
  release(self)
  disown(self)
  return true
end

--- The same, by an owner that ends.
Lookup.finish = Lookup.cancel

local function expire(lookup)
  expired[#expired + 1] = lookup
  wake()
end

-- Unless it has ended otherwise meanwhile.
local function tellExpired()
  told = told + 1
  local lookup = expired[told]
  if told == #expired then
    expired, told = {}, 0
  end
  if lookup.onFamily then
    tellAll(lookup, newProblem(lookup.name, "ETIMEOUT"))
  end
end

local function tellLiteral(lookup, address)
  for _, kind in ipairs(kinds) do
    if lookup.onFamily and lookup.wanted[kind] then
      if kind == address.type then
        tell(lookup, kind, { address.host })
      else
        tell(lookup, kind, nil, newProblem(lookup.name, "ENODATA"))
      end
    end
  end
end

-- --- all of them ------------------------------------------------------------------------------

local function launch(lookup)
  dequeue(lookup)
  if not known then
    readServers()
  end
  if known.problem then
    return tellAll(lookup, newProblem(lookup.name, "EINVAL", known.problem))
  end
  local families = 0
  for kind in pairs(lookup.wanted) do
    families = families + numbers[kind]
  end
  local errno = C.skald_lookup_start(pointer, asked(lookup.name), families, known.servers, handleBuffer)
  if errno ~= 0 then
    local text, code = core.errorOf(errno)
    return tellAll(lookup, newProblem(lookup.name, code, text))
  end
  lookup.handle = handleBuffer[0]
  flying[lookup.handle] = lookup
  flights = flights + 1
end

-- Goes on for a slice: first with those that timed out, whose places may serve others.
function pump()
  pumping = nil
  local ends = C.skald_seconds(pointer) + SLICE
  repeat
    if #expired > 0 then
      tellExpired()
    elseif first and flights < resolver.MOST then
      launch(first)
    else
      break
    end
  until C.skald_seconds(pointer) > ends
  wake()
end

local function hostsOf(handle)
  local list = {}
  while C.skald_lookup_next(pointer, handle, buffer) do
    list[#list + 1] = ffi.string(buffer.text)
  end
  return list
end

--- A family of a look-up has ended: the core says so.
function resolver.resolved(handle, family, code)
  local lookup, kind = flying[handle], kinds[family]
  if code then
    tell(lookup, kind, nil, newProblem(lookup.name, code))
  else
    tell(lookup, kind, hostsOf(handle))
  end
end

local function checkOptions(what, name, options, level)
  if type(name) ~= "string" then
    error(("%s takes a name, not a %s"):format(what, type(name)), level)
  end
  if options ~= nil and type(options) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(what, type(options)), level)
  end
  for key in pairs(options or {}) do
    if key ~= "timeout" and key ~= "family" then
      error(("%s knows no option '%s'"):format(what, tostring(key)), level)
    end
  end
  local seconds, family = options and options.timeout, options and options.family
  if seconds ~= nil and (type(seconds) ~= "number" or not (seconds >= 0 and seconds < math.huge)) then
    error(("%s: timeout takes seconds, a number from 0, not %s"):format(what, tostring(seconds)), level)
  end
  if family ~= nil and not numbers[family] then
    error(("%s: family is TCP or TCP6, not %s"):format(what, tostring(family)), level)
  end
  return seconds or resolver.TIMEOUT, family
end

local function newLookup(name, onFamily, family)
  return setmetatable({
    name = name,
    onFamily = onFamily,
    wanted = family and { [family] = true } or { TCP6 = true, TCP = true },
    owner = owner.current,
  }, Lookup)
end

-- Told in the next turn what is known already, or started then; never within the call.
local function begin(lookup, seconds)
  local address = resolver.literal(lookup.name)
  if address then
    lookup.timer = timers.own(0, tellLiteral, lookup, address)
  elseif not isHostName(lookup.name) then
    lookup.timer = timers.own(0, tellAll, lookup, newProblem(lookup.name, "EBADNAME"))
  elseif waiting >= resolver.WAITING then
    return false
  else
    lookup.timer = timers.own(seconds, expire, lookup)
    enqueue(lookup)
    wake()
  end
  return true
end

--- Looks a name up. `onFamily(kind, hosts, message, code, last)` is called once for each family ("TCP6", "TCP"), never
--- within this call: with a list of IP addresses, or with nil and why there is none. `last` is true the last time; the
--- message and code are then those of the whole look-up, where neither family has an address.
---@param name string a host name, or an address
---@param onFamily fun(kind: "TCP6"|"TCP", hosts: string[]?, message: string?, code: string?, last: boolean)
---@param options? { timeout: number?, family: "TCP6"|"TCP"|nil } 15 seconds; both families
---@return Lookup? lookup nil, message, code (ENOBUFS) when too many wait
---@return string? message
---@return string? code
function resolver.lookup(name, onFamily, options)
  local seconds, family = checkOptions("lookup", name, options, 3)
  if type(onFamily) ~= "function" then
    error(("lookup takes a function, not a %s"):format(type(onFamily)), 2)
  end
  local lookup = newLookup(name, onFamily, family)
  if not begin(lookup, seconds) then
    local problem = newProblem(name, "ENOBUFS")
    return nil, problem.message, problem.code
  end
  local who = lookup.owner
  if who and not who.ended then
    who:add(lookup)
  end
  return lookup
end

-- IPv6 first.
local function join(found)
  local list = {}
  for _, kind in ipairs(kinds) do
    for _, text in ipairs(found[kind] or {}) do
      list[#list + 1] = { type = text:find(":", 1, true) and "TCP6" or "TCP", host = text } -- mapped IPv4 is IPv4
    end
  end
  return list
end

--- Looks a name up, and waits for both families: what one of them has is enough. An address is answered at once.
---@param name string a host name, or an address
---@param options? { timeout: number?, family: "TCP6"|"TCP"|nil }
---@return Deferred d of a list of `{ type = "TCP6"|"TCP", host = }`, IPv6 first; fails with a DNSLookupError
function resolver.resolve(name, options)
  local _, family = checkOptions("resolve", name, options, 3)
  local defer = require "skald.defer"
  local address = resolver.literal(name)
  if address and (not family or family == address.type) then
    return defer.succeed { address }
  end
  local found, lookup = {}, nil
  local deferred = defer.Deferred:new(function()
    lookup:cancel()
  end)
  lookup = resolver.lookup(name, function(kind, hosts, message, code, isLast)
    found[kind] = hosts
    if isLast and next(found) then
      deferred:callback(join(found))
    elseif isLast then
      deferred:errback(problemOf(name, message, code))
    end
  end, options)
  if not lookup then
    deferred:errback(newProblem(name, "ENOBUFS"))
  end
  return deferred
end

return resolver
