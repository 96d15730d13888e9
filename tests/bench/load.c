// load.c - the load generator of the benchmarks and system tests: one thread, epoll, loopback only.
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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
#define SHIFTS 256            // different places in the pattern where a batch can begin
#define NEW_SHIFTS 1024       // the same where lines are not to come again soon
#define MAX_ERRORS 1000       // a run with so many is over
#define DRAIN_SECONDS 5       // for what is in flight when the counted window ends
#define STALL_SECONDS 20      // no byte for so long: the rest is given up (slow)
#define SLOW_SECONDS 300      // the longest slow run
#define PER_ADDRESS 20000     // idle connections from one source address
#define FETCH_ADDRESSES 64    // source addresses that fetch goes round
#define SLOW_BUFFER 8192      // receive buffer of a slow reader
#define SLOW_READ 4096        // what a slow reader takes in its turn
#define MOST_PROCESSES 64     // of a server: itself and its children
#define STREAM_PART 262144    // bytes that a stream sends or takes in its turn
#define STREAM_PERIOD 1048573 // bytes after which a stream repeats itself: a prime

// Latencies in ns, 64 steps to each power of two: exact to 1.6 %.
struct histogram {
    uint64_t total;
    uint64_t max;
    uint64_t count[64 * 59];
};

enum phase { WARM, COUNT, DRAIN };

struct conn {
    int fd; // -1: none
    uint32_t index;
    uint32_t round;
    bool blocked; // echo: waits to write the rest of its batch
    bool sends;   // stream
    bool takes;   // stream
    size_t sent;
    size_t got;
    uint64_t start;
};

struct run {
    int epoll;
    int port;
    struct conn *conns;
    size_t count; // conns
    size_t live;  // conns with a descriptor
    size_t batch; // echo: bytes sent in one go
    size_t line;  // lines: bytes of one with its end; 0 for an echo of anything
    size_t step;  // echo: from one place in the pattern where a batch can begin to the next
    size_t places;
    bool awake; // never sleeps, so that no server pays for waking us
    uint64_t per_batch;
    uint64_t expected;              // fetch, slow: bytes of one answer; fetch: 0 for any
    uint64_t serial;                // fetch: connections opened so far
    clockid_t cpus[MOST_PROCESSES]; // of the server
    size_t cpu_count;
    pid_t server; // 0: nobody asked for its CPU time
    enum phase phase;
    uint64_t warm_end, window_start, window_end;
    uint64_t cpu_start, cpu_end;
    uint64_t done, errors, wrong; // done: messages or connections in the window
    struct histogram *latencies;
    uint64_t sent, got; // stream: bytes, all in all
    int file;           // stream: the pattern
    char *pattern;
    char *buffer;
    size_t buffer_size;
};

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list args;

    fputs("load: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);

    if (!memory) {
        die("out of memory");
    }
    return memory;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t = {0, 0};

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static double number(const char *text, const char *name, double low, double high)
{
    char *rest;
    double value = strtod(text, &rest);

    if (rest == text || *rest || !(value >= low && value <= high)) {
        fprintf(stderr, "load: %s must be a number from %.0f to %.0f, not '%s'\n", name, low, high,
                text);
        exit(2);
    }
    return value;
}

// Histogram

static void histogram_add(struct histogram *h, uint64_t value)
{
    size_t slot = (size_t)value;

    if (value >= 64) {
        int shift = 63 - __builtin_clzll(value) - 6;
        slot = (size_t)(shift + 1) * 64 + (size_t)((value >> shift) - 64);
    }
    h->count[slot]++;
    h->total++;
    h->max = value > h->max ? value : h->max;
}

// The middle of a slot, in microseconds.
static double slot_us(size_t slot)
{
    if (slot < 64) {
        return (double)slot / 1000;
    }
    size_t shift = slot / 64 - 1;

    return (double)(64 + slot % 64 + 0.5) * (double)(UINT64_C(1) << shift) / 1000;
}

static double histogram_at(const struct histogram *h, double share)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < sizeof(h->count) / sizeof(h->count[0]); i++) {
        seen += h->count[i];
        if (seen && (double)seen >= share * (double)h->total) {
            return slot_us(i);
        }
    }
    return 0;
}

