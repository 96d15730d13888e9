-- skald.testing: what tests of protocols need, inside the host and outside. Pure.

local cuts = require "skald.cuts"
local protocol = require "skald.protocol"
local pump = require "skald.pump"
local scriptfile = require "skald.scriptfile"
local stringtransport = require "skald.stringtransport"

local testing = {
  StringTransport = stringtransport.StringTransport,
  Clock = require "skald.clock",
  MemoryReactor = require "skald.memoryreactor",
  attach = stringtransport.attach,
  feed = stringtransport.feed,
  finish = stringtransport.finish,
  lose = stringtransport.lose,
  turn = stringtransport.turn,
  connect = pump.connect,
  load = scriptfile.load,
  chunks = cuts.chunks,
  everyCut = cuts.everyCut,
}

--- Keeps what comes: for the other side of what is tested.
---@class AccumulatingProtocol: Protocol
---@field made boolean connectionMade was called
---@field data string all that came
---@field reason Reason? of connectionLost
local AccumulatingProtocol = protocol.Protocol { made = false, data = "" }

function AccumulatingProtocol:connectionMade()
  self.made = true
end

function AccumulatingProtocol:dataReceived(data)
  self.data = self.data .. data
end

function AccumulatingProtocol:connectionLost(reason)
  self.reason = reason
end

testing.AccumulatingProtocol = AccumulatingProtocol

local function withinHost(name)
  local ok, spec = pcall(require, "skald.spec")
  return ok and spec or error(("testing.%s is there under `skald test`, not outside a host"):format(name), 3)
end

--- Serves a script within the host that runs the test (`skald test`), until that test, or the block, has
--- ended.
---@param file string
---@param options table<string, string>? its `key=value` words, such as `{ listen = "tcp:127.0.0.1:0" }`
---@return Served
function testing.serve(file, options)
  return withinHost("serve").serve(file, options)
end

--- The errors that were logged since the test began: they fail it no more (`skald test`).
---@param pattern string? a Lua pattern: only those that match
---@return string[]
function testing.flushLoggedErrors(pattern)
  return withinHost("flushLoggedErrors").flushLoggedErrors(pattern)
end

return testing
