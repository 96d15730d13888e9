-- One script with its options and the modules of its own folder, loaded in an environment of its
-- own. The environment has copies of Lua's libraries, so that what a script changes in them is seen
-- by nobody else.

local loader = {}

local libraries = {}
for name in ("string table math os io coroutine debug bit jit package"):gmatch "%a+" do
  libraries[name] = true
end

---@class Service
local Service = {}
Service.__index = Service

local function readFile(path)
  local file, message = io.open(path, "rb")
  if not file then
    return nil, message
  end
  local text, problem = file:read "*a"
  file:close()
  if not text then
    return nil, ("%s: %s"):format(path, problem)
  end
  return text
end

-- What `require "skald.service"` gives within this service.
local function facade(self)
  local kept = {}
  return {
    name = self.name,
    options = self.options,
    --- A value that survives reloads; `init` makes it, once per name.
    persist = function(name, init)
      if type(name) ~= "string" then
        error("persist takes a name", 2)
      end
      if kept[name] == nil then
        if type(init) == "function" then
          kept[name] = init()
        else
          kept[name] = init
        end
      end
      return kept[name]
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

local function compile(self, text, file, ...)
  if text:sub(1, 1) == "#" then
    text = "--" .. text -- a first line for the shell, kept for the count of lines
  end
  local chunk, message = load(text, "@" .. file, "t", self.environment)
  if not chunk then
    error(message, 0)
  end
  return chunk(...)
end

-- A module of the script's own folder: once per load, in the same environment.
local function requireOwn(self, name)
  local loaded = self.modules[name]
  if loaded ~= nil then
    return true, loaded
  end
  for _, form in ipairs { "%s/%s.lua", "%s/%s/init.lua" } do
    local path = form:format(self.folder, (name:gsub("%.", "/")))
    local text = readFile(path)
    if text then
      self.modules[name] = true -- for a module that requires itself in a circle
      local ok, result = pcall(compile, self, text, path, name)
      if not ok then
        self.modules[name] = nil
        error(result, 0)
      end
      if result ~= nil then
        self.modules[name] = result
      end
      return true, self.modules[name]
    end
  end
  return false
end

local function requirer(self)
  local own = facade(self)
  return function(name)
    if name == "skald.service" then
      return own
    end
    if self.folder and type(name) == "string" and not name:find "^skald%." then
      local found, result = requireOwn(self, name)
      if found then
        return result
      end
    end
    return require(name)
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
  return setmetatable(environment, { __index = lookUp })
end

local function baseName(path)
  return path:match "([^/]+)$":gsub("%.lua$", "")
end

--- A service, not yet loaded.
---@param path string as errors name it
---@param text string
---@param folder string? where its own modules lie
---@param options table<string, string>
---@return Service
function loader.new(path, text, folder, options)
  local self = setmetatable({
    name = (baseName(path)),
    file = path,
    text = text,
    folder = folder,
    options = options,
    modules = {},
    disposers = {},
  }, Service)
  self.environment = makeEnvironment(self)
  return self
end

--- Runs the script; what it returns. Raises what it raises.
function Service:load()
  return compile(self, self.text, self.file, self.options)
end

--- What the script did that will not do what it seems to.
---@return string[]
function Service:warnings()
  local list = {}
  for key in pairs(rawget(self.environment, "string") or {}) do
    if string[key] == nil then
      list[#list + 1] = ("%s: string.%s is not seen by s:%s()"):format(self.file, key, key)
    end
  end
  return list
end

loader.readFile = readFile

return loader
