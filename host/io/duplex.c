/* Carriers whose descriptors are no sockets, or two: pipes to a child, a terminal, whatever
 * standard input and output are. Where there are two, the connection's own poll watches the reading
 * one; the writing one has a side of its own. So has a plain file: it is always ready, and cannot
 * be polled. */
#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct side {
    union {
        uv_handle_t handle;
        uv_poll_t poll;
        uv_idle_t idle; /* of a plain file */
    };
    uint32_t magic; /* 0: as_connection (loop.c) looks at what stands behind a poll */
    struct connection *connection;
    bool is_file;
    bool active;
};

struct end_of {
    struct side *side; /* owns; NULL: the connection's poll watches it, or it is closed */
    int fd;            /* owns, but for the connection's own; -1: closed */
    int flags;         /* to be put back at the end; -1: not changed */
    bool is_socket;
};

struct duplex {
    struct end_of in, out;
    bool tolerant;
};

/* --- descriptors ------------------------------------------------------------------------------ */

/* Whoever gave us the descriptor may have it too, and wants it to block: sockets are asked not to
 * wait call by call, files never do, and of pipes and terminals that are not our own making we have
 * a description of our own (stdio.c). Where we have not, its flags are put back at the end. */
static void end_init(struct end_of *end, int fd)
{
    struct stat status = {0};
    *end = (struct end_of){.fd = fd, .flags = -1};
    if (fstat(fd, &status) < 0 || S_ISREG(status.st_mode))
        return;
    end->is_socket = S_ISSOCK(status.st_mode);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_NONBLOCK)
        return;
    end->flags = flags;
    if (!end->is_socket)
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* uv_poll_init makes what it is given nonblocking. */
static void end_keep_blocking(const struct end_of *end)
{
    if (end->is_socket && end->flags >= 0)
        fcntl(end->fd, F_SETFL, end->flags);
}

static void on_side_closed(uv_handle_t *handle)
{
    free(handle); /* the side's first member */
}

/* libuv must let go of a descriptor before its number means another one. */
static void end_close(struct end_of *end, int kept)
{
    if (end->side)
        uv_close(&end->side->handle, on_side_closed);
    if (end->fd >= 0 && end->flags >= 0)
        fcntl(end->fd, F_SETFL, end->flags);
    if (end->fd >= 0 && end->fd != kept)
        close(end->fd);
    end->side = NULL;
    end->fd = -1;
}

/* --- watching --------------------------------------------------------------------------------- */

/* Nobody will read what we write. */
static void on_deaf(struct connection *connection)
{
    struct duplex *duplex = connection->duplex;
    if (connection->flags & C_LOST)
        return;
    if (connection->out.bytes > 0)
        connection_polled(connection, 0, UV_WRITABLE); /* the write says so, or is dropped */
    else if (duplex->tolerant)
        end_close(&duplex->out, connection->fd);
    else
        connection_end(connection, C_BROKEN, END_LOST, BY_PEER, EPIPE);
    loop_settle(connection_loop(connection));
}

static void on_out(uv_poll_t *poll, int status, int events)
{
    struct side *side = container_of(poll, struct side, poll);
    if (status < 0 || events & UV_DISCONNECT) {
        uv_poll_stop(poll);
        side->active = false;
        on_deaf(side->connection);
        return;
    }
    connection_polled(side->connection, 0, UV_WRITABLE);
}

static void on_file_in(uv_idle_t *idle)
{
    connection_polled(container_of(idle, struct side, idle)->connection, 0, UV_READABLE);
}

static void on_file_out(uv_idle_t *idle)
{
    connection_polled(container_of(idle, struct side, idle)->connection, 0, UV_WRITABLE);
}

static void on_in(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = container_of(poll, struct connection, poll);
    (void)events;
    if (status < 0)
        connection->interest &= (uint8_t)~UV_READABLE;
    connection_polled(connection, 0, UV_READABLE); /* reading tells what is wrong */
}

static void watch_in(struct connection *connection, bool wanted)
{
    struct side *side = connection->duplex->in.side;
    if (side && side->active != wanted) {
        side->active = wanted;
        if (wanted)
            uv_idle_start(&side->idle, on_file_in);
        else
            uv_idle_stop(&side->idle);
    }
    if (side == NULL && wanted)
        uv_poll_start(&connection->poll, UV_READABLE, on_in);
    else if (side == NULL)
        uv_poll_stop(&connection->poll);
}

/* While there is nothing to write, what is watched for is whether anybody still reads. Of a socket
 * the reading side hears of that. */
static void watch_out(const struct end_of *out, bool wanted)
{
    struct side *side = out->side;
    if (side == NULL)
        return;
    if (side->is_file && side->active != wanted) {
        side->active = wanted;
        if (wanted)
            uv_idle_start(&side->idle, on_file_out);
        else
            uv_idle_stop(&side->idle);
    } else if (!side->is_file && (wanted || !out->is_socket)) {
        uv_poll_start(&side->poll, wanted ? UV_WRITABLE : UV_DISCONNECT, on_out);
    } else if (!side->is_file) {
        uv_poll_stop(&side->poll);
    }
}

void duplex_watch(struct connection *connection, int interest)
{
    watch_in(connection, interest & UV_READABLE);
    watch_out(&connection->duplex->out, interest & UV_WRITABLE);
}

