-- A busted output handler: `ok - sentence` or `not ok - sentence` with its text below, and `done` as the last line.
-- The C tests print the same, so tests/run.lua reads both alike. Pendings are failures here.

return function()
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()

  local function say(ok, name, text)
    name = name:gsub("%s*\n%s*", " ")
    io.write(ok and "ok - " or "not ok - ", name, "\n")
    if text then
      io.write("    ", (text:gsub("\n", "\n    ")), "\n")
    end
    io.flush()
  end

  local function describe(failure)
    local message = failure.message
    if type(message) ~= "string" then
      message = message == nil and "no message" or require("pl.pretty").write(message)
    end
    local trace = failure.trace or failure.element.trace
    local place = ("%s:%d: "):format(tostring(trace and trace.short_src), trace and trace.currentline or 0)
    local spec = trace and trace.traceback and trace.traceback:match "[%w_%-%./]+_spec%.lua:%d+"
    if spec and spec .. ": " ~= place then
      place = spec .. ": "
    end
    while message:sub(1, #place) == place do
      message = message:sub(#place + 1)
    end
    return place .. message
  end

  function handler.testEnd(element, _, status)
    local name = handler.getFullName(element)
    if status == "success" then
      say(true, name)
    elseif status == "pending" then
      say(false, name, "pending")
    elseif status == "failure" then
      say(false, name, describe(handler.failures[#handler.failures]))
    else
      say(false, name, describe(handler.errors[#handler.errors]))
    end
    return nil, true
  end

  -- Outside a test proper: a file that does not load, a before_each or after_each that raises.
  function handler.elsewhere(element)
    if element.descriptor ~= "it" then
      local name = ("%s: %s"):format(handler.getFullName(element), element.descriptor)
      say(false, name, describe(handler.errors[#handler.errors]))
    end
    return nil, true
  end

  function handler.finished()
    io.write("done\n")
    io.flush()
    return nil, true
  end

  busted.subscribe({ "test", "end" }, handler.testEnd)
  busted.subscribe({ "error" }, handler.elsewhere)
  busted.subscribe({ "failure" }, handler.elsewhere)
  busted.subscribe({ "suite", "end" }, handler.finished)

  return handler
end
