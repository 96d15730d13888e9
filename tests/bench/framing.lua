-- framing.lua - from bytes to messages: lines over sockets beside plain C and Twisted, and the receivers without a
-- socket beside Twisted's. Run from the root of the project: luajit tests/bench/framing.lua --help

package.path = "tests/bench/?.lua;" .. package.path

local proc = require "proc"
local report = require "report"

local USAGE = [[
usage: luajit tests/bench/framing.lua [--quick] [--json FILE]
  --quick    fewer and shorter rounds: about half a minute instead of about five minutes
  --json     write every figure there
]]

local SKALD, PYTHON, LOAD = "build/skald", "/usr/bin/python3", "build/bench/load"
local PEERS = "tests/bench/peers/"
local LIMIT = 120 -- seconds for one process
local STOLEN = 0.1 -- a round that the hypervisor took more of is disturbed

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
  { "skald", { SKALD, "run", PEERS .. "lines_skald.lua" } },
  { "C", { "build/bench/lines" } },
  { "twisted", { PYTHON, PEERS .. "lines_twisted.py" } },
}

-- What is fed without a socket. The workers do all their cases in one process, as a host has many services.
local MESSAGES = {
  "line-1", "lineonly-1", "netstring-1", "int32-1", "line-64", "lineonly-64", "netstring-64", "int32-64",
}
local UNBARRED = { ["lineonly-64"] = true } -- 8 is asked of it for the shortest lines
local BYTES = { "bytes-8192", "bytes-16384", "bytes-32768" }
local OWN = table.concat(MESSAGES, " ") .. " varint-64 " .. table.concat(BYTES, " ")

local bench = { failures = {}, results = {}, bars = {}, rounds = 0, disturbed = 0 }

local function usage(message)
  io.stderr:write(message and ("framing: %s\n"):format(message) or "", USAGE)
  os.exit(message and 2 or 0)
end

local function parse(args)
  local found, i = {}, 1
  while i <= #args do
    local option, value = args[i]:match "^(%-%-%a+)=?(.*)$"
    if option == "--quick" then
      found.quick = true
    elseif option == "--json" then
      if value == "" then
        i = i + 1
        value = args[i]
      end
      found.json = value or usage "--json needs a value"
    else
      usage(option ~= "--help" and ("unknown option '%s'"):format(args[i]) or nil)
    end
    i = i + 1
  end
  return found
end

