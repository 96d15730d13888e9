-- What can be said of a definition before it serves: wrong values, and slips in the names of keys,
-- which would otherwise be silent. Pure.

local class = require "skald.class"
local endpoints = require "skald.endpoints"
local protocol = require "skald.protocol"

local check = {}

-- What kind of value a key takes.
local factoryKeys = {
  protocol = "table",
  listen = "endpoint",
  connect = "endpoint",
  name = "string",
  state = "table",
  version = "number",
  backlog = "number",
  migrate = "function",
  startFactory = "function",
  stopFactory = "function",
  buildProtocol = "function",
  startedConnecting = "function",
  clientConnectionFailed = "function",
  clientConnectionLost = "function",
  prepareConnection = "function",
  initialDelay = "number",
  factor = "number",
  jitter = "number",
  maxDelay = "number",
  maxRetries = "number",
  stableAfter = "number",
  prepareReload = "function",
  reloaded = "function",
  headerTimeout = "number",
  maxHeader = "number",
}

-- Keys of the library's own classes are no slips.
local library = {
  [protocol.Protocol] = true,
  [protocol.DatagramProtocol] = true,
  [protocol.Factory] = true,
  [protocol.ClientFactory] = true,
  [protocol.ReconnectingClientFactory] = true,
}

for _, name in ipairs(protocol.bounds) do
  factoryKeys[name] = "number"
end

local protocolKeys = {
  makeConnection = "function",
  connectionMade = "function",
  dataReceived = "function",
  connectionLost = "function",
  startProtocol = "function",
  stopProtocol = "function",
  datagramReceived = "function",
  connectionRefused = "function",
  readConnectionLost = "function",
  writeConnectionLost = "function",
  handshakeCompleted = "function",
  handle = "function",
  lineReceived = "function",
  rawDataReceived = "function",
  lineLengthExceeded = "function",
  stringReceived = "function",
  lengthLimitExceeded = "function",
  delimiter = "string",
  MAX_LENGTH = "number",
  reloaded = "function",
}

-- One letter away from a key, and words of their own all the same.
local words = { stat = true, sate = true, nae = true, lock = true, actor = true }

local function isKind(value, kind)
  if kind == "endpoint" then
    return type(value) == "string" or type(value) == "table"
  end
  return type(value) == kind
end

local function isSwap(a, b)
  if #a ~= #b then
    return false
  end
  local i = 1
  while i <= #a and a:byte(i) == b:byte(i) do
    i = i + 1
  end
  return i < #a
    and a:byte(i) == b:byte(i + 1)
    and a:byte(i + 1) == b:byte(i)
    and a:sub(i + 2) == b:sub(i + 2)
end

-- Whether `long` without one letter, which must satisfy `allowed`, is `short`.
local function isOneMore(long, short, allowed)
  if #long ~= #short + 1 then
    return false
  end
  for i = 1, #long do
    if long:sub(1, i - 1) .. long:sub(i + 1) == short and allowed(long, i) then
      return true
    end
  end
  return false
end

local function any()
  return true
end

local function isDoubled(word, i)
  return word:byte(i) == word:byte(i - 1) or word:byte(i) == word:byte(i + 1)
end

--- Whether `key` is a slip for `meant`: two letters swapped, one missing or doubled, the case.
---@param key string
---@param meant string
---@return boolean
function check.isSlip(key, meant)
  if key == meant or words[key] then
    return false
  end
  return key:lower() == meant:lower()
    or isSwap(key, meant)
    or isOneMore(meant, key, any)
    or isOneMore(key, meant, isDoubled)
end

local function findSlip(key, value, keys)
  for meant, kind in pairs(keys) do
    if isKind(value, kind) and check.isSlip(key, meant) then
      return meant
    end
  end
  return nil
end

local Problems = {}
Problems.__index = Problems

-- The line where a key is written: the function's own, else the first mention in the source.
function Problems:lineOf(key, value)
  if type(value) == "function" then
    local info = debug.getinfo(value, "S")
    if info.source == "@" .. self.file then
      return info.linedefined
    end
  end
  local line = 0
  for text in (self.source .. "\n"):gmatch "(.-)\n" do
    line = line + 1
    if text:find("%f[%w_]" .. key .. "%f[^%w_]") then
      return line
    end
  end
  return 1
end

