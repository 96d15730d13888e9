-- async.lua - Deferreds, coroutines and timers: skald beside Twisted, and what a million timers cost.
-- Run from the root of the project: luajit tests/bench/async.lua --help
-- It is its own workload, too: in plain luajit with --work, and as a script of the host.

local options = ...
local inHost = type(options) == "table"

-- --- the workload: prints "case: nanoseconds of CPU for one" -----------------------------------

local SLICE = 1000 -- operations on timers in one turn of the loop

local function nothing() end

local function plus(value)
  return value + 1
end

-- What can be done with a library that is loaded from the given path, or is in the host.
local function workload()
  local defer = require "skald.defer"
  local Deferred, await = defer.Deferred, defer.await
  local awaits = defer.async(function(count)
    for i = 1, count do
      await(defer.succeed(i))
    end
  end)
  local awaitOnce = defer.async(function(d)
    await(d)
  end)
  local work = { await = awaits }

  function work.fire(count)
    for i = 1, count do
      Deferred:new():addCallback(plus):addCallback(plus):callback(i)
    end
  end

  function work.wake(count)
    for i = 1, count do
      local d = Deferred:new()
      awaitOnce(d)
      d:callback(i)
    end
  end

  function work.timer(count)
    local reactor = require "skald.reactor"
    for _ = 1, count do
      reactor.callLater(10, nothing):cancel()
    end
  end

  return work
end

local function collect()
  collectgarbage()
  collectgarbage()
end

local function say(case, cost)
  io.write(("%s: %.2f\n"):format(case, cost))
  io.flush()
end

local function measure(f, count)
  f(math.floor(count / 10))
  collect()
  local began = os.clock()
  f(count)
  return (os.clock() - began) / count * 1e9
end

-- Does one operation so often, some in each turn of the loop; a Deferred of the CPU time of one.
local function inSlices(count, operate)
  local reactor = require "skald.reactor"
  local done = require("skald.defer").Deferred:new()
  local began
  local function finish()
    done:callback((os.clock() - began) / count * 1e9)
  end
  local function goOn(first)
    local last = math.min(first + SLICE - 1, count)
    for i = first, last do
      operate(i)
    end
    reactor.callLater(0, last < count and goOn or finish, last + 1)
  end
  collect()
  began = os.clock()
  goOn(1)
  return done
end

local function randoms(count, from, to)
  local list = {}
  for i = 1, count do
    list[i] = math.random(from, to)
  end
  return list
end

local function shuffled(count)
  local list = {}
  for i = 1, count do
    local j = math.random(i)
    list[i] = list[j]
    list[j] = i
  end
  return list
end

-- Starts so many timers, replaces them at random, cancels them in random order.
local function pending(size, least)
  local await, later = require("skald.defer").await, require("skald.reactor").callLater
  local count = math.max(size, least)
  local calls, times = {}, randoms(count, 1000, 2000)
  local which, order = randoms(count, 1, size), shuffled(size)
  local starts, cancels, repeats = 0, 0, math.floor(count / size)
  for i = 1, repeats do
    starts = starts + await(inSlices(size, function(n)
      calls[n] = later(times[n], nothing)
    end))
    if i == repeats then
      say("replace-" .. size, await(inSlices(count, function(n)
        calls[which[n]]:cancel()
        calls[which[n]] = later(times[n], nothing)
      end)))
    end
    cancels = cancels + await(inSlices(size, function(n)
      calls[order[n]]:cancel()
    end))
  end
  say("start-" .. size, starts / repeats)
  say("cancel-" .. size, cancels / repeats)
end

local function runCases(count, cases)
  local work = workload()
  for case in cases:gmatch "%S+" do
    if work[case] then
      say(case, measure(work[case], count))
    else
      pending(tonumber(case), count)
    end
  end
end

if inHost then
  local reactor = require "skald.reactor"
  local run = require("skald.defer").async(runCases)
  -- Timers of the load itself wait for its end: begin after it.
  reactor.callWhenRunning(function()
    run(tonumber(options.count), options.cases):addErrback(function(failure)
      io.stderr:write(tostring(failure), "\n")
    end):addBoth(function()
      reactor.stop()
    end)
  end)
  return
