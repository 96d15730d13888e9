/* What Lua may call: by FFI, so that compiled loops can do it for nanoseconds. None of these runs
 * Lua or raises; what they ask for happens when the running callback has returned. Handles are
 * numbers (base/slots.h); one that outlived its object is answered, never followed.
 *
 * The text between the two marks is also given to ffi.cdef: one declaration for both sides. */
#ifndef SKALD_LUA_BIND_H
#define SKALD_LUA_BIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)

/* cdef begins */
struct core;

/* An address as Lua wants it: kind is the endpoint's word, text the host or the path. */
struct skald_address {
    char kind[8];
    char text[120];
    int port;
};

/* A change that inotify(7) tells of. */
struct skald_change {
    int folder;     /* as skald_watch_add numbered it */
    int what;       /* a set of enum watch_what (io/watch.h) */
    char name[256]; /* of the file in it; "" for the folder itself */
};

struct skald_census {
    uint32_t connections, lingering, listeners, groups, lookups, children, timers, anchors,
        descriptors;
    uint32_t files; /* open, or under way */
};

/* A descriptor of a child: its number, and what it is there (enum process_end, io/process.h). */
struct skald_child_fd {
    int fd, what, given;
    double handle; /* the answer: of the connection that we have of it */
};

/* A process to be started; io/process.h says more. */
struct skald_child {
    const char *path;
    const char *const *args, *const *env; /* NULL ends them; no env: ours */
    const char *cwd;                      /* NULL: ours */
    double uid, gid;                      /* below 0: ours */
    int rows, columns, count;             /* count: of the descriptors */
    struct skald_child_fd *fds;
    double handle; /* the answer, with those of the descriptors */
    int pid, stage;
};

/* What is asked of a file: as struct file_request (io/files.h) says, where the numbers stand. */
struct skald_file_request {
    int what, flags, mode;
    const char *path, *to, *data;
    size_t length;
    double offset, size, most, file;
};

/* What came of it. */
struct skald_file_result {
    const char *bytes;
    size_t length;
    double written, file;
    double size, mtime, ctime, inode, device;
    unsigned mode, uid, gid, links;
    char kind[12];
};

/* Where the bytes of a read lie while dispatch.data runs. */
struct skald_read {
    const char *bytes;
};

/* bind_connection.c */
const struct skald_read *skald_read(struct core *core);
/* At least 0: queued; bit 0: pause the push producer now; the rest: the anchor under which the
 * caller must keep `data` alive (only with refer). -1: closing. -2: over maxBuffered. */
int skald_write(struct core *core, double connection, const char *data, size_t length, bool refer);
/* The same of two strings as of one, of which the tail is copied: both are queued, or none. */
int skald_write_pair(struct core *core, double connection, const char *data, size_t length,
                     bool refer, const char *tail, size_t tail_length);
void skald_flush(struct core *core, double connection);
/* 0 or a positive errno: EBUSY where one of both is part of such a pipe already, EPIPE where one
 * has ended; dispatch.piped follows. */
int skald_pipe(struct core *core, double source, double sink);
double skald_unpipe(struct core *core, double source); /* bytes that went through; none follows */
/* Queues a part of a file; a length below 0: to its end. How much that is goes to *bytes; 0 or a
 * positive errno: ERANGE where the file is shorter. dispatch.sent follows, but for no bytes. */
int skald_send_file(struct core *core, double connection, const char *path, double offset,
                    double length, double *bytes);
void skald_close(struct core *core, double connection);
void skald_abort(struct core *core, double connection);
void skald_close_write(struct core *core, double connection);
void skald_pause(struct core *core, double connection);
void skald_resume(struct core *core, double connection);
/* Logs the text with the connection's name, and ends it. */
void skald_fail(struct core *core, double connection, const char *text, size_t length);
void skald_join(struct core *core, double connection); /* has a protocol: counts from now on */
/* 0 none, 1 push, 2 pull; false when the connection is gone. */
bool skald_set_producer(struct core *core, double connection, int producer);
double skald_buffered(struct core *core, double connection);
bool skald_is_open(struct core *core, double connection);
double skald_peer_user(struct core *core, double connection); /* Unix sockets; -1: not known */
struct skald_credentials {
    int process;
    unsigned user, group;
};
bool skald_credentials(struct core *core, double connection, struct skald_credentials *out);
/* Queues a copy of a descriptor, which goes with the next byte; 0 or a positive errno. */
int skald_pass(struct core *core, double connection, int fd);
void skald_close_descriptor(int fd);
/* 0 or a positive errno. */
int skald_peer(struct core *core, double connection, struct skald_address *address);
int skald_host(struct core *core, double connection, struct skald_address *address);
int skald_set_nodelay(struct core *core, double connection, bool on);
int skald_set_keepalive(struct core *core, double connection, bool on, unsigned seconds);

