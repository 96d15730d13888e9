/* Log lines on standard error: a time, a level, a text. Knows no loop and no Lua. */
#include "base/log.h"

#include "base/memory.h"

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

/* --- errors that are kept ------------------------------------------------------------------- */

struct log_record {
    struct log_record *next;
    size_t length;
    char *text; /* owns */
};

enum { MOST_KEPT = 1000 }; /* the rest is written */

static bool keep(struct log_kept *kept, const char *text, size_t length)
{
    if (kept->count >= MOST_KEPT)
        return false;
    char *copy = malloc(length + 1);
    if (copy == NULL)
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    struct log_record *record = memory_new(sizeof *record);
    *record = (struct log_record){NULL, length, copy};
    if (kept->last)
        kept->last->next = record;
    else
        kept->first = record;
    kept->last = record;
    kept->count++;
    return true;
}

char *log_take(struct log_kept *kept, size_t *length)
{
    struct log_record *record = kept->first;
    if (record == NULL)
        return NULL;
    char *text = record->text;
    *length = record->length;
    kept->first = record->next;
    if (kept->first == NULL)
        kept->last = NULL;
    kept->count--;
    free(record);
    return text;
}

/* --- writing -------------------------------------------------------------------------------- */

void log_text(const struct log *log, enum log_level level, const char *text, size_t length)
{
    if (!log_wants(log, level))
        return;
    if (level == LOG_ERROR && log->kept && keep(log->kept, text, length))
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
