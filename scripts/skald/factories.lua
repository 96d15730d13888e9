-- Factories outlive the definitions that a script gives. Each generation reads its definitions into
-- entries; an entry that finds its predecessor takes over the living factory, with everything that
-- running code stored in it, and gives it new code.

local backup = require "skald.backup"
local class = require "skald.class"
local protocol = require "skald.protocol"

local factories = {}

-- --- reading ----------------------------------------------------------------------------------

-- A factory of a definition: the outermost one is the entry itself; `inner` is the one that it wraps.
---@class Link
---@field fresh Factory an instance as the new definition makes it; the living one, at first
---@field factory Factory the living one
---@field class table the class of `fresh`
---@field protocol table? the class of its protocols
---@field baseline table what `fresh` was when it was read
---@field inner Link?
---@field former Link? the one whose living factory it takes over

---@class Entry: Link
---@field definition table as the script gave it
---@field name string?
---@field endpoints table[] as endpoints.parseServer gives them, each with its `key`
---@field clients table[] `{ key, endpoint, connector }`: what it connects to
---@field position integer? among those without a name

-- Fields of a living factory that are no part of what its definition says.
local own = {
  state = true,
  wrappedFactory = true,
  _group = true,
  _connector = true,
  connector = true,
  _tries = true,
  _since = true,
  _wrappers = true,
  _datagram = true,
}

-- What a table of fields is now, to tell later what running code has changed.
local function note(fields)
  local copies = {}
  for key, value in next, fields do
    if not own[key] then
      copies[key] = { value = value, copy = backup.copy(value) }
    end
  end
  return copies
end

local function touched(fields, baseline, key)
  local was = baseline[key]
  local value = rawget(fields, key)
  if was == nil then
    return value ~= nil
  end
  return not rawequal(value, was.value) or backup.differs(value, was.copy)
end

-- A plain table given as protocol is a class from now on.
local function protocolOf(factory, base)
  local methods = factory.protocol
  if type(methods) == "table" and not class.is(methods) and getmetatable(methods) == nil then
    class.adopt(methods, base)
  end
  return class.is(methods) and methods or nil
end

-- A factory, with what it wraps.
local function readLink(fresh, defaultName, base)
  local link = { fresh = fresh, factory = fresh, class = class.of(fresh), protocol = protocolOf(fresh, base) }
  if fresh.name == nil then
    rawset(fresh, "name", defaultName)
  end
  link.baseline = note(fresh)
  local wrapped = fresh.wrappedFactory
  link.inner = class.of(wrapped) and readLink(wrapped, defaultName, base) or nil
  return link
end

--- The factories of an entry, from the inside out: one, unless it wraps another.
---@param entry Entry
---@return Link[]
function factories.links(entry)
  local list, link = {}, entry
  while link do
    table.insert(list, 1, link)
    link = link.inner
  end
  return list
end

--- Reads what a script gave: a plain definition, a Factory class, or a factory.
---@param definition table
---@param endpoints table[]
---@param defaultName string
---@return Entry
function factories.read(definition, endpoints, defaultName)
  local fresh = definition
  if not class.of(definition) then
    class.adopt(definition, definition.connect and protocol.ReconnectingClientFactory or protocol.Factory)
    fresh = definition:new()
  end
  local name = fresh.name
  local isUdp = endpoints[1] and endpoints[1].type == "udp"
  local entry = readLink(fresh, defaultName, isUdp and protocol.DatagramProtocol or protocol.Protocol)
  entry.definition, entry.endpoints, entry.clients, entry.name = definition, endpoints, {}, name
  return entry
end

--- Numbers those that have no name, in their order.
---@param entries Entry[]
function factories.number(entries)
  local count = 0
  for _, entry in ipairs(entries) do
    if not entry.name then
      count = count + 1
      entry.position = count
    end
  end
end

