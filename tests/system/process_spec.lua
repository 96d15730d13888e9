-- Processes: what their protocols hear, what is left of them, and processes as the peers of connections.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"
local sys = require "support.sys"

local HEAD = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local Told = protocol.ProcessProtocol {}
  function Told:init(name) self.name, self.got, self.errors = name or "p", {}, {} end
  function Told:outReceived(data) table.insert(self.got, data) end
  function Told:errReceived(data) table.insert(self.errors, data) end
  function Told:out() return (table.concat(self.got):gsub("\n", ";")) end
  function Told:processEnded(r)
    print(self.name, "out", self:out())
    if #self.errors > 0 then print(self.name, "err", (table.concat(self.errors):gsub("\n", ";"))) end
    print(self.name, "ended", r.code, r.by, r.exitCode, r.signal, r.errno)
  end
  local function sh(line, opts, name)
    return reactor.spawnProcess(Told:new(name), "sh", { "sh", "-c", line }, opts)
  end
]]

-- What is started again when it has ended, and for which a timer is set then. It lives long enough to be started at once.
local AGAIN = [[
  local count = 0
  local Again = protocol.ProcessProtocol {}
  local function again()
    return reactor.spawnProcess(Again:new(), "sh", { "sh", "-c", "sleep 0.2; echo here; exec sleep 1000" })
  end
  function Again:outReceived()
    count = count + 1
    self.number = count
    print("pid", count, self.transport.pid)
  end
  function Again:processEnded()
    local timer = reactor.callLater(0, print, "timer")
    print("instead", self.number, again().pid ~= nil, timer:active() == true)
  end
]]

local TAIL = [[
  return { listen = "tcp:127.0.0.1:0", protocol = {} }
]]

local function serve(text, words)
  return host.serve(HEAD .. text .. TAIL, words)
end

-- A service whose connections run `commands[word]`.
local function serveCommands(text)
  return host.serve(host.commands(HEAD .. text))
end

-- The first line of the output so far that matches, in whatever order they come.
local function said(h, pattern)
  return sys.await(function()
    for line in h:output():gmatch "([^\n]*)\n" do
      if line:find(pattern) then
        return line
      end
    end
    return nil
  end, function()
    return h:story("no line matching " .. pattern)
  end, 60)
end

local function ended(h, name)
  local line = said(h, "^" .. (name or "p") .. "\tended\t")
  return { line:match "ended\t(%S+)\t(%S+)\t(%S+)\t(%S+)\t(%S+)$" }
end

