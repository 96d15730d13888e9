// steady.c - the load of the soak tests: numbered messages at a steady rate on many connections,
// each of which must come back exactly once and in order; or connects at a steady rate, each with
// one echo and a clean end. One thread, epoll, loopback only. It prints "ready N" when it has begun
// and one line of JSON at its end.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
#define WINDOW 64     // messages that one connection may have under way
#define LEAST_SIZE 24 // of a message: two numbers and the end of the line
#define MOST_SIZE 256 // of a message
#define SPLIT_EVERY                                                                                \
    16             // with split=1: every so many messages of a connection, one goes in two pieces
#define BURST 4096 // at most so many messages or connects in one turn
#define SLOW                                                                                       \
    (SECOND * 9 / 10) // a connect that took so long was sent twice: the accept queue ran over
#define EVENTS 512

struct options {
    uint64_t conns;  // echo: connections; connect: at most so many at a time
    uint64_t rate;   // in a second, all together; connect: 0 is as fast as it goes
    double seconds;  // 0: until stdin says stop, or ends
    double patience; // seconds without anything coming: what is missing then is lost
    uint64_t size;
    uint64_t split;
    uint64_t sources; // connections come from so many addresses, 127.0.1.1 and up; 0 is the
                      // kernel's choice
    struct sockaddr_in *targets;
    size_t target_count;
};

struct conn {
    int fd; // -1: none
    uint32_t index;
    bool watched;    // for room to write
    bool finished;   // has sent FIN
    uint64_t queued; // messages given to it
    uint64_t out;    // bytes of them the kernel has
    uint64_t next;   // the first message that has not come back
    uint64_t seen;   // bit n: next + n came back already
    uint64_t sent_at[WINDOW];
    size_t part; // bytes of a message in `in`
    char in[MOST_SIZE];
};

struct visit {
    int fd; // -1: none
    bool sent;
    bool finished;
    size_t got;
    uint64_t number;
    uint64_t start;
    char in[MOST_SIZE];
    struct visit *next_free;
};

struct counts {
    uint64_t sent, received;
    uint64_t refused, reset, closed, failed; // ends of connections that nobody asked for
    uint64_t lost, doubled, reordered, wrong;
    uint64_t held; // not sent: the window was full, or (connect) the limit of visits was reached
    uint64_t slow; // connect: longer than SLOW
    uint64_t longest, lap_longest;
};

struct run {
    struct options options;
    struct counts counts;
    int epoll;
    bool told; // to stop
    uint64_t began, ended;
    uint64_t counted;  // what came back between these two
    uint64_t attempts; // messages or connects that were due so far
    struct conn *conns;
    size_t live;
    size_t cursor;    // the connection whose turn it is
    uint32_t *halves; // the connections of which half a message is still to be sent
    size_t half_count;
    struct visit *visits;
    struct visit *free_visits;
    char *buffer;
};

enum { BUFFER_SIZE = 65536 };

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list args;

    fputs("steady: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

// What goes wrong first is told in words; the counts tell how often.
__attribute__((format(printf, 2, 3))) static void tell(uint64_t *count, const char *format, ...)
{
    if ((*count)++ < 3) {
        va_list args;

        fputs("steady: ", stderr);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fputc('\n', stderr);
    }
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);

    if (!memory) {
        die("out of memory");
    }
    return memory;
}

static uint64_t now_ns(void)
{
    struct timespec t = {0, 0};

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

// Messages

// Writes message `number` of a connection: two numbers, dots, the end of the line.
static void message_write(char *to, size_t size, uint64_t who, uint64_t number)
{
    char head[48];
    int length = snprintf(head, sizeof(head), "%06llu %012llu ", (unsigned long long)who,
                          (unsigned long long)number);

    memset(to, '.', size);
    memcpy(to, head, (size_t)length);
    to[size - 1] = '\n';
}

// The number of a message that is one of this connection's, byte by byte; false if it is not.
static bool message_read(const char *from, size_t size, uint64_t who, uint64_t *number)
{
    char wanted[MOST_SIZE];
    char digits[13] = {0};

    memcpy(digits, from + 7, 12);
    *number = strtoull(digits, NULL, 10);
    message_write(wanted, size, who, *number);
    return memcmp(from, wanted, size) == 0;
}

static void took(struct run *r, uint64_t time)
{
    r->counts.longest = time > r->counts.longest ? time : r->counts.longest;
    r->counts.lap_longest = time > r->counts.lap_longest ? time : r->counts.lap_longest;
}

// Sockets

static void raise_descriptor_limit(uint64_t wanted)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        die("getrlimit: %s", strerror(errno));
    }
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_cur < wanted + 16) {
        die("%llu connections need more descriptors than the limit of %llu",
            (unsigned long long)wanted, (unsigned long long)limit.rlim_cur);
    }
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        die("setrlimit: %s", strerror(errno));
    }
}

