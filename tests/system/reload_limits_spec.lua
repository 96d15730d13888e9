-- What a reload cannot do: one test for each thing that the manual says of it.

local host = require "support.host"
local process = require "support.process"
local reload = require "support.reload"

local commands = host.commands

local function ask(c, text)
  return c:send(text):line()
end

describe("a function that was captured runs old code", function()
  after_each(host.cleanup)

  -- Each way keeps P.word of version 1, and calls it later.
  local captures = {
    ["in a local"] = [[
      function commands.capture(self, t)
        local word = self.word
        self.later = function() return word(self) end
        t:write "ok\n"
      end
      function commands.call(self, t) t:write(self.later() .. "\n") end
    ]],
    ["in a table"] = [[
      function commands.capture(self, t)
        self.factory.handlers = { word = P.word }
        t:write "ok\n"
      end
      function commands.call(self, t) t:write(self.factory.handlers.word(self) .. "\n") end
    ]],
    ["in a callback"] = [[
      local reactor = require "skald.reactor"
      function commands.capture(self, t)
        self.timer = reactor.callLater(1000, function(word) t:write(word(self) .. "\n") end, self.word)
        t:write "ok\n"
      end
      function commands.call(self) self.timer:reset(0) end
    ]],
  }

  for where, capture in pairs(captures) do
    it(where .. ", while what it calls by name is new", function()
      local text = commands([[
        function P:word() return "captured @, " .. self:inner() end
        function P:inner() return "called by name @" end
        function commands.direct(self, t) t:write(self:word() .. "\n") end
      ]] .. capture)
      local c = reload.serve(text):connect()
      assert.equal("ok", ask(c, "capture"))
      reload.commit(text)
      assert.equal("captured 1, called by name 2", ask(c, "call"))
      assert.equal("captured 2, called by name 2", ask(c, "direct"))
    end)
  end
end)

describe("a frame that is on a stack", function()
  after_each(host.cleanup)

  it("is never rewritten: a coroutine that waits ends in the code that it began in", function()
    local text = commands [[
      local place = "local @"
      function commands.start(self, t)
        self.routine = coroutine.create(function()
          local function inner()
            coroutine.yield()
            t:write("inner @, " .. place .. "\n")
          end
          inner()
          t:write("outer @, " .. place .. "\n")
        end)
        coroutine.resume(self.routine)
        t:write "ok\n"
      end
      function commands.go(self, t) coroutine.resume(self.routine) end
    ]]
    local c = reload.serve(text):connect()
    assert.equal("ok", ask(c, "start"))
    reload.commit(text)
    assert.equal("inner 1, local 1", ask(c, "go"))
    assert.equal("outer 1, local 1", c:line())
    assert.equal("ok", ask(c, "start"))
    assert.equal("inner 2, local 2", ask(c, "go"))
  end)
end)

