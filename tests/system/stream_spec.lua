-- Protocols that are coroutines, on the real host.

local host = require "support.host"
local client = require "support.client"
local process = require "support.process"
local reload = require "support.reload"

local sys = client.sys

-- A script: `text` has `P.handle`; `extra` goes into the definition.
local function script(text, extra)
  return ([[
    local stream = require "skald.stream"
    local reactor = require "skald.reactor"
    local defer = require "skald.defer"
    local P = stream.StreamProtocol {}
    local function tell(...) print(table.concat({ ... }, " ")) end
    local function outcome(value, _, code) return tostring(value) .. " " .. tostring(code) end
    %s
    return { listen = "tcp:127.0.0.1:0", protocol = P %s }
  ]]):format(text, extra and "," .. extra or "")
end

local function serve(text, extra, words)
  return host.serve(script(text, extra), words)
end

-- An echo of lines, as many other handlers here have it beside them: `self:echo(s, line)`.
local ECHO = [[
  function P:echo(s, line)
    while line do
      s:write(line .. "\n")
      line = s:readLine()
    end
  end
]]

local function echoes(c, word)
  assert.equal(word, c:send(word .. "\n"):line())
end

describe("a handler", function()
  after_each(host.cleanup)

  it("echoes what comes, and more of it than fits anywhere", function()
    local h = serve [[
      function P:handle(s)
        local data = s:read()
        while data do
          assert(s:write(data))
          data = s:read()
        end
      end
    ]]
    local text = ("0123456789abcdef"):rep(131072)
    local status, out, log = process.run {
      "socat", "-t", "10", "-", "tcp:127.0.0.1:" .. h.port, input = host.file("input", text),
    }
    assert.equal(0, status, log)
    assert.is_true(out == text, #out .. " bytes came back")
    h:stop()
  end)

  it("speaks a protocol of lines, however they come", function()
    local h = serve [[
      function P:handle(s)
        local name = s:readLine()
        s:write("hello " .. name .. "\n")
        local n = tonumber(s:readLine())
        while n do
          s:write(s:readExactly(n):upper() .. "\n")
          n = tonumber((s:readUntil ";"))
        end
        s:write("bye\n")
      end
    ]]
    local said = "world\r\n3\nabc4;defg1;h;"
    local function answers(send)
      local c = h:connect()
      send(c)
      assert.same({ "hello world\nABC\nDEFG\nH\nbye\n", "eof" }, { c:receiveAll() })
      c:close()
    end
    answers(function(c) c:send(said) end)
    answers(function(c)
      for at = 1, #said do
        c:send(said:sub(at, at))
        sys.poll({}, 0.001)
      end
    end)
    h:stop()
  end)

  it("that returns at once closes the connection, and its greeting arrives", function()
    local h = serve [[ function P:handle(s) s:write "hello\n" end ]]
    for _ = 1, 20 do
      local c = h:connect():send "what nobody reads"
      assert.same({ "hello\n", "eof" }, { c:receiveAll() })
      c:close()
    end
    h:stop()
  end)

  it("answers a peer that has ended its half", function()
    local h = serve [[
      function P:handle(s)
        local lines = {}
        for line in function() return s:readLine() end do lines[#lines + 1] = line end
        local d = defer.Deferred:new()
        reactor.callLater(0.05, d.callback, d)
        defer.await(d)
        s:write(#lines .. " lines: " .. table.concat(lines, ",") .. "\n")
      end
    ]]
    local status, out = process.run { "nc", "-N", "127.0.0.1", h.port, text = "one\ntwo\nthree" }
    assert.same({ 0, "3 lines: one,two,three\n" }, { status, out })
    h:stop()
  end)

  it("may end its own half and read on", function()
    local h = serve [[
      function P:handle(s)
        s:write "say something\n"
        self.transport:loseWriteConnection()
        tell("read", s:readLine())
      end
    ]]
    local c = h:connect()
    assert.same({ "say something\n", "eof" }, { c:receiveAll() })
    c:send "something\n"
    h:line "^read something$"
    h:stop()
  end)

  it("is ended by who loses its connection from elsewhere", function()
    local h = serve(ECHO .. [[
      function P:handle(s)
        local line = s:readLine()
        if line == "kick" then
          for other in self.factory:each() do
            if other ~= self then other.transport:loseConnection() end
          end
        end
        self:echo(s, line)
        tell "ended"
      end
      function P:connectionLost(reason) tell("lost", reason.code, reason.by) end
    ]])
    local waiting, kicking = h:connect(), h:connect()
    echoes(kicking, "kick")
    assert.same({ "", "eof" }, { waiting:receiveAll() })
    h:line "^ended$"
    h:line "^lost done local$"
    echoes(kicking, "still here")
    h:stop()
  end)

  it("hears that its peer has reset the connection, in the middle of what it waits for", function()
    local h = serve(ECHO .. [[
      function P:handle(s)
        local kind = s:readLine()
        tell("ready", kind)
        local _, code, message, rest
        if kind == "line" then
          _, message, code = s:readLine()
        elseif kind == "count" then
          _, message, code, rest = s:readExactly(100)
        elseif kind == "write" then
          repeat _, message, code = s:write(("x"):rep(65536)) until not _
        else
          return self:echo(s, kind)
        end
        tell(kind, tostring(_), code, rest or "none")
        if not message then tell "no message" end
      end
    ]])
    local other = h:connect()
    echoes(other, "one")
    for kind, told in pairs { line = "none", count = "abc", write = "none" } do
      local c = h:connect()
      c:send(kind .. "\n")
      h:line("^ready " .. kind)
      if kind ~= "write" then
        c:send "abc"
      else
        c:read()
      end
      echoes(other, "what came before is read")
      echoes(other, "now")
      c:reset()
      local value, code, rest = h:line(("^%s (%%S+) (%%S+) (%%S+)$"):format(kind))
      assert.same({ "nil", told }, { value, rest }, kind)
      assert.is_true(code == "ECONNRESET" or kind == "write" and code == "EPIPE", code)
    end
    echoes(other, "two")
    h:stop()
    assert.equal(0, h:logged "no message")
  end)

  it("has a connectionLost of its own called once, after its last line", function()
    local h = serve [[
      function P:handle(s) tell("handle", outcome(s:read())) end
      function P:connectionLost(reason) tell("lost", reason.code) end
    ]]
    local c = h:connect()
    c:reset()
    h:line "^handle nil ECONNRESET$"
    h:line "^lost lost$"
    c = h:connect()
    c:close()
    h:line "^handle nil nil$"
    h:line "^lost done$"
    h:stop()
    assert.equal(2, select(2, h:output():gsub("lost %l+\n", "")))
  end)

  it("that a reload finds waiting goes on in its old code, and new connections run the new one", function()
    local text = script([[
      function P:handle(s)
        for line in function() return s:readLine() end do
          s:write(("@ %s %s\n"):format(line, self:name()))
        end
      end
      function P:name() return "method @" end
    ]])
    local h = reload.serve(text)
    local old = h:connect()
    assert.equal("1 a method 1", old:send("a\n"):line())
    old:send "half a "
    reload.commit(text)
    assert.equal("1 half a line method 2", old:send("line\n"):line())
    local new = h:connect()
    assert.equal("2 b method 2", new:send("b\n"):line())
    old:send "bye"
    old:halfClose()
    assert.same({ "1 bye method 2\n", "eof" }, { old:receiveAll() })
    h:stop()
  end)
end)

describe("an error in handle", function()
  after_each(host.cleanup)

  it("shows the user's lines, closes with the reason error, and harms nobody else", function()
    local text = script(ECHO .. [[
      local function parse(line)
        if line == "bad" then
          error "cannot read that" -- raised
        end
        return line
      end
      function P:handle(s)
        s:write "hello\n"
        s:write(parse(s:readLine()) .. "\n") -- called
        self:echo(s, s:readLine())
      end
      function P:connectionLost(reason) tell("lost", reason.code, reason.by) end
    ]])
    local h = host.serve(text)
    local other, c = h:connect(), h:connect()
    other:line()
    echoes(other, "one")
    assert.equal("hello", c:line())
    c:send "bad\n"
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:line "^lost error local$"
    h:waitLog("script%.lua:" .. host.lineOf(text, "-- raised") .. ": cannot read that")
    h:waitLog("script%.lua:" .. host.lineOf(text, "-- called") .. ":")
    echoes(other, "two")
    h:stop()
    assert.equal(1, h:logged "cannot read that")
    assert.equal(0, h:logged "skald/stream")
  end)

  it("before its first wait closes the connection", function()
    local text = script [[
      function P:handle(s)
        error "at once" -- raised
      end
      function P:connectionLost(reason) tell("lost", reason.code) end
    ]]
    local h = host.serve(text)
    local c = h:connect()
    assert.same({ "", "eof" }, { c:receiveAll() })
    h:line "^lost error$"
    h:stop()
    assert.equal(1, h:logged(("script.lua:%d: at once"):format(host.lineOf(text, "-- raised"))))
  end)

  it("after the end of the connection, at a deadline, or when there is room, is logged once", function()
    local text = script [[
      function P:handle(s)
        local kind = s:readLine()
        if kind == "time" then s:setDeadline(0.05) end
        if kind == "room" then s:write(("x"):rep(4000000)) else s:read() end
        error("after " .. kind) -- raised
      end
      function P:connectionLost(reason) tell("lost", reason.code) end
    ]]
    local h = host.serve(text)
    for kind, code in pairs { ["end"] = "lost", time = "error", room = "error" } do
      local c = h:connect():send(kind .. "\n")
      if kind == "end" then
        c:reset()
      else
        c:receiveAll()
      end
      h:waitLog("after " .. kind)
      h:line("^lost " .. (kind == "end" and "" or code))
      c:close()
    end
    h:stop()
    for _, kind in ipairs { "end", "time", "room" } do
      assert.equal(1, h:logged(("script.lua:%d: after %s"):format(host.lineOf(text, "-- raised"), kind)))
    end
  end)
end)

describe("a peer that", function()
  after_each(host.cleanup)

  it("sends a byte now and then prolongs no deadline, and disturbs nobody", function()
    local h = serve(ECHO .. [[
      function P:handle(s)
        local kind = s:readLine()
        if kind ~= "setTimeout" and kind ~= "setDeadline" then
          return self:echo(s, kind)
        end
        s[kind](s, 0.3)
        local from = reactor.seconds()
        tell(kind, outcome(s:readLine()), ("%.3f"):format(reactor.seconds() - from))
        s[kind](s, nil)
        tell("and", #s:readLine(), "bytes afterwards")
      end
    ]])
    local other = h:connect()
    echoes(other, "one")
    for _, kind in ipairs { "setTimeout", "setDeadline" } do
      local c, sent = h:connect():send(kind .. "\n"), 0
      local limit = sys.now() + sys.deadline
      repeat -- each byte is less than the time behind the one before it
        c:send "x"
        sent = sent + 1
        sys.pass(0.02)
        echoes(other, "echo " .. sent)
        assert.is_true(sys.now() < limit, "it waits for as long as something comes")
      until h:has("^" .. kind)
      local took = tonumber((h:line("^" .. kind .. " nil ETIMEDOUT (%S+)$")))
      assert.is_true(took >= 0.3, took .. " s")
      c:send "y\n"
      h:line(("^and %d bytes afterwards$"):format(sent + 1))
      c:close()
    end
    h:stop()
  end)

  -- A handler that writes for ever, until its deadline; the echo beside it knows how much waits.
  local WRITER = ECHO .. [[
    function P:handle(s)
      local line = s:readLine()
      local kind, size, seconds = line:match "^(write) (%d+) (%S+)$"
      if not kind then
        return self:echo(s, line)
      end
      local chunk, from, n = ("x"):rep(tonumber(size)), reactor.seconds(), 0
      if seconds ~= "none" then s:setDeadline(tonumber(seconds)) end
      tell "writing"
      local ok, _, code
      repeat
        ok, _, code = s:write(chunk)
        n = math.max(n, self.transport:bufferedAmount())
      until not ok
      tell("gave up", code, ("%.3f"):format(reactor.seconds() - from), n)
    end
  ]]

  it("never reads holds up its own handler, at the high water and one write, and nothing else", function()
    for _, size in ipairs { 100, 5000, 200000 } do
      local h = serve(WRITER, "closeTimeout = 0.2")
      local other, c = h:connect(), h:connect { rcvbuf = 4096 }
      echoes(other, "one")
      c:send(("write %d 0.2\n"):format(size))
      h:line "^writing$"
      echoes(other, "two")
      local code, took, most = h:line "^gave up (%S+) (%S+) (%S+)$"
      took, most = tonumber(took), tonumber(most)
      assert.equal("ETIMEDOUT", code)
      assert.is_true(took >= 0.2, took .. " s")
      assert.is_true(most <= 65536 + size, most .. " bytes waited")
      echoes(other, "three")
      c:reset() -- a stop would wait for it to take the rest
      h:stop()
    end
  end)

  it("never reads costs no memory however long it is written to", function()
    local h = serve(WRITER, "closeTimeout = 0.2")
    local other, list = h:connect(), {}
    for i = 1, 20 do
      list[i] = h:connect({ rcvbuf = 4096 }):send "write 10000 none\n"
      h:line "^writing$"
    end
    echoes(other, "all write")
    local before = h:memory()
    for i = 1, 50 do
      echoes(other, "echo " .. i)
      sys.pass(0.01)
    end
    assert.is_true(h:memory() - before < 1048576, (h:memory() - before) .. " bytes more")
    for _, c in ipairs(list) do
      c:reset()
      h:line "^gave up %S+"
    end
    echoes(other, "all gone")
    h:stop()
  end)

  it("reads late gets everything, in order", function()
    local h = serve [[
      function P:handle(s)
        for i = 1, 100 do
          assert(s:write(("%06d"):format(i):rep(10000)))
        end
      end
    ]]
    local c = h:connect { rcvbuf = 4096 }
    sys.pass(0.1)
    local all, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.equal(6000000, #all)
    for i = 1, 100 do
      local from = (i - 1) * 60000 + 1
      assert.is_true(all:sub(from, from + 59999) == ("%06d"):format(i):rep(10000), "piece " .. i)
    end
    h:stop()
  end)

  it("sends much to a handler that is busy is held up, and costs no memory", function()
    local h = serve(ECHO .. [[
      local gate = defer.Deferred:new()
      function P:handle(s)
        local line = s:readLine()
        if line == "open" then
          gate:callback()
        elseif line == "flood" then
          defer.await(gate)
          local n, data = 0, s:read()
          while data do
            n = n + #data
            data = s:read()
          end
          tell("read", n)
          return
        end
        self:echo(s, line)
      end
    ]])
    local other, c = h:connect(), h:connect()
    echoes(other, "one")
    c:send "flood\n"
    local before = h:memory()
    local sent = c:flood(67108864, 0.3)
    assert.is_true(sent < 33554432, sent .. " bytes were taken")
    assert.is_true(h:memory() - before < 2097152, (h:memory() - before) .. " bytes more")
    c:halfClose()
    echoes(h:connect(), "open")
    assert.equal(sent, tonumber((h:line "^read (%d+)$")))
    h:stop()
  end)
end)

describe("the host's stop", function()
  after_each(host.cleanup)

  it("ends handlers that wait, for whatever it is", function()
    local h = serve([[
      function P:handle(s)
        local kind = s:readLine()
        tell("ready", kind)
        if kind == "read" then
          tell("ended", kind, outcome(s:read()))
        elseif kind == "deadline" then
          s:setDeadline(1000)
          tell("ended", kind, outcome(s:readExactly(10)))
        elseif kind == "write" then
          local big = ("x"):rep(4000000)
          tell("ended", kind, outcome(s:write(big)))
        else
          defer.await(defer.Deferred:new())
        end
      end
      function P:connectionLost(reason) tell("lost", reason.code) end
    ]], nil, { options = { "--grace=0.3" } })
    for _, kind in ipairs { "read", "deadline", "write", "await" } do
      h:connect({ rcvbuf = 4096 }):send(kind .. "\n")
      h:line("^ready " .. kind)
    end
    h:stop()
    for _, kind in ipairs { "read", "deadline", "write" } do
      assert.truthy(h:output():find(("ended %s nil stopped\n"):format(kind), 1, true), h:output())
    end
    assert.equal(4, select(2, h:output():gsub("lost stopped\n", "")))
  end)
end)

describe("a StreamProtocol that connects", function()
  after_each(host.cleanup)

  -- A client in the host of each server: `connect` is run at load.
  local function dials(connect)
    local server = serve(ECHO .. [[
      function P:handle(s) self:echo(s, s:readLine()) end
    ]])
    local h = host.run {
      host.script(([[
        local stream = require "skald.stream"
        local reactor = require "skald.reactor"
        local protocol = require "skald.protocol"
        local endpoints = require "skald.endpoints"
        local PORT = %d
        local P = stream.StreamProtocol {}
        function P:handle(s)
          s:write "one\n"
          print("got " .. s:readLine())
          s:write "two\n"
          print("got " .. s:readLine())
          self.transport:loseWriteConnection()
          print("then " .. tostring(s:readLine()))
        end
        %s
      ]]):format(server.port, connect), "client.lua"),
      listening = 0,
      options = { "--control=" .. host.folder() .. "/client.sock" },
    }
    return h, server
  end

  it("by connectTCP asks and is answered", function()
    local h, server = dials [[
      local F = protocol.ClientFactory { protocol = P }
      function F:clientConnectionLost(_, reason) print("lost " .. reason.code) end
      reactor.connectTCP("127.0.0.1", PORT, F)
    ]]
    h:line "^got one$"
    h:line "^got two$"
    h:line "^then nil$"
    h:line "^lost done$"
    h:stop()
    server:stop()
  end)

  it("by an endpoint string asks and is answered", function()
    local h, server = dials [[
      local d = endpoints.clientFromString("tcp:127.0.0.1:" .. PORT):connect(protocol.ClientFactory { protocol = P })
      d:addCallback(function(p) print("connected", p.stream ~= nil) end)
      d:addErrback(print)
    ]]
    h:line "^got one$"
    h:line "^got two$"
    h:line "^then nil$"
    assert.truthy(h:output():find "connected%s+true")
    h:stop()
    server:stop()
  end)

  it("goes on in its old code when it is reloaded while it waits", function()
    local text = [[
      local stream = require "skald.stream"
      local P = stream.StreamProtocol {}
      function P:handle(s)
        print("@ connected")
        for line in function() return s:readLine() end do
          print("@ got " .. line)
        end
        print("@ ended")
      end
      return { { name = "there", connect = "unix:%s", protocol = P, initialDelay = 0.01 } }
    ]]
    text = text:format(host.folder() .. "/server.sock")
    local server = host.run { host.script([[
      local protocol = require "skald.protocol"
      local P = protocol.Protocol {}
      function P:connectionMade() self.transport:write "hello\n" end
      local Control = protocol.Protocol {}
      function Control:dataReceived(line)
        for p in self.factory.others:each() do
          if line == "close\n" then p.transport:loseConnection() else p.transport:write(line) end
        end
      end
      local there = protocol.Factory({ protocol = P, name = "there", listen = "unix:]] .. host.folder() ..
        [[/server.sock" }):new()
      return { { name = "control", listen = "tcp:127.0.0.1:0", protocol = Control, others = there }, there }
    ]], "server.lua"), listening = 2, options = { "--control=" .. host.folder() .. "/server.control" } }
    local h = host.run { host.script(reload.version(text, 1)), listening = 0 }
    local steer = server:connect()
    h:line "^1 got hello$"
    reload.commit(text)
    steer:send "again\n"
    h:line "^1 got again$"
    steer:send "close\n"
    h:line "^1 ended$"
    h:line "^2 connected$"
    h:line "^2 got hello$"
    h:stop()
    server:stop()
  end)
end)
