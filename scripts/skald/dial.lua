-- One attempt to connect: to an address, to a path, or to the addresses of a host name, which are
-- tried one after the other, IPv6 and IPv4 in turn, each without waiting long for the one before
-- (RFC 8305).

local core = require "skald.core"
local dispatch = require "skald.dispatch"
local timers = require "skald.timers"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local dials = dispatch.dials

local dial = {
  NEXT_AFTER = 0.25, -- seconds before the next address is tried beside the one before
  IPV6_FIRST = 0.05, -- seconds that IPv4 waits for IPv6's answer
}

local QUEUE_FULL = 0.02 -- seconds before a Unix socket with a full queue is asked again

---@class Attempt
---@field connector Connector
---@field endpoint table
---@field group Group
---@field open table<number, true> what is being connected, by its handle
local Attempt = {}
Attempt.__index = Attempt

local function cancelTimer(self, name)
  if self[name] then
    self[name]:cancel()
    self[name] = nil
  end
end

-- Lets go of all that it still tries, but for the one that was connected.
local function release(self)
  cancelTimer(self, "next")
  cancelTimer(self, "limit")
  for handle in pairs(self.open) do
    local peer = dials[handle] and dials[handle].peer
    if peer then
      peer:release()
    end
    dials[handle] = nil
    C.skald_dial_cancel(pointer, handle)
  end
  self.open = {}
  if self.lookup then
    self.lookup:cancel()
    self.lookup = nil
  end
end

--- Gives up; nobody is told.
function Attempt:cancel()
  release(self)
end

local function fail(self, code, by, detail, errno)
  release(self)
  self.connector:failed(code, by, detail, errno)
end

local function failWith(self, errno, by)
  if errno == core.errors.ECANCELED then
    fail(self, "stopped", "host")
  else
    fail(self, errno == core.errors.ETIMEDOUT and "timeout" or "lost", by, core.errorOf(errno))
  end
end

-- --- one socket -------------------------------------------------------------------------------

-- A socket on its way; the core tells `dispatch` of it.
local Dial = {}
Dial.__index = Dial

function Dial:build(carrier, build)
  local attempt = self.attempt
  attempt.open[self.handle] = nil
  release(attempt)
  self.endpoint = attempt.endpoint
  if not self.peer then
    return attempt.connector:build(carrier, build)
  end
  carrier.peer = attempt.connector:getDestination()
  carrier.host = carrier.peer
  local made = attempt.connector:build(carrier, build)
  if made == nil then
    self.peer:release()
  end
  return made
end

function Dial:failed(errno)
  local attempt = self.attempt
  if self.peer then
    self.peer:release()
  end
  attempt.open[self.handle] = nil
  attempt:refused(errno)
end

local function launch(self, open)
  local handle = ffi.new "double[1]"
  local errno = open(handle)
  if errno == 0 then
    self.open[handle[0]] = true
    dials[handle[0]] = setmetatable({ attempt = self, connector = self.connector, handle = handle[0] }, Dial)
  end
  return errno
end

local function dialAddress(self, host)
  local endpoint = self.endpoint
  local from = endpoint.bindAddress
  return launch(self, function(handle)
    return C.skald_dial_tcp(pointer, self.group.handle, host, endpoint.port, from and from[1] or nil,
      from and from[2] or 0, handle)
  end)
end

-- --- the addresses of a name ------------------------------------------------------------------

-- The next address: of the family that was not tried last.
local function takeAddress(self)
  local other = self.family == "TCP6" and "TCP" or "TCP6"
  local family = #self.found[other] > 0 and other or self.family
  self.family = family
  return table.remove(self.found[family], 1)
end

-- Nothing is open, left or awaited. What a peer said tells most; then why a family could not be looked
-- up; then why there was no way to an address from here. That a family has no address tells nothing
-- where the other has one.
local function giveUp(self)
  local code = self.problemCode
  local unknown = code and code ~= "ENODATA" and code ~= "ENOTFOUND"
  if self.errno and (self.by == "peer" or not unknown) then
    failWith(self, self.errno, self.by)
  elseif code == "ETIMEOUT" then
    fail(self, "timeout", "host", self.problem, "ETIMEDOUT")
  else
    fail(self, "lost", "host", self.problem, code)
  end
end