static void histogram_print(const struct histogram *h)
{
    printf("\"p50_us\":%.2f,\"p90_us\":%.2f,\"p99_us\":%.2f,\"max_us\":%.2f", histogram_at(h, 0.5),
           histogram_at(h, 0.9), histogram_at(h, 0.99), (double)h->max / 1000);
}

// Connecting

static void raise_descriptor_limit(size_t wanted)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        die("getrlimit: %s", strerror(errno));
    }
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_cur < wanted + 16) {
        die("%zu connections need more descriptors than the limit of %llu", wanted,
            (unsigned long long)limit.rlim_cur);
    }
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        die("setrlimit: %s", strerror(errno));
    }
}

static void socket_option(int fd, int level, int option, int value)
{
    if (setsockopt(fd, level, option, &value, sizeof(value)) < 0) {
        die("setsockopt: %s", strerror(errno));
    }
}

// Starts to connect from 127.0.0.source; returns the descriptor, which may not be connected yet.
static int connect_start(int port, unsigned source, int receive_buffer)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = 0};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        die("socket: %s", strerror(errno));
    }
    socket_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (receive_buffer) {
        socket_option(fd, SOL_SOCKET, SO_RCVBUF, receive_buffer);
    }
    socket_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    from.sin_addr.s_addr = htonl(0x7f000000u + source);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (source != 1 && bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0) {
        die("bind to 127.0.0.%u: %s", source, strerror(errno));
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS) {
        die("connect to port %d from 127.0.0.%u: %s", port, source, strerror(errno));
    }
    return fd;
}

// Waits until the connection stands.
static int connect_wait(int port, unsigned source, int receive_buffer)
{
    int fd = connect_start(port, source, receive_buffer);
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof(error);
    int ready;

    do {
        ready = poll(&wait, 1, 10000);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) {
        die("connect to port %d: no answer in 10 s", port);
    }
    if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
        die("connect to port %d: %s", port, strerror(errno));
    }
    if (error) {
        die("connect to port %d: %s", port, strerror(error));
    }
    return fd;
}

// Opens connections up to a count, a pause after each few: no listen queue runs over.
static void connect_up_to(struct run *r, size_t count, int receive_buffer)
{
    for (; r->live < count; r->live++) {
        struct conn *c = &r->conns[r->live];

        c->index = (uint32_t)r->live;
        c->fd = connect_wait(r->port, 1 + c->index / PER_ADDRESS, receive_buffer);
        if (r->live % 32 == 31) {
            usleep(1000);
        }
    }
}

static void watch(struct run *r, struct conn *c, int how, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = c}};

    if (epoll_ctl(r->epoll, how, c->fd, &event) < 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
}

static void conn_close(struct run *r, struct conn *c)
{
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
        r->live--;
    }
}

// Reports the first error in words, counts the others.
__attribute__((format(printf, 3, 4))) static void conn_fail(struct run *r, struct conn *c,
                                                            const char *format, ...)
{
    if (r->errors++ == 0) {
        va_list args;

        fprintf(stderr, "load: connection %u: ", c->index);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fputc('\n', stderr);
    }
    conn_close(r, c);
}

static void run_init(struct run *r, int port, size_t count)
{
    r->port = port;
    r->count = count;
    r->conns = allocate(count, sizeof(*r->conns));
    r->latencies = allocate(1, sizeof(*r->latencies));
    r->buffer_size = 256 * 1024;
    r->buffer = allocate(1, r->buffer_size);
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll < 0) {
        die("epoll_create1: %s", strerror(errno));
    }
    for (size_t i = 0; i < count; i++) {
        r->conns[i].fd = -1;
    }
    raise_descriptor_limit(count);
}

static void run_free(struct run *r)
{
    for (size_t i = 0; i < r->count; i++) {
        conn_close(r, &r->conns[i]);
    }
    close(r->epoll);
    free(r->conns);
    free(r->latencies);
    free(r->pattern);
    free(r->buffer);
}

// The counted window

static uint64_t cpu_ns(const struct run *r)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < r->cpu_count; i++) {
        sum += clock_ns(r->cpus[i]);
    }
    return sum;
}

