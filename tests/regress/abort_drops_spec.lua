-- A connection that is aborted, or whose callback raised, sends nothing more and asks nobody for more.

local host = require "support.host"
local client = require "support.client"

local sys = client.sys

-- Reads until nothing comes any more for a while: the host is stopped and sends nothing new. Returns the number of bytes.
local function drain(c)
  local n, before = 0, -1
  while n > before do
    before = n
    local entry = { { fd = c.fd, events = sys.POLLIN } }
    for _ = 1, 5 do
      if sys.poll(entry, 0.05) > 0 then
        n = n + #(c:pull() or "")
      end
    end
  end
  return n
end

describe("a connection that was aborted or failed", function()
  after_each(host.cleanup)

  for _, row in ipairs { { "abort", "aborted", "ECONNRESET" }, { "raise", "error", "eof" } } do
    local word, code, expected = unpack(row)

    it(("does not ask a pull producer any more (%s)"):format(word), function()
      local h = host.serve [[
        local P = {}
        function P:connectionMade() self.transport:registerProducer(self, false) end
        function P:resumeProducing()
          if self.over then print("asked after", self.over) end
          self.transport:write(("x"):rep(1000))
        end
        function P:dataReceived(data)
          self.over = data
          if data == "raise" then error "boom" end
          self.transport:abortConnection()
        end
        function P:connectionLost(reason) print("lost", reason.code) end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]]
      for _ = 1, 10 do
        local c = h:connect()
        c:receive(1000)
        c:send(word)
        assert.equal(expected, select(2, c:count()))
        assert.equal("lost\t" .. code, h:line())
      end
      h:stop()
    end)

    it(("sends nothing of its queue, though the peer has room again (%s)"):format(word), function()
      local h = host.serve [[
        local P = {}
        function P:connectionMade()
          self.transport:write(("a"):rep(30 * 1024 * 1024))
          self.transport:flush()
          print("buffered", self.transport:bufferedAmount())
        end
        function P:dataReceived(data)
          print("left", self.transport:bufferedAmount())
          if data == "raise" then error "boom" end
          self.transport:abortConnection()
        end
        function P:connectionLost(reason) print("lost", reason.code) end
        return { listen = "tcp:127.0.0.1:0", protocol = P }
      ]]
      local c = h:connect { rcvbuf = 65536 }
      assert.is_true(tonumber((h:line "^buffered\t(%d+)")) > 8e6)
      h:kill "STOP"
      local drained = drain(c)
      c:send(word)
      h:kill "CONT"
      local sent = 30 * 1024 * 1024 - tonumber((h:line "^left\t(%d+)"))
      local n, ending = c:count()
      assert.equal(expected, ending)
      -- What the kernel had taken before may still come (a reset drops it); nothing else does.
      assert.is_true(drained + n <= sent, ("%d bytes came, %d were sent"):format(drained + n, sent))
      assert.is_true(word == "abort" or drained + n == sent)
      assert.equal("lost\t" .. code, h:line())
      h:stop()
    end)
  end
end)
