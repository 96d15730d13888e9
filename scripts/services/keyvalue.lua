-- A key-value server that speaks the Redis protocol: strings, lists, hashes, sets, expiry, pub/sub; no
-- transactions, sorted sets or scripts. All in memory, gone when the host ends; a reload keeps it.
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
local WRONG_COUNT = "ERR wrong number of arguments for '%s' command"
local WRONG_TIME = "ERR invalid expire time in '%s' command"
local NO_KEY = "ERR no such key"
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

local escapes = { ["%"] = "%%", ["\0"] = "%z" } -- a NUL would end a pattern of Lua's

-- What a place of a Redis pattern (`?`, `[a-c]`, `[^a]`, `\x`) stands for, as a pattern of Lua for one byte; and
-- the next place.
local function element(glob, at)
  local c = glob:sub(at, at)
  local any = c == "[" and glob:match("^%[(%^?[^%]]*)%]", at)
  if any and any ~= "" then
    return any == "^" and "." or "[" .. any:gsub("[%%%z]", escapes) .. "]", at + #any + 2
  elseif c == "?" then
    return ".", at + 1
  end
  at = c == "\\" and at < #glob and at + 1 or at
  c = glob:sub(at, at)
  return escapes[c] or (c:gsub("%W", "%%%0")), at + 1
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
  GET = 2, SET = -3, DEL = -2, UNLINK = -2, EXISTS = -2, INCR = 2, DECR = 2, INCRBY = 3, DECRBY = 3, APPEND = 3,
  STRLEN = 2, MGET = -2, MSET = -3, SETNX = 3, SETEX = 4, PSETEX = 4, GETSET = 3, GETDEL = 2,
  EXPIRE = 3, PEXPIRE = 3, TTL = 2, PTTL = 2, PERSIST = 2,
  KEYS = 2, SCAN = -2, TYPE = 2, RENAME = 3, DBSIZE = 1, FLUSHDB = -1, FLUSHALL = -1,
  LPUSH = -3, RPUSH = -3, LPOP = -2, RPOP = -2, LRANGE = 4, LLEN = 2, LINDEX = 3, LSET = 4, LTRIM = 4,
  HSET = -4, HMSET = -4, HSETNX = 4, HGET = 3, HMGET = -3, HDEL = -3, HGETALL = 2, HKEYS = 2, HVALS = 2, HLEN = 2,
  HEXISTS = 3, HINCRBY = 4, SADD = -3, SREM = -3, SMEMBERS = 2, SCARD = 2, SISMEMBER = 3,
  SUBSCRIBE = -2, UNSUBSCRIBE = -1, PSUBSCRIBE = -2, PUNSUBSCRIBE = -1, PUBLISH = 3,
}

-- What a connection that has subscribed may still say.
local allowedWhileSubscribed = {
  SUBSCRIBE = true, UNSUBSCRIBE = true, PSUBSCRIBE = true, PUNSUBSCRIBE = true, PING = true, QUIT = true,
}

local ONLY_SUBSCRIPTIONS = "ERR Can't execute '%s': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT "
  .. "are allowed in this context"

-- What may make the store larger.
local growing = {
  SET = true, APPEND = true, MSET = true, INCR = true, DECR = true, INCRBY = true, DECRBY = true,
  SETNX = true, SETEX = true, PSETEX = true, GETSET = true,
  LPUSH = true, RPUSH = true, LSET = true, HSET = true, HMSET = true, HSETNX = true, HINCRBY = true, SADD = true,
}

-- --- the connection itself

function commands.PING(self, words, count)
  if count > 2 then
    self:sendError(WRONG_COUNT:format "ping")
  elseif self.subscriptions > 0 then
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
  local number = integer(words[2])
  local db = self.factory.state.databases[number]
  if not number then
    return self:sendError(NO_INTEGER)
  elseif not db then
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

-- The string of a key; nil where there is none, false where it has replied that there is something else.
local function stringOf(self, key)
  local value = get(self.db, key)
  if value == nil or isString(value) then
    return value
  end
  self:sendError(WRONG_TYPE)
  return false
end

function commands.GET(self, words)
  local value = stringOf(self, words[2])
  if value ~= false then
    self:sendBulk(value)
  end
end

local lifetimes = { EX = 1, PX = 1000 }

-- The options of SET: the seconds it lives or whether it goes on as long as it did, the condition, and whether
-- the old value is asked for; nil where they make no sense.
local function setOptions(words, count)
  local found, i = {}, 4
  while i <= count do
    local word = words[i]:upper()
    if lifetimes[word] and words[i + 1] and not found.seconds and not found.keeps then
      local number = integer(words[i + 1])
      if not number or number <= 0 then
        return nil, number and WRONG_TIME:format "set" or NO_INTEGER
      end
      found.seconds, i = number / lifetimes[word], i + 1
    elseif (word == "NX" or word == "XX") and not found.condition then
      found.condition = word
    elseif word == "KEEPTTL" and not found.seconds then
      found.keeps = true
    elseif word == "GET" then
      found.old = true
    else
      return nil, "ERR syntax error"
    end
    i = i + 1
  end
  return found
