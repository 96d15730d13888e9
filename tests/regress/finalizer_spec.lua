-- LuaJIT runs finalizers wherever it happens to collect, in compiled code and in the host's own steps.
-- What one raised ended whatever ran there, at worst the process.

local host = require "support.host"

local LITTER = 20

-- How a script comes by a finalizer that raises.
local ways = {
  newproxy = [[
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = function() error "boom in a finalizer" end
  ]],
  ["ffi.gc"] = [[
    require("ffi").gc(require("ffi").new "int[1]", function() error "boom in a finalizer" end)
  ]],
}

-- What the callback of another connection does meanwhile, and for how many messages.
local work = {
  ["a callback that allocates nothing"] = { 1500, "" },
  ["a compiled loop that allocates"] = {
    300,
    "for i = 1, 500 do self.s = { i, tostring(i) } self.t = data:sub(i, -1) end",
  },
}

local function script(way, load)
  return ([[
    local P = {}
    function P:dataReceived(data)
      if data == "litter" then
        for _ = 1, %d do %s end
      else
        %s
      end
      if data == "litter" or data:sub(-1) == "!" then
        self.transport:write "k"
      end
    end
    return { listen = "tcp:127.0.0.1:0", protocol = P }
  ]]):format(LITTER, way, load)
end

describe("a finalizer that raises", function()
  after_each(host.cleanup)

  for name, way in pairs(ways) do
    for what, load in pairs(work) do
      it(("(%s) is logged and does not touch %s"):format(name, what), function()
        local h = host.serve(script(way, load[2]))
        local litterer, c = h:connect(), h:connect()
        litterer:send("litter"):receive(1)
        local message = ("y"):rep(20000)
        for i = 1, load[1] do
          assert.equal("k", c:send(message .. i .. "!"):receive(1))
        end
        h:waitLog "boom in a finalizer"
        h:stop()
      end)
    end
  end
end)
