-- A finalizer (__gc) may raise at any time, in the host's own steps of the collector, too.

local host = require "support.host"

local MESSAGES, LITTER = 1500, 20

local SCRIPT = ([[
  local P = {}
  function P:dataReceived(data)
    if data == "litter" then
      for _ = 1, %d do
        local proxy = newproxy(true)
        getmetatable(proxy).__gc = function() error "boom in a finalizer" end
      end
    end
    self.transport:write "k"
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]):format(LITTER)

describe("a finalizer", function()
  after_each(host.cleanup)

  it("that raises does not end the host while another connection talks", function()
    local h = host.serve(SCRIPT)
    local litterer, c = h:connect(), h:connect()
    litterer:send("litter"):receive(1)
    local message = ("y"):rep(20000)
    local answered = 0
    for i = 1, MESSAGES do
      -- What a finalizer raises may end the connection whose message met it; the next one is served.
      local ok = pcall(function()
        c:send(message .. i)
        c:receive(1)
      end)
      if ok then
        answered = answered + 1
      else
        c:close()
        c = h:connect()
      end
    end
    assert.is_true(h:logged "boom in a finalizer" > 0, "no finalizer ran")
    assert.is_true(answered >= MESSAGES - LITTER, ("%d of %d messages were answered"):format(answered, MESSAGES))
    h:stop()
  end)
end)
