-- Listening sockets, and the ports that scripts hold of them.

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local roster = require "skald.roster"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local ports = {}

local BACKLOG = 4096 -- the kernel takes the smaller of this and its own bound
local MODE = 438 -- 0666

-- --- listeners --------------------------------------------------------------------------------

--- A listening socket.
---@class Listener
---@field handle number? nil once closed
---@field key string the endpoint as it was asked for
---@field factory Factory?
---@field name string for the line that says it listens
---@field address Address the real one
---@field proxied boolean? its connections begin with a header of the PROXY protocol
---@field owner Owner?
local Listener = {}
Listener.__index = Listener

-- What is done for an endpoint of each kind: `key` says what makes two of them the same socket, `bind`
-- gives an errno, or nil, message, code.
local kinds = { tcp = {}, udp = {}, unix = {}, fd = {}, systemd = {}, stdio = {} }

local function inet(protocol, endpoint)
  return ("%s:%s:%d"):format(protocol, core.canonical(endpoint.interface or "0.0.0.0"), endpoint.port)
end

function kinds.tcp.key(endpoint)
  return inet("tcp", endpoint)
end

-- skald.datagram binds these.
function kinds.udp.key(endpoint)
  return inet("udp", endpoint)
end

function kinds.tcp.bind(group, endpoint, backlog, handle)
  return C.skald_listen_tcp(pointer, group, endpoint.interface or "0.0.0.0", endpoint.port, backlog, handle)
end

function kinds.unix.key(endpoint)
  return "unix:" .. endpoint.path
end

function kinds.unix.bind(group, endpoint, backlog, handle)
  return C.skald_listen_unix(pointer, group, endpoint.path, endpoint.mode or MODE, backlog, handle)
end

function kinds.stdio.key()
  return "stdio:"
end

function kinds.fd.key(endpoint)
  return "fd:" .. endpoint.fd
end

local function adopt(group, fd, handle)
  local errno = C.skald_listen_fd(pointer, group, fd, handle)
  if errno ~= 0 then
    local message, code = core.errorOf(errno)
    if code == "ENOTSOCK" then
      message = "that descriptor is no listening socket of connections"
    end
    return nil, message, code
  end
  return 0
end

function kinds.fd.bind(group, endpoint, _, handle)
  return adopt(group, endpoint.fd, handle)
end

function kinds.systemd.key(endpoint)
  return endpoint.name and "systemd:name=" .. endpoint.name or "systemd:index=" .. endpoint.index
end

function kinds.systemd.bind(group, endpoint, _, handle)
  local fd, message = require("skald.activation").find(endpoint.name or endpoint.index, C.skald_process())
  if not fd then
    return nil, message, "ENOENT"
  end
  return adopt(group, fd, handle)
end


-- TLS stands on another socket.
local function kindOf(endpoint)
  if kinds[endpoint.type] then
    return kinds[endpoint.type]
  elseif endpoint.fd then
    return kinds.fd
  elseif endpoint.name or endpoint.index then
    return kinds.systemd
  end
  return kinds[endpoint.path and "unix" or "tcp"]
end

ports.Listener = Listener

local function bind(group, endpoint, backlog)
  local handle = ffi.new "double[1]"
  local errno, message, code = kindOf(endpoint).bind(group, endpoint, backlog, handle)
  if not errno then
    return nil, message, code
  elseif errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  return handle[0]
end

--- What makes two endpoints the same socket.
---@param endpoint table
---@return string
function ports.key(endpoint)
  return kindOf(endpoint).key(endpoint)
end

--- An endpoint as lines for users say it.
---@param endpoint table
---@return string
function ports.shown(endpoint)
  local key = ports.key(endpoint)
  return endpoint.type == "tls" and key:gsub("^tcp:", ""):gsub("^", "tls:") or key
end

--- Binds, without accepting.
---@param group Group
---@param endpoint table as endpoints.socketOf gives it
---@param backlog integer?
---@return Listener? listener or nil, message, code
---@return string? message
---@return string? code
function ports.bind(group, endpoint, backlog)
  if endpoint.type == "udp" then
    return require("skald.datagram").bind(endpoint)
  elseif endpoint.type == "stdio" then
    return require("skald.stdio").bind(group)
  end
  backlog = backlog or BACKLOG
  local handle, message, code = bind(group.handle, endpoint, backlog)
  if not handle then
    return nil, message, code
  end
  local buffer = core.addressBuffer()
  local errno = C.skald_listener_host(pointer, handle, buffer)
  if errno ~= 0 then
    C.skald_unlisten(pointer, handle)
    return nil, core.errorOf(errno)
  end
  local listener = setmetatable({
    handle = handle,
    key = ports.key(endpoint),
    group = group,
    address = core.addressIn(buffer),
    backlog = backlog,
    mode = endpoint.mode or MODE,
    proxied = endpoint.proxied,
    secured = 0,
  }, Listener)
  dispatch.ports[handle] = listener
  return listener
