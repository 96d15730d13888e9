-- Texts that the bundled services serve: from the program itself, or from files.

local core = require "skald.core"

local texts = {}

--- The bytes of a file. Raises where it cannot be read.
---@param path string
---@return string
function texts.file(path)
  local file, message = io.open(path, "rb")
  local text
  if file then
    text, message = file:read "*a"
    file:close()
  end
  if not text then
    error(message, 0)
  end
  return text
end

--- A text inside the program, or nil.
---@param name string
---@return string?
function texts.bundled(name)
  return core.bundled("services/" .. name)
end

--- A bundled poem by its name, or a file. Raises where there is neither.
---@param name string
---@return string
function texts.poem(name)
  local isName = name:find "^[%w_-]+$"
  local bundled = isName and texts.bundled(("poems/%s.txt"):format(name))
  if isName and not bundled and not io.open(name) then
    local names = table.concat(core.bundledNames "services/poems/", ", "):gsub("%.txt", "")
    error(("no poem '%s': neither a bundled one (%s) nor a file"):format(name, names), 0)
  end
  return bundled or texts.file(name)
end

return texts