static void run_set_times(struct run *r, double warm, double seconds)
{
    r->warm_end = now_ns() + (uint64_t)(warm * 1e9);
    r->window_end = r->warm_end + (uint64_t)(seconds * 1e9);
}

// Adds a process whose CPU time counts; false where it is gone.
static bool add_process(struct run *r, pid_t pid)
{
    return r->cpu_count < MOST_PROCESSES && clock_getcpuclockid(pid, &r->cpus[r->cpu_count]) == 0 &&
           ++r->cpu_count;
}

static void run_set_server(struct run *r, const char *pid)
{
    r->server = (pid_t)number(pid, "PID", 1, 1e9);
}

// A server may have forked for each connection: its children count.
static void add_server(struct run *r)
{
    char path[64];
    int child;

    if (!add_process(r, r->server)) {
        die("no process %d", r->server);
    }
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", r->server, r->server);
    FILE *file = fopen(path, "r");

    while (file && fscanf(file, "%d", &child) == 1) {
        if (!add_process(r, child)) {
            die("process %d is gone, or one too many", child);
        }
    }
    if (file) {
        fclose(file);
    }
}

// Moves to the next phase when its time has come.
static void run_tick(struct run *r)
{
    uint64_t now = now_ns();

    if (r->phase == WARM && now >= r->warm_end) {
        puts("warm");
        fflush(stdout);
        r->phase = COUNT;
        if (r->server) {
            add_server(r);
        }
        r->cpu_start = cpu_ns(r);
        r->window_start = now_ns();
    } else if (r->phase == COUNT && now >= r->window_end) {
        r->cpu_end = cpu_ns(r);
        r->window_end = now_ns();
        r->phase = DRAIN;
    }
}

static void run_count(struct run *r, const struct conn *c, uint64_t how_many)
{
    if (r->phase == COUNT) {
        r->done += how_many;
        histogram_add(r->latencies, now_ns() - c->start);
    }
}

// Turns the loop until the window is over and nothing is in flight.
static void run_loop(struct run *r, void (*on_event)(struct run *, struct conn *, uint32_t))
{
    struct epoll_event events[256];

    while (r->live > 0 && r->errors < MAX_ERRORS) {
        int count = epoll_wait(r->epoll, events, 256, r->awake ? 0 : 20);

        if (count < 0 && errno != EINTR) {
            die("epoll_wait: %s", strerror(errno));
        }
        run_tick(r);
        for (int i = 0; i < count; i++) {
            on_event(r, events[i].data.ptr, events[i].events);
        }
        if (r->phase == DRAIN && now_ns() > r->window_end + DRAIN_SECONDS * SECOND) {
            break;
        }
    }
    for (size_t i = 0; i < r->count; i++) {
        if (r->conns[i].fd >= 0) {
            conn_fail(r, &r->conns[i], "no end %d s after the window", DRAIN_SECONDS);
        }
    }
}

static int run_report(struct run *r, const char *what)
{
    if (r->phase != DRAIN) {
        die("no connection was left before the window ended");
    }
    printf("{\"%s\":%llu,\"seconds\":%.6f,\"errors\":%llu,\"short\":%llu,", what,
           (unsigned long long)r->done, (double)(r->window_end - r->window_start) / 1e9,
           (unsigned long long)r->errors, (unsigned long long)r->wrong);
    if (r->cpu_count > 0) {
        printf("\"cpu_us\":%.1f,", (double)(r->cpu_end - r->cpu_start) / 1000);
    }
    histogram_print(r->latencies);
    puts("}");
    fflush(stdout);
    if (!r->done && !r->errors && !r->wrong) {
        fputs("load: nothing came back within the window\n", stderr);
    }
    return r->errors || r->wrong || !r->done;
}

// echo, lines: every connection and round begins elsewhere in the pattern, so a stale or foreign
// byte shows

static const char *echo_bytes(const struct run *r, const struct conn *c)
{
    return r->pattern + (c->index * 37 + c->round) % r->places * r->step;
}

static void make_pattern(struct run *r)
{
    uint32_t x = 2463534242u;

    r->pattern = allocate(r->batch + r->places * r->step, 1);
    for (size_t i = 0; i < r->batch + r->places * r->step; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        r->pattern[i] = (char)x;
    }
}

