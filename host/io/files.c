/* What is asked of files, done by libuv's threads. A job is its thread's while that works on it,
 * and the loop's before and after; threads know nothing of the loop. */
#include "io/files.h"

#include "io/inside.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    FIRST_SIZE = 65536,   /* of a buffer where the file does not say how long it is */
    LAST_WAIT_MS = 2000,  /* for what is under way, at the very end */
    NAMES_TRIED = 100,    /* for the file beside */
    PATH_ROOM = 4096 + 64 /* of its name */
};

struct job {
    uv_work_t work;
    struct loop *loop;
    uint64_t handle;
    enum file_what what;
    int flags;
    int mode;
    int fd;           /* put, close: borrows or takes; open: owns until it has a handle */
    char *path, *to;  /* own */
    const char *data; /* borrows */
    size_t length;
    uint64_t offset, size, most;
    int error;   /* a positive errno */
    char *bytes; /* owns; what was read */
    size_t count, room;
    uint64_t written;
    uint64_t file; /* open: its handle */
    struct stat status;
};

/* A descriptor that stays open between jobs. */
struct held_file {
    int fd; /* owns */
};

/* --- in a thread: reading ------------------------------------------------------------------- */

/* Opens without waiting for anybody, and refuses what is no file unless it is asked for. */
static int open_checked(struct job *job, const char *path, int how, mode_t mode)
{
    int fd = open(path, how | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
    if (fd < 0)
        return -errno;
    int error = fstat(fd, &job->status) < 0 ? errno : 0;
    if (error == 0 && S_ISDIR(job->status.st_mode))
        error = EISDIR;
    else if (error == 0 && !S_ISREG(job->status.st_mode) && !(job->flags & FILE_SPECIAL))
        error = ENOTSUP;
    if (error == 0)
        return fd;
    close(fd);
    return -error;
}

/* False: no memory. */
static bool make_room(struct job *job, size_t least)
{
    if (job->room >= least)
        return true;
    size_t room = job->room * 2 > least ? job->room * 2 : least;
    char *bytes = realloc(job->bytes, room);
    if (bytes == NULL)
        return false;
    job->bytes = bytes;
    job->room = room;
    return true;
}

/* How much is still to be asked for: one byte above the bound tells that there are more. */
static uint64_t still_wanted(const struct job *job)
{
    uint64_t bound = job->size <= job->most ? job->size : job->most + 1;
    return bound > job->count ? bound - job->count : 0;
}

static ssize_t read_some(struct job *job, int fd, size_t size)
{
    bool seekable = S_ISREG(job->status.st_mode);
    ssize_t n;
    do
        n = seekable ? pread(fd, job->bytes + job->count, size, (off_t)(job->offset + job->count))
                     : read(fd, job->bytes + job->count, size);
    while (n < 0 && errno == EINTR);
    return n;
}

/* Room for what the file says is in it, and a byte more, at which the end is seen. */
static size_t first_room(const struct job *job)
{
    uint64_t size = job->status.st_size > 0 ? (uint64_t)job->status.st_size : FIRST_SIZE;
    uint64_t rest = size > job->offset ? size - job->offset : 0;
    uint64_t wanted = still_wanted(job);
    return (size_t)(rest + 1 < wanted ? rest + 1 : wanted);
}

static int read_all(struct job *job, int fd)
{
    uint64_t wanted;
    if (!make_room(job, first_room(job)))
        return ENOMEM;
    while ((wanted = still_wanted(job)) > 0) {
        if (job->room == job->count && !make_room(job, job->count + FIRST_SIZE))
            return ENOMEM;
        size_t room = job->room - job->count;
        ssize_t n = read_some(job, fd, room < wanted ? room : (size_t)wanted);
        if (n == 0 || (n < 0 && errno == EAGAIN && job->count > 0))
            break;
        if (n < 0)
            return errno;
        job->count += (size_t)n;
    }
    return job->count > job->most ? EFBIG : 0;
}

static int do_read(struct job *job)
{
    int fd = open_checked(job, job->path, O_RDONLY, 0);
    if (fd < 0)
        return -fd;
    int error = read_all(job, fd);
    close(fd);
    return error;
}

/* --- in a thread: writing ------------------------------------------------------------------- */

static int write_all(struct job *job, int fd)
{
    while (job->written < job->length) {
        ssize_t n = write(fd, job->data + job->written, job->length - job->written);
        if (n >= 0)
            job->written += (uint64_t)n;
        else if (errno != EINTR)
            return errno;
    }
    if (job->flags & FILE_SYNC && fdatasync(fd) < 0 && errno != EINVAL)
        return errno;
    return 0;
}

/* Some file systems say only now that there was no room. */
static int close_written(int fd, int error)
{
    if (close(fd) < 0 && errno != EINTR && error == 0)
        return errno;
    return error;
}

static mode_t mode_of(const struct job *job)
{
    return job->mode < 0 ? 0666 : (mode_t)job->mode;
}

static int write_in_place(struct job *job)
{
    int how = O_WRONLY | O_CREAT | (job->flags & FILE_APPEND ? O_APPEND : 0);
    int fd = open_checked(job, job->path, how, mode_of(job));
    if (fd < 0)
        return -fd;
    int error = 0;
    if (!(job->flags & FILE_APPEND) && S_ISREG(job->status.st_mode) && ftruncate(fd, 0) < 0)
        error = errno;
    return close_written(fd, error ? error : write_all(job, fd));
}

/* A file that nobody has, beside the one it is to replace. */
static int open_beside(const struct job *job, const char *path, char *name, size_t size)
{
    for (int i = 0; i < NAMES_TRIED; i++) {
        int length = snprintf(name, size, "%s.%d.%llx.%d~", path, (int)getpid(),
                              (unsigned long long)job->handle, i);
        if (length < 0 || (size_t)length >= size)
            return -ENAMETOOLONG;
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_of(job));
        if (fd >= 0 || errno != EEXIST)
            return fd >= 0 ? fd : -errno;
    }
    return -EEXIST;
}

