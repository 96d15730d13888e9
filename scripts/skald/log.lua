-- The log: lines on standard error, `--log-level` says from which level on.

local core = require "skald.core"

local C, pointer = core.C, core.pointer
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

--- Each takes a text, or a format and its values as string.format does.
log.debug = writer(0)
log.info = writer(1)
log.warning = writer(2)
log.error = writer(3)

return log
