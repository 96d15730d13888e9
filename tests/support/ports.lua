-- Ports for who must know one before it is taken: below those that the system gives to sockets which ask for any, so
-- that none of those has it meanwhile.

local socket = require "socket"
local ffi = require "ffi"
require "support.sys"

local ports = {}

local SPAN = 8000

local function lowest()
  local file = io.open "/proc/sys/net/ipv4/ip_local_port_range"
  local first = file and file:read "*n" or 32768
  if file then
    file:close()
  end
  return first - SPAN >= 1024 and first - SPAN or 20000
end

local base, calls = lowest(), 0

-- Processes that run at the same time begin far from each other.
local function nextPort()
  calls = calls + 1
  return base + (ffi.C.getpid() * 41 + calls) % SPAN
end

local function isFree(made)
  return function(port)
    local s = made()
    local free = s:setsockname("127.0.0.1", port)
    s:close()
    return free
  end
end

local function find(free)
  for _ = 1, SPAN do
    local port = nextPort()
    if free(port) then
      return port
    end
  end
  error("there is no port to be had", 3)
end

local tcpIsFree = isFree(function()
  local s = socket.tcp4()
  s:setoption("reuseaddr", true)
  return s
end)
local udpIsFree = isFree(socket.udp4)

--- A TCP port of 127.0.0.1 on which nobody listens.
function ports.tcp()
  return find(tcpIsFree)
end

--- A UDP port of 127.0.0.1 that nobody has.
function ports.udp()
  return find(udpIsFree)
end

return ports
