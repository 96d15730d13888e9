-- Sockets that a service manager hands over at the start, as sd_listen_fds(3) says. Pure.

local activation = {}

local FIRST = 3 -- the first descriptor that is handed over

local function namesOf(text)
  local names = {}
  for name in ((text or "") .. ":"):gmatch "([^:]*):" do
    names[#names + 1] = name
  end
  return names
end

--- The descriptor of a socket that was handed over.
---@param which string|integer its name (FileDescriptorName= of the socket unit), or its place, from 0
---@param process integer our process id
---@param getenv fun(name: string): string? by default os.getenv
---@return integer? fd nil, message where there is none
---@return string? message
function activation.find(which, process, getenv)
  getenv = getenv or os.getenv
  local count = tonumber(getenv "LISTEN_FDS" or "")
  if not count or count < 1 or tonumber(getenv "LISTEN_PID" or "") ~= process then
    return nil, "no socket was handed over to this process (LISTEN_FDS, LISTEN_PID)"
  end
  local names = namesOf(getenv "LISTEN_FDNAMES")
  for index = 0, count - 1 do
    if which == index or which == names[index + 1] then
      return FIRST + index
    end
  end
  local there = getenv "LISTEN_FDNAMES" and (": %s"):format(table.concat(names, ", ", 1, math.min(#names, count))) or ""
  return nil, ("no such socket among the %d that were handed over%s"):format(count, there)
end

return activation
