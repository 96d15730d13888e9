-- A UDP port and a listener have handles of their own, which may be the same number: what is done to one is not done to
-- the other.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

describe("a TLS endpoint", function()
  after_each(host.cleanup)

  it("stays one beside UDP ports of the same service, before and after a reload", function()
    local own = certificates.selfSigned("localhost", { "127.0.0.1" })
    local text = [[
      local protocol = require "skald.protocol"
      local Echo = {}
      function Echo:dataReceived(data) self.transport:write(data) end
      return {
        { name = "tls", listen = "%s", protocol = Echo },
        { name = "udp", listen = { "udp:127.0.0.1:0", "udp:127.0.0.1:0" }, protocol = protocol.DatagramProtocol {} },
      } -- ]]
    text = text:format(certificates.endpoint(own))
    local h = host.serve(text .. "1", { listening = 3 })
    local function isTls()
      local status, out = process.run {
        "openssl", "s_client", "-connect", "127.0.0.1:" .. h.port, "-CAfile", own.certificate, "-verify_return_error",
        input = "/dev/null",
      }
      return status == 0 and out:find("Verify return code: 0", 1, true) ~= nil
    end
    assert.is_true(isTls())
    host.script(text .. "2")
    assert.equal(0, (host.command { "reload" }))
    assert.is_true(isTls())
  end)
end)
