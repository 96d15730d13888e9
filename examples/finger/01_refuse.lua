-- Finger, step 1: a server that lets nobody in.
--
--   build/skald run examples/finger/01_refuse.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          ends at once, without a word
--
-- prints "refused tcp:127.0.0.1:…". For each connection the host asks the factory for a protocol. One
-- that gives nil refuses: the peer sees a clean close.

local protocol = require "skald.protocol"

local FingerFactory = protocol.Factory { listen = "tcp:127.0.0.1:7079" }

function FingerFactory:buildProtocol(address)
  print("refused " .. tostring(address))
  return nil
end

return FingerFactory
