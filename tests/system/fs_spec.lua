-- skald.fs: files, off the loop.

local alive = require "support.alive"
local control = require "support.control"
local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"
local sys = require "support.sys"

local lineOf = host.lineOf

local HEAD = [[
  local fs, defer, reactor = require "skald.fs", require "skald.defer", require "skald.reactor"
  local await, dir = defer.await, (...).dir
  local function say(...) print(table.concat({ ... }, " ")) end
  local function try(d)
    local ok, result = pcall(await, d)
    if ok then return result end
    return type(result.value) == "table" and ("%s: %s"):format(tostring(result.value.code), result.message) or result.type
  end
  local function main(f)
    reactor.callWhenRunning(function()
      defer.async(f)():addErrback(function(problem) print(problem:getTraceback()) end):addBoth(reactor.stop, 0)
    end)
  end
]]

-- A disk that waits: `gate(name)` before the file is opened, `pass(name)` when it may be.
local SLOW = {
  LD_PRELOAD = "build/tests/slow.so",
  ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":verify_asan_link_order=0",
}

local function gate(name)
  assert.equal(0, (process.run { "mkfifo", host.folder() .. "/" .. name .. ".gate" }))
end

-- Waits until somebody waits there; whoever it is waits on until the file that this gives is written to, or closed.
local function arrived(name)
  return assert(io.open(host.folder() .. "/" .. name .. ".gate", "wb"))
end

-- Waits until somebody waits there, and lets it pass.
local function pass(name)
  local file = arrived(name)
  os.remove(host.folder() .. "/" .. name .. ".gate")
  file:write "."
  file:close()
end

-- Starts a host with the script HEAD .. text.
local function serve(text, words)
  words = words or {}
  words.listening = words.listening or 0
  return host.run(setmetatable({ host.script(HEAD .. text), "dir=" .. host.folder(), unpack(words) }, {
    __index = words,
  }))
end

