/* The sending half of a connection: its queue, the water marks, files, its producer. */
#include "io/inside.h"

#include <errno.h>

enum {
    PARTS = 64,
    FILE_PART = 1 << 19,  /* bytes of a file sent at once */
    FLUSH_MOST = 1 << 20, /* bytes sent within one callback, so that a fast reader starves nobody */
    TURN_MOST = 1 << 23,  /* and by all of a turn: who has more to send waits for the next */
};

/* Whether an error of send_file is the file's, and not the socket's. */
static bool file_is_to_blame(int error)
{
    static const int errors[] = {EIO, EINVAL, ENOMEM, EOVERFLOW, EBADF, ESTALE, EACCES};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i] == error)
            return true;
    return false;
}

/* A round is over with a turn in which nobody had to wait. */
static void on_turn_over(uv_check_t *over)
{
    struct turn *turn = container_of(over, struct turn, over);
    uv_check_stop(over);
    turn->flushed = 0;
    turn->crowded = turn->waiting > 0;
    turn->round ^= turn->crowded ? 0 : C_ROUND;
    turn->waiting = 0;
}

static struct turn *turn_of(struct loop *loop)
{
    uv_check_start(&loop->turn.over, on_turn_over); /* nothing, where it was begun */
    return &loop->turn;
}

/* What a flush has sent goes off the queue. */
static void took(struct connection *connection, size_t taken)
{
    struct loop *loop = connection_loop(connection);
    connection->active = connection_clock(connection);
    loop->flushed += taken;
    turn_of(loop)->flushed += taken;
    queue_consume(&connection->out, &loop->pool, taken);
}

bool output_has_turn(struct connection *connection)
{
    struct turn *turn = turn_of(connection_loop(connection));
    bool served = (connection->flags & C_ROUND) == turn->round;
    if (turn->flushed >= TURN_MOST || (turn->crowded && served)) {
        turn->waiting += !served;
        return false;
    }
    connection->flags = (connection->flags & ~(uint32_t)C_ROUND) | turn->round;
    return true;
}

static bool may_flush(struct loop *loop)
{
    return loop->flushed < FLUSH_MOST && loop->turn.flushed < TURN_MOST;
}

static ssize_t send_parts(struct connection *connection, size_t *wanted)
{
    struct iovec parts[PARTS];
    int count = queue_parts(&connection->out, parts, PARTS, wanted);
    int fds[DESCRIPTORS];
    int descriptors = queue_passed(&connection->out, fds, DESCRIPTORS);
    if (descriptors > 0)
        return connection->ops->pass(connection, parts, count, fds, descriptors);
    return connection->ops->write(connection, parts, count);
}

/* Of a file that cannot be read, or has become shorter, the rest is given up: whoever sent it is
 * told (output_tell_sent). */
static ssize_t send_file(struct connection *connection, struct file_part *file, size_t left,
                         size_t *wanted)
{
    *wanted = left < FILE_PART ? left : FILE_PART;
    ssize_t taken = connection->ops->send_file(connection, file->fd, file->offset, *wanted);
    if (taken > 0 || taken == -EAGAIN || (taken < 0 && !file_is_to_blame((int)-taken)))
        return taken;
    file->error = taken < 0 ? (int)-taken : ERANGE;
    return 0;
}

/* Sends what is queued, as far as the kernel takes it; no further than to the end of a file, and of
 * a file one part, so that a fast reader starves nobody. A short write means that the kernel is
 * full; asking again would only be told so. */
int output_flush(struct connection *connection)
{
    struct chunk_queue *out = &connection->out;
    int error = connection->ops->flush ? connection->ops->flush(connection) : 0;
    if (error < 0 && error != -EAGAIN)
        return error;
    while (out->bytes > 0 && !(connection->flags & C_FULL)) {
        size_t left = 0, wanted;
        struct file_part *file = queue_first_file(out, &left);
        if (file && (left == 0 || file->error != 0))
            break;
        ssize_t taken =
            file ? send_file(connection, file, left, &wanted) : send_parts(connection, &wanted);
        if (taken < 0 && taken != -EAGAIN)
            return (int)taken;
        if (taken < (ssize_t)wanted && !(file && file->error))
            connection->flags |= C_FULL;
        if (taken > 0)
            took(connection, (size_t)taken);
        if (taken < 0 || file)
            break;
    }
    if (out->bytes > 0)
        queue_settle(out, &connection_loop(connection)->pool);
    if (connection->fed_by)
        pipe_sink_flushed(connection);
    return 0;
}

