/* The client's side of the control socket: one request, one answer, waiting for both. */
#include "lua/bind.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST = 64 << 20 }; /* bytes of an answer */

static int reach(const char *path, int *fd)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof name.sun_path)
        return ENAMETOOLONG;
    memcpy(name.sun_path, path, length + 1);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return errno;
    if (connect(*fd, (const struct sockaddr *)&name, sizeof name) == 0)
        return 0;
    int error = errno;
    close(*fd);
    return error;
}

static int send_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        data += n;
        length -= (size_t)n;
    }
    return 0;
}

/* Reads to the end of the stream; *answer is to be freed. */
static int receive_all(int fd, char **answer, size_t *size)
{
    size_t room = 0;
    for (;;) {
        if (*size == room) {
            room = room ? room * 2 : 4096;
            char *more = room > MOST ? NULL : realloc(*answer, room);
            if (more == NULL)
                return ENOBUFS;
            *answer = more;
        }
        ssize_t n = recv(fd, *answer + *size, room - *size, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : 0;
        *size += (size_t)n;
    }
}

int skald_ask(const char *path, const char *request, size_t length, char **answer, size_t *size)
{
    int fd;
    *answer = NULL;
    *size = 0;
    int error = reach(path, &fd);
    if (error != 0)
        return error;
    error = send_all(fd, request, length);
    if (error == 0 || error == EPIPE)
        error = receive_all(fd, answer, size);
    close(fd);
    return error;
}

void skald_free(char *answer)
{
    free(answer);
}
