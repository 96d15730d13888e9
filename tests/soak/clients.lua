-- A part of the soak: a client service whose server is killed and started again and again, at random moments. A table
-- as those of `soak.parts`: title, long, short, run.

local host = require "support.host"
local client = require "support.client"
local ports = require "support.ports"
local report = require "bench.report"

local sys = client.sys

local clients = {
  title = "clients: a service connected to a server that is killed and started again at random",
  -- late: seconds that a busy machine may add
  long = { rounds = 200, warm = 50, up = 0.15, down = 0.25, late = 0.1, lua = 100, most = 2048 },
  short = { rounds = 10, warm = 3, up = 0.02, down = 0.05 },
}

local MOST_DELAY = 0.1 -- maxDelay of the service

-- Tells when it is connected and when no more. What comes at its own endpoint is answered with what it knows.
local SERVICE = [[
local reactor = require "skald.reactor"
local protocol = require "skald.protocol"
local Reconnecting = protocol.ReconnectingClientFactory

local P = protocol.Protocol {}
function P:connectionMade()
  print("made", reactor.seconds())
  self.transport:write(("x"):rep(200000))
end
function P:connectionLost()
  print("lost", reactor.seconds())
end

local tries, longest, last = 0, 0, nil
local client = { name = "client", connect = "tcp:127.0.0.1:%d", protocol = P, initialDelay = 0.01, maxDelay = %g }
function client:startedConnecting()
  tries = tries + 1
  longest = math.max(longest, last and reactor.seconds() - last or 0)
end
function client:clientConnectionFailed(connector, why)
  last = reactor.seconds()
  Reconnecting.clientConnectionFailed(self, connector, why)
end
function client:clientConnectionLost(connector, why)
  last = reactor.seconds()
  Reconnecting.clientConnectionLost(self, connector, why)
end

local Control = protocol.Protocol {}
function Control:dataReceived()
  local connectors = 0
  for _ in pairs(require("skald.connectors").up) do
    connectors = connectors + 1
  end
  self.transport:write(("%%d %%d %%.6f\n"):format(connectors, tries, longest))
end
return { { name = "control", listen = "tcp:127.0.0.1:0", protocol = Control }, client }
]]

local function startServer(port)
  return host.run { "echo", ("listen=tcp:127.0.0.1:%d"):format(port), env = {
    XDG_RUNTIME_DIR = host.folder() .. "/elsewhere" } }
end

local function kill(server)
  server:kill "KILL"
  server:ends "SIGKILL"
end

-- The next time of that word that is not before `since`.
local function await(h, word, since)
  while true do
    local time = tonumber((h:line("^" .. word .. "\t(.*)")))
    if time >= since then
      return time
    end
  end
end

-- One life of the server; how long after its listening the service was connected. Every fourth one is killed before
-- anybody looks whether it was.
local function live(h, port, n, plan)
  local since = sys.now()
  local server = startServer(port)
  local listening, took = sys.now(), nil
  if n % 4 ~= 0 then
    took = math.max(0, await(h, "made", since - 0.01) - listening)
  end
  sys.pass(math.random() * (n % 3 == 0 and 0.005 or plan.up))
  kill(server)
  return took
end

-- How many there are of what the host counts, once of connections there is only that to the server.
local function census(h)
  local seen = {}
  sys.await(function()
    h:kill "USR1"
    for number, name in h:waitLog "alive: (.*)":gmatch "(%d+) ([%a ]+)" do
      seen[name] = tonumber(number)
    end
    return seen.connections == 1 and seen.lingering == 0
  end, function()
    return h:story "there is not one connection"
  end)
  return seen
end

-- What is alive once it is connected, and nothing moves.
local function settle(h, port)
  local since = sys.now()
  local server = startServer(port)
  await(h, "made", since)
  local c = h:connect()
  local connectors, tries, longest = c:send("?"):line():match "(%d+) (%d+) (%S+)"
  c:close()
  local seen = census(h)
  seen.connectors = tonumber(connectors)
  seen["groups, listeners"] = seen.groups + seen.listeners
  seen.groups, seen.listeners = nil, nil
  local lua = seen["KB of Lua"]
  seen["KB of Lua"], seen.descriptors = nil, h:descriptors()
  return seen, { server = server, tries = tonumber(tries), longest = tonumber(longest), lua = lua,
    memory = h:memory() / 1024 }
end

local function add(bars, text, value, most)
  bars[#bars + 1] = { text = text, value = value, relation = most and "<=", limit = most, met = most and value <= most }
end

local function addSame(bars, before, after)
  local names = {}
  for name in pairs(before) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local entry = { text = name, value = after[name], relation = "=", limit = before[name] }
    entry.met = entry.value == entry.limit
    bars[#bars + 1] = entry
  end
end

local function liveOn(h, port, from, to, plan, times)
  for n = from, to do
    times[#times + 1] = live(h, port, n, plan)
    sys.pass(math.random() * plan.down)
  end
end

--- Runs the part; its bars.
---@param plan table
---@return table[]
function clients.run(plan)
  math.randomseed(plan.seed or 4)
  local bars, times = {}, {}
  local port = ports.tcp() -- an attempt to connect might take one that the system gives for its own end
  local most = plan.late and MOST_DELAY + plan.late
  local h = host.serve(SERVICE:format(port, MOST_DELAY))
  liveOn(h, port, 1, plan.warm, plan, times)
  local before, was = settle(h, port)
  kill(was.server)
  liveOn(h, port, plan.warm + 1, plan.rounds, plan, times)
  local after, is = settle(h, port)
  local summary = report.summary(times)
  add(bars, "lives of the server", plan.rounds)
  add(bars, "of these, connections that were waited for", #times)
  add(bars, "tries to connect", is.tries)
  add(bars, "s from listening to connected, median", summary.median)
  add(bars, "s from listening to connected, max", summary.max, most)
  add(bars, "s from a failure to the next try, max", is.longest, most)
  addSame(bars, before, after)
  add(bars, "KB of Lua grown", is.lua - was.lua, plan.lua)
  add(bars, "resident memory grown, KB", is.memory - was.memory, plan.most)
  h:stop()
  add(bars, "errors logged", h:logged " error ", 0)
  is.server:stop()
  return bars
end

return clients
