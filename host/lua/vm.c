/* The only file that creates, enters and ends a lua_State. Every entry is protected. */
#include "lua/vm.h"

#include "base/log.h"
#include "base/memory.h"
#include "lua/bundle.h"

#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int luaopen_cjson_safe(lua_State *L); /* lua-cjson comes without a header that says so */

const char *vm_version(void)
{
    return LUAJIT_VERSION;
}

/* Reached only when memory is gone: LuaJIT cannot go on from there. */
static int on_panic(lua_State *L)
{
    const char *text = lua_tostring(L, -1);
    fprintf(stderr, "skald: Lua gave up: %s\n", text ? text : "(no message)");
    return 0;
}

/* What was raised as text: strings stay, other values through __tostring, if that does not raise.
 */
static void push_message(lua_State *L) // [error] -> [error, text]
{
    if (lua_type(L, 1) == LUA_TSTRING) {
        lua_pushvalue(L, 1);
        return;
    }
    lua_getglobal(L, "tostring");
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 0) != 0 || lua_type(L, -1) != LUA_TSTRING)
        lua_pushfstring(L, "(a %s was raised)", luaL_typename(L, 1));
}

static int traceback(lua_State *L)
{
    lua_settop(L, 1);
    push_message(L);
    luaL_traceback(L, L, lua_tostring(L, -1), 1);
    return 1;
}

int vm_call(lua_State *L, int arguments, int results)
{
    return lua_pcall(L, arguments, results, VM_HANDLER);
}

int vm_require(lua_State *L, const char *name)
{
    lua_getglobal(L, "require"); // [require]
    lua_pushstring(L, name);     // [require, name]
    return vm_call(L, 1, 1);     // [module]
}

/* "skald.protocol" -> "skald/protocol.lua" */
static void bundle_name(const char *module, char *name, size_t size)
{
    snprintf(name, size, "%s.lua", module);
    for (char *c = name; c < name + strlen(module) && *c; c++)
        if (*c == '.')
            *c = '/';
}

/* Bytecode is quicker to load, but another LuaJIT than that of the build may refuse it. */
static int load_module(lua_State *L, const struct bundle_file *file, const char *chunk)
{ // [module, chunk] -> [module, chunk, function or message]
    if (file->code && luaL_loadbufferx(L, file->code, file->code_size, chunk, "b") == 0)
        return 0;
    lua_settop(L, 2);
    return luaL_loadbufferx(L, file->data, file->size, chunk, "t");
}

/* package.loaders entry: the library inside the program comes before any file. */
static int search_bundle(lua_State *L)
{
    char name[128];
    bundle_name(luaL_checkstring(L, 1), name, sizeof name);
    const struct bundle_file *file = bundle_find(name);
    if (file == NULL || strncmp(name, "skald/", 6) != 0) {
        lua_pushfstring(L, "\n\tno bundled file '%s'", name);
        return 1;
    }
    lua_settop(L, 1);
    lua_pushfstring(L, "@%s", name); // [module, chunk]
    if (load_module(L, file, lua_tostring(L, 2)) != 0)
        return lua_error(L);
    return 1;
}

static void add_searcher(lua_State *L)
{
    lua_getglobal(L, "table");           // [table]
    lua_getfield(L, -1, "insert");       // [table, insert]
    lua_getglobal(L, "package");         // [table, insert, package]
    lua_getfield(L, -1, "loaders");      // [table, insert, package, loaders]
    lua_remove(L, -2);                   // [table, insert, loaders]
    lua_pushinteger(L, 2);               // [table, insert, loaders, 2]
    lua_pushcfunction(L, search_bundle); // [table, insert, loaders, 2, searcher]
    lua_call(L, 3, 0);                   // [table]
    lua_pop(L, 1);
}

/* require "cjson.safe" finds the one that is linked in; opened when it is first asked for. */
static void add_json(lua_State *L)
{
    lua_getglobal(L, "package");              // [package]
    lua_getfield(L, -1, "preload");           // [package, preload]
    lua_pushcfunction(L, luaopen_cjson_safe); // [package, preload, open]
    lua_setfield(L, -2, "cjson.safe");        // [package, preload]
    lua_pop(L, 2);
}

/* jit.opt.start("hotloop=1", "hotexit=1") */
static void set_jit(lua_State *L, const char *options)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, "jit.opt");
    lua_call(L, 1, 1);            // [jit.opt]
    lua_getfield(L, -1, "start"); // [jit.opt, start]
    int count = 0;
    for (const char *word = options; *word; count++) {
        size_t length = strcspn(word, ",");
        luaL_checkstack(L, 1, "too many JIT options");
        lua_pushlstring(L, word, length);
        word += length + (word[length] == ',');
    }
    lua_call(L, count, 0);
    lua_pop(L, 1);
}