local function tryNext(self)
  cancelTimer(self, "next")
  for address in takeAddress, self do
    local errno = dialAddress(self, address)
    if errno == 0 then
      self.next = timers.own(dial.NEXT_AFTER, tryNext, self)
      return
    elseif errno == core.errors.ECANCELED then
      return failWith(self, errno)
    end
    self.errno, self.by = self.errno or errno, self.by or "local"
  end
  if next(self.open) == nil and not self.lookup then
    giveUp(self)
  end
end

local function begin(self)
  self.begun = true
  tryNext(self)
end

-- The addresses of one family have come, or there are none.
local function onFamily(self, family, hosts, problem, code, last)
  self.found[family] = hosts or {}
  if problem then
    self.problem, self.problemCode = problem, code -- the last one is the worse of both
  end
  if last then
    self.lookup = nil
  end
  if self.begun then
    if hosts and not self.next or next(self.open) == nil then
      tryNext(self)
    end
  elseif last or hosts and family == "TCP6" then
    begin(self)
  elseif hosts then
    self.next = timers.own(dial.IPV6_FIRST, begin, self)
  end
end

-- The look-up has as long as the whole attempt.
local function dialName(self)
  local resolver = require "skald.resolver"
  local problem, code
  self.found, self.family = { TCP = {}, TCP6 = {} }, "TCP"
  self.lookup, problem, code = resolver.lookup(self.endpoint.host, function(...)
    onFamily(self, ...)
  end, { timeout = self.endpoint.timeout })
  if not self.lookup then
    fail(self, "lost", "local", problem, code)
  end
end

-- --- the attempt ------------------------------------------------------------------------------

local function dialPath(self)
  local errno = launch(self, function(handle)
    return C.skald_dial_unix(pointer, self.group.handle, self.endpoint.path, handle)
  end)
  if errno == core.errors.EAGAIN then
    self.next = timers.own(QUEUE_FULL, dialPath, self)
  elseif errno ~= 0 then
    failWith(self, errno, errno == core.errors.ECONNREFUSED and "peer" or "local")
  end
end

-- A connector that the process at the other end hears of, too.
local function between(connector, peer)
  return setmetatable({
    ready = function(_, made)
      connector:ready(made)
    end,
    lost = function(_, why)
      peer:release(why)
      connector:lost(why)
    end,
  }, { __index = connector })
end

-- A program is there as soon as it has started.
local function dialProcess(self)
  local peer, message, code, errno = require("skald.process").connect(self.group.handle, self.endpoint)
  if not peer then
    if errno == core.errors.ECANCELED then
      return failWith(self, errno)
    end
    return fail(self, "lost", "local", message, code)
  end
  local handle = peer.connection
  self.open[handle] = true
  dials[handle] = setmetatable({
    attempt = self,
    connector = between(self.connector, peer),
    handle = handle,
    peer = peer,
  }, Dial)
end

--- A socket of it could not be connected.
---@param errno integer
function Attempt:refused(errno)
  self.errno, self.by = errno, "peer"
  if not self.found or errno == core.errors.ECANCELED then
    failWith(self, errno, "peer")
  else
    tryNext(self)
  end
end

-- What fails at once is told like what fails later: when the caller has returned.
local function go(self)
  self.next = nil
  local endpoint = self.endpoint
  local ok, message, code = true, nil, nil
  if endpoint.type == "tls" then
    ok, message, code = require("skald.tls").prepare(endpoint, false)
  end
  if not ok then
    fail(self, "error", "local", message, code)
  elseif endpoint.type == "process" then
    dialProcess(self)
  elseif endpoint.path then
    dialPath(self)
  elseif not endpoint.host:find("\0", 1, true) and C.skald_is_address(endpoint.host) then
    local errno = dialAddress(self, endpoint.host)
    if errno ~= 0 then
      failWith(self, errno, "local")
    end
  else
    dialName(self)
  end
end

--- Begins to connect. `connector:build(carrier, build)` or `connector:failed(code, by, detail, errno)`
--- follows, never before this has returned.
---@param connector Connector
---@param endpoint table as endpoints.parseClient gives it
---@param group Group
---@return Attempt
function dial.start(connector, endpoint, group)
  local self = setmetatable({ connector = connector, endpoint = endpoint, group = group, open = {} }, Attempt)
  self.next = timers.own(0, go, self)
  if endpoint.timeout and endpoint.timeout > 0 then
    self.limit = timers.own(endpoint.timeout, function()
      self.limit = nil
      fail(self, "timeout", "host", ("no answer within %g s"):format(endpoint.timeout), "ETIMEDOUT")
    end)
  end
  return self
end

return dial
