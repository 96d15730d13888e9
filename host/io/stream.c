/* What stream sockets share, whatever their address family: reading, writing, the end. */
#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t stream_read(struct connection *connection, char *buffer, size_t size)
{
    ssize_t n;
    do
        n = read(connection->fd, buffer, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t stream_write(struct connection *connection, const struct iovec *parts, int count)
{
    ssize_t n;
    do
        n = count == 1 ? write(connection->fd, parts->iov_base, parts->iov_len)
                       : writev(connection->fd, parts, count);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int stream_finish(struct connection *connection)
{
    return shutdown(connection->fd, SHUT_WR) < 0 ? -errno : 0;
}
