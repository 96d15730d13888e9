/* Processes, and standard input and output, for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "io/group.h"
#include "io/process.h"
#include "io/stdio.h"
#include "lua/core.h"

#include <errno.h>
#include <stddef.h>

_Static_assert(sizeof(struct skald_child_fd) == sizeof(struct process_fd) &&
                   offsetof(struct skald_child_fd, handle) == offsetof(struct process_fd, handle),
               "one is read as the other");

int skald_spawn(struct core *core, double pipes, double streams, struct skald_child *child)
{
    struct group *owner = group_find(core->loop, (uint64_t)pipes);
    struct group *stream_owner = group_find(core->loop, (uint64_t)streams);
    if (owner == NULL || stream_owner == NULL)
        return EBADF;
    struct process_plan plan = {
        .path = child->path,
        .args = child->args,
        .env = child->env,
        .cwd = child->cwd,
        .uid = child->uid,
        .gid = child->gid,
        .rows = child->rows,
        .columns = child->columns,
        .count = child->count,
        .fds = (struct process_fd *)(void *)child->fds,
    };
    int error = process_spawn(core->loop, owner, stream_owner, &plan);
    child->handle = plan.handle;
    child->pid = plan.pid;
    child->stage = plan.stage;
    return -error;
}

int skald_signal(struct core *core, double child, int number)
{
    return -process_signal(core->loop, (uint64_t)child, number);
}

int skald_signal_number(const char *name)
{
    return signal_number(name);
}

const char *skald_signal_name(int number)
{
    return signal_name(number);
}

int skald_resize(struct core *core, double connection, int rows, int columns)
{
    return -process_resize(core->loop, (uint64_t)connection, rows, columns);
}

int skald_stdio_take(struct core *core)
{
    return -stdio_take(core->loop);
}

void skald_stdio_release(struct core *core)
{
    stdio_release(core->loop);
}

bool skald_stdio_is_socket(struct core *core)
{
    return stdio_is_socket(core->loop);
}

int skald_stdio_connect(struct core *core, double group, double *handle)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    uint64_t connection = 0;
    if (owner == NULL)
        return EBADF;
    int error = stdio_connect(core->loop, owner, &connection);
    *handle = (double)connection;
    return -error;
}