// A socket that comes from the n-th source address.
static int new_socket(const struct run *r, uint64_t n)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (fd < 0) {
        die("socket: %s", strerror(errno));
    }
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) < 0) {
        die("setsockopt: %s", strerror(errno));
    }
    from.sin_addr.s_addr =
        htonl(0x7f000101u + (uint32_t)(r->options.sources ? n % r->options.sources : 0));
    if (r->options.sources && bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0) {
        die("bind: %s", strerror(errno));
    }
    return fd;
}

// Starts to connect to the n-th target; 0, or the error that came at once.
static int start_connect(const struct run *r, int fd, uint64_t n)
{
    const struct sockaddr_in *to = &r->options.targets[n % r->options.target_count];

    if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0 && errno != EINPROGRESS) {
        return errno;
    }
    return 0;
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof(error);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
}

static void watch(const struct run *r, int how, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data = {.ptr = data}};

    if (epoll_ctl(r->epoll, how, fd, &event) < 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
}

// Counts an end that nobody asked for.
static void count_error(struct run *r, uint64_t who, int error, const char *doing)
{
    struct counts *c = &r->counts;
    uint64_t *count = &c->failed;

    if (error == ECONNREFUSED) {
        count = &c->refused;
    } else if (error == ECONNRESET || error == EPIPE) {
        count = &c->reset;
    }
    tell(count, "connection %llu: %s: %s", (unsigned long long)who, doing, strerror(error));
}

// What stdin says

static void print_counts(const struct run *r, const char *what, uint64_t longest)
{
    const struct counts *c = &r->counts;
    double seconds = (double)((r->ended ? r->ended : now_ns()) - r->began) / 1e9;
    uint64_t counted = r->ended ? r->counted : c->received;

    printf("{\"%s\":true,\"connections\":%zu,\"sent\":%llu,\"received\":%llu,\"seconds\":%.3f,"
           "\"rate\":%.1f,",
           what, r->live, (unsigned long long)c->sent, (unsigned long long)c->received, seconds,
           (double)counted / seconds);
    printf("\"refused\":%llu,\"reset\":%llu,\"closed\":%llu,\"failed\":%llu,",
           (unsigned long long)c->refused, (unsigned long long)c->reset,
           (unsigned long long)c->closed, (unsigned long long)c->failed);
    printf("\"lost\":%llu,\"doubled\":%llu,\"reordered\":%llu,\"wrong\":%llu,",
           (unsigned long long)c->lost, (unsigned long long)c->doubled,
           (unsigned long long)c->reordered, (unsigned long long)c->wrong);
    printf("\"held\":%llu,\"slow\":%llu,\"longest_us\":%.1f}\n", (unsigned long long)c->held,
           (unsigned long long)c->slow, (double)longest / 1000);
    fflush(stdout);
}

// "stop" or the end of stdin stops; "lap" shows the counts so far, and the longest time since the
// last lap.
static void on_stdin(struct run *r)
{
    char text[256];
    ssize_t got = read(STDIN_FILENO, text, sizeof(text) - 1);

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    text[got > 0 ? got : 0] = 0;
    if (got <= 0) {
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    }
    if (got <= 0 || strstr(text, "stop")) {
        r->told = true;
    } else if (strstr(text, "lap")) {
        print_counts(r, "lap", r->counts.lap_longest);
        r->counts.lap_longest = 0;
    }
}

// A stdin that cannot be watched, as /dev/null, says nothing.
static void watch_stdin(struct run *r)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = NULL}};

    if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0 && r->options.seconds <= 0) {
        die("seconds=0 takes a stdin that can be waited for: %s", strerror(errno));
    }
}

static bool is_over(const struct run *r)
{
    return r->told ||
           (r->options.seconds > 0 && now_ns() - r->began > (uint64_t)(r->options.seconds * 1e9));
}

// How many are due by the clock, at most BURST.
static uint64_t due(const struct run *r)
{
    double wanted = (double)(now_ns() - r->began) / 1e9 * (double)r->options.rate;
    uint64_t count = wanted > (double)r->attempts ? (uint64_t)wanted - r->attempts : 0;

    return count < BURST ? count : BURST;
}

