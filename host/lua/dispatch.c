/* Events of the loop become calls of the functions in scripts/skald/dispatch.lua, which look up the
 * callbacks of scripts by name, each time. Of functions, C keeps only those of the library. */
#include "lua/dispatch.h"

#include "base/chunks.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "io/connection.h"
#include "io/tls.h"
#include "io/udp.h"
#include "lua/bind.h"
#include "lua/bind_udp.h"
#include "lua/bundle.h"
#include "lua/vm.h"

#include <lauxlib.h>
#include <string.h>

/* Places on the stack above VM_HANDLER, for the life of the state: a table, then functions. */
enum place {
    ANCHORS = VM_HANDLER + 1,
    ACCEPTED,
    CONNECTED,
    UNCONNECTED,
    DESCRIPTOR,
    DATA,
    LARGE,
    SECURED,
    ENDED,
    WRITE_CLOSED,
    RESUME,
    SENT,
    PIPED,
    LOST,
    FAILED,
    TIMER,
    CHANGED,
    RELOADED,
    UNLISTENED,
    DATAGRAM,
    REFUSED,
    UNBOUND,
    TURNED,
    RESOLVED,
    FILED,
    EXITED,
    HANGUP,
    RUNNING,
    STOPPING,
    STOPPED,
    START,
    PLACES
};

/* clang-format off */
static const char *const names[PLACES] = {
    [ANCHORS] = "anchors",
    [ACCEPTED] = "accepted",
    [DESCRIPTOR] = "descriptor",
    [DATA] = "data",
    [CONNECTED] = "connected",
    [UNCONNECTED] = "unconnected",
    [TURNED] = "turned",
    [LARGE] = "large",
    [SECURED] = "secured",
    [ENDED] = "ended",
    [WRITE_CLOSED] = "writeClosed",
    [RESUME] = "resume",
    [SENT] = "sent",
    [PIPED] = "piped",
    [LOST] = "lost",
    [FAILED] = "failed",
    [TIMER] = "timer",
    [CHANGED] = "changed",
    [RELOADED] = "reloaded",
    [UNLISTENED] = "unlistened",
    [DATAGRAM] = "datagram",
    [REFUSED] = "refused",
    [UNBOUND] = "unbound",
    [RESOLVED] = "resolved",
    [FILED] = "filed",
    [EXITED] = "exited",
    [HANGUP] = "hangup",
    [RUNNING] = "running",
    [STOPPING] = "stopping",
    [STOPPED] = "stopped",
    [START] = "start",
};
/* clang-format on */

/* The error text on top of the stack goes to the log, once, and off the stack. */
static void log_error(struct core *core)
{
    size_t length;
    const char *text = lua_tolstring(core->L, -1, &length);
    if (text)
        log_text(core->log, LOG_ERROR, text, length);
    else
        log_write(core->log, LOG_ERROR, "error in error handling");
    lua_pop(core->L, 1);
}

/* Calls the function below the arguments on behalf of nobody. */
static void call(struct core *core, int arguments)
{
    if (vm_call(core->L, arguments, 0) != 0)
        log_error(core);
}

/* The error text on top is kept for the reason of this connection, then logged with its name. */
static void log_failure(struct core *core, struct connection *connection)
{
    lua_State *L = core->L; // [text]
    char name[200];
    lua_pushvalue(L, FAILED); // [text, failed]
    lua_pushinteger(L, slot_place(connection_handle(connection)));
    lua_pushvalue(L, -3); // [text, failed, place, text]
    call(core, 2);        // [text]
    connection_describe(connection, name, sizeof name);
    const char *text = lua_tostring(L, -1);
    log_write(core->log, LOG_ERROR, "%s\non %s", text ? text : "error in error handling", name);
    lua_pop(L, 1);
}

/* Calls the function below the arguments on behalf of a connection, which ends if it raises. */
static bool call_for(struct core *core, struct connection *connection, int arguments, int results)
{
    if (vm_call(core->L, arguments, results) == 0)
        return true;
    log_failure(core, connection);
    connection_fail(connection);
    return false;
}

static lua_State *begin(struct core *core, enum place function, const struct connection *connection)
{
    lua_State *L = core->L;
    lua_pushvalue(L, function);
    lua_pushinteger(L, slot_place(connection_handle(connection))); // [function, place]
    return L;
}

