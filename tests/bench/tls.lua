-- tls.lua - an echo over TLS: skald beside plain C on libuv and OpenSSL.
-- Run from the root of the project: luajit tests/bench/tls.lua --help
package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local proc = require "proc"
local report = require "report"
local Run = require "rounds"
local servers = require "servers"

local USAGE = [[
usage: luajit tests/bench/tls.lua [--quick] [--json FILE]
  --quick    fewer and shorter rounds: about 15 s instead of about a minute
  --json     write every figure there
]]

local FULL = { rounds = 15, seconds = 0.8, repeats = 5 }
local QUICK = { rounds = 3, seconds = 0.4, repeats = 1 }
local IDLE, FLOODING = 1000, 400 -- connections

-- name, what is shown, connections, bytes of a message: one is in flight on each
local ECHOES = {
  { "tls64", "echo over TLS: 64 bytes, 200 connections, which shake hands at once", 200, 64 },
  { "tls64k", "echo over TLS: 64 KiB, 10 connections", 10, 65536 },
}

local bench = Run.new "tls"

-- Both servers, which live as long as the run does.
local function startBoth()
  local pem, key = bench.folder .. "/certificate.pem", bench.folder .. "/key.pem"
  local command = ("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s "
    .. "-out %s -days 2 -subj /CN=localhost 2>/dev/null"):format(key, pem)
  assert(os.execute(command) == 0, "openssl makes no certificate")
  local endpoint = ("tls:127.0.0.1:0:certificate=%s:privateKey=%s"):format(pem, key)
  local list = {
    { name = "skald", command = { servers.skald, "run", "echo", "listen=" .. endpoint } },
    { name = "floor", command = { "build/bench/tls_floor", pem, key } },
  }
  for _, server in ipairs(list) do
    server.process, server.at = bench:start(server)
    assert(server.process, server.name .. " does not start")
  end
  return list
end

local function load(...)
  local words = { "build/bench/tls_load" }
  for _, word in ipairs { ... } do
    words[#words + 1] = tostring(word)
  end
  return proc.spawn(words, { cpu = bench.loadCpu, log = bench.folder .. "/load.log" })
end

local function figures(server, process)
  local line, why = process:line(120)
  local found = {}
  for key, value in (line or ""):gmatch "([%w_]+) ([%d.]+)" do
    found[key] = tonumber(value)
  end
  if process:wait(10) ~= 0 or not next(found) then
    bench:failed(server.name, "load: " .. (why or "no figures"), process)
    return nil
  end
  return found
end

-- What each message costs, where `connections` have each one in flight; the load generator tells of one's cost.
local function echoing(connections, size)
  return function(server)
    local seconds = bench.plan.seconds
    local found = figures(server, load("echo", server.at, connections, size, seconds, server.process.pid))
    return found and { messages = found.messages, cpu_us = found.cpu_us * found.messages, seconds = seconds,
      p99_us = found.p99_us, handshakes_ms = found.handshakes_ms }
  end
end

local function runEcho(case, list)
  local all = bench:interleave(list, case[1], echoing(case[3], case[4]), "messages")
  local rows = { { "server", "CPU us/message", "x floor", "messages/s", "handshakes at once, ms" } }
  local kept = { title = case[2], servers = {} }
  for _, server in ipairs(list) do
    local own, rounds = all[server.name], bench.plan.rounds
    local result = {
      cpu = report.field(own, "cost", rounds), rate = report.field(own, "rate", rounds),
      cpu_to_floor = bench:ratio(all, server.name, "floor", "cost"),
      handshakes_ms = report.field(own, "handshakes_ms", rounds),
    }
    kept.servers[server.name] = result
    rows[#rows + 1] = {
      server.name, report.spread(result.cpu), report.spread(result.cpu_to_floor), report.spread(result.rate),
      report.spread(result.handshakes_ms),
    }
  end
  bench.results[case[1]] = kept
  print("\n" .. case[2])
  report.table(rows)
  local ratio = kept.servers.skald.cpu_to_floor
  bench:addBar(case[1] .. ": CPU, x floor", ratio and ratio.median, "<=", 1.1)
end

local function runIdle(list)
  local rows, kept = { { "an idle connection", "bytes" } }, {}
  for _, server in ipairs(list) do
    local found = figures(server, load("idle", server.at, IDLE, server.process.pid)) or {}
    kept[server.name] = found.bytes_each
    rows[#rows + 1] = { server.name, report.number(found.bytes_each) }
  end
  bench.results.idle = kept
  report.table(rows)
end

-- What connections that are there wait for an answer, quiet and beside a flood of handshakes. Both come from one CPU,
-- of which the flood takes little.
local function runFlood(skald)
  local seconds = 2 * bench.plan.seconds
  local function echo()
    return figures(skald, load("echo", skald.at, 20, 64, seconds, skald.process.pid)) or {}
  end
  local quiet = echo()
  local attack = load("flood", skald.at, FLOODING, seconds + 1.5)
  local beside = echo()
  local flood = figures(skald, attack) or {}
  bench.results.flood = { quiet_p99_us = quiet.p99_us, p99_us = beside.p99_us, handshakes = flood.rate }
  local more = quiet.p99_us and beside.p99_us and (beside.p99_us - quiet.p99_us) / 1e3
  print(("\np99 of an answer: %s us quiet, %s us beside %s handshakes a second"):format(report.number(quiet.p99_us),
    report.number(beside.p99_us), report.number(flood.rate)))
  bench:addBar("beside a flood of handshakes: p99, ms more", more, "<=", 5)
end

local function runAll()
  local list = startBoth()
  runIdle(list) -- first: what was freed later would be used again
  for _, case in ipairs(ECHOES) do
    runEcho(case, list)
  end
  runFlood(list[1])
  for _, server in ipairs(list) do
    bench:stop(server, server.process)
  end
  bench:printBars "the bars of TLS"
end

local function main(args)
  local options = arguments.parse("tls", USAGE, args, { quick = "flag", json = "value" })
  bench.plan = options.quick and QUICK or FULL
  local pinned = bench:pin()
  print(("skald bench of TLS, %s: %d CPUs, Linux %s; %s"):format(options.quick and "quick" or "full",
    bench.machine.cpus, bench.machine.kernel, pinned))
  print(("%d rounds, servers in turn; medians (min-max); x floor: round by round\n"):format(bench.plan.rounds))
  bench:main(runAll, options.json, { quick = options.quick or false })
end

main(arg)
