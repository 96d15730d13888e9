/* Handles for what Lua may hold: a place in a table and the generation of that place, in one number
 * that fits a double. A handle that outlived its object finds nothing, never its successor. */
#ifndef SKALD_BASE_SLOTS_H
#define SKALD_BASE_SLOTS_H

#include <stdint.h>

struct slot;

struct slots {
    struct slot *entries; /* owns; place 0 is never used */
    uint32_t capacity;
    uint32_t used; /* places ever used, place 0 included */
    uint32_t free; /* first free place, 0 for none */
    uint32_t count;
};

enum { SLOT_BITS = 24 }; /* of the place; 29 bits of generation are left of a double's 53 */

/* The handle of `item` (borrowed until slots_remove), or 0 when all places are taken. */
uint64_t slots_add(struct slots *slots, void *item);
void *slots_find(const struct slots *slots, uint64_t handle);
void *slots_at(const struct slots *slots, uint32_t place); /* NULL where it is free */
void slots_remove(struct slots *slots, uint64_t handle);
void slots_free(struct slots *slots);

/* The place of a handle, from 1: small and dense, fit for an array. */
static inline uint32_t slot_place(uint64_t handle)
{
    return (uint32_t)(handle & ((1u << SLOT_BITS) - 1));
}

#endif
