-- The parts of the soak: a host under load that is reloaded again and again, and what the load tool and the host's own
-- reports say about it. Each part has a long form and a short one, and gives a list
-- of bars: what was seen, and what is asked.

local json = require "cjson.safe"
local host = require "support.host"
local client = require "support.client"
local dns = require "support.dns"
local process = require "support.process"
local report = require "bench.report"

local sys = process.sys

local parts = {}

local STEADY = "build/bench/steady"
local FLOOR = "build/bench/floor"
local PATIENCE = 60 -- seconds that one answer or line may take

-- What is a fault in the counts of the load tool.
local FAULTS = { "refused", "reset", "closed", "failed", "lost", "doubled", "reordered", "wrong" }

-- Words for the host before the scripts: `--jit=off` and the like.
parts.options = {}

-- The control socket

--- Sends one request on a connection of its own and returns the answer, a table.
local function ask(request)
  local c = client.unix(host.folder() .. "/skald.sock")
  c:send(json.encode(request) .. "\n")
  local text, ending = c:receiveAll(PATIENCE)
  c:close()
  local answer = json.decode(text)
  if ending ~= "eof" or type(answer) ~= "table" then
    error(("%s was answered with %q (%s)"):format(request.command, text, ending), 0)
  end
  return answer
end

-- Reloads and insists on a result.
local function reload(wanted)
  local answer = ask { command = "reload", service = "script" }
  if answer.result ~= wanted then
    error(("a reload was to be %s: %s"):format(wanted, json.encode(answer)), 0)
  end
  return answer
end

-- The load tool

