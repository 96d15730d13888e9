-- Failures of Deferreds that nobody handled go to the log, at the end of the loop's turn.

local log = require "skald.log"
local owner = require "skald.owner"
local turn = require "skald.turn"

local unhandled = {}

--- What the log says of one.
---@param item { failure: Failure, made: string? }
---@return string
function unhandled.describe(item)
  local made = item.made and ("\nthe Deferred was made at %s"):format(item.made) or ""
  return ("Unhandled failure in a Deferred: %s%s"):format(item.failure.traceback, made)
end

local function report()
  for _, item in ipairs(require("skald.deferred").unhandled()) do
    log.error("%s", unhandled.describe(item))
  end
end

--- From now on they do.
---@param debug boolean the log also says where each Deferred was made
function unhandled.attach(debug)
  local waits = false
  owner.failures = {
    debug = debug,
    noted = function()
      if not waits then
        waits = true
        turn.atEnd(function()
          waits = false
          report()
        end)
      end
    end,
    late = function(failure)
      log.info("handled late: %s", tostring(failure))
    end,
  }
end

return unhandled
