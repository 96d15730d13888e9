/* What the files of host/lua share: the one lua_State of a loop, and what Lua calls with. */
#ifndef SKALD_LUA_CORE_H
#define SKALD_LUA_CORE_H

#include "base/slots.h"
#include "base/timers.h"
#include "io/loop.h"
#include "lua/allocator.h"

#include <lua.h>
#include <stdbool.h>

struct datagrams;
struct skald_read;
struct watch;
struct watchdog;

struct core {
    lua_State *L; /* owns */
    struct allocator allocator;
    struct skald_read *read;     /* owns; what Lua knows the allocator's buffer by */
    struct datagrams *datagrams; /* owns; the one that Lua is shown (bind_udp.c) */
    int gc_limit;                /* KB that Lua may hold before a collection begins */
    bool collecting;             /* one is under way, in steps */
    unsigned gc_events;
    int gc_held; /* KB at the last step of it */
    struct loop *loop;
    const struct log *log;
    struct slots timers;       /* callLater's; owns them */
    struct watch *watch;       /* owns; NULL until skald_watch_open */
    struct watchdog *watchdog; /* owns; NULL until skald_watchdog */
    int gc_wanted;             /* collections that are still to be made in idle turns */
    double gc_collections;     /* that have ended */
    struct timer gc_timer;
    bool stop_wanted;
    bool drain_wanted;
    bool finish_wanted;
    int exit_status;
    /* Each is called once from the loop, after its flag is set. */
    void (*on_stop)(struct core *core);
    void (*on_drain)(struct core *core);
    void (*on_finish)(struct core *core);
    void (*on_timer)(struct core *core, uint64_t timer); /* dispatch.c */
    void (*on_change)(struct core *core);                /* dispatch.c */
};

/* Frees the timers that are left. */
void core_timers_free(struct core *core);

#endif
