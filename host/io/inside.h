/* The structures that the files of host/io share among themselves, and nobody else sees. */
#ifndef SKALD_IO_INSIDE_H
#define SKALD_IO_INSIDE_H

#include "base/address.h"
#include "base/chunks.h"
#include "base/memory.h"
#include "base/peers.h"
#include "base/slots.h"
#include "base/timers.h"
#include "io/connection.h"
#include "io/group.h"
#include "io/listener.h"
#include "io/loop.h"
#include "io/transport.h"

#include <uv.h>

struct tls;
struct tls_context;
struct tls_wanted;

enum {
    ACCEPT_BATCH = 64,
    LINGER_MS = 5000,
    MOVE_SIZE = 1 << 18, /* the most that the kernel moves at once (splice.c) */
    DESCRIPTORS = 64,    /* that go with one message, or come */
    CONNECTION_MAGIC = 0x736b636e,
    LISTENER_MAGIC = 0x736b6c73,
};

/* What look-ups of names share (resolver.c). */
struct resolver {
    struct slots lookups;           /* owns them */
    struct lookup *retired;         /* owns; over, and yet to be freed */
    struct timer reaper;            /* frees them */
    uint64_t turn, slice_ends;      /* of which turn of the loop, and when its slice is over */
    struct ares_channeldata *files; /* owns; c-ares's, for the hosts file; NULL until the first */
};

/* What is under way in files, and what is open of them (files.c). */
struct files {
    struct slots jobs; /* own themselves, until their threads have ended */
    struct slots open; /* owns them */
    bool closed;       /* nothing is begun any more, and nothing told */
};

/* The processes that we started (process.c). */
struct children {
    struct slots slots; /* owns them */
    uv_signal_t ended;  /* SIGCHLD, while there are any */
    bool watching;      /* `ended` is open */
};

/* Standard input and output, once stdio.c has taken them. */
struct stdio {
    int in, out; /* owns, until a connection does */
    enum { STDIO_FREE, STDIO_TAKEN, STDIO_USED } state;
};

/* What one turn of the loop sends. Where that is more than a turn may, connections take their
 * turns: those that C_ROUND says have had theirs in this round let the others go first. */
struct turn {
    uv_check_t over;  /* runs when it ends, where it was begun: somebody sent or wanted to */
    size_t flushed;   /* bytes */
    uint32_t round;   /* 0 or C_ROUND */
    unsigned waiting; /* connections that were due in this round, and were put off */
    bool crowded;     /* there were such in the turn before */
};

struct loop {
    uv_loop_t uv;
    const struct log *log;
    const struct loop_events *events;
    void *context;
    struct chunk_pool pool;
    struct timers timers;
    uv_timer_t alarm;  /* rings at the earliest deadline */
    uv_idle_t soon;    /* instead, where that has come already */
    uint64_t alarm_at; /* UINT64_MAX: not set */
    uv_check_t turned; /* runs when the turn ends, where somebody asked */
    uv_idle_t awake;   /* meanwhile, so that the turn does end */
    struct slots connections;
    struct slots listeners;
    struct slots groups;
    struct slots udps;
    struct udp *udp_dirty;       /* have something put off; linked by dirty_next */
    struct udp_batch *udp_batch; /* owns; NULL until there is a port */
    struct resolver resolver;
    struct files files;
    struct tls_library *tls; /* owns; NULL until the first context */
    struct children children;
    struct stdio stdio;
    struct group *group_list;
    struct connection *dirty; /* have something put off; linked by dirty_next, newest last */
    struct connection **dirty_end;
    struct listener *paced; /* wait for a descriptor */
    void (*drained)(void *context);
    struct timer grace;
    uint64_t warned_at; /* when a shortage of descriptors was last logged */
    size_t flushed;     /* bytes sent within the running callback */
    struct turn turn;
    uint32_t pipes;          /* of connections; the lane is closed with the last */
    bool has_lane;           /* open from when it is first wanted on */
    int lane[2];             /* owns; splice.c: empty between two calls, so that one does for all */
    uint32_t open;           /* connections with a socket, lingering ones included */
    uint32_t refusing;       /* of these, refused over a bound: not counted in their groups */
    int passed[DESCRIPTORS]; /* descriptors that came with what was just read */
    uint32_t passed_count;
    int reserve; /* a descriptor kept to refuse with when there is none left */
    bool settling;
    bool draining;
    bool trace;
};

