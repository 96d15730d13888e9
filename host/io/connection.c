/* A connection: the state machine between a socket and the protocol that Lua keeps for it. */
#include "io/inside.h"

#include "base/log.h"
#include "base/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ENDING = C_CLOSING | C_DROPPING | C_RESET | C_BROKEN };

bool connection_is_ending(const struct connection *connection)
{
    return connection->flags & (ENDING | C_LOST);
}

uint32_t connection_clock(const struct connection *connection)
{
    return (uint32_t)uv_now(connection->poll.loop);
}

static void trace(const struct connection *connection, const char *what)
{
    struct loop *loop = connection_loop(connection);
    if (!loop->trace)
        return;
    char text[200];
    connection_describe(connection, text, sizeof text);
    log_write(loop->log, LOG_DEBUG, "%s: %s", what, text);
}

/* --- the end -------------------------------------------------------------------------------- */

/* The first reason stands, unless an orderly end turns into a hard one, or the host ends what still
 * waits for a producer. */
void connection_end(struct connection *connection, enum connection_flag how, enum end_code code,
                    enum end_by by, int error)
{
    uint32_t ending = connection->flags & ENDING;
    bool overrules = how != C_CLOSING || (by == BY_HOST && output_has_producer(connection));
    if (connection->flags & C_LOST || (ending && (ending != C_CLOSING || !overrules)))
        return;
    connection->flags |= how;
    connection->code = (uint8_t)code;
    connection->by = (uint8_t)by;
    connection->error = (int16_t)error;
    connection->active = connection_clock(connection);
    loop_timer_stop(connection_loop(connection), &connection->timer);
    connection_dirty(connection);
}

/* Where TLS itself failed, the socket is sound, and the peer is to hear why. */
void connection_break(struct connection *connection, int error)
{
    bool sound = error == EPROTO && connection->tls;
    if (tls_saw_end(connection))
        connection->flags |= C_EOF;
    connection_end(connection, sound ? C_DROPPING : C_BROKEN, END_LOST, BY_PEER, error);
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *connection = container_of((uv_poll_t *)handle, struct connection, poll);
    struct loop *loop = connection_loop(connection);
    group_leave(connection->group, connection);
    pipe_forget(connection);
    tls_end(connection);
    queue_clear(&connection->out, &loop->pool);
    connection->magic = 0;
    free(connection);
    loop->open--;
    loop_look_drained(loop);
}

