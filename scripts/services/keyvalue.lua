-- A key-value server that speaks the Redis protocol: strings, lists, hashes, sets, expiry, pub/sub. All in
-- memory, gone when the host ends; a reload keeps it.
--   skald run keyvalue listen=tcp:127.0.0.1:6379
--   redis-cli set greeting hello EX 60
-- Integers are below 2^53. maxmemory=BYTES (as `INFO` counts them) refuses to grow further.

local reactor = require "skald.reactor"
local resp = require "skald.resp"
local task = require "skald.task"

local options = ...

local DATABASES = 16
local SWEEP = { seconds = 0.1, keys = 500 } -- how often it looks for what has expired, at how many keys
local WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
local NO_INTEGER = "ERR value is not an integer or out of range"

local maxMemory = tonumber(options.maxmemory)
if options.maxmemory and not maxMemory then
  error(("maxmemory takes a number of bytes, not '%s'"):format(options.maxmemory), 0)
end

-- --- what is kept -----------------------------------------------------------------------------

-- Strings are kept as they are; other values are tables with their `type` and `size`, and what they hold
-- in `items`. All of it stands in the factory's state, as plain tables.

local function newDatabase()
  return { values = {}, expires = {}, size = 0 }
end

local databases = {}
for i = 0, DATABASES - 1 do
  databases[i] = newDatabase()
end

local function remove(db, key)
  if db.values[key] == nil then
    return false
  end
  db.values[key], db.expires[key] = nil, nil
  db.size = db.size - 1
  return true
end

-- The value of a key. One that has expired goes as soon as somebody looks.
local function get(db, key)
  local expires = db.expires[key]
  if expires and expires <= reactor.seconds() then
    remove(db, key)
  end
  return db.values[key]
end

local function set(db, key, value)
  if db.values[key] == nil then
    db.size = db.size + 1
  end
  db.values[key] = value
end

-- Looks at some keys that are to expire, where the last time left off. When meanwhile the table has been
-- made anew without that place in it, `next` says so, and it begins at the front.
local function sweep(db, most)
  local now, expires, key = reactor.seconds(), db.expires, db.sweptTo
  for _ = 1, most do
    local ok, following, at = pcall(next, expires, key)
    key = ok and following or nil
    if not key then
      break
    elseif at <= now then
      remove(db, key)
    end
  end
  db.sweptTo = key
end

-- A value of this type, made where there is none; nil where there is another one.
local function needValue(db, key, type)
  local value = get(db, key)
  if value == nil then
    value = { type = type, size = 0, items = {}, first = 1 }
    set(db, key, value)
  elseif value.type ~= type then
    return nil
  end
  return value
end

-- What has become empty is not there any more.
local function tidy(db, key, value)
  if value.size == 0 then
    remove(db, key)
  end
end

local function isString(value)
  return type(value) == "string"
end

-- An integer as Redis takes them, which is as it would write them, or nil.
local function integer(text)
  local number = tonumber(text)
  if number and number % 1 == 0 and math.abs(number) < 2 ^ 53 and ("%d"):format(number) == text then
    return number
  end
end

-- What a place of a Redis pattern (`?`, `[a-c]`, `[^a]`, `\x`) stands for, as a pattern of Lua for one byte; and
-- the next place.
local function element(glob, at)
  local c = glob:sub(at, at)
  local any = c == "[" and glob:match("^%[(%^?[^%]]*)%]", at)
  if any and any ~= "" then
    return any == "^" and "." or "[" .. any:gsub("%%", "%%%%") .. "]", at + #any + 2
  elseif c == "?" then
    return ".", at + 1
  end
  at = c == "\\" and at < #glob and at + 1 or at
  return (glob:sub(at, at):gsub("%W", "%%%0")), at + 1
end

