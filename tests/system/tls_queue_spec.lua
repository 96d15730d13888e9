-- TLS servers whose clients do not say what they should, or nothing at all.

local certificates = require "support.certificates"
local host = require "support.host"

local MANY = 600 -- more than there are places

describe("a TLS server with more clients than it has places for handshakes", function()
  local h

  before_each(function()
    local own = certificates.selfSigned("localhost", { "localhost", "127.0.0.1" })
    h = host.serve([[
      local P = {}
      function P:dataReceived(data) self.transport:write(data) end
      function P:connectionLost(reason) print("lost", reason.code, reason.by, reason.message) end
      return { listen = (...).at, protocol = P }
    ]], { "at=" .. certificates.endpoint(own, "handshakeTimeout=600") })
  end)
  after_each(host.cleanup)

  local function connect(count, text)
    local clients = {}
    for i = 1, count do
      clients[i] = h:connect()
      if text then
        clients[i]:send(text)
      end
    end
    return clients
  end

  local function isServed()
    local log = certificates.sclient(h.port, "", { "-brief" })
    assert.truthy(log:find "ESTABLISHED", log)
  end

  it("serves who speaks, however many say nothing", function()
    local silent = connect(MANY)
    isServed()
    assert.equal(MANY, #silent)
    assert.is_false(h:has "^lost\ttimeout")
  end)

  it("serves who speaks, after those who fell silent in the midst of it", function()
    local silent = connect(MANY, "\22\3\1")
    isServed()
    assert.truthy(h:line "^lost\ttimeout\thost\t(.*)$":find("no TLS handshake within 1 s, while others wait", 1, true))
    assert.equal(MANY, #silent)
  end)

  it("ends none who fell silent, as long as there are places", function()
    local silent = connect(20, "\22\3\1")
    isServed()
    assert.equal(20, #silent)
    h:line "^lost\tdone"
    assert.is_false(h:has "^lost\ttimeout")
  end)

  it("serves all who come at the same time, in the end", function()
    local silent = connect(MANY, "\22\3\1")
    for _, client in ipairs(silent) do
      client:close()
    end
    for _ = 1, MANY do
      h:line "^lost\t" -- where it takes long, the first of them have been silent for a second
    end
    isServed()
  end)
end)
