-- Endpoint strings: `tcp:8000`, `tcp:127.0.0.1:8000`, `tcp:[::1]:8000:backlog=50`,
-- `unix:/run/x.sock:mode=660`, `tls:443:certificate=c.pem:privateKey=k.pem`, `haproxy:tcp:80`. The grammar
-- is Twisted's: fields between colons, `key=value` fields by name, a backslash takes the next character as
-- it is; besides, colons within [brackets] are part of the field. Pure, but for `listen` and `connect`.

---@class skald.endpoints
local inet = require "skald.inet"

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
---@return string[]? positional nil, message where the string is no endpoint: one line, with the column
---@return table<string, string>|string named or the message
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
  if type(s) ~= "string" then
    error(("quoteStringArgument takes a string, not a %s"):format(type(s)), 2)
  end
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

function read.peerPort(text)
  return number(text, 1, 65535), "a port to connect to is a number from 1 to 65535"
end

function read.backlog(text)
  return number(text, 1, 2147483647), "backlog is a number from 1"
end

function read.fd(text)
  return number(text, 0, 2147483647), "a descriptor is a number from 0"
end

function read.label(text)
  return text ~= "" and text or nil, "a name is missing"
end

function read.mode(text)
  local value = text:match "^[0-7]+$" and tonumber(text, 8)
  return value and value <= 511 and value or nil, "mode is octal, such as 660"
end

-- The zone of an IPv6 address is the kernel's matter.
local function isIPv6(text)
  return inet.isIPv6(text:match "^(.*)%%[%w._-]+$" or text, true)
end

-- IPv6 comes with or without brackets.
function read.host(text)
  local inner = text:match "^%[(.*)%]$" or text
  if inner == "localhost" then
    return "127.0.0.1"
  end
  if isIPv6(inner) or (inner == text and inet.isIPv4(text, true)) then
    return inner
  end
  return nil, "an interface is given by its IP address"
end

local LONGEST_PATH = 107 -- bytes that the name of a Unix socket may have (unix(7))

function read.path(text)
  if #text > LONGEST_PATH then
    return nil, ("the path of a socket has at most %d bytes"):format(LONGEST_PATH)
  end
  return text ~= "" and text or nil, "a path is missing"
end

function read.program(text)
  return text ~= "" and text or nil, "a program is missing"
end

function read.folder(text)
  return text ~= "" and text or nil, "a folder is missing"
end

-- A host to connect to: an address, or a name.
function read.name(text)
  local inner = text:match "^%[(.*)%]$" or text
  if inner:find(":", 1, true) then
    return isIPv6(inner) and inner or nil, "that is no IPv6 address"
  elseif inner:find "^%d+%.[%d.]+$" then
    return inet.isIPv4(inner, true) and inner or nil, "that is no IPv4 address"
  end
  local ok = #inner <= 253 and inner:find "^[%w_]" and not inner:find "[^%w._-]" and not inner:find("..", 1, true)
  return ok and inner or nil, "a host is a name or an IP address"
end

function read.timeout(text)
  local value = text:find "^%d+%.?%d*$" and tonumber(text)
  return value and value > 0 and value or nil, "timeout is a number of seconds"
end

function read.handshakeTimeout(text)
  return read.timeout(text), "handshakeTimeout is a number of seconds"
end

function read.packetSize(text)
  return number(text, 1, 65535), "maxPacketSize is a number from 1 to 65535"
end

local flags = { yes = true, no = false }

function read.reuse(text)
  return flags[text], "reuse is yes or no"
end

function read.broadcast(text)
  return flags[text], "broadcast is yes or no"
end

local datagrams = { port = "port", interface = "host", maxPacketSize = "packetSize" }
datagrams.reuse, datagrams.broadcast = "reuse", "broadcast"

function read.file(text)
  return text ~= "" and text or nil, "a file is missing"
end

function read.files(text)
  local ok = text:find "[^,]" and not text:find ",,"
  return ok and text or nil, "files are given as NAME,NAME"
end

function read.protocols(text)
  for name in (text .. ","):gmatch "([^,]*)," do
    if name == "" or #name > 255 then
      return nil, "protocols are given as NAME,NAME"
    end
  end
  return text
end

function read.demand(text)
  return (text == "required" or text == "optional") and text or nil, "clientCertificate is required or optional"
end

function read.verify(text)
  return (text == "yes" or text == "no") and text or nil, "verify is yes or no"