local function steady(words)
  local argv = { STEADY }
  for _, word in ipairs(words) do
    argv[#argv + 1] = word
  end
  local load = process.start(argv)
  load:line("^ready", PATIENCE)
  return load
end

-- Ends the load and returns its counts.
local function finish(load)
  load:write "stop\n"
  local counts = json.decode(load:line("^{", PATIENCE))
  load:closeInput()
  load:wait(PATIENCE)
  counts.complaints = load:errors()
  return counts
end

-- The counts so far; `longest_us` is that since the last lap.
local function lap(load)
  load:write "lap\n"
  return json.decode(load:line("^{", PATIENCE))
end

local function seen(bars, text, value)
  bars[#bars + 1] = { text = text, value = value }
end

local relations = {
  ["="] = function(a, b) return a == b end,
  ["<="] = function(a, b) return a <= b end,
  [">="] = function(a, b) return a >= b end,
}

-- Without a limit it is only shown.
local function bar(bars, text, value, relation, limit)
  if not limit then
    return seen(bars, text, value)
  end
  local met = value ~= nil and relations[relation](value, limit)
  bars[#bars + 1] = { text = text, value = value, relation = relation, limit = limit, met = met }
end

-- A bar of 0 for each kind of fault.
local function noFaults(bars, counts)
  for _, kind in ipairs(FAULTS) do
    bar(bars, kind, counts[kind], "<=", 0)
  end
  if counts.complaints ~= "" then
    bars.complaints = counts.complaints
  end
end

-- The service under load

-- An echo of lines whose state counts them, and survives. A line "?" is answered with what it knows.
local SERVICE = [[
local GENERATION = %d
local lines = require "lines"

local Echo = lines.Counted {}

function Echo:lineReceived(line)
  if line == "?" then
    local state = self.factory.state
    return self:sendLine(("%%d %%d %%d %%d"):format(GENERATION, lines.GENERATION, state.lines, state.migrated))
  end
  self:count()
  self:sendLine(line)
end

local function migrate(state)
  %s
  state.migrated = state.migrated + 1
end

return {
  name = "steady", listen = { %s }, protocol = Echo, backlog = 4096,
  state = { lines = 0, migrated = 0 }, version = %d, migrate = migrate, refuse = %s,
  prepareReload = function(_, new)
    if new.refuse then
      return false, new.refuse
    end
  end,
}
]]

local LINES = [[
local protocol = require "skald.protocol"

local M = { GENERATION = %d }

M.Counted = protocol.Protocol { rest = "" }

function M.Counted:dataReceived(data)
  local text, at = self.rest .. data, 1
  for line, stop in text:gmatch "([^\n]*)\n()" do
    at = stop
    self:lineReceived(line)
  end
  self.rest = text:sub(at)
end

function M.Counted:sendLine(line)
  self.transport:write(line .. "\n")
end

function M.Counted:count()
  local state = self.factory.state
  state.lines = state.lines + 1
end

return M
]]

-- What the files say now; a change that is refused does not stay.
local function newService(listen)
  return { listen = listen, script = 1, lines = 1, version = 1, migrations = 0, migrateFirst = "", refuse = "nil" }
end

local function quoted(list)
  local words = {}
  for i, word in ipairs(list) do
    words[i] = ("%q"):format(word)
  end
  return table.concat(words, ", ")
end

local function writeService(s, extra)
  local listen = { unpack(s.listen) }
  listen[#listen + 1] = extra
  host.file("lines.lua", LINES:format(s.lines))
  return host.script(SERVICE:format(s.script, s.migrateFirst, quoted(listen), s.version, s.refuse))
end

-- The n-th good change: the script, a module, the version, one endpoint more (gone again with the next).
local function change(s, n)
  local extra
  if n % 4 == 0 then
    s.lines = n
  elseif n % 4 == 1 then
    s.version, s.migrations, s.script = s.version + 1, s.migrations + 1, n
  elseif n % 4 == 2 then
    s.script, extra = n, "tcp:127.0.0.9:0"
  else
    s.script = n
  end
  writeService(s, extra)
end

-- Three ways to fail in prepare. The migrate that fails has spoiled the state before.
local function failPrepare(s, n)
  local broken = setmetatable({ script = n }, { __index = s })
  if n % 3 == 0 then
    broken.refuse = ('"not now, %d"'):format(n)
  elseif n % 3 == 1 then
    broken.version, broken.migrateFirst = s.version + 1, "state.lines, state.more = nil, 1; error 'no way over'"
  end
  writeService(broken, n % 3 == 2 and "unix:" .. host.folder() .. "/taken" or nil)
end

-- How the n-th reload of the load part changes the files, and what must come of it.
local kinds = {
  { phase = "compile", write = function(s, n)
    writeService(setmetatable({ migrateFirst = ("local = %d"):format(n) }, { __index = s }))
  end },
  { phase = "load", write = function(s, n)
    writeService(setmetatable({ refuse = ("error 'raised by %d'"):format(n) }, { __index = s }))
  end },
  { phase = "prepare", write = failPrepare },
  { write = change },
  { write = change },
}

local function note(stats, answer)
  for _, key in ipairs { "pause_us", "stall_us" } do
    stats[key] = stats[key] or {}
    table.insert(stats[key], answer[key])
  end
end

-- One reload of a kind; its phase, or "committed", is counted.
local function reloadKind(kind, s, n, stats)
  kind.write(s, n)
  local answer = reload(kind.phase and "refused" or "committed")
  local key = "committed"
  if kind.phase then
    key = answer.errors[1].phase
  else
    note(stats, answer)
  end
  stats[key] = (stats[key] or 0) + 1
end

-- Time passes between reloads so that they meet the load at different moments.
local function gap(plan, n)
  if plan.gap > 0 then
    sys.pass(plan.gap * (n * 7 % 11) / 5)
  end
end

local function startService(s, listening)
  return host.run { writeService(s), options = parts.options, listening = listening }
end

local function targets(h)
  local list = {}
  for i, entry in ipairs(h.endpoints) do
    list[i] = entry.endpoint:match "^tcp:(.*)$"
  end
  return unpack(list)
end

-- The numbers of a line of answer to "?".
local function probe(h)
  local c = h:connect()
  local line = c:send("?\n"):line()
  c:close()
  local script, lines, count, migrated = line:match "^(%d+) (%d+) (%d+) (%d+)$"
  return { script = tonumber(script), lines = tonumber(lines), count = tonumber(count), migrated = tonumber(migrated) }
end

local function spread(bars, name, list)
  local summary = report.summary(list) or {}
  seen(bars, name .. ", median", summary.median)
  return summary.max
end

-- 1. load

parts.load = {
  title = "load: numbered echoes while good and bad versions come",
  long = { conns = 2000, rate = 20000, reloads = 500, gap = 0.05, least = 0.95 },
  short = { conns = 200, rate = 5000, reloads = 20, gap = 0.01 },
}

function parts.load.run(plan)
  local bars, stats, s = {}, {}, newService { "tcp:127.0.0.1:0" }
  local h = startService(s)
  local release = client.occupy(host.folder() .. "/taken", true)
  local load = steady { "echo", "conns=" .. plan.conns, "rate=" .. plan.rate, "seconds=0", "split=1", targets(h) }
  sys.pass(plan.gap * 40)
  seen(bars, "longest echo before the first reload, us", lap(load).longest_us)
  for n = 1, plan.reloads do
    reloadKind(kinds[(n - 1) % #kinds + 1], s, n + 1, stats)
    gap(plan, n)
  end
  seen(bars, "longest echo from then on, us", lap(load).longest_us)
  local counts = finish(load)
  release()
  noFaults(bars, counts)
  for _, phase in ipairs { "compile", "load", "prepare" } do
    bar(bars, "refused in " .. phase, stats[phase] or 0, "=", plan.reloads / #kinds)
  end
  bar(bars, "committed", stats.committed, "=", plan.reloads * 2 / #kinds)
  local known = probe(h)
  bar(bars, "lines that the state counts", known.count, "=", counts.sent)
  bar(bars, "migrations of the state", known.migrated, "=", s.migrations)
  bar(bars, "generation of the script that answers", known.script, "=", s.script)
  bar(bars, "generation of the module that answers", known.lines, "=", s.lines)
  bar(bars, "messages a second, of those asked for", counts.rate / plan.rate, ">=", plan.least)
  spread(bars, "pause_us", stats.pause_us)
  seen(bars, "stall_us, max", spread(bars, "stall_us", stats.stall_us))
  h:stop()
  return bars
end

-- 2. pause

parts.pause = {
  title = "pause: good reloads with many connections open",
  long = { conns = 10000, rate = 1000, reloads = 200, gap = 0.05, most = 1000 },
  short = { conns = 500, rate = 500, reloads = 10, gap = 0 },
}

function parts.pause.run(plan)
  local bars, stats, s = {}, {}, newService { "tcp:127.0.0.1:0" }
  local h = startService(s)
  local load = steady { "echo", "conns=" .. plan.conns, "rate=" .. plan.rate, "seconds=0", "sources=4", targets(h) }
  for n = 1, plan.reloads do
    reloadKind({ write = change }, s, n + 1, stats)
    gap(plan, n)
  end
  local counts = finish(load)
  noFaults(bars, counts)
  bar(bars, "connections open to the end", counts.connections, "=", plan.conns)
  bar(bars, "pause_us, max", spread(bars, "pause_us", stats.pause_us), "<=", plan.most)
  seen(bars, "stall_us, max", spread(bars, "stall_us", stats.stall_us))
  seen(bars, "longest echo, us", counts.longest_us)
  h:stop()
  return bars
end

-- 3. connects

parts.connects = {
  title = "connects: at 70 % of the rate of plain C",
  -- how many SYNs the kernel drops in a short run says more of the machine than of the host
  long = { seconds = 3, reloads = 200, gap = 0.1, least = 0.95, dropped = 0 },
  short = { seconds = 0.4, reloads = 20, gap = 0 },
}

local ADDRESSES = { "tcp:127.0.0.1:0", "tcp:127.0.0.2:0", "tcp:127.0.0.3:0", "tcp:127.0.0.4:0" }

-- Connects a second that the C floor takes, and the CPU time of one, in us.
local function floorRate(seconds)
  local floor = process.start { FLOOR, "echo" }
  local at = floor:line "^listening tcp:(%S+)"
  local load = steady { "connect", "conns=64", "rate=0", "sources=64", "seconds=" .. seconds, at }
  local counts = json.decode(load:line("^{", PATIENCE))
  local cpu = floor:cpu() / counts.received * 1e6
  load:wait()
  floor:kill "TERM"
  floor:wait()
  return counts.rate, cpu
end

function parts.connects.run(plan)
  local bars, stats, s = {}, {}, newService(ADDRESSES)
  local floor, floorCpu = floorRate(plan.seconds)
  local rate = math.floor(floor * 0.7 / (host.sanitized and 20 or 1))
  local h = startService(s, #ADDRESSES)
  local load = steady { "connect", "conns=8000", "rate=" .. rate, "sources=64", "seconds=0", targets(h) }
  local before = h:cpu()
  for n = 1, plan.reloads do
    reloadKind({ write = change }, s, n + 1, stats)
    gap(plan, n)
  end
  local counts = finish(load)
  noFaults(bars, counts)
  seen(bars, "connects a second of the floor", floor)
  seen(bars, "connects asked for, a second", rate)
  bar(bars, "connects reached, of those asked for", counts.rate / rate, ">=", plan.least)
  bar(bars, "connects whose first SYN was dropped", counts.slow, "<=", plan.dropped)
  seen(bars, "CPU of one connect, floor, us", floorCpu)
  seen(bars, "CPU of one connect, reloads included, us", (h:cpu() - before) / counts.received * 1e6)
  seen(bars, "longest connect and echo, us", counts.longest_us)
  bar(bars, "visits", counts.received, "=", counts.sent)
  h:stop()
  return bars
end

-- 4. grow

parts.grow = {
  title = "grow: what thousands of reloads leave behind",
  long = { conns = 1000, rate = 500, warm = 500, reloads = 10000, most = 1024 },
  short = { conns = 100, rate = 100, warm = 30, reloads = 90 },
}

local MODULES, FUNCTIONS = 20, 40

local FUNCTION = [[
function M.f%d(a, b)
  local sum = number
  for i = a, b or a do
    sum = sum + i * %d
  end
  return sum, "function %d of module %d"
end
]]

-- A module of many functions over one local; `n` makes it another text.
local function writeModule(which, n)
  local text = { ("local M, number = {}, %d\n"):format(n) }
  for i = 1, FUNCTIONS do
    text[#text + 1] = FUNCTION:format(i, i, i, which)
  end
  text[#text + 1] = "return M\n"
  host.file(("m%02d.lua"):format(which), table.concat(text))
end

local GROWING = [[
local modules = {}
for i = 1, 20 do
  modules[i] = require(("m%02d"):format(i))
end

local reactor = require "skald.reactor"
local function tick()
  reactor.callLater(0.01, tick)
end
tick()
reactor.callLater(3600, function() end)

local Echo = require("skald.protocol").Protocol {}

function Echo:dataReceived(data)
  local sum = 0
  for i = 1, #modules do
    sum = sum + modules[i].f7(1, 3)
  end
  self.sum = sum
  self.transport:write(data)
end

return { listen = "tcp:127.0.0.1:0", protocol = Echo, backlog = 4096, state = { rooms = {} } }
]]

-- What SIGUSR1 makes the host tell, after a full collection: name -> number.
local function census(h)
  h:kill "USR1"
  local line, all = h:waitLog("alive: .*", PATIENCE), {}
  for number, name in line:match("alive: (.*)"):gmatch "(%d+) ([%a ]+)" do
    all[name] = tonumber(number)
  end
  return all
end

-- What must be the same after thousands of reloads as before, and what may differ a little.
local function look(h)
  local counts = census(h)
  local loose = { lua = counts["KB of Lua"], memory = h:memory() / 1024 }
  counts["KB of Lua"] = nil
  counts.descriptors, counts["old generations"] = h:descriptors(), 0
  for _, service in ipairs(ask({ command = "status" }).services) do
    counts["old generations"] = counts["old generations"] + #service.oldGenerations
  end
  return counts, loose
end

local function same(a, b)
  for name, value in pairs(a) do
    if b[name] ~= value then
      return false
    end
  end
  return true
end

-- Looks until nothing moves (the last control connection is gone) and, if it ever comes to that, all is as before.
local function settle(h, before)
  local limit, last = sys.now() + PATIENCE, look(h)
  while true do
    local counts, loose = look(h)
    local done = same(counts, last) and same(counts, before or counts) and counts["old generations"] == 0
    if done or sys.now() > limit then
      return counts, loose
    end
    last = counts
  end
end

local function growTo(stats, from, to)
  for n = from, to do
    writeModule(n % MODULES + 1, n)
    local answer = reload "committed"
    note(stats, answer)
    stats.generation = answer.generation
  end
end

local function sameCounts(bars, before, after)
  local names = {}
  for name in pairs(before) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    bar(bars, name, after[name], "=", before[name])
  end
end

function parts.grow.run(plan)
  local bars, stats = {}, {}
  for i = 1, MODULES do
    writeModule(i, 0)
  end
  local h = host.serve(GROWING, { options = parts.options })
  local load = steady { "echo", "conns=" .. plan.conns, "rate=" .. plan.rate, "seconds=0", targets(h) }
  growTo(stats, 1, plan.warm)
  local before, looseBefore = settle(h)
  local peak = h:peakMemory()
  growTo(stats, plan.warm + 1, plan.reloads)
  local after, loose = settle(h, before)
  local counts = finish(load)
  noFaults(bars, counts)
  bar(bars, "generation", stats.generation, "=", plan.reloads + 1)
  sameCounts(bars, before, after)
  bar(bars, "resident memory grown, KB", loose.memory - looseBefore.memory, "<=", plan.most)
  seen(bars, "resident memory, KB", loose.memory)
  seen(bars, "KB of Lua grown", loose.lua - looseBefore.lua)
  seen(bars, "most resident memory ever grown, KB", (h:peakMemory() - peak) / 1024)
  seen(bars, "pause_us, max", spread(bars, "pause_us", stats.pause_us))
  seen(bars, "stall_us, max", spread(bars, "stall_us", stats.stall_us))
  h:stop()
  return bars
end

-- 5. save

parts.save = {
  title = "save: from the editor's save to the new code's first answer, with --watch",
  long = { saves = 40, most = 150 },
  short = { saves = 3 },
}

-- Milliseconds from the moment a file is in place until a client is answered by it.
local function saveOnce(c, s, n)
  local text = SERVICE:format(n, s.migrateFirst, quoted(s.listen), s.version, s.refuse)
  os.rename(host.file("next.lua", text), host.folder() .. "/script.lua")
  local saved = sys.now()
  repeat
    local script = tonumber(c:send("?\n"):line():match "^%d+")
  until script == n
  return (sys.now() - saved) * 1000
end

function parts.save.run(plan)
  local bars, times, s = {}, {}, newService { "tcp:127.0.0.1:0" }
  local h = host.run { writeService(s), options = { "--watch", unpack(parts.options) } }
  local c = h:connect()
  for n = 2, plan.saves + 1 do
    times[#times + 1] = saveOnce(c, s, n)
  end
  bar(bars, "ms to the new answer, max", spread(bars, "ms to the new answer", times), "<=", plan.most)
  h:stop()
  return bars
end

-- 6. resolve

parts.resolve = {
  title = "resolve: names that a slow name server answers, while timers run and files are read",
  long = { names = 1000, delay = 5, most = 20 },
  short = { names = 300, delay = 0.2 },
}

-- Every 10 ms it notes how late the timer is, how much of that the host's own work can have been (it had no more CPU
-- since the last one), and how long a file takes to be read. A line "look N S" looks N names up with S seconds for
-- each, "cancel" takes all back, both 50 a turn; once all have ended, and a moment later, it says how.
local RESOLVING = [[
local reactor = require "skald.reactor"
local resolver = require "skald.resolver"

local late, own, reading = 0, 0, 0
local due, cpu
local file = io.open(%q) -- one for all the time: how many descriptors there are is looked at from outside
file:setvbuf "no"

local function measure(now)
  late = math.max(late, now - due)
  own = math.max(own, math.min(now - due, os.clock() - cpu))
end

local function tick()
  local now = reactor.seconds()
  if due then
    measure(now)
  end
  file:seek "set"
  file:read "*a"
  reading = math.max(reading, reactor.seconds() - now)
  due, cpu = reactor.seconds() + 0.01, os.clock()
  reactor.callLater(0.01, tick)
end
reactor.callWhenRunning(tick)

local P, commands, deferreds = {}, {}, {}

local function codeOf(failure)
  return failure.value and failure.value.code or failure.type
end


function commands.look(self, count, seconds)
  count = tonumber(count)
  local left, ends = count, { found = 0, ETIMEOUT = 0, CancelledError = 0 }
  local function tell()
    self.transport:write(("%%d %%d %%d %%.3f %%.3f %%.3f\n"):format(ends.found, ends.ETIMEOUT, ends.CancelledError,
      late * 1000, own * 1000, reading * 1000))
    late, own, reading = 0, 0, 0
  end
  local function note(what)
    ends[what], left = (ends[what] or 0) + 1, left - 1
    if left == 0 then
      reactor.callLater(0.05, tell)
    end
  end
  local function begin(from)
    for i = from, math.min(from + 49, count) do
      deferreds[i] = resolver.resolve(i .. ".slow.test", { timeout = tonumber(seconds) })
      deferreds[i]:addCallbacks(function() return "found" end, codeOf):addCallback(note)
    end
    if from + 50 <= count then
      reactor.callLater(0, begin, from + 50)
    end
  end
  deferreds = {}
  begin(1)
end

function commands.cancel()
  for i = math.max(#deferreds - 49, 1), #deferreds do
    deferreds[i]:cancel()
    deferreds[i] = nil
  end
  if deferreds[1] then
    reactor.callLater(0, commands.cancel)
  end
end

function P:dataReceived(data)
  for word, rest in data:gmatch "(%%a+) ?([^\n]*)\n" do
    commands[word](self, rest:match "(%%S*) ?(%%S*)")
  end
end

return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

-- Looks names up, `meanwhile` that is under way; how many were found, timed out, were cancelled, how late it all was.
local function lookUp(c, names, seconds, meanwhile)
  c:send(("look %d %g\n"):format(names, seconds))
  if meanwhile then
    meanwhile()
  end
  local ends = {}
  for number in c:line(PATIENCE):gmatch "%S+" do
    ends[#ends + 1] = tonumber(number)
  end
  return { found = ends[1], late = ends[2], cancelled = ends[3], lateness = ends[4], own = ends[5], reading = ends[6] }
end

-- Waits for so many questions in all; the most descriptors that were open meanwhile.
local function awaitQuestions(h, server, wanted)
  local most = 0
  sys.await(function()
    most = math.max(most, h:descriptors())
    return #server:questions() >= wanted
  end, function()
    return h:story "not all is asked that was to be"
  end, PATIENCE)
  return most
end

local function howLate(bars, most, what, ends)
  seen(bars, ("the latest timer while %s, ms"):format(what), ends.lateness)
  bar(bars, "  of that by the host's own work, at most", ends.own, "<=", most)
  seen(bars, "  the longest read of a file, ms", ends.reading)
end

function parts.resolve.run(plan)
  local bars, names, places = {}, plan.names, 256
  local server = dns.start { ("*.slow.test=192.0.2.1,2001:db8::1,delay:%g"):format(plan.delay) }
  local text = RESOLVING:format(host.file("some.txt", ("x"):rep(4096)))
  local h = host.run { host.script(text), options = parts.options, env = server.env }
  local c = h:connect()
  lookUp(c, 10, 0.01)
  local before, memory, most = h:descriptors(), h:memory(), nil
  sys.pass(plan.delay)
  local idle = lookUp(c, 1, 0.01)
  local asked = #server:questions()
  local found = lookUp(c, names, 300, function()
    most = awaitQuestions(h, server, asked + names * 2)
  end)
  local late = lookUp(c, names, plan.delay / 2)
  asked = #server:questions()
  local cancelled = lookUp(c, names, 300, function()
    awaitQuestions(h, server, asked + places * 2)
    c:send "cancel\n"
  end)
  bar(bars, "names found", found.found, "=", names)
  bar(bars, "names that timed out, or were found before that", late.late + late.found, "=", names)
  bar(bars, "names cancelled, or found before that", cancelled.cancelled + cancelled.found, "=", names)
  howLate(bars, nil, "nothing is looked up", idle)
  howLate(bars, plan.most, "names are found", found)
  howLate(bars, plan.most, "names time out", late)
  howLate(bars, plan.most, "names are cancelled", cancelled)
  bar(bars, "descriptors more, at the most", most - before, "<=", places)
  bar(bars, "descriptors more, afterwards", h:descriptors() - before, "=", 0)
  bar(bars, "look-ups left", census(h).lookups, "=", 0)
  seen(bars, "resident memory grown, KB", (h:memory() - memory) / 1024)
  seen(bars, "most resident memory, KB", h:peakMemory() / 1024)
  h:stop()
  return bars
end

-- Running them

parts.order = { "load", "pause", "connects", "grow", "save", "resolve", "streams", "clients", "forward" }
parts.streams = require "soak.streams"
parts.clients = require "soak.clients"
parts.forward = require "soak.forward"

--- Runs one part and returns its bars, and a text of those that are missed ("" if all is well).
---@param name string of `parts.order`
---@param short boolean the form of a few seconds
function parts.run(name, short)
  local part = parts[name]
  local bars, missed = part.run(short and part.short or part.long), {}
  for _, entry in ipairs(bars) do
    if entry.met == false then
      missed[#missed + 1] = ("%s: %s, not %s %s"):format(entry.text, tostring(entry.value), entry.relation, entry.limit)
    end
  end
  if #missed > 0 then
    missed[#missed + 1] = bars.complaints
  end
  return bars, table.concat(missed, "\n")
end

return parts
