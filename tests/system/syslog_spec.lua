-- The bundled service syslog: logger, and messages of all kinds.

local client = require "support.client"
local host = require "support.host"
local process = require "support.process"

-- A host with both carriers; the second one is a Unix socket.
local function start(...)
  return host.run {
    "syslog", "listen=udp:127.0.0.1:0", "stream=unix:" .. host.folder() .. "/log.sock", listening = 2, ...,
  }
end

local function logger(...)
  local status, out, log = process.run { "logger", ... }
  assert.equal(0, status, out .. log)
end

-- The next line without its time.
local function line(h)
  return (h:line():gsub("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ ", ""))
end

local function stream(h)
  return client.unix(h.endpoints[2].path)
end

-- Waits until a file has this text; all that it has then.
local function fileWith(path, text)
  return client.sys.await(function()
    local file = io.open(path)
    local all = file and file:read "*a" or ""
    if file then
      file:close()
    end
    return all:find(text, 1, true) and all
  end, function()
    return ("%s is not written to %s"):format(text, path)
  end)
end

describe("the bundled service syslog", function()
  after_each(host.cleanup)

  it("writes what logger sends by UDP, in both formats", function()
    local h = start()
    local words = { "--server", "127.0.0.1", "--udp", "--port", h.port, "-t", "tester", "-p" }
    local function say(priority, ...)
      local all = { unpack(words) }
      all[#all + 1] = priority
      for _, word in ipairs { ... } do
        all[#all + 1] = word
      end
      logger(unpack(all))
    end
    say("local3.err", "--rfc3164", "--id=42", "the old one")
    assert.matches("^%S+ tester%[42%] local3%.err: the old one$", line(h))
    say("mail.info", "--rfc5424", "--id=43", "--msgid", "some", "the new one")
    assert.matches("^%S+ tester%[43%] mail%.info: %[timeQuality [^%]]+%] the new one$", line(h))
    say("user.debug", "--rfc5424=notq,notime,nohost", "bare")
    assert.equal("127.0.0.1 tester user.debug: bare", line(h))
  end)

  it("writes what logger sends to a Unix socket", function()
    local h = start()
    local path = h.endpoints[2].path
    logger("--socket", path, "-t", "tester", "-p", "cron.warning", "by the socket")
    assert.equal("local tester cron.warning: by the socket", line(h))
    local lines = host.file("lines.txt", "one\ntwo\nthree\n")
    logger("--socket", path, "-t", "tester", "-f", lines)
    for _, word in ipairs { "one", "two", "three" } do
      assert.equal("local tester user.notice: " .. word, line(h))
    end
  end)

  it("takes messages of streams however they are cut, with lengths and with ends", function()
    local h = start()
    local all = "<11>app: first\n9 <12>a: b\n<13>c: x\0<14>app[7]: last\n"
    local expected = {
      "local app user.err: first", "local a user.warning: b", "local c user.notice: x", "local app[7] user.info: last",
    }
    for size = 1, #all do
      local c = stream(h)
      for at = 1, #all, size do
        c:send(all:sub(at, at + size - 1))
      end
      c:close()
      for _, one in ipairs(expected) do
        assert.equal(one, line(h), "pieces of " .. size)
      end
    end
    local c = stream(h)
    c:send "<11>app: without an end"
    c:close()
    assert.equal("local app user.err: without an end", line(h))
  end)

  it("understands what is not quite as it should be", function()
    local h = start()
    local c = stream(h)
    for _, row in ipairs {
      { "no priority", "local - user.notice: no priority" },
      { "<192>too much", "local - user.notice: <192>too much" },
      { "<0>Nov  1 01:02:03 box prog[1]: text: more", "box prog[1] kern.emerg: text: more" },
      { "<0>Nov  1 01:02:03 prog: text", "local prog kern.emerg: text" },
      { "<0>Nov  1 01:02:03 only words here", "local - kern.emerg: only words here" },
      { "<191>1 - - - - - -", "local - local7.debug: " },
      { "<34>1 2003-10-11T22:14:15.003Z box.example su 9 ID47 - \239\187\191failed for x",
        "box.example su[9] auth.crit: failed for x" },
      { '<34>1 - box app - - [a@1 k="]\\"\\\\" l="m"][b] text', 'box app auth.crit: [a@1 k="]\\"\\\\" l="m"][b] text' },
      { '<34>1 - box app - - [a k="never ends', 'local - auth.crit: 1 - box app - - [a k="never ends' },
      { "<34>1 - box", "local - auth.crit: 1 - box" },
      { "<13>app: \27[31mred\7\r", "local app user.notice: #033[31mred#007" },
    } do
      c:send(row[1] .. "\n")
      assert.equal(row[2], line(h), row[1])
    end
  end)

  it("closes a connection whose message has no end, and cuts what is too long", function()
    local h = start()
    local c = stream(h)
    c:send("<13>app: " .. ("x"):rep(10000) .. "\n")
    assert.equal(8192 - #"<13>app: ", #line(h):match "x+$")
    c:send(("y"):rep(20000))
    assert.is_nil((c:read()))
    assert.equal(8192, #line(h):match "y+$")
  end)

  it("leaves out what is less urgent than asked for, and writes to a file", function()
    local path = host.folder() .. "/all.log"
    local h = start("least=warning", "file=" .. path)
    local c = stream(h)
    c:send "<14>app: info\n<12>app: warning\n<11>app: error\n"
    local lines = {}
    for text in fileWith(path, "error"):gmatch "[^\n]+" do
      lines[#lines + 1] = text:match "app.*"
    end
    h:stop()
    assert.same({ "app user.warning: warning", "app user.err: error" }, lines)
    local status, _, log = host.command { "run", "syslog", "listen=udp:127.0.0.1:0", "least=loud" }
    assert.equal(1, status)
    assert.matches("least=loud: there are", log)
  end)

  it("goes on with a new file after a reload, and with the message that was under way", function()
    local path = host.folder() .. "/all.log"
    local h = start("file=" .. path)
    local c = stream(h)
    c:send "<14>app: first\n<14>app: half "
    fileWith(path, "first")
    assert(os.rename(path, path .. ".old"))
    assert.equal(0, (host.command { "reload", "--force" }))
    c:send "a line\n"
    assert.falsy(fileWith(path, "app user.info: half a line\n"):find("first", 1, true))
  end)
end)
