-- Listening ports and the factories behind them.

local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local protocol = require "skald.protocol"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local ports = {}

local BACKLOG = 4096 -- the kernel takes the smaller of this and its own bound

-- How many ports of a factory are up.
local up = setmetatable({}, { __mode = "k" })

---@class Port
---@field factory Factory
local Port = {}
Port.__index = Port

--- The address it listens on.
---@return Address
function Port:getHost()
  return self.address
end

local function addressOf(handle, endpoint)
  local buffer = core.addressBuffer()
  if C.skald_listener_host(pointer, handle, buffer) ~= 0 then
    return nil
  end
  return core.addressIn(buffer), endpoint
end

local function bind(group, endpoint, backlog)
  local handle = ffi.new "double[1]"
  local errno
  if endpoint.type == "unix" then
    errno = C.skald_listen_unix(pointer, group, endpoint.path, endpoint.mode or 438, backlog, handle)
  else
    local host = endpoint.interface or "0.0.0.0"
    errno = C.skald_listen_tcp(pointer, group, host, endpoint.port, backlog, handle)
  end
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  return handle[0]
end

local function groupOf(factory)
  local group = rawget(factory, "_group")
  if not group then
    group = dispatch.Group:new()
    factory._group = group
    for _, name in ipairs(protocol.bounds) do
      if factory[name] ~= nil then
        group:setBound(name, factory[name])
      end
    end
  end
  return group
end

--- The living factory behind what a script gave: an instance, a class, or a plain definition.
---@param definition table
---@return Factory
function ports.factoryOf(definition)
  if class.of(definition) then
    return definition
  end
  if not class.is(definition) then
    class.adopt(definition, protocol.Factory)
  end
  return definition:new()
end

--- What is wrong with the bounds of a definition, or nil.
---@param definition table
---@return string?
function ports.problem(definition)
  for _, name in ipairs(protocol.bounds) do
    local problem = definition[name] ~= nil and protocol.boundProblem(name, definition[name])
    if problem then
      return problem
    end
  end
  return nil
end

--- Binds; accepting starts with `accept`.
---@param factory Factory
---@param endpoint table as endpoints.parseServer gives it
---@param name string for the line that says it listens
---@return Port? port or nil, message, code
---@return string? message
---@return string? code
function ports.open(factory, endpoint, name)
  local backlog = endpoint.backlog or factory.backlog or BACKLOG
  local handle, message, code = bind(groupOf(factory).handle, endpoint, backlog)
  if not handle then
    return nil, message, code
  end
  local port = setmetatable({ handle = handle, factory = factory, name = name }, Port)
  port.address = addressOf(handle)
  dispatch.ports[handle] = port
  return port
end

--- Starts the factory where this is its first port.
function Port:start()
  local factory = self.factory
  up[factory] = (up[factory] or 0) + 1
  self.started = true
  if up[factory] == 1 and factory.startFactory then
    factory:startFactory()
  end
end

--- Whether it has not been stopped.
---@return boolean
function Port:isOpen()
  return self.handle ~= nil
end

--- The line for standard output.
---@return string
function Port:announcement()
  return ("listening %s %s"):format(tostring(self.address), self.name)
end

--- Takes connections from now on.
function Port:accept()
  local errno = C.skald_accept(pointer, self.handle)
  if errno ~= 0 then
    error(("%s: %s"):format(tostring(self.address), (core.errorOf(errno))), 0)
  end
end

--- Closes the socket and stops the factory where this was its last port. Connections live on.
function Port:stopListening()
  if not self.handle then
    return nil, "not listening", "EBADF"
  end
  C.skald_unlisten(pointer, self.handle)
  dispatch.ports[self.handle] = nil
  self.handle = nil
  if not self.started then
    return true
  end
  local factory = self.factory
  up[factory] = up[factory] - 1
  if up[factory] == 0 then
    up[factory] = nil
    if factory.stopFactory then
      factory:stopFactory()
    end
  end
  return true
end

return ports
