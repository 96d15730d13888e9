-- A pipe takes what its own source reads, once, and gives back what it took.

local host = require "support.host"

local commands = host.commands

-- A sink that is not the core's own passes what it gets on to the transport `t`.
local pair = [[
  local first
  local function through(t)
    local sink = {}
    for _, name in ipairs { "write", "registerProducer", "unregisterProducer", "loseWriteConnection" } do
      sink[name] = function(_, ...) return t[name](t, ...) end
    end
    return sink
  end
  local function told(d)
    d:addBoth(function(r) print("ended", type(r) == "number" and r or r.value.code or r.type) end)
  end
  local function try(f, ...)
    local ok, problem = pcall(f, ...)
    print(tostring(ok), (tostring(problem):gsub("^.*/", "")))
  end
  function commands.first(self, t) first = self; t:loseConnection() end
  function commands.hello(self) print "hello" end
]]

describe("a pipe", function()
  after_each(host.cleanup)

  it("of a transport that is lost touches no connection that came after it", function()
    local h = host.serve(commands(pair .. [[
      function commands.pipe(self, t) told(first.transport:pipe(through(t))) end
    ]]))
    local c = h:connect():send "first"
    assert.is_nil(c:read())
    c:close()
    assert.equal("lost\tdone\tlocal", h:line())
    local victim, thief = h:connect():send "hello", h:connect()
    assert.equal("hello", h:line())
    thief:send "pipe"
    assert.equal("ended\tEPIPE", h:line())
    victim:send "hello"
    assert.equal("hello", h:line())
    assert.is_true(thief:quiet())
  end)

  it("from inside connectionLost fails, too", function()
    local h = host.serve(commands(pair .. [[
      function P:connectionLost() told(self.transport:pipe(through(self.transport))) end
    ]]))
    h:connect():send "first"
    assert.equal("ended\tEPIPE", h:line())
  end)

  it("is refused where there is one, by whichever way each would go", function()
    local h = host.serve(commands(pair .. [[
      function commands.core(self, t)
        told(t:pipe(t))
        try(function() local d = t:pipe(through(t)); return d end)
      end
      function commands.lua(self, t)
        told(t:pipe(through(t)))
        try(function() local d = t:pipe(t); return d end)
      end
    ]]))
    for _, word in ipairs { "core", "lua" } do
      local c = h:connect():send(word)
      assert.equal("pipe: one of both is part of a pipe already", (h:line "^false\tscript.lua:%d+: (.*)"))
      assert.equal("back", c:send "back" and c:receive(4))
      c:halfClose()
      assert.equal("ended\t4", h:line())
      assert.truthy(h:line "^lost\tdone")
    end
  end)

  it("that its sink refuses leaves the source as it was", function()
    local h = host.serve(commands(pair .. [[
      function commands.go(self, t)
        local sink = through(t)
        t:registerProducer({ pauseProducing = print, resumeProducing = print }, true)
        try(function() local d = t:pipe(sink); return d end)
        try(function() local d = t:pipe(sink); return d end)
      end
    ]]))
    local c = h:connect():send "go"
    for _ = 1, 2 do
      assert.equal("pipe: registerProducer: a producer is registered already", (h:line "^false\tscript.lua:%d+: (.*)"))
    end
    c:send "hello"
    assert.equal("hello", h:line())
  end)

  it("by way of Lua that is cancelled while its sink is full has the source read again", function()
    local h = host.serve(commands(pair .. [[
      function commands.go(self, t)
        local sink = through(t)
        function sink:registerProducer(producer) self.producer = producer end
        function sink:unregisterProducer() self.producer = nil end
        local d = t:pipe(sink)
        told(d)
        sink.producer:pauseProducing()
        d:cancel()
      end
    ]]))
    local c = h:connect():send "go"
    assert.equal("ended\tCancelledError", h:line())
    c:send "hello"
    assert.equal("hello", h:line())
  end)

  it("one way in Lua and the other in the core brings the answer to who has ended its input", function()
    local h = host.serve([[
      local policies = require "skald.policies"
      local protocol = require "skald.protocol"
      local Wrap = policies.ProtocolWrapper {}
      function Wrap:dataReceived(data) return policies.ProtocolWrapper.dataReceived(self, data) end
      local P, first = protocol.Protocol {}, nil
      function P:dataReceived()
        if not first then
          first = self
          self.transport:write "there\n"
          return
        end
        for _, pair in ipairs { { first, self }, { self, first } } do
          pair[1].transport:pipe(pair[2].transport):addBoth(function(r) print("piped", r) end)
        end
        self.transport:write "go\n"
      end
      function P:connectionLost(reason) print("lost", reason.code, reason.by) end
      local F = policies.WrappingFactory { protocol = Wrap, listen = "tcp:127.0.0.1:0", name = "wrapped" }
      return {
        F:new(protocol.Factory { protocol = P }:new()),
        { listen = "tcp:127.0.0.1:0", protocol = P, name = "plain" },
      }
    ]], { listening = 2 })
    local front = h:connect()
    assert.equal("there", front:send "x" and front:line())
    local back = h:connect(nil, 2)
    assert.equal("go", back:send "x" and back:line())
    front:send "request"
    front:halfClose()
    assert.equal("request", back:receive(7))
    assert.is_nil(back:read())
    back:send "answer"
    back:halfClose()
    assert.equal("answer", (front:receiveAll()))
    assert.equal("piped\t7", h:line())
    assert.equal("piped\t6", h:line())
  end)
end)
