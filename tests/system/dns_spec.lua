-- The bundled service dns: dig, and messages that dig does not send.

local host = require "support.host"
local process = require "support.process"
local udp = require "support.udp"

-- All that is in the tests; `big` does not fit into a datagram.
local ZONE = [[
  local big = {}
  for i = 1, 100 do
    big[i] = ("text %d of many"):format(i)
  end
  return {
    ["Example.test"] = {
      ttl = 300,
      SOA = { "ns.example.test", "hostmaster.example.test", 7, 7200, 900, 1209600, 60 },
      NS = { "ns.example.test", "ns.elsewhere.test" },
      A = { "192.0.2.1", "192.0.2.2" },
      AAAA = "2001:db8::1",
      MX = { { 10, "mail.example.test" }, { 20, "mail2.example.test" } },
      TXT = { "v=spf1 mx -all", ("x"):rep(300) },
    },
    ["www.example.test"] = { CNAME = "alias.example.test" },
    ["alias.example.test"] = { CNAME = "example.test" },
    ["out.example.test"] = { CNAME = "www.elsewhere.test" },
    ["loop.example.test"] = { CNAME = "loop.example.test" },
    ["a.deep.example.test"] = { A = "192.0.2.9", ttl = 5 },
    ["big.example.test"] = { TXT = big },
    ["1.2.0.192.in-addr.arpa"] = { PTR = "example.test" },
    ["2.0.192.in-addr.arpa"] = { SOA = { "ns.example.test", "hostmaster.example.test", 1, 7200, 900, 1209600, 60 } },
  }
]]

local function start(...)
  return host.run {
    "dns", "listen=udp:127.0.0.1:0", "zone=" .. host.script(ZONE, "zone.lua"), listening = 2, ...,
  }
end

-- One whose two ports have the same number, as dig wants it: the number that UDP got must be free for TCP.
local function startOnOne()
  for _ = 1, 10 do
    local h = start()
    local port = h.port
    h:stop()
    local ok, found = pcall(host.run, {
      "dns", "listen=udp:127.0.0.1:" .. port, "zone=" .. host.folder() .. "/zone.lua", listening = 2,
    })
    if ok then
      return found
    end
  end
  error "no port is free for both"
end

local function dig(h, ...)
  local status, out, log = process.run {
    "dig", "@127.0.0.1", "-p", h.port, "+tries=1", "+time=10", "+noidnin", "+noidnout", ...,
  }
  assert.equal(0, status, out .. log)
  return out
end

