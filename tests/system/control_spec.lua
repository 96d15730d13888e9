-- The control socket: where it lies, who may ask, the commands and their answers, and whatever else arrives on it.

local ffi = require "ffi"
local cjson = require "cjson.safe"
local client = require "support.client"
local control = require "support.control"
local host = require "support.host"
local process = require "support.process"

local sys = client.sys
local isRoot = ffi.C.getuid() == 0
local NOBODY = 65534

-- Without XDG_RUNTIME_DIR the socket lies in the temporary folder: that of the test.
local function temporary()
  return { XDG_RUNTIME_DIR = false, TMPDIR = host.folder() }
end

local function userFolder()
  return ("%s/skald-%d"):format(host.folder(), ffi.C.getuid())
end

-- How many lines a text has.
local function lines(text)
  return select(2, text:gsub("\n", ""))
end

-- The host says in its log that it has no control socket, and why.
local function awaitWithout(h, path)
  local line = h:waitLog(control.escape(path))
  assert.truthy(line:find("control", 1, true), line)
  return line
end

-- No command reaches a host there: 2, and one line that names the path.
local function assertUnreachable(path, words, env)
  local all = { env = env, unpack(words) }
  local status, out, log = host.command(all)
  assert.equal(2, status, log)
  assert.equal("", out)
  assert.equal(1, lines(log), log)
  assert.truthy(log:find(path, 1, true), log)
end

