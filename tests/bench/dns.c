// dns.c - the floor of the DNS benchmark, a responder as plain C on libuv, and what asks it.
//   dns serve                                answers for the names of the table with an address
//   dns ask PORT SECONDS WARM PID            keeps questions under way, and prints figures of the
//   server PID
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define DATAGRAM 65536 // what libuv wants for each datagram
#define HEADER 12
#define OPT_SIZE 11
#define RECORD_SIZE 16
#define SOCKETS 16
#define WINDOW 8     // questions of each socket under way
#define QUIET_MS 200 // nothing came back for so long: what was under way is lost
#define NAMES 1000   // host0.bench.test and so on
#define NAME_SIZE 32
#define SLOTS 4096 // of the table: a power of two

static void fail(const char *what, int code)
{
    fprintf(stderr, "dns: %s: %s\n", what, uv_strerror(code));
    exit(1);
}

// the name of a host, as it is sent; its length
static size_t make_name(int number, unsigned char *to)
{
    char host[16];
    int length = snprintf(host, sizeof(host), "host%d", number);

    to[0] = (unsigned char)length;
    memcpy(to + 1, host, (size_t)length);
    memcpy(to + 1 + length, "\5bench\4test", 12);
    return (size_t)length + 13;
}

// --- the responder ------------------------------------------------------------------------------

struct entry {
    size_t length; // of the name; 0: the place is free
    unsigned char name[NAME_SIZE];
    unsigned char record[RECORD_SIZE];
};

static struct entry table[SLOTS];
static char buffer[DATAGRAM];

static struct entry *place_of(const unsigned char *name, size_t length)
{
    uint32_t hash = 2166136261u;
    struct entry *entry;

    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ name[i]) * 16777619u;
    }
    entry = &table[hash % SLOTS];
    while (entry->length && (entry->length != length || memcmp(entry->name, name, length) != 0)) {
        entry = entry == &table[SLOTS - 1] ? table : entry + 1;
    }
    return entry;
}

static void fill_table(void)
{
    static const unsigned char record[RECORD_SIZE] = {192, 12, 0, 1, 0,   1, 0, 0,
                                                      1,   44, 0, 4, 192, 0, 2, 1};

    for (int i = 0; i < NAMES; i++) {
        unsigned char name[NAME_SIZE];
        size_t length = make_name(i, name);
        struct entry *entry = place_of(name, length);

        entry->length = length;
        memcpy(entry->name, name, length);
        memcpy(entry->record, record, RECORD_SIZE);
    }
}

// Where the name behind the header ends, in small letters; 0 where it is none.
static size_t read_name(const unsigned char *data, size_t size, unsigned char *name)
{
    size_t at = HEADER;

    while (at < size && data[at] != 0) {
        size_t end = at + 1 + data[at];

        if (data[at] > 63 || end >= size || end - HEADER >= NAME_SIZE) {
            return 0;
        }
        name[at - HEADER] = data[at];
        for (at++; at < end; at++) {
            unsigned char c = data[at];

            name[at - HEADER] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        }
    }
    if (at >= size) {
        return 0;
    }
    name[at - HEADER] = 0;
    return at + 1;
}

static size_t make_answer(const unsigned char *data, size_t size, unsigned char *out)
{
    static const unsigned char opt[OPT_SIZE] = {0, 0, 41, 4, 208};
    unsigned char name[NAME_SIZE];
    size_t end = size >= HEADER && !(data[2] & 0x80) ? read_name(data, size, name) : 0;
    struct entry *entry;
    bool has_opt;

    if (end == 0 || end + 4 > size) {
        return 0;
    }
    entry = place_of(name, end - HEADER);
    has_opt = end + 4 + OPT_SIZE <= size && data[end + 4] == 0 && data[end + 6] == 41;
    memcpy(out, data, end + 4);
    out[2] = (unsigned char)(0x84 | (data[2] & 1));
    out[3] = entry->length ? 0 : 3;
    memset(out + 6, 0, 6);
    out[7] = entry->length != 0;
    out[11] = has_opt;
    end += 4;
    if (entry->length) {
        memcpy(out + end, entry->record, RECORD_SIZE);
        end += RECORD_SIZE;
    }
    if (has_opt) {
        memcpy(out + end, opt, OPT_SIZE);
        end += OPT_SIZE;
    }
    return end;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(buffer, sizeof(buffer));
}

static void on_question(uv_udp_t *port, ssize_t got, const uv_buf_t *buf,
                        const struct sockaddr *from, unsigned flags)
{
    unsigned char out[512];
    size_t size = got > 0 && got < 400 ? (size_t)got : 0;
    uv_buf_t answer;

    (void)flags;
    if (got < 0) {
        fail("receive", (int)got);
    }
    size = make_answer((const unsigned char *)buf->base, size, out);
    if (from && size > 0) {
        answer = uv_buf_init((char *)out, (unsigned)size);
        uv_udp_try_send(port, &answer, 1, from);
    }
}

