-- The name server of the tests (dnsserver.lua), started, asked and told.

local client = require "support.client"
local process = require "support.process"

local Server = {}
Server.__index = Server

local dns = {}

--- Starts one with rules such as `"both.test=192.0.2.1,2001:db8::1"`. `env` of it is for the host that is to ask it.
--- It is ended with the other processes of the test.
function dns.start(rules)
  local p = process.start { "luajit", "tests/support/dnsserver.lua", unpack(rules) }
  local port, control = p:line "^listening (%d+) (%d+)$"
  return setmetatable({
    process = p,
    port = tonumber(port),
    control = tonumber(control),
    env = { SKALD_RESOLVER = "127.0.0.1:" .. port, LOCALDOMAIN = "", HOSTALIASES = false, RES_OPTIONS = false },
  }, Server)
end

--- Waits for the next question that matches: `NAME A|AAAA udp|tcp`.
function Server:asked(pattern)
  return self.process:line("^query " .. pattern)
end

--- All questions so far, a list of `{ name =, kind =, carrier =, port = }`.
function Server:questions()
  local list = {}
  for name, kind, carrier, port in self.process:output():gmatch "query (%S+) (%S+) (%S+) (%d+)\n" do
    list[#list + 1] = { name = name, kind = kind, carrier = carrier, port = tonumber(port) }
  end
  return list
end

--- Lets what is held of a name leave (`all`: of every name).
function Server:release(name)
  self.hand = self.hand or client.tcp(self.control)
  self.hand:send("release " .. name .. "\n")
end

return dns