/* What a connection is doing. Flags, since most of them combine. */
enum connection_flag {
    C_READING = 1 << 0,    /* the protocol wants data: not paused */
    C_EOF = 1 << 1,        /* the peer's FIN was read */
    C_FIN_WANTED = 1 << 2, /* loseWriteConnection */
    C_FIN_SENT = 1 << 3,
    C_CLOSING = 1 << 4,  /* sends its queue, then ends */
    C_DROPPING = 1 << 5, /* ends without sending its queue, with FIN */
    C_RESET = 1 << 6,    /* ends without sending its queue, with RST */
    C_BROKEN = 1 << 7,   /* the socket failed: nothing more can be sent */
    C_LOST = 1 << 8,     /* connectionLost was delivered */
    C_DIRTY = 1 << 9,
    C_PUSH = 1 << 10,
    C_PULL = 1 << 11,
    C_PAUSED = 1 << 12,     /* its push producer is */
    C_REFUSED = 1 << 13,    /* over a bound: Lua never saw it, groups do not count it */
    C_COUNTED = 1 << 14,    /* in its group's table of peers */
    C_FULL = 1 << 15,       /* the kernel took less than we had: wait until it wants more */
    C_ASKED = 1 << 16,      /* its pull producer was asked, and has not written since */
    C_JOINED = 1 << 17,     /* has a protocol: counts among the live ones */
    C_NEWS = 1 << 18,       /* its code was reloaded: its protocol is to hear of it first */
    C_CONNECTING = 1 << 19, /* not there yet: in no group's list (dial.c) */
    C_KEPT = 1 << 20,       /* its input ended, and only a pipe to it keeps it from closing */
    C_READY = 1 << 24,      /* it is there, and is told of when the running callback has returned */
    C_ABRUPT = 1 << 25,     /* no socket: nobody's FIN is waited for */
    C_ROUND = 1 << 26,      /* of `struct turn` */
};

/* Owned by the loop from creation to uv_close's callback, which frees it. */
struct connection {
    uv_poll_t poll;
    uint32_t magic;
    uint32_t flags;
    uint64_t handle; /* 0 once lost */
    const struct transport_ops *ops;
    struct group *group;     /* holds */
    struct connection *next; /* in the group's list, until its socket is closed */
    struct connection *previous;
    struct connection *dirty_next;
    struct chunk_queue out;
    struct tls *tls;       /* owns; NULL: bytes go as they are */
    struct duplex *duplex; /* owns; where it reads from one descriptor and writes to another */
    struct pipe *feeds;    /* owns; what it reads goes there */
    struct pipe *fed_by;   /* borrows, until that ends */
    struct address peer;
    struct timer timer; /* idle, close timeout or linger: one at a time */
    uint32_t active;    /* milliseconds of the loop's clock, when bytes last moved */
    uint32_t in_flight; /* what the kernel held of ours when a deadline last looked */
    int fd;
    int16_t error;
    uint8_t code; /* enum end_code; valid with C_CLOSING, C_DROPPING, C_RESET, C_BROKEN */
    uint8_t by;
    uint8_t interest; /* what uv_poll watches for now */
};

