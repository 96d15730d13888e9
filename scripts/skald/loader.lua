-- One generation of a service: its script with the modules of its own folder, loaded in an
-- environment of its own. The environment has copies of Lua's libraries, so that what a script
-- changes in them is seen by nobody else, and ends with it.

local backup = require "skald.backup"
local class = require "skald.class"
local core = require "skald.core"
local dispatch = require "skald.dispatch"
local owner = require "skald.owner"
local ports = require "skald.ports"
local trace = require "skald.trace"

local ffi = require "ffi"
local C = core.C

local loader = {}

local libraries = {}
for name in ("string table math os io coroutine debug bit jit package"):gmatch "%a+" do
  libraries[name] = true
end

-- The generation of an environment.
local generations = setmetatable({}, { __mode = "kv" })

-- The service of an environment, whichever generation that was.
local services = setmetatable({}, { __mode = "kv" })

-- --- files ------------------------------------------------------------------------------------

--- The service whose code a function is.
---@param f function
---@return table? service
function loader.serviceOf(f)
  return services[getfenv(f)]
end

--- The text of a file: or nil, a message, and whether it is not there at all.
---@param path string
---@return string? text
---@return string? message
---@return boolean? missing
function loader.readFile(path)
  local file, message, errno = io.open(path, "rb")
  if not file then
    return nil, message, core.isMissing(errno)
  end
  local text, problem = file:read "*a"
  file:close()
  if not text then
    return nil, ("%s: %s"):format(path, problem)
  end
  return text
end

--- The real path of a file: or nil, a message, and whether it is not there at all.
---@param path string
---@return string? real
---@return string? message
---@return boolean? missing
function loader.realPath(path)
  local buffer = ffi.new "char[4096]"
  local errno = C.skald_real_path(path, buffer, 4096)
  if errno ~= 0 then
    return nil, ("%s: %s"):format(path, (core.errorOf(errno))), core.isMissing(errno)
  end
  return ffi.string(buffer)
end

--- Where a link leads to, as it says; nil: there is none.
---@param path string
---@return string? target
function loader.linkOf(path)
  local buffer = ffi.new "char[4096]"
  local length = C.skald_read_link(path, buffer, 4096)
  return length >= 0 and ffi.string(buffer, length) or nil
end

--- Reads a file: or nil, a message, and whether it is not there at all.
---@param path string
---@return { path: string, real: string, text: string }? source
---@return string? message
---@return boolean? missing
function loader.read(path)
  local real, message, missing = loader.realPath(path)
  if not real then
    return nil, message, missing
  end
  local text
  text, message, missing = loader.readFile(path)
  if not text then
    return nil, message, missing
  end
  return { path = path, real = real, text = text }
end

-- --- compiling --------------------------------------------------------------------------------

---@class Generation
---@field service table
---@field number integer
---@field environment table
---@field sources table<string, table> what was read, by the path
---@field modules table<string, table> what was loaded, by the real path
---@field misses table<string, true> paths that were tried and not there
---@field classes table<table, true> those that its load made
---@field names table<string, table> those that were given a name
---@field owner Owner
local Generation = {}
Generation.__index = Generation

--- Compiles a source, as text; the chunk or nil, message.
---@param source table
---@return function? chunk
---@return string? message
function Generation:compile(source)
  local text = source.text
  if text:byte(1) == 27 then
    return nil, ("%s:1: is bytecode: give the Lua source"):format(source.path)
  end
  if text:sub(1, 1) == "#" then
    text = "--" .. text -- a first line for the shell, kept for the count of lines
  end
  local chunk, message = load(text, "@" .. source.path, "t", self.environment)
  source.chunk = chunk
  return chunk, message
end

-- --- modules ----------------------------------------------------------------------------------

-- What a load runs has to come to its end in it: a module that yields would leave its caller's
-- coroutine within the load.
local function unyielding(f)
  return function(...)
    local thread = coroutine.create(f)
    local results = { coroutine.resume(thread, ...) }
    if coroutine.status(thread) == "suspended" then
      error("a module cannot yield while it loads", 0)
    elseif not results[1] then
      error(results[2], 0)
    end
    return unpack(results, 2)
  end