end

-- SET with options.
local function setAs(self, key, value, wanted)
  local db, old = self.db, get(self.db, key)
  if wanted.old and old ~= nil and not isString(old) then
    return self:sendError(WRONG_TYPE)
  elseif wanted.condition and (old == nil) ~= (wanted.condition == "NX") then
    return self:sendBulk(wanted.old and old or nil)
  end
  set(db, key, value)
  if not wanted.keeps then
    db.expires[key] = wanted.seconds and reactor.seconds() + wanted.seconds or nil
  end
  if wanted.old then
    return self:sendBulk(old)
  end
  self:sendStatus "OK"
end

function commands.SET(self, words, count)
  if count > 3 then
    local wanted, message = setOptions(words, count)
    if not wanted then
      return self:sendError(message)
    end
    return setAs(self, words[2], words[3], wanted)
  end
  set(self.db, words[2], words[3])
  self.db.expires[words[2]] = nil
  self:sendStatus "OK"
end

function commands.GETSET(self, words)
  setAs(self, words[2], words[3], { old = true })
end

function commands.SETNX(self, words)
  local isNew = get(self.db, words[2]) == nil
  if isNew then
    set(self.db, words[2], words[3])
  end
  self:sendInteger(isNew and 1 or 0)
end

local function setFor(perSecond)
  return function(self, words)
    local number = integer(words[3])
    if not number then
      return self:sendError(NO_INTEGER)
    elseif number <= 0 then
      return self:sendError(WRONG_TIME:format(words[1]:lower()))
    end
    setAs(self, words[2], words[4], { seconds = number / perSecond })
  end
end

commands.SETEX, commands.PSETEX = setFor(1), setFor(1000)

function commands.GETDEL(self, words)
  local value = stringOf(self, words[2])
  if value ~= false then
    remove(self.db, words[2])
    self:sendBulk(value)
  end
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
    return self:sendError(WRONG_COUNT:format "mset")
  end
  for i = 2, count, 2 do
    set(self.db, words[i], words[i + 1])
    self.db.expires[words[i]] = nil
  end
  self:sendStatus "OK"
end

