-- `--watch`: a service is reloaded when a file of its graph has changed, or a certificate, key or the
-- like of its endpoints, once everything has been quiet for a while. Folders are watched, since editors
-- rename; a file whose writer has not closed it yet is waited for, so that no half of one is ever loaded.

local core = require "skald.core"
local shared = require "skald.folders"
local loader = require "skald.loader"
local log = require "skald.log"
local owner = require "skald.owner"
local program = require "skald.program"
local timers = require "skald.timers"

local bit = require "bit"
local C = core.C

local watch = {}

local QUIET = 0.1 -- seconds

local BEGUN, FOLDER, LOST, MADE = shared.BEGUN, shared.FOLDER, shared.LOST, shared.MADE

local user = {} -- of the shared watch: its `happened` is called
local active = false
local folders = {} -- numbers, by the path
local paths = {} -- folders, by the number
local files = {} -- sets of services, by the path
local writing = {} -- paths whose writers have not closed them
local awaited = {} -- sets of services that wait for the writer, by the path
local dirty = {} -- services whose files have changed
local quiet -- the timer

-- --- what is under watch ----------------------------------------------------------------------

local function split(path)
  local folder, name = path:match "^(.*)/([^/]*)$"
  if not folder then
    return ".", path
  end
  return folder == "" and "/" or folder, name
end

local function join(folder, name)
  return (folder == "/" and "" or folder) .. "/" .. name
end

-- The folder that a path lies in, by the one name that it has here, and what the path is called there.
local function locate(path)
  local folder, name = split(path)
  return loader.realPath(folder) or folder, name
end

local function place(path)
  return join(locate(path))
end

-- Watches for a name in a folder; where that is not there, for the folder itself.
local function await(wanted, folder, name, service)
  local number = folders[folder] or shared.add(folder, user)
  if number < 0 then
    if core.isMissing(-number) and folder ~= "." and folder ~= "/" then
      local above, own = locate(folder)
      await(wanted, above, own, service)
    elseif not core.isMissing(-number) then
      log.warning("watch: %s: %s", folder, (core.errorOf(-number)))
    end
    return
  end
  folders[folder], paths[number] = number, folder
  wanted[folder] = true
  local path = join(folder, name)
  files[path] = files[path] or {}
  files[path][service] = true
end

-- A path leads through links, and each of those through others: any of them may be turned elsewhere.
local function awaitPath(wanted, path, service, seen)
  if seen[path] then
    return
  end
  seen[path] = true
  local folder, name = locate(path)
  await(wanted, folder, name, service)
  local target = loader.linkOf(path)
  if target then
    awaitPath(wanted, target:sub(1, 1) == "/" and target or join(folder, target), service, seen)
  end
  local above = split(path)
  while above ~= "." and above ~= "/" do
    if loader.linkOf(above) then
      awaitPath(wanted, above, service, seen)
    end
    above = split(above)
  end
end

-- The files of a service: of what runs, and of what was tried and refused. The text of a bundled one is
-- in no file.
local function eachFile(service, f)
  local generation, tried = service.generation, service.tried
  for _, list in ipairs {
    generation and not service.text and generation.sources or {},
    generation and generation.files or {},
    generation and generation.misses or {},
    tried and (service.text and tried.files or tried.texts) or {},
    tried and tried.misses or {},
  } do
    for path in pairs(list) do
      f(path)
    end
  end
end

local disturb

-- Later, on behalf of nobody: whose code happens to run here is not to end it.
local function later(seconds, f)
  local before = owner.current
  owner.current = nil
  local ok, call = pcall(timers.later, seconds, f)
  owner.current = before
  return ok and call
end

-- What came under watch only now may have changed since it was read; each text of it is tried once.
local function catchUp(service, known)
  local generation, tried = service.generation, service.tried
  local seen = {}
  local function compare(path, expected)
    if known[place(path)] then
      return
    end
    local text = loader.readFile(path) or false
    if text ~= expected then
      seen[path] = text
      if not service.seen or service.seen[path] ~= text then
        disturb(service)
      end
    end
  end
  if tried then
    for path, text in pairs(service.text and tried.files or tried.texts) do
      compare(path, text)
    end
  else
    for path, source in pairs(generation and not service.text and generation.sources or {}) do
      compare(path, source.text)
    end
    for path, text in pairs(generation and generation.files or {}) do
      compare(path, text)
    end
  end
  for _, misses in ipairs { generation and generation.misses or {}, tried and tried.misses or {} } do
    for path in pairs(misses) do
      compare(path, false)
    end
  end
  service.seen = seen