end

-- Runs what a load runs: what it starts is the generation's, and so are the classes it makes.
function Generation:enter(f, ...)
  if coroutine.running() then
    f = unyielding(f)
  end
  local before = class.observe(self.classes)
  local owned = owner.current
  owner.current = self.owner
  local function leave(ok, ...)
    owner.current = owned
    class.observe(before)
    if not ok then
      error((...), 0)
    end
    return ...
  end
  return leave(xpcall(f, self.noteFailure, ...))
end

local function textOf(problem)
  local ok, text = pcall(tostring, problem)
  return ok and text or "(an error that has no text)"
end

-- Makes a handler that notes the traceback where something was raised, and lets it pass unchanged:
-- scripts may catch it.
local function failureNoter(self)
  return function(problem)
    if not self.failure or not rawequal(self.failure.problem, problem) then
      self.failure = { problem = problem, text = textOf(problem) .. trace.here(1) }
    end
    return problem
  end
end

--- What was raised, with its traceback where it is known.
---@param problem any
---@return string
function Generation:describe(problem)
  if self.failure and rawequal(self.failure.problem, problem) then
    return self.failure.text
  end
  return textOf(problem)
end

-- What was compiled of a source, or is now; it runs once.
local function chunkOf(self, source)
  local chunk, message = source.chunk, nil
  if not chunk then
    chunk, message = self:compile(source)
  end
  if not chunk then
    error(message, 0)
  end
  source.chunk = nil
  return chunk
end

local function runModule(self, source, name)
  local chunk = chunkOf(self, source)
  -- the value is true where it is required in a circle
  local module = { path = source.path, name = name, value = true, late = not self.loading }
  self.modules[source.real] = module
  local ok, result = pcall(self.enter, self, chunk, name)
  if not ok then
    self.modules[source.real] = nil
    error(result, 0)
  end
  if result ~= nil then
    module.value = result
  end
  return module
end

-- A module of the script's own folder: once per load, by its real path, in the same environment.
local function requireOwn(self, name)
  if self.loaded[name] then
    return self.loaded[name]
  end
  for _, form in ipairs { "%s/%s.lua", "%s/%s/init.lua" } do
    local path = form:format(self.folder, (name:gsub("%.", "/")))
    local source, message, missing = self.sources[path], nil, nil
    if not source then
      source, message, missing = loader.read(path)
    end
    if source then
      self.sources[path] = source
      self.used[path] = true
      local module = self.modules[source.real] or runModule(self, source, name)
      self.loaded[name] = module.value ~= true and module or nil
      if not self.loading then
        require("skald.watch").follow(self.service)
      end
      return module
    elseif not missing then
      error(message, 0)
    end
    self.misses[path] = true
  end
  return nil
end

-- A module from elsewhere is shared: what it makes belongs to nobody.
local function requireOutside(name)
  local classes = class.observe(nil)
  local owned = owner.current
  owner.current = nil
  local ok, result = pcall(require, name)
  owner.current = owned
  class.observe(classes)
  if not ok then
    local told = type(result) ~= "string" or result:find "^[^\n]-:%d+: "
    error(result, told and 0 or 3)
  end
  return result
end

-- --- what a service requires of the library and gets its own of --------------------------------

local facades = {}

-- A value that survives reloads; `init` makes it, once per name. What a load that fails has made is
-- dropped, and what it changed is put back.
local function persist(self, name, init)
  local kept = self.service.kept
  local value = kept[name]
  if value ~= nil then
    if self.loading then
      backup.take(self.backup, value)
    end
    return value
  end
  local store = self.loading and self.fresh or kept
  if store[name] == nil then
    if type(init) == "function" then
      store[name] = init()
    else
      store[name] = init
    end
  end
  return store[name]
end

