-- Does what a document shows of a terminal, and holds it to what it shows.
--
--   $ COMMAND      is run; the lines below it are what it says, to its end
--   $ build/skald run …, with a line `listening …` below it: a host that goes on, and says the lines in the end
--   $ cp A B       the lines below it come in the log of the host
--   1$ nc …        a terminal of its own; `1> text` is typed there, `1: text` is what it shows next
--
-- `…` in what is said stands for anything, alone for any number of lines. Ports and /tmp are other ones in truth.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"
local sys = process.sys

local Session = {}
Session.__index = Session

local session = {}

--- A session that has not done anything yet.
function session.new()
  return setmetatable({ ports = {}, hosts = {}, terminals = {} }, Session)
end

-- A text with the real ports and folder in it.
function Session:real(text)
  text = text:gsub("127%.0%.0%.1([: ])(%d+)", function(between, port)
    return "127.0.0.1" .. between .. (self.ports[port] or port)
  end)
  return (text:gsub("/tmp/", host.folder() .. "/"))
end

local function patternOf(text)
  return "^" .. text:gsub("%p", "%%%0"):gsub("…", ".*") .. "$"
end

-- Whether the lines from `at` on are the expected ones from `n` on; and if not, which of those fits no more.
local function follow(lines, at, expected, n)
  if expected[n] == "…" then
    local rest = #expected - n
    return follow(lines, math.max(at, #lines - rest + 1), expected, n + 1)
  elseif not expected[n] and not lines[at] then
    return true
  elseif expected[n] and lines[at] and lines[at]:find(patternOf(expected[n])) then
    return follow(lines, at + 1, expected, n + 1)
  end
  return false, n
end

-- Raises unless the lines of `text` are the expected ones. A line of nothing but `…` stands for any number of them.
local function compare(what, expected, text)
  local lines = {}
  for line in text:gsub("\r", ""):gmatch "([^\n]*)\n" do
    lines[#lines + 1] = line
  end
  local ok, n = follow(lines, 1, expected, 1)
  if not ok then
    error(("%s does not say %q, but:\n%s"):format(what, tostring(expected[n]), text), 0)
  end
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

function Session:serve(words, expected)
  local run = { options = {} }
  for _, word in ipairs(words) do
    table.insert(word:find "^%-" and run.options or run, word)
  end
  local port = read(run[1]):match 'listen = "tcp:127%.0%.0%.1:(%d+)"'
  table.insert(run, 2, "listen=tcp:127.0.0.1:0")
  local h = host.run(run)
  self.ports[port] = tostring(h.port)
  table.insert(self.hosts, { host = h, expected = expected })
end

-- Waits until the host knows of all terminals: what is typed elsewhere now finds them.
function Session:settle()
  local open = 0
  for _ in pairs(self.terminals) do
    open = open + 1
  end
  sys.await(function()
    return reload.status().connections == open
  end, function()
    return ("the host does not know of %d terminals"):format(open)
  end)
end

function Session:command(line, expected)
  local words = {}
  line = self:real(line)
  for word in line:gmatch "%S+" do
    words[#words + 1] = word
  end
  if words[1] == "build/skald" and words[2] == "run" and (expected[1] or ""):find "^listening" then
    return self:serve({ unpack(words, 3) }, expected)
  elseif words[1] == "cp" then
    assert(process.run(words) == 0, line)
    for _, said in ipairs(expected) do
      self.hosts[#self.hosts].host:waitLog(patternOf(self:real(said)))
    end
    return nil
  end
  local env = { XDG_RUNTIME_DIR = host.folder() .. "/none", LUA_PATH = false, LUA_CPATH = false }
  local status, out, log = process.run { "sh", "-c", line:gsub("build/skald", host.binary), env = env }
  compare(line, expected, out)
  assert(status == 0, ("%s ends with %s: %s"):format(line, status, log))
end

function Session:typed(number, mark, text, following)
  local terminal = self.terminals[number]
  if mark == "$" then
    local words = {}
    for word in self:real(text):gmatch "%S+" do
      words[#words + 1] = word
    end
    self.terminals[number] = process.start(words)
    if not following:find("^" .. number .. ":") then
      self:settle()
    end
  elseif mark == ">" then
    terminal:write(text .. "\n")
  else
    compare("terminal " .. number, { self:real(text) }, terminal:line() .. "\n")
  end
end

--- Does what the lines of one block show.
function Session:run(lines)
  local at = 1
  while at <= #lines do
    local number, mark, text = lines[at]:match "^(%d*)([$>:]) (.*)$"
    assert(mark, "not a line of a session: " .. lines[at])
    at = at + 1
    if number ~= "" then
      self:typed(number, mark, text, lines[at] or "")
    else
      local expected = {}
      while lines[at] and not lines[at]:find "^%d*[$>:] " do
        expected[#expected + 1] = lines[at]
        at = at + 1
      end
      self:command(text, expected)
    end
  end
end

--- Stops everything; the hosts must have said what was shown, and nothing else.
function Session:finish()
  for _, terminal in pairs(self.terminals) do
    terminal:closeInput()
    terminal:kill "TERM"
    terminal:wait()
  end
  for _, entry in ipairs(self.hosts) do
    for _ = 2, #entry.expected do
      entry.host:line()
    end
    entry.host:stop()
    for i, line in ipairs(entry.expected) do
      entry.expected[i] = self:real(line)
    end
    compare("the host", entry.expected, entry.host:output())
  end
end

return session