static enum accept_result on_accepted(void *context, struct connection *connection,
                                      uint64_t listener)
{
    struct core *core = context;
    lua_State *L = begin(core, ACCEPTED, connection);
    lua_pushnumber(L, (double)connection_handle(connection));
    lua_pushnumber(L, (double)listener);
    if (!call_for(core, connection, 3, 1))
        return ACCEPT_FAILED;
    bool taken = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return taken ? ACCEPT_TAKEN : ACCEPT_REFUSED;
}

static enum accept_result on_connected(void *context, struct connection *connection)
{
    struct core *core = context;
    lua_State *L = begin(core, CONNECTED, connection);
    lua_pushnumber(L, (double)connection_handle(connection));
    if (!call_for(core, connection, 2, 1))
        return ACCEPT_FAILED;
    bool taken = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return taken ? ACCEPT_TAKEN : ACCEPT_REFUSED;
}

static void on_unconnected(void *context, uint64_t handle, int error)
{
    struct core *core = context;
    lua_pushvalue(core->L, UNCONNECTED);
    lua_pushnumber(core->L, (double)handle);
    lua_pushinteger(core->L, error);
    call(core, 2);
}

static void on_turned(void *context)
{
    struct core *core = context;
    lua_pushvalue(core->L, TURNED);
    call(core, 0);
}

_Static_assert((int)READ_SIZE == (int)ALLOCATOR_READ, "a read fills the allocator's buffer");

static char *on_buffer(void *context)
{
    struct core *core = context;
    char *buffer = allocator_buffer(&core->allocator);
    core->read->bytes = buffer;
    return buffer;
}

/* A full read becomes a string in place; protected, as all that may collect. */
static int enter_large(lua_State *L) // [core, place, length]
{
    struct core *core = lua_touserdata(L, 1);
    size_t length = (size_t)lua_tointeger(L, 3);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 2);
    vm_push_read(core, length); // [core, place, length, data, place, bytes]
    lua_call(L, 2, 0);
    return 0;
}

static void on_descriptor(void *context, struct connection *connection, int fd)
{
    lua_State *L = begin(context, DESCRIPTOR, connection);
    lua_pushinteger(L, fd);
    call_for(context, connection, 2, 0);
}

static void on_data(void *context, struct connection *connection, size_t length)
{
    struct core *core = context;
    lua_State *L = core->L;
    bool large = length >= ALLOCATOR_LEAST;
    lua_pushvalue(L, large ? LARGE : DATA);
    if (large)
        lua_pushlightuserdata(L, core);
    lua_pushinteger(L, slot_place(connection_handle(connection)));
    lua_pushinteger(L, (lua_Integer)length);
    call_for(core, connection, large ? 3 : 2, 0);
}

static void on_secured(void *context, struct connection *connection)
{
    begin(context, SECURED, connection);
    call_for(context, connection, 1, 0);
}

static bool on_ended(void *context, struct connection *connection)
{
    lua_State *L = begin(context, ENDED, connection);
    if (!call_for(context, connection, 1, 1))
        return true;
    bool handled = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return handled;
}

static void on_write_closed(void *context, struct connection *connection)
{
    begin(context, WRITE_CLOSED, connection);
    call_for(context, connection, 1, 0);
}

static void on_resume(void *context, struct connection *connection)
{
    begin(context, RESUME, connection);
    call_for(context, connection, 1, 0);
}

static void on_sent(void *context, struct connection *connection, size_t bytes, int error)
{
    lua_State *L = begin(context, SENT, connection);
    lua_pushnumber(L, (double)bytes);
    lua_pushinteger(L, error);
    call_for(context, connection, 3, 0);
}

static void on_piped(void *context, struct connection *source, uint64_t bytes, int error)
{
    lua_State *L = begin(context, PIPED, source);
    lua_pushnumber(L, (double)bytes);
    lua_pushinteger(L, error);
    call_for(context, source, 3, 0);
}

