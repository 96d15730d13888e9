/* Makes a disk slow, as long as a test wants it to be. Loaded into the program with LD_PRELOAD:
 * who opens a file PATH, beside which there is a FIFO called PATH.gate, or .gate for all files of
 * the folder, waits until somebody writes to that. */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int (*opener)(const char *path, int flags, ...);

static bool is_gate(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISFIFO(status.st_mode);
}

/* False where there is none. */
static bool find_gate(const char *path, char *gate, size_t size)
{
    int length = snprintf(gate, size, "%s.gate", path);
    if (length < (int)size && is_gate(gate))
        return true;
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return false;
    length = snprintf(gate, size, "%.*s/.gate", (int)(slash - path), path);
    return length < (int)size && is_gate(gate);
}

static void wait_at(const char *path, opener real)
{
    char gate[4096], byte;
    if (!find_gate(path, gate, sizeof gate))
        return;
    int fd = real(gate, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    while (read(fd, &byte, 1) < 0)
        continue;
    close(fd);
}

int open(const char *path, int flags, ...)
{
    opener real;
    void *symbol = dlsym(RTLD_NEXT, "open");
    memcpy(&real, &symbol, sizeof real);
    wait_at(path, real);
    if (!(flags & O_CREAT))
        return real(path, flags);
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return real(path, flags, mode);
}