/* A file at the head of the queue that is through, or failed, goes off it, and Lua hears of it. */
void output_tell_sent(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    size_t left;
    struct file_part *file = queue_first_file(&connection->out, &left);
    if (file == NULL || (left > 0 && file->error == 0))
        return;
    int error = file->error;
    size_t sent = file->length - left;
    queue_drop_file(&connection->out, &loop->pool);
    if (connection->fed_by)
        pipe_sink_flushed(connection); /* what is given up goes by no flush */
    if (left > 0)
        tls_dropped(connection, left);
    connection_tell_news(connection);
    loop->events->sent(loop->context, connection, sent, error);
}

static void flush_or_break(struct connection *connection)
{
    int error = output_flush(connection);
    if (error < 0)
        connection_break(connection, -error);
}

void connection_flush(struct connection *connection)
{
    if (connection->flags & (C_LOST | C_DROPPING | C_RESET | C_BROKEN))
        return;
    connection->flags &= ~(uint32_t)C_FULL; /* the peer may have read meanwhile */
    flush_or_break(connection);
    connection_dirty(connection); /* it may wait no more, or have a file to tell of */
}

/* After loseConnection only a registered producer may still write. */
bool output_accepts(const struct connection *connection)
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
    if (before <= high && may_flush(connection_loop(connection)))
        flush_or_break(connection);
    if (connection->out.bytes <= high || (connection->flags & (C_PUSH | C_PAUSED)) != C_PUSH)
        return WRITE_OK;
    connection->flags |= C_PAUSED;
    return WRITE_PAUSE;
}

/* What is queued of files takes no memory. */
static bool is_over_bound(const struct connection *connection)
{
    const struct chunk_queue *out = &connection->out;
    return out->bytes - out->file_bytes > connection->group->max_buffered;
}

/* Whether one more string may wait, be it the one that crosses the bound. */
static bool has_room(struct connection *connection)
{
    if (is_over_bound(connection))
        connection_flush(connection);
    return !is_over_bound(connection);
}

static bool enqueue(struct connection *connection, const char *data, size_t length,
                    uint32_t *anchor)
{
    struct chunk_pool *pool = &connection_loop(connection)->pool;
    if (anchor)
        return (*anchor = queue_refer(&connection->out, pool, data, length)) != 0;
    return queue_copy(&connection->out, pool, data, length) == 0;
}

static enum write_result refuse_write(struct connection *connection)
{
    connection_end(connection, C_RESET, END_LIMIT, BY_HOST, 0);
    return WRITE_LIMIT;
}

static enum write_result queued(struct connection *connection, size_t before)
{
    connection->flags &= ~(uint32_t)C_ASKED;
    connection_dirty(connection);
    return cross_high_water(connection, before);
}

enum write_result connection_write(struct connection *connection, const char *data, size_t length,
                                   uint32_t *anchor)
{
    if (!output_accepts(connection))
        return WRITE_CLOSING;
    if (length == 0)
        return WRITE_OK;
    if (!has_room(connection))
        return refuse_write(connection);
    size_t before = connection->out.bytes;
    if (!enqueue(connection, data, length, anchor))
        return refuse_write(connection);
    return queued(connection, before);
}

enum write_result connection_write_pair(struct connection *connection, const char *data,
                                        size_t length, uint32_t *anchor, const char *tail,
                                        size_t tail_length)
{
    if (!output_accepts(connection))
        return WRITE_CLOSING;
    if (length + tail_length == 0)
        return WRITE_OK;
    if (!has_room(connection))
        return refuse_write(connection);
    size_t before = connection->out.bytes;
    struct chunk_pool *pool = &connection_loop(connection)->pool;
    if (anchor && !enqueue(connection, data, length, anchor))
        return refuse_write(connection);
    if (queue_copy_pair(&connection->out, pool, data, anchor ? 0 : length, tail, tail_length) < 0)
        return refuse_write(connection);
    return queued(connection, before);
}

/* Takes the descriptor, unless it fails. */
int connection_send_file(struct connection *connection, int fd, int64_t offset, size_t length)
{
    if (!output_accepts(connection))
        return -EPIPE;
    int error = queue_file(&connection->out, fd, offset, length);
    if (error < 0)
        return error;
    connection->flags &= ~(uint32_t)C_ASKED;
    connection_dirty(connection);
    return 0;
}

/* Takes the descriptor, unless it fails. */
int connection_pass(struct connection *connection, int fd)
{
    int fds[DESCRIPTORS];
    if (connection->ops->pass == NULL || connection->tls)
        return -ENOTSUP;
    if (!output_accepts(connection))
        return -EPIPE;
    if (queue_passed(&connection->out, fds, DESCRIPTORS) == DESCRIPTORS)
        return -ENOBUFS;
    return queue_pass(&connection->out, fd);
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
    if (connection->out.head && !(connection->flags & C_BROKEN))
        output_tell_sent(connection);
    if (connection->flags & (C_DROPPING | C_RESET | C_BROKEN) || !output_has_producer(connection))
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
