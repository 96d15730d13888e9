-- echo_udp.lua - an echo of datagrams, for the benchmarks.
local Echo = {}
function Echo:datagramReceived(data, from)
  self.transport:write(data, from)
end
return { listen = "udp:127.0.0.1:0", protocol = Echo }
