-- `skald new NAME`: a small service with its spec, to begin with.

local core = require "skald.core"
local complain = require("skald.program").complain

local C = core.C

local skeleton = {}

-- Modules that a spec needs, and that are not loaded yet.
local TAKEN = {}
for name in ("busted luassert say pl cliargs term system mediator lfs dkjson ffi skald"):gmatch "%S+" do
  TAKEN[name] = true
end

-- What is written, and the template that it is made from.
local FILES = {
  { form = "%s/%s.lua", template = "templates/service.lua" },
  { form = "%s/%s_spec.lua", template = "templates/service_spec.lua" },
}

local NEXT = [[
wrote %s/%s.lua and %s/%s_spec.lua. Now:
  cd %s
  skald test          runs the spec
  skald run %s.lua    serves on 127.0.0.1 port 7000: try it with nc 127.0.0.1 7000
]]

-- It becomes a file, a module and the name of a service. What `require` finds already it cannot be.
local function problemOf(name)
  if name:find "/" then
    return "is a path: go to the folder first"
  elseif not name:find "^%a[%w_-]*$" then
    return "is no name: a letter first, then letters, digits, - and _"
  elseif core.bundled("services/" .. name .. ".lua") then
    return "is the name of a bundled service"
  elseif package.loaded[name] or package.preload[name] or TAKEN[name] then
    return "is the name of a module that Lua or the tests have"
  end
  return nil
end

local function write(path, text)
  local file, message = io.open(path, "w")
  if not file then
    return nil, message
  end
  local ok
  ok, message = file:write(text)
  if not file:close() or not ok then
    return nil, ("%s: %s"):format(path, message or "cannot be written")
  end
  return true
end

-- Into a folder that was not there: nothing is overwritten.
local function writeAll(name)
  local errno = C.skald_make_folder(name)
  if errno ~= 0 then
    return nil, ("%s: %s"):format(name, (core.errorOf(errno)))
  end
  for _, file in ipairs(FILES) do
    local text = core.bundled(file.template):gsub("NAME", name)
    local ok, message = write(file.form:format(name, name), text)
    if not ok then
      return nil, message
    end
  end
  return true
end

--- Writes the files.
---@param words string[] the name
---@return integer status
function skeleton.start(words)
  local name = words[1]
  local problem = problemOf(name)
  if problem then
    complain("skald: new: '%s' %s", name, problem)
    return 2
  end
  local ok, message = writeAll(name)
  if not ok then
    complain("skald: new: %s", message)
    return 1
  end
  io.stdout:write((NEXT:format(name, name, name, name, name, name)))
  return 0
end

return skeleton
