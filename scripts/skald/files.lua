-- What is asked of files, by threads of the core: who waits for whom, what is under way, who is told.
-- What is asked of one path is done in the order of asking; readers of it go side by side.

local core = require "skald.core"
local deferred = require "skald.deferred"
local log = require "skald.log"
local owner = require "skald.owner"
local program = require "skald.program"
local timers = require "skald.timers"
local turn = require "skald.turn"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer

local files = {
  MOST = 16, -- under way at a time: the threads are fewer, and have the next at hand
  WAITING = 10000,
  appenders = {}, -- a set: those that have a file, or something to write
}

-- enum file_what of host/io/files.h
files.READ, files.WRITE, files.STAT, files.LIST, files.REMOVE = 0, 1, 2, 3, 4
files.RENAME, files.FOLDER, files.OPEN, files.PUT, files.CLOSE = 5, 6, 7, 8, 9

-- enum file_flag
files.flags = { append = 1, sync = 2, atomic = 4, special = 8, link = 16, parents = 32 }

local readers = { [files.READ] = true, [files.STAT] = true, [files.LIST] = true }
local texts = { ENOTSUP = "not a regular file" }

---@class FileRequest what is asked: the fields of struct skald_file_request, and these
---@field verb string what it does, for people
---@field path string
---@field read fun(result: any): any? makes the value of the core's answer; true by default
---@field bound integer? bytes that it may have, for people
---@field onDone fun(request: FileRequest, result: any, errno: integer)? nil: nobody is told any more; where it failed
---the result is how many bytes were written
---@field dropped boolean? not to be begun
---@field isCounted boolean? a load's own, which waits for the commit
---@field hasBegun boolean?
---@field waits integer how many others, of the same path, are before it before it, of the same path
---@field followers FileRequest[]? those that wait for this one
---@field job number? while it is under way
local Request = {}
Request.__index = Request

local flying = {} -- requests by the core's handles; what they write from must stay
local flights, waiting = 0, 0
local ready, first, last = {}, 1, 0 -- a queue
local paths = {} -- by the path: `{ writer = FileRequest?, readers = set }`
local buffer, jobBuffer = ffi.new "struct skald_file_request", ffi.new "double[1]"
local resultBuffer = ffi.new "struct skald_file_result"

-- --- the order of a path ----------------------------------------------------------------------

local function follow(request, before)
  if before then
    before.followers = before.followers or {}
    table.insert(before.followers, request)
    request.waits = request.waits + 1
  end
end

local function lineUp(request, path)
  local entry = paths[path]
  if not entry then
    entry = { readers = {} }
    paths[path] = entry
  end
  follow(request, entry.writer)
  if readers[request.what] then
    entry.readers[request] = true
    return
  end
  for reader in pairs(entry.readers) do
    follow(request, reader)
  end
  entry.writer, entry.readers = request, {}
end

local function leave(request, path)
  local entry = paths[path]
  if not entry then
    return
  elseif entry.writer == request then
    entry.writer = nil
  end
  entry.readers[request] = nil
  if not entry.writer and not next(entry.readers) then
    paths[path] = nil
  end
end

local function enqueue(request)
  last = last + 1
  ready[last] = request
end

-- It is over, or never to be: those behind it may go.
local function release(request)
  if request.isOrdered then
    leave(request, request.path)
    if request.to then
      leave(request, request.to)
    end
  end
  for _, other in ipairs(request.followers or {}) do
    other.waits = other.waits - 1
    if other.waits == 0 then
      enqueue(other)
    end
  end
  request.followers = nil
end

-- --- what is under way ------------------------------------------------------------------------

local fields = { "what", "flags", "mode", "path", "to", "data", "offset", "size", "most", "file" }
local plain = { flags = 0, mode = -1, offset = 0, size = 0, most = 0, file = 0 }

local function start(request)
  for _, name in ipairs(fields) do
    local value = request[name]
    buffer[name] = value == nil and plain[name] or value
  end
  buffer.length = request.data and #request.data or 0
  local errno = C.skald_file_start(pointer, buffer, jobBuffer)
  if errno == 0 then
    request.job = jobBuffer[0]
    flying[request.job] = request
    flights = flights + 1
  end
  return errno
end

local function disown(request)
  local who = request.owner
  request.owner = nil
  if who then
    who:remove(request)
  end
end

local function tell(request, result, errno)
  local onDone = request.onDone
  request.onDone = nil
  if onDone then
    onDone(request, result, errno)
  end
  disown(request)
end

-- Never within the call that asks.
local function failLater(request, errno)
  turn.atEnd(function()
    tell(request, nil, errno)
    files.checkQuiet()
  end)
end

local function launch()
  while flights < files.MOST and first <= last do
    local request = ready[first]
    ready[first] = nil
    first = first + 1
    waiting = waiting - 1
    local errno = not request.dropped and start(request) or 0
    if errno ~= 0 then
      failLater(request, errno)
    end
    if request.dropped or errno ~= 0 then
      release(request)
    end
  end
  if first > last then
    first, last = 1, 0
  end
end

local function yes()
  return true
end

