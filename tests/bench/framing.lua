-- framing.lua - from bytes to messages: lines over sockets beside plain C and Twisted, and the receivers without a
-- socket beside Twisted's. Run from the root of the project: luajit tests/bench/framing.lua --help

package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local report = require "report"
local Run = require "rounds"
local servers = require "servers"

local USAGE = [[
usage: luajit tests/bench/framing.lua [--quick] [--json FILE]
  --quick    fewer and shorter rounds: about half a minute instead of about five minutes
  --json     write every figure there
]]

local PYTHON = "/usr/bin/python3"
local PEERS = "tests/bench/peers/"

-- Rounds, of Twisted too; seconds counted and before; messages of one case without a socket.
local FULL = { rounds = 15, seconds = 1, warm = 0.3, own = 3000000, peer = 60000 }
local QUICK = { rounds = 3, seconds = 0.5, warm = 0.2, own = 1000000, peer = 20000 }

local SIZE, LINES = 64, 100 -- bytes of a line without its delimiter; lines in flight on each connection

-- Of lines that come again and again Lua makes one string, of others each time a new one.
local CASES = {
  { mode = "lines", connections = 1, text = "of a few hundred kinds" },
  { mode = "lines", connections = 50, text = "of a few hundred kinds" },
  { mode = "newlines", connections = 50, text = "which do not come again soon" },
}

local SERVERS = {
  { name = "skald", command = { servers.skald, "run", PEERS .. "lines_skald.lua" } },
  { name = "C", command = { "build/bench/lines" } },
  { name = "twisted", command = { PYTHON, PEERS .. "lines_twisted.py" } },
}

-- What is fed without a socket. The workers do all their cases in one process, as a host has many services.
local MESSAGES = {
  "line-1", "lineonly-1", "netstring-1", "int32-1", "line-64", "lineonly-64", "netstring-64", "int32-64",
}
local UNBARRED = { ["lineonly-64"] = true } -- 8 is asked of it for the shortest lines
local BYTES = { "bytes-8192", "bytes-16384", "bytes-32768" }
local OWN = table.concat(MESSAGES, " ") .. " varint-64 " .. table.concat(BYTES, " ")

local bench = Run.new "framing"

local function addBar(text, ratio, relation, limit)
  bench:addBar(text, ratio and ratio.median, relation, limit)
end

-- --- over sockets ------------------------------------------------------------------------------

-- The CPU time of one line, in ns, of a server started for it.
local function costOfLine(server, case)
  local process, port = bench:start(server)
  if not process then
    return nil
  end
  local plan = bench.plan
  local figures = bench:figures(server, bench:spawnLoad(case.mode, {
    port, case.connections, SIZE, LINES, plan.seconds, plan.warm, process.pid,
  }))
  bench:stop(server, process)
  return figures and figures.messages > 0 and { cost = figures.cpu_us / figures.messages * 1000 } or nil
end

