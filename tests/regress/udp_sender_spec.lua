-- Where a datagram comes from is known to every port, whether or not another one has heard of that host before.

local host = require "support.host"

describe("a UDP port beside one whose protocol has no datagramReceived", function()
  after_each(host.cleanup)

  it("knows who sends, after that one had the host's first datagram", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local protocol = require "skald.protocol"
      local function turns(n, f) -- later: what was sent has come
        reactor.callLater(0, function() return n == 0 and f() or n > 0 and turns(n - 1, f) end)
      end
      local Deaf = protocol.DatagramProtocol {}
      local Heard = protocol.DatagramProtocol {}
      function Heard:datagramReceived(data, from) print(data, from.host) end
      reactor.callWhenRunning(function()
        local options = { interface = "127.0.0.1" }
        local deaf = reactor.listenUDP(0, Deaf, options):getHost()
        local heard = reactor.listenUDP(0, Heard, options):getHost()
        local sender = protocol.DatagramProtocol:new()
        reactor.listenUDP(0, sender, options)
        sender.transport:write("one", deaf.host, deaf.port)
        turns(5, function()
          sender.transport:write("two", heard.host, heard.port)
        end)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.equal("two\t127.0.0.1", h:line "^two")
  end)

  it("answers whom it is told to, not whom that one heard of last", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local protocol = require "skald.protocol"
      local options = { interface = "127.0.0.1" }
      local function turns(n, f) -- later: what was sent has come
        reactor.callLater(0, function() return n == 0 and f() or n > 0 and turns(n - 1, f) end)
      end
      local function named(name)
        local made = protocol.DatagramProtocol:new()
        function made:datagramReceived(data, from) print(name .. " got " .. data) self.from = from end
        reactor.listenUDP(0, made, options)
        return made
      end
      reactor.callWhenRunning(function()
        local one, other, server = named "one", named "other", named "server"
        local deaf = reactor.listenUDP(0, protocol.DatagramProtocol {}, options):getHost()
        local address = server.transport:getHost()
        one.transport:write("hello", address.host, address.port)
        turns(5, function()
          other.transport:write("nothing", deaf.host, deaf.port)
        end)
        turns(10, function()
          server.transport:write("answer", server.from)
        end)
      end)
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    assert.equal("one got answer", h:line "got answer$")
  end)
end)
