/* The sending half of a connection: its queue, the water marks, its producer. */
#include "io/inside.h"

#include <errno.h>

enum {
    PARTS = 64,
    FLUSH_MOST = 1 << 20, /* bytes sent within one callback, so that a fast reader starves nobody */
};

/* A short write means that the kernel is full; asking again would only be told so. */
int output_flush(struct connection *connection)
{
    struct chunk_pool *pool = &connection_loop(connection)->pool;
    while (connection->out.bytes > 0 && !(connection->flags & C_FULL)) {
        struct iovec parts[PARTS];
        size_t wanted;
        int count = queue_parts(&connection->out, parts, PARTS, &wanted);
        ssize_t taken = connection->ops->write(connection, parts, count);
        if (taken < 0 && taken != -EAGAIN)
            return (int)taken;
        if (taken < (ssize_t)wanted)
            connection->flags |= C_FULL;
        if (taken < 0)
            break;
        connection->active = connection_clock(connection);
        connection_loop(connection)->flushed += (size_t)taken;
        queue_consume(&connection->out, pool, (size_t)taken);
    }
    if (connection->out.bytes > 0)
        queue_settle(&connection->out, pool);
    return 0;
}

static void flush_or_break(struct connection *connection)
{
    int error = output_flush(connection);
    if (error < 0)
        connection_end(connection, C_BROKEN, END_LOST, BY_PEER, -error);
}

void connection_flush(struct connection *connection)
{
    if (connection->flags & (C_LOST | C_DROPPING | C_RESET | C_BROKEN))
        return;
    connection->flags &= ~(uint32_t)C_FULL; /* the peer may have read meanwhile */
    flush_or_break(connection);
}

/* After loseConnection only a registered producer may still write. */
static bool accepts(const struct connection *connection)
{
    uint32_t flags = connection->flags;
    if (flags & (C_LOST | C_DROPPING | C_RESET | C_BROKEN))
        return false;
    if (flags & (C_CLOSING | C_FIN_WANTED))
        return output_has_producer(connection);
    return true;
}

/* Above the high water the kernel is asked once, at the crossing; then only a push producer helps.
 */
static enum write_result cross_high_water(struct connection *connection, size_t before)
{
    uint64_t high = connection->group->high_water;
    if (connection->out.bytes <= high)
        return WRITE_OK;
    if (before <= high && connection_loop(connection)->flushed < FLUSH_MOST)
        flush_or_break(connection);
    if (connection->out.bytes <= high || (connection->flags & (C_PUSH | C_PAUSED)) != C_PUSH)
        return WRITE_OK;
    connection->flags |= C_PAUSED;
    return WRITE_PAUSE;
}

enum write_result connection_write(struct connection *connection, const char *data, size_t length,
                                   uint32_t *anchor)
{
    struct chunk_pool *pool = &connection_loop(connection)->pool;
    size_t before = connection->out.bytes;
    if (!accepts(connection))
        return WRITE_CLOSING;
    if (length == 0)
        return WRITE_OK;
    bool queued = false;
    if (before > connection->group->max_buffered) {
        connection_flush(connection);
        before = connection->out.bytes;
    }
    if (before <= connection->group->max_buffered) {
        if (anchor)
            queued = (*anchor = queue_refer(&connection->out, pool, data, length)) != 0;
        else
            queued = queue_copy(&connection->out, pool, data, length) == 0;
    }
    if (!queued) {
        connection_end(connection, C_RESET, END_LIMIT, BY_HOST, 0);
        return WRITE_LIMIT;
    }
    connection->flags &= ~(uint32_t)C_ASKED;
    connection_dirty(connection);
    return cross_high_water(connection, before);
}

void connection_set_producer(struct connection *connection, enum producer producer)
{
    connection->flags &= ~(uint32_t)(C_PUSH | C_PULL | C_PAUSED | C_ASKED);
    if (producer == PRODUCER_PUSH)
        connection->flags |= C_PUSH;
    if (producer == PRODUCER_PULL)
        connection->flags |= C_PULL;
    connection_dirty(connection);
}

/* What the host or the peer ends does not wait for a producer; loseConnection does. */
bool output_has_producer(const struct connection *connection)
{
    if (!(connection->flags & (C_PUSH | C_PULL)))
        return false;
    return !(connection->flags & C_CLOSING) || connection->by == BY_LOCAL;
}

/* A producer is resumed from here only, once a turn, so that a fast reader starves nobody. */
void output_writable(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    connection->flags &= ~(uint32_t)C_FULL;
    flush_or_break(connection);
    connection_dirty(connection);
    if (connection->flags & C_BROKEN || !output_has_producer(connection))
        return;
    bool pull = connection->flags & C_PULL;
    bool ready = pull ? connection->out.bytes == 0 && !(connection->flags & C_ASKED)
                      : connection->flags & C_PAUSED &&
                            connection->out.bytes <= connection->group->low_water;
    if (!ready)
        return;
    connection->flags &= ~(uint32_t)C_PAUSED;
    connection->flags |= pull ? C_ASKED : 0;
    connection_tell_news(connection);
    loop->events->resume(loop->context, connection);
}

size_t connection_buffered(const struct connection *connection)
{
    return connection->out.bytes;
}
