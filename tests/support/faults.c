/* Makes the k-th call fail. Loaded into the program with LD_PRELOAD; the test and the program share
 * one small file, named by SKALD_FAULTS, as memory:
 *
 *     struct { uint32_t armed, k, count, hits; char only[32]; char last[208]; }
 *
 * While `armed`, the calls below are counted, and the one that makes `count` equal to `k` fails;
 * `hits` counts these and `last` says which it was. `only`, where set, must be part of a call's
 * name for it to be counted. Counted are the calls of a reload that can fail: files, names, new
 * sockets, watches, and what the program itself (no library) allocates in a size that depends on
 * others. What keeps the host going at all (accept4, epoll, reads and writes of sockets, small
 * fixed allocations) is let through. */
#undef _FORTIFY_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes: an allocation from here on is not one of the program's own structures. */
enum { LARGE = 1024 };

struct faults {
    _Atomic uint32_t armed, k, count, hits;
    char only[32];
    char last[208];
};

static struct faults *faults;
static struct range {
    uintptr_t begin, end;
} programs[2];

/* The code of the program, and of LuaJIT: that allocates through the program's own allocator, so a
 * call that seems to come from there is one that the program made last of all in a function. */
static int note_object(struct dl_phdr_info *info, size_t size, void *count)
{
    int *n = count;
    bool is_program = (*n)++ == 0;
    (void)size;
    if (!is_program && strstr(info->dlpi_name, "libluajit") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && part->p_flags & PF_X)
            programs[!is_program] = (struct range){begin, begin + part->p_memsz};
    }
    return 0;
}

static bool is_program(uintptr_t address)
{
    return (address >= programs[0].begin && address < programs[0].end) ||
           (address >= programs[1].begin && address < programs[1].end);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SKALD_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    int objects = 0;
    dl_iterate_phdr(note_object, &objects);
    void *shared = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        faults = shared;
}

/* Whether this call is the one to fail. */
static bool fails(const char *name, const char *path, int number, int error)
{
    if (faults == NULL || !faults->armed)
        return false;
    if (faults->only[0] && strstr(name, faults->only) == NULL)
        return false;
    if (atomic_fetch_add(&faults->count, 1) + 1 != faults->k)
        return false;
    if (path)
        snprintf(faults->last, sizeof faults->last, "%s %s", name, path);
    else
        snprintf(faults->last, sizeof faults->last, "%s %d", name, number);
    atomic_fetch_add(&faults->hits, 1);
    errno = error;
    return true;
}