/* RST instead of FIN. */
static void set_reset(int fd)
{
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

void connection_drop(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    if (uv_is_closing((uv_handle_t *)&connection->poll))
        return;
    trace(connection, "close");
    loop_timer_stop(loop, &connection->timer);
    if (connection->flags & C_RESET)
        set_reset(connection->fd);
    uv_close((uv_handle_t *)&connection->poll, on_closed);
    if (connection->duplex)
        duplex_close(connection);
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
    listeners_retry(loop);
}

/* Until the peer has sent its FIN too, unread input would turn our close into a reset that takes
 * the tail of our output with it (RFC 1122, 4.2.2.13): read it away, for a while. */
static void linger(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    connection->active = connection_clock(connection);
    connection_timer_in(connection, loop->draining ? 0 : LINGER_MS);
    connection_watch(connection);
}

void connection_tell_news(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    if (!(connection->flags & C_NEWS))
        return;
    connection->flags &= ~(uint32_t)C_NEWS;
    connection_dirty(connection);
    loop->events->reloaded(loop->context, connection);
}

/* Tells Lua, which forgets the protocol; from here on the handle finds nothing. */
static void tell_lost(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    connection_tell_news(connection);
    struct end end = {connection->code, connection->by, connection->error};
    pipe_sink_ends(connection);
    connection->flags |= C_LOST;
    pipe_forget(connection);
    trace(connection, "lost");
    group_lose(connection->group, connection);
    loop->events->lost(loop->context, connection, &end);
    tls_end(connection);
    slots_remove(&loop->connections, connection->handle);
    connection->handle = 0;
}

static void lose(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    queue_clear(&connection->out, &loop->pool);
    loop_timer_stop(loop, &connection->timer);
    if (!(connection->flags & (C_RESET | C_BROKEN | C_FIN_SENT)) &&
        connection->ops->finish(connection) < 0)
        connection->flags |= C_BROKEN;
    tell_lost(connection);
    if (connection->flags & (C_RESET | C_BROKEN | C_EOF | C_ABRUPT))
        connection_drop(connection);
    else
        linger(connection);
}

/* loseWriteConnection: the queue is taken. */
static void finish_writing(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    int error = connection->ops->finish(connection);
    connection->flags |= C_FIN_SENT;
    loop_timer_stop(loop, &connection->timer);
    if (error < 0) {
        connection_end(connection, C_BROKEN, END_LOST, BY_PEER, -error);
        return;
    }
    connection_tell_news(connection);
    loop->events->write_closed(loop->context, connection);
    if (connection->flags & C_EOF)
        connection_end(connection, C_CLOSING, END_DONE, BY_LOCAL, 0);
}

/* The last words of the carrier itself are sent. */
static bool is_sealed(struct connection *connection)
{
    return connection->ops->seal == NULL || connection->ops->seal(connection) != -EAGAIN;
}

/* Waits for the peer to take the rest of a queue that ends. */
bool connection_is_finishing(const struct connection *connection)
{
    uint32_t flags = connection->flags;
    return flags & C_CLOSING || (flags & (C_FIN_WANTED | C_FIN_SENT)) == C_FIN_WANTED;
}

/* A FIN amid the handshake would end the other direction, too. */
static bool may_finish(const struct connection *connection)
{
    bool half = !(connection->flags & C_CLOSING);
    return connection->out.bytes == 0 && connection_is_finishing(connection) &&
           !output_has_producer(connection) && !(half && tls_is_shaking(connection));
}

void connection_settle(struct connection *connection)
{
    if (connection->flags & C_LOST)
        return;
    if (connection->flags & C_CONNECTING) {
        dial_settle(connection);
        return;
    }
    int error =
        connection->flags & (C_DROPPING | C_RESET | C_BROKEN) ? 0 : output_flush(connection);
    if (error < 0)
        connection_break(connection, -error);
    if (connection->flags & (C_DROPPING | C_RESET | C_BROKEN)) {
        lose(connection);
        return;
    }
    if (connection->out.head)
        output_tell_sent(connection);
    if (connection->fed_by && !output_accepts(connection))
        pipe_sink_ends(connection);
    if ((connection->flags & (C_KEPT | C_FIN_WANTED)) == C_KEPT && !connection->fed_by)
        connection_end(connection, C_CLOSING, END_DONE, BY_PEER, 0);
    if (may_finish(connection) && is_sealed(connection)) {
        if (connection->flags & C_CLOSING) {
            lose(connection);
            return;
        }
        finish_writing(connection);
    }
    connection_watch(connection);
    connection_arm(connection);
}

/* --- the socket ----------------------------------------------------------------------------- */

/* The peer's FIN was read. Where nobody cares, that closes; but what a pipe brings goes on to the
 * peer. */
void connection_input_ended(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    connection_dirty(connection);
    connection->flags |= C_EOF;
    trace(connection, "end of input");
    bool handled = loop->events->ended(loop->context, connection);
    if (!(handled || connection->fed_by) || connection->flags & C_FIN_SENT)
        connection_end(connection, C_CLOSING, END_DONE, BY_PEER, 0);
    else if (!handled)
        connection->flags |= C_KEPT;
}

/* What came with bytes comes before them. */
static void tell_descriptors(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    int fds[DESCRIPTORS];
    uint32_t count = loop->passed_count;
    memcpy(fds, loop->passed, count * sizeof *fds);
    loop->passed_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (connection_is_ending(connection))
            close(fds[i]);
        else
            loop->events->descriptor(loop->context, connection, fds[i]);
}

void descriptors_drop(struct loop *loop)
{
    while (loop->passed_count > 0)
        close(loop->passed[--loop->passed_count]);
}

static void on_readable(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    char *buffer = loop->events->buffer(loop->context);
    ssize_t n = connection->ops->read(connection, buffer, READ_SIZE);
    if (n == -EAGAIN)
        return;
    if (n > 0) {
        connection->active = connection_clock(connection);
        trace(connection, "data");
        if (loop->passed_count > 0)
            tell_descriptors(connection);
        if (!connection_is_ending(connection))
            loop->events->data(loop->context, connection, (size_t)n);
        return;
    }
    connection_dirty(connection);
    if (n < 0) {
        connection_break(connection, (int)-n);
        return;
    }
    connection_input_ended(connection);
}

static bool wants_input(const struct connection *connection)
{
    if (connection->flags & C_LOST)
        return true;
    if (tls_is_shaking(connection))
        return tls_wants_input(connection) &&
               !(connection->flags & (C_DROPPING | C_RESET | C_BROKEN));
    return (connection->flags & (C_READING | C_EOF | ENDING)) == C_READING &&
           !(connection->feeds && pipe_is_blocked(connection));
}

static bool wants_output(const struct connection *connection)
{
    uint32_t flags = connection->flags;
    if (flags & (C_LOST | C_DROPPING | C_RESET | C_BROKEN))
        return false;
    if (tls_is_shaking(connection))
        return tls_wants_output(connection);
    if (connection->out.bytes > 0 || tls_has_unsent(connection))
        return true;
    bool asks = (flags & (C_PULL | C_ASKED)) == C_PULL || flags & C_PAUSED;
    return asks && output_has_producer(connection);
}

/* libuv stops watching a socket that is in error: whoever reads or writes it learns why; where
 * nobody does, this asks. */
static void on_socket_error(struct connection *connection)
{
    int error = connection->flags & C_ABRUPT ? EPIPE : 0;
    socklen_t size = sizeof error;
    connection_dirty(connection);
    if (wants_input(connection) || wants_output(connection))
        return;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    connection_end(connection, C_BROKEN, END_LOST, BY_PEER, error);
}

/* Reads and drops what has come. False at the end of the stream, or where it broke. */
bool connection_discard(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    char *buffer = loop->events->buffer(loop->context);
    ssize_t n = connection->ops->read(connection, buffer, READ_SIZE);
    descriptors_drop(loop);
    return n > 0 || n == -EAGAIN;
}

static void on_linger(struct connection *connection)
{
    if (connection_discard(connection))
        connection_watch(connection);
    else
        connection_drop(connection);
}

void connection_read_now(struct connection *connection)
{
    if (connection->flags & C_LOST || !wants_input(connection))
        return;
    connection_tell_news(connection);
    if (wants_input(connection))
        (connection->feeds ? pipe_read : on_readable)(connection);
}

void connection_polled(struct connection *connection, int status, int events)
{
    if (connection->flags & C_LOST) {
        on_linger(connection);
        return;
    }
    if (status < 0) {
        on_socket_error(connection);
        events = UV_READABLE | UV_WRITABLE;
    }
    if (tls_is_shaking(connection)) {
        tls_on_poll(connection, events);
        loop_settle(connection_loop(connection));
        return;
    }
    if (connection->flags & C_NEWS && events & UV_READABLE && wants_input(connection))
        connection_tell_news(connection);
    if (events & UV_READABLE && wants_input(connection))
        (connection->feeds ? pipe_read : on_readable)(connection);
    else if (events & UV_READABLE)
        connection_dirty(
            connection); /* watched in vain: its pipe got blocked by another's writes */
    if (events & UV_WRITABLE && wants_output(connection) &&
        (status < 0 || output_has_turn(connection)))
        output_writable(connection);
    loop_settle(connection_loop(connection));
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = container_of(poll, struct connection, poll);
    assert(connection->magic == CONNECTION_MAGIC);
    if (status < 0)
        connection->interest = 0;
    connection_polled(connection, status, events);
}

/* A pipe that only we write to is read by nobody where its reader is gone: that is told of. */
static int interest_of(const struct connection *connection)
{
    int interest =
        (wants_input(connection) ? UV_READABLE : 0) | (wants_output(connection) ? UV_WRITABLE : 0);
    bool lone = (connection->flags & (C_ABRUPT | C_EOF | C_LOST)) == (C_ABRUPT | C_EOF);
    return interest == 0 && lone ? UV_DISCONNECT : interest;
}

void connection_watch(struct connection *connection)
{
    int interest = interest_of(connection);
    if (connection->tls)
        tls_watch(connection, interest & UV_READABLE);
    if (interest == connection->interest)
        return;
    connection->interest = (uint8_t)interest;
    if (connection->duplex)
        duplex_watch(connection, interest);
    else if (interest == 0)
        uv_poll_stop(&connection->poll);
    else
        uv_poll_start(&connection->poll, interest, on_poll);
}

/* --- birth ---------------------------------------------------------------------------------- */

struct connection *connection_new(struct loop *loop, struct group *group,
                                  const struct transport_ops *ops, int fd,
                                  const struct address *peer)
{
    struct connection *connection = memory_new(sizeof *connection);
    if (uv_poll_init(&loop->uv, &connection->poll, fd) < 0) {
        free(connection);
        return NULL;
    }
    connection->magic = CONNECTION_MAGIC;
    connection->flags = C_READING;
    connection->ops = ops;
    connection->group = group;
    connection->fd = fd;
    connection->peer = *peer;
    connection->timer.fire = connection_on_timer;
    connection->active = connection_clock(connection);
    group_hold(group);
    loop->open++;
    return connection;
}

/* Over a bound: FIN at once, no protocol, nothing counted but the socket. */
void connection_refuse(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    connection->flags |= C_REFUSED | C_LOST;
    loop->refusing++;
    connection->ops->finish(connection);
    if (connection_discard(connection))
        linger(connection);
    else
        connection_drop(connection);
}

void connection_stop(struct connection *connection)
{
    if (connection->flags & C_LOST && !uv_is_closing((uv_handle_t *)&connection->poll))
        connection_timer_in(connection, 0);
    else
        connection_end(connection, C_CLOSING, END_STOPPED, BY_HOST, 0);
}

void connection_dirty(struct connection *connection)
{
    struct loop *loop = connection_loop(connection);
    if (connection->flags & C_DIRTY)
        return;
    connection->flags |= C_DIRTY;
    connection->dirty_next = NULL;
    *loop->dirty_end = connection;
    loop->dirty_end = &connection->dirty_next;
}

/* --- what Lua asks for ---------------------------------------------------------------------- */

struct connection *connection_find(struct loop *loop, uint64_t handle)
{
    return slots_find(&loop->connections, handle);
}

bool connection_is_live(const struct connection *connection)
{
    return !(connection->flags & C_LOST);
}

uint64_t connection_handle(const struct connection *connection)
{
    return connection->handle;
}

void connection_close(struct connection *connection)
{
    connection_end(connection, C_CLOSING, END_DONE, BY_LOCAL, 0);
}

void connection_abort(struct connection *connection)
{
    connection_end(connection, C_RESET, END_ABORTED, BY_LOCAL, 0);
}

void connection_fail(struct connection *connection)
{
    connection_end(connection, C_DROPPING, END_ERROR, BY_LOCAL, 0);
}

void connection_close_write(struct connection *connection)
{
    if (connection->flags & (ENDING | C_LOST | C_FIN_WANTED))
        return;
    connection->flags |= C_FIN_WANTED;
    connection->active = connection_clock(connection);
    loop_timer_stop(connection_loop(connection), &connection->timer);
    connection_dirty(connection);
}

void connection_pause(struct connection *connection)
{
    connection->flags &= ~(uint32_t)C_READING;
    connection_dirty(connection);
}

void connection_resume(struct connection *connection)
{
    if (connection->flags & C_READING)
        return;
    connection->flags |= C_READING;
    connection->active = connection_clock(connection);
    connection_dirty(connection);
}

int connection_set_nodelay(struct connection *connection, bool on)
{
    return connection->ops->set_nodelay ? connection->ops->set_nodelay(connection, on) : 0;
}

int connection_set_keepalive(struct connection *connection, bool on, unsigned seconds)
{
    return connection->ops->set_keepalive ? connection->ops->set_keepalive(connection, on, seconds)
                                          : 0;
}

/* --- who ------------------------------------------------------------------------------------ */

static int unix_name(int fd, int (*get)(int, struct sockaddr *, socklen_t *), char *path,
                     size_t size)
{
    struct sockaddr_un name = {0};
    socklen_t length = sizeof name;
    path[0] = '\0';
    if (get(fd, (struct sockaddr *)&name, &length) < 0)
        return -errno;
    if (length <= offsetof(struct sockaddr_un, sun_path))
        return 0;
    if (name.sun_path[0] == '\0') { /* abstract: the length says where it ends */
        length -= offsetof(struct sockaddr_un, sun_path) + 1;
        snprintf(path, size, "@%.*s", (int)length, name.sun_path + 1);
    } else {
        snprintf(path, size, "%.*s", (int)sizeof name.sun_path, name.sun_path);
    }
    return 0;
}

int socket_host(int fd, struct address *address, char *path, size_t size)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &length) < 0)
        return -errno;
    address_from_kernel(address, (struct sockaddr *)&name);
    return address->family == AF_UNIX ? unix_name(fd, getsockname, path, size) : 0;
}

