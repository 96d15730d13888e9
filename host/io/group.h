/* The connections of one factory and the bounds they share. */
#ifndef SKALD_IO_GROUP_H
#define SKALD_IO_GROUP_H

#include "io/loop.h"

struct group;

/* The order is that of the table in scripts/skald/protocol.lua. */
enum bound {
    BOUND_CONNECTIONS, /* 0: no bound */
    BOUND_PER_PEER,    /* 0: no bound */
    BOUND_IDLE,        /* seconds; 0: none */
    BOUND_CLOSE,       /* seconds */
    BOUND_HIGH_WATER,  /* bytes */
    BOUND_LOW_WATER,   /* bytes */
    BOUND_BUFFERED,    /* bytes */
    BOUNDS
};

/* A group lives until group_release was called and its last connection and listener are gone. */
uint64_t group_new(struct loop *loop);
struct group *group_find(struct loop *loop, uint64_t handle);
void group_release(struct group *group);

void group_set_bound(struct group *group, enum bound bound, double value);
uint32_t group_count(const struct group *group);

/* Each connection of it ends orderly, as "stopped"; or is aborted, where that takes too long. */
void group_stop(struct group *group);
void group_abort(struct group *group);

/* The protocols of its connections are told that their code was reloaded, before the next event. */
void group_news(struct group *group);

/* The handles of its live connections, the newest first; at most `max`; how many. */
uint32_t group_members(const struct group *group, double *handles, uint32_t max);

#endif
