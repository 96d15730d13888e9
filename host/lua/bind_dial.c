/* Outgoing connections for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "base/address.h"
#include "io/dial.h"
#include "io/group.h"
#include "lua/core.h"

#include <errno.h>

int skald_dial_tcp(struct core *core, double group, const char *host, int port, const char *local,
                   int local_port, double *handle)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    struct address address, from;
    uint64_t dialled = 0;
    if (owner == NULL)
        return EBADF;
    if (!address_parse(&address, host, (uint16_t)port) ||
        (local && !address_parse(&from, local, (uint16_t)local_port)))
        return EINVAL;
    int error = dial_tcp(core->loop, owner, &address, local ? &from : NULL, &dialled);
    *handle = (double)dialled;
    return -error;
}

int skald_dial_unix(struct core *core, double group, const char *path, double *handle)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    uint64_t dialled = 0;
    if (owner == NULL)
        return EBADF;
    int error = dial_unix(core->loop, owner, path, &dialled);
    *handle = (double)dialled;
    return -error;
}

void skald_dial_cancel(struct core *core, double handle)
{
    dial_cancel(core->loop, (uint64_t)handle);
}
