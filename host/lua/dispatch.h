/* Events of the loop become calls of the functions in scripts/skald/dispatch.lua. */
#ifndef SKALD_LUA_DISPATCH_H
#define SKALD_LUA_DISPATCH_H

#include "lua/core.h"

extern const struct loop_events dispatch_events; /* their context is a struct core */

/* Loads the Lua side into the state of `core`. 0, or an error text on top of the stack. */
int dispatch_open(struct core *core);

struct options;

/* Runs the program's Lua half on the command line. The exit status: 0, and after "run" it serves;
 * otherwise it has said what is wrong. */
int dispatch_start(struct core *core, const struct options *options);

/* SIGHUP: all services are to be reloaded. */
void dispatch_hangup(struct core *core);

/* The loop is about to run; and: the last connection is gone. */
void dispatch_running(struct core *core);
/* The host is to stop: Lua calls skald_drain when it is ready; false: it never will. */
bool dispatch_stopping(struct core *core);
/* False: something is under way yet, and Lua calls skald_finish when it is not. */
bool dispatch_stopped(struct core *core);

/* Kilobytes that live, by a full collection; entries of the registry. */
double dispatch_memory(struct core *core);
int dispatch_registry(struct core *core);

#endif
