/* One event loop: the clock, the deadlines, what is open, and the work that is put off until the
 * callback that asked for it has returned. */
#ifndef SKALD_IO_LOOP_H
#define SKALD_IO_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chunk_pool;
struct connection;
struct datagram;
struct log;
struct loop;
struct timer;
struct udp;
struct uv_loop_s;

/* Why a connection ended. The names stand in scripts/skald/reason.lua, in this order. */
enum end_code { END_DONE, END_LOST, END_ABORTED, END_TIMEOUT, END_LIMIT, END_ERROR, END_STOPPED };
enum end_by { BY_PEER, BY_LOCAL, BY_HOST };

struct end {
    enum end_code code;
    enum end_by by;
    int error; /* a positive errno, or 0 */
};

enum accept_result { ACCEPT_TAKEN, ACCEPT_REFUSED, ACCEPT_FAILED };

enum { READ_SIZE = 65536 }; /* the most that one read takes */

/* What the loop tells the layer above. Each may run scripts, which may do anything to any
 * connection but free it; none is called from within another. */
struct loop_events {
    enum accept_result (*accepted)(void *context, struct connection *connection, uint64_t listener);
    /* What dial.h began. */
    enum accept_result (*connected)(void *context, struct connection *connection);
    void (*unconnected)(void *context, uint64_t handle, int error); /* a positive errno */
    char *(*buffer)(void *context); /* READ_SIZE bytes to read into, asked for before each read */
    /* A descriptor came with the data that follows; who is told of it owns it. */
    void (*descriptor)(void *context, struct connection *connection, int fd);
    void (*data)(void *context, struct connection *connection, size_t length); /* in the buffer */
    void (*secured)(void *context, struct connection *connection); /* TLS: hands are shaken */
    bool (*ended)(void *context, struct connection *connection); /* the peer's FIN; false: close */
    void (*write_closed)(void *context, struct connection *connection); /* our FIN is sent */
    /* A part of a file was sent; `error` (a positive errno) where that ended before its last byte.
     */
    void (*sent)(void *context, struct connection *connection, size_t bytes, int error);
    /* A pipe (connection_pipe) has ended at its source, 0, or at its sink, a positive errno. */
    void (*piped)(void *context, struct connection *source, uint64_t bytes, int error);
    void (*resume)(void *context, struct connection *connection); /* room for its producer */
    void (*lost)(void *context, struct connection *connection, const struct end *end);
    void (*reloaded)(void *context, struct connection *connection); /* before its next event */
    void (*unlistened)(void *context, uint64_t listener);           /* listener_finish is done */
    /* A datagram came; the peer of a connected port has closed its own; a port is closed (udp.h).
     */
    void (*datagram)(void *context, struct udp *udp, const struct datagram *datagram);
    void (*refused)(void *context, struct udp *udp);
    void (*unbound)(void *context, uint64_t udp);
    /* A family of a look-up (io/resolver.h) has ended: lookup_next reads its addresses meanwhile,
     * or `error` says why there are none: one of c-ares's names, such as "ENOTFOUND". */
    void (*resolved)(void *context, uint64_t lookup, int family, const char *error);
    /* What was asked of a file (io/files.h) has ended; `error` is a positive errno, or 0. */
    void (*filed)(void *context, uint64_t job, int error);
    /* A process that process_spawn started has ended: by itself, with `status`, or by `signal`. */
    void (*exited)(void *context, uint64_t child, int status, int signal);
    void (*settled)(void *context); /* all that the last callbacks asked for is done */
    void (*turned)(void *context);  /* loop_end_turn: the turn is over */
};

/* Borrows log, events and context until loop_free. */
struct loop *loop_new(const struct log *log, const struct loop_events *events, void *context);

struct uv_loop_s *loop_uv(struct loop *loop);

/* Runs until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* Closes what is left and runs the closing callbacks; how many handles could not be closed (a bug
 * where it is not 0). Memory stays until loop_free, since finalizers may still call in. */
int loop_close(struct loop *loop);
void loop_free(struct loop *loop);

/* Nanoseconds of the monotonic clock: now, not when the turn began. */
uint64_t loop_now(const struct loop *loop);
void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t when);
void loop_timer_stop(struct loop *loop, struct timer *timer);

/* Does what callbacks put off: sends, closes, tells of it. Whoever entered Lua from the loop calls
 * this right after; a call from inside itself returns at once. */
void loop_settle(struct loop *loop);

/* Has events->turned called once, when all that this turn brought has been called. */
void loop_end_turn(struct loop *loop);

struct chunk_pool *loop_pool(struct loop *loop);

/* Begins the orderly stop: listeners and UDP ports close, connections end as "stopped" once their
 * output is taken; `done` is called when the last one is gone, at most `grace` seconds later. */
void loop_drain(struct loop *loop, double grace, void (*done)(void *context));

bool loop_is_draining(const struct loop *loop);

struct loop_census {
    uint32_t connections; /* known to Lua */
    uint32_t lingering;   /* sent their FIN and wait for the peer's */
    uint32_t listeners;   /* UDP ports, too */
    uint32_t groups;
    uint32_t lookups;
    uint32_t children;
    uint32_t files; /* open, or under way */
    uint32_t timers;
    uint32_t anchors;
    uint32_t descriptors; /* of connections and listeners */
};

void loop_census(const struct loop *loop, struct loop_census *census);

/* The name and the text of a positive errno, both static. */
const char *error_name(int error);
const char *error_text(int error);

#endif
