-- The reference: one page for each public module, made of the annotations in the sources, and of what the code itself
-- says it raises and fails with. `luajit tests/support/reference.lua` writes docs/reference (make docs).

package.path = "tests/?.lua;tests/support/?.lua;scripts/?.lua;" .. package.path

local annotations = require "support.annotations"
local markdown = require "support.markdown"
local source = require "support.source"

local reference = { folder = "docs/reference" }

-- In the order of the index. `pure`: loads without the host, and is looked at as a table, too. `also`: classes that
-- belong there, though another page may name them first. A page without a module is of classes that users are given.
-- `text`: instead of what stands at the head of the source.
local pages = {
  { module = "skald.protocol", pure = true },
  { name = "transport", file = "scripts/skald/transport.lua",
    also = { "Transport", "DatagramTransport", "Address", "Reason" },
    text = "What a protocol has of its connection or port, and what it is told: transports, addresses, reasons." },
  { module = "skald.basic", pure = true },
  { module = "skald.policies", pure = true },
  { module = "skald.haproxy", pure = true },
  { module = "skald.resp", pure = true },
  { module = "skald.stream", pure = true, also = { "Stream" } },
  { module = "skald.defer", pure = true, also = { "Failure" } },
  { module = "skald.task", pure = true, also = { "ClockCall", "CooperativeTask" } },
  { module = "skald.endpoints", pure = true, also = { "ServerEndpoint", "ClientEndpoint" } },
  { module = "skald.reactor", also = { "Port", "DelayedCall", "Connector", "ProcessTransport", "Trigger" } },
  { module = "skald.client" },
  { module = "skald.service", file = "scripts/meta/service.lua", variable = "service" },
  { module = "skald.class", pure = true },
  { module = "skald.log" },
  { module = "skald.fs", pure = true, also = { "Appender", "FileWatch", "FileChange", "FileStatus" } },
  { module = "skald.testing", pure = true },
}

-- --- what stands on which page ----------------------------------------------------------------

local function list(command)
  local pipe, found = io.popen(command), {}
  for line in pipe:lines() do
    found[#found + 1] = line
  end
  pipe:close()
  return found
end

--- The sources of the library, and what only annotations know.
---@return table[]
function reference.sources()
  local sources = {}
  for i, path in ipairs(list "ls scripts/skald/*.lua scripts/meta/*.lua") do
    sources[i] = annotations.read(path)
  end
  return sources
end

local function classesByName(sources)
  local found = {}
  for _, one in ipairs(sources) do
    for _, class in ipairs(one.classes) do
      if not found[class.name] or #class.doc.fields > #found[class.name].doc.fields then
        found[class.name] = class
      end
    end
  end
  return found
end

-- The documented member that a function of a loaded module is.
local function memberOf(f)
  local info = debug.getinfo(f, "S")
  local file = annotations.read((info.source:gsub("^@", ""):gsub("^%./", "")))
  return file and file.memberAt[info.linedefined], info
end

local function textMember(file, variable, name)
  for _, member in ipairs(file.members) do
    if member.owner == variable and member.name == name then
      return member
    end
  end
end

local function isClass(value)
  return require("skald.class").is(value)
end

-- Where a name first stands in a file, so that a page has the file's order.
local function placeOf(file, name)
  return file.text:find("[%s.]" .. name .. " = ") or file.text:find("[.]" .. name .. "%(") or #file.text
end

-- What a pure module publishes: sorted names, and the table itself.
local function published(page)
  local values, names = require(page.module), {}
  for name in pairs(values) do
    if type(name) == "string" and not name:find "^_" then
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b)
    local placeA, placeB = placeOf(page.source, a), placeOf(page.source, b)
    return placeA < placeB or placeA == placeB and a < b
  end)
  return names, values
end

local function addProblem(page, ...)
  table.insert(page.problems, page.path .. ":1: " .. (...):format(select(2, ...)))
end

local function isDerived(class, base, classes)
  for _, name in ipairs(class.bases) do
    if name == base or classes[name] and isDerived(classes[name], base, classes) then
      return true
    end
  end
  return false
end

-- What a class has is documented, wherever it comes from.
local function checkMethods(page, name, methods, classes)
  for key, value in pairs(methods) do
    if type(value) == "function" and not key:find "^_" and not annotations.documents(classes[name], key, classes) then
      local member, info = memberOf(value)
      if not member then
        addProblem(page, "%s.%s is made at %s:%d, which documents nothing", name, key, info.short_src, info.linedefined)
      elseif not member.class then
        addProblem(page, "%s.%s belongs to %s (%s:%d), which has no @class", name, key, member.owner, info.short_src,
          info.linedefined)
      end
    end
  end
  local meta = getmetatable(methods)
  if meta and isClass(meta.__index) then
    checkMethods(page, name, meta.__index, classes)
  end
end

local function addLoaded(page, classes)
  local names, values = published(page)
  for _, name in ipairs(names) do
    local value = values[name]
    if classes[name] and type(value) == "table" then
      table.insert(page.classes, classes[name])
      if isClass(value) then
        checkMethods(page, name, value, classes)
      end
      if isClass(value) and name ~= "Object" and not isDerived(classes[name], "Object", classes) then
        addProblem(page, "%s is a class: its @class is derived from Object, at last", name)
      end
    elseif isClass(value) then
      addProblem(page, "%s publishes the class %s, which has no @class", page.module, name)
    else
      local member = type(value) == "function" and memberOf(value) or textMember(page.source, page.variable, name)
      if not member or not member.doc then
        addProblem(page, "%s publishes %s, of which nothing is said", page.module, name)
      elseif not member.doc.private then
        table.insert(page.functions, { name = name, member = member })
      end
    end
  end
