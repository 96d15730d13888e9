/* One event loop: the clock, the deadlines, what is open, and the work that is put off until the
 * callback that asked for it has returned. */
#include "io/inside.h"

#include "base/log.h"
#include "base/memory.h"
#include "io/stdio.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- deadlines ------------------------------------------------------------------------------ */

static void set_alarm(struct loop *loop);

static void run_due(struct loop *loop)
{
    uint64_t now = loop_now(loop);
    uint64_t order = loop->timers.order;
    struct timer *timer;
    loop->alarm_at = UINT64_MAX;
    while ((timer = timers_due(&loop->timers, now, order)) != NULL) {
        timer->fire(timer);
        loop_settle(loop);
    }
    set_alarm(loop);
}

static void on_alarm(uv_timer_t *alarm)
{
    run_due(container_of(alarm, struct loop, alarm));
}

static void on_soon(uv_idle_t *soon)
{
    uv_idle_stop(soon);
    run_due(container_of(soon, struct loop, soon));
}

/* libuv counts milliseconds from when the turn began: round up, so that nothing rings early. What
 * is due already runs in the next turn, after one look at the sockets; an alarm of 0 ms set while
 * alarms ring would ring again at once, for ever. */
static void set_alarm(struct loop *loop)
{
    uint64_t next = timers_next(&loop->timers);
    if (next == loop->alarm_at)
        return;
    loop->alarm_at = next;
    if (next == UINT64_MAX)
        uv_timer_stop(&loop->alarm);
    else if (next <= loop_now(loop))
        uv_idle_start(&loop->soon, on_soon);
    else
        uv_timer_start(&loop->alarm, on_alarm,
                       (next - uv_now(&loop->uv) * 1000000 + 999999) / 1000000, 0);
}

uint64_t loop_now(const struct loop *loop)
{
    (void)loop;
    return uv_hrtime();
}

void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t when)
{
    timers_start(&loop->timers, timer, when);
    if (when < loop->alarm_at)
        set_alarm(loop);
}

/* An alarm with nothing due is cheaper than setting it anew at every stop. */
void loop_timer_stop(struct loop *loop, struct timer *timer)
{
    timers_stop(&loop->timers, timer);
}

/* --- what callbacks put off ----------------------------------------------------------------- */

static struct connection *take_dirty(struct loop *loop)
{
    struct connection *connection = loop->dirty;
    if (connection == NULL)
        return NULL;
    loop->dirty = connection->dirty_next;
    if (loop->dirty == NULL)
        loop->dirty_end = &loop->dirty;
    connection->flags &= ~(uint32_t)C_DIRTY;
    return connection;
}

void loop_settle(struct loop *loop)
{
    struct connection *connection;
    if (loop->settling)
        return;
    loop->settling = true;
    loop->flushed = 0;
    do {
        while ((connection = take_dirty(loop)) != NULL)
            connection_settle(connection);
        udps_settle(loop);
        if (loop->dirty)
            continue;
        loop->events->settled(loop->context);
    } while (loop->dirty || loop->udp_dirty);
    loop->settling = false;
}

/* --- the end of a turn ---------------------------------------------------------------------- */

static void on_turned(uv_check_t *turned)
{
    struct loop *loop = container_of(turned, struct loop, turned);
    uv_check_stop(turned);
    uv_idle_stop(&loop->awake);
    loop->events->turned(loop->context);
    loop_settle(loop);
}

static void on_awake(uv_idle_t *awake)
{
    (void)awake;
}

void loop_end_turn(struct loop *loop)
{
    uv_check_start(&loop->turned, on_turned);
    uv_idle_start(&loop->awake, on_awake);
}

struct chunk_pool *loop_pool(struct loop *loop)
{
    return &loop->pool;
}

enum { GRACE_MOST = 1 << 30 }; /* seconds: fits a clock of nanoseconds */

/* --- stopping ------------------------------------------------------------------------------- */

bool loop_is_empty(const struct loop *loop)
{
    return loop->draining && loop->open + loop->udps.count + loop->children.slots.count == 0;
}

static void loop_drained(struct loop *loop)
{
    void (*done)(void *context) = loop->drained;
    loop_timer_stop(loop, &loop->grace);
    loop->drained = NULL;
    if (done)
        done(loop->context);
}

void loop_look_drained(struct loop *loop)
{
    if (loop_is_empty(loop))
        loop_drained(loop);
}

static struct connection *as_connection(uv_handle_t *handle)
{
    struct connection *connection = container_of((uv_poll_t *)handle, struct connection, poll);
    if (handle->type != UV_POLL || uv_is_closing(handle))
        return NULL;
    return connection->magic == CONNECTION_MAGIC ? connection : NULL;
}

/* What a child writes as it ends is read to its end: it is not to die of a pipe nobody reads. */
static bool ends_with_child(const struct connection *connection)
{
    return connection->ops == &terminal_ops ||
           (connection->ops == &pipe_ops && !(connection->flags & C_EOF));
}

static void stop_one(uv_handle_t *handle, void *unused)
{
    struct connection *connection = as_connection(handle);
    (void)unused;
    if (connection && !ends_with_child(connection))
        connection_stop(connection);
}

