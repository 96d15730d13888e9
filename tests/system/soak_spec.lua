-- The short forms of the soak (tests/soak), and that its load tool notices what it is there to notice.

local host = require "support.host"
local ports = require "support.ports"
local process = require "support.process"
local json = require "cjson.safe"
local parts = require "soak.parts"

local STEADY = "build/bench/steady"

-- An echo of messages of 32 bytes that does `fault` with the one numbered 5 of connection 3.
local SPOILED = [[
  local protocol = require "skald.protocol"
  local P = protocol.Protocol { rest = "" }
  function P:dataReceived(data)
    self.rest = self.rest .. data
    while #self.rest >= 32 do
      local message = self.rest:sub(1, 32)
      self.rest = self.rest:sub(33)
      if message:sub(1, 19) == "000003 000000000005" then
        %s
      else
        self.transport:write(message .. (self.late or ""))
        self.late = nil
      end
    end
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

-- Counts of the load tool with these words, stopped when it has sent so many.
local function counted(most, kind, ...)
  local load = process.start { STEADY, kind, "rate=1000", "seconds=0", ... }
  load:line "^ready"
  repeat
    load:write "lap\n"
  until json.decode(load:line "^{").sent >= most
  load:write "stop\n"
  local counts = json.decode(load:line "^{")
  counts.status = load:wait()
  return counts
end

local function address(h)
  return h.endpoints[1].endpoint:match "^tcp:(.*)$"
end

-- Counts of the load tool against a server that commits one fault.
local function against(fault)
  local h = host.serve(SPOILED:format(fault))
  local counts = counted(60, "echo", "conns=5", "patience=20", "split=1", address(h))
  h:stop()
  return counts
end

-- Counts of some visits to a server that does something with what comes.
local function visits(answer)
  local h = host.serve(([[
    local P = {}
    function P:dataReceived(data) %s end
    return { listen = "tcp:127.0.0.1:0", protocol = P }
  ]]):format(answer))
  local counts = counted(30, "connect", "sources=4", address(h))
  h:stop()
  return counts
end

-- The kinds of faults that were counted.
local function faults(counts)
  local list = {}
  for _, kind in ipairs { "refused", "reset", "closed", "failed", "lost", "doubled", "reordered", "wrong" } do
    if counts[kind] > 0 then
      list[#list + 1] = kind
    end
  end
  return list
end

describe("the load tool", function()
  after_each(host.cleanup)

  it("finds nothing wrong with an echo, and counts what it sent", function()
    local counts = against "self.transport:write(message)"
    assert.same({}, faults(counts))
    assert.equal(0, counts.status)
    assert.is_true(counts.sent >= 60)
    assert.equal(counts.sent, counts.received)
    assert.equal(5, counts.connections)
  end)

  it("counts a message that comes twice", function()
    local counts = against "self.transport:write(message .. message)"
    assert.same({ "doubled" }, faults(counts))
    assert.equal(1, counts.doubled)
    assert.equal(1, counts.status)
  end)

  it("counts a message that comes after the next one", function()
    local counts = against "self.late = message"
    assert.same({ "reordered" }, faults(counts))
    assert.equal(1, counts.reordered)
    assert.equal(1, counts.status)
  end)

  it("counts a message of another connection", function()
    local counts = against "self.transport:write((message:gsub('^000003', '000004')))"
    assert.same({ "lost", "wrong" }, faults(counts))
    assert.equal(1, counts.lost)
  end)

  it("counts a connection that is closed", function()
    local counts = against "self.transport:loseConnection()"
    assert.equal(1, counts.closed)
    assert.equal(1, counts.status)
    assert.equal(4, counts.connections)
  end)

  it("counts a connection that is reset, and what it never gave back", function()
    local counts = against "self.transport:abortConnection()"
    assert.equal(1, counts.reset)
    assert.is_true(counts.lost > 0)
    assert.equal(1, counts.status)
  end)

  it("finds nothing wrong with visits that are answered", function()
    local counts = visits "self.transport:write(data)"
    assert.same({}, faults(counts))
    assert.equal(0, counts.status)
    assert.is_true(counts.sent >= 30)
    assert.equal(counts.sent, counts.received)
  end)

  it("counts visits that are closed, reset, answered twice or wrongly", function()
    for fault, answer in pairs {
      closed = "self.transport:loseConnection()",
      reset = "self.transport:abortConnection()",
      doubled = "self.transport:write(data .. data)",
      wrong = "self.transport:write(data:reverse())",
    } do
      local counts = visits(answer)
      assert.same({ fault }, faults(counts))
      assert.equal(counts.sent, counts[fault])
      assert.equal(1, counts.status)
    end
  end)

  it("counts visits that are refused", function()
    local counts = counted(30, "connect", "127.0.0.1:" .. ports.tcp())
    assert.same({ "refused" }, faults(counts))
    assert.equal(counts.sent, counts.refused)
    assert.equal(1, counts.status)
  end)
end)

describe("a host that is reloaded under load", function()
  after_each(host.cleanup)

  local function run(name)
    local _, missed = parts.run(name, true)
    assert.equal("", missed)
  end

  it("loses, doubles and reorders no message, whether a new version is good or fails in any phase", function()
    run "load"
  end)

  it("keeps every connection through its good reloads", function()
    run "pause"
  end)

  it("refuses and resets nobody who connects meanwhile", function()
    run "connects"
  end)

  it("answers with what was saved", function()
    run "save"
  end)

  it("finds all names that are looked up, and ends each look-up that is to end", function()
    run "resolve"
  end)

  it("keeps the deadlines of streams whose peers are slow or never read, in bounded memory", function()
    run "streams"
  end)

  it("has a client that is connected again after each death of its server, and holds no more afterwards", function()
    run "clients"
  end)

  it("forwards every byte beside readers that have stopped and others that reset, in bounded memory", function()
    run "forward"
  end)

  it("holds no more generations, descriptors, listeners and timers afterwards", function()
    run "grow"
  end)
end)
