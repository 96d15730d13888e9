-- tls.lua - an echo over TLS: skald beside plain C on libuv and OpenSSL.
-- Run from the root of the project: luajit tests/bench/tls.lua [--quick]
package.path = "tests/bench/?.lua;" .. package.path

local proc = require "proc"

local LOAD = "build/bench/tls_load"
local quick = arg[1] == "--quick"
local ROUNDS, SECONDS = quick and 3 or 15, quick and 0.4 or 0.8
local folder = proc.tempFolder()
local cpus = proc.cpus()
local serverCpu, loadCpu = cpus[1], cpus[#cpus]

local function certificate()
  local command = ("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s/key.pem "
    .. "-out %s/certificate.pem -days 2 -subj /CN=localhost 2>/dev/null"):format(folder, folder)
  assert(os.execute(command) == 0, "openssl makes no certificate")
end

local function start(name, command)
  local process = proc.spawn(command, { cpu = serverCpu, log = ("%s/%s.log"):format(folder, name) })
  local line = assert(process:line(15), name .. " does not start")
  return { name = name, process = process, port = assert(line:match "(%d+)[^%d]*$", line) }
end

local function startBoth()
  local pem, key = folder .. "/certificate.pem", folder .. "/key.pem"
  local endpoint = ("tls:127.0.0.1:0:certificate=%s:privateKey=%s"):format(pem, key)
  return start("skald", { "build/skald", "run", "--control", folder .. "/control", "echo", "listen=" .. endpoint }),
    start("floor", { "build/bench/tls_floor", pem, key })
end

local function load(words, cpu)
  local command = { LOAD }
  for _, word in ipairs(words) do
    command[#command + 1] = tostring(word)
  end
  return proc.spawn(command, { cpu = cpu or loadCpu, log = folder .. "/load.log" })
end

local function figures(process)
  local line = assert(process:line(120), "the load generator says nothing")
  process:wait(10)
  local found = {}
  for key, value in line:gmatch "([%w_]+) ([%d.]+)" do
    found[key] = tonumber(value)
  end
  return found
end

local function quartiles(list)
  table.sort(list)
  local function at(part)
    return list[math.max(1, math.floor(#list * part + 0.5))]
  end
  return at(0.5), at(0.25), at(0.75)
end

-- Rounds of both in turn, so that both have the same of what disturbs the machine.
local function compare(title, connections, size, skald, floor)
  local lists = { skald = {}, floor = {}, ratio = {}, shaking = {} }
  for _ = 1, ROUNDS do
    local cost = {}
    for _, server in ipairs { skald, floor } do
      local found = figures(load { "echo", server.port, connections, size, SECONDS, server.process.pid })
      cost[server.name] = found.cpu_us
      table.insert(lists[server.name], found.cpu_us)
      table.insert(lists.shaking, server == skald and found.handshakes_ms or nil)
    end
    table.insert(lists.ratio, cost.skald / cost.floor)
  end
  local ratio, low, high = quartiles(lists.ratio)
  print(("%-46s skald %8.2f us, floor %8.2f us, ratio %.3f (quartiles %.3f to %.3f of %d rounds), bar 1.1: %s")
    :format(title, quartiles(lists.skald), (quartiles(lists.floor)), ratio, low, high, ROUNDS,
      ratio <= 1.1 and "holds" or "MISSED"))
  print(("%-46s %.1f ms for %d handshakes at once"):format("", (quartiles(lists.shaking)), connections))
end

local function memory(skald, floor)
  for _, server in ipairs { skald, floor } do
    local found = figures(load { "idle", server.port, 1000, server.process.pid })
    print(("an idle connection: %-27s %d bytes"):format(server.name, found.bytes_each))
  end
end

-- What connections that are there wait for an answer, quiet and beside a flood of handshakes. Both come from one CPU,
-- of which the flood takes little.
local function flood(skald)
  local function echo()
    return figures(load { "echo", skald.port, 20, 64, 2 * SECONDS, skald.process.pid })
  end
  local quiet = echo()
  local attack = load { "flood", skald.port, 400, 2 * SECONDS + 1.5 }
  local beside = echo()
  local rate = figures(attack).rate
  print(("p99 of an answer: %.2f ms quiet, %.2f ms beside %d handshakes a second"):format(quiet.p99_us / 1e3,
    beside.p99_us / 1e3, rate))
end

certificate()
local skald, floor = startBoth()
memory(skald, floor) -- first: what was freed later would be used again
compare("64 bytes, 200 connections, one in flight each", 200, 64, skald, floor)
compare("64 KiB, 10 connections, one in flight each", 10, 65536, skald, floor)
flood(skald)
skald.process:stop()
floor.process:stop()
os.execute("rm -rf " .. folder)
