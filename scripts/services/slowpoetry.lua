-- Slow poetry: a poem a few bytes at a time, on a timer for each connection.
--   skald run slowpoetry listen=tcp:127.0.0.1:7002 bytes=10 delay=0.7 poem=lorelei

local reactor = require "skald.reactor"
local texts = require "skald.texts"

local options = ...
local poem = texts.poem(options.poem or "ozymandias")

local function number(name, default, least)
  local text = options[name]
  local value = tonumber(text or default)
  if not value or value < least or value ~= value or value == math.huge then
    error(("%s=%s: a number from %s is wanted"):format(name, tostring(text), least), 0)
  end
  return value
end

local bytes = math.floor(number("bytes", 10, 1))
local delay = number("delay", 0.7, 0)

local SlowPoetry = {}

function SlowPoetry:connectionMade()
  self.sent = 0
  self:recite()
end

function SlowPoetry:recite()
  self.transport:write(poem:sub(self.sent + 1, self.sent + bytes))
  self.sent = self.sent + bytes
  if self.sent >= #poem then
    self.timer = nil
    self.transport:loseConnection()
  else
    self.timer = reactor.callLater(delay, self.recite, self)
  end
end

function SlowPoetry:connectionLost()
  if self.timer then
    self.timer:cancel()
  end
end

return { listen = "tcp:127.0.0.1:7002", protocol = SlowPoetry }
