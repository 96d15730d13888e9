-- transport:pipe: what one connection reads goes to another, and no script sees it.

local host = require "support.host"
local sys = require "support.sys"

local commands = host.commands

-- Two connections of one service: `take` makes the one that asks the sink, `give` the source. What becomes of the pipe
-- is a line.
local pair = [[
  local function told(d)
    d:addBoth(function(r)
      if type(r) == "number" then print("piped", r) else print("broken", r.value.code or r.type, r.value.bytes) end
    end)
  end
  local sink, pipe
  function commands.take(self, t) sink = self; t:write "ok\n" end
  function commands.give(self, t)
    t:write "go\n"
    pipe = t:pipe(sink.transport)
    told(pipe)
  end
  function commands.both(self, t)
    t:write "go\n"
    told(t:pipe(sink.transport))
    told(sink.transport:pipe(t))
  end
  function commands.itself(self, t) t:write "go\n"; told(t:pipe(t)) end
  function commands.cancel(self, t) pipe:cancel(); t:write "ok\n" end
  function commands.close(self, t) sink.transport:loseConnection() end
  function commands.abort(self, t) sink.transport:abortConnection() end
  function commands.halfclose(self, t) sink.transport:loseWriteConnection() end
  function commands.leave(self, t) self.source.transport:loseConnection() end
]]

local function serve(extra, more)
  return host.serve(commands(pair .. (more or ""), extra))
end

-- A source, its sink, and a third connection that gives orders.
local function join(h, word, options)
  local sink = h:connect(options)
  sink:send "take"
  assert.equal("ok", sink:line())
  local source = h:connect()
  source:send(word or "give")
  assert.equal("go", source:line())
  return source, sink, h:connect()
end