static void begin(struct run *r)
{
    watch_stdin(r);
    printf("ready %zu\n", r->live);
    fflush(stdout);
    r->began = now_ns();
}

// echo: connections that stay

static void conn_close(struct run *r, struct conn *c)
{
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
        r->live--;
    }
}

static void conn_fail(struct run *r, struct conn *c, int error, const char *doing)
{
    count_error(r, c->index, error, doing);
    conn_close(r, c);
}

// Waits until the connection stands; false if it never does.
static bool conn_open(struct run *r, struct conn *c)
{
    struct pollfd wait = {.events = POLLOUT};
    int error;

    c->fd = wait.fd = new_socket(r, c->index);
    r->live++;
    error = start_connect(r, c->fd, c->index);
    if (!error) {
        error = poll(&wait, 1, 10000) == 1 ? socket_error(c->fd) : ETIMEDOUT;
    }
    if (error) {
        conn_fail(r, c, error, "connect");
        return false;
    }
    watch(r, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    return true;
}

// A pause after each few: no accept queue runs over.
static void open_all(struct run *r)
{
    r->conns = allocate(r->options.conns, sizeof(*r->conns));
    r->halves = allocate(r->options.conns, sizeof(*r->halves));
    for (uint64_t i = 0; i < r->options.conns; i++) {
        struct conn *c = &r->conns[i];

        c->index = (uint32_t)i;
        if (conn_open(r, c) && i % 64 == 63) {
            usleep(1000);
        }
    }
}

// Sends up to a number of bytes of the connection's stream.
static void conn_send(struct run *r, struct conn *c, uint64_t limit)
{
    char message[MOST_SIZE];
    bool full = false;

    while (c->fd >= 0 && c->out < limit && !full) {
        uint64_t number = c->out / r->options.size, from = c->out % r->options.size;
        uint64_t end = (number + 1) * r->options.size;
        size_t length = (size_t)((end < limit ? end : limit) - c->out);

        message_write(message, r->options.size, c->index, number);
        ssize_t sent = send(c->fd, message + from, length, MSG_NOSIGNAL);

        if (sent > 0) {
            c->out += (uint64_t)sent;
        } else if (errno == EAGAIN) {
            full = true;
        } else if (errno != EINTR) {
            conn_fail(r, c, errno, "send");
        }
    }
    if (c->fd >= 0 && full != c->watched) {
        c->watched = full;
        watch(r, EPOLL_CTL_MOD, c->fd, full ? EPOLLIN | EPOLLOUT : EPOLLIN, c);
    }
}

static bool goes_in_halves(const struct run *r, const struct conn *c)
{
    return r->options.split && (c->queued + c->index) % SPLIT_EVERY == 0;
}

static void conn_next_message(struct run *r, struct conn *c)
{
    if (c->fd < 0 || c->queued - c->next >= WINDOW) {
        r->counts.held++;
        return;
    }
    c->sent_at[c->queued % WINDOW] = now_ns();
    c->queued++;
    r->counts.sent++;
    if (goes_in_halves(r, c)) {
        r->halves[r->half_count++] = c->index;
        conn_send(r, c, c->queued * r->options.size - r->options.size / 2);
    } else {
        conn_send(r, c, c->queued * r->options.size);
    }
}

static void send_halves(struct run *r)
{
    for (size_t i = 0; i < r->half_count; i++) {
        struct conn *c = &r->conns[r->halves[i]];

        conn_send(r, c, c->queued * r->options.size);
    }
    r->half_count = 0;
}

// In one turn no connection comes twice, so none is twice among the halves.
static void send_due(struct run *r)
{
    uint64_t count = due(r);

    send_halves(r);
    count = count < r->options.conns ? count : r->options.conns;
    for (uint64_t i = 0; i < count; i++) {
        conn_next_message(r, &r->conns[r->cursor]);
        r->cursor = (r->cursor + 1) % r->options.conns;
    }
    r->attempts += count;
}

static void conn_take_message(struct run *r, struct conn *c, const char *message)
{
    uint64_t number = 0;

    if (!message_read(message, r->options.size, c->index, &number) || number >= c->queued) {
        tell(&r->counts.wrong, "connection %u: not a message of this connection: %.*s", c->index,
             (int)r->options.size - 1, message);
        return;
    }
    uint64_t ahead = number - c->next;

    if (number < c->next || c->seen >> ahead & 1) {
        tell(&r->counts.doubled, "connection %u: message %llu came again", c->index,
             (unsigned long long)number);
        return;
    }
    if (c->seen >> ahead) {
        tell(&r->counts.reordered, "connection %u: message %llu came after a later one", c->index,
             (unsigned long long)number);
    }
    r->counts.received++;
    took(r, now_ns() - c->sent_at[number % WINDOW]);
    c->seen |= UINT64_C(1) << ahead;
    while (c->seen & 1) {
        c->seen >>= 1;
        c->next++;
    }
}

static void conn_take(struct run *r, struct conn *c, size_t got)
{
    size_t size = r->options.size, at = 0;

    while (at < got) {
        size_t want = size - c->part, here = got - at < want ? got - at : want;

        memcpy(c->in + c->part, r->buffer + at, here);
        c->part += here;
        at += here;
        if (c->part == size) {
            c->part = 0;
            conn_take_message(r, c, c->in);
        }
    }
}

static void conn_ended(struct run *r, struct conn *c)
{
    if (c->part) {
        tell(&r->counts.wrong, "connection %u: ended within a message", c->index);
    }
    if (!c->finished) {
        tell(&r->counts.closed, "connection %u: closed by the server", c->index);
    }
    conn_close(r, c);
}

static void on_conn(struct run *r, struct conn *c, uint32_t events)
{
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        ssize_t got = recv(c->fd, r->buffer, BUFFER_SIZE, 0);

        if (got > 0) {
            conn_take(r, c, (size_t)got);
        } else if (got == 0) {
            conn_ended(r, c);
        } else if (errno != EAGAIN && errno != EINTR) {
            conn_fail(r, c, errno, "read");
        }
    }
    if (c->fd >= 0 && c->watched && events & EPOLLOUT) {
        conn_send(r, c, c->queued * r->options.size);
    }
}

