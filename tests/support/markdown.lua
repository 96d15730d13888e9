-- The pages of the reference, as Markdown.

local annotations = require "support.annotations"
local source = require "support.source"

local markdown = {}

-- --- words ------------------------------------------------------------------------------------

local function anchorOf(heading)
  return (heading:lower():gsub("[^%w_ -]", ""):gsub(" ", "-"))
end

-- What has a meaning in Markdown has none outside of `…`.
local function plain(text)
  local parts, inCode = {}, false
  for part, tick in (text .. "\0"):gmatch "([^`%z]*)([`%z])" do
    parts[#parts + 1] = inCode and part or part:gsub("<", "&lt;")
    parts[#parts + 1] = tick == "`" and tick or ""
    inCode = tick == "`" and not inCode
  end
  return table.concat(parts)
end

local function cell(text)
  return (text:gsub("%s+", " "):gsub("|", "\\|"))
end

local function firstSentence(text)
  text = text:gsub("%s+", " ")
  return plain(text:match "^(.-[.!?])%s+[%u`]" or text)
end

local function code(text)
  return text == "" and "" or "`" .. text .. "`"
end

local Words = {}
Words.__index = Words

local function linkTo(self, page, heading)
  return (page == self.page and "" or page.name .. ".md") .. "#" .. anchorOf(heading)
end

-- A type, its classes as links.
function Words:type(text)
  local parts, at = {}, 1
  for first, name, behind in text:gmatch "()(%u[%w_]*)()" do
    local page = self.pageOf[name]
    if page and not text:sub(first - 1, first - 1):find "[\"'%w_.]" then
      parts[#parts + 1] = code(text:sub(at, first - 1))
      parts[#parts + 1] = ("[`%s`](%s)"):format(name, linkTo(self, page, name))
      at = behind
    end
  end
  parts[#parts + 1] = code(text:sub(at))
  return table.concat(parts)
end

-- --- a page -----------------------------------------------------------------------------------

local function say(self, ...)
  table.insert(self.lines, select("#", ...) > 1 and (...):format(select(2, ...)) or (...))
end

local function namesOf(params)
  local names = {}
  for i, item in ipairs(params) do
    names[i] = item.name
  end
  return table.concat(names, ", ")
end

-- How it is called: heading and call.
local function spelling(self, entry)
  local member, class = entry.member, entry.class
  local params = namesOf(member.doc.params)
  if not class then
    return self.page.name .. "." .. entry.name, ("%s.%s(%s)"):format(self.page.name, entry.name, params)
  elseif entry.name == "init" then
    return class.name .. ":new", ("%s:new(%s)"):format(class.name, params)
  end
  return class.name .. ":" .. entry.name, ("%s:%s(%s)"):format(class.name, entry.name, params)
end

local function isFunction(member)
  return member.f ~= nil or #member.doc.params > 0 or #member.doc.returns > 0
end

local function sayList(self, title, lines)
  if #lines > 0 then
    say(self, "")
    say(self, title)
    say(self, "")
    say(self, table.concat(lines, "\n"))
  end
end

-- What may be left out has a `?`.
local function nameOf(item)
  return code(item.name .. (item.optional and "?" or ""))
end

local function sayItems(self, title, items)
  local lines = {}
  for _, item in ipairs(items) do
    local name = item.name and nameOf(item) .. " " or ""
    local text = item.text ~= "" and ": " .. plain(item.text) or ""
    if name .. item.type .. text ~= "`...` any" then
      lines[#lines + 1] = ("- %s%s%s"):format(name, self:type(item.type), text)
    end
  end
  sayList(self, title, lines)
end

local function isTelling(text)
  return not text:find "^this is the class" and not text:find ": …$" and not text:find "^…"
end

-- The results that are there on success, and those that say what failed.
local function results(doc)
  local good, bad = {}, {}
  for i, item in ipairs(doc.returns) do
    local isProblem = i > 1 and (item.name == "message" or item.name == "code") and item.type == "string?"
    table.insert(isProblem and bad or good, item)
  end
  return good, bad
end

local function sayFailures(self, f, bad)
  local lines, codes = {}, {}
  for _, failure in ipairs(f and source.failures(f) or {}) do
    local isCode = failure.code:find "^%u+$"
    codes[failure.code] = true
    lines[#lines + 1] = ("- %s: %s"):format(isCode and code(failure.code) or failure.code, plain(failure.message))
  end
  for _, item in ipairs(bad) do
    local isNew = false
    for word in item.text:gmatch "[%w]+" do
      isNew = isNew or not codes[word]
    end
    if isNew then
      lines[#lines + 1] = ("- %s: %s"):format(item.name, plain(item.text))
    end
  end
  local shape = #bad > 1 and "nil, message, code" or "nil, message"
  if #bad > 0 and #lines == 0 then
    say(self, "")
    say(self, "Else it gives `%s`.", shape)
  else
    sayList(self, ("Else it gives `%s`:"):format(shape), lines)
  end
end

local function sayRaises(self, f)
  local lines = {}
  for _, raise in ipairs(f and source.raises(f) or {}) do
    if isTelling(raise.text) then
      lines[#lines + 1] = "- " .. plain(raise.text)
    end
  end
  sayList(self, "Raises, at the caller's line:", lines)
end

local function sayFunction(self, entry, level)
  local doc, f = entry.member.doc, entry.member.f
  local heading, call = spelling(self, entry)
  say(self, "")
  say(self, "%s %s", level, heading)
  say(self, "")
  if not isFunction(entry.member) then
    say(self, self:type(doc.type and doc.type.type or "any"))
    say(self, "")
    say(self, plain(doc.sentences))
    return
  end
  say(self, "```lua")
  say(self, call)
  say(self, "```")
  say(self, "")
  say(self, plain(doc.sentences))
  sayItems(self, "Takes:", doc.params)
  local good, bad = results(doc)
  sayItems(self, "Gives:", good)
  sayFailures(self, f, bad)
  sayRaises(self, f)
end

local function entriesOf(class)
  local entries = {}
  for i, member in ipairs(annotations.shown(class)) do
    entries[i] = { name = member.name, member = member, class = class }
  end
  return entries
end

local function shownFields(class)
  local fields = {}
  for _, field in ipairs(class.doc.fields) do
    if not field.private and not field.name:find "^_" then
      fields[#fields + 1] = field
    end
  end
  return fields
end

local function sayFields(self, class)
  local fields = shownFields(class)
  if #fields > 0 then
    say(self, "")
    say(self, "| field | type | |")
    say(self, "|---|---|---|")
  end
  for _, field in ipairs(fields) do
    say(self, "| %s | %s | %s |", nameOf(field), cell(self:type(field.type)), cell(plain(field.text)))
  end
end

-- What a class has of a base, with links; `seen` are the names that are overridden.
local function inherited(self, base, seen)
  local names, page = {}, self.pageOf[base.name]
  for _, entry in ipairs(entriesOf(base)) do
    if not seen[entry.name] then
      seen[entry.name] = true
      local heading = spelling({ page = page }, entry)
      names[#names + 1] = ("[`%s`](%s)"):format(heading:match "[^:]+$", linkTo(self, page, heading))
    end
  end
  return names
end

local function sayInherited(self, class, seen)
  for _, name in ipairs(class.bases) do
    local base = self.classes[name]
    if base.name ~= "Object" then
      local names = inherited(self, base, seen)
      say(self, "")
      say(self, "From %s%s", self:type(base.name), #names > 0 and ": " .. table.concat(names, ", ") or ".")
      sayInherited(self, base, seen)
    end
  end
end

local function sayClass(self, class)
  say(self, "")
  say(self, "## %s", class.name)
  say(self, "")
  say(self, plain(class.doc.sentences))
  local own = { init = true, new = true } -- each class has its own way to be made
  for _, entry in ipairs(entriesOf(class)) do
    own[entry.name] = true
  end
  sayInherited(self, class, own)
  sayFields(self, class)
  for _, entry in ipairs(entriesOf(class)) do
    sayFunction(self, entry, "###")
  end
end

local function sayRow(self, entry)
  local heading, call = spelling(self, entry)
  local shown = isFunction(entry.member) and call or heading
  say(self, "| [`%s`](#%s) | %s |", shown, anchorOf(heading), cell(firstSentence(entry.member.doc.sentences)))
end

local function saySummary(self)
  say(self, "")
  say(self, "| | |")
  say(self, "|---|---|")
  for _, entry in ipairs(self.page.functions) do
    sayRow(self, entry)
  end
  for _, class in ipairs(self.page.classes) do
    local page = self.pageOf[class.name]
    say(self, "| **[%s](%s)** | %s |", class.name, linkTo(self, page, class.name),
      cell(firstSentence(class.doc.sentences)))
    for _, entry in ipairs(page == self.page and entriesOf(class) or {}) do
      sayRow(self, entry)
    end
  end
end

-- The first paragraph of what stands at the head of a file.
local function introduction(page)
  local words = {}
  for _, line in ipairs(page.source.lines) do
    local text = line:match "^%-%-%s(.*)$"
    if not text then
      if #words > 0 then
        break
      end
    else
      words[#words + 1] = text
    end
  end
  local text = table.concat(words, " "):gsub("%s*%f[%w]Pure%f[%W][^.]*%.", ""):gsub("^skald%.%w+: ", "")
  return page.text or (text:gsub("^%l", string.upper))
end

local NOTE = "<!-- Made by `make docs` from the comments in scripts/: edit those. -->"

local function moduleDoc(page)
  local doc = page.source.classOf[page.variable]
  return page.module and doc and doc.doc or nil
end

--- The text of a page.
---@param page table
---@param pageOf table<string, table> of each class
---@param classes table<string, table>
---@return string
function markdown.page(page, pageOf, classes)
  local self = setmetatable({ page = page, pageOf = pageOf, classes = classes, lines = {} }, Words)
  local doc = moduleDoc(page)
  say(self, NOTE)
  say(self, "# %s", page.module or page.name)
  say(self, "")
  say(self, plain(doc and doc.sentences ~= "" and doc.sentences or introduction(page)))
  if page.module then
    say(self, "")
    say(self, "```lua")
    say(self, 'local %s = require "%s"', page.name, page.module)
    say(self, "```")
    say(self, "")
    say(self, page.pure and "Loads without the host, too: under plain LuaJIT, and in specs." or "Within the host only.")
  end
  saySummary(self)
  for _, entry in ipairs(page.functions) do
    sayFunction(self, entry, "##")
  end
  for _, class in ipairs(page.classes) do
    if pageOf[class.name] == page then -- a module may give another one's class, too
      sayClass(self, class)
    end
  end
  return table.concat(self.lines, "\n") .. "\n"
end

local HEAD = [[
# Reference

What a script may call, module by module. [The guide](../GUIDE.md) and [the chapter on waiting](../ASYNC.md)
explain; here one looks things up. An editor shows the same text: see the guide.

- **Units.** Times are seconds, as numbers with fractions. Sizes are bytes. Counts and ports are integers.
- **Types** are written as the Lua language server writes them: `?` is "or nil", `T[]` a list, `fun(…)` a function,
  `"a"|"b"` one of these strings, `self` what it is called on, or an instance of that. A `?` behind a name: it may be
  left out.
- **What good code can run into** (the peer is gone, the queue is full) gives `nil, message, code`: the message for
  people, the code for programs, such as `EPIPE`; listed are code and message. The system's errors have the system's
  names.
- **Misuse raises** at the line of the caller, in one line. "…" stands for what varies. A method that is called on a
  class where an instance is wanted raises, too.
- **Classes**: calling one derives from it, `:new(…)` makes an instance. What is written `Class:name(…)` is called on an
  instance, but for `new`.
- A Deferred "of" something fires with that.
]]

--- The page of pages.
---@param found table[] pages
---@param pageOf table<string, table> of each class
---@return string
function markdown.index(found, pageOf)
  local lines = { NOTE, HEAD, "| page | what | has |", "|---|---|---|" }
  for _, page in ipairs(found) do
    local names = {}
    for _, entry in ipairs(page.functions) do
      names[#names + 1] = code(entry.name)
    end
    for _, class in ipairs(page.classes) do
      names[#names + 1] = ("[%s](%s.md#%s)"):format(class.name, pageOf[class.name].name, anchorOf(class.name))
    end
    local doc = moduleDoc(page)
    local text = doc and doc.sentences ~= "" and doc.sentences or introduction(page)
    lines[#lines + 1] = ("| [%s](%s.md) | %s | %s |"):format(page.module or page.name, page.name,
      cell(firstSentence(text)), table.concat(names, ", "))
  end
  return table.concat(lines, "\n") .. "\n"
end

return markdown
