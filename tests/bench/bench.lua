-- bench.lua - the driver of `make bench`: skald beside plain C on libuv and the usual peers.
-- Run from the root of the project: luajit tests/bench/bench.lua --help
package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local proc = require "proc"
local report = require "report"
local Run = require "rounds"
local servers = require "servers"

local USAGE = [[
usage: luajit tests/bench/bench.lua [--quick] [--json FILE] [--only CASE,...] [--server NAME,...]
  --quick    fewer and shorter rounds: about 90 s instead of about 10 min
  --json     write every figure there
  --only     of: %s
  --server   of: %s
]]

local CASES = { "echo64", "pipe16", "bulk", "fetch", "udp64", "udp8", "idle", "start" }
local FETCHERS = 50 -- concurrent clients of a fetch
local POEM_SIZE = 2048
local COLLECT = "/collect.sock" -- in the folder of the run

-- title, unit of a message, arguments of `load echo` after the port
local ECHOES = {
  echo64 = { title = "echo: 64 bytes, 50 connections, one message in flight on each",
    unit = "message", load = { 50, 64, 1 } },
  pipe16 = { title = "echo: 64 bytes, 50 connections, 16 messages in flight on each",
    unit = "message", load = { 50, 64, 16 } },
  bulk = { title = "echo: chunks of 64 KiB, 10 connections, one in flight on each",
    unit = "chunk", load = { 10, 65536, 1 } },
}

-- The same of `load udp`: more at a time than this would not fit into a socket's buffer.
local DATAGRAMS = {
  udp64 = { title = "UDP echo: 64 bytes, 50 sockets, one datagram in flight on each",
    unit = "datagram", load = { 50, 64, 1 } },
  udp8 = { title = "UDP echo: 64 bytes, 16 sockets, 8 datagrams in flight on each",
    unit = "datagram", load = { 16, 64, 8 } },
}

-- rounds; rounds of the peers other than luv; seconds counted and before; starts; idle rounds;
-- repeats that a case has for rounds in which the hypervisor took the CPU away
local FULL = { rounds = 17, peerRounds = 5, seconds = 0.8, warm = 0.2, starts = 20, idle = 3,
  idlePeers = 1, repeats = 10 }
local QUICK = { rounds = 3, peerRounds = 1, seconds = 0.6, warm = 0.2, starts = 5, idle = 1,
  idlePeers = 0, repeats = 3 }

local bench = Run.new "bench"

function bench.roundsOf(server)
  local own = server.name == "skald" or server.name == "luv" or server.name:find("^floor")
  return own and bench.plan.rounds or bench.plan.peerRounds
end

-- What measures a server in one round: it is started, loaded, stopped.
local function measuring(mode, argsFor)
  return function(server)
    local process, port = bench:start(server)
    if not process then
      return nil
    end
    local figures = bench:figures(server, bench:spawnLoad(mode, argsFor(port, process.pid)))
    bench:stop(server, process)
    return figures
  end
end

-- Prints and keeps what a case with rounds has shown.
local function conclude(case, title, unit, list, all)
  local rows = { { "server", "CPU us/" .. unit, "x floor", "best/best", unit .. "s/s", "x floor",
    "p50 us", "p99 us" } }
  local kept = { title = title, unit = unit, servers = {} }
  for _, server in ipairs(list) do
    local rounds, count = all[server.name], bench.plan.rounds
    local result = {
      cpu_us = report.field(rounds, "cost", count), rate = report.field(rounds, "rate", count),
      p50_us = report.field(rounds, "p50_us", count),
      p99_us = report.field(rounds, "p99_us", count),
      cpu_to_floor = bench:ratio(all, server.name, "floor", "cost"),
      rate_to_floor = bench:ratio(all, server.name, "floor", "rate"),
      cpu_to_luv = bench:ratio(all, server.name, "luv", "cost"),
      cpu_to_skald = bench:ratio(all, server.name, "skald", "cost"),
      stolen = report.field(rounds, "stolen", count),
    }
    local floor = all.floor and report.field(all.floor, "cost", count)
    result.best_to_floor = report.best(result.cpu_us, floor)
    kept.servers[server.name] = result
    rows[#rows + 1] = {
      server.name, report.spread(result.cpu_us), report.spread(result.cpu_to_floor),
      report.number(result.best_to_floor), report.number(result.rate and result.rate.median),
      report.number(result.rate_to_floor and result.rate_to_floor.median),
      report.number(result.p50_us and result.p50_us.median),
      report.number(result.p99_us and result.p99_us.median),
    }
  end
  bench.results[case] = kept
  print("\n" .. title)
  report.table(rows)
