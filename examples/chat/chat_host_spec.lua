-- The chat with real connections: `build/skald test examples/chat` runs this inside a host.

local defer = require "skald.defer"
local stream = require "skald.stream"
local testing = require "skald.testing"

local await = defer.await

describe("the chat in a host", function()
  local chat

  local function enter(name)
    local peer = await(stream.connect(chat:getEndpoint()))
    peer:write(name .. "\n")
    peer:readLine() -- the question
    peer:readLine() -- the welcome
    return peer
  end

  before_each(function()
    chat = testing.serve("chat.lua", { listen = "tcp:127.0.0.1:0" })
  end)

  it("lets those in one room hear each other", function()
    local ann, ben = enter "ann", enter "ben"
    assert.equal("* ben is here", ann:readLine())
    ben:write "hello\n"
    assert.equal("<ben> hello", ann:readLine())
    ben:close()
    assert.equal("* ben is gone", ann:readLine())
    ann:close()
  end)

  it("gives a name to one at a time", function()
    local ann = enter "ann"
    local other = await(stream.connect(chat:getEndpoint()))
    other:write "ann\n"
    other:readLine()
    assert.equal("ann is here already. What is your name?", other:readLine())
    other:close()
    ann:close()
  end)

  it("keeps its people, their rooms and what they said across a reload", function()
    local ann = enter "ann"
    ann:write "/join garden\nhello\n"
    ann:readLine()
    assert.equal("committed", await(chat:reload()).result)
    ann:write "/who\n/said ann\n"
    assert.equal("ann", ann:readLine())
    assert.equal("hello", ann:readLine())
    ann:close()
  end)
end)
