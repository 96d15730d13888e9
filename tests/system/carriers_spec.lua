-- Real transports: what each kind does, and the fakes of skald.testing do too (tests/unit/carriers_spec.lua).

local certificates = require "support.certificates"
local host = require "support.host"
local client = require "support.client"
local sys = require "support.sys"

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

-- The peers speak TCP to a forwarder, and that TLS to the service.
local function overTls(text)
  local own = certificates.selfSigned("localhost", { "127.0.0.1" })
  local service = host.serve(text, {
    "listen=" .. certificates.endpoint(own), options = { ("--control=%s/service"):format(host.folder()) },
  })
  local forwarder = host.run {
    "portforward", "listen=tcp:127.0.0.1:0",
    ("connect=tls:127.0.0.1:%d:trust=%s"):format(service.port, own.certificate),
  }
  return {
    connect = function()
      return forwarder:connect()
    end,
    line = function()
      return service:line()
    end,
  }
end

-- Each connection is a process, which relays it to a socket that the test connects to.
local RELAYED = [[
  local endpoints = require "skald.endpoints"
  local Control = {}
  function Control:dataReceived(path)
    endpoints.clientFromString("process:socat:-t:1000:-,shut-close:UNIX-LISTEN\\:" .. path):connect(service())
    self.transport:write "started\n"
  end
  return { name = "control", listen = "tcp:127.0.0.1:0", protocol = Control }
]]

local function overProcesses(text)
  local h = host.serve("local definition local function service() if not definition then definition = (function() " .. text
    .. "\nend)() end return definition end " .. RELAYED)
  local control, n = h:connect(), 0
  return {
    connect = function(_, options)
      n = n + 1
      local path = ("%s/relay%d.sock"):format(host.folder(), n)
      assert.equal("started", control:send(path):line())
      return sys.await(function()
        local ok, peer = pcall(client.unix, path, options)
        return ok and peer
      end, function()
        return h:story "the relay does not listen"
      end)
    end,
    line = function(_, ...)
      return h:line(...)
    end,
  }
end

local rows = {
  { name = "a process", serve = overProcesses, address = "^process:socat$", reset = "eof", resets = false },
  { name = "tcp", serve = overTcp, address = "^tcp:127%.0%.0%.1:%d+$" },
  { name = "tcp with a wrapper", serve = wrapped, address = "^tcp:127%.0%.0%.1:%d+$" },
  { name = "unix", serve = overUnix, address = "^unix:", reset = "eof", resets = false },
  -- before the handshake there is no orderly end, and the forwarder passes that on
  { name = "tls", serve = overTls, address = "^tcp:127%.0%.0%.1:%d+$", resets = false, early = "ECONNRESET" },
}

for _, row in ipairs(rows) do
  carriers.describe(row)
end
