-- Datagrams on their way to the protocols of their ports: what has to be quick. The rest of UDP is
-- in skald.datagram.

local address = require "skald.address"
local core = require "skald.core"

local ffi = require "ffi"
local C, pointer = core.C, core.pointer
local toString, newAddress = ffi.string, address.inet

local packets = {
  ports = {}, -- UDP ports (skald.datagram) by their places
}

local ports = packets.ports
local packet = C.skald_datagram(pointer)
local hosts = {} -- texts, as the core numbers them

-- Where the last datagram came from: the core can answer that without being told the address.
local last, lastHost, lastPort = {}, nil, nil

-- An address of its own for each datagram: a script may keep it, and change it.
local function sender()
  local number = packet.host
  if packet.fresh then
    hosts[number] = toString(packet.text)
  end
  local host, port = hosts[number], packet.port
  last = newAddress(packet.six and "UDP6" or "UDP", host, port)
  lastHost, lastPort = host, port
  return last
end

--- Whether that is where the last datagram came from, as it was given.
---@param given any
---@return boolean
function packets.isSender(given)
  return rawequal(given, last) and given.host == lastHost and given.port == lastPort
end

--- A datagram came.
---@param place integer of the port
function packets.received(place)
  local port, from = ports[place], sender() -- whoever hears of it: the core tells each host once
  if port.news then
    port:tellNews()
  end
  local receiver = port.protocol
  local received = receiver.datagramReceived
  if received then
    received(receiver, toString(packet.bytes, packet.length), from, packet.truncated)
  end
end

--- The peer of a connected port has closed its own.
---@param place integer
function packets.refused(place)
  local port = ports[place]
  if port.news then
    port:tellNews()
  end
  local receiver = port.protocol
  local refused = receiver.connectionRefused
  if refused then
    refused(receiver)
  end
end

--- A port is closed.
---@param place integer
function packets.unbound(place)
  local port = ports[place]
  if port then
    port:ended()
  end
end

return packets