static int turn(struct run *r, void (*on_event)(struct run *, void *, uint32_t), int milliseconds)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(r->epoll, events, EVENTS, milliseconds);

    if (count < 0 && errno != EINTR) {
        die("epoll_wait: %s", strerror(errno));
    }
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr) {
            on_event(r, events[i].data.ptr, events[i].events);
        } else {
            on_stdin(r);
        }
    }
    return count;
}

static void on_conn_event(struct run *r, void *conn, uint32_t events)
{
    on_conn(r, conn, events);
}

// The last message has come back: what is missing before it was lost, since they come in order.
static bool conn_is_back(const struct conn *c)
{
    return c->next == c->queued || c->seen >> (c->queued - c->next - 1) & 1;
}

// Everything that was sent has come back, or its connection is gone.
static bool all_is_back(const struct run *r)
{
    for (uint64_t i = 0; i < r->options.conns; i++) {
        if (r->conns[i].fd >= 0 && !conn_is_back(&r->conns[i])) {
            return false;
        }
    }
    return true;
}

static bool all_is_closed(const struct run *r)
{
    return r->live == 0;
}

// Turns until something is true, or patience is at its end.
static void drain(struct run *r, bool (*done)(const struct run *))
{
    uint64_t last = now_ns();

    while (!done(r) && now_ns() - last < (uint64_t)(r->options.patience * 1e9)) {
        uint64_t received = r->counts.received;
        size_t live = r->live;

        turn(r, on_conn_event, 10);
        if (r->counts.received != received || r->live != live) {
            last = now_ns();
        }
    }
}

// FIN on every connection; until the server's FIN nothing may come any more.
static void finish_all(struct run *r)
{
    for (uint64_t i = 0; i < r->options.conns; i++) {
        struct conn *c = &r->conns[i];

        if (c->fd >= 0) {
            c->finished = true;
            shutdown(c->fd, SHUT_WR);
        }
    }
    drain(r, all_is_closed);
    for (uint64_t i = 0; i < r->options.conns; i++) {
        if (r->conns[i].fd >= 0) {
            conn_fail(r, &r->conns[i], ETIMEDOUT, "waiting for the end");
        }
    }
}

static bool any_fault(const struct counts *c)
{
    return c->refused + c->reset + c->closed + c->failed + c->lost + c->doubled + c->reordered +
               c->wrong >
           0;
}

static int run_echo(struct run *r)
{
    size_t live;

    open_all(r);
    begin(r);
    while (!is_over(r) && r->live > 0) {
        send_due(r);
        turn(r, on_conn_event, r->half_count || r->options.rate ? 1 : 100);
    }
    r->ended = now_ns();
    r->counted = r->counts.received;
    send_halves(r);
    drain(r, all_is_back);
    r->counts.lost = r->counts.sent - r->counts.received;
    live = r->live;
    finish_all(r);
    r->live = live;
    print_counts(r, "echo", r->counts.longest);
    return any_fault(&r->counts);
}

