-- TLS: handshakes that are cut off, or of which bytes are changed, and floods of them.

local certificates = require "support.certificates"
local host = require "support.host"
local process = require "support.process"

local LOAD = "build/bench/tls_load"
local COUNT = host.long and 10000 or (host.sanitized and 400 or 1000)

local script = [[
  local reactor = require "skald.reactor"
  local P, live, most = {}, 0, 0
  function P:connectionMade() live = live + 1 end
  function P:dataReceived(data) self.transport:write(data) end
  function P:connectionLost() live = live - 1 end
  local Q = {}
  function Q:dataReceived() self.transport:write(live .. "\n") end
  local o = ...
  return { { name = "echo", listen = o.at, protocol = P }, { name = "count", listen = "tcp:127.0.0.1:0", protocol = Q } }
]]

-- Waits until `done` is true of how many the host knows that it has not told the end of.
local function awaitLive(h, done)
  local c, live = h:connect(nil, 2), nil
  process.sys.await(function()
    live = tonumber(c:send("?"):line())
    return done(live)
  end, function()
    return h:story(("there are %d connections"):format(live))
  end)
  c:close()
end

local function none(live)
  return live == 0
end

describe("of broken handshakes", function()
  local own, h

  before_each(function()
    own = certificates.selfSigned("localhost", { "localhost" })
    h = host.serve(script, { "at=" .. certificates.endpoint(own), listening = 2 })
  end)
  after_each(host.cleanup)

  local function fuzz(count, seed, how)
    local status, out, log = process.run { LOAD, "fuzz", h.endpoints[1].port, count, seed, how, deadline = 600 }
    assert.equal(0, status, log)
    local ended, reset, late = out:match "ended (%d+) reset (%d+) late (%d+)"
    return tonumber(ended) + tonumber(reset), tonumber(late)
  end

  for how, words in pairs { truncate = "cut off", mutate = "changed" } do
    it(("each that is %s ends, and nothing of it is left"):format(words), function()
      fuzz(100, 7, how)
      awaitLive(h, none)
      local before = h:memory()
      local ended, late = fuzz(COUNT, 11, how)
      assert.same({ COUNT, 0 }, { ended, late })
      awaitLive(h, none)
      if not host.sanitized then
        local grown = h:memory() - before
        assert.is_true(grown < 1e6 + COUNT * 50, grown .. " bytes more")
      end
      assert.truthy(certificates.sclient(h.endpoints[1].port, "", { "-brief" }):find "ESTABLISHED")
      h:stop()
    end)
  end
end)

describe("a flood of handshakes", function()
  after_each(host.cleanup)

  it("is served beside connections that are there, and leaves nothing", function()
    local own = certificates.selfSigned("localhost", { "localhost" })
    local h = host.serve(script, { "at=" .. certificates.endpoint(own), listening = 2 })
    local port = h.endpoints[1].port
    local s = process.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-quiet" }
    local function echoes(from, to)
      for i = from, to do
        s:write(i .. "\n")
        s:line(("^%d$"):format(i))
      end
    end
    echoes(1, 1)
    local flood = process.start { LOAD, "flood", port, "600", "100" }
    awaitLive(h, function(live) return live > 500 end)
    echoes(2, 20)
    assert.is_nil(flood:reap())
    flood:kill "TERM"
    flood:wait()
    s:closeInput()
    s:kill "TERM"
    s:wait()
    awaitLive(h, none)
    h:stop()
  end)
end)