// Makes lines of the pattern: letters, and two bytes that end each.
static void make_lines(struct run *r)
{
    for (size_t i = 0; i < r->batch + r->places * r->step; i++) {
        size_t left = r->line - i % r->line;

        r->pattern[i] = left == 2   ? '\r'
                        : left == 1 ? '\n'
                                    : (char)('A' + (unsigned char)r->pattern[i] % 26);
    }
}

static void echo_send(struct run *r, struct conn *c)
{
    ssize_t sent = send(c->fd, echo_bytes(r, c) + c->sent, r->batch - c->sent, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        conn_fail(r, c, "send: %s", strerror(errno));
        return;
    }
    c->sent += sent > 0 ? (size_t)sent : 0;
    bool blocked = c->sent < r->batch;

    if (blocked != c->blocked) {
        c->blocked = blocked;
        watch(r, c, EPOLL_CTL_MOD, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

static void echo_next(struct run *r, struct conn *c)
{
    c->round++;
    c->sent = 0;
    c->got = 0;
    c->start = now_ns();
    echo_send(r, c);
}

static void echo_take(struct run *r, struct conn *c, size_t got)
{
    if (got > c->sent - c->got || memcmp(r->buffer, echo_bytes(r, c) + c->got, got) != 0) {
        conn_fail(r, c, "what came back is not what was sent");
        return;
    }
    c->got += got;
    if (c->got < r->batch) {
        return;
    }
    run_count(r, c, r->per_batch);
    if (r->phase == DRAIN) {
        conn_close(r, c);
    } else {
        echo_next(r, c);
    }
}

static void on_echo(struct run *r, struct conn *c, uint32_t events)
{
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        ssize_t got = recv(c->fd, r->buffer, r->buffer_size, 0);

        if (got > 0) {
            echo_take(r, c, (size_t)got);
        } else if (got == 0) {
            conn_fail(r, c, "closed by the server");
        } else if (errno != EAGAIN && errno != EINTR) {
            conn_fail(r, c, "read: %s", strerror(errno));
        }
    }
    if (c->fd >= 0 && c->blocked && events & EPOLLOUT) {
        echo_send(r, c);
    }
}

static int run_batches(struct run *r, int argc, char **argv)
{
    size_t count = (size_t)number(argv[1], "CONNS", 1, 200000);

    run_init(r, (int)number(argv[0], "PORT", 1, 65535), count);
    make_pattern(r);
    if (r->line) {
        make_lines(r);
    }
    connect_up_to(r, count, 0);
    if (argc > 6) {
        run_set_server(r, argv[6]);
    }
    run_set_times(r, argc > 5 ? number(argv[5], "WARM", 0, 3600) : 0,
                  number(argv[4], "SECONDS", 0.01, 3600));
    for (size_t i = 0; i < count; i++) {
        watch(r, &r->conns[i], EPOLL_CTL_ADD, EPOLLIN);
        echo_next(r, &r->conns[i]);
    }
    run_loop(r, on_echo);
    return run_report(r, "messages");
}

// A quick server would find us busy and a slow one asleep, and pay for the difference.
static int run_awake(struct run *r, int argc, char **argv)
{
    r->awake = true;
    return run_batches(r, argc, argv);
}

static void read_sizes(struct run *r, char **argv, size_t ending)
{
    r->per_batch = (uint64_t)number(argv[3], "PIPELINE", 1, 100000);
    r->step = (size_t)number(argv[2], "SIZE", 1, 1 << 20) + ending;
    r->batch = r->step * r->per_batch;
    r->places = SHIFTS;
}

// echo PORT CONNS SIZE PIPELINE SECONDS [WARM [PID]]
static int run_echo(struct run *r, int argc, char **argv)
{
    read_sizes(r, argv, 0);
    r->step = 1;
    return run_batches(r, argc, argv);
}

// An echo of lines, of SIZE bytes before the two that end each: the same few hundred all the time.
// lines PORT CONNS SIZE LINES SECONDS [WARM [PID]]
static int run_lines(struct run *r, int argc, char **argv)
{
    read_sizes(r, argv, 2);
    r->line = r->step;
    return run_awake(r, argc, argv);
}

// The same of lines that do not come again soon.
static int run_new_lines(struct run *r, int argc, char **argv)
{
    read_sizes(r, argv, 2);
    r->line = r->step;
    r->step = r->batch;
    r->places = NEW_SHIFTS;
    return run_awake(r, argc, argv);
}

// udp: so many datagrams of each socket are under way; what is lost is sent again

#define UDP_QUIET_MS 200 // nothing came back for so long: what was under way is lost

static void udp_send(struct run *r, struct conn *c)
{
    c->start = now_ns();
    if (send(c->fd, echo_bytes(r, c), r->batch, 0) < 0 && errno != EAGAIN && errno != ENOBUFS) {
        conn_fail(r, c, "send: %s", strerror(errno));
    }
}

static void udp_start(struct run *r, struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->port)};

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        die("udp socket: %s", strerror(errno));
    }
    c->index = (uint32_t)r->live++;
    watch(r, c, EPOLL_CTL_ADD, EPOLLIN);
}

