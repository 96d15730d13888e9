/* Deadlines in order: a heap of timers, each a field of what it belongs to. Knows no clock: the
 * caller says what time it is. Starting and stopping cost O(log n); the earliest is at hand. */
#ifndef SKALD_BASE_TIMERS_H
#define SKALD_BASE_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer {
    void (*fire)(struct timer *timer); /* set once by the owner */
    uint32_t place;                    /* in the heap, from 1; 0: not pending */
};

struct timer_entry;

struct timers {
    struct timer_entry *heap; /* owns; entries[0] is not used */
    uint32_t count;
    uint32_t capacity;
    uint64_t order; /* counts starts: equal deadlines fire in the order they were started */
};

/* Times are nanoseconds of one monotonic clock. Starting a pending timer moves it. */
void timers_start(struct timers *timers, struct timer *timer, uint64_t when);
void timers_stop(struct timers *timers, struct timer *timer);
void timers_free(struct timers *timers);

static inline bool timer_pending(const struct timer *timer)
{
    return timer->place != 0;
}

/* The earliest deadline, or UINT64_MAX. */
uint64_t timers_next(const struct timers *timers);

/* Takes out the earliest timer that is due at `now` and was started before the `order`-th start
 * (timers->order, read before a run of several, keeps new timers out of it), or NULL. */
struct timer *timers_due(struct timers *timers, uint64_t now, uint64_t order);

#endif
