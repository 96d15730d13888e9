-- A coroutine whose call was cancelled, or whose owner had ended, while it waited for a stream heard nothing of that,
-- and went on in old code when something came.

local async = require "skald.async"
local defer = require "skald.defer"
local failure = require "skald.failure"
local owner = require "skald.owner"
local stream = require "skald.stream"

local Transport = { queued = 0 }
Transport.__index = Transport

function Transport:write(data)
  self.queued = self.queued + #data
  return true
end

function Transport:bufferedAmount()
  return self.queued
end

function Transport:registerProducer(producer)
  self.producer = producer
  return true
end

function Transport:unregisterProducer()
  self.producer = nil
end

describe("a coroutine that waits for a stream", function()
  local who, log, made, result

  local function begin(f)
    who, log = owner.new(), {}
    stream.StreamProtocol {
      handle = function(_, opened)
        made = opened
        defer.await(defer.Deferred:new())
      end,
    }:new():makeConnection(setmetatable({}, Transport))
    owner.call(who, failure.handler, function()
      result = async.async(f)()
    end)
  end

  local function note(...)
    local ok, problem = pcall(...)
    log[#log + 1] = ok and "no error" or problem.type
  end

  local function readTwice()
    note(made.readLine, made)
    note(made.readLine, made)
    return "over"
  end

  it("has CancelledError raised there when its call is cancelled, and may go on", function()
    begin(readTwice)
    result:cancel()
    assert.same({ "CancelledError" }, log)
    made:feed "line\n"
    assert.same({ "CancelledError", "no error" }, log)
    assert.equal("over", result.result)
  end)

  it("has it raised there when its owner ends, and is left where it waits again", function()
    begin(readTwice)
    who:finish()
    made:feed "late\n"
    assert.same({ "CancelledError" }, log)
    assert.equal("CancelledError", result.result.type)
  end)

  it("leaves the stream to others then", function()
    begin(readTwice)
    who:finish()
    local other = async.async(function() return made:readLine() end)()
    made:feed "other\n"
    assert.equal("other", other.result)
  end)

  it("is no producer any more when it is cancelled while it waits for room", function()
    begin(function()
      note(made.write, made, ("x"):rep(100000))
    end)
    assert.truthy(made.transport.producer)
    result:cancel()
    assert.same({ "CancelledError" }, log)
    assert.falsy(made.transport.producer)
  end)

  it("is no producer any more when it was left where it waited for room", function()
    begin(function()
      note(made.write, made, ("x"):rep(100000))
      note(made.write, made, "y")
    end)
    who:finish()
    made:resumeProducing()
    assert.same({ "CancelledError" }, log)
    assert.falsy(made.transport.producer)
  end)
end)
