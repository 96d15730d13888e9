/* The log: errors that are kept instead of written. */
#include "base/log.h"

#include "check.h"

#include <stdlib.h>

static void check_next(struct log_kept *kept, const char *wanted)
{
    size_t length = 0;
    char *text = log_take(kept, &length);
    CHECK(text != NULL && length == strlen(wanted));
    CHECK_TEXT(text ? text : "", wanted);
    free(text);
}

static void test_kept(void)
{
    struct log_kept kept = {0};
    const struct log log = {.level = LOG_ERROR, .kept = &kept};
    size_t length;
    log_write(&log, LOG_WARNING, "not wanted");
    CHECK(log_take(&kept, &length) == NULL);
    log_write(&log, LOG_ERROR, "the %s", "first");
    log_text(&log, LOG_ERROR, "second, cut", 6);
    check_next(&kept, "the first");
    log_text(&log, LOG_ERROR, "third", 5);
    check_next(&kept, "second");
    check_next(&kept, "third");
    CHECK(log_take(&kept, &length) == NULL && kept.count == 0);
    log_text(&log, LOG_ERROR, "again", 5);
    check_next(&kept, "again");
}

int main(void)
{
    static const struct test tests[] = {
        {"errors that are kept are taken in their order", test_kept},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
