/* Files for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "io/files.h"
#include "lua/core.h"

#include <stdio.h>

int skald_file_start(struct core *core, const struct skald_file_request *in, double *job)
{
    struct file_request request = {
        .what = (enum file_what)in->what,
        .flags = in->flags,
        .mode = in->mode,
        .path = in->path,
        .to = in->to,
        .data = in->data,
        .length = in->length,
        .offset = (uint64_t)in->offset,
        .size = (uint64_t)in->size,
        .most = (uint64_t)in->most,
        .file = (uint64_t)in->file,
    };
    uint64_t handle = 0;
    int error = file_start(core->loop, &request, &handle);
    *job = (double)handle;
    return -error;
}

static const char *kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "link";
    case S_IFIFO:
        return "fifo";
    case S_IFSOCK:
        return "socket";
    case S_IFCHR:
        return "character";
    case S_IFBLK:
        return "block";
    default:
        return "unknown";
    }
}

static double seconds(const struct timespec *time)
{
    return (double)time->tv_sec + (double)time->tv_nsec / 1e9;
}

static void fill_status(struct skald_file_result *out, const struct stat *status)
{
    out->size = (double)status->st_size;
    out->mtime = seconds(&status->st_mtim);
    out->ctime = seconds(&status->st_ctim);
    out->inode = (double)status->st_ino;
    out->device = (double)status->st_dev;
    out->mode = status->st_mode & 07777;
    out->uid = status->st_uid;
    out->gid = status->st_gid;
    out->links = (unsigned)status->st_nlink;
    snprintf(out->kind, sizeof out->kind, "%s", kind_of(status->st_mode));
}

bool skald_file_result(struct core *core, double job, struct skald_file_result *out)
{
    struct file_result result;
    if (!file_result(core->loop, (uint64_t)job, &result))
        return false;
    out->bytes = result.bytes;
    out->length = result.length;
    out->written = (double)result.written;
    out->file = (double)result.file;
    fill_status(out, &result.status);
    return true;
}
