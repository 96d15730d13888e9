-- Finger, the other side: one question to a finger server. A module of steps 9 and 10 and of finger.lua;
-- `require` looks in the folder of the script first.

local basic = require "skald.basic"
local defer = require "skald.defer"
local endpoints = require "skald.endpoints"

local MOST = 100 -- lines that an answer may have

-- `answer` is a Deferred of the whole text.
local Question = basic.LineReceiver {}

function Question:init(name)
  self.name, self.lines = name, {}
  self.answer = defer.Deferred:new(function()
    self.transport:abortConnection()
  end)
end

function Question:connectionMade()
  self:sendLine(self.name)
end

function Question:lineReceived(line)
  table.insert(self.lines, line)
  if #self.lines == MOST then
    self.transport:loseConnection()
  end
end

-- The answer is whole when the connection was closed in order.
function Question:connectionLost(reason)
  if reason.code == "done" then
    self.answer:callback(table.concat(self.lines, "\r\n"))
  else
    self.answer:errback(reason)
  end
end

local question = { Question = Question }

-- A Deferred of what the server at an endpoint says of a user.
function question.ask(endpoint, name)
  local client = endpoints.clientFromString(endpoint)
  return endpoints.connectProtocol(client, Question:new(name)):addCallback(function(asked)
    return asked.answer
  end)
end

return question