static void udp_fill(struct run *r)
{
    for (size_t i = 0; i < r->count; i++) {
        for (uint64_t k = 0; k < r->per_batch && r->conns[i].fd >= 0; k++) {
            udp_send(r, &r->conns[i]);
        }
    }
}

static void on_udp(struct run *r, struct conn *c)
{
    ssize_t got;

    while (c->fd >= 0 && (got = recv(c->fd, r->buffer, r->buffer_size, 0)) >= 0) {
        if ((size_t)got != r->batch || memcmp(r->buffer, echo_bytes(r, c), r->batch) != 0) {
            conn_fail(r, c, "what came back is not what was sent");
            return;
        }
        run_count(r, c, 1);
        udp_send(r, c);
    }
    if (c->fd >= 0 && errno != EAGAIN && errno != EINTR) {
        conn_fail(r, c, "receive: %s", strerror(errno));
    }
}

static void udp_loop(struct run *r)
{
    struct epoll_event events[256];

    while (r->phase != DRAIN && r->live > 0 && r->errors < MAX_ERRORS) {
        int count = epoll_wait(r->epoll, events, 256, UDP_QUIET_MS);

        run_tick(r);
        for (int i = 0; i < count; i++) {
            on_udp(r, events[i].data.ptr);
        }
        if (count == 0) {
            udp_fill(r);
        }
    }
}

// udp PORT SOCKETS SIZE WINDOW SECONDS [WARM [PID]]
static int run_udp(struct run *r, int argc, char **argv)
{
    r->per_batch = (uint64_t)number(argv[3], "WINDOW", 1, 1000);
    r->batch = (size_t)number(argv[2], "SIZE", 0, 65507);
    r->step = 1;
    r->places = SHIFTS;
    run_init(r, (int)number(argv[0], "PORT", 1, 65535),
             (size_t)number(argv[1], "SOCKETS", 1, 10000));
    make_pattern(r);
    for (size_t i = 0; i < r->count; i++) {
        udp_start(r, &r->conns[i]);
    }
    if (argc > 6) {
        run_set_server(r, argv[6]);
    }
    run_set_times(r, argc > 5 ? number(argv[5], "WARM", 0, 3600) : 0,
                  number(argv[4], "SECONDS", 0.01, 3600));
    udp_fill(r);
    udp_loop(r);
    return run_report(r, "messages");
}

// fetch: connect, read to the end, close, again

