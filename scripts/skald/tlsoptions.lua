-- The options of TLS, as endpoints and functions take them. Pure.

local tlsoptions = {}

--- What a server says of TLS: in `tls:` endpoints by the same names, lists with commas.
---@class TLSServerOptions
---@field certificate string|string[] PEM files, each with its chain; of several, the name that a client asks for
---picks one, and of those of the same names, such as RSA and ECDSA, what the client can check
---@field privateKey string|string[]? PEM files, in the same order; without one, the certificate's file has it
---@field alpn string|string[]? what may be spoken above, the best first
---@field clientCA string? PEM file: whose certificates clients may show
---@field clientCertificate "required"|"optional"? required where there is a clientCA
---@field handshakeTimeout number? seconds (10); while more than 512 clients shake hands, one that falls silent in
---the midst of it has a second

--- What a client says of TLS.
---@class TLSClientOptions
---@field trust string? PEM file: whose certificates are believed, instead of the system's
---@field hostname string? whom the server's certificate is to be of, instead of the host connected to
---@field verify "yes"|"no"|boolean? no: whoever answers is taken for the server; that is logged
---@field certificate string|string[]? PEM file with its chain, for servers that ask
---@field privateKey string|string[]?
---@field alpn string|string[]? what may be spoken above, the best first
---@field handshakeTimeout number? seconds (10)

-- What the options of each side may be.
local kinds = {
  server = {
    certificate = "list",
    privateKey = "list",
    alpn = "list",
    clientCA = "string",
    clientCertificate = "demand",
    handshakeTimeout = "seconds",
  },
  client = {
    certificate = "list",
    privateKey = "list",
    alpn = "list",
    trust = "string",
    hostname = "string",
    verify = "flag",
    handshakeTimeout = "seconds",
  },
}

--- What the core calls what a server asks for.
tlsoptions.demands = { optional = 1, required = 2 }

--- A list, or the string of one: "a.pem,b.pem".
---@param value string|string[]?
---@return string[]
function tlsoptions.listOf(value)
  if type(value) ~= "string" then
    return value or {}
  end
  local list = {}
  for item in value:gmatch "[^,]+" do
    list[#list + 1] = item
  end
  return list
end

-- Each says what a value is to be, where it is not that.
local wrong = {}

function wrong.string(value)
  return (type(value) ~= "string" or value == "") and "a string"
end

function wrong.list(value)
  local list = (type(value) == "string" or type(value) == "table") and tlsoptions.listOf(value) or {}
  for _, item in ipairs(list) do
    if wrong.string(item) then
      return "a list of strings"
    end
  end
  return #list == 0 and "a string, or a list of them"
end

function wrong.demand(value)
  return not tlsoptions.demands[value] and "'required' or 'optional'"
end

function wrong.seconds(value)
  return not (type(value) == "number" and value > 0 and value < 1e6) and "a number of seconds"
end

function wrong.flag(value)
  return type(value) ~= "boolean" and value ~= "yes" and value ~= "no" and "'yes' or 'no'"
end

local function problemOf(options, server)
  local known = kinds[server and "server" or "client"]
  for key, value in pairs(options) do
    if not known[key] then
      return ("knows no option '%s'"):format(tostring(key))
    end
    local wanted = wrong[known[key]](value)
    if wanted then
      return ("%s is %s, not %s"):format(key, wanted, tostring(value))
    end
  end
  if server and not options.certificate then
    return "a server takes a certificate"
  elseif options.clientCertificate and not options.clientCA then
    return "clientCertificate takes a clientCA"
  end
  return nil
end

--- The options of a script, looked at: raises what is wrong with them.
---@param name string of the function that takes them
---@param options table?
---@param server boolean
---@param level integer of the one to blame: 2 is the caller
---@return table options
function tlsoptions.check(name, options, server, level)
  if options ~= nil and type(options) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(options)), level)
  end
  local problem = problemOf(options or {}, server)
  if problem then
    error(("%s: %s"):format(name, problem), level)
  end
  return options or {}
end

--- Takes out of a table of options those that are TLS's; what is no table raises as misuse.
---@param name string of the function that takes them
---@param given table?
---@param server boolean
---@param level integer of the one to blame: 2 is the caller
---@return table tls
---@return table others
function tlsoptions.split(name, given, server, level)
  if given ~= nil and type(given) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(given)), level)
  end
  local known, mine, others = kinds[server and "server" or "client"], {}, {}
  for key, value in pairs(given or {}) do
    if known[key] then
      mine[key] = value
    else
      others[key] = value
    end
  end
  return mine, others
end

--- Whether a client looks at who its server is.
---@param options table
---@return boolean
function tlsoptions.verifies(options)
  return not (options.verify == false or options.verify == "no")
end

return tlsoptions
