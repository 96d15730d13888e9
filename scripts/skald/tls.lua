-- TLS: options become contexts of the core, which hold certificates and say whom to trust. The files
-- are read when a context is made; connections keep theirs, whatever becomes of the files.

local class = require "skald.class"
local core = require "skald.core"
local log = require "skald.log"
local timers = require "skald.timers"
local tlsoptions = require "skald.tlsoptions"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local tls = {}

-- --- contexts ---------------------------------------------------------------------------------

--- What the core needs to speak TLS.
---@class TLSContext
---@field handle number
---@field files table<string, string|false> the files that were read; false: could not be
---@field trustsSystem boolean its peers are looked at, by the system's certificates
local Context = class.root "TLSContext"

function Context:init(server, files)
  local handle = ffi.new "double[1]"
  self.server, self.files = server, files
  self.errno = C.skald_tls_new(pointer, server, handle)
  self.handle = handle[0]
  self.guard = newproxy(true)
  local own = handle[0]
  getmetatable(self.guard).__gc = function()
    C.skald_tls_release(pointer, own)
  end
end

-- What went wrong with a file, to be raised.
local function complain(path, message, code)
  error({ message = ("%s: %s"):format(path, message), code = code }, 0)
end

local function read(files, path)
  local file, message, errno = io.open(path, "rb")
  local text = file and file:read "*a"
  if file then
    file:close()
  end
  files[path] = text or false
  if not text then
    complain(path, (message or "cannot be read"):gsub("^.-: ", ""), core.nameOf(errno or 0))
  end
end

