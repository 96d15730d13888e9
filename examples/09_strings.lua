-- An echo of strings that know their length: any bytes may be in them.
--
--   build/skald run examples/09_strings.lua
--   printf '\0\0\0\5hello' | nc -N 127.0.0.1 7025 | od -c
--
-- Each string goes behind its length, as 32 bits with the highest first. Int16StringReceiver and
-- Int8StringReceiver take shorter lengths, NetstringReceiver takes "5:hello,".

local basic = require "skald.basic"

local StringEcho = basic.Int32StringReceiver {
  MAX_LENGTH = 1000000, -- whoever announces a longer one is closed
}

function StringEcho:stringReceived(text)
  self:sendString(text)
end

return { listen = "tcp:127.0.0.1:7025", protocol = StringEcho }
