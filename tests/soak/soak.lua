-- soak.lua - what takes minutes: a host under load that is reloaded hundreds and thousands of times.
-- Run from the root of the project: luajit tests/soak/soak.lua [--short] [--jit=…] [PART …]
-- Prints a table for each part and exits with 1 if a bar is missed.
package.path = "tests/?.lua;tests/support/?.lua;scripts/?.lua;" .. package.path

local host = require "support.host"
local parts = require "soak.parts"
local report = require "bench.report"
local sys = require "support.sys"

local function usage(message)
  io.stderr:write("soak: ", message, "\nusage: luajit tests/soak/soak.lua [--short] [--jit=…] [PART …]; parts: ",
    table.concat(parts.order, " "), "\n")
  os.exit(2)
end

local function parse(words)
  local short, chosen = false, {}
  for _, word in ipairs(words) do
    if word == "--short" then
      short = true
    elseif word:find "^%-%-jit=" then
      parts.options[#parts.options + 1] = word
    elseif parts[word] and type(parts[word]) == "table" and parts[word].run then
      chosen[#chosen + 1] = word
    else
      usage("what is '" .. word .. "'?")
    end
  end
  return short, #chosen > 0 and chosen or parts.order
end

local function show(value)
  if value == nil then
    return "-"
  end
  return value % 1 == 0 and ("%d"):format(value) or ("%.3f"):format(value)
end

local function verdict(entry)
  if entry.met == nil then
    return ""
  end
  return entry.met and "met" or "NOT MET"
end

local function printBars(bars)
  local rows = { { "", "seen", "asked", "" } }
  for _, entry in ipairs(bars) do
    local asked = entry.limit and entry.relation .. " " .. show(entry.limit) or ""
    rows[#rows + 1] = { entry.text, show(entry.value), asked, verdict(entry) }
  end
  report.table(rows)
end

-- One part, its hosts stopped at its end; true if every bar is met.
local function run(name, short)
  local began = sys.now()
  print(parts[name].title)
  local ok, bars, missed = pcall(parts.run, name, short)
  local clean, trouble = pcall(host.cleanup)
  if ok then
    printBars(bars)
  end
  local text = not ok and tostring(bars) or not clean and tostring(trouble) or missed
  if text ~= "" then
    print(text)
  end
  print(("  %.1f s\n"):format(sys.now() - began))
  io.flush()
  return text == ""
end

local function main(...)
  local short, chosen = parse { ... }
  local failed = 0
  for _, name in ipairs(chosen) do
    failed = failed + (run(name, short) and 0 or 1)
  end
  print(("%d parts, %d failed"):format(#chosen, failed))
  return failed == 0 and 0 or 1
end

os.exit(main(...))
