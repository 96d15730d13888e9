-- Host names, looked up against a name server of our own (support.dns). What is held there leaves when the test says so.

local client = require "support.client"
local control = require "support.control"
local dns = require "support.dns"
local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"
local sys = require "support.sys"

-- What scripts here begin with. `show` prints what `resolve` gave, `told(name)` gives a function for `lookup` that does.
local HEAD = [[
  local reactor = require "skald.reactor"
  local resolver = require "skald.resolver"
  local function text(list)
    local texts = {}
    for i, address in ipairs(list or {}) do texts[i] = address.type .. " " .. address.host end
    return table.concat(texts, ", ")
  end
  local function show(name, options)
    local d = resolver.resolve(name, options)
    d:addCallbacks(function(list) print(name .. ": " .. text(list)) end, function(failure)
      local problem = failure.value
      print(("%s: %s %s: %s"):format(name, failure.type, tostring(problem.code), failure.message))
    end)
    return d
  end
  local function told(name)
    return function(kind, hosts, message, code, last)
      local what = kind .. " " .. (hosts and table.concat(hosts, " ") or code)
      print(("%s: %s %s"):format(name, what, last and "last" or "more"))
    end
  end
]]

-- The text of a script that does `body` while it loads, then what `commands.WORD` says for a word on its connection.
local function script(body)
  return HEAD .. host.commands(body)
end

-- A host whose script does `body` once it runs.
local function serve(server, body, words)
  words = words or {}
  words.env = words.env or server.env
  return host.serve(script("reactor.callWhenRunning(function()\n" .. body .. "\nend)"), words)
end

-- The lines with which a host answers, in the order of their coming.
local function lines(h, n)
  local list = {}
  for i = 1, n do
    list[i] = h:line "^.+: "
  end
  return list
end

local function census(h, what)
  h:kill "USR1"
  return tonumber(h:waitLog("alive: "):match("(%d+) " .. what))
end

local function awaitDescriptors(h, n)
  sys.await(function()
    return h:descriptors() == n
  end, function()
    return h:story(("%d descriptors are open, not %d"):format(h:descriptors(), n))
  end)
end