// connect: visits that come and go

static void visit_end(struct run *r, struct visit *v)
{
    close(v->fd);
    v->fd = -1;
    r->live--;
    v->next_free = r->free_visits;
    r->free_visits = v;
}

static void visit_fail(struct run *r, struct visit *v, int error, const char *doing)
{
    count_error(r, v->number, error, doing);
    visit_end(r, v);
}

// Spreads visits over all pairs of source and target.
static void visit_start(struct run *r, struct visit *v)
{
    uint64_t number = r->counts.sent++;
    int error;

    r->free_visits = v->next_free;
    *v = (struct visit){.fd = new_socket(r, number), .number = number, .start = now_ns()};
    r->live++;
    error = start_connect(r, v->fd, r->options.sources ? number / r->options.sources : number);
    if (error) {
        visit_fail(r, v, error, "connect");
        return;
    }
    watch(r, EPOLL_CTL_ADD, v->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, v);
}

static void visit_send(struct run *r, struct visit *v)
{
    char message[MOST_SIZE];
    int error = socket_error(v->fd);

    if (error) {
        visit_fail(r, v, error, "connect");
        return;
    }
    message_write(message, r->options.size, v->number % 1000000, v->number);
    ssize_t sent = send(v->fd, message, r->options.size, MSG_NOSIGNAL);

    if (sent == (ssize_t)r->options.size) {
        v->sent = true;
    } else if (sent >= 0 || errno != EAGAIN) {
        visit_fail(r, v, sent >= 0 ? EMSGSIZE : errno, "send");
    }
}

// The echo is here: FIN, then nothing but the server's FIN may come.
static void visit_finish(struct run *r, struct visit *v)
{
    uint64_t number = 0, time = now_ns() - v->start;

    if (!message_read(v->in, r->options.size, v->number % 1000000, &number) ||
        number != v->number) {
        tell(&r->counts.wrong, "visit %llu: another message came back",
             (unsigned long long)v->number);
    }
    took(r, time);
    r->counts.slow += time > SLOW;
    v->finished = true;
    shutdown(v->fd, SHUT_WR);
}

static void visit_ended(struct run *r, struct visit *v)
{
    if (!v->finished) {
        tell(&r->counts.closed, "visit %llu: closed after %zu bytes of its echo",
             (unsigned long long)v->number, v->got);
    } else {
        r->counts.received++;
    }
    visit_end(r, v);
}

static void visit_read(struct run *r, struct visit *v)
{
    while (v->fd >= 0) {
        ssize_t got = recv(v->fd, r->buffer, BUFFER_SIZE, 0);

        if (got == 0) {
            visit_ended(r, v);
        } else if (got < 0 && errno == EAGAIN) {
            return;
        } else if (got < 0 && errno != EINTR) {
            visit_fail(r, v, errno, "read");
        } else if (got > 0 && (size_t)got > r->options.size - v->got) {
            tell(&r->counts.doubled, "visit %llu: more came back than was sent",
                 (unsigned long long)v->number);
            visit_end(r, v);
        } else if (got > 0) {
            memcpy(v->in + v->got, r->buffer, (size_t)got);
            v->got += (size_t)got;
            if (v->got == r->options.size) {
                visit_finish(r, v);
            }
        }
    }
}

static void on_visit_event(struct run *r, void *visit, uint32_t events)
{
    struct visit *v = visit;

    if (v->fd >= 0 && !v->sent && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        visit_send(r, v);
    }
    if (v->fd >= 0 && v->sent) {
        visit_read(r, v);
    }
}

static void start_due(struct run *r)
{
    uint64_t count = r->options.rate ? due(r) : BURST;

    for (uint64_t i = 0; i < count; i++) {
        if (r->free_visits) {
            visit_start(r, r->free_visits);
        } else if (r->options.rate) {
            r->counts.held++;
        } else {
            return;
        }
        r->attempts++;
    }
}

static void end_visits(struct run *r)
{
    uint64_t deadline = now_ns() + (uint64_t)(r->options.patience * 1e9);

    while (r->live > 0 && now_ns() < deadline) {
        turn(r, on_visit_event, 10);
    }
    for (uint64_t i = 0; i < r->options.conns; i++) {
        struct visit *v = &r->visits[i];

        if (v->fd >= 0) {
            r->counts.lost++;
            visit_fail(r, v, ETIMEDOUT, v->sent ? "waiting for the echo or the end" : "connect");
        }
    }
}

