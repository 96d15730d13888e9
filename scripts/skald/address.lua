-- Addresses: `{ type = "TCP", host =, port = }`, TCP6, UDP, UDP6, `{ type = "UNIX", path = }`. tostring
-- gives an endpoint string, and equal addresses are equal.

local address = {}

--- Where a peer is, or we are. `tostring` gives an endpoint string, and equal addresses are equal.
---@class Address
---@field type "TCP"|"TCP6"|"UDP"|"UDP6"|"UNIX"
---@field host string? an IP address, IPv6 as RFC 5952 says
---@field port integer? of all but UNIX
---@field path string? of UNIX; "" for a socket without a name
local Address = {}
Address.__index = Address

local formats = {
  TCP = "tcp:%s:%d",
  TCP6 = "tcp:[%s]:%d",
  UDP = "udp:%s:%d",
  UDP6 = "udp:[%s]:%d",
}

function Address:__tostring()
  if self.type == "UNIX" then
    return "unix:" .. self.path
  end
  return formats[self.type]:format(self.host, self.port)
end

function Address.__eq(a, b)
  return a.type == b.type and a.host == b.host and a.port == b.port and a.path == b.path
end

--- An Internet address.
---@param kind "TCP"|"TCP6"|"UDP"|"UDP6"
---@param host string IPv6 as RFC 5952 says
---@param port integer
---@return Address
function address.inet(kind, host, port)
  return setmetatable({ type = kind, host = host, port = port }, Address)
end

--- The address of a Unix socket.
---@param path string "" for a socket without a name
---@return Address
function address.unix(path)
  return setmetatable({ type = "UNIX", path = path }, Address)
end

return address
