-- The log: lines on standard error, `--log-level` says from which level on.

local core = require "skald.core"

local C, pointer = core.C, core.pointer
---@class skald.log
local log = {}

local function writer(level)
  return function(format, ...)
    if not C.skald_log_wants(pointer, level) then
      return
    end
    local text = tostring(format)
    if select("#", ...) > 0 then
      text = text:format(...)
    end
    C.skald_log(pointer, level, text, #text)
  end
end

--- A line for who looks for a fault.
---@param format any a text, or a format of string.format and its values
---@param ... any
log.debug = writer(0)

--- A line on what happens.
---@param format any a text, or a format of string.format and its values
---@param ... any
log.info = writer(1)

--- A line on what may be wrong.
---@param format any a text, or a format of string.format and its values
---@param ... any
log.warning = writer(2)

--- A line on what has failed.
---@param format any a text, or a format of string.format and its values
---@param ... any
log.error = writer(3)

return log
