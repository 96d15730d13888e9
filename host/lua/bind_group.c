/* A factory's connections and bounds for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "io/group.h"
#include "lua/core.h"

static struct group *find(struct core *core, double group)
{
    return group_find(core->loop, (uint64_t)group);
}

double skald_group_new(struct core *core)
{
    return (double)group_new(core->loop);
}

void skald_group_release(struct core *core, double handle)
{
    struct group *group = find(core, handle);
    if (group)
        group_release(group);
}

void skald_group_set_bound(struct core *core, double handle, int bound, double value)
{
    struct group *group = find(core, handle);
    if (group)
        group_set_bound(group, (enum bound)bound, value);
}

uint32_t skald_group_count(struct core *core, double handle)
{
    struct group *group = find(core, handle);
    return group ? group_count(group) : 0;
}

void skald_group_stop(struct core *core, double handle)
{
    struct group *group = find(core, handle);
    if (group)
        group_stop(group);
}

void skald_group_abort(struct core *core, double handle)
{
    struct group *group = find(core, handle);
    if (group)
        group_abort(group);
}

void skald_group_news(struct core *core, double handle)
{
    struct group *group = find(core, handle);
    if (group)
        group_news(group);
}

uint32_t skald_group_members(struct core *core, double handle, double *handles, uint32_t max)
{
    struct group *group = find(core, handle);
    return group ? group_members(group, handles, max) : 0;
}
