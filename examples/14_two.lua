-- Two services in one process: a script may return a list.
--
--   build/skald run examples/14_two.lua
--   nc 127.0.0.1 7026          shouts what you type
--   nc 127.0.0.1 7027          says how much has been shouted
--
-- Each has a factory and a port of its own. What they share lies in the script, and survives a reload
-- where `service.persist` has it.

local protocol = require "skald.protocol"
local service = require "skald.service"

local shouted = service.persist("shouted", function()
  return { bytes = 0 }
end)

local Shout = protocol.Protocol {}

function Shout:dataReceived(data)
  shouted.bytes = shouted.bytes + #data
  self.transport:write(data:upper())
end

local Report = protocol.Protocol {}

function Report:connectionMade()
  self.transport:write(("%d bytes have been shouted.\n"):format(shouted.bytes))
  self.transport:loseConnection()
end

return {
  { name = "shout", listen = "tcp:127.0.0.1:7026", protocol = Shout },
  { name = "report", listen = "tcp:127.0.0.1:7027", protocol = Report },
}
