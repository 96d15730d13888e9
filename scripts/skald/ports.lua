-- Listening sockets, the factories that they serve, and the ports that scripts hold of them.

local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local log = require "skald.log"
local owner = require "skald.owner"
local protocol = require "skald.protocol"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local ports = {}

local BACKLOG = 4096 -- the kernel takes the smaller of this and its own bound
local MODE = 438 -- 0666

-- How many listeners of a factory are up, and who owns what its startFactory started.
local up = setmetatable({}, { __mode = "k" })
local owners = setmetatable({}, { __mode = "k" })

-- --- factories --------------------------------------------------------------------------------

--- Has a bound of a factory take effect, where it is not in effect already.
---@param factory Factory
function ports.applyBounds(factory)
  local group = factory._group
  for _, name in ipairs(protocol.bounds) do
    local value = factory[name] or protocol.defaults[name]
    if group.applied[name] ~= value then
      group:setBound(name, value)
    end
  end
end

--- The group of a factory's connections.
---@param factory Factory
---@return Group? group nil, message when there are too many
---@return string? message
function ports.groupOf(factory)
  local group = rawget(factory, "_group")
  if not group then
    group = dispatch.Group:new()
    if not group:isOpen() then
      return nil, "too many factories"
    end
    rawset(factory, "_group", group)
    ports.applyBounds(factory)
  end
  return group
end

--- The living factory behind what running code gave: an instance, a class, or a plain definition.
---@param definition table
---@return Factory
function ports.factoryOf(definition)
  local alias = getmetatable(definition)
  if type(alias) == "table" and rawget(alias, "livingFactory") then
    return alias.livingFactory
  end
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

-- --- listeners --------------------------------------------------------------------------------

---@class Listener
---@field handle number? nil once closed
---@field key string the endpoint as it was asked for
---@field factory Factory?
---@field name string for the line that says it listens
---@field address Address the real one
---@field owner Owner?
local Listener = {}
Listener.__index = Listener

local function bind(group, endpoint, backlog)
  local handle = ffi.new "double[1]"
  local errno
  if endpoint.type == "unix" then
    errno = C.skald_listen_unix(pointer, group, endpoint.path, endpoint.mode or MODE, backlog, handle)
  else
    local host = endpoint.interface or "0.0.0.0"
    errno = C.skald_listen_tcp(pointer, group, host, endpoint.port, backlog, handle)
  end
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  return handle[0]
end

--- What makes two endpoints the same socket.
---@param endpoint table
---@return string
function ports.key(endpoint)
  if endpoint.type == "unix" then
    return "unix:" .. endpoint.path
  end
  local name, buffer = endpoint.interface or "0.0.0.0", core.addressBuffer()
  if C.skald_canonical(name, buffer) == 0 then
    name = ffi.string(buffer.text)
  end
  return ("tcp:%s:%d"):format(name:find(":", 1, true) and "[" .. name .. "]" or name, endpoint.port)
end

--- Binds, without accepting.
---@param group Group
---@param endpoint table as endpoints.parseServer gives it
---@param backlog integer?
---@return Listener? listener or nil, message, code
---@return string? message
---@return string? code
function ports.bind(group, endpoint, backlog)
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
  }, Listener)
  dispatch.ports[handle] = listener
  return listener
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

-- Ends what a factory that has stopped had started.
local function finish(factory)
  local who = owners[factory]
  owners[factory] = nil
  if who then
    who:finish()
    for listener in pairs(who.listeners) do
      listener:close()
    end
  end
end

--- Counts it for its factory, which starts where it is the first; the results of startFactory's
--- xpcall.
---@return boolean ok
---@return string? problem
function Listener:start()
  local factory = self.factory
  self.started = factory
  up[factory] = (up[factory] or 0) + 1
  if up[factory] > 1 or not factory.startFactory then
    return true
  end
  owners[factory] = owner.new()
  return owner.call(owners[factory], core.traceback, factory.startFactory, factory)
end

--- Counts it no more for the factory that it started; that stops where it was the last.
---@param factory Factory
function ports.stop(factory)
  up[factory] = up[factory] - 1
  if up[factory] > 0 then
    return
  end
  up[factory] = nil
  if factory.stopFactory then
    local ok, problem = xpcall(factory.stopFactory, core.traceback, factory)
    if not ok then
      log.error("%s", problem)
    end
  end
  finish(factory)
end

--- The line for standard output.
---@return string
function Listener:announcement()
  return ("listening %s %s"):format(tostring(self.address), self.name)
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
    ports.stop(factory)
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
function Port:stopListening()
  local listener = self.listener
  self.listener = nil
  if not listener or not listener.handle then
    return nil, "not listening", "EBADF"
  end
  if self.held then
    self.held:drop(listener)
  else
    listener:close()
  end
  return true
end

return ports
