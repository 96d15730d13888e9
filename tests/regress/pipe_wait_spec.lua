-- Nobody who is part of a pipe waits for what cannot come.

local host = require "support.host"
local sys = require "support.sys"

local commands = host.commands

local pair = [[
  local sink, pipe
  local function told(d)
    d:addBoth(function(r) print("ended", type(r) == "number" and r or r.value.code or r.type) end)
    return d
  end
  function commands.take(self, t) sink = self; t:write "ok\n" end
  function commands.give(self, t) t:write "go\n"; pipe = told(t:pipe(sink.transport)) end
  function commands.cancel(self, t) pipe:cancel(); t:write "ok\n" end
]]

local function serve(more, extra)
  return host.serve(commands(pair .. (more or ""), extra))
end

local function join(h, options)
  local sink = h:connect(options)
  assert.equal("ok", sink:send "take" and sink:line())
  local source = h:connect()
  assert.equal("go", source:send "give" and source:line())
  return source, sink
end

describe("a pipe", function()
  after_each(host.cleanup)

  it("goes on behind a file that failed", function()
    local path = host.file("short", ("x"):rep(100000))
    local h = serve [[
      function commands.file(self, t, path)
        told(t:pipe(sink.transport))
        sink.transport:sendFile(path):addErrback(function(problem) print("file", problem.value.code) end)
        io.open(path, "w"):close()
      end
    ]]
    local sink = h:connect()
    assert.equal("ok", sink:send "take" and sink:line())
    local source = h:connect():send("file " .. path)
    assert.equal("file\tERANGE", h:line())
    source:send "behind"
    assert.equal("behind", sink:receive(6))
  end)

  it("that waits for what its sink's protocol has written leaves the host at rest", function()
    local h = serve [[
      function commands.much(self, t) t:write(("x"):rep(8000000)); print "much" end
      function commands.clock() print("clock", os.clock()) end
    ]]
    local source, sink = join(h, { rcvbuf = 4096 })
    sink:send "much"
    assert.equal("much", h:line())
    source:send "behind"
    local third = h:connect()
    local function clock()
      third:send "clock"
      return tonumber((h:line "^clock\t(.*)"))
    end
    local before = clock()
    sys.pass(0.5)
    assert.is_true(clock() - before < 0.1)
    assert.equal(8000000, #sink:receive(8000000))
    assert.equal("behind", sink:receive(6))
  end)

  it("that waited gives its source its idle time anew", function()
    local h = serve([[
      function commands.much(self, t) t:write(("x"):rep(8000000)); t:write "ok\n" end
      function commands.look(self, t) print("left", sink.transport:bufferedAmount()) end
      function P:connectionLost() print(self == sink and "sink" or self.silent and "silent" or "lost") end
      function commands.silent(self, t) self.silent = true; t:write "ok\n" end
    ]], "idleTimeout = 1")
    local sink = h:connect { rcvbuf = 4096 }
    assert.equal("ok", sink:send "take" and sink:line())
    sink:send "much"
    sink:receive(1)
    local source = h:connect()
    assert.equal("go", source:send "give" and source:line())
    local began, left = sys.now(), 8000001
    while sys.now() - began < 1.7 do
      left = left - #sink:receive(20000)
      sys.pass(0.05)
    end
    local other = h:connect()
    assert.equal("ok", other:send "silent" and other:line())
    sink:receive(left)
    assert.equal("silent", (h:line()))
    assert.equal("ended\ttimeout", (h:line "^ended.*"))
  end)

  it("that is cancelled closes its sink whose input had ended and who does not care", function()
    local h = serve()
    local source, sink = join(h)
    sink:halfClose()
    source:send "still\n"
    assert.equal("still", sink:line())
    assert.equal("ok", h:connect():send "cancel":line())
    assert.equal("ended\tCancelledError", h:line())
    assert.equal("lost\tdone\tpeer", h:line())
    assert.is_nil(sink:read())
  end)

  it("whose source is lost closes its sink whose input had ended and who does not care", function()
    local h = serve()
    local source, sink = join(h)
    sink:halfClose()
    source:send "still\n"
    assert.equal("still", sink:line())
    source:reset()
    assert.equal("ended\tlost", h:line())
    assert.equal("lost\tlost\tpeer", h:line())
    assert.equal("lost\tdone\tpeer", h:line())
    assert.is_nil(sink:read())
  end)
end)

describe("flush", function()
  after_each(host.cleanup)

  it("that sends the last of a file has that told, and costs nothing afterwards", function()
    local path = host.file("long", ("x"):rep(8000000))
    local h = serve([[
      local sending
      function commands.file(self, t, path)
        sending = t
        told(t:sendFile(path))
        print "queued"
      end
      function commands.flush(self, t)
        print "flushing"
        io.stdout:flush()
        repeat sending:flush() until sending:bufferedAmount() == 0
        print "flushed"
      end
    ]])
    local c = h:connect({ rcvbuf = 4096 }):send("file " .. path)
    assert.equal("queued", h:line())
    h:connect():send "flush"
    assert.equal("flushing", h:line())
    assert.equal(8000000, #c:receive(8000000))
    assert.equal("flushed", h:line())
    assert.equal("ended\t8000000", h:line())
  end)
end)
