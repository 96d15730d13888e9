-- Reloading what a test serves: versions of one script, the command with its decoded answer, and what /proc tells of a
-- listening socket. In a script that is served in versions each `@` stands for the number of the version.

local cjson = require "cjson.safe"
local client = require "support.client"
local host = require "support.host"
local process = require "support.process"
local sys = require "support.sys"

local reload = {}

--- The version `n` of a script.
function reload.version(text, n)
  return (text:gsub("@", tostring(n)))
end

--- Serves version 1 of a script; the rest as `host.serve`.
function reload.serve(text, words)
  return host.serve(reload.version(text, 1), words)
end

--- Replaces a file of the test's folder (the script, unless named) in one step, as editors do; returns its path.
function reload.rewrite(text, name)
  name = name or "script.lua"
  local path = host.folder() .. "/" .. name
  assert(os.rename(host.file(name .. ".new", text), path))
  return path
end

local statuses = { committed = 0, unchanged = 0, refused = 1, error = 2 } -- of the commands, by the answers' results

local function decode(status, out, log)
  local answer = cjson.decode(out)
  if type(answer) ~= "table" or not out:find "^[^\n]+\n$" then
    error(("no line of JSON, but status %s, stdout %q and stderr %q"):format(tostring(status), out, log), 0)
  end
  return answer, status, out
end

--- Runs a command of the host with --json; returns the answer, the exit status and the line itself.
function reload.command(words)
  local all = { unpack(words) }
  all[#all + 1] = "--json"
  return decode(host.command(all))
end

-- Asks on the control socket as a command does, which would take longer to start than the host to answer.
local function ask(request)
  local c = client.unix(host.folder() .. "/skald.sock"):send(cjson.encode(request) .. "\n")
  local line = c:receiveAll()
  c:close()
  local answer = cjson.decode(line)
  return decode(type(answer) == "table" and statuses[answer.result], line, "")
end

--- Reloads as `skald reload` with these words does (a service's name, `--force`); returns as `reload.command`.
function reload.run(...)
  local request = { command = "reload" }
  for _, word in ipairs { ... } do
    if word == "--force" then
      request.force = true
    elseif word:find "^%-" then
      return reload.command { "reload", ... }
    else
      request.service = word
    end
  end
  return ask(request)
end

--- Starts `skald reload` and goes on; `finish` waits for it and returns as `reload.command`.
function reload.start()
  local p = process.start {
    host.binary, "reload", "--json",
    env = { XDG_RUNTIME_DIR = host.folder(), SKALD_TRACE = false, LUA_PATH = false, LUA_CPATH = false },
  }
  return function()
    return decode(p:wait(), p:output(), p:errors())
  end
end

--- Raises unless the answer is of that kind and the exit status goes with it; returns the report.
function reload.expect(result, report, status, line)
  if report.result ~= result or status ~= statuses[result] then
    error(("not %s, but (with status %s) %s"):format(result, tostring(status), line), 2)
  end
  return report
end

--- Reloads what is on disk, which must be committed; returns the report.
function reload.committed(...)
  return reload.expect("committed", reload.run(...))
end

--- Reloads what is on disk, which must be refused; returns the report.
function reload.refused(...)
  return reload.expect("refused", reload.run(...))
end

--- Puts version `n` (default 2) of a script in place and reloads it, which must be committed; returns the report.
function reload.commit(text, n)
  reload.rewrite(reload.version(text, n or 2))
  return reload.committed()
end

--- Puts version `n` (default 2) of a script in place and reloads it, which must be refused; returns the report.
function reload.refuse(text, n)
  reload.rewrite(reload.version(text, n or 2))
  return reload.refused()
end

--- What `skald status` says of the service (the first one, unless named).
function reload.status(name)
  local answer, _, line = ask { command = "status" }
  for _, service in ipairs(answer.services) do
    if name == nil or service.name == name then
      return service
    end
  end
  error("no such service: " .. line, 2)
end

--- The generations that are still held though all garbage was collected, as `skald status` tells of them.
function reload.old(h)
  h:kill "USR1" -- collects twice: what was not freed by then is told of
  h:waitLog "alive: "
  return reload.status().oldGenerations
end

--- Waits until `n` old generations are held, 0 unless told otherwise; returns them.
function reload.awaitOld(h, n)
  local old
  return sys.await(function()
    old = reload.old(h)
    return #old == (n or 0) and old
  end, function()
    return h:story(("%d old generations are held"):format(#old))
  end)
end

--- Lua text that makes `gate(name)` block the host until the test calls `reload.open(name)`.
function reload.gate()
  return ([[
    local function gate(name)
      print("waiting at " .. name)
      for _ = 1, 1e7 do
        local file = io.open("%s/" .. name)
        if file then return file:close() end
      end
      error "the gate stayed shut"
    end
  ]]):format(host.folder())
end

--- Opens a gate.
function reload.open(name)
  host.file(name, "open")
end

--- Whether one of a list of texts has `word` in it.
function reload.names(list, word)
  for _, text in ipairs(list) do
    if text:find(word, 1, true) then
      return true
    end
  end
  return false
end

--- A Unix endpoint of that name in the test's folder, and its path.
function reload.unix(name)
  local path = ("%s/%s.sock"):format(host.folder(), name)
  return "unix:" .. path, path
end

--- A client of the Unix endpoint of that name.
function reload.connect(name)
  local _, path = reload.unix(name)
  return client.unix(path)
end

-- The inode of the socket that listens on a port of 127.0.0.1, as text.
local function inodeOf(port)
  local wanted = ("0100007F:%04X"):format(port)
  return sys.await(function() -- a line may be left out while others listen and cease to
    for line in io.lines "/proc/net/tcp" do
      local fields = {}
      for field in line:gmatch "%S+" do
        fields[#fields + 1] = field
      end
      if fields[4] == "0A" and fields[2] == wanted then
        return fields[10]
      end
    end
  end, function()
    return "nothing listens on port " .. port
  end)
end

--- Which descriptor and socket of the host listens on its first endpoint, as a text to compare.
function reload.socket(h)
  local inode = inodeOf(h.port)
  local _, list = process.run { "ls", "-l", ("/proc/%d/fd"):format(h.pid) }
  local fd = list:match("(%d+) %-> socket:%[" .. inode .. "%]")
  return ("descriptor %s, socket %s"):format(assert(fd, "the host does not hold the socket"), inode)
end

return reload
