-- What the host gives to scripts is what the reference names; what a user installs is enough for specs and editors.

local host = require "support.host"
local process = require "support.process"
local reference = require "support.reference"

-- Each thing that a script has of the host, by the heading of the reference that its functions stand under.
local SCRIPT = [[
  local P = {}
  local function publish(heading, things)
    for name, value in pairs(things) do
      if type(name) == "string" and not name:find "^_" and type(value) == "function" then
        print("published", heading .. name)
      end
    end
    print("published", "end")
  end
  function P:connectionMade()
    local reactor = require "skald.reactor"
    local call = reactor.callLater(1000, print)
    publish("reactor.", reactor)
    publish("log.", require "skald.log")
    publish("client.", require "skald.client")
    publish("service.", require "skald.service")
    publish("Transport:", getmetatable(self.transport).__index)
    publish("DelayedCall:", getmetatable(call).__index)
    call:cancel()
    publish("ClientService:", require "skald.client".ClientService)
  end
  return { listen = "tcp:127.0.0.1:0", protocol = P }
]]

local THINGS = 7

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

-- The headings of all pages.
local function documented()
  local known = {}
  for _, text in pairs(reference.render()) do
    for heading in text:gmatch "\n##+ ([^\n]+)" do
      known[heading] = true
    end
  end
  return known
end

-- What sources say is the library's own, and what they say is not in this version.
local function excused()
  local found = {}
  for _, source in ipairs(reference.sources()) do
    for _, member in ipairs(source.members) do
      if member.doc and member.doc.private then
        found[member.owner .. ":" .. member.name] = true
      end
    end
    for names, owner in source.text:gmatch "for _, name in ipairs (%b{}) do\n  (%w+)%[name%] = function%(%)\n    error" do
      for name in names:gmatch '"(%w+)"' do
        found[owner .. "." .. name], found[owner .. ":" .. name] = true, true
      end
    end
  end
  return found
end

describe("what the host publishes", function()
  after_each(host.cleanup)

  it("stands in the reference, but for what is private or not in this version", function()
    local known, own, missing, seen = documented(), excused(), {}, 0
    local h = host.serve(SCRIPT)
    h:connect()
    local ended = 0
    while ended < THINGS do
      local heading = h:line "^published\t(%S+)$"
      if heading == "end" then
        ended = ended + 1
      else
        seen = seen + 1
        if not known[heading] and not own[heading] and not heading:find ":init$" then
          missing[#missing + 1] = heading
        end
      end
    end
    assert.same({}, missing)
    assert.truthy(seen > 30)
  end)
end)

describe("make install-library", function()
  after_each(host.cleanup)

  it("puts the library where LUA_PATH and editors find it", function()
    local share = host.folder() .. "/usr/share/skald/lua"
    local status = process.run { "make", "-s", "install-library", "DESTDIR=" .. host.folder(), "PREFIX=/usr" }
    assert.equal(0, status)
    local words = { "luajit", "-e", 'print(require "skald.defer".succeed(1).called)' }
    words.env = { LUA_PATH = share .. "/?.lua" }
    local code, output = process.run(words)
    assert.same({ 0, "true\n" }, { code, output })
    assert.equal(read "scripts/meta/service.lua", read(share .. "/meta/service.lua"))
  end)
end)
