-- What services see of UDP and of processes, whatever reactor they run on: each case is a script, the lines that it
-- prints, and what a test has to do where there is no system: `prepare` before it runs, `play` then.

local assert = require "luassert"

local reactors = {}

reactors.cases = {
  ["a UDP port brings datagrams, cut off at maxPacketSize, and answers"] = {
    script = [[
      local Server = protocol.DatagramProtocol {}
      function Server:startProtocol() print("start", self.transport:getHost().type) end
      function Server:datagramReceived(data, from, truncated)
        print("server", data, from.type, from.host, truncated)
        print("answers", self.transport:write("to " .. data, from))
      end
      function Server:stopProtocol() print "stop" end
      local server = Server:new()
      local port = reactor.listenUDP(0, server, { interface = "127.0.0.1", maxPacketSize = 5 })
      local count = 0
      local client
      client = reactor.listenUDP(0, {
        startProtocol = function(self)
          local t = self.transport
          local host, number = port:getHost().host, port:getHost().port
          print("long", t:write(("x"):rep(65508), host, number))
          print("six", t:write("x", "::1", number))
          print("misuse", pcall(t.write, t, 5), pcall(t.write, t, "x"))
          print("misuse", pcall(t.write, t, "x", "localhost", 5), pcall(t.setTTL, t, 256))
          print("misuse", pcall(t.write, t, "x", host, 0), pcall(t.joinGroup, t, "all"))
          print("set", t:setTTL(1), t:setLoopbackMode(true), t:setBroadcastAllowed(false))
          print("connect", t.connected, t:connect(host, number))
          print("connect", t.connected, pcall(t.connect, t, host, number))
          print("other", pcall(t.write, t, "x", host, number == 9 and 10 or 9))
          print("write", t:write "", t:write "hello world")
        end,
        datagramReceived = function(self, data, from, truncated)
          print("client", data, from.port == port:getHost().port, truncated)
          count = count + 1
          if count == 2 then
            port:stopListening():addCallback(function()
              print("stopped", server.transport:write("x", "127.0.0.1", 5))
              client:stopListening()
              done()
            end)
          end
        end,
      }, { interface = "127.0.0.1" })
    ]],
    lines = {
      "start\tUDP",
      "long\tnil\tMessage too long\tEMSGSIZE",
      "six\tnil\tAddress family not supported by protocol\tEAFNOSUPPORT",
      "misuse\tfalse\tfalse\twrite takes an address: the port is not connected",
      "misuse\tfalse\tfalse\tsetTTL takes a number from 0 to 255, not 256",
      "misuse\tfalse\tfalse\tjoinGroup takes the IP address of a group, not all",
      "set\ttrue\ttrue\ttrue",
      "connect\tfalse\ttrue",
      "connect\ttrue\tfalse\tconnect: the port is connected already",
      "other\tfalse\twrite: the port is connected to another address",
      "write\ttrue\ttrue",
      "server\t\tUDP\t127.0.0.1\tfalse",
      "answers\ttrue",
      "server\thello\tUDP\t127.0.0.1\ttrue",
      "answers\ttrue",
      "client\tto \ttrue\tfalse",
      "client\tto hello\ttrue\tfalse",
      "stop",
      "stopped\tnil\tclosing\tEPIPE",
    },
  },

  ["a definition has a UDP port with its factory"] = {
    script = [[
      local factory = protocol.Factory {
        startFactory = function() print "startFactory" end,
        stopFactory = function() print "stopFactory" end,
        protocol = {
          startProtocol = function(self)
            print("start", self.factory ~= nil)
            reactor.callLater(0, function() self.transport:stopListening():addCallback(done) end)
          end,
          stopProtocol = function() print "stop" end,
        },
      }
      endpoints.serverFromString("udp:0:interface=127.0.0.1"):listen(factory:new())
    ]],
    lines = { "startFactory", "start\ttrue", "stop", "stopFactory" },
    play = function(memory)
      memory:advance(0)
    end,
  },

  ["a process takes what is written to it, and tells what it writes, and how it ends"] = {
    script = [[
      local function show(name, reason)
        print(name, reason.code, reason.by, reason.exitCode, reason.signal)
      end
      local P = protocol.ProcessProtocol {}
      function P:connectionMade()
        local t = self.transport
        print("made", type(t.pid), tostring(t:getPeer()), t:bufferedAmount())
        print("write", t:write "hel", t:writeSequence { "lo", "\n" })
        print("misuse", pcall(t.write, t, 5), pcall(t.writeToChild, t, 1, "x"))
        print("misuse", pcall(t.signalProcess, t, "NONE"))
        print("no fd", t:writeToChild(7, "x"))
        print("size", t:setWindowSize(10, 10))
        t:closeStdin()
        print("closing", t:write "never")
      end
      function P:outReceived(data)
        print("out", (data:gsub("\n", "")))
        self.transport:writeToChild(3, "end\n")
      end
      function P:inConnectionLost() print "in lost" end
      function P:processExited(reason)
        show("exited", reason)
        print("signal", self.transport:signalProcess "TERM")
      end
      function P:processEnded(reason)
        show("ended", reason)
        print("gone", self.transport:write "x")
        done()
      end
      reactor.spawnProcess(P:new(), "/bin/sh", { "sh", "-c", "read line; echo $line; read line <&3; exit 3" },
        { childFDs = { [0] = "w", [1] = "r", [3] = "w" } })
    ]],
    lines = {
      "made\tnumber\tprocess:/bin/sh\t0",
      "write\ttrue\ttrue",
      "misuse\tfalse\tfalse\tthe process writes to its descriptor 1, and does not read there",
      "misuse\tfalse\tsignalProcess takes the name or the number of a signal, not NONE",
      "no fd\tnil\tclosing\tEPIPE",
      "size\tnil\tInappropriate ioctl for device\tENOTTY",
      "closing\tnil\tclosing\tEPIPE",
      "in lost",
      "out\thello",
      "exited\tlost\tpeer\t3\tnil",
      "signal\tnil\tthe process has ended\tESRCH",
      "ended\tlost\tpeer\t3\tnil",
      "gone\tnil\tclosing\tEPIPE",
    },
    play = function(memory)
      local process = memory.processes[1]
      memory:flush()
      memory:output(process, process:written())
      assert.equal("end\n", process:written(3))
      memory:exit(process, 3)
    end,
  },

  ["a process that is sent a signal is ended by it"] = {
    script = [[
      reactor.spawnProcess(protocol.ProcessProtocol {
        connectionMade = function(self) print("signal", self.transport:signalProcess "TERM") end,
        processEnded = function(_, reason)
          print(reason.code, reason.by, reason.exitCode, reason.signal)
          print(tostring(reason))
          done()
        end,
      }:new(), "/bin/sleep", { "sleep", "60" })
    ]],
    lines = { "signal\ttrue", "aborted\tlocal\tnil\tTERM", "the process was ended by signal TERM" },
    play = function(memory)
      memory:exit(memory.processes[1], memory.processes[1].signals[1])
    end,
  },

  ["a process that cannot be started tells that alone"] = {
    script = [[
      reactor.spawnProcess({
        makeConnection = function() print "made" end,
        processExited = function() print "exited" end,
        processEnded = function(_, reason) print(reason.code, reason.by, reason.errno) done() end,
      }, "/no/such/program")
      print "asked"
    ]],
    lines = { "asked", "lost\tlocal\tENOENT" },
    prepare = function(memory)
      memory.missing["/no/such/program"] = "ENOENT"
    end,
  },
}

local PRELUDE = [[
  local reactor = require "skald.reactor"
  local protocol = require "skald.protocol"
  local endpoints = require "skald.endpoints"
  local pcall_ = pcall
  -- Without the line that is blamed, and cut to what says something.
  local function pcall(...)
    local ok, message = pcall_(...)
    return ok, type(message) == "string" and message:gsub("^[^:]*:%d+: ", "") or message
  end
  local function done() reactor.stop() end
]]

--- The whole script of a case.
function reactors.scriptOf(case)
  return PRELUDE .. " reactor.callWhenRunning(function() " .. case.script .. " end)"
end

return reactors