struct group {
    uint64_t handle;
    struct loop *loop;
    struct group *next;
    struct group *previous;
    struct connection *first;
    uint32_t live;       /* joined and not yet lost */
    uint32_t total;      /* in the list, lingering ones too: what the bounds count */
    uint32_t references; /* listeners, connections and Lua */
    uint32_t max_connections;
    uint32_t max_per_peer;
    uint32_t idle_ms;
    uint32_t close_ms;
    uint64_t high_water;
    uint64_t low_water;
    uint64_t max_buffered;
    struct peers peers; /* kept only while max_per_peer is set */
};

/* group.c */
void group_hold(struct group *group);
void group_join(struct group *group, struct connection *connection);
void group_lose(struct group *group, struct connection *connection);  /* was lost */
void group_leave(struct group *group, struct connection *connection); /* its socket is closed */
bool group_admits(const struct group *group, const struct address *peer);

/* connection.c */
struct connection *connection_new(struct loop *loop, struct group *group,
                                  const struct transport_ops *ops, int fd,
                                  const struct address *peer);
void connection_end(struct connection *connection, enum connection_flag how, enum end_code code,
                    enum end_by by, int error);
void connection_settle(struct connection *connection);
void connection_dirty(struct connection *connection);
void connection_watch(struct connection *connection);
void connection_drop(struct connection *connection); /* closes the socket, now */
void connection_stop(struct connection *connection); /* the host stops */
void connection_refuse(struct connection *connection);
uint32_t connection_clock(const struct connection *connection);
void connection_tell_news(struct connection *connection);
bool connection_discard(struct connection *connection); /* reads and drops; false at the end */
bool connection_is_ending(const struct connection *connection);
void connection_input_ended(struct connection *connection); /* the peer's FIN was read */
void descriptors_drop(struct loop *loop);                   /* that came with what nobody reads */
void connection_break(struct connection *connection, int error); /* reading or writing failed */
void connection_read_now(struct connection *connection); /* the carrier has something to read */
/* A descriptor is ready: events of uv_poll; below 0: it failed, and is not watched any more. */
void connection_polled(struct connection *connection, int status, int events);
/* Waits for the last bytes to go. */
bool connection_is_finishing(const struct connection *connection);
int socket_host(int fd, struct address *address, char *path, size_t size);

/* loop.c */
bool loop_is_empty(const struct loop *loop); /* it drains, and nothing that it waits for is left */
void loop_look_drained(struct loop *loop);   /* something that a stop waits for is gone */

/* deadline.c */
void connection_arm(struct connection *connection); /* the deadline that its state asks for */
void connection_timer_in(struct connection *connection, uint32_t milliseconds);
void connection_on_timer(struct timer *timer);

/* output.c */
int output_flush(struct connection *connection);     /* 0 or -errno */
bool output_has_turn(struct connection *connection); /* false: it waits for another turn */
void output_writable(struct connection *connection);
void output_tell_sent(struct connection *connection); /* of a file that is through */
bool output_accepts(const struct connection *connection);
bool output_has_producer(const struct connection *connection); /* that the end waits for */

/* pipe.c */
bool pipe_is_blocked(const struct connection *source); /* waits for its sink */
void pipe_read(struct connection *source);             /* there is something for the sink */
void pipe_sink_flushed(struct connection *sink);
void pipe_sink_ends(struct connection *sink);    /* takes nothing more */
void pipe_forget(struct connection *connection); /* at either end: it is gone */
/* What the sink did not take at once; copies. 0 or -ENOMEM. */
int pipe_queue(struct connection *sink, const char *bytes, size_t length);

/* splice.c */
/* Moves what the source has to read to the sink; the rest is queued there. How many bytes were
 * read, 0 at the end, or -errno; -ENOSYS: not here, copy them. `*error` is -errno where the sink
 * failed. */
ssize_t splice_some(struct connection *source, struct connection *sink, int *error);
void splice_close(struct loop *loop); /* nobody moves anything any more */

