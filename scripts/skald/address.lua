-- Addresses: `{ type = "TCP", host =, port = }`, TCP6, UDP, UDP6, `{ type = "UNIX", path = }`. tostring
-- gives an endpoint string, and equal addresses are equal.

local address = {}

--- Where a peer is, or we are. `tostring` gives an endpoint string, and equal addresses are equal.
---@class Address
---@field type "TCP"|"TCP6"|"UDP"|"UDP6"|"UNIX"|"PROCESS"|"STDIO"
---@field host string? an IP address, IPv6 as RFC 5952 says
---@field port integer? of those with a host
---@field path string? of UNIX; "" for a socket without a name; of PROCESS, the program
local Address = {}
Address.__index = Address

local formats = {
  TCP = "tcp:%s:%d",
  TCP6 = "tcp:[%s]:%d",
  UDP = "udp:%s:%d",
  UDP6 = "udp:[%s]:%d",
}

-- What has no place in a network.
local named = {
  PROCESS = "process:%s",
  STDIO = "stdio:",
}

function Address:__tostring()
  if self.type == "UNIX" then
    return "unix:" .. self.path
  end
  if named[self.type] then
    return named[self.type]:format(self.path or "")
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

--- What is at no address of a network.
---@param kind "PROCESS"|"STDIO"
---@param path string? of the program
---@return Address
function address.named(kind, path)
  return setmetatable({ type = kind, path = path }, Address)
end

return address
