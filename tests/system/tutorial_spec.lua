-- The tutorial: what docs/TUTORIAL.md shows is what is in the files, and what happens; and so are the heads of the files.

local client = require "support.client"
local host = require "support.host"
local process = require "support.process"
local session = require "support.session"

local TUTORIAL = "docs/TUTORIAL.md"

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

local function list(command)
  local found = {}
  local listing = io.popen(command)
  for path in listing:lines() do
    found[#found + 1] = path
  end
  listing:close()
  return found
end

local function steps()
  return list "ls examples/finger/*.lua examples/chat/*.lua"
end

-- The sections of a document: `title`, `codes` (a block and the file it says it is from), `sessions` (blocks of
-- lines), in the order in which they stand.
local function sections(document)
  local found, section, path, code, block = {}, nil, nil, nil, nil
  local part = ""
  for line in (read(document) .. "\n"):gmatch "([^\n]*)\n" do
    local depth, title = line:match "^(#+) (.*)$"
    if code then
      if line == "```" then
        code.path, code.text = path, table.concat(code, "\n") .. "\n"
        table.insert(section.codes, code)
        code = nil
      else
        code[#code + 1] = line
      end
    elseif depth then
      part = depth == "#" and title or part
      section, path = { title = part .. " " .. title, codes = {}, sessions = {} }, nil
      table.insert(found, section)
    elseif line:find "^```" then
      code = { language = line:sub(4) }
    elseif line:find "^    " then
      if not block then
        block = {}
        table.insert(section.sessions, block)
      end
      block[#block + 1] = line:sub(5)
    else
      block = nil
      for name in line:gmatch "`(examples/[^`]+%.lua)`" do
        path = name
      end
    end
  end
  assert(not code, "a block without an end")
  return found
end

-- What a head shows, as the lines of a session: the commands, and what is to come of those that ask something.
local function headOf(path)
  local lines = {}
  local head = read(path):match "^(.-)\n\n"
  for line in head:gmatch "%-%-   ([^\n]+)" do
    local command, rest = line:match "^(.-)   +(.*)$"
    command = command or line
    if command:find "^build/skald run" then
      lines[#lines + 1] = "$ " .. command
      lines[#lines + 1] = "listening tcp:127.0.0.1:…"
    elseif command:find "^printf" then
      lines[#lines + 1] = "$ " .. command
      lines[#lines + 1] = rest:match '^"([^"]*)"'
    end
  end
  return lines
end

-- Each block is in the file that it says it is from. How many there are.
local function compareCodes(document)
  local blocks = 0
  for _, section in ipairs(sections(document)) do
    for _, code in ipairs(section.codes) do
      if code.path and code.language == "lua" then
        blocks = blocks + 1
        local isThere = ("\n" .. read(code.path)):find("\n" .. code.text, 1, true)
        assert(isThere, ("%s: %s has no\n%s"):format(section.title, code.path, code.text))
      end
    end
  end
  return blocks
end

local function serve(name, ...)
  return host.run { ("examples/%s.lua"):format(name), "listen=tcp:127.0.0.1:0", ... }
end

-- Somebody of that name in the chat's hall.
local function enter(h, name)
  local c = h:connect()
  assert.equal("What is your name?", c:line())
  c:send(name .. "\n")
  assert.equal(("Welcome to the hall, %s!"):format(name), c:line())
  return c
end

describe("the tutorial", function()
  after_each(host.cleanup)

  it("has its code from the files that it names", function()
    for _, section in ipairs(sections(TUTORIAL)) do
      for _, code in ipairs(section.codes) do
        assert(code.path and code.language == "lua", section.title .. ": a block of no file")
      end
    end
    assert.truthy(compareCodes(TUTORIAL) > 20)
  end)

  it("is not the only one: so has the guide where it names files", function()
    assert.truthy(compareCodes "docs/GUIDE.md" > 0)
  end)

  it("speaks of every step, and of every spec", function()
    local text = read(TUTORIAL)
    for _, path in ipairs(steps()) do
      assert.truthy(text:find("`" .. path .. "`", 1, true), path)
    end
  end)

  for _, section in ipairs(sections(TUTORIAL)) do
    if #section.sessions > 0 then
      it("happens as it says: " .. section.title, function()
        local all = session.new()
        for _, block in ipairs(section.sessions) do
          all:run(block)
        end
        all:finish()
      end)
    end
  end

  it("has heads that say how each step is run", function()
    for _, path in ipairs(steps()) do
      if path:find "/%d" then
        assert.truthy(read(path):match("^(.-)\n\n"):find("build/skald run " .. path, 1, true), path)
      end
    end
  end)

  for _, path in ipairs(steps()) do
    if path:find "/0[4-8]_" and path:find "finger" or path:find "/10_" or path:find "/finger.lua" then
      it("is answered as the head says: " .. path, function()
        local all = session.new()
        all:run(headOf(path))
        for _, entry in ipairs(all.hosts) do
          entry.host:stop()
        end
      end)
    end
  end

  it("asks no longer for whoever has hung up", function()
    local silent = serve "finger/02_listen"
    local h = serve("finger/10_forward", "office=tcp:127.0.0.1:" .. silent.port)
    local c = h:connect()
    c:send "alice@office\r\n"
    silent:line "^7 bytes came"
    c:close()
    silent:line "^gone: "
  end)

  it("says so where there is no server to ask, and ends with 1", function()
    local status, _, log = host.command { "run", "examples/finger/09_client.lua", "user=alice", "at=tcp:127.0.0.1:1" }
    assert.equal(1, status)
    assert.matches("^cannot connect to tcp:127%.0%.0%.1:1: %a", log)
  end)

  it("answers one question a connection, also while an answer is on its way", function()
    for _, name in ipairs { "finger/05_answer", "finger/07_deferred", "finger/08_await" } do
      local c = serve(name):connect()
      c:send "alice\r\nbob\r\n"
      assert.same({ "alice is painting the fence\r\n", "eof" }, { c:receiveAll() }, name)
    end
  end)

  it("closes who sends too long a line, and a sixth connection of one address", function()
    local h = serve "finger/11_limits"
    local c = h:connect()
    c:send(("x"):rep(513))
    assert.same({ "", "eof" }, { c:receiveAll() })
    local five = client.many(5, h.port)
    assert.same({ "", "eof" }, { h:connect():receiveAll() })
    five[1]:send "alice\r\n"
    assert.equal("alice is painting the fence", five[1]:line())
  end)

  it("sends away from the chat who sends a line without an end", function()
    local c = serve "chat/chat":connect()
    assert.equal("What is your name?", c:line())
    c:send(("x"):rep(501))
    assert.same({ "That was too long. Goodbye.\n", "eof" }, { c:receiveAll() })
  end)

  it("tells the others in the chat's room, and no others, who comes and goes", function()
    for _, name in ipairs { "03_rooms", "04_state", "05_reload", "chat" } do
      local h = serve("chat/" .. name)
      local ann, ben = enter(h, "ann"), enter(h, "ben")
      assert.equal("* ben is here", ann:line())
      ben:send "/join garden\n"
      assert.equal("* ben goes to the garden", ann:line())
      assert.equal("Welcome to the garden, ben!", ben:line())
      ann:send "nobody hears that\n/join garden\n"
      assert.equal("* ann is here", ben:line())
      ben:close()
      assert.equal("Welcome to the garden, ann!", ann:line())
      assert.equal("* ben is gone", ann:line())
    end
  end)

  it("has specs that need no host", function()
    for _, file in ipairs { "examples/finger/finger_spec.lua", "examples/chat/chat_spec.lua" } do
      local status, out = process.run {
        "busted", "--lua=luajit", "--output=TAP", file, env = { LUA_PATH = "scripts/?.lua;;", LUA_CPATH = false },
      }
      assert.equal(0, status, out)
      assert.matches("\nok 6 ", out)
    end
  end)
end)
