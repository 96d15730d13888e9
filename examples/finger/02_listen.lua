-- Finger, step 2: a server that lets everybody in, and listens.
--
--   build/skald run examples/finger/02_listen.lua
--   nc 127.0.0.1 7079          stays connected, whatever you type; Ctrl-C ends it
--
-- prints who came, how much they said, and why they left. Each connection has a protocol of its own;
-- with `protocol`, the factory makes them by itself.

local protocol = require "skald.protocol"

local Finger = protocol.Protocol {}

function Finger:connectionMade()
  print("here is " .. tostring(self.transport:getPeer()))
end

function Finger:dataReceived(data)
  print(("%d bytes came"):format(#data))
end

function Finger:connectionLost(reason)
  print("gone: " .. tostring(reason))
end

return { listen = "tcp:127.0.0.1:7079", protocol = Finger }
