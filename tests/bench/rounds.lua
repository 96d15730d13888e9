-- rounds.lua - what the benchmarks that measure servers share: starting one, loading it, rounds of all in turn.
local proc = require "proc"
local report = require "report"
local servers = require "servers"

local STOLEN = 0.1 -- a round that the hypervisor took more of is disturbed
local READY = 15 -- seconds that a server has for its start
local WORK = 300 -- seconds that a worker has for one case

--- A run of a benchmark. Its owner sets `folder`, `plan` (rounds, seconds, warm, repeats), the CPUs and `roundsOf`:
--- without that all servers have all rounds of the plan.
local Run = {}
Run.__index = Run

function Run.new(name)
  return setmetatable({ name = name, failures = {}, bars = {}, results = {}, started = 0, rounds = 0, disturbed = 0,
    terminal = os.execute "test -t 2" == 0 }, Run)
end

--- What goes wrong is told at once, and makes the exit status 1.
function Run:failed(who, why, process)
  local text = ("%s: %s"):format(who, why)
  local complaint = process and process:complaint() or ""
  self.failures[#self.failures + 1] = text
  io.stderr:write(self.name, ": ", text, "\n", complaint)
  if complaint ~= "" and complaint:sub(-1) ~= "\n" then
    io.stderr:write "\n"
  end
end

function Run:progress(text)
  if self.terminal then
    io.stderr:write("\r\27[K", text)
  end
end

--- Servers get one CPU, where there are several, and the load generator another. Says so.
function Run:pin()
  local cpus = proc.cpus()
  self.machine = { cpus = #cpus, kernel = report.firstLine "uname -r", pinned = #cpus >= 2 }
  if #cpus < 2 then
    return "servers and the load generator share the CPU"
  end
  self.serverCpu, self.loadCpu = cpus[1], cpus[2]
  proc.pin(self.loadCpu)
  return "servers run on one CPU, the load generator on another"
end

-- The port of the first endpoint a server says that it listens at, of so many; nil and why not.
local function announced(process, endpoints)
  local port
  for _ = 1, endpoints do
    local line, why = process:line(READY)
    if not line or not line:find "^listening " then
      return nil, why or line
    end
    port = port or line:match "^listening %a+:127%.0%.0%.1:(%d+)"
  end
  return port
end

--- Starts a server and waits for its endpoints; the process, its TCP port, the seconds it took. One that does not say
--- where it listens has a `port`.
function Run:start(server, extra)
  local command = {}
  for _, words in ipairs { server.command, extra or {} } do
    for _, word in ipairs(words) do
      command[#command + 1] = word
    end
  end
  self.started = self.started + 1
  local began = proc.now()
  local process = proc.spawn(command, { cpu = server.cpu or self.serverCpu,
    log = ("%s/%d.log"):format(self.folder, self.started) })
  local port, why
  if server.port then
    port, why = proc.listens(server.port, READY)
  else
    port, why = announced(process, extra and 2 or 1)
  end
  if not port then
    self:failed(server.name, "did not start to listen: " .. why, process)
    process:stop()
    return nil
  end
  return process, port, proc.now() - began
end

function Run:stop(server, process)
  local status = process:stop()
  if status ~= 0 and status ~= 143 then
    self:failed(server.name, ("ended with status %s"):format(tostring(status)), process)
  end
  os.remove(process.logPath)
end

--- Starts the load generator.
function Run:spawnLoad(mode, args)
  local command = { servers.load, mode }
  for _, arg in ipairs(args) do
    command[#command + 1] = tostring(arg)
  end
  return proc.spawn(command, { cpu = self.loadCpu, log = self.folder .. "/load.log" })
end

--- The figures of a load generator that runs, or nil. A window in which nothing came back is a figure too: the machine
--- may have been taken away from us.
function Run:figures(server, process)
  local limit = self.plan.seconds + self.plan.warm + 30
  local line, why = process:line(limit)
  if line == "warm" then
    line, why = process:line(limit)
  end
  local status, figures = process:wait(limit), {}
  for key, value in (line or ""):gmatch '"([%w_]+)":([%d.]+)' do
    figures[key] = tonumber(value)
  end
  if status ~= 0 and not (figures.errors == 0 and figures.short == 0) then
    self:failed(server.name, "load: " .. (why or "status " .. tostring(status)), process)
    process:stop()
    return nil
  end
  return figures
end

-- What `f` gives, and the share of CPU time that the hypervisor gave to others meanwhile.
local function watched(run, f, ...)
  local began, stolen = proc.now(), proc.stolen()
  local result = f(...)
  return result, (proc.stolen() - stolen) / (proc.now() - began) / run.machine.cpus
end

-- Counts a round.
local function count(run, stolen)
  run.rounds = run.rounds + 1
  run.disturbed = run.disturbed + (stolen > STOLEN and 1 or 0)
end

-- One try of one server. Adds cost (CPU us), rate (a second) and the stolen share.
local function try(run, server, measure, counted)
  local figures, stolen = watched(run, measure, server)
  if not figures then
    return nil
  end
  figures.stolen = stolen
  if figures[counted] > 0 then
    figures.cost = figures.cpu_us / figures[counted]
    figures.rate = figures[counted] / figures.seconds
  end
  return figures
end

-- One round of one server; a disturbed one is repeated while the case has repeats left.
local function round(run, server, measure, counted)
  local best
  for _ = 1, 3 do
    local figures = try(run, server, measure, counted)
    if not figures then
      return nil
    end
    if not best or not best.cost or (figures.cost and figures.stolen < best.stolen) then
      best = figures
    end
    if (best.cost and best.stolen <= STOLEN) or run.repeats <= 0 then
      break
    end
    run.repeats = run.repeats - 1
  end
  count(run, best.stolen)
  if not best.cost and best.stolen <= STOLEN then
    run:failed(server.name, "nothing came back within the window")
  end
  return best.cost and best or nil
end

--- Rounds of all servers in turn: A B C A B C. Returns name -> round -> figures, with cost and rate of what `counted`
--- names in the figures that `measure(server)` gives.
function Run:interleave(list, title, measure, counted)
  local all = {}
  self.repeats = self.plan.repeats
  for _, server in ipairs(list) do
    all[server.name] = {}
  end
  for i = 1, self.plan.rounds do
    for _, server in ipairs(list) do
      if i <= (self.roundsOf and self.roundsOf(server) or self.plan.rounds) then
        self:progress(("%s: round %d of %d, %s"):format(title, i, self.plan.rounds, server.name))
        all[server.name][i] = round(self, server, measure, counted)
      end
    end
  end
  self:progress ""
  return all
end

--- The same of workers, which are started for a round and end with it: name -> round -> what `work(worker)` gives.
function Run:inTurn(list, title, rounds, work)
  local all = {}
  for _, worker in ipairs(list) do
    all[worker.name] = {}
  end
  for i = 1, rounds do
    for _, worker in ipairs(list) do
      self:progress(("%s: round %d of %d, %s"):format(title, i, rounds, worker.name))
      local figures, stolen = watched(self, work, worker)
      all[worker.name][i] = figures
      count(self, stolen)
    end
  end
  self:progress ""
  return all
end

--- Runs a worker, which prints `case: nanoseconds` lines, to its end: case -> nanoseconds, or nil.
function Run:work(worker)
  local process = proc.spawn(worker.command, { cpu = self.serverCpu, log = self.folder .. "/worker.log" })
  local figures, line = {}, process:line(WORK)
  while line do
    local case, cost = line:match "^([%w-]+): ([%d.]+)$"
    if case then
      figures[case] = tonumber(cost)
    end
    line = process:line(WORK)
  end
  local status = process:wait(10)
  if status ~= 0 then
    self:failed(worker.name, ("ended with status %s"):format(tostring(status)), process)
    process:stop()
    return nil
  end
  return figures
end

--- The ratios of one figure of two servers, round by round.
function Run:ratio(all, name, base, field)
  return all[name] and all[base] and report.ratios(all[name], all[base], field, self.plan.rounds)
end

function Run:addBar(text, value, relation, limit)
  self.bars[#self.bars + 1] = report.bar(text, value, relation, limit)
end

--- Prints the bars, and how many rounds are disturbed.
function Run:printBars(title)
  print("\n" .. title)
  report.bars(self.bars)
  if self.disturbed > 0 then
    print(("\n%d of %d rounds are disturbed: the hypervisor took more than %g %% of the CPU time")
      :format(self.disturbed, self.rounds, STOLEN * 100))
  end
end

--- Writes every figure to a file.
function Run:writeJson(path, more)
  local file, why = io.open(path, "w")
  if not file then
    self:failed("--json", why)
    return
  end
  local all = { machine = self.machine, plan = self.plan, cases = self.results, bars = self.bars,
    rounds = self.rounds, disturbed = self.disturbed, failures = self.failures }
  for key, value in pairs(more) do
    all[key] = value
  end
  file:write(report.json(all), "\n")
  file:close()
end

--- Runs `f` with a fresh folder, writes the figures where they are wanted, and ends the process.
function Run:main(f, json, more)
  local began = proc.now()
  self.folder = proc.tempFolder()
  proc.setenv("XDG_RUNTIME_DIR", self.folder)
  local ok, message = xpcall(f, debug.traceback)
  os.execute("rm -rf -- '" .. self.folder .. "'")
  if not ok then
    self:failed(self.name, message)
  end
  if json then
    self:writeJson(json, more)
  end
  print(("\n%d failures, %.0f s"):format(#self.failures, proc.now() - began))
  os.exit(#self.failures == 0 and 0 or 1)
end

return Run