elseif options == "--work" then
  package.path = "scripts/?.lua;" .. package.path
  runCases(tonumber(arg[2]), arg[3])
  return
end

-- --- the driver -------------------------------------------------------------------------------

package.path = "tests/bench/?.lua;" .. package.path

local arguments = require "arguments"
local report = require "report"
local Run = require "rounds"

local USAGE = [[
usage: luajit tests/bench/async.lua [--quick] [--json FILE]
  --quick    fewer rounds, and only 100000 timers: about a minute instead of about ten
  --json     write every figure there
]]

local SKALD, PYTHON = "build/skald", "/usr/bin/python3"
local PEER = "tests/bench/peers/async_twisted.py"

-- How often, and how many operations of each kind. The timers' case has rounds of its own, at least
-- so many operations of each kind, and numbers of pending timers.
local FULL = { rounds = 9, own = 500000, peer = 50000, timerRounds = 3, timers = 200000,
  sizes = { 1000, 10000, 100000, 1000000 } }
local QUICK = { rounds = 3, own = 200000, peer = 20000, timerRounds = 1, timers = 100000,
  sizes = { 1000, 10000, 100000 } }

-- The case, what one is, and who takes part: a name, whose worker it is, and the case there.
local CASES = {
  { "fire", "fire: a Deferred with two callbacks, made and fired", {
    { "skald", "skald", "fire" }, { "plain luajit", "plain", "fire" },
    { "twisted", "twisted", "fire" } } },
  { "await", "await: within a coroutine, of a Deferred that was just made and has fired", {
    { "skald", "skald", "await" }, { "plain luajit", "plain", "await" },
    { "twisted", "twisted", "await" }, { "twisted async def", "twisted", "await-def" } } },
  { "wake", "wake: a coroutine made, that awaits a Deferred which is fired then, and ends", {
    { "skald", "skald", "wake" }, { "plain luajit", "plain", "wake" },
    { "twisted", "twisted", "wake" }, { "twisted async def", "twisted", "wake-def" } } },
  { "timer", "timer: callLater(10, f), and its cancel, within the running host", {
    { "skald", "skald", "timer" }, { "twisted", "twisted", "timer" } } },
}

local bench = Run.new "async"

