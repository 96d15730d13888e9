-- Events of the core become callbacks of scripts: the only file that spells their names. Each is
-- looked up at each event, so that a protocol may change under a living connection. An error goes
-- up to the core, which logs it once and ends the connection it belongs to.

local class = require "skald.class"
local core = require "skald.core"
local packets = require "skald.packets"
local protocol = require "skald.protocol"
local reason = require "skald.reason"
local timers = require "skald.timers"
local transport = require "skald.transport"
local turn = require "skald.turn"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local UNHEARD = protocol._UNHEARD
local buildByDefault = protocol.Factory.buildProtocol
local producers, transfers = transport.producers, transport.transfers
local newTransport = transport.new

local dispatch = {
  anchors = transport.anchors,
  protocols = {}, -- by place
  connectors = {}, -- of connections that we made, by place
  shaking = {}, -- of these, whose connection is to be encrypted before it counts, by place
  dials = {}, -- what is being connected, by its handle
  ports = {}, -- listeners by their handles
  waiting = nil, -- a function, while somebody waits for connections to end: called at each end
}

local protocols, ports = dispatch.protocols, dispatch.ports
local connectors, dials, shaking = dispatch.connectors, dispatch.dials, dispatch.shaking
local failures = transport.failures
local Transport = getmetatable(newTransport(0))

local function build(factory, carrier)
  if factory.buildProtocol == buildByDefault then
    return buildByDefault(factory)
  end
  local made = factory:buildProtocol(carrier:getPeer())
  if made == nil then
    return nil
  end
  if type(made) ~= "table" then
    error(("buildProtocol gave a %s, not a protocol"):format(type(made)), 0)
  end
  if made.factory == nil then
    made.factory = factory
  end
  return made
end

-- Connects what stands behind a header that has been read; false refuses it.
local function introduce(place, factory, carrier, ready)
  local made = build(factory, carrier)
  if made == nil then
    return false
  end
  protocols[place] = made
  ready(made)
  local connect = made.makeConnection or protocol.Protocol.makeConnection
  connect(made, carrier)
  return true
end

--- A connection was accepted; false refuses it.
function dispatch.accepted(place, handle, listener)
  local carrier, port = newTransport(handle), ports[listener]
  if port.proxied then
    protocols[place] = require("skald.proxied").new(place, port, carrier, introduce)
    C.skald_join(pointer, handle)
    return true
  end
  local made = build(port.factory, carrier)
  if made == nil then
    return false
  end
  protocols[place] = made
  C.skald_join(pointer, handle)
  local connect = made.makeConnection or protocol.Protocol.makeConnection
  connect(made, carrier)
  return true
end

--- A connection that we asked for is there; false refuses it.
function dispatch.connected(place, handle)
  local dial, carrier = dials[handle], newTransport(handle)
  dials[handle] = nil
  local made = dial:build(carrier, build)
  if made == nil then
    return false
  end
  protocols[place] = made
  connectors[place] = dial.connector
  C.skald_join(pointer, handle)
  local secure = dial.endpoint and dial.endpoint.context -- standard input has none
  if secure then
    shaking[place] = dial.connector
    local tls = require "skald.tls"
    local name = tls.expected(dial.endpoint, dial.endpoint)
    C.skald_secure(pointer, handle, secure.handle, name, tls.peerOf(dial.endpoint, name))
  end
  local connect = made.makeConnection or protocol.Protocol.makeConnection
  connect(made, carrier)
  if not secure then
    dial.connector:ready(made)
  end
  return true
end

--- A connection that we asked for could not be made.
function dispatch.unconnected(handle, errno)
  local dial = dials[handle]
  dials[handle] = nil
  dial:failed(errno)
end

local read = C.skald_read(pointer)
local toString = ffi.string

--- A descriptor came, with bytes that follow. Who does not take it, is rid of it.
function dispatch.descriptor(place, fd)
  local receiver = protocols[place]
  local received = receiver.fileDescriptorReceived
  if not received or received(receiver, fd) == UNHEARD then
    C.skald_close_descriptor(fd)
  end
