/* callLater's timers for Lua. A timer's number is what Lua knows it by; when it is due, the number
 * ends and Lua is told once. */
#include "lua/bind.h"

#include "base/memory.h"
#include "base/timers.h"
#include "lua/core.h"

#include <math.h>
#include <stdlib.h>

struct delayed {
    struct timer timer;
    struct core *core;
    uint64_t handle;
};

static uint64_t nanoseconds(double seconds)
{
    double most = 9e18;
    double scaled = seconds * 1e9;
    return scaled <= 0 ? 0 : scaled >= most ? (uint64_t)most : (uint64_t)ceil(scaled);
}

static void forget(struct delayed *delayed)
{
    slots_remove(&delayed->core->timers, delayed->handle);
    free(delayed);
}

static void on_fire(struct timer *timer)
{
    struct delayed *delayed = container_of(timer, struct delayed, timer);
    struct core *core = delayed->core;
    uint64_t handle = delayed->handle;
    forget(delayed);
    core->on_timer(core, handle);
}

double skald_seconds(struct core *core)
{
    return (double)loop_now(core->loop) / 1e9;
}

double skald_timer_start(struct core *core, double when)
{
    struct delayed *delayed = memory_new(sizeof *delayed);
    delayed->handle = slots_add(&core->timers, delayed);
    if (delayed->handle == 0) {
        free(delayed);
        return 0;
    }
    delayed->core = core;
    delayed->timer.fire = on_fire;
    loop_timer_start(core->loop, &delayed->timer, nanoseconds(when));
    return (double)delayed->handle;
}

void skald_timer_move(struct core *core, double handle, double when)
{
    struct delayed *delayed = slots_find(&core->timers, (uint64_t)handle);
    if (delayed)
        loop_timer_start(core->loop, &delayed->timer, nanoseconds(when));
}

void skald_timer_stop(struct core *core, double handle)
{
    struct delayed *delayed = slots_find(&core->timers, (uint64_t)handle);
    if (delayed == NULL)
        return;
    loop_timer_stop(core->loop, &delayed->timer);
    forget(delayed);
}

void core_timers_free(struct core *core)
{
    for (uint32_t place = 1; place < core->timers.used; place++) {
        struct delayed *delayed = slots_at(&core->timers, place);
        if (delayed) {
            loop_timer_stop(core->loop, &delayed->timer);
            forget(delayed);
        }
    }
    slots_free(&core->timers);
}
