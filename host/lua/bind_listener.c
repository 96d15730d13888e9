/* Listeners for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "base/address.h"
#include "io/group.h"
#include "io/listener.h"
#include "lua/bind_address.h"
#include "lua/core.h"

#include <errno.h>

bool skald_is_address(const char *host)
{
    struct address address;
    return address_parse(&address, host, 0);
}

int skald_canonical(const char *host, struct skald_address *out)
{
    struct address address;
    return address_parse(&address, host, 0) ? bind_address(&address, out) : EINVAL;
}

static int listened(int error, uint64_t handle, double *listener)
{
    *listener = (double)handle;
    return -error;
}

int skald_listen_tcp(struct core *core, double group, const char *host, int port, int backlog,
                     double *listener)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    struct address address;
    uint64_t handle = 0;
    if (owner == NULL || !address_parse(&address, host, (uint16_t)port))
        return EINVAL;
    int error = listener_tcp(core->loop, owner, &address, backlog, &handle);
    return listened(error, handle, listener);
}

int skald_listen_unix(struct core *core, double group, const char *path, unsigned mode, int backlog,
                      double *listener)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    uint64_t handle = 0;
    if (owner == NULL)
        return EINVAL;
    int error = listener_unix(core->loop, owner, path, mode, backlog, &handle);
    return listened(error, handle, listener);
}

int skald_listen_fd(struct core *core, double group, int fd, double *listener)
{
    struct group *owner = group_find(core->loop, (uint64_t)group);
    uint64_t handle = 0;
    if (owner == NULL)
        return EINVAL;
    int error = listener_adopt(core->loop, owner, fd, &handle);
    return listened(error, handle, listener);
}

void skald_accept(struct core *core, double handle)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    if (listener)
        listener_accept(listener);
}

void skald_unlisten(struct core *core, double handle)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    if (listener)
        listener_close(listener);
}

void skald_finish_listener(struct core *core, double handle)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    if (listener)
        listener_finish(listener);
}

int skald_move_listener(struct core *core, double handle, double group)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    struct group *owner = group_find(core->loop, (uint64_t)group);
    if (listener == NULL || owner == NULL)
        return EBADF;
    listener_move(listener, owner);
    return 0;
}

int skald_adjust_listener(struct core *core, double handle, unsigned mode, int backlog)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    return listener ? -listener_adjust(listener, mode, backlog) : EBADF;
}

int skald_listener_host(struct core *core, double handle, struct skald_address *out)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    struct address address;
    if (listener == NULL)
        return EBADF;
    int error = listener_host(listener, &address, out->text, sizeof out->text);
    return error < 0 ? -error : bind_address(&address, out);
}
