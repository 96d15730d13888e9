-- What NAME does.  Run it with:  skald test NAME_spec.lua

local await = require("skald.defer").await
local stream = require "skald.stream"
local testing = require "skald.testing"

local definition = require "NAME"

-- The protocol alone: fed by hand, no socket, nobody else.
describe("the protocol of NAME", function()
  local protocol, transport

  before_each(function()
    protocol = definition.protocol:new()
    protocol.factory = { state = { things = {} } }
    transport = testing.StringTransport:new()
    protocol:makeConnection(transport)
    transport:clear() -- the greeting
  end)

  it("numbers what is added", function()
    protocol:dataReceived "add milk\nadd two eggs\n"
    assert.equal("1: milk\n2: two eggs\n", transport:value())
  end)

  it("takes a line in pieces, and with a carriage return", function()
    for _, piece in ipairs(testing.chunks("add milk\r\n", 3)) do
      protocol:dataReceived(piece)
    end
    assert.equal("1: milk\n", transport:value())
  end)

  it("says what it does not understand", function()
    protocol:dataReceived "frobnicate\n"
    assert.equal("'frobnicate' is no command\n", transport:value())
  end)

  it("closes when it is asked to", function()
    protocol:dataReceived "quit\n"
    assert.is_true(transport.disconnecting)
  end)
end)

-- The service as it runs, with real connections: `await` waits for what has yet to come.
describe("NAME", function()
  local service, peer

  before_each(function()
    service = testing.serve("NAME.lua", { listen = "tcp:127.0.0.1:0" })
    peer = await(stream.connect(service:getEndpoint()))
    peer:readLine() -- the greeting
  end)

  after_each(function()
    peer:close() -- what a test leaves open fails it
  end)

  it("keeps what one adds for the other", function()
    peer:write "add milk\n"
    assert.equal("1: milk", peer:readLine())
    local other = await(stream.connect(service:getEndpoint()))
    other:readLine()
    other:write "list\n"
    assert.equal("1: milk", other:readLine())
    other:close()
  end)

  it("keeps connections and list across a reload", function()
    peer:write "add milk\n"
    assert.equal("1: milk", peer:readLine())
    local report = await(service:reload())
    assert.equal("committed", report.result)
    peer:write "add eggs\n"
    assert.equal("2: eggs", peer:readLine())
  end)
end)
