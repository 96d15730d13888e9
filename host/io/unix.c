/* Unix stream sockets: paths, modes, files left by a server that is gone. */
#include "io/dial.h"
#include "io/inside.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

const struct transport_ops unix_ops = {
    .kind = "unix",
    .read = stream_read,
    .write = stream_write,
    .send_file = stream_send_file,
    .moves = true,
    .finish = stream_finish,
};

static int stream_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* Whether the file is a socket on which nobody listens any more. */
static bool is_stale(const struct sockaddr_un *name)
{
    struct stat status;
    if (lstat(name->sun_path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    int fd = stream_socket();
    if (fd < 0)
        return false;
    bool stale =
        connect(fd, (const struct sockaddr *)name, sizeof *name) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int bind_path(int fd, const struct sockaddr_un *name)
{
    if (bind(fd, (const struct sockaddr *)name, sizeof *name) == 0)
        return 0;
    int error = -errno;
    if (error != -EADDRINUSE || !is_stale(name))
        return error;
    unlink(name->sun_path);
    return bind(fd, (const struct sockaddr *)name, sizeof *name) < 0 ? -errno : 0;
}

/* The mode is set between bind and listen, when nobody can connect yet. */
static int bind_and_listen(int fd, const struct sockaddr_un *name, unsigned mode, int backlog)
{
    int error = bind_path(fd, name);
    if (error < 0)
        return error;
    if (chmod(name->sun_path, mode) == 0 && listen(fd, backlog) == 0)
        return 0;
    error = -errno;
    unlink(name->sun_path);
    return error;
}

/* False where the path does not fit. */
static bool name_of(const char *path, struct sockaddr_un *name)
{
    size_t length = strlen(path);
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (length == 0 || length >= sizeof name->sun_path)
        return false;
    memcpy(name->sun_path, path, length + 1);
    return true;
}

int dial_unix(struct loop *loop, struct group *group, const char *path, uint64_t *handle)
{
    struct sockaddr_un name;
    if (!name_of(path, &name))
        return -ENAMETOOLONG;
    int fd = stream_socket();
    if (fd < 0)
        return fd;
    int error = dial_new(loop, group, &unix_ops, fd, (struct sockaddr *)&name, sizeof name, handle);
    if (error < 0)
        close(fd);
    return error;
}

int listener_unix(struct loop *loop, struct group *group, const char *path, unsigned mode,
                  int backlog, uint64_t *handle)
{
    struct sockaddr_un name;
    if (!name_of(path, &name))
        return -ENAMETOOLONG;
    int fd = stream_socket();
    if (fd < 0)
        return fd;
    int error = bind_and_listen(fd, &name, mode, backlog);
    if (error == 0) {
        error = listener_new(loop, group, &unix_ops, fd, handle);
        if (error < 0)
            unlink(path);
    }
    if (error < 0)
        close(fd);
    return error;
}
