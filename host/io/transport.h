/* The one table of functions a carrier of bytes fills in. What tcp, unix and
 * tls have in common stands in connection.c; what differs stands here. */
#ifndef SKALD_IO_TRANSPORT_H
#define SKALD_IO_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct connection;

/*  column       meaning                                             answer
 *  kind         the endpoint's word for it                          -
 *  read         bytes that have come                                count, 0 at the end, -errno
 *  write        hand bytes to the kernel                            count, -errno
 *  pass         the same as write, with descriptors; NULL: no such thing  count, -errno
 *  send_file    hand bytes of a file to the kernel                  count, 0 at its end, -errno
 *  moves        its bytes are those of the descriptor: the kernel   -
 *               may move them from and to it by itself
 *  flush        send what the carrier itself holds; NULL: nothing   0, -EAGAIN, -errno
 *  seal         the same, with its own last words; NULL: it has none  0, -EAGAIN, -errno
 *  finish       nothing more will be written (FIN)                  0, -errno
 *  set_nodelay  send small writes at once; NULL: no such thing      0, -errno
 *  set_keepalive  probe a silent peer; NULL: no such thing          0, -errno
 */
struct transport_ops {
    const char *kind;
    ssize_t (*read)(struct connection *connection, char *buffer, size_t size);
    ssize_t (*write)(struct connection *connection, const struct iovec *parts, int count);
    ssize_t (*pass)(struct connection *connection, const struct iovec *parts, int count,
                    const int *fds, int descriptors);
    ssize_t (*send_file)(struct connection *connection, int fd, int64_t offset, size_t length);
    bool moves;
    int (*flush)(struct connection *connection);
    int (*seal)(struct connection *connection);
    int (*finish)(struct connection *connection);
    int (*set_nodelay)(struct connection *connection, bool on);
    int (*set_keepalive)(struct connection *connection, bool on, unsigned seconds);
};

extern const struct transport_ops tcp_ops;
extern const struct transport_ops unix_ops;

#endif
