/* Deadlines in order: a heap of timers with four children a node, which is flatter and kinder to
 * the cache than two. */
#include "base/timers.h"

#include "base/memory.h"

#include <stdlib.h>

struct timer_entry {
    uint64_t when;
    uint64_t order;
    struct timer *timer;
};

enum { CHILDREN = 4 };

static bool entry_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

static void entry_put(struct timers *timers, uint32_t place, struct timer_entry entry)
{
    timers->heap[place] = entry;
    entry.timer->place = place;
}

static uint32_t parent_of(uint32_t place)
{
    return (place - 2) / CHILDREN + 1;
}

static uint32_t first_child_of(uint32_t place)
{
    return (place - 1) * CHILDREN + 2;
}

static void sift_up(struct timers *timers, uint32_t place, struct timer_entry entry)
{
    while (place > 1 && entry_before(&entry, &timers->heap[parent_of(place)])) {
        entry_put(timers, place, timers->heap[parent_of(place)]);
        place = parent_of(place);
    }
    entry_put(timers, place, entry);
}

static uint32_t earliest_child(const struct timers *timers, uint32_t place)
{
    uint32_t first = first_child_of(place);
    if (first > timers->count)
        return 0;
    uint32_t best = first;
    for (uint32_t i = first + 1; i < first + CHILDREN && i <= timers->count; i++)
        if (entry_before(&timers->heap[i], &timers->heap[best]))
            best = i;
    return best;
}

static void sift_down(struct timers *timers, uint32_t place, struct timer_entry entry)
{
    uint32_t child;
    while ((child = earliest_child(timers, place)) != 0 &&
           entry_before(&timers->heap[child], &entry)) {
        entry_put(timers, place, timers->heap[child]);
        place = child;
    }
    entry_put(timers, place, entry);
}

/* Finds the place of an entry whose deadline changed, or that fills a hole at `place`. */
static void sift(struct timers *timers, uint32_t place, struct timer_entry entry)
{
    if (place > 1 && entry_before(&entry, &timers->heap[parent_of(place)]))
        sift_up(timers, place, entry);
    else
        sift_down(timers, place, entry);
}

void timers_start(struct timers *timers, struct timer *timer, uint64_t when)
{
    struct timer_entry entry = {when, timers->order++, timer};
    if (timer_pending(timer)) {
        sift(timers, timer->place, entry);
        return;
    }
    if (timers->count + 1 >= timers->capacity) {
        timers->capacity = timers->capacity ? timers->capacity * 2 : 64;
        timers->heap = memory_grow(timers->heap, timers->capacity, sizeof *timers->heap);
    }
    sift_up(timers, ++timers->count, entry);
}

void timers_stop(struct timers *timers, struct timer *timer)
{
    if (!timer_pending(timer))
        return;
    uint32_t place = timer->place;
    timer->place = 0;
    struct timer_entry last = timers->heap[timers->count--];
    if (last.timer != timer)
        sift(timers, place, last);
}

uint64_t timers_next(const struct timers *timers)
{
    return timers->count ? timers->heap[1].when : UINT64_MAX;
}

struct timer *timers_due(struct timers *timers, uint64_t now, uint64_t order)
{
    if (timers->count == 0 || timers->heap[1].when > now || timers->heap[1].order >= order)
        return NULL;
    struct timer *timer = timers->heap[1].timer;
    timers_stop(timers, timer);
    return timer;
}

void timers_free(struct timers *timers)
{
    free(timers->heap);
    *timers = (struct timers){0};
}