-- The command of a worker.
local function command(worker, count, cases)
  if worker == "skald" then
    return { SKALD, "run", "tests/bench/async.lua", "count=" .. count, "cases=" .. cases }
  elseif worker == "plain" then
    return { "luajit", "tests/bench/async.lua", "--work", tostring(count), cases }
  end
  local words = { PYTHON, PEER, tostring(count) }
  for case in cases:gmatch "%S+" do
    words[#words + 1] = case
  end
  return words
end

-- Rounds of workers in turn; each has a name, a count and cases.
local function interleave(title, rounds, workers)
  for _, worker in ipairs(workers) do
    worker.command = command(worker.name, worker.count, worker.cases)
  end
  return bench:inTurn(workers, title, rounds, function(worker)
    return bench:work(worker)
  end)
end

-- One row of a case: the summary of its costs, and of the ratios to another's, round by round.
local function compare(all, rounds, row, base)
  local mine, theirs = {}, {}
  for i = 1, rounds do
    mine[i] = { cost = all[row[2]][i] and all[row[2]][i][row[3]] }
    theirs[i] = { cost = all[base[2]][i] and all[base[2]][i][base[3]] }
  end
  return report.field(mine, "cost", rounds), report.ratios(mine, theirs, "cost", rounds)
end

local function twistedRow(rows)
  for _, row in ipairs(rows) do
    if row[1] == "twisted" then
      return row
    end
  end
end

local function runPlain()
  local plan, rounds = bench.plan, bench.plan.rounds
  local all = interleave("workers", rounds, {
    { name = "skald", count = plan.own, cases = "fire await wake timer" },
    { name = "plain", count = plan.own, cases = "fire await wake" },
    { name = "twisted", count = plan.peer, cases = "fire await await-def wake wake-def timer" },
  })
  for _, case in ipairs(CASES) do
    local name, title, rows = case[1], case[2], case[3]
    local lines, kept = { { "", "CPU ns", "x twisted" } }, {}
    for _, row in ipairs(rows) do
      local cost, ratio = compare(all, rounds, row, twistedRow(rows))
      kept[row[1]] = { cpu_ns = cost, to_twisted = ratio }
      lines[#lines + 1] = { row[1], report.spread(cost), report.spread(ratio) }
    end
    bench.results[name] = { title = title, of = kept }
    print("\n" .. title)
    report.table(lines)
  end
end

-- What of a timer's life is told, and whether with its growth: cost at one size, x that at the least.
local OPERATIONS = { { "start" }, { "cancel" }, { "both", true }, { "replace", true } }

-- Adds what starting and cancelling cost together.
local function addBoth(rounds)
  for _, figures in pairs(rounds) do
    for _, size in ipairs(bench.plan.sizes) do
      local start, cancel = figures["start-" .. size], figures["cancel-" .. size]
      figures["both-" .. size] = start and cancel and start + cancel
    end
  end
end

-- The costs of the operations at one size, as a row; kept by their names.
local function timerRow(all, rounds, worker, size, kept)
  local row = { worker, ("%d"):format(size) }
  for _, operation in ipairs(OPERATIONS) do
    local name = operation[1]
    local this = { worker, worker, name .. "-" .. size }
    local least = { worker, worker, name .. "-" .. bench.plan.sizes[1] }
    local cost, growth = compare(all, rounds, this, least)
    kept[this[3]] = { cpu_ns = cost, growth = growth }
    row[#row + 1] = report.spread(cost)
    if operation[2] then
      row[#row + 1] = report.number(growth and growth.median)
    end
  end
  return row
end

local function runTimers()
  local plan, rounds = bench.plan, bench.plan.timerRounds
  local title = ("pending: so many timers started, replaced at random, cancelled in random order, "
    .. "%d in a turn of the loop"):format(SLICE)
  local cases = table.concat(plan.sizes, " ")
  local all = interleave("pending", rounds, {
    { name = "skald", count = plan.timers, cases = cases },
    { name = "twisted", count = plan.timers, cases = cases },
  })
  local first = "x " .. plan.sizes[1]
  local lines = { { "", "pending", "start ns", "cancel ns", "both ns", first, "replace ns", first } }
  local kept = { skald = {}, twisted = {} }
  for _, worker in ipairs { "skald", "twisted" } do
    addBoth(all[worker])
    for _, size in ipairs(plan.sizes) do
      lines[#lines + 1] = timerRow(all, rounds, worker, size, kept[worker])
    end
  end
  bench.results.pending = { title = title, of = kept }
  print("\n" .. title)
  report.table(lines)
end

local function judge()
  local results = bench.results
  for _, case in ipairs { "fire", "await", "wake", "timer" } do
    local ratio = results[case].of.skald.to_twisted
    bench:addBar(case .. ": CPU, x twisted", ratio and ratio.median, "<", 1)
  end
  -- What grows with the logarithm at most doubles from each size to the next, caches included; what
  -- grows with the number takes ten times as long.
  local sizes = bench.plan.sizes
  local first, last = sizes[1], sizes[#sizes]
  for _, operation in ipairs { "both", "replace" } do
    local growth = results.pending.of.skald[operation .. "-" .. last].growth
    bench:addBar(("%s: CPU with %d pending, x that with %d"):format(operation, last, first),
      growth and growth.median, "<=", 2 ^ (#sizes - 1))
  end
  bench:printBars "the bars"
end

local function main(args)
  local given = arguments.parse("async", USAGE, args, { quick = "flag", json = "value" })
  bench.plan = given.quick and QUICK or FULL
  local pinned = bench:pin()
  print(("skald bench of Deferreds, coroutines and timers, %s: %d CPUs, Linux %s; %s"):format(
    given.quick and "quick" or "full", bench.machine.cpus, bench.machine.kernel, pinned))
  print(("%d rounds, each of processes of their own, in turn; CPU time of one, medians (min-max)")
    :format(bench.plan.rounds))
  print "x twisted: round by round"
  bench:main(function()
    runPlain()
    runTimers()
    judge()
  end, given.json, { quick = given.quick or false })
end

main(arg)
