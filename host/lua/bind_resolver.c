/* Look-ups of host names for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "base/address.h"
#include "io/resolver.h"
#include "lua/bind_address.h"
#include "lua/core.h"

int skald_lookup_start(struct core *core, const char *name, int families, const char *servers,
                       double *lookup)
{
    uint64_t handle = 0;
    int error = lookup_start(core->loop, name, families, servers, &handle);
    *lookup = (double)handle;
    return -error;
}

void skald_lookup_cancel(struct core *core, double lookup)
{
    lookup_cancel(core->loop, (uint64_t)lookup);
}

bool skald_lookup_next(struct core *core, double lookup, struct skald_address *out)
{
    struct address address;
    return lookup_next(core->loop, (uint64_t)lookup, &address) && bind_address(&address, out) == 0;
}