function Problems:add(key, value, format, ...)
  local line = self:lineOf(key, value)
  local list = self.list
  list[#list + 1] = ("%s:%d: %s"):format(self.file, line, format:format(...))
end

local article = {
  endpoint = "an endpoint string or a list of them",
  table = "a table",
  string = "a string",
  number = "a number",
  ["function"] = "a function",
}

-- The own keys of a table, against those that are known.
local function checkKeys(problems, subject, keys, what)
  local own = {}
  for key in pairs(subject) do
    own[#own + 1] = type(key) == "string" and key or nil
  end
  table.sort(own)
  for _, key in ipairs(own) do
    local value = subject[key]
    if keys[key] then
      if not isKind(value, keys[key]) then
        problems:add(key, value, "%s takes %s, not a %s", key, article[keys[key]], type(value))
      end
    else
      local meant = findSlip(key, value, keys)
      if meant then
        problems:add(key, value, "%s has no '%s': is '%s' meant?", what, key, meant)
      end
    end
  end
end

-- A class with its bases, up to the library's own.
local function checkChain(problems, subject, keys, what)
  while type(subject) == "table" and not library[subject] do
    checkKeys(problems, subject, keys, what)
    local meta = getmetatable(subject)
    subject = type(meta) == "table" and rawget(meta, "__index") or nil
  end
end

local function checkEndpoints(problems, key, value, parse)
  local list = type(value) == "table" and value or { value }
  for _, endpoint in ipairs(list) do
    if type(endpoint) ~= "string" then
      problems:add(key, nil, "%s takes strings, not a %s", key, type(endpoint))
    else
      local ok, message = parse(endpoint)
      if not ok then
        problems:add(key, nil, "%s", message)
      end
    end
  end
  if #list == 0 then
    problems:add(key, nil, "%s is an empty list", key)
  end
end

-- Whether a class is for UDP ports, or nil for what could be either.
local function isForDatagrams(methods)
  if not class.is(methods) then
    return nil
  end
  return class.derives(methods, protocol.DatagramProtocol)
end

-- A definition listens on UDP ports or takes connections, not both; its protocol is for that.
local function checkCarrier(problems, definition, listen)
  local count, total = 0, 0
  for _, endpoint in ipairs(type(listen) == "table" and listen or { listen }) do
    local parsed = type(endpoint) == "string" and endpoints.parseServer(endpoint)
    if not parsed then
      return -- checkEndpoints says what is wrong with it
    end
    total = total + 1
    count = count + (parsed and parsed.type == "udp" and 1 or 0)
  end
  local datagrams = isForDatagrams(definition.protocol)
  if count > 0 and (count < total or definition.connect) then
    problems:add("listen", nil, "UDP ports and connections take a definition each")
  elseif count > 0 and datagrams == false then
    problems:add("protocol", nil, "a UDP port takes a DatagramProtocol")
  elseif count == 0 and datagrams and (total > 0 or definition.connect) then
    local first = type(listen) == "table" and listen[1] or listen or definition.connect
    problems:add("protocol", nil, "a DatagramProtocol takes a UDP port, not '%s'", tostring(first))
  end
end

local function checkBounds(problems, definition)
  for _, name in ipairs(protocol.bounds) do
    local value = definition[name]
    if type(value) == "number" and protocol.boundProblem(name, value) then
      problems:add(name, nil, "%s", protocol.boundProblem(name, value))
    end
  end
  for _, name in ipairs { "initialDelay", "factor", "jitter", "maxDelay", "maxRetries", "stableAfter" } do
    local value = definition[name]
    if type(value) == "number" and not (value >= 0 and value < math.huge) then
      problems:add(name, nil, "%s takes a number from 0, not %s", name, tostring(value))
    end
  end
  local high, low = definition.highWater or 65536, definition.lowWater or 16384
  if type(high) == "number" and type(low) == "number" and low > high then
    problems:add("lowWater", nil, "lowWater (%d) is above highWater (%d)", low, high)
  end
end

-- What a receiver could not work with.
local function checkReceiver(problems, methods)
  local delimiter, most = methods.delimiter, methods.MAX_LENGTH
  if delimiter == "" then
    problems:add("delimiter", nil, "the delimiter is empty")
  end
  if type(most) == "number" and (most < 0 or most ~= most) then
    problems:add("MAX_LENGTH", nil, "MAX_LENGTH takes a number of bytes from 0, not %s", tostring(most))
  end
end

-- A factory, and what it wraps.
local function checkFactory(problems, definition)
  checkChain(problems, definition, factoryKeys, "a factory")
  local methods = definition.protocol
  if type(methods) == "table" then
    checkChain(problems, methods, protocolKeys, "a protocol")
    checkReceiver(problems, methods)
  elseif methods == nil and not definition.buildProtocol and not class.is(definition) and #problems.list == 0 then
    problems:add("return", nil, "the definition has no protocol")
  end
  if type(definition.wrappedFactory) == "table" then
    checkFactory(problems, definition.wrappedFactory)
  end
end

--- What is wrong with a definition.
---@param definition table a plain table, a Factory class, or a factory
---@param file string as errors name it
---@param source string the text of the script
---@param given { listen: string?, connect: string? }? replaces those of the definition
---@return string[] problems lines "file:line: message"
function check.definition(definition, file, source, given)
  local problems = setmetatable({ file = file, source = source, list = {} }, Problems)
  given = given or {}
  checkFactory(problems, definition)
  if given.listen == nil and definition.listen == nil and definition.connect == nil then
    problems:add("return", nil, "the definition has no listen and no connect, and no listen=ENDPOINT is given")
  end
  if given.listen == nil and isKind(definition.listen, "endpoint") then
    checkEndpoints(problems, "listen", definition.listen, endpoints.parseServer)
  end
  if given.connect == nil and isKind(definition.connect, "endpoint") then
    checkEndpoints(problems, "connect", definition.connect, endpoints.parseClient)
  end
  checkCarrier(problems, definition, given.listen or definition.listen)
  checkBounds(problems, definition)
  return problems.list
end

return check
