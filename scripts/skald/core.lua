-- The C side, by FFI. Exists only inside the host.

local ffi = require "ffi"
local address = require "skald.address"

local registry = debug.getregistry()
if not registry["skald.core"] then
  error("skald.core exists only inside the host (outside, give what needs time a `clock`: skald.task's Clock)", 0)
end

ffi.cdef((registry["skald.cdef"]:match "/%* cdef begins %*/(.-)/%* cdef ends %*/"))

registry["skald.cdef"] = nil

local C = ffi.C

local core = {
  C = C,
  pointer = ffi.cast("struct core *", registry["skald.core"]),
}

--- Numbers of system errors that the library decides by.
core.errors = {}
for name in ("EAGAIN ECANCELED ETIMEDOUT ECONNREFUSED ENOENT ENOTDIR EINVAL EISCONN ENOMEM"):gmatch "%u+" do
  core.errors[name] = C.skald_error_number(name)
end

--- The message of a system error, and its name.
---@param errno integer
---@return string message
---@return string name
function core.errorOf(errno)
  return ffi.string(C.skald_error_text(errno)), ffi.string(C.skald_error_name(errno))
end

--- The name of a system error.
---@param errno integer
---@return string
function core.nameOf(errno)
  return ffi.string(C.skald_error_name(errno))
end

--- Whether an error says that a file is not there.
---@param errno integer
---@return boolean
function core.isMissing(errno)
  return errno == core.errors.ENOENT or errno == core.errors.ENOTDIR
end

--- A handler for xpcall: what was raised as text, with a traceback. Never raises itself.
---@param problem any
---@return string
function core.traceback(problem)
  local ok, text = pcall(tostring, problem)
  return (ok and text or "(an error that has no text)") .. debug.traceback("", 2)
end

--- A new buffer for an address, for the functions that fill one in.
function core.addressBuffer()
  return ffi.new "struct skald_address"
end

--- The address that lies in a buffer.
---@return Address
function core.addressIn(buffer)
  local kind, text = ffi.string(buffer.kind), ffi.string(buffer.text)
  if kind == "UNIX" then
    return address.unix(text)
  end
  return address.inet(kind, text, buffer.port)
end

--- The bytes of a file inside the program, or nil.
---@param name string
---@return string?
function core.bundled(name)
  local size = ffi.new "size_t[1]"
  local data = C.skald_bundled(name, size)
  if data == nil then
    return nil
  end
  return ffi.string(data, size[0])
end

--- The names of the files inside the program that begin with `prefix`, without it.
---@param prefix string
---@return string[]
function core.bundledNames(prefix)
  local names = {}
  local index = 0
  while true do
    local name = C.skald_bundled_name(index)
    if name == nil then
      return names
    end
    name = ffi.string(name)
    if name:sub(1, #prefix) == prefix then
      names[#names + 1] = name:sub(#prefix + 1)
    end
    index = index + 1
  end
end

--- The one way to write a host: IPv6 in brackets, and as RFC 5952 says; names stay as they are.
---@param host string
---@return string
function core.canonical(host)
  local buffer = core.addressBuffer()
  if C.skald_canonical(host, buffer) == 0 then
    host = ffi.string(buffer.text)
  end
  return host:find(":", 1, true) and "[" .. host .. "]" or host
end

--- A handle's place (base/slots.h): small and dense.
---@param handle number
---@return integer
function core.place(handle)
  return handle % 0x1000000
end

return core
