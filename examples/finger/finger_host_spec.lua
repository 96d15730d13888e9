-- What finger does with real connections: `build/skald test examples/finger` runs this inside a host. `await`
-- waits for what has yet to come, and what a test leaves open fails it.

local defer = require "skald.defer"
local stream = require "skald.stream"
local testing = require "skald.testing"

local await = defer.await

local LOOPBACK = "tcp:127.0.0.1:0" -- a port that the system chooses

local function ask(service, question)
  local peer = await(stream.connect(service:getEndpoint()))
  peer:write(question .. "\r\n")
  local answer = peer:readLine()
  peer:close()
  return answer
end

describe("finger in a host", function()
  local office, finger

  before_each(function()
    office = testing.serve("05_answer.lua", { listen = LOOPBACK })
    finger = testing.serve("finger.lua", { listen = LOOPBACK, office = office:getEndpoint() })
  end)

  it("asks another host for its users", function()
    assert.equal("alice is painting the fence", ask(finger, "alice@office"))
  end)

  it("says so when that does not answer", function()
    await(office:stop())
    assert.matches("^alice@office: cannot connect", ask(finger, "alice@office"))
  end)

  it("forgets no question at a reload", function()
    assert.equal("bob sleeps until noon (asked once)", ask(finger, "bob"))
    assert.equal("committed", await(finger:reload()).result)
    assert.equal("bob sleeps until noon (asked 2 times)", ask(finger, "bob"))
  end)
end)