-- The lines of `dig +short`, in order of the alphabet.
local function short(h, ...)
  local lines = {}
  for line in dig(h, "+short", ...):gmatch "[^\n]+" do
    lines[#lines + 1] = line
  end
  table.sort(lines)
  return table.concat(lines, " ")
end

local function name(text)
  return (text:gsub("([^.]+)%.?", function(label) return string.char(#label) .. label end)) .. "\0"
end

local HEAD = "\18\52\1\0\0\1\0\0\0\0\0\0"
local QUESTION = name "example.test" .. "\0\1\0\1"

-- Asks over TCP, where lengths stand before messages; the answer, or nil where there is none.
local function ask(h, message)
  local c = h:connect(nil, 2)
  c:send(string.char(math.floor(#message / 256), #message % 256) .. message)
  c:halfClose()
  local all = c:receiveAll()
  return #all > 2 and all:sub(3) or nil
end

describe("the bundled service dns", function()
  after_each(host.cleanup)

  it("answers dig, for each type, whatever the letters", function()
    local h = start()
    for _, row in ipairs {
      { "192.0.2.1 192.0.2.2", "example.test" }, { "192.0.2.1 192.0.2.2", "A", "EXAMPLE.Test" },
      { "2001:db8::1", "AAAA", "example.test" },
      { "10 mail.example.test. 20 mail2.example.test.", "MX", "example.test" },
      { "ns.elsewhere.test. ns.example.test.", "NS", "example.test" },
      { "ns.example.test. hostmaster.example.test. 7 7200 900 1209600 60", "SOA", "example.test" },
      { '"v=spf1 mx -all" "' .. ("x"):rep(255) .. '" "' .. ("x"):rep(45) .. '"', "TXT", "example.test" },
      { "alias.example.test.", "CNAME", "www.example.test" }, { "example.test.", "-x", "192.0.2.1" },
      { "192.0.2.1 192.0.2.2 alias.example.test. example.test.", "www.example.test" },
      { "2001:db8::1 alias.example.test. example.test.", "AAAA", "WWW.example.test" },
      { "alias.example.test. example.test.", "SRV", "www.example.test" }, { "www.elsewhere.test.", "out.example.test" },
      { "", "SRV", "example.test" }, { "", "deep.example.test" },
    } do
      assert.equal(row[1], short(h, row[2], row[3]), row[2] .. (row[3] or ""))
      assert.equal(row[1], (short({ port = h.endpoints[2].port }, "+tcp", row[2], row[3])), row[2] .. (row[3] or ""))
    end
    assert.matches("status: NOERROR", dig(h, "loop.example.test"))
  end)

  it("says what is not there, and for how long", function()
    local h = start()
    local out = dig(h, "none.example.test")
    assert.matches("status: NXDOMAIN", out)
    assert.matches("flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1", out)
    assert.matches("\nexample%.test%.%s+60%s+IN%s+SOA%s+ns%.example%.test%.", out)
    out = dig(h, "AAAA", "deep.Example.test")
    assert.matches("status: NOERROR", out)
    assert.matches("ANSWER: 0, AUTHORITY: 1", out)
    assert.matches("\nExample%.test%.%s+60%s+IN%s+SOA", out)
    for _, words in ipairs { { "example.org" }, { "test" }, { "." }, { "-c", "CH", "example.test" } } do
      out = dig(h, unpack(words))
      assert.matches("status: REFUSED", out)
      assert.matches("flags: qr rd; ", out)
    end
    assert.matches("\na%.deep%.example%.test%.%s+5%s+IN%s+A%s+192%.0%.2%.9\n", dig(h, "a.deep.example.test"))
    assert.matches("ANSWER: 1, AUTHORITY: 0", (dig(h, "+notcp", "ANY", "a.deep.example.test")))
  end)

  it("refuses to send a whole zone", function()
    local peer = udp.connect(start().port)
    for _, type in ipairs { "\251", "\252" } do
      local reply = peer:ask("\0\7\0\0\0\1\0\0\0\0\0\0\7example\4test\0\0" .. type .. "\0\1")
      assert.same({ 128, 5, 0, 1, 0, 0, 0, 0 }, { reply:byte(3, 10) })
    end
  end)

  it("cuts what does not fit into a datagram, and dig asks again by TCP", function()
    local h = startOnOne()
    local out = dig(h, "+ignore", "TXT", "big.example.test")
    assert.matches("flags: qr aa tc rd; QUERY: 1, ANSWER: 0", out)
    out = dig(h, "TXT", "big.example.test")
    assert.matches("Truncated, retrying in TCP mode", out)
    assert.matches("ANSWER: 100", out)
  end)

  it("keeps to the size that the client says by EDNS, and to 512 bytes without", function()
    local h = start()
    local function size(...)
      local out = dig(h, "+ignore", "TXT", "example.test", ...)
      return tonumber(out:match "MSG SIZE  rcvd: (%d+)"), out:find "flags: qr aa tc" ~= nil
    end
    local whole = size "+bufsize=1232"
    assert.is_true(whole > 380 and whole < 512)
    assert.same({ whole - 11, false }, { size "+noedns" })
    assert.same({ whole, false }, { size "+bufsize=100" })
    local out = dig(h, "+edns=1", "+noednsnegotiation", "example.test")
    assert.matches("status: BADVERS", out)
    assert.matches("EDNS: version: 0, flags:; udp: 1232", dig(h, "example.test"))
    assert.falsy(dig(h, "+noedns", "example.test"):find("EDNS", 1, true))
  end)

  it("takes many questions on one connection, cut anywhere", function()
    local h = start()
    local c = h:connect(nil, 2)
    local message = HEAD .. QUESTION
    local all = (string.char(0, #message) .. message):rep(20)
    for at = 1, #all, 11 do
      c:send(all:sub(at, at + 10))
    end
    c:halfClose()
    local answers, ending = c:receiveAll()
    assert.equal("eof", ending)
    local first = answers:sub(1, #answers / 20)
    assert.equal(first:rep(20), answers)
    assert.equal("\18\52\133\0\0\1\0\2\0\0\0\0" .. QUESTION, first:sub(3, 2 + #message))
  end)

  it("refuses what is no question, and answers no answer", function()
    local h = start()
    local function code(message)
      local answer = ask(h, message)
      return answer and answer:sub(1, 2) == "\18\52" and answer:byte(3) >= 128 and answer:byte(4) % 16
    end
    assert.equal(0, code(HEAD .. QUESTION))
    assert.equal(4, code("\18\52\41\0\0\1\0\0\0\0\0\0" .. QUESTION)) -- another opcode
    assert.equal(1, code(HEAD))
    assert.equal(1, code(HEAD .. "\7example\4test"))
    assert.equal(1, code(HEAD .. name "example.test" .. "\0\1\0"))
    assert.equal(1, code("\18\52\1\0\0\2\0\0\0\0\0\0" .. QUESTION .. QUESTION))
    assert.equal(1, code "\18\52\1\0\0\0\0\0\0\0\0\0")
    assert.equal(5, code(HEAD .. "\63example\0\0\1\0\1"))
    assert.equal(5, code(HEAD .. "\192\12\0\0\1\0\1"))
    assert.equal(5, code(HEAD .. "\3a\0b\7example\4test\0\0\1\0\1"))
    assert.is_nil(ask(h, "\18\52\129\0\0\1\0\0\0\0\0\0" .. QUESTION))
    assert.is_nil(ask(h, "\18\52\1\0\0\1"))
  end)

  it("goes on whatever comes", function()
    local h = start()
    math.randomseed(11)
    local c = h:connect(nil, 2)
    for _ = 1, 2000 do
      local message = (HEAD .. QUESTION .. "\0\0\41\4\208\0\0\0\0\0\0"):gsub(".", function(byte)
        return math.random(20) == 1 and string.char(math.random(0, 255)) or byte
      end)
      message = math.random(5) == 1 and message:sub(1, math.random(#message)) or message
      if #message >= 12 then
        message = message:sub(1, 2) .. "\1" .. message:sub(4) -- a question, so that it is answered
        c:send(string.char(0, #message) .. message)
        local size = c:receive(2)
        assert.is_true(#c:receive(size:byte(1) * 256 + size:byte(2)) >= 12)
      end
    end
    assert.equal(0, h:logged "error")
  end)

  it("refuses to start with a zone that is none, and says why", function()
    for text, message in pairs {
      ["return { ['a.test'] = { A = '192.0.2.1' } }"] = "'a.test' is in no zone",
      ["return { ['a.test'] = { SOA = { 'a', 'b', 1, 2, 3, 4, 5 }, A = '192.0.2' } }"] = "'192.0.2' is no such address",
      ["return { ['a.test'] = { SOA = { 'a', 'b', 1, 2, 3, 4, 5 }, X = 1 } }"] = "there is no type X here",
      ["return {"] = "zone.lua:1:",
    } do
      local status, _, log = host.command {
        "run", "dns", "listen=udp:127.0.0.1:0", "zone=" .. host.script(text, "zone.lua"),
      }
      assert.equal(1, status)
      assert.truthy(log:find(message, 1, true), log)
    end
  end)

  it("reads the zone again when it is reloaded", function()
    local h = start()
    assert.equal("192.0.2.9", short(h, "a.deep.example.test"))
    host.script(ZONE:gsub("192%.0%.2%.9", "192.0.2.10"), "zone.lua")
    assert.equal(0, (host.command { "reload", "--force" }))
    assert.equal("192.0.2.10", short(h, "a.deep.example.test"))
    host.script("return {", "zone.lua")
    assert.equal(1, (host.command { "reload", "--force" }))
    assert.equal("192.0.2.10", short(h, "a.deep.example.test"))
  end)
end)
