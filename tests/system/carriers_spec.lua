-- Real transports: what each kind does, and the fakes of skald.testing do too (tests/unit/carriers_spec.lua).

local host = require "support.host"

-- It describes as if it stood here.
local carriers = setfenv(assert(loadfile "tests/support/carriers.lua"), getfenv(1))()

local function overTcp(text)
  return host.serve(text)
end

local function overUnix(text)
  return host.serve(text, { ("listen=unix:%s/carrier.sock"):format(host.folder()) })
end

local function wrapped(text)
  return host.serve(carriers.wrapped(text))
end

local rows = {
  { name = "tcp", serve = overTcp, address = "^tcp:127%.0%.0%.1:%d+$" },
  { name = "tcp with a wrapper", serve = wrapped, address = "^tcp:127%.0%.0%.1:%d+$" },
  { name = "unix", serve = overUnix, address = "^unix:", reset = "eof", resets = false },
}

for _, row in ipairs(rows) do
  carriers.describe(row)
end
