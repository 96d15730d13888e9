-- Why a connection ended: `{ code, by, message, errno?, traceback? }`. tostring gives one sentence.

local reason = {}

--- The order of `enum end_code` and `enum end_by` (host/io/loop.h).
reason.codes = { [0] = "done", "lost", "aborted", "timeout", "limit", "error", "stopped" }
reason.parties = { [0] = "peer", "local", "host" }

local sentences = {
  done = { peer = "the peer closed the connection", ["local"] = "the connection was closed" },
  lost = { peer = "the connection was lost" },
  aborted = { ["local"] = "the connection was aborted" },
  timeout = { host = "the connection timed out: nothing moved for too long" },
  limit = { host = "more output was waiting than maxBuffered allows" },
  error = { ["local"] = "a callback failed" },
  stopped = { host = "the host stops" },
}

--- Why a connection ended, or none could be made. `tostring` gives the message.
---@class Reason
---@field code "done"|"lost"|"aborted"|"timeout"|"limit"|"error"|"stopped" done: orderly; lost: reset, or the network;
---aborted: by abortConnection, or given up; timeout: idleTimeout, closeTimeout, or no answer; limit: more than
---maxBuffered was waiting; error: a callback raised; stopped: the host stops
---@field by "peer"|"local"|"host" local is the script
---@field message string one sentence
---@field errno string? the name of the system's error, such as "ECONNRESET"
---@field traceback string? of the callback that raised
---@field exitCode integer? of a process that ended by itself
---@field signal string? that ended a process, such as "TERM"
local Reason = {}
Reason.__index = Reason

function Reason:__tostring()
  return self.message
end

--- A reason.
---@param code string
---@param by string
---@param detail string? what exactly went wrong
---@param errno string? the name of a system error
---@param traceback string?
---@return Reason
function reason.new(code, by, detail, errno, traceback)
  local message = sentences[code][by] or "the connection ended"
  if detail then
    message = message .. ": " .. detail
  end
  local made = { code = code, by = by, message = message, errno = errno, traceback = traceback }
  return setmetatable(made, Reason)
end

--- How a process ended, or that it could not be started.
---@param code string
---@param by string
---@param message string one sentence
---@param fields { exitCode: integer?, signal: string?, errno: string?, traceback: string? }
---@return Reason
function reason.exited(code, by, message, fields)
  fields.code, fields.by, fields.message = code, by, message
  return setmetatable(fields, Reason)
end

local failed = {
  timeout = "it took too long",
  aborted = "the attempt was given up",
  error = "buildProtocol failed",
  stopped = "the host stops",
}

--- Why no connection could be made.
---@param to string where to
---@param code string
---@param by string
---@param detail string? what exactly went wrong
---@param errno string? the name of a system error
---@param traceback string?
---@return Reason
function reason.unconnected(to, code, by, detail, errno, traceback)
  local message = ("cannot connect to %s: %s"):format(to, detail or failed[code])
  local made = { code = code, by = by, message = message, errno = errno, traceback = traceback }
  made.type = code == "timeout" and "TimeoutError" or nil -- of the failure that it becomes
  return setmetatable(made, Reason)
end

return reason
