/* Log lines on standard error: a time, a level, a text. Knows no loop and no Lua. */
#ifndef SKALD_BASE_LOG_H
#define SKALD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

struct log_record;

/* Errors that are kept instead of written, for somebody who asks for them. */
struct log_kept {
    struct log_record *first, *last;
    unsigned count;
};

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

struct log {
    enum log_level level;  /* what is less than this is not written */
    struct log_kept *kept; /* borrows; NULL: errors are written, like the rest */
};

/* The level called `name` ("debug", "info", "warning", "error"), or -1. */
int log_level_parse(const char *name);

bool log_wants(const struct log *log, enum log_level level);

/* One record, written by one call so that records of several threads do not mix. */
void log_text(const struct log *log, enum log_level level, const char *text, size_t length);

void log_write(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The text of the oldest error that is kept, or NULL. The caller frees it. */
char *log_take(struct log_kept *kept, size_t *length);

#endif
