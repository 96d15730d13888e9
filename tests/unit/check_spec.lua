local check = require "skald.check"
local protocol = require "skald.protocol"

local function problems(definition, source)
  return check.definition(definition, "x.lua", source or "")
end

describe("check", function()
  it("takes two letters swapped, one missing or doubled, and the case, for slips", function()
    for _, slip in ipairs { "dataRecieved", "dataReceved", "dataReceiveed", "datareceived", "adtaReceived" } do
      assert.is_true(check.isSlip(slip, "dataReceived"), slip)
    end
  end)

  it("takes plurals and real words for nobody's slip", function()
    for word, meant in pairs { names = "name", stats = "state", reach = "each", listener = "listen", lock = "clock" } do
      assert.is_false(check.isSlip(word, meant), word)
    end
    assert.is_false(check.isSlip("name", "name"))
  end)

  it("accepts a definition that is right", function()
    assert.same({}, problems { listen = "tcp:0", protocol = {}, names = {}, stats = {}, maxConnections = 3 })
    assert.same({}, problems { listen = { "tcp:0", "unix:/x" }, buildProtocol = function() end })
    assert.same({}, problems(protocol.Factory { listen = "tcp:0", protocol = protocol.Protocol {} }))
  end)

  it("names the key that was meant, and the line where the slip stands", function()
    local source = 'return {\n  listen = "tcp:0",\n  protcol = {},\n}\n'
    local found = problems({ listen = "tcp:0", protcol = {} }, source)
    assert.equal("x.lua:3: a factory has no 'protcol': is 'protocol' meant?", found[1])
  end)

  it("looks for slips in the protocol and in the classes below it", function()
    local Base = protocol.Protocol { connectionmade = function() end }
    local found = problems { listen = "tcp:0", protocol = Base {} }
    assert.matches("a protocol has no 'connectionmade': is 'connectionMade' meant", found[1])
  end)

  it("does not mind a near miss whose value is of another kind", function()
    assert.same({}, problems { listen = "tcp:0", protocol = { dataRecieved = 7 } })
  end)

  it("says what a key takes", function()
    assert.matches("protocol takes a table, not a string", problems({ listen = "tcp:0", protocol = "Echo" })[1])
    assert.matches("maxConnections takes a number", problems({ listen = "tcp:0", protocol = {}, maxConnections = "9" })[1])
    assert.matches("dataReceived takes a function", problems({ listen = "tcp:0", protocol = { dataReceived = 1 } })[1])
    assert.matches("idleTimeout takes a number from 0", problems({ listen = "tcp:0", protocol = {}, idleTimeout = -1 })[1])
    assert.matches("lowWater %(9%) is above highWater %(8%)",
      problems({ listen = "tcp:0", protocol = {}, highWater = 8, lowWater = 9 })[1])
  end)

  it("refuses a receiver that could not work", function()
    local basic = require "skald.basic"
    assert.matches("the delimiter is empty", problems({ listen = "tcp:0", protocol = basic.LineReceiver { delimiter = "" } })[1])
    assert.matches("MAX_LENGTH takes a number of bytes from 0, not %-5",
      problems({ listen = "tcp:0", protocol = basic.NetstringReceiver { MAX_LENGTH = -5 } })[1])
  end)

  it("wants a protocol and an endpoint", function()
    assert.matches("no protocol", problems({ listen = "tcp:0" })[1])
    assert.matches("no listen", problems({ protocol = {} })[1])
    assert.same({}, check.definition({ protocol = {} }, "x.lua", "", { listen = "tcp:0" }))
    assert.matches("empty list", problems({ listen = {}, protocol = {} })[1])
    assert.matches("column 5", problems({ listen = "tcp:x", protocol = {} })[1])
    assert.matches("listen takes strings", problems({ listen = { 80 }, protocol = {} })[1])
  end)
end)
