/* Log lines on standard error: a time, a level, a text. Knows no loop and no Lua. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warning", "error"};

int log_level_parse(const char *name)
{
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++)
        if (strcmp(name, level_names[i]) == 0)
            return (int)i;
    return -1;
}

bool log_wants(const struct log *log, enum log_level level)
{
    return level >= log->level;
}

/* "2026-11-21T10:00:00.123Z warning " into head; the length. */
static size_t head_format(char *head, size_t size, enum log_level level)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(head, size, "%Y-%m-%dT%H:%M:%S", &utc);
    int more =
        snprintf(head + n, size - n, ".%03ldZ %s ", now.tv_nsec / 1000000, level_names[level]);
    return n + (size_t)more;
}

void log_text(const struct log *log, enum log_level level, const char *text, size_t length)
{
    if (!log_wants(log, level))
        return;
    char head[64];
    char end[] = "\n";
    size_t head_length = head_format(head, sizeof head, level);
    struct iovec parts[] = {{head, head_length}, {(void *)text, length}, {end, 1}};
    ssize_t written = writev(STDERR_FILENO, parts, 3);
    (void)written; /* nowhere left to say that standard error is gone */
}

void log_write(const struct log *log, enum log_level level, const char *format, ...)
{
    if (!log_wants(log, level))
        return;
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length >= 0)
        log_text(log, level, text, (size_t)length);
    free(text);
}