local function isAlive(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  local text = file and file:read "*a"
  if file then
    file:close()
  end
  return text ~= nil and not text:find "%) Z "
end

local function awaitGone(pid)
  sys.await(function()
    return not isAlive(pid)
  end, function()
    return ("process %d lives on"):format(pid)
  end)
end

local function childrenOf(pid)
  local _, out = process.run { "ps", "-o", "pid=,stat=", "--ppid", tostring(pid) }
  local list = {}
  for line in out:gmatch "[^\n]+" do
    list[#list + 1] = line
  end
  return list
end

describe("a process", function()
  after_each(host.cleanup)

  it("is told of in order: made, received, each descriptor lost, exited or not before, ended as the last", function()
    local h = serve [[
      local P = protocol.ProcessProtocol {}
      function P:connectionMade()
        print("made", self.transport.pid > 0, tostring(self.transport:getPeer()))
        self.transport:write "one "
        self.transport:writeSequence { "two", "\n" }
        self.transport:closeStdin()
      end
      function P:outReceived(data) print("received", data:match "^[^\n]*") end
      function P:inConnectionLost() print "in" end
      function P:outConnectionLost() print "out" end
      function P:errConnectionLost() print "err" end
      function P:processExited(r) self.exited = r end
      function P:processEnded(r) print("ended", r.code, r.by, r.exitCode, r.signal, r == self.exited, tostring(r)) end
      reactor.spawnProcess(P:new(), "cat", { "cat" })
    ]]
    assert.equal("made\ttrue\tprocess:cat", said(h, "^made"))
    said(h, "^ended")
    local seen = {}
    for line in h:output():gmatch "[^\n]+" do
      seen[#seen + 1] = line:match "^[a-z]+"
    end
    local text = table.concat(seen, " ")
    assert.truthy(text:find "^listening made .*received.* ended$", text)
    assert.truthy(text:find " in" and text:find " out" and text:find " err", text)
    assert.truthy(h:output():find("ended\tdone\tpeer\t0\tnil\ttrue\tthe process ended with status 0", 1, true))
    h:stop()
  end)

  it("has the arguments, the folder and the environment that it is given, else ours", function()
    local h = serve([[
      reactor.spawnProcess(Told:new "args", "/bin/sh", { "own name", "-c", 'echo "$0|$1|$#"', "zero", "a b", "" })
      sh("pwd; echo $GIVEN-$OURS", { cwd = "/usr/bin", env = { GIVEN = 5 } }, "given")
      sh("echo $OURS", nil, "ours")
    ]], { env = { OURS = "of the host" } })
    assert.equal("args\tout\tzero|a b|2;", said(h, "^args\tout"))
    assert.equal("given\tout\t/usr/bin;5-;", said(h, "^given\tout"))
    assert.equal("ours\tout\tof the host;", said(h, "^ours\tout"))
  end)

  it("that cannot be started ends with the error and its name, and nothing else is called", function()
    local folder = host.folder()
    host.file("plain", "no program")
    local h = serve(([[
      local P = protocol.ProcessProtocol {}
      function P:connectionMade() print "made" end
      function P:processExited() print "exited" end
      function P:childConnectionLost() print "lost" end
      function P:processEnded(r) print("ended", r.code, r.by, r.errno, tostring(r)) end
      local function try(path, opts)
        local transport = reactor.spawnProcess(P:new(), path, { path }, opts)
        print("given", transport.pid, transport:write "x")
        print("signal", transport:signalProcess "TERM")
      end
      reactor.callLater(0, function()
        try(%q)
        try(%q)
        try("cat", { cwd = %q })
        try "no-such-program-in-path"
      end)
    ]]):format(folder .. "/nowhere", folder .. "/plain", folder .. "/gone"))
    for _, expected in ipairs {
      "ENOENT\tcannot start " .. folder .. "/nowhere: No such file or directory",
      "EACCES\tcannot start " .. folder .. "/plain: Permission denied",
      "ENOENT\tcannot start cat: its folder " .. folder .. "/gone: No such file or directory",
      "ENOENT\tcannot start no-such-program-in-path: No such file or directory",
    } do
      assert.equal("ended\tlost\tlocal\t" .. expected, h:line "^ended")
    end
    assert.truthy(h:output():find("given\tnil\tnil\tclosing\tEPIPE", 1, true))
    assert.truthy(h:output():find("signal\tnil\tthe process has ended\tESRCH", 1, true))
    assert.is_nil(h:output():find("\nmade", 1, true) or h:output():find("\nexited", 1, true)
      or h:output():find("\nlost", 1, true))
    assert.same({}, childrenOf(h.pid))
    h:stop()
  end)

  it("tells its exit status, or the signal that ended it and whether that was ours", function()
    local h = serve [[
      sh("exit 0", nil, "zero")
      sh("exit 42", nil, "status")
      sh("kill -HUP $$", nil, "signal")
      local ours = sh("echo ready; exec sleep 1000", nil, "ours")
      function ours.protocol:outReceived() ours:signalProcess "TERM" end
      local kill = sh("echo ready; exec sleep 1000", nil, "kill")
      function kill.protocol:outReceived() kill:signalProcess(9) end
      local aborted = sh("echo ready; exec sleep 1000", nil, "aborted")
      function aborted.protocol:outReceived() aborted:abortConnection() end
    ]]
    assert.same({ "done", "peer", "0", "nil", "nil" }, ended(h, "zero"))
    assert.same({ "lost", "peer", "42", "nil", "nil" }, ended(h, "status"))
    assert.same({ "lost", "peer", "nil", "HUP", "nil" }, ended(h, "signal"))
    assert.same({ "aborted", "local", "nil", "TERM", "nil" }, ended(h, "ours"))
    assert.same({ "aborted", "local", "nil", "KILL", "nil" }, ended(h, "kill"))
    assert.same({ "aborted", "local", "nil", "KILL", "nil" }, ended(h, "aborted"))
    h:stop()
  end)

  it("has the signals of a fresh program, and no descriptor but its own", function()
    local h = serve([[
      sh("while read name value; do case $name in Sig[BI]*) echo $name $value;; esac; done < /proc/$$/status", nil, "signals")
      sh("ls /proc/self/fd | wc -l", nil, "plain")
      sh("ls /proc/self/fd | wc -l", { pty = true }, "pty")
      sh("cat; ls -l /proc/self/fd/0 | grep -c /dev/null", { childFDs = { [1] = "r" } }, "null")
    ]], { env = { LC_ALL = "C" } })
    local signals = said(h, "^signals\tout"):gsub("0000000180000000", "0000000000000000") -- 32 and 33 are the C library's
    assert.equal("signals\tout\tSigBlk: 0000000000000000;SigIgn: 0000000000000000;", signals)
    assert.equal("plain\tout\t4;", said(h, "^plain\tout")) -- ls has one of its own: the folder
    assert.truthy(said(h, "^pty\tout"):find "\t4\r?;$")
    assert.equal("null\tout\t1;", said(h, "^null\tout"))
  end)

  it("reads and writes other descriptors, and shares ours where it is to", function()
    local h = serve [[
      local P = protocol.ProcessProtocol { text = "" }
      function P:connectionMade()
        self.transport:writeToChild(3, "through three\n")
        self.transport:closeChildFD(3)
        print("misuse", pcall(self.transport.writeToChild, self.transport, 4, "x"))
      end
      function P:childDataReceived(fd, data) self.text = self.text .. fd .. ":" .. data:gsub("\n", ";") end
      function P:childConnectionLost(fd) print("lost", fd) end
      function P:processEnded(r) print("ended", self.text, r.code) end
      reactor.spawnProcess(P:new(), "sh", { "sh", "-c", "cat <&3 >&4; echo inherited >&5; echo ours >&2" },
        { childFDs = { [3] = "w", [4] = "r", [5] = 2, [2] = "inherit" } })
    ]]
    assert.truthy(said(h, "^misuse"):find("the process writes to its descriptor 4", 1, true))
    assert.equal("ended\t4:through three;\tdone", said(h, "^ended"))
    h:waitLog "^inherited$"
    h:waitLog "^ours$"
    assert.truthy(h:output():find "lost\t3" and h:output():find "lost\t4")
  end)

  it("that has exited is written to no more, whoever else might read that", function()
    local h = serve [[
      local P = Told {}
      function P:processExited(r) print("exited", r.exitCode) end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "(read go <&3; echo all is read) & echo early; exit 7" },
        { childFDs = { [1] = "r", [3] = "w" } })
    ]]
    assert.equal("exited\t7", said(h, "^exited"))
    assert.equal("p\tout\tearly;all is read;", said(h, "^p\tout"))
    assert.same({ "lost", "peer", "7", "nil", "nil" }, ended(h))
    h:stop()
  end)

  it("has what a grandchild writes after it has exited", function()
    local fifo = host.folder() .. "/go"
    process.run { "mkfifo", fifo }
    local h = serve(([[
      local P = Told {}
      function P:processExited(r) print("exited", r.exitCode) end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "(read go < %s; echo late) & echo early; exit 7" })
    ]]):format(fifo))
    assert.equal("exited\t7", said(h, "^exited"))
    assert.is_nil(h:output():find("p\tended", 1, true))
    process.shell("echo go > " .. fifo)
    assert.equal("p\tout\tearly;late;", said(h, "^p\tout"))
    assert.same({ "lost", "peer", "7", "nil", "nil" }, ended(h))
    h:stop()
  end)

  it("waits while we read nothing of what it writes, and we hold no more than a pipe has", function()
    local h = serveCommands [[
      local transport
      local Q = protocol.ProcessProtocol { bytes = 0 }
      function Q:connectionMade() transport = self.transport; transport:pauseProducing() print "paused" end
      function Q:outReceived(data) self.bytes = self.bytes + #data end
      function Q:processEnded(r) print("ended", r.code, self.bytes) end
      function commands.go()
        reactor.spawnProcess(Q:new(), "sh", { "sh", "-c", "head -c 100000000 /dev/zero; echo done >&2" },
          { childFDs = { [1] = "r", [2] = "inherit" } })
      end
      function commands.resume() transport:resumeProducing() end
      function commands.ask(_, t) t:write("read " .. transport.protocol.bytes .. "\n") end
    ]]
    local c = h:connect()
    c:send "go"
    said(h, "^paused")
    assert.equal("read 0", c:send("ask"):line())
    assert.equal("read 0", c:send("ask"):line())
    assert.is_nil(h:errors():find("done", 1, true))
    c:send "resume"
    h:waitLog "^done$"
    assert.equal("ended\tdone\t100000000", said(h, "^ended"))
    if not host.sanitized then
      assert(h:peakMemory() < 40e6, h:peakMemory())
    end
    h:stop()
  end)

  it("takes as much as it reads of a producer, which is paused and resumed", function()
    local h = serve [[
      local total, paused = 20000000, 0
      local Producer = {}
      Producer.__index = Producer
      local piece = ("x"):rep(10000)
      function Producer:run()
        while not self.paused and self.sent < total do
          self.sent = self.sent + #piece
          self.transport:write(piece)
        end
        if self.sent >= total and not self.done then
          self.done = true
          self.transport:unregisterProducer()
          self.transport:closeStdin()
        end
      end
      function Producer:pauseProducing() self.paused = true; paused = paused + 1
        assert(self.transport:bufferedAmount() < 200000) end
      function Producer:resumeProducing() self.paused = false; self:run() end
      function Producer:stopProducing() end
      local P = Told {}
      function P:connectionMade()
        local producer = setmetatable({ transport = self.transport, sent = 0 }, Producer)
        self.transport:registerProducer(producer, true)
        producer:run()
      end
      function P:processExited() print("paused", paused > 5) end
      reactor.spawnProcess(P:new "p", "wc", { "wc", "-c" })
    ]]
    assert.equal("paused\ttrue", said(h, "^paused"))
    assert.equal("p\tout\t20000000;", said(h, "^p\tout"))
    h:stop()
  end)

  it("that closes its input early loses what is written there, and nothing else", function()
    local h = serve [[
      local P = Told {}
      function P:connectionMade() self.transport:write(("y"):rep(1000000)) end
      function P:inConnectionLost() print("in lost", self.transport:write "more") end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "exec 0<&-; echo still here; sleep 0.1; echo and here" })
    ]]
    assert.equal("in lost\tnil\tclosing\tEPIPE", said(h, "^in lost"))
    assert.equal("p\tout\tstill here;and here;", said(h, "^p\tout"))
    assert.same({ "done", "peer", "0", "nil", "nil" }, ended(h))
  end)

  it("that closes its input is noticed where nothing is written", function()
    local h = serve [[
      local P = Told {}
      function P:inConnectionLost() print "in lost"; self.transport:signalProcess "TERM" end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "exec 0<&-; exec sleep 1000" })
    ]]
    said(h, "^in lost")
    assert.same({ "aborted", "local", "nil", "TERM", "nil" }, ended(h))
  end)

  it("runs on when all that we have of it is closed, if it likes", function()
    local h = serve [[
      local t
      t = sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done", nil, "p")
      function t.protocol:outReceived() t:loseConnection() end
      function t.protocol:errConnectionLost()
        print("closed", t:write "x")
        reactor.callLater(0, function() t:signalProcess "TERM" end)
      end
    ]]
    assert.equal("closed\tnil\tclosing\tEPIPE", said(h, "^closed"))
    assert.same({ "lost", "peer", "5", "nil", "nil" }, ended(h))
  end)

  it("has a pseudo-terminal of the size asked for, and is hung up with it", function()
    local h = serve [[
      sh("tty; stty size; stty size </dev/tty", { pty = { rows = 30, columns = 90 } }, "tty")
      local cat = reactor.spawnProcess(Told:new "cat", "sh", { "sh", "-c", "stty -echo; echo ready; cat" }, { pty = true })
      function cat.protocol:outReceived(data)
        Told.outReceived(self, data)
        if data:find "ready" then cat:write "a line\n"; cat:closeStdin() end
      end
      local size = sh("echo ready; read go; stty size", { pty = true }, "size")
      function size.protocol:outReceived(data)
        Told.outReceived(self, data)
        if data:find "ready" then print("resized", size:setWindowSize(11, 22)); size:write "go\n" end
      end
      local hung = sh("echo ready; exec sleep 1000", { pty = true }, "hung")
      function hung.protocol:outReceived() hung:loseConnection() end
      print("no terminal", sh("exit 0", nil, "none"):setWindowSize(1, 1))
    ]]
    local tty = said(h, "^tty\tout")
    assert.truthy(tty:find "\t/dev/pts/%d+\r;30 90\r;30 90\r;$", tty)
    assert.equal("cat\tout\tready\r;a line\r;", said(h, "^cat\tout"))
    assert.truthy(said(h, "^size\tout"):find "11 22\r;$")
    assert.same({ "lost", "peer", "nil", "HUP", "nil" }, ended(h, "hung"))
    assert.truthy(h:output():find("resized\ttrue", 1, true))
    h:stop()
  end)

  it("runs as the user and the group asked for, or is not started", function()
    local root = (process.shell "test $(id -u) = 0") == 0
    local h = serve [[ sh("id -u; id -g; id -G", { uid = 12345, gid = 23456 }, "p") ]]
    if root then
      assert.equal("p\tout\t12345;23456;23456;", said(h, "^p\tout"))
    else
      assert.same({ "lost", "local", "nil", "nil", "EPERM" }, ended(h))
    end
  end)

  it("whose protocol raises is closed and asked to end, the error logged once", function()
    local h = serve [[
      local P = Told {}
      function P:outReceived() error "oh no" end
      reactor.spawnProcess(P:new "out", "sh", { "sh", "-c", "echo x; exec sleep 1000" })
      local Q = Told {}
      function Q:connectionMade() error "not made" end
      reactor.spawnProcess(Q:new "made", "sh", { "sh", "-c", "exec sleep 1000" })
      local R = Told {}
      function R:processEnded(r) error "at last" end
      reactor.spawnProcess(R:new "last", "true")
    ]]
    assert.same({ "error", "local", "nil", "TERM", "nil" }, ended(h, "made"))
    assert.same({ "error", "local", "nil", "TERM", "nil" }, ended(h, "out"))
    h:waitLog "at last"
    assert.equal(1, h:logged "oh no")
    assert.equal(1, h:logged "not made")
    assert.truthy(h:errors():find "script.lua:%d+: oh no")
    h:stop()
  end)

  it("may have a plain table as its protocol", function()
    local h = serve [[
      local t = { processEnded = function(self, r) print("ended", r.code, self.text) end }
      function t:outReceived(data) self.text = data:match "%w+" end
      reactor.spawnProcess(t, "echo", { "echo", "plain" })
    ]]
    assert.equal("ended\tdone\tplain", said(h, "^ended"))
  end)

  it("is refused at the caller's line where it is asked for wrongly", function()
    local h = serve [[
      local function try(...) print(select(2, pcall(reactor.spawnProcess, ...))) end
      try(protocol.ProcessProtocol, "cat")
      try({}, 5)
      try({}, "a\0b")
      try({}, "cat", { "cat", {} })
      try({}, "cat", { "cat" }, { evn = {} })
      try({}, "cat", { "cat" }, { childFDs = { [1] = "x" } })
      try({}, "cat", { "cat" }, { pty = { rows = 0 } })
      try({}, "cat", { "cat" }, { env = { ["A=B"] = "1" } })
      print(pcall(sh("exit 0").signalProcess, {}, "NONE"))
      print "end"
    ]]
    said(h, "^end")
    for _, text in ipairs {
      "takes a protocol: an instance, not a class", "the path is a string, not a number", "the path has a zero byte",
      "argument 2 is a string, not a table", "spawnProcess knows no option 'evn'",
      'childFDs: [1] = x is none of "r", "w", "inherit" and a descriptor', "rows of a terminal is a number from 1",
      "signalProcess takes the name or the number of a signal, not NONE", "spawnProcess: 'A=B' is no name of a variable",
    } do
      assert.truthy(h:output():find(text, 1, true), text .. "\n" .. h:output())
    end
  end)

  it("leaves nothing: hundreds of them, no descriptor, no zombie, no memory of the core", function()
    local count = host.sanitized and 60 or 300
    local h = serveCommands [[
      local left
      local Q = protocol.ProcessProtocol {}
      local run
      function Q:connectionMade() self.transport:write "x\n"; self.transport:closeStdin() end
      function Q:processEnded() reactor.callLater(0, run) end -- what it starts itself is made to wait
      function run()
        if left == 0 then print "all" return end
        left = left - 1
        local path = left % 10 == 0 and "/no/such/program" or "cat"
        reactor.spawnProcess(Q:new(), path, { path }, { pty = left % 10 == 1 })
      end
      function commands.go(_, _, n) left = tonumber(n); run() end
      function commands.ping(_, t) t:write "pong\n" end
    ]]
    local c = h:connect()
    local function go(n) -- and the turn in which the last one ended is over, too
      c:send("go " .. n)
      h:line("^all$", 60)
      assert.equal("pong", c:send("ping"):line())
      return h:descriptors()
    end
    local before = go(10)
    assert.equal(before, go(count))
    assert.same({}, childrenOf(h.pid))
    h:kill "USR1"
    h:waitLog "alive: 1 connections, .* 0 children"
    h:stop()
  end)

  it("for which there are no descriptors left is told of, and nothing is left of it", function()
    local h = serve([[
      local held, n = {}, 0
      local function fill()
        local file
        repeat
          file = io.open "/dev/null"
          held[#held + 1] = file
        until not file
      end
      local function try()
        local P = Told {}
        function P:processEnded(r)
          Told.processEnded(self, r)
          if r.errno == "EMFILE" then n = n + 1; table.remove(held):close(); try() else print("tries", n) end
        end
        reactor.spawnProcess(P:new "p", "echo", { "echo", "at last" })
      end
      reactor.callLater(0, function() fill() try() end)
    ]], { limit = 60 })
    local tries = tonumber(said(h, "^tries"):match "%d+")
    assert(tries >= 4, tries)
    assert.truthy(h:output():find("p\tout\tat last;\n", 1, true))
    assert.same({}, childrenOf(h.pid))
    h:stop()
  end)

  it("comes by the hundred at once", function()
    local h = serve [[
      local left = 200
      local P = protocol.ProcessProtocol {}
      function P:connectionMade() self.transport:write(("%d\n"):format(self.n)); self.transport:closeStdin() end
      function P:outReceived(data) assert(tonumber(data) == self.n) end
      function P:processEnded(r) assert(r.code == "done"); left = left - 1; if left == 0 then print "all" end end
      for i = 1, left do local p = P:new(); p.n = i; reactor.spawnProcess(p, "cat") end
    ]]
    h:line("^all$", 60)
    assert.equal(0, h:logged "error")
    assert.same({}, childrenOf(h.pid))
    h:stop()
  end)
end)

