-- TLS sessions that are resumed: what a server lets pass, and what it looks at anew.

local certificates = require "support.certificates"
local host = require "support.host"

local NAMES = { "localhost", "127.0.0.1" }

describe("a TLS server", function()
  local own, session, h

  before_each(function()
    own = certificates.selfSigned("localhost", NAMES)
    session = host.folder() .. "/session"
  end)
  after_each(host.cleanup)

  local function serve(more)
    h = host.serve([[
      local P = {}
      function P:dataReceived(data)
        if data == "renew\n" then
          require "skald.tls".renewTickets()
        end
        self.transport:write(data)
        self.transport:loseConnection()
      end
      return { listen = (...).at, protocol = P }]], { "at=" .. certificates.endpoint(own, more) })
  end

  local function shake(version, word, ...)
    local log = certificates.sclient(h.port, "x\n", { "-ign_eof", version, word, session, ... })
    return log:match "\n(%a+), TLSv" or log, log
  end

  local function begin(version, ...)
    assert.equal("New", (shake(version, "-sess_out", ...)))
  end

  local function resume(version, ...)
    return (shake(version, "-sess_in", ...))
  end

  for _, version in ipairs { "-tls1_2", "-tls1_3" } do
    describe("by " .. version, function()
      it("resumes sessions, also after a reload with another certificate of the same names", function()
        serve()
        begin(version)
        assert.equal("Reused", resume(version))
        own = certificates.selfSigned("localhost", NAMES)
        assert.equal(0, (host.command { "reload" }))
        assert.equal("Reused", resume(version))
      end)

      it("resumes none after a reload with a certificate of other names", function()
        serve()
        begin(version)
        own = certificates.selfSigned("localhost", { "other.example" })
        assert.equal(0, (host.command { "reload" }))
        assert.equal("New", resume(version))
      end)

      it("resumes none after a reload that asks for certificates of another authority", function()
        local first = certificates.selfSigned("first", nil)
        local friend = certificates.signed(first, "friend")
        local words = { "-cert", friend.certificate, "-key", friend.key }
        serve("clientCA=" .. first.certificate)
        begin(version, unpack(words))
        assert.equal("Reused", resume(version, unpack(words)))
        certificates.selfSigned("first", nil)
        assert.equal(0, (host.command { "reload" }))
        local log = select(2, shake(version, "-sess_in", unpack(words)))
        assert.is_nil(log:find "\nReused")
        assert.truthy(log:find "alert unknown ca" or log:find "alert certificate unknown", log)
      end)

      it("resumes what the former key has sealed, and not what one before that has", function()
        serve()
        begin(version)
        local function renew()
          certificates.sclient(h.port, "renew\n", { "-ign_eof", "-quiet" })
        end
        renew()
        assert.equal("Reused", resume(version))
        renew()
        assert.equal("New", resume(version))
      end)
    end)
  end

  it("hands a session on from ticket to ticket, unless the client has shown a certificate", function()
    serve()
    begin "-tls1_3"
    local log = select(2, shake("-tls1_3", "-sess_in"))
    assert.truthy(log:find "\nReused" and log:find "New Session Ticket arrived", log)
    h:stop()
    local authority = certificates.selfSigned("authority", nil)
    local friend = certificates.signed(authority, "friend")
    local words = { "-cert", friend.certificate, "-key", friend.key }
    serve("clientCA=" .. authority.certificate)
    begin("-tls1_3", unpack(words))
    log = select(2, shake("-tls1_3", "-sess_in", unpack(words)))
    assert.truthy(log:find "\nReused" and not log:find "New Session Ticket arrived", log)
  end)
end)
