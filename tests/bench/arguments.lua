-- arguments.lua - the command lines of the benchmarks.
local M = {}

local function split(text)
  local found = {}
  for word in text:gmatch "[^,]+" do
    found[word] = true
  end
  return found
end

--- What a command line asks for. `known`: name -> "flag", "value", or the list of the words it takes (given with
--- commas between them; the answer is a set). --help and what is not known print `usage` and end the process.
function M.parse(name, usage, args, known)
  local function refuse(message)
    io.stderr:write(message and ("%s: %s\n"):format(name, message) or "", usage)
    os.exit(message and 2 or 0)
  end

  local function wordsOf(option, text)
    local set, allowed = split(text), split(table.concat(known[option], ","))
    for word in pairs(set) do
      if not allowed[word] then
        refuse(("--%s: unknown '%s'"):format(option, word))
      end
    end
    return set
  end

  local found, i = {}, 1
  while i <= #args do
    local option, value = args[i]:match "^%-%-(%a+)=?(.*)$"
    local kind = known[option]
    if option == "help" then
      refuse()
    elseif not kind then
      refuse(("unknown option '%s'"):format(args[i]))
    elseif kind == "flag" then
      found[option] = true
    else
      if value == "" then
        i = i + 1
        value = args[i] or refuse(("--%s needs a value"):format(option))
      end
      found[option] = kind == "value" and value or wordsOf(option, value)
    end
    i = i + 1
  end
  return found
end

return M