static void on_lost(void *context, struct connection *connection, const struct end *end)
{
    lua_State *L = begin(context, LOST, connection);
    lua_pushinteger(L, end->code);
    lua_pushinteger(L, end->by);
    lua_pushinteger(L, end->error);
    lua_pushstring(L, connection_tls_problem(connection)); // [.., error, text or nil]
    call(context, 5);
}

static void on_reloaded(void *context, struct connection *connection)
{
    begin(context, RELOADED, connection);
    call_for(context, connection, 1, 0);
}

static void on_unlistened(void *context, uint64_t listener)
{
    struct core *core = context;
    lua_pushvalue(core->L, UNLISTENED);
    lua_pushnumber(core->L, (double)listener);
    call(core, 1);
}

/* Calls a function with the place of a port. What it raises is logged, and the port goes on. */
static void call_udp(struct core *core, enum place function, const struct udp *udp)
{
    lua_State *L = core->L;
    char name[160];
    lua_pushvalue(L, function);
    lua_pushinteger(L, slot_place(udp_handle(udp)));
    if (vm_call(L, 1, 0) == 0)
        return;
    const char *text = lua_tostring(L, -1); // [text]
    udp_describe(udp, name, sizeof name);
    log_write(core->log, LOG_ERROR, "%s\non %s", text ? text : "error in error handling", name);
    lua_pop(L, 1);
}

static void on_datagram(void *context, struct udp *udp, const struct datagram *datagram)
{
    bind_datagram(context, datagram);
    call_udp(context, DATAGRAM, udp);
}

static void on_refused(void *context, struct udp *udp)
{
    call_udp(context, REFUSED, udp);
}

static void on_unbound(void *context, uint64_t udp)
{
    struct core *core = context;
    lua_pushvalue(core->L, UNBOUND);
    lua_pushinteger(core->L, slot_place(udp));
    call(core, 1);
}

static void on_resolved(void *context, uint64_t lookup, int family, const char *error)
{
    struct core *core = context;
    lua_pushvalue(core->L, RESOLVED);
    lua_pushnumber(core->L, (double)lookup);
    lua_pushinteger(core->L, family);
    lua_pushstring(core->L, error); // [resolved, lookup, family, error or nil]
    call(core, 3);
}

static void on_filed(void *context, uint64_t job, int error)
{
    struct core *core = context;
    lua_pushvalue(core->L, FILED);
    lua_pushnumber(core->L, (double)job);
    lua_pushinteger(core->L, error);
    call(core, 2);
}

static void on_exited(void *context, uint64_t child, int status, int signal)
{
    struct core *core = context;
    lua_pushvalue(core->L, EXITED);
    lua_pushnumber(core->L, (double)child);
    lua_pushinteger(core->L, status);
    lua_pushinteger(core->L, signal);
    call(core, 3);
}

static void call_once(struct core *core, bool wanted, void (**function)(struct core *core))
{
    void (*wanted_function)(struct core * core) = *function;
    if (!wanted || wanted_function == NULL)
        return;
    *function = NULL;
    wanted_function(core);
}

static void on_settled(void *context)
{
    struct core *core = context;
    struct chunk_pool *pool = loop_pool(core->loop);
    uint32_t anchor;
    while ((anchor = anchors_drain(pool)) != 0) {
        lua_pushnil(core->L);
        lua_rawseti(core->L, ANCHORS, (int)anchor);
    }
    vm_tend(core);
    call_once(core, core->stop_wanted, &core->on_stop);
    call_once(core, core->drain_wanted, &core->on_drain);
    call_once(core, core->finish_wanted, &core->on_finish);
}

const struct loop_events dispatch_events = {
    .accepted = on_accepted,
    .connected = on_connected,
    .unconnected = on_unconnected,
    .buffer = on_buffer,
    .descriptor = on_descriptor,
    .data = on_data,
    .secured = on_secured,
    .ended = on_ended,
    .write_closed = on_write_closed,
    .resume = on_resume,
    .sent = on_sent,
    .piped = on_piped,
    .lost = on_lost,
    .reloaded = on_reloaded,
    .unlistened = on_unlistened,
    .datagram = on_datagram,
    .refused = on_refused,
    .unbound = on_unbound,
    .resolved = on_resolved,
    .filed = on_filed,
    .exited = on_exited,
    .settled = on_settled,
    .turned = on_turned,
};