describe("a process at the other end of a connection", function()
  after_each(host.cleanup)

  local CLIENT = [[
    local reactor = require "skald.reactor"
    local endpoints = require "skald.endpoints"
    local protocol = require "skald.protocol"
    local P = protocol.Protocol {}
    function P:connectionMade() print("made", tostring(self.transport:getPeer()), tostring(self.transport:getHost())) end
    function P:dataReceived(data) self.text = (self.text or "") .. data:gsub("\n", ";") end
    function P:connectionLost(r) print("lost", r.code, r.by, self.text) end
    local function connect(text, made)
      local d = endpoints.clientFromString(text):connect { protocol = P }
      d:addCallbacks(made, function(f) print("failed", f) end)
      return d
    end
  ]]

  local function client(text)
    return host.serve(CLIENT .. text .. TAIL)
  end

  it("is a stream: what is written is its input, what it writes is received, its complaints are logged", function()
    local h = client [[
      connect("process:/bin/sh:-c:echo oh\\: dear >&2; cat; echo $0 $PWD:name:cwd=/usr/bin", function(p)
        p.transport:write "one\n"
        p.transport:loseWriteConnection()
      end)
    ]]
    assert.equal("made\tprocess:/bin/sh\tprocess:/bin/sh", said(h, "^made"))
    assert.equal("lost\tdone\tpeer\tone;name /usr/bin;", said(h, "^lost"))
    h:waitLog "warning process:/bin/sh: oh: dear$"
    h:stop()
  end)

  it("that cannot be started is a connection that cannot be made", function()
    local h = client [[ connect "process:/no/such/program"; connect "process:cat:cwd=/nowhere" ]]
    said(h, "^failed\tcannot connect to process:/no/such/program: No such file or directory$")
    said(h, "^failed\tcannot connect to process:cat: its folder /nowhere: No such file or directory$")
    h:stop()
  end)

  it("may read nothing, and what it writes comes all the same", function()
    local h = client [[
      connect("process:sh:-c:exec 0<&-; echo a; sleep 0.1; echo b", function(p)
        local function more() if p.transport:write(("x"):rep(100000)) then reactor.callLater(0.01, more) end end
        more()
      end)
    ]]
    assert.equal("lost\tdone\tpeer\ta;b;", said(h, "^lost"))
    h:stop()
  end)

  it("sends and takes much, both at once", function()
    local h = client [[
      local bytes, piece = 0, ("0123456789"):rep(1000)
      function P:dataReceived(data)
        bytes = bytes + #data
        if bytes == 20000000 then print "all"; self.transport:loseConnection() end
      end
      connect("process:cat", function(p)
        local producer = { n = 0, resumeProducing = function(self)
          self.n = self.n + 1
          if self.n > 2000 then p.transport:unregisterProducer() else p.transport:write(piece) end
        end, stopProducing = function() end }
        p.transport:registerProducer(producer, false)
      end)
    ]]
    said(h, "^all$")
    assert.equal("lost\tdone\tlocal\tnil", said(h, "^lost"))
    h:stop()
  end)

  it("is asked to end when the connection has and it does not", function()
    local h = client [[
      connect("process:sh:-c:echo $$; exec sleep 1000", function(p)
        function P:dataReceived(data) print("pid", data:match "%d+"); self.transport:loseConnection() end
      end)
    ]]
    local pid = tonumber(said(h, "^pid"):match "%d+")
    said(h, "^lost")
    assert.is_true(isAlive(pid))
    awaitGone(pid)
    h:stop()
  end)

  it("ends with the host", function()
    local h = client [[
      function P:dataReceived(data) print("pid", data:match "%d+") end
      connect("process:sh:-c:echo $$; exec sleep 1000")
    ]]
    local pid = tonumber(said(h, "^pid"):match "%d+")
    h:stop()
    assert.is_false(isAlive(pid))
    assert.truthy(h:output():find("lost\tstopped\thost", 1, true))
  end)

  it("is piped to and from within the core: a port that is a program", function()
    local h = host.run { "portforward", "listen=tcp:127.0.0.1:0", "connect=process:tr:a-z:A-Z" }
    local c = h:connect()
    c:send(("a line\n"):rep(20000))
    c:halfClose()
    local all, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.is_true(all == ("A LINE\n"):rep(20000))
    sys.await(function()
      return #childrenOf(h.pid) == 0
    end, function()
      return h:story "processes are left"
    end)
    h:stop()
  end)

  it("is started anew where a definition stays connected with it", function()
    local h = host.serve([[
      local n, P = 0, {}
      function P:dataReceived() n = n + 1; print("time", n) end
      return { connect = "process:sh:-c:echo x; exit 3", protocol = P, initialDelay = 0, maxRetries = 2 }
    ]], { listening = 0 })
    said(h, "^time\t3$")
    h:waitLog "the process ended with status 3"
    h:stop()
  end)

  it("leaves nothing: a hundred of them", function()
    local h = client [[
      local left = 110
      local function again()
        if left == 10 then print "warm" elseif left == 0 then print "all" return end
        left = left - 1
        connect("process:cat", function(p) p.transport:write "x" end)
      end
      function P:dataReceived() self.transport:loseConnection() end
      function P:connectionLost() reactor.callLater(0, again) end
      again()
    ]]
    said(h, "^all$")
    sys.await(function()
      return #childrenOf(h.pid) == 0
    end, function()
      return h:story "processes are left"
    end)
    h:kill "USR1"
    h:waitLog "alive: 0 connections, .* 0 children"
    h:stop()
  end)
end)

