/* The connections of one factory and the bounds they share. */
#include "io/inside.h"

#include "base/memory.h"

#include <stdlib.h>

uint64_t group_new(struct loop *loop)
{
    struct group *group = memory_new(sizeof *group);
    group->loop = loop;
    group->references = 1;
    group->close_ms = 30000;
    group->high_water = 65536;
    group->low_water = 16384;
    group->max_buffered = 64u << 20;
    uint64_t handle = group->handle = slots_add(&loop->groups, group);
    if (handle == 0)
        free(group);
    return handle;
}

struct group *group_find(struct loop *loop, uint64_t handle)
{
    return slots_find(&loop->groups, handle);
}

void group_hold(struct group *group)
{
    group->references++;
}

void group_release(struct group *group)
{
    if (--group->references > 0)
        return;
    slots_remove(&group->loop->groups, group->handle);
    peers_free(&group->peers);
    free(group);
}

static bool counts_peer(const struct group *group, const struct address *peer)
{
    return group->max_per_peer != 0 && peer->family != AF_UNIX;
}

static void count_peer(struct group *group, struct connection *connection)
{
    if (!counts_peer(group, &connection->peer))
        return;
    peers_add(&group->peers, &connection->peer);
    connection->flags |= C_COUNTED;
}

void group_join(struct group *group, struct connection *connection)
{
    connection->next = group->first;
    if (group->first)
        group->first->previous = connection;
    group->first = connection;
    group->total++;
    count_peer(group, connection);
}

void connection_join(struct connection *connection)
{
    if (connection->flags & C_JOINED)
        return;
    connection->flags |= C_JOINED;
    connection->group->live++;
}

void group_lose(struct group *group, struct connection *connection)
{
    if (connection->flags & C_JOINED)
        group->live--;
}

static void unlink_connection(struct group *group, struct connection *connection)
{
    if (connection->next)
        connection->next->previous = connection->previous;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        group->first = connection->next;
    group->total--;
}

void group_leave(struct group *group, struct connection *connection)
{
    if (connection->flags & C_REFUSED)
        group->loop->refusing--;
    else if (!(connection->flags & C_CONNECTING))
        unlink_connection(group, connection);
    if (connection->flags & C_COUNTED)
        peers_remove(&group->peers, &connection->peer);
    group_release(group);
}

bool group_admits(const struct group *group, const struct address *peer)
{
    if (group->max_connections && group->total >= group->max_connections)
        return false;
    return !counts_peer(group, peer) || peers_count(&group->peers, peer) < group->max_per_peer;
}

static void count_peers(struct group *group)
{
    peers_free(&group->peers);
    for (struct connection *c = group->first; c; c = c->next) {
        c->flags &= ~(uint32_t)C_COUNTED;
        count_peer(group, c);
    }
}

static void arm_all(struct group *group)
{
    for (struct connection *c = group->first; c; c = c->next) {
        if (c->flags & C_LOST)
            continue;
        loop_timer_stop(group->loop, &c->timer);
        connection_arm(c);
    }
}

static uint64_t rounded(double value, double scale, uint64_t most)
{
    double scaled = value * scale;
    if (!(scaled > 0))
        return 0;
    return scaled >= (double)most ? most : (uint64_t)(scaled + 0.999999);
}

void group_set_bound(struct group *group, enum bound bound, double value)
{
    uint32_t count = (uint32_t)rounded(value, 1, UINT32_MAX);
    uint32_t milliseconds = (uint32_t)rounded(value, 1000, INT32_MAX);
    uint64_t bytes = rounded(value, 1, (uint64_t)1 << 53);
    switch (bound) {
    case BOUND_CONNECTIONS:
        group->max_connections = count;
        break;
    case BOUND_PER_PEER:
        group->max_per_peer = count;
        count_peers(group);
        break;
    case BOUND_IDLE:
        group->idle_ms = milliseconds;
        arm_all(group);
        break;
    case BOUND_CLOSE:
        group->close_ms = milliseconds;
        arm_all(group);
        break;
    case BOUND_HIGH_WATER:
        group->high_water = bytes;
        break;
    case BOUND_LOW_WATER:
        group->low_water = bytes;
        break;
    case BOUND_BUFFERED:
        group->max_buffered = bytes;
        break;
    case BOUNDS:
        break;
    }
}

uint32_t group_count(const struct group *group)
{
    return group->live;
}

uint32_t group_members(const struct group *group, double *handles, uint32_t max)
{
    uint32_t n = 0;
    for (struct connection *c = group->first; c && n < max; c = c->next)
        if ((c->flags & (C_LOST | C_JOINED)) == C_JOINED)
            handles[n++] = (double)c->handle;
    return n;
}

void group_stop(struct group *group)
{
    for (struct connection *c = group->first; c; c = c->next)
        connection_stop(c);
}

void group_abort(struct group *group)
{
    for (struct connection *c = group->first; c; c = c->next)
        if (!(c->flags & C_LOST))
            connection_end(c, C_RESET, END_STOPPED, BY_HOST, 0);
}

void group_news(struct group *group)
{
    for (struct connection *c = group->first; c; c = c->next)
        if ((c->flags & (C_LOST | C_JOINED)) == C_JOINED)
            c->flags |= C_NEWS;
}