/* bind_listener.c: 0 or a positive errno; the handle goes to *listener */
bool skald_is_address(const char *host);
/* The one way to write an IP address (RFC 5952); EINVAL for what is none. */
int skald_canonical(const char *host, struct skald_address *address);
int skald_listen_tcp(struct core *core, double group, const char *host, int port, int backlog,
                     double *listener);
int skald_listen_unix(struct core *core, double group, const char *path, unsigned mode, int backlog,
                      double *listener);
int skald_listen_fd(struct core *core, double group, int fd, double *listener);
void skald_accept(struct core *core, double listener);
void skald_unlisten(struct core *core, double listener);
/* Takes what waits in its queue, then closes: dispatch.unlistened follows. */
void skald_finish_listener(struct core *core, double listener);
int skald_move_listener(struct core *core, double listener, double group);
int skald_adjust_listener(struct core *core, double listener, unsigned mode, int backlog);
int skald_listener_host(struct core *core, double listener, struct skald_address *address);

/* bind_dial.c: dispatch.connected or dispatch.unconnected follows; 0 or a positive errno, then
 * neither does. `local` is an IP address or NULL, its port 0 for any. */
int skald_dial_tcp(struct core *core, double group, const char *host, int port, const char *local,
                   int local_port, double *handle);
int skald_dial_unix(struct core *core, double group, const char *path, double *handle);
void skald_dial_cancel(struct core *core, double handle); /* neither will follow */

/* bind_udp.c: 0 or a positive errno. EPIPE: it is closed; EINVAL: that is no IP address. */
/* What dispatch.datagram is told of. Hosts have numbers from 0 to 255, which are given again. */
struct skald_datagram {
    const char *bytes;
    int length, port, host;
    bool truncated, six;
    bool fresh; /* `text` says what the number of the host stands for from now on */
    char text[64];
};
const struct skald_datagram *skald_datagram(struct core *core);
int skald_udp_open(struct core *core, const char *host, int port, bool reuse, double *udp);
void skald_udp_receive(struct core *core, double udp); /* from now on */
void skald_udp_close(struct core *core, double udp);   /* dispatch.unbound follows */
void skald_udp_finish(struct core *core, double udp);  /* the same, after what waits */
/* `host` is NULL for the peer that it is connected to. */
int skald_udp_write(struct core *core, double udp, const char *data, size_t length,
                    const char *host, int port);
/* To the sender of what came last. */
int skald_udp_answer(struct core *core, double udp, const char *data, size_t length);
int skald_udp_connect(struct core *core, double udp, const char *host, int port);
int skald_udp_host(struct core *core, double udp, struct skald_address *address);
void skald_udp_limit(struct core *core, double udp, unsigned bytes);
int skald_udp_set(struct core *core, double udp, int option, int value); /* enum udp_option */
int skald_udp_get(struct core *core, double udp, int option); /* the value, or a negative errno */
int skald_udp_join(struct core *core, double udp, const char *group, const char *interface,
                   bool join);
int skald_udp_interface(struct core *core, double udp, const char *interface);

/* bind_tls.c: 0 or a positive errno, of which skald_tls_problem says more. For a server, `demand`
 * is 0 nothing, 1 a certificate if the client likes, 2 a certificate; a client gives 2 to check its
 * server. A `pem` of NULL: the system's certificates. */
int skald_tls_new(struct core *core, bool server, double *context);
void skald_tls_release(struct core *core, double context);
int skald_tls_certify(struct core *core, double context, const char *chain, size_t chain_length,
                      const char *key, size_t key_length);
int skald_tls_trust(struct core *core, double context, int demand, const char *pem, size_t length);
int skald_tls_offer(struct core *core, double context, const char *names, size_t length);
void skald_tls_limit(struct core *core, double context, double seconds);
int skald_tls_renew_tickets(struct core *core);
const char *skald_tls_problem(struct core *core);
int skald_secure_listener(struct core *core, double listener, double context); /* 0: in the clear */
/* Encrypts from now on; dispatch.secured follows. Of clients, `name` is whom the peer is to be, and
 * sessions with the same `peer` may be resumed; or NULL. */
int skald_secure(struct core *core, double connection, double context, const char *name,
                 const char *peer);
/* Of a client that has sent these bytes already, behind what was read of it. */
int skald_secure_behind(struct core *core, double connection, double context, const char *bytes,
                        size_t length);
bool skald_session_reused(struct core *core, double connection);
size_t skald_protocol(struct core *core, double connection, char *buffer, size_t size); /* ALPN */
char *skald_certificate(struct core *core, double connection, size_t *size); /* for skald_free */

/* bind_group.c */
double skald_group_new(struct core *core);
void skald_group_release(struct core *core, double group);
void skald_group_set_bound(struct core *core, double group, int bound, double value);
uint32_t skald_group_count(struct core *core, double group);
uint32_t skald_group_members(struct core *core, double group, double *handles, uint32_t max);