describe("a host that stops", function()
  after_each(host.cleanup)

  it("asks its processes to end, and waits for them", function()
    local h = serve [[
      local P = Told {}
      function P:connectionMade() print("pid", self.transport.pid) end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c",
        "trap 'sleep 0.1; exit 9' TERM; echo ready; while :; do sleep 0.02; done" })
      function P:outReceived() print "ready" end
    ]]
    local pid = tonumber(h:line "^pid\t(%d+)")
    said(h, "^ready")
    h:stop()
    assert.is_false(isAlive(pid))
    assert.truthy(h:output():find("p\tended\tstopped\thost\t9", 1, true), h:output())
  end)

  it("kills those that have not when grace is over", function()
    local h = serve([[
      local P = Told {}
      function P:connectionMade() print("pid", self.transport.pid) end
      function P:outReceived() print "ready" end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done" })
    ]], { options = { "--grace=0.3" } })
    local pid = tonumber(h:line "^pid\t(%d+)")
    said(h, "^ready")
    h:stop()
    assert.is_false(isAlive(pid))
    assert.truthy(h:output():find("p\tended\tstopped\thost\tnil\tKILL", 1, true), h:output())
  end)

  it("kills them at the second signal", function()
    local h = serve [[
      local P = Told {}
      function P:connectionMade() print("pid", self.transport.pid) end
      function P:outReceived() print "ready" end
      reactor.spawnProcess(P:new "p", "sh", { "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done" })
    ]]
    local pid = tonumber(h:line "^pid\t(%d+)")
    said(h, "^ready")
    h:kill "TERM"
    h:waitLog "stopping"
    h:kill "TERM"
    h:ends(0)
    awaitGone(pid)
  end)

  it("waits a second for who holds the output of a process that was the peer of a connection", function()
    local h = serve([[
      local P = protocol.Protocol {}
      function P:dataReceived(data) print("holder", data) end
      local definition = { connect = "process:sh:-c:sleep 1000 & echo $!; exec cat", protocol = P, maxRetries = 0 }
      reactor.callWhenRunning(function()
        require("skald.endpoints").clientFromString(definition.connect):connect({ protocol = P })
      end)
    ]], { options = { "--grace=4" } })
    local holder = tonumber(said(h, "^holder"):match "%d+")
    h:stop()
    assert.is_nil(h:errors():find("grace is over", 1, true))
    assert.is_true(isAlive(holder))
    process.run { "kill", holder }
  end)

  it("starts no process that its end asks for", function()
    local h = serve [[
      function Told:processExited() sh("echo too late", nil, "late") end
      sh("exec sleep 1000", nil, "p")
    ]]
    h:stop()
    assert.truthy(h:output():find("p\tended\tstopped", 1, true))
    assert.truthy(h:output():find("late\tended\tlost\tlocal\tnil\tnil\tECANCELED", 1, true), h:output())
  end)