static void fetch_next(struct run *r, struct conn *c)
{
    if (r->phase == DRAIN) {
        return;
    }
    c->got = 0;
    c->start = now_ns();
    c->fd = connect_start(r->port, 2 + (unsigned)(r->serial++ % FETCH_ADDRESSES), 0);
    r->live++;
    watch(r, c, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
}

static void fetch_end(struct run *r, struct conn *c)
{
    conn_close(r, c);
    if (r->expected && c->got != r->expected) {
        if (r->wrong++ == 0) {
            fprintf(stderr, "load: connection %u: %zu bytes came, not %llu\n", c->index, c->got,
                    (unsigned long long)r->expected);
        }
    } else {
        run_count(r, c, 1);
    }
    fetch_next(r, c);
}

static void on_fetch(struct run *r, struct conn *c, uint32_t events)
{
    (void)events;
    for (int reads = 0; c->fd >= 0 && reads < 8; reads++) {
        ssize_t got = recv(c->fd, r->buffer, r->buffer_size, 0);

        if (got > 0) {
            c->got += (size_t)got;
        } else if (got == 0) {
            fetch_end(r, c);
            return;
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR) {
            conn_fail(r, c, "read: %s", strerror(errno));
            fetch_next(r, c);
            return;
        }
    }
}

// fetch PORT CONNS SECONDS [WARM [EXPECTED_BYTES [PID]]]
static int run_fetch(struct run *r, int argc, char **argv)
{
    size_t count = (size_t)number(argv[1], "CONNS", 1, 20000);

    run_init(r, (int)number(argv[0], "PORT", 1, 65535), count);
    r->expected = argc > 4 ? (uint64_t)number(argv[4], "EXPECTED_BYTES", 0, 1e15) : 0;
    if (argc > 5) {
        run_set_server(r, argv[5]);
    }
    run_set_times(r, argc > 3 ? number(argv[3], "WARM", 0, 3600) : 0,
                  number(argv[2], "SECONDS", 0.01, 3600));
    for (size_t i = 0; i < count; i++) {
        r->conns[i].index = (uint32_t)i;
        fetch_next(r, &r->conns[i]);
    }
    run_loop(r, on_fetch);
    return run_report(r, "connections");
}

// idle: open and hold

// How many of the open connections the server has ended.
static size_t idle_lost(struct run *r)
{
    size_t lost = 0;

    for (size_t i = 0; i < r->live; i++) {
        struct pollfd state = {.fd = r->conns[i].fd, .events = POLLRDHUP};

        lost += poll(&state, 1, 0) > 0;
    }
    return lost;
}

static void idle_grow(struct run *r, size_t count)
{
    size_t live = r->live;

    r->conns = realloc(r->conns, (count ? count : 1) * sizeof(*r->conns));
    if (!r->conns) {
        die("out of memory");
    }
    memset(r->conns + live, 0, (count - live) * sizeof(*r->conns));
    r->count = count;
    raise_descriptor_limit(count);
    connect_up_to(r, count, 0);
}

// idle PORT CONNS; then each line N on stdin opens up to N and is answered with "ready N"
static int run_idle(struct run *r, int argc, char **argv)
{
    size_t count = (size_t)number(argv[1], "CONNS", 0, 1000000);
    char line[64];

    (void)argc;
    run_init(r, (int)number(argv[0], "PORT", 1, 65535), count);
    connect_up_to(r, count, 0);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = 0;
        count = (size_t)number(line, "a line on stdin", 0, 1000000);
        if (count > r->live) {
            idle_grow(r, count);
        }
        printf("ready %zu\n", r->live);
        fflush(stdout);
    }
    size_t lost = idle_lost(r);

    printf("{\"connections\":%zu,\"lost\":%zu}\n", r->live, lost);
    if (lost) {
        fprintf(stderr, "load: the server ended %zu of %zu connections\n", lost, r->live);
    }
    return lost > 0;
}

// slow: read nothing until told, then a little from each in turn

static void on_slow(struct run *r, struct conn *c)
{
    ssize_t got = recv(c->fd, r->buffer, SLOW_READ, 0);

    if (got > 0) {
        c->got += (size_t)got;
    } else if (got == 0) {
        r->wrong += c->got != r->expected;
        r->done += c->got == r->expected;
        conn_close(r, c);
    } else if (errno != EAGAIN && errno != EINTR) {
        conn_fail(r, c, "read after %zu bytes: %s", c->got, strerror(errno));
    }
}

static void slow_read_all(struct run *r)
{
    uint64_t end = now_ns() + SLOW_SECONDS * SECOND;
    uint64_t stall = now_ns() + STALL_SECONDS * SECOND;
    struct epoll_event events[256];

    while (r->live > 0 && now_ns() < stall && now_ns() < end) {
        int count = epoll_wait(r->epoll, events, 256, 100);

        if (count < 0 && errno != EINTR) {
            die("epoll_wait: %s", strerror(errno));
        }
        for (int i = 0; i < count; i++) {
            on_slow(r, events[i].data.ptr);
        }
        if (count > 0) {
            stall = now_ns() + STALL_SECONDS * SECOND;
        }
    }
    for (size_t i = 0; i < r->count; i++) {
        if (r->conns[i].fd >= 0) {
            conn_fail(r, &r->conns[i], "no end after %zu bytes", r->conns[i].got);
        }
    }
}

