-- Who owns what is started: a generation what its load starts, a factory what its startFactory
-- starts, a connector what its callbacks start, nobody what a connection's callbacks start. What a
-- timer, a Deferred's callback or a coroutine starts belongs to the owner of what started that. Pure.

local owner = {
  current = nil, -- the owner of what is started now
  task = nil, -- the coroutine of `async` that is running (skald.async)
  failures = nil, -- who hears of failures that nobody handled (skald.deferred), where somebody does
}

---@class Owner
---@field newest DelayedCall|false of its pending timers, which are a list: `before`, `after`. A table with
---timers as keys would be rehashed all the time, as they come and go
---@field things table<table, true> coroutines, loops, connectors: each has a `finish`
---@field listeners table<table, true>
---@field kept table<table, true>? what stays open and is not to come: appenders, watches; each has a `finish`
---@field held DelayedCall[]? while its timers are only noted
---@field generation table? whose load it stands for
---@field idle fun()? called when its last pending timer or thing is gone
local Owner = {}
Owner.__index = Owner

--- A new owner.
---@param generation table?
---@return Owner
function owner.new(generation)
  return setmetatable({ newest = false, things = {}, listeners = {}, generation = generation }, Owner)
end

local function restore(before, task, ...)
  owner.current, owner.task = before, task
  return ...
end

--- Calls `f(...)`; what it starts belongs to `who`. The results are those of xpcall.
---@param who Owner?
---@param handler fun(problem: any): any
---@param f function
---@param ... any
---@return boolean ok
function owner.call(who, handler, f, ...)
  local before, task = owner.current, owner.task
  owner.current, owner.task = who, nil
  return restore(before, task, xpcall(f, handler, ...))
end

--- Owns a timer from now on: it is cancelled at the owner's end.
---@param call DelayedCall
function Owner:hold(call)
  local newest = self.newest
  call.before, call.after = newest, false
  if newest then
    newest.after = call
  end
  self.newest = call
end

--- Owns a timer no more.
---@param call DelayedCall
function Owner:drop(call)
  local before, after = call.before, call.after
  if before then
    before.after = after
  end
  if after then
    after.before = before
  else
    self.newest = before
  end
  if self.idle and not self:isBusy() then
    self.idle()
  end
end

--- Owns a thing from now on: its `finish` is called at the owner's end.
---@param thing table
function Owner:add(thing)
  self.things[thing] = true
end

--- Owns it no more.
---@param thing table
function Owner:remove(thing)
  self.things[thing] = nil
  if self.idle and not self:isBusy() then
    self.idle()
  end
end

--- Owns what stays open: its `finish` is called at the owner's end, which does not wait for it.
---@param thing table
function Owner:keep(thing)
  self.kept = self.kept or {}
  self.kept[thing] = true
end

--- Owns it no more.
---@param thing table
function Owner:letGo(thing)
  if self.kept then
    self.kept[thing] = nil
  end
end

--- Whether something that it started is still to come.
---@return boolean
function Owner:isBusy()
  return self.newest ~= false or next(self.things) ~= nil
end

local function keys(set)
  local list = {}
  for key in pairs(set) do
    list[#list + 1] = key
  end
  return list
end

--- Ends what it started. What its code would start from now on does not start: it would go on beside
--- whatever follows.
---@return integer count of timers that were pending
function Owner:finish()
  self.ended = true
  self.idle = nil
  for _, thing in ipairs(keys(self.things)) do
    thing:finish()
  end
  for _, thing in ipairs(keys(self.kept or {})) do
    thing:finish()
  end
  self.things, self.kept = {}, nil
  local pending = self:pending()
  for _, call in ipairs(pending) do
    call:cancel()
  end
  return #pending
end

--- Its pending timers, as a list.
---@return DelayedCall[]
function Owner:pending()
  local list, call = {}, self.newest
  while call do
    list[#list + 1] = call
    call = call.before
  end
  return list
end

return owner