end)

describe("skald test", function()
  after_each(host.cleanup)

  it("waits for a process within a test, and names one that a test leaves behind", function()
    local path = host.file("a_spec.lua", [[
      local reactor, protocol, defer = require "skald.reactor", require "skald.protocol", require "skald.defer"
      describe("a process", function()
        it("is awaited", function()
          local d = defer.Deferred:new()
          local P = protocol.ProcessProtocol {}
          function P:outReceived(data) self.data = data end
          function P:processEnded() d:callback(self.data) end
          reactor.spawnProcess(P:new(), "echo", { "echo", "hi" })
          assert.equal("hi\n", defer.await(d))
        end)
        it("is left behind", function()
          reactor.spawnProcess({}, "sleep", { "sleep", "1000" })
        end)
      end)
    ]])
    local status, out = host.command { "test", path }
    assert.equal(1, status)
    assert.truthy(out:find("skald test: 1 passed, 1 failed", 1, true), out)
    assert.truthy(out:find("left behind: a process, sleep\n", 1, true), out)
  end)
end)

describe("a process that is started when one has ended", function()
  after_each(host.cleanup)

  it("does not take all there is where it fails at once", function()
    local h = serve [[
      local starts, first = 0, nil
      local P = protocol.ProcessProtocol {}
      function P:processEnded()
        starts, first = starts + 1, first or reactor.seconds()
        if starts == 4 then
          print("four", reactor.seconds() - first >= 0.25)
        else
          reactor.spawnProcess(P:new(), starts == 2 and "/no/such/program" or "true", { "x" })
        end
      end
      reactor.spawnProcess(P:new(), "true", { "true" })
    ]]
    assert.equal("four\ttrue", said(h, "^four"))
    h:stop()
  end)

  it("is told of, and not started, where the host stops meanwhile", function()
    local h = serve [[
      local P = protocol.ProcessProtocol {}
      function P:processEnded(r)
        print("ended", r.code, r.errno)
        if r.code == "done" then
          reactor.spawnProcess(P:new(), "true", { "true" })
          reactor.stop(0)
        end
      end
      reactor.spawnProcess(P:new(), "true", { "true" })
    ]]
    h:ends(0)
    assert.truthy(h:output():find("ended\tdone\tnil\nended\tlost\tECANCELED\n", 1, true), h:output())
  end)
end)