static void on_term(uv_signal_t *handle, int number)
{
    (void)number;
    uv_stop(handle->loop);
}

static int serve(void)
{
    uv_loop_t *loop = uv_default_loop();
    struct sockaddr_in address;
    int size = sizeof(address);
    uv_signal_t term;
    uv_udp_t port;
    int code;

    fill_table();
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_udp_init(loop, &port);
    code = uv_ip4_addr("127.0.0.1", 0, &address);
    code = code < 0 ? code : uv_udp_bind(&port, (const struct sockaddr *)&address, 0);
    code = code < 0 ? code : uv_udp_recv_start(&port, on_alloc, on_question);
    code = code < 0 ? code : uv_udp_getsockname(&port, (struct sockaddr *)&address, &size);
    if (code < 0) {
        fail("bind", code);
    }
    printf("listening udp:127.0.0.1:%d floor\n", ntohs(address.sin_port));
    fflush(stdout);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}

// --- who asks -----------------------------------------------------------------------------------

struct asker {
    struct pollfd sockets[SOCKETS];
    uint64_t answers;
    uint64_t errors;
    int number; // of the host that is asked for next
};

static double now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void ask(struct asker *asker, int fd)
{
    unsigned char out[HEADER + NAME_SIZE + 4 + OPT_SIZE] = {0};
    size_t end;

    asker->number = (asker->number + 7) % NAMES;
    out[0] = (unsigned char)(asker->number >> 8);
    out[1] = (unsigned char)asker->number;
    out[5] = out[11] = 1;
    end = HEADER + make_name(asker->number, out + HEADER);
    out[end + 1] = out[end + 3] = 1;
    out[end + 6] = 41;
    out[end + 7] = 4;
    out[end + 8] = 208;
    if (send(fd, out, end + 4 + OPT_SIZE, 0) < 0 && errno != EAGAIN && errno != ENOBUFS) {
        asker->errors++;
    }
}

// An answer has the address, and the name that its number says.
static bool is_right(const unsigned char *data, ssize_t size)
{
    unsigned char name[NAME_SIZE];
    size_t length = size > HEADER ? make_name(data[0] << 8 | data[1], name) : NAME_SIZE;

    return size == (ssize_t)(HEADER + length + 4 + RECORD_SIZE + OPT_SIZE) && data[2] == 0x84 &&
           data[3] == 0 && data[7] == 1 && memcmp(data + HEADER, name, length) == 0 &&
           data[HEADER + length + 4 + RECORD_SIZE - 1] == 1;
}

static void take_answers(struct asker *asker, int fd)
{
    unsigned char data[512];
    ssize_t size;

    while ((size = recv(fd, data, sizeof(data), 0)) >= 0) {
        if (is_right(data, size)) {
            asker->answers++;
        } else {
            asker->errors++;
        }
        ask(asker, fd);
    }
}

static void fill_windows(struct asker *asker)
{
    for (int i = 0; i < SOCKETS * WINDOW; i++) {
        ask(asker, asker->sockets[i % SOCKETS].fd);
    }
}

static void run_until(struct asker *asker, double end)
{
    while (now(CLOCK_MONOTONIC) < end) {
        int ready = poll(asker->sockets, SOCKETS, QUIET_MS);

        for (int i = 0; i < SOCKETS && ready > 0; i++) {
            if (asker->sockets[i].revents) {
                take_answers(asker, asker->sockets[i].fd);
            }
        }
        if (ready == 0) {
            fill_windows(asker);
        }
    }
}

static void open_sockets(struct asker *asker, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < SOCKETS; i++) {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
            fail("socket", -errno);
        }
        asker->sockets[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
}

static int ask_for(char **argv)
{
    double seconds = atof(argv[1]), start, cpu;
    struct asker asker = {0};
    clockid_t clock;

    open_sockets(&asker, argv[0]);
    if (clock_getcpuclockid((pid_t)atoi(argv[3]), &clock) != 0) {
        fail("no such server", UV_ESRCH);
    }
    fill_windows(&asker);
    run_until(&asker, now(CLOCK_MONOTONIC) + atof(argv[2]));
    asker.answers = 0;
    start = now(CLOCK_MONOTONIC);
    cpu = now(clock);
    run_until(&asker, start + seconds);
    printf("{\"answers\":%llu,\"seconds\":%.6f,\"cpu_us\":%.1f,\"errors\":%llu,\"short\":0}\n",
           (unsigned long long)asker.answers, now(CLOCK_MONOTONIC) - start,
           (now(clock) - cpu) * 1e6, (unsigned long long)asker.errors);
    return asker.errors ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        return serve();
    }
    if (argc == 6 && strcmp(argv[1], "ask") == 0) {
        return ask_for(argv + 2);
    }
    fprintf(stderr, "usage: dns serve | dns ask PORT SECONDS WARM PID\n");
    return 2;
}
