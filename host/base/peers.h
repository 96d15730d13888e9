/* How many connections each peer address has: a small hash table of counts. Pure. */
#ifndef SKALD_BASE_PEERS_H
#define SKALD_BASE_PEERS_H

#include "base/address.h"

#include <stdint.h>

struct peer;

struct peers {
    struct peer *entries; /* owns */
    uint32_t capacity;    /* a power of two, or 0 */
    uint32_t count;
};

uint32_t peers_count(const struct peers *peers, const struct address *address);
void peers_add(struct peers *peers, const struct address *address);
void peers_remove(struct peers *peers, const struct address *address);
void peers_free(struct peers *peers);

#endif
