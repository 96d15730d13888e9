-- Who wants to know when a file or folder changes. What has happened is told in the next turn; what
-- happens to a file again and again, only once.

local core = require "skald.core"
local folders = require "skald.folders"
local log = require "skald.log"
local owner = require "skald.owner"
local timers = require "skald.timers"

local bit = require "bit"

local filewatch = {}

-- In the order of telling, where one event says several.
local kinds = {
  { folders.GONE, "removed" },
  { folders.MADE, "created" },
  { folders.BEGUN, "modified" },
  { folders.DONE, "written" },
}

--- A file or folder under watch: what `fs.watch` gives.
---@class FileWatch
---@field path string
---@field private f fun(change: FileChange)?
---@field private folder string
---@field private name string? of the file in it; nil: the folder itself
---@field private number integer? of the folder; nil: it is over
---@field private pending FileChange[]
---@field private seen table<string, string> what is pending last, by the path
---@field private owner Owner?
local FileWatch = {}
FileWatch.__index = FileWatch

--- What has happened to a file, or in a folder.
---@class FileChange
---@field what "created"|"modified"|"written"|"removed"|"gone"|"lost" modified: it is written to; written: its
---writer has closed it, or it was moved here whole; gone: the folder itself, and nothing follows; lost: too much
---has happened, anything may have changed
---@field path string
---@field name string? of the file, in a folder

local function join(folder, name)
  return (folder == "/" and "" or folder) .. "/" .. name
end

-- --- telling ----------------------------------------------------------------------------------

local function tell(self)
  local list = self.pending
  self.pending, self.seen = {}, {}
  for _, change in ipairs(list) do
    if self.f then
      local ok, text = owner.call(self.owner, core.traceback, self.f, change)
      if not ok then
        log.error("%s", text)
      end
    end
  end
  if not self.number then
    self:stop() -- with the folder
  end
end

local function note(self, what, name)
  name = name ~= "" and name or nil
  local path = name and not self.name and join(self.path, name) or self.path
  if self.seen[path] == what then
    return
  end
  self.seen[path] = what
  self.pending[#self.pending + 1] = { what = what, path = path, name = name }
  if #self.pending == 1 then
    timers.own(0, tell, self)
  end
end

--- Something has happened in the folder.
---@private
---@param number integer
---@param what integer
---@param name string
function FileWatch:happened(number, what, name)
  if bit.band(what, folders.LOST) ~= 0 then
    note(self, "lost")
  elseif bit.band(what, folders.FOLDER) ~= 0 then
    self.number = nil
    note(self, "gone")
  elseif number == self.number and (not self.name or name == self.name) then
    for _, kind in ipairs(kinds) do
      if bit.band(what, kind[1]) ~= 0 then
        note(self, kind[2], name)
      end
    end
  end
end

-- --- life -------------------------------------------------------------------------------------

--- Ends it: nothing is told any more.
---@return boolean? ok nil, message, code when it was over before
---@return string? message
---@return string? code EALREADY
function FileWatch:stop()
  if not self.f then
    return nil, "already over", "EALREADY"
  end
  self.f, self.pending = nil, {}
  if self.number then
    folders.remove(self.number, self)
    self.number = nil
  end
  local who = self.owner
  self.owner = nil
  if who then
    who:letGo(self)
  end
  return true
end

--- Its owner has ended.
---@private
function FileWatch:finish()
  self:stop()
end

--- What it is, for the run of tests that it outlives.
---@private
---@return string
function FileWatch:describe()
  return ("a watch of %s"):format(self.path)
end

-- A folder is watched itself, a file, or what is not there yet, by the folder that it is in.
local function begin(self)
  local number = folders.add(self.path, self)
  if number < 0 and core.isMissing(-number) then
    local folder, name = self.path:match "^(.-)/*([^/]+)/*$"
    folder = folder ~= "" and folder or self.path:sub(1, 1) == "/" and "/" or "."
    self.name = name
    number = folders.add(folder, self)
  end
  self.number = number >= 0 and number or nil
  return number < 0 and -number or 0
end

--- Watches a file or folder.
---@param path string
---@param f fun(change: FileChange)
---@return FileWatch? watch nil and a positive errno
---@return integer? errno
function filewatch.new(path, f)
  local self = setmetatable({ path = path, f = f, pending = {}, seen = {} }, FileWatch)
  if require("skald.program").host.checking then
    return self
  end
  local errno = folders.open()
  errno = errno ~= 0 and errno or begin(self)
  if errno ~= 0 then
    return nil, errno
  end
  local who = owner.current
  if who and not who.ended then
    self.owner = who
    who:keep(self)
  end
  return self
end

return filewatch