end

-- The median of one figure of a server in a case, where there is one.
local function seen(case, field, server)
  local kept = bench.results[case] and bench.results[case].servers[server or "skald"]
  local value = kept and kept[field]
  return type(value) == "table" and value.median or value
end

local function runEcho(case)
  local spec, list, mode, plan = ECHOES[case], bench.echoes, "echo", bench.plan
  if DATAGRAMS[case] then
    spec, list, mode = DATAGRAMS[case], servers.datagrams(bench.options.server), "udp"
  end
  local function argsFor(port, pid)
    return { port, spec.load[1], spec.load[2], spec.load[3], plan.seconds, plan.warm, pid }
  end
  local all = bench:interleave(list, case, measuring(mode, argsFor), "messages")
  conclude(case, spec.title, spec.unit, list, all)
end

local function writePoem(path)
  local lines, size = {}, 0
  while size < POEM_SIZE do
    local line = ("Line %d of a poem that nobody will read,\n"):format(#lines + 1)
    line = line:sub(1, POEM_SIZE - size)
    lines[#lines + 1], size = line, size + #line
  end
  local file = assert(io.open(path, "w"))
  file:write(table.concat(lines))
  file:close()
end

local function runFetch()
  local plan, poem = bench.plan, bench.folder .. "/poem.txt"
  writePoem(poem)
  local function argsFor(port, pid)
    return { port, FETCHERS, plan.seconds, plan.warm, POEM_SIZE, pid }
  end
  local list = servers.poets(bench.options.server, poem)
  local all = bench:interleave(list, "fetch", measuring("fetch", argsFor), "connections")
  local title = ("fetch: a poem of %d bytes, %d clients at a time (floor closes as skald does)")
    :format(POEM_SIZE, FETCHERS)
  conclude("fetch", title, "connection", list, all)
end

-- Waits until the server holds so many connections and has come to rest.
local function settle(process, connections)
  local deadline, last = proc.now() + 30, -1
  while proc.now() < deadline do
    local cpu = process:cpu()
    if process:descriptors() >= connections and cpu - last < 0.001 then
      return true
    end
    last = cpu
    proc.sleep(0.1)
  end
  return nil, "it did not accept all connections in 30 s"
end

-- Asks for a full collection; skald answers with what its Lua heap holds, in KB.
local function collect(server, process)
  if server.name == "skald" then
    return proc.ask(bench.folder .. COLLECT, "collect\n", 15)
  elseif server.name ~= "floor" then
    process:collect()
  end
  return true
end

-- The private memory of a server that holds so many connections, in KB, or nil and why not.
local function memoryAt(server, process, clients, connections)
  clients:send(connections .. "\n")
  local line, why = clients:line(120)
  if line ~= "ready " .. connections then
    return nil, "load idle: " .. (why or line)
  end
  local ok
  ok, why = settle(process, connections)
  if ok then
    ok, why = collect(server, process)
  end
  if ok then
    proc.sleep(0.2)
    ok, why = settle(process, connections)
  end
  if not ok then
    return nil, why
  end
  local _, private = process:memory()
  return private
end

local function idleCounts()
  local most = math.min(15000, bench.descriptors - 500)
  return math.floor(most / 3), most
end

-- The private memory at both counts of connections, or nil and why not.
local function idleMemory(server, process, clients, low, high)
  local line, why = clients:line(10)
  if line ~= "ready" then
    return nil, nil, "load idle did not start: " .. (why or line)
  end
  local first, last
  first, why = memoryAt(server, process, clients, low)
  if first then
    last, why = memoryAt(server, process, clients, high)
  end
  return first, last, why
end

-- KB for each connection between the lower and the upper count, or nil.
local function idleSlope(server, process, port)
  local low, high = idleCounts()
  local clients = proc.spawn({ servers.load, "idle", port, "0" },
    { cpu = bench.loadCpu, log = bench.folder .. "/load.log" })
  local first, last, why = idleMemory(server, process, clients, low, high)
  clients:finish()
  local status = clients:wait(30)
  if not last or status ~= 0 then
    bench:failed(server.name, why or "load idle: status " .. tostring(status), clients)
    clients:stop()
    return nil
  end
  return { slope = (last - first) / (high - low), low = first, high = last }
end

local function idleRound(server)
  local extra
  if server.name == "skald" then
    os.remove(bench.folder .. COLLECT)
    extra = { "tests/bench/collect.lua", "listen=unix:" .. bench.folder .. COLLECT }
  end
  local process, port = bench:start(server, extra)
  if not process then
    return nil
  end
  local figures = idleSlope(server, process, port)
  bench:stop(server, process)
  return figures
end

local function idleRounds(server)
  local own = server.name == "skald" or server.name == "floor"
  return own and bench.plan.idle or server.name == "luv" and 1 or bench.plan.idlePeers
end

local function runIdle()
  local low, high = idleCounts()
  local title = ("idle: private memory for one connection, slope from %d to %d, after a collection")
    :format(low, high)
  local kept = { title = title, servers = {} }
  local rows = { { "server", "KB/connection", "KB at " .. low, "KB at " .. high } }
  for _, server in ipairs(bench.echoes) do
    local rounds, count = {}, idleRounds(server)
    for i = 1, count do
      bench:progress(("idle: %s, round %d of %d"):format(server.name, i, count))
      rounds[i] = idleRound(server)
    end
    if count > 0 then
      local result = {
        kb = report.field(rounds, "slope", count), low_kb = report.field(rounds, "low", count),
        high_kb = report.field(rounds, "high", count),
      }
      kept.servers[server.name] = result
      rows[#rows + 1] = { server.name, report.spread(result.kb),
        report.number(result.low_kb and result.low_kb.median),
        report.number(result.high_kb and result.high_kb.median) }
    end
  end
  bench:progress("")
  bench.results.idle = kept
  print("\n" .. title)
  report.table(rows)
end

-- One start: milliseconds to the listening line, and the memory it then has, in KB.
local function startRound(server)
  local process, _, seconds = bench:start(server)
  if not process then
    return nil
  end
  settle(process, 0)
  local resident, private = process:memory()
  bench:stop(server, process)
  return { ms = seconds * 1000, resident = resident, private = private }
end

local function runStart()
  local count, all = bench.plan.starts, {}
  for i = 1, count do
    for _, server in ipairs(bench.echoes) do
      bench:progress(("start: round %d of %d, %s"):format(i, count, server.name))
      all[server.name] = all[server.name] or {}
      all[server.name][i] = startRound(server)
    end
  end
  bench:progress("")
  local title = ("start: from spawn to the listening line, %d times; memory when at rest")
    :format(count)
  local kept = { title = title, servers = {} }
  local rows = { { "server", "ms", "resident MB", "private MB" } }
  for _, server in ipairs(bench.echoes) do
    local rounds = all[server.name]
    local result = {
      ms = report.field(rounds, "ms", count), resident_kb = report.field(rounds, "resident", count),
      private_kb = report.field(rounds, "private", count),
    }
    kept.servers[server.name] = result
    rows[#rows + 1] = { server.name, report.spread(result.ms),
      report.number(result.resident_kb and result.resident_kb.median / 1024),
      report.number(result.private_kb and result.private_kb.median / 1024) }
  end
  bench.results.start = kept
  print("\n" .. title)
  report.table(rows)
end

local function judge()
  local resident = seen("start", "resident_kb")
  bench:addBar("64 B echo: CPU per message, x floor", seen("echo64", "cpu_to_floor"), "<=", 1.05)
  bench:addBar("64 B echo: CPU per message, x luv", seen("echo64", "cpu_to_luv"), "<", 1)
  bench:addBar("64 B echo as a coroutine: CPU per message, x callbacks", seen("echo64", "cpu_to_skald", "stream"),
    "<=", 1.1)
  bench:addBar("16 pipelined: CPU per message, x floor", seen("pipe16", "cpu_to_floor"), "<=", 1.05)
  bench:addBar("16 pipelined: CPU per message, x luv", seen("pipe16", "cpu_to_luv"), "<", 1)
  bench:addBar("64 KiB chunks: CPU per chunk, x floor", seen("bulk", "cpu_to_floor"), "<=", 1.12)
  bench:addBar("fetch: rate, x floor", seen("fetch", "rate_to_floor"), ">=", 0.9)
  bench:addBar("fetch: CPU per connection, x floor", seen("fetch", "cpu_to_floor"), "<=", 1.2)
  bench:addBar("UDP echo, 50 x 1: CPU per datagram, x floor", seen("udp64", "cpu_to_floor"), "<=", 1.1)
  bench:addBar("UDP echo, 16 x 8: CPU per datagram, x floor", seen("udp8", "cpu_to_floor"), "<=", 1.1)
  bench:addBar("idle connection, KB", seen("idle", "kb"), "<=", 0.6)
  bench:addBar("start, ms", seen("start", "ms"), "<=", 15)
  bench:addBar("resident at start, MB", resident and resident / 1024, "<=", 5)
  bench:printBars "the bars of the project"
end

local function header(left)
  local pinned = bench:pin()
  print(("skald bench, %s: %d CPUs, Linux %s"):format(bench.options.quick and "quick" or "full",
    bench.machine.cpus, bench.machine.kernel))
  print(pinned)
  print(("%d rounds of %g s after %g s of warm-up, servers in turn; medians (min-max)")
    :format(bench.plan.rounds, bench.plan.seconds, bench.plan.warm))
  print("x floor: round by round; best/best: least CPU of all rounds beside the floor's least")
  if bench.plan.peerRounds < bench.plan.rounds then
    print(("peers other than luv: only the first %d"):format(bench.plan.peerRounds))
  end
  for _, one in ipairs(left) do
    print(("left out: %s, %s"):format(one.name, one.reason))
  end
end

-- Without the floor, the load generator or (unless left away) skald there is nothing to do.
local function demand(left)
  local missing = {}
  for _, one in ipairs(left) do
    if one.name == "skald" or one.name == "floor" then
      missing[#missing + 1] = one.reason
    end
  end
  local file = io.open(servers.load, "rb")
  if not file then
    missing[#missing + 1] = servers.load .. " is not built"
  else
    file:close()
  end
  if #missing > 0 then
    io.stderr:write("bench: ", table.concat(missing, "; "), "\n")
    os.exit(1)
  end
end

local function runAll()
  local runs = { echo64 = runEcho, pipe16 = runEcho, bulk = runEcho, fetch = runFetch,
    udp64 = runEcho, udp8 = runEcho,
    idle = runIdle, start = runStart }
  for _, case in ipairs(CASES) do
    if not bench.options.only or bench.options.only[case] then
      runs[case](case)
    end
  end
  judge()
end

local function main(args)
  local known = { quick = "flag", json = "value", only = CASES, server = servers.names() }
  local usage = USAGE:format(table.concat(CASES, ", "), table.concat(known.server, ", "))
  bench.options = arguments.parse("bench", usage, args, known)
  bench.plan = bench.options.quick and QUICK or FULL
  bench.descriptors = proc.raiseDescriptors()
  bench.echoes, bench.left = servers.echoes(bench.options.server)
  demand(bench.left)
  header(bench.left)
  bench:main(runAll, bench.options.json, { quick = bench.options.quick or false, left_out = bench.left })
end

main(arg)
