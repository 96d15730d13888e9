-- What is written behind the end of a file, off the loop: in order, and what has come while the
-- threads were busy in one piece. The file is opened when there is something to write.

local deferred = require "skald.deferred"
local files = require "skald.files"
local log = require "skald.log"
local owner = require "skald.owner"
local program = require "skald.program"
local timers = require "skald.timers"
local turn = require "skald.turn"

local appender = {}

--- What is written behind the end of a file: what `fs.appender` gives. Writing waits for nothing; what several calls
--- have written leaves together. What cannot be written is lost, and logged once until it works again.
---@class Appender
---@field path string
---@field lost integer bytes that could not be written
---@field private items any[] what waits: strings, and functions that are called when all before them is written
---@field private first integer
---@field private last integer
---@field private bytes integer that wait
---@field private most integer bytes that may wait
---@field private flags integer
---@field private mode integer?
---@field private file number? while it is open, a handle
---@field private busy boolean a thread works on it
---@field private woken boolean it goes on at the end of the turn
---@field private problem table? why something was lost since the last flush
---@field private failing boolean? so it was logged
---@field private owner Owner?
local Appender = {}
Appender.__index = Appender

-- --- what waits -------------------------------------------------------------------------------

local function adopt(self)
  local who = owner.current
  if not self.owner and who and not who.ended then
    self.owner = who
    who:keep(self)
  end
end

-- What a load writes is written when that is committed.
local function wake(self)
  if self.woken or self.busy or program.host.checking then
    return
  end
  self.woken = true
  if self.owner and self.owner.held then
    timers.later(0, self.go)
  else
    turn.atEnd(self.go)
  end
end

local function put(self, item)
  local last = self.last + 1
  self.items[last] = item
  self.last = last
  files.appenders[self] = true
  adopt(self)
  wake(self)
end

local function take(self)
  local at = self.first
  local item = self.items[at]
  self.items[at] = nil
  self.first = at + 1
  return item
end

-- All strings that wait before the next function.
local function takeStrings(self)
  local list, count = {}, 0
  while type(self.items[self.first]) == "string" do
    count = count + 1
    list[count] = take(self)
  end
  return table.concat(list)
end

-- --- what the threads do ----------------------------------------------------------------------

local advance

-- `onDone(result, errno)`; nothing else is done for this file meanwhile.
local function work(self, request, onDone)
  self.busy = true
  function request.onDone(_, result, errno)
    self.busy = false
    onDone(result, errno)
    advance(self)
  end
  files.begin(request)
end

local function lose(self, verb, errno, count)
  self.problem = files.problem(verb, self.path, errno)
  self.lost = self.lost + count
  if not self.failing then
    self.failing = true
    log.error("%s: what is written there is lost, until it can be written again", self.problem.message)
  end
end

local function recover(self)
  if self.failing then
    self.failing = nil
    log.warning("%s is written to again; %d bytes were lost", self.path, self.lost)
  end
end

