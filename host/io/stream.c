/* What stream sockets share, whatever their address family: reading, writing, the end. */
#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/sendfile.h>
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

/* For files that the kernel cannot send by itself. */
ssize_t stream_copy_file(struct connection *connection, int fd, int64_t offset, size_t length)
{
    char buffer[16384];
    ssize_t n = pread(fd, buffer, length < sizeof buffer ? length : sizeof buffer, (off_t)offset);
    struct iovec part = {buffer, n > 0 ? (size_t)n : 0};
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? -EIO : -errno;
    return n == 0 ? 0 : connection->ops->write(connection, &part, 1);
}

ssize_t stream_send_file_to(struct connection *connection, int out, int fd, int64_t offset,
                            size_t length)
{
    off_t at = (off_t)offset;
    ssize_t n;
    do
        n = sendfile(out, fd, &at, length);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EINVAL || errno == ENOSYS))
        return stream_copy_file(connection, fd, offset, length);
    return n < 0 ? -errno : n;
}

ssize_t stream_send_file(struct connection *connection, int fd, int64_t offset, size_t length)
{
    return stream_send_file_to(connection, connection->fd, fd, offset, length);
}

int stream_finish(struct connection *connection)
{
    return shutdown(connection->fd, SHUT_WR) < 0 ? -errno : 0;
}
