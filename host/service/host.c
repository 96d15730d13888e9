/* The host: one loop, one Lua state, the signals; start, serve, stop in order. */
#include "service/host.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "io/loop.h"
#include "io/watch.h"
#include "io/watchdog.h"
#include "lua/dispatch.h"
#include "lua/vm.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lua.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#ifndef SKALD_VERSION
#define SKALD_VERSION "0"
#endif

struct host {
    struct core core; /* first: core_host relies on it */
    struct log log;
    struct log_kept kept; /* errors, while tests run: they are a matter of the test's */
    const struct options *options;
    uv_signal_t signals[6];
    bool has_terminal; /* was started from one */
    bool stopping;
};

static struct host *core_host(struct core *core)
{
    return container_of(core, struct host, core);
}

/* --- stopping ------------------------------------------------------------------------------- */

static void on_drained(void *context)
{
    struct core *core = context;
    if (dispatch_stopped(core))
        loop_stop(core->loop);
}

static void on_finish(struct core *core)
{
    loop_stop(core->loop);
}

static void on_stop(struct core *core)
{
    struct host *host = core_host(core);
    host->stopping = true;
    log_write(&host->log, LOG_INFO, "stopping");
    if (!dispatch_stopping(core))
        core->drain_wanted = true;
}

static void on_drain(struct core *core)
{
    loop_drain(core->loop, core_host(core)->options->grace, on_drained);
}

/* The first one asks, the second one insists. */
static void on_stop_signal(struct host *host, const char *name)
{
    if (host->stopping) {
        log_write(&host->log, LOG_WARNING, "%s again: ending at once", name);
        loop_stop(host->core.loop);
        return;
    }
    host->core.stop_wanted = true;
    loop_settle(host->core.loop);
}

/* --- signals -------------------------------------------------------------------------------- */

