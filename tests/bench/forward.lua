-- forward.lua - forwarding: skald's portforward beside a plain C forwarder on libuv, socat and HAProxy.
-- Run from the root of the project: luajit tests/bench/forward.lua --help
package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local proc = require "proc"
local report = require "report"
local Run = require "rounds"
local servers = require "servers"

local USAGE = [[
usage: luajit tests/bench/forward.lua [--quick] [--json FILE] [--only CASE,...] [--server NAME,...]
  --quick    fewer and shorter rounds: about a minute instead of about six
  --json     write every figure there
  --only     of: %s
  --server   of: %s
]]

local FULL = { rounds = 13, peerRounds = 7, seconds = 0.8, warm = 0.2, repeats = 10 }
local QUICK = { rounds = 3, peerRounds = 1, seconds = 0.6, warm = 0.2, repeats = 3 }

local FLOOR = "forward"

local bench = Run.new "forward"

function bench.roundsOf(server)
  local own = server.name == "skald" or server.name == FLOOR
  return own and bench.plan.rounds or bench.plan.peerRounds
end

-- Starts a forwarder to a port.
local function startForwarder(server, upstream)
  local port = server.silent and proc.freePort() or nil
  return bench:start {
    name = server.name, port = port, command = server.commandFor(upstream, port, bench.folder),
  }
end

-- Both ends are one process: it sends from a file and drops what comes, to take less time than any forwarder.
local function streaming(connections, ways)
  return function(server)
    local load = bench:spawnLoad("stream", { connections, ways, bench.plan.seconds, bench.plan.warm })
    local upstream = (load:line(10) or ""):match "^listening tcp:127%.0%.0%.1:(%d+)"
    local process, port = startForwarder(server, upstream)
    if not process then
      load:stop()
      return nil
    end
    load:send(("%d %d\n"):format(port, process.pid))
    local figures = bench:figures(server, load)
    bench:stop(server, process)
    if figures then
      figures.gigabytes = figures.bytes / 1e9
      figures.p50_us, figures.p99_us = nil, nil
    end
    return figures
  end
end

-- The echo stands on the CPU of the load generator.
local function pinging(connections, size)
  return function(server)
    local echo = { name = "floor", command = { servers.floor, "echo" }, cpu = bench.loadCpu }
    local upstream, upstreamPort = bench:start(echo)
    local process, port, figures
    if upstream then
      process, port = startForwarder(server, upstreamPort)
    end
    if process then
      figures = bench:figures(server, bench:spawnLoad("echo",
        { port, connections, size, 1, bench.plan.seconds, bench.plan.warm, process.pid }))
      bench:stop(server, process)
    end
    if upstream then
      bench:stop(echo, upstream)
    end
    return figures
  end
end

-- name, what is shown, how it is measured, what is counted, its unit, and by what the CPU's us are divided for it
local CASES = {
  { "bulk1", "bulk: one way, 1 connection", streaming(1, 1), "gigabytes", "GB", 1000, "ms" },
  { "bulk8", "bulk: one way, 8 connections", streaming(8, 1), "gigabytes", "GB", 1000, "ms" },
  { "both8", "bulk: both ways, 8 connections (what arrives at either end counts)", streaming(8, 2), "gigabytes", "GB",
    1000, "ms" },
  { "ping50", "ping-pong: 64 bytes there and back, 50 connections, one message in flight on each", pinging(50, 64),
    "messages", "message", 1, "us" },
}

local function scaled(all, divisor)
  for _, list in pairs(all) do
    for _, figures in pairs(list) do
      figures.cost = figures.cost / divisor
    end
  end
  return all
end

-- Prints and keeps what a case has shown.
local function conclude(case, list, all)
  local count, unit = bench.plan.rounds, case[5]
  local rows = { { "forwarder", ("CPU %s/%s"):format(case[7], unit), "x floor", unit .. "/s", "x floor", "p50 us",
    "p99 us" } }
  local kept = { title = case[2], unit = unit, servers = {} }
  for _, server in ipairs(list) do
    local name, own = server.name, all[server.name]
    local result = {
      cpu = report.field(own, "cost", count), rate = report.field(own, "rate", count),
      p50_us = report.field(own, "p50_us", count), p99_us = report.field(own, "p99_us", count),
      cpu_to_floor = bench:ratio(all, name, FLOOR, "cost"), rate_to_floor = bench:ratio(all, name, FLOOR, "rate"),
      skald_cpu_to_it = bench:ratio(all, "skald", name, "cost"),
    }
    kept.servers[name] = result
    rows[#rows + 1] = {
      name, report.spread(result.cpu), report.spread(result.cpu_to_floor), report.spread(result.rate),
      report.spread(result.rate_to_floor), report.number(result.p50_us and result.p50_us.median),
      report.number(result.p99_us and result.p99_us.median),
    }
  end
  bench.results[case[1]] = kept
  print("\n" .. case[2])
  report.table(rows)
end

local function median(case, server, field)
  local kept = bench.results[case] and bench.results[case].servers[server]
  return kept and kept[field] and kept[field].median
end

local function judge()
  for _, case in ipairs(CASES) do
    local name = case[1]
    if bench.results[name] then
      if case[4] == "gigabytes" then
        bench:addBar(name .. ": throughput, x floor", median(name, "skald", "rate_to_floor"), ">=", 0.9)
      end
      for _, peer in ipairs { "socat", "haproxy" } do
        bench:addBar(("%s: CPU for one %s, x %s"):format(name, case[5], peer), median(name, peer, "skald_cpu_to_it"),
          "<", 1)
      end
    end
  end
  bench:printBars "the bars of forwarding"
end

local function header(options, left)
  local pinned = bench:pin()
  print(("skald bench of forwarding, %s: %d CPUs, Linux %s"):format(options.quick and "quick" or "full",
    bench.machine.cpus, bench.machine.kernel))
  print(pinned)
  print(("%d rounds of %g s after %g s of warm-up, forwarders in turn, peers only the first %d; medians (min-max)")
    :format(bench.plan.rounds, bench.plan.seconds, bench.plan.warm, bench.plan.peerRounds))
  print "CPU: of the forwarder and its children; x floor: beside 'forward', round by round"
  for _, one in ipairs(left) do
    print(("left out: %s, %s"):format(one.name, one.reason))
  end
end

local function main(args)
  local known = { quick = "flag", json = "value", only = {}, server = servers.forwarderNames() }
  for i, case in ipairs(CASES) do
    known.only[i] = case[1]
  end
  local usage = USAGE:format(table.concat(known.only, ", "), table.concat(known.server, ", "))
  local options = arguments.parse("forward", usage, args, known)
  bench.plan = options.quick and QUICK or FULL
  proc.raiseDescriptors()
  local list, left = servers.forwarders(options.server)
  header(options, left)
  bench:main(function()
    for _, case in ipairs(CASES) do
      if not options.only or options.only[case[1]] then
        conclude(case, list, scaled(bench:interleave(list, case[1], case[3], case[4]), case[6]))
      end
    end
    judge()
  end, options.json, { quick = options.quick or false, left_out = left })
end

main(arg)
