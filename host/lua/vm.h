/* The only file that creates, enters and ends a lua_State. Every entry is protected. */
#ifndef SKALD_LUA_VM_H
#define SKALD_LUA_VM_H

#include "lua/core.h"

/* Creates core->L: opens the libraries and the bundle, sets the JIT ("off", "on", or options as
 * luajit -O takes them; NULL: as it comes). False with *error set (the caller frees it) where that
 * fails. */
bool vm_open(struct core *core, const char *jit, char **error);
void vm_close(struct core *core);

/* The traceback handler lies in this stack slot for the life of the state. */
enum { VM_HANDLER = 1 };

/* Calls the function below `arguments` values. 0, or an error text with its traceback on top. */
int vm_call(lua_State *L, int arguments, int results);

/* require(name), leaving the module on top; as vm_call. */
int vm_require(lua_State *L, const char *name);

/* Collects everything, now. */
void vm_collect(struct core *core);

/* Collects everything twice (what finalizers let go of, too), in short steps between events. */
void vm_collect_soon(struct core *core);

/* To be called after each event: once Lua holds much more than what lives, collects in bounded
 * steps. Left to itself LuaJIT collects by the number of allocations, whatever their size: too
 * often in a small heap, and far too late where strings are large. */
void vm_tend(struct core *core);

/* Pushes the first `length` bytes, at least ALLOCATOR_LEAST, of core->allocator's buffer as a
 * string in place. */
void vm_push_read(struct core *core, size_t length);

/* How LuaJIT calls itself. */
const char *vm_version(void);

#endif