/* WRAP(name, result, parameters, arguments, what it is about, errno, what a failure returns) */
#define NEXT(name)                                                                                 \
    static __typeof__(&name) next;                                                                 \
    if (next == NULL)                                                                              \
    *(void **)&next = dlsym(RTLD_NEXT, #name)
#define WRAP(name, result, parameters, arguments, path, number, error, failure)                    \
    result name parameters                                                                         \
    {                                                                                              \
        NEXT(name);                                                                                \
        return fails(#name, path, number, error) ? failure : next arguments;                       \
    }
#define WRAP_PATH(name, result, parameters, arguments, path, error, failure)                       \
    WRAP(name, result, parameters, arguments, path, 0, error, failure)
#define WRAP_FD(name, result, parameters, arguments, number, error, failure)                       \
    WRAP(name, result, parameters, arguments, NULL, number, error, failure)

/* --- files and their names ------------------------------------------------------------------ */

/* open's mode is there only where a file may be created; passing it on is harmless elsewhere. */
#define WRAP_OPEN(name, parameters, arguments)                                                     \
    int name parameters                                                                            \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;                  \
        va_end(more);                                                                              \
        return fails(#name, path, 0, EMFILE) ? -1 : next arguments;                                \
    }

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

WRAP_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
WRAP_OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
WRAP_PATH(__open_2, int, (const char *path, int flags), (path, flags), path, EMFILE, -1)
WRAP_PATH(__open64_2, int, (const char *path, int flags), (path, flags), path, EMFILE, -1)
WRAP_PATH(fopen, FILE *, (const char *path, const char *mode), (path, mode), path, EMFILE, NULL)
WRAP_PATH(fopen64, FILE *, (const char *path, const char *mode), (path, mode), path, EMFILE, NULL)
WRAP_FD(fdopen, FILE *, (int fd, const char *mode), (fd, mode), fd, ENOMEM, NULL)
WRAP_PATH(opendir, DIR *, (const char *path), (path), path, EMFILE, NULL)
WRAP_PATH(access, int, (const char *path, int mode), (path, mode), path, EIO, -1)
WRAP_PATH(realpath, char *, (const char *path, char *to), (path, to), path, EIO, NULL)
WRAP_PATH(readlink, ssize_t, (const char *path, char *to, size_t n), (path, to, n), path, EIO, -1)
WRAP_PATH(stat, int, (const char *path, struct stat *to), (path, to), path, EIO, -1)
WRAP_PATH(stat64, int, (const char *path, struct stat64 *to), (path, to), path, EIO, -1)
WRAP_PATH(lstat, int, (const char *path, struct stat *to), (path, to), path, EIO, -1)
WRAP_PATH(lstat64, int, (const char *path, struct stat64 *to), (path, to), path, EIO, -1)
WRAP_FD(fstat, int, (int fd, struct stat *to), (fd, to), fd, EIO, -1)
WRAP_FD(fstat64, int, (int fd, struct stat64 *to), (fd, to), fd, EIO, -1)
WRAP_PATH(fstatat, int, (int folder, const char *path, struct stat *to, int flags),
          (folder, path, to, flags), path, EIO, -1)
WRAP_PATH(fstatat64, int, (int folder, const char *path, struct stat64 *to, int flags),
          (folder, path, to, flags), path, EIO, -1)
WRAP_PATH(statx, int, (int folder, const char *path, int flags, unsigned mask, struct statx *to),
          (folder, path, flags, mask, to), path, EIO, -1)
WRAP_PATH(chmod, int, (const char *path, mode_t mode), (path, mode), path, EPERM, -1)
WRAP_FD(fchmod, int, (int fd, mode_t mode), (fd, mode), fd, EPERM, -1)

/* --- reading files: sockets and pipes are read by the same calls, and let through ------------ */

static bool is_file(int fd)
{
    NEXT(fstat);
    struct stat status;
    int error = errno;
    bool regular = faults && faults->armed && next(fd, &status) == 0 && S_ISREG(status.st_mode);
    errno = error;
    return regular;
}

static bool read_fails(const char *name, int fd)
{
    return is_file(fd) && fails(name, NULL, fd, EIO);
}

ssize_t read(int fd, void *to, size_t n)
{
    NEXT(read);
    return read_fails("read", fd) ? -1 : next(fd, to, n);
}

ssize_t pread(int fd, void *to, size_t n, off_t at)
{
    NEXT(pread);
    return read_fails("pread", fd) ? -1 : next(fd, to, n, at);
}

ssize_t pread64(int fd, void *to, size_t n, off64_t at)
{
    NEXT(pread64);
    return read_fails("pread64", fd) ? -1 : next(fd, to, n, at);
}

/* The stream's mark of a failure is what ferror looks at. */
static bool stream_fails(const char *name, FILE *stream)
{
    if (!read_fails(name, fileno(stream)))
        return false;
    stream->_flags |= _IO_ERR_SEEN;
    return true;
}

size_t fread(void *to, size_t size, size_t n, FILE *stream)
{
    NEXT(fread);
    return stream_fails("fread", stream) ? 0 : next(to, size, n, stream);
}

char *fgets(char *to, int size, FILE *stream)
{
    NEXT(fgets);
    return stream_fails("fgets", stream) ? NULL : next(to, size, stream);
}

/* --- sockets, descriptors, watches ----------------------------------------------------------- */

WRAP_FD(socket, int, (int family, int type, int protocol), (family, type, protocol), family, EMFILE,
        -1)
WRAP_FD(bind, int, (int fd, const struct sockaddr *name, socklen_t size), (fd, name, size), fd,
        EADDRINUSE, -1)
WRAP_FD(listen, int, (int fd, int backlog), (fd, backlog), fd, EADDRINUSE, -1)
WRAP_FD(connect, int, (int fd, const struct sockaddr *name, socklen_t size), (fd, name, size), fd,
        EAGAIN, -1)
WRAP_FD(getsockname, int, (int fd, struct sockaddr *name, socklen_t *size), (fd, name, size), fd,
        ENOBUFS, -1)
WRAP_FD(setsockopt, int, (int fd, int level, int option, const void *value, socklen_t size),
        (fd, level, option, value, size), fd, ENOMEM, -1)
WRAP_FD(getsockopt, int, (int fd, int level, int option, void *value, socklen_t *size),
        (fd, level, option, value, size), fd, ENOMEM, -1)
WRAP_FD(inotify_init1, int, (int flags), (flags), flags, EMFILE, -1)
WRAP_FD(splice, ssize_t,
        (int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags),
        (from, at, to, to_at, size, flags), from, ENOMEM, -1)
WRAP_PATH(inotify_add_watch, int, (int fd, const char *path, uint32_t mask), (fd, path, mask), path,
          ENOSPC, -1)

/* libuv tries whether a descriptor can be watched, with -1 for data, and says so where it cannot.
 * The watching itself may not fail. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    bool trial = operation == EPOLL_CTL_ADD && event->data.fd == -1;
    return trial && fails("epoll_ctl", NULL, fd, ENOSPC) ? -1 : next(epoll, operation, fd, event);
}

/* The one argument that these may have fits into a pointer. */
#define WRAP_CONTROL(name, type, error)                                                            \
    int name(int fd, type request, ...)                                                            \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list more;                                                                              \
        va_start(more, request);                                                                   \
        void *argument = va_arg(more, void *);                                                     \
        va_end(more);                                                                              \
        return fails(#name, NULL, fd, error) ? -1 : next(fd, request, argument);                   \
    }

WRAP_CONTROL(fcntl, int, EMFILE)
WRAP_CONTROL(fcntl64, int, EMFILE)
WRAP_CONTROL(ioctl, unsigned long, EIO)

/* --- memory ---------------------------------------------------------------------------------- */

static bool memory_fails(const char *name, void *caller, size_t size)
{
    if (size < LARGE || size > INT32_MAX || !is_program((uintptr_t)caller))
        return false;
    return fails(name, NULL, (int)size, ENOMEM);
}

/* dlsym may allocate for a message; it does without where it gets nothing. */
#define WRAP_MEMORY(name, parameters, arguments, size)                                             \
    void *name parameters                                                                          \
    {                                                                                              \
        static __typeof__(&name) next;                                                             \
        static bool searching;                                                                     \
        if (next == NULL && searching)                                                             \
            return NULL;                                                                           \
        searching = true;                                                                          \
        if (next == NULL)                                                                          \
            *(void **)&next = dlsym(RTLD_NEXT, #name);                                             \
        return memory_fails(#name, __builtin_return_address(0), size) ? NULL : next arguments;     \
    }

WRAP_MEMORY(malloc, (size_t size), (size), size)
WRAP_MEMORY(calloc, (size_t n, size_t size), (n, size), n *size)
WRAP_MEMORY(realloc, (void *old, size_t size), (old, size), size)
WRAP_MEMORY(reallocarray, (void *old, size_t n, size_t size), (old, n, size), n *size)