local function runSockets(case)
  local rounds, name = bench.plan.rounds, ("%s, %d"):format(case.mode, case.connections)
  local title = ("lines of %d bytes, %s, sent back: %d at once on each of %d"):format(SIZE, case.text, LINES,
    case.connections)
  local all = bench:inTurn(SERVERS, name, rounds, function(server)
    return costOfLine(server, case)
  end)
  local rows, kept = { { "", "CPU ns/line", "x C", "x twisted" } }, {}
  for _, server in ipairs(SERVERS) do
    local mine = all[server.name]
    local result = {
      cpu_ns = report.field(mine, "cost", rounds),
      to_c = report.ratios(mine, all.C, "cost", rounds),
      to_twisted = report.ratios(mine, all.twisted, "cost", rounds),
    }
    kept[server.name] = result
    local row = { server.name }
    for _, field in ipairs { "cpu_ns", "to_c", "to_twisted" } do
      row[#row + 1] = report.spread(result[field])
    end
    rows[#rows + 1] = row
  end
  bench.results[name] = { title = title, of = kept }
  print("\n" .. title)
  report.table(rows)
  if case.mode == "lines" then
    addBar(name .. ": CPU, x C", kept.skald.to_c, "<=", 2.5)
  end
  if case.mode == "lines" and case.connections > 1 then
    addBar(name .. ": CPU, x twisted", kept.skald.to_twisted, "<=", 0.1)
  end
end

-- --- without a socket ----------------------------------------------------------------------------

local function workers()
  local plan, words = bench.plan, table.concat(MESSAGES, " ")
  local plain = { "luajit", PEERS .. "framing_skald.lua", tostring(plan.own) }
  local twisted = { PYTHON, PEERS .. "framing_twisted.py", tostring(plan.peer) }
  for case in OWN:gmatch "%S+" do
    plain[#plain + 1] = case
  end
  for case in words:gmatch "%S+" do
    twisted[#twisted + 1] = case
  end
  return {
    { name = "skald", command = { servers.skald, "run", PEERS .. "framing_skald.lua", "count=" .. plan.own,
      "cases=" .. OWN } },
    { name = "plain luajit", command = plain },
    { name = "twisted", command = twisted },
  }
end

-- One case of one worker as rounds of `cost`.
local function column(rounds, case)
  local list = {}
  for i = 1, bench.plan.rounds do
    list[i] = { cost = rounds[i] and rounds[i][case] }
  end
  return list
end

-- How many times as quick as `base` it was, round by round.
local function speed(rounds, base)
  return report.ratios(base, rounds, "cost", bench.plan.rounds)
end

local function tellMessages(all)
  local heads = { "ns/message", "skald", "plain luajit", "twisted", "rate, x twisted", "plain, x twisted" }
  local rows, kept = { heads }, {}
  for _, case in ipairs(MESSAGES) do
    local cost, row = {}, { case }
    for _, name in ipairs { "skald", "plain luajit", "twisted" } do
      cost[name] = column(all[name], case)
      row[#row + 1] = report.spread(report.field(cost[name], "cost", bench.plan.rounds))
    end
    local ratio, plain = speed(cost.skald, cost.twisted), speed(cost["plain luajit"], cost.twisted)
    row[5], row[6] = report.spread(ratio), report.spread(plain)
    rows[#rows + 1] = row
    kept[case] = { rate_to_twisted = ratio, plain_to_twisted = plain }
    if not UNBARRED[case] then
      addBar(case .. ": rate, x twisted", ratio, ">=", 8)
    end
  end
  bench.results.messages = kept
  print "\n64 KiB of messages at once, one class after the other in one process (KIND-BYTES)"
  report.table(rows)
end

local function tellBytes(all)
  local rows, kept = { { "a line, byte by byte", "skald, ns/byte", "x the first", "plain luajit, ns/byte" } }, {}
  local first = column(all.skald, BYTES[1])
  for _, case in ipairs(BYTES) do
    local mine = column(all.skald, case)
    local cost = report.field(mine, "cost", bench.plan.rounds)
    local growth = report.ratios(mine, first, "cost", bench.plan.rounds)
    local plain = report.field(column(all["plain luajit"], case), "cost", bench.plan.rounds)
    kept[case] = { cpu_ns = cost, growth = growth }
    rows[#rows + 1] = { case:match "%d+", report.spread(cost), report.spread(growth), report.spread(plain) }
  end
  bench.results.bytes = kept
  print ""
  report.table(rows)
  -- what grows with the square takes four times as long for each byte
  addBar("byte by byte, 32 KiB: cost of a byte, x 8 KiB", kept[BYTES[3]].growth, "<=", 1.5)
end

-- --- all -------------------------------------------------------------------------------------------

local function measure()
  for _, case in ipairs(CASES) do
    runSockets(case)
  end
  local all = bench:inTurn(workers(), "receivers", bench.plan.rounds, function(worker)
    return bench:work(worker)
  end)
  tellMessages(all)
  tellBytes(all)
  bench:printBars "the bars"
end

local function main(args)
  local options = arguments.parse("framing", USAGE, args, { quick = "flag", json = "value" })
  bench.plan = options.quick and QUICK or FULL
  local pinned = bench:pin()
  print(("skald bench of framing, %s: %d CPUs, Linux %s; %s"):format(options.quick and "quick" or "full",
    bench.machine.cpus, bench.machine.kernel, pinned))
  print(("%d rounds, each of processes of their own, in turn; CPU time, medians (min-max); ratios round by round")
    :format(bench.plan.rounds))
  bench:main(measure, options.json, { quick = options.quick or false })
end

main(arg)
