-- report.lua - medians, tables, bars and JSON for the benchmark driver. Pure: it only formats.
local M = {}

local function sorted(list)
  local copy = {}
  for i, value in ipairs(list) do
    copy[i] = value
  end
  table.sort(copy)
  return copy
end

--- The first line that a command prints, or "?".
function M.firstLine(command)
  local pipe = io.popen(command .. " 2>/dev/null")
  local line = pipe:read("*l")
  pipe:close()
  return line or "?"
end

function M.median(list)
  local s = sorted(list)
  local n = #s
  if n == 0 then
    return nil
  end
  return n % 2 == 1 and s[(n + 1) / 2] or (s[n / 2] + s[n / 2 + 1]) / 2
end

--- Median, least and greatest of a list; nil for an empty one.
function M.summary(list)
  if #list == 0 then
    return nil
  end
  local s = sorted(list)
  return { median = M.median(list), min = s[1], max = s[#s], rounds = #s }
end

--- Ratios of two rows of rounds, round by round; a round that either lacks is left out.
function M.ratios(rounds, base, field, count)
  local list = {}
  for i = 1, count do
    local a, b = rounds[i], base[i]
    if a and b and a[field] and b[field] and b[field] > 0 then
      list[#list + 1] = a[field] / b[field]
    end
  end
  return M.summary(list)
end

--- The ratio of the least values of two summaries: what a noisy machine disturbs least.
function M.best(a, b)
  return a and b and b.min > 0 and a.min / b.min or nil
end

--- All values of one field over the rounds there are.
function M.field(rounds, field, count)
  local list = {}
  for i = 1, count do
    if rounds[i] and rounds[i][field] then
      list[#list + 1] = rounds[i][field]
    end
  end
  return M.summary(list)
end

-- The number of digits that says enough.
local function digits(value)
  local size = math.abs(value)
  if size >= 1000 then
    return "%.0f"
  end
  return size >= 100 and "%.1f" or "%.2f"
end

function M.number(value)
  return value and digits(value):format(value) or "-"
end

--- "median (min-max)" of a summary.
function M.spread(summary)
  if not summary then
    return "-"
  end
  local form = digits(summary.median)
  if summary.rounds == 1 then
    return form:format(summary.median)
  end
  return (form .. " (" .. form .. "-" .. form .. ")"):format(summary.median, summary.min,
    summary.max)
end

--- Prints rows in aligned columns: the first to the left, the others to the right.
function M.table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, #cell)
    end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(widths[i] - #cell)
      cells[i] = i == 1 and cell .. pad or pad .. cell
    end
    print("  " .. (table.concat(cells, "   "):gsub("%s+$", "")))
  end
end

--- A bar: what is asked, what was seen, and whether it holds.
function M.bar(text, value, relation, limit)
  local met
  if value and limit then
    if relation == "<=" then
      met = value <= limit
    elseif relation == ">=" then
      met = value >= limit
    else
      met = value < limit
    end
  end
  return { text = text, value = value, relation = relation, limit = limit, met = met }
end

function M.bars(bars)
  local rows = { { "bar", "seen", "asked", "" } }
  for _, bar in ipairs(bars) do
    local verdict = "not measured"
    if bar.met ~= nil then
      verdict = bar.met and "met" or "NOT MET"
    end
    rows[#rows + 1] = {
      bar.text, bar.value and ("%.3f"):format(bar.value) or "-",
      bar.relation .. " " .. ("%g"):format(bar.limit or 0), verdict,
    }
  end
  M.table(rows)
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" }

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return escapes[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function sortedKeys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = tostring(key)
  end
  table.sort(keys)
  return keys
end

--- A value as JSON; a table with a first element, or an empty one, is a list.
function M.json(value, indent)
  indent = indent or "\n"
  local kind = type(value)
  if kind == "string" then
    return quote(value)
  elseif kind == "number" then
    return value == value and math.abs(value) < 1e300 and ("%.10g"):format(value) or "null"
  elseif kind ~= "table" then
    return tostring(value)
  end
  local inner, parts = indent .. "  ", {}
  local list = value[1] ~= nil or next(value) == nil
  if list then
    for i, item in ipairs(value) do
      parts[i] = M.json(item, inner)
    end
  else
    for i, key in ipairs(sortedKeys(value)) do
      parts[i] = quote(key) .. ": " .. M.json(value[key], inner)
    end
  end
  local open, close = list and "[" or "{", list and "]" or "}"
  return #parts == 0 and open .. close
    or open .. inner .. table.concat(parts, "," .. inner) .. indent .. close
end

return M