end

local function addText(page)
  for _, member in ipairs(page.source.members) do
    if member.owner == page.variable and not member.name:find "^_" and member.doc and not member.doc.private then
      table.insert(page.functions, { name = member.name, member = member })
    end
  end
  for _, class in ipairs(page.source.classes) do
    local isGiven = page.source.text:find("\n" .. page.variable .. "." .. class.name .. " = ", 1, true)
    if isGiven and not class.doc.private then
      table.insert(page.classes, class)
    end
  end
end

local function readPage(given, classes)
  local path = given.file or source.pathOf(given.module)
  local file = annotations.read(path)
  if not file then
    return nil
  end
  local page = {
    name = given.name or given.module:match "[^.]+$",
    module = given.module,
    pure = given.pure,
    text = given.text,
    path = path,
    source = file,
    variable = given.variable or file.module,
    functions = {},
    classes = {},
    problems = {},
  }
  if given.pure then
    addLoaded(page, classes)
  elseif given.module then
    addText(page)
  end
  for _, name in ipairs(given.also or {}) do
    if classes[name] then
      table.insert(page.classes, classes[name])
    else
      addProblem(page, "there is no class %s", name)
    end
  end
  return page
end

-- Bases that stand nowhere else go before the first class that is derived from them.
local function addBases(page, classes, pageOf)
  local i = 1
  while page.classes[i] do
    local missing
    for _, name in ipairs(page.classes[i].bases) do
      missing = missing or not pageOf[name] and classes[name]
    end
    if missing then
      table.insert(page.classes, i, missing)
      pageOf[missing.name] = page
    else
      i = i + 1
    end
  end
end

-- The documents of a page: of its functions, its classes and their methods.
local function docsOf(page)
  local docs = {}
  for _, entry in ipairs(page.functions) do
    docs[#docs + 1] = entry.member.doc
  end
  for _, class in ipairs(page.classes) do
    docs[#docs + 1] = class.doc
    for _, member in ipairs(annotations.shown(class)) do
      docs[#docs + 1] = member.doc
    end
  end
  return docs
end

-- A class that users are told of stands where they are first told of it, unless it stands elsewhere.
local function addMentioned(page, classes, pageOf)
  local count
  repeat
    count = #page.classes
    for _, doc in ipairs(docsOf(page)) do
      for _, name in ipairs(annotations.typesIn(doc)) do
        if classes[name] and not pageOf[name] then
          table.insert(page.classes, classes[name])
          pageOf[name] = page
        end
      end
    end
    addBases(page, classes, pageOf)
  until #page.classes == count
end

--- All pages, with what stands on them.
---@return table[] pages
---@return table<string, table> pageOf the page of each class
---@return table<string, table> classes
function reference.read()
  local classes = classesByName(reference.sources())
  local found, pageOf = {}, {}
  for _, given in ipairs(pages) do
    local page = readPage(given, classes)
    if page then
      table.insert(found, page)
      for _, class in ipairs(page.classes) do
        pageOf[class.name] = pageOf[class.name] or page
      end
    end
  end
  for _, page in ipairs(found) do
    addMentioned(page, classes, pageOf)
  end
  return found, pageOf, classes
end

-- --- the pages ----------------------------------------------------------------------------------

--- The text of each page, by the name of its file.
---@return table<string, string>
function reference.render()
  local found, pageOf, classes = reference.read()
  local texts = { ["README.md"] = markdown.index(found, pageOf) }
  for _, page in ipairs(found) do
    texts[page.name .. ".md"] = markdown.page(page, pageOf, classes)
  end
  return texts
end

-- --- what is wrong ----------------------------------------------------------------------------

-- What a module publishes may be a function of a file whose other functions nobody meets.
local function addFunctionProblems(page)
  for _, entry in ipairs(page.functions) do
    if entry.member.source ~= page.source or entry.member.owner == "local" then
      for _, problem in ipairs(annotations.memberProblems(entry.member)) do
        table.insert(page.problems, problem)
      end
    end
  end
end

--- What is wrong with the annotations of all that there is: lines `file:line: what`.
---@return string[]
function reference.problems()
  local found, pageOf = reference.read()
  local modules, problems = {}, {}
  for _, page in ipairs(found) do
    modules[page.path] = page.module ~= nil
  end
  local sources = reference.sources()
  local known = annotations.declared(sources)
  for _, one in ipairs(sources) do
    for _, problem in ipairs(annotations.problems(one, known, { module = modules[one.path], classes = pageOf })) do
      table.insert(problems, problem)
    end
  end
  for _, page in ipairs(found) do
    addFunctionProblems(page)
    for _, problem in ipairs(page.problems) do
      table.insert(problems, problem)
    end
  end
  return problems
end

--- Writes the pages, and removes those that are none any more.
function reference.write()
  local texts = reference.render()
  os.execute("mkdir -p " .. reference.folder)
  for _, path in ipairs(list("ls " .. reference.folder .. "/*.md 2>/dev/null")) do
    if not texts[path:match "[^/]+$"] then
      os.remove(path)
    end
  end
  for name, text in pairs(texts) do
    local file = assert(io.open(reference.folder .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end
end

if arg and arg[0] and arg[0]:find "reference%.lua$" then
  for _, problem in ipairs(reference.problems()) do
    io.stderr:write(problem, "\n")
  end
  reference.write()
end

return reference