static int run_connect(struct run *r)
{
    r->visits = allocate(r->options.conns, sizeof(*r->visits));
    for (uint64_t i = 0; i < r->options.conns; i++) {
        r->visits[i].fd = -1;
        r->visits[i].next_free = r->free_visits;
        r->free_visits = &r->visits[i];
    }
    begin(r);
    while (!is_over(r)) {
        start_due(r);
        turn(r, on_visit_event, 1);
    }
    r->ended = now_ns();

    r->counted = r->counts.received;
    end_visits(r);
    print_counts(r, "connect", r->counts.longest);
    return any_fault(&r->counts);
}

// The command line

static void usage(void)
{
    fputs("usage: steady echo|connect [conns=N] [rate=N] [seconds=S] [patience=S] [size=BYTES] "
          "[split=1] "
          "[sources=N] "
          "ADDRESS:PORT...\n"
          "  echo     conns connections, rate messages a second in all; split: some in two pieces\n"
          "  connect  rate connects a second (0: as many as go), at most conns at a time\n"
          "  patience seconds to wait for what is missing at the end (10)\n"
          "  seconds  0: until \"stop\" on stdin, or its end; \"lap\" shows the counts so far\n",
          stderr);
    exit(2);
}

static double number(const char *text, const char *name, double low, double high)
{
    char *rest;
    double value = strtod(text, &rest);

    if (rest == text || *rest || !(value >= low && value <= high)) {
        fprintf(stderr, "steady: %s must be a number from %.0f to %.0f, not '%s'\n", name, low,
                high, text);
        exit(2);
    }
    return value;
}

static void add_target(struct options *o, char *word)
{
    char *colon = strrchr(word, ':');
    struct sockaddr_in *target = &o->targets[o->target_count++];

    if (!colon) {
        usage();
    }
    *colon = 0;
    target->sin_family = AF_INET;
    target->sin_port = htons((uint16_t)number(colon + 1, "the port", 1, 65535));
    if (inet_pton(AF_INET, word, &target->sin_addr) != 1 ||
        ntohl(target->sin_addr.s_addr) >> 24 != 127) {
        fprintf(stderr, "steady: '%s' is no loopback address\n", word);
        exit(2);
    }
}

static void parse_option(struct options *o, char *word, char *value)
{
    *value++ = 0;
    if (strcmp(word, "conns") == 0) {
        o->conns = (uint64_t)number(value, word, 1, 200000);
    } else if (strcmp(word, "rate") == 0) {
        o->rate = (uint64_t)number(value, word, 0, 1e7);
    } else if (strcmp(word, "seconds") == 0) {
        o->seconds = number(value, word, 0, 1e6);
    } else if (strcmp(word, "patience") == 0) {
        o->patience = number(value, word, 0.01, 1e6);
    } else if (strcmp(word, "size") == 0) {
        o->size = (uint64_t)number(value, word, LEAST_SIZE, MOST_SIZE);
    } else if (strcmp(word, "split") == 0) {
        o->split = (uint64_t)number(value, word, 0, 1);
    } else if (strcmp(word, "sources") == 0) {
        o->sources = (uint64_t)number(value, word, 0, 200);
    } else {
        usage();
    }
}

int main(int argc, char **argv)
{
    static struct run run = {
        .options = {.conns = 100, .rate = 1000, .seconds = 1, .patience = 10, .size = 32}};
    bool echo = argc > 1 && strcmp(argv[1], "echo") == 0;

    signal(SIGPIPE, SIG_IGN);
    if (!echo && (argc < 2 || strcmp(argv[1], "connect") != 0)) {
        usage();
    }
    run.options.targets = allocate((size_t)argc, sizeof(*run.options.targets));
    for (int i = 2; i < argc; i++) {
        char *value = strchr(argv[i], '=');

        if (value) {
            parse_option(&run.options, argv[i], value);
        } else {
            add_target(&run.options, argv[i]);
        }
    }
    if (run.options.target_count == 0) {
        usage();
    }
    raise_descriptor_limit(run.options.conns);
    run.buffer = allocate(1, BUFFER_SIZE);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.epoll < 0) {
        die("epoll_create1: %s", strerror(errno));
    }
    int status = echo ? run_echo(&run) : run_connect(&run);

    close(run.epoll);
    free(run.options.targets);
    free(run.conns);
    free(run.halves);
    free(run.visits);
    free(run.buffer);
    return status;
}
