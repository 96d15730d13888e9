-- Poetry at second hand: fetched from another poetry server when somebody asks first, served from
-- memory from then on.
--   skald run poetryproxy listen=tcp:127.0.0.1:7004 connect=tcp:127.0.0.1:7001
-- Those who ask while the poem is on its way wait for the same one; when all of them have left, it is
-- fetched no further. What could not be fetched is not kept: the next one who asks has it tried again.

local defer = require "skald.defer"
local endpoints = require "skald.endpoints"
local log = require "skald.log"
local protocol = require "skald.protocol"

local options = ...

local function endpointString(word)
  if not word:find "^unix:" and not word:find "^tcp:.*:" then
    word = "tcp:" .. word -- HOST:PORT
  end
  local ok, message = endpoints.parseClient(word)
  if not ok then
    error(message, 0)
  end
  return word
end

local from = endpointString(options.connect or "tcp:127.0.0.1:7001")
local upstream = endpoints.clientFromString(from)

-- --- from upstream ----------------------------------------------------------------------------

-- `whole` is a Deferred of the poem, which is whole when upstream has closed in order, and only then.
local Poem = protocol.Protocol {}

function Poem:connectionMade()
  self.pieces = {}
  self.whole = defer.Deferred:new(function()
    self.transport:abortConnection()
  end)
end

function Poem:dataReceived(data)
  self.pieces[#self.pieces + 1] = data
end

-- When it was cancelled, this is too late to change anything.
function Poem:connectionLost(reason)
  local poem = table.concat(self.pieces)
  if reason.code ~= "done" then
    self.whole:errback(reason)
  elseif poem == "" then
    self.whole:errback "upstream closed the connection without a poem"
  else
    self.whole:callback(poem)
  end
end

local poemFactory = protocol.ClientFactory { protocol = Poem }:new()

-- A Deferred of the poem; cancelling it gives up connecting, or ends the connection.
local function fetch()
  return upstream:connect(poemFactory):addCallback(function(poem)
    return poem.whole
  end)
end

-- --- to the clients ---------------------------------------------------------------------------

local Proxy = protocol.Factory {
  listen = "tcp:127.0.0.1:7004",
  state = {}, -- poem: the one that was fetched
}

-- A Deferred of the poem for one client; cancelling it says that the client does not wait any more.
function Proxy:getPoem()
  if self.state.poem then
    return defer.succeed(self.state.poem)
  end
  local d = defer.Deferred:new(function(d)
    self:leave(d)
  end)
  if self.waiting then
    table.insert(self.waiting, d)
  else
    self.waiting = { d }
    self:startFetch()
  end
  return d
end

function Proxy:startFetch()
  self.fetch = fetch()
  self.fetch:addCallbacks(function(poem)
    self.state.poem = poem
    self:answer("callback", poem)
  end, function(failure)
    if not failure:check "CancelledError" then
      log.warning("no poem from %s: %s", from, tostring(failure))
    end
    self:answer("errback", failure)
  end)
end

function Proxy:answer(how, result)
  local waiting = self.waiting
  self.waiting, self.fetch = nil, nil
  for _, d in ipairs(waiting) do
    d[how](d, result)
  end
end

function Proxy:leave(d)
  for i, other in ipairs(self.waiting) do
    if other == d then
      table.remove(self.waiting, i)
      break
    end
  end
  if #self.waiting == 0 then
    self.fetch:cancel()
  end
end

local Reader = protocol.Protocol {}
Proxy.protocol = Reader

function Reader:connectionMade()
  self.poem = self.factory:getPoem()
  self.poem
    :addCallback(function(poem)
      self.transport:write(poem)
    end)
    :addErrback(function() end) -- it was logged for all that waited
    :addBoth(function()
      self.transport:loseConnection()
    end)
end

function Reader:connectionLost()
  self.poem:cancel()
end

return Proxy
