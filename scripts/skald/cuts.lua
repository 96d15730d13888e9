-- Whether a protocol does the same however its input is cut. Pure.

local class = require "skald.class"
local stringtransport = require "skald.stringtransport"

local cuts = {}

--- Cuts a string into pieces.
---@param bytes string
---@param n integer bytes of each piece; the last one may be shorter
---@return string[]
function cuts.chunks(bytes, n)
  if type(bytes) ~= "string" then
    error(("chunks takes a string, not a %s"):format(type(bytes)), 2)
  elseif type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
    error(("chunks takes a number of bytes from 1, not %s"):format(tostring(n)), 2)
  end
  local pieces = {}
  for at = 1, #bytes, n do
    pieces[#pieces + 1] = bytes:sub(at, at + n - 1)
  end
  return pieces
end

-- --- values as text ---------------------------------------------------------------------------

local show

local function showTable(value, depth)
  if depth == 0 then
    return "{…}"
  end
  local parts = {}
  for key, item in pairs(value) do
    parts[#parts + 1] = ("[%s]=%s"):format(show(key, 0), show(item, depth - 1))
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

-- The same for equal values: where two things cannot be compared, only what they are.
function show(value, depth)
  local kind = type(value)
  if kind == "string" then
    return (("%q"):format(value):gsub("\\\n", "\\n"))
  elseif kind == "number" or kind == "boolean" or kind == "nil" then
    return tostring(value)
  elseif kind == "table" and not class.of(value) then
    return showTable(value, depth or 3)
  end
  return "a " .. kind
end

local LONG = 60

local function short(text)
  return #text > LONG and text:sub(1, LONG) .. "…" or text
end

-- --- what a protocol does ---------------------------------------------------------------------

-- Cut anywhere, as they say: successive ones are one. A raw chunk may hold what comes behind the raw data.
local isStream = { dataReceived = true, rawDataReceived = true }

local always = { readConnectionLost = true, writeConnectionLost = true, timeoutConnection = true }

local function isRecorded(name)
  local fits = name:find "Received$" or name:find "Exceeded$" or name:find "^proto_" or always[name]
  return fits and name ~= "dataReceived"
end

-- Its functions, and those of its classes.
local function namesOf(made)
  local names, methods = {}, made
  while type(methods) == "table" do
    for key, value in pairs(methods) do
      if type(key) == "string" and type(value) == "function" and isRecorded(key) then
        names[key] = true
      end
    end
    local meta = getmetatable(methods)
    methods = type(meta) == "table" and rawget(meta, "__index")
  end
  return names
end

-- What a limit is exceeded by may depend on how much has come.
local function textOf(name, ...)
  local texts = {}
  for i = 1, name:find "Exceeded$" and 0 or select("#", ...) do
    texts[i] = show((select(i, ...)))
  end
  return ("%s(%s)"):format(name, table.concat(texts, ", "))
end

local function note(trace, name, ...)
  local last = trace.last
  if not isStream[name] then
    last = { name = name, text = textOf(name, ...) }
    table.insert(trace.calls, last)
  elseif not last or last.name ~= name then
    last = { name = name, pieces = { name == "dataReceived" and ... or nil } }
    table.insert(trace.calls, last)
  elseif name == "dataReceived" then
    table.insert(last.pieces, (...))
  end
  trace.last = last
end

-- Looked up at each call: the class may change.
local function record(made, name, trace)
  local own = rawget(made, name)
  local meta = getmetatable(made)
  local methods = type(meta) == "table" and meta.__index or {}
  made[name] = function(self, ...)
    note(trace, name, ...)
    local f = own or methods[name]
    if f then
      return f(self, ...)
    end
  end
end

local function observe(made, trace, options)
  local inner = made
  while inner.wrappedProtocol do
    inner = inner.wrappedProtocol
  end
  local names = namesOf(inner)
  if options.callbacks then
    names = {}
    for _, name in ipairs(options.callbacks) do
      names[name] = true
    end
  end
  for name in pairs(names) do
    record(inner, name, trace)
  end
  return inner
end

local function recordEnd(made, trace)
  local own, meta = rawget(made, "connectionLost"), getmetatable(made)
  local methods = type(meta) == "table" and meta.__index or {}
  made.connectionLost = function(self, reason)
    trace.code = reason.code
    trace.ending = ("%s by %s (%s)"):format(reason.code, reason.by, reason.message)
    local f = own or methods.connectionLost
    if f then
      return f(self, reason)
    end
  end
end

local function feedAll(made, bytes, positions, options)
  local from = 1
  for _, position in ipairs(positions) do
    stringtransport.feed(made, bytes:sub(from, position))
    from = position + 1
  end
  stringtransport.feed(made, bytes:sub(from))
  if options.after then
    options.after(made)
    stringtransport.turn(made)
  end
  if options.finish ~= false then
    stringtransport.finish(made)
  end
end

-- What was noted becomes texts that can be compared.
local function close(trace, made, inner)
  for i, call in ipairs(trace.calls) do
    trace.calls[i] = call.text or ("%s(%s)"):format(call.name, show(table.concat(call.pieces)))
  end
  trace.output = made.transport:value()
  local state = inner.state
  trace.state = (type(state) == "string" or type(state) == "number") and tostring(state) or "none"
  trace.all = table.concat(trace.calls, "\n")
  return trace
end

-- Its fields come from variables: compiled, a constant of a constructor may be taken for what is in the table
-- later.
local function newTrace(calls, open, none)
  return { calls = calls, ending = open, code = none, last = none, raised = none, output = none, state = none }
end

-- What a fresh protocol does with bytes that are cut at these positions.
local function run(make, bytes, positions, options)
  local trace = newTrace({}, "it is open", false)
  local made = make(function(name, ...)
    note(trace, tostring(name), ...)
  end)
  if type(made) ~= "table" or class.is(made) then
    error("everyCut: make() gives a protocol: an instance, not a " .. (class.is(made) and "class" or type(made)), 0)
  end
  local inner = observe(made, trace, options)
  recordEnd(made, trace)
  made:makeConnection(stringtransport.StringTransport:new(options.transport))
  local ok, problem = pcall(feedAll, made, bytes, positions, options)
  if not ok then
    trace.raised = tostring(problem)
  end
  return close(trace, made, inner)
end

-- --- differences ------------------------------------------------------------------------------

local function compareCalls(uncut, trace)
  for i = 1, math.max(#uncut.calls, #trace.calls) do
    local a, b = uncut.calls[i], trace.calls[i]
    if a ~= b then
      return ("callback %d is %s; uncut it is %s"):format(i, short(b or "none"), short(a or "none"))
    end
  end
end

-- Ends that drop what is queued: how much that is depends on the cut.
local drops = { error = true, aborted = true, limit = true }

local function compareOutputs(uncut, trace)
  local a, b, at = uncut.output, trace.output, 1
  local least = math.min(#a, #b)
  if a == b or drops[trace.code] and a:sub(1, least) == b:sub(1, least) then
    return nil
  end
  while a:byte(at) == b:byte(at) do
    at = at + 1
  end
  return ("the output differs from byte %d on: %s; uncut it is %s"):format(at, short(show(b:sub(at))),
    short(show(a:sub(at))))
end

local function difference(uncut, trace)
  if trace.all ~= uncut.all then
    return compareCalls(uncut, trace)
  elseif trace.raised ~= uncut.raised then
    return ("it raises %s; uncut %s"):format(tostring(trace.raised or "nothing"), tostring(uncut.raised or "nothing"))
  elseif trace.ending ~= uncut.ending then
    return ("the end is: %s; uncut: %s"):format(trace.ending, uncut.ending)
  elseif trace.state ~= uncut.state then
    return ("the state is %s at the end; uncut it is %s"):format(trace.state, uncut.state)
  end
  return compareOutputs(uncut, trace)
end

local function describe(bytes, positions)
  local places, from, pieces = {}, 1, {}
  for i = 1, math.min(#positions, 8) do
    places[i] = positions[i]
    pieces[i] = short(show(bytes:sub(from, positions[i])))
    from = positions[i] + 1
  end
  local more = #positions > 8
  pieces[#pieces + 1] = more and "…" or short(show(bytes:sub(from)))
  return ("cut behind byte %s%s (%s)"):format(table.concat(places, ", "), more and ", …" or "",
    table.concat(pieces, " | "))
end

-- --- every cut --------------------------------------------------------------------------------

local MOST_PAIRS = 4096 -- of two pieces; of a longer text as many, evenly spread
local SHORT = 40 -- bytes, up to which every cut in three is tried
local ROUNDS = 50 -- at random

local function everyByte(length)
  local positions = {}
  for i = 1, length - 1 do
    positions[i] = i
  end
  return positions
end

-- The same numbers everywhere: a cut that fails, fails again.
local function generator(seed)
  local value = seed % 2147483646 + 1
  return function(most)
    value = value * 16807 % 2147483647
    return 1 + value % most
  end
end

local function randomCut(length, longest, random)
  local positions, at = {}, random(longest)
  while at < length do
    positions[#positions + 1] = at
    at = at + random(longest)
  end
  return positions
end

-- Calls `try(positions)` for each cut, until it gives something.
local function eachCut(length, options, try)
  local random = generator(options.seed or 1)
  local stride, found = math.max(1, length / MOST_PAIRS), nil
  for at = 1, length - 1, stride do
    found = found or try { math.floor(at) }
  end
  for first = 1, length <= SHORT and length - 2 or 0 do
    for second = first + 1, length - 1 do
      found = found or try { first, second }
    end
  end
  found = found or try(everyByte(length))
  for i = 1, options.rounds or ROUNDS do
    found = found or try(randomCut(length, math.max(2, math.ceil(length * i / ROUNDS / 2)), random))
  end
  return found
end

local known = {
  callbacks = "table", after = "function", finish = "boolean", transport = "table", seed = "number", rounds = "number",
}

local function needArguments(make, bytes, options, level)
  if type(make) ~= "function" then
    error(("everyCut takes a function that makes a protocol, not a %s"):format(type(make)), level + 1)
  elseif type(bytes) ~= "string" then
    error(("everyCut takes a string, not a %s"):format(type(bytes)), level + 1)
  elseif type(options) ~= "table" then
    error(("everyCut takes its options as a table, not a %s"):format(type(options)), level + 1)
  end
  for key, value in pairs(options) do
    if not known[key] then
      error(("everyCut knows no option '%s'"):format(tostring(key)), level + 1)
    elseif type(value) ~= known[key] then
      error(("everyCut: %s is a %s, not a %s"):format(key, known[key], type(value)), level + 1)
    end
  end
end

--- Whether a protocol does the same however its input is cut: whole, byte by byte, in two everywhere, in
--- three where it is short, and at random. Compared are the callbacks with their arguments (`…Received`,
--- `…Exceeded`, `proto_…`, the ends of reading and writing), all that is written, how the connection ends,
--- and the field `state`. What may depend on the cut does not count: the chunks of rawDataReceived, what
--- `…Exceeded` is given, what is dropped where the connection is not closed in order. Of a wrapper the
--- innermost protocol is observed.
---@param make fun(note: fun(name: string, ...: any)): Protocol gives a fresh one, not connected; calls of
---`note` are recorded as callbacks are
---@param bytes string what the peer sends
---@param options? { callbacks: string[]?, after: fun(made: Protocol)?, finish: boolean?, transport: table?,
---seed: integer?, rounds: integer? } callbacks: record these instead; after: called when all was fed, to resume,
---or to let time pass; finish: the peer closes at the end (true); transport: options of the StringTransport;
---seed, rounds: of the cuts at random (1, 50)
---@return boolean? same nil where a cut makes a difference
---@return string? message the cut, and the first difference
function cuts.everyCut(make, bytes, options)
  options = options or {}
  needArguments(make, bytes, options, 2)
  local uncut = run(make, bytes, {}, options)
  local found = eachCut(#bytes, options, function(positions)
    local problem = difference(uncut, run(make, bytes, positions, options))
    return problem and ("%s: %s"):format(describe(bytes, positions), problem)
  end)
  if found then
    return nil, found
  end
  return true
end

return cuts
