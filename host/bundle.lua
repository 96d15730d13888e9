-- Writes the C table of the files that are compiled into the program: their text and, of the library, what the
-- compiler makes of it as well. That is quicker to load; where the host's LuaJIT is another one, the text serves.
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

-- Bytes that are no text.
local function bytes(data)
  local lines = {}
  for i = 1, #data, 64 do
    lines[#lines + 1] = "     " .. quote(data:sub(i, i + 63))
  end
  return table.concat(lines, "\n")
end

local function compiled(file)
  if not file.name:find "^skald/" then
    return "     0, 0"
  end
  local code = string.dump(assert(loadstring(file.text, "@" .. file.name)))
  return ("%s,\n     %d"):format(bytes(code), #code)
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
  local name, text = quote(file.name), literal(file.text)
  out:write(("    {%s,\n%s,\n     %d,\n%s},\n"):format(name, text, #file.text, compiled(file)))
end
out:write(("    {0, 0, 0, 0, 0}};\n\nconst size_t bundle_count = %d;\n"):format(#files))
out:close()
