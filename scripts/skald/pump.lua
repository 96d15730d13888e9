-- Two protocols and the network between them, which moves when it is told to. Pure.

local class = require "skald.class"
local stringtransport = require "skald.stringtransport"

local WINDOW = 65536 -- bytes on their way in one direction
local MOST = 200000 -- steps to come to rest

-- The transport of one side. Here what runs code of another connection may say that it failed.
local Side = stringtransport.StringTransport {}

--- Ends the connection because code of its protocol failed.
---@param text string
function Side:fail(text)
  self._fake:fail { raised = text, text = text }
end

--- Joins two protocols. What one writes the other gets, when `step` or `flush` is called.
---@class Pump
---@field server Protocol? nil where its factory refused
---@field client Protocol?
---@field cut integer|fun(): integer the most bytes of a piece; may be changed
local Pump = class.root "Pump"

local function makeSide(pump, options, other)
  local transport = Side:new(options)
  local carrier = transport._fake
  carrier.linked, carrier.errors = pump, pump.errors
  if other then
    carrier.input, other.input = other.output, carrier.output
  end
  return carrier
end

--- Called by `:new(options)`.
---@param options PumpOptions?
function Pump:init(options)
  options = options or {}
  local window, host, peer = options.window or WINDOW, options.host, options.peer
  self.cut, self.onError, self.errors = options.cut or math.huge, options.onError, {}
  local here = makeSide(self, { window = window, host = host, peer = peer })
  local there = here.transport
  self.sides = { here, makeSide(self, { window = window, host = there.peer, peer = there.host }, here) }
end

--- Connects both sides: each gets a protocol, or the one that a factory makes.
---@param server Protocol|Factory
---@param client Protocol|Factory
function Pump:join(server, client)
  self.server = self.sides[1]:join(server)
  self.client = self.sides[2]:join(client)
end

-- What callbacks have raised.
local function report(self)
  local onError = self.onError
  if not onError then
    stringtransport.raise(self.errors)
  end
  while self.errors[1] do
    onError(table.remove(self.errors, 1).text)
  end
end

local function needRest(self, name)
  for _, carrier in ipairs(self.sides) do
    if carrier.within > 0 then
      error(("%s: a callback is running"):format(name), 3)
    end
  end
end

local function isCut(value)
  return type(value) == "number" and value >= 1 and (value == math.huge or value % 1 == 0)
end

-- The most bytes of the next piece.
local function nextCut(self)
  local cut = self.cut
  if type(cut) == "function" then
    cut = cut()
  end
  if not isCut(cut) then
    error(("the cut is a number of bytes from 1, not %s"):format(tostring(cut)), 0)
  end
  return cut
end

local function move(self)
  local any = false
  for _, carrier in ipairs(self.sides) do
    any = carrier:turn(nextCut(self)) or any
  end
  return any
end

--- One turn for each side: it gets one piece of what was sent, or the end of it. What a callback raises
--- ends its connection, and comes out of here.
---@return boolean moved whether there was anything
function Pump:step()
  needRest(self, "step")
  local any = move(self)
  report(self)
  return any
end

--- Steps until nothing moves any more.
function Pump:flush()
  needRest(self, "flush")
  local steps = 0
  while move(self) do
    steps = steps + 1
    if steps == MOST then
      error(("flush: the two do not come to rest in %d steps"):format(MOST), 2)
    end
  end
  report(self)
end

--- The network breaks: what is on its way is gone, and both sides hear at the next step that the
--- connection was lost.
function Pump:reset()
  for _, carrier in ipairs(self.sides) do
    carrier.input:clear()
    carrier:finish("broken", "lost", "peer", "ECONNRESET", "Connection reset by peer")
  end
end

local pump = { Pump = Pump }

local known = { cut = true, window = true, host = true, peer = true, onError = true }

--- Raises where options of a pump are not right.
---@param name string who takes them
---@param options any
---@param level integer of the one to blame; 2 is the caller of the caller
function pump.need(name, options, level)
  if options ~= nil and type(options) ~= "table" then
    error(("%s takes its options as a table, not a %s"):format(name, type(options)), level + 1)
  end
  for key in pairs(options or {}) do
    if not known[key] then
      error(("%s knows no option '%s'"):format(name, tostring(key)), level + 1)
    end
  end
  local cut = options and options.cut
  if cut ~= nil and type(cut) ~= "function" and not isCut(cut) then
    error(("%s: cut is a number of bytes from 1, not %s"):format(name, tostring(cut)), level + 1)
  end
end

--- Raises where a value is no side of a connection.
---@param name string who takes it
---@param value any
---@param level integer of the one to blame; 2 is the caller of the caller
function pump.needSide(name, value, level)
  if type(value) ~= "table" or class.is(value) then
    error(("%s takes protocols or factories: instances, not %s"):format(name,
      class.is(value) and "classes" or "a " .. type(value)), level + 1)
  end
end

--- How a pump joins two protocols.
---@class PumpOptions
---@field cut? integer|fun(): integer the most bytes of a piece, or a function that gives that for each
---@field window? integer so many bytes may be on their way (65536)
---@field host? table the address of the server
---@field peer? table the address of the client
---@field onError? fun(text: string) is given what callbacks raise, which is raised where there is none

--- Connects two protocols, without a network. Each may be a factory too, whose buildProtocol makes it.
---@param server Protocol|Factory
---@param client Protocol|Factory
---@param options? integer|fun(): integer|PumpOptions the cut alone, or a table
---@return Pump
function pump.connect(server, client, options)
  pump.needSide("connect", server, 2)
  pump.needSide("connect", client, 2)
  if type(options) == "number" or type(options) == "function" then
    options = { cut = options }
  end
  pump.need("connect", options, 2)
  local made = Pump:new(options)
  made:join(server, client)
  return made
end

return pump
