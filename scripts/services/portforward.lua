-- Forwards connections: what comes goes to another endpoint, and back, inside the core.
--   skald run portforward listen=tcp:127.0.0.1:7005 connect=tcp:127.0.0.1:7001
-- Each side's end of input is the other's, so half-closed connections work; a side that is lost resets
-- the other one. Options besides:
--   proxy=1 or proxy=2  tell the server who the client is, by a PROXY header of that version
--   idle=SECONDS        end connections in which nothing moves for so long

local defer = require "skald.defer"
local endpoints = require "skald.endpoints"
local log = require "skald.log"
local protocol = require "skald.protocol"

local options = ...

local function number(name, low)
  local value = options[name] and tonumber(options[name])
  if options[name] and not (value and value >= low) then
    error(("%s takes a number from %d, not '%s'"):format(name, low, options[name]), 0)
  end
  return value
end

for name in pairs(options) do
  if name ~= "listen" and name ~= "connect" and name ~= "proxy" and name ~= "idle" then
    error(("there is no option '%s' (listen, connect, proxy, idle)"):format(name), 0)
  end
end

local idle, version = number("idle", 0), number("proxy", 1)
if version and version ~= 1 and version ~= 2 then
  error(("there is a PROXY header 1 and a 2, but no '%s'"):format(options.proxy), 0)
end
local to = options.connect or "tcp:127.0.0.1:7001"
local upstream = endpoints.clientFromString(to)

-- How the other side ends when one has: in order after these, else by a reset.
local orderly = { done = true, stopped = true, timeout = true }

-- Either side of a connection that is forwarded.
local Side = protocol.Protocol {}

-- What came before the other side was there.
function Side:dataReceived(data)
  self.early = (self.early or "") .. data
end

function Side:connectionLost(reason)
  if not self.other then
    defer.maybeDeferred(self.connecting.cancel, self.connecting)
  elseif orderly[reason.code] then
    self.other.transport:loseConnection()
  else
    self.other.transport:abortConnection()
  end
end

-- One for all: a class would be a new factory at each connection.
local upstreamFactory = protocol.ClientFactory { protocol = Side, idleTimeout = idle }:new()

local Client = Side {}

function Client:connectionMade()
  self.transport:pauseProducing() -- until there is somebody to read for
  self.connecting = upstream:connect(upstreamFactory)
  self.connecting:addCallbacks(function(server)
    self:join(server)
  end, function(failure)
    if not failure:check "CancelledError" then
      log.warning("%s", failure.message)
    end
    self.transport:abortConnection()
  end)
end

-- Whose end it is when a pipe breaks, connectionLost says.
local function forward(from, into)
  from.other = into
  from.transport:pipe(into.transport):addErrback(function() end)
end

function Client:join(server)
  if version then
    server.transport:write(require("skald.haproxy").forTransport(self.transport, version))
  end
  if self.early then
    server.transport:write(self.early)
  end
  forward(self, server)
  forward(server, self)
  self.transport:resumeProducing()
end

return { listen = "tcp:127.0.0.1:7005", protocol = Client, idleTimeout = idle }