-- What came of it, as whoever asked wants it; there may be no memory for that.
local function resultOf(request, job, errno)
  if not request.onDone or not C.skald_file_result(pointer, job, resultBuffer) then
    return nil, errno
  elseif errno ~= 0 then
    return tonumber(resultBuffer.written), errno
  end
  local ok, result = pcall(request.read or yes, resultBuffer)
  if ok then
    return result, 0
  end
  return nil, core.errors.ENOMEM
end

--- The core says that one has ended.
---@param job number
---@param errno integer
function files.filed(job, errno)
  local request = flying[job]
  flying[job] = nil
  flights = flights - 1
  local result, problem = resultOf(request, job, errno)
  release(request)
  launch()
  tell(request, result, problem)
  files.checkQuiet()
end

local function begin(request)
  waiting = waiting + (request.isCounted and 0 or 1)
  request.hasBegun = true
  if request.isOrdered then
    lineUp(request, request.path)
    if request.to and request.to ~= request.path then
      lineUp(request, request.to)
    end
  end
  if request.waits == 0 then
    enqueue(request)
    launch()
  end
end

--- Has something done: `request.onDone(request, result, errno)` is called later, with what `request.read` makes of the
--- core's answer.
---@param request table
function files.begin(request)
  request.waits = 0
  begin(setmetatable(request, Request))
end

-- What may never begin.
local function uncount(request)
  if request.isCounted and not request.hasBegun then
    waiting, request.isCounted = waiting - 1, false
  end
end

--- Its owner has ended: nobody is told, and nothing is read. What is to be written is written.
---@private
function Request:finish()
  uncount(self) -- the timer that would begin it ends, too
  self.onDone, self.owner = nil, nil
  self.dropped = self.dropped or readers[self.what]
end

--- What it is, for the run of tests that it outlives.
---@private
---@return string
function Request:describe()
  return ("an operation on a file (%s %s)"):format(self.verb, self.path)
end

-- --- Deferreds --------------------------------------------------------------------------------

local function newProblem(verb, path, text, code)
  return { message = ("cannot %s %s: %s"):format(verb, (path:gsub("%c", "?")), text), code = code, path = path }
end

--- What a failure of the core is to whoever asked.
---@param verb string such as "read"
---@param path string
---@param errno integer
---@param bound? integer bytes that it may have
---@return { message: string, code: string, path: string }
function files.problem(verb, path, errno, bound)
  local message, code = core.errorOf(errno)
  if code == "EFBIG" and bound then
    message = ("there is more than %d bytes"):format(bound)
  end
  return newProblem(verb, path, texts[code] or message, code)
end

local function refuse(request, code, text)
  return deferred.fail(newProblem(request.verb, request.path, text, code))
end

-- A load's own are begun when it is committed, and never where it is refused.
local function beginFor(who, request)
  if who and who.held then
    waiting, request.isCounted = waiting + 1, true
    timers.later(0, begin, request)
  else
    begin(request)
  end
end

local function firing(d)
  return function(request, result, errno)
    if errno == 0 then
      d:callback(result)
    else
      d:errback(files.problem(request.verb, request.path, errno, request.bound))
    end
  end
end

local function cancel(request)
  uncount(request)
  request.onDone, request.dropped = nil, true
  disown(request)
end

--- Has something done; `read` makes the Deferred's value of the core's answer, `verb` is for what fails. What has
--- ended already is told nothing, and reads nothing.
---@param request table
---@return Deferred
function files.ask(request)
  for _, path in ipairs { request.path, request.to } do
    if path:find("\0", 1, true) then
      return refuse(request, "EINVAL", "the path has a zero byte")
    end
  end
  if waiting >= files.WAITING then
    return refuse(request, "ENOBUFS", "too much is waiting")
  end
  setmetatable(request, Request)
  request.waits, request.isOrdered = 0, true
  local d = deferred.Deferred:new(function()
    cancel(request)
  end)
  local who = owner.current
  local hasEnded = who and who.ended
  if program.host.checking or hasEnded and readers[request.what] then
    return d
  end
  if not hasEnded then
    request.onDone, request.owner = firing(d), who
  end
  if request.owner then
    who:add(request)
  end
  beginFor(who, request)
  return d
end

-- --- the host's stop --------------------------------------------------------------------------

local draining -- what is called when all is done
local checking

local function isQuiet()
  return flights == 0 and waiting == 0 and not next(files.appenders)
end

local function lookAgain()
  checking = nil
  local done = draining
  if done and isQuiet() then
    draining = nil
    done()
  end
end

--- Something has ended that the host's stop may wait for: it looks once all that this turn has brought was told, which
--- may ask for more.
function files.checkQuiet()
  if draining and not checking then
    checking = true
    turn.atEnd(lookAgain)
  end
end

--- The host ends: appenders are closed, what is under way comes to its end.
---@param grace number seconds
---@param done fun() called when that is so, unless it is so already
---@return boolean quiet
function files.drain(grace, done)
  for appender in pairs(files.appenders) do
    appender:close():addErrback(function() end) -- is logged where it happens
  end
  turn.last()
  if isQuiet() then
    return true
  end
  local over = timers.own(grace, function()
    log.warning("grace is over: %d operations on files have not ended", flights + waiting)
    draining = nil
    done()
  end)
  draining = function()
    over:cancel()
    done()
  end
  return false
end

return files
