/* A listening socket: accepts in batches, refuses over its group's bounds, paces when descriptors
 * run out. */
#include "io/inside.h"

#include "base/log.h"
#include "base/memory.h"
#include "io/tls.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    PACE_MS = 100,      /* between two tries while descriptors are short */
    PATIENCE = 10,      /* tries before those who wait are refused instead */
    MOST_REFUSING = 64, /* refused sockets that may linger at a time */
    MOST_QUEUED = 4096, /* the most that the kernel's queue of a listener holds, by default */
};

/* Owned by the loop until uv_close's callback frees it. */
struct listener {
    uv_poll_t poll;
    uint32_t magic;
    int fd;
    uint64_t handle;
    const struct transport_ops *ops;
    struct group *group;     /* holds */
    struct tls_context *tls; /* holds; NULL: what it accepts is not encrypted */
    struct timer pace;
    struct listener *next_paced;
    unsigned short tries; /* since descriptors ran out */
    bool accepting;
    bool paced;
    int left;     /* to be taken from the queue before it closes; 0: it does not finish */
    dev_t device; /* of a Unix socket's file: only our own is unlinked */
    ino_t inode;
};

#define WARN_NS                                                                                    \
    ((uint64_t)10 * 1000000000) /* quiet for so long: the next shortage is a new one               \
                                 */

static struct loop *listener_loop(const struct listener *listener)
{
    return container_of(listener->poll.loop, struct loop, uv);
}

struct listener *listener_find(struct loop *loop, uint64_t handle)
{
    return slots_find(&loop->listeners, handle);
}

int listener_host(const struct listener *listener, struct address *address, char *path, size_t size)
{
    return socket_host(listener->fd, address, path, size);
}

/* --- accepting ------------------------------------------------------------------------------ */

static void refuse(struct listener *listener, int fd, const struct address *peer)
{
    struct loop *loop = listener_loop(listener);
    struct connection *connection = NULL;
    if (loop->refusing < MOST_REFUSING)
        connection = connection_new(loop, listener->group, listener->ops, fd, peer);
    if (connection)
        connection_refuse(connection);
    else
        close(fd);
}

static void take(struct listener *listener, int fd, const struct address *peer)
{
    struct loop *loop = listener_loop(listener);
    struct connection *connection = connection_new(loop, listener->group, listener->ops, fd, peer);
    if (connection == NULL) {
        close(fd);
        return;
    }
    connection->handle = slots_add(&loop->connections, connection);
    if (connection->handle == 0) {
        connection_refuse(connection);
        return;
    }
    group_join(listener->group, connection);
    connection_dirty(connection);
    if (listener->tls)
        tls_begin(connection, listener->tls, NULL);
    enum accept_result result = loop->events->accepted(loop->context, connection, listener->handle);
    if (result == ACCEPT_REFUSED)
        connection_close(connection);
    else if (result == ACCEPT_FAILED)
        connection_fail(connection);
}

static bool is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static int accept_peer(struct listener *listener, struct address *peer)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    int fd = accept4(listener->fd, (struct sockaddr *)&name, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    address_from_kernel(peer, (struct sockaddr *)&name);
    return fd;
}

/* The reserve makes room to take one and close it, so that it does not wait for ever. */
static void refuse_waiting(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    struct address peer;
    for (int i = 0; i < ACCEPT_BATCH && loop->reserve >= 0; i++) {
        close(loop->reserve);
        int fd = accept_peer(listener, &peer);
        if (fd >= 0)
            close(fd);
        loop->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            break;
    }
}

/* Asks nobody until a descriptor is free, or a handshake is over, or for a while. */
static void rest(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    uv_poll_stop(&listener->poll);
    loop_timer_start(loop, &listener->pace, loop_now(loop) + PACE_MS * (uint64_t)1000000);
    if (listener->paced)
        return;
    listener->paced = true;
    listener->next_paced = loop->paced;
    loop->paced = listener;
}