static void on_timer(struct core *core, uint64_t timer)
{
    lua_pushvalue(core->L, TIMER);
    lua_pushnumber(core->L, (double)timer);
    call(core, 1);
}

static void on_change(struct core *core)
{
    lua_pushvalue(core->L, CHANGED);
    call(core, 0);
    loop_settle(core->loop);
}

/* Lays the table's values into their places. */
int dispatch_open(struct core *core)
{
    lua_State *L = core->L;
    core->read = memory_new(sizeof *core->read);
    bind_udp_open(core);
    lua_pushlightuserdata(L, core);
    lua_setfield(L, LUA_REGISTRYINDEX, "skald.core");
    const struct bundle_file *declarations = bundle_find("bind.h");
    lua_pushlstring(L, declarations->data, declarations->size);
    lua_setfield(L, LUA_REGISTRYINDEX, "skald.cdef");
    int error = vm_require(L, "skald.dispatch"); // [handler, dispatch]
    if (error != 0)
        return error;
    for (int place = ANCHORS; place < PLACES; place++)
        lua_getfield(L, ANCHORS, names[place]); // the module lies at ANCHORS until the end
    lua_remove(L, ANCHORS);
    lua_pushvalue(L, LARGE);
    lua_pushcclosure(L, enter_large, 1);
    lua_replace(L, LARGE);
    core->on_timer = on_timer;
    core->on_change = on_change;
    return 0;
}

static void push_flag(lua_State *L, const char *name, bool value) // [table] -> [table]
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

static void push_text(lua_State *L, const char *name, const char *value) // [table] -> [table]
{
    lua_pushstring(L, value); // nil for NULL
    lua_setfield(L, -2, name);
}

static void push_number(lua_State *L, const char *name, double value) // [table] -> [table]
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void push_options(lua_State *L, const struct options *options)
{
    lua_createtable(L, 0, 16); // [options]
    push_text(L, "control", options->control);
    push_text(L, "filter", options->filter);
    push_text(L, "output", options->output);
    push_number(L, "grace", options->grace);
    push_number(L, "timeout", options->timeout);
    push_flag(L, "watch", options->watch);
    push_flag(L, "debug", options->debug);
    push_flag(L, "force", options->force);
    push_flag(L, "json", options->json);
}

int dispatch_start(struct core *core, const struct options *options)
{
    lua_State *L = core->L;
    lua_pushvalue(L, START);
    lua_pushstring(L, options->command);
    lua_createtable(L, options->count, 0); // [start, command, words]
    for (int i = 0; i < options->count; i++) {
        lua_pushstring(L, options->words[i]);
        lua_rawseti(L, -2, i + 1);
    }
    push_options(L, options);    // [start, command, words, options]
    if (vm_call(L, 3, 1) != 0) { // [status]
        log_error(core);
        return 1;
    }
    int status = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return status;
}

void dispatch_hangup(struct core *core)
{
    lua_pushvalue(core->L, HANGUP);
    call(core, 0);
    loop_settle(core->loop);
}

void dispatch_running(struct core *core)
{
    vm_collect(core); // what loading left
    lua_pushvalue(core->L, RUNNING);
    call(core, 0);
    loop_settle(core->loop);
}

bool dispatch_stopping(struct core *core)
{
    lua_pushvalue(core->L, STOPPING);
    if (vm_call(core->L, 0, 0) == 0)
        return true;
    log_error(core);
    return false;
}

bool dispatch_stopped(struct core *core)
{
    bool ended = true;
    lua_pushvalue(core->L, STOPPED);
    if (vm_call(core->L, 0, 1) == 0) {
        ended = lua_toboolean(core->L, -1);
        lua_pop(core->L, 1);
    } else {
        log_error(core);
    }
    loop_settle(core->loop);
    return ended;
}

double dispatch_memory(struct core *core)
{
    vm_collect(core);
    loop_settle(core->loop);
    return lua_gc(core->L, LUA_GCCOUNT, 0);
}

int dispatch_registry(struct core *core)
{
    lua_State *L = core->L;
    int count = 0;
    lua_pushnil(L); // [key]
    while (lua_next(L, LUA_REGISTRYINDEX)) {
        lua_pop(L, 1);
        count++;
    }
    return count;
}
