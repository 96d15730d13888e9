-- `run --watch`: a service is reloaded when one of its files has changed, however that was done, and only then.

local client = require "support.client"
local control = require "support.control"
local host = require "support.host"
local process = require "support.process"

local sys = client.sys

local function watch(words)
  words.options = { "--watch", unpack(words.options or {}) }
  return host.run(words)
end

-- Serves a script `script.lua` in the test's folder.
local function serve(text)
  return watch { host.script(text) }
end

-- The text of a service that answers with what the module `name` gives.
local function telling(name)
  return control.telling(("require '%s'"):format(name))
end

-- Makes a change by `change`, after which exactly one reload must come, from generation `from` to the next. A second one
-- that comes late would make the next call fail, since generations are counted.
local function once(h, from, change, name)
  change()
  local was, is = control.reloaded(h, name)
  assert.same({ from, from + 1 }, { was, is })
  assert.equal(from, #control.reloads(h, name))
end

-- Makes changes of which the host finds all at once, however long they take.
local function atOnce(h, change)
  h:kill "STOP"
  change()
  h:kill "CONT"
end

-- Returns once everything that was changed before has had its time: another change, of another service, has been seen.
local barriers = 0

local function barrier(h)
  barriers = barriers + 1
  control.replace("barrier/barrier.lua", control.answering("barrier " .. barriers))
  control.reloaded(h, "barrier")
end

-- Serves `text` beside the service that `barrier` changes.
local function serveWithBarrier(text)
  control.makeFolder "barrier"
  local other = host.script(control.answering "barrier 0", "barrier/barrier.lua")
  return watch { host.script(text), other, listening = 2 }
end

-- Writes `first`, waits much longer than changes are collected for, calls `meanwhile`, writes `second` and closes.
local function writeSlowly(name, first, second, meanwhile)
  local file = assert(io.open(host.folder() .. "/" .. name, "wb"))
  file:write(first)
  file:flush()
  sys.pass(0.3)
  if meanwhile then
    meanwhile()
  end
  file:write(second)
  file:flush()
  sys.pass(0.2)
  file:close()
end

-- Waits until the host answers `word`, which it may do after several reloads.
local function awaitWord(h, word, which)
  sys.await(function()
    return control.word(h, which) == word
  end, function()
    return h:story(("it does not come to answer %q but %q"):format(word, control.word(h, which)))
  end)
end

describe("run --watch", function()
  after_each(host.cleanup)

  it("reloads once for a file that is replaced in one step, and connections live on", function()
    local h = serve(control.answering "word 1")
    local c = h:connect()
    assert.equal("word 1", control.ask(c))
    for i = 1, 3 do
      once(h, i, function()
        control.replace("script.lua", control.answering("word " .. i + 1))
      end)
      assert.equal("word " .. i + 1, control.ask(c))
    end
  end)

  it("reloads once for a file that is written in place", function()
    local h = serve(control.answering "word 1")
    for i = 1, 3 do
      once(h, i, function()
        host.script(control.answering("word " .. i + 1))
      end)
      assert.equal("word " .. i + 1, control.word(h))
    end
  end)

  it("reloads once for a file that is appended to", function()
    host.file("list.lua", "local list = {}\n")
    host.file("words.lua", "WORDS = 'word 1'\n")
    local h = serve(control.telling("WORDS", "require 'words'"))
    for i = 1, 3 do
      once(h, i, function()
        local file = assert(io.open(host.folder() .. "/words.lua", "ab"))
        file:write(("WORDS = 'word %d'\n"):format(i + 1))
        file:close()
      end)
    end
  end)

  for how, setting in pairs {
    ["as it is set up"] = "set nocompatible",
    ["by renaming"] = "set backupcopy=no writebackup",
    ["in place"] = "set backupcopy=yes writebackup",
    ["keeping a backup"] = "set backup backupcopy=auto",
    ["without a backup or a swap file"] = "set nobackup nowritebackup noswapfile",
  } do
    it(("reloads once for a save by vim, %s"):format(how), function()
      local h = serve(control.answering "word 1")
      for i = 1, 2 do
        once(h, i, function()
          control.edit(host.folder() .. "/script.lua", setting, ("%%s/word %d/word %d/"):format(i, i + 1))
        end)
        assert.equal("word " .. i + 1, control.word(h))
      end
    end)
  end

  it("reloads once for a save that removes the file before it writes it anew", function()
    host.file("words.lua", "return 'word 1'")
    local h = serve(control.telling("WORDS", "WORDS = require 'words'"))
    for i = 1, 3 do
      once(h, i, function()
        atOnce(h, function()
          os.remove(host.folder() .. "/words.lua")
          host.file("words.lua", ("return 'word %d'"):format(i + 1))
        end)
      end)
      assert.equal("word " .. i + 1, control.word(h))
    end
    assert.equal(0, h:logged "refused")
  end)

  it("reloads once for many files that are changed together", function()
    local lines = {}
    for i = 1, 20 do
      host.file(("part%d.lua"):format(i), "return 1")
      lines[i] = ("sum = (sum or 0) + require 'part%d'"):format(i)
    end
    local h = serve(control.telling("sum", table.concat(lines, "\n")))
    assert.equal("20", control.word(h))
    for round = 1, 3 do
      once(h, round, function()
        atOnce(h, function()
          for i = 1, 20 do
            control.replace(("part%d.lua"):format(i), ("return %d"):format(round + 1))
          end
        end)
      end)
      assert.equal(tostring(20 * (round + 1)), control.word(h))
    end
  end)

  it("serves the last of many changes that come fast", function()
    local h = serve(control.answering "word 0")
    for i = 1, 100 do
      if i % 2 == 0 then
        control.replace("script.lua", control.answering("word " .. i))
      else
        host.script(control.answering("word " .. i))
      end
      sys.pass(0.003)
    end
    awaitWord(h, "word 100")
    assert.equal(0, h:logged "refused")
  end)

  it("says nothing and does nothing for a file that is touched, or saved as it was", function()
    local h = serveWithBarrier(control.answering "word 1")
    local path = host.folder() .. "/script.lua"
    control.must { "touch", path }
    control.must { "chmod", "600", path }
    host.script(control.answering "word 1")
    control.replace("script.lua", control.answering "word 1")
    control.edit(path)
    barrier(h)
    assert.equal(0, #control.reloads(h))
    assert.equal(1, control.service("script").generation)
    once(h, 1, function()
      control.replace("script.lua", control.answering "word 2")
    end)
  end)

  it("does nothing for files that are none of the service's", function()
    host.file("words.lua", "return 'word 1'")
    control.makeFolder "sub"
    host.file("sub/other.lua", "return 1")
    host.file("other.lua", "return 1")
    local h = serveWithBarrier(telling "words")
    assert.equal("word 1", control.word(h))
    host.file("other.lua", "return 2")
    control.replace("other.lua", "local = broken")
    host.file("new.lua", "local = broken")
    host.file("sub/other.lua", "return 2")
    host.file("notes.txt", "notes")
    host.file(".words.lua.swp", "notes")
    host.file("words.lua~", "return 'backup'")
    host.file("words", "return 'no module'")
    os.remove(host.folder() .. "/other.lua")
    control.makeFolder "words.d"
    barrier(h)
    assert.equal(0, #control.reloads(h))
    assert.equal(0, h:logged "refused")
    assert.equal("userdata", type(control.service("script").lastReload))
    once(h, 1, function()
      control.replace("words.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
  end)

  it("is what it takes: without it nothing is reloaded", function()
    local h = host.serve(control.answering "word 1")
    control.makeFolder "barrier"
    local script = host.script(control.answering "barrier 0", "barrier/barrier.lua")
    local other = watch { script, options = { "--control=" .. host.folder() .. "/other.sock" } }
    control.replace("script.lua", control.answering "word 2")
    barrier(other)
    assert.equal("word 1", control.word(h))
    assert.equal(1, control.service("script").generation)
  end)

  -- --- who is not done with a file ----------------------------------------------------------

  it("never takes half of a file whose writer has it open, though the half is a valid one", function()
    host.file("words.lua", "WORD = 'old'\n")
    local h = serve(control.telling("WORD", "require 'words'"))
    local c = h:connect()
    assert.equal("old", control.ask(c))
    for i = 1, 2 do
      local whole = "whole " .. i
      once(h, i, function()
        writeSlowly("words.lua", "WORD = 'half'\n", ("WORD = '%s'\n"):format(whole), function()
          assert.equal(i == 1 and "old" or "whole 1", control.ask(c))
        end)
      end)
      assert.equal(whole, control.ask(c))
    end
    assert.equal(0, h:logged "refused")
  end)

  it("never takes half of a file when another one is done meanwhile", function()
    host.file("words.lua", "WORD = 'old'\n")
    host.file("more.lua", "MORE = 'old'\n")
    local h = serve(control.telling("WORD .. ' ' .. MORE", "require 'words' require 'more'"))
    local c = h:connect()
    assert.equal("old old", control.ask(c))
    writeSlowly("words.lua", "WORD = 'half'\n", "WORD = 'whole'\n", function()
      control.replace("more.lua", "MORE = 'new'\n")
      sys.pass(0.3)
      local said = control.ask(c)
      assert.is_true(said == "old old" or said == "old new", said)
    end)
    awaitWord(h, "whole new")
    assert.equal(0, h:logged "refused")
  end)

  it("never takes half of a new module whose writer has it open", function()
    local h = serve(control.answering "old")
    local c = h:connect()
    assert.equal("old", control.ask(c))
    writeSlowly("words.lua", "WORD = 'half'\n", "WORD = 'whole'\n", function()
      control.replace("script.lua", control.telling("WORD", "require 'words'"))
      sys.pass(0.3)
      assert.equal("old", control.ask(c))
    end)
    awaitWord(h, "whole")
    assert.equal(0, h:logged "refused")
  end)

  it("takes a file that is closed while its writer lives on", function()
    local h = serve(control.answering "old")
    local p = process.start { "sh", "-c", 'cat "$1" > "$2"; echo written; read answer', "sh",
      host.file("source", control.answering "new"), host.folder() .. "/script.lua" }
    p:line "^written$"
    assert.same({ 1, 2 }, { control.reloaded(h) })
    assert.equal("new", control.word(h))
    p:closeInput()
    p:wait()
  end)

  -- --- tools ------------------------------------------------------------------------------

  it("has the final content after git has checked out many files", function()
    local folder = control.makeFolder "work"
    local function git(...)
      return control.git(folder, ...)
    end
    -- Writes version `word`: 30 modules, number `without` of them missing, and a script that tells them all.
    local function version(word, without)
      local names = {}
      for i = 1, 31 do
        if i ~= without then
          host.file(("work/m%d.lua"):format(i), ("return '%s%d '"):format(word, i))
          names[#names + 1] = ("require 'm%d'"):format(i)
        end
      end
      host.file("work/script.lua", control.telling("text", "local text = " .. table.concat(names, " .. ")))
      local text = {}
      for i = 1, 31 do
        text[#text + 1] = i ~= without and word .. i .. " " or nil
      end
      return table.concat(text)
    end
    git("init", "-q")
    local a = version("a", 31)
    git("add", ".")
    git("commit", "-q", "-m", "a")
    git("checkout", "-q", "-b", "other")
    control.must { "rm", folder .. "/m7.lua" }
    local b = version("b", 7)
    git("add", "-A", ".")
    git("commit", "-q", "-m", "b")
    git("checkout", "-q", "main")

    local h = watch { folder .. "/script.lua" }
    assert.equal(a, control.word(h))
    for _ = 1, 3 do
      git("checkout", "-q", "other")
      awaitWord(h, b)
      git("checkout", "-q", "main")
      awaitWord(h, a)
    end
    -- Nothing that is late changes it again: the next change is one generation.
    local n = #control.reloads(h) + 1
    assert.equal(n, control.service("script").generation)
    control.replace("work/m3.lua", "return 'edited '")
    awaitWord(h, (a:gsub("a3 ", "edited ")))
    assert.equal(n + 1, control.service("script").generation)
    git("stash", "-q")
    awaitWord(h, a)
    assert.equal(n + 2, control.service("script").generation)
  end)

  for how, options in pairs {
    ["with rsync"] = {}, ["with rsync --inplace"] = { "--inplace" }, ["with rsync --delay-updates"] = { "--delay-updates" },
  } do
    it(("has the final content after a folder was deployed %s"):format(how), function()
      control.makeFolder "source/sub"
      control.makeFolder "target"
      local function write(word, names)
        local list = {}
        for i, name in ipairs(names) do
          host.file(("source/%s.lua"):format(name), ("return '%s%d ' %s"):format(word, i, ("-- filler\n"):rep(20000)))
          list[i] = ("require '%s'"):format(name:gsub("/", "."))
        end
        host.file("source/script.lua", control.telling("text", "local text = " .. table.concat(list, " .. ")))
        local argv = { "rsync", "-a", "--checksum", "--delete", unpack(options) }
        argv[#argv + 1] = host.folder() .. "/source/"
        argv[#argv + 1] = host.folder() .. "/target/"
        control.must(argv)
      end
      write("a", { "one", "two", "sub/three" })
      local h = watch { host.folder() .. "/target/script.lua" }
      assert.equal("a1 a2 a3 ", control.word(h))
      write("b", { "one", "two", "sub/three" })
      awaitWord(h, "b1 b2 b3 ")
      write("c", { "one", "sub/four", "two" })
      awaitWord(h, "c1 c2 c3 ")
      write("d", { "sub/four" })
      awaitWord(h, "d1 ")
      local n = control.service("script").generation
      assert.equal(n, #control.reloads(h) + 1)
      control.replace("target/sub/four.lua", "return 'edited'")
      awaitWord(h, "edited")
      assert.equal(n + 1, control.service("script").generation)
    end)
  end

  -- --- the graph changes ------------------------------------------------------------------

  it("watches a module that a later version requires, in a folder of its own too", function()
    control.makeFolder "sub"
    host.file("words.lua", "return 'word 2'")
    host.file("sub/words.lua", "return 'word 4'")
    local h = serve(control.answering "word 1")
    once(h, 1, function()
      control.replace("script.lua", telling "words")
    end)
    assert.equal("word 2", control.word(h))
    once(h, 2, function()
      control.replace("words.lua", "return 'word 3'")
    end)
    assert.equal("word 3", control.word(h))
    once(h, 3, function()
      control.replace("script.lua", telling "sub.words")
    end)
    assert.equal("word 4", control.word(h))
    once(h, 4, function()
      control.replace("sub/words.lua", "return 'word 5'")
    end)
    assert.equal("word 5", control.word(h))
  end)

  it("watches a module that is required only when it is needed", function()
    control.makeFolder "sub"
    host.file("sub/late.lua", "return 'word 1'")
    local h = serve(telling "sub.late")
    assert.equal("word 1", control.word(h))
    once(h, 1, function()
      control.replace("sub/late.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
    once(h, 2, function()
      host.file("sub/late.lua", "return 'word 3'")
    end)
    assert.equal("word 3", control.word(h))
  end)

  it("does nothing any more for a module that is required no more", function()
    host.file("words.lua", "return 'word 1'")
    local h = serveWithBarrier(control.telling("WORDS", "WORDS = require 'words'"))
    once(h, 1, function()
      control.replace("script.lua", control.answering "word 2")
    end)
    control.replace("words.lua", "local = broken")
    barrier(h)
    assert.equal(1, #control.reloads(h))
    assert.equal(0, h:logged "refused")
    assert.equal("word 2", control.word(h))
  end)

  it("reloads when a module that was missing appears", function()
    local h = serve(control.answering "word 1")
    control.replace("script.lua", control.telling("WORDS", "WORDS = require 'words'"))
    h:waitLog "script refused .*words"
    assert.equal("word 1", control.word(h))
    once(h, 1, function()
      host.file("words.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
  end)

  it("reloads when a module that was missing appears in a folder that was missing", function()
    local h = serve(control.answering "word 1")
    control.replace("script.lua", control.telling("WORDS", "WORDS = require 'deep.er.words'"))
    h:waitLog "script refused .*words"
    control.makeFolder "deep/er"
    host.file("deep/er/words.lua", "return 'word 2'")
    assert.same({ 1, 2 }, { control.reloaded(h) })
    assert.equal("word 2", control.word(h))
    once(h, 2, function()
      control.replace("deep/er/words.lua", "return 'word 3'")
    end)
    assert.equal("word 3", control.word(h))
  end)

  it("reloads when a module that was missing appears after its folders, one by one", function()
    local h = serve(control.answering "word 1")
    control.replace("script.lua", control.telling("WORDS", "WORDS = require 'deep.er.words'"))
    h:waitLog "script refused .*words"
    -- Each is seen by itself: a change elsewhere would make the host look at all of them.
    for _, name in ipairs { "deep", "deep/er" } do
      sys.pass(0.2)
      control.makeFolder(name)
    end
    sys.pass(0.2)
    host.file("deep/er/words.lua", "return 'word 2'")
    assert.same({ 1, 2 }, { control.reloaded(h) })
    assert.equal("word 2", control.word(h))
    assert.equal(1, h:logged "script refused")
  end)

  it("misses nothing that happens right after a reload or a refusal", function()
    local h = serve(control.answering "word 0")
    local generation = 1
    local function expectReload(word)
      assert.same({ generation, generation + 1 }, { control.reloaded(h) })
      generation = generation + 1
      if word then
        assert.equal(word, control.word(h))
      end
    end
    for i = 1, host.long and 50 or 2 do
      local folder = "sub" .. i
      control.makeFolder(folder)
      local function script(name)
        control.replace("script.lua", control.telling("WORDS", ("WORDS = require '%s.%s'"):format(folder, name)))
      end
      -- a module that was just read for the first time
      host.file(folder .. "/new.lua", "return 'new'")
      script "new"
      expectReload()
      host.file(folder .. "/new.lua", "return 'newer'")
      expectReload "newer"
      -- one that was missing
      script "missing"
      h:waitLog "script refused"
      control.replace(folder .. "/missing.lua", "return 'found'")
      expectReload "found"
      -- one that was broken, and not known before
      host.file(folder .. "/broken.lua", "local = 1")
      script "broken"
      h:waitLog "script refused"
      control.replace(folder .. "/broken.lua", "return 'mended'")
      expectReload "mended"
      -- one in a folder that was missing
      script "deep.words"
      h:waitLog "script refused"
      control.makeFolder(folder .. "/deep")
      host.file(folder .. "/deep/words.lua", "return 'deep'")
      expectReload "deep"
    end
  end)

  -- The script itself makes the change while it loads: it comes after the file was read, and before it can be watched.
  for what, words in pairs {
    ["that was missing"] = { first = nil, second = "return 'word 2'" },
    ["that was broken"] = { first = "local = 1", second = "return 'word 2'" },
    ["that raised"] = { first = "error 'no'", second = "return 'word 2'" },
    ["that was fine"] = { first = "return 'word 1'", second = "return 'word 2'" },
  } do
    it(("sees that a new module %s was changed while it was loaded"):format(what), function()
      control.makeFolder "sub"
      if words.first then
        host.file("sub/words.lua", words.first)
      end
      local h = serve(control.answering "word 0")
      assert.equal("word 0", control.word(h))
      control.replace("script.lua", control.telling("WORDS", ([[
        local ok
        ok, WORDS = pcall(require, "sub.words")
        if WORDS ~= "word 2" then
          local file = assert(io.open("%s/sub/words.lua", "w"))
          file:write "%s"
          file:close()
        end
        if not ok then
          error "it was no good"
        end
      ]]):format(host.folder(), words.second)))
      awaitWord(h, "word 2")
    end)
  end

  it("reloads when a module appears that goes before the one that was found", function()
    control.makeFolder "words"
    host.file("words/init.lua", "return 'word 1'")
    local h = serve(control.telling("WORDS", "WORDS = require 'words'"))
    assert.equal("word 1", control.word(h))
    once(h, 1, function()
      host.file("words.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
    once(h, 2, function()
      os.remove(host.folder() .. "/words.lua")
    end)
    assert.equal("word 1", control.word(h))
  end)

  it("lets the old code serve on when a file goes, says so once, and takes it up again when it is back", function()
    host.file("words.lua", "return 'word 1'")
    local h = serveWithBarrier(control.telling("WORDS", "WORDS = require 'words'"))
    os.remove(host.folder() .. "/words.lua")
    h:waitLog "script refused .*words"
    barrier(h)
    assert.equal("word 1", control.word(h))
    assert.equal(1, h:logged "script refused")
    once(h, 1, function()
      host.file("words.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
    os.remove(host.folder() .. "/script.lua")
    h:waitLog "script refused .*script%.lua"
    barrier(h)
    assert.equal("word 2", control.word(h))
    assert.equal(2, h:logged "script refused")
    once(h, 2, function()
      control.replace("script.lua", control.answering "word 3")
    end)
    assert.equal("word 3", control.word(h))
  end)

  it("lets the old code serve on when the service's folder goes, says so once, and takes it up again", function()
    control.makeFolder "live"
    host.file("live/words.lua", "return 'word 1'")
    local h = watch { host.script(control.telling("WORDS", "WORDS = require 'words'"), "live/script.lua") }
    for i = 1, 2 do
      assert.equal("word " .. i, control.word(h))
      atOnce(h, function()
        control.must { "rm", "-r", host.folder() .. "/live" }
      end)
      h:waitLog "script refused .*script%.lua"
      sys.pass(0.3)
      assert.equal("word " .. i, control.word(h))
      assert.equal(i, h:logged "script refused")
      control.makeFolder "next"
      host.file("next/words.lua", ("return 'word %d'"):format(i + 1))
      host.script(control.telling("WORDS", "WORDS = require 'words'"), "next/script.lua")
      assert(os.rename(host.folder() .. "/next", host.folder() .. "/live"))
      awaitWord(h, "word " .. i + 1)
    end
    assert.equal(2, h:logged "script refused")
    control.replace("live/words.lua", "return 'edited'")
    awaitWord(h, "edited")
  end)

  it("costs nothing while nothing changes, whatever came before", function()
    host.file("words.lua", "return 'word 1'")
    local h = serve(control.telling("WORDS", "WORDS = require 'words'"))
    local function assertIdle()
      local before = h:cpu()
      sys.pass(0.3)
      assert.is_true(h:cpu() - before < 0.1, "it spins")
    end
    assertIdle()
    os.remove(host.folder() .. "/words.lua")
    h:waitLog "script refused"
    assertIdle()
    host.file("words.lua", "return 'word 2'")
    control.reloaded(h)
    assertIdle()
    local file = assert(io.open(host.folder() .. "/words.lua", "ab"))
    file:write "-- half"
    file:flush()
    assertIdle()
    file:close()
  end)

  it("takes a file up again that is back as it was, and that is no reload", function()
    host.file("words.lua", "return 'word 1'")
    local h = serveWithBarrier(control.telling("WORDS", "WORDS = require 'words'"))
    os.remove(host.folder() .. "/words.lua")
    h:waitLog "script refused .*words"
    host.file("words.lua", "return 'word 1'")
    barrier(h)
    assert.equal(0, #control.reloads(h))
    once(h, 1, function()
      control.replace("words.lua", "return 'word 2'")
    end)
    assert.equal("word 2", control.word(h))
  end)

  it("tries what was refused again only when it changes", function()
    host.file("words.lua", "return 'word'")
    local broken = "print 'attempt'\nlocal words = require 'words'\nerror('no such luck')\n"
    local h = serveWithBarrier(control.telling("WORDS", "WORDS = require 'words'"))
    control.replace("script.lua", broken)
    h:waitLog "script refused .*script%.lua:3: .*no such luck"
    control.must { "touch", host.folder() .. "/script.lua" }
    barrier(h)
    control.replace("script.lua", broken)
    barrier(h)
    host.file("words.lua", "return 'word'")
    barrier(h)
    host.file("other.lua", "return 1")
    barrier(h)
    assert.equal(1, select(2, h:output():gsub("attempt\n", "")))
    assert.equal(1, h:logged "script refused")
    assert.equal(1, control.service("script").refused)

    control.replace("words.lua", "return 'another'")
    h:waitLog "script refused .*script%.lua:3: .*no such luck"
    control.replace("script.lua", "local = 1\n")
    h:waitLog "script refused .*script%.lua:1: "
    barrier(h)
    assert.equal(3, h:logged "script refused")
    assert.equal("word", control.word(h))
    once(h, 1, function()
      control.replace("script.lua", control.answering "good")
    end)
    assert.equal("good", control.word(h))
  end)

  -- --- links ------------------------------------------------------------------------------

  it("follows a link to the script, and sees it lead somewhere else", function()
    for i = 1, 3 do
      control.makeFolder("release" .. i)
      host.script(control.answering("word " .. i), ("release%d/service.lua"):format(i))
    end
    local path = control.link("script.lua", "release1/service.lua")
    local h = watch { path }
    assert.equal("word 1", control.word(h))
    for i = 2, 3 do
      once(h, i - 1, function()
        control.link("script.lua", ("release%d/service.lua"):format(i))
      end)
      assert.equal("word " .. i, control.word(h))
    end
    once(h, 3, function()
      control.replace("release3/service.lua", control.answering "word 4")
    end)
    assert.equal("word 4", control.word(h))
  end)

  it("follows a link to the service's folder, and sees it lead somewhere else", function()
    for i = 1, 3 do
      local name = "releases/" .. i
      control.makeFolder(name)
      host.file(name .. "/words.lua", ("return 'word %d'"):format(i))
      host.script(control.telling(("words .. ' of %d'"):format(i), "local words = require 'words'"), name .. "/script.lua")
    end
    local path = control.link("current", "releases/1")
    local h = watch { path .. "/script.lua" }
    assert.equal("word 1 of 1", control.word(h))
    for i = 2, 3 do
      once(h, i - 1, function()
        control.link("current", "releases/" .. i)
      end)
      assert.equal(("word %d of %d"):format(i, i), control.word(h))
    end
    once(h, 3, function()
      control.replace("releases/3/words.lua", "return 'word 4'")
    end)
    assert.equal("word 4 of 3", control.word(h))
    -- What is not in use any more is of no interest.
    control.replace("releases/1/words.lua", "return 'word 5'")
    once(h, 4, function()
      control.link("current", "releases/2")
    end)
    assert.equal("word 2 of 2", control.word(h))
  end)

  it("follows a chain of links, as files are mounted into containers", function()
    for i = 1, 3 do
      control.makeFolder("mount/..version" .. i)
      host.script(control.answering("word " .. i), ("mount/..version%d/script.lua"):format(i))
    end
    control.link("mount/..data", "..version1")
    local path = control.link("mount/script.lua", "..data/script.lua")
    local h = watch { path }
    assert.equal("word 1", control.word(h))
    for i = 2, 3 do
      once(h, i - 1, function()
        atOnce(h, function()
          control.link("mount/..data", "..version" .. i)
          control.must { "rm", "-r", ("%s/mount/..version%d"):format(host.folder(), i - 1) }
        end)
      end)
      assert.equal("word " .. i, control.word(h))
    end
  end)

  it("sees the service's folder replaced by another of its name", function()
    for _, name in ipairs { "live", "next1", "next2" } do
      control.makeFolder(name)
      host.file(name .. "/words.lua", ("return '%s'"):format(name))
      host.script(control.telling("words", "local words = require 'words'"), name .. "/script.lua")
    end
    local folder = host.folder()
    local h = watch { folder .. "/live/script.lua" }
    for i = 1, 2 do
      assert(os.rename(folder .. "/live", folder .. "/former" .. i))
      assert(os.rename(("%s/next%d"):format(folder, i), folder .. "/live"))
      awaitWord(h, "next" .. i)
    end
    control.replace("live/words.lua", "return 'edited'")
    awaitWord(h, "edited")
  end)

  -- --- several services -------------------------------------------------------------------

  it("watches each service by itself", function()
    local a = host.script(control.answering "a1", "a.lua")
    local b = host.script(control.answering "b1", "b.lua")
    local h = watch { a, b, listening = 2 }
    once(h, 1, function()
      control.replace("a.lua", control.answering "a2")
    end, "a")
    once(h, 1, function()
      control.replace("b.lua", control.answering "b2")
    end, "b")
    control.replace("a.lua", "local = 1")
    h:waitLog "a refused"
    once(h, 2, function()
      control.replace("b.lua", control.answering "b3")
    end, "b")
    assert.same({ "a2", "b3" }, { control.word(h, 1), control.word(h, 2) })
    assert.same({ 1, 2 }, { #control.reloads(h, "a"), #control.reloads(h, "b") })
    assert.same({ 1, 0 }, { control.service("a").refused, control.service("b").refused })
  end)

  it("reloads every service that a shared module belongs to", function()
    host.file("words.lua", "return 'word 1'")
    local a = host.script(telling "words", "a.lua")
    local b = host.script(telling "words", "b.lua")
    local h = watch { a, b, a, listening = 3 }
    for i = 1, 3 do
      assert.equal("word 1", control.word(h, i))
    end
    control.replace("words.lua", "return 'word 2'")
    for i = 1, 3 do
      awaitWord(h, "word 2", i)
    end
    for _, name in ipairs { "a", "b", "a-2" } do
      assert.same({ name .. ": generation 1 -> 2" }, control.reloads(h, name))
    end
  end)

  it("watches a service that is loaded later, and no more one that is unloaded", function()
    local h = serve(control.answering "one")
    control.makeFolder "sub"
    local path = host.script(control.answering "added 1", "sub/added.lua")
    assert.equal(0, (host.command { "load", path }))
    local port = tonumber(h:line "^listening tcp:127%.0%.0%.1:(%d+) added$")
    once(h, 1, function()
      control.replace("sub/added.lua", control.answering "added 2")
    end, "added")
    assert.equal("added 2", control.ask(client.tcp(port)))
    assert.equal(0, (host.command { "unload", "added" }))
    control.replace("sub/added.lua", "local = 1")
    once(h, 1, function()
      control.replace("script.lua", control.answering "two")
    end)
    assert.equal(0, h:logged "refused")
    assert.equal("two", control.word(h))
  end)

  it("goes together with skald reload and SIGHUP: what they have loaded is not loaded again", function()
    local h = serveWithBarrier(control.answering "one")
    control.replace("script.lua", control.answering "two")
    local result = control.json({ "reload", "script" }).result
    assert.is_true(result == "committed" or result == "unchanged", result) -- the watch may have been quicker
    barrier(h)
    assert.equal(1, #control.reloads(h))
    assert.equal("unchanged", control.json({ "reload", "script" }).result)
    control.replace("script.lua", control.answering "three")
    h:kill "HUP"
    awaitWord(h, "three")
    barrier(h)
    assert.equal(2, #control.reloads(h))
    assert.equal(3, control.service("script").generation)
  end)

  it("leaves nothing open for folders that are watched no more", function()
    local h = serve(control.answering "word 0")
    local function watches()
      local n = 0
      local _, text = process.shell(("cat /proc/%d/fdinfo/*"):format(h.pid)) -- one may be closed meanwhile
      for line in text:gmatch "[^\n]+" do
        n = n + (line:find "^inotify" and 1 or 0)
      end
      return n
    end
    assert.equal("word 0", control.word(h))
    local before = watches()
    assert.is_true(before > 0)
    for i = 1, 4 do
      control.makeFolder("sub" .. i)
      host.file(("sub%d/words.lua"):format(i), ("return 'word %d'"):format(i))
      once(h, i, function()
        control.replace("script.lua", control.telling("WORDS", ("WORDS = require 'sub%d.words'"):format(i)))
      end)
      assert.equal("word " .. i, control.word(h))
    end
    once(h, 5, function()
      control.replace("script.lua", control.answering "word 5")
    end)
    sys.await(function()
      return watches() == before
    end, function()
      return h:story(("%d folders are watched, not %d"):format(watches(), before))
    end)
  end)
end)