end

--- What `adjust` takes to put it back.
---@return table
function Listener:settings()
  return { backlog = self.backlog, mode = self.mode }
end

--- Gives a listener that stays the backlog and the mode that are asked for now.
---@param endpoint table
---@param backlog integer?
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Listener:adjust(endpoint, backlog)
  backlog = backlog or BACKLOG
  local mode = endpoint.mode or MODE
  if backlog == self.backlog and mode == self.mode then
    return true
  end
  local errno = C.skald_adjust_listener(pointer, self.handle, mode, backlog)
  if errno ~= 0 then
    C.skald_adjust_listener(pointer, self.handle, self.mode, self.backlog) -- half of it may be done
    return nil, core.errorOf(errno)
  end
  self.backlog, self.mode = backlog, mode
  return true
end

--- Has a factory serve it from now on.
---@param factory Factory
---@param name string
function Listener:serve(factory, name)
  local group = factory._group
  self.factory, self.name = factory, name
  if self.group ~= group then
    C.skald_move_listener(pointer, self.handle, group.handle)
    self.group = group
  end
end

--- What it accepts from now on is encrypted with the context of an endpoint, or is not. Behind a PROXY
--- header it is so later: skald.proxied sees to that.
---@param context TLSContext?
function Listener:secure(context)
  local handle = context and not self.proxied and context.handle or 0
  if handle ~= self.secured then
    C.skald_secure_listener(pointer, self.handle, handle)
  end
  self.context, self.secured = context, handle
end

--- Counts it for its factory, which starts where it is the first; the results of startFactory's
--- xpcall.
---@return boolean ok
---@return string? problem
function Listener:start()
  self.started = self.factory
  return roster.raise(self.factory)
end

--- The endpoint that it really is.
---@return string
function Listener:__tostring()
  local text = tostring(self.address)
  text = self.context and text:gsub("^tcp:", ""):gsub("^", "tls:") or text
  return (self.proxied and "haproxy:" or "") .. text
end

--- The line for standard output.
---@return string
function Listener:announcement()
  return ("listening %s %s"):format(tostring(self), self.name)
end

--- Takes connections from now on.
function Listener:accept()
  C.skald_accept(pointer, self.handle)
end

--- The socket is closed: the factory hears of it.
function Listener:ended()
  local factory = self.started
  dispatch.ports[self.handle] = nil
  self.handle, self.started = nil, nil
  if self.owner then
    self.owner.listeners[self] = nil
  end
  if factory then
    roster.lower(factory)
  end
end

--- Closes the socket; the factory does not hear of it before `ended`.
function Listener:silence()
  C.skald_unlisten(pointer, self.handle)
end

--- Closes the socket; connections live on.
function Listener:close()
  if self.handle then
    self:silence()
    self:ended()
  end
end

--- Serves what waits in the socket's queue, then closes it.
function Listener:finish()
  if self.handle then
    C.skald_finish_listener(pointer, self.handle)
  end
end

-- --- ports ------------------------------------------------------------------------------------

--- What reactor.listenTCP gives.
---@class Port
local Port = {}
Port.__index = Port

--- A port of a listener.
---@param listener Listener
---@return Port
function ports.new(listener)
  return setmetatable({ listener = listener, address = listener.address }, Port)
end

--- The address it listens on.
---@return Address
function Port:getHost()
  return self.address
end

--- Closes the socket and stops the factory where this was its last port. Connections live on. While
--- a script loads it only takes back what that script asked for.
---@return Deferred d of nothing, when that is done
function Port:stopListening()
  local deferred = require "skald.deferred"
  local listener = self.listener
  self.listener = nil
  if not listener or not listener.handle then
    return deferred.succeed()
  end
  if self.held then
    self.held:drop(listener)
  elseif listener.stop then
    return listener:stop()
  else
    listener:close()
  end
  return deferred.succeed()
end

return ports
