-- The control socket seen from outside: requests byte by byte, commands with what they say, services that answer a
-- word, and the ways in which files are changed on a real machine.

local cjson = require "cjson.safe"
local client = require "support.client"
local host = require "support.host"
local process = require "support.process"

local control = {}

--- Where a host of this test has its control socket, unless told otherwise.
function control.path()
  return host.folder() .. "/skald.sock"
end

--- The pattern that matches just this text.
function control.escape(text)
  return (text:gsub("%p", "%%%0"))
end

--- The text of a service that answers `word` to whatever it gets. `extra` goes into its definition, `before` before it.
function control.answering(word, extra, before)
  return ([[
    %s
    local P = {}
    function P:dataReceived() self.transport:write("%s\n") end
    return { listen = "tcp:127.0.0.1:0", protocol = P %s }
]]):format(before or "", word, extra and ", " .. extra or "")
end

--- The text of a service that answers with the value of a Lua expression. `before` stands before it.
function control.telling(expression, before)
  return ([[
    %s
    local P = {}
    function P:dataReceived() self.transport:write(tostring(%s) .. "\n") end
    return { listen = "tcp:127.0.0.1:0", protocol = P }
]]):format(before or "", expression)
end

--- What the service says to this client now.
function control.ask(c)
  return c:send("?"):line()
end

--- What the host's endpoint number `which` says to a new client.
function control.word(h, which)
  local c = h:connect(nil, which)
  local word = control.ask(c)
  c:close()
  return word
end

--- Runs a command of the host with --json. Returns the answer (nil if that is no JSON), status, stdout and stderr.
function control.json(words)
  local all = { env = words.env, unpack(words) }
  all[#all + 1] = "--json"
  local status, out, log = host.command(all)
  return cjson.decode(out), status, out, log
end

--- The answer of `skald status --json`, which must be given. Fields of `words` as in `host.command`.
function control.status(words)
  words = words or {}
  local answer, status, out, log = control.json { "status", env = words.env, unpack(words) }
  if status ~= 0 or type(answer) ~= "table" then
    error(("status %s, stdout %q, stderr %q"):format(tostring(status), out, log), 2)
  end
  return answer, out
end

--- What `skald status --json` says of the service of that name; nil when there is none.
function control.service(name)
  for _, service in ipairs(control.status().services) do
    if service.name == name then
      return service
    end
  end
end

--- Runs a program within a folder; returns status, stdout and stderr.
function control.within(folder, words)
  local binary = select(2, process.run { "realpath", host.binary }):gsub("\n", "")
  local argv = { "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder }
  for i, word in ipairs(words) do
    argv[#argv + 1] = i == 1 and word == "skald" and binary or word
  end
  argv.env = { XDG_RUNTIME_DIR = host.folder(), LUA_PATH = false, LUA_CPATH = false }
  return process.run(argv)
end

--- Connects to the control socket, sends `bytes` as far as they are taken, and goes on; `options.halfClose` ends the
--- sending.
function control.send(bytes, options)
  local c = client.unix(options and options.path or control.path())
  local ok = pcall(c.send, c, bytes) -- a host that has heard enough may close before the end
  if ok and options and options.halfClose then
    c:halfClose()
  end
  return c
end

--- Reads the answer to the end. Returns it decoded (nil if there was none, false if it is no JSON on one line), how the
--- stream ended, and the bytes.
function control.answer(c, seconds)
  local text, ending = c:receiveAll(seconds)
  c:close()
  if text == "" then
    return nil, ending, text
  end
  local answer = text:find "^[^\n]+\n$" and cjson.decode(text)
  return type(answer) == "table" and answer, ending, text
end

--- Sends bytes and reads the answer, as above.
function control.talk(bytes, options)
  return control.answer(control.send(bytes, options))
end

--- Sends a table as one request and reads the answer, as above.
function control.request(request)
  return control.talk(assert(cjson.encode(request)) .. "\n")
end

--- Runs a command that must end with 0; returns its stdout.
function control.must(argv)
  local status, out, log = process.run(argv)
  if status ~= 0 then
    error(("%s ended with %s: %s%s"):format(table.concat(argv, " "), tostring(status), out, log), 2)
  end
  return out
end

--- The mode and kind of a file: `600 socket`.
function control.modeOf(path)
  return (control.must({ "stat", "-c", "%a %F", path }):gsub("\n", ""))
end

--- Whether there is something at a path.
function control.exists(path)
  return (process.run { "test", "-e", path }) == 0
end

--- Makes a folder within the test's folder; returns its path.
function control.makeFolder(name)
  local path = host.folder() .. "/" .. name
  control.must { "mkdir", "-p", path }
  return path
end

--- Replaces a file of the test's folder in one step; returns its path.
function control.replace(name, text)
  local path = host.folder() .. "/" .. name
  assert(os.rename(host.file(name .. ".new", text), path))
  return path
end

--- Makes a link at `name` (within the test's folder) lead to `target`, replacing the former one in one step.
function control.link(name, target)
  local path = host.folder() .. "/" .. name
  control.must { "ln", "-s", target, path .. ".new" }
  control.must { "mv", "-T", path .. ".new", path }
  return path
end

local function editor()
  for _, name in ipairs { "vim", "vim.tiny", "vim.basic" } do
    if (process.run { "sh", "-c", "command -v " .. name }) == 0 then
      return name
    end
  end
  error("there is no vim", 0)
end

--- Edits and saves a file with vim. The further words are its commands.
function control.edit(path, ...)
  local argv = { editor(), "-u", "NONE", "-i", "NONE", "-es" }
  for _, command in ipairs { ... } do
    argv[#argv + 1] = "-c"
    argv[#argv + 1] = command
  end
  for _, word in ipairs { "-c", "wq", path } do
    argv[#argv + 1] = word
  end
  argv.input = "/dev/null"
  return control.must(argv)
end

--- Runs git within a folder, with a user of its own and no configuration from elsewhere.
function control.git(folder, ...)
  local argv = {
    "git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main",
    "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", ...,
  }
  argv.env = { GIT_CONFIG_GLOBAL = "/dev/null", GIT_CONFIG_SYSTEM = "/dev/null", GIT_DIR = false, GIT_WORK_TREE = false,
    GIT_INDEX_FILE = false }
  return control.must(argv)
end

--- The lines of the log so far that tell of a reload that was made: a list of `NAME: generation N -> M`.
function control.reloads(h, name)
  local list = {}
  for line in h:errors():gmatch "[^\n]+" do
    local found = line:match("reload (" .. control.escape(name or "script") .. ": generation %d+ %-> %d+)")
    if found then
      list[#list + 1] = found
    end
  end
  return list
end

--- Waits for the next reload of the service in the log; returns its generations from and to.
function control.reloaded(h, name, seconds)
  local pattern = "reload " .. control.escape(name or "script") .. ": generation (%d+) %-> (%d+)"
  local from, to = h:waitLog(pattern, seconds)
  return tonumber(from), tonumber(to)
end

return control
