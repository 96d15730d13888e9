local cdef = require "skald.cdef"
local ffi = require "ffi"

describe("ffi.cdef of a script that is loaded again", function()
  it("skips what is declared already, however it is laid out", function()
    cdef.declare "struct skald_cdef_a { int x; };"
    cdef.declare "struct skald_cdef_a { int x; };"
    cdef.declare "struct   skald_cdef_a {\n  int x; // the place\n}; /* done */"
    assert.equal(4, ffi.sizeof "struct skald_cdef_a")
  end)

  it("refuses a struct that changed, and says what to do", function()
    cdef.declare "struct skald_cdef_b { int x; };"
    local ok, message = pcall(cdef.declare, "struct skald_cdef_b { int x, y; };")
    assert.is_false(ok)
    assert.truthy(message:find("skald_cdef_b", 1, true), message)
    assert.truthy(message:find("restart", 1, true), message)
  end)

  it("refuses an anonymous typedef that changed, which LuaJIT would ignore", function()
    cdef.declare "typedef struct { int x; } skald_cdef_c;"
    assert.is_false(pcall(cdef.declare, "typedef struct { int x, y; } skald_cdef_c;"))
    cdef.declare "typedef struct { int x; } skald_cdef_c; typedef int skald_cdef_d[3];"
    assert.is_false(pcall(cdef.declare, "typedef int skald_cdef_d[4];"))
  end)

  it("takes a block that got one declaration more", function()
    cdef.declare "struct skald_cdef_h { int x; };"
    cdef.declare "struct skald_cdef_h { int x; }; struct skald_cdef_i { struct skald_cdef_h a, b; };"
    assert.equal(8, ffi.sizeof "struct skald_cdef_i")
  end)

  it("refuses a pointer to a function that changed", function()
    cdef.declare "typedef int (*skald_cdef_e)(int);"
    assert.is_false(pcall(cdef.declare, "typedef int (*skald_cdef_e)(int, int);"))
  end)

  it("leaves other errors as they are, and the text undeclared", function()
    local ok, message = pcall(cdef.declare, "struct skald_cdef_f { nothing x; };")
    assert.is_false(ok)
    assert.truthy(message:find("nothing", 1, true), message)
    cdef.declare "struct skald_cdef_f { int x; };"
  end)

  it("keeps the methods of the first ffi.metatype, and warns", function()
    cdef.declare "struct skald_cdef_g { int x; };"
    local warned
    local function warn(message)
      warned = message
    end
    local first = cdef.metatype("struct skald_cdef_g", { __index = { n = 1 } }, warn)
    assert.is_nil(warned)
    cdef.metatype("struct skald_cdef_g", { __index = { n = 2 } }, warn)
    assert.truthy(warned:find "skald_cdef_g")
    assert.equal(1, first().n)
  end)
end)
