-- A fault at every step of a reload. Each call that can fail is made to fail, one after the other; after each the service
-- is wholly the old one or wholly the new one: code, state, listeners, timers, descriptors, files.
--
-- System calls and allocations fail through tests/support/faults.c, the host's own functions through a second service that
-- puts itself between them and the Lua library.

local ffi = require "ffi"
local cjson = require "cjson.safe"
local client = require "support.client"
local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"
local sys = require "support.sys"
local udp = require "support.udp"

ffi.cdef [[
  struct skt_faults { uint32_t armed, k, count, hits; char only[32]; char last[208]; };
  void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset);
  int munmap(void *at, size_t size);
  int open(const char *path, int flags, ...);
  long readlink(const char *path, char *to, size_t size);
]]

local MOST = 400 -- faults of one run: more than a reload can have
local library = "build/tests/faults.so"

-- --- the service ------------------------------------------------------------------------------

-- Version by version (`@`) it keeps four sockets, gives up four and binds four, by its definitions and by its own calls;
-- changes the mode and the backlog of one it keeps; changes its state's shape, a bound, its classes; requires a new module.
local main = [[
  local Factory = require("skald.protocol").Factory
  local reactor = require "skald.reactor"
  local service = require "skald.service"
  local words = require "parts.words"
  local rooms = require "parts.rooms"
  local isOwn = getfenv(require "parts.fresh@") == getfenv(1)
  local folder = service.options.folder

  local waiting = service.persist("waiting", function() return {} end)
  local kept = service.persist("kept", function() return { loads = {}, room = rooms.Room:new() } end)
  local once = service.persist("once @", function() return { "@" } end)
  kept.loads[#kept.loads + 1] = "@"

  local timer
  local function tick()
    for asker in pairs(waiting) do
      waiting[asker] = nil
      asker.transport:write "tick @\n"
    end
    timer = reactor.callLater(3600, tick)
  end
  timer = reactor.callLater(3600, tick)
  reactor.callLater(3600, reactor.seconds)

  local function show(value)
    if type(value) ~= "table" then return tostring(value) end
    local keys, texts = {}, {}
    for key in pairs(value) do keys[#keys + 1] = key end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    for i, key in ipairs(keys) do texts[i] = tostring(key) .. "=" .. show(value[key]) end
    return "{" .. table.concat(texts, " ") .. "}"
  end

  local commands, P = {}, {}
  function commands:version() return "version @" end
  function commands:tick()
    waiting[self] = true
    timer:reset(0)
  end
  function commands:hold()
    self.items, self.shape, self.once = self.factory.state.items, self.factory.state.shape, once
    return "held"
  end
  function commands:keep(what)
    self.factory.guests[what] = true
    self.factory.field = what
    self.seen = what
    reactor.callLater(3600, reactor.seconds) -- nothing of this generation, which it would keep
    return "kept " .. what
  end
  function commands:dump()
    local factory = self.factory
    return table.concat({
      "code @", "own " .. tostring(isOwn), "words " .. words.version, "rooms " .. rooms.version, "room " .. kept.room:speak(),
      "method " .. self:speak(), "loads " .. table.concat(kept.loads, ","), "once " .. once[1],
      "state " .. show(factory.state), "items " .. tostring(self.items == factory.state.items),
      "shape " .. tostring(self.shape == factory.state.shape), "once " .. tostring(self.once == once),
      "guests " .. show(factory.guests), "field " .. tostring(factory.field), "seen " .. tostring(self.seen),
      "bound " .. factory.maxConnections, "version " .. factory.version, "count " .. factory:connectionCount(),
    }, "; ")
  end
  function P:speak() return "@" end
  function P:dataReceived(data)
    self.rest = (self.rest or "") .. data
    for line in self.rest:gmatch "([^\n]*)\n" do
      local word, rest = line:match "^(%w+) ?(.*)$"
      local answer = commands[word](self, rest)
      if answer then self.transport:write(answer .. "\n") end
    end
    self.rest = self.rest:match "[^\n]*$"
  end

  local own = Factory { name = "own", protocol = P }:new()
  assert(reactor.listenUNIX(folder .. "/own.sock", own))
  assert(reactor.listenUNIX(folder .. "/own@.sock", own, { mode = 384 }))

  return {
    {
      name = "first",
      listen = { "tcp:127.0.0.1:0", "unix:" .. folder .. "/first.sock:mode=6" .. (@ % 2) .. "0:backlog=5" .. (@ % 2),
        "tcp:127.0.1.@:0" },
      protocol = P, maxConnections = 100 + @,
      version = @, state = { items = { "1" }, shape = { version = @ }, ["since@"] = "@" },
      migrate = function(state, from)
        state.items[#state.items + 1] = from .. ">@"
        state.shape = { version = @, was = state.shape.version }
        kept.loads[#kept.loads + 1] = "migrated"
      end,
      guests = {},
      startFactory = function() reactor.callLater(3600, reactor.seconds) end,
    },
    { name = "second", listen = "unix:" .. folder .. "/second@.sock", protocol = P },
    {
      name = "third",
      listen = { "udp:127.0.0.1:0:broadcast=" .. (@ % 2 == 0 and "yes" or "no"), "udp:127.0.1.@:0" },
      protocol = { datagramReceived = function(self, data, from) self.transport:write("@ " .. data, from) end },
    },
  }
]]

local modules = {
  words = [[
    local texts = {}
    for i = 1, tonumber(require("skald.service").options.large or 0) do texts[i] = ("@ " .. i):rep(10000) end
    return { version = '@', texts = texts }
  ]],
  rooms = [[
    local class = require "skald.class"
    local Room = class "Room"
    function Room:speak() return "@" end
    return { version = "@", Room = Room }
  ]],
}

local function write(version)
  for name, text in pairs(modules) do
    reload.rewrite(reload.version(text, version), "parts/" .. name .. ".lua")
  end
  reload.rewrite("return function() end", ("parts/fresh%d.lua"):format(version))
  return reload.rewrite(reload.version(main, version))
end

-- What `dump` says on the held connection after the versions that were committed, the last of which is as it is now.
local function expected(versions)
  local last = versions[#versions]
  local items, loads, since = { "1=1" }, {}, {}
  for i, version in ipairs(versions) do
    loads[#loads + 1] = tostring(version)
    since[#since + 1] = ("since%d=%d"):format(version, version)
    if i > 1 then
      items[i] = ("%d=%d>%d"):format(i, versions[i - 1], version)
      loads[#loads + 1] = "migrated"
    end
  end
  for _, list in ipairs { items, since } do
    table.sort(list, function(a, b) return a:match "^[^=]*" < b:match "^[^=]*" end)
  end
  local was = versions[#versions - 1]
  local shape = was and ("version=%d was=%d"):format(last, was) or "version=" .. last
  return table.concat({
    ("code %d; own true; words %d; rooms %d; room %d; method %d"):format(last, last, last, last, last),
    "loads " .. table.concat(loads, ","), "once " .. last,
    ("state {items={%s} shape={%s} %s}"):format(table.concat(items, " "), shape, table.concat(since, " ")),
    "items true; shape true; once true", "guests {one=true}; field one; seen one",
    ("bound %d; version %d; count 1"):format(100 + last, last),
  }, "; ")
end

-- --- looking at it from outside -----------------------------------------------------------------

local function ask(c, line)
  return c:send(line .. "\n"):line()
end

-- One request on the control socket; nil where the connection is ended without an answer.
local function request(command)
  local c = client.unix(host.folder() .. "/skald.sock")
  c:trySend(cjson.encode(command) .. "\n")
  local answer = c:receiveAll()
  c:close()
  return cjson.decode(answer)
end

local function serviceCalled(name)
  for _, service in ipairs(request({ command = "status" }).services) do
    if service.name == name then
      return service
    end
  end
  return nil
end

local function statusOf(name)
  return assert(serviceCalled(name), "the service is not there")
end

-- The lines of a program's output, in order.
local function linesOf(argv)
  local _, out = process.run(argv)
  local lines = {}
  for line in out:gmatch "[^\n]+" do
    lines[#lines + 1] = line
  end
  table.sort(lines)
  return lines
end

local function descriptorsOf(pid)
  local lines, target = {}, ffi.new "char[256]"
  for fd = 0, MOST do
    local length = tonumber(ffi.C.readlink(("/proc/%d/fd/%d"):format(pid, fd), target, 256))
    if length > 0 then
      lines[#lines + 1] = fd .. " " .. ffi.string(target, length)
    end
  end
  return lines
end

-- What is alive, once nobody lingers: the connection by which the status was asked for does, for a moment.
local function census(h)
  local found
  return sys.await(function()
    h:kill "USR1"
    found = h:waitLog("alive: "):match "alive: (.-), [%d.]+ KB"
    return found:find(", 0 lingering,", 1, true) and found
  end, function()
    return "somebody lingers: " .. found
  end)
end

-- All that can be seen of the host but for what its protocols say. `count` has no names, only numbers. The census collects
-- garbage before it counts, and is first: when it has come, the host knows of all that was closed before.
local function look(h)
  local living = census(h)
  local descriptors = descriptorsOf(h.pid)
  local files = linesOf { "find", host.folder(), "-type", "s", "-printf", "%p %m %i\n" }
  local status = statusOf "script" -- last, since its connection can be seen for a moment
  table.sort(status.endpoints)
  local service = ("%d connections, %d old generations"):format(status.connections, #status.oldGenerations)
  return {
    endpoints = status.endpoints,
    files = files,
    refused = status.refused,
    count = ("%s; %s; %d descriptors"):format(living, service, #descriptors),
    all = table.concat({
      living, service, "generation " .. status.generation, table.concat(status.endpoints, "\n"),
      table.concat(descriptors, "\n"), table.concat(files, "\n"), h:output(),
    }, "\n\n"),
  }
end

-- The lines in which two texts differ.
local function difference(wanted, seen)
  local count, lines = {}, {}
  for line in wanted:gmatch "[^\n]+" do
    count[line] = (count[line] or 0) - 1
  end
  for line in seen:gmatch "[^\n]+" do
    count[line] = (count[line] or 0) + 1
  end
  for line, n in pairs(count) do
    lines[#lines + 1] = n < 0 and "before: " .. line or n > 0 and "after:  " .. line or nil
  end
  table.sort(lines)
  return table.concat(lines, "\n")
end

-- Looks until what is seen is as wanted.
local function awaitLook(h, field, wanted)
  local limit, seen = sys.now() + sys.deadline, look(h)
  while seen[field] ~= wanted and sys.now() < limit do
    sys.poll({}, 0.002) -- a connection that was closed takes a moment to be gone
    seen = look(h)
  end
  if seen[field] ~= wanted then
    error("the host is not what it was:\n" .. difference(wanted, seen[field]), 0)
  end
  return seen
end

local function connect(endpoint)
  local path = endpoint:match "^unix:(.*)$"
  if path then
    return client.tryUnix(path)
  end
  local name, port = endpoint:match "^tcp:(.*):(%d+)$"
  return client.try(tonumber(port), { host = name })
end

-- Of a UDP port; nil for others.
local function addressOf(endpoint)
  local name, port = endpoint:match "^udp:(.*):(%d+)$"
  return name, tonumber(port)
end

-- Each endpoint answers as that version, and on the wire nothing but the answer comes.
local function assertServed(endpoints, version)
  for _, endpoint in ipairs(endpoints) do
    local name, port = addressOf(endpoint)
    if name then
      local peer = udp.connect(port, name)
      assert.equal(version .. " asks", peer:ask "asks")
      peer:close()
    else
      local c, code = connect(endpoint)
      assert(c, ("%s: %s"):format(endpoint, tostring(code)))
      assert.equal("version " .. version, ask(c, "version"))
      assert.is_true(c:quiet())
      c:close()
    end
  end
end

-- The connection still has what came before of a line, and the one timer that answers is that of the version.
local function assertTicks(c, version, rest)
  assert.equal("tick " .. version, ask(c, rest))
  assert.equal("tick " .. version, ask(c, "tick"))
end

-- --- the round ----------------------------------------------------------------------------------

-- What a committed reload from the version before makes of the endpoints: those with a number in them change.
local function assertEndpoints(before, after, version)
  local stay, gone = {}, {}
  for _, endpoint in ipairs(before) do
    local changes = endpoint:find("127.0.1.", 1, true) or endpoint:find "%d%.sock$"
    local list = changes and gone or stay
    list[#list + 1] = endpoint
  end
  local here, new = {}, 0
  for _, endpoint in ipairs(after) do
    here[endpoint] = true
    local number = endpoint:match "^%a+:127%.0%.1%.(%d+):" or endpoint:match "(%d+)%.sock$"
    if number then
      new = new + 1
      assert.equal(tostring(version), number)
    end
  end
  assert.equal(4, #stay)
  assert.equal(4, #gone)
  assert.equal(4, new)
  assert.equal(8, #after)
  for _, endpoint in ipairs(stay) do
    assert(here[endpoint], endpoint .. " is gone")
  end
  for _, endpoint in ipairs(gone) do
    local name, port = addressOf(endpoint)
    if name then
      udp.bind(name, port):close() -- raises where somebody has it
    else
      assert(not connect(endpoint), endpoint .. " still answers")
    end
  end
end

-- How the host looks when nothing goes on.
local function lookAtRest(h)
  for _ = 1, MOST do
    local seen, again = look(h), look(h)
    if seen.all == again.all then
      return again
    end
  end
  error "the host does not come to rest"
end

-- Files of sockets on which the service does not listen.
local function strays(seen)
  local paths, n = { [host.folder() .. "/skald.sock"] = true }, 0
  for _, endpoint in ipairs(seen.endpoints) do
    paths[endpoint:match "^unix:(.*)$" or 0] = true
  end
  for _, file in ipairs(seen.files) do
    n = n + (paths[file:match "^%S+"] and 0 or 1)
  end
  return n
end

-- What was done about a fault, judged: raises where it is neither the old service nor the new one. `seen` is how the host
-- looked before; returns how it looks now. Of the held connection's next line "ti" has been sent.
local function judge(h, held, versions, seen, fault, answer)
  local version, status = versions[#versions], statusOf "script"
  if status.generation == version then
    assert(fault, "refused without a fault")
    assert(not answer or answer.result == "refused" and #answer.errors > 0 and answer.generation == version)
    assertTicks(held, version, "ck")
    assert.equal(expected(versions), ask(held, "dump"))
    assertServed(seen.endpoints, version)
    assert(not answer or status.refused == seen.refused + 1, "a refusal was not counted")
    local now = awaitLook(h, "all", seen.all)
    now.doubtful = seen.doubtful
    return now
  end
  assert.equal(version + 1, status.generation)
  assert(not answer or answer.result == "committed" and answer.generation == version + 1)
  versions[#versions + 1] = version + 1
  assertTicks(held, version + 1, "ck")
  assert.equal("held", ask(held, "hold"))
  assert.equal(expected(versions), ask(held, "dump"))
  assertEndpoints(seen.endpoints, status.endpoints, version + 1)
  assertServed(status.endpoints, version + 1)
  local now = awaitLook(h, "count", seen.count)
  -- whose file a socket is may have been what could not be asked: then it stays, and nobody answers there
  local doubtful = fault and (fault:find "^getsockname" or fault:find "^lstat") and 1 or 0
  now.doubtful = (seen.doubtful or 0) + doubtful
  assert(strays(now) <= now.doubtful, "a socket's file was left behind")
  return now
end

-- Reloads once per fault until there is no k-th call any more. `arm(k)` and `disarm()` (which returns how many calls there
-- were, and which failed); `trigger()` returns the answer where one came. Returns how many faults were answered by a refusal and
-- how many by a commit, for each name.
local function everyFault(h, arm, disarm, trigger)
  local versions, results = { 1 }, {}
  local held = h:connect(nil, 3) -- what the script binds itself comes first
  assert.equal("kept one", ask(held, "keep one"))
  assert.equal("held", ask(held, "hold"))
  assert.equal(expected(versions), ask(held, "dump"))
  local seen = lookAtRest(h)
  for k = 1, MOST do
    local version = versions[#versions]
    write(version + 1)
    ask(held, "version") -- comes after whatever the host still has to do about the connections before
    held:send "ti"
    arm(k)
    local ran, answer = pcall(trigger)
    local count, last = disarm()
    local ok, problem = ran, answer
    if ran then
      ok, problem = pcall(judge, h, held, versions, seen, count >= k and last, answer)
    end
    if not ok then
      error(("call %d (%s): %s\n%s"):format(k, last, tostring(problem), ran and cjson.encode(answer) or "no answer"), 0)
    end
    seen = problem
    if count < k then
      assert(versions[#versions] == version + 1, "refused without a fault")
      return results
    end
    local name = last:match "^%S+"
    local result = results[name] or { refused = 0, committed = 0 }
    local kind = versions[#versions] == version and "refused" or "committed"
    result[kind] = result[kind] + 1
    results[name] = result
  end
  error "there is no end of faults"
end

local function prepareFolder()
  process.run { "mkdir", host.folder() .. "/parts" }
  return write(1), "folder=" .. host.folder()
end

-- --- system calls -------------------------------------------------------------------------------

local function share()
  assert(io.open(library), library .. " is not built"):close()
  local path = host.file("faults", ("\0"):rep(ffi.sizeof "struct skt_faults"))
  local fd = ffi.C.open(path, 2)
  local at = ffi.C.mmap(nil, ffi.sizeof "struct skt_faults", 3, 1, fd, 0)
  ffi.C.close(fd)
  assert(ffi.cast("intptr_t", at) ~= -1, "mmap")
  return ffi.cast("struct skt_faults *", at), path
end

local function armer(faults)
  local function arm(k)
    faults.k, faults.count, faults.hits = k, 0, 0
    ffi.fill(faults.last, ffi.sizeof(faults.last))
    faults.armed = 1
  end
  local function disarm()
    faults.armed = 0
    request { command = "status" } -- answered after whatever is still going on
    assert.equal(faults.count >= faults.k and 1 or 0, faults.hits)
    return faults.count, faults.hits > 0 and ffi.string(faults.last) or "none"
  end
  return arm, disarm
end

-- The command line's answer; none where its connection was the one to fail.
local function command()
  local _, out = host.command { "reload", "--json", "--force" }
  local answer = cjson.decode(out)
  return answer and answer.result ~= "error" and answer or nil
end

local function requestReload()
  return request { command = "reload", service = "script", force = true }
end

local function faultyHost(words)
  local faults, path = share()
  words.listening = words.listening or 8
  words.env = {
    LD_PRELOAD = library, SKALD_FAULTS = path,
    LUA_PATH = host.folder() .. "/?.lua;;", -- a module that cannot be read must not be found there, as someone else's
    ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":verify_asan_link_order=0",
  }
  return host.run(words), faults
end

-- --- the host's functions -------------------------------------------------------------------------

-- What each function of host/lua/bind.h that can fail says when it does.
local failures = {
  skald_timer_start = "0", skald_group_new = "0",
  skald_listen_tcp = "98", skald_listen_unix = "98", skald_listener_host = "105",
  skald_udp_open = "98", skald_udp_host = "105", skald_udp_set = "1",
  skald_adjust_listener = "1", skald_real_path = "5", skald_watch_add = "-28", skald_watch_open = "-24",
}

-- And those that answer, but either cannot fail or have no part in a reload.
local others = {}
for name in ([[skald_write skald_write_pair skald_set_producer skald_buffered skald_is_open skald_peer_user skald_peer skald_host
  skald_set_nodelay skald_set_keepalive skald_is_address skald_group_count skald_group_members skald_ask skald_seconds
  skald_is_stopping skald_user skald_is_private skald_make_private skald_process skald_collections skald_log_wants
  skald_canonical skald_error_name skald_error_text skald_bundled skald_bundled_name skald_read skald_move_listener
  skald_watch_next skald_accept skald_is_regular skald_read_link skald_lookup_start skald_lookup_next skald_dial_tcp
  skald_dial_unix skald_error_number skald_pipe skald_unpipe skald_send_file skald_credentials skald_pass skald_listen_fd
  skald_datagram skald_udp_write skald_udp_answer skald_udp_connect skald_udp_join skald_udp_interface skald_udp_get
  skald_make_folder skald_log_take skald_file_start skald_file_result
  skald_tls_certify skald_tls_trust skald_tls_offer skald_tls_new skald_tls_problem skald_secure_listener skald_secure
  skald_tls_renew_tickets skald_session_reused skald_secure_behind
  skald_protocol skald_certificate
  skald_spawn skald_signal skald_signal_number skald_signal_name skald_resize skald_stdio_take skald_stdio_connect
  skald_stdio_is_socket skald_watchdog]]):gmatch "%S+" do
  others[name] = true
end

local saboteur = [[
  local core = require "skald.core"
  local real, failures = core.C, { %s }
  local k, count, last = 0, 0, "none"
  local proxy = setmetatable({}, { __index = function(self, name)
    local f, failure = real[name], failures[name]
    if failure then
      local inner = f
      function f(...)
        count = count + 1
        if count == k then
          last = name
          return failure
        end
        return inner(...)
      end
    end
    rawset(self, name, f)
    return f
  end })

  -- Puts the proxy in place of the library wherever a function of the modules holds it.
  local function replace()
    local seen, waiting, replaced = { [proxy] = true, [package] = true }, {}, 0
    local function follow(value)
      if (type(value) == "table" or type(value) == "function") and not seen[value] then
        seen[value] = true
        waiting[#waiting + 1] = value
      end
    end
    for name, module in pairs(package.loaded) do
      if name:find "^skald%%." then follow(module) end
    end
    while #waiting > 0 do
      local subject = table.remove(waiting)
      follow(debug.getmetatable(subject))
      if type(subject) == "table" then
        for _, value in next, subject do follow(value) end
      else
        for i = 1, 255 do
          local name, value = debug.getupvalue(subject, i)
          if not name then break end
          if name == "C" and rawequal(value, real) then
            debug.setupvalue(subject, i, proxy)
            replaced = replaced + 1
          end
          follow(value)
        end
      end
    end
    core.C = proxy
    return replaced
  end

  local P = {}
  function P:dataReceived(data)
    local word, n = data:match "^(%%w+) ?(%%d*)"
    if word == "install" then
      self.transport:write(("replaced %%d\n"):format(replace()))
    elseif word == "arm" then
      replace()
      k, count, last = tonumber(n), 0, "none"
      self.transport:write "armed\n"
    else
      k = -1
      self.transport:write(("%%d %%s\n"):format(count, last))
    end
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

local function saboteurText()
  local list = {}
  for name, value in pairs(failures) do
    list[#list + 1] = ("%s = %s"):format(name, value)
  end
  return saboteur:format(table.concat(list, ", "))
end

-- A host with the saboteur as its last service.
local function sabotagedHost(words)
  local options = { "--jit=off", unpack(words.options or {}) }
  words[#words + 1] = host.file("saboteur.lua", saboteurText())
  local h = host.run { listening = words.listening, options = options, unpack(words) }
  local hand = h:connect(nil, words.listening)
  assert(tonumber(ask(hand, "install"):match "%d+") >= 5, "too few functions were reached")
  local function arm(k)
    assert.equal("armed", ask(hand, "arm " .. k))
  end
  local function disarm()
    local count, last = ask(hand, "disarm"):match "^(%d+) (.*)$"
    return tonumber(count), last
  end
  return h, arm, disarm
end

-- --- the tests --------------------------------------------------------------------------------------

-- A run that made nothing fail proves nothing. With SKALD_COUNTS it tells what it did.
local function assertReached(what, results, least, names)
  local list, refused, committed = {}, 0, 0
  for name, result in pairs(results) do
    list[#list + 1] = ("%s %d/%d"):format(name, result.refused, result.committed)
    refused, committed = refused + result.refused, committed + result.committed
  end
  table.sort(list)
  local text = ("%s: %d refused, %d committed (%s)"):format(what, refused, committed, table.concat(list, ", "))
  if os.getenv "SKALD_COUNTS" then
    io.stderr:write(text, "\n")
  end
  assert(refused > least, "too few faults: " .. text)
  for _, name in ipairs(names) do
    assert(results[name], name .. " was never made to fail: " .. text)
  end
end

describe("a reload in which one call fails", function()
  after_each(host.cleanup)

  it("leaves the old service as it was or gives the whole new one, whichever system call it is", function()
    local script, option = prepareFolder()
    local h, faults = faultyHost { script, option }
    local arm, disarm = armer(faults)
    local results = everyFault(h, arm, disarm, command)
    assertReached("system calls", results, 10, {
      "fopen64", "fread", "realpath", "socket", "bind", "listen", "setsockopt", "getsockname", "getsockopt", "chmod",
    })
    h:stop()
  end)

  -- What was freed of large strings is kept for the next ones, but not as much as these take. Without the compiler: LuaJIT
  -- reads a stale stack where memory ends within a trace (lj_err_mem), and nobody above it can do anything about that.
  it("leaves the old service as it was or gives the whole new one, whichever large allocation it is", function()
    local script, option = prepareFolder()
    local h, faults = faultyHost { script, option, "large=54", options = { "--jit=off" } }
    faults.only = "alloc"
    local arm, disarm = armer(faults)
    local results = everyFault(h, arm, disarm, requestReload)
    assertReached("allocations", results, 2, { "malloc" })
    h:stop()
  end)

  it("leaves the old service as it was or gives the whole new one, whichever function of the host it is", function()
    local script, option = prepareFolder()
    local h, arm, disarm = sabotagedHost { script, option, listening = 9 }
    local results = everyFault(h, arm, disarm, requestReload)
    assertReached("functions", results, 10, {
      "skald_timer_start", "skald_listen_tcp", "skald_listen_unix", "skald_group_new", "skald_listener_host",
      "skald_real_path", "skald_udp_open", "skald_udp_host", "skald_udp_set",
    })
    h:stop()
  end)

  -- The folder of a module that is new with each version: under watch from the reload on that brings it.
  it("is committed under --watch if only a folder cannot be watched, which the next reload makes good", function()
    local text = [[
      local words = require "p@.words"
      local P = {}
      function P:dataReceived() self.transport:write("% @ " .. words .. "\n") end
      return { listen = "tcp:127.0.0.1:0", protocol = P }
    ]]
    local function put(version, mark)
      return reload.rewrite((reload.version(text, version):gsub("%%", mark)))
    end
    local function putWords(version, words)
      reload.rewrite(("return %q"):format(words), ("p%d/words.lua"):format(version))
    end
    for version = 1, 9 do
      process.run { "mkdir", ("%s/p%d"):format(host.folder(), version) }
      putWords(version, "one")
    end
    local h, faults = faultyHost { put(1, "a"), options = { "--watch" }, listening = 1 }
    local arm, disarm = armer(faults)
    local c, generation = h:connect(), 1
    local function assertReloaded(answer)
      h:waitLog((" generation %d %%-> %d "):format(generation, generation + 1))
      generation = generation + 1
      assert.equal(answer, ask(c, "?"))
    end
    faults.only = "inotify_add_watch"
    local last, failed
    for version = 2, 9 do
      arm(version - 1)
      put(version, "a")
      assertReloaded(("a %d one"):format(version))
      statusOf "script" -- answered in a later turn of the loop
      failed, last = disarm()
      if failed < version - 1 then
        break
      end
      put(version, "b")
      assertReloaded(("b %d one"):format(version))
      statusOf "script"
      putWords(version, "two")
      assertReloaded(("b %d two"):format(version))
    end
    assert.equal("none", last)
    assert(generation > 3, "nothing was made to fail")
    h:stop()
  end)

  it("is followed by others under --watch, whichever function of the host it is", function()
    local script = host.script [[return { listen = "tcp:127.0.0.1:0", protocol = {} }]]
    local h, arm, disarm = sabotagedHost { script, listening = 2, options = { "--watch" } }
    for k = 1, MOST do
      arm(k)
      local ended = pcall(requestReload)
      local count, last = disarm()
      assert(ended, ("call %d (%s): neither an answer nor an end"):format(k, last))
      local ok, answer = pcall(requestReload)
      assert(ok and answer, ("call %d (%s) left the host without reloads: %s"):format(k, last, tostring(answer)))
      assert.equal("committed", answer.result)
      if count < k then
        assert(k > 3, "too few faults")
        break
      end
    end
    h:stop()
  end)

  it("is tried with each function of the host that can fail", function()
    local unknown, known = {}, {}
    local text = assert(io.open "host/lua/bind.h"):read "*a":match "/%* cdef begins %*/(.-)/%* cdef ends %*/"
    for result, name in text:gmatch "\n([%w_ ]+[ *])(skald_[%w_]+)%(" do
      known[name] = true
      if result ~= "void " and not failures[name] and not others[name] then
        unknown[#unknown + 1] = name
      end
    end
    for name in pairs(failures) do
      unknown[#unknown + 1] = not known[name] and name or nil
    end
    assert.same({}, unknown)
  end)
end)

describe("a load in which one system call fails", function()
  after_each(host.cleanup)

  it("adds the whole service or nothing", function()
    local script, option = prepareFolder()
    local h, faults = faultyHost { script, option }
    local arm, disarm = armer(faults)
    local held = h:connect(nil, 3)
    ask(held, "keep one")
    ask(held, "hold")
    local extra = host.script([[
      local P = {}
      function P:dataReceived() self.transport:write(require("parts.words").version .. "\n") end
      return { listen = { "tcp:127.0.0.1:0", "unix:" .. (...).folder .. "/extra.sock:mode=600" }, protocol = P }
    ]], "extra.lua")
    local seen, results = lookAtRest(h), {}
    for k = 1, MOST do
      ask(held, "version")
      arm(k)
      request { command = "load", words = { extra, option } }
      local count, last = disarm()
      local kind, service = "refused", serviceCalled "extra"
      assert(service or count >= k, "refused without a fault")
      if service then
        kind = "committed"
        assert.equal(2, #service.endpoints)
        for _, endpoint in ipairs(service.endpoints) do
          local c = connect(endpoint)
          assert.equal("1", ask(c, "?"))
          c:close()
        end
        assert.equal("unloaded", request({ command = "unload", service = "extra" }).result)
        os.remove(host.folder() .. "/extra.sock") -- where the fault was that nobody could tell whose it is
      end
      assert.equal(expected { 1 }, ask(held, "dump"))
      local field = kind == "refused" and "all" or "count"
      local ok, problem = pcall(awaitLook, h, field, seen[field])
      assert(ok, ("call %d (%s), %s: %s"):format(k, last, kind, tostring(problem)))
      if count < k then
        break
      end
      seen = problem
      local name = last:match "^%S+"
      results[name] = results[name] or { refused = 0, committed = 0 }
      results[name][kind] = results[name][kind] + 1
    end
    assertReached("a load", results, 10, { "fopen64", "fread", "realpath", "socket", "bind", "listen", "chmod" })
    h:stop()
  end)
end)
