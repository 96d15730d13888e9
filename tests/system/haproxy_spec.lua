-- Endpoints whose connections begin with a header of the PROXY protocol, and real proxies that send it.

local client = require "support.client"
local host = require "support.host"
local ports = require "support.ports"
local process = require "support.process"
local reload = require "support.reload"

local sys = client.sys

local LINE = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
local BINARY = "\13\10\13\10\0\13\10QUIT\10\33\18\0\12\192\168\0\1\192\168\0\11\220\4\1\187" -- UDP over IPv4

-- A service that says who is connected to what, and sends back what comes. `extra` goes into its definition.
local function telling(extra, head)
  return ([[
    local P = {}
    %s
    function P:connectionMade()
      local t = self.transport
      print("made", t:getPeer(), t:getHost())
      t:write(("%%s %%s\n"):format(tostring(t:getPeer()), tostring(t:getHost())))
    end
    function P:dataReceived(data) self.transport:write(data) end
    function P:connectionLost(reason) print("lost", reason.code, reason.by) end
    return { listen = "haproxy:tcp:127.0.0.1:0", protocol = P %s }
  ]]):format(head or "", extra and "," .. extra or "")
end

local function refused(c)
  assert.same({ "", "eof" }, { c:receiveAll() })
end

describe("an endpoint haproxy:", function()
  after_each(host.cleanup)

  it("shows the addresses of the header, of both versions, however they come", function()
    local h = host.serve(telling())
    assert.matches("^haproxy:tcp:127%.0%.0%.1:%d+$", h.endpoints[1].endpoint)
    for text, expected in pairs {
      [LINE] = "tcp:192.168.0.1:56324 tcp:192.168.0.11:443",
      [BINARY] = "udp:192.168.0.1:56324 udp:192.168.0.11:443",
      ["PROXY TCP6 ::1 2001:DB8:0::1 1 2\r\n"] = "tcp:[::1]:1 tcp:[2001:db8::1]:2",
    } do
      local whole = h:connect():send(text .. "GET /\n")
      assert.same({ expected, "GET /" }, { whole:line(), whole:line() })
      local cut = h:connect()
      for i = 1, #text do
        cut:send(text:sub(i, i))
      end
      assert.equal(expected, cut:line())
      assert.equal("more", cut:send("more\n"):line())
    end
  end)

  it("shows the connection's own where the header has none", function()
    local h = host.serve(telling())
    local c = h:connect():send "PROXY UNKNOWN\r\n"
    assert.equal(("tcp:127.0.0.1:%d tcp:127.0.0.1:%d"):format(c:port(), h.port), c:line())
    c:close()
    h:line "^lost\tdone\tpeer"
  end)

  it("closes where the header is bad: nothing is delivered, and nobody hears of it", function()
    local h = host.serve(telling())
    for _, text in ipairs { "GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\nx", BINARY:sub(1, 12) .. "\17" } do
      local c = h:connect():send(text)
      refused(c)
      c:close()
    end
    assert.matches("info tcp:127.0.0.1:%d+: PROXY header refused", h:waitLog "refused")
    assert.equal("tcp:192.168.0.1:56324 tcp:192.168.0.11:443", h:connect():send(LINE):line())
    h:stop()
    assert.equal(1, select(2, h:output():gsub("made\t", "")))
    assert.equal(1, select(2, h:output():gsub("lost\t", "")))
  end)

  it("closes where the header does not come within headerTimeout, and leaves no timer where it came", function()
    local h = host.serve(telling "headerTimeout = 0.05")
    local served
    sys.await(function() -- until one was quick enough
      served = h:connect()
      return pcall(function() return served:send(LINE):line() end)
    end, function()
      return h:story "nobody is served"
    end)
    refused(h:connect():send "PROXY ")
    assert.equal("still", served:send("still\n"):line())
  end)

  it("hears nothing of a client that leaves before the header is complete", function()
    local h = host.serve(telling())
    h:connect():send("PROXY "):close()
    local c = h:connect():send "PROXY "
    c:halfClose()
    refused(c)
    h:stop()
    assert.is_nil(h:output():find "made")
    assert.is_nil(h:output():find "lost")
  end)

  it("listens on a Unix socket, and takes the paths of a header", function()
    local path = host.folder() .. "/proxied.sock"
    local function padded(text)
      return text .. ("\0"):rep(108 - #text)
    end
    local h = host.serve(telling(), { "listen=haproxy:unix:" .. path .. ":mode=600" })
    assert.equal("haproxy:unix:" .. path, h.endpoints[1].endpoint)
    local c = client.unix(path):send(BINARY:sub(1, 13) .. "\49\0\216" .. padded "/a" .. padded "/b")
    assert.equal("unix:/a unix:/b", c:line())
  end)

  it("asks the factory with the address of the header; nil refuses", function()
    local h = host.serve(telling [[
      buildProtocol = function(self, addr)
        print("build", addr, self:connectionCount())
        return addr.host ~= "192.168.0.1" and require("skald.protocol").Factory.buildProtocol(self, addr) or nil
      end ]])
    refused(h:connect():send(LINE .. "x"))
    h:line "^build\ttcp:192.168.0.1:56324\t1"
    assert.equal("tcp:10.0.0.1:1 tcp:10.0.0.2:2", h:connect():send("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"):line())
    h:stop()
    assert.equal(1, select(2, h:output():gsub("lost\t", "")))
  end)

  it("ends the connection where buildProtocol or connectionMade raises, and only the latter hears of its end", function()
    local text = telling [[
      buildProtocol = function(self, addr)
        if addr.port == 1 then error "no protocol" end
        return require("skald.protocol").Factory.buildProtocol(self, addr)
      end ]]
    local h = host.serve((text:gsub('print%("made"', 'if t:getPeer().port == 2 then error "not made" end %0')))
    refused(h:connect():send "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nx")
    h:waitLog "no protocol"
    refused(h:connect():send "PROXY TCP4 1.1.1.1 1.1.1.1 2 1\r\nx")
    h:waitLog "not made"
    h:line "^lost\terror\tlocal"
    h:stop()
    assert.equal(1, select(2, h:output():gsub("lost\t", "")))
  end)

  it("counts those whose header is to come, and each() gives protocols only", function()
    local h = host.serve(telling([[ maxConnections = 2 ]], [[
      function P:readConnectionLost()
        local n = 0
        for p in self.factory:each() do
          assert(p.dataReceived == P.dataReceived)
          n = n + 1
        end
        print("counts", self.factory:connectionCount(), n)
        self.transport:loseConnection()
      end ]]))
    local half = h:connect():send(LINE:sub(1, 20))
    local whole = h:connect():send(LINE)
    whole:line()
    refused(h:connect())
    whole:halfClose()
    h:line "^counts\t2\t1"
    assert.equal("tcp:192.168.0.1:56324 tcp:192.168.0.11:443", half:send(LINE:sub(21)):line())
  end)

  it("holds what came with the header while the protocol has paused, in order with what comes later", function()
    local h = host.serve [[
      local reactor = require "skald.reactor"
      local P = {}
      function P:connectionMade()
        self.transport:pauseProducing()
        print "paused"
        reactor.callLater(0.02, function() print "resumes"; self.transport:resumeProducing() end)
      end
      function P:dataReceived(data)
        print("data", #data)
        self.transport:write(data)
        self.transport:pauseProducing()
        reactor.callLater(0, function() self.transport:resumeProducing() end)
      end
      return { listen = "haproxy:tcp:127.0.0.1:0", protocol = P } ]]
    local c = h:connect():send(LINE .. "one")
    h:line "^paused"
    c:send "two"
    assert.equal("onetwo", c:receive(6))
    c:send "three"
    assert.equal("three", c:receive(5))
    h:stop()
    assert.matches("paused\nresumes\ndata\t3\ndata\t", h:output())
  end)

  it("ends the connection of a protocol that raises as it gets what was held, not the one that resumed it", function()
    local h = host.serve [[
      local paused
      local P = {}
      function P:connectionMade()
        if self.transport:getPeer().port == 1 then
          paused = self
          self.transport:pauseProducing()
        end
        self.transport:write "made\n"
      end
      function P:dataReceived(data)
        if self == paused then error "held and bad" end
        paused.transport:resumeProducing()
        self.transport:write "resumed\n"
      end
      function P:connectionLost(reason) print("lost", self == paused, reason.code, reason.message) end
      return { listen = "haproxy:tcp:127.0.0.1:0", protocol = P } ]]
    local a = h:connect():send "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nheld"
    a:line()
    local b = h:connect():send(LINE)
    b:line()
    assert.equal("resumed", b:send("x"):line())
    h:line "^lost\ttrue\terror\t.*held and bad"
    assert.equal("resumed", b:send("x"):line())
    h:stop()
  end)

  it("has what was held go before what is piped", function()
    local h = host.serve(telling [[name = "inner"]])
    local forward = host.run { "portforward", "listen=haproxy:tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:" .. h.port,
      "proxy=2", options = { "--control=" .. host.folder() .. "/second.sock" } }
    local c = forward:connect():send(LINE .. "first ")
    assert.equal("tcp:192.168.0.1:56324 tcp:192.168.0.11:443", c:line())
    local text = ("0123456789abcdef"):rep(20000)
    c:send(text .. "\n")
    assert.equal("first " .. text, c:line())
    c:halfClose()
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:line "^lost\tdone"
  end)

  it("is what serverFromString takes, and check", function()
    local h = host.serve([[
      local endpoints = require "skald.endpoints"
      local P = { connectionMade = function(self) self.transport:write(tostring(self.transport:getPeer()) .. "\n") end }
      endpoints.serverFromString("haproxy:tcp:0:interface=127.0.0.1"):listen({ protocol = P, name = "loaded" })
      require("skald.reactor").callWhenRunning(function()
        endpoints.serverFromString("haproxy:tcp:127.0.0.1:0"):listen({ protocol = P, name = "running" })
      end) ]], { listening = 2 })
    for i = 1, 2 do
      assert.matches("^haproxy:tcp:127.0.0.1:%d+$", h.endpoints[i].endpoint)
      assert.equal("tcp:192.168.0.1:56324", h:connect(nil, i):send(LINE):line())
    end
    assert.equal(0, (host.command { "check", host.script(telling(), "good.lua") }))
    local status, _, errors = host.command { "check", host.script('return { listen = "haproxy:tcp:x", protocol = {} }', "bad.lua") }
    assert.equal(1, status)
    assert.matches("bad.lua:1: bad endpoint 'haproxy:tcp:x': column 13", errors, 1, true)
  end)

  it("ends in order when the host stops while a header is half there", function()
    local h = host.serve(telling())
    local c = h:connect():send "PROXY TC"
    h:connect():send(LINE):line()
    h:stop()
    refused(c)
  end)

  it("is what a HAProxyWrappingFactory does on a plain one", function()
    local h = host.serve [[
      local haproxy = require "skald.haproxy"
      local P = {}
      function P:connectionMade() self.transport:write(tostring(self.transport:getPeer()) .. "\n") end
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(reason) print("lost", reason.code) end
      local F = haproxy.HAProxyWrappingFactory { headerTimeout = 0.1 }
      return F:new { listen = "tcp:127.0.0.1:0", protocol = P } ]]
    local c = h:connect():send(LINE .. "GET /\n")
    assert.same({ "tcp:192.168.0.1:56324", "GET /" }, { c:line(), c:line() })
    refused(h:connect():send "GET /")
    h:waitLog "tcp:127.0.0.1:%d+: PROXY header refused: "
    refused(h:connect())
    c:close()
    h:line "^lost\tdone"
  end)
end)

describe("a reload", function()
  after_each(host.cleanup)

  local SERVICE = telling():gsub('t:write%(%("', '%0@ ')

  it("while a header is half there has the new code get its connection", function()
    local h = reload.serve(SERVICE)
    local half = h:connect():send(LINE:sub(1, 30))
    local whole = h:connect():send(LINE)
    assert.equal("1 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", whole:line())
    reload.commit(SERVICE)
    assert.equal("2 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", half:send(LINE:sub(31)):line())
    assert.equal("still", whole:send("still\n"):line())
    assert.equal(2, reload.status().connections)
  end)

  it("keeps the socket where an endpoint becomes a haproxy: one, or ceases to be", function()
    local h = reload.serve((SERVICE:gsub("haproxy:", "")))
    local plain = h:connect()
    assert.matches("^1 tcp:127.0.0.1", plain:line())
    local function version(n, endpoint)
      return SERVICE:gsub('"haproxy:tcp:127.0.0.1:0"', ('"%stcp:127.0.0.1:%d"'):format(endpoint, n))
    end
    local report = reload.commit((version(h.port, "haproxy:")), 2)
    assert.same({ { "haproxy:tcp:127.0.0.1:" .. h.port }, {}, {} },
      { report.endpoints.kept, report.endpoints.added, report.endpoints.removed })
    assert.same({ "haproxy:tcp:127.0.0.1:" .. h.port }, reload.status().endpoints)
    local proxied, half = h:connect():send(LINE), h:connect():send "PROXY "
    assert.equal("2 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", proxied:line())
    reload.commit((version(h.port, "")), 3)
    assert.matches("^3 tcp:127.0.0.1", h:connect():line())
    assert.equal("3 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", half:send(LINE:sub(7)):line())
    for _, c in ipairs { plain, proxied } do
      assert.equal("still", c:send("still\n"):line())
    end
  end)

  it("while a header is half there reaches a HAProxyWrappingFactory as well", function()
    local text = SERVICE:gsub('return (%b{})', function(definition)
      return 'return require("skald.haproxy").HAProxyWrappingFactory:new ' .. definition:gsub("haproxy:", "")
    end)
    local h = reload.serve(text)
    local half = h:connect():send(LINE:sub(1, 30))
    local whole = h:connect():send(LINE)
    assert.equal("1 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", whole:line())
    reload.commit(text)
    assert.equal("2 tcp:192.168.0.1:56324 tcp:192.168.0.11:443", half:send(LINE:sub(31)):line())
    assert.equal("still", whole:send("still\n"):line())
  end)

  it("that is refused leaves an endpoint as it was", function()
    local h = reload.serve((SERVICE:gsub("haproxy:", "")))
    reload.refuse('do error "no" end ' .. SERVICE)
    assert.matches("^1 tcp:127.0.0.1", h:connect():line())
  end)
end)

describe("a real proxy", function()
  after_each(host.cleanup)

  it("is understood: curl", function()
    local h = host.serve [[
      local P = {}
      function P:dataReceived()
        local text = tostring(self.transport:getPeer()):match "^tcp:127.0.0.1:%d+$" and "good" or "bad"
        self.transport:write("HTTP/1.0 200 OK\r\nContent-Length: " .. #text .. "\r\n\r\n" .. text)
        self.transport:loseConnection()
      end
      return { listen = "haproxy:tcp:127.0.0.1:0", protocol = P } ]]
    local status, out = process.run { "curl", "-s", "--noproxy", "*", "--haproxy-protocol", "http://127.0.0.1:" .. h.port }
    assert.same({ 0, "good" }, { status, out })
    assert.not_equal(0, (process.run { "curl", "-s", "--noproxy", "*", "http://127.0.0.1:" .. h.port }))
  end)

  -- HAProxy before a host: `options` of its server line.
  local function between(options)
    local h = host.serve((telling():gsub('print%("made"', 'local tlvs = t.tlvs or {}; print("tlvs", #(tlvs[3] or "")) %0')))
    local port = ports.tcp()
    local config = host.file("haproxy.cfg", ([[
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:%d
  default_backend back
backend back
  server one 127.0.0.1:%d %s
]]):format(port, h.port, options))
    process.start { "haproxy", "-db", "-f", config }
    local c = sys.await(function()
      return client.try(port)
    end, function()
      return "haproxy does not listen"
    end)
    assert.equal(("tcp:127.0.0.1:%d tcp:127.0.0.1:%d"):format(c:port(), port), c:line())
    assert.equal("hello", c:send("hello\n"):line())
    return h
  end

  it("is understood: HAProxy with send-proxy", function()
    between "send-proxy"
  end)

  it("is understood: HAProxy with send-proxy-v2", function()
    between "send-proxy-v2"
  end)

  it("is understood: HAProxy with a checksum", function()
    local h = between "send-proxy-v2 proxy-v2-options crc32c"
    h:line "^tlvs\t4"
  end)

  it("understands what we send: HAProxy with accept-proxy", function()
    local h = host.serve(telling())
    local port = ports.tcp()
    local config = host.file("haproxy.cfg", ([[
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:%d accept-proxy
  default_backend back
backend back
  server one 127.0.0.1:%d send-proxy-v2
]]):format(port, h.port))
    process.start { "haproxy", "-db", "-f", config }
    sys.await(function()
      return client.try(port)
    end, function()
      return "haproxy does not listen"
    end)
    for version = 1, 2 do
      local sender = host.run { "portforward", "listen=haproxy:tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:" .. port,
        "proxy=" .. version, options = { "--control=" .. host.folder() .. "/sender" .. version } }
      local c = sender:connect():send(LINE .. "through\n")
      assert.same({ "tcp:192.168.0.1:56324 tcp:192.168.0.11:443", "through" }, { c:line(), c:line() })
    end
  end)
end)
