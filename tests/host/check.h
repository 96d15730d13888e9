/* The least that a C test needs: each test is a function named by a sentence. */
#ifndef SKALD_TESTS_CHECK_H
#define SKALD_TESTS_CHECK_H

#include <stdio.h>
#include <string.h>

struct test {
    const char *sentence;
    void (*run)(void);
};

/* Whether the running test has failed. */
static int check_failed;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);                               \
            check_failed = 1;                                                                      \
        }                                                                                          \
    } while (0)

#define CHECK_TEXT(seen, wanted)                                                                   \
    do {                                                                                           \
        const char *check_seen = (seen);                                                           \
        if (strcmp(check_seen, (wanted)) != 0) {                                                   \
            printf("# %s:%d: \"%s\" instead of \"%s\"\n", __FILE__, __LINE__, check_seen, wanted); \
            check_failed = 1;                                                                      \
        }                                                                                          \
    } while (0)

/* Runs all; the exit status. */
static int check_all(const struct test *tests, size_t count)
{
    int failures = 0;
    for (size_t i = 0; i < count; i++) {
        check_failed = 0;
        tests[i].run();
        printf("%s - %s\n", check_failed ? "not ok" : "ok", tests[i].sentence);
        failures += check_failed;
    }
    return failures > 0;
}

#endif
