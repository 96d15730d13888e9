-- The annotations of a source (LuaLS), and what is to be complained of: a function without a sentence, parameters
-- and results that are not what the code has, types that nobody declares.

local source = require "support.source"

local annotations = {}

-- --- types ------------------------------------------------------------------------------------

local readType

-- Within fun(…) and { … }: what follows a colon is a type, the rest are names.
local function readInside(s, at, closing, names)
  at = s:find("%S", at)
  while at and s:sub(at, at) ~= closing do
    local _, last = s:find("^[%w_.]+%??%s*:%s*", at)
    if last or s:find("^%[", at) then
      at = last and last + 1 or s:find(":", at, true) + 1
      at = readType(s, s:find("%S", at) or #s + 1, names)
    else
      _, last = s:find("^[%w_.]+%??", at)
      at = last and last + 1
    end
    at = at and s:find("[^%s,;]", at)
  end
  return at and at + 1
end

local function readList(s, at, names)
  repeat
    at = readType(s, at, names)
    local _, comma = s:find("^,%s*", at)
    at = comma and comma + 1 or at
  until not comma
  return at
end

local function readFunction(s, at, names)
  at = readInside(s, at + 4, ")", names)
  local _, colon = s:find("^:%s*", at)
  return colon and readList(s, colon + 1, names) or at
end

local function readSingle(s, at, names)
  if s:find("^fun%(", at) then
    return readFunction(s, at, names)
  elseif s:find("^{", at) then
    return readInside(s, at + 1, "}", names)
  elseif s:find("^[\"']", at) then
    return select(2, s:find("^([\"']).-%1", at)) + 1
  elseif s:find("^%(", at) then
    return readType(s, at + 1, names) + 1
  end
  local number = s:match("^%-?%d+()", at)
  if number then
    return number
  end
  local name, behind = s:match("^([%a_][%w_.]*%*?)()", at)
  if not name then
    error(("no type: '%s'"):format(s:sub(at)), 0)
  end
  names[#names + 1] = name
  if s:find("^<", behind) then
    behind = readList(s, behind + 1, names) + 1
  end
  return behind
end

-- Where the type that begins at `at` ends; the names in it are added to the list.
function readType(s, at, names)
  repeat
    at = readSingle(s, at, names)
    local _, suffix = s:find("^[%[%]?]+", at)
    at = suffix and suffix + 1 or at
    local _, bar = s:find("^|", at)
    at = bar and bar + 1 or at
  until not bar
  return at
end

--- A type at the beginning of a text: the type, what follows it, and the names in it.
---@param text string
---@return string type
---@return string rest
---@return string[] names
function annotations.type(text)
  local names = {}
  local behind = readType(text, 1, names)
  return text:sub(1, behind - 1), (text:sub(behind):gsub("^%s+", "")), names
end

-- --- comments ---------------------------------------------------------------------------------

local tags = {}

local function typed(text)
  local kind, rest, names = annotations.type(text)
  return { type = kind, names = names, text = rest }
end

function tags.param(doc, text)
  local own = text:match "^self%s+(%w+)$"
  if own and doc.generic[own] then
    doc.own = own -- the type of what it is called on
    return nil
  end
  local name, optional, rest = text:match "^([%w_.]+)(%??)%s+(.*)$"
  local item = typed(rest)
  item.name, item.optional = name, optional == "?"
  table.insert(doc.params, item)
  return item
end

tags["return"] = function(doc, text)
  local item = typed(text)
  local name, rest = item.text:match "^([%a_][%w_]*)%s*(.*)$"
  item.name, item.text = name, rest or item.text
  item.type = item.type == doc.own and "self" or item.type
  table.insert(doc.returns, item)
  return item
end

function tags.field(doc, text)
  local scope, bare = text:match "^(private)%s+(.*)$"
  local item = tags.param({ params = doc.fields }, bare or text)
  item.private = scope ~= nil
  return item
end

function tags.class(doc, text)
  local name, rest = text:match "^([%w_.]+)%s*(.*)$"
  doc.class = { name = name, bases = {} }
  for base in (rest:match "^:%s*(.*)$" or ""):gmatch "[%w_.]+" do
    table.insert(doc.class.bases, base)
  end
end

function tags.alias(doc, text)
  doc.class = { name = text:match "^[%w_.]+", bases = {}, alias = true }
end

function tags.type(doc, text)
  doc.type = typed(text)
  return doc.type
end

function tags.overload(doc, text)
  doc.overload = typed(text)
end

function tags.private(doc)
  doc.private = true
end

function tags.generic(doc, text)
  for name in text:gmatch "[%w_]+" do
    doc.generic[name] = true
  end
end

local ignored = { meta = true, diagnostic = true, async = true, nodiscard = true }

local function addLine(doc, line, item)
  local tag, rest = line:match "^%-%-%-@(%a+)%s*(.*)$"
  if tag and not ignored[tag] then
    if not tags[tag] then
      error(("no annotation is called @%s"):format(tag), 0)
    end
    return tags[tag](doc, rest)
  end
  local text = line:match "^%-%-%-%s?(.*)$"
  if item then
    item.text = item.text .. " " .. text
    return item
  end
  table.insert(doc.text, text)
  return nil
end

local function isOpen(text)
  return select(2, text:gsub("[{(]", "")) > select(2, text:gsub("[})]", ""))
end

-- A line, with those that follow where a type in it is not closed; and the one behind.
local function joined(self, i, last)
  local text = self.lines[i]:match "%-.*$"
  local isTag = text:find "^%-%-%-@"
  while isTag and i < last and isOpen(text) and not self.lines[i + 1]:find "^%s*%-%-%-@" do
    i = i + 1
    text = text .. " " .. self.lines[i]:match "%-%-%-%s?(.*)$"
  end
  return text, i + 1
end

-- The comment that ends at a line; nil where none does.
local function docAt(self, last)
  local first = last
  while self.lines[first] and self.lines[first]:find "^%s*%-%-%-" do
    first = first - 1
  end
  if first == last then
    return nil
  end
  local doc = { params = {}, returns = {}, fields = {}, text = {}, generic = {}, first = first + 1 }
  local item
  local i = first + 1
  while i <= last do
    local text, behind = joined(self, i, last)
    local ok, result = pcall(addLine, doc, text, item)
    if not ok then
      doc.problem = doc.problem or { line = i, text = result }
    else
      item = result
    end
    i = behind
  end
  doc.sentences = table.concat(doc.text, "\n")
  return doc
end

-- --- a file -----------------------------------------------------------------------------------

local function splitPath(path)
  local parts = {}
  for part in path:gmatch "[%w_]+" do
    parts[#parts + 1] = part
  end
  return parts
end

local function addMember(self, path, line, f)
  local owner, name = path[1], path[2]
  if path[3] then
    owner, name = path[1] .. "." .. path[2], path[3]
  end
  if name and (f or not self.classOf[name]) then
    local member = { owner = owner, name = name, line = line, f = f, doc = docAt(self, line - 1), source = self }
    table.insert(self.members, member)
    self.memberAt[line] = member
  end
end

local function addClass(self, line, variable)
  local doc = docAt(self, line - 1)
  local class = doc and doc.class
  if class and not class.alias then
    class.doc, class.line, class.source, class.variable = doc, line, self, variable
    table.insert(self.classes, class)
    if variable then
      self.classOf[variable] = class
    end
  elseif class then
    self.aliases[class.name] = true
  end
end

-- What the file gives to who requires it.
local function moduleOf(self)
  for i = #self.lines, 1, -1 do
    local name = self.lines[i]:match "^return ([%a_][%w_]*)$" or self.lines[i]:match "^return setmetatable%(([%w_]+),"
    if name then
      return name
    elseif self.lines[i]:find "^return" then
      return nil
    end
  end
end

local function readLine(self, i)
  local line = self.lines[i]
  local defined = line:match "^function ([%w_.:]+)%("
  local own = line:match "^local function ([%w_]+)%("
  local assigned = line:match "^([%a_][%w_.]*) = "
  local variable = line:match "^local ([%w_]+) =" or assigned and assigned:match "%f[%w_](%u[%w_]*)$"
  if not line:find "^%-%-%-" and (self.lines[i - 1] or ""):find "^%-%-%-" then
    addClass(self, i, variable)
  end
  if defined or assigned and assigned:find(".", 1, true) then
    addMember(self, splitPath(defined or assigned), i, self.byLine[i])
  elseif own then
    addMember(self, { "local", own }, i, self.byLine[i])
  end
end

-- `x.f = other.g` is what the other module says of it.
local function takeOver(self, member)
  local variable, name = self.lines[member.line]:match "^[%w_.]+ = ([%w_]+)%.([%w_]+)$"
  local module = variable and not member.doc and self.requires[variable]
  local other = module and annotations.read(source.pathOf(module))
  for _, theirs in ipairs(other and other.members or {}) do
    if theirs.owner == other.module and theirs.name == name then
      member.doc, member.f = theirs.doc, theirs.f
    end
  end
end

-- Adds what its comments say.
local function annotate(self)
  if not self.members then
    self.members, self.memberAt, self.classes, self.classOf, self.aliases = {}, {}, {}, {}, {}
    self.module = moduleOf(self)
    for i = 1, #self.lines do
      readLine(self, i)
    end
    for _, member in ipairs(self.members) do
      takeOver(self, member)
    end
    for _, member in ipairs(self.members) do
      member.class = self.classOf[member.owner] or self.classOf[member.owner:match "[^.]+$"]
    end
  end
  return self
end

--- The source of a text, with its annotations.
---@param path string what it is called
---@param text string
---@return table
function annotations.parse(path, text)
  return annotate(source.parse(path, text))
end

--- The source in a file, with its annotations; nil where there is none.
---@param path string
---@return table?
function annotations.read(path)
  local self = source.read(path)
  return self and annotate(self)
end

-- Whether a member is what users may call: of one of the classes that they meet, or of the module.
local function isPublic(member, public)
  local class = member.class and not member.class.doc.private and public.classes[member.class.name]
  local isOfModule = public.module and member.owner == member.source.module
  return (class or isOfModule) and not member.name:find "^_" or false
end

--- The public members of a class that users are shown, `init` first.
---@param class table
---@return table[]
function annotations.shown(class)
  local list = {}
  for _, member in ipairs(class.source.members) do
    if member.class == class and member.doc and not member.doc.private and not member.name:find "^_" then
      table.insert(list, member.name == "init" and 1 or #list + 1, member)
    end
  end
  return list
end

-- --- what is wrong ----------------------------------------------------------------------------

local builtIn = {}
for name in ([[any nil boolean true false string number integer function table thread userdata lightuserdata file*
  unknown self]]):gmatch "%S+" do
  builtIn[name] = true
end

-- What begins the text where the name of a result was forgotten.
local noNames = {}
for name in ("of when where fires fails the a an as to in for which whose with is if none nil"):gmatch "%S+" do
  noNames[name] = true
end

local function complain(found, self, line, ...)
  table.insert(found, ("%s:%d: %s"):format(self.path, line, (...):format(select(2, ...))))
end

local function eachType(doc, visit)
  for _, list in ipairs { doc.params, doc.returns, doc.fields, { doc.type, doc.overload } } do
    for _, item in ipairs(list) do
      visit(item)
    end
  end
end

--- The names of the types that users meet in a comment.
---@param doc table
---@return string[]
function annotations.typesIn(doc)
  local names = {}
  eachType(doc, function(item)
    for _, name in ipairs(item.private and {} or item.names) do
      names[#names + 1] = name
    end
  end)
  return names
end

local function checkTypes(self, doc, known, found)
  eachType(doc, function(item)
    for _, name in ipairs(item.names) do
      if not builtIn[name] and not known[name] and not doc.generic[name] then
        complain(found, self, doc.first, "nobody declares the type %s", name)
      end
    end
  end)
  for _, base in ipairs(doc.class and doc.class.bases or {}) do
    if not known[base] then
      complain(found, self, doc.first, "nobody declares the class %s", base)
    end
  end
end

local units = { bytes = true, seconds = true, count = true } -- names that tell theirs

local function isNumber(kind)
  if kind:find "^fun%(" then
    return false
  end
  return kind:find "%f[%w_]number%f[^%w_]" or kind:find "%f[%w_]integer%f[^%w_]"
end

-- A number says what it counts.
local function checkUnits(self, doc, what, found)
  eachType(doc, function(item)
    local isSilent = item.text == "" and not units[item.name] and item ~= doc.type and not item.private
    if isSilent and isNumber(item.type) then
      complain(found, self, doc.first, "%s: the number %s has no text that tells its unit", what, item.name or "")
    end
  end)
end

local function namesOf(items)
  local names = {}
  for i, item in ipairs(items) do
    names[i] = item.name
  end
  return table.concat(names, ", ")
end

local function checkParameters(member, found)
  local wanted = table.concat(member.f.parameters, ", ")
  local given = namesOf(member.doc.params)
  if wanted ~= given then
    complain(found, member.source, member.line, "%s takes (%s), but its @param say (%s)", member.name, wanted, given)
  end
end

local function checkReturns(member, found)
  local returns, arity = member.doc.returns, source.arity(member.f)
  if #returns < arity then
    complain(found, member.source, member.line, "%s returns %d values, and has %d @return", member.name, arity,
      #returns)
  elseif not source.gives(member.f) and #returns > 0 and #member.f.calls > 0 then
    complain(found, member.source, member.line, "%s returns nothing, but has a @return", member.name)
  end
  for _, item in ipairs(returns) do
    if noNames[item.name] then
      complain(found, member.source, member.line, "%s: a @return has a name before its text: '%s' is none", member.name,
        item.name)
    end
  end
end

-- The comment of a member says what the code says. What users do not meet may do with a sentence.
local function checkMember(member, public, found)
  local doc = member.doc
  if not doc.sentences:find "%S" and not doc.class and not doc.private then
    complain(found, member.source, member.line, "%s has no sentence", member.name)
  elseif doc.sentences:find "%S" and not doc.sentences:find "[.!?:`)]%s*$" then
    complain(found, member.source, member.line, "%s: its sentence does not end", member.name)
  end
  if member.f and (public or #doc.params > 0) then
    checkParameters(member, found)
  end
  if member.f and (public or #doc.returns > 0) then
    checkReturns(member, found)
  elseif public and not member.f and not doc.class and not doc.type and #doc.params == 0 and #doc.returns == 0 then
    complain(found, member.source, member.line, "%s has no @type", member.name)
  end
  if public then
    checkUnits(member.source, doc, member.name, found)
  end
end

-- All that a file documents is right, whoever it is for.
local function checkDocs(self, known, found)
  for i = 1, #self.lines do
    if self.lines[i]:find "^%s*%-%-%-" and not (self.lines[i + 1] or ""):find "^%s*%-%-%-" then
      local doc = docAt(self, i)
      if doc.problem then
        complain(found, self, doc.problem.line, "%s", doc.problem.text)
      else
        checkTypes(self, doc, known, found)
      end
    end
  end
end

--- Whether a class says something of a method, or one of its bases does.
---@param class table
---@param name string
---@param known table<string, table|true> classes
---@return boolean
function annotations.documents(class, name, known)
  for _, member in ipairs(class.source.members) do
    if member.class == class and member.name == name and member.doc then
      return true
    end
  end
  for _, field in ipairs(class.doc.fields) do
    if field.name == name then
      return true
    end
  end
  for _, base in ipairs(class.bases) do
    if type(known[base]) == "table" and annotations.documents(known[base], name, known) then
      return true
    end
  end
  return false
end

-- What overrides a documented method needs no comment of its own, or may do with a sentence.
local function isOverride(member, known)
  for _, base in ipairs(member.class and member.class.bases or {}) do
    if type(known[base]) == "table" and annotations.documents(known[base], member.name, known) then
      return true
    end
  end
  return false
end

-- What everybody may use is documented; `private` says that it is the library's own.
local function checkMembers(self, known, public, found)
  for _, member in ipairs(self.members) do
    local doc = member.doc
    local shown = isPublic(member, public)
    local isEmpty = member.name == "init" and member.f and #member.f.parameters == 0
    if shown and not doc and not isEmpty and not isOverride(member, known) then
      complain(found, self, member.line, "%s has no comment", member.name)
    elseif doc and not doc.problem then
      local isSentence = #doc.params == 0 and #doc.returns == 0 and isOverride(member, known)
      checkMember(member, shown and not doc.private and not isSentence, found)
    end
  end
end

local function checkClasses(self, public, found)
  for _, class in ipairs(self.classes) do
    local isModule = class.name:find("skald.", 1, true) == 1 -- the head of its file tells
    local isShown = public.classes[class.name] and not class.doc.private
    if isShown and not isModule and not class.doc.sentences:find "%S" then
      complain(found, self, class.line, "the class %s has no sentence", class.name)
    end
    if isShown then
      checkUnits(self, class.doc, class.name, found)
    end
  end
end

--- What is wrong with the comment of a member that users call: a list of lines.
---@param member table
---@return string[]
function annotations.memberProblems(member)
  local found = {}
  checkMember(member, true, found)
  return found
end

--- The classes and other types that sources declare, by their names: a class, or true.
---@param sources table[]
---@return table<string, table|true>
function annotations.declared(sources)
  local known = {}
  for _, self in ipairs(sources) do
    for _, class in ipairs(self.classes) do
      known[class.name] = class
    end
    for name in pairs(self.aliases) do
      known[name] = true
    end
  end
  return known
end

--- What is wrong with the annotations of a source: a list of lines `file:line: what`.
---@param self table a source
---@param known table<string, table|true> the types that there are
---@param public { module: boolean?, classes: table<string, any> } whether users meet the module, and which classes
---@return string[]
function annotations.problems(self, known, public)
  local found = {}
  checkDocs(self, known, found)
  checkMembers(self, known, public, found)
  checkClasses(self, public, found)
  return found
end

return annotations
