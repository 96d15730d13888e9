-- A SOCKS5 proxy (RFC 1928): connects to where each client asks, by address or by name, and passes the
-- bytes on inside the core. CONNECT is all it does.
--   skald run socks listen=tcp:127.0.0.1:1080
--   curl --socks5-hostname 127.0.0.1:1080 http://example.org/
-- Options:
--   user=NAME password=TEXT   who may use it (RFC 1929); without them, whoever reaches it
--   timeout=SECONDS           for the negotiation, and again for the connection (30)
--   idle=SECONDS              end connections in which nothing moves for so long

local endpoints = require "skald.endpoints"
local inet = require "skald.inet"
local log = require "skald.log"
local policies = require "skald.policies"
local protocol = require "skald.protocol"

local options = ...

local function number(name, default)
  local value = options[name] and tonumber(options[name])
  if options[name] and not (value and value > 0) then
    error(("%s takes seconds, not '%s'"):format(name, options[name]), 0)
  end
  return value or default
end

local timeout, idle = number("timeout", 30), number "idle"
local user, password = options.user, options.password
if (user == nil) ~= (password == nil) then
  error("user= and password= come together", 0)
end

-- --- what SOCKS calls things ------------------------------------------------------------------

local VERSION, AUTHENTICATION = 5, 1
local NO_AUTHENTICATION, USER_PASSWORD, NO_METHOD = 0, 2, 255
local CONNECT = 1
local IPV4, NAME, IPV6 = 1, 3, 4

local reply = {
  granted = 0, failed = 1, network = 3, host = 4, refused = 5, timeout = 6, command = 7, address = 8,
}

-- What the system or the resolver says, as SOCKS says it.
local replyFor = {
  ECONNREFUSED = reply.refused,
  ENETUNREACH = reply.network,
  EHOSTUNREACH = reply.host,
  ENOTFOUND = reply.host,
  ENODATA = reply.host,
  EBADNAME = reply.host,
  ETIMEDOUT = reply.timeout,
  ETIMEOUT = reply.timeout,
}

-- --- the other side ---------------------------------------------------------------------------

-- What ends in order on one side ends in order on the other; else it is reset, so that a truncated
-- stream does not look like a whole one.
local orderly = { done = true, stopped = true, timeout = true }

local function endAlike(other, reason)
  if orderly[reason.code] then
    other.transport:loseConnection()
  else
    other.transport:abortConnection()
  end
end

local Target = protocol.Protocol {}

function Target:connectionLost(reason)
  if self.client then
    endAlike(self.client, reason)
  end
end

-- One for all: a class would be a new factory at each connection.
local targetFactory = protocol.ClientFactory { protocol = Target, idleTimeout = idle }:new()

-- --- the client -------------------------------------------------------------------------------

-- What comes is gathered until a step has all that it needs. Each step looks at the bytes and gives how
-- many it has dealt with; nil: more must come. `self.step` names the next one.
local Client = protocol.Protocol(policies.TimeoutMixin, { step = "greeting", bytes = "" })

function Client:connectionMade()
  self:setTimeout(timeout)
end

function Client:dataReceived(data)
  self.bytes = self.bytes .. data
  repeat
    local used = self.step and self[self.step](self, self.bytes)
    self.bytes = self.bytes:sub((used or 0) + 1)
  until not used or self.bytes == ""
end

-- No method and no version that we know: nothing that comes is looked at any more.
function Client:refuse(bytes)
  self.step = false
  self.transport:write(bytes)
  self.transport:loseConnection()
end

-- VERSION, how many methods, the methods.
function Client:greeting(bytes)
  local version, count = bytes:byte(1, 2)
  if version ~= VERSION then
    return self:refuse ""
  elseif not count or #bytes < 2 + count then
    return nil
  end
  local method = user and USER_PASSWORD or NO_AUTHENTICATION
  if not bytes:sub(3, 2 + count):find(string.char(method), 1, true) then
    return self:refuse(string.char(VERSION, NO_METHOD))
  end
  self.transport:write(string.char(VERSION, method))
  self.step = user and "authentication" or "request"
  return 2 + count
end

