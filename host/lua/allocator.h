/* Lua's memory: small blocks are cells (base/cells.h), those of the size of a full read are kept
 * for the next one, LuaJIT's own allocator does the rest. What the socket is read into lies where
 * such a block puts the bytes of a string: a full read becomes a string without being copied. */
#ifndef SKALD_LUA_ALLOCATOR_H
#define SKALD_LUA_ALLOCATOR_H

#include "base/cells.h"

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    ALLOCATOR_READ = 65536,  /* bytes of a full read */
    ALLOCATOR_LEAST = 32768, /* smaller strings are cheaper to copy */
};

struct allocator_block;

struct allocator {
    struct cells cells; /* owns */
    lua_Alloc small;    /* LuaJIT's own, with its context */
    void *small_context;
    struct allocator_block *spare; /* owns; the last one freed comes first: it is in the cache */
    unsigned spares;
    struct allocator_block *current; /* owns; what is being read into */
    size_t header;                   /* bytes before those of a string */
    size_t expected;                 /* size of the string that `current` is to become, or 0 */
};

/* Takes over a new state's allocations; the allocator must outlive the state. */
void allocator_attach(struct allocator *allocator, lua_State *L);
void allocator_free(struct allocator *allocator);

/* ALLOCATOR_READ bytes to read into; valid until the next call of either. */
char *allocator_buffer(struct allocator *allocator);

/* Pushes the first `length` bytes, at least ALLOCATOR_LEAST, of the buffer as a string, in place.
 * The collector is stopped then; the caller lets it run again (lua_gc). */
void allocator_push(struct allocator *allocator, lua_State *L, size_t length);

#endif