describe("an unload", function()
  after_each(host.cleanup)

  it("ends what would be started again for good", function()
    local text = host.commands(HEAD .. AGAIN .. "function commands.go() again() end")
    local h = host.run { host.script(text, "one.lua"), host.script(text, "two.lua"), listening = 2 }
    h:connect():send "go"
    local pid = tonumber(said(h, "^pid\t1\t"):match "%d+$")
    assert.equal(0, (host.command { "unload", "one" }))
    awaitGone(pid)
    said(h, "^instead\t1\tfalse\tfalse")
    h:stop()
  end)

  it("ends what connections of the service have started, and nothing of other services", function()
    local text = host.commands(HEAD .. [[
      local Mine = Told {}
      function Mine:outReceived() print("pid", self.name, self.transport.pid) end
      function commands.go(_, _, name)
        reactor.spawnProcess(Mine:new(name), "sh", { "sh", "-c", "echo here; exec sleep 1000" })
        reactor.spawnProcess({ outReceived = function(self) print("pid", "plain" .. name, self.transport.pid) end },
          "sh", { "sh", "-c", "echo here; exec sleep 1000" })
      end
    ]])
    local h = host.run { host.script(text, "one.lua"), host.script(text, "two.lua"), listening = 2 }
    local pids = {}
    for i, name in ipairs { "one", "two" } do
      h:connect(nil, i):send("go " .. name)
      for _, which in ipairs { name, "plain" .. name } do
        pids[which] = tonumber(said(h, "^pid\t" .. which .. "\t"):match "(%d+)$")
      end
    end
    assert.equal("committed", reload.run("--force", "one").result)
    assert.equal(0, (host.command { "unload", "one" }))
    awaitGone(pids.one)
    awaitGone(pids.plainone)
    assert.same({ true, true }, { isAlive(pids.two), isAlive(pids.plaintwo) })
    h:stop()
  end)
end)