static void abort_one(uv_handle_t *handle, void *unused)
{
    struct connection *connection = as_connection(handle);
    (void)unused;
    if (connection == NULL)
        return;
    if (connection->flags & C_LOST)
        connection_drop(connection);
    else
        connection_end(connection, C_RESET, END_STOPPED, BY_HOST, 0);
}

static void on_grace(struct timer *timer)
{
    struct loop *loop = container_of(timer, struct loop, grace);
    if (loop->open > 0)
        log_write(loop->log, LOG_WARNING, "grace is over: %u connections aborted", loop->open);
    udps_close(loop, true);
    uv_walk(&loop->uv, abort_one, NULL);
    children_signal(loop, SIGKILL);
}

static void close_listeners(struct loop *loop)
{
    for (uint32_t place = 1; place < loop->listeners.used; place++) {
        struct listener *listener = slots_at(&loop->listeners, place);
        if (listener)
            listener_close(listener);
    }
}

void loop_drain(struct loop *loop, double grace, void (*done)(void *context))
{
    loop->draining = true;
    loop->drained = done;
    close_listeners(loop);
    udps_close(loop, false);
    uv_walk(&loop->uv, stop_one, NULL);
    if (loop_is_empty(loop)) {
        loop_drained(loop);
        return;
    }
    grace = grace < GRACE_MOST ? grace : GRACE_MOST;
    loop_timer_start(loop, &loop->grace, loop_now(loop) + (uint64_t)(grace * 1e9));
    loop_settle(loop);
}

bool loop_is_draining(const struct loop *loop)
{
    return loop->draining;
}

/* --- life ----------------------------------------------------------------------------------- */

static bool traces(const char *subject)
{
    const char *wanted = getenv("SKALD_TRACE");
    return wanted && strstr(wanted, subject);
}

struct loop *loop_new(const struct log *log, const struct loop_events *events, void *context)
{
    struct loop *loop = memory_new(sizeof *loop);
    if (uv_loop_init(&loop->uv) < 0) {
        free(loop);
        return NULL;
    }
    uv_timer_init(&loop->uv, &loop->alarm);
    uv_idle_init(&loop->uv, &loop->soon);
    uv_check_init(&loop->uv, &loop->turn.over);
    uv_unref((uv_handle_t *)&loop->turn.over);
    uv_check_init(&loop->uv, &loop->turned);
    uv_idle_init(&loop->uv, &loop->awake);
    loop->alarm_at = UINT64_MAX;
    loop->log = log;
    loop->events = events;
    loop->context = context;
    loop->dirty_end = &loop->dirty;
    loop->grace.fire = on_grace;
    loop->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    loop->trace = traces("io");
    return loop;
}

uv_loop_t *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

void loop_run(struct loop *loop)
{
    uv_update_time(&loop->uv);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop)
{
    uv_stop(&loop->uv);
}

static void close_one(uv_handle_t *handle, void *context)
{
    struct connection *connection = as_connection(handle);
    struct loop *loop = context;
    if (connection == NULL)
        return;
    slots_remove(&loop->connections, connection->handle);
    connection_drop(connection);
}

static void count_one(uv_handle_t *handle, void *count)
{
    (void)handle;
    ++*(int *)count;
}

int loop_close(struct loop *loop)
{
    int left = 0;
    loop->drained = NULL;
    close_listeners(loop);
    udps_end(loop);
    lookups_close(loop);
    children_close(loop);
    uv_walk(&loop->uv, close_one, loop);
    uv_close((uv_handle_t *)&loop->soon, NULL);
    uv_close((uv_handle_t *)&loop->turned, NULL);
    uv_close((uv_handle_t *)&loop->awake, NULL);
    files_close(loop); /* may wait, by the alarm */
    uv_close((uv_handle_t *)&loop->alarm, NULL);
    uv_close((uv_handle_t *)&loop->turn.over, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop->uv) < 0)
        uv_walk(&loop->uv, count_one, &left);
    close(loop->reserve);
    stdio_release(loop);
    return left;
}

void loop_free(struct loop *loop)
{
    tls_library_free(loop);
    timers_free(&loop->timers);
    pool_free(&loop->pool);
    slots_free(&loop->connections);
    slots_free(&loop->listeners);
    slots_free(&loop->groups);
    udps_free(loop);
    slots_free(&loop->resolver.lookups);
    slots_free(&loop->children.slots);
    free(loop);
}

void loop_census(const struct loop *loop, struct loop_census *census)
{
    *census = (struct loop_census){
        .connections = loop->connections.count,
        .lingering = loop->open - loop->connections.count,
        .listeners = loop->listeners.count + loop->udps.count,
        .groups = loop->groups.count,
        .lookups = loop->resolver.lookups.count,
        .children = loop->children.slots.count,
        .files = loop->files.jobs.count + loop->files.open.count,
        .timers = loop->timers.count,
        .anchors = anchors_held(&loop->pool),
        .descriptors = loop->open + loop->listeners.count + loop->udps.count,
    };
}

const char *error_name(int error)
{
    return uv_err_name(-error);
}

const char *error_text(int error)
{
    return strerror(error);
}
