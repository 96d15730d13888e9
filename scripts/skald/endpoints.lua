-- Endpoint strings: `tcp:8000`, `tcp:127.0.0.1:8000`, `tcp:[::1]:8000:backlog=50`,
-- `unix:/run/x.sock:mode=660`. The grammar is Twisted's: fields between colons, `key=value` fields by
-- name, a backslash takes the next character as it is; besides, colons within [brackets] are part of
-- the field. Pure.

local endpoints = {}

-- One pass over the characters: each field with its column, its text and, for key=value, its key.
local function split(s)
  local fields = {}
  local field = { column = 1, text = "" }
  local bracket = false
  local i = 1
  while i <= #s do
    local c = s:sub(i, i)
    if c == "\\" then
      i = i + 1
      if i > #s then
        return nil, i - 1, "a backslash at the end escapes nothing"
      end
      field.text = field.text .. s:sub(i, i)
    elseif c == ":" and not bracket then
      fields[#fields + 1] = field
      field = { column = i + 1, text = "" }
    elseif c == "=" and not field.key and not bracket then
      field.key, field.text = field.text, ""
    else
      if c == "[" and field.text == "" then
        bracket = i
      elseif c == "]" then
        bracket = false
      end
      field.text = field.text .. c
    end
    i = i + 1
  end
  if bracket then
    return nil, bracket, "this bracket is never closed"
  end
  fields[#fields + 1] = field
  return fields
end

local function complain(s, column, what)
  return nil, ("bad endpoint '%s': column %d: %s"):format(s, column, what)
end

--- The fields of an endpoint string: those by position, the type first, and those by name.
---@param s string
---@return string[]? positional or nil and a message with the column
---@return table<string, string>|string named
function endpoints.parse(s)
  local fields, column, what = split(s)
  if not fields then
    return complain(s, column, what)
  end
  local list, named = {}, {}
  for _, field in ipairs(fields) do
    if field.key then
      named[field.key] = field.text
    else
      list[#list + 1] = field.text
    end
  end
  return list, named
end

--- Escapes what has a meaning in an endpoint string.
---@param s string
---@return string
function endpoints.quoteStringArgument(s)
  return (s:gsub("[\\:=%[%]]", "\\%0"))
end

local function number(text, low, high)
  local value = text:match "^%d+$" and tonumber(text)
  return value and value >= low and value <= high and value or nil
end

-- Readers of values: the value, or nil and what was wanted.
local read = {}

function read.port(text)
  return number(text, 0, 65535), "a port is a number from 0 to 65535"
end

function read.backlog(text)
  return number(text, 1, 2147483647), "backlog is a number from 1"
end

function read.fd(text)
  return number(text, 0, 2147483647), "a descriptor is a number from 0"
end

function read.mode(text)
  local value = text:match "^[0-7]+$" and tonumber(text, 8)
  return value and value <= 511 and value or nil, "mode is octal, such as 660"
end

-- IPv6 comes with or without brackets; only the shape is looked at here, the kernel knows the rest.
function read.host(text)
  local inner = text:match "^%[(.*)%]$" or text
  local isIPv6 = inner:find(":", 1, true) and inner:match "^[%x:.]+%%?[%w._-]*$"
  if inner == "localhost" then
    return "127.0.0.1"
  end
  if isIPv6 or (inner == text and text:match "^%d+%.%d+%.%d+%.%d+$") then
    return inner
  end
  return nil, "an interface is given by its IP address"
end

function read.path(text)
  return text ~= "" and text or nil, "a path is missing"
end

--  type    by position   by name
local servers = {
  tcp = { { "port" }, { port = true, interface = true, backlog = true } },
  unix = { { "path" }, { path = true, mode = true, backlog = true } },
}

local later = {
  tls = true,
  ssl = true,
  udp = true,
  stdio = true,
  systemd = true,
  fd = true,
  haproxy = true,
}

-- `tcp:HOST:PORT` is `tcp:PORT:interface=HOST`.
local function positions(kind, fields)
  local count = 0
  for i = 2, #fields do
    if not fields[i].key then
      count = count + 1
    end
  end
  return kind == "tcp" and count >= 2 and { "interface", "port" } or servers[kind][1]
end

local function assign(result, kind, name, field)
  local reader = name == "interface" and "host" or name
  local value, wanted = read[reader](field.text)
  if value == nil then
    return nil, ("%s, not '%s'"):format(wanted, field.text)
  end
  if result[name] ~= nil then
    return nil, ("%s is given twice"):format(name)
  end
  result[name] = value
  return true, kind
end

local function known(kind)
  local names = {}
  for name in pairs(servers[kind][2]) do
    names[#names + 1] = name
  end
  table.sort(names)
  return table.concat(names, ", ")
end

local function fill(s, kind, fields)
  local result = { type = kind }
  local places = positions(kind, fields)
  local at = 0
  for i = 2, #fields do
    local field = fields[i]
    local name = field.key
    if name and not servers[kind][2][name] then
      return complain(s, field.column, ("%s knows no '%s' (%s)"):format(kind, name, known(kind)))
    elseif not name then
      at = at + 1
      name = places[at]
      if not name then
        return complain(s, field.column, "one field too many")
      end
    end
    local ok, problem = assign(result, kind, name, field)
    if not ok then
      return complain(s, field.column, problem)
    end
  end
  for _, name in ipairs(servers[kind][1]) do
    if result[name] == nil then
      return complain(s, #s + 1, ("a %s is missing"):format(name))
    end
  end
  return result
end

--- What a server endpoint string says.
---@param s string
---@return table? endpoint `{ type, port, interface, path, backlog, mode }`, numbers as numbers, or nil
---@return string? message one line, with the column of the field that is wrong
function endpoints.parseServer(s)
  if type(s) ~= "string" then
    error(("an endpoint is a string, not a %s"):format(type(s)), 2)
  end
  local fields, column, what = split(s)
  if not fields then
    return complain(s, column, what)
  end
  local kind = fields[1].key == nil and fields[1].text or ""
  if later[kind] then
    return complain(s, 1, ("%s: not in this version"):format(kind))
  end
  if not servers[kind] then
    return complain(s, 1, ("'%s' is no kind of endpoint (tcp, unix)"):format(kind))
  end
  local result, message = fill(s, kind, fields)
  if result and kind == "unix" and not result.mode then
    result.mode = 438 -- octal 666
  end
  return result, message
end

for _, name in ipairs { "parseClient", "serverFromString", "clientFromString", "connectProtocol" } do
  endpoints[name] = function()
    error(("endpoints.%s: not in this version"):format(name), 2)
  end
end

return endpoints
