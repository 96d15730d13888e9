/* TCP: its options and its listening socket. */
#include "io/dial.h"
#include "io/inside.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

static int set_nodelay(struct connection *connection, bool on)
{
    return set_option(connection->fd, IPPROTO_TCP, TCP_NODELAY, on);
}

/* Probes begin after `seconds` of silence and are repeated each `seconds`. */
static int set_keepalive(struct connection *connection, bool on, unsigned seconds)
{
    int fd = connection->fd;
    int error = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, on);
#ifdef TCP_KEEPIDLE
    if (error == 0 && on && seconds > 0)
        error = set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)seconds);
    if (error == 0 && on && seconds > 0)
        error = set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)seconds);
#endif
    return error;
}

const struct transport_ops tcp_ops = {
    .kind = "tcp",
    .read = stream_read,
    .write = stream_write,
    .send_file = stream_send_file,
    .moves = true,
    .finish = stream_finish,
    .set_nodelay = set_nodelay,
    .set_keepalive = set_keepalive,
};

int tcp_send_at_once(int fd)
{
    return set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/* No-delay is set here once: accepted sockets inherit it. [::] takes IPv4 too. */
static int prepare(int fd, int family)
{
    int error = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (error == 0 && family == AF_INET6)
        error = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (error == 0)
        error = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return error;
}

int dial_tcp(struct loop *loop, struct group *group, const struct address *address,
             const struct address *local, uint64_t *handle)
{
    struct sockaddr_storage name, from;
    socklen_t length = address_to_kernel(address, &name);
    if (local && local->family != address->family)
        return -EAFNOSUPPORT; /* bind would call it EINVAL */
    int fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (error == 0 && local) {
        socklen_t size = address_to_kernel(local, &from);
        if (bind(fd, (struct sockaddr *)&from, size) < 0)
            error = -errno;
    }
    if (error == 0)
        error = dial_new(loop, group, &tcp_ops, fd, (struct sockaddr *)&name, length, handle);
    if (error < 0)
        close(fd);
    return error;
}

int listener_tcp(struct loop *loop, struct group *group, const struct address *address, int backlog,
                 uint64_t *handle)
{
    struct sockaddr_storage name;
    socklen_t length = address_to_kernel(address, &name);
    int fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = prepare(fd, address->family);
    if (error == 0 && bind(fd, (struct sockaddr *)&name, length) < 0)
        error = -errno;
    if (error == 0 && listen(fd, backlog) < 0)
        error = -errno;
    if (error == 0)
        error = listener_new(loop, group, &tcp_ops, fd, handle);
    if (error < 0)
        close(fd);
    return error;
}
