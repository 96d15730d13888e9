-- UDP sockets for tests: they wait with a deadline, and tell every datagram from every other.

local socket = require "socket"
local sys = require "support.sys"

local Peer = {}
Peer.__index = Peer

local udp = {}

local function await(self, f, what)
  local list = { { fd = self.socket:getfd(), events = sys.POLLIN } }
  return sys.await(function()
    local result = { f() }
    return result[1] and result
  end, function()
    return "no " .. what
  end, nil, list)
end

--- A socket that talks to that port only.
function udp.connect(port, host)
  host = host or "127.0.0.1"
  local made = host:find(":", 1, true) and socket.udp6() or socket.udp4()
  made:settimeout(0)
  assert(made:setpeername(host, port))
  return setmetatable({ socket = made }, Peer)
end

--- A socket at a port of its own, which talks to whoever it hears of.
function udp.bind(host, port)
  local made = socket.udp4()
  made:settimeout(0)
  assert(made:setsockname(host or "127.0.0.1", port or 0))
  return setmetatable({ socket = made, port = tonumber((select(2, made:getsockname()))) }, Peer)
end

--- Sends a datagram; to an address where the socket is not connected.
function Peer:send(data, host, port)
  if host then
    assert(self.socket:sendto(data, host, port))
  else
    assert(self.socket:send(data))
  end
  return self
end

--- The next datagram; with the host and port that it came from where the socket is not connected.
function Peer:receive()
  if self.port then
    return unpack(await(self, function()
      return self.socket:receivefrom(65535)
    end, "datagram came"))
  end
  return await(self, function()
    return self.socket:receive(65535)
  end, "datagram came")[1]
end

--- Sends, and gives what comes next.
function Peer:ask(data)
  return self:send(data):receive()
end

--- The port it sends from.
function Peer:localPort()
  return tonumber((select(2, self.socket:getsockname())))
end

function Peer:close()
  self.socket:close()
end

return udp