end

--- Bytes came, and lie where the core read them.
function dispatch.data(place, length)
  local receiver = protocols[place]
  local received = receiver.dataReceived
  if received then
    received(receiver, toString(read.bytes, length))
  end
end

--- Many bytes came; the core made a string of them.
function dispatch.large(place, bytes)
  local receiver = protocols[place]
  local received = receiver.dataReceived
  if received then
    received(receiver, bytes)
  end
end

--- TLS: hands are shaken, and from now on what comes and goes is encrypted.
function dispatch.secured(place)
  local receiver, connector = protocols[place], shaking[place]
  local carrier = receiver.transport
  shaking[place] = nil
  if getmetatable(carrier) == Transport then
    carrier.negotiatedProtocol = require("skald.tls").protocolOf(carrier[1])
  end
  local completed = receiver.handshakeCompleted
  if completed then
    completed(receiver)
  end
  if connector then
    connector:ready(receiver)
  end
end

--- The peer sends no more; false: close, nobody here cares.
function dispatch.ended(place)
  local receiver = protocols[place]
  local ended = receiver.readConnectionLost
  if ended then
    return ended(receiver) ~= UNHEARD
  end
  return false
end

--- What loseWriteConnection asked for is done.
function dispatch.writeClosed(place)
  local receiver = protocols[place]
  local closed = receiver.writeConnectionLost
  if closed then
    closed(receiver)
  end
end

--- There is room for what a producer has.
function dispatch.resume(place)
  local producer = producers[place]
  if producer then
    producer:resumeProducing()
  end
end

--- A part of a file was sent.
function dispatch.sent(place, bytes, errno)
  require("skald.transfers").sent(place, bytes, errno)
end

--- A pipe has ended.
function dispatch.piped(place, bytes, errno)
  require("skald.transfers").piped(place, bytes, errno)
end

--- The code of this connection's factory was reloaded; its next event follows.
function dispatch.reloaded(place)
  local receiver = protocols[place]
  local reloaded = receiver.reloaded
  if reloaded then
    reloaded(receiver)
  end
end

--- A callback of this connection raised; the reason will say so.
function dispatch.failed(place, text)
  failures[place] = text
end

