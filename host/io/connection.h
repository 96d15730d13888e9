/* A connection: the state machine between a socket and the protocol that Lua keeps for it.
 * Functions here only note what is wanted; it happens when the running callback has returned. */
#ifndef SKALD_IO_CONNECTION_H
#define SKALD_IO_CONNECTION_H

#include "io/loop.h"

struct address;

enum producer { PRODUCER_NONE, PRODUCER_PUSH, PRODUCER_PULL };

enum write_result {
    WRITE_OK = 0,
    WRITE_PAUSE = 1,    /* queued, and the push producer is to be paused now */
    WRITE_CLOSING = -1, /* after loseConnection or the end: nothing was queued */
    WRITE_LIMIT = -2,   /* maxBuffered: nothing was queued, the connection is closing */
};

/* The connection of a handle, or NULL once connectionLost has been delivered. */
struct connection *connection_find(struct loop *loop, uint64_t handle);
bool connection_is_live(const struct connection *connection); /* not in connectionLost either */
uint64_t connection_handle(const struct connection *connection);

/* Queues bytes. With `anchor`, refers to them instead of copying: *anchor is then set to the number
 * under which the caller must keep them alive until it is released, or to 0. */
enum write_result connection_write(struct connection *connection, const char *data, size_t length,
                                   uint32_t *anchor);
/* As one string: both are queued, or none. The tail is copied. */
enum write_result connection_write_pair(struct connection *connection, const char *data,
                                        size_t length, uint32_t *anchor, const char *tail,
                                        size_t tail_length);
void connection_flush(struct connection *connection);
void connection_close(struct connection *connection);
void connection_abort(struct connection *connection);
void connection_close_write(struct connection *connection);
void connection_pause(struct connection *connection);
void connection_resume(struct connection *connection);
void connection_set_producer(struct connection *connection, enum producer producer);
size_t connection_buffered(const struct connection *connection);

/* It has a protocol now: counts among the live ones of its group. */
void connection_join(struct connection *connection);

/* A callback of its protocol raised: drops the queue, sends FIN, ends as "error". */
void connection_fail(struct connection *connection);

/* Queues a part of a file, in order with what is written. Takes the descriptor, unless it fails: 0,
 * -EPIPE after the end, -ENOMEM. events->sent follows when it is through. */
int connection_send_file(struct connection *connection, int fd, int64_t offset, size_t length);

/* Queues a descriptor, which goes with the next byte that is written (Unix sockets). Takes it,
 * unless it fails: 0, -ENOTSUP, -EPIPE after the end, -ENOBUFS where too many wait, -ENOMEM. */
int connection_pass(struct connection *connection, int fd);

/* From now on, what the source reads goes to the sink; may be itself. Reading waits while the sink
 * has too much to send. At the end of input the sink's writing half closes; events->piped tells of
 * that, or of a sink that takes no more: then the source is paused. 0, -EBUSY where either is
 * part of such a pipe already, -EPIPE where the sink or the source has ended. */
int connection_pipe(struct connection *source, struct connection *sink);

/* Ends that: what comes is data again. How many bytes went through. */
uint64_t connection_unpipe(struct connection *source);

int connection_set_nodelay(struct connection *connection, bool on);
int connection_set_keepalive(struct connection *connection, bool on, unsigned seconds);

/* The peer's address, and the local one (getsockname); a Unix path goes to `path`. 0 or -errno. */
int connection_peer(const struct connection *connection, struct address *address, char *path,
                    size_t size);
int connection_host(const struct connection *connection, struct address *address, char *path,
                    size_t size);

/* The user at the other end of a Unix socket; -1: not known. */
double connection_peer_user(const struct connection *connection);
/* The same, with its process and its group. False: not known. */
bool connection_credentials(const struct connection *connection, int *process, unsigned *user,
                            unsigned *group);

/* One line for logs: "connection 3 tcp 127.0.0.1:40112 reading, 0 bytes queued". */
void connection_describe(const struct connection *connection, char *text, size_t size);

#endif