static int open_all(lua_State *L) // [options]
{
    const char *options = lua_touserdata(L, 1);
    luaL_openlibs(L);
    add_searcher(L);
    add_json(L);
    if (options && strcmp(options, "off") == 0)
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    else if (options && strcmp(options, "on") != 0)
        set_jit(L, options);
    return 0;
}

bool vm_open(struct core *core, const char *jit, char **error)
{
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        *error = strdup("cannot create a Lua state");
        return false;
    }
    core->L = L;
    lua_atpanic(L, on_panic);
    allocator_attach(&core->allocator, L);
    if (lua_cpcall(L, open_all, (void *)jit) != 0) {
        *error = strdup(lua_tostring(L, -1));
        return false;
    }
    lua_settop(L, 0);
    lua_pushcfunction(L, traceback);
    return true;
}

void vm_close(struct core *core)
{
    if (core->L)
        lua_close(core->L);
    core->L = NULL;
    allocator_free(&core->allocator);
    free(core->read);
    free(core->datagrams);
}

/* --- collection ----------------------------------------------------------------------------- */

enum {
    GC_ROOM = 1536, /* KB of garbage that are worth a collection of even the smallest heap */
    GC_EVENTS = 8,  /* between two looks; a power of two */
    GC_STEP = 16,   /* KB of debt: with the usual multiplier, about 30 us of work */
    GC_PAUSE = 200, /* LuaJIT's own, for a collection that a single callback runs into */
};

/* Lets LuaJIT collect by itself only when a single callback goes far over the limit. */
static void set_backstop(struct core *core)
{
    int held = lua_gc(core->L, LUA_GCCOUNT, 0) + 1;
    int backstop = core->gc_limit + core->gc_limit / 4;
    lua_gc(core->L, LUA_GCSETPAUSE, (int)((int64_t)backstop * 100 / held));
    lua_gc(core->L, LUA_GCRESTART, -1);
    lua_gc(core->L, LUA_GCSETPAUSE, GC_PAUSE);
}

/* What is held now is what lives. */
static void set_limit(struct core *core)
{
    int live = lua_gc(core->L, LUA_GCCOUNT, 0);
    core->collecting = core->gc_wanted > 0;
    core->gc_limit = live + (live > GC_ROOM ? live : GC_ROOM);
    set_backstop(core);
}

/* What runs a finalizer may raise; that must not leave through the loop. */
static void guarded(struct core *core, lua_CFunction function)
{
    lua_State *L = core->L;
    if (lua_cpcall(L, function, core) == 0)
        return;
    const char *text = lua_tostring(L, -1);
    log_write(core->log, LOG_ERROR, "a finalizer failed: %s", text ? text : "(no text)");
    lua_pop(L, 1);
}

static int collect_all(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCCOLLECT, 0); /* what finalizers let go of */
    return 0;
}

void vm_collect(struct core *core)
{
    guarded(core, collect_all);
    core->gc_collections += 2;
    core->gc_wanted = 0;
    set_limit(core);
}

/* Work for what was allocated since the last step, and a little more: so it comes to an end,
 * however fast scripts allocate. */
static int collect_step(lua_State *L)
{
    struct core *core = lua_touserdata(L, 1);
    int held = lua_gc(L, LUA_GCCOUNT, 0);
    int grown = held > core->gc_held ? held - core->gc_held : 0;
    bool done = lua_gc(L, LUA_GCSTEP, GC_STEP + grown);
    core->gc_held = lua_gc(L, LUA_GCCOUNT, 0);
    if (done) {
        core->gc_collections++;
        core->gc_wanted -= core->gc_wanted > 0;
        set_limit(core);
    }
    return 0;
}

/* Keeps the loop turning: vm_tend takes a step after each turn's timers. */
static void on_turn(struct timer *timer)
{
    struct core *core = container_of(timer, struct core, gc_timer);
    if (core->gc_wanted > 0)
        loop_timer_start(core->loop, timer, loop_now(core->loop));
}

void vm_collect_soon(struct core *core)
{
    bool waits = core->gc_wanted > 0;
    core->gc_wanted = 3; /* one that is under way does not count */
    core->collecting = true;
    core->gc_held = lua_gc(core->L, LUA_GCCOUNT, 0);
    core->gc_timer.fire = on_turn;
    if (!waits)
        loop_timer_start(core->loop, &core->gc_timer, loop_now(core->loop));
}

void vm_tend(struct core *core)
{
    if (!core->collecting && ++core->gc_events % GC_EVENTS != 0)
        return;
    int held = lua_gc(core->L, LUA_GCCOUNT, 0);
    if (!core->collecting && held < core->gc_limit)
        return;
    if (!core->collecting)
        core->gc_held = held;
    core->collecting = true;
    guarded(core, collect_step);
}

void vm_push_read(struct core *core, size_t length)
{
    allocator_push(&core->allocator, core->L, length);
    core->gc_events |= GC_EVENTS - 1; /* worth a look at once */
    if (core->collecting)
        lua_gc(core->L, LUA_GCRESTART, 0);
    else
        set_backstop(core);
}
