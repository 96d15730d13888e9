/* The only file that creates, enters and ends a lua_State. Every entry is protected. */
#ifndef SKALD_LUA_VM_H
#define SKALD_LUA_VM_H

#include "lua/core.h"

/* Opens the libraries and the bundle, sets the JIT ("off", "on", or options as luajit -O takes
 * them; NULL: as it comes). NULL with *error set (the caller frees it) where that fails. */
lua_State *vm_new(const char *jit, char **error);

/* The traceback handler lies in this stack slot for the life of the state. */
enum { VM_HANDLER = 1 };

/* Calls the function below `arguments` values. 0, or an error text with its traceback on top. */
int vm_call(lua_State *L, int arguments, int results);

/* require(name), leaving the module on top; as vm_call. */
int vm_require(lua_State *L, const char *name);

/* How LuaJIT calls itself, and whether its compiler is on. */
const char *vm_version(void);

#endif
