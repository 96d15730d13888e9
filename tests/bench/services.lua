-- services.lua - bundled services beside what they stand for: keyvalue beside redis-server, with redis-benchmark as the
-- load, and dns beside a responder in plain C on libuv.
-- Run from the root of the project: luajit tests/bench/services.lua --help
package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local proc = require "proc"
local report = require "report"
local Run = require "rounds"
local servers = require "servers"

local USAGE = [[
usage: luajit tests/bench/services.lua [--quick] [--json FILE]
  --quick    fewer and shorter rounds
  --json     write every figure there
]]

local FULL = { rounds = 9, seconds = 1, warm = 0.3, repeats = 6, requests = 500000 }
local QUICK = { rounds = 3, seconds = 0.6, warm = 0.3, repeats = 2, requests = 200000 }

local DNS = "build/bench/dns"

local bench = Run.new "services"

-- --- keyvalue: servers that live as long as the case does ---------------------------------------

local function redisBenchmark(server, words, requests)
  local command = { "redis-benchmark", "-p", tostring(server.at), "-c", "50", "-n", tostring(requests), "--csv" }
  for _, word in ipairs(words) do
    command[#command + 1] = word
  end
  local process = proc.spawn(command, { cpu = bench.loadCpu, log = bench.folder .. "/load.log" })
  local line, rate
  repeat
    line = process:line(60)
    rate = line and tonumber(line:match '^"[^"]+","([%d.]+)"') or rate
  until not line
  if process:wait(10) ~= 0 or not rate then
    bench:failed(server.name, "redis-benchmark gave no figures", process)
    return nil
  end
  return rate
end

local function requesting(words)
  return function(server)
    local requests = bench.plan.requests
    if not redisBenchmark(server, words, math.floor(requests / 10)) then
      return nil
    end
    local cpu = server.process:cpu()
    local rate = redisBenchmark(server, words, requests)
    return rate and { requests = requests, seconds = requests / rate, cpu_us = (server.process:cpu() - cpu) * 1e6 }
  end
end

-- redis-tools has the server too, under another name: redis-server itself would leave one running on the machine.
local function redisServer()
  local path = bench.folder .. "/redis-server"
  os.execute(("ln -sf \"$(command -v redis-check-rdb)\" '%s'"):format(path))
  return path
end

local function keyValueServers()
  local port = proc.freePort()
  return {
    { name = "skald", command = { servers.skald, "run", "keyvalue", "listen=tcp:127.0.0.1:0" } },
    {
      name = "redis-server", port = port,
      command = { redisServer(), "--port", tostring(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no" },
    },
  }
end

-- --- dns ----------------------------------------------------------------------------------------

local function asking(server)
  local plan = bench.plan
  local process = proc.spawn({ DNS, "ask", tostring(server.at), tostring(plan.seconds), tostring(plan.warm),
    tostring(server.process.pid) }, { cpu = bench.loadCpu, log = bench.folder .. "/load.log" })
  return bench:figures(server, process)
end

local function dnsServers()
  return {
    {
      name = "skald",
      command = { servers.skald, "run", "dns", "listen=udp:127.0.0.1:0", "zone=tests/bench/zone.lua" },
    },
    { name = "floor", command = { DNS, "serve" } },
  }
end

-- --- cases --------------------------------------------------------------------------------------

-- name, what is shown, the servers (the second one is what skald is held against), how it is measured, what is
-- counted, and the bar: a figure, and what it must be at least of the other's (its inverse where it is a cost)
local CASES = {
  { "set16", "redis-benchmark: SET, 50 connections, 16 requests in flight on each", keyValueServers,
    requesting { "-P", "16", "-t", "set" }, "requests", "rate", 0.5 },
  { "get16", "redis-benchmark: GET, 50 connections, 16 requests in flight on each", keyValueServers,
    requesting { "-P", "16", "-t", "get" }, "requests", "rate", 0.5 },
  { "keys16", "redis-benchmark: SET of 100 bytes to 100,000 keys, as before", keyValueServers,
    requesting { "-P", "16", "-t", "set", "-r", "100000", "-d", "100" }, "requests", "rate", 0.5 },
  { "dns", "DNS: answers of 1,000 names, 16 sockets, 8 questions in flight on each", dnsServers, asking, "answers",
    "cost", 0.7 },
}

local function startAll(list)
  for _, server in ipairs(list) do
    server.process, server.at = bench:start(server)
    if not server.process then
      return false
    end
  end
  return true
end

local function conclude(case, list, all)
  local kept = { title = case[2], unit = case[5], servers = {} }
  local rows = { { "server", "CPU us each", "x other", "a second", "x other" } }
  local other = list[2].name
  for _, server in ipairs(list) do
    local name, own = server.name, all[server.name]
    local result = {
      cpu = report.field(own, "cost", bench.plan.rounds), rate = report.field(own, "rate", bench.plan.rounds),
      cpu_to_other = bench:ratio(all, name, other, "cost"), rate_to_other = bench:ratio(all, name, other, "rate"),
    }
    kept.servers[name] = result
    rows[#rows + 1] = {
      name, report.spread(result.cpu), report.spread(result.cpu_to_other), report.spread(result.rate),
      report.spread(result.rate_to_other),
    }
  end
  bench.results[case[1]] = kept
  print("\n" .. case[2])
  report.table(rows)
  local ratio = case[6] == "cost" and bench:ratio(all, other, "skald", "cost") or kept.servers.skald.rate_to_other
  bench:addBar(("%s: %s, x %s"):format(case[1], case[6] == "cost" and "answers per CPU second" or "rate", other),
    ratio and ratio.median, ">=", case[7])
end

local function run(case)
  local list = case[3]()
  if startAll(list) then
    conclude(case, list, bench:interleave(list, case[1], case[4], case[5]))
  end
  for _, server in ipairs(list) do
    if server.process then
      bench:stop(server, server.process)
    end
  end
end

local function main(args)
  local options = arguments.parse("services", USAGE, args, { quick = "flag", json = "value" })
  bench.plan = options.quick and QUICK or FULL
  local pinned = bench:pin()
  print(("skald bench of services: %d CPUs, Linux %s; %s"):format(bench.machine.cpus, bench.machine.kernel, pinned))
  print(("%d rounds, servers in turn; medians (min-max)"):format(bench.plan.rounds))
  bench:main(function()
    for _, case in ipairs(CASES) do
      run(case)
    end
    bench:printBars "the bars of services"
  end, options.json, { quick = options.quick or false })
end

main(arg)
