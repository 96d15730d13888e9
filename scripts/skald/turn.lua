-- What is put off to the end of the loop's turn.

local core = require "skald.core"

local C, pointer = core.C, core.pointer
local turn = {}

local waiting = {}

--- Calls `f()` once when all that this turn of the loop brought has been called.
---@param f function
function turn.atEnd(f)
  waiting[#waiting + 1] = f
  if #waiting == 1 then
    C.skald_end_turn(pointer)
  end
end

--- The turn is over.
function turn.ended()
  local calls = waiting
  waiting = {}
  for _, f in ipairs(calls) do
    local ok, text = xpcall(f, core.traceback)
    if not ok then
      C.skald_log(pointer, 3, text, #text)
    end
  end
end

local MOST_ROUNDS = 10

--- No turn follows: what was put off is called now, and what that puts off.
function turn.last()
  local rounds = 0
  while #waiting > 0 and rounds < MOST_ROUNDS do
    turn.ended()
    rounds = rounds + 1
  end
end

return turn
