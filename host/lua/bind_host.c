/* The host itself for Lua: stop, log, errors' names, what is open, the files in the program. */
#include "lua/bind.h"

#include "base/log.h"
#include "lua/bundle.h"
#include "lua/core.h"

void skald_stop(struct core *core, int status)
{
    core->stop_wanted = true;
    core->exit_status = status;
}

void skald_log(struct core *core, int level, const char *text, size_t length)
{
    log_text(core->log, (enum log_level)level, text, length);
}

bool skald_log_wants(struct core *core, int level)
{
    return log_wants(core->log, (enum log_level)level);
}

const char *skald_error_name(int error)
{
    return error_name(error);
}

const char *skald_error_text(int error)
{
    return error_text(error);
}

void skald_census(struct core *core, struct skald_census *census)
{
    struct loop_census counts;
    loop_census(core->loop, &counts);
    *census = (struct skald_census){counts.connections, counts.lingering, counts.listeners,
                                    counts.groups,      counts.timers,    counts.anchors,
                                    counts.descriptors};
}

const char *skald_bundled(const char *name, size_t *size)
{
    const struct bundle_file *file = bundle_find(name);
    if (file == NULL)
        return NULL;
    *size = file->size;
    return file->data;
}

const char *skald_bundled_name(size_t index)
{
    return index < bundle_count ? bundle_files[index].name : NULL;
}
