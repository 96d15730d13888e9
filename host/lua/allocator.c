/* Lua's memory: cells for small blocks, spare blocks for full reads, LuaJIT's own allocator
 * between. */
#include "lua/allocator.h"

#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_MOST = 64, /* of a string of any LuaJIT */
    BLOCK = ALLOCATOR_READ + HEADER_MOST,
    SPARES = 48,
    ROUNDING = 8, /* LuaJIT rounds the size of a string up to less than this more */
};

struct allocator_block {
    union {
        struct allocator_block *next; /* of the spare ones */
        char bytes[BLOCK];
        max_align_t aligned;
    };
};

static bool is_block(size_t size)
{
    return size > ALLOCATOR_LEAST && size <= BLOCK;
}

static struct allocator_block *block_take(struct allocator *allocator)
{
    struct allocator_block *block = allocator->spare;
    if (block == NULL)
        return malloc(sizeof *block);
    allocator->spare = block->next;
    allocator->spares--;
    return block;
}

static void block_put(struct allocator *allocator, struct allocator_block *block)
{
    if (allocator->spares == SPARES) {
        free(block);
        return;
    }
    block->next = allocator->spare;
    allocator->spare = block;
    allocator->spares++;
}

static void *block_new(struct allocator *allocator, size_t size)
{
    struct allocator_block *block = allocator->current;
    if (allocator->expected == 0 || size - allocator->expected >= ROUNDING)
        return block_take(allocator);
    allocator->expected = 0;
    allocator->current = NULL;
    return block;
}

static void release(struct allocator *allocator, void *old, size_t size)
{
    if (cells_have(&allocator->cells, old))
        cells_put(&allocator->cells, old);
    else if (is_block(size))
        block_put(allocator, old);
    else
        allocator->small(allocator->small_context, old, size, 0);
}

/* Where there are no cells, or no more of them, LuaJIT's own allocator does it. */
static void *obtain(struct allocator *allocator, size_t size)
{
    void *cell = size <= CELLS_MOST ? cells_take(&allocator->cells, size) : NULL;
    if (cell)
        return cell;
    if (is_block(size))
        return block_new(allocator, size);
    return allocator->small(allocator->small_context, NULL, 0, size);
}

static void *move(struct allocator *allocator, void *old, size_t old_size, size_t size)
{
    void *new = obtain(allocator, size);
    if (new == NULL)
        return NULL;
    memcpy(new, old, old_size < size ? old_size : size);
    release(allocator, old, old_size);
    return new;
}

/* A lua_Alloc. The address or the size of what is freed or moved tells where it came from. */
static void *allocate(void *context, void *old, size_t old_size, size_t size)
{
    struct allocator *allocator = context;
    if (old == NULL)
        return size ? obtain(allocator, size) : NULL;
    if (size == 0) {
        release(allocator, old, old_size);
        return NULL;
    }
    bool is_cell = cells_have(&allocator->cells, old);
    if (is_cell && cells_fit(&allocator->cells, old, size))
        return old;
    if (is_cell || size <= CELLS_MOST || is_block(old_size) || is_block(size))
        return move(allocator, old, old_size, size);
    return allocator->small(allocator->small_context, old, old_size, size);
}

/* Where the bytes of a string lie behind the start of its block: LuaJIT does not say, so look. */
static size_t find_header(struct allocator *allocator, lua_State *L)
{
    struct allocator_block *block = block_take(allocator);
    if (block == NULL)
        abort();
    memset(block, 'x', sizeof *block);
    block_put(allocator, block);
    char *sample = memory_new(ALLOCATOR_READ);
    lua_pushlstring(L, sample, ALLOCATOR_READ);
    size_t header = (size_t)(lua_tostring(L, -1) - block->bytes);
    lua_pop(L, 1);
    free(sample);
    return header;
}

/* A LuaJIT that addresses 32 bits takes memory from its own allocator only. */
static bool takes_any_memory(const struct allocator *allocator)
{
    void *probe = allocator->small(allocator->small_context, NULL, 0, BLOCK);
    allocator->small(allocator->small_context, probe, BLOCK, 0);
    return (uintptr_t)probe > UINT32_MAX;
}

void allocator_attach(struct allocator *allocator, lua_State *L)
{
    allocator->small = lua_getallocf(L, &allocator->small_context);
    if (!takes_any_memory(allocator))
        return; /* then reads are copied, as small ones are */
    cells_open(&allocator->cells);
    lua_setallocf(L, allocate, allocator);
    allocator->header = find_header(allocator, L);
}

void allocator_free(struct allocator *allocator)
{
    while (allocator->spare)
        free(block_take(allocator));
    free(allocator->current);
    allocator->current = NULL;
    cells_close(&allocator->cells);
}

char *allocator_buffer(struct allocator *allocator)
{
    if (allocator->current == NULL)
        allocator->current = block_take(allocator);
    if (allocator->current == NULL)
        abort();
    return allocator->current->bytes + allocator->header;
}

/* The allocation that Lua makes for this string gets the block where its bytes lie already; the
 * copy that follows is onto itself, which memcpy sees. LuaJIT clears the string's last word before
 * it copies, so the tail is put back. A finalizer could allocate in between: the collector rests.
 */
void allocator_push(struct allocator *allocator, lua_State *L, size_t length)
{
    char *bytes = allocator_buffer(allocator);
    char tail[ROUNDING];
    memcpy(tail, bytes + length - sizeof tail, sizeof tail);
    lua_gc(L, LUA_GCSTOP, 0);
    allocator->expected = allocator->header + length + 1;
    lua_pushlstring(L, bytes, length);
    allocator->expected = 0;
    if (lua_tostring(L, -1) == bytes)
        memcpy(bytes + length - sizeof tail, tail, sizeof tail);
}
