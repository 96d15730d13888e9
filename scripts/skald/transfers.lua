-- What a transport moves by itself: files that it sends, and what it reads for another transport. The
-- core does both; here are the Deferreds that tell of the end.

local core = require "skald.core"
local deferred = require "skald.deferred"
local transport = require "skald.transport"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local transfers = {}

-- Each file that waits holds a descriptor.
local MOST_FILES = 64

-- By the place of the connection: `{ pipe = Deferred?, files = Deferred[] }`; dispatch.lost ends it.
local pending = transport.transfers

local function pendingOf(place)
  local mine = pending[place]
  if not mine then
    mine = { files = {} }
    pending[place] = mine
  end
  return mine
end

local function failed(code, message, bytes)
  return deferred.fail { message = message, code = code, bytes = bytes }
end

-- --- files ------------------------------------------------------------------------------------

local function cannotSend(path, code, message)
  if code == "ERANGE" then
    message = "the file has no such part"
  end
  return failed(code, ("cannot send %s: %s"):format(path, message), 0)
end

--- Queues a part of a file.
---@param handle number of the connection
---@param path string
---@param offset number
---@param length number below 0: to the end of the file
---@return Deferred d of the number of bytes
function transfers.sendFile(handle, path, offset, length)
  local waiting = C.skald_is_open(pointer, handle) and pending[core.place(handle)]
  if waiting and #waiting.files == MOST_FILES then
    return cannotSend(path, "ENOBUFS", ("%d files wait already"):format(MOST_FILES))
  end
  local bytes = ffi.new "double[1]"
  local errno = C.skald_send_file(pointer, handle, path, offset, length, bytes)
  if errno ~= 0 then
    local message, code = core.errorOf(errno)
    return cannotSend(path, code, message)
  elseif bytes[0] == 0 then
    return deferred.succeed(0)
  end
  local files, sent = pendingOf(core.place(handle)).files, deferred.Deferred:new()
  files[#files + 1] = sent
  return sent
end

--- The first of the files that wait is through.
---@param place integer
---@param bytes number
---@param errno integer
function transfers.sent(place, bytes, errno)
  local sent = table.remove(pending[place].files, 1)
  if errno == 0 then
    sent:callback(bytes)
    return
  end
  local message, code = core.errorOf(errno)
  if code == "ERANGE" then
    message = "it became shorter"
  end
  local problem = ("the file was not sent to its end: %s"):format(message)
  sent:errback { message = problem, code = code, bytes = bytes }
end

-- --- pipes ------------------------------------------------------------------------------------

-- The end of input has no number among the errors.
local ENDED = { message = "pipe: the source or the sink has ended", code = "EPIPE", bytes = 0 }

--- Whether what a connection reads goes to another.
---@param source number a handle, of an open one
---@return boolean
function transfers.isPiped(source)
  local mine = pending[core.place(source)]
  return mine ~= nil and mine.pipe ~= nil
end

--- What a connection reads goes to another from now on.
---@param source number a handle
---@param sink number a handle
---@return Deferred? d of the number of bytes; nil: one of both is part of a pipe already
function transfers.pipe(source, sink)
  local errno = C.skald_pipe(pointer, source, sink)
  if errno ~= 0 then
    local _, code = core.errorOf(errno)
    return code ~= "EBUSY" and deferred.fail(ENDED) or nil
  end
  local mine = pendingOf(core.place(source))
  mine.pipe = deferred.Deferred:new(function()
    mine.pipe = nil
    C.skald_unpipe(pointer, source)
  end)
  return mine.pipe
end

--- A pipe has ended.
---@param place integer of its source
---@param bytes number
---@param errno integer 0: with the source's input; else its sink takes no more
function transfers.piped(place, bytes, errno)
  local mine = pending[place]
  local over = mine.pipe
  mine.pipe = nil
  if errno == 0 then
    over:callback(bytes)
  else
    over:errback { message = "pipe: the sink takes no more", code = "EPIPE", bytes = bytes }
  end
end

--- The connection of these is lost.
---@param mine table
---@param reason Reason
function transfers.lost(mine, reason)
  if mine.pipe then
    mine.pipe:errback(reason)
  end
  for _, sent in ipairs(mine.files) do
    sent:errback(reason)
  end
end

return transfers