-- What stands between the stars of a Redis pattern: Lua's patterns, and how many bytes they are for.
local function globToPieces(glob)
  local pieces, at = { { pattern = "", length = 0 } }, 1
  while at <= #glob do
    local piece = pieces[#pieces]
    if glob:byte(at) == 42 then
      pieces[#pieces + 1] = { pattern = "", length = 0 }
      at = at + 1
    else
      local pattern
      pattern, at = element(glob, at)
      piece.pattern, piece.length = piece.pattern .. pattern, piece.length + 1
    end
  end
  return pieces
end

-- Each piece is taken where it comes first: nobody can give a pattern that takes long.
local function matches(text, pieces)
  local first, last = pieces[1], pieces[#pieces]
  if #pieces == 1 then
    return #text == first.length and text:find("^" .. first.pattern) ~= nil
  end
  local at, rest = first.length + 1, #text - last.length
  if rest < first.length or not text:find("^" .. first.pattern) or not text:find("^" .. last.pattern, rest + 1) then
    return false
  end
  for i = 2, #pieces - 1 do
    local from = text:find(pieces[i].pattern, at)
    if not from or from + pieces[i].length - 1 > rest then
      return false
    end
    at = from + pieces[i].length
  end
  return true
end

-- --- the commands -----------------------------------------------------------------------------

-- Each gets the connection, the words of the command and their number, the name included, and replies.
local commands = {}

-- How many words each takes: as many as that, or, below zero, so many and more.
local arity = {
  PING = -1, ECHO = 2, QUIT = 1, SELECT = 2, COMMAND = -1, CONFIG = -2, INFO = -1,
  GET = 2, SET = -3, DEL = -2, EXISTS = -2, INCR = 2, DECR = 2, INCRBY = 3, DECRBY = 3, APPEND = 3, STRLEN = 2,
  MGET = -2, MSET = -3, EXPIRE = 3, PEXPIRE = 3, TTL = 2, PTTL = 2, PERSIST = 2,
  KEYS = 2, TYPE = 2, DBSIZE = 1, FLUSHALL = -1,
  LPUSH = -3, RPUSH = -3, LPOP = -2, RPOP = -2, LRANGE = 4, LLEN = 2,
  HSET = -4, HGET = 3, HDEL = -3, HGETALL = 2, HLEN = 2, SADD = -3, SREM = -3, SMEMBERS = 2, SCARD = 2, SISMEMBER = 3,
  SUBSCRIBE = -2, UNSUBSCRIBE = -1, PSUBSCRIBE = -2, PUNSUBSCRIBE = -1, PUBLISH = 3,
}

-- What a connection that has subscribed may still say.
local allowedWhileSubscribed = {
  SUBSCRIBE = true, UNSUBSCRIBE = true, PSUBSCRIBE = true, PUNSUBSCRIBE = true, PING = true, QUIT = true,
}

-- What may make the store larger.
local growing = {
  SET = true, APPEND = true, MSET = true, INCR = true, DECR = true, INCRBY = true, DECRBY = true,
  LPUSH = true, RPUSH = true, HSET = true, SADD = true,
}

-- --- the connection itself

function commands.PING(self, words, count)
  if self.subscriptions > 0 then
    self:sendList { "pong", words[2] or "" }
  elseif count > 1 then
    self:sendBulk(words[2])
  else
    self:sendStatus "PONG"
  end
end

function commands.ECHO(self, words)
  self:sendBulk(words[2])
end

function commands.QUIT(self)
  self:sendStatus "OK"
  self:close()
end

function commands.SELECT(self, words)
  local db = self.factory.state.databases[integer(words[2])]
  if not db then
    return self:sendError "ERR DB index is out of range"
  end
  self.db = db
  self:sendStatus "OK"
end

-- redis-cli asks for all commands, to help who types; it does without.
function commands.COMMAND(self)
  self:sendList {}
end

-- redis-benchmark asks for these.
local settings = { save = "", appendonly = "no", maxmemory = tostring(maxMemory or 0) }

function commands.CONFIG(self, words)
  local name = (words[3] or ""):lower()
  if words[2]:upper() ~= "GET" then
    self:sendError "ERR there is only CONFIG GET"
  else
    self:sendList(settings[name] and { name, settings[name] } or {})
  end
end

function commands.INFO(self)
  local lines = {
    "# Server", "redis_version:7.0.0", "server_name:skald", "# Clients",
    "connected_clients:" .. self.factory:connectionCount(), "# Memory",
    ("used_memory:%d"):format(collectgarbage "count" * 1024), "# Keyspace",
  }
  for i = 0, DATABASES - 1 do
    local size = self.factory.state.databases[i].size
    if size > 0 then
      lines[#lines + 1] = ("db%d:keys=%d"):format(i, size)
    end
  end
  self:sendBulk(table.concat(lines, "\r\n") .. "\r\n")
end

-- --- strings

function commands.GET(self, words)
  local value = get(self.db, words[2])
  if value == nil or isString(value) then
    return self:sendBulk(value)
  end
  self:sendError(WRONG_TYPE)
end

local lifetimes = { EX = 1, PX = 1000 }

-- The options of SET: the seconds it lives, and the condition; nil where they make no sense.
local function setOptions(words, count)
  local found, i = {}, 4
  while i <= count do
    local word = words[i]:upper()
    if lifetimes[word] and not found.seconds then
      local number = integer(words[i + 1] or "")
      if not number or number <= 0 then
        return nil, number and "ERR invalid expire time in 'set' command" or NO_INTEGER
      end
      found.seconds, i = number / lifetimes[word], i + 1
    elseif (word == "NX" or word == "XX") and not found.condition then
      found.condition = word
    else
      return nil, "ERR syntax error"
    end
    i = i + 1
  end
  return found
end

function commands.SET(self, words, count)
  local db, key, seconds = self.db, words[2], nil
  if count > 3 then
    local wanted, message = setOptions(words, count)
    if not wanted then
      return self:sendError(message)
    elseif wanted.condition and (get(db, key) == nil) ~= (wanted.condition == "NX") then
      return self:sendBulk(nil)
    end
    seconds = wanted.seconds
  end
  set(db, key, words[3])
  db.expires[key] = seconds and reactor.seconds() + seconds or nil
  self:sendStatus "OK"
end

function commands.MGET(self, words, count)
  self:sendCount(count - 1)
  for i = 2, count do
    local value = get(self.db, words[i])
    self:sendBulk(isString(value) and value or nil)
  end
end

function commands.MSET(self, words, count)
  if count % 2 == 0 then
    return self:sendError "ERR wrong number of arguments for 'mset' command"
  end
  for i = 2, count, 2 do
    set(self.db, words[i], words[i + 1])
    self.db.expires[words[i]] = nil
  end
  self:sendStatus "OK"
end

local function add(self, key, number)
  local value = get(self.db, key)
  if value ~= nil and not isString(value) then
    return self:sendError(WRONG_TYPE)
  end
  local old = integer(value or "0")
  if not old or not number then
    return self:sendError(NO_INTEGER)
  elseif math.abs(old + number) >= 2 ^ 53 then
    return self:sendError "ERR increment or decrement would overflow"
  end
  set(self.db, key, ("%d"):format(old + number))
  self:sendInteger(old + number)
end

function commands.INCR(self, words)
  add(self, words[2], 1)
end

function commands.DECR(self, words)
  add(self, words[2], -1)
end

function commands.INCRBY(self, words)
  add(self, words[2], integer(words[3]))
end

function commands.DECRBY(self, words)
  local number = integer(words[3])
  add(self, words[2], number and -number)
end

function commands.APPEND(self, words)
  local value = get(self.db, words[2]) or ""
  if not isString(value) then
    return self:sendError(WRONG_TYPE)
  end
  set(self.db, words[2], value .. words[3])
  self:sendInteger(#value + #words[3])
end

function commands.STRLEN(self, words)
  local value = get(self.db, words[2]) or ""
  if not isString(value) then
    return self:sendError(WRONG_TYPE)
  end
  self:sendInteger(#value)
end

-- --- keys

-- Calls f for each key, and replies how often that gave true.
local function countKeys(self, words, count, f)
  local n = 0
  for i = 2, count do
    n = n + (f(self.db, words[i]) and 1 or 0)
  end
  self:sendInteger(n)
end

local function exists(db, key)
  return get(db, key) ~= nil
end

local function delete(db, key)
  return exists(db, key) and remove(db, key)
end

function commands.DEL(self, words, count)
  countKeys(self, words, count, delete)
end

function commands.EXISTS(self, words, count)
  countKeys(self, words, count, exists)
end

local function expire(self, key, number, perSecond)
  if not number then
    return self:sendError(NO_INTEGER)
  elseif not exists(self.db, key) then
    return self:sendInteger(0)
  end
  self.db.expires[key] = reactor.seconds() + number / perSecond
  get(self.db, key) -- a time that has passed removes it at once
  self:sendInteger(1)
end

function commands.EXPIRE(self, words)
  expire(self, words[2], integer(words[3]), 1)
end

function commands.PEXPIRE(self, words)
  expire(self, words[2], integer(words[3]), 1000)
end

local function timeToLive(self, key, perSecond)
  if not exists(self.db, key) then
    return self:sendInteger(-2)
  end
  local at = self.db.expires[key]
  self:sendInteger(at and math.floor((at - reactor.seconds()) * perSecond + 0.5) or -1)
end

function commands.TTL(self, words)
  timeToLive(self, words[2], 1)
end

function commands.PTTL(self, words)
  timeToLive(self, words[2], 1000)
end

function commands.PERSIST(self, words)
  local db, key = self.db, words[2]
  local had = exists(db, key) and db.expires[key]
  db.expires[key] = nil
  self:sendInteger(had and 1 or 0)
end

-- Looks at all of them at once: for debugging, as in Redis.
function commands.KEYS(self, words)
  local pieces, found, now = globToPieces(words[2]), {}, reactor.seconds()
  for key in pairs(self.db.values) do
    if matches(key, pieces) and (self.db.expires[key] or math.huge) > now then
      found[#found + 1] = key
    end
  end
  self:sendList(found)
end

function commands.TYPE(self, words)
  local value = get(self.db, words[2])
  self:sendStatus(value == nil and "none" or isString(value) and "string" or value.type)
end

function commands.DBSIZE(self)
  self:sendInteger(self.db.size)
end

-- In place: others have selected them.
function commands.FLUSHALL(self)
  for i = 0, DATABASES - 1 do
    local db = self.factory.state.databases[i]
    db.values, db.expires, db.size, db.sweptTo = {}, {}, 0, nil
  end
  self:sendStatus "OK"
end

-- --- lists: items from `first` on, which may be below 1

local function push(self, words, count, atFront)
  local list = needValue(self.db, words[2], "list")
  if not list then
    return self:sendError(WRONG_TYPE)
  end
  for i = 3, count do
    if atFront then
      list.first = list.first - 1
    end
    list.items[atFront and list.first or list.first + list.size] = words[i]
    list.size = list.size + 1
  end
  self:sendInteger(list.size)
end

function commands.LPUSH(self, words, count)
  push(self, words, count, true)
end

function commands.RPUSH(self, words, count)
  push(self, words, count, false)
end

-- The value of a key if it is of this type. Else replies: with the type's own "nothing", or the error.
local function look(self, key, type, sendNothing, nothing)
  local value = get(self.db, key)
  if value ~= nil and value.type == type then
    return value
  elseif value == nil then
    sendNothing(self, nothing)
  else
    self:sendError(WRONG_TYPE)
  end
end

local function take(list, fromFront)
  local at = fromFront and list.first or list.first + list.size - 1
  local item = list.items[at]
  list.items[at], list.size = nil, list.size - 1
  list.first = fromFront and at + 1 or list.first
  return item
end

local function pop(self, words, count, fromFront)
  local most = count > 2 and integer(words[3]) or nil
  if count > 3 or count == 3 and not (most and most >= 0) then
    return self:sendError "ERR value is out of range, must be positive"
  end
  local list = look(self, words[2], "list", self.sendBulk, nil)
  if not list then
    return
  elseif most then
    self:sendCount(math.min(most, list.size))
  end
  for _ = 1, math.min(most or 1, list.size) do
    self:sendBulk(take(list, fromFront))
  end
  tidy(self.db, words[2], list)
end

function commands.LPOP(self, words, count)
  pop(self, words, count, true)
end

function commands.RPOP(self, words, count)
  pop(self, words, count, false)
end

function commands.LRANGE(self, words)
  local from, to = integer(words[3]), integer(words[4])
  if not from or not to then
    return self:sendError(NO_INTEGER)
  end
  local list = look(self, words[2], "list", self.sendList, {})
  if not list then
    return
  end
  from = math.max(from < 0 and from + list.size or from, 0)
  to = math.min(to < 0 and to + list.size or to, list.size - 1)
  self:sendCount(math.max(to - from + 1, 0))
  for i = from, to do
    self:sendBulk(list.items[list.first + i])
  end
end

-- Replies the number of items of a list, hash or set.
local function size(type)
  return function(self, words)
    local value = look(self, words[2], type, self.sendInteger, 0)
    if value then
      self:sendInteger(value.size)
    end
  end
end

commands.LLEN, commands.HLEN, commands.SCARD = size "list", size "hash", size "set"

-- --- hashes and sets: items by their names

-- Whether that is a new one.
local function put(value, name, item)
  local isNew = value.items[name] == nil
  value.items[name] = item
  value.size = value.size + (isNew and 1 or 0)
  return isNew
end

function commands.HSET(self, words, count)
  if count % 2 == 1 then
    return self:sendError "ERR wrong number of arguments for 'hset' command"
  end
  local hash = needValue(self.db, words[2], "hash")
  if not hash then
    return self:sendError(WRONG_TYPE)
  end
  local n = 0
  for i = 3, count, 2 do
    n = n + (put(hash, words[i], words[i + 1]) and 1 or 0)
  end
  self:sendInteger(n)
end

function commands.HGET(self, words)
  local hash = look(self, words[2], "hash", self.sendBulk, nil)
  if hash then
    self:sendBulk(hash.items[words[3]])
  end
end

function commands.HGETALL(self, words)
  local hash = look(self, words[2], "hash", self.sendList, {})
  if hash then
    self:sendCount(hash.size * 2)
    for name, item in pairs(hash.items) do
      self:sendBulk(name)
      self:sendBulk(item)
    end
  end
end

-- Takes items out of a hash or a set, and replies how many were there.
local function takeOut(type)
  return function(self, words, count)
    local value = look(self, words[2], type, self.sendInteger, 0)
    if not value then
      return
    end
    local before = value.size
    for i = 3, count do
      if value.items[words[i]] ~= nil then
        value.items[words[i]] = nil
        value.size = value.size - 1
      end
    end
    tidy(self.db, words[2], value)
    self:sendInteger(before - value.size)
  end
end

commands.HDEL, commands.SREM = takeOut "hash", takeOut "set"

function commands.SADD(self, words, count)
  local members = needValue(self.db, words[2], "set")
  if not members then
    return self:sendError(WRONG_TYPE)
  end
  local n = 0
  for i = 3, count do
    n = n + (put(members, words[i], true) and 1 or 0)
  end
  self:sendInteger(n)
end

function commands.SISMEMBER(self, words)
  local members = look(self, words[2], "set", self.sendInteger, 0)
  if members then
    self:sendInteger(members.items[words[3]] and 1 or 0)
  end
end

function commands.SMEMBERS(self, words)
  local members = look(self, words[2], "set", self.sendList, {})
  if members then
    self:sendCount(members.size)
    for name in pairs(members.items) do
      self:sendBulk(name)
    end
  end
end

-- --- publish and subscribe: who listens to what stands in the factory's state, too

-- A channel, or a pattern of channels, that somebody listens to: `listeners` are connections.
local function subscribe(self, kind, name, pieces)
  local all = self.factory.state[kind]
  all[name] = all[name] or { listeners = {}, count = 0, pieces = pieces }
  local topic = all[name]
  if not topic.listeners[self] then
    topic.listeners[self] = true
    topic.count = topic.count + 1
    self[kind] = self[kind] or {}
    self[kind][name] = true
    self.subscriptions = self.subscriptions + 1
  end
end

local function unsubscribe(self, kind, name)
  local all = self.factory.state[kind]
  local topic = all[name]
  if topic and topic.listeners[self] then
    topic.listeners[self] = nil
    topic.count = topic.count - 1
    self[kind][name] = nil
    self.subscriptions = self.subscriptions - 1
    if topic.count == 0 then
      all[name] = nil
    end
  end
end

local function confirm(self, what, name)
  self:sendCount(3)
  self:sendBulk(what)
  self:sendBulk(name)
  self:sendInteger(self.subscriptions)
end

-- The names that a command gives; without any, all that the connection has.
local function namesIn(self, kind, words, count)
  local names = {}
  for i = 2, count do
    names[i - 1] = words[i]
  end
  if count == 1 then
    for name in pairs(self[kind] or {}) do
      names[#names + 1] = name
    end
  end
  return names
end

local function unsubscribeAll(self, kind, what, words, count)
  local names = namesIn(self, kind, words, count)
  for _, name in ipairs(names) do
    unsubscribe(self, kind, name)
    confirm(self, what, name)
  end
  if #names == 0 then
    confirm(self, what, nil)
  end
end

function commands.SUBSCRIBE(self, words, count)
  for i = 2, count do
    subscribe(self, "channels", words[i])
    confirm(self, "subscribe", words[i])
  end
end

function commands.PSUBSCRIBE(self, words, count)
  for i = 2, count do
    subscribe(self, "patterns", words[i], globToPieces(words[i]))
    confirm(self, "psubscribe", words[i])
  end
end

function commands.UNSUBSCRIBE(self, words, count)
  unsubscribeAll(self, "channels", "unsubscribe", words, count)
end

function commands.PUNSUBSCRIBE(self, words, count)
  unsubscribeAll(self, "patterns", "punsubscribe", words, count)
end

local function tell(topic, list)
  for listener in pairs(topic.listeners) do
    listener:sendList(list)
  end
  return topic.count
end

function commands.PUBLISH(self, words)
  local state, channel, message, n = self.factory.state, words[2], words[3], 0
  if state.channels[channel] then
    n = tell(state.channels[channel], { "message", channel, message })
  end
  for glob, topic in pairs(state.patterns) do
    if matches(channel, topic.pieces) then
      n = n + tell(topic, { "pmessage", glob, channel, message })
    end
  end
  self:sendInteger(n)
end

-- --- the connection, the factory --------------------------------------------------------------

local KeyValue = resp.CommandReceiver { subscriptions = 0 }

-- Who sends commands and takes no replies is read no further: the transport pauses its producer, and a
-- receiver that is paused reads nothing and delivers nothing.
function KeyValue:connectionMade()
  self.db = self.factory.state.databases[0]
  self.transport:registerProducer(self, true)
end

-- A transport waits for its producer, so this has to say that nothing more will come.
function KeyValue:close()
  self.transport:unregisterProducer()
  self.transport:loseConnection()
end

function KeyValue:readConnectionLost()
  self:close()
end

function KeyValue:protocolError(message)
  resp.CommandReceiver.protocolError(self, message)
  self:close()
end

-- Found as they are mostly spelled: in capitals, or without any.
local spelled = {}
for name, f in pairs(commands) do
  local count = arity[name]
  local found = {
    run = f,
    name = name,
    least = math.abs(count),
    most = count < 0 and math.huge or count,
    grows = growing[name] or false,
    always = allowedWhileSubscribed[name] or false,
  }
  spelled[name], spelled[name:lower()] = found, found
end

function KeyValue:commandReceived(words, count)
  local name = words[1]
  local command = spelled[name] or spelled[name:upper()]
  if not command then
    self:sendError(("ERR unknown command '%s'"):format(name:sub(1, 128)))
  elseif count < command.least or count > command.most then
    self:sendError(("ERR wrong number of arguments for '%s' command"):format(command.name:lower()))
  elseif self.subscriptions > 0 and not command.always then
    self:sendError(("ERR Can't execute '%s' in this context"):format(command.name:lower()))
  elseif maxMemory and command.grows and collectgarbage "count" * 1024 > maxMemory then
    self:sendError "OOM command not allowed when used memory > 'maxmemory'."
  else
    command.run(self, words, count)
  end
end

function KeyValue:connectionLost()
  for _, kind in ipairs { "channels", "patterns" } do
    for name in pairs(self[kind] or {}) do
      unsubscribe(self, kind, name)
    end
  end
end

local function startFactory(self)
  self.sweeping = task.LoopingCall:new(function()
    self:sweep()
  end)
  self.sweeping:start(SWEEP.seconds, false)
end

local function sweepAll(self)
  for i = 0, DATABASES - 1 do
    sweep(self.state.databases[i], SWEEP.keys)
  end
end

return {
  listen = "tcp:127.0.0.1:6379",
  protocol = KeyValue,
  state = { databases = databases, channels = {}, patterns = {} },
  startFactory = startFactory,
  sweep = sweepAll,
}