end

-- What TLS stands on, where that is not TCP: the fields by position behind that word, and those by name.
local over = {
  unix = { "path", mode = true, backlog = true },
  fd = { "fd" },
  systemd = { name = true, index = true },
}

function read.over(text)
  return over[text] and text or nil, "tls stands on a port, unix:PATH, fd:NUMBER or systemd:name=NAME"
end

--  kind      by position   by name, with the reader of its value     rest: further fields are a list
local servers = {
  tcp = { { "port" }, { port = "port", interface = "host", backlog = "backlog" } },
  unix = { { "path" }, { path = "path", mode = "mode", backlog = "backlog" } },
  fd = { { "fd" }, { fd = "fd" } },
  systemd = { {}, { name = "label", index = "fd" } },
  udp = { { "port" }, datagrams },
  tls = {
    { "port" },
    {
      port = "port", interface = "host", path = "path", mode = "mode", backlog = "backlog", over = "over",
      fd = "fd", name = "label", index = "fd",
      certificate = "files", privateKey = "files", alpn = "protocols", clientCA = "file",
      clientCertificate = "demand", handshakeTimeout = "handshakeTimeout",
    },
  },
  stdio = { {}, {} },
}

local clients = {
  tcp = { { "host", "port" }, { host = "name", port = "peerPort", timeout = "timeout", bindAddress = "host" } },
  unix = { { "path" }, { path = "path", timeout = "timeout" } },
  tls = {
    { "host", "port" },
    {
      host = "name", port = "peerPort", path = "path", timeout = "timeout", bindAddress = "host", over = "over",
      trust = "file", hostname = "name", certificate = "files", privateKey = "files", alpn = "protocols",
      verify = "verify", handshakeTimeout = "handshakeTimeout",
    },
  },
  process = { { "path" }, { path = "program", cwd = "folder", timeout = "timeout" }, rest = true },
}

local hasInterface = { tcp = true, tls = true, udp = true }

-- For servers, `tcp:HOST:PORT` is `tcp:PORT:interface=HOST`; `tls:unix:PATH` is TLS on a Unix socket, and
-- `tls:fd:3`, `tls:systemd:name=web` are TLS on one that is handed over.
local function positions(kinds, kind, fields)
  local count, first = 0, nil
  for i = 2, #fields do
    if not fields[i].key then
      count = count + 1
      first = first or fields[i].text
    end
  end
  local socket = kind == "tls" and (first == "unix" or kinds == servers) and over[first]
  if socket then
    return { "over", unpack(socket) }
  end
  local byAddress = kinds == servers and hasInterface[kind] and count >= 2
  return byAddress and { "interface", "port" } or kinds[kind][1]
end

local onPort = { "port", host = true, interface = true, bindAddress = true, backlog = true }

-- What only some of those that TLS stands on take.
local ofSockets = { path = true, mode = true, backlog = true, fd = true, name = true, index = true, port = true,
  host = true, interface = true, bindAddress = true }

-- Whether such a field is of another socket than the one that TLS stands on.
local function isForeign(name, result)
  local socket = over[result.over] or onPort
  return ofSockets[name] and socket[1] ~= name and not socket[name]
end

local function checkSocket(result)
  for name in pairs(result) do
    if isForeign(name, result) then
      return ("tls knows no '%s' on %s"):format(name, result.over and result.over .. ":" or "a port")
    end
  end
  return nil
end

local function checkSystemd(result)
  if (result.name == nil) == (result.index == nil) then
    return "systemd takes one of both: a name, such as systemd:name=web, or an index from 0"
  end
  return nil
end

-- What does not go together, or one of which asks for the other.
local function checkTLS(kinds, result)
  local problem = checkSocket(result) or result.over == "systemd" and checkSystemd(result)
  if problem then
    return problem
  elseif kinds == servers and not result.certificate then
    return "a certificate is missing (certificate=FILE)"
  elseif result.clientCertificate and not result.clientCA then
    return "clientCertificate takes a clientCA"
  elseif result.path and kinds == clients and not result.hostname and result.verify ~= "no" then
    return "whom to expect on a Unix socket is not said (hostname=NAME, or verify=no)"
  end
  return nil
end

