/* The heap of deadlines: order, ties, stopping, what a run leaves for the next. */
#include "base/timers.h"

#include "check.h"

#include <stdlib.h>

static void test_order(void)
{
    enum { MANY = 5000 };
    struct timers timers = {0};
    struct timer *many = calloc(MANY, sizeof *many);
    uint64_t *when = calloc(MANY, sizeof *when);
    uint32_t random = 12345;
    for (int i = 0; i < MANY; i++) {
        random = random * 1664525 + 1013904223;
        when[i] = random % 1000;
        timers_start(&timers, &many[i], when[i]);
    }
    for (int i = 0; i < MANY; i += 3) /* a third moves, a third stops */
        timers_start(&timers, &many[i], when[i] = (when[i] * 7) % 1000);
    for (int i = 1; i < MANY; i += 3)
        timers_stop(&timers, &many[i]);
    uint64_t last = 0;
    int fired = 0;
    struct timer *timer;
    while ((timer = timers_due(&timers, UINT64_MAX, timers.order)) != NULL) {
        uint64_t now = when[timer - many];
        CHECK(now >= last && (timer - many) % 3 != 1);
        last = now;
        fired++;
    }
    CHECK(fired == MANY - (MANY + 1) / 3);
    CHECK(timers.count == 0 && timers_next(&timers) == UINT64_MAX);
    timers_free(&timers);
    free(many);
    free(when);
}

static void test_ties(void)
{
    struct timers timers = {0};
    struct timer many[100] = {{0}};
    for (int i = 0; i < 100; i++)
        timers_start(&timers, &many[i], 5);
    for (int i = 0; i < 100; i++)
        CHECK(timers_due(&timers, 5, timers.order) == &many[i]);
    timers_free(&timers);
}

static void test_due(void)
{
    struct timers timers = {0};
    struct timer timer = {0};
    timers_start(&timers, &timer, 10);
    CHECK(timers_next(&timers) == 10);
    CHECK(timers_due(&timers, 9, timers.order) == NULL);
    CHECK(timers_due(&timers, 10, timers.order) == &timer);
    CHECK(!timer_pending(&timer));
    timers_free(&timers);
}

static void test_run(void)
{
    struct timers timers = {0};
    struct timer first = {0}, second = {0};
    timers_start(&timers, &first, 1);
    uint64_t order = timers.order;
    CHECK(timers_due(&timers, 5, order) == &first);
    timers_start(&timers, &second, 1); /* as a callback of the first would */
    CHECK(timers_due(&timers, 5, order) == NULL);
    CHECK(timers_due(&timers, 5, timers.order) == &second);
    timers_free(&timers);
}

static void test_stop_twice(void)
{
    struct timers timers = {0};
    struct timer timer = {0}, other = {0};
    timers_start(&timers, &timer, 3);
    timers_start(&timers, &other, 4);
    timers_stop(&timers, &timer);
    timers_stop(&timers, &timer);
    CHECK(timers.count == 1 && timers_next(&timers) == 4);
    CHECK(timer_pending(&other) && !timer_pending(&timer));
    timers_free(&timers);
}

int main(void)
{
    static const struct test tests[] = {
        {"timers fire by their deadlines, those that moved by the last one", test_order},
        {"equal deadlines fire in the order they were started", test_ties},
        {"nothing fires before it is due", test_due},
        {"what a callback starts waits for the next run", test_run},
        {"stopping twice is stopping once", test_stop_twice},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
