-- Finalizers that cannot raise. LuaJIT runs them wherever it happens to collect: what one raises
-- surfaces in code that has nothing to do with it, and within compiled code ends the process. So the
-- ways to set one from Lua are replaced, once, by ways that catch and log.

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

--- Replaces ffi.gc, ffi.metatype and newproxy.
function guard.install()
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