-- A length and as many bytes, at a place; and the place behind them. Nil: not all here.
local function counted(bytes, at)
  local length = bytes:byte(at)
  if length and #bytes >= at + length then
    return bytes:sub(at + 1, at + length), at + length + 1
  end
end

-- Its own version, the user, the password.
function Client:authentication(bytes)
  if bytes:byte(1) ~= AUTHENTICATION then
    return self:refuse ""
  end
  local name, at = counted(bytes, 2)
  local secret, stop
  if at then
    secret, stop = counted(bytes, at)
  end
  if not stop then
    return nil
  elseif name ~= user or secret ~= password then
    return self:refuse(string.char(AUTHENTICATION, 1))
  end
  self.transport:write(string.char(AUTHENTICATION, 0))
  self.step = "request"
  return stop - 1
end

-- The host at a place of a request, and the place behind it. Nil: not all here; false: none that we know.
local function hostAt(bytes, kind, at)
  if kind == NAME then
    return counted(bytes, at)
  end
  local size = kind == IPV4 and 4 or kind == IPV6 and 16
  if not size then
    return false
  elseif #bytes >= at + size - 1 then
    return inet.textOf(bytes:sub(at, at + size - 1)), at + size
  end
end

-- The endpoint string for what was asked for, or nil where that cannot be a host.
local function endpointFor(host, port)
  local quoted = inet.isIPv6(host, true) and "[" .. host .. "]" or endpoints.quoteStringArgument(host)
  local endpoint = ("tcp:%s:%d:timeout=%g"):format(quoted, port, timeout)
  return endpoints.parseClient(endpoint) and endpoint
end

-- VERSION, the command, a zero, the kind of address, the address, the port.
function Client:request(bytes)
  local version, command, _, kind = bytes:byte(1, 4)
  if version ~= VERSION then
    return self:refuse ""
  elseif not kind then
    return nil
  end
  local host, at = hostAt(bytes, kind, 5)
  if host == false then
    return self:deny(reply.address)
  end
  local high, low = bytes:byte(at or #bytes + 1, (at or #bytes) + 1)
  if not low then
    return nil
  elseif command ~= CONNECT then
    return self:deny(reply.command)
  end
  local endpoint = endpointFor(host, high * 256 + low)
  if not endpoint then
    return self:deny(reply.host)
  end
  self:connect(endpoint)
  return at + 1
end

-- Answers a request: how it went, and the address that the connection comes from.
function Client:answer(code, from)
  local host = from and inet.bytesOf(from.host) or "\0\0\0\0"
  local port = from and from.port or 0
  self.transport:write(table.concat {
    string.char(VERSION, code, 0, #host == 4 and IPV4 or IPV6), host, string.char(math.floor(port / 256), port % 256),
  })
end

function Client:deny(code)
  self.step = false
  self:answer(code)
  self.transport:loseConnection()
end

function Client:connect(endpoint)
  self.step = false -- what comes from here on is for the target
  self:setTimeout(nil)
  self.transport:pauseProducing()
  self.connecting = endpoints.clientFromString(endpoint):connect(targetFactory)
  self.connecting:addCallbacks(function(target)
    self:join(target)
  end, function(failure)
    self:failed(failure)
  end)
end

function Client:failed(failure)
  if failure:check "CancelledError" then
    return
  end
  local reason = failure.value
  local errno = type(reason) == "table" and (reason.errno or reason.code == "timeout" and "ETIMEDOUT")
  log.info("%s", failure.message)
  self.transport:resumeProducing()
  self:deny(replyFor[errno] or reply.failed)
end

-- Whose end it is when a pipe breaks, connectionLost says.
local function forward(from, into)
  from.transport:pipe(into.transport):addErrback(function() end)
end

function Client:join(target)
  self.target, target.client = target, self
  self:answer(reply.granted, target.transport:getHost())
  target.transport:write(self.bytes)
  self.bytes = ""
  forward(self, target)
  forward(target, self)
  self.transport:resumeProducing()
end

function Client:connectionLost(reason)
  self:setTimeout(nil)
  if self.target then
    endAlike(self.target, reason)
  elseif self.connecting then
    self.connecting:cancel()
  end
end

return { listen = "tcp:127.0.0.1:1080", protocol = Client, idleTimeout = idle }
