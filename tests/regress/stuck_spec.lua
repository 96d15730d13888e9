-- A callback that never returns must not make a host that only SIGKILL ends.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

-- Waits until the host has taken every signal that was sent to it: two of a kind that wait are one.
local function awaitTaken(h)
  sys.await(function()
    local file = assert(io.open(("/proc/%d/status"):format(h.pid)))
    local text = file:read "*a"
    file:close()
    return text:find "SigPnd:%s*0+\n" and text:find "ShdPnd:%s*0+\n"
  end, function()
    return h:story "the signal is not taken"
  end)
end

describe("a host whose callback loops for ever", function()
  after_each(host.cleanup)

  for _, name in ipairs { "TERM", "INT" } do
    it(("is ended by a second SIG%s"):format(name), function()
      local h = host.serve [[
        local P = {}
        function P:dataReceived()
          print "looping"
          io.stdout:flush()
          while true do end
        end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]]
      h:connect():send "x"
      assert.equal("looping", h:line())
      h:kill(name)
      awaitTaken(h)
      h:kill(name)
      h:ends("SIG" .. name)
    end)
  end
end)
