-- What a Lua source says, read as text: its functions with their parameters, what they return, and what they
-- raise. So that the annotations can be held against the code, also of modules that only the host can load.

local source = {}

-- --- tokens -----------------------------------------------------------------------------------

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch "%a+" do
  keywords[word] = true
end

local function lineCounter(text)
  local line, at = 1, 1
  return function(place)
    while true do
      local newline = text:find("\n", at, true)
      if not newline or newline >= place then
        return line
      end
      line, at = line + 1, newline + 1
    end
  end
end

-- Where a short string that begins at `at` ends.
local function stringEnd(text, at)
  local quote = text:sub(at, at)
  local i = at + 1
  while text:sub(i, i) ~= quote do
    i = i + (text:sub(i, i) == "\\" and 2 or 1)
  end
  return i
end

local escapes = { n = "\n", t = "\t", r = "\r", ["0"] = "\0" }

-- The end of what begins at `at`, its kind, and the value of a string.
local function scan(text, at)
  local long = text:match("^%[(=*)%[", at)
  if long then
    local _, last = text:find("]" .. long .. "]", at, true)
    return last, "string", text:sub(at + #long + 2, last - #long - 2)
  elseif text:find("^[\"']", at) then
    local last = stringEnd(text, at)
    return last, "string", (text:sub(at + 1, last - 1):gsub("\\(.)", function(c)
      return escapes[c] or c
    end))
  end
  local word = text:match("^[%a_][%w_]*", at)
  if word then
    return at + #word - 1, keywords[word] and "keyword" or "name"
  end
  local digits = text:match("^0[xX]%x+", at) or text:match("^%d[%w.]*", at)
  if digits then
    return at + #digits - 1, "number"
  end
  local symbol = text:match("^%.%.%.", at) or text:match("^%.%.", at) or text:match("^[=~<>]=", at)
  return at + #(symbol or "x") - 1, "symbol"
end

local function skip(text, at)
  at = text:find("%S", at)
  while at and text:find("^%-%-", at) do
    local long = text:match("^%-%-%[(=*)%[", at)
    local _, last = text:find(long and "]" .. long .. "]" or "\n", at, long and true)
    at = last and text:find("%S", last + 1)
  end
  return at
end

local function tokensOf(text)
  local list, lineAt = {}, lineCounter(text)
  local at = skip(text, 1)
  while at do
    local last, kind, value = scan(text, at)
    list[#list + 1] = { kind = kind, text = text:sub(at, last), value = value, line = lineAt(at) }
    at = skip(text, last + 1)
  end
  list[#list + 1] = { kind = "end of file", text = "", line = lineAt(#text) }
  return list
end

-- --- functions --------------------------------------------------------------------------------

local opens = { ["function"] = 1, ["do"] = 1, ["if"] = 1, ["repeat"] = 1, ["("] = 1, ["{"] = 1, ["["] = 1 }
local closes = { ["end"] = 1, ["until"] = 1, [")"] = 1, ["}"] = 1, ["]"] = 1 }
local stops = { ["else"] = true, ["elseif"] = true, [";"] = true }

local function isWord(token)
  return token.kind == "keyword" or token.kind == "symbol"
end

-- The expressions of a list that begins at `at`, each as the places of its first and last token.
local function expressions(tokens, at)
  local list, depth, first = {}, 0, at
  while true do
    local token = tokens[at]
    local text = isWord(token) and token.text or ""
    if token.kind == "end of file" or depth == 0 and (closes[text] or stops[text]) then
      if at > first then
        list[#list + 1] = { first, at - 1 }
      end
      return list, at
    elseif depth == 0 and text == "," then
      list[#list + 1] = { first, at - 1 }
      first = at + 1
    end
    depth = depth + (opens[text] or 0) - (closes[text] or 0)
    at = at + 1
  end
end

-- A function whose keyword stands at `at`; and the place behind its parameters.
local function header(tokens, at)
  local f = { line = tokens[at].line, path = {}, parameters = {}, returns = {}, calls = {} }
  f.isLocal = at > 1 and tokens[at - 1].text == "local"
  at = at + 1
  while tokens[at].text ~= "(" do
    f.method = f.method or tokens[at].text == ":"
    if tokens[at].kind == "name" then
      table.insert(f.path, tokens[at].text)
    end
    at = at + 1
  end
  repeat
    at = at + 1
    if tokens[at].kind == "name" or tokens[at].text == "..." then
      table.insert(f.parameters, tokens[at].text)
    end
  until tokens[at].text == ")"
  return f, at
end

-- `name(…)` and `module.name(…)`.
local function callAt(tokens, at)
  local before = tokens[at - 1] and tokens[at - 1].text
  if tokens[at].kind ~= "name" or before == "." or before == ":" or before == "function" then
    return nil
  end
  local call = { name = tokens[at].text, line = tokens[at].line }
  if tokens[at + 1].text == "." and tokens[at + 2].kind == "name" then
    call.of, call.name = call.name, tokens[at + 2].text
    at = at + 2
  end
  local following = tokens[at + 1]
  if following.text == "(" then
    call.arguments, call.last = expressions(tokens, at + 2)
  elseif following.kind == "string" then
    call.arguments, call.last = { { at + 1, at + 1 } }, at + 1
  end
  return call.arguments and call
end

local function functionsOf(tokens)
  local list, stack, inner = {}, {}, nil
  local at = 1
  while tokens[at].kind ~= "end of file" do
    local token = tokens[at]
    local call = inner and callAt(tokens, at)
    if token.text == "function" and token.kind == "keyword" then
      local f, behind = header(tokens, at)
      f.depth = #stack
      list[#list + 1] = f
      table.insert(stack, f)
      inner, at = f, behind
    elseif token.kind == "keyword" and (token.text == "do" or token.text == "if" or token.text == "repeat") then
      table.insert(stack, inner or false)
    elseif token.kind == "keyword" and (token.text == "end" or token.text == "until") then
      table.remove(stack)
      inner = stack[#stack] or nil
    elseif inner and token.text == "return" and token.kind == "keyword" then
      table.insert(inner.returns, (expressions(tokens, at + 1)))
    elseif call then
      table.insert(inner.calls, call)
    end
    at = at + 1
  end
  return list
end

-- --- a file -----------------------------------------------------------------------------------

-- `local name = require "module"`, at the beginning of a line.
local function requiresOf(text)
  local found = {}
  for name, module in ("\n" .. text):gmatch '\nlocal ([%w_]+) = require "([^"]+)"' do
    found[name] = module
  end
  return found
end

local files = {}

--- A source of a text.
---@param path string what it is called
---@param text string
---@return table
function source.parse(path, text)
  local tokens = tokensOf(text)
  local self = { path = path, text = text, lines = {}, tokens = tokens, requires = requiresOf(text), byLine = {} }
  for line in (text .. "\n"):gmatch "(.-)\n" do
    table.insert(self.lines, line)
  end
  self.functions = functionsOf(tokens)
  self.locals = {}
  for _, f in ipairs(self.functions) do
    f.source = self
    self.byLine[f.line] = self.byLine[f.line] or f
    if #f.path == 1 then
      self.locals[f.path[1]] = f
    end
  end
  return self
end

--- The source in a file; nil where there is none.
---@param path string
---@return table?
function source.read(path)
  local file = not files[path] and io.open(path)
  if file then
    files[path] = source.parse(path, file:read "*a")
    file:close()
  end
  return files[path]
end

--- The file of a module of the library.
---@param module string
---@return string
function source.pathOf(module)
  return "scripts/" .. module:gsub("%.", "/") .. ".lua"
end

-- The function that a call calls, where it is one of the file's own or of a module that the file requires.
local function calledBy(self, call)
  if not call.of then
    return self.locals[call.name]
  end
  local module = self.requires[call.of]
  local other = module and module:find "^skald%." and source.read(source.pathOf(module))
  for _, f in ipairs(other and other.functions or {}) do
    if f.path[2] == call.name and not f.path[3] and not f.method then
      return f
    end
  end
  return nil
end

-- The call that an expression is, and nothing else.
local function wholeCall(self, expression)
  local call = callAt(self.tokens, expression[1])
  return call and call.last == expression[2] and call or nil
end

-- A function that also returns nothing has its calls behind `return` for what they do. What a method of the
-- same name in a base gives is said there.
local function isTailCall(f, list)
  local call = #list == 1 and wholeCall(f.source, list[1])
  local isPlain = call and call.of ~= nil and call.name == f.path[#f.path]
  for _, other in ipairs(f.returns) do
    isPlain = isPlain or #other == 0
  end
  return isPlain and #list == 1 and f.source.tokens[list[1][2]].text == ")"
end

--- How many values a function returns, at least: as many as its longest `return` names.
---@param f table
---@param seen table?
---@return integer
function source.arity(f, seen)
  seen = seen or {}
  if seen[f] then
    return 0
  end
  seen[f] = true
  local most = 0
  for _, list in ipairs(f.returns) do
    local count = #list
    local call = count > 0 and wholeCall(f.source, list[count])
    local called = call and calledBy(f.source, call)
    if isTailCall(f, list) then
      count = 0
    elseif called then
      count = count - 1 + math.max(1, source.arity(called, seen))
    end
    most = math.max(most, count)
  end
  seen[f] = nil
  return most
end

--- Whether there is a `return` with something behind it.
---@param f table
---@return boolean
function source.gives(f)
  for _, list in ipairs(f.returns) do
    if #list > 0 then
      return true
    end
  end
  return false
end

-- What a text looks like: its literal parts, with the known parameters put in; "…" where it varies.
local function shapeOf(self, expression, known)
  local parts, inserts = {}, nil
  local at = expression[1]
  while at <= expression[2] do
    local token = self.tokens[at]
    if token.kind == "string" then
      table.insert(parts, token.value)
    elseif token.text == "format" and self.tokens[at - 1].text == ":" then
      inserts, at = expressions(self.tokens, at + 2)
    elseif token.kind == "name" and token.text ~= "format" then
      table.insert(parts, known and known[token.text] or "…")
    end
    at = at + 1
  end
  local text, count = table.concat(parts), 0
  return (text:gsub("%%[%d.]*[a-zA-Z]", function()
    count = count + 1
    local insert = inserts and inserts[count]
    local token = insert and insert[1] == insert[2] and self.tokens[insert[1]]
    return token and (token.value or known and known[token.text]) or "…"
  end):gsub("…[…%s]*…", "…"))
end

-- What the parameters of a called function are, where the call says so with strings.
local function literals(self, call, called, known)
  local found = {}
  for i, name in ipairs(called.parameters) do
    local argument = call.arguments[i]
    local token = argument and argument[1] == argument[2] and self.tokens[argument[1]]
    found[name] = token and (token.value or known and known[token.text]) or nil
  end
  return found
end

local function addOnce(list, item, key)
  for _, other in ipairs(list) do
    if other[key] == item[key] then
      return
    end
  end
  table.insert(list, item)
end

local MOST_DEPTH = 4

-- `level` is the one that blames who called the public function; `level + 1` and the like always count.
local function blames(self, argument, level)
  if not argument then
    return false
  end
  local token = self.tokens[argument[1]]
  return token.kind ~= "number" or argument[1] ~= argument[2] or tonumber(token.text) == level
end

local function gatherRaises(f, depth, known, found)
  local self = f.source
  for _, call in ipairs(f.calls) do
    local called = calledBy(self, call)
    if call.name == "error" and not call.of and blames(self, call.arguments[2], depth + 2) then
      local shape = shapeOf(self, call.arguments[1], known)
      if shape:find "%a" then
        addOnce(found, { text = shape, line = call.line }, "text")
      end
    elseif called and depth < MOST_DEPTH then
      gatherRaises(called, depth + 1, literals(self, call, called, known), found)
    end
  end
  return found
end

--- What a function raises at its caller's line when it is misused: a list of `{ text, line }`.
---@param f table
---@return table[]
function source.raises(f)
  return gatherRaises(f, 0, nil, {})
end

local function isNil(self, expression)
  return expression and self.tokens[expression[1]].text == "nil" and expression[1] == expression[2]
end

local function gatherFailures(f, depth, known, found)
  local self = f.source
  for _, list in ipairs(f.returns) do
    local call = list[1] and wholeCall(self, list[#list])
    local called = call and calledBy(self, call)
    local code = list[3] and list[3][1] == list[3][2] and self.tokens[list[3][1]].value
    if isNil(self, list[1]) and code then
      addOnce(found, { message = shapeOf(self, list[2], known), code = code }, "code")
    elseif isNil(self, list[1]) and call and call.name == "errorOf" then
      addOnce(found, { message = "what the system says", code = "the name of the system's error" }, "code")
    elseif called and #list == 1 and depth < MOST_DEPTH then
      gatherFailures(called, depth + 1, literals(self, call, called, known), found)
    end
  end
  return found
end

--- What a function gives besides success: a list of `{ message, code }`, of `nil, message, code`.
---@param f table
---@return table[]
function source.failures(f)
  return gatherFailures(f, 0, nil, {})
end

return source