local function assign(result, reader, name, field)
  local value, wanted = read[reader](field.text)
  if value == nil then
    return nil, ("%s, not '%s'"):format(wanted, field.text)
  end
  if result[name] ~= nil then
    return nil, ("%s is given twice"):format(name)
  end
  result[name] = value
  return true
end

-- The options that go with what is known of an endpoint.
local function known(fields, result)
  local names = {}
  for name in pairs(fields) do
    local isOption = name ~= "over" and not (fields.over and isForeign(name, result)) -- `over`: as in tls:unix:
    names[#names + 1] = isOption and name or nil
  end
  table.sort(names)
  return table.concat(names, ", ")
end

local function fill(kinds, s, kind, fields)
  local result, byName = { type = kind }, kinds[kind][2]
  local places = positions(kinds, kind, fields)
  local at = 0
  for i = 2, #fields do
    local field = fields[i]
    local name = field.key
    if name and not byName[name] then
      return complain(s, field.column, ("%s knows no '%s' (%s)"):format(kind, name, known(byName, result)))
    elseif not name then
      at = at + 1
      name = places[at]
      if not name and kinds[kind].rest then
        result.rest = result.rest or {}
        table.insert(result.rest, field.text)
      elseif not name then
        return complain(s, field.column, "one field too many")
      end
    end
    local ok, problem = true, nil
    if name then
      ok, problem = assign(result, byName[name], name, field)
    end
    if not ok then
      return complain(s, field.column, problem)
    end
  end
  for _, name in ipairs(places) do
    if result[name] == nil then
      return complain(s, #s + 1, ("%s is missing"):format(name == "fd" and "a descriptor" or "a " .. name))
    end
  end
  local problem = kind == "tls" and checkTLS(kinds, result)
  if problem then
    return complain(s, #s + 1, problem)
  end
  result.over = nil
  return result
end

-- `haproxy:` stands before another endpoint: what is left of the fields are that one's.
local function takePrefix(kinds, s, fields)
  if fields[1].key or fields[1].text ~= "haproxy" then
    return false
  elseif kinds ~= servers then
    return complain(s, 1, "haproxy: is an endpoint to listen on")
  end
  table.remove(fields, 1)
  local inner = fields[1]
  if not inner or (inner.text == "" and not inner.key) then
    return complain(s, inner and inner.column or #s + 1, "an endpoint is missing behind haproxy:, such as tcp:80")
  elseif inner.text == "haproxy" then
    return complain(s, inner.column, "haproxy: does not stand within itself")
  end
  return true
end

local function parse(kinds, s)
  if type(s) ~= "string" then
    error(("an endpoint is a string, not a %s"):format(type(s)), 3)
  end
  local fields, column, what = split(s)
  if not fields then
    return complain(s, column, what)
  end
  local within, problem = takePrefix(kinds, s, fields)
  if within == nil then
    return nil, problem
  end
  local first = fields[1]
  local kind = first.key == nil and first.text or ""
  if not kinds[kind] then
    local names = known(kinds) .. (kinds == servers and ", haproxy" or "")
    return complain(s, first.column, ("'%s' is no kind of endpoint (%s)"):format(kind, names))
  elseif within and kind == "udp" then
    return complain(s, first.column, "haproxy: stands before connections, not before datagrams")
  end
  if kind == "stdio" and within then
    return complain(s, first.column, "haproxy: stands before a socket")
  elseif (kind == "stdio" or kind == "systemd") and fields[2] and fields[2].text == "" and not fields[2].key then
    table.remove(fields, 2) -- "stdio:"; of systemd: is told what is missing
  end
  local result, message = fill(kinds, s, kind, fields)
  return result and (within and { type = "haproxy", inner = result } or result), message
end

-- What a kind needs that no single field can say.
local complete = {}

function complete.unix(endpoint)
  endpoint.mode = endpoint.mode or 438 -- octal 666
end

complete.systemd = checkSystemd

function complete.tls(endpoint)
  endpoint.mode = endpoint.path and (endpoint.mode or 438)
end

--- What a server endpoint string says.
---@param s string
---@return table? endpoint `{ type, port, interface, path, backlog, mode, fd, name, index }`, numbers as numbers; of
---`haproxy:` `{ type, inner }`; nil, message where the string is none
---@return string? message one line, with the column of the field that is wrong
function endpoints.parseServer(s)
  local result, message = parse(servers, s)
  local socket = result and result.inner or result
  local finish = socket and complete[socket.type]
  local problem = finish and finish(socket)
  if problem then
    return complain(s, #s + 1, problem)
  end
  return result, message
end

--- What a client endpoint string says: `tcp:HOST:PORT:timeout=30:bindAddress=IP`, `unix:PATH`,
--- `process:PROGRAM:ARGUMENT:…:cwd=FOLDER`.
---@param s string
---@return table? endpoint `{ type, host, port, path, timeout, bindAddress, rest }`; timeout in seconds, 30 where
---none is given; bindAddress `{ host, port }`; rest the arguments of a program
---@return string? message one line, with the column of the field that is wrong
function endpoints.parseClient(s)
  local result, message = parse(clients, s)
  if result then
    result.timeout = result.timeout or 30
    result.bindAddress = result.bindAddress and { result.bindAddress, 0 }
  end
  return result, message
end

--- The socket of a server endpoint: of `haproxy:` the one within, with `proxied` set.
---@private
---@param endpoint table as endpoints.parseServer gives it
---@return table
function endpoints.socketOf(endpoint)
  if not endpoint.inner then
    return endpoint
  end
  local socket = { proxied = true }
  for key, value in pairs(endpoint.inner) do
    socket[key] = value
  end
  return socket
end

-- --- what may be done with one ----------------------------------------------------------------

--- An endpoint to listen on.
---@class ServerEndpoint
local Server = {}
Server.__index = Server

--- Listens.
---@param factory table a factory, a Factory class, or a definition
---@return Deferred d of the port
function Server:listen(factory)
  local text, endpoint = self.text, self.endpoint
  require("skald.roster").need("listen", factory)
  return require("skald.deferred").maybeDeferred(function()
    local port, message, code = require("skald.program").listen(factory, endpoints.socketOf(endpoint))
    return port or error({ message = ("%s: %s"):format(text, message), code = code }, 0)
  end)
end

--- An endpoint to connect to.
---@class ClientEndpoint
local Client = {}
Client.__index = Client

--- Connects once. The factory's buildProtocol makes the protocol; nothing else of a client factory
--- is called.
---@param factory table a factory, a Factory class, or a definition
---@return Deferred d of the protocol; cancelling it gives up connecting
function Client:connect(factory)
  require("skald.roster").need("connect", factory)
  return require("skald.program").connectOnce(factory, self.endpoint)
end

local function fromString(s, parser, methods, level)
  if type(s) ~= "string" then
    error(("an endpoint is a string, not a %s"):format(type(s)), level + 1)
  end
  local endpoint, message = parser(s)
  if not endpoint then
    error(message, level + 1)
  end
  return setmetatable({ endpoint = endpoint, text = s }, methods)
end

--- The endpoint of a string, to listen on. Raises what is wrong with it.
---@param s string
---@return ServerEndpoint
function endpoints.serverFromString(s)
  local endpoint = fromString(s, endpoints.parseServer, Server, 2) -- no tail call: an error names the caller
  return endpoint
end

--- The endpoint of a string, to connect to. Raises what is wrong with it.
---@param s string
---@return ClientEndpoint
function endpoints.clientFromString(s)
  local endpoint = fromString(s, endpoints.parseClient, Client, 2)
  return endpoint
end

--- What a function of the library's own was given to connect to: an endpoint, or the string of one.
---@param name string who takes it
---@param given any
---@param level integer of the one to blame; 2 is the caller of the caller
---@private
---@return ClientEndpoint
function endpoints.client(name, given, level)
  if type(given) == "string" then
    local endpoint = fromString(given, endpoints.parseClient, Client, level + 1)
    return endpoint
  elseif getmetatable(given) ~= Client then
    error(("%s takes an endpoint to connect to, not a %s"):format(name, type(given)), level + 1)
  end
  return given
end

--- Connects one protocol, without a factory of one's own.
---@param endpoint ClientEndpoint
---@param protocol Protocol
---@return Deferred d of the protocol
function endpoints.connectProtocol(endpoint, protocol)
  if getmetatable(endpoint) ~= Client then
    error("connectProtocol takes an endpoint to connect to, and a protocol", 2)
  elseif type(protocol) ~= "table" or require("skald.class").is(protocol) then
    error("connectProtocol takes a protocol: an instance, not a class", 2)
  end
  return endpoint:connect(require("skald.protocol").ClientFactory {
    buildProtocol = function()
      return protocol
    end,
  })
end

return endpoints
