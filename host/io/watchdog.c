/* Ends the process when its loop has not turned for too long. */
#include "io/watchdog.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

/* The time is waited for in so many parts, of which a process that was stopped meanwhile, or a
 * machine that slept, loses one. */
enum { PARTS = 8, TEXT = 1024 };

struct watchdog {
    uv_thread_t thread;
    uv_mutex_t mutex; /* guards all that follows */
    uv_cond_t changed;
    uint64_t part; /* ns; 0: nothing to wait for */
    int missed;    /* parts that have passed since it was fed */
    bool ended;
    char text[TEXT];
};

/* Nothing of the process can be relied on: no exit handlers, no locks. */
static void bite(const struct watchdog *watchdog)
{
    ssize_t written = write(STDERR_FILENO, watchdog->text, strlen(watchdog->text));
    (void)written; /* there is nobody left to be told */
    _exit(1);
}

static void wait_once(struct watchdog *watchdog)
{
    if (watchdog->part == 0) {
        uv_cond_wait(&watchdog->changed, &watchdog->mutex);
    } else if (uv_cond_timedwait(&watchdog->changed, &watchdog->mutex, watchdog->part) != 0) {
        watchdog->missed++;
        if (watchdog->missed >= PARTS)
            bite(watchdog);
    }
}

static void run(void *context)
{
    struct watchdog *watchdog = context;
    uv_mutex_lock(&watchdog->mutex);
    while (!watchdog->ended)
        wait_once(watchdog);
    uv_mutex_unlock(&watchdog->mutex);
}

struct watchdog *watchdog_new(int *error)
{
    struct watchdog *watchdog = memory_new(sizeof *watchdog);
    uv_mutex_init(&watchdog->mutex);
    uv_cond_init(&watchdog->changed);
    *error = uv_thread_create(&watchdog->thread, run, watchdog);
    if (*error == 0)
        return watchdog;
    uv_cond_destroy(&watchdog->changed);
    uv_mutex_destroy(&watchdog->mutex);
    free(watchdog);
    return NULL;
}

void watchdog_feed(struct watchdog *watchdog, double seconds, const char *text)
{
    uv_mutex_lock(&watchdog->mutex);
    watchdog->part = (uint64_t)(seconds * 1e9 / PARTS);
    watchdog->missed = 0;
    snprintf(watchdog->text, sizeof watchdog->text, "%.*s\n", TEXT - 2, text);
    uv_cond_signal(&watchdog->changed);
    uv_mutex_unlock(&watchdog->mutex);
}

void watchdog_free(struct watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    uv_mutex_lock(&watchdog->mutex);
    watchdog->ended = true;
    uv_cond_signal(&watchdog->changed);
    uv_mutex_unlock(&watchdog->mutex);
    uv_thread_join(&watchdog->thread);
    uv_cond_destroy(&watchdog->changed);
    uv_mutex_destroy(&watchdog->mutex);
    free(watchdog);
}
