-- Failures: what was raised, or given to an errback, with where that was. Pure.

local trace = require "skald.trace"

local failure = {}

--- What was raised, or given to an errback. `tostring` gives its type and message; raised or given again it stays
--- the same one.
---@class Failure
---@field type string CancelledError, TimeoutError, FirstError, FailureGroup; what a raised table calls itself; "error"
---@field message string
---@field traceback string the message, and where it was raised
---@field value any what was raised
local Failure = {}
local methods = {}
Failure.__index = methods

function Failure:__tostring()
  if self.type == "error" then
    return self.message
  end
  return ("%s: %s"):format(self.type, self.message)
end

--- Whether a value is a failure.
---@param value any
---@return boolean
function failure.is(value)
  return type(value) == "table" and getmetatable(value) == Failure
end

local function textOf(value, kind)
  if kind and type(value) == "table" and not (getmetatable(value) or {}).__tostring then
    return kind
  end
  local ok, text = pcall(tostring, value)
  return ok and text or ("(a %s without a text)"):format(type(value))
end

-- What a table says of itself, where it can be asked.
local function field(value, name)
  if type(value) ~= "table" then
    return nil
  end
  local ok, found = pcall(function()
    return value[name]
  end)
  return ok and type(found) == "string" and found or nil
end

--- A failure of a value, raised where `traceback` says; a failure stays what it is.
---@param value any
---@param traceback string
---@return Failure
function failure.raised(value, traceback)
  if failure.is(value) then
    return value
  end
  local kind = field(value, "type")
  local made = setmetatable({
    type = kind or "error",
    message = field(value, "message") or textOf(value, kind),
    value = value,
  }, Failure)
  made.traceback = tostring(made) .. traceback
  return made
end

--- A failure of a value; where this is called counts as where it was raised.
---@param value any
---@return Failure
function failure.new(value)
  if failure.is(value) then
    return value
  end
  return failure.raised(value, trace.here(1))
end

--- A failure of one of the library's own types.
---@param kind string
---@param message string
---@param value any? what it carries
---@return Failure
function failure.own(kind, message, value)
  local made = failure.new { type = kind, message = message }
  if value ~= nil then
    made.value = value
  end
  return made
end

--- A handler for xpcall: the failure of what was raised, with where that was.
---@param problem any
---@return Failure
function failure.handler(problem)
  if failure.is(problem) then
    return problem
  end
  return failure.raised(problem, trace.here(1))
end

--- The first of the types that this failure has, or nil.
---@param ... string
---@return string?
function methods:check(...)
  for i = 1, select("#", ...) do
    if select(i, ...) == self.type then
      return self.type
    end
  end
  return nil
end

--- The type, where it is one of those; else the failure is raised on.
---@param ... string
---@return string
function methods:trap(...)
  return self:check(...) or self:raise()
end

--- Raises it; it stays the same failure.
function methods:raise()
  error(self, 0)
end

--- The message.
---@return string
function methods:getErrorMessage()
  return self.message
end

--- The message, and where it was raised.
---@return string
function methods:getTraceback()
  return self.traceback
end

return failure
