-- The log: lines on standard error, `--log-level` says from which level on.

local core = require "skald.core"

local C, pointer = core.C, core.pointer
---@class skald.log
local log = {}

local function write(level, format, ...)
  if not C.skald_log_wants(pointer, level) then
    return
  end
  local text = tostring(format)
  if select("#", ...) > 0 then
    text = text:format(...)
  end
  C.skald_log(pointer, level, text, #text)
end

--- A line for who looks for a fault.
---@param format any a text, or a format of string.format and its values
---@param ... any
function log.debug(format, ...)
  write(0, format, ...)
end

--- A line on what happens.
---@param format any a text, or a format of string.format and its values
---@param ... any
function log.info(format, ...)
  write(1, format, ...)
end

--- A line on what may be wrong.
---@param format any a text, or a format of string.format and its values
---@param ... any
function log.warning(format, ...)
  write(2, format, ...)
end

--- A line on what has failed.
---@param format any a text, or a format of string.format and its values
---@param ... any
function log.error(format, ...)
  write(3, format, ...)
end

return log
