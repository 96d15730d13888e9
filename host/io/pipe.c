/* What one connection reads goes to another, and no script sees it. */
#include "io/inside.h"

#include "base/memory.h"

#include <errno.h>
#include <stdlib.h>

/* The source owns it. */
struct pipe {
    struct connection *source; /* borrows both: who goes, unlinks them (pipe_forget) */
    struct connection *sink;
    uint64_t bytes;
    bool moves; /* the kernel may do it by itself (splice.c) */
    bool busy;  /* and does: so much comes that copying it would cost more */
};

enum {
    READS = 4,    /* of a source in one turn, so that a fast one starves nobody */
    FEW = 1 << 14 /* bytes at once that are rather copied */
};

int connection_pipe(struct connection *source, struct connection *sink)
{
    if (source->feeds || sink->fed_by)
        return -EBUSY;
    if (connection_is_ending(source) || source->flags & C_EOF || !output_accepts(sink))
        return -EPIPE;
    struct pipe *pipe = memory_new(sizeof *pipe);
    *pipe = (struct pipe){.source = source, .sink = sink};
    pipe->moves = source->ops->moves && sink->ops->moves;
    source->feeds = pipe;
    sink->fed_by = pipe;
    connection_loop(source)->pipes++;
    connection_dirty(source);
    return 0;
}

static void unlink_ends(struct pipe *pipe)
{
    struct loop *loop = connection_loop(pipe->source);
    if (--loop->pipes == 0)
        splice_close(loop);
    pipe->source->feeds = NULL;
    pipe->sink->fed_by = NULL;
    if (pipe->sink->flags & C_KEPT)
        connection_dirty(pipe->sink);
    free(pipe);
}

uint64_t connection_unpipe(struct connection *source)
{
    if (source->feeds == NULL)
        return 0;
    uint64_t bytes = source->feeds->bytes;
    unlink_ends(source->feeds);
    connection_dirty(source);
    return bytes;
}

void pipe_forget(struct connection *connection)
{
    if (connection->feeds)
        unlink_ends(connection->feeds);
    if (connection->fed_by)
        unlink_ends(connection->fed_by);
}

/* Lua is told, and whoever asked for the pipe. */
static void end_pipe(struct pipe *pipe, int error)
{
    struct connection *source = pipe->source;
    struct loop *loop = connection_loop(source);
    uint64_t bytes = pipe->bytes;
    unlink_ends(pipe);
    connection_dirty(source);
    connection_tell_news(source);
    loop->events->piped(loop->context, source, bytes, error);
}

void pipe_sink_ends(struct connection *sink)
{
    struct pipe *pipe = sink->fed_by;
    if (pipe == NULL)
        return;
    if (connection_is_ending(pipe->source)) {
        unlink_ends(pipe); /* its own end says why */
        return;
    }
    connection_pause(pipe->source); /* what comes is nobody's yet */
    end_pipe(pipe, EPIPE);
}

/* The source's end is the end of what the sink has to send. */
static void on_end(struct connection *source)
{
    source->flags |= C_EOF;
    connection_close_write(source->feeds->sink);
    end_pipe(source->feeds, 0);
    if (!connection_is_ending(source))
        connection_input_ended(source);
}

/* What the kernel moves may overtake nothing that is queued. */
bool pipe_is_blocked(const struct connection *source)
{
    const struct connection *sink = source->feeds->sink;
    return sink->out.bytes > (source->feeds->busy ? 0 : sink->group->low_water);
}

void pipe_sink_flushed(struct connection *sink)
{
    struct connection *source = sink->fed_by->source;
    if (!pipe_is_blocked(source) && !(source->interest & UV_READABLE)) {
        source->active = connection_clock(source);
        connection_dirty(source);
    }
}

int pipe_queue(struct connection *sink, const char *bytes, size_t length)
{
    sink->flags |= C_FULL;
    connection_dirty(sink);
    return queue_copy(&sink->out, &connection_loop(sink)->pool, bytes, length);
}

static bool takes_some(const struct connection *sink)
{
    return sink->out.head == NULL && !(sink->flags & C_FULL);
}

/* Straight to the kernel where nothing waits before it; what that does not take is queued. */
static int pass(struct connection *sink, const char *bytes, size_t length)
{
    struct iovec part = {(void *)bytes, length};
    size_t taken = 0;
    if (takes_some(sink)) {
        ssize_t n = sink->ops->write(sink, &part, 1);
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        taken = n > 0 ? (size_t)n : 0;
        sink->active = connection_clock(sink);
    }
    return taken == length ? 0 : pipe_queue(sink, bytes + taken, length - taken);
}

static ssize_t copy_some(struct connection *source, struct connection *sink, int *error)
{
    struct loop *loop = connection_loop(source);
    char *buffer = loop->events->buffer(loop->context);
    ssize_t n = source->ops->read(source, buffer, READ_SIZE);
    descriptors_drop(loop);
    if (n > 0)
        *error = pass(sink, buffer, (size_t)n);
    return n;
}

/* One read, passed on: what that gave, and the sink's error. `*most`: it was as much as can be. */
static ssize_t move_or_copy(struct pipe *pipe, bool *most, int *error)
{
    ssize_t n = -ENOSYS;
    bool moves = pipe->source->ops->moves && pipe->sink->ops->moves; /* TLS may have begun */
    if (pipe->busy && moves && takes_some(pipe->sink)) {
        n = splice_some(pipe->source, pipe->sink, error);
        pipe->moves = n != -ENOSYS;
        pipe->busy = n >= FEW || n == -EAGAIN;
        *most = n == MOVE_SIZE;
    }
    if (n == -ENOSYS) {
        n = copy_some(pipe->source, pipe->sink, error);
        *most = n == READ_SIZE;
        pipe->busy = *most && pipe->moves;
    }
    return n;
}

/* What the read gave, or -EAGAIN where the sink has failed. */
static ssize_t pass_some(struct connection *source, bool *most)
{
    struct connection *sink = source->feeds->sink;
    int error = 0;
    ssize_t n = move_or_copy(source->feeds, most, &error);
    if (n <= 0)
        return n;
    source->active = connection_clock(source);
    source->feeds->bytes += (size_t)n;
    if (error < 0)
        connection_end(sink, error == -ENOMEM ? C_RESET : C_BROKEN,
                       error == -ENOMEM ? END_LIMIT : END_LOST,
                       error == -ENOMEM ? BY_HOST : BY_PEER, -error);
    return error < 0 ? -EAGAIN : n;
}

void pipe_read(struct connection *source)
{
    int reads = 0;
    ssize_t n;
    bool most;
    do {
        most = false;
        n = pass_some(source, &most);
    } while (n > 0 && most && ++reads < READS && !pipe_is_blocked(source));
    if (n == 0)
        on_end(source);
    else if (n < 0 && n != -EAGAIN)
        connection_break(source, (int)-n);
    else if (pipe_is_blocked(source))
        connection_dirty(source);
}