local function add(self, key, number)
  local value = stringOf(self, key)
  if value == false then
    return
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
  local value = stringOf(self, words[2])
  if value ~= false then
    value = (value or "") .. words[3]
    set(self.db, words[2], value)
    self:sendInteger(#value)
  end
end

function commands.STRLEN(self, words)
  local value = stringOf(self, words[2])
  if value ~= false then
    self:sendInteger(#(value or ""))
  end
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

commands.UNLINK = commands.DEL

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

local function typeOf(value)
  return value == nil and "none" or isString(value) and "string" or value.type
end

-- Looks at all keys at once: for debugging, as in Redis.
local function findKeys(db, glob, wanted)
  local pieces, found, now = globToPieces(glob), {}, reactor.seconds()
  for key, value in pairs(db.values) do
    local lives = (db.expires[key] or math.huge) > now
    if lives and (wanted == nil or typeOf(value) == wanted) and matches(key, pieces) then
      found[#found + 1] = key
    end
  end
  return found
end

function commands.KEYS(self, words)
  self:sendList(findKeys(self.db, words[2]))
end

-- Gives all of them in one answer, which the protocol allows: there is no cursor but 0.
function commands.SCAN(self, words, count)
  local given = { MATCH = "*" }
  for i = 3, count, 2 do
    local word = words[i]:upper()
    if (word ~= "MATCH" and word ~= "COUNT" and word ~= "TYPE") or i == count then
      return self:sendError "ERR syntax error"
    end
    given[word] = words[i + 1]
  end
  if not integer(words[2]) then
    return self:sendError "ERR invalid cursor"
  elseif given.COUNT and not integer(given.COUNT) then
    return self:sendError(NO_INTEGER)
  end
  self:sendCount(2)
  self:sendBulk "0"
  self:sendList(words[2] == "0" and findKeys(self.db, given.MATCH, given.TYPE and given.TYPE:lower()) or {})
end

function commands.TYPE(self, words)
  self:sendStatus(typeOf(get(self.db, words[2])))
end

function commands.RENAME(self, words)
  local db, from, to = self.db, words[2], words[3]
  local value = get(db, from)
  if value == nil then
    return self:sendError(NO_KEY)
  end
  local expires = db.expires[from]
  remove(db, from)
  set(db, to, value)
  db.expires[to] = expires
  self:sendStatus "OK"
end

function commands.DBSIZE(self)
  self:sendInteger(self.db.size)
end

-- In place: others have selected it.
local function flush(db)
  db.values, db.expires, db.size, db.sweptTo = {}, {}, 0, nil
end

function commands.FLUSHDB(self)
  flush(self.db)
  self:sendStatus "OK"
end

function commands.FLUSHALL(self)
  for i = 0, DATABASES - 1 do
    flush(self.factory.state.databases[i])
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

-- Two places of a list, counted from 0, or from the end below that, as far as it has them.
local function range(list, from, to)
  from = math.max(from < 0 and from + list.size or from, 0)
  return from, math.min(to < 0 and to + list.size or to, list.size - 1)
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
  from, to = range(list, from, to)
  self:sendCount(math.max(to - from + 1, 0))
  for i = from, to do
    self:sendBulk(list.items[list.first + i])
  end
end

function commands.LTRIM(self, words)
  local from, to = integer(words[3]), integer(words[4])
  if not from or not to then
    return self:sendError(NO_INTEGER)
  end
  local list = look(self, words[2], "list", self.sendStatus, "OK")
  if not list then
    return
  end
  from, to = range(list, from, to)
  for _ = 1, math.min(from, list.size) do
    take(list, true)
  end
  while list.size > math.max(to - from + 1, 0) do
    take(list, false)
  end
  tidy(self.db, words[2], list)
  self:sendStatus "OK"
end

-- Where in `items` that is; nil where the list is not so long.
local function place(list, index)
  local at = index < 0 and index + list.size or index
  return at >= 0 and at < list.size and list.first + at or nil
end

function commands.LINDEX(self, words)
  local index = integer(words[3])
  if not index then
    return self:sendError(NO_INTEGER)
  end
  local list = look(self, words[2], "list", self.sendBulk, nil)
  if list then
    local at = place(list, index)
    self:sendBulk(at and list.items[at] or nil)
  end
end

function commands.LSET(self, words)
  local list = look(self, words[2], "list", self.sendError, NO_KEY)
  if not list then
    return
  end
  local index = integer(words[3])
  local at = index and place(list, index)
  if not at then
    return self:sendError(index and "ERR index out of range" or NO_INTEGER)
  end
  list.items[at] = words[4]
  self:sendStatus "OK"
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

-- How many were new; nil where it has replied what was wrong.
local function putFields(self, words, count)
  if count % 2 == 1 then
    self:sendError(WRONG_COUNT:format(words[1]:lower()))
    return nil
  end
  local hash = needValue(self.db, words[2], "hash")
  if not hash then
    self:sendError(WRONG_TYPE)
    return nil
  end
  local n = 0
  for i = 3, count, 2 do
    n = n + (put(hash, words[i], words[i + 1]) and 1 or 0)
  end
  return n
end

function commands.HSET(self, words, count)
  local n = putFields(self, words, count)
  if n then
    self:sendInteger(n)
  end
end

function commands.HMSET(self, words, count)
  if putFields(self, words, count) then
    self:sendStatus "OK"
  end
end

function commands.HSETNX(self, words)
  local hash = needValue(self.db, words[2], "hash")
  if not hash then
    return self:sendError(WRONG_TYPE)
  end
  self:sendInteger(hash.items[words[3]] == nil and put(hash, words[3], words[4]) and 1 or 0)
end

function commands.HINCRBY(self, words)
  local number = integer(words[4])
  if not number then
    return self:sendError(NO_INTEGER)
  end
  local hash = get(self.db, words[2])
  if hash ~= nil and hash.type ~= "hash" then
    return self:sendError(WRONG_TYPE)
  end
  local old = integer(hash and hash.items[words[3]] or "0")
  if not old then
    return self:sendError "ERR hash value is not an integer"
  elseif math.abs(old + number) >= 2 ^ 53 then
    return self:sendError "ERR increment or decrement would overflow"
  end
  put(needValue(self.db, words[2], "hash"), words[3], ("%d"):format(old + number))
  self:sendInteger(old + number)
end

function commands.HGET(self, words)
  local hash = look(self, words[2], "hash", self.sendBulk, nil)
  if hash then
    self:sendBulk(hash.items[words[3]])
  end
end

function commands.HMGET(self, words, count)
  local hash = get(self.db, words[2])
  if hash ~= nil and hash.type ~= "hash" then
    return self:sendError(WRONG_TYPE)
  end
  self:sendCount(count - 2)
  for i = 3, count do
    self:sendBulk(hash and hash.items[words[i]] or nil)
  end
end

-- Replies all that a hash or a set has: names, items, or both.
local function listing(type, names, items)
  return function(self, words)
    local value = look(self, words[2], type, self.sendList, {})
    if value then
      self:sendCount(value.size * (names and items and 2 or 1))
      for name, item in pairs(value.items) do
        if names then
          self:sendBulk(name)
        end
        if items then
          self:sendBulk(item)
        end
      end
    end
  end
end

commands.HGETALL, commands.HKEYS = listing("hash", true, true), listing("hash", true, false)
commands.HVALS, commands.SMEMBERS = listing("hash", false, true), listing("set", true, false)

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

-- Replies whether a hash or a set has an item.
local function has(type)
  return function(self, words)
    local value = look(self, words[2], type, self.sendInteger, 0)
    if value then
      self:sendInteger(value.items[words[3]] and 1 or 0)
    end
  end
end

commands.HEXISTS, commands.SISMEMBER = has "hash", has "set"

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
    self:sendError(WRONG_COUNT:format(command.name:lower()))
  elseif self.subscriptions > 0 and not command.always then
    self:sendError(ONLY_SUBSCRIPTIONS:format(command.name:lower()))
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
