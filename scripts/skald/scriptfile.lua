-- A user's script as its spec loads it, without a host. Pure.

local class = require "skald.class"
local protocol = require "skald.protocol"

local scriptfile = {}

local libraries = {}
for name in ("string table math os io coroutine debug bit jit package"):gmatch "%a+" do
  libraries[name] = true
end

--- A script that was loaded.
---@class LoadedScript
---@field file string
---@field folder string
---@field options table
---@field kept table what `service.persist` keeps
---@field disposers function[]
---@field modules table<string, any> of its own folder
local Script = {}
Script.__index = Script

-- --- its surroundings -------------------------------------------------------------------------

local function readFile(path)
  local file, message = io.open(path, "rb")
  if not file then
    return nil, message
  end
  local text = file:read "*a"
  file:close()
  return text
end

local function compile(self, path, text)
  if text:sub(1, 1) == "#" then
    text = "--" .. text -- a first line for the shell, kept for the count of lines
  end
  local chunk, message = load(text, "@" .. path, "t", self.environment)
  return chunk or error(message, 0)
end

local function persist(self, name, init)
  if type(name) ~= "string" then
    error("persist takes a name", 3)
  end
  if self.kept[name] == nil then
    if type(init) == "function" then
      init = init()
    end
    self.kept[name] = init
  end
  return self.kept[name]
end

local function newService(self)
  return {
    name = self.file:match "([^/]+)$":gsub("%.lua$", ""),
    options = self.options,
    persist = function(name, init)
      local value = persist(self, name, init)
      return value
    end,
    onDispose = function(f)
      if type(f) ~= "function" then
        error(("onDispose takes a function, not a %s"):format(type(f)), 2)
      end
      table.insert(self.disposers, f)
    end,
  }
end

-- A module of the script's own folder; nil where there is none.
local function requireOwn(self, name)
  for _, form in ipairs { "%s/%s.lua", "%s/%s/init.lua" } do
    local path = form:format(self.folder, (name:gsub("%.", "/")))
    local text = readFile(path)
    if text then
      self.modules[name] = true -- where it is required in a circle
      local value = compile(self, path, text)(name)
      self.modules[name] = value == nil and true or value
      return self.modules[name]
    end
  end
end

local function requirer(self)
  local service
  return function(name)
    if name == "skald.service" then
      service = service or newService(self)
      return service
    elseif self.modules[name] ~= nil then
      return self.modules[name]
    elseif type(name) == "string" and not name:find "^skald%." then
      local own = requireOwn(self, name)
      if own ~= nil then
        return own
      end
    end
    return require(name)
  end
end

-- As in the host: what a script changes in Lua's libraries is seen by nobody else.
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

local function newEnvironment(self)
  local environment = { require = requirer(self) }
  environment._G = environment
  return setmetatable(environment, { __index = lookUp })
end

-- --- what it returns --------------------------------------------------------------------------

local function factoryOf(self, definition)
  local methods = type(definition) == "table" and (class.is(definition) and definition or class.of(definition))
  if type(definition) ~= "table" then
    error(("%s:1: the script returned a %s, not a definition"):format(self.file, type(definition)), 0)
  elseif methods and not class.derives(methods, protocol.Factory) then
    error(("%s:1: the script returned a protocol: return { listen = …, protocol = … }"):format(self.file), 0)
  elseif class.of(definition) then
    return definition
  end
  local base = definition.connect and protocol.ReconnectingClientFactory or protocol.Factory
  return class.adopt(definition, base):new()
end

-- The command line says instead of the first definition where to listen and to connect.
local function override(factory, options)
  for _, key in ipairs { "listen", "connect" } do
    if options[key] ~= nil then
      factory[key] = options[key]
    end
  end
end

local function factoriesOf(self, result)
  local isList = type(result) == "table" and not class.is(result) and not class.of(result) and result[1] ~= nil
  local list = {}
  for i, definition in ipairs(isList and result or { result }) do
    list[i] = factoryOf(self, definition)
  end
  if list[1] then
    override(list[1], self.options)
  end
  return isList and list or list[1]
end

--- Ends it: what it gave to `service.onDispose` is called.
function Script:dispose()
  local disposers = self.disposers
  self.disposers = {}
  for _, f in ipairs(disposers) do
    f()
  end
end

--- Loads a script as the host does: in surroundings of its own, with the modules of its folder, and with
--- state of its own each time. What it asks of the reactor goes to a MemoryReactor that is installed.
---@param path string
---@param options? table<string, string> as the command line gives them; none: an empty table
---@return Factory|Factory[]|nil factory a list where the script returns one
---@return LoadedScript script
function scriptfile.load(path, options)
  if type(path) ~= "string" then
    error(("load takes the path of a script, not a %s"):format(type(path)), 2)
  elseif options ~= nil and type(options) ~= "table" then
    error(("load takes the script's options as a table, not a %s"):format(type(options)), 2)
  end
  local text, message = readFile(path)
  if not text then
    error(("load: %s"):format(message), 2)
  end
  local self = setmetatable({
    file = path, folder = path:match "^(.*)/[^/]*$" or ".", options = options or {}, kept = {}, disposers = {},
    modules = {},
  }, Script)
  self.environment = newEnvironment(self)
  local result = compile(self, path, text)(self.options)
  if result == nil then
    return nil, self
  end
  return factoriesOf(self, result), self
end

return scriptfile
