/* Outgoing connections. A socket that is being connected is a connection already, of which nobody
 * above knows more than its handle; it joins its group when it is there. */
#include "io/dial.h"

#include "io/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* A port of this machine on which nobody listens may be taken for our own end: TCP then connects
 * the socket to itself (RFC 9293, 3.5, simultaneous open). */
static bool is_itself(int fd)
{
    struct sockaddr_storage ours = {0}, theirs = {0};
    socklen_t size = sizeof ours, theirs_size = sizeof theirs;
    if (getsockname(fd, (struct sockaddr *)&ours, &size) < 0 ||
        getpeername(fd, (struct sockaddr *)&theirs, &theirs_size) < 0)
        return false;
    return ours.ss_family != AF_UNIX && size == theirs_size && memcmp(&ours, &theirs, size) == 0;
}

static int outcome(int fd, int status)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return errno;
    if (error == 0 && status < 0)
        return -status;
    return error == 0 && is_itself(fd) ? ECONNREFUSED : error;
}

/* Nobody hears of it any more. */
static void forget(struct connection *connection)
{
    connection->flags |= C_LOST | C_RESET;
    slots_remove(&connection_loop(connection)->connections, connection->handle);
    connection->handle = 0;
    connection_drop(connection);
}

static void fail(struct connection *connection, int error)
{
    struct loop *loop = connection_loop(connection);
    uint64_t handle = connection->handle;
    forget(connection);
    loop->events->unconnected(loop->context, handle, error);
}

static void succeed(struct connection *connection);

void dial_settle(struct connection *connection)
{
    if (connection->flags & (C_CLOSING | C_RESET))
        fail(connection, ECANCELED);
    else if (connection->flags & C_READY)
        succeed(connection);
}

int dial_ready(struct connection *connection, uint64_t *handle)
{
    connection->flags |= C_CONNECTING | C_READY;
    connection->handle = *handle = slots_add(&connection_loop(connection)->connections, connection);
    if (connection->handle == 0) {
        connection->flags |= C_LOST;
        connection_drop(connection);
        return -ENFILE;
    }
    connection_dirty(connection);
    return 0;
}

static void succeed(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    uv_poll_stop(&connection->poll);
    connection->flags &= ~(uint32_t)(C_CONNECTING | C_READY);
    connection->flags |= C_READING;
    connection->active = connection_clock(connection);
    group_join(connection->group, connection);
    connection_dirty(connection);
    enum accept_result result = loop->events->connected(loop->context, connection);
    if (result == ACCEPT_REFUSED)
        connection_close(connection);
    else if (result == ACCEPT_FAILED)
        connection_fail(connection);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = container_of(poll, struct connection, poll);
    struct loop *loop = connection_loop(connection);
    int error = outcome(connection->fd, status);
    (void)events;
    if (error != 0)
        fail(connection, error);
    else
        succeed(connection);
    loop_settle(loop);
}

int dial_new(struct loop *loop, struct group *group, const struct transport_ops *ops, int fd,
             const struct sockaddr *name, socklen_t length, uint64_t *handle)
{
    struct address peer;
    if (loop->draining)
        return -ECANCELED;
    if (connect(fd, name, length) < 0 && errno != EINPROGRESS && errno != EINTR)
        return -errno;
    address_from_kernel(&peer, name);
    struct connection *connection = connection_new(loop, group, ops, fd, &peer);
    if (connection == NULL)
        return -ENOMEM;
    connection->flags = C_CONNECTING;
    connection->handle = *handle = slots_add(&loop->connections, connection);
    if (connection->handle == 0) {
        connection->flags |= C_LOST;
        connection->fd = -1; /* stays the caller's */
        connection_drop(connection);
        return -ENFILE;
    }
    uv_poll_start(&connection->poll, UV_WRITABLE, on_poll);
    return 0;
}

void dial_cancel(struct loop *loop, uint64_t handle)
{
    struct connection *connection = connection_find(loop, handle);
    if (connection && connection->flags & C_CONNECTING)
        forget(connection);
}