-- Runs `text` as a coroutine in a host that ends with it; the lines that it has printed.
local function run(text, words)
  local h = serve("main(function()\n" .. text .. "\nend)", words)
  h:ends(0)
  local lines = {}
  for line in h:output():gmatch "([^\n]*)\n" do
    lines[#lines + 1] = line
  end
  return lines, h
end

local function read(name)
  local file = assert(io.open(host.folder() .. "/" .. name, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function exists(name)
  local file = io.open(host.folder() .. "/" .. name, "rb")
  return file and file:close() or false
end

local function path(name)
  return host.folder() .. "/" .. name
end

local function modeOf(name)
  return (select(2, process.run { "stat", "-c", "%a", path(name) }):gsub("\n", ""))
end

describe("fs.readFile", function()
  after_each(host.cleanup)

  it("gives all bytes of a file, or the part that is asked for", function()
    local bytes = {}
    for i = 1, 300000 do
      bytes[i] = string.char(i * 7 % 256)
    end
    local text = table.concat(bytes)
    host.file("large", text)
    host.file("empty", "")
    local lines = run [[
      local all = await(fs.readFile(dir .. "/large"))
      assert(await(fs.writeFile(dir .. "/copy", all)) == #all)
      local part = await(fs.readFile(dir .. "/large", { offset = 100000, length = 70000 }))
      assert(part == all:sub(100001, 170000))
      say(#await(fs.readFile(dir .. "/large", { offset = 299990, length = 70000 })))
      say(#await(fs.readFile(dir .. "/large", { offset = 300001 })))
      say(#await(fs.readFile(dir .. "/large", { length = 0 })))
      say(#await(fs.readFile(dir .. "/empty")))
      say(await(fs.readFile "/proc/self/comm")) -- whose size is said to be 0
    ]]
    assert.same({ "10", "0", "0", "0", "skald", "" }, lines)
    assert.equal(text, read "copy")
  end)

  it("gives a file of exactly max bytes, and fails for one more", function()
    host.file("ten", "0123456789")
    assert.same({
      "0123456789", "EFBIG: cannot read " .. path "ten" .. ": there is more than 9 bytes", "234",
    }, (run [[
      say(try(fs.readFile(dir .. "/ten", { max = 10 })))
      say(try(fs.readFile(dir .. "/ten", { max = 9 })))
      say(try(fs.readFile(dir .. "/ten", { max = 9, offset = 2, length = 3 })))
    ]]))
  end)

  it("fails with what the system says, a code and the path", function()
    assert.same({
      "ENOENT: cannot read " .. path "none" .. ": No such file or directory", "true",
      "EISDIR: cannot read " .. path "" .. ": Is a directory",
      "EINVAL: cannot read a?b: the path has a zero byte",
    }, (run [[
      say(try(fs.readFile(dir .. "/none")))
      await(fs.readFile(dir .. "/none"):addErrback(function(f) say(tostring(f.value.path == dir .. "/none")) end))
      say(try(fs.readFile(dir .. "/")))
      say(try(fs.readFile "a\0b"))
    ]]))
  end)

  it("refuses what is no regular file, unless it is asked for; then nothing waits", function()
    process.run { "mkfifo", path "fifo" }
    assert.same({
      "ENOTSUP: cannot read /dev/zero: not a regular file", "ENOTSUP: cannot read " .. path "fifo" .. ": not a regular file",
      "70000", "EFBIG", "", "ENXIO",
    }, (run [[
      say(try(fs.readFile "/dev/zero"))
      say(try(fs.readFile(dir .. "/fifo")))
      say(#await(fs.readFile("/dev/zero", { special = true, length = 70000 })))
      say(try(fs.readFile("/dev/zero", { special = true, max = 200000 })):match "^%a+")
      say(try(fs.readFile(dir .. "/fifo", { special = true })))
      say(try(fs.writeFile(dir .. "/fifo", "x", { special = true })):match "^%a+")
    ]]))
  end)
end)

describe("fs.writeFile", function()
  after_each(host.cleanup)

  it("replaces what was there, or goes on behind it", function()
    host.file("old", "what was there before")
    assert.same({ "3", "4", "2" }, (run [[
      say(await(fs.writeFile(dir .. "/old", "new")))
      say(await(fs.writeFile(dir .. "/old", " and", { append = true })))
      say(await(fs.appendFile(dir .. "/old", " \0", { sync = true })))
    ]]))
    assert.equal("new and \0", read "old")
  end)

  it("gives a new file the mode that is asked for", function()
    run [[
      await(fs.writeFile(dir .. "/a", "", { mode = tonumber("600", 8) }))
      await(fs.writeFile(dir .. "/b", "", { mode = tonumber("640", 8), atomic = true }))
      await(fs.appendFile(dir .. "/c", "", { mode = tonumber("600", 8) }))
    ]]
    assert.same({ "600", "640", "600" }, { modeOf "a", modeOf "b", modeOf "c" })
  end)

  it("atomic puts a whole new file in the place of the old one, with its mode, and through links", function()
    control.makeFolder "sub"
    host.file("sub/old", "old")
    process.run { "chmod", "604", path "sub/old" }
    process.run { "ln", "-s", "old", path "sub/link" }
    local held = assert(io.open(path "sub/old", "rb"))
    assert.same({ "9", "link", "link old" }, (run [[
      say(await(fs.writeFile(dir .. "/sub/link", "brand new", { atomic = true, sync = true })))
      say(await(fs.stat(dir .. "/sub/link", { link = true })).type)
      say(unpack(await(fs.list(dir .. "/sub"))))
    ]]))
    assert.equal("brand new", read "sub/old")
    assert.equal("604", modeOf "sub/old")
    assert.equal("old", held:read "*a") -- who has it open has the old one, whole
    held:close()
  end)

  it("fails where there is no room, no folder, or something else; atomic leaves nothing beside", function()
    assert.same({ "ENOSPC", "ENOENT", "ENOENT", "EISDIR", "EISDIR", "" }, (run [[
      await(fs.makeDirectory(dir .. "/sub"))
      say(try(fs.writeFile("/dev/full", "x", { special = true })):match "^%a+")
      say(try(fs.writeFile(dir .. "/no/such", "x")):match "^%a+")
      say(try(fs.writeFile(dir .. "/no/such", "x", { atomic = true })):match "^%a+")
      say(try(fs.writeFile(dir, "x")):match "^%a+")
      await(fs.makeDirectory(dir .. "/sub/taken"))
      say(try(fs.writeFile(dir .. "/sub/taken", "x", { atomic = true })):match "^%a+")
      await(fs.remove(dir .. "/sub/taken"))
      say(unpack(await(fs.list(dir .. "/sub"))))
    ]]))
  end)
end)

describe("fs", function()
  after_each(host.cleanup)

  it("tells what a file is, and of a link what it is itself", function()
    host.file("file", "12345")
    process.run { "chmod", "640", path "file" }
    process.run { "ln", "-s", "file", path "link" }
    assert.same({ "file 5 640 1 true true", "directory", "character", "link", "file", "ENOENT" }, (run [[
      local s = await(fs.stat(dir .. "/file"))
      say(s.type, s.size, ("%o"):format(s.mode), s.links, tostring(math.abs(s.mtime - os.time()) < 3600), tostring(s.inode > 0))
      say(await(fs.stat(dir)).type)
      say(await(fs.stat "/dev/null").type)
      say(await(fs.stat(dir .. "/link", { link = true })).type)
      say(await(fs.stat(dir .. "/link")).type)
      say(try(fs.stat(dir .. "/none")):match "^%a+")
    ]]))
  end)

  it("makes, lists, renames and removes", function()
    assert.same({
      "ENOENT", "true", "true", "EEXIST", "", "B a b", "0", "C a b", "ENOTEMPTY", "true true true", "ENOENT", "ENOTDIR",
    }, (run [[
      say(try(fs.makeDirectory(dir .. "/x/y/z")):match "^%a+")
      say(tostring(await(fs.makeDirectory(dir .. "/x/y/z", { parents = true }))))
      say(tostring(await(fs.makeDirectory(dir .. "/x/y/z", { parents = true }))))
      say(try(fs.makeDirectory(dir .. "/x/y/z")):match "^%a+")
      say(unpack(await(fs.list(dir .. "/x/y/z"))))
      for _, name in ipairs { "b", "a", "B" } do await(fs.writeFile(dir .. "/x/y/" .. name, "")) end
      await(fs.remove(dir .. "/x/y/z"))
      say(unpack(await(fs.list(dir .. "/x/y"))))
      await(fs.rename(dir .. "/x/y/B", dir .. "/x/y/C"))
      say(#await(fs.readFile(dir .. "/x/y/C")))
      say(unpack(await(fs.list(dir .. "/x/y"))))
      say(try(fs.remove(dir .. "/x")):match "^%a+")
      say(tostring(await(fs.remove(dir .. "/x/y/a"))), tostring(await(fs.remove(dir .. "/x/y/b"))),
        tostring(await(fs.remove(dir .. "/x/y/C"))))
      say(try(fs.remove(dir .. "/x/y/a")):match "^%a+")
      say(try(fs.list(dir .. "/script.lua")):match "^%a+")
    ]]))
  end)

  it("does what is asked of one path in the order of asking, whichever thread it is", function()
    assert.same({ "99 100 101 .END", "new" }, (run [[
      local p = dir .. "/file"
      for i = 1, 101 do fs.appendFile(p, i .. " ") end
      fs.appendFile(p, ".")
      fs.appendFile(p, "END")
      local d = fs.readFile(p)
      fs.writeFile(p, "new")
      say(await(d):sub(-15))
      fs.rename(p, dir .. "/other")
      say(await(fs.readFile(dir .. "/other")))
    ]]))
  end)

  it("raises at the caller's line what is no use", function()
    local misuse = {
      { "fs.readFile()", "readFile takes a path, not a nil" },
      { "fs.readFile ''", "readFile takes a path, not an empty string" },
      { "fs.readFile('x', 5)", "readFile takes its options as a table, not a number" },
      { "fs.readFile('x', { mxa = 5 })", "readFile knows no option 'mxa'" },
      { "fs.readFile('x', { max = -1 })", "readFile: max is a count of bytes, not -1" },
      { "fs.readFile('x', { special = 1 })", "readFile: special is true or false, not 1" },
      { "fs.writeFile('x')", "writeFile takes a string to write, not a nil" },
      { "fs.writeFile('x', '', { mode = '640' })",
        "writeFile: mode is a mode as a number, such as tonumber('640', 8), not 640" },
      { "fs.writeFile('x', '', { append = true, atomic = true })", "writeFile: append and atomic do not go together" },
      { "fs.appendFile('x', 5)", "appendFile takes a string to write, not a number" },
      { "fs.stat('x', { sync = true })", "stat knows no option 'sync'" },
      { "fs.list {}", "list takes a path, not a table" },
      { "fs.rename('x')", "rename takes a path, not a nil" },
      { "fs.remove(false)", "remove takes a path, not a boolean" },
      { "fs.makeDirectory('x', { mode = 1.5 })",
        "makeDirectory: mode is a mode as a number, such as tonumber('640', 8), not 1.5" },
      { "fs.appender('a\\0b')", "appender takes a path, which has no zero byte" },
      { "fs.appender('x', { max = 'y' })", "appender: max is a count of bytes, not y" },
      { "fs.appender('x'):write(5)", "write takes a string, not a number" },
      { "fs.watch('x')", "watch takes a function, not a nil" },
    }
    local calls = {}
    for i, case in ipairs(misuse) do
      calls[i] = ("say(select(2, pcall(function()\n %s -- case %d\n end)))"):format(case[1], i)
    end
    local text = HEAD .. "main(function()\n" .. table.concat(calls, "\n")
    local lines = run(table.concat(calls, "\n"))
    for i, case in ipairs(misuse) do
      local expected = ("script.lua:%d: %s"):format(lineOf(text, ("-- case %d"):format(i)), case[2])
      assert.equal(expected, lines[i]:sub(-#expected))
    end
    assert.equal(#misuse, #lines)
  end)

  it("does nothing under check, and can be required without a host", function()
    local script = host.script(HEAD .. [[
      fs.writeFile(dir .. "/made", "x")
      fs.appender(dir .. "/log"):write "x"
      fs.watch(dir, print)
      fs.readFile(dir .. "/none"):addErrback(print)
      return { listen = "tcp:0", protocol = {} }
    ]])
    local status, out, err = host.command { "check", script, "dir=" .. host.folder() }
    assert.same({ 0, "" }, { status, err }, out)
    assert.falsy(exists "made" or exists "log")
    status, out = process.run {
      "luajit", "-e", "print(select(2, pcall(function() require('skald.fs').readFile 'x' end)))",
      env = { LUA_PATH = "scripts/?.lua;;" },
    }
    assert.same({ 0, "(command line):1: readFile: only the host has these (`skald test` runs specs within one)\n" },
      { status, out })
  end)
end)

describe("what waits for a disk", function()
  after_each(host.cleanup)

  it("holds up nobody else, and starts its threads when they are first wanted", function()
    gate "slow"
    host.file("slow", "at last")
    local h = serve([[
      local P = {}
      function P:dataReceived(data)
        if data == "read" then
          fs.readFile(dir .. "/slow"):addBoth(function(result) self.transport:write(tostring(result)) end)
        else
          self.transport:write(data)
        end
      end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { listening = 1, env = SLOW })
    local reader, other = h:connect(), h:connect()
    local function threads()
      return tonumber((select(2, process.shell(("ls /proc/%d/task | wc -l"):format(h.pid)))))
    end
    other:send "hello"
    assert.equal("hello", other:receive(5))
    local before = threads()
    reader:send "read"
    for _ = 1, 20 do
      other:send "hello"
      assert.equal("hello", other:receive(5))
    end
    assert.equal(before + 4, threads())
    assert.truthy(alive.census(h):find ", 1 files,")
    pass "slow"
    assert.equal("at last", reader:receive(7))
    assert.truthy(alive.census(h):find ", 0 files,")
    h:stop()
  end)

  it("tells nothing of what was cancelled, and does not begin what had not begun", function()
    gate "slow"
    host.file("slow", "text")
    local h = serve([[
      require("skald.files").MOST = 1
      main(function()
        local under, waits = fs.readFile(dir .. "/slow"), fs.writeFile(dir .. "/other", "x")
        local last = fs.writeFile(dir .. "/last", "y")
        for _, d in ipairs { under, waits } do
          d:addBoth(function(result) say(result.type) end)
          d:cancel()
        end
        say "cancelled"
        await(last)
        say "last"
      end)
    ]], { env = SLOW })
    h:line "^cancelled"
    pass "slow"
    h:line "^last"
    h:ends(0)
    assert.equal("CancelledError\nCancelledError\ncancelled\nlast\n", h:output())
    assert.falsy(exists "other")
  end)

  it("fails with ENOBUFS where a load asks for too much, and forgets what a refused one asked for", function()
    local text = HEAD .. [[
      require("skald.files").WAITING = 3
      local list = {}
      for i = 1, 5 do
        list[i] = fs.writeFile(dir .. "/file" .. i, "x")
        list[i]:addBoth(function(r) print(i, type(r) == "number" and r or r.value.code) end)
      end
      return { listen = "tcp:127.0.0.1:0", protocol = {}, @
      }
    ]]
    local h = host.run { host.script((text:gsub("@", ""))), "dir=" .. host.folder() }
    local function said(written, refused)
      sys.await(function()
        local _, ones = h:output():gsub("\t1\n", "")
        local _, others = h:output():gsub("\tENOBUFS\n", "")
        return ones == written and others == refused
      end, function()
        return h:story(("not %d written and %d refused"):format(written, refused))
      end)
    end
    said(3, 2)
    for i = 1, 2 do
      host.script((text:gsub("@", "protcol = {} -- " .. i)))
      reload.refused()
      said(3, 2 + 2 * i)
    end
    host.script((text:gsub("@", "")))
    reload.committed "--force"
    said(6, 8)
  end)

  it("is not what a load that was refused had cancelled", function()
    local text = HEAD .. [[
      require("skald.files").WAITING = 1
      local d = fs.writeFile(dir .. "/file", "x")
      d:addBoth(function(r) print("told", type(r) == "number" and r or r.value.code or r.type) end)
      @
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = host.run { host.script((text:gsub("@", ""))), "dir=" .. host.folder() }
    assert.equal("told\t1", h:line "^told")
    host.script((text:gsub("@", 'd:cancel() error "no"')))
    reload.refused()
    host.script((text:gsub("@", "")))
    reload.committed "--force"
    assert.equal("told\tCancelledError", h:line "^told")
    assert.equal("told\t1", h:line "^told")
  end)

  it("fails with ENOBUFS where too much is waiting", function()
    local lines = run [[
      local files = require "skald.files"
      files.MOST, files.WAITING = 1, 2
      local p = dir .. "/file"
      local list = {}
      for i = 1, 4 do list[i] = fs.appendFile(p, tostring(i)) end
      say(try(list[4]))
      say(try(list[3]))
    ]]
    assert.same({ "ENOBUFS: cannot write " .. path "file" .. ": too much is waiting", "1" }, lines)
    assert.equal("123", read "file")
  end)
end)

describe("an appender", function()
  after_each(host.cleanup)

  it("writes in order, and tells when all is there", function()
    local lines = run [[
      local log = fs.appender(dir .. "/log", { mode = tonumber("600", 8) })
      for i = 1, 20000 do assert(log:write(i .. "\n")) end
      say(log:bufferedAmount(), tostring(await(log:flush())), log:bufferedAmount())
      log:write "more\n"
      say(tostring(await(log:close())), tostring(await(log:close())))
      say(tostring(log:write "x"), select(2, log:write "x"), select(3, log:write "x"))
    ]]
    local expected = {}
    for i = 1, 20000 do
      expected[i] = i
    end
    assert.equal(table.concat(expected, "\n") .. "\nmore\n", read "log")
    assert.equal("600", modeOf "log")
    assert.same({ "108894 true 0", "true true", "nil the appender is closed EBADF" }, lines)
  end)

  it("takes no more than may wait, and sends what has waited in one piece", function()
    gate "log"
    local h = serve([[
      main(function()
        local log = fs.appender(dir .. "/log", { max = 1000, sync = true })
        local pieces = 0
        local began = require("skald.files").begin
        require("skald.files").begin = function(request)
          pieces = pieces + (request.data and 1 or 0)
          return began(request)
        end
        log:write "first\n"
        local d = defer.Deferred:new()
        reactor.callLater(0, function() -- the file is being opened
          for _ = 1, 99 do assert(log:write "123456789\n") end
          say(log:bufferedAmount(), tostring(log:write "123456789\n"), select(3, log:write "123456789\n"))
          d:callback()
        end)
        await(d)
        await(log:flush())
        say(log:bufferedAmount(), pieces, tostring(log:write(("x"):rep(1000))))
      end)
    ]], { env = SLOW })
    assert.equal("996 nil ENOBUFS", h:line())
    pass "log"
    assert.equal("0 1 true", h:line())
    h:ends(0)
    assert.equal(6 + 990 + 1000, #read "log")
  end)

  it("opens the file anew when it is told to: what was written before is in the old one", function()
    assert.same({ "true", "true" }, (run [[
      local log = fs.appender(dir .. "/log")
      say(tostring(await(log:reopen()))) -- never opened so far
      log:write "one\n"
      await(log:flush())
      os.rename(dir .. "/log", dir .. "/log.1")
      log:write "two\n"
      local d = log:reopen()
      log:write "three\n"
      say(tostring(await(d)))
    ]]))
    assert.equal("one\ntwo\n", read "log.1")
    assert.equal("three\n", read "log")
  end)

  it("says once that it cannot write, tells who flushes, and goes on when it can", function()
    local lines, h = run [[
      local log = fs.appender(dir .. "/no/log")
      log:write "one\n"
      say(try(log:flush()))
      log:write "two\n"
      say(try(log:flush()):match "^%a+", log.lost)
      say(tostring(await(log:flush())))
      await(fs.makeDirectory(dir .. "/no"))
      log:write "three\n"
      say(tostring(await(log:flush())))
      local full = fs.appender("/dev/full", { special = true })
      full:write "12345"
      say(try(full:close()):match "^%a+", full.lost)
    ]]
    assert.same({
      "ENOENT: cannot open " .. path "no/log" .. ": No such file or directory", "ENOENT 8", "true", "true", "ENOSPC 5",
    }, lines)
    assert.equal("three\n", read "no/log")
    assert.equal(1, h:logged("cannot open " .. path "no/log"))
    assert.equal(1, h:logged(path "no/log" .. " is written to again; 8 bytes were lost"))
  end)
end)

describe("the host's stop", function()
  after_each(host.cleanup)

  it("waits until what was written is in the files, to the last callback's line", function()
    local h = serve([[
      local log = fs.appender(dir .. "/log")
      local P = {}
      function P:connectionMade() log:write "made\n" self.transport:write "hello" end
      function P:connectionLost(reason) log:write("lost " .. reason.code .. "\n") end
      require("skald.service").onDispose(function() log:write "disposed\n" fs.writeFile(dir .. "/state", "kept") end)
      return { listen = "tcp:127.0.0.1:0", protocol = P, stopFactory = function() log:write "stopped\n" end }
    ]], { listening = 1 })
    assert.equal("hello", h:connect():receive(5))
    h:stop()
    assert.equal("made\nlost stopped\nstopped\ndisposed\n", read "log")
    assert.equal("kept", read "state")
  end)

  it("waits for a slow disk", function()
    gate "log"
    local h = serve([[
      local log = fs.appender(dir .. "/log")
      reactor.callWhenRunning(function() log:write "written\n" say "ready" end)
    ]], { env = SLOW })
    h:line "^ready"
    h:kill "TERM"
    h:waitLog "stopping"
    pass "log"
    h:ends(0)
    assert.equal("written\n", read "log")
  end)

  it("waits no longer than the grace, and then for no thread that never ends", function()
    gate "log"
    local h = serve([[
      local log = fs.appender(dir .. "/log")
      reactor.callWhenRunning(function() log:write "written\n" say "ready" end)
    ]], { env = SLOW, options = { "--grace=0.1" } })
    h:line "^ready"
    local gatekeeper = arrived "log" -- a thread has begun
    h:kill "TERM"
    h:waitLog "grace is over: 1 operations on files have not ended"
    h:waitLog "1 operations on files do not end: the process does"
    h:ends(1)
    gatekeeper:close()
  end)
end)

describe("a reload", function()
  after_each(host.cleanup)

  local function version(n, extra)
    return HEAD .. ([[
      local kept = require("skald.service").persist("log", function() return fs.appender(dir .. "/kept") end)
      local log = fs.appender(dir .. "/log")
      log:write "load %d\n"
      kept:write "load %d\n"
      local P = {}
      function P:dataReceived(data)
        log:write("%d " .. data .. "\n")
        kept:write("%d " .. data .. "\n")
        self.transport:write "%d"
      end
      %s
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]):format(n, n, n, n, n, extra or "")
  end

  it("closes the old code's appenders when all is written, and those that are kept go on", function()
    local h = serve(version(1):sub(#HEAD + 1), { listening = 1 })
    local c = h:connect()
    local function exchange(n)
      c:send "x"
      assert.equal(tostring(n), c:receive(1))
    end
    exchange(1)
    -- The descriptors, when all that is to be closed is.
    local function descriptors()
      return sys.await(function()
        return alive.settled(h):match ", 2 files,.* (%d+) descriptors" -- both appenders
      end, function()
        return h:story "there are files under way"
      end)
    end
    local before
    for n = 2, 6 do
      control.replace("script.lua", version(n))
      reload.committed()
      exchange(n)
      if n == 2 then
        before = descriptors()
      end
    end
    assert.equal(before, descriptors())
    h:stop()
    local expected = {}
    for n = 1, 6 do
      expected[n] = ("load %d\n%d x\n"):format(n, n)
    end
    assert.equal(table.concat(expected), read "log")
    assert.equal(table.concat(expected), read "kept")
  end)

  it("that is refused has written nothing", function()
    local h = serve(version(1):sub(#HEAD + 1), { listening = 1 })
    control.replace("script.lua", version(2, 'fs.writeFile(dir .. "/made", "x") error "no"'))
    reload.expect("refused", reload.run())
    local c = h:connect()
    c:send "x"
    assert.equal("1", c:receive(1))
    h:stop()
    assert.equal("load 1\n1 x\n", read "log")
    assert.falsy(exists "made")
  end)

  it("tells the old code nothing of what it has asked for", function()
    gate "slow"
    host.file("slow", "text")
    local function text(n)
      return HEAD .. ([[
        reactor.callWhenRunning(function()
          fs.readFile(dir .. "/slow"):addBoth(function() say "read by %d" end)
          say "running %d"
        end)
        return { listen = "tcp:127.0.0.1:0", protocol = {} }
      ]]):format(n, n)
    end
    local h = serve(text(1):sub(#HEAD + 1), { listening = 1, env = SLOW })
    h:line "^running 1"
    control.replace("script.lua", text(2))
    reload.committed()
    pass "slow"
    assert.equal("running 2", h:line())
    assert.equal("read by 2", h:line())
    h:stop()
  end)
end)

describe("fs.watch", function()
  after_each(host.cleanup)

  local SHOW = [[
    local function show(label) return function(change)
      say(label, change.what, change.path:sub(#dir + 2), tostring(change.name))
    end end
  ]]

  it("tells of a file that is written, replaced, removed and made again, and of no other", function()
    host.file("file", "1")
    local h = serve(SHOW .. [[
      local watch = assert(fs.watch(dir .. "/file", show "it"))
      reactor.callWhenRunning(say, "ready")
      local P = {}
      function P:connectionMade() self.transport:write(tostring(watch:stop()) .. " " .. tostring(watch:stop())) end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]], { listening = 1 })
    h:line "^ready"
    host.file("other", "x")
    local file = assert(io.open(path "file", "ab"))
    file:write "more"
    file:flush()
    assert.equal("it modified file file", h:line())
    file:close()
    assert.equal("it written file file", h:line())
    control.replace("file", "2")
    assert.equal("it written file file", h:line())
    os.remove(path "file")
    assert.equal("it removed file file", h:line())
    host.file("file", "3")
    assert.equal("it created file file", h:line())
    assert.equal("true nil", h:connect():receive(8))
    host.file("file", "4")
    h:stop()
    assert.falsy(h:output():find("written file file\n.*written file file\n.*modified file file\n.*modified"))
  end)

  it("tells of what happens in a folder, and when that is gone", function()
    control.makeFolder "sub"
    local h = serve(SHOW .. [[
      local sub = assert(fs.watch(dir .. "/sub", show "in"))
      say(tostring(fs.watch(dir .. "/no/such", print)), select(2, fs.watch(dir .. "/no/such", print)),
        select(3, fs.watch(dir .. "/no/such", print)))
      reactor.callWhenRunning(say, "ready")
    ]])
    assert.equal("nil cannot watch " .. path "no/such" .. ": No such file or directory ENOENT", h:line())
    h:line "^ready"
    host.file("sub/a", "x")
    h:line "^in written sub/a a$"
    process.run { "rm", "-r", path "sub" }
    h:line "^in removed sub/a a$"
    h:line "^in gone sub nil$"
    h:stop()
  end)

  it("goes on where what is told raises, and shares with --watch", function()
    host.file("file", "1")
    local text = SHOW .. [[
      assert(fs.watch(dir .. "/file", function(change) say "told" error "on purpose" end))
      assert(fs.watch(dir, function(change) if change.name == "file" then say("folder", change.what) end end))
      reactor.callWhenRunning(say, "ready")
      return { listen = "tcp:127.0.0.1:0", protocol = {} }
    ]]
    local h = serve(text, { listening = 1, options = { "--watch" } })
    h:line "^ready"
    local function both(n)
      sys.await(function()
        return alive.printed(h, "^told") == n and alive.printed(h, "^folder written") == n
      end, function()
        return h:story(("not told %d times"):format(n))
      end)
    end
    for n = 1, 2 do
      control.replace("file", "2")
      both(n)
      h:waitLog "script.lua:%d+: on purpose"
    end
    control.replace("script.lua", HEAD .. text:gsub('"ready"', '"again"'))
    h:line "^again"
    assert.equal(1, alive.printed(h, "^ready"))
    control.replace("file", "3")
    both(3)
    h:stop()
  end)
end)

describe("skald test", function()
  after_each(host.cleanup)

  it("complains of an appender and a watch that a test has left", function()
    host.file("it_spec.lua", [[
      local fs = require "skald.fs"
      it("leaves", function() fs.appender "log" fs.watch(".", print) end)
      it("does not", function() fs.appender("log"):close() assert(fs.watch(".", print)):stop() end)
    ]])
    local status, out, err = host.command { "test", "it_spec.lua", folder = host.folder() }
    assert.equal(1, status, err)
    assert.truthy(out:find("an appender of log", 1, true), out)
    assert.truthy(out:find("a watch of .", 1, true), out)
    assert.truthy(out:find("1 passed, 1 failed", 1, true), out)
  end)
end)
