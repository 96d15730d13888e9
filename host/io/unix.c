/* Unix stream sockets: paths, modes, files left by a server that is gone. */
#include "io/dial.h"
#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The descriptors that came with what was read wait in the loop until they are told of. */
static void keep_descriptors(struct loop *loop, struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            if (loop->passed_count < DESCRIPTORS)
                loop->passed[loop->passed_count++] = fd;
            else
                close(fd);
        }
    }
}

static ssize_t unix_read(struct connection *connection, char *buffer, size_t size)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    struct iovec part = {buffer, size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t n;
    do
        n = recvmsg(connection->fd, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (message.msg_controllen > 0)
        keep_descriptors(connection_loop(connection), &message);
    return n;
}

static ssize_t unix_pass(struct connection *connection, const struct iovec *parts, int count,
                         const int *fds, int descriptors)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(DESCRIPTORS * sizeof(int))] = {0};
    size_t size = (size_t)descriptors * sizeof *fds;
    struct msghdr message = {.msg_iov = (struct iovec *)parts,
                             .msg_iovlen = (size_t)count,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(size)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(size)};
    memcpy(CMSG_DATA(head), fds, size);
    ssize_t n;
    do
        n = sendmsg(connection->fd, &message, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

const struct transport_ops unix_ops = {
    .kind = "unix",
    .read = unix_read,
    .write = stream_write,
    .pass = unix_pass,
    .send_file = stream_send_file,
    .moves = true,
    .finish = stream_finish,
};

enum { LOCK_TRIES = 100, LOCK_PAUSE_NS = 1000000 };

/* A name as the kernel takes it. One that begins with @ is abstract: of no file (unix(7)). */
struct unix_name {
    struct sockaddr_un address;
    socklen_t length;
    bool is_file;
};

static int stream_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

static const struct sockaddr *generic(const struct unix_name *name)
{
    return (const struct sockaddr *)&name->address;
}

/* Whether the file is a socket on which nobody listens any more. */
static bool is_stale(const struct unix_name *name)
{
    struct stat status;
    if (lstat(name->address.sun_path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    int fd = stream_socket();
    if (fd < 0)
        return false;
    bool stale = connect(fd, generic(name), name->length) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int bind_name(int fd, const struct unix_name *name)
{
    if (bind(fd, generic(name), name->length) == 0)
        return 0;
    int error = -errno;
    if (error != -EADDRINUSE || !name->is_file || !is_stale(name))
        return error;
    unlink(name->address.sun_path);
    return bind(fd, generic(name), name->length) < 0 ? -errno : 0;
}

/* Between bind and listen a socket file looks like a stale one: hosts that start together take
 * turns in its folder. Who keeps the lock for long is none of them. The descriptor that holds it,
 * or -1. */
static int lock_folder(const char *path)
{
    char folder[sizeof((struct sockaddr_un *)0)->sun_path + 1];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) + 1 : 1;
    memcpy(folder, slash ? path : ".", length);
    folder[length] = '\0';
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
    for (int i = 0; fd >= 0 && i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) < 0; i++)
        nanosleep(&pause, NULL);
    return fd;
}

/* The mode is set between bind and listen, when nobody can connect yet. */
static int bind_and_listen(int fd, const struct unix_name *name, unsigned mode, int backlog)
{
    const char *path = name->address.sun_path;
    int error = bind_name(fd, name);
    if (error < 0)
        return error;
    if ((!name->is_file || chmod(path, mode) == 0) && listen(fd, backlog) == 0)
        return 0;
    error = -errno;
    if (name->is_file)
        unlink(path);
    return error;
}

static int listen_alone(int fd, const struct unix_name *name, unsigned mode, int backlog)
{
    int lock = name->is_file ? lock_folder(name->address.sun_path) : -1;
    int error = bind_and_listen(fd, name, mode, backlog);
    if (lock >= 0)
        close(lock);
    return error;
}

/* False where the path does not fit. */
static bool name_of(const char *path, struct unix_name *name)
{
    size_t length = strlen(path);
    *name = (struct unix_name){.address.sun_family = AF_UNIX, .is_file = path[0] != '@'};
    if (length == 0 || length >= sizeof name->address.sun_path)
        return false;
    memcpy(name->address.sun_path, path, length + 1);
    name->length = sizeof name->address;
    if (!name->is_file) {
        name->address.sun_path[0] = '\0';
        name->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    }
    return true;
}

int dial_unix(struct loop *loop, struct group *group, const char *path, uint64_t *handle)
{
    struct unix_name name;
    if (!name_of(path, &name))
        return -ENAMETOOLONG;
    int fd = stream_socket();
    if (fd < 0)
        return fd;
    int error = dial_new(loop, group, &unix_ops, fd, generic(&name), name.length, handle);
    if (error < 0)
        close(fd);
    return error;
}

int listener_unix(struct loop *loop, struct group *group, const char *path, unsigned mode,
                  int backlog, uint64_t *handle)
{
    struct unix_name name;
    if (!name_of(path, &name))
        return -ENAMETOOLONG;
    int fd = stream_socket();
    if (fd < 0)
        return fd;
    int error = listen_alone(fd, &name, mode, backlog);
    if (error == 0) {
        error = listener_new(loop, group, &unix_ops, fd, handle);
        if (error < 0 && name.is_file)
            unlink(path);
    }
    if (error < 0)
        close(fd);
    return error;
}
