-- Runs the tests, from the project's root: `luajit tests/run.lua [unit|host|system|jit|asan] [PATTERN]`.
--   unit    tests/unit/*_spec.lua, pure Lua under LuaJIT
--   host    build/asan/tests/*, the C tests
--   system  tests/system/ and tests/regress/ against build/skald
--   asan    the same against build/asan/skald
-- PATTERN (a Lua pattern) picks files by their names. The last line is `N passed, N failed`; the exit status is 0
-- only if nothing failed. Whatever cannot be run counts as failed: an empty suite, a crash, a pending test.

package.path = "tests/?.lua;tests/support/?.lua;scripts/?.lua;" .. package.path

local process = require "support.process"
local sys = process.sys

local LONG = os.getenv "SKALD_LONG" == "1"
local WIDTH = 2 -- files at a time
local FILE_LIMIT = LONG and 1800 or 300 -- seconds for one file
local LUA_PATH = "scripts/?.lua;tests/?.lua;tests/support/?.lua;;"

local passed, failed = 0, 0

local function say(...)
  io.write(string.format(...), "\n")
  io.flush()
end

local function list(command)
  local files = {}
  local pipe = io.popen(command .. " 2>/dev/null")
  for line in pipe:lines() do
    files[#files + 1] = line
  end
  pipe:close()
  table.sort(files)
  return files
end

local function specs(...)
  local files = {}
  for _, folder in ipairs { ... } do
    for _, file in ipairs(list(("find tests/%s -name '*_spec.lua'"):format(folder))) do
      files[#files + 1] = { name = file:match "([^/]+)%.lua$", file = file }
    end
  end
  return files
end

local function bustedCommand(file, env)
  env.LUA_PATH = LUA_PATH
  return { "luajit", "tests/support/runner.lua", "--ignore-lua", "--output=tests/support/report.lua", file, env = env,
    input = "/dev/null" }
end

local suites = {}

function suites.unit()
  local jobs = specs "unit"
  for _, job in ipairs(jobs) do
    job.command = bustedCommand(job.file, {})
    job.marked = true
  end
  return jobs
end

local sanitizers = {
  ASAN_OPTIONS = "detect_leaks=1:abort_on_error=0:exitcode=99:strict_string_checks=1:check_initialization_order=1",
  UBSAN_OPTIONS = "print_stacktrace=1:halt_on_error=1:exitcode=99",
}

function suites.host()
  local jobs = {}
  for _, file in ipairs(list "find build/asan/tests -maxdepth 1 -type f -perm -u+x") do
    local command = { file, env = sanitizers, input = "/dev/null" }
    jobs[#jobs + 1] = { name = file:match "[^/]+$", file = file, command = command }
  end
  return jobs
end

local function systemSuite(binary, env)
  local jobs = specs("system", "regress")
  for _, job in ipairs(jobs) do
    local own = { SKALD = binary }
    for key, value in pairs(env) do
      own[key] = value
    end
    job.command = bustedCommand(job.file, own)
    job.marked = true
  end
  return jobs
end

function suites.system()
  return systemSuite("build/skald", {})
end

function suites.asan()
  local env = { SKALD_DEADLINE = os.getenv "SKALD_DEADLINE" or "40" }
  for key, value in pairs(sanitizers) do
    env[key] = value
  end
  return systemSuite("build/asan/skald", env)
end

-- The reload specs once more: interpreted, and with everything compiled at its first turn.
function suites.jit()
  local jobs = {}
  for _, mode in ipairs { "off", "hotloop=1,hotexit=1" } do
    for _, job in ipairs(systemSuite("build/skald", { SKALD_JIT = mode })) do
      if job.name:find "^reload_" or job.name:find "^soak_" then
        job.name = ("%s %s"):format(job.name, mode:match "%w+")
        jobs[#jobs + 1] = job
      end
    end
  end
  return jobs
end

-- Ends a process that took too long, with everything it started.
local function endTree(pid)
  for _, child in ipairs(list(("cat /proc/%d/task/%d/children"):format(pid, pid))) do
    for number in child:gmatch "%d+" do
      endTree(tonumber(number))
    end
  end
  require("ffi").C.kill(pid, process.signals.KILL)
end

-- Reads `ok - …` and `not ok - …` out of what a job has printed; returns both counts and the text of the failures.
local function judge(job, late)
  local p = job.process
  local good, bad, texts, complete, within = 0, 0, {}, not job.marked, false
  for line in (p:output() .. "\n"):gmatch "([^\n]*)\n" do
    if line:find "^ok" then
      good, within = good + 1, false
    elseif line:find "^not ok" then
      bad, within = bad + 1, true
      texts[#texts + 1] = "  " .. line
    elseif line == "done" and job.marked then
      complete, within = true, false
    elseif within then
      texts[#texts + 1] = "  " .. line
    end
  end
  local trouble
  if late then
    trouble = ("not finished within %d s"):format(FILE_LIMIT)
  elseif type(p.status) == "string" then
    trouble = "ended by " .. p.status
  elseif not complete then
    trouble = ("ended with %d before its last test"):format(p.status)
  elseif p.status ~= 0 and bad == 0 then
    trouble = ("ended with %d"):format(p.status)
  elseif good + bad == 0 then
    trouble = "has no tests"
  end
  if trouble then
    bad = bad + 1
    texts[#texts + 1] = "  " .. p:story(("not ok - %s %s"):format(job.name, trouble)):gsub("\n", "\n  ")
  elseif bad > 0 and #p:errors() > 0 then
    texts[#texts + 1] = "  stderr: " .. p:errors():gsub("\n", "\n  ")
  end
  return good, bad, texts
end

local function finish(job, late)
  local good, bad, texts = judge(job, late)
  passed, failed = passed + good, failed + bad
  say("%-7s %-28s %4d passed %4d failed  %6.1f s", job.suite, job.name, good, bad, sys.now() - job.started)
  if bad > 0 then
    say("%s", table.concat(texts, "\n"))
  end
end

-- True once the job is over and accounted for.
local function over(job)
  if job.process:reap() ~= nil then
    finish(job, false)
    return true
  elseif sys.now() - job.started > FILE_LIMIT then
    endTree(job.process.pid)
    job.process:wait()
    finish(job, true)
    return true
  end
  return false
end

-- WIDTH at a time; a suite begins while the last file of the one before still runs.
local function runAll(jobs)
  local nextJob, live = 1, {}
  while nextJob <= #jobs or #live > 0 do
    while #live < WIDTH and nextJob <= #jobs do
      local job = jobs[nextJob]
      nextJob = nextJob + 1
      job.started = sys.now()
      job.process = process.start(job.command)
      live[#live + 1] = job
    end
    sys.poll({}, 0.02)
    for i = #live, 1, -1 do
      if over(live[i]) then
        table.remove(live, i)
      end
    end
  end
end

-- Adds the jobs of a suite to a list.
local function choose(jobs, name, pattern)
  local before = #jobs
  for _, job in ipairs(suites[name]()) do
    if not pattern or job.name:find(pattern) then
      job.suite = name
      jobs[#jobs + 1] = job
    end
  end
  if #jobs == before then
    failed = failed + 1
    say("%-7s not ok - there are no tests%s", name, pattern and (" that match " .. pattern) or "")
  end
end

local order = { "unit", "host", "system", "jit", "asan" }

local function main(part, pattern)
  if part and not suites[part] then
    io.stderr:write("usage: luajit tests/run.lua [unit|host|system|jit|asan] [PATTERN]\n")
    return 2
  end
  local started, jobs = sys.now(), {}
  for _, name in ipairs(order) do
    if not part or part == name then
      choose(jobs, name, pattern)
    end
  end
  runAll(jobs)
  say("%.0f s", sys.now() - started)
  say("%d passed, %d failed", passed, failed)
  return failed == 0 and 0 or 1
end

os.exit(main(arg[1], arg[2]))
