/* How many connections each peer address has: open addressing, linear probes, no tombstones. */
#include "base/peers.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

struct peer {
    uint8_t bytes[16];
    uint32_t count; /* 0: free */
    uint32_t hash;
};

/* FNV-1a, then a final mix so that the low bits depend on every byte. */
static uint32_t hash_of(const uint8_t bytes[16])
{
    uint32_t hash = 2166136261u;
    for (int i = 0; i < 16; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    hash ^= hash >> 15;
    return hash * 2246822519u;
}

/* The entry of these bytes, or the free one where they belong. */
static uint32_t place_of(const struct peers *peers, const uint8_t bytes[16], uint32_t hash)
{
    uint32_t mask = peers->capacity - 1;
    uint32_t i = hash & mask;
    while (peers->entries[i].count && memcmp(peers->entries[i].bytes, bytes, 16) != 0)
        i = (i + 1) & mask;
    return i;
}

static void grow(struct peers *peers)
{
    struct peers old = *peers;
    peers->capacity = old.capacity ? old.capacity * 2 : 16;
    peers->entries = memory_new(peers->capacity * sizeof *peers->entries);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.entries[i].count)
            peers->entries[place_of(peers, old.entries[i].bytes, old.entries[i].hash)] =
                old.entries[i];
    free(old.entries);
}

uint32_t peers_count(const struct peers *peers, const struct address *address)
{
    if (peers->capacity == 0)
        return 0;
    return peers->entries[place_of(peers, address->bytes, hash_of(address->bytes))].count;
}

void peers_add(struct peers *peers, const struct address *address)
{
    if (peers->count * 4 >= peers->capacity * 3)
        grow(peers);
    uint32_t hash = hash_of(address->bytes);
    struct peer *peer = &peers->entries[place_of(peers, address->bytes, hash)];
    if (peer->count++ == 0) {
        peer->hash = hash;
        memcpy(peer->bytes, address->bytes, 16);
        peers->count++;
    }
}

/* Moves back whatever would no longer be found over the hole at `hole`. */
static void close_hole(struct peers *peers, uint32_t hole)
{
    uint32_t mask = peers->capacity - 1;
    for (uint32_t i = (hole + 1) & mask; peers->entries[i].count; i = (i + 1) & mask) {
        uint32_t home = peers->entries[i].hash & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        peers->entries[hole] = peers->entries[i];
        peers->entries[i].count = 0;
        hole = i;
    }
}

void peers_remove(struct peers *peers, const struct address *address)
{
    if (peers->capacity == 0)
        return;
    uint32_t i = place_of(peers, address->bytes, hash_of(address->bytes));
    if (peers->entries[i].count == 0 || --peers->entries[i].count > 0)
        return;
    peers->count--;
    close_hole(peers, i);
}

void peers_free(struct peers *peers)
{
    free(peers->entries);
    *peers = (struct peers){0};
}
