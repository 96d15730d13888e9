-- Tracebacks of the user's own lines: those of this library between them help nobody, and many frames
-- deep, debug.traceback would leave out the middle. Pure.

local trace = {}

local MOST_FRAMES = 40

-- Where this library lies: "@skald/" inside the host.
local library = debug.getinfo(1, "S").source:match "^(.*)trace%.lua$"
local passing = { [pcall] = true, [xpcall] = true, [error] = true, [assert] = true }

local function isOurs(info)
  return info.source:sub(1, #library) == library or passing[info.func]
end

local function line(info)
  local place = info.what == "C" and "[C]:" or ("%s:%d:"):format(info.short_src, info.currentline)
  if info.what == "main" then
    return ("\n\t%s in main chunk"):format(place)
  elseif info.name then
    return ("\n\t%s in function '%s'"):format(place, info.name)
  end
  return ("\n\t%s in function <%s:%d>"):format(place, info.short_src, info.linedefined)
end

--- The traceback of whoever called, from a level on: 1 is the caller of this function.
---@param level integer
---@return string text begins with a newline
function trace.here(level)
  local lines = { "\nstack traceback:" }
  level = level + 1
  local info = debug.getinfo(level, "Slnf")
  while info and #lines <= MOST_FRAMES do
    if not isOurs(info) then
      lines[#lines + 1] = line(info)
    end
    level = level + 1
    info = debug.getinfo(level, "Slnf")
  end
  return table.concat(lines)
end

--- The line of the user's that is running: "file:line", or nil.
---@param level integer 1 is the caller of this function
---@return string?
function trace.place(level)
  level = level + 1
  local info = debug.getinfo(level, "Slf")
  while info and (isOurs(info) or info.what == "C") do
    level = level + 1
    info = debug.getinfo(level, "Slf")
  end
  return info and ("%s:%d"):format(info.short_src, info.currentline)
end

return trace