-- Certificates and the files of their keys, in pairs.
local function pairsOf(options)
  local chains, keys = tlsoptions.listOf(options.certificate), tlsoptions.listOf(options.privateKey)
  if #keys > #chains then
    complain(keys[#chains + 1], "a private key without a certificate", "EINVAL")
  end
  local list = {}
  for i, path in ipairs(chains) do
    list[i] = { path, keys[i] or path }
  end
  return list
end

local function authorities(options, server)
  return server and options.clientCA or not server and options.trust or nil
end

local function demandOf(options, server)
  if server then
    return options.clientCA and tlsoptions.demands[options.clientCertificate or "required"] or 0
  end
  return tlsoptions.verifies(options) and 2 or 0
end

-- Reads the files into `files`; all that a context of them is made of, as one string.
local function collect(options, server, files)
  local parts = { tostring(server), tostring(demandOf(options, server)), tostring(options.handshakeTimeout),
    table.concat(tlsoptions.listOf(options.alpn), ",") }
  local function add(path)
    if files[path] == nil then
      read(files, path)
    end
    parts[#parts + 1] = ("%d:%s%d:%s"):format(#path, path, #files[path], files[path])
  end
  for _, pair in ipairs(pairsOf(options)) do
    add(pair[1])
    add(pair[2])
  end
  local path = authorities(options, server)
  parts[#parts + 1] = "trust"
  if path then
    add(path)
  end
  return table.concat(parts, "\0")
end

-- The core took it, or says why not.
local function need(path, errno)
  if errno ~= 0 then
    complain(path, ffi.string(C.skald_tls_problem(pointer)), core.nameOf(errno))
  end
end

local function certify(self, options)
  for _, pair in ipairs(pairsOf(options)) do
    local chain, key = self.files[pair[1]], self.files[pair[2]]
    local errno = C.skald_tls_certify(pointer, self.handle, chain, #chain, key, #key)
    local problem = errno ~= 0 and ffi.string(C.skald_tls_problem(pointer))
    need(problem and problem:find "private key" and pair[2] or pair[1], errno)
  end
end

local function trust(self, path, demand)
  local pem = path and self.files[path]
  need(path or "trust", C.skald_tls_trust(pointer, self.handle, demand, pem or nil, pem and #pem or 0))
end

local function offer(self, names)
  local wire = {}
  for i, name in ipairs(names) do
    if #name > 255 then
      complain("alpn", ("'%s' is too long"):format(name), "EINVAL")
    end
    wire[i] = string.char(#name) .. name
  end
  local text = table.concat(wire)
  need("alpn", C.skald_tls_offer(pointer, self.handle, text, #text))
end

local function fill(self, options)
  local path, demand = authorities(options, self.server), demandOf(options, self.server)
  self.trustsSystem = demand > 0 and not path
  need("TLS", self.errno)
  certify(self, options)
  trust(self, path, demand)
  if options.alpn then
    offer(self, tlsoptions.listOf(options.alpn))
  end
  if options.handshakeTimeout then
    C.skald_tls_limit(pointer, self.handle, options.handshakeTimeout)
  end
end

-- --- tickets ----------------------------------------------------------------------------------

local RENEWAL = 7200 -- seconds: as long as a session may be resumed, so that the former key opens what still counts
local renewal -- the timer

--- The keys that seal the sessions of servers' clients are renewed: sessions of the former ones can be
--- resumed until the next time. Comes each two hours by itself.
function tls.renewTickets()
  if renewal then
    renewal:cancel()
  end
  local errno = C.skald_tls_renew_tickets(pointer)
  if errno ~= 0 then
    log.warning("TLS: the keys of tickets stay as they are: %s", (core.errorOf(errno)))
  end
  renewal = timers.own(RENEWAL, tls.renewTickets)
end

-- --- loading ----------------------------------------------------------------------------------

-- Contexts that somebody holds, by all that they are made of: what is alike shares one, and with it the
-- sessions that can be resumed.
local living = setmetatable({}, { __mode = "v" })
local recent, RECENT = {}, 4 -- those of clients that were asked for last: held, so that their sessions are kept

local function keep(context)
  for i, other in ipairs(recent) do
    if other == context then
      table.remove(recent, i)
      break
    end
  end
  table.insert(recent, 1, context)
  recent[RECENT + 1] = nil
end

local function contextOf(options, server, files)
  local key = collect(options, server, files)
  local context = living[key]
  if not context then
    context = Context:new(server, files)
    fill(context, options)
    living[key] = context
  end
  if server then
    renewal = renewal or timers.own(RENEWAL, tls.renewTickets)
  else
    keep(context)
  end
  return context
end

--- Reads the files that the options name, and gives the context that is made of them.
---@param options table of endpoints or of functions; what is not TLS's is not looked at
---@param server boolean
---@return TLSContext? context or nil, message, code, and the files that were read
---@return string? message
---@return string? code
---@return table<string, string|false>? files
function tls.load(options, server)
  local files = {}
  local ok, result = pcall(contextOf, options, server, files)
  if ok then
    return result
  elseif type(result) ~= "table" then
    error(result, 0)
  end
  return nil, result.message, result.code, files
end

-- --- endpoints --------------------------------------------------------------------------------

--- Sees to it that an endpoint has its context, where it is one of TLS.
---@param endpoint table
---@param server boolean
---@return boolean? ok nil, message, code, and the files that were read
---@return string? message
---@return string? code
---@return table<string, string|false>? files
function tls.prepare(endpoint, server)
  if endpoint.type ~= "tls" or endpoint.context then
    return true
  end
  local message, code, files
  endpoint.context, message, code, files = tls.load(endpoint, server)
  if not endpoint.context then
    return nil, message, code, files
  end
  if not server and not tlsoptions.verifies(endpoint) then
    log.warning("tls:%s: whoever answers is taken for it (verify=no)", endpoint.path or endpoint.host)
  end
  return true
end

--- Whom a client's peer is to be: a host name or an address; nil: nobody knows. Names in certificates have no dot
--- at their end.
---@param options table
---@param endpoint table where it connected to
---@return string?
function tls.expected(options, endpoint)
  local name = options.hostname or endpoint.host
  return name and name:match "^(.+)%.$" or name
end

--- Whose sessions may be resumed there: as it was asked for, and who is expected.
---@param endpoint table
---@param name string?
---@return string
function tls.peerOf(endpoint, name)
  return ("%s:%s:%s"):format(endpoint.path or endpoint.host, endpoint.port or "", name or "")
end

-- --- startTLS ---------------------------------------------------------------------------------

-- Contexts of startTLS by what was asked for: until the next commit, which reads files again.
local started = {}

-- Whom a peer is to be is not the context's matter: there may be as many of them as there are peers.
local function keyOf(options, server)
  local list = {}
  for key, value in pairs(options) do
    value = type(value) == "table" and table.concat(value, ",") or tostring(value)
    list[#list + 1] = key ~= "hostname" and ("%s=%s"):format(key, value) or nil
  end
  table.sort(list)
  return (server and "server" or "client") .. "\0" .. table.concat(list, "\0")
end

--- The files of `startTLS` are read again at the next one, and so are the system's certificates.
function tls.forget()
  started, recent = {}, {}
  for key, context in pairs(living) do
    if context.trustsSystem then
      living[key] = nil
    end
  end
end

-- Bytes that came before the handshake were not encrypted, and nobody may take them for what was
-- (RFC 3207, 6): what a receiver still holds is dropped.
local function dropRest(receiver)
  local clear = receiver and (receiver.clearLineBuffer or receiver.clearBuffer)
  if clear then
    clear(receiver)
  end
end

--- Encrypts a connection from now on.
---@param handle number
---@param options table? as tlsoptions.check takes them
---@param receiver Protocol?
---@param endpoint table? where the connection was made to; nil: it was accepted
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function tls.start(handle, options, receiver, endpoint)
  local server = not endpoint
  options = tlsoptions.check("startTLS", options, server, 4)
  local name = endpoint and tls.expected(options, endpoint)
  if endpoint and not name and tlsoptions.verifies(options) then
    error("startTLS: whom to expect? give hostname=NAME, or verify=no", 3)
  end
  local key = keyOf(options, server)
  local context, message, code = started[key], nil, nil
  if not context then
    context, message, code = tls.load(options, server)
  end
  if not context then
    return nil, message, code
  end
  if not started[key] and not server and not tlsoptions.verifies(options) then
    log.warning("startTLS: whoever answers is taken for the right one (verify=no)")
  end
  started[key] = context
  local peer = endpoint and tls.peerOf(endpoint, name)
  local errno = C.skald_secure(pointer, handle, context.handle, name, peer)
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  dropRest(receiver)
  return true
end

-- --- what a session knows ---------------------------------------------------------------------

local buffer = ffi.new "char[256]"

--- What was agreed on to be spoken above TLS, or nil.
---@param handle number
---@return string?
function tls.protocolOf(handle)
  local length = C.skald_protocol(pointer, handle, buffer, 256)
  return length > 0 and ffi.string(buffer, length) or nil
end

--- The peer's certificate, or nil.
---@param handle number
---@return table?
function tls.certificateOf(handle)
  local size = ffi.new "size_t[1]"
  local text = C.skald_certificate(pointer, handle, size)
  if text == nil then
    return nil
  end
  local lines = ffi.string(text, size[0])
  C.skald_free(text)
  local head, pem = lines:match "^(.-\n)pem (.*)$"
  local found = { names = {}, pem = pem }
  for key, value in head:gmatch "(%a+) ([^\n]*)\n" do
    if key == "names" then
      table.insert(found.names, value)
    else
      found[key] = key:find "^not" and tonumber(value) or value
    end
  end
  return found
end

return tls