/* Where the two ends are one socket, the last that closes puts its flags back. */
int duplex_own_input(struct connection *connection)
{
    struct end_of *in = &connection->duplex->in, *out = &connection->duplex->out;
    if (in->is_socket && in->flags >= 0)
        fcntl(in->fd, F_SETFL, in->flags | O_NONBLOCK);
    if (out->is_socket)
        out->flags = -1;
    return in->fd;
}

/* --- the table -------------------------------------------------------------------------------- */

/* The terminal's other side is closed: that is its end (EIO). */
static ssize_t terminal_read(struct connection *connection, char *buffer, size_t size)
{
    ssize_t n = stream_read(connection, buffer, size);
    return n == -EIO ? 0 : n;
}

static ssize_t duplex_read(struct connection *connection, char *buffer, size_t size)
{
    const struct end_of *in = &connection->duplex->in;
    ssize_t n;
    do
        n = in->is_socket ? recv(in->fd, buffer, size, MSG_DONTWAIT) : read(in->fd, buffer, size);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EIO)
        return 0;
    return n < 0 ? -errno : n;
}

static size_t bytes_of(const struct iovec *parts, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += parts[i].iov_len;
    return bytes;
}

/* What was written or queued for somebody who reads no more. */
static ssize_t unread(struct connection *connection, size_t bytes)
{
    struct duplex *duplex = connection->duplex;
    if (!duplex->tolerant)
        return -EPIPE;
    end_close(&duplex->out, connection->fd);
    return (ssize_t)bytes;
}

static ssize_t duplex_write(struct connection *connection, const struct iovec *parts, int count)
{
    const struct end_of *out = &connection->duplex->out;
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t n;
    if (out->fd < 0)
        return unread(connection, bytes_of(parts, count));
    do
        n = out->is_socket ? sendmsg(out->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                           : writev(out->fd, parts, count);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EPIPE)
        return unread(connection, bytes_of(parts, count));
    return n < 0 ? -errno : n;
}

/* Of a socket that blocks, the kernel would wait: there it is read, and written as bytes are. */
static ssize_t duplex_send_file(struct connection *connection, int fd, int64_t offset,
                                size_t length)
{
    const struct end_of *out = &connection->duplex->out;
    ssize_t n = out->fd < 0      ? -EPIPE
                : out->is_socket ? stream_copy_file(connection, fd, offset, length)
                                 : stream_send_file_to(connection, out->fd, fd, offset, length);
    return n == -EPIPE ? unread(connection, length) : n;
}

static int duplex_finish(struct connection *connection)
{
    struct end_of *out = &connection->duplex->out;
    if (out->is_socket && out->fd >= 0)
        shutdown(out->fd, SHUT_WR);
    end_close(out, connection->fd);
    return 0;
}

static int no_finish(struct connection *connection)
{
    (void)connection;
    return 0;
}

const struct transport_ops process_ops = {
    .kind = "process",
    .read = duplex_read,
    .write = duplex_write,
    .send_file = duplex_send_file,
    .finish = duplex_finish,
};

const struct transport_ops stdio_ops = {
    .kind = "stdio",
    .read = duplex_read,
    .write = duplex_write,
    .send_file = duplex_send_file,
    .finish = duplex_finish,
};

/* One way only: a connection that has had its end of input, or has sent its own. */
const struct transport_ops pipe_ops = {
    .kind = "pipe",
    .read = stream_read,
    .write = stream_write,
    .send_file = stream_send_file,
    .finish = no_finish,
};

const struct transport_ops terminal_ops = {
    .kind = "pty",
    .read = terminal_read,
    .write = stream_write,
    .send_file = stream_send_file,
    .finish = no_finish,
};

/* --- life ------------------------------------------------------------------------------------- */

static struct side *side_new(struct connection *connection)
{
    struct side *side = memory_new(sizeof *side);
    side->connection = connection;
    return side;
}

static struct side *file_side(struct connection *connection)
{
    struct side *side = side_new(connection);
    side->is_file = true;
    uv_idle_init(connection->poll.loop, &side->idle);
    return side;
}

static struct side *out_side(struct connection *connection, int fd)
{
    struct side *side = side_new(connection);
    if (uv_poll_init(connection->poll.loop, &side->poll, fd) == 0)
        return side;
    free(side);
    return file_side(connection);
}

struct connection *duplex_new(struct loop *loop, struct group *group,
                              const struct transport_ops *ops, int in, int out, bool tolerant,
                              const struct address *peer)
{
    struct end_of in_end, out_end;
    int stand_in = -1;
    end_init(&in_end, in);
    end_init(&out_end, out);
    struct connection *connection = connection_new(loop, group, ops, in, peer);
    if (connection == NULL) {
        stand_in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); /* never ready */
        connection = stand_in < 0 ? NULL : connection_new(loop, group, ops, stand_in, peer);
    }
    if (connection == NULL) {
        if (stand_in >= 0)
            close(stand_in);
        return NULL;
    }
    struct duplex *duplex = connection->duplex = memory_new(sizeof *duplex);
    duplex->tolerant = tolerant;
    duplex->in = in_end;
    duplex->out = out_end;
    duplex->in.side = stand_in < 0 ? NULL : file_side(connection);
    duplex->out.side = out_side(connection, out);
    end_keep_blocking(&duplex->in);
    end_keep_blocking(&duplex->out);
    if (!tolerant && !duplex->in.is_socket)
        connection->flags |= C_ABRUPT;
    return connection;
}

void duplex_close(struct connection *connection)
{
    struct duplex *duplex = connection->duplex;
    connection->duplex = NULL;
    end_close(&duplex->in, connection->fd);
    end_close(&duplex->out, connection->fd);
    free(duplex);
}