facades["skald.service"] = function(self)
  return {
    name = self.service.name,
    options = self.options,
    persist = function(name, init)
      if type(name) ~= "string" then
        error("persist takes a name", 2)
      end
      return persist(self, name, init)
    end,
    --- Calls `f` when this load of the service ends.
    onDispose = function(f)
      if type(f) ~= "function" then
        error(("onDispose takes a function, not a %s"):format(type(f)), 2)
      end
      self.disposers[#self.disposers + 1] = f
    end,
  }
end

facades["skald.class"] = function(self)
  return setmetatable({}, {
    __index = class,
    __call = function(_, name)
      if type(name) ~= "string" then
        error('class takes a name: class "Room"', 2)
      end
      if self.names[name] then
        error(("two classes are called '%s'"):format(name), 2)
      end
      self.names[name] = class.root(name)
      self.classes[self.names[name]] = true
      return self.names[name]
    end,
  })
end

facades.ffi = function(self)
  local cdef = require "skald.cdef"
  local own = {}
  for key, value in pairs(ffi) do
    own[key] = value
  end
  own.cdef = cdef.declare
  function own.metatype(ctype, methods)
    return cdef.metatype(ctype, methods, function(message)
      self:warn(message)
    end)
  end
  return own
end

local function requirer(self)
  local own = {}
  return function(name)
    if own[name] == nil and facades[name] then
      own[name] = facades[name](self)
    end
    if own[name] then
      return own[name]
    end
    if self.folder and type(name) == "string" and not name:find "^skald%." then
      local module = requireOwn(self, name)
      if module then
        return module.value
      end
    end
    local result = requireOutside(name) -- no tail call: an error names the line that required
    return result
  end
end

-- The copy of a library is made when the script first names it.
local function lookUp(environment, name)
  local value = _G[name]
  if not libraries[name] then
    return value
  end
  local copy = {}
  for key, item in pairs(value) do
    copy[key] = item
  end
  rawset(environment, name, copy)
  return copy
end

local function makeEnvironment(self)
  local environment = { require = requirer(self) }
  environment._G = environment
  generations[environment] = self
  services[environment] = self.service
  return setmetatable(environment, { __index = lookUp })
end

-- --- a generation -----------------------------------------------------------------------------

--- A generation, not yet loaded.
---@param service { file: string, folder: string?, options: table, kept: table, name: string }
---@param number integer
---@param sources table<string, table> what was read, by the path
---@return Generation
function loader.new(service, number, sources)
  local self = setmetatable({
    service = service,
    number = number,
    folder = service.folder,
    sources = sources,
    options = {},
    used = { [service.file] = true }, -- by the path
    loaded = {}, -- modules by the name
    modules = {},
    misses = {},
    classes = {},
    names = {},
    disposers = {},
    waiting = {}, -- calls of callWhenRunning
    ports = {}, -- asked for by the script itself
    clients = {}, -- connectors that the script itself asked for
    starts = {}, -- those that connect once, when it is committed
    obtained = {}, -- { listener, fresh }: its sockets, and whether it was the first to bind them
    claimed = {}, -- listeners of the former generation that it goes on with
    fresh = {}, -- persistent values that are new
    files = {}, -- those that its endpoints read: the texts, by the path; false: could not be read
    backup = {},
    warnings = {},
    loading = true,
  }, Generation)
  for key, value in pairs(service.options) do
    self.options[key] = value
  end
  self.noteFailure = failureNoter(self)
  self.owner = owner.new(self)
  self.owner.held = {}
  self.environment = makeEnvironment(self)
  return self
end

--- Runs the script; what it returns. Raises what it raises.
function Generation:load()
  local source = self.sources[self.service.file]
  return self:enter(chunkOf(self, source), self.options)
end

--- Loads what the former generation came to require as it ran: its objects want new classes too.
---@param former Generation
function Generation:loadLate(former)
  for real, module in pairs(former.modules) do
    if module.late and not self.modules[real] then
      local own = requireOwn(self, module.name)
      if own then
        own.late = true
      end
    end
  end
end

--- The text of the script.
---@return string
function Generation:text()
  return self.sources[self.service.file].text
end

--- Notes something that the user should know.
---@param message string
function Generation:warn(message)
  self.warnings[#self.warnings + 1] = message
end

--- Warns of what the script did that will not do what it seems to.
function Generation:lookOver()
  for key in pairs(rawget(self.environment, "string") or {}) do
    if string[key] == nil then
      self:warn(("%s: string.%s is not seen by s:%s()"):format(self.service.file, key, key))
    end
  end
end

-- A socket of the running generation that answers to the same endpoint, and is not claimed yet:
-- that of `preferred` first.
local function findListener(self, key, preferred)
  local former, found = self.service.generation, nil
  for _, item in ipairs(former and former.obtained or {}) do
    local listener = item.listener
    local same = listener.key == key or tostring(listener.address) == key -- it had asked for port 0
    if listener.handle and same and not self.claimed[listener] then
      if preferred and listener.factory == preferred then
        return listener
      end
      found = found or listener
    end
  end
  return found
end

--- The socket of an endpoint: the live one, or a new one, bound and not yet accepting.
---@param endpoint table
---@param backlog integer?
---@param preferred Factory? whose socket it should rather be
---@return Listener? listener or nil, message, code
---@return string? message
---@return string? code
function Generation:obtain(endpoint, backlog, preferred)
  local key = ports.key(endpoint)
  local listener = findListener(self, key, preferred)
  local message, code
  if listener then
    local was = listener:settings()
    local ok
    ok, message, code = listener:adjust(endpoint, backlog)
    if not ok then
      return nil, message, code
    end
    self.claimed[listener] = was
    self.obtained[#self.obtained + 1] = { listener = listener, fresh = false }
    return listener
  end
  self.group = self.group or dispatch.Group:new()
  listener, message, code = ports.bind(self.group, endpoint, backlog)
  if listener then
    listener.service = self.service
    self.obtained[#self.obtained + 1] = { listener = listener, fresh = true }
  end
  return listener, message, code
end

--- Reads what an endpoint takes for TLS, and notes which files that were.
---@param endpoint table
---@param server boolean
---@return boolean? ok nil, message, code
---@return string? message
---@return string? code
function Generation:secure(endpoint, server)
  if endpoint.type ~= "tls" then
    return true
  end
  local ok, message, code, files = require("skald.tls").prepare(endpoint, server)
  for path, text in pairs(endpoint.context and endpoint.context.files or files or {}) do
    self.files[path] = text
  end
  return ok, message, code
end

-- Undoes what `obtain` did for one socket.
local function giveBack(self, item)
  local listener = item.listener
  if item.fresh then
    listener:close()
  else
    listener:adjust(self.claimed[listener], self.claimed[listener].backlog)
    self.claimed[listener] = nil
  end
end

--- While it loads: a socket that it asked for is not wanted after all.
---@param listener Listener
function Generation:drop(listener)
  for i, item in ipairs(self.obtained) do
    if item.listener == listener then
      giveBack(self, table.remove(self.obtained, i))
      return
    end
  end
end

--- Undoes what `obtain` did.
function Generation:giveBack()
  for _, item in ipairs(self.obtained) do
    giveBack(self, item)
  end
  for _, port in ipairs(self.ports) do
    if port.listener then
      port.listener = nil
    end
  end
end

--- It is no more the active one: lets go of what its successor goes on with, so that old code that
--- is still held holds nothing else.
function Generation:retire()
  self.entries, self.baseline, self.group = {}, {}, nil
  self.obtained, self.claimed, self.ports, self.clients = {}, {}, {}, {}
  self.sources, self.backup, self.fresh = {}, {}, {}
end

--- What was read and not used is forgotten.
function Generation:forgetUnused()
  for path in pairs(self.sources) do
    if not self.used[path] then
      self.sources[path] = nil
    end
  end
end

--- The generation whose code is running: that of the nearest function in its environment.
---@param level integer
---@return Generation?
function loader.running(level)
  while debug.getinfo(level, "f") do
    local found = generations[getfenv(level)]
    if found then
      return found
    end
    level = level + 1
  end
  return nil
end

return loader
