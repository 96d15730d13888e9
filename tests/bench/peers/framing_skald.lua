-- The receivers, without a socket: a script of the host (options count=N cases="NAME ..."), and a program
-- of plain luajit (the same as words: N, then the cases). Prints "case: nanoseconds of CPU for one message".
--
-- A case is KIND-SIZE: messages of that size, 64 KiB at once; or bytes-SIZE: one line of that size, byte by
-- byte, and the cost of one byte.

local options = ...
local inHost = type(options) == "table"

if not inHost then
  package.path = "scripts/?.lua;" .. package.path
end

local basic = require "skald.basic"

local CHUNK = 65536

local function lineOf(size)
  return ("x"):rep(size) .. "\r\n"
end

local kinds = {
  line = { "LineReceiver", lineOf },
  lineonly = { "LineOnlyReceiver", lineOf },
  netstring = { "NetstringReceiver", function(size)
    return size .. ":" .. ("x"):rep(size) .. ","
  end },
  int32 = { "Int32StringReceiver", function(size)
    return string.char(0, 0, math.floor(size / 256), size % 256) .. ("x"):rep(size)
  end },
  varint = { "VarintStringReceiver", function(size)
    return string.char(size) .. ("x"):rep(size)
  end },
}

local transport = { disconnecting = false }

function transport.loseConnection()
  error "a receiver closed"
end

-- A class for each kind, as a service has its own.
for _, kind in pairs(kinds) do
  local receiver = basic[kind[1]] { seen = 0 }
  function receiver:lineReceived()
    self.seen = self.seen + 1
  end
  receiver.stringReceived = receiver.lineReceived
  kind[1] = receiver
end

local function feed(kind, pieces, times)
  local receiver = kind[1]:new()
  receiver.MAX_LENGTH = 99999
  receiver:makeConnection(transport)
  for _ = 1, times do
    for i = 1, #pieces do
      receiver:dataReceived(pieces[i])
    end
  end
  return receiver.seen
end

local function piecesOf(data, size)
  local pieces = {}
  for at = 1, #data, size do
    pieces[#pieces + 1] = data:sub(at, at + size - 1)
  end
  return pieces
end

-- The kind, what is fed to it, and of how many units that consists.
local function prepare(name, size)
  if name == "bytes" then
    local line = lineOf(size)
    return kinds.line, piecesOf(line, 1), #line
  end
  local message = kinds[name][2](size)
  local count = math.floor(CHUNK / #message)
  return kinds[name], { message:rep(count) }, count
end

local function measure(case, count)
  local name, size = case:match "^(%l+%d*)-(%d+)$"
  local kind, pieces, units = prepare(name, tonumber(size))
  local times = math.max(1, math.floor(count / units))
  feed(kind, pieces, math.max(2, math.floor(times / 10)))
  collectgarbage()
  collectgarbage()
  local began = os.clock()
  local seen = feed(kind, pieces, times)
  local spent = os.clock() - began
  assert(seen == (name == "bytes" and times or units * times), "messages are missing")
  return spent / (times * units) * 1e9
end

local function run(count, cases)
  for case in cases:gmatch "%S+" do
    io.write(("%s: %.2f\n"):format(case, measure(case, count)))
    io.flush()
  end
end

if inHost then
  local reactor = require "skald.reactor"
  reactor.callWhenRunning(function()
    run(tonumber(options.count), options.cases)
    reactor.stop()
  end)
else
  run(tonumber(options), table.concat({ select(2, ...) }, " "))
end
