/* The deadlines of a connection: idle, close timeout, linger; one at a time, on one timer. */
#include "io/inside.h"

#include <sys/ioctl.h>

enum {
    HURRY_MS = 10, /* between two looks of a host that stops */
    HELD_MS = 1000 /* that it waits for who still holds a pipe, and says nothing there */
};

static uint32_t silent_for(const struct connection *connection)
{
    return connection_clock(connection) - connection->active;
}

void connection_timer_in(struct connection *connection, uint32_t milliseconds)
{
    loop_timer_start(connection_loop(connection), &connection->timer,
                     (uv_now(connection->poll.loop) + milliseconds) * 1000000);
}

/* Bytes of ours that the peer's side has not acknowledged, or -1 where the system does not say. */
static int in_flight(const struct connection *connection)
{
    int bytes = -1;
#ifdef TIOCOUTQ
    if (ioctl(connection->fd, TIOCOUTQ, &bytes) < 0)
        bytes = -1;
#endif
    return bytes;
}

/* The kernel asks for more only when much has been taken; a peer that takes little is seen in what
 * is in flight. */
static void note_progress(struct connection *connection)
{
    int bytes = in_flight(connection);
    if (bytes < 0 || (uint32_t)bytes == connection->in_flight)
        return;
    connection->in_flight = (uint32_t)bytes;
    connection->active = connection_clock(connection);
}

/* When to look: where output waits, often enough to see when the peer last took some. */
static uint32_t next_look(const struct connection *connection, uint32_t limit, uint32_t silence)
{
    uint32_t left = limit - silence;
    uint32_t often = limit / 8 + 1;
    bool waits = connection->out.bytes > 0 || connection->in_flight > 0;
    return waits && often < left ? often : left;
}

void connection_arm(struct connection *connection)
{
    uint32_t limit = connection->group->idle_ms;
    if (connection_is_finishing(connection))
        limit = connection->group->close_ms;
    if (limit == 0) {
        loop_timer_stop(connection_loop(connection), &connection->timer);
    } else if (!timer_pending(&connection->timer)) {
        if (connection->out.bytes > 0)
            connection->in_flight = (uint32_t)in_flight(connection);
        connection_timer_in(connection, next_look(connection, limit, 0));
    }
}

/* Something has come that will be read in this turn. */
static bool has_input(const struct connection *connection)
{
    int bytes = 0;
    return (connection->flags & (C_READING | C_EOF | C_CLOSING)) == C_READING &&
           ioctl(connection->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

static void on_deadline(struct connection *connection, uint32_t limit, bool waiting)
{
    if (!waiting) {
        connection_timer_in(connection, limit);
        return;
    }
    note_progress(connection);
    uint32_t silence = silent_for(connection);
    if (silence < limit) {
        connection_timer_in(connection, next_look(connection, limit, silence));
        return;
    }
    if (has_input(connection)) {
        connection_timer_in(connection, 1); /* the host was busy: read that first */
        return;
    }
    bool clean = connection->out.bytes == 0;
    connection_end(connection, clean ? C_CLOSING : C_RESET, END_TIMEOUT, BY_HOST, 0);
}

/* A host that stops does not wait for a peer that has everything and keeps its side open. */
static void on_linger_deadline(struct connection *connection)
{
    int bytes = in_flight(connection);
    uint32_t limit = bytes < 0 ? HELD_MS : LINGER_MS; /* nobody acknowledges what is in a pipe */
    bool wait = connection_loop(connection)->draining && silent_for(connection) < limit &&
                connection_discard(connection) && in_flight(connection) != 0;
    if (wait)
        connection_timer_in(connection, HURRY_MS);
    else
        connection_drop(connection);
}

void connection_on_timer(struct timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, timer);
    struct group *group = connection->group;
    if (connection->flags & C_LOST)
        on_linger_deadline(connection);
    else if (connection_is_finishing(connection))
        on_deadline(connection, group->close_ms,
                    connection->out.bytes > 0 || tls_has_unsent(connection));
    else if (group->idle_ms)
        on_deadline(connection, group->idle_ms,
                    connection->flags & C_READING &&
                        !(connection->feeds && pipe_is_blocked(connection)));
}