static void slow_wait_for_go(void)
{
    char line[64];

    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin) || strncmp(line, "go", 2) != 0) {
        die("expected the line 'go' on stdin");
    }
}

// slow PORT CONNS EXPECTED_BYTES
static int run_slow(struct run *r, int argc, char **argv)
{
    size_t count = (size_t)number(argv[1], "CONNS", 1, 200000);

    (void)argc;
    run_init(r, (int)number(argv[0], "PORT", 1, 65535), count);
    r->expected = (uint64_t)number(argv[2], "EXPECTED_BYTES", 0, 1e15);
    connect_up_to(r, count, SLOW_BUFFER);
    slow_wait_for_go();
    for (size_t i = 0; i < count; i++) {
        watch(r, &r->conns[i], EPOLL_CTL_ADD, EPOLLIN);
    }
    slow_read_all(r);
    printf("{\"complete\":%llu,\"short\":%llu,\"errors\":%llu}\n", (unsigned long long)r->done,
           (unsigned long long)r->wrong, (unsigned long long)r->errors);
    if (r->wrong) {
        fprintf(stderr, "load: %llu connections ended with another number of bytes than %llu\n",
                (unsigned long long)r->wrong, (unsigned long long)r->expected);
    }
    return r->done < count;
}

// stream: both ends of a forwarder, bytes one way or both. While it warms up the bytes are
// compared; in the counted window the kernel drops them, and takes them from a file: so that the
// forwarder is what takes the time.

static void make_file(struct run *r)
{
    r->batch = STREAM_PERIOD;
    make_pattern(r);
    r->file = memfd_create("pattern", MFD_CLOEXEC);
    if (r->file < 0 || write(r->file, r->pattern, STREAM_PERIOD) != STREAM_PERIOD) {
        die("pattern: %s", strerror(errno));
    }
}

static int stream_listen(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) < 0) {
        die("listen: %s", strerror(errno));
    }
    *port = ntohs(at.sin_port);
    return fd;
}

static void stream_accept(struct run *r, int listener, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};
        struct conn *c = &r->conns[count + i];

        if (poll(&wait, 1, 10000) <= 0) {
            die("%zu of %zu connections came through", i, count);
        }
        c->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c->fd < 0) {
            die("accept: %s", strerror(errno));
        }
        socket_option(c->fd, IPPROTO_TCP, TCP_NODELAY, 1);
        c->index = (uint32_t)(count + i);
        r->live++;
    }
}

static void stream_done(struct run *r, struct conn *c)
{
    if (!c->sends && !c->takes) {
        conn_close(r, c);
    } else {
        watch(r, c, EPOLL_CTL_MOD, (c->takes ? EPOLLIN : 0) | (c->sends ? EPOLLOUT : 0));
    }
}

static void stream_send(struct run *r, struct conn *c)
{
    off_t at = (off_t)(c->sent % STREAM_PERIOD);
    ssize_t sent = 0;

    if (r->phase == DRAIN) {
        shutdown(c->fd, SHUT_WR);
        c->sends = false;
        stream_done(r, c);
        return;
    }
    sent = sendfile(c->fd, r->file, &at, STREAM_PART);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        conn_fail(r, c, "send: %s", strerror(errno));
    } else if (sent > 0) {
        c->sent += (size_t)sent;
        r->sent += (uint64_t)sent;
    }
}

static bool stream_is_right(const struct run *r, const struct conn *c, size_t got)
{
    size_t at = c->got % STREAM_PERIOD;
    size_t first = STREAM_PERIOD - at < got ? STREAM_PERIOD - at : got;

    return memcmp(r->buffer, r->pattern + at, first) == 0 &&
           memcmp(r->buffer + first, r->pattern, got - first) == 0;
}

