/* What the kernel moves from one socket to another by itself, by way of a pipe of its own (the
 * lane): no byte of it is copied. Elsewhere than on Linux nothing moves so, and who asks copies. */
#include "io/inside.h"

#include <errno.h>

#ifdef __linux__

#include <fcntl.h>
#include <unistd.h>

void splice_close(struct loop *loop)
{
    if (!loop->has_lane)
        return;
    close(loop->lane[0]);
    close(loop->lane[1]);
    loop->has_lane = false;
}

/* Where the system allows no lane of that size it has the usual one, which takes less at once. */
static bool open_lane(struct loop *loop)
{
    if (!loop->has_lane && pipe2(loop->lane, O_CLOEXEC | O_NONBLOCK) == 0) {
        fcntl(loop->lane[1], F_SETPIPE_SZ, MOVE_SIZE);
        loop->has_lane = true;
    }
    return loop->has_lane;
}

static ssize_t move(int from, int to, size_t length)
{
    ssize_t n;
    do
        n = splice(from, NULL, to, NULL, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* What the sink did not take: the lane is for others, too. */
static int queue_rest(struct connection *sink, size_t left)
{
    struct loop *loop = connection_loop(sink);
    while (left > 0) {
        char *buffer = loop->events->buffer(loop->context);
        ssize_t n = read(loop->lane[0], buffer, left < READ_SIZE ? left : READ_SIZE);
        if (n < 0 && errno == EINTR)
            continue;
        int error = n > 0 ? pipe_queue(sink, buffer, (size_t)n) : -EIO;
        if (error < 0)
            return error;
        left -= (size_t)n;
    }
    return 0;
}

ssize_t splice_some(struct connection *source, struct connection *sink, int *error)
{
    struct loop *loop = connection_loop(source);
    if (!open_lane(loop))
        return -ENOSYS;
    ssize_t n = move(source->fd, loop->lane[1], MOVE_SIZE);
    if (n <= 0)
        return n == -EINVAL || n == -ENOMEM ? -ENOSYS : n; /* copying takes less memory */
    ssize_t sent = move(loop->lane[0], sink->fd, (size_t)n);
    if (sent < 0 && (sent == -EAGAIN || sent == -EINVAL || sent == -ENOMEM))
        sent = 0;
    sink->active = connection_clock(sink);
    *error = sent < 0 ? (int)sent : queue_rest(sink, (size_t)(n - sent));
    if (*error < 0)
        splice_close(loop); /* with what is left in it */
    return n;
}

#else

void splice_close(struct loop *loop)
{
    (void)loop;
}

ssize_t splice_some(struct connection *source, struct connection *sink, int *error)
{
    (void)source, (void)sink, (void)error;
    return -ENOSYS;
}

#endif