end

-- Nobody would tell when they are done.
local function forgetWriters(folder)
  for path in pairs(writing) do
    if split(path) == folder then
      writing[path] = nil
    end
  end
end

local function followAll()
  local wanted, known = {}, files
  files = {}
  for _, service in ipairs(program.host.services) do
    eachFile(service, function(path)
      awaitPath(wanted, path, service, {})
    end)
  end
  for folder, number in pairs(folders) do
    if not wanted[folder] then
      shared.remove(number, user)
      folders[folder], paths[number] = nil, nil
      forgetWriters(folder)
    end
  end
  for _, service in ipairs(program.host.services) do
    catchUp(service, known)
  end
end

--- The files of a service may be others now.
function watch.follow()
  if active then
    if not later(0, followAll) then
      followAll() -- there are too many timers
    end
  end
end

--- Begins.
function watch.start()
  local errno = shared.open()
  if errno ~= 0 then
    log.warning("--watch: %s", (core.errorOf(errno)))
    return
  end
  active = true
  followAll()
end

-- --- what happens -----------------------------------------------------------------------------

local function isBeingWritten(service)
  for path in pairs(writing) do
    if files[path] and files[path][service] then
      return true
    end
  end
  return false
end

local function nothing() end

-- All has been quiet. What is still being written comes up again when its writer closes it.
local function reloadDirty()
  quiet = nil
  for service in pairs(dirty) do
    if not isBeingWritten(service) then
      dirty[service] = nil
      require("skald.jobs").reload(service, {
        isStale = function()
          shared.changed()
          return dirty[service] ~= nil
        end,
      }, nothing)
    end
  end
end

function disturb(service)
  dirty[service] = true
  if quiet then
    quiet:reset(QUIET)
  else
    quiet = later(QUIET, reloadDirty)
  end
end

-- A new file that is empty is about to be written; a link or a folder is complete.
local function isComplete(path)
  return not C.skald_is_regular(path) or loader.readFile(path) ~= ""
end

-- Whose file it is, or who would have loaded half of it.
local function note(path, what)
  local services = files[path]
  if not services and not path:find "%.lua$" then
    return
  end
  if bit.band(what, BEGUN) ~= 0 or bit.band(what, MADE) ~= 0 and not isComplete(path) then
    writing[path] = true
  else
    writing[path] = nil
    for service in pairs(awaited[path] or {}) do
      disturb(service)
    end
    awaited[path] = nil
  end
  for service in pairs(services or {}) do
    disturb(service)
  end
end

local function forgetFolder(number)
  local folder = paths[number]
  if folder then
    shared.remove(number, user)
    folders[folder], paths[number] = nil, nil
    watch.follow()
  end
  return folder
end

-- Anything may have changed.
local function disturbAll(folder)
  for path, services in pairs(files) do
    if not folder or split(path) == folder then
      writing[path] = nil
      for service in pairs(services) do
        disturb(service)
      end
    end
  end
end

--- Whether a generation that was loaded has files whose writers have not closed them: such a one is
--- not to be committed, and comes again when they have.
---@param service Service
---@param generation Generation
---@return boolean
function watch.isUnfinished(service, generation)
  if not active then
    return false
  end
  shared.changed()
  local found = false
  for _, list in ipairs { generation.sources, generation.files } do
    for path in pairs(list) do
      local file = loader.realPath(path)
      if writing[file] then
        found = true
        awaited[file] = awaited[file] or {}
        awaited[file][service] = true
      end
    end
  end
  return found
end

-- Something has happened in a folder that is under watch.
function user.happened(_, number, what, name)
  if bit.band(what, LOST) ~= 0 then
    disturbAll()
  elseif bit.band(what, FOLDER) ~= 0 then
    local folder = forgetFolder(number)
    if folder then
      disturbAll(folder)
    end
  elseif paths[number] then
    note(join(paths[number], name), what)
  end
end

return watch
