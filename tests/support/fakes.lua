-- What `support.host` and `support.client` are for real transports, for those of skald.testing: a service that
-- prints lines, and peers that send, and read only what they ask for.

local class = require "skald.class"
local protocol = require "skald.protocol"
local testing = require "skald.testing"

local fakes = {}

local WINDOW = 65536

-- --- a service --------------------------------------------------------------------------------

local Session = {}
Session.__index = Session

local function show(list, ...)
  local texts = {}
  for i = 1, select("#", ...) do
    texts[i] = tostring((select(i, ...)))
  end
  for line in (table.concat(texts, "\t") .. "\n"):gmatch "([^\n]*)\n" do
    list[#list + 1] = line
  end
end

local function factoryOf(text, printed)
  local environment = setmetatable({ print = function(...) show(printed, ...) end }, { __index = _G })
  local chunk = assert(load(text, "@script.lua", "t", environment))
  local definition = chunk()
  return class.of(definition) and definition or class.adopt(definition, protocol.Factory):new()
end

--- Loads a service; `connect(session)` makes its peers.
function fakes.serve(text, connect)
  local self = setmetatable({ printed = {}, peers = {}, log = {}, connectPeer = connect }, Session)
  self.factory = factoryOf(text, self.printed)
  return self
end

--- Lets everything move.
function Session:settle()
  for _ = 1, 2 do -- one connection may write to another
    for _, peer in ipairs(self.peers) do
      peer:move()
    end
  end
end

function Session:connect()
  local peer = self.connectPeer(self)
  table.insert(self.peers, peer)
  self:settle()
  return peer
end

--- The next line that the service has printed.
function Session:line()
  self:settle()
  return table.remove(self.printed, 1) or error("the service has printed nothing more", 2)
end

-- --- peers ------------------------------------------------------------------------------------

local Peer = {}
Peer.__index = Peer

local function newPeer(methods, session)
  return setmetatable({ session = session, buffer = "" }, methods)
end

function Peer:receive(n)
  while #self.buffer < n do
    local data = self:take() or error(("the stream ended after %d of %d bytes"):format(#self.buffer, n), 2)
    self.buffer = self.buffer .. data
  end
  local data = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return data
end

function Peer:line()
  local line = ""
  repeat
    local byte = self:receive(1)
    line = line .. byte
  until byte == "\n"
  return line:sub(1, -2)
end

function Peer:receiveAll()
  local pieces = { self.buffer }
  local data, ending = self:take()
  while data do
    pieces[#pieces + 1] = data
    data, ending = self:take()
  end
  self.buffer = ""
  return table.concat(pieces), ending
end

-- --- through a pump ---------------------------------------------------------------------------

local Piped = setmetatable({}, Peer)
Piped.__index = Piped

local function endingOf(made)
  return made.reason and (made.reason.code == "done" and "eof" or made.reason.errno)
end

function Piped:move()
  self.pump:flush()
end

-- What came; nil and how it ended.
function Piped:take()
  local made = self.made
  made.transport:resumeProducing()
  self.session:settle()
  local data = table.concat(made.pieces)
  made.pieces = {}
  if data ~= "" then
    return data
  end
  return nil, made.half and "eof" or endingOf(made) or error("there is nothing to read", 3)
end

function Piped:send(data)
  self.made.transport:write(data)
  self.session:settle()
  return self
end

function Piped:halfClose()
  self.made.transport:loseWriteConnection()
  self.session:settle()
  return self
end

function Piped:reset()
  self.made.transport:abortConnection()
  self.session:settle()
end

-- It reads when the spec does, and knows the end of its input from its own.
local Slow = protocol.Protocol {}

function Slow:connectionMade()
  self.pieces = {}
  self.transport:pauseProducing()
end

function Slow:dataReceived(data)
  table.insert(self.pieces, data)
end

function Slow:connectionLost(reason)
  self.reason = reason
end

function Slow:readConnectionLost()
  self.half = true
end

--- A service behind pumps: `cut` as for testing.connect.
function fakes.pumped(cut)
  return function(text)
    return fakes.serve(text, function(session)
      local peer = newPeer(Piped, session)
      peer.made = Slow:new()
      peer.pump = testing.connect(session.factory, peer.made, {
        cut = cut,
        window = WINDOW,
        onError = function(problem)
          table.insert(session.log, problem)
        end,
      })
      return peer
    end)
  end
end

-- --- on a StringTransport ---------------------------------------------------------------------

local Fed = setmetatable({}, Peer)
Fed.__index = Fed

function Fed:guard(f, ...)
  local ok, problem = pcall(f, ...)
  if not ok then
    table.insert(self.session.log, problem)
  end
end

function Fed:move()
  if self.made then
    self:guard(testing.turn, self.made)
  end
end

function Fed:take()
  local output = self.transport._fake.output
  self.session:settle()
  local data = output:take(math.huge)
  self.session:settle()
  if data ~= "" then
    return data
  end
  local ending = output.ending
  return nil, ending == "fin" and "eof" or ending == "reset" and "ECONNRESET" or error("there is nothing to read", 3)
end

function Fed:send(data)
  self:guard(testing.feed, self.made, data)
  self.session:settle()
  return self
end

function Fed:halfClose()
  self:guard(testing.finish, self.made)
  self.session:settle()
  return self
end

function Fed:reset()
  self:guard(testing.lose, self.made, "lost")
  self.session:settle()
end

--- A service on StringTransports.
function fakes.fed(text)
  return fakes.serve(text, function(session)
    local peer = newPeer(Fed, session)
    peer.transport = testing.StringTransport:new { window = WINDOW }
    peer:guard(testing.attach, session.factory, peer.transport)
    peer.made = peer.transport._fake.protocol
    return peer
  end)
end

return fakes
