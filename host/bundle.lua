-- Writes the C table of the files that are compiled into the program.
-- usage: luajit host/bundle.lua OUTPUT NAME=FILE ...

local function quote(bytes)
  local escaped = bytes:gsub('[%z\1-\31"\\?\127-\255]', function(c)
    if c == "\n" then
      return "\\n"
    end
    return ("\\%03o"):format(c:byte())
  end)
  return '"' .. escaped .. '"'
end

-- One C literal a line of the file, so that no compiler meets an overlong one.
local function literal(text)
  local lines = {}
  for line in text:gmatch("[^\n]*\n?") do
    if line ~= "" then
      lines[#lines + 1] = "     " .. quote(line)
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or '     ""'
end

local files = {}
for i = 2, #arg do
  local name, path = arg[i]:match("^([^=]+)=(.+)$")
  local file = assert(io.open(path, "rb"))
  files[#files + 1] = { name = name, text = file:read("*a") }
  file:close()
end
table.sort(files, function(a, b)
  return a.name < b.name
end)

local out = assert(io.open(arg[1], "wb"))
out:write('#include "lua/bundle.h"\n\nconst struct bundle_file bundle_files[] = {\n')
for _, file in ipairs(files) do
  out:write(("    {%s,\n%s,\n     %d},\n"):format(quote(file.name), literal(file.text), #file.text))
end
out:write(("    {0, 0, 0}};\n\nconst size_t bundle_count = %d;\n"):format(#files))
out:close()
