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

-- Bytes in which each has its place, and each list of them its own.
local function numbered(name, size)
  local words = {}
  for i = 1, size / 16 do
    words[i] = ("%s%015d"):format(name, i)
  end
  return table.concat(words)
end

-- Sends the text of each of these and takes what comes, `most` bytes at once, to the end: `got`, `ending`.
local function pump(flows)
  local entries = {}
  for _, flow in ipairs(flows) do
    flow.sent, flow.pieces = 0, {}
    entries[#entries + 1] = { fd = flow.from.fd, events = sys.POLLOUT }
    entries[#entries + 1] = { fd = flow.to.fd, events = sys.POLLIN }
  end
  local function move(flow)
    if flow.sent < #flow.text then
      flow.sent = flow.sent + assert(flow.from:trySend(flow.text, flow.sent))
      if flow.sent == #flow.text then
        flow.from:halfClose()
      end
    end
    local text, code = flow.to:pull(flow.most)
    flow.pieces[#flow.pieces + 1] = text
    flow.ending = not text and code ~= "again" and code or nil
    return flow.ending ~= nil
  end
  sys.await(function()
    local over = true
    for _, flow in ipairs(flows) do
      over = (flow.ending ~= nil or move(flow)) and over
    end
    return over
  end, function()
    return "not all of it came in time"
  end, nil, entries)
  for _, flow in ipairs(flows) do
    flow.got = table.concat(flow.pieces)
  end
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

  for k, what in ipairs { "for what the kernel moves from the source", "for what it moves on to the sink" } do
    it("loses nothing where there is no memory " .. what, function()
      local ffi = require "ffi"
      local words = ffi.new("uint32_t[4]", 1, k, 0, 0) -- armed, k, count, hits
      local path = host.file("faults", ffi.string(words, 16) .. "splice" .. ("\0"):rep(234))
      local h = host.serve(commands(pair), {
        env = {
          LD_PRELOAD = "build/tests/faults.so", SKALD_FAULTS = path,
          ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":verify_asan_link_order=0",
        },
      })
      local source, sink = join(h)
      local flow = { from = source, to = sink, text = numbered("x", 4000000), most = 65536 }
      pump { flow }
      assert.is_true(flow.text == flow.got, flow.ending)
      assert.equal("piped\t" .. #flow.text, h:line())
      local file = assert(io.open(path, "rb"))
      assert.equal("\1", file:read(16):sub(13, 13)) -- it has failed once
      file:close()
    end)
  end

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

  it("keeps the bytes of each apart where many are busy at once, and their readers fast and slow", function()
    local h, flows = serve "lowWater = 1000", {}
    for i = 1, 8 do
      local slow = i % 2 == 0
      local source, sink = join(h, "give", { rcvbuf = slow and 4096 or nil })
      flows[i] = { from = source, to = sink, most = slow and 3000 or nil,
        text = numbered(string.char(64 + i), slow and 500000 or 2000000) }
    end
    pump(flows)
    for _, flow in ipairs(flows) do
      assert.equal("eof", flow.ending)
      assert.is_true(flow.got == flow.text)
      h:line "^piped\t%d+$"
    end
  end)

  it("brings much between Unix sockets, too", function()
    local h = host.serve(commands(pair), { "listen=unix:" .. host.folder() .. "/socket" })
    local source, sink = join(h)
    local flow = { from = source, to = sink, text = numbered("u", 4000000) }
    pump { flow }
    assert.is_true(flow.got == flow.text)
    assert.equal("piped\t" .. #flow.text, h:line())
  end)

  it("brings little and much in turn, in order", function()
    local h = serve()
    local source, sink = join(h)
    for i = 1, 20 do
      local text = i % 2 == 0 and "little" or numbered("m", 10000 * i)
      source:send(text)
      assert.is_true(sink:receive(#text) == text)
    end
  end)

  it("puts what the sink's protocol writes between what comes, and tears nothing", function()
    local h = serve("lowWater = 1000", [[
      function commands.mark(self, t)
        for _ = 1, 3 do sink.transport:write "<mark>" end
        t:write "ok\n"
      end
    ]])
    local source, sink, third = join(h, "give", { rcvbuf = 4096 })
    local flow = { from = source, to = sink, text = numbered("m", 3000000) }
    local send, asked = source.trySend, 0
    function source.trySend(self, text, at)
      asked = asked + 1
      assert(third:send "mark" and third:line() == "ok")
      return send(self, text:sub(1, at + 100000), at)
    end
    pump { flow }
    local rest, marks = flow.got:gsub("<mark>", "")
    assert.is_true(rest == flow.text)
    assert.equal(3 * asked, marks)
  end)

  it("hurts no other when sinks are lost in the midst of much", function()
    local h, text = serve(), numbered("l", 400000)
    local other = { text = numbered("k", 2000000) }
    other.from, other.to = join(h)
    local sources, sinks = {}, {}
    for i = 1, 20 do
      sources[i], sinks[i] = join(h)
      sources[i]:send(text)
      assert.is_true(sinks[i]:receive(#text) == text)
    end
    h:kill "STOP" -- it is to see what comes before it sees that nobody takes it
    for i, source in ipairs(sources) do
      source:flood(400000, 0.01, text)
      sinks[i]:reset()
    end
    h:kill "CONT"
    pump { other }
    assert.is_true(other.got == other.text)
    for _ = 1, 20 do
      assert.equal("EPIPE", (h:line "^broken\t(%w+)"))
    end
  end)

  it("takes two descriptors at most for all that are busy, and gives them back with the last", function()
    local h = serve()
    local control = h:connect()
    assert.equal("ok", control:send "take" and control:line())
    local before, flows = h:descriptors(), {}
    for i = 1, 4 do
      local source, sink, third = join(h)
      third:close()
      flows[i] = { from = source, to = sink, text = numbered("d", 1000000) }
    end
    for _, flow in ipairs(flows) do
      flow.from:send(flow.text:sub(1, 500000))
      assert.equal(500000, #flow.to:receive(500000))
    end
    sys.await(function()
      return h:descriptors() <= before + 8 + 2
    end, function()
      return ("%d descriptors, %d before"):format(h:descriptors(), before)
    end)
    for _, flow in ipairs(flows) do
      flow.text = flow.text:sub(500001)
    end
    pump(flows)
    for _, flow in ipairs(flows) do
      flow.from:close()
      flow.to:close()
    end
    sys.await(function()
      return h:descriptors() == before
    end, function()
      return ("%d descriptors, %d before"):format(h:descriptors(), before)
    end)
  end)

  it("works where no descriptor is left", function()
    local h = host.serve(commands(pair), { limit = 40 })
    local source, sink = join(h)
    local taken
    repeat
      local c = h:connect()
      c:send "take"
      taken = pcall(c.line, c)
    until not taken
    local flow = { from = source, to = sink, text = numbered("n", 2000000) }
    pump { flow }
    assert.is_true(flow.got == flow.text)
  end)
end)