describe("a reload", function()
  after_each(host.cleanup)

  it("leaves a process that a connection has started, and gives its protocol new code", function()
    host.file("worker.lua", "")
    local module = [[
      local protocol = require "skald.protocol"
      local Worker = protocol.ProcessProtocol {}
      function Worker:outReceived(data) print("@", data:match "^[^\n]*") end
      function Worker:processEnded(r) print("@ ended", r.code) end
      return Worker
    ]]
    local text = [[
      local reactor = require "skald.reactor"
      local Worker = require "worker"
      local P = {}
      local service = require "skald.service"
      local kept = service.persist("kept", function() return {} end)
      function P:dataReceived(data)
        if data == "go" then kept.cat = Worker:new(); reactor.spawnProcess(kept.cat, "cat") print "gone"
        elseif data == "end" then kept.cat.transport:closeStdin()
        else kept.cat.transport:write(data .. "\n") end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    reload.rewrite((module:gsub("@", "first")), "worker.lua")
    local h = host.serve(text)
    local c = h:connect()
    c:send "go"
    said(h, "^gone")
    c:send "one"
    said(h, "^first\tone")
    reload.rewrite((module:gsub("@", "second")), "worker.lua")
    reload.committed()
    c:send "two"
    said(h, "^second\ttwo")
    c:send "end"
    assert.equal("second ended\tdone", said(h, "^second ended"))
    h:stop()
  end)

  it("ends a process that the load has started, and starts the new one's", function()
    local h = serve [[ sh("echo here; exec sleep 1000", nil, "p").protocol.outReceived = function(self)
      print("pid", self.transport.pid) end ]]
    local first = tonumber(h:line "^pid\t(%d+)")
    reload.committed "--force"
    local second = tonumber(h:line "^pid\t(%d+)")
    assert.is_true(isAlive(second))
    awaitGone(first)
    h:stop()
    assert.is_false(isAlive(second))
  end)

  it("ends what was started instead of a process of the load, and that is not started again", function()
    local h = serve(AGAIN .. [[ again() ]])
    local first = tonumber(said(h, "^pid\t1\t"):match "%d+$")
    process.run { "kill", first }
    said(h, "^instead\t1\ttrue\ttrue")
    local second = tonumber(said(h, "^pid\t2\t"):match "%d+$")
    reload.committed "--force"
    awaitGone(second)
    said(h, "^instead\t2\tfalse\tfalse")
    h:stop()
  end)

  it("that is refused starts no process", function()
    local h = serve [[ sh("echo first", nil, "p") ]]
    said(h, "^p\tended")
    reload.rewrite(HEAD .. 'sh("echo second", nil, "p") error "no"')
    reload.refused()
    h:stop()
    assert.is_nil(h:output():find("second", 1, true))
  end)

  it("says that the class of a running process has no successor", function()
    local h = serveCommands [[
      local Mine = protocol.ProcessProtocol {}
      function Mine:outReceived(data) print("old", data) end
      function commands.go()
        reactor.spawnProcess(Mine:new(), "sh", { "sh", "-c", "echo here; exec sleep 1000" })
      end
    ]]
    h:connect():send "go"
    said(h, "^old\there")
    local report = reload.run "--force"
    assert.same({ "committed", "a class that hears of the process sh" }, { report.result, unpack(report.classes.stayed) })
    h:stop()
  end)

  it("by check starts none either", function()
    local path = host.script(HEAD .. 'sh("touch " .. (...).mark) ' .. TAIL)
    local mark = host.folder() .. "/mark"
    assert.equal(0, (host.command { "check", path, "mark=" .. mark }))
    assert.is_nil(io.open(mark))
  end)
end)
