-- Who owns what is started: a generation what its load starts, a factory what its startFactory
-- starts, nobody what a connection's callbacks start. What a timer starts belongs to the owner of
-- that timer. Pure.

local owner = {
  current = nil, -- the owner of what is started now
}

---@class Owner
---@field calls table<DelayedCall, true> pending timers
---@field listeners table<table, true>
---@field held DelayedCall[]? while its timers are only noted
---@field generation table? whose load it stands for
local Owner = {}
Owner.__index = Owner

--- A new owner.
---@param generation table?
---@return Owner
function owner.new(generation)
  return setmetatable({ calls = {}, listeners = {}, generation = generation }, Owner)
end

local function restore(before, ...)
  owner.current = before
  return ...
end

--- Calls `f(...)`; what it starts belongs to `who`. The results are those of xpcall.
---@param who Owner?
---@param handler fun(problem: any): any
---@param f function
---@return boolean ok
function owner.call(who, handler, f, ...)
  local before = owner.current
  owner.current = who
  return restore(before, xpcall(f, handler, ...))
end

--- Ends what it started, and what it will start from now on is nobody's.
---@return integer count of timers that were pending
function Owner:finish()
  self.ended = true
  local count = 0
  for _, pending in ipairs(self:pending()) do
    pending:cancel()
    count = count + 1
  end
  return count
end

--- Its pending timers, as a list.
---@return DelayedCall[]
function Owner:pending()
  local list = {}
  for call in pairs(self.calls) do
    list[#list + 1] = call
  end
  return list
end

return owner
