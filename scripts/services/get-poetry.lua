-- Fetches poems, prints each, and ends the host: with 0, or with 1 where something failed.
--   skald run get-poetry poems=127.0.0.1:7001,127.0.0.1:7002 style=coroutine
-- poems=      where from, with commas between: HOST:PORT, [::1]:PORT, PORT, unix:PATH
-- style=      the same in five ways: callback, deferred (the default), chain, coroutine, list
-- transform=  HOST:PORT of the service that changes the poems of style=chain

local basic = require "skald.basic"
local defer = require "skald.defer"
local endpoints = require "skald.endpoints"
local protocol = require "skald.protocol"
local reactor = require "skald.reactor"

local options = ...

-- --- what is asked for ------------------------------------------------------------------------

local function endpointString(word)
  if word:find "^unix:" or word:find "^tcp:.*:" then
    return word
  elseif word:find "^%d+$" then
    return "tcp:127.0.0.1:" .. word
  end
  return "tcp:" .. word
end

local function serverOf(word)
  local name = endpointString(word)
  local server, message = endpoints.parseClient(name)
  if not server then
    error(message, 0)
  end
  server.name = name
  return server
end

local function serversOf(words)
  local servers = {}
  for word in (words or ""):gmatch "[^,]+" do
    servers[#servers + 1] = serverOf(word)
  end
  if #servers == 0 then
    error("poems=HOST:PORT,HOST:PORT is missing: where the poems come from", 0)
  end
  return servers
end

local servers = serversOf(options.poems)
local transformer = options.transform and serverOf(options.transform)

-- --- what becomes of it -----------------------------------------------------------------------

local status = 0 -- of the exit

-- One line on standard error, which names the server.
local function complain(server, problem)
  local text = tostring(problem):match "^[^\n]*"
  if not text:find(server.name, 1, true) then
    text = server.name .. ": " .. text
  end
  io.stderr:write("get-poetry: ", text, "\n")
  status = 1
end

-- The poem as it came, and no line begun behind it.
local function recite(poem)
  io.write(poem, poem:sub(-1) == "\n" and "" or "\n")
end

local function stop()
  reactor.stop(status)
end

-- Gives a function that ends the host when it was called once for each poem.
local function countdown()
  local left = #servers
  return function()
    left = left - 1
    if left == 0 then
      stop()
    end
  end
end

-- --- fetching, for all styles -----------------------------------------------------------------

-- A poem is whole when its server has closed the connection in order, and only then: what came before
-- a reset is no poem. The factory hears of it, one way or the other.
local Poem = protocol.Protocol {}

function Poem:connectionMade()
  self.pieces = {}
end

function Poem:dataReceived(data)
  self.pieces[#self.pieces + 1] = data
end

function Poem:connectionLost(reason)
  local poem = table.concat(self.pieces)
  if reason.code ~= "done" then
    self.factory:poemFailed(reason)
  elseif poem == "" then
    self.factory:poemFailed "the connection was closed without a poem"
  else
    self.factory:poemCame(poem)
  end
end

local PoemFactory = protocol.ClientFactory { protocol = Poem }

function PoemFactory:clientConnectionFailed(_, reason)
  self:poemFailed(reason)
end

local function connect(server, factory)
  if server.path then
    reactor.connectUNIX(server.path, factory)
  else
    reactor.connectTCP(server.host, server.port, factory)
  end
end

local styles = {}

-- --- callback: whoever asks hands in two functions --------------------------------------------

local CallbackFactory = PoemFactory {}

function CallbackFactory:init(onPoem, onFailure)
  self.onPoem, self.onFailure = onPoem, onFailure
end

function CallbackFactory:poemCame(poem)
  self.onPoem(poem)
end

function CallbackFactory:poemFailed(problem)
  self.onFailure(problem)
end

function styles.callback()
  local done = countdown()
  for _, server in ipairs(servers) do
    local function onPoem(poem)
      recite(poem)
      done()
    end
    local function onFailure(problem)
      complain(server, problem)
      done()
    end
    connect(server, CallbackFactory:new(onPoem, onFailure))
  end
end

-- --- deferred: whoever asks gets an object that the functions are added to --------------------

local DeferredFactory = PoemFactory {}

function DeferredFactory:init()
  self.poem = defer.Deferred:new()
end

function DeferredFactory:poemCame(poem)
  self.poem:callback(poem)
end

function DeferredFactory:poemFailed(problem)
  self.poem:errback(problem)
end

-- A Deferred of the poem.
local function getPoem(server)
  local factory = DeferredFactory:new()
  connect(server, factory)
  return factory.poem
end

function styles.deferred()
  local done = countdown()
  for _, server in ipairs(servers) do
    local poem = getPoem(server)
    poem:addCallbacks(recite, function(failure)
      complain(server, failure)
    end)
    poem:addBoth(done)
  end
end

-- --- chain: a callback may give a Deferred, and the chain waits for that ----------------------

-- Sends one request to the transform service, and has a Deferred of the answer.
local Transform = basic.NetstringReceiver {}

function Transform:init(name, poem)
  self.request = name .. "." .. poem
  self.answer = defer.Deferred:new()
end

function Transform:connectionMade()
  self:sendString(self.request)
end

function Transform:stringReceived(answer)
  self.answer:callback(answer)
  self.transport:loseConnection()
end

-- After the answer, this is too late to change anything.
function Transform:connectionLost(reason)
  self.answer:errback(reason.code == "done" and "the connection was closed without an answer" or reason)
end

-- A Deferred of the transformed poem; without a service that does it, the poem as it is.
local function cummingsify(poem)
  if not transformer then
    return poem
  end
  local endpoint = endpoints.clientFromString(transformer.name)
  return endpoints.connectProtocol(endpoint, Transform:new("cummingsify", poem)):addCallback(function(made)
    return made.answer
  end)
end

-- Where the service fails, the poem is read as it is.
local function cummingsifyOrNot(poem)
  return defer.maybeDeferred(cummingsify, poem):addErrback(function(failure)
    complain(transformer, failure)
    return poem
  end)
end

function styles.chain()
  local done = countdown()
  for _, server in ipairs(servers) do
    getPoem(server)
      :addCallback(cummingsifyOrNot)
      :addCallback(recite)
      :addErrback(function(failure)
        complain(server, failure)
      end)
      :addBoth(done)
  end
end

-- --- coroutine: written straight down, and errors are caught as errors ------------------------

local async, await = defer.async, defer.await

local fetch = async(function(server)
  local ok, poem = pcall(await, getPoem(server))
  if ok then
    recite(poem)
  else
    complain(server, poem)
  end
end)

styles.coroutine = async(function()
  local all = {}
  for i, server in ipairs(servers) do
    all[i] = fetch(server) -- runs up to its first await: they all wait at the same time
  end
  for _, one in ipairs(all) do
    await(one)
  end
  stop()
end)

-- --- list: all of them at once, in the order they were asked for, and the sum -----------------

function styles.list()
  local started = reactor.seconds()
  local poems = {}
  for i, server in ipairs(servers) do
    poems[i] = getPoem(server)
  end
  defer.DeferredList:new(poems, { consumeErrors = true }):addCallback(function(results)
    local count, bytes = 0, 0
    for i, result in ipairs(results) do
      local ok, poem = result[1], result[2]
      if ok then
        recite(poem)
        count, bytes = count + 1, bytes + #poem
      else
        complain(servers[i], poem)
      end
    end
    print(("%d of %d poems, %d bytes in %.3f s"):format(count, #servers, bytes, reactor.seconds() - started))
    stop()
  end)
end

-- ----------------------------------------------------------------------------------------------

local style = options.style or "deferred"
if not styles[style] then
  error(("style=%s: there are callback, deferred, chain, coroutine, list"):format(style), 0)
end

reactor.callWhenRunning(styles[style])
