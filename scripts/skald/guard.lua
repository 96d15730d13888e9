-- What in LuaJIT can end the process is replaced, once, by what raises or logs. LuaJIT runs finalizers
-- wherever it happens to collect: what one raises surfaces in code that has nothing to do with it, and
-- within compiled code ends the process. Coroutines within each other overflow the C stack.

local ffi = require "ffi"
local core = require "skald.core"

local C, pointer = core.C, core.pointer
local setFinalizer, setMetatype, makeProxy = ffi.gc, ffi.metatype, newproxy

local function guarded(finalizer)
  if type(finalizer) ~= "function" then
    return finalizer -- none, or a C function
  end
  return function(object)
    local ok, text = xpcall(finalizer, core.traceback, object)
    if not ok then
      text = "a finalizer failed: " .. text
      C.skald_log(pointer, 3, text, #text)
    end
  end
end

local watched = {
  __newindex = function(metatable, key, value)
    rawset(metatable, key, key == "__gc" and guarded(value) or value)
  end,
}

local guard = {}

local MOST_NESTED = 200 -- coroutines: as many as in Lua 5.1 itself

local create, resume = coroutine.create, coroutine.resume
local nested = 0

local function returned(...)
  nested = nested - 1
  return ...
end

local function resumeGuarded(thread, ...)
  if nested >= MOST_NESTED then
    return false, ("stack overflow: %d coroutines within each other"):format(nested)
  elseif type(thread) ~= "thread" then
    return resume(thread, ...)
  end
  nested = nested + 1
  return returned(resume(thread, ...))
end

local function unwrap(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

local function guardCoroutines()
  rawset(coroutine, "resume", resumeGuarded)
  rawset(coroutine, "wrap", function(f)
    local thread = create(f)
    return function(...)
      return unwrap(resumeGuarded(thread, ...))
    end
  end)
end

--- Replaces ffi.gc, ffi.metatype, newproxy, coroutine.resume and coroutine.wrap.
function guard.install()
  guardCoroutines()
  function ffi.gc(object, finalizer)
    return setFinalizer(object, guarded(finalizer))
  end

  function ffi.metatype(ctype, methods)
    if type(methods) == "table" and methods.__gc then
      methods.__gc = guarded(methods.__gc)
    end
    return setMetatype(ctype, methods)
  end

  function _G.newproxy(from)
    local proxy = makeProxy(from)
    if from == true then
      setmetatable(getmetatable(proxy), watched)
    end
    return proxy
  end
end

return guard
