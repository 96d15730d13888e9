-- Folders under watch, by one inotify for all who want to know.

local core = require "skald.core"

local ffi = require "ffi"
local bit = require "bit"
local C, pointer = core.C, core.pointer

local folders = {
  -- enum watch_what of host/io/watch.h
  BEGUN = 1, DONE = 2, GONE = 4, FOLDER = 8, LOST = 16, MADE = 32,
}

local users = {} -- sets, by the numbers of the folders
local change = ffi.new "struct skald_change"

--- Begins, where nobody has yet.
---@return integer errno 0, or a positive one
function folders.open()
  return -C.skald_watch_open(pointer)
end

--- Watches a folder: `user:happened(number, what, name)` is called with what happens there, until it is removed or the
--- folder itself has gone (FOLDER). What it starts then may not belong to anybody.
---@param path string
---@param user table
---@return integer number of the folder; below 0: a negative errno
function folders.add(path, user)
  local number = C.skald_watch_add(pointer, path)
  if number >= 0 then
    users[number] = users[number] or {}
    users[number][user] = true
  end
  return number
end

--- Watches it no more, for this user.
---@param number integer
---@param user table
function folders.remove(number, user)
  local set = users[number]
  if not set or not set[user] then
    return
  end
  set[user] = nil
  if next(set) == nil then
    users[number] = nil
    C.skald_watch_remove(pointer, number)
  end
end

local function listOf(set)
  local list = {}
  for user in pairs(set or {}) do
    list[#list + 1] = user
  end
  return list
end

local function everybody()
  local all = {}
  for _, set in pairs(users) do
    for user in pairs(set) do
      all[user] = true
    end
  end
  return all
end

local function usersOf(number, what)
  if bit.band(what, folders.LOST) ~= 0 then
    return listOf(everybody())
  end
  local list = listOf(users[number])
  if bit.band(what, folders.FOLDER) ~= 0 and users[number] then
    users[number] = nil
    C.skald_watch_remove(pointer, number)
  end
  return list
end

--- There is something to read about changes.
function folders.changed()
  while C.skald_watch_next(pointer, change) do
    local number, what, name = change.folder, change.what, ffi.string(change.name)
    if what ~= 0 then
      for _, user in ipairs(usersOf(number, what)) do
        user:happened(number, what, name)
      end
    end
  end
end

return folders
