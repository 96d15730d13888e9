-- Failures of Deferreds that nobody handled go to the log, at the end of the loop's turn.

local log = require "skald.log"
local owner = require "skald.owner"
local turn = require "skald.turn"

local unhandled = {}

local function report()
  for _, item in ipairs(require("skald.deferred").unhandled()) do
    local made = item.made and ("\nthe Deferred was made at %s"):format(item.made) or ""
    log.error("Unhandled failure in a Deferred: %s%s", item.failure.traceback, made)
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