describe("a pipe", function()
  after_each(host.cleanup)

  it("brings every byte of the source to the sink, and tells how many at the end of input", function()
    local h = serve()
    local source, sink = join(h)
    local bytes = ("0123456789abcdef"):rep(100000)
    source:send(bytes)
    assert.equal(bytes, sink:receive(#bytes))
    source:halfClose()
    assert.equal("", sink:read() or "")
    assert.equal("piped\t" .. #bytes, h:line())
    assert.equal("lost\tdone\tpeer", h:line())
  end)

  it("works in both directions at once, and each side's end of input is the other's", function()
    local h = serve()
    local a, b = join(h, "both")
    assert.equal("one", a:send("one\n") and b:line())
    assert.equal("two", b:send("two\n") and a:line())
    a:halfClose()
    assert.is_nil(b:read())
    assert.equal("piped\t4", h:line())
    b:send "after the other's end\n"
    assert.equal("after the other's end", a:line())
    b:halfClose()
    assert.is_nil(a:read())
    assert.equal("piped\t26", h:line())
    assert.equal("lost\tdone", h:line():match "^lost\tdone")
    assert.equal("lost\tdone", h:line():match "^lost\tdone")
  end)

  it("may lead back to where it comes from", function()
    local h = serve()
    local c = h:connect()
    c:send "itself"
    assert.equal("go", c:line())
    c:send "echo\n"
    assert.equal("echo", c:line())
    c:halfClose()
    assert.is_nil(c:read())
    assert.equal("piped\t5", h:line())
    assert.equal("lost\tdone\tpeer", h:line())
  end)

  it("stops reading where the sink's peer does not, and loses nothing when that goes on", function()
    local h = serve "lowWater = 1000"
    local source, sink = join(h, "give", { rcvbuf = 4096 })
    local sent = source:flood(64 * 1024 * 1024, 0.3, ("x"):rep(65536))
    assert.is_true(sent < 32 * 1024 * 1024, "the source sent " .. sent)
    source:halfClose()
    local count, ending = sink:count()
    assert.equal("eof", ending)
    assert.equal(sent, count)
    assert.equal("piped\t" .. sent, h:line())
  end)

  it("lets the sink's protocol write what stands before it, and go on reading", function()
    local h = serve(nil, [[
      function commands.header(self, t)
        t:write "go\n"
        sink.transport:write "header\n"
        told(t:pipe(sink.transport))
      end
      function commands.hello(self, t) print "heard" end
    ]])
    local source, sink = join(h, "header")
    source:send "body\n"
    assert.equal("header", sink:line())
    assert.equal("body", sink:line())
    sink:send "hello"
    assert.equal("heard", h:line())
  end)

  it("breaks when the sink is lost: the source is paused, and told how much had gone through", function()
    local h = serve(nil, [[
      function commands.resume(self, t) self.other.transport:resumeProducing() end
    ]])
    local source, sink = join(h)
    source:send "twelve bytes"
    assert.equal("twelve bytes", sink:receive(12))
    sink:reset()
    local code, bytes = h:line "^broken\t(%w+)\t(%d+)"
    assert.equal("EPIPE", code)
    assert.equal("12", bytes)
    assert.truthy(h:line "^lost\tlost\tpeer")
    source:send "close" -- not read: paused
    assert.is_true(source:quiet())
  end)

  it("breaks at once when the sink closes by itself", function()
    local h = serve()
    local _, sink, third = join(h)
    third:send "close"
    assert.equal("EPIPE", (h:line "^broken\t(%w+)\t0"))
    assert.is_nil(sink:read())
    assert.truthy(h:line "^lost\tdone\tlocal")
  end)

  it("breaks when the sink ends its writing by itself", function()
    local h = serve()
    local _, sink, third = join(h)
    third:send "halfclose"
    assert.equal("EPIPE", (h:line "^broken\t(%w+)\t0"))
    assert.is_nil(sink:read())
  end)

  it("fails with the reason when the source is lost, and leaves the sink alone", function()
    local h = serve()
    local source, sink, third = join(h)
    source:send "some"
    assert.equal("some", sink:receive(4))
    source:reset()
    assert.equal("lost", (h:line "^broken\t(%w+)"))
    assert.truthy(h:line "^lost\tlost\tpeer")
    assert.is_true(sink:quiet())
    assert.equal("ok", sink:send "take" and sink:line())
    third:close()
  end)

  it("can be cancelled: what comes is data again", function()
    local h = serve()
    local source, sink, third = join(h)
    source:send "piped"
    assert.equal("piped", sink:receive(5))
    assert.equal("ok", third:send "cancel" and third:line())
    assert.equal("CancelledError", (h:line "^broken\t(%w+)"))
    assert.equal("ok", source:send "take" and source:line())
  end)

  it("refuses a second one at either end, and what is no transport, at the caller's line", function()
    local h = host.serve(commands([[
      local first
      function commands.first(self, t)
        first = self
        t:pipe(t)
        local function try(f, ...)
          local ok, message = pcall(f, ...)
          print(tostring(ok), (message:gsub("^.*/", "")))
        end
        try(function() t:pipe(t) end) -- again
        try(function() t:pipe("x") end) -- text
        try(function() t:pipe({}) end) -- empty
      end
    ]]))
    h:connect():send "first"
    local message = h:line "^false\tscript.lua:%d+: (.*)"
    assert.equal("pipe: one of both is part of a pipe already", message)
    assert.equal("pipe takes the transport that is to send, not a string", (h:line "^false\tscript.lua:%d+: (.*)"))
    assert.equal("pipe takes the transport that is to send, not a table", (h:line "^false\tscript.lua:%d+: (.*)"))
  end)

  it("fails at once after the end of either", function()
    local h = serve(nil, [[
      function commands.late(self, t) t:loseConnection(); told(t:pipe(sink.transport)); told(sink.transport:pipe(t)) end
    ]])
    local sink = h:connect()
    assert.equal("ok", sink:send "take" and sink:line())
    h:connect():send "late"
    assert.equal("EPIPE", (h:line "^broken\t(%w+)\t0"))
    assert.equal("EPIPE", (h:line "^broken\t(%w+)\t0"))
  end)

  it("waits while its source is paused", function()
    local h = serve(nil, [[
      local paused
      function commands.pause(self, t)
        paused = t
        told(t:pipe(sink.transport))
        t:pauseProducing()
        t:write "go\n"
      end
      function commands.resume() paused:resumeProducing() end
    ]])
    local source, sink, third = join(h, "pause")
    source:send "held"
    assert.equal("ok", third:send "take" and third:line()) -- a turn has passed
    assert.is_true(sink:quiet())
    third:send "resume"
    assert.equal("held", sink:receive(4))
  end)

  it("ends as idle when nothing moves through it", function()
    local h = serve "idleTimeout = 0.3"
    join(h)
    assert.truthy(h:line "^lost\ttimeout\thost")
  end)

  it("is cut by a stop as other connections are: what was read is sent", function()
    local h = serve()
    local source, sink = join(h)
    source:send "before the stop"
    assert.equal("before the stop", sink:receive(15))
    h:kill "TERM"
    assert.is_nil(sink:read())
    assert.is_nil(source:read())
    source:close()
    sink:close()
    h:ends(0)
  end)

  it("goes on while its service is reloaded", function()
    local h = host.serve(commands(pair, "version = 1"))
    local source, sink = join(h)
    source:send "one\n"
    assert.equal("one", sink:line())
    host.script(commands(pair, "version = 2"))
    assert.equal(0, (host.command { "reload" }))
    source:send "two\n"
    assert.equal("two", sink:line())
    source:halfClose()
    assert.equal("piped\t8", h:line())
    sys.await(function()
      return h:output():find "lost\tdone"
    end)
  end)

  it("passes by a transport that is not the core's own by way of its write", function()
    local h = host.serve(commands([[
      function commands.wrapped(self, t)
        local wrapper = { bytes = 0 }
        function wrapper:write(data) self.bytes = self.bytes + #data; return t:write(data:upper()) end
        function wrapper:registerProducer(p, streaming) return t:registerProducer(p, streaming) end
        function wrapper:unregisterProducer() return t:unregisterProducer() end
        function wrapper:loseWriteConnection() t:loseWriteConnection() end
        t:write "go\n"
        t:pipe(wrapper):addBoth(function(n) print("piped", n, wrapper.bytes) end)
      end
    ]]))
    local c = h:connect()
    assert.equal("go", c:send "wrapped" and c:line())
    c:send "shout\n"
    assert.equal("SHOUT", c:line())
    c:halfClose()
    assert.is_nil(c:read())
    assert.equal("piped\t6\t6", h:line())
    assert.truthy(h:line "^lost\tdone")
  end)
end)
