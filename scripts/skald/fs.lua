-- Files, off the loop: what reads, writes and looks is done by threads, and a Deferred tells of it.
-- What is asked of one path is done in the order of asking; of different paths, in any order.
--
-- What fails fails with `{ message, code, path }`: "cannot read no/such: No such file or directory", "ENOENT". Only
-- regular files are read and written, unless `special` is asked for: then devices and FIFOs too, as far as they do not
-- keep one waiting. A script that loads may ask: its files are read and written when the load is committed. What a
-- service has asked for when it ends is written, and nobody is told.

---@class skald.fs
local fs = {}

local MEBIBYTE = 1024 * 1024
local READ_MOST = 64 * MEBIBYTE
local WAITING_MOST = 16 * MEBIBYTE
local NAMES_MOST = 16 * MEBIBYTE
local LARGEST = 2 ^ 53

-- --- what is given ----------------------------------------------------------------------------

local function isCount(value)
  return type(value) == "number" and value >= 0 and value < LARGEST and value % 1 == 0
end

local function isMode(value)
  return isCount(value) and value <= 4095
end

local checks = {
  max = { isCount, "a count of bytes" },
  offset = { isCount, "a count of bytes" },
  length = { isCount, "a count of bytes" },
  mode = { isMode, "a mode as a number, such as tonumber('640', 8)" },
}

local function isFlag(value)
  return type(value) == "boolean"
end

local flagCheck = { isFlag, "true or false" }

local LEVEL = 3 -- of who called the function that calls one of these

local function needPath(name, path)
  if type(path) ~= "string" or path == "" then
    error(("%s takes a path, not %s"):format(name, path == "" and "an empty string" or "a " .. type(path)), LEVEL)
  elseif not debug.getregistry()["skald.core"] then
    error(("%s: only the host has these (`skald test` runs specs within one)"):format(name), LEVEL)
  end
end

local function needText(name, data)
  if type(data) ~= "string" then
    error(("%s takes a string to write, not a %s"):format(name, type(data)), LEVEL)
  end
end

-- `known`: the names of the options, in a string with spaces around each.
local function optionsOf(name, given, known)
  if given ~= nil and type(given) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(given)), LEVEL)
  end
  for key, value in pairs(given or {}) do
    if type(key) ~= "string" or not known:find(" " .. key .. " ", 1, true) then
      error(("%s knows no option '%s'"):format(name, tostring(key)), LEVEL)
    end
    local check = checks[key] or flagCheck
    if not check[1](value) then
      error(("%s: %s is %s, not %s"):format(name, key, check[2], tostring(value)), LEVEL)
    end
  end
  return given or {}
end

local function flagsOf(options)
  local flags = 0
  for name, number in pairs(require("skald.files").flags) do
    flags = flags + (options[name] and number or 0)
  end
  return flags
end

local function ask(what, verb, path, options, request)
  local files = require "skald.files"
  request = request or {}
  request.what, request.verb, request.path = files[what], verb, path
  request.flags, request.mode = flagsOf(options), options.mode
  return files.ask(request)
end

-- --- what came --------------------------------------------------------------------------------

local function bytesOf(result)
  return require("ffi").string(result.bytes, result.length)
end

local function writtenOf(result)
  return tonumber(result.written)
end

local function namesOf(result)
  local names, count = {}, 0
  for name in bytesOf(result):gmatch "[^%z]+" do
    count = count + 1
    names[count] = name
  end
  return names
end

--- What a file is: what `fs.stat` gives.
---@class FileStatus
---@field type "file"|"directory"|"link"|"fifo"|"socket"|"character"|"block"|"unknown"
---@field size integer bytes
---@field mtime number when it was last written to: seconds since 1970
---@field ctime number when it, its mode or its owner last changed: seconds since 1970
---@field mode integer permissions, such as tonumber("644", 8)
---@field uid integer number of the user who owns it
---@field gid integer number of the group
---@field inode integer its number on the device
---@field device integer number of the device
---@field links integer count of its names
local function statusOf(result)
  return {
    type = require("ffi").string(result.kind),
    size = result.size,
    mtime = result.mtime,
    ctime = result.ctime,
    mode = tonumber(result.mode),
    uid = tonumber(result.uid),
    gid = tonumber(result.gid),
    inode = result.inode,
    device = result.device,
    links = tonumber(result.links),
  }
end

-- --- reading and writing ----------------------------------------------------------------------

--- Reads a file, or a part of it.
---@param path string
---@param options? { max: integer?, offset: integer?, length: integer?, special: boolean? } max: the most bytes that it
---may have (64 MiB), more is EFBIG; offset: where to begin; length: at most so many bytes, fewer at the end
---@return Deferred d of a string; fails with `{ message, code, path }`
function fs.readFile(path, options)
  needPath("readFile", path)
  options = optionsOf("readFile", options, " max offset length special ")
  local max = options.max or READ_MOST
  local d = ask("READ", "read", path, options, {
    offset = options.offset or 0, size = options.length or LARGEST, most = max, bound = max, read = bytesOf,
  })
  return d
