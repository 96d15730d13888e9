-- What is written after startTLS never goes in the clear, even where a file before it became shorter than it was.

local certificates = require "support.certificates"
local host = require "support.host"

describe("startTLS behind a file that becomes shorter", function()
  after_each(host.cleanup)

  it("sends nothing of what follows in the clear", function()
    local own = certificates.selfSigned("localhost", { "localhost" })
    local path = host.file("short", ("x"):rep(1000000))
    local h = host.serve(([[
      local P = {}
      function P:dataReceived()
        self.transport:write "head"
        self.transport:sendFile(%q):addErrback(function(f) print("file", f.value.code) end)
        io.open(%q, "w"):close()
        self.transport:startTLS { certificate = %q, privateKey = %q }
        self.transport:write "secret"
      end
      function P:connectionLost(reason) print("lost", reason.code) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(path, path, own.certificate, own.key))
    local c = h:connect()
    c:send "go"
    h:line "^file\tERANGE"
    c:halfClose()
    local text = c:receiveAll()
    h:line "^lost"
    assert.equal("head", text:sub(1, 4)) -- an alert follows
    assert.is_nil(text:find "secret")
  end)
end)
