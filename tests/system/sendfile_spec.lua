-- transport:sendFile: parts of files, in order with what is written.

local host = require "support.host"
local process = require "support.process"
local sys = require "support.sys"

local commands = host.commands

local told = [[
  local function told(name, d)
    d:addBoth(function(r)
      if type(r) == "number" then print(name, r) else print(name, r.value.code or r.type, r.value.bytes, r.message) end
    end)
  end
]]

local function serve(text, extra)
  return host.serve(commands(told .. text, extra))
end

-- A file in the test's folder; its path and its text.
local function file(size, name)
  local text = ("a line.\n"):rep(size / 8 + 1):sub(1, size)
  return host.file(name or "file", text), text
end

describe("a file that is sent", function()
  after_each(host.cleanup)

  it("comes whole, in order with what is written before and behind it", function()
    local path, text = file(3000000)
    local h = serve(([[
      function commands.go(self, t)
        t:write "before,"
        told("sent", t:sendFile(%q))
        t:write ",behind,"
        told("again", t:sendFile(%q, 8, 7))
        t:write ",end"
        t:loseConnection()
      end
    ]]):format(path, path))
    local c = h:connect()
    c:send "go"
    local all, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.is_true(all == "before," .. text .. ",behind," .. text:sub(9, 15) .. ",end")
    assert.equal("sent\t3000000", h:line())
    assert.equal("again\t7", h:line())
    assert.equal("lost\tdone\tlocal", h:line())
  end)

  it("may be a part: an offset to its end, a length, nothing", function()
    local path, text = file(100)
    local h = serve(([[
      function commands.go(self, t)
        told("tail", t:sendFile(%q, 90))
        told("none", t:sendFile(%q, 100))
        told("zero", t:sendFile(%q, 5, 0))
        told("part", t:sendFile(%q, 5, 3))
      end
    ]]):format(path, path, path, path))
    local c = h:connect()
    c:send "go"
    assert.equal(text:sub(91) .. text:sub(6, 8), c:receive(13))
    assert.equal("none\t0", h:line())
    assert.equal("zero\t0", h:line())
    assert.equal("tail\t10", h:line())
    assert.equal("part\t3", h:line())
  end)

  it("fails with the name of the file where there is none, or none to read, or no such part, and sends nothing", function()
    local path = file(100)
    process.run { "mkfifo", host.folder() .. "/pipe" }
    local h = serve(([[
      function commands.go(self, t)
        told("missing", t:sendFile(%q))
        told("folder", t:sendFile(%q))
        told("fifo", t:sendFile(%q))
        told("behind", t:sendFile(%q, 101))
        told("more", t:sendFile(%q, 90, 11))
        t:write "end"
      end
    ]]):format(host.folder() .. "/missing", host.folder(), host.folder() .. "/pipe", path, path))
    local c = h:connect()
    c:send "go"
    assert.equal("end", c:receive(3))
    for _, wanted in ipairs { "missing\tENOENT", "folder\tEISDIR", "fifo\tEINVAL", "behind\tERANGE", "more\tERANGE" } do
      local line = h:line()
      assert.equal(wanted .. "\t0", line:match "^%a+\t%a+\t%d")
      assert.truthy(line:find("cannot send " .. host.folder(), 1, true), line)
    end
  end)

  it("waits for a slow peer without taking memory, and counts as buffered", function()
    local path = file(20000000)
    local h = serve(([[
      function commands.go(self, t)
        told("sent", t:sendFile(%q))
        t:flush()
        print("waits", t:bufferedAmount())
        t:loseConnection()
      end
    ]]):format(path), "maxBuffered = 1000")
    local before = h:memory()
    local c = h:connect { rcvbuf = 65536 }
    c:send "go"
    local waits = tonumber((h:line "^waits\t(%d+)"))
    assert.is_true(waits > 10000000, "waits " .. waits)
    assert.equal("ok", h:connect() and "ok") -- others are served meanwhile
    local count, ending = c:count()
    assert.equal(20000000, count)
    assert.equal("eof", ending)
    assert.equal("sent\t20000000", h:line())
    assert.is_true(h:memory() - before < 5000 * 1024, ("%d KB more"):format((h:memory() - before) / 1024))
  end)

  it("fails where it becomes shorter meanwhile, says how much was sent, and what follows is sent", function()
    local path = file(12000000)
    local h = serve(([[
      function commands.go(self, t)
        told("sent", t:sendFile(%q))
        t:write "behind"
        t:loseConnection()
        t:flush()
        print "begun"
      end
    ]]):format(path))
    local c = h:connect { rcvbuf = 65536 }
    c:send "go"
    assert.equal("begun", h:line())
    process.run { "truncate", "-s", "1000", path }
    local all, ending = c:receiveAll()
    assert.equal("eof", ending)
    local code, bytes = h:line "^sent\t(%w+)\t(%d+)\tthe file was not sent to its end: it became shorter"
    assert.equal("ERANGE", code)
    assert.equal(#all - 6, tonumber(bytes))
    assert.equal("behind", all:sub(-6))
  end)

  it("fails with the reason where the connection is lost before", function()
    local path = file(12000000)
    local h = serve(([[
      function commands.go(self, t)
        told("first", t:sendFile(%q))
        told("second", t:sendFile(%q))
        t:flush()
        print "begun"
      end
    ]]):format(path, path))
    local before = h:descriptors()
    local c = h:connect { rcvbuf = 65536 }
    c:send "go"
    assert.equal("begun", h:line())
    c:reset()
    assert.equal("lost", (h:line "^first\t(%w+)"))
    assert.equal("lost", (h:line "^second\t(%w+)"))
    assert.equal("lost\tlost\tpeer", h:line())
    sys.await(function()
      return h:descriptors() == before
    end)
  end)

  it("is refused after loseConnection, and where 64 wait already; each that waits holds one descriptor", function()
    local path = file(400000)
    local h = serve(([[
      function commands.late(self, t) t:loseConnection(); told("late", t:sendFile(%q)) end
      function commands.many(self, t)
        for i = 1, 64 do t:sendFile(%q):addErrback(function() end) end
        told("more", t:sendFile(%q))
      end
      function commands.hello(self, t) t:write "hello" end
    ]]):format(path, path, path))
    local late = h:connect()
    late:send "late"
    assert.equal("EPIPE", (h:line "^late\t(%w+)\t0"))
    assert.truthy(h:line "^lost")
    late:close()
    local c = h:connect { rcvbuf = 4096 }
    c:send "none"
    h:waitLog "no command none"
    assert.truthy(h:line "^lost\terror")
    c = h:connect { rcvbuf = 4096 }
    c:send "hello"
    assert.equal("hello", c:receive(5))
    local before = h:descriptors()
    c:send "many"
    assert.equal("ENOBUFS", (h:line "^more\t(%w+)\t0"))
    assert.is_true(h:descriptors() > before + 32)
    local count = 0
    while count < 64 * 400000 do
      count = count + #c:read(1000000)
    end
    sys.await(function()
      return h:descriptors() == before
    end)
  end)

  it("can be followed by the next from its callback, for ever, and others are served between", function()
    local path = file(10)
    local h = serve(([[
      function commands.loop(self, t)
        local function again()
          return t:sendFile(%q):addCallback(again)
        end
        again():addErrback(function() end)
      end
      function commands.hello(self, t) t:write "hello" end
    ]]):format(path))
    local c = h:connect()
    c:send "loop"
    c:receive(1000)
    assert.equal("hello", h:connect():send "hello" and "hello")
    local other = h:connect()
    other:send "hello"
    assert.equal("hello", other:receive(5))
    c:reset()
    assert.truthy(h:line "^lost\tlost\tpeer")
  end)

  it("keeps a pull producer waiting until it is through", function()
    local path = file(2000000)
    local h = serve(([[
      function commands.go(self, t)
        told("sent", t:sendFile(%q))
        local producer = {}
        function producer:resumeProducing()
          print("room", t:bufferedAmount())
          t:write "end"
          t:unregisterProducer()
          t:loseConnection()
        end
        function producer:stopProducing() end
        t:registerProducer(producer, false)
      end
    ]]):format(path))
    local c = h:connect()
    c:send "go"
    local count = c:count()
    assert.equal(2000003, count)
    assert.equal("sent\t2000000", h:line())
    assert.equal("room\t0", h:line())
  end)

  it("takes a path and numbers of bytes, and blames the caller's line for others", function()
    local h = serve [[
      function commands.go(self, t)
        local function try(...)
          local ok, message = pcall(function(...) t:sendFile(...) end, ...) -- here
          print(ok, (message:gsub("^.*/", "")))
        end
        try(12)
        try("a\0b")
        try("a", -1)
        try("a", 0, 1.5)
        try("a", "x")
      end
    ]]
    h:connect():send "go"
    for _, wanted in ipairs {
      "sendFile takes the path of a file, not a number", "sendFile takes the path of a file, not a zero byte",
      "sendFile: offset is a number of bytes, not %-1", "sendFile: length is a number of bytes, not 1.5",
      "sendFile: offset is a number of bytes, not x",
    } do
      assert.truthy(h:line("^false\tscript.lua:%d+: " .. wanted))
    end
  end)
end)