void skald_group_stop(struct core *core, double group); /* its connections end, orderly */
void skald_group_abort(struct core *core, double group);
void skald_group_news(struct core *core,
                      double group); /* dispatch.reloaded before their next event */

/* bind_watch.c: 0 or more, or a negative errno */
int skald_watch_open(struct core *core); /* dispatch.changed when there is something to read */
int skald_watch_add(struct core *core, const char *folder);
void skald_watch_remove(struct core *core, int folder);
bool skald_watch_next(struct core *core, struct skald_change *change); /* false: none waits */

/* bind_resolver.c: `families` is a set of enum lookup_family (io/resolver.h), `servers` NULL or a
 * list such as "127.0.0.1:5353,[::1]:53". 0 or a positive errno; the handle goes to *lookup. Each
 * family ends with dispatch.resolved, later. */
int skald_lookup_start(struct core *core, const char *name, int families, const char *servers,
                       double *lookup);
void skald_lookup_cancel(struct core *core, double lookup);
/* While dispatch.resolved runs: the next address of that family; false: that was the last. */
bool skald_lookup_next(struct core *core, double lookup, struct skald_address *address);

/* bind_files.c: 0 or a positive errno; `data` must stay until dispatch.filed, which follows. */
int skald_file_start(struct core *core, const struct skald_file_request *request, double *job);
/* While dispatch.filed runs. */
bool skald_file_result(struct core *core, double job, struct skald_file_result *result);

/* bind_process.c: 0 or a positive errno, and `stage` says of what. dispatch.exited follows the end
 * of the process. */
int skald_spawn(struct core *core, double pipes, double streams, struct skald_child *child);
int skald_signal(struct core *core, double child, int number); /* ESRCH: it has ended */
int skald_signal_number(const char *name);                     /* of "TERM"; 0: none */
const char *skald_signal_name(int number);                     /* NULL: none */
int skald_resize(struct core *core, double connection, int rows, int columns); /* a terminal */
/* Standard input and output: taken, put back, made a connection (dispatch.connected follows). */
int skald_stdio_take(struct core *core);
void skald_stdio_release(struct core *core);
int skald_stdio_connect(struct core *core, double group, double *handle);
bool skald_stdio_is_socket(struct core *core);

/* bind_control.c: sends a request to a host's control socket and waits for the answer; 0 or a
 * positive errno. The answer is freed with skald_free. */
int skald_ask(const char *path, const char *request, size_t length, char **answer, size_t *size);
void skald_free(char *answer);

/* bind_timer.c: times are seconds of skald_seconds */
double skald_seconds(struct core *core);
double skald_timer_start(struct core *core, double when); /* 0: too many */
void skald_timer_move(struct core *core, double timer, double when);
void skald_timer_stop(struct core *core, double timer);

/* bind_host.c */
void skald_stop(struct core *core, int status);
void skald_drain(struct core *core);    /* dispatch.stopping is done: connections end now */
void skald_finish(struct core *core);   /* dispatch.stopped gave false: now the host may end */
void skald_end_turn(struct core *core); /* dispatch.turned when this turn of the loop is over */
void skald_log(struct core *core, int level, const char *text, size_t length);
/* The oldest error that was logged while errors are kept (`skald test`), or NULL; freed with
 * skald_free. */
char *skald_log_take(struct core *core, size_t *length);
/* Ends the process with status 1 and the line `text` (copied) on standard error unless it is called
 * again within so many seconds; 0 s: no more. 0 or a negative errno. */
int skald_watchdog(struct core *core, double seconds, const char *text);
bool skald_is_stopping(struct core *core);
double skald_user(void);                                          /* who we are */
int skald_real_path(const char *path, char *real, size_t size);   /* 0 or a positive errno */
int skald_read_link(const char *path, char *target, size_t size); /* its bytes; below 0: -errno */
bool skald_is_regular(const char *path);
int skald_is_private(const char *folder);   /* ours, and nobody else's: 0 */
int skald_make_private(const char *folder); /* makes it so: 0 */
int skald_process(void);
int skald_make_folder(const char *path); /* 0 or a positive errno */
/* Collects everything twice, in short steps between events; how many collections have ended. */
void skald_collect(struct core *core);
double skald_collections(struct core *core);
bool skald_log_wants(struct core *core, int level);
const char *skald_error_name(int error);
int skald_error_number(const char *name); /* of those that Lua decides by; 0: none */
const char *skald_error_text(int error);
void skald_census(struct core *core, struct skald_census *census);
const char *skald_bundled(const char *name, size_t *size); /* NULL: no such file */
const char *skald_bundled_name(size_t index);              /* NULL: that was the last */
/* cdef ends */

#pragma GCC visibility pop

#endif