/* stream.c: what sockets share */
ssize_t stream_read(struct connection *connection, char *buffer, size_t size);
ssize_t stream_write(struct connection *connection, const struct iovec *parts, int count);
ssize_t stream_send_file(struct connection *connection, int fd, int64_t offset, size_t length);
int stream_finish(struct connection *connection);
ssize_t stream_copy_file(struct connection *connection, int fd, int64_t offset, size_t length);
ssize_t stream_send_file_to(struct connection *connection, int out, int fd, int64_t offset,
                            size_t length);

/* duplex.c: what is read from one descriptor and written to another; or one way only */
extern const struct transport_ops process_ops, stdio_ops, pipe_ops, terminal_ops;

/* Takes both, unless it fails: NULL. `tolerant`, of a process: that it does not read what we write
 * is no reason to end; and it has time to take the rest, when we end: while it writes, that is read
 * and dropped, as a socket's is. Joins no group. */
struct connection *duplex_new(struct loop *loop, struct group *group,
                              const struct transport_ops *ops, int in, int out, bool tolerant,
                              const struct address *peer);
/* Its descriptor, for who reads it by other means: it does not block from now on. */
int duplex_own_input(struct connection *connection);
void duplex_watch(struct connection *connection, int interest);
void duplex_close(struct connection *connection);

/* tcp.c */
int tcp_send_at_once(int fd); /* 0 or -errno */

/* tls.c, tls_handshake.c: of connections with and without */
void tls_end(struct connection *connection); /* from now on, bytes go as they are */
bool tls_is_shaking(const struct connection *connection);
bool tls_has_unsent(const struct connection *connection);       /* beside the queue */
void tls_dropped(struct connection *connection, size_t length); /* of the queue, unsent */
bool tls_saw_end(const struct connection *connection);          /* the socket's input is over */
/* Of connections with. */
void tls_begin(struct connection *connection, struct tls_context *context,
               const struct tls_wanted *wanted);
void tls_on_poll(struct connection *connection, int events); /* while it is shaking hands */
bool tls_wants_input(const struct connection *connection);   /* the same */
bool tls_wants_output(const struct connection *connection);  /* the same */
void tls_watch(struct connection *connection, bool wanted);  /* input; it may have some inside */

/* tls_context.c */
struct tls_context *tls_context_find(struct loop *loop, uint64_t handle);
void tls_context_hold(struct tls_context *context);
void tls_context_drop(struct tls_context *context);
void tls_library_free(struct loop *loop);

/* tls_queue.c */
bool tls_context_is_full(const struct tls_context *context); /* of handshakes under way */

/* dial.c */
/* Takes the socket and connects it, unless it fails. 0 or -errno. */
int dial_new(struct loop *loop, struct group *group, const struct transport_ops *ops, int fd,
             const struct sockaddr *name, socklen_t length, uint64_t *handle);
void dial_settle(struct connection *connection); /* one that is being connected is to end */
/* One that needs no connecting: events->connected follows. 0 or -ENFILE, and it is dropped. */
int dial_ready(struct connection *connection, uint64_t *handle);

/* listener.c */
/* Takes the listening descriptor, unless it fails. 0 or -errno. */
int listener_new(struct loop *loop, struct group *group, const struct transport_ops *ops, int fd,
                 uint64_t *handle);
void listeners_retry(struct loop *loop); /* a descriptor became free */

/* udp.c */
void udps_settle(struct loop *loop);           /* does what was put off */
void udps_close(struct loop *loop, bool drop); /* all; drop: without sending what is queued */
void udps_end(struct loop *loop);              /* the same, and nothing is told */
void udps_free(struct loop *loop);

/* process.c */
void children_signal(struct loop *loop, int number); /* all of them */
void children_close(struct loop *loop);              /* ends those that are left */

/* resolver.c */
void lookups_close(struct loop *loop); /* all that are under way, and nothing is told */

/* files.c */
void files_close(struct loop *loop); /* ends the process where a thread never comes back */

static inline struct loop *connection_loop(const struct connection *connection)
{
    return container_of(connection->poll.loop, struct loop, uv);
}

#endif
