/* Standard input and output as a connection. */
#include "io/stdio.h"

#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A descriptor that others have too, such as the shell that started us, must not cease to block for
 * them: of a pipe and of a terminal we open a description of our own. That of a plain file is
 * shared on purpose: whoever comes after us goes on where we ended. */
static int own(int number, int mode)
{
    char path[32];
    struct stat status;
    int fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || fstat(fd, &status) < 0 || !(S_ISFIFO(status.st_mode) || isatty(fd)))
        return fd < 0 ? -errno : fd;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int other = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (other < 0)
        return fd;
    close(fd);
    return other;
}

static bool is_same_socket(int a, int b)
{
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && S_ISSOCK(first.st_mode) &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

/* inetd gives the peer's socket for standard error, too: the log is none of the peer's business. */
static void put_away(const struct stdio *stdio)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (is_same_socket(stdio->out, STDERR_FILENO))
        dup2(null, STDERR_FILENO);
    dup2(null, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    close(null);
}

int stdio_take(struct loop *loop)
{
    struct stdio *stdio = &loop->stdio;
    if (stdio->state != STDIO_FREE)
        return -EBUSY;
    fflush(stdout);
    int in = own(STDIN_FILENO, O_RDONLY);
    if (in < 0)
        return in;
    int out = own(STDOUT_FILENO, O_WRONLY);
    if (out < 0) {
        close(in);
        return out;
    }
    *stdio = (struct stdio){in, out, STDIO_TAKEN};
    put_away(stdio);
    return 0;
}

static void put_back(int fd, int number)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    dup2(fd, number);
    close(fd);
}

void stdio_release(struct loop *loop)
{
    struct stdio *stdio = &loop->stdio;
    if (stdio->state != STDIO_TAKEN)
        return;
    fflush(stdout);
    put_back(stdio->in, STDIN_FILENO);
    put_back(stdio->out, STDOUT_FILENO);
    stdio->state = STDIO_FREE;
}

bool stdio_is_socket(const struct loop *loop)
{
    struct stat status;
    return loop->stdio.state != STDIO_FREE && fstat(loop->stdio.in, &status) == 0 &&
           S_ISSOCK(status.st_mode);
}

int stdio_connect(struct loop *loop, struct group *group, uint64_t *handle)
{
    struct stdio *stdio = &loop->stdio;
    struct sockaddr_storage name = {0};
    struct address peer = {.family = AF_UNIX};
    socklen_t size = sizeof name;
    if (stdio->state != STDIO_TAKEN)
        return -EBUSY;
    if (getpeername(stdio->in, (struct sockaddr *)&name, &size) == 0)
        address_from_kernel(&peer, (struct sockaddr *)&name);
    struct connection *connection =
        duplex_new(loop, group, &stdio_ops, stdio->in, stdio->out, false, &peer);
    if (connection == NULL)
        return -ENOMEM;
    stdio->state = STDIO_USED;
    return dial_ready(connection, handle);
}
