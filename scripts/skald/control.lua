-- The control socket: one request a connection, one line of JSON each way. Only the user who runs
-- the host may ask.

local core = require "skald.core"
local log = require "skald.log"
local ports = require "skald.ports"
local program = require "skald.program"
local protocol = require "skald.protocol"
local roster = require "skald.roster"

local C, pointer = core.C, core.pointer
local control = {
  PATIENCE = 10, -- seconds for a request to come
}

local MOST = 65536 -- bytes of a request
local MOST_AT_ONCE = 256

--- Where the socket lies, and the folder that must be ours alone, if any.
---@param given string?
---@return string path
---@return string? folder
function control.path(given)
  if given then
    return given
  end
  local runtime = os.getenv "XDG_RUNTIME_DIR"
  if runtime and runtime ~= "" then
    return runtime .. "/skald.sock"
  end
  local temporary = os.getenv "TMPDIR"
  if not temporary or temporary == "" then
    temporary = "/tmp"
  end
  local folder = ("%s/skald-%d"):format(temporary, C.skald_user())
  return folder .. "/control.sock", folder
end

-- --- answering --------------------------------------------------------------------------------

local Control = protocol.Protocol {}

-- The well-formed sequences of UTF-8 (RFC 3629, section 4).
local sequences = {
  "^[\194-\223][\128-\191]",
  "^\224[\160-\191][\128-\191]",
  "^[\225-\236\238\239][\128-\191][\128-\191]",
  "^\237[\128-\159][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]",
  "^\244[\128-\143][\128-\191][\128-\191]",
}

local REPLACEMENT = "\239\191\189" -- U+FFFD

