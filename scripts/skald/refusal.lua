-- What is wrong with a change, and how it ends one: code that finds something raises a refusal, a list of texts
-- or tables.

local core = require "skald.core"

local refusal = {}

local Refusal = {}

--- What is wrong with the host, and at no line of any file.
---@param format string
---@param ... any
---@return table
function refusal.plain(format, ...)
  return { message = format:format(...) }
end

--- "file:line: message" and a traceback, taken apart.
---@param phase string in which it came
---@param text string|table
---@return table
function refusal.errorOf(phase, text)
  if type(text) == "table" then
    text.phase = phase
    return text
  end
  local message, traceback = text:match "^(.-)\n(stack traceback:.*)$"
  message = message or text
  local file, line, rest = message:match "^([^\n]-):(%d+): (.*)$"
  return { phase = phase, file = file, line = tonumber(line), message = rest or message, traceback = traceback }
end

--- Ends the change, with a list of texts or tables.
---@param texts (string|table)[]
function refusal.refuse(texts)
  error(setmetatable(texts, Refusal), 0)
end

--- The handler of xpcall: a list of what is wrong, with a traceback where it was raised by something else.
---@param problem any
---@return (string|table)[]
function refusal.handler(problem)
  if getmetatable(problem) == Refusal then
    return problem
  end
  return { core.traceback(problem) }
end

--- An error of a report as one line "file:line: message".
---@param item table
---@return string
function refusal.line(item)
  if item.file and item.line then
    return ("%s:%d: %s"):format(item.file, item.line, item.message)
  end
  return item.message
end

return refusal