/* Stops asking for a while. Whoever waits stays in the kernel's queue and is served when one of
 * our descriptors is closed; after a second of that, they are refused. */
static void pace(struct listener *listener, int error)
{
    struct loop *loop = listener_loop(listener);
    uint64_t now = loop_now(loop);
    if (loop->warned_at == 0 || now - loop->warned_at > WARN_NS)
        log_write(loop->log, LOG_WARNING, "accept: %s; waiting for a connection to end",
                  error_text(error));
    loop->warned_at = now;
    if (loop->reserve < 0)
        loop->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (listener->tries < PATIENCE)
        listener->tries++;
    else
        refuse_waiting(listener);
    rest(listener);
}

/* The queue of a listener that finishes is empty, or has given all that it may hold. */
static void end_if_finishing(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    uint64_t handle = listener->handle;
    if (listener->left == 0)
        return;
    listener_close(listener);
    loop->events->unlistened(loop->context, handle);
}

static void accept_batch(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    for (int i = 0; i < ACCEPT_BATCH && listener->accepting; i++) {
        struct address peer;
        if (listener->tls && tls_context_is_full(listener->tls)) {
            rest(listener);
            return;
        }
        int fd = accept_peer(listener, &peer);
        if (fd == -EAGAIN) {
            end_if_finishing(listener);
            return;
        }
        if (fd < 0 && is_shortage(-fd)) {
            pace(listener, -fd);
            return;
        }
        if (listener->left > 1)
            listener->left--;
        if (fd < 0)
            continue; /* ECONNABORTED and the like: that one is gone, the next may be fine */
        listener->tries = 0;
        if (group_admits(listener->group, &peer))
            take(listener, fd, &peer);
        else
            refuse(listener, fd, &peer);
        loop_settle(loop);
        if (listener->left == 1 && listener->accepting) {
            end_if_finishing(listener);
            return;
        }
    }
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct listener *listener)
{
    if (listener->accepting)
        uv_poll_start(&listener->poll, UV_READABLE, on_poll);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct listener *listener = container_of(poll, struct listener, poll);
    assert(listener->magic == LISTENER_MAGIC);
    (void)events;
    accept_batch(listener);
    if (status < 0 && !listener->paced)
        watch(listener); /* libuv has stopped watching */
}

static void unpace(struct listener *listener)
{
    struct listener **link = &listener_loop(listener)->paced;
    while (*link && *link != listener)
        link = &(*link)->next_paced;
    if (*link)
        *link = listener->next_paced;
    listener->paced = false;
    loop_timer_stop(listener_loop(listener), &listener->pace);
}

/* What waits is taken batch by batch, so that nobody else waits long for it. */
static void go_on_finishing(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    uint64_t handle = listener->handle;
    accept_batch(listener);
    if (listener_find(loop, handle) && !listener->paced)
        loop_timer_start(loop, &listener->pace, loop_now(loop));
}

static void on_pace(struct timer *timer)
{
    struct listener *listener = container_of(timer, struct listener, pace);
    unpace(listener);
    if (listener->left > 0)
        go_on_finishing(listener);
    else
        watch(listener);
}

void listeners_retry(struct loop *loop)
{
    while (loop->paced) {
        struct listener *listener = loop->paced;
        unpace(listener);
        if (listener->left > 0)
            loop_timer_start(loop, &listener->pace, loop_now(loop));
        else
            watch(listener);
    }
}

/* --- birth and end -------------------------------------------------------------------------- */

/* Remembers which file is ours. */
static void note_file(struct listener *listener)
{
    struct address address;
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
    struct stat status;
    if (listener->ops != &unix_ops || listener_host(listener, &address, path, sizeof path) < 0)
        return;
    if (lstat(path, &status) == 0) {
        listener->device = status.st_dev;
        listener->inode = status.st_ino;
    }
}

