/* Folders under watch for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "io/watch.h"
#include "lua/core.h"

#include <errno.h>

static void on_change(void *context)
{
    struct core *core = context;
    core->on_change(core);
}

int skald_watch_open(struct core *core)
{
    int error = 0;
    if (core->watch == NULL)
        core->watch = watch_new(core->loop, on_change, core, &error);
    return error;
}

int skald_watch_add(struct core *core, const char *folder)
{
    return core->watch ? watch_add(core->watch, folder) : -EBADF;
}

void skald_watch_remove(struct core *core, int folder)
{
    if (core->watch)
        watch_remove(core->watch, folder);
}

bool skald_watch_next(struct core *core, struct skald_change *change)
{
    return core->watch && watch_next(core->watch, &change->folder, &change->what, change->name,
                                     sizeof change->name);
}