int connection_peer(const struct connection *connection, struct address *address, char *path,
                    size_t size)
{
    *address = connection->peer;
    if (address->family == AF_UNIX)
        unix_name(connection->fd, getpeername, path, size);
    return 0;
}

int connection_host(const struct connection *connection, struct address *address, char *path,
                    size_t size)
{
    return socket_host(connection->fd, address, path, size);
}

bool connection_credentials(const struct connection *connection, int *process, unsigned *user,
                            unsigned *group)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (connection->peer.family != AF_UNIX ||
        getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return false;
    *process = peer.pid;
    *user = peer.uid;
    *group = peer.gid;
    return true;
}

double connection_peer_user(const struct connection *connection)
{
    int process;
    unsigned user, group;
    return connection_credentials(connection, &process, &user, &group) ? (double)user : -1;
}

void connection_describe(const struct connection *connection, char *text, size_t size)
{
    static const struct {
        uint32_t flag;
        const char *word;
    } words[] = {{C_LOST, "lingering"},  {C_RESET, "resetting"}, {C_BROKEN, "broken"},
                 {C_DROPPING, "failed"}, {C_CLOSING, "closing"}, {C_EOF, "half-closed"},
                 {C_READING, "reading"}, {UINT32_MAX, "paused"}};
    char peer[ADDRESS_TEXT];
    size_t i = 0;
    while (!(connection->flags & words[i].flag) && words[i].flag != UINT32_MAX)
        i++;
    address_and_port(&connection->peer, peer);
    snprintf(text, size, "connection %u %s%s%s %s, %zu bytes queued",
             slot_place(connection->handle), connection->ops->kind, peer[0] ? " " : "", peer,
             words[i].word, connection->out.bytes);
}
