-- Discard (RFC 863): takes everything, says nothing.
--   skald run discard listen=tcp:127.0.0.1:7009

local Discard = {}

return { listen = "tcp:127.0.0.1:7009", protocol = Discard }