static void unlink_file(const struct listener *listener)
{
    struct address address;
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
    struct stat status;
    if (listener->inode == 0 || listener_host(listener, &address, path, sizeof path) < 0)
        return;
    if (lstat(path, &status) == 0 && status.st_dev == listener->device &&
        status.st_ino == listener->inode)
        unlink(path);
}

int listener_new(struct loop *loop, struct group *group, const struct transport_ops *ops, int fd,
                 uint64_t *handle)
{
    if (loop->draining)
        return -ECANCELED;
    struct listener *listener = memory_new(sizeof *listener);
    *handle = slots_add(&loop->listeners, listener);
    int error = *handle ? uv_poll_init(&loop->uv, &listener->poll, fd) : -ENFILE;
    if (error < 0) {
        slots_remove(&loop->listeners, *handle);
        free(listener);
        return error;
    }
    listener->magic = LISTENER_MAGIC;
    listener->handle = *handle;
    listener->fd = fd;
    listener->ops = ops;
    listener->group = group;
    listener->pace.fire = on_pace;
    group_hold(group);
    note_file(listener);
    return 0;
}

/* What kind of listening socket a descriptor is, or NULL. */
static const struct transport_ops *kind_of(int fd)
{
    int listens = 0, domain = 0, type = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
        return NULL;
    return domain == AF_UNIX ? &unix_ops : &tcp_ops;
}

int listener_adopt(struct loop *loop, struct group *group, int fd, uint64_t *handle)
{
    const struct transport_ops *ops = kind_of(fd);
    if (ops == NULL)
        return fcntl(fd, F_GETFD) < 0 ? -EBADF : -ENOTSOCK;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return -errno;
    int error = fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK) < 0 ? -errno : 0;
    if (error == 0 && ops == &tcp_ops)
        error = tcp_send_at_once(own); /* accepted sockets inherit it */
    if (error == 0)
        error = listener_new(loop, group, ops, own, handle);
    if (error < 0)
        close(own);
    else
        listener_find(loop, *handle)->inode = 0; /* its file is whoever's that made it */
    return error;
}

void listener_accept(struct listener *listener)
{
    listener->accepting = true;
    watch(listener);
}

static void on_closed(uv_handle_t *handle)
{
    struct listener *listener = container_of((uv_poll_t *)handle, struct listener, poll);
    group_release(listener->group);
    if (listener->tls)
        tls_context_drop(listener->tls);
    free(listener);
}

void listener_close(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    unlink_file(listener);
    unpace(listener);
    listener->accepting = false;
    slots_remove(&loop->listeners, listener->handle);
    uv_close((uv_handle_t *)&listener->poll, on_closed);
    close(listener->fd);
}

void listener_finish(struct listener *listener)
{
    struct loop *loop = listener_loop(listener);
    if (listener->left > 0)
        return;
    unlink_file(listener);
    unpace(listener);
    uv_poll_stop(&listener->poll);
    listener->accepting = true;
    listener->left = MOST_QUEUED + 1;
    loop_timer_start(loop, &listener->pace, loop_now(loop));
}

void listener_move(struct listener *listener, struct group *group)
{
    group_hold(group);
    group_release(listener->group);
    listener->group = group;
}

int listener_secure(struct listener *listener, uint64_t handle)
{
    struct tls_context *context = tls_context_find(listener_loop(listener), handle);
    if (context == NULL && handle != 0)
        return -EBADF;
    if (context)
        tls_context_hold(context);
    if (listener->tls)
        tls_context_drop(listener->tls);
    listener->tls = context;
    return 0;
}

int listener_adjust(struct listener *listener, unsigned mode, int backlog)
{
    struct address address;
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
    if (listener->inode != 0) {
        int error = listener_host(listener, &address, path, sizeof path);
        if (error < 0)
            return error;
        if (chmod(path, mode) < 0)
            return -errno;
    }
    return listen(listener->fd, backlog) < 0 ? -errno : 0;
}
