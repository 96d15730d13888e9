-- Finger, step 3: read one line, and hang up.
--
--   build/skald run examples/finger/03_line.lua
--   printf 'alice\r\n' | nc 127.0.0.1 7079          ends without an answer
--   (printf ali; sleep 1; printf 'ce\r\n') | nc 127.0.0.1 7079
--
-- prints "asked for alice", twice. A network cuts what is sent wherever it likes. LineReceiver puts it
-- together: lineReceived gets whole lines, without their ends.

local basic = require "skald.basic"

local Finger = basic.LineReceiver {}

function Finger:lineReceived(name)
  print("asked for " .. name)
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7079", protocol = Finger }