/* A new name is on the disk when its folder is. */
static int sync_folder(const char *path)
{
    char folder[PATH_ROOM];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(folder, slash == NULL ? "." : path, length);
    folder[length] = '\0';
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = fsync(fd) < 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return error;
}

/* The one that is replaced leaves its mode to the new one, unless another is asked for. */
static int replace(struct job *job, const char *path)
{
    char name[PATH_ROOM];
    struct stat old;
    bool exists = stat(path, &old) == 0;
    if (exists && !S_ISREG(old.st_mode))
        return S_ISDIR(old.st_mode) ? EISDIR : ENOTSUP;
    int fd = open_beside(job, path, name, sizeof name);
    if (fd < 0)
        return -fd;
    int error = 0;
    if (job->mode < 0 && exists && fchmod(fd, old.st_mode & 07777) < 0)
        error = errno;
    error = close_written(fd, error ? error : write_all(job, fd));
    if (error == 0 && rename(name, path) < 0)
        error = errno;
    if (error)
        unlink(name);
    else if (job->flags & FILE_SYNC)
        error = sync_folder(path);
    return error;
}

/* Of a link, what it leads to is replaced. */
static int write_beside(struct job *job)
{
    char *real = realpath(job->path, NULL);
    int error = replace(job, real ? real : job->path);
    free(real);
    return error;
}

static int do_write(struct job *job)
{
    return job->flags & FILE_ATOMIC ? write_beside(job) : write_in_place(job);
}

static int do_open(struct job *job)
{
    int fd = open_checked(job, job->path, O_WRONLY | O_CREAT | O_APPEND, mode_of(job));
    if (fd < 0)
        return -fd;
    job->fd = fd;
    return 0;
}

static int do_put(struct job *job)
{
    return write_all(job, job->fd);
}

static int do_close(struct job *job)
{
    int fd = job->fd;
    job->fd = -1;
    return close_written(fd, 0);
}