-- Errors may have any bytes; JSON has UTF-8 only.
local function wellFormed(text)
  return (text:gsub("[\128-\255]+", function(run)
    local parts, at = {}, 1
    while at <= #run do
      local found
      for _, sequence in ipairs(sequences) do
        found = found or run:match(sequence, at)
      end
      parts[#parts + 1] = found or REPLACEMENT
      at = at + (found and #found or 1)
    end
    return table.concat(parts)
  end))
end

-- An empty table of an answer is a list; lua-cjson would make an object of it.
local EMPTY = "\1empty list\1"

local function markEmpty(value)
  if type(value) == "string" then
    return wellFormed(value)
  elseif type(value) ~= "table" then
    return value
  elseif next(value) == nil then
    return EMPTY
  end
  local marked = {}
  for key, item in pairs(value) do
    marked[key] = markEmpty(item)
  end
  return marked
end

local function encode(answer)
  local cjson = require "cjson.safe"
  local text = cjson.encode(markEmpty(answer))
  return (text:gsub('"\\u0001empty list\\u0001"', "[]"))
end

function Control:answer(answer)
  self.transport:write(encode(answer) .. "\n")
  self.transport:loseConnection()
end

function Control:refuse(message)
  self:answer { result = "error", errors = { { message = message } } }
end

local function serviceNamed(name)
  local service = type(name) == "string" and program.find(name)
  if service and service.leaving then
    return nil, ("'%s' is being unloaded"):format(name)
  elseif service then
    return service
  end
  local names = {}
  for i, other in ipairs(program.host.services) do
    names[i] = other.name
  end
  local what = name == nil and "which service?" or ("no service is called '%s'"):format(tostring(name))
  return nil, ("%s (%s)"):format(what, #names > 0 and table.concat(names, ", ") or "none runs")
end

local commands = {}

function commands.status(self, _, jobs)
  local list = jobs.status()
  for _, service in ipairs(list) do
    service.lastReload = service.lastReload or require("cjson.safe").null
  end
  self:answer {
    result = "ok",
    pid = C.skald_process(),
    uptime = C.skald_seconds(pointer) - control.since,
    services = list,
  }
end

local worse = { error = 4, refused = 3, committed = 2, unchanged = 1 }

-- Each service by itself, one answer for all.
local function reloadAll(self, request, jobs)
  local services, reports = program.host.services, {}
  local left, worst = #services, "unchanged"
  if left == 0 then
    return self:answer { result = "unchanged", services = {} }
  end
  for i, service in ipairs(services) do
    jobs.reload(service, { force = request.force }, function(report)
      reports[i] = report
      left = left - 1
      worst = worse[report.result] > worse[worst] and report.result or worst
      if left == 0 then
        self:answer { result = worst, services = reports }
      end
    end)
  end
end

function commands.reload(self, request, jobs)
  if request.service == nil and #program.host.services ~= 1 then
    return reloadAll(self, request, jobs)
  end
  local service, message = program.host.services[1], nil
  if request.service ~= nil then
    service, message = serviceNamed(request.service)
  end
  if not service then
    return self:refuse(message)
  end
  jobs.reload(service, { force = request.force }, function(report)
    self:answer(report)
  end)
end

function commands.load(self, request, jobs)
  local words = request.words
  local good = type(words) == "table" and #words > 0
  for _, word in ipairs(good and words or {}) do
    good = good and type(word) == "string"
  end
  if not good then
    return self:refuse "load takes words: a script and its options"
  end
  jobs.load(words, function(report)
    self:answer(report)
  end)
end

function commands.unload(self, request, jobs)
  local service, message = serviceNamed(request.service)
  if not service then
    return self:refuse(message)
  end
  jobs.unload(service, function(report)
    self:answer(report)
  end)
end

-- The end of the stream follows when the host has stopped listening.
function commands.stop(self)
  self.transport:write(encode { result = "stopping" } .. "\n")
  program.stop()
end

local function isFlag(value)
  return value == nil or type(value) == "boolean"
end

function Control:run(line)
  local request, message = require("cjson.safe").decode(line)
  if type(request) ~= "table" then
    return self:refuse(("a request is a JSON object on one line%s"):format(message and ": " .. message or ""))
  end
  local command = type(request.command) == "string" and commands[request.command]
  if not command then
    return self:refuse(("no command '%s' (load, reload, status, stop, unload)"):format(tostring(request.command)))
  end
  if not isFlag(request.force) then
    return self:refuse "force is true or false"
  end
  if request.service == require("cjson.safe").null then
    request.service = nil
  end
  return command(self, request, require "skald.jobs")
end

-- --- the conversation -------------------------------------------------------------------------

function Control:connectionMade()
  self.parts, self.length = {}, 0
  local user = C.skald_peer_user(pointer, self.transport[1])
  if user ~= C.skald_user() then
    log.warning("control: refused user %d", user)
    self.transport:abortConnection()
  end
end

function Control:dataReceived(data)
  if self.asked then
    return
  end
  self.parts[#self.parts + 1] = data
  self.length = self.length + #data
  local stop = data:find("\n", 1, true)
  local length = stop and self.length - #data + stop or self.length
  if length > MOST then
    self.asked = true
    self:refuse(("a request has at most %d bytes"):format(MOST))
  elseif stop then
    self.asked = true
    -- the answer may take a while, and that is no silence of the peer's
    self.transport:pauseProducing()
    self:run(table.concat(self.parts):match "^[^\n]*")
  end
end

-- A client may close its side at once, and wait for the answer.
function Control:readConnectionLost()
  if not self.asked then
    self.asked = true
    if self.length > 0 then
      self:refuse "the request has no end: a newline is missing"
    else
      self.transport:loseConnection()
    end
  end
end

-- --- opening ----------------------------------------------------------------------------------

local Server = protocol.Factory {
  name = "control",
  protocol = Control,
  maxConnections = MOST_AT_ONCE,
}

local function bind(path, folder)
  if folder then
    local errno = C.skald_make_private(folder)
    if errno ~= 0 then
      return nil, ("%s is not a folder of ours alone (0700): %s"):format(folder, (core.errorOf(errno)))
    end
  end
  local server = Server:new()
  server.idleTimeout = control.PATIENCE
  local group, message = roster.groupOf(server)
  if not group then
    return nil, message
  end
  local endpoint = { type = "unix", path = path, mode = 384 } -- 0600
  local listener, problem, code = ports.bind(group, endpoint)
  if not listener then
    return nil, code == "EADDRINUSE" and "another host answers there" or problem
  end
  listener:serve(server, "control")
  return listener
end

--- Opens the control socket. False: it was asked for by its path and cannot be had; the usual one is
--- done without.
---@param given string?
---@return boolean
function control.open(given)
  local path, folder = control.path(given)
  control.since = C.skald_seconds(pointer)
  local listener, message = bind(path, folder)
  if not listener and given then
    program.complain("skald: --control %s: %s", path, message)
    return false
  elseif not listener then
    log.warning("no control socket: %s: %s", path, message)
    return true
  end
  listener:accept()
  return true
end

return control