describe("C modules and FFI types stay", function()
  after_each(host.cleanup)

  it("as they are: a C module is the same one in each generation, with what was put into it", function()
    local text = commands [[
      local cjson = require "cjson"
      cjson.loads = (cjson.loads or 0) + 1
      function commands.loads(self, t) t:write(("@ %d %s\n"):format(cjson.loads, cjson.encode { 1 })) end
    ]]
    local c = reload.serve(text):connect()
    assert.equal("1 1 [1]", ask(c, "loads"))
    reload.commit(text)
    assert.equal("2 2 [1]", ask(c, "loads"))
  end)

  it("as they are: a type keeps its layout, and a text that changes it is refused until the host starts anew", function()
    local text = commands [[
      local ffi = require "ffi"
      ffi.cdef "struct reload_limit { int a[@]; };"
      function commands.size(self, t) t:write(("@ %d\n"):format(ffi.sizeof "struct reload_limit")) end
    ]]
    local h = reload.serve(text)
    local c = h:connect()
    assert.equal("1 4", ask(c, "size"))
    local report = reload.refuse(text)
    assert.equal("load", report.errors[1].phase)
    assert.equal("1 4", ask(c, "size"))
    h:stop()
    assert.equal("2 8", ask(host.run({ host.folder() .. "/script.lua" }):connect(), "size"))
  end)

  it("as they are: a type keeps the methods of its first ffi.metatype, and the report warns of it", function()
    local text = commands [[
      local ffi = require "ffi"
      ffi.cdef "struct reload_meta { int a; };"
      local Meta = ffi.metatype("struct reload_meta", { __index = { word = function() return "method @" end } })
      function commands.word(self, t) t:write(("@ %s\n"):format(Meta():word())) end
    ]]
    local c = reload.serve(text):connect()
    assert.equal("1 method 1", ask(c, "word"))
    assert.is_true(reload.names(reload.commit(text).warnings, "metatype"))
    assert.equal("2 method 1", ask(c, "word"))
  end)

  it("as they are: objects of a type made by old code are of the type that new code knows", function()
    local text = commands [[
      local ffi = require "ffi"
      ffi.cdef "struct reload_object { int a; };"
      function commands.make(self, t) self.object = ffi.new("struct reload_object", 7); t:write "ok\n" end
      function commands.look(self, t)
        t:write(("@ %s %d\n"):format(tostring(ffi.istype("struct reload_object", self.object)), self.object.a))
      end
    ]]
    local c = reload.serve(text):connect()
    assert.equal("ok", ask(c, "make"))
    reload.commit(text)
    assert.equal("2 true 7", ask(c, "look"))
  end)
end)

describe("a reload repairs no corrupted state", function()
  after_each(host.cleanup)

  it("whatever the new code would have made of it: wrong values stay until code mends them", function()
    local text = commands([[
      local kept = require("skald.service").persist("kept", function() return { n = 0 } end)
      function commands.spoil(self, t)
        self.factory.state.n, self.factory.limit, self.x, kept.n = "spoilt", "spoilt", "spoilt", "spoilt"
        t:write "ok\n"
      end
      function commands.look(self, t)
        local f = self.factory
        t:write(("@ %s %s %s %s\n"):format(f.state.n, f.limit, self.x, kept.n))
      end
    ]], [[
      state = { n = @ }, limit = @, version = @ == 3 and 2 or 1,
      migrate = function(state) if type(state.n) ~= "number" then state.n = 0 end end
    ]])
    local c = reload.serve(text):connect()
    assert.equal("ok", ask(c, "spoil"))
    reload.commit(text, 2)
    assert.equal("2 spoilt spoilt spoilt spoilt", ask(c, "look"))
    reload.commit(text, 3)
    assert.equal("3 0 spoilt spoilt spoilt", ask(c, "look"))
  end)
end)

describe("a reload is no security boundary", function()
  after_each(host.cleanup)

  it("the code that it loads may do what the host may, even when it is refused", function()
    local text = commands(([[
      function commands.who(self, t) t:write "@\n" end
      if @ == 2 then
        local file = io.open("%s/written", "w")
        file:write(os.getenv "XDG_RUNTIME_DIR")
        file:close()
        error "refused all the same"
      end
    ]]):format(host.folder()))
    local c = reload.serve(text):connect()
    assert.equal("refused all the same", reload.refuse(text).errors[1].message:match "refused.*")
    local file = assert(io.open(host.folder() .. "/written"))
    assert.equal(host.folder(), file:read "*a")
    file:close()
    assert.equal("1", ask(c, "who"))
  end)

  it("what a load that fails has done to modules from outside is not undone", function()
    local folder = host.folder()
    process.run { "mkdir", folder .. "/own", folder .. "/lib" }
    host.file("lib/outside.lua", "return { word = 'clean' }")
    local text = commands [[
      local outside = require "outside"
      function commands.look(self, t) t:write(("@ %s\n"):format(outside.word)) end
      if @ == 2 then
        outside.word = "touched"
        error "refused all the same"
      end
    ]]
    local script = host.file("own/script.lua", reload.version(text, 1))
    local c = host.run({ script, env = { LUA_PATH = folder .. "/lib/?.lua;;" } }):connect()
    assert.equal("1 clean", ask(c, "look"))
    reload.rewrite(reload.version(text, 2), "own/script.lua")
    reload.refused()
    assert.equal("1 touched", ask(c, "look"))
  end)
end)
