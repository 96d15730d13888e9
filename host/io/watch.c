/* Folders under watch, by inotify(7) itself: uv_fs_event does not tell when a writer closes its
 * file, and a file that is still being written must not be loaded. */
#include "io/watch.h"

#include "io/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

struct watch {
    uv_poll_t poll;
    int fd;
    void (*changed)(void *context);
    void *context;
    size_t at, end; /* what of the buffer has not been given out */
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
};

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = container_of(poll, struct watch, poll);
    (void)status;
    (void)events;
    watch->changed(watch->context);
}

struct watch *watch_new(struct loop *loop, void (*changed)(void *context), void *context,
                        int *error)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        *error = -errno;
        return NULL;
    }
    struct watch *watch = memory_new(sizeof *watch);
    *error = uv_poll_init(&loop->uv, &watch->poll, fd);
    if (*error < 0) {
        free(watch);
        close(fd);
        return NULL;
    }
    watch->fd = fd;
    watch->changed = changed;
    watch->context = context;
    uv_poll_start(&watch->poll, UV_READABLE, on_poll);
    return watch;
}

static void on_closed(uv_handle_t *handle)
{
    free(container_of((uv_poll_t *)handle, struct watch, poll));
}

void watch_free(struct watch *watch)
{
    if (watch == NULL)
        return;
    uv_close((uv_handle_t *)&watch->poll, on_closed);
    close(watch->fd);
}

int watch_add(struct watch *watch, const char *folder)
{
    uint32_t mask = IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM |
                    IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
    int number = inotify_add_watch(watch->fd, folder, mask);
    return number < 0 ? -errno : number;
}

void watch_remove(struct watch *watch, int folder)
{
    inotify_rm_watch(watch->fd, folder);
}

/*  what the kernel says, what it means here */
static const struct {
    uint32_t mask;
    enum watch_what what;
} meanings[] = {
    {IN_MODIFY, WATCH_BEGUN},
    {IN_CREATE, WATCH_MADE},
    {IN_CLOSE_WRITE | IN_MOVED_TO, WATCH_DONE},
    {IN_DELETE | IN_MOVED_FROM, WATCH_GONE},
    {IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT, WATCH_FOLDER},
    {IN_Q_OVERFLOW, WATCH_LOST},
};

static bool refill(struct watch *watch)
{
    ssize_t n;
    do
        n = read(watch->fd, watch->buffer, sizeof watch->buffer);
    while (n < 0 && errno == EINTR);
    watch->at = 0;
    watch->end = n > 0 ? (size_t)n : 0;
    return n > 0;
}

bool watch_next(struct watch *watch, int *folder, int *what, char *name, size_t size)
{
    if (watch->at == watch->end && !refill(watch))
        return false;
    const struct inotify_event *event =
        (const struct inotify_event *)(const void *)(watch->buffer + watch->at);
    watch->at += sizeof *event + event->len;
    *folder = event->wd;
    *what = 0;
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (event->mask & meanings[i].mask)
            *what |= meanings[i].what;
    size_t length = event->len ? strnlen(event->name, event->len) : 0;
    if (length >= size)
        length = size - 1;
    memcpy(name, event->name, length);
    name[length] = '\0';
    return true;
}