static bool terminal_is_there(void)
{
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void on_second_interrupt(uv_signal_t *signal, int number)
{
    on_stop_signal(signal->data, number == SIGINT ? "SIGINT" : "SIGTERM");
}

/* The first one's handler is gone when it is called: where a callback never returns, the second one
 * ends the process as the system does. Here the loop lives, and watches for the second itself. */
static void on_interrupt(uv_signal_t *signal, int number)
{
    struct host *host = signal->data;
    uv_signal_t *second = &host->signals[number == SIGINT ? 4 : 5];
    uv_signal_start(second, on_second_interrupt, number);
    on_stop_signal(host, number == SIGINT ? "SIGINT" : "SIGTERM");
}

static void on_hangup(uv_signal_t *signal, int number)
{
    struct host *host = signal->data;
    (void)number;
    if (host->has_terminal && !terminal_is_there())
        on_stop_signal(host, "SIGHUP");
    else
        dispatch_hangup(&host->core);
}

/* SIGUSR1: what is alive, after a full collection. Stalls the loop: a tool for looking. */
static void on_census(uv_signal_t *signal, int number)
{
    struct host *host = signal->data;
    struct loop_census census;
    (void)number;
    double memory = dispatch_memory(&host->core);
    loop_census(host->core.loop, &census);
    log_write(&host->log, LOG_INFO,
              "alive: %u connections, %u lingering, %u listeners, %u groups, %u lookups, "
              "%u timers, %u anchors, %u children, %u files, %d registered, %.0f KB of Lua",
              census.connections, census.lingering, census.listeners, census.groups, census.lookups,
              census.timers, census.anchors, census.children, census.files,
              dispatch_registry(&host->core), memory);
}

static void signals_open(struct host *host)
{
    uv_loop_t *uv = loop_uv(host->core.loop);
    for (size_t i = 0; i < sizeof host->signals / sizeof *host->signals; i++) {
        uv_signal_init(uv, &host->signals[i]);
        host->signals[i].data = host;
    }
    uv_signal_start_oneshot(&host->signals[0], on_interrupt, SIGINT);
    uv_signal_start_oneshot(&host->signals[1], on_interrupt, SIGTERM);
    uv_signal_start(&host->signals[2], on_hangup, SIGHUP);
    uv_signal_start(&host->signals[3], on_census, SIGUSR1);
}

static void signals_close(struct host *host)
{
    for (size_t i = 0; i < sizeof host->signals / sizeof *host->signals; i++)
        uv_close((uv_handle_t *)&host->signals[i], NULL);
}

/* --- life ----------------------------------------------------------------------------------- */

static bool host_open(struct host *host, int *status)
{
    char *error = NULL;
    *status = 1;
    host->core.loop = loop_new(&host->log, &dispatch_events, &host->core);
    host->core.log = &host->log;
    host->core.on_stop = on_stop;
    host->core.on_drain = on_drain;
    host->core.on_finish = on_finish;
    if (host->core.loop == NULL) {
        fputs("skald: no event loop to be had\n", stderr);
        return false;
    }
    signals_open(host);
    if (!vm_open(&host->core, host->options->jit, &error)) {
        fprintf(stderr, "skald: --jit=%s: %s\n", host->options->jit, error);
        free(error);
        *status = 2;
        return false;
    }
    if (dispatch_open(&host->core) != 0) {
        fprintf(stderr, "skald: %s\n", lua_tostring(host->core.L, -1));
        return false;
    }
    return true;
}

/* Anything left here is a bug of the host: an orderly stop leaves nothing. */
static void report_leftovers(const struct host *host, const struct loop_census *census, int handles)
{
    if (handles + census->connections + census->listeners + census->anchors + census->groups +
            census->children + census->files ==
        0)
        return;
    log_write(&host->log, LOG_ERROR,
              "leftover: %d handles, %u connections, %u listeners, %u anchors, %u groups, "
              "%u children, %u files",
              handles, census->connections, census->listeners, census->anchors, census->groups,
              census->children, census->files);
}

static void host_close(struct host *host)
{
    struct loop_census census = {0};
    struct core *core = &host->core;
    if (core->loop == NULL)
        return;
    signals_close(host);
    core_timers_free(core);
    watch_free(core->watch);
    watchdog_free(core->watchdog);
    int handles = loop_close(core->loop);
    vm_close(core);
    loop_census(core->loop, &census);
    report_leftovers(host, &census, handles);
    loop_free(core->loop);
}

/* Where we were started without one of the first three descriptors, something else would come to be
 * our standard input, output or error. */
static void fill_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* As many descriptors as we may have: the default suits programs that open files. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A run of tests that something ends before it has come to its end has failed. */
static void expect_tests(struct host *host)
{
    host->log.kept = &host->kept;
    host->core.exit_status = 1;
}

/* Errors that nobody asked for. */
static void write_kept(struct host *host)
{
    size_t length;
    char *text;
    host->log.kept = NULL;
    while ((text = log_take(&host->kept, &length)) != NULL) {
        log_text(&host->log, LOG_ERROR, text, length);
        free(text);
    }
}

static void host_serve(struct host *host)
{
    dispatch_running(&host->core);
    loop_run(host->core.loop);
}

int host_main(const struct options *options)
{
    struct host host = {.options = options, .log = {options->log_level}};
    int status;
    signal(SIGPIPE, SIG_IGN);
    fill_standard_descriptors();
    raise_descriptor_limit();
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    host.has_terminal = terminal_is_there();
    if (host_open(&host, &status)) {
        bool tests = strcmp(options->command, "test") == 0;
        if (tests)
            expect_tests(&host);
        status = dispatch_start(&host.core, options);
        if (status == 0 && (tests || strcmp(options->command, "run") == 0)) {
            host_serve(&host);
            status = host.core.exit_status;
        }
    }
    write_kept(&host);
    host_close(&host);
    return status;
}

/* --- versions ------------------------------------------------------------------------------- */

/* OpenSSL is not linked: only who uses TLS loads it. */
static const char *openssl_version(void)
{
    static const char *const names[] = {"libcrypto.so.3", "libcrypto.3.dylib", "libcrypto.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        void *symbol = library ? dlsym(library, "OpenSSL_version") : NULL;
        if (symbol == NULL)
            continue;
        const char *(*version)(int kind);
        memcpy(&version, &symbol, sizeof version); /* ISO C has no cast from an object to this */
        return version(0);
    }
    return "OpenSSL not found";
}

void host_print_version(void)
{
    printf("skald %s\n%s\nlibuv %s\n%s\n", SKALD_VERSION, vm_version(), uv_version_string(),
           openssl_version());
}