--- What each class that a generation made is now.
---@param generation Generation
function factories.noteClasses(generation)
  local baseline = {}
  for methods in pairs(generation.classes) do
    baseline[methods] = note(methods)
  end
  generation.baseline = baseline
end

-- --- matching ---------------------------------------------------------------------------------

local function shareKey(list, others)
  for _, mine in ipairs(list) do
    for _, other in ipairs(others) do
      if mine.key == other.key then
        return true
      end
    end
  end
  return false
end

local function shareEndpoint(a, b)
  return shareKey(a.endpoints, b.endpoints) or shareKey(a.clients, b.clients)
end

local function pair(old, new)
  old.successor, new.predecessor = new, old
end

local function ambiguous(new)
  local what = new.name and ("'%s'"):format(new.name) or ("number %d without a name"):format(new.position)
  return nil, ("which factory is which cannot be told (%s): give them names, with name = …"):format(what)
end

local function matchNames(olds, news)
  for _, new in ipairs(news) do
    for _, old in ipairs(olds) do
      if rawequal(old.factory, new.fresh) or (new.name and old.name == new.name) then
        pair(old, new)
      end
    end
  end
end

-- Those of `list` that are free, in the order of the list.
local function free(list, field)
  local found = {}
  for _, entry in ipairs(list) do
    if not entry[field] then
      found[#found + 1] = entry
    end
  end
  return found
end

-- Entries that ask for the same endpoint more than once (port 0) are told apart by their order.
local function matchEndpoints(olds, news)
  local claims = {}
  for _, new in ipairs(free(news, "predecessor")) do
    for _, old in ipairs(free(olds, "successor")) do
      if shareEndpoint(old, new) then
        claims[#claims + 1] = { old = old, new = new }
      end
    end
  end
  for _, claim in ipairs(claims) do
    local old, new = claim.old, claim.new
    if not old.successor and not new.predecessor then
      pair(old, new)
    end
  end
  return claims
end

-- A factory that could be two, and not by the mere order of equal ones, is not guessed.
local function findDoubt(claims)
  local function sameKeys(a, b)
    return shareEndpoint(a, b) and #a.endpoints == #b.endpoints and #a.clients == #b.clients
  end
  for _, claim in ipairs(claims) do
    local old, new = claim.old, claim.new
    if old.successor ~= new then
      local rivalNew, rivalOld = old.successor, new.predecessor
      local equal = (not rivalNew or sameKeys(rivalNew, new)) and (not rivalOld or sameKeys(rivalOld, old))
      if not equal then
        return new
      end
    end
  end
  return nil
end

local function matchPositions(olds, news)
  for _, new in ipairs(free(news, "predecessor")) do
    for _, old in ipairs(free(olds, "successor")) do
      if new.position and new.position == old.position then
        pair(old, new)
      end
    end
  end
end

local function firstUnnamed(list)
  for _, entry in ipairs(list) do
    if entry.position then
      return entry
    end
  end
  return nil
end

--- Finds for each new entry its predecessor: by name, else by endpoint, else by position.
---@param olds Entry[]
---@param news Entry[]
---@return boolean? ok nil, message where that would be a guess
---@return string? message
function factories.match(olds, news)
  for _, old in ipairs(olds) do
    old.successor = nil
  end
  matchNames(olds, news)
  local doubt = findDoubt(matchEndpoints(olds, news))
  if doubt then
    return ambiguous(doubt)
  end
  matchPositions(olds, news)
  local left = firstUnnamed(free(news, "predecessor"))
  if left and firstUnnamed(free(olds, "successor")) then
    return ambiguous(left)
  end
  return true
end

-- --- classes ----------------------------------------------------------------------------------

-- Calls f(key, class) for a class and for its bases, as far as the generation made them.
local function eachBase(generation, key, methods, f)
  while generation.classes[methods or false] do
    f(key, methods)
    key, methods = "base of " .. key, getmetatable(methods).__index
  end
end

-- Calls f(key, class) for each class that a generation can be asked for, in the order in which they
-- count: what its factories use, what its modules export, what was given a name.
local function eachKnown(generation, keyOf, f)
  for i, entry in ipairs(generation.entries) do
    local key = keyOf(i, entry)
    for depth, link in ipairs(key and factories.links(entry) or {}) do
      local what = depth == 1 and "" or ("wrapper %d: "):format(depth - 1)
      eachBase(generation, ("%sfactory of %s"):format(what, key), link.class, f)
      eachBase(generation, ("%sprotocol of %s"):format(what, key), link.protocol, f)
    end
  end
  local reals = {}
  for real in pairs(generation.modules) do
    reals[#reals + 1] = real
  end
  table.sort(reals)
  for _, real in ipairs(reals) do
    local module = generation.modules[real]
    f(module.name .. " (module)", class.is(module.value) and module.value or nil)
    if type(module.value) == "table" and not class.is(module.value) then
      for field, value in next, module.value do
        if class.is(value) then
          f(("%s.%s"):format(module.name, tostring(field)), value)
        end
      end
    end
  end
  for name, methods in pairs(generation.names) do
    f(("class %s"):format(name), methods)
  end
end

-- By the name of what is the same thing in both generations: the class that it is now.
local function successors(new)
  local known = {}
  eachKnown(new, function(i)
    return tostring(i)
  end, function(key, methods)
    known[key] = methods
  end)
  return known
end

--- Which old class becomes which new one: a list of `{ old, new, name }`, and the names of those
--- that stay as they are. Those are orphans, kept weakly by their names: while there are objects of
--- one, a later generation may have its successor.
---@param old Generation
---@param new Generation
---@return table[] pairs
---@return table<table, string> stayed names, by the class
---@return string[] warnings
function factories.pairClasses(old, new)
  local now, found, list, unmatched, warnings = successors(new), {}, {}, {}, {}
  local places = {}
  for i, entry in ipairs(new.entries) do
    places[entry] = i
  end
  local function consider(key, methods)
    if not methods or not old.classes[methods] then
      return
    end
    local label = key:gsub("^(.* of )(%d+)$", function(what, i)
      local entry = old.entries[tonumber(i)]
      return what .. (entry.name or entry.factory.name)
    end)
    local successor = now[key]
    local i = key:match " of (%d+)$"
    if i then
      local entry = old.entries[tonumber(i)].successor
      successor = entry and now[key:gsub("%d+$", tostring(places[entry]))]
    end
    if successor == nil then
      unmatched[methods] = unmatched[methods] or label
    elseif not found[methods] then
      found[methods] = successor
      list[#list + 1] = { old = methods, new = successor, name = label }
    elseif found[methods] ~= successor then
      warnings[#warnings + 1] = ("%s: its objects follow another class now, that was the same before"):format(label)
    end
  end
  eachKnown(old, function(i)
    return tostring(i)
  end, consider)
  for key, methods in pairs(new.service.orphans) do
    if now[key] then
      list[#list + 1] = { old = methods, new = now[key], name = key }
    end
  end
  for methods in pairs(found) do
    unmatched[methods] = nil
  end
  return list, unmatched, warnings
end

-- --- the change -------------------------------------------------------------------------------

local function isCode(value)
  return type(value) == "function" or class.is(value)
end

-- What running code has stored in a class goes over to the class that follows.
local function carry(change, was, pairing)
  local old, new = pairing.old, pairing.new
  local baseline = was.baseline[old]
  for key, value in next, baseline and old or {} do
    if key ~= "state" and not isCode(value) and touched(old, baseline, key) then
      local now = new[key]
      local label = type(value) == "table" and tostring(key) or nil
      if isCode(now) then
        change.warnings[#change.warnings + 1] = ("%s: %s held data and is code now: the data is dropped"):format(
          pairing.name,
          tostring(key)
        )
      else
        change.sets[#change.sets + 1] = { new, key, value }
        change.kept[label or false] = true
      end
    end
  end
end

-- What the library keeps in a factory is no news to anybody.
local function isOurs(link, key)
  return own[key] or type(key) == "string" and key:find "^_" or link.inner and key == "protocols"
end

-- The fields of a living factory: what running code has changed stays, the rest is as the new
-- definition has it.
local function mergeFields(change, old, new)
  local factory, fresh = old.factory, new.fresh
  if rawequal(factory, fresh) then
    return
  end
  for key in next, old.baseline do
    if key ~= "state" and rawget(fresh, key) == nil and not touched(factory, old.baseline, key) then
      change.sets[#change.sets + 1] = { factory, key, nil }
    end
  end
  for key, value in next, factory do
    if not isOurs(old, key) and touched(factory, old.baseline, key) then
      change.kept[type(value) == "table" and tostring(key) or false] = true
    end
  end
  for key, value in next, fresh do
    if key ~= "state" and not touched(factory, old.baseline, key) then
      change.sets[#change.sets + 1] = { factory, key, value }
    end
  end
end

local function versionOf(factory)
  local version = factory.version
  return type(version) == "number" and version or 1
end

local function planState(change, old, new)
  local factory, fresh = old.factory, new.fresh
  local state, defaults = factory.state, fresh.state
  local from, to = versionOf(factory), versionOf(fresh)
  if type(state) ~= "table" then
    change.sets[#change.sets + 1] = { factory, "state", defaults }
    return
  end
  change.states[#change.states + 1] = {
    factory = factory,
    state = state,
    defaults = type(defaults) == "table" and defaults or {},
    migrate = from ~= to and fresh.migrate or nil,
    from = from,
    to = to,
    name = factory.name,
  }
end

-- Protocols of a class that is not this service's own: each one is switched by itself.
local function planInstances(change, was, old, new)
  local methods = old.protocol
  if not methods or was.classes[methods] or not new.protocol or methods == new.protocol then
    return
  end
  local function consider(instance)
    if class.of(instance) == methods then
      change.instances[#change.instances + 1] = { instance, new.protocol }
    end
  end
  for instance in old.factory:each() do
    consider(instance)
  end
  for _, endpoint in ipairs(old.endpoints or {}) do
    consider(endpoint.listener and endpoint.listener.protocol) -- of a UDP port
  end
end

-- Classes of live protocols that nothing leads to: they stay, and the report should say so.
local function findStrays(change, was, old)
  if old.factory.buildProtocol == protocol.Factory.buildProtocol then
    return
  end
  for instance in old.factory:each() do
    local methods = class.of(instance)
    if methods and was.classes[methods] and not change.switched[methods] and not change.strays[methods] then
      change.strays[methods] = true
      change.stayed[methods] = ("a class that buildProtocol of %s uses"):format(old.factory.name)
    end
  end
end

-- The application goes on in any case; what stands around it, where that is of the same kind. The
-- library's classes are shared by generations; a script's own are made by each.
local function isSameWrapper(was, new, old, link)
  return old.class == link.class or was.classes[old.class] and new.classes[link.class]
end

-- The same of those of processes that connections have started.
local function findProcesses(change, was)
  local process = package.loaded["skald.process"]
  for methods, path in pairs(process and process.classes() or {}) do
    if was.classes[methods] and not change.switched[methods] then
      change.stayed[methods] = change.stayed[methods] or ("a class that hears of the process %s"):format(path)
    end
  end
end

-- The living factories of an entry: each link that has a former one takes over that one's.
local function planLinks(change, was, new, entry)
  local olds, inner = factories.links(entry.predecessor), nil
  for depth, link in ipairs(factories.links(entry)) do
    local old = olds[depth]
    if old and (depth == 1 or isSameWrapper(was, new, old, link)) then
      link.former, link.factory = old, old.factory
      mergeFields(change, old, link)
      planState(change, old, link)
      planInstances(change, was, old, link)
      findStrays(change, was, old)
    end
    if inner then
      change.sets[#change.sets + 1] = { link.factory, "wrappedFactory", inner }
    end
    inner = link.factory
  end
end

--- What a new generation changes in the living objects of the old one. Changes nothing yet.
---@param was Generation
---@param new Generation
---@return table change
function factories.plan(was, new)
  local change = { sets = {}, states = {}, instances = {}, kept = {}, switched = {}, strays = {}, warnings = {} }
  change.classes, change.stayed, change.warnings = factories.pairClasses(was, new)
  change.orphans = new.service.orphans
  for _, pairing in ipairs(change.classes) do
    change.switched[pairing.old] = true
    pairing.heir = new.classes[pairing.new] ~= nil
    carry(change, was, pairing)
  end
  for _, entry in ipairs(new.entries) do
    if entry.predecessor then
      planLinks(change, was, new, entry)
    end
  end
  findProcesses(change, was)
  return change
end

local function forward(fresh, factory)
  for key in next, fresh do
    rawset(fresh, key, nil)
  end
  setmetatable(fresh, { __index = factory, __newindex = factory, livingFactory = factory })
end

--- Carries out a plan, and what the entries of the new generation say. Runs no code of anybody.
---@param change table
function factories.apply(change)
  for _, pairing in ipairs(change.classes) do
    class.succeed(pairing.old, pairing.new, pairing.heir)
  end
  for _, pairing in ipairs(change.classes) do
    change.orphans[pairing.name] = nil
  end
  for methods, name in pairs(change.stayed) do
    change.orphans[name] = methods
  end
  for _, set in ipairs(change.sets) do
    rawset(set[1], set[2], set[3])
  end
  for _, item in ipairs(change.instances) do
    setmetatable(item[1], getmetatable(item[2]).cell)
  end
  for _, item in ipairs(change.states) do
    rawset(item.factory, "state", item.state)
    for key, value in next, item.defaults do
      if rawget(item.state, key) == nil then
        rawset(item.state, key, value)
      end
    end
  end
end

-- The protocol that was given to listenUDP: where its port goes on, so does the living one.
local function succeedDatagram(entry, fresh, factory)
  local given, living = rawget(fresh, "_datagram"), nil
  for _, endpoint in ipairs(given and entry.endpoints or {}) do
    living = living or endpoint.listener and endpoint.listener.protocol
  end
  if living and not rawequal(living, given) then
    forward(given, living)
  end
  rawset(factory, "_datagram", living or given)
end

--- The factories of an entry get their classes; what the script holds of a new definition stands for
--- the living one.
---@param entry Entry
function factories.enliven(entry)
  for _, link in ipairs(factories.links(entry)) do
    local factory, fresh = link.factory, link.fresh
    if link.former and not rawequal(factory, fresh) then
      setmetatable(factory, getmetatable(link.class).cell)
      succeedDatagram(entry, fresh, factory)
      forward(fresh, factory)
    elseif type(factory.state) == "table" then
      rawset(factory, "state", factory.state)
    end
  end
end

--- Lets go of what was before a change.
---@param entry Entry
function factories.settle(entry)
  entry.predecessor = nil
  for _, link in ipairs(factories.links(entry)) do
    link.former, link.fresh = nil, link.factory
  end
end

--- Migrates the states whose version changes. Raises what migrate raises.
---@param change table
---@param store table for backup.restore
function factories.migrate(change, store)
  for _, item in ipairs(change.states) do
    if item.from > item.to and not item.migrate then
      error(("%s: version went down from %d to %d, and there is no migrate"):format(item.name, item.from, item.to), 0)
    elseif item.from ~= item.to and not item.migrate then
      change.warnings[#change.warnings + 1] = ("%s: version went from %d to %d without a migrate"):format(
        item.name,
        item.from,
        item.to
      )
    elseif item.migrate then
      backup.take(store, item.state)
      item.migrate(item.state, item.from)
    end
  end
end

return factories