local function write(self)
  local text = takeStrings(self)
  local request = { what = files.PUT, flags = self.flags, file = self.file, data = text }
  function request.read(result)
    return tonumber(result.written)
  end
  work(self, request, function(written, errno)
    self.bytes = self.bytes - #text
    if errno == 0 then
      recover(self)
    else
      lose(self, "write", errno, #text - (written or 0))
    end
  end)
end

local function loseStrings(self, errno)
  local text = takeStrings(self)
  self.bytes = self.bytes - #text
  lose(self, "open", errno, #text)
end

local function fileOf(result)
  return tonumber(result.file)
end

local function open(self, onDone)
  work(self, { what = files.OPEN, flags = self.flags, mode = self.mode, path = self.path, read = fileOf }, onDone)
end

local function openFirst(self)
  open(self, function(file, errno)
    if errno == 0 then
      self.file = file
    else
      loseStrings(self, errno)
    end
  end)
end

-- Nothing more is to come, for now: an open file keeps it known to the host's stop.
local function rest(self)
  self.first, self.last = 1, 0
  if not self.file then
    files.appenders[self] = nil
    files.checkQuiet()
  end
end

-- Goes on with what is first, until that takes a thread.
function advance(self)
  while not self.busy do
    local item = self.items[self.first]
    if item == nil then
      return rest(self)
    elseif type(item) == "function" then
      take(self)
      item()
    elseif self.file then
      write(self)
    else
      openFirst(self)
    end
  end
end

-- --- what is asked of it ----------------------------------------------------------------------

-- The problem since somebody was last told of one, or the value true.
local function fire(self, d)
  local problem = self.problem
  self.problem = nil
  if problem then
    d:errback(problem)
  else
    d:callback(true)
  end
end

local function closeFile(self, onDone)
  local file = self.file
  self.file = nil
  work(self, { what = files.CLOSE, file = file }, function(_, errno)
    if errno ~= 0 then
      lose(self, "close", errno, 0)
    end
    onDone()
  end)
end

local function disown(self)
  local who = self.owner
  self.owner = nil
  if who then
    who:letGo(self)
  end
end

local function nothing() end

-- When all before is written, the file is closed.
local function putEnd(self, onDone)
  put(self, function()
    if self.file then
      closeFile(self, onDone)
    else
      onDone()
    end
  end)
end

--- Writes behind the end, in order.
---@param data string
---@return boolean? ok nil, message, code where it was closed, or too much is waiting
---@return string? message
---@return string? code EBADF, ENOBUFS
function Appender:write(data)
  if type(data) ~= "string" then
    error(("write takes a string, not a %s"):format(type(data)), 2)
  elseif self.closing then
    return nil, "the appender is closed", "EBADF"
  end
  local bytes = self.bytes + #data
  if bytes > self.most then
    return nil, ("more than %d bytes would wait"):format(self.most), "ENOBUFS"
  elseif data ~= "" then
    self.bytes = bytes
    put(self, data)
  end
  return true
end

--- How much waits to be written.
---@return integer bytes
function Appender:bufferedAmount()
  return self.bytes
end

--- Waits until all that was written so far is in the file, on the disk where `sync` was asked for.
---@return Deferred d of true; fails with `{ message, code, path }` where something was lost since the last flush
function Appender:flush()
  local d = deferred.Deferred:new()
  put(self, function()
    fire(self, d)
  end)
  return d
end

--- Opens the file anew, which has been renamed: what was written before is in the old one, what follows in the new.
---@return Deferred d of true; fails where there is no opening it, and the old one is written to as before
function Appender:reopen()
  local d = deferred.Deferred:new()
  put(self, function()
    if not self.file then
      d:callback(true) -- it will be opened
      return
    end
    open(self, function(file, errno)
      if errno ~= 0 then
        d:errback(files.problem("open", self.path, errno))
        return
      end
      closeFile(self, function()
        d:callback(true)
      end)
      self.file = file
    end)
  end)
  return d
end

--- Writes what waits, and closes the file: nothing more can be written.
---@return Deferred d of true; fails as that of `flush` does
function Appender:close()
  self.closing = true
  local d = deferred.Deferred:new()
  putEnd(self, function()
    disown(self)
    fire(self, d)
  end)
  return d
end

-- What a refused load has written is not written.
local function drop(self)
  self.items, self.first, self.last, self.bytes = {}, 1, 0, 0
  self.closing = true
  files.appenders[self] = nil
end

--- Its owner has ended: the file is closed once all is written, and opened again for who still writes to it.
---@private
function Appender:finish()
  local isRefused = self.owner and self.owner.held
  self.owner = nil
  if isRefused then
    drop(self)
  elseif not self.closing and files.appenders[self] then
    local who = owner.current
    owner.current = nil -- whose end this is does not own it again
    putEnd(self, nothing)
    owner.current = who
  end
end

--- What it is, for the run of tests that it outlives.
---@private
---@return string
function Appender:describe()
  return ("an appender of %s"):format(self.path)
end

--- An appender.
---@param path string
---@param options { mode: integer?, max: integer, flags: integer }
---@return Appender
function appender.new(path, options)
  local self = setmetatable({
    path = path,
    lost = 0,
    items = {},
    first = 1,
    last = 0,
    bytes = 0,
    most = options.max,
    flags = options.flags,
    mode = options.mode,
    busy = false,
    woken = false,
  }, Appender)
  function self.go()
    self.woken = false
    advance(self)
  end
  adopt(self)
  return self
end

return appender