/* --- in a thread: the rest ------------------------------------------------------------------ */

static int do_stat(struct job *job)
{
    int failed =
        job->flags & FILE_LINK ? lstat(job->path, &job->status) : stat(job->path, &job->status);
    return failed < 0 ? errno : 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Puts the names that lie in job->bytes into order. */
static int sort_names(struct job *job, size_t count)
{
    if (count < 2)
        return 0;
    char **names = malloc(count * sizeof *names);
    char *sorted = malloc(job->count);
    if (names == NULL || sorted == NULL) {
        free(names);
        free(sorted);
        return ENOMEM;
    }
    char *at = job->bytes;
    for (size_t i = 0; i < count; i++, at += strlen(at) + 1)
        names[i] = at;
    qsort(names, count, sizeof *names, compare_names);
    at = sorted;
    for (size_t i = 0; i < count; i++)
        at = stpcpy(at, names[i]) + 1;
    free(names);
    free(job->bytes);
    job->bytes = sorted;
    return 0;
}

static int add_name(struct job *job, const char *name)
{
    size_t size = strlen(name) + 1;
    if (job->count + size > job->most)
        return EFBIG;
    if (!make_room(job, job->count + size))
        return ENOMEM;
    memcpy(job->bytes + job->count, name, size);
    job->count += size;
    return 0;
}

static int do_list(struct job *job)
{
    DIR *folder = opendir(job->path);
    if (folder == NULL)
        return errno;
    size_t count = 0;
    int error = 0;
    struct dirent *entry;
    while (error == 0 && (errno = 0, entry = readdir(folder)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        error = add_name(job, entry->d_name);
        count++;
    }
    if (error == 0)
        error = errno;
    closedir(folder);
    return error ? error : sort_names(job, count);
}

static int do_remove(struct job *job)
{
    return remove(job->path) < 0 ? errno : 0;
}

static int do_rename(struct job *job)
{
    return rename(job->path, job->to) < 0 ? errno : 0;
}

static int make_folder(const char *path, mode_t mode, bool may_exist)
{
    struct stat status;
    if (mkdir(path, mode) == 0)
        return 0;
    int error = errno;
    bool exists = may_exist && stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    return exists ? 0 : error;
}

static int do_folder(struct job *job)
{
    mode_t mode = job->mode < 0 ? 0777 : (mode_t)job->mode;
    bool parents = job->flags & FILE_PARENTS;
    for (char *slash = job->path; parents && (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = '\0';
        int error = make_folder(job->path, 0777, true);
        *slash = '/';
        if (error)
            return error;
    }
    return make_folder(job->path, mode, parents);
}

/* --- the loop's side ------------------------------------------------------------------------ */

static int (*const doers[])(struct job *job) = {
    [FILE_READ] = do_read,     [FILE_WRITE] = do_write,   [FILE_STAT] = do_stat,
    [FILE_LIST] = do_list,     [FILE_REMOVE] = do_remove, [FILE_RENAME] = do_rename,
    [FILE_FOLDER] = do_folder, [FILE_OPEN] = do_open,     [FILE_PUT] = do_put,
    [FILE_CLOSE] = do_close,
};

static void on_work(uv_work_t *work)
{
    struct job *job = container_of(work, struct job, work);
    job->error = doers[job->what](job);
}

static void job_free(struct job *job)
{
    free(job->path);
    free(job->to);
    free(job->bytes);
    free(job);
}

/* An opened descriptor gets a handle. */
static int hold(struct job *job)
{
    struct held_file *file = memory_new(sizeof *file);
    file->fd = job->fd;
    job->file = slots_add(&job->loop->files.open, file);
    if (job->file)
        return 0;
    close(job->fd);
    free(file);
    return EMFILE;
}

static void on_done(uv_work_t *work, int status)
{
    struct job *job = container_of(work, struct job, work);
    struct loop *loop = job->loop;
    if (status < 0 && job->what == FILE_CLOSE)
        close(job->fd); /* was taken out of the queue */
    if (status < 0)
        job->error = ECANCELED;
    else if (job->what == FILE_OPEN && job->error == 0)
        job->error = hold(job);
    if (!loop->files.closed)
        loop->events->filed(loop->context, job->handle, job->error);
    slots_remove(&loop->files.jobs, job->handle);
    job_free(job);
    if (!loop->files.closed)
        loop_settle(loop);
}

/* What is closed is no longer found, though its thread may only begin. */
static int take_descriptor(struct loop *loop, struct job *job, uint64_t handle)
{
    struct held_file *file = slots_find(&loop->files.open, handle);
    if (file == NULL)
        return -EBADF;
    job->fd = file->fd;
    if (job->what == FILE_CLOSE) {
        slots_remove(&loop->files.open, handle);
        free(file);
    }
    return 0;
}

static struct job *job_new(struct loop *loop, const struct file_request *request)
{
    struct job *job = memory_new(sizeof *job);
    job->loop = loop;
    job->what = request->what;
    job->flags = request->flags;
    job->mode = request->mode;
    job->path = request->path ? strdup(request->path) : NULL;
    job->to = request->to ? strdup(request->to) : NULL;
    job->data = request->data;
    job->length = request->length;
    job->offset = request->offset;
    job->size = request->size;
    job->most = request->most;
    job->fd = -1;
    return job;
}

int file_start(struct loop *loop, const struct file_request *request, uint64_t *handle)
{
    if (loop->files.closed)
        return -ECANCELED;
    struct job *job = job_new(loop, request);
    job->handle = slots_add(&loop->files.jobs, job);
    int error = job->handle ? 0 : -ENOBUFS;
    if ((request->path && !job->path) || (request->to && !job->to))
        error = -ENOMEM;
    if (error == 0 && (job->what == FILE_PUT || job->what == FILE_CLOSE))
        error = take_descriptor(loop, job, request->file);
    if (error == 0)
        error = uv_queue_work(&loop->uv, &job->work, on_work, on_done);
    *handle = job->handle;
    if (error == 0)
        return 0;
    slots_remove(&loop->files.jobs, job->handle);
    job_free(job);
    return error;
}

bool file_result(struct loop *loop, uint64_t handle, struct file_result *result)
{
    const struct job *job = slots_find(&loop->files.jobs, handle);
    if (job == NULL)
        return false;
    *result = (struct file_result){
        .bytes = job->bytes,
        .length = job->count,
        .written = job->written,
        .file = job->file,
        .status = job->status,
    };
    return true;
}

/* --- the end -------------------------------------------------------------------------------- */

static void on_late(uv_timer_t *alarm)
{
    (void)alarm;
}

static void close_held(struct loop *loop)
{
    for (uint32_t place = 1; place < loop->files.open.used; place++) {
        struct held_file *file = slots_at(&loop->files.open, place);
        if (file == NULL)
            continue;
        close(file->fd);
        free(file);
    }
    slots_free(&loop->files.open);
}

/* A thread cannot be taken back: its disk may never answer. */
void files_close(struct loop *loop)
{
    loop->files.closed = true;
    for (uint32_t place = 1; place < loop->files.jobs.used; place++) {
        struct job *job = slots_at(&loop->files.jobs, place);
        if (job)
            uv_cancel((uv_req_t *)&job->work);
    }
    uint64_t deadline = loop_now(loop) + LAST_WAIT_MS * 1000000ull;
    uv_update_time(&loop->uv);
    while (loop->files.jobs.count > 0 && loop_now(loop) < deadline) {
        uv_timer_start(&loop->alarm, on_late, LAST_WAIT_MS / 10, 0);
        uv_run(&loop->uv, UV_RUN_ONCE);
    }
    if (loop->files.jobs.count > 0) {
        log_write(loop->log, LOG_ERROR, "%u operations on files do not end: the process does",
                  loop->files.jobs.count);
        fflush(stdout);
        _exit(1);
    }
    close_held(loop);
    slots_free(&loop->files.jobs);
}
