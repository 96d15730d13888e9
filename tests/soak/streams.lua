-- A part of the soak: stream handlers whose peers are slow. Half of them send a byte now and then, half never read;
-- each handler has deadlines to keep. An echo goes on beside them: how long it takes says what the others cost.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

local TICK = 0.01 -- seconds between two echoes

-- "slow" waits for a line that never comes, "mute" writes what nobody reads, "?" is answered with what they have seen.
local SERVICE = [[
local reactor = require "skald.reactor"
local stream = require "skald.stream"

local PERIOD, LATE, CHUNK = %g, %g, ("x"):rep(16384)
local seen = { kept = 0, missed = 0, longest = 0, most = 0 }
local P = stream.StreamProtocol {}

local function note(code, due)
  local late = reactor.seconds() - due
  local kept = code == "ETIMEDOUT" and late >= 0 and late < LATE
  seen[kept and "kept" or "missed"] = seen[kept and "kept" or "missed"] + 1
  seen.longest = math.max(seen.longest, late)
end

-- Does `f()` until it fails, for each deadline; until the connection ends.
local function untilDeadlines(s, f)
  local ok, _, code
  repeat
    s:setDeadline(PERIOD)
    local due = reactor.seconds() + PERIOD
    repeat
      ok, _, code = f()
    until not ok
    if code ~= "ETIMEDOUT" then
      return
    end
    note(code, due)
  until s.over
end

local kinds = {}

function kinds.slow(_, s)
  untilDeadlines(s, function()
    return s:readLine()
  end)
end

function kinds.mute(self, s)
  untilDeadlines(s, function()
    local ok, message, code = s:write(CHUNK)
    seen.most = math.max(seen.most, self.transport:bufferedAmount())
    return ok, message, code
  end)
end

function P:handle(s)
  local line = s:readLine()
  if kinds[line] then
    return kinds[line](self, s)
  end
  while line do
    if line == "?" then
      line = ("%%d %%d %%.3f %%d"):format(seen.kept, seen.missed, seen.longest * 1000, seen.most)
      seen.longest = 0
    elseif line == "count" then
      line = tostring(self.factory:connectionCount())
    end
    s:write(line .. "\n")
    line = s:readLine()
  end
end

return { listen = "tcp:127.0.0.1:0", protocol = P, backlog = 4096 }
]]

local function seen(bars, text, value)
  bars[#bars + 1] = { text = text, value = value }
end

-- Without a limit it is only shown.
local function atMost(bars, text, value, limit)
  local met
  if limit then
    met = value <= limit
  end
  bars[#bars + 1] = { text = text, value = value, relation = "<=", limit = limit, met = met }
end

local function countOf(c)
  return tonumber(c:send("count\n"):line())
end

-- Waits until the host has so many connections.
local function awaitCount(h, c, count)
  sys.await(function()
    return countOf(c) == count
  end, function()
    return h:story(("there are %d connections, not %d"):format(countOf(c), count))
  end)
  return count
end

-- Connects so many, each of which says what it is; a few at a time, since the kernel takes megabytes for each that
-- never reads.
local function start(h, c, count, kind)
  local list, before = {}, countOf(c)
  for i = 1, count do
    list[i] = h:connect({ rcvbuf = kind == "mute" and 4096 or nil }):send(kind .. "\n")
    if i % 50 == 0 or i == count then
      awaitCount(h, c, before + i)
    end
  end
  return list
end

-- Microseconds of one echo.
local function echo(c)
  local began = sys.now()
  c:send "how long\n"
  c:line()
  return (sys.now() - began) * 1e6
end

-- For so many seconds an echo each tick, and each of `slow` sends a byte each `every` seconds; the times of the echoes.
local function run(c, seconds, slow, every)
  local times, at = {}, 0
  local began = sys.now()
  local share = #slow * TICK / every
  for tick = 1, seconds / TICK do
    while at < tick * share do
      slow[at % #slow + 1]:send "x"
      at = at + 1
    end
    times[#times + 1] = echo(c)
    sys.pass(began + tick * TICK - sys.now())
  end
  table.sort(times)
  return times
end

local function quantile(times, part)
  return times[math.ceil(#times * part)]
end

local function showTimes(bars, when, times)
  seen(bars, ("echo %s, us: median"):format(when), quantile(times, 0.5))
  seen(bars, ("echo %s, us: 99 of 100"):format(when), quantile(times, 0.99))
  seen(bars, ("echo %s, us: longest"):format(when), times[#times])
end

-- KB of Lua and resident bytes, after a full collection.
local function memoryOf(h)
  h:kill "USR1"
  local lua = h:waitLog("alive: .-(%d+) KB of Lua")
  return { lua = tonumber(lua), resident = h:memory() / 1024 }
end

local function ask(c)
  local kept, missed, longest, most = c:send("?\n"):line():match "^(%d+) (%d+) (%S+) (%d+)$"
  return { kept = tonumber(kept), missed = tonumber(missed), longest = tonumber(longest), most = tonumber(most) }
end

-- What they have seen once that many deadlines were kept, for which they have `seconds` more.
local function awaitKept(h, c, wanted, seconds)
  local after
  sys.await(function()
    after = ask(c)
    return after.kept + after.missed >= wanted
  end, function()
    return h:story(("%d deadlines were kept, not %d"):format(after.kept, wanted))
  end, seconds)
  return after
end

local streams = {
  title = "streams: handlers whose peers send slowly or never read",
  -- late: seconds after which a deadline counts as missed
  long = { conns = 1000, seconds = 10, period = 1, every = 0.1, late = 0.1, grown = 256 },
  short = { conns = 100, seconds = 1, period = 0.2, every = 0.02, late = 60 },
}

function streams.run(plan)
  local bars, half = {}, plan.conns / 2
  local h = host.serve(SERVICE:format(plan.period, plan.late))
  local c = h:connect()
  showTimes(bars, "alone", run(c, plan.seconds / 5, {}, 1))
  local empty = memoryOf(h)
  local slow, mute = start(h, c, half, "slow"), start(h, c, half, "mute")
  seen(bars, "connections", countOf(c))
  run(c, plan.period * 3, slow, plan.every)
  local full, before = memoryOf(h), ask(c)
  local times = run(c, plan.seconds, slow, plan.every)
  local wanted = math.floor(plan.conns * (plan.seconds / plan.period - 1))
  local after = awaitKept(h, c, before.kept + wanted, plan.late)
  local at = h:memory() / 1024
  local last = memoryOf(h)
  showTimes(bars, "beside them", times)
  seen(bars, "KB resident of one connection", (full.resident - empty.resident) / plan.conns)
  seen(bars, "KB of Lua of one connection", (full.lua - empty.lua) / plan.conns)
  atMost(bars, "KB of Lua grown since all of them wait", last.lua - full.lua, plan.grown)
  -- between collections the heap may double, and more while one goes on
  atMost(bars, "KB resident grown", at - full.resident, plan.grown and 2 * full.lua)
  atMost(bars, "bytes waiting to be sent, most of one connection", after.most, 65536 + 16384)
  seen(bars, "deadlines kept", after.kept - before.kept)
  atMost(bars, "deadlines that did not come", math.max(0, wanted - (after.kept - before.kept)), 0)
  atMost(bars, "deadlines missed", after.missed - before.missed, 0)
  seen(bars, "latest of them, ms", after.longest)
  for _, list in ipairs { slow, mute } do
    for _, other in ipairs(list) do
      other:reset()
    end
  end
  seen(bars, "connections afterwards, with the one that asks", awaitCount(h, c, 1))
  h:stop()
  return bars
end

return streams