static void stream_take(struct run *r, struct conn *c)
{
    bool looks = r->phase != COUNT;
    ssize_t got = recv(c->fd, r->buffer, STREAM_PART, looks ? 0 : MSG_TRUNC);

    if (got < 0 && errno != EAGAIN && errno != EINTR) {
        conn_fail(r, c, "read: %s", strerror(errno));
    } else if (got > 0 && looks && !stream_is_right(r, c, (size_t)got)) {
        conn_fail(r, c, "what came is not what was sent");
    } else if (got > 0) {
        c->got += (size_t)got;
        r->got += (uint64_t)got;
        r->done += r->phase == COUNT ? (uint64_t)got : 0;
    } else if (got == 0) {
        if (r->phase != DRAIN) {
            conn_fail(r, c, "closed by the server");
            return;
        }
        c->takes = false;
        stream_done(r, c);
    }
}

static void on_stream(struct run *r, struct conn *c, uint32_t events)
{
    if (c->fd >= 0 && c->takes && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        stream_take(r, c);
    }
    if (c->fd >= 0 && c->sends && events & EPOLLOUT) {
        stream_send(r, c);
    }
}

// Says where it listens; where the forwarder does comes on stdin.
static void stream_connect(struct run *r, size_t count)
{
    char line[64], pid[32];
    int port, listener = stream_listen(&port);

    printf("listening tcp:127.0.0.1:%d\n", port);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin) || sscanf(line, "%d %31s", &r->port, pid) != 2) {
        die("expected the line 'PORT PID' on stdin");
    }
    connect_up_to(r, count, 0);
    stream_accept(r, listener, count);
    close(listener);
    run_set_server(r, pid);
}

// stream CONNS WAYS SECONDS [WARM]
static int run_stream(struct run *r, int argc, char **argv)
{
    size_t count = (size_t)number(argv[0], "CONNS", 1, 1000);
    bool both = number(argv[1], "WAYS", 1, 2) == 2;

    run_init(r, 0, count * 2);
    make_file(r);
    stream_connect(r, count);
    run_set_times(r, argc > 3 ? number(argv[3], "WARM", 0, 3600) : 0,
                  number(argv[2], "SECONDS", 0.01, 3600));
    for (size_t i = 0; i < count * 2; i++) {
        r->conns[i].sends = i < count || both;
        r->conns[i].takes = true; // the end, at least
        watch(r, &r->conns[i], EPOLL_CTL_ADD, EPOLLIN | (r->conns[i].sends ? EPOLLOUT : 0));
    }
    run_loop(r, on_stream);
    r->wrong = r->sent != r->got;
    return run_report(r, "bytes");
}

static const struct mode {
    const char *name;
    int least, most; // arguments
    int (*run)(struct run *, int, char **);
    const char *usage;
} modes[] = {
    {"echo", 5, 7, run_echo, "echo PORT CONNS SIZE PIPELINE SECONDS [WARM [PID]]"},
    {"lines", 5, 7, run_lines, "lines PORT CONNS SIZE LINES SECONDS [WARM [PID]]"},
    {"newlines", 5, 7, run_new_lines, "newlines PORT CONNS SIZE LINES SECONDS [WARM [PID]]"},
    {"udp", 5, 7, run_udp, "udp PORT SOCKETS SIZE WINDOW SECONDS [WARM [PID]]"},
    {"fetch", 3, 6, run_fetch, "fetch PORT CONNS SECONDS [WARM [EXPECTED_BYTES [PID]]]"},
    {"idle", 2, 2, run_idle, "idle PORT CONNS"},
    {"slow", 3, 3, run_slow, "slow PORT CONNS EXPECTED_BYTES"},
    {"stream", 3, 4, run_stream, "stream CONNS WAYS SECONDS [WARM]"},
};

static const size_t mode_count = sizeof(modes) / sizeof(modes[0]);

int main(int argc, char **argv)
{
    struct run run = {0};

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; argc > 1 && i < mode_count; i++) {
        int given = argc - 2;

        if (strcmp(argv[1], modes[i].name) == 0 && given >= modes[i].least &&
            given <= modes[i].most) {
            int status = modes[i].run(&run, given, argv + 2);

            run_free(&run);
            return status;
        }
    }
    for (size_t i = 0; i < mode_count; i++) {
        fprintf(stderr, "%s load %s\n", i ? "      " : "usage:", modes[i].usage);
    }
    return 2;
}