-- An answer that refuses a request, and says why.
local function assertError(answer, text, what)
  if type(answer) ~= "table" then
    error(("%s is answered with %q"):format(what, text), 2)
  end
  assert.equal("error", answer.result, what)
  assert.equal("string", type(answer.errors[1].message), what)
  assert.is_true(#answer.errors[1].message > 0, what)
end

-- The host answers and serves as if nothing had been.
local function assertServes(h, word)
  assert.equal(h.pid, control.status().pid)
  assert.equal(word, control.word(h))
end

describe("the control socket", function()
  after_each(host.cleanup)

  it("lies in XDG_RUNTIME_DIR with mode 0600, answers once the host listens, and is gone when it has ended", function()
    local h = host.serve(control.answering "one")
    assert.equal(h.pid, control.status().pid)
    assert.equal("600 socket", control.modeOf(control.path()))
    h:stop()
    assert.is_false(control.exists(control.path()))
  end)

  it("has mode 0600 whatever the umask", function()
    local script = host.script(control.answering "one")
    local p = process.start {
      "sh", "-c", 'umask 0; exec "$0" run "$1"', host.binary, script, env = { XDG_RUNTIME_DIR = host.folder() },
    }
    p:line "^listening"
    assert.equal("600 socket", control.modeOf(control.path()))
    p:kill "TERM"
    assert.equal(0, p:wait())
  end)

  it("lies in a folder of mode 0700 in TMPDIR where there is no XDG_RUNTIME_DIR, and commands look there too", function()
    for _, value in ipairs { false, "" } do
      local env = { XDG_RUNTIME_DIR = value, TMPDIR = host.folder() }
      local h = host.serve(control.answering "one", { env = env })
      assert.equal("700 directory", control.modeOf(userFolder()))
      assert.equal("600 socket", control.modeOf(userFolder() .. "/control.sock"))
      assert.equal(h.pid, control.status({ env = env }).pid)
      h:stop()
    end
  end)

  it("uses that folder again when it is there", function()
    control.makeFolder(("skald-%d"):format(ffi.C.getuid()))
    control.must { "chmod", "700", userFolder() }
    local h = host.serve(control.answering "one", { env = temporary() })
    assert.equal(h.pid, control.status({ env = temporary() }).pid)
  end)

  -- The host serves, but nobody controls it; the folder is left as it was.
  local function assertFolderRefused(before)
    local h = host.serve(control.answering "one", { env = temporary() })
    awaitWithout(h, userFolder())
    assert.equal("one", control.word(h))
    assert.equal(before, control.modeOf(userFolder()))
    assertUnreachable(userFolder(), { "status" }, temporary())
    h:stop()
  end

  it("is done without where others may enter that folder", function()
    for _, mode in ipairs { "755", "770", "701" } do
      control.must { "mkdir", "-m", mode, userFolder() }
      assertFolderRefused(mode .. " directory")
      assert.is_false(control.exists(userFolder() .. "/control.sock"))
      control.must { "rmdir", userFolder() }
    end
  end)

  it("is done without where that folder is a file", function()
    host.file(userFolder():match "[^/]+$", "precious")
    control.must { "chmod", "700", userFolder() }
    assertFolderRefused "700 regular file"
  end)

  it("is done without where that folder is a link to somewhere else, though it be ours", function()
    local real = control.makeFolder "elsewhere"
    control.must { "chmod", "700", real }
    control.must { "ln", "-s", real, userFolder() }
    assertFolderRefused "777 symbolic link"
    assert.is_false(control.exists(real .. "/control.sock"))
  end)

  it("is not looked for in a folder that others may enter: whoever answers there may be anybody", function()
    control.must { "mkdir", "-m", "755", userFolder() }
    local path = userFolder() .. "/control.sock"
    local h = host.serve(control.answering "one", { options = { "--control", path } })
    assertUnreachable(path, { "status" }, temporary())
    assert.equal(h.pid, control.status({ "--control", path }).pid)
  end)

  if isRoot then
    it("is done without where that folder belongs to somebody else", function()
      control.must { "mkdir", "-m", "700", userFolder() }
      control.must { "chown", tostring(NOBODY), userFolder() }
      assertFolderRefused "700 directory"
      assert.is_false(control.exists(userFolder() .. "/control.sock"))
    end)

    it("refuses another user, even one who may connect", function()
      local h = host.serve(control.answering "one")
      control.must { "chmod", "755", host.folder() }
      control.must { "chmod", "666", control.path() }
      local function asNobody(request)
        return process.run {
          "setpriv", "--reuid=" .. NOBODY, "--regid=" .. NOBODY, "--clear-groups", "nc", "-N", "-U", control.path(),
          input = host.file("request", request .. "\n"),
        }
      end
      for _, request in ipairs { '{"command":"status"}', '{"command":"reload","force":true}', '{"command":"stop"}' } do
        local _, out, log = asNobody(request)
        assert.equal("", out)
        assert.falsy(log:find("Permission denied", 1, true), log)
        h:waitLog(tostring(NOBODY))
      end
      assertServes(h, "one")
      assert.equal(1, control.service("script").generation)
      assert.equal(cjson.null, control.service("script").lastReload)
    end)
  end

  it("lies where --control says, and nowhere else", function()
    local path = host.folder() .. "/other.sock"
    local h = host.serve(control.answering "one", { options = { "--control=" .. path } })
    assert.equal("600 socket", control.modeOf(path))
    assert.is_false(control.exists(control.path()))
    assert.equal(h.pid, control.status({ "--control", path }).pid)
    assertUnreachable(control.path(), { "status" })
    control.replace("script.lua", control.answering "two")
    local answer, status = control.json { "reload", "--control=" .. path }
    assert.same({ "committed", 0 }, { answer.result, status })
    assert.equal("two", control.word(h))
    status = host.command { "stop", "--control=" .. path }
    assert.equal(0, status)
    h:ends(0)
    assert.is_false(control.exists(path))
  end)

  it("is done without by a second host that finds the usual one taken; the first one keeps it", function()
    local first = host.serve(control.answering "one")
    local second = host.run { host.script(control.answering "two", "second.lua") }
    awaitWithout(second, control.path())
    assert.equal("two", control.word(second))
    assert.equal(first.pid, control.status().pid)
    second:stop()
    assert.equal(first.pid, control.status().pid)
  end)

  it("that --control names and another host has is an error with 1, and the other one keeps it", function()
    local path = host.folder() .. "/other.sock"
    local h = host.serve(control.answering "one", { options = { "--control=" .. path } })
    local second = host.script(control.answering "two", "second.lua")
    local status, out, log = host.command { "run", "--control=" .. path, second }
    assert.equal(1, status, log)
    assert.equal("", out)
    assert.equal(1, lines(log), log)
    assert.truthy(log:find(path, 1, true), log)
    assert.equal(h.pid, control.status({ "--control=" .. path }).pid)
  end)

  it("takes the place of one that its host left behind", function()
    local path = host.folder() .. "/other.sock"
    local h = host.serve(control.answering "one", { options = { "--control=" .. path } })
    local usual = host.run { host.script(control.answering "two", "second.lua") }
    for _, killed in ipairs { h, usual } do
      killed:kill "KILL"
      killed:ends "SIGKILL"
    end
    assert.is_true(control.exists(path))
    assert.is_true(control.exists(control.path()))
    for _, words in ipairs { {}, { "--control=" .. path } } do
      assertUnreachable(words[1] and path or control.path(), { "status", unpack(words) })
      local again = host.serve(control.answering "three", { options = words })
      assert.equal(again.pid, control.status(words).pid)
      again:stop()
    end
  end)

  it("never takes the place of a file that is no socket", function()
    local path = host.file("skald.sock", "precious")
    local h = host.serve(control.answering "one")
    awaitWithout(h, path)
    assert.equal("one", control.word(h))
    h:stop()
    local status, _, log = host.command { "run", "--control=" .. path, host.folder() .. "/script.lua" }
    assert.equal(1, status)
    assert.truthy(log:find(path, 1, true), log)
    assert.equal("precious", io.open(path):read "*a")
  end)

  it("that cannot be made where --control says is an error with 1 and the reason", function()
    local script = host.script(control.answering "one")
    for path, reason in pairs {
      [host.folder() .. "/nowhere/x.sock"] = "no such file",
      [host.folder() .. "/" .. ("long"):rep(40)] = "long",
    } do
      local status, out, log = host.command { "run", "--control", path, script }
      assert.equal(1, status)
      assert.equal("", out)
      assert.truthy(log:lower():find(reason, 1, true), log)
    end
  end)

  it("counts as no connection of any service, and does not outlive the host's grace", function()
    local h = host.serve(control.answering "one", { options = { "--grace=1000" } })
    local idle = control.send '{"command":'
    assert.equal(0, control.service("script").connections)
    h:stop()
    assert.is_nil((control.answer(idle)))
  end)
end)

describe("skald status", function()
  after_each(host.cleanup)

  it("says in a few lines what runs", function()
    local h = host.serve(control.answering "one")
    local c = h:connect()
    control.ask(c)
    local status, out, log = host.command { "status" }
    assert.equal(0, status)
    assert.equal("", log)
    for _, word in ipairs { "script", "generation 1", "1 connection", h.endpoints[1].endpoint, tostring(h.pid) } do
      assert.truthy(out:find(word, 1, true), ("it does not say %q: %s"):format(word, out))
    end
  end)

  it("--json says it as the contract spells it", function()
    local h = host.serve(control.answering "one")
    local answer, line = control.status()
    assert.truthy(line:find "^[^\n]+\n$")
    assert.equal(h.pid, answer.pid)
    assert.is_true(answer.uptime >= 0 and answer.uptime < 60)
    assert.equal(1, #answer.services)
    local service = answer.services[1]
    assert.equal("script", service.name)
    assert.equal(1, service.generation)
    assert.equal(0, service.connections)
    assert.same({ h.endpoints[1].endpoint }, service.endpoints)
    assert.equal(cjson.null, service.lastReload)
    assert.equal(0, service.refused)
    assert.truthy(line:find('"oldGenerations":[]', 1, true), line)
    assert.is_true(control.status().uptime >= answer.uptime)
  end)

  it("counts the connections that are open", function()
    local h = host.serve(control.answering "one")
    local list = {}
    for i = 1, 5 do
      list[i] = h:connect()
      control.ask(list[i])
    end
    assert.equal(5, control.service("script").connections)
    list[1]:reset()
    list[2]:close()
    sys.await(function()
      return control.service("script").connections == 3
    end, function()
      return h:story "two connections are gone and still counted"
    end)
  end)

  it("tells how the last reload went, and how many were refused", function()
    host.serve(control.answering "one")
    control.replace("script.lua", control.answering "two")
    control.json { "reload" }
    local service = control.service "script"
    assert.equal(2, service.generation)
    assert.equal("committed", service.lastReload.result)
    assert.equal(0, service.refused)
    local text = select(2, host.command { "status" })
    assert.truthy(text:find("committed", 1, true), text)

    control.replace("script.lua", "\n\nlocal = 5")
    control.json { "reload" }
    service = control.service "script"
    assert.equal(2, service.generation)
    assert.equal("refused", service.lastReload.result)
    assert.equal(1, service.refused)
    text = select(2, host.command { "status" })
    assert.truthy(text:find("refused", 1, true), text)
    assert.truthy(text:find("script.lua:3: ", 1, true), text)
  end)

  it("lists the services in the order in which they came, each with its own endpoints", function()
    local a = host.script(control.answering("a", 'name = "inner"'), "a.lua")
    local b = host.script([[
      return {
        { name = "x", listen = { "tcp:127.0.0.1:0", "tcp:127.0.0.1:0" }, protocol = {} },
        { name = "y", listen = "tcp:127.0.0.1:0", protocol = {} },
      }
    ]], "b.lua")
    local h = host.run { b, a, listening = 4 }
    local services = control.status().services
    assert.same({ "b", "a" }, { services[1].name, services[2].name })
    assert.same({ h.endpoints[4].endpoint }, services[2].endpoints)
    local expected = {}
    for i = 1, 3 do
      expected[i] = h.endpoints[i].endpoint
    end
    table.sort(expected)
    table.sort(services[1].endpoints)
    assert.same(expected, services[1].endpoints)
  end)
end)

describe("skald reload", function()
  after_each(host.cleanup)

  it("says in a few lines what it has done, and ends with 0", function()
    local h = host.serve(control.answering "one")
    control.replace("script.lua", control.answering "two")
    local status, out, log = host.command { "reload" }
    assert.equal(0, status, log)
    assert.equal("", log)
    assert.truthy(out:find("script: generation 1 -> 2", 1, true), out)
    assert.truthy(out:find("script.lua", 1, true), out)
    assert.equal("two", control.word(h))
    status, out = host.command { "reload" }
    assert.equal(0, status)
    assert.truthy(out:find("script", 1, true) and out:find("nothing changed", 1, true), out)
  end)

  it("--json says it as the contract spells it", function()
    local h = host.serve(control.answering "one")
    local c = h:connect()
    assert.equal("one", control.ask(c))
    control.replace("script.lua", control.answering "two")
    local answer, status, line, log = control.json { "reload" }
    assert.equal(0, status)
    assert.equal("", log)
    assert.truthy(line:find "^[^\n]+\n$")
    assert.equal("committed", answer.result)
    assert.equal("script", answer.service)
    assert.equal(1, answer.from)
    assert.equal(2, answer.generation)
    assert.equal(1, #answer.modules.changed)
    assert.truthy(answer.modules.changed[1]:find "/script%.lua$")
    assert.same({ h.endpoints[1].endpoint }, answer.endpoints.kept)
    assert.equal(1, answer.instances)
    assert.equal(0, answer.timers.ended)
    assert.equal(0, answer.timers.left)
    for _, name in ipairs { "snapshot", "compile", "load", "check", "prepare", "commit", "retire" } do
      assert.equal("number", type(answer.phases[name]), name)
    end
    assert.is_true(answer.pause_us > 0 and answer.stall_us >= answer.pause_us, line)
    for _, key in ipairs { "kept", "warnings", "errors", "added", "removed", "stayed" } do
      assert.truthy(line:find(('"%s":[]'):format(key), 1, true), key .. " is no empty list: " .. line)
    end
    assert.equal("table", type(answer.classes.switched))
    assert.equal("two", control.ask(c))
  end)

  it("--json says that nothing changed, unless it is forced", function()
    host.serve(control.answering "one")
    local answer, status = control.json { "reload" }
    assert.same({ "unchanged", 1, 0 }, { answer.result, answer.generation, status })
    answer, status = control.json { "reload", "--force" }
    assert.same({ "committed", 1, 2, 0 }, { answer.result, answer.from, answer.generation, status })
    answer, status = control.json { "reload", "script" }
    assert.same({ "unchanged", 2, 0 }, { answer.result, answer.generation, status })
  end)

  it("ends with 1 for a refusal and gives file and line, as text and as JSON", function()
    local h = host.serve(control.answering "one")
    control.replace("script.lua", "local x = 1\nlocal = 2\n")
    local answer, status = control.json { "reload" }
    assert.equal(1, status)
    assert.same({ "refused", 1, 1 }, { answer.result, answer.from, answer.generation })
    assert.equal("compile", answer.errors[1].phase)
    assert.truthy(answer.errors[1].file:find "script%.lua$")
    assert.equal(2, answer.errors[1].line)
    assert.is_true(#answer.errors[1].message > 0)
    local out, log
    status, out, log = host.command { "reload", "--force" }
    assert.equal(1, status)
    assert.equal("", out)
    assert.truthy(log:find("script.lua:2: ", 1, true), log)
    assert.truthy(log:find("refused", 1, true), log)
    assert.equal("one", control.word(h))
  end)

  it("reloads all services when none is named; the worst result counts", function()
    local a = host.script(control.answering "a1", "a.lua")
    local b = host.script(control.answering "b1", "b.lua")
    local d = host.script(control.answering "d1", "d.lua")
    local h = host.run { a, b, d, listening = 3 }
    control.replace("a.lua", control.answering "a2")
    local answer, status = control.json { "reload" }
    assert.same({ "committed", 0, 3 }, { answer.result, status, #answer.services })
    local results = {}
    for _, report in ipairs(answer.services) do
      results[report.service] = report.result
    end
    assert.same({ a = "committed", b = "unchanged", d = "unchanged" }, results)

    answer, status = control.json { "reload" }
    assert.same({ "unchanged", 0 }, { answer.result, status })

    control.replace("b.lua", "local = 1")
    control.replace("d.lua", control.answering "d2")
    answer, status = control.json { "reload" }
    assert.same({ "refused", 1 }, { answer.result, status })
    assert.same({ "a2", "b1", "d2" }, { control.word(h, 1), control.word(h, 2), control.word(h, 3) })
    local text = select(2, host.command { "reload", "--force" })
    assert.truthy(text:find("a: generation 2 -> 3", 1, true), text)
    assert.truthy(text:find("d: generation 2 -> 3", 1, true), text)
  end)

  it("reloads the one that is named, and no other", function()
    local a = host.script(control.answering "a1", "a.lua")
    local b = host.script(control.answering "b1", "b.lua")
    local h = host.run { a, b, listening = 2 }
    control.replace("a.lua", control.answering "a2")
    control.replace("b.lua", control.answering "b2")
    local answer = control.json { "reload", "b" }
    assert.same({ "committed", "b" }, { answer.result, answer.service })
    assert.same({ "a1", "b2" }, { control.word(h, 1), control.word(h, 2) })
    assert.equal(1, control.service("a").generation)
  end)

  it("ends with 2 and names the service for one that does not exist", function()
    local h = host.serve(control.answering "one")
    control.replace("script.lua", control.answering "two")
    for _, command in ipairs { "reload", "unload" } do
      local status, out, log = host.command { command, "nonesuch" }
      assert.equal(2, status)
      assert.equal("", out)
      assert.equal(1, lines(log), log)
      assert.truthy(log:find("nonesuch", 1, true), log)
      local answer
      answer, status = control.json { command, "nonesuch" }
      assert.same({ "error", 2 }, { answer.result, status })
      assert.truthy(answer.errors[1].message:find("nonesuch", 1, true))
    end
    assert.equal("one", control.word(h))
    assert.equal(1, control.service("script").generation)
  end)

  -- Several asked while one is under way: the engine may take each as it comes only if it has ended the one before.
  it("makes one more of all that are asked for while one is under way, which sees the files as they are then", function()
    local h = host.serve(control.answering "one")
    local gate = host.folder() .. "/gate"
    control.replace("script.lua", control.answering("two", nil, ([[
      print "loading"
      io.stdout:flush()
      for _ = 1, 1e8 do
        local file = io.open "%s"
        if file then
          file:close()
          break
        end
      end
    ]]):format(gate)))
    local first = control.send '{"command":"reload"}\n'
    h:line "^loading$"
    local more = {}
    for i = 1, 5 do
      more[i] = control.send '{"command":"reload","force":true}\n'
    end
    control.replace("script.lua", control.answering "three")
    host.file("gate", "open")
    local answer = control.answer(first)
    assert.same({ "committed", 1, 2 }, { answer.result, answer.from, answer.generation })
    for _, c in ipairs(more) do
      answer = control.answer(c)
      assert.same({ "committed", 2, 3 }, { answer.result, answer.from, answer.generation })
    end
    assert.equal("three", control.word(h))
    assert.equal(3, control.service("script").generation)
    assert.equal(2, #control.reloads(h))
  end)
end)

describe("a command that talks to a host", function()
  after_each(host.cleanup)

  local all = { { "reload" }, { "reload", "x" }, { "status" }, { "load", "echo" }, { "unload", "x" }, { "stop" } }

  it("ends with 2 and one clear line when there is none", function()
    for _, words in ipairs(all) do
      assertUnreachable(control.path(), words)
      assertUnreachable(control.path(), { unpack(words), words[2], "--json" })
      assertUnreachable(userFolder(), words, temporary())
      local path = host.folder() .. "/nowhere/x.sock"
      assertUnreachable(path, { words[1], "--control", path, words[2] })
    end
    assert.is_false(control.exists(userFolder()))
  end)

  it("ends with 2 and one clear line when only a stale socket is left, or a file that is none", function()
    client.occupy(control.path())
    for _, words in ipairs(all) do
      assertUnreachable(control.path(), words)
    end
    assert.is_true(control.exists(control.path()))
    local path = host.file("plain", "precious")
    assertUnreachable(path, { "status", "--control=" .. path })
  end)

  it("ends with 2 and one clear line when whoever listens there does not speak this protocol", function()
    for i, what in ipairs { "", "\n", "HTTP/1.1 400 Bad Request\r\n\r\n", '"text"\n', '{"result":', "\0\1\2" } do
      local path = ("%s/other%d.sock"):format(host.folder(), i)
      local socat = process.start {
        "socat", "-d", "-d", "unix-listen:" .. path, "system:cat " .. host.file("answer" .. i, what), input = "/dev/null",
      }
      socat:errorLine "listening on"
      assertUnreachable(path, { "status", "--control=" .. path })
      socat:wait()
    end
  end)

  it("ends with 2 for wrong usage, and asks nobody", function()
    local h = host.serve(control.answering "one")
    local wrong = {
      { "reload", "a", "b", say = "b" },
      { "reload", "--frobnicate", say = "frobnicate" },
      { "reload", "--control", say = "control" },
      { "reload", "--control=", say = "control" },
      { "reload", "--json=yes", say = "json" },
      { "reload", "--watch", say = "watch" },
      { "status", "script", say = "script" },
      { "status", "--force", say = "force" },
      { "stop", "script", say = "script" },
      { "unload", say = "service" },
      { "unload", "a", "b", say = "b" },
      { "load", say = "script" },
    }
    for _, words in ipairs(wrong) do
      local status, out, log = host.command(words)
      local shown = table.concat(words, " ")
      assert.equal(2, status, shown .. ": " .. log)
      assert.equal("", out, shown)
      assert.truthy(log:find(words.say, 1, true), ("%s does not say %q: %s"):format(shown, words.say, log))
    end
    assertServes(h, "one")
    assert.equal(1, control.service("script").generation)
  end)
end)

describe("skald load", function()
  after_each(host.cleanup)

  it("adds a service with its options while others run", function()
    local h = host.serve(control.answering "one")
    local c = h:connect()
    assert.equal("one", control.ask(c))
    local added = host.script(control.telling("options.word", "local options = ..."), "added.lua")
    local answer, status, line = control.json { "load", added, "word=hello there", "listen=tcp:127.0.0.1:0" }
    assert.equal(0, status, line)
    assert.equal("added", answer.service)
    assert.equal(1, answer.generation)
    local port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) added$")
    assert.equal("hello there", control.ask(client.tcp(port)))
    assert.equal("one", control.ask(c))
    local services = control.status().services
    assert.same({ "script", "added", 2 }, { services[1].name, services[2].name, #services })
    assert.same({ "tcp:127.0.0.1:" .. port }, services[2].endpoints)
    assert.equal(1, services[1].generation)

    control.replace("added.lua", control.answering "changed")
    answer = control.json { "reload", "added" }
    assert.same({ "committed", 2 }, { answer.result, answer.generation })
    assert.equal("changed", control.ask(client.tcp(port)))
  end)

  it("says in a few lines what it has done", function()
    local h = host.serve(control.answering "one")
    local status, out, log = host.command { "load", host.script(control.answering "two", "added.lua") }
    assert.equal(0, status, log)
    assert.equal("", log)
    assert.truthy(out:find("added", 1, true), out)
    h:line "^listening .* added$"
  end)

  it("finds bundled services by name", function()
    local h = host.serve(control.answering "one")
    local status, _, log = host.command { "load", "echo", "listen=tcp:127.0.0.1:0" }
    assert.equal(0, status, log)
    local port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) echo$")
    assert.equal("hi", client.tcp(port):send("hi\n"):line())
  end)

  it("takes a relative path as relative to the caller's folder, then and at each reload", function()
    local h = host.serve(control.answering "one")
    local folder = control.makeFolder "deep/er"
    host.file("deep/er/words.lua", 'return "from the module"')
    host.script(control.telling "require 'words'", "deep/er/added.lua")
    local status, out, log = control.within(folder, { "skald", "load", "./added.lua" })
    assert.equal(0, status, out .. log)
    local port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) added$")
    assert.equal("from the module", control.ask(client.tcp(port)))
    control.replace("deep/er/words.lua", 'return "changed"')
    assert.equal("committed", control.json({ "reload", "added" }).result)
    assert.equal("changed", control.ask(client.tcp(port)))

    host.script(control.answering "two", "deep/plain.lua")
    status, out, log = control.within(host.folder() .. "/deep", { "skald", "load", "plain.lua" })
    assert.equal(0, status, out .. log)
    port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) plain$")
    assert.equal("two", control.ask(client.tcp(port)))
  end)

  it("of a broken script loads nothing, ends with 1 and answers with file and line", function()
    local h = host.serve(control.answering "one")
    local path = host.folder() .. "/first.sock"
    local broken = {
      { "local x\nlocal = 2\n", ":2: " },
      { "\n\nerror 'no such luck'\n", ":3: ", "no such luck" },
      { "return { listen = 'tcp:127.0.0.1:0', protcol = {} }\n", "broken.lua", "protocol" },
      { "return { listen = 'tcp:nowhere', protocol = {} }\n", "column", "tcp:nowhere" },
      { "require 'nonesuch'\n", ":1: ", "nonesuch" },
      {
        ("return { { listen = 'unix:%s', protocol = {} }, { listen = 'tcp:127.0.0.1:%d', protocol = {} } }"):format(path, h.port),
        tostring(h.port), "in use",
      },
      {
        ("require('skald.reactor').listenUNIX('%s', { protocol = {} })\nerror 'after all'"):format(path),
        ":2: ", "after all",
      },
    }
    for _, case in ipairs(broken) do
      local script = host.script(case[1], "broken.lua")
      local status, out, log = host.command { "load", script }
      assert.equal(1, status, case[1] .. out .. log)
      assert.equal("", out)
      for i = 2, #case do
        assert.truthy(log:lower():find(case[i], 1, true), ("%q is not said: %s"):format(case[i], log))
      end
      local answer
      answer, status = control.json { "load", script }
      assert.same({ "refused", 1 }, { answer.result, status })
      assert.is_true(#answer.errors >= 1)
      assert.equal(1, #control.status().services, case[1])
      assert.is_false(control.exists(path), "the first endpoint is left over")
    end
    assert.falsy(h:has "listening")
    assertServes(h, "one")
    local status, _, log = host.command { "load", host.script(control.answering "two", "broken.lua") }
    assert.equal(0, status, log)
    h:line "^listening .* broken$"
  end)

  it("of a script that does not exist ends with 1 and names it", function()
    local h = host.serve(control.answering "one")
    for _, word in ipairs { "nonesuch", host.folder() .. "/nonesuch.lua", host.folder() } do
      local status, out, log = host.command { "load", word }
      assert.equal(1, status, log)
      assert.equal("", out)
      assert.truthy(log:find(word, 1, true), log)
    end
    assert.equal(1, #control.status().services)
    assertServes(h, "one")
  end)

  it("gives the second service of a name another one, and each reloads by itself", function()
    local script = host.script(control.telling("options.word .. ' 1'", "local options = ..."), "twin.lua")
    local h = host.run { script, "word=a", script, "word=b", listening = 2 }
    local function names()
      local list = {}
      for i, service in ipairs(control.status().services) do
        list[i] = service.name .. " " .. service.generation
      end
      return table.concat(list, ", ")
    end
    assert.equal("twin 1, twin-2 1", names())
    assert.same({ "a 1", "b 1" }, { control.word(h, 1), control.word(h, 2) })
    assert.equal("twin-3", control.json({ "load", script, "word=c" }).service)
    local third = client.tcp(tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+)"))

    control.replace("twin.lua", control.telling("options.word .. ' 2'", "local options = ..."))
    local answer = control.json { "reload", "twin-2" }
    assert.same({ "committed", "twin-2", 2 }, { answer.result, answer.service, answer.generation })
    assert.equal("twin 1, twin-2 2, twin-3 1", names())
    assert.same({ "a 1", "b 2", "c 1" }, { control.word(h, 1), control.word(h, 2), control.ask(third) })
    answer = control.json { "reload", "twin" }
    assert.same({ "committed", "twin", 2 }, { answer.result, answer.service, answer.generation })
    assert.same({ "a 2", "b 2", "c 1" }, { control.word(h, 1), control.word(h, 2), control.ask(third) })
  end)
end)

describe("skald unload", function()
  after_each(host.cleanup)

  local LEAVER = [[
    local service = require "skald.service"
    service.onDispose(function() print "leaver: disposed" end)
    local P = {}
    function P:dataReceived() self.transport:write "leaver\n" end
    function P:connectionLost(reason) print("leaver: lost " .. reason.code .. " " .. reason.by) end
    return {
      listen = { "tcp:127.0.0.1:0", "unix:%s" }, protocol = P,
      startFactory = function() print "leaver: started" end,
      stopFactory = function() print "leaver: stopped" end,
    }
  ]]

  it("closes its listeners, ends its connections as stopped and calls stopFactory and onDispose; the others live on", function()
    local path = host.folder() .. "/leaver.sock"
    local leaver = host.script(LEAVER:format(path), "leaver.lua")
    local h = host.run { leaver, host.script(control.answering "stayer", "stayer.lua"), listening = 3 }
    local mine, own, other = h:connect(nil, 1), h:connect(nil, 2), h:connect(nil, 3)
    assert.same({ "leaver", "leaver", "stayer" }, { control.ask(mine), control.ask(own), control.ask(other) })
    local answer, status = control.json { "unload", "leaver" }
    assert.same({ "unloaded", "leaver", 0 }, { answer.result, answer.service, status })
    h:line "^leaver: disposed$"
    local said = {}
    for line in h:output():gmatch "leaver: ([^\n]*)\n" do
      said[#said + 1] = line
    end
    assert.same({ "started", "lost stopped host", "lost stopped host", "stopped", "disposed" }, said)
    assert.same({ "", "eof" }, { mine:receiveAll() })
    assert.same({ "", "eof" }, { own:receiveAll() })
    assert.equal("ECONNREFUSED", select(2, client.try(h.endpoints[1].port)))
    assert.is_false(control.exists(path))
    assert.equal("stayer", control.ask(other))
    assert.equal("stayer", control.word(h, 3))
    local services = control.status().services
    assert.same({ 1, "stayer", 1 }, { #services, services[1].name, services[1].generation })
    status = host.command { "reload", "leaver" }
    assert.equal(2, status)
  end)

  it("says in a line what it has done", function()
    host.run { host.script(control.answering "a", "a.lua"), host.script(control.answering "b", "b.lua"), listening = 2 }
    local status, out, log = host.command { "unload", "a" }
    assert.equal(0, status, log)
    assert.equal("", log)
    assert.truthy(out:find("a: unloaded", 1, true), out)
  end)

  it("sends what is queued before a connection ends", function()
    local h = host.serve([[
      local P = {}
      function P:dataReceived()
        for i = 1, 40 do self.transport:write(string.char(64 + i):rep(100000)) end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]])
    local c = h:connect { rcvbuf = 8192 }
    c:send "?"
    assert.equal(("A"):rep(1000), c:receive(1000))
    local unload = process.start { host.binary, "unload", "script", env = { XDG_RUNTIME_DIR = host.folder() } }
    local text, ending = c:receiveAll()
    assert.equal("eof", ending)
    assert.equal(40 * 100000 - 1000, #text)
    assert.equal(0, unload:wait())
  end)

  -- A service whose peer takes nothing of 8 MB, beside another one; returns the host, a client of the other, and the peer.
  local function serveStuck(grace)
    local stuck = host.script([[
      local P = {}
      function P:dataReceived() self.transport:write(("x"):rep(8000000)) end
      function P:connectionLost(reason) print("stuck: lost " .. reason.code .. " " .. reason.by) end
      return { listen = "tcp:127.0.0.1:0", protocol = P, stopFactory = function() print "stuck: stopped" end }
    ]], "stuck.lua")
    local other = host.script(control.answering "stayer", "stayer.lua")
    local h = host.run { stuck, other, listening = 2, options = { "--grace=" .. grace } }
    local peer = h:connect({ rcvbuf = 4096 }, 1)
    peer:send("?"):receive(1)
    return h, h:connect(nil, 2), peer
  end

  it("aborts after --grace what a peer does not take", function()
    local h, c = serveStuck(0.3)
    assert.equal(0, (host.command { "unload", "stuck" }))
    h:line "^stuck: lost stopped"
    h:line "^stuck: stopped$"
    assert.equal("stayer", control.ask(c))
    assert.is_nil(control.service "stuck")
  end)

  it("that waits for a peer lets nobody else wait", function()
    local h, c, peer = serveStuck(1000)
    local unload = process.start { host.binary, "unload", "stuck", env = { XDG_RUNTIME_DIR = host.folder() } }
    sys.await(function()
      return client.try(h.endpoints[1].port) == nil
    end, function()
      return h:story "the listener stays"
    end)
    assert.equal("stayer", control.ask(c))
    assert.equal(h.pid, control.status().pid)
    assert.falsy(h:has "stuck: stopped")
    assert.equal("eof", select(2, peer:count()))
    peer:close()
    assert.equal(0, unload:wait())
    h:line "^stuck: stopped$"
  end)

  it("that still waits for a peer does not hold a host that is told to stop", function()
    local h = serveStuck(1)
    local unload = control.send '{"command":"unload","service":"stuck"}\n'
    sys.await(function()
      return client.try(h.endpoints[1].port) == nil
    end, function()
      return h:story "the listener stays"
    end)
    local more = control.send '{"command":"reload","force":true}\n'
    assert.equal(0, (host.command { "stop" }))
    h:ends(0)
    for _, c in ipairs { unload, more } do
      local _, ending = control.answer(c)
      assert.equal("eof", ending)
    end
    assert.truthy(h:output():find("stuck: lost stopped", 1, true), h:output())
    assert.equal(1, select(2, h:output():gsub("stuck: stopped", "")))
    assert.equal(0, h:logged "traceback", h:errors())
  end)

  it("asked for twice is done once", function()
    local h = serveStuck(1)
    local first = control.send '{"command":"unload","service":"stuck"}\n'
    local second = control.send '{"command":"unload","service":"stuck"}\n'
    local reload = control.send '{"command":"reload","service":"stuck","force":true}\n'
    assert.equal("unloaded", control.answer(first).result)
    local answer = control.answer(second)
    assert.is_true(answer.result == "unloaded" or answer.result == "error")
    assert.is_true(control.answer(reload).result ~= "committed")
    assert.equal(1, #control.status().services)
    assert.equal(1, select(2, h:output():gsub("stuck: stopped", "")))
    assert.equal(0, h:logged "traceback", h:errors())
  end)

  it("ends the timers of the service, and no other's", function()
    local function ticking(word)
      return control.answering(word, nil, ([[
        local reactor = require "skald.reactor"
        local function tick()
          print "tick %s"
          reactor.callLater(0.01, tick)
        end
        reactor.callLater(0, tick)
      ]]):format(word))
    end
    local h = host.run { host.script(ticking "a", "a.lua"), host.script(ticking "b", "b.lua"), listening = 2 }
    h:line "^tick a$"
    assert.equal(0, (host.command { "unload", "a" }))
    -- What was printed before the answer has been read by now; from here on only one of them ticks.
    h:output()
    local from = #h:output()
    for _ = 1, 20 do
      h:line "^tick b$"
    end
    sys.await(function()
      return select(2, h:output():sub(from + 1):gsub("tick b", "")) >= 10
    end, function()
      return h:story "the other one does not tick"
    end)
    assert.falsy(h:output():sub(from + 1):find("tick a", 1, true))
  end)

  it("frees the name and the endpoint, and the service may be loaded again, from the beginning", function()
    local path = host.folder() .. "/again.sock"
    local script = host.script(([[
      local service = require "skald.service"
      local count = service.persist("count", function() return { 0 } end)
      local P = {}
      function P:dataReceived() count[1] = count[1] + 1; self.transport:write(count[1] .. "\n") end
      return { listen = "unix:%s", protocol = P }
    ]]):format(path), "again.lua")
    local h = host.run { script, host.script(control.answering "stayer", "stayer.lua"), listening = 2 }
    local c = h:connect(nil, 1)
    assert.same({ "1", "2" }, { control.ask(c), control.ask(c) })
    for _ = 1, 3 do
      assert.equal(0, (host.command { "unload", "again" }))
      local answer, status, line = control.json { "load", script }
      assert.equal(0, status, line)
      assert.same({ "again", 1 }, { answer.service, answer.generation })
      assert.same({ "1", "2" }, { control.ask(client.unix(path)), control.ask(client.unix(path)) })
    end
  end)

  it("of the last service leaves a host that runs and takes another", function()
    local h = host.serve(control.answering "one")
    assert.equal(0, (host.command { "unload", "script" }))
    local _, line = control.status()
    assert.truthy(line:find('"services":[]', 1, true), line)
    assert.equal(0, (host.command { "status" }))
    local answer, status = control.json { "reload" }
    assert.same({ "unchanged", 0 }, { answer.result, status })
    assert.equal(0, (host.command { "load", host.script(control.answering "two", "second.lua") }))
    local port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) second$")
    assert.equal("two", control.ask(client.tcp(port)))
  end)

  it("calls what is disposed of though a hook fails, and logs that", function()
    local h = host.run {
      host.script(control.answering("a", [[stopFactory = function() error "stop fails" end]], [[
        local service = require "skald.service"
        service.onDispose(function() error "dispose fails" end)
        service.onDispose(function() print "disposed all the same" end)
      ]]), "a.lua"),
      host.script(control.answering "b", "b.lua"), listening = 2,
    }
    assert.equal(0, (host.command { "unload", "a" }))
    h:line "^disposed all the same$"
    assert.equal(1, h:logged "stop fails")
    assert.equal(1, h:logged "dispose fails")
    assert.equal("b", control.word(h, 2))
    assert.equal(1, #control.status().services)
  end)
end)

describe("skald stop", function()
  after_each(host.cleanup)

  local SCRIPT = [[
    local P = {}
    function P:dataReceived() self.transport:write "one\n" end
    function P:connectionLost(reason) print("lost " .. reason.code .. " " .. reason.by) end
    return { listen = "tcp:127.0.0.1:0", protocol = P }
  ]]

  it("ends the host in order with 0, and says so as text", function()
    local h = host.serve(SCRIPT)
    local c = h:connect()
    control.ask(c)
    local status, out, log = host.command { "stop" }
    assert.equal(0, status, log)
    assert.equal(1, lines(out), out)
    h:ends(0)
    assert.truthy(h:output():find("lost stopped host\n", 1, true), h:output())
    assert.same({ "", "eof" }, { c:receiveAll() })
    assert.is_false(control.exists(control.path()))
    assertUnreachable(control.path(), { "stop" })
  end)

  it("says so as JSON", function()
    local h = host.serve(SCRIPT)
    local answer, status = control.json { "stop" }
    assert.same({ { result = "stopping" }, 0 }, { answer, status })
    h:ends(0)
  end)
end)

describe("SIGHUP", function()
  after_each(host.cleanup)

  it("reloads all services, and no connection notices", function()
    local a = host.script(control.answering "a1", "a.lua")
    local b = host.script(control.answering "b1", "b.lua")
    local h = host.run { a, b, listening = 2 }
    local one, two = h:connect(nil, 1), h:connect(nil, 2)
    assert.same({ "a1", "b1" }, { control.ask(one), control.ask(two) })
    control.replace("a.lua", control.answering "a2")
    control.replace("b.lua", control.answering "b2")
    h:kill "HUP"
    sys.await(function()
      return #control.reloads(h, "a") == 1 and #control.reloads(h, "b") == 1
    end, function()
      return h:story "not both were reloaded"
    end)
    assert.same({ "a2", "b2" }, { control.ask(one), control.ask(two) })
    control.replace("a.lua", control.answering "a3")
    h:kill "HUP"
    local from, to = control.reloaded(h, "a")
    while from == 1 do
      from, to = control.reloaded(h, "a")
    end
    assert.same({ 2, 3 }, { from, to })
    assert.same({ "a3", "b2" }, { control.ask(one), control.ask(two) })
  end)

  it("of a broken script logs file and line once, and the old code serves on", function()
    local h = host.serve(control.answering "one")
    control.replace("script.lua", "local x\nlocal = 1\n")
    h:kill "HUP"
    h:waitLog "script refused .*script%.lua:2: "
    control.replace("script.lua", control.answering "two")
    h:kill "HUP"
    assert.same({ 1, 2 }, { control.reloaded(h) })
    assert.equal(1, h:logged "refused")
    assert.equal("two", control.word(h))
  end)

  it("reloads a host that has no control socket too", function()
    local path = host.file("skald.sock", "precious")
    local h = host.serve(control.answering "one")
    awaitWithout(h, path)
    control.replace("script.lua", control.answering "two")
    h:kill "HUP"
    assert.same({ 1, 2 }, { control.reloaded(h) })
    assert.equal("two", control.word(h))
  end)

  it("reloads while the terminal is there that the host was started from, and stops it once that is gone", function()
    local script = host.script(control.answering "one")
    local keeper = host.file("keeper.py", [[
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
print(pid, flush=True)
for line in sys.stdin:
    break
os.close(master)
print("status", os.waitpid(pid, 0)[1], flush=True)
]])
    local log = host.folder() .. "/log"
    local p = process.start {
      "/usr/bin/python3", keeper, "/bin/sh", "-c", 'exec "$0" run "$1" 2>"$2"', host.binary, script, log,
      env = { XDG_RUNTIME_DIR = host.folder() },
    }
    local pid = tonumber(p:line "^(%d+)$")
    local function text()
      local file = io.open(log)
      local all = file and file:read "*a" or ""
      if file then
        file:close()
      end
      return all
    end
    local function story()
      return p:story(text())
    end
    sys.await(function()
      return control.exists(control.path()) and (host.command { "status" }) == 0
    end, story)
    assert.equal(pid, control.status().pid)
    control.replace("script.lua", control.answering "two")
    ffi.C.kill(pid, process.signals.HUP)
    sys.await(function()
      return text():find("generation 1 -> 2", 1, true)
    end, story)
    p:write "close\n"
    assert.equal("0", p:line "^status (%d+)$")
    assert.falsy(text():find("generation 2", 1, true), text())
    assert.equal(0, p:wait())
  end)

  it("sent many times while files change leaves the host with the last ones", function()
    local h = host.serve(control.answering "0")
    for i = 1, 50 do
      control.replace("script.lua", control.answering(i))
      h:kill "HUP"
    end
    sys.await(function()
      return control.word(h) == "50"
    end, function()
      return h:story "it does not run the last version"
    end)
    local service = control.service "script"
    assert.equal(#control.reloads(h) + 1, service.generation)
    assert.equal(0, service.refused)
  end)
end)

describe("a request on the control socket", function()
  after_each(host.cleanup)

  it("is one line of JSON, and so is the answer, before the end of the stream", function()
    local h = host.serve(control.answering "one")
    for _, line in ipairs { '{"command":"status"}\n', ' { "command" : "status" } \r\n', '{"command":"status","service":null}\n' } do
      local answer, ending = control.talk(line)
      assert.equal("eof", ending)
      assert.equal(h.pid, answer.pid, line)
    end
    local answer, ending = control.talk('{"command":"status"}\n', { halfClose = true })
    assert.equal("eof", ending)
    assert.equal(h.pid, answer.pid)
    answer = control.request { command = "reload", service = "script", force = true }
    assert.same({ "committed", 2 }, { answer.result, answer.generation })
    answer = control.request { command = "reload", service = "nonesuch" }
    assertError(answer, "", "an unknown service")
  end)

  it("may come byte by byte", function()
    local h = host.serve(control.answering "one")
    local c = control.send ""
    for byte in ('{"command":"status"}\n'):gmatch "." do
      c:send(byte)
      assert.is_true(c.finished == nil)
    end
    assert.equal(h.pid, control.answer(c).pid)
  end)

  it("that is malformed is answered with an error, and the host lives on", function()
    local h = host.serve(control.answering "one")
    local binary = {}
    for i = 0, 255 do
      binary[#binary + 1] = i ~= 10 and string.char(i) or ""
    end
    binary = table.concat(binary)
    local bad = {
      "", " ", "hello", "{", "}", "{}", "[]", "null", "true", "42", "-0", "1e999", "NaN", '"status"', '"', "[[", "status",
      '["status"]', '[{"command":"status"}]', "{'command':'status'}", '{"command":"status"', '{"command":"status"}}',
      '{"command":"status"} {"command":"stop"}', '{"command":"status",}', '{"command"}',
      '{"command":null}', '{"command":5}', '{"command":true}', '{"command":["stop"]}', '{"command":{}}', '{"command":""}',
      '{"command":"frobnicate"}', '{"command":"STATUS"}', '{"command":"stop "}', '{"command":"__index"}', '{"Command":"stop"}',
      '{"command":"stop\\u0000"}', '{"command":"run"}', '{"command":"check"}',
      '{"command":"reload","service":5}', '{"command":"reload","service":true}', '{"command":"reload","service":{}}',
      '{"command":"reload","service":["script"]}', '{"command":"reload","service":""}', '{"command":"reload","service":"scrip"}',
      '{"command":"reload","force":"yes"}', '{"command":"reload","force":1}', '{"command":"reload","force":[]}',
      '{"command":"unload"}', '{"command":"unload","service":null}', '{"command":"unload","service":5}',
      '{"command":"unload","service":"nonesuch"}',
      '{"command":"load"}', '{"command":"load","words":"echo"}', '{"command":"load","words":[]}', '{"command":"load","words":{}}',
      '{"command":"load","words":[5]}', '{"command":"load","words":[null]}', '{"command":"load","words":[["echo"]]}',
      '{"command":"load","words":["echo",7]}', '{"command":"load","words":["echo",null,"x=y"]}',
      '{"command":"load","words":{"1":"echo"}}', '{"command":"load","words":{"a":"echo"}}',
      ("["):rep(30000), ('{"a":'):rep(10000), ("[1,"):rep(20000) .. "1", ('"'):rep(30001), ("\\"):rep(30000),
      binary, binary:rep(100), "\0", ("\0"):rep(60000), "\255\254", "\22\3\1\2\0\1\0\1\252\3\3", '{"command":"\255\254"}',
      '{"command":"status\0"}', "GET / HTTP/1.1\r", "\27[2J", ("x"):rep(65000),
    }
    for _, line in ipairs(bad) do
      local answer, _, text = control.talk(line .. "\n")
      assertError(answer, text, #line > 200 and line:sub(1, 200) .. "…" or line)
    end
    assertServes(h, "one")
    assert.equal(1, #control.status().services)
    assert.equal(1, control.service("script").generation)
    assert.equal(0, h:logged "traceback", h:errors())
  end)

  it("of random bytes never harms", function()
    local h = host.serve(control.answering "one")
    math.randomseed(12345)
    for _ = 1, host.long and 3000 or 300 do
      local bytes = {}
      for i = 1, math.random(1, 400) do
        bytes[i] = string.char(math.random(0, 255))
      end
      local answer, _, text = control.talk(table.concat(bytes) .. "\n")
      if answer ~= nil then
        assertError(answer, text, "noise")
      end
    end
    local whole = '{"command":"status","service":"script","force":true}'
    for i = 1, #whole do
      for _, byte in ipairs { "\0", '"', "{", "}", "\255", "," } do
        local answer, _, text = control.talk(whole:sub(1, i - 1) .. byte .. whole:sub(i + 1) .. "\n")
        assert.truthy(answer, text)
      end
    end
    assertServes(h, "one")
    assert.equal(1, control.service("script").generation)
    assert.equal(0, h:logged "traceback", h:errors())
  end)

  it("of up to 64 KiB is taken, and a longer one is answered with an error", function()
    local h = host.serve(control.answering "one")
    local answer = control.talk('{"command":"status"' .. (" "):rep(60000) .. "}\n")
    assert.equal(h.pid, answer.pid)
    local text
    for _, ending in ipairs { "", "\n" } do
      for _, size in ipairs { 100000, 3000000 } do
        answer, _, text = control.talk(("x"):rep(size) .. ending)
        assertError(answer, text, size .. " bytes")
        answer, _, text = control.talk('{"command":"status"' .. (" "):rep(size) .. "}" .. ending)
        assertError(answer, text, size .. " bytes around a good request")
      end
    end
    assertServes(h, "one")
  end)

  it("that ends too early is answered or closed", function()
    local h = host.serve(control.answering "one")
    for _, half in ipairs { "", "{", '{"command":"stop"}', '{"command":"status', ("x"):rep(50000) } do
      local answer, ending, text = control.talk(half, { halfClose = true })
      assert.equal("eof", ending)
      if answer ~= nil then
        assertError(answer, text, half:sub(1, 100))
      end
    end
    assertServes(h, "one")
  end)

  it("whose client goes away without its answer is done all the same", function()
    local h = host.serve(control.answering "0")
    for i = 1, 20 do
      control.replace("script.lua", control.answering(i))
      local c = control.send '{"command":"reload"}\n'
      if i % 2 == 0 then
        c:reset()
      else
        c:close()
      end
      sys.await(function()
        return control.word(h) == tostring(i)
      end, function()
        return h:story("version " .. i .. " does not come")
      end)
    end
    assert.equal(21, control.service("script").generation)
  end)

  it("is the only one of its connection", function()
    local h = host.serve(control.answering "one")
    local reload = '{"command":"reload","force":true}\n'
    local answer, ending = control.talk(reload .. reload .. reload)
    assert.same({ "committed", 2, "eof" }, { answer.result, answer.generation, ending })
    assert.equal(2, control.service("script").generation)
    assertServes(h, "one")
  end)

  it("is answered while many others are asked, and a flood of them is answered or closed", function()
    local h = host.serve(control.answering "one")
    local before = h:descriptors()
    -- Returns how many of `n` requests made at once are answered; the others must be closed.
    local function burst(n)
      local list, answered = {}, 0
      for i = 1, n do
        local c = client.tryUnix(control.path()) -- beyond its backlog the kernel refuses
        if c then
          pcall(c.send, c, i % 5 == 0 and "rubbish\n" or '{"command":"status"}\n')
          list[#list + 1] = { c, i % 5 == 0 }
        end
      end
      for _, pair in ipairs(list) do
        local answer, _, text = control.answer(pair[1])
        if answer then
          answered = answered + 1
        end
        if answer and pair[2] then
          assertError(answer, text, "rubbish")
        elseif answer then
          assert.equal(h.pid, answer.pid)
        else
          assert.equal("", text)
        end
      end
      return answered
    end
    assert.equal(25, burst(25))
    for _ = 1, 5 do
      assert.is_true(burst(200) > 0)
    end
    sys.await(function()
      return control.talk '{"command":"status"}\n'
    end, function()
      return h:story "it does not answer again after the flood"
    end)
    for _ = 1, 200 do
      assert.equal(h.pid, control.talk('{"command":"status"}\n').pid)
    end
    sys.await(function()
      return h:descriptors() <= before
    end, function()
      return h:story "descriptors are left over"
    end)
    assert.equal("one", control.word(h))
  end)

  it("that never comes is waited for only so long, however many clients there are, and hinders no service", function()
    local h = host.serve(control.answering("one", nil, 'require("skald.control").PATIENCE = 1'))
    local list = {}
    for i = 1, 300 do
      local c = client.tryUnix(control.path())
      if c and i % 3 > 0 then
        pcall(c.send, c, i % 3 == 1 and "{" or '{"command":"status"')
      end
      list[#list + 1] = c
    end
    assert.is_true(#list > 0)
    assert.equal("one", control.word(h))
    local ended = 0
    client.each(list, function(_, text)
      ended = ended + (text == nil and 1 or 0)
      return text == nil
    end)
    assert.equal(#list, ended)
    for _, c in ipairs(list) do
      c:close()
    end
    assertServes(h, "one")
    assert.equal(0, h:logged "traceback", h:errors())
  end)
end)
