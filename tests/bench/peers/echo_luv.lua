-- echo_luv.lua - a peer of the benchmarks: an echo on luv (LuaJIT on libuv).
local uv = require "luv"

local function echo(client)
  client:read_start(function(err, data)
    if err or not data then
      client:close()
      return
    end
    local sent = client:try_write(data) or 0
    if sent < #data then
      client:write(sent == 0 and data or data:sub(sent + 1))
    end
  end)
end

local server = uv.new_tcp()
assert(server:bind("127.0.0.1", 0))
assert(server:listen(4096, function()
  local client = uv.new_tcp()
  server:accept(client)
  client:nodelay(true)
  echo(client)
end))

local collect = uv.new_signal()
collect:start("sigusr2", function()
  collectgarbage()
  collectgarbage()
end)

print(("listening tcp:127.0.0.1:%d luv"):format(server:getsockname().port))
io.stdout:flush()
uv.run()
