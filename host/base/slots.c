/* Handles for what Lua may hold: a place and the generation of that place in one number. */
#include "base/slots.h"

#include "base/memory.h"

#include <stdlib.h>

struct slot {
    void *item; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

enum { GENERATIONS = 1 << 29, PLACES = 1 << SLOT_BITS };

static uint32_t slots_take(struct slots *slots)
{
    if (slots->free != 0) {
        uint32_t place = slots->free;
        slots->free = slots->entries[place].next_free;
        return place;
    }
    if (slots->used == 0)
        slots->used = 1;
    if (slots->used == PLACES)
        return 0;
    if (slots->used >= slots->capacity) {
        slots->capacity = slots->capacity ? slots->capacity * 2 : 16;
        slots->entries = memory_grow(slots->entries, slots->capacity, sizeof *slots->entries);
    }
    slots->entries[slots->used].generation = 0;
    return slots->used++;
}

uint64_t slots_add(struct slots *slots, void *item)
{
    uint32_t place = slots_take(slots);
    if (place == 0)
        return 0;
    struct slot *slot = &slots->entries[place];
    slot->generation = (slot->generation + 1) % GENERATIONS;
    slot->item = item;
    slots->count++;
    return ((uint64_t)slot->generation << SLOT_BITS) | place;
}

void *slots_find(const struct slots *slots, uint64_t handle)
{
    uint32_t place = slot_place(handle);
    if (place == 0 || place >= slots->used)
        return NULL;
    const struct slot *slot = &slots->entries[place];
    return slot->generation == handle >> SLOT_BITS ? slot->item : NULL;
}

void *slots_at(const struct slots *slots, uint32_t place)
{
    return place > 0 && place < slots->used ? slots->entries[place].item : NULL;
}

void slots_remove(struct slots *slots, uint64_t handle)
{
    if (slots_find(slots, handle) == NULL)
        return;
    uint32_t place = slot_place(handle);
    slots->entries[place].item = NULL;
    slots->entries[place].next_free = slots->free;
    slots->free = place;
    slots->count--;
}

void slots_free(struct slots *slots)
{
    free(slots->entries);
    *slots = (struct slots){0};
}