local function stopProducer(place)
  local producer = producers[place]
  if not producer then
    return
  end
  producers[place] = nil
  if producer.stopProducing then
    local ok, text = xpcall(producer.stopProducing, core.traceback, producer)
    if not ok then
      C.skald_log(pointer, 3, text, #text)
    end
  end
end

local function makeReason(code, by, errno, failure, problem)
  local detail, name
  if reason.codes[code] ~= "error" then
    failure = nil -- of a callback that had ended the connection otherwise before it raised
  end
  if failure then
    detail = failure:match "^[^\n]*"
  elseif errno ~= 0 then
    detail, name = core.errorOf(errno)
    detail = problem or detail
  end
  return reason.new(reason.codes[code], reason.parties[by], detail, name, failure)
end

-- The transport knows its addresses to the end, and after it.
local function remember(carrier)
  if getmetatable(carrier) == Transport then
    carrier.disconnecting = true
    carrier:getPeer()
    carrier:getHost()
  end
end

-- First the protocol hears of it, then its factory, whatever the protocol does.
local function loseConnector(place, connector, receiver, why)
  connectors[place] = nil
  if receiver.connectionLost then
    local ok, text = xpcall(receiver.connectionLost, core.traceback, receiver, why)
    if not ok then
      C.skald_log(pointer, 3, text, #text)
    end
  end
  connector:lost(why)
end

--- The connection is over: the last that a protocol hears.
function dispatch.lost(place, code, by, errno, problem)
  local receiver = protocols[place]
  local failure = failures[place]
  protocols[place] = nil
  failures[place], shaking[place] = nil, nil
  if dispatch.waiting then
    dispatch.waiting()
  end
  if not receiver then
    return
  end
  stopProducer(place)
  remember(receiver.transport)
  local lost, connector, mine = receiver.connectionLost, connectors[place], transfers[place]
  local why = (lost or connector or mine) and makeReason(code, by, errno, failure, problem)
  if mine then
    transfers[place] = nil
    require("skald.transfers").lost(mine, why)
  end
  if connector then
    loseConnector(place, connector, receiver, why)
  elseif lost then
    lost(receiver, why)
  end
end

--- A timer is due.
dispatch.timer = timers.due

-- Needed to start and to reload, and not in between: what is not there need not be collected around.
local seldom = { "skald.launch", "skald.reload", "skald.entries", "skald.refusal", "skald.report", "skald.check",
  "skald.factories", "skald.remote" }

--- What is needed seldom is forgotten, until somebody requires it again.
function dispatch.forget()
  for _, name in ipairs(seldom) do
    package.loaded[name] = nil
  end
end

--- Starts a command of the program with its words and options; the exit status.
function dispatch.start(command, words, options)
  return require("skald.launch").start(command, words, options)
end

--- Files changed that are under watch.
function dispatch.changed()
  require("skald.folders").changed()
end

--- SIGHUP.
function dispatch.hangup()
  require("skald.jobs").hangup()
end

--- The turn of the loop is over.
dispatch.turned = turn.ended

--- A listener that was to finish has closed.
function dispatch.unlistened(handle)
  local listener = ports[handle]
  if listener then
    listener:ended()
  end
end

--- Of UDP ports.
dispatch.datagram, dispatch.refused, dispatch.unbound = packets.received, packets.refused, packets.unbound

--- A family of a look-up has ended.
function dispatch.resolved(handle, family, code)
  require("skald.resolver").resolved(handle, family, code)
end

--- What was asked of a file has ended.
function dispatch.filed(job, errno)
  require("skald.files").filed(job, errno)
end

--- A process that we started has ended.
function dispatch.exited(handle, status, signal)
  require("skald.process").exited(handle, status, signal)
end

--- The loop is about to run.
function dispatch.running()
  require("skald.program").running()
  dispatch.forget()
end

--- The host is to stop.
function dispatch.stopping()
  require("skald.program").stopping()
end

--- The last connection is gone; false: the host ends later, when C.skald_finish is called.
function dispatch.stopped()
  return require("skald.program").stopped()
end

require("skald.guard").install()

--- A group: a factory's connections, as the core counts them.
---@class Group: Object
---@field handle number of the core
local Group = class.root "Group"

function Group:init()
  self.handle = C.skald_group_new(pointer)
  self.applied = {} -- bounds, by their names
  self.guard = newproxy(true)
  local handle = self.handle
  getmetatable(self.guard).__gc = function()
    C.skald_group_release(pointer, handle)
  end
end

--- Whether there was room for it.
function Group:isOpen()
  return self.handle ~= 0
end

function Group:count()
  return C.skald_group_count(pointer, self.handle)
end

-- What a connection is known by: not before its header has been read, where it is to begin with one.
local function protocolOf(handle)
  local found = C.skald_is_open(pointer, handle) and protocols[core.place(handle)] or nil
  return found and getmetatable(found) ~= dispatch.Proxied and found or nil
end

--- The live protocols of now; those that end meanwhile are left out.
function Group:each()
  local count = self:count()
  local handles = ffi.new("double[?]", count)
  count = C.skald_group_members(pointer, self.handle, handles, count)
  local i = -1
  return function()
    local found
    repeat
      i = i + 1
      found = i < count and protocolOf(handles[i]) or nil
    until found or i >= count
    return found
  end
end

local boundIndex = {}
for index, name in ipairs(protocol.bounds) do
  boundIndex[name] = index - 1
end

function Group:setBound(name, value)
  self.applied[name] = value
  C.skald_group_set_bound(pointer, self.handle, boundIndex[name], value)
end

dispatch.Group = Group

return dispatch
