-- The zone of the DNS benchmark: the names that dns.c has in its table.
local zone = {
  ["bench.test"] = { SOA = { "ns.bench.test", "admin.bench.test", 1, 7200, 900, 86400, 300 }, ttl = 300 },
}

for i = 0, 999 do
  zone["host" .. i .. ".bench.test"] = { A = "192.0.2.1" }
end

return zone