end

--- Writes a file: what was in it is replaced, or with `append` comes before.
---@param path string
---@param data string
---@param options? { mode: integer?, append: boolean?, sync: boolean?, atomic: boolean?, special: boolean? } mode: of a
---new file, what the umask forbids left out (0666), such as tonumber("640", 8); sync: on the disk when the Deferred
---fires; atomic: written beside and renamed over, so that everybody finds the old or the new one, whole
---@return Deferred d of the number of bytes; fails with `{ message, code, path }`
function fs.writeFile(path, data, options)
  needPath("writeFile", path)
  needText("writeFile", data)
  options = optionsOf("writeFile", options, " mode append sync atomic special ")
  if options.append and options.atomic then
    error("writeFile: append and atomic do not go together", 2)
  end
  local d = ask("WRITE", "write", path, options, { data = data, read = writtenOf })
  return d
end

--- Writes behind the end of a file. For one that is written to again and again there is `fs.appender`.
---@param path string
---@param data string
---@param options? { mode: integer?, sync: boolean?, special: boolean? } as those of `writeFile`
---@return Deferred d of the number of bytes; fails with `{ message, code, path }`
function fs.appendFile(path, data, options)
  needPath("appendFile", path)
  needText("appendFile", data)
  options = optionsOf("appendFile", options, " mode sync special ")
  local flags = { append = true, mode = options.mode, sync = options.sync, special = options.special }
  local d = ask("WRITE", "write", path, flags, { data = data, read = writtenOf })
  return d
end

--- An appender: for what is written behind the end of a file again and again, such as a log. What has made it owns it:
--- at its end all is written, and the file closed.
---@param path string
---@param options? { mode: integer?, max: integer?, sync: boolean?, special: boolean? } max: how many bytes may wait
---(16 MiB); sync: each piece is on the disk before it counts as written
---@return Appender
function fs.appender(path, options)
  needPath("appender", path)
  options = optionsOf("appender", options, " mode max sync special ")
  if path:find("\0", 1, true) then
    error("appender takes a path, which has no zero byte", 2)
  end
  local given = { mode = options.mode, max = options.max or WAITING_MOST, flags = flagsOf(options) }
  return require("skald.appender").new(path, given)
end

-- --- looking ----------------------------------------------------------------------------------

--- What a file is.
---@param path string
---@param options? { link: boolean? } link: of a link, what it is itself
---@return Deferred d of a FileStatus; fails with `{ message, code, path }`
function fs.stat(path, options)
  needPath("stat", path)
  options = optionsOf("stat", options, " link ")
  local d = ask("STAT", "look at", path, options, { read = statusOf })
  return d
end

--- The names in a folder, sorted by bytes, but for `.` and `..`.
---@param path string
---@return Deferred d of a list of strings; fails with `{ message, code, path }`, EFBIG above 16 MiB of names
function fs.list(path)
  needPath("list", path)
  local d = ask("LIST", "list", path, {}, { most = NAMES_MOST, bound = NAMES_MOST, read = namesOf })
  return d
end

--- Calls `f(change)` when a file, or something in a folder, has changed: never within this call; the same again and
--- again is told once a turn. A file is watched by its name, so it may be replaced, and need not be there yet; its
--- folder must be.
---@param path string
---@param f fun(change: FileChange)
---@return FileWatch? watch nil, message, code where there is no such folder, or too many are watched
---@return string? message
---@return string? code
function fs.watch(path, f)
  needPath("watch", path)
  if type(f) ~= "function" then
    error(("watch takes a function, not a %s"):format(type(f)), 2)
  end
  local watch, errno = require("skald.filewatch").new(path, f)
  if not watch then
    local problem = require("skald.files").problem("watch", path, errno)
    return nil, problem.message, problem.code
  end
  return watch
end

-- --- names ------------------------------------------------------------------------------------

--- Removes a file, or an empty folder.
---@param path string
---@return Deferred d of true; fails with `{ message, code, path }`
function fs.remove(path)
  needPath("remove", path)
  local d = ask("REMOVE", "remove", path, {})
  return d
end

--- Gives a file or folder another name, in the same file system. A file that has that name is replaced.
---@param path string
---@param to string
---@return Deferred d of true; fails with `{ message, code, path }`
function fs.rename(path, to)
  needPath("rename", path)
  needPath("rename", to)
  local d = ask("RENAME", "rename", path, {}, { to = to })
  return d
end

--- Makes a folder.
---@param path string
---@param options? { mode: integer?, parents: boolean? } mode: what the umask forbids left out (0777); parents: those
---above it too, and it may be there already
---@return Deferred d of true; fails with `{ message, code, path }`
function fs.makeDirectory(path, options)
  needPath("makeDirectory", path)
  options = optionsOf("makeDirectory", options, " mode parents ")
  local d = ask("FOLDER", "make", path, options)
  return d
end

return fs
