-- Standard input and output as a place to listen on, of which one connection comes.

local address = require "skald.address"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local program = require "skald.program"
local roster = require "skald.roster"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local stdio = {}

local HANDLE = 0 -- among those of listeners, which begin at 1

--- What stands for a listening socket: it has the methods of one (skald.ports).
---@class Stdio
---@field handle number? nil once closed
---@field key string
---@field factory Factory?
---@field address Address
local Stdio = {}
Stdio.__index = Stdio

--- Takes standard input and output.
---@param group Group
---@return Stdio? listener or nil, message, code
---@return string? message
---@return string? code
function stdio.bind(group)
  local errno = C.skald_stdio_take(pointer)
  if errno ~= 0 then
    return nil, core.errorOf(errno)
  end
  local name = address.named "STDIO"
  local self = setmetatable({ handle = HANDLE, key = "stdio:", group = group, address = name }, Stdio)
  dispatch.ports[HANDLE] = self
  return self
end

--- Nothing of it can be put back.
---@return table
function Stdio.settings()
  return {}
end

--- Nothing of it can be adjusted.
---@return boolean
function Stdio.adjust()
  return true
end

--- It stays as it is.
function Stdio.secure() end

--- Has a factory serve it from now on.
---@param factory Factory
---@param name string
function Stdio:serve(factory, name)
  self.factory, self.name, self.group = factory, name, factory._group
end

--- Counts it for its factory, which starts where it is the first; the results of startFactory's xpcall.
---@return boolean ok
---@return string? problem
function Stdio:start()
  self.started = self.factory
  return roster.raise(self.factory)
end

--- There is no line for standard output, which is the connection's.
---@return nil
function Stdio.announcement()
  return nil
end

-- The connection has ended, or none came of it: that was the last one.
local function over(self)
  self.connected = nil
  self:close()
  if not C.skald_is_stopping(pointer) then
    program.stop(0)
  end
end

--- The connection comes now.
function Stdio:accept()
  local handle = ffi.new "double[1]"
  if self.connected then
    return
  end
  local errno = C.skald_stdio_connect(pointer, self.group.handle, handle)
  if errno ~= 0 then
    program.complain("skald: stdio: %s", (core.errorOf(errno)))
    program.stop(1)
    return
  end
  self.connected = true
  dispatch.dials[handle[0]] = self
end

-- What dispatch asks of what it finds there: it is the dial, and the connector too.

--- The connection is there: its protocol, or nil.
---@private
function Stdio:build(carrier, build)
  self.connector = self
  if not C.skald_stdio_is_socket(pointer) then
    carrier.peer, carrier.host = self.address, self.address
  end
  local ok, made = xpcall(build, core.traceback, self.factory, carrier)
  if not ok or made == nil then
    over(self)
  end
  if not ok then
    error(made, 0)
  end
  return made
end

--- It will not come.
---@private
function Stdio:failed()
  over(self)
end

--- Its protocol's connectionMade has returned.
---@private
function Stdio.ready() end

--- The connection is over.
---@private
function Stdio:lost()
  over(self)
end

--- Nothing comes of it any more: the factory hears of it.
function Stdio:ended()
  local factory = self.started
  dispatch.ports[HANDLE] = nil
  self.handle, self.started = nil, nil
  if self.owner then
    self.owner.listeners[self] = nil
  end
  if factory then
    roster.lower(factory)
  end
end

--- Puts them back where no connection came of them.
function Stdio.silence()
  C.skald_stdio_release(pointer)
end

--- Is closed. A connection that came of it lives on.
function Stdio:close()
  if self.handle then
    self:silence()
    self:ended()
  end
end

--- The same.
function Stdio:finish()
  self:close()
end

return stdio