local function failed(who, why, process)
  local text = ("%s: %s"):format(who, why)
  bench.failures[#bench.failures + 1] = text
  io.stderr:write("framing: ", text, "\n", process and process:complaint() or "")
end

-- Does `f`, and counts the round; one that the hypervisor took much of is disturbed.
local function counted(f)
  local began, stolen = proc.now(), proc.stolen()
  local result = f()
  local share = (proc.stolen() - stolen) / (proc.now() - began) / bench.cpus
  bench.rounds = bench.rounds + 1
  bench.disturbed = bench.disturbed + (share > STOLEN and 1 or 0)
  return result
end

-- Rounds of all in turn: name -> round -> what `try` gives for it.
local function interleave(title, list, try)
  local all = {}
  for i = 1, bench.plan.rounds do
    for _, one in ipairs(list) do
      if bench.terminal then
        io.stderr:write(("\r\27[K%s: round %d of %d, %s"):format(title, i, bench.plan.rounds, one[1]))
      end
      all[one[1]] = all[one[1]] or {}
      all[one[1]][i] = counted(function()
        return try(one)
      end)
    end
  end
  if bench.terminal then
    io.stderr:write "\r\27[K"
  end
  return all
end

local function addBar(text, ratio, relation, limit)
  bench.bars[#bench.bars + 1] = report.bar(text, ratio and ratio.median, relation, limit)
end

-- --- over sockets ------------------------------------------------------------------------------

-- What the load generator says of a running server; nil when that is nothing.
local function load(server, process, port, case)
  local plan, words = bench.plan, { LOAD, case.mode }
  for _, word in ipairs { port, case.connections, SIZE, LINES, plan.seconds, plan.warm, process.pid } do
    words[#words + 1] = tostring(word)
  end
  local generator = proc.spawn(words, { cpu = bench.loadCpu, log = bench.folder .. "/load.log" })
  local line = generator:line(LIMIT)
  if line == "warm" then
    line = generator:line(LIMIT)
  end
  local status, figures = generator:wait(LIMIT), {}
  for key, value in (line or ""):gmatch '"([%w_]+)":([%d.]+)' do
    figures[key] = tonumber(value)
  end
  if status ~= 0 then
    failed(server, ("the load generator ended with status %s"):format(tostring(status)), generator)
    generator:stop()
    return nil
  end
  return figures
end

-- The CPU time of one line, in ns, of a server started for it.
local function costOfLine(name, command, case)
  local process = proc.spawn(command, { cpu = bench.cpu, log = bench.folder .. "/server.log" })
  local line = process:line(15)
  local port = line and line:match "^listening tcp:127%.0%.0%.1:(%d+)"
  local figures = port and load(name, process, port, case)
  if not port then
    failed(name, "did not start to listen", process)
  end
  process:stop()
  return figures and { cost = figures.cpu_us / figures.messages * 1000 }
end

local function runSockets(case)
  local rounds, name = bench.plan.rounds, ("%s, %d"):format(case.mode, case.connections)
  local title = ("lines of %d bytes, %s, sent back: %d at once on each of %d"):format(SIZE, case.text, LINES,
    case.connections)
  local all = interleave(name, SERVERS, function(server)
    return costOfLine(server[1], server[2], case)
  end)
  local rows, kept = { { "", "CPU ns/line", "x C", "x twisted" } }, {}
  for _, server in ipairs(SERVERS) do
    local mine = all[server[1]]
    local result = {
      cpu_ns = report.field(mine, "cost", rounds),
      to_c = report.ratios(mine, all.C, "cost", rounds),
      to_twisted = report.ratios(mine, all.twisted, "cost", rounds),
    }
    kept[server[1]] = result
    local row = { server[1] }
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
    { "skald", { SKALD, "run", PEERS .. "framing_skald.lua", "count=" .. plan.own, "cases=" .. OWN } },
    { "plain luajit", plain },
    { "twisted", twisted },
  }
end

-- Runs a worker once: the cost of each case, in ns, or nil.
local function work(worker)
  local process = proc.spawn(worker[2], { cpu = bench.cpu, log = bench.folder .. "/worker.log" })
  local figures, line = {}, process:line(LIMIT)
  while line do
    local case, cost = line:match "^([%w-]+): ([%d.]+)$"
    if case then
      figures[case] = tonumber(cost)
    end
    line = process:line(LIMIT)
  end
  local status = process:wait(10)
  if status ~= 0 then
    failed(worker[1], ("ended with status %s"):format(tostring(status)), process)
    process:stop()
    return nil
  end
  return figures
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

local function header(quick)
  local cpus = proc.cpus()
  bench.cpus = #cpus
  if #cpus >= 2 then
    bench.cpu, bench.loadCpu = cpus[1], cpus[2]
    proc.pin(cpus[2])
  end
  print(("skald bench of framing, %s: %d CPUs"):format(quick and "quick" or "full", #cpus))
  print(("%d rounds, each of processes of their own, in turn; CPU time, medians (min-max); ratios round by round")
    :format(bench.plan.rounds))
end

local function conclude()
  print "\nthe bars"
  report.bars(bench.bars)
  if bench.disturbed > 0 then
    print(("\n%d of %d rounds are disturbed: the hypervisor took more than %g %% of the CPU time")
      :format(bench.disturbed, bench.rounds, STOLEN * 100))
  end
end

local function writeJson(path)
  local file = assert(io.open(path, "w"))
  file:write(report.json {
    plan = bench.plan, cases = bench.results, bars = bench.bars, rounds = bench.rounds,
    disturbed = bench.disturbed, failures = bench.failures,
  }, "\n")
  file:close()
end

local function measure()
  for _, case in ipairs(CASES) do
    runSockets(case)
  end
  local all = interleave("receivers", workers(), work)
  tellMessages(all)
  tellBytes(all)
  conclude()
end

local function main(args)
  local began, given = proc.now(), parse(args)
  bench.plan = given.quick and QUICK or FULL
  bench.terminal = os.execute "test -t 2" == 0
  bench.folder = proc.tempFolder()
  proc.setenv("XDG_RUNTIME_DIR", bench.folder)
  header(given.quick)
  local ok, message = xpcall(measure, debug.traceback)
  os.execute("rm -rf -- '" .. bench.folder .. "'")
  if not ok then
    bench.failures[#bench.failures + 1] = message
    io.stderr:write("framing: ", message, "\n")
  end
  if given.json then
    writeJson(given.json)
  end
  print(("\n%d failures, %.0f s"):format(#bench.failures, proc.now() - began))
  os.exit(#bench.failures == 0 and 0 or 1)
end

main(arg)