describe("resolver.resolve", function()
  after_each(host.cleanup)

  it("gives the addresses of both families, IPv6 first, each family in the order of the answer", function()
    local server = dns.start { "both.test=192.0.2.9,192.0.2.1,2001:db8::1", "four.test=192.0.2.4", "six.test=2001:db8::6" }
    local h = serve(server, [[show "both.test" show "four.test" show "six.test" show("both.test", { family = "TCP" })
      show("both.test", { family = "TCP6" })]])
    local seen = lines(h, 5)
    table.sort(seen)
    assert.same({
      "both.test: TCP 192.0.2.9, TCP 192.0.2.1", "both.test: TCP6 2001:db8::1",
      "both.test: TCP6 2001:db8::1, TCP 192.0.2.9, TCP 192.0.2.1", "four.test: TCP 192.0.2.4", "six.test: TCP6 2001:db8::6",
    }, seen)
    h:stop()
    assert.equal(8, #server:questions())
  end)

  it("says in one line what is wrong, and in a code", function()
    local server = dns.start { "servfail.test=servfail", "refused.test=refused", "four.test=192.0.2.4" }
    local h = serve(server, [[
      show "none.test" show "servfail.test" show "refused.test" show("four.test", { family = "TCP6" })
    ]])
    local seen = lines(h, 4)
    table.sort(seen)
    assert.same({
      "four.test: DNSLookupError ENODATA: cannot resolve 'four.test': the name has no address",
      "none.test: DNSLookupError ENOTFOUND: cannot resolve 'none.test': no such name",
      "refused.test: DNSLookupError ESERVFAIL: cannot resolve 'refused.test': the name server failed, or refused",
      "servfail.test: DNSLookupError ESERVFAIL: cannot resolve 'servfail.test': the name server failed, or refused",
    }, seen)
  end)

  it("says that no name server answers", function()
    local h = serve({ env = { SKALD_RESOLVER = "127.0.0.1:1" } }, [[show("any.test", { family = "TCP" })]])
    assert.equal("any.test: DNSLookupError ECONNREFUSED: cannot resolve 'any.test': no name server answers", lines(h, 1)[1])
  end)

  it("asks the next server where one does not answer", function()
    local server = dns.start { "four.test=192.0.2.4" }
    server.env.SKALD_RESOLVER = "127.0.0.1:1," .. server.env.SKALD_RESOLVER
    local h = serve(server, [[show("four.test", { family = "TCP" })]])
    assert.equal("four.test: TCP 192.0.2.4", lines(h, 1)[1])
  end)

  it("is content with one family, whatever is wrong with the other", function()
    local server = dns.start { "mute.test=192.0.2.4,silent6", "dumb.test=2001:db8::6,silent4" }
    local h = serve(server, [[show("mute.test", { timeout = 1 }) show("dumb.test", { timeout = 1 })]])
    local seen = lines(h, 2)
    table.sort(seen)
    assert.same({ "dumb.test: TCP6 2001:db8::6", "mute.test: TCP 192.0.2.4" }, seen)
  end)

  it("fails when its time is over, which is counted from the request, and leaves nothing behind", function()
    local server = dns.start { "*.silent.test=silent" }
    local h = serve(server, [[
      resolver.MOST = 1
      function commands.go()
        show("a.silent.test", { timeout = 0.3 }) show("b.silent.test", { timeout = 0.2 }) show("c.silent.test", { timeout = 0.1 })
      end
    ]])
    local before = h:descriptors()
    h:connect():send("go"):close()
    local seen = lines(h, 3)
    for i, name in ipairs { "c", "b", "a" } do
      name = name .. ".silent.test"
      assert.equal(("%s: DNSLookupError ETIMEOUT: cannot resolve '%s': no answer in time"):format(name, name), seen[i])
    end
    awaitDescriptors(h, before)
    assert.equal(0, census(h, "lookups"))
    h:stop()
    for _, question in ipairs(server:questions()) do
      assert.equal("a.silent.test", question.name) -- no other had a place in time
    end
  end)

  it("asks again where a question seems lost", function()
    local server = dns.start { "slow.test=192.0.2.4,silent6,held4" }
    local h = serve(server, [[show("slow.test", { family = "TCP" })]])
    server:asked "slow.test A udp"
    server:asked "slow.test A udp"
    server:release "slow.test"
    assert.equal("slow.test: TCP 192.0.2.4", lines(h, 1)[1])
  end)

  it("asks by TCP for what does not fit", function()
    local server = dns.start { "big.test=truncated,many:300", "split.test=truncated,many:2000,2001:db8::1,held" }
    local h = serve(server, [[
      for _, name in ipairs { "big.test", "split.test" } do
        resolver.resolve(name):addCallback(function(list) print(("%s: %d, %s"):format(name, #list, list[#list].host)) end)
      end
    ]])
    assert.equal("big.test: 300, 10.0.1.44", lines(h, 1)[1])
    server:asked "split.test A+ tcp"
    server:asked "split.test A+ tcp"
    server:release "split.test"
    assert.equal("split.test: 2001, 10.0.7.208", lines(h, 1)[1])
  end)

  it("answers addresses at once, and asks nobody what is no host name", function()
    local server = dns.start {}
    local h = serve(server, [[
      for _, name in ipairs { "127.0.0.1", "::1", "2001:DB8:0::1", "::ffff:192.0.2.1", "fe80::1%lo" } do show(name) end
      print "at: once"
      local long = ("x."):rep(127) .. "xx"
      for _, name in ipairs { "x y", "a..b", "", ".", "-\1-", ("x"):rep(64), long, "2001:db8::g", "a\0b", "\\097" } do
        show(name)
      end
      show("127.0.0.1", { family = "TCP6" })
    ]])
    assert.same({
      "127.0.0.1: TCP 127.0.0.1", "::1: TCP6 ::1", "2001:DB8:0::1: TCP6 2001:db8::1", "::ffff:192.0.2.1: TCP6 ::ffff:192.0.2.1",
      "fe80::1%lo: TCP6 fe80::1%lo", "at: once",
    }, lines(h, 6))
    assert.equal("x y: DNSLookupError EBADNAME: cannot resolve 'x y': not a host name", lines(h, 1)[1])
    for _, line in ipairs(lines(h, 9)) do
      assert.truthy(line:find("EBADNAME", 1, true), line)
    end
    assert.truthy(lines(h, 1)[1]:find("ENODATA", 1, true))
    h:stop()
    assert.same({}, server:questions())
  end)

  it("knows what the hosts file and localhost say without asking a server", function()
    local server = dns.start {}
    local names, wanted = { "localhost", "LOCALHOST.", "a.localhost" }, {}
    for line in io.lines "/etc/hosts" do
      local address, rest = line:gsub("#.*", ""):match "^%s*([%d.]+)%s+(.*)$"
      for name in (rest or ""):gmatch "%S+" do
        names[#names + 1], wanted[name] = name, address
      end
    end
    local h = serve(server, ("for name in ('%s'):gmatch '%%S+' do show(name) end"):format(table.concat(names, " ")))
    local seen = table.concat(lines(h, #names), "\n") .. "\n"
    for _, name in ipairs { "localhost", "LOCALHOST.", "a.localhost" } do
      assert.truthy(seen:find(name .. ": [^\n]*TCP 127%.0%.0%.1\n"), seen)
    end
    for name, address in pairs(wanted) do
      assert.truthy(seen:find((name .. ": "):gsub("%p", "%%%0") .. "[^\n]*TCP " .. address:gsub("%.", "%%.")), seen)
    end
    h:stop()
    assert.same({}, server:questions())
  end)

  it("tries the search domains, but not for a name that ends in a dot", function()
    local server = dns.start { "short.corp.test=192.0.2.7", "short=192.0.2.8", "long.name.corp.test=192.0.2.9" }
    server.env.LOCALDOMAIN = "corp.test"
    local h = serve(server, [[show "short" show "short." show "long.name" show "long.name."]])
    local seen = lines(h, 4)
    table.sort(seen)
    assert.same({
      "long.name.: DNSLookupError ENOTFOUND: cannot resolve 'long.name.': no such name",
      "long.name: TCP 192.0.2.9", "short.: TCP 192.0.2.8", "short: TCP 192.0.2.7",
    }, seen)
  end)

  it("can be cancelled while it waits and while it is under way, and gives its place to the next", function()
    local server = dns.start { "*.held.test=192.0.2.4,held", "free.test=192.0.2.5" }
    local h = serve(server, [[
      resolver.MOST = 2
      local list
      function commands.go()
        list = {}
        for _, name in ipairs { "a", "b", "c", "d" } do list[name] = show(name .. ".held.test") end
        show "free.test"
      end
      function commands.cancel(_, _, name) list[name]:cancel() end
    ]])
    local before = h:descriptors()
    local c = h:connect():send "go"
    server:asked "b.held.test A "
    c:send "cancel c"
    assert.truthy(lines(h, 1)[1]:find "^c.held.test: CancelledError nil")
    c:send "cancel a"
    assert.truthy(lines(h, 1)[1]:find "^a.held.test: CancelledError nil")
    server:asked "d.held.test A "
    c:send "cancel b"
    assert.truthy(lines(h, 1)[1]:find "^b.held.test: CancelledError nil")
    assert.equal("free.test: TCP 192.0.2.5", lines(h, 1)[1])
    server:release "all"
    assert.equal("d.held.test: TCP 192.0.2.4", lines(h, 1)[1])
    c:close()
    awaitDescriptors(h, before)
  end)

  it("refuses options and names that are none at the caller's line", function()
    local h = serve(dns.start {}, [[
      local function try(f, ...) print("said: " .. select(2, pcall(f, ...)):match "script.lua:%d+: (.*)") end
      try(function() resolver.resolve(5) end)
      try(function() resolver.resolve("x.test", 5) end)
      try(function() resolver.resolve("x.test", { timeuot = 5 }) end)
      try(function() resolver.resolve("x.test", { timeout = -1 }) end)
      try(function() resolver.resolve("x.test", { family = 4 }) end)
      try(function() resolver.lookup("x.test") end)
    ]])
    assert.same({
      "said: resolve takes a name, not a number", "said: resolve takes its options as a table, not a number",
      "said: resolve knows no option 'timeuot'", "said: resolve: timeout takes seconds, a number from 0, not -1",
      "said: resolve: family is TCP or TCP6, not 4", "said: lookup takes a function, not a nil",
    }, lines(h, 6))
  end)
end)

describe("resolver.lookup", function()
  after_each(host.cleanup)

  it("tells of each family as its answer comes, and never within the call", function()
    local server = dns.start {
      "late4.test=192.0.2.4,2001:db8::4,held4", "late6.test=192.0.2.6,2001:db8::6,held6", "four.test=192.0.2.5",
    }
    local h = serve(server, [[
      for _, name in ipairs { "late4.test", "late6.test", "four.test", "192.0.2.1", "a b" } do
        resolver.lookup(name, told(name))
        print("asked: " .. name)
      end
    ]])
    assert.same({ "asked: late4.test", "asked: late6.test", "asked: four.test", "asked: 192.0.2.1", "asked: a b" }, lines(h, 5))
    local seen = lines(h, 8)
    table.sort(seen)
    assert.same({
      "192.0.2.1: TCP 192.0.2.1 last", "192.0.2.1: TCP6 ENODATA more", "a b: TCP EBADNAME last", "a b: TCP6 EBADNAME more",
      "four.test: TCP 192.0.2.5 last", "four.test: TCP6 ENODATA more",
      "late4.test: TCP6 2001:db8::4 more", "late6.test: TCP 192.0.2.6 more",
    }, seen)
    server:release "late6.test"
    assert.equal("late6.test: TCP6 2001:db8::6 last", lines(h, 1)[1])
    server:release "late4.test"
    assert.equal("late4.test: TCP 192.0.2.4 last", lines(h, 1)[1])
  end)

  it("may be cancelled, and others too, and new ones begun, by whoever is told", function()
    local server = dns.start { "both.test=192.0.2.4,2001:db8::4", "*.held.test=192.0.2.5,held" }
    local h = serve(server, [[
      local other = resolver.lookup("x.held.test", told "x.held.test")
      local own
      own = resolver.lookup("both.test", function(kind)
        print("told: " .. kind)
        print("cancelled: " .. tostring(own:cancel()) .. " " .. tostring(other:cancel()))
        print("again: " .. table.concat({ select(2, own:cancel()) }, " "))
        resolver.lookup("both.test", told "both.test")
      end)
    ]])
    assert.same({ "told: TCP6", "cancelled: true true", "again: already over EALREADY" }, lines(h, 3))
    assert.same({ "both.test: TCP6 2001:db8::4 more", "both.test: TCP 192.0.2.4 last" }, lines(h, 2))
    server:release "all"
    h:stop()
    assert.falsy(h:output():find "x.held.test: ")
  end)

  it("survives an error of whoever is told, which is logged", function()
    local server = dns.start { "both.test=192.0.2.4,2001:db8::4" }
    local h = serve(server, [[
      resolver.lookup("both.test", function(kind)
        print("told: " .. kind)
        error("no use for " .. kind)
      end)
    ]])
    assert.same({ "told: TCP6", "told: TCP" }, lines(h, 2))
    h:waitLog "script.lua:%d+: no use for TCP6"
    h:waitLog "script.lua:%d+: no use for TCP$"
    assert.equal(0, census(h, "lookups"))
  end)

  it("takes so many at a time and lets so many wait, first come, first served", function()
    local server = dns.start { "*.held.test=192.0.2.4,held" }
    local h = serve(server, [[
      resolver.MOST, resolver.WAITING = 10, 30
      function commands.go()
        for i = 1, 41 do
          local lookup, message, code = resolver.lookup(i .. ".held.test", function() end)
          if not lookup then print(("%d: %s %s"):format(i, code, message)) end
        end
      end
      function commands.more()
        for i = 31, 41 do
          local lookup, message, code = resolver.lookup(i .. ".held.test", told(i))
          if not lookup then print(("%d: %s %s"):format(i, code, message)) end
        end
      end
    ]])
    local before = h:descriptors()
    local c = h:connect():send "go"
    local seen = lines(h, 11)
    for i = 31, 41 do -- none has begun yet: that is done in the next turn
      assert.equal(("%d: ENOBUFS cannot resolve '%d.held.test': too many look-ups are waiting"):format(i, i), seen[i - 30])
    end
    server:asked "10.held.test A "
    assert.equal(10, census(h, "lookups"))
    assert.equal(before + 1 + 10, h:descriptors())
    c:send "more"
    assert.equal("41: ENOBUFS cannot resolve '41.held.test': too many look-ups are waiting", lines(h, 1)[1])
    for i = 1, 40 do
      server:release(i .. ".held.test")
      if i <= 30 then
        server:asked(("%d.held.test A "):format(i + 10))
      end
    end
    sys.await(function()
      return census(h, "lookups") == 0
    end, function()
      return h:story "look-ups are left"
    end)
    local order = {}
    for _, question in ipairs(server:questions()) do
      if question.kind == "A" then
        order[#order + 1] = tonumber(question.name:match "^%d+")
      end
    end
    for i, number in ipairs(order) do
      assert.equal(i, number)
    end
    assert.equal(40, #order)
    c:close()
    awaitDescriptors(h, before)
  end)

  it("asks each time from another port", function()
    local server = dns.start { "*.test=192.0.2.4" }
    local h = serve(server, [[for i = 1, 20 do show(i .. ".test") end]])
    lines(h, 20)
    local ports, n = {}, 0
    for _, question in ipairs(server:questions()) do
      n = n + (ports[question.port] and 0 or 1)
      ports[question.port] = true
    end
    assert(n > 10, ("only %d ports"):format(n)) -- one that was closed may come again
  end)

  it("is not begun by a script that is only checked", function()
    local server = dns.start { "four.test=192.0.2.4" }
    local path = host.script(script [[show "four.test"]])
    assert.equal(0, (host.command { "check", path, env = server.env }))
    assert.same({}, server:questions())
  end)

  it("ends with the generation whose load began it", function()
    local server = dns.start { "old.test=192.0.2.4,held", "new.test=192.0.2.5,held" }
    local h = host.serve(script [[show "old.test"]], { env = server.env })
    server:asked "old.test A "
    reload.rewrite(script [[show "new.test"]])
    assert.equal("committed", control.json({ "reload", "script" }).result)
    server:asked "new.test A "
    assert.equal(1, census(h, "lookups"))
    server:release "all"
    assert.equal("new.test: TCP 192.0.2.5", lines(h, 1)[1])
    assert.falsy(h:output():find "old.test")
  end)
end)

describe("the host", function()
  after_each(host.cleanup)

  it("stops in order with look-ups under way and waiting, and leaves nothing over", function()
    local server = dns.start { "*.held.test=held", "*.wire.test=truncated,many:9,held" }
    local h = serve(server, [[
      resolver.MOST = 20
      for i = 1, 10 do show(i .. ".held.test") show(i .. ".wire.test") end
      for i = 11, 100 do show(i .. ".held.test") end
    ]])
    for _ = 1, 10 do
      server:asked "%d+.wire.test A tcp"
    end
    h:stop()
    assert.falsy(h:output():find "test: ")
  end)

  it("says that there is no descriptor left to ask with, and asks when there is", function()
    local server = dns.start { "four.test=192.0.2.4" }
    local h = serve(server, [[
      local files = {}
      repeat files[#files + 1] = io.open "/dev/null" until not io.open "/dev/null"
      show("four.test"):addBoth(function()
        for _, file in ipairs(files) do file:close() end
        show "four.test"
      end)
    ]], { limit = 64 })
    assert.same({
      "four.test: DNSLookupError EMFILE: cannot resolve 'four.test': Too many open files", "four.test: TCP 192.0.2.4",
    }, lines(h, 2))
  end)

  for _, value in ipairs {
    "127.0.0.1:x", "name.test", "127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1,,", "[127.0.0.1", "1.2.3:53",
  } do
    it(("says what is wrong with SKALD_RESOLVER=%s"):format(value), function()
      local h = serve({}, [[show "four.test" show "four.test"]], { env = { SKALD_RESOLVER = value } })
      local wrong = ("SKALD_RESOLVER is '%s', not a list such as 127.0.0.1:5353,[::1]:53"):format(value)
      for _, line in ipairs(lines(h, 2)) do
        assert.equal("four.test: DNSLookupError EINVAL: cannot resolve 'four.test': " .. wrong, line)
      end
      assert.equal(1, h:logged(wrong .. ": no name can be resolved"))
    end)
  end

  it("looks 1,000 names up without a descriptor more than it may have, and ends where it began", function()
    local server = dns.start { "*.test=192.0.2.4,2001:db8::4", "*.silent.test=silent", "none=silent" }
    local h = serve(server, [[
      local function all(name, n, act)
        local left, good = n, 0
        for i = 1, n do
          local d = resolver.resolve(i .. name, { timeout = 60 })
          d:addCallbacks(function(list) good = good + #list end, function() end)
          d:addBoth(function()
            left = left - 1
            if left == 0 then print(("%s: %d addresses"):format(act, good)) end
          end)
          if act == "cancelled" then reactor.callLater(0.05, d.cancel, d) end
        end
      end
      function commands.good() all(".test", 1000, "answered") end
      function commands.silent() all(".silent.test", 1000, "cancelled") end
    ]])
    local before = h:descriptors()
    local c = h:connect():send "good"
    local most, answer = 0, nil
    sys.await(function()
      most = math.max(most, h:descriptors())
      answer = h:output():match "answered: [^\n]*"
      return answer
    end, function()
      return h:story "they are not all answered"
    end)
    assert.equal("answered: 2000 addresses", answer)
    assert.is_true(most <= before + 1 + 256, most .. " descriptors")
    c:send "silent"
    assert.equal("cancelled: 0 addresses", h:line "^cancelled: .*")
    c:close()
    awaitDescriptors(h, before)
    assert.equal(0, census(h, "lookups"))
    h:stop()
  end)
end)

describe("the name server of the tests", function()
  after_each(host.cleanup)

  it("is asked by UDP and TCP, and goes with the test", function()
    local server = dns.start { "four.test=192.0.2.4" }
    local c = client.tcp(server.port)
    local text = "\4four\4test\0\0\1\0\1"
    c:send("\0\27\18\52\1\0\0\1\0\0\0\0\0\0" .. text)
    assert.equal("\0\43\18\52\129\128\0\1\0\1\0\0\0\0" .. text .. "\192\12\0\1\0\1\0\0\0\60\0\4\192\0\2\4", c:receive(45))
    assert.equal("four.test", server:questions()[1].name)
    assert.equal(1, process.killAll())
  end)
end)
