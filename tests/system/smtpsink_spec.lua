-- The bundled service smtpsink: swaks, curl, and what no mail program says.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"

local function start(...)
  return host.run { "smtpsink", "listen=tcp:127.0.0.1:0", "show=tcp:127.0.0.1:0", listening = 2, ... }
end

local function swaks(h, ...)
  return process.run { "swaks", "--server", "127.0.0.1", "--port", h.port, "--from", "me@example.org", ... }
end

-- All messages that are kept.
local function shown(h)
  return (h:connect(nil, 2):receiveAll())
end

-- Says lines one after the other; each reply must begin as the row says.
local function talk(c, rows)
  for _, row in ipairs(rows) do
    if row[1] then
      c:send(row[1] .. "\r\n")
    end
    local line
    repeat
      line = c:line()
    until not line:find "^%d%d%d%-"
    assert.equal(row[2], line:sub(1, #row[2]), row[1])
  end
end

local function greeted(h)
  local c = h:connect()
  talk(c, { { nil, "220" }, { "EHLO me", "250" } })
  return c
end

describe("the bundled service smtpsink", function()
  after_each(host.cleanup)

  it("takes a message of swaks, and shows it", function()
    local h = start()
    local status, out = swaks(h, "--to", "you@example.org,them@example.org", "--h-Subject", "a test",
      "--body", "first\n.second\n..\n")
    assert.equal(0, status, out)
    assert.matches("250 kept as 1", out)
    assert.matches("8BITMIME.*SIZE 10485760", out)
    h:waitLog "message 1 from <me@example%.org> to <you@example%.org>, <them@example%.org>: %d+ bytes"
    local text = shown(h)
    assert.matches("^From me@example%.org 1\nReturn%-Path: <me@example%.org>\nReceived: from ", text)
    assert.matches("Received: from .- %(%[127%.0%.0%.1%]%)\n\tby localhost; ", text)
    assert.matches("\nSubject: a test\n", text)
    assert.matches("\n\nfirst\n%.second\n%.%.\n", text)
  end)

  it("takes a message of swaks in one go, and one of curl", function()
    local h = start()
    local status, out = swaks(h, "--to", "you@example.org", "--pipeline", "--body", "piped")
    assert.equal(0, status, out)
    local file = host.file("mail.txt", "Subject: of curl\r\n\r\n.dots\r\n..\r\nFrom here on\r\n")
    local log
    status, out, log = process.run {
      "curl", "-sS", "--max-time", "20", "--noproxy", "*", "smtp://127.0.0.1:" .. h.port .. "/me", "--mail-from", "a@b",
      "--mail-rcpt", "c@d", "-T", file,
    }
    assert.equal(0, status, log .. out)
    local text = shown(h)
    assert.matches("\npiped\n", text)
    assert.matches("\nSubject: of curl\n\n%.dots\n%.%.\n>From here on\n", text)
  end)

  it("takes pipelined commands however they are cut", function()
    local h = start()
    local all = "EHLO me\r\nMAIL FROM:<> BODY=8BITMIME SIZE=100\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n..y\r\n.\r\n"
      .. "RSET\r\nVRFY a\r\nNOOP\r\nQUIT\r\n"
    local answers
    for size = 1, #all, 7 do
      local c = h:connect()
      for at = 1, #all, size do
        c:send(all:sub(at, at + size - 1))
      end
      local text, ending = c:receiveAll()
      assert.equal("eof", ending)
      text = text:gsub("kept as %d+", "kept")
      answers = answers or text
      assert.equal(answers, text)
    end
    local codes = {}
    for code in answers:gmatch "%f[^\n](%d+) " do
      codes[#codes + 1] = code
    end
    assert.equal("250 250 250 354 250 250 252 250 221", table.concat(codes, " "))
    assert.matches("^From MAILER%-DAEMON 1\n.-\nx\n%.y\n\nFrom MAILER%-DAEMON 2\n", shown(h))
  end)

  it("wants things in their order, and says what is wrong", function()
    local h = start()
    local c = h:connect()
    talk(c, {
      { nil, "220 localhost ESMTP" }, { "MAIL FROM:<a@b>", "503" }, { "EHLO", "501" }, { "helo me", "250 localhost" },
      { "RCPT TO:<a@b>", "503" }, { "DATA", "503" }, { "MAIL a@b", "501" }, { "MAIL FROM:a@b", "501" },
      { "MAIL TO:<a@b>", "501" }, { "MAIL FROM:<a@b>SIZE=1", "501" }, { "MAIL FROM:<a@b> SIZE=x", "501" },
      { "MAIL FROM:<a@b> SIZE=99999999999", "552" }, { "MAIL FROM:<a@b> BODY=9BIT", "501" },
      { "MAIL FROM:<a@b> X=1", "555" },
      { "mail from: <a@b> size=1000 body=8bitmime", "250" }, { "MAIL FROM:<a@b>", "503" }, { "DATA", "554" },
      { "RCPT TO:<>", "501" }, { "rcpt to:<c@d>", "250" }, { "RCPT TO:<c@d> NOTIFY=NEVER", "555" }, { "RSET", "250" },
      { "DATA", "503" }, { "NOSUCH", "500" }, { "", "500" },
    })
    c:send(("NOSUCH\r\n"):rep(20))
    local rest, ending = c:receiveAll()
    assert.matches("^500 [^\n]+\n421 localhost too many errors\r\n$", rest)
    assert.equal("eof", ending)
  end)

  it("takes no more recipients, bytes and longer lines than it says", function()
    local h = start "size=1000"
    local c = greeted(h)
    talk(c, { { "MAIL FROM:<a@b> SIZE=1001", "552" }, { "MAIL FROM:<a@b> SIZE=1000", "250" } })
    for i = 1, 100 do
      talk(c, { { ("RCPT TO:<r%d@b>"):format(i), "250" } })
    end
    talk(c, {
      { "RCPT TO:<more@b>", "452" }, { "DATA", "354" }, { ("x"):rep(998) .. "\r\n.", "250 kept as 1" },
      { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" }, { ("x"):rep(999) .. "\r\nmore\r\n.", "552" },
      { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" },
      { ("y"):rep(5000) .. "\r\nshort\r\n.", "500" }, { ("NOOP "):rep(1000), "500" }, { "NOOP", "250" },
    })
    local _, messages = shown(h):gsub("\nReturn%-Path", "")
    assert.equal(1, messages)
  end)

  it("keeps so many messages and no more, and across a reload", function()
    local file = assert(io.open "scripts/services/smtpsink.lua")
    local text = file:read "*a"
    file:close()
    local h = host.serve(text, { "listen=tcp:127.0.0.1:0", "show=tcp:127.0.0.1:0", "keep=3", listening = 2 })
    local c = greeted(h)
    local function send(from, to)
      for i = from, to do
        talk(c, {
          { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" },
          { "text " .. i .. "\r\n.", "250 kept as " .. i },
        })
      end
    end
    send(1, 5)
    talk(c, { { "MAIL FROM:<half@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" } })
    c:send "begun\r\nhalf a l"
    assert.equal("committed", reload.run("--force").result)
    talk(c, { { "ine\r\n.", "250 kept as 6" } })
    local found = {}
    for line in shown(h):gmatch "\n(text %d)" do
      found[#found + 1] = line
    end
    assert.same({ "text 4", "text 5" }, found)
    assert.matches("\nbegun\nhalf a line\n", shown(h))
  end)

  it("puts messages into a maildir, whole", function()
    local folder = host.folder() .. "/mail"
    process.run { "mkdir", "-p", folder .. "/tmp", folder .. "/new", folder .. "/cur" }
    local h = start("maildir=" .. folder, "name=sink.example")
    local status, out = swaks(h, "--to", "you@example.org", "--body", "for the folder")
    assert.equal(0, status, out)
    local _, list = process.shell(("cd %s; ls tmp; cat new/*"):format(folder))
    assert.matches("^Return%-Path: <me@example%.org>\n.*\nfor the folder\n", list)
    assert.falsy(list:find("\r", 1, true))
    process.run { "rm", "-r", folder .. "/tmp" }
    status, out = swaks(h, "--to", "you@example.org")
    assert.not_equal(0, status)
    assert.matches("\n<%*%* 451 ", out)
    local log
    status, _, log = host.command { "run", "smtpsink", "listen=tcp:127.0.0.1:0", "maildir=" .. folder }
    assert.equal(1, status)
    assert.matches("maildir: .*mkdir %-p", log)
  end)

  it("waits for a slow disk without holding anybody else up, and takes a message when its file is whole", function()
    local folder = host.folder() .. "/mail"
    process.run { "mkdir", "-p", folder .. "/tmp", folder .. "/new", folder .. "/cur" }
    local h = host.run {
      "smtpsink", "listen=tcp:127.0.0.1:0", "show=tcp:127.0.0.1:0", "maildir=" .. folder, listening = 2,
      env = {
        LD_PRELOAD = "build/tests/slow.so",
        ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":verify_asan_link_order=0",
      },
    }
    local gate = folder .. "/tmp/.gate"
    process.run { "mkfifo", gate }
    local c, other = greeted(h), greeted(h)
    talk(c, { { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" } })
    c:send "text\r\n.\r\nNOOP\r\nMAIL FROM:<e@f>\r\nRCPT TO:<g@h>\r\nDATA\r\nmore\r\n.\r\n"
    c:halfClose()
    talk(other, { { "MAIL FROM:<a@b>", "250" }, { "NOOP", "250" } })
    assert.equal("", shown(h))
    assert.is_true(c:quiet())
    local opened = assert(io.open(gate, "r+b")) -- for reading too, so that nobody is waited for
    opened:setvbuf "no"
    opened:write ".."
    talk(c, {
      { nil, "250 kept as 1" }, { nil, "250 ok" }, { nil, "250 ok" }, { nil, "250 ok" }, { nil, "354" },
      { nil, "250 kept as 2" },
    })
    opened:close()
    local _, list = process.shell(("cd %s; ls tmp; cat new/* | grep -v :"):format(folder))
    assert.equal("text\nmore\n", list)
  end)

  it("keeps nothing of a message whose file could not be made", function()
    local folder = host.folder() .. "/mail"
    process.run { "mkdir", "-p", folder .. "/tmp", folder .. "/new", folder .. "/cur" }
    local h = start("maildir=" .. folder)
    local c = greeted(h)
    local function try(reply)
      talk(c, {
        { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" }, { "text\r\n.", reply }, { "NOOP", "250" },
      })
    end
    process.run { "mv", folder .. "/new", folder .. "/old" }
    try "451 cannot rename "
    h:waitLog "a message of <a@b>: cannot rename "
    assert.equal("", (select(2, process.shell("ls " .. folder .. "/tmp"))))
    assert.equal("", shown(h))
    process.run { "mv", folder .. "/old", folder .. "/new" }
    try "250 kept as 1"
  end)

  it("says 452 where the disk is full", function()
    local folder = host.folder() .. "/mail"
    process.run { "mkdir", "-p", folder .. "/tmp", folder .. "/new", folder .. "/cur" }
    -- the size that a file may have stands for a disk: what goes beyond is EFBIG
    local h = host.run {
      "smtpsink", "listen=tcp:127.0.0.1:0", "show=tcp:127.0.0.1:0", "maildir=" .. folder, listening = 2,
      through = { "sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh" },
    }
    local c = greeted(h)
    talk(c, {
      { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" },
      { ("x"):rep(70) .. ("\r\n" .. ("x"):rep(70)):rep(200) .. "\r\n.", "452 cannot write " }, { "NOOP", "250" },
    })
    assert.equal("", (select(2, process.shell("ls " .. folder .. "/tmp " .. folder .. "/new | grep -v :"))):gsub("\n", ""))
  end)

  it("notices nothing of who leaves in the midst of a message", function()
    local h = start()
    local c = greeted(h)
    talk(c, { { "MAIL FROM:<a@b>", "250" }, { "RCPT TO:<c@d>", "250" }, { "DATA", "354" } })
    c:send "a line\r\nhalf"
    c:reset()
    talk(greeted(h), { { "NOOP", "250" } })
    assert.equal("", shown(h))
  end)
end)
