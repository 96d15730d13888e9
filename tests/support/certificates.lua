-- Certificates for tests, made by the openssl command in the test's folder: an authority, and what it signs.

local host = require "support.host"
local process = require "support.process"

local certificates = {}

local function openssl(argv)
  local status, _, log = process.run { "openssl", unpack(argv) }
  assert(status == 0, log)
end

local function names(list)
  local parts = {}
  for i, name in ipairs(list) do
    parts[i] = (name:find "^[%d.:]+$" and "IP:" or "DNS:") .. name
  end
  return table.concat(parts, ",")
end

local EC = { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256" }

local RSA = { "-newkey", "rsa:2048", "-sha256" }

--- A certificate that signs itself: `{ certificate, key }`, both paths, called `name` and valid for the list. Fields
--- of `words`: `kind`, "RSA" or (default) "EC"; `file`, what the files are called.
function certificates.selfSigned(name, list, words)
  local base = ("%s/%s"):format(host.folder(), words and words.file or name)
  local made = { certificate = base .. ".pem", key = base .. ".key" }
  local argv = { "req", "-x509", "-nodes", "-keyout", made.key, "-out", made.certificate, "-days", "30", "-subj",
    "/CN=" .. name }
  for _, word in ipairs(words and words.kind == "RSA" and RSA or EC) do
    argv[#argv + 1] = word
  end
  if list then
    argv[#argv + 1] = "-addext"
    argv[#argv + 1] = "subjectAltName=" .. names(list)
  end
  for _, word in ipairs(words or {}) do
    argv[#argv + 1] = word
  end
  openssl(argv)
  return made
end

--- One that `authority` (such as selfSigned gives) has signed.
function certificates.signed(authority, name, list, days)
  local base = ("%s/%s"):format(host.folder(), name)
  local made = { certificate = base .. ".pem", key = base .. ".key" }
  openssl { "req", EC[1], EC[2], EC[3], EC[4], "-nodes", "-keyout", made.key, "-out", base .. ".csr",
    "-subj", "/CN=" .. name }
  local extensions = host.file(name .. ".ext", "subjectAltName=" .. names(list or { name }) .. "\n")
  openssl { "x509", "-req", "-in", base .. ".csr", "-CA", authority.certificate, "-CAkey", authority.key,
    "-CAcreateserial", "-days", tostring(days or 30), "-extfile", extensions, "-out", made.certificate }
  return made
end

--- The endpoint of a server with this certificate on a port of the system's choice.
function certificates.endpoint(made, more)
  more = more and ":" .. more or ""
  return ("tls:127.0.0.1:0:certificate=%s:privateKey=%s%s"):format(made.certificate, made.key, more)
end

--- What `openssl s_client` says; `words` follow the port, `text` goes in.
function certificates.sclient(port, text, words)
  local argv = { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, unpack(words or {}) }
  argv.input = host.file("s_client.in", text or "")
  local status, out, log = process.run(argv)
  return out .. log, status
end

return certificates
