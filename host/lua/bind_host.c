/* The host itself for Lua: stop, log, errors' names, what is open, the files in the program. */
#include "lua/bind.h"

#include "base/log.h"
#include "io/watchdog.h"
#include "lua/bundle.h"
#include "lua/core.h"
#include "lua/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void skald_end_turn(struct core *core)
{
    loop_end_turn(core->loop);
}

void skald_stop(struct core *core, int status)
{
    core->stop_wanted = true;
    core->exit_status = status;
}

void skald_drain(struct core *core)
{
    core->drain_wanted = true;
}

void skald_finish(struct core *core)
{
    core->finish_wanted = true;
}

bool skald_is_stopping(struct core *core)
{
    return core->stop_wanted || loop_is_draining(core->loop);
}

double skald_user(void)
{
    return (double)geteuid();
}

int skald_process(void)
{
    return (int)getpid();
}

int skald_real_path(const char *path, char *real, size_t size)
{
    char *found = realpath(path, NULL);
    if (found == NULL)
        return errno;
    size_t length = strlen(found);
    if (length < size)
        memcpy(real, found, length + 1);
    free(found);
    return length < size ? 0 : ENAMETOOLONG;
}

int skald_read_link(const char *path, char *target, size_t size)
{
    ssize_t length = readlink(path, target, size);
    return length < 0 ? -errno : (size_t)length < size ? (int)length : -ENAMETOOLONG;
}

bool skald_is_regular(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

int skald_make_folder(const char *path)
{
    return mkdir(path, 0777) < 0 ? errno : 0;
}

int skald_is_private(const char *folder)
{
    struct stat status;
    if (lstat(folder, &status) < 0)
        return errno;
    if (!S_ISDIR(status.st_mode))
        return ENOTDIR;
    return status.st_uid == geteuid() && (status.st_mode & 0777) == 0700 ? 0 : EPERM;
}

int skald_make_private(const char *folder)
{
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return errno;
    return skald_is_private(folder);
}

void skald_collect(struct core *core)
{
    vm_collect_soon(core);
}

double skald_collections(struct core *core)
{
    return core->gc_collections;
}

void skald_log(struct core *core, int level, const char *text, size_t length)
{
    log_text(core->log, (enum log_level)level, text, length);
}

char *skald_log_take(struct core *core, size_t *length)
{
    return core->log->kept ? log_take(core->log->kept, length) : NULL;
}

int skald_watchdog(struct core *core, double seconds, const char *text)
{
    int error = 0;
    if (core->watchdog == NULL)
        core->watchdog = watchdog_new(&error);
    if (core->watchdog)
        watchdog_feed(core->watchdog, seconds, text);
    return error;
}

bool skald_log_wants(struct core *core, int level)
{
    return log_wants(core->log, (enum log_level)level);
}

const char *skald_error_name(int error)
{
    return error_name(error);
}

int skald_error_number(const char *name)
{
    static const int numbers[] = {EAGAIN,  ECANCELED, ETIMEDOUT, ECONNREFUSED, ENOENT,
                                  ENOTDIR, EINVAL,    EISCONN,   ENOMEM};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(error_name(numbers[i]), name) == 0)
            return numbers[i];
    return 0;
}

const char *skald_error_text(int error)
{
    return error_text(error);
}

void skald_census(struct core *core, struct skald_census *census)
{
    struct loop_census counts;
    loop_census(core->loop, &counts);
    *census = (struct skald_census){
        counts.connections, counts.lingering, counts.listeners, counts.groups,      counts.lookups,
        counts.children,    counts.timers,    counts.anchors,   counts.descriptors, counts.files};
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
