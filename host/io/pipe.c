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
};

enum { READS = 4 }; /* of a source in one turn, so that a fast one starves nobody */

int connection_pipe(struct connection *source, struct connection *sink)
{
    if (source->feeds || sink->fed_by)
        return -EBUSY;
    if (connection_is_ending(source) || source->flags & C_EOF || !output_accepts(sink))
        return -EPIPE;
    struct pipe *pipe = memory_new(sizeof *pipe);
    *pipe = (struct pipe){.source = source, .sink = sink};
    source->feeds = pipe;
    sink->fed_by = pipe;
    connection_dirty(source);
    return 0;
}

static void unlink_ends(struct pipe *pipe)
{
    pipe->source->feeds = NULL;
    pipe->sink->fed_by = NULL;
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

bool pipe_is_blocked(const struct connection *source)
{
    const struct connection *sink = source->feeds->sink;
    return sink->out.bytes > sink->group->low_water;
}

void pipe_sink_flushed(struct connection *sink)
{
    struct connection *source = sink->fed_by->source;
    if (!pipe_is_blocked(source) && !(source->interest & UV_READABLE))
        connection_dirty(source);
}

/* Straight to the kernel where nothing waits before it; what that does not take is queued. */
static int pass(struct connection *sink, const char *bytes, size_t length)
{
    struct iovec part = {(void *)bytes, length};
    size_t taken = 0;
    if (sink->out.head == NULL && !(sink->flags & C_FULL)) {
        ssize_t n = sink->ops->write(sink, &part, 1);
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        taken = n > 0 ? (size_t)n : 0;
        sink->active = connection_clock(sink);
    }
    if (taken == length)
        return 0;
    sink->flags |= C_FULL;
    connection_dirty(sink);
    return queue_copy(&sink->out, &connection_loop(sink)->pool, bytes + taken, length - taken);
}

/* One read, passed on: what the read gave, or -EAGAIN where the sink has failed. */
static ssize_t pass_some(struct connection *source)
{
    struct loop *loop = connection_loop(source);
    struct connection *sink = source->feeds->sink;
    char *buffer = loop->events->buffer(loop->context);
    ssize_t n = source->ops->read(source, buffer, READ_SIZE);
    if (n <= 0)
        return n;
    source->active = connection_clock(source);
    source->feeds->bytes += (size_t)n;
    int error = pass(sink, buffer, (size_t)n);
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
    do
        n = pass_some(source);
    while (n == READ_SIZE && ++reads < READS && !pipe_is_blocked(source));
    if (n == 0)
        on_end(source);
    else if (n < 0 && n != -EAGAIN)
        connection_end(source, C_BROKEN, END_LOST, BY_PEER, (int)-n);
    else if (pipe_is_blocked(source))
        connection_dirty(source);
}
