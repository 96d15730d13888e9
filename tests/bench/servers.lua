-- servers.lua - the servers that the benchmarks compare, how each is started, and which are here.
local M = {}

local PYTHON = "/usr/bin/python3"
local PEERS = "tests/bench/peers/"
local GO = "build/bench/echo-go"

M.skald = "build/skald"
M.floor = "build/bench/floor"
M.udpFloor = "build/bench/udp_floor"
M.load = "build/bench/load"
M.forward = "build/bench/forward"

-- name, what must succeed for it to run, the command of its echo
local echoes = {
  { "skald", nil, { M.skald, "run", "echo", "listen=tcp:127.0.0.1:0" } },
  { "floor", nil, { M.floor, "echo" } },
  { "stream", nil, { M.skald, "run", PEERS .. "echo_stream.lua" } },
  { "luv", [[luajit -e 'require "luv"']], { "luajit", PEERS .. "echo_luv.lua" } },
  { "uvloop", PYTHON .. " -c 'import uvloop'", { PYTHON, PEERS .. "echo_uvloop.py" } },
  { "go", "timeout 120 go build -o " .. GO .. " " .. PEERS .. "echo.go", { GO } },
  { "node", "node --version", { "node", "--expose-gc", PEERS .. "echo_node.js" } },
  { "twisted", PYTHON .. " -c 'import twisted'", { PYTHON, PEERS .. "echo_twisted.py" } },
}

local function succeeds(command)
  return os.execute("(" .. command .. ") >/dev/null 2>&1") == 0
end

local function exists(path)
  local file = io.open(path, "rb")
  return file and file:close() and true or false
end

local function whyNot(name, test)
  if M[name] and not exists(M[name]) then
    return M[name] .. " is not built"
  elseif test and not succeeds(test) then
    return "this fails here: " .. test
  end
end

--- The echo servers that can run here, and the ones left out, each with a reason.
---@param wanted table|nil set of names; nil for all
function M.echoes(wanted)
  local here, out = {}, {}
  for _, row in ipairs(echoes) do
    local name, test, command = row[1], row[2], row[3]
    if not wanted or wanted[name] then
      local reason = whyNot(name, test)
      if reason then
        out[#out + 1] = { name = name, reason = reason }
      else
        here[#here + 1] = { name = name, command = command }
      end
    end
  end
  return here, out
end

--- The servers of one poem: skald, the floor closing the same way, the floor closing at once.
function M.poets(wanted, poem)
  local list = {
    { name = "skald",
      command = { M.skald, "run", "poetry", "poem=" .. poem, "listen=tcp:127.0.0.1:0" } },
    { name = "floor", command = { M.floor, "poetry", poem } },
    { name = "floor-atonce", command = { M.floor, "poetry-atonce", poem } },
  }
  local here = {}
  for _, server in ipairs(list) do
    local family = server.name:match("^%a+")
    if (not wanted or wanted[family]) and exists(M[family]) then
      here[#here + 1] = server
    end
  end
  return here
end

local HAPROXY = [[
global
  nbthread 1
  maxconn 2000
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  %s
listen forward
  bind 127.0.0.1:%d
  server upstream 127.0.0.1:%d
]]

local function haproxy(option)
  return function(upstream, port, folder)
    local path = folder .. "/haproxy.cfg"
    local file = assert(io.open(path, "w"))
    file:write(HAPROXY:format(option, port, upstream))
    file:close()
    return { "haproxy", "-db", "-q", "-f", path }
  end
end

local function socat(...)
  local options = { ... }
  return function(upstream, port)
    local command = { "socat", unpack(options) }
    command[#command + 1] = ("TCP-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024"):format(port)
    command[#command + 1] = ("TCP:127.0.0.1:%d,nodelay"):format(upstream)
    return command
  end
end

-- name, what must succeed for it to run, its command for an upstream port (and, where it does not say where it listens,
-- a port of its own and a folder)
local forwarders = {
  { "skald", nil, function(upstream)
    return { M.skald, "run", "portforward", "listen=tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:" .. upstream }
  end },
  { "forward", nil, function(upstream)
    return { M.forward, tostring(upstream) }
  end },
  { "socat", "socat -V", socat(), true },
  { "socat-64k", "socat -V", socat("-b", "65536"), true },
  { "haproxy", "haproxy -v", haproxy "", true },
  { "haproxy-splice", "haproxy -v", haproxy "option splice-request\n  option splice-response", true },
}

--- The forwarders that can run here, and the ones left out. Their `commandFor(upstream, port, folder)` gives a command;
--- `silent` ones do not say where they listen.
function M.forwarders(wanted)
  local here, out = {}, {}
  for _, row in ipairs(forwarders) do
    if not wanted or wanted[row[1]] then
      local reason = whyNot(row[1], row[2])
      local list = reason and out or here
      list[#list + 1] = { name = row[1], reason = reason, commandFor = row[3], silent = row[4] }
    end
  end
  return here, out
end

--- The echoes of datagrams: skald, the floor, and the floor with libuv's batches.
function M.datagrams(wanted)
  local list = {
    { name = "skald", command = { M.skald, "run", PEERS .. "echo_udp.lua" } },
    { name = "floor", command = { M.udpFloor } },
    { name = "floor-batches", command = { M.udpFloor, "batches" } },
  }
  local here = {}
  for _, server in ipairs(list) do
    if not wanted or wanted[server.name:match("^%a+")] then
      here[#here + 1] = server
    end
  end
  return here
end

local function namesOf(rows)
  local names = {}
  for i, row in ipairs(rows) do
    names[i] = row[1]
  end
  return names
end

--- The names of all echo servers.
function M.names()
  return namesOf(echoes)
end

--- The names of all forwarders.
function M.forwarderNames()
  return namesOf(forwarders)
end

return M
