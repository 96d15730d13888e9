// tls_load.c - TLS clients for the benchmarks and the tests: one thread, epoll, 127.0.0.1 only.
//
//   tls_load echo PORT CONNECTIONS SIZE SECONDS PID [FLOOD]
//       Shakes hands on all connections at once, then has one message of SIZE bytes in flight on
//       each; prints the handshakes' time, messages, the CPU time that process PID took for them,
//       and latencies. FLOOD: so many more handshakes are always under way beside that.
//   tls_load idle PORT CONNECTIONS PID
//       Holds the connections, one message each; prints PID's memory for each.
//   tls_load fuzz PORT COUNT SEED truncate|mutate
//       Handshakes that are cut off anywhere, or of which bytes are changed; prints how many ended
//       how.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, BUFFER = 131072, SAMPLES = 1 << 22 };

struct client {
    SSL *ssl;
    int fd;
    bool shaken;
    int got;
    int sent;
    uint64_t begun;
};

static SSL_CTX *context;
static int port, size, epoll, shaken;
static bool stops;
static char message[MOST], answer[BUFFER];
static uint64_t messages, handshakes;
static uint32_t *latencies;
static size_t samples;

static void fail(const char *what)
{
    fprintf(stderr, "tls_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_of(pid_t pid)
{
    clockid_t clock;
    struct timespec t = {0};
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) < 0)
        fail("the process's clock");
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static long memory_of(pid_t pid)
{
    char path[64], line[256];
    long kilobytes = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kilobytes) == 1)
            break;
    if (file)
        fclose(file);
    return kilobytes * 1024;
}

static int connect_socket(bool blocking)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!blocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void watch(struct client *client, uint32_t events, int how)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    epoll_ctl(epoll, how, client->fd, &event);
}

static void begin(struct client *client)
{
    client->fd = connect_socket(false);
    client->ssl = SSL_new(context);
    SSL_set_fd(client->ssl, client->fd);
    SSL_set_connect_state(client->ssl);
    client->shaken = false;
    client->got = client->sent = 0;
    watch(client, EPOLLIN, EPOLL_CTL_ADD);
}

static void send_more(struct client *client)
{
    while (client->sent < size) {
        int n = SSL_write(client->ssl, message + client->sent, size - client->sent);
        if (n <= 0)
            break;
        client->sent += n;
    }
    watch(client, client->sent < size ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
}

static void send_message(struct client *client)
{
    client->begun = now();
    client->got = client->sent = 0;
    int n = SSL_write(client->ssl, message, size);
    client->sent = n > 0 ? n : 0;
    if (client->sent < size)
        send_more(client);
}

static void note(struct client *client)
{
    messages++;
    if (samples < SAMPLES)
        latencies[samples++] = (uint32_t)((now() - client->begun) / 1000);
}

static void receive(struct client *client)
{
    int n;
    while ((n = SSL_read(client->ssl, answer, sizeof answer)) > 0) {
        client->got += n;
        if (client->got < size)
            continue;
        note(client);
        if (!stops)
            send_message(client);
    }
    if (SSL_get_error(client->ssl, n) != SSL_ERROR_WANT_READ) {
        fprintf(stderr, "tls_load: the server has ended a connection\n");
        exit(1);
    }
}

static void shake(struct client *client)
{
    int result = SSL_do_handshake(client->ssl);
    int why = SSL_get_error(client->ssl, result);
    if (result != 1 && why == SSL_ERROR_WANT_READ)
        return;
    if (result == 1) {
        client->shaken = true;
        shaken++;
    } else {
        fprintf(stderr, "tls_load: a handshake failed\n");
        exit(1);
    }
}

static void turn(int wait)
{
    struct epoll_event events[256];
    int n = epoll_wait(epoll, events, 256, wait);
    for (int i = 0; i < n; i++) {
        struct client *client = events[i].data.ptr;
        if (!client->shaken) {
            shake(client);
            continue;
        }
        if (events[i].events & EPOLLOUT)
            send_more(client);
        receive(client);
    }
}

static struct client *connect_all(int count, uint64_t *took)
{
    struct client *clients = calloc((size_t)count, sizeof *clients);
    uint64_t start = now();
    for (int i = 0; i < count; i++)
        begin(&clients[i]);
    for (int i = 0; i < count; i++)
        SSL_do_handshake(clients[i].ssl);
    while (shaken < count)
        turn(1000);
    *took = now() - start;
    return clients;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void run_until(uint64_t when)
{
    while (now() < when)
        turn(10);
}

// A client hello that any server answers with all its work, and costs us nothing.
static long make_hello(char *bytes, size_t most)
{
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, out);
    SSL_set_connect_state(ssl);
    SSL_do_handshake(ssl);
    int length = BIO_read(out, bytes, (int)most);
    SSL_free(ssl);
    return length;
}

static void begin_hello(struct client *client, const char *hello, long length)
{
    client->fd = connect_socket(false);
    if (send(client->fd, hello, (size_t)length, MSG_NOSIGNAL) < 0)
        fail("send");
    watch(client, EPOLLIN, EPOLL_CTL_ADD);
}

static void flood(int count, double seconds)
{
    static char hello[4096];
    long length = make_hello(hello, sizeof hello);
    struct client *clients = calloc((size_t)count, sizeof *clients);
    struct epoll_event events[256];
    uint64_t until = now() + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < count; i++)
        begin_hello(&clients[i], hello, length);
    while (now() < until) {
        int n = epoll_wait(epoll, events, 256, 10);
        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;
            handshakes += read(client->fd, answer, sizeof answer) > 0;
            close(client->fd);
            begin_hello(client, hello, length);
        }
    }
    printf("rate %.0f\n", (double)handshakes / seconds);
}

static void echo(int count, double seconds, pid_t pid)
{
    uint64_t took;
    struct client *clients = connect_all(count, &took);
    for (int i = 0; i < count; i++)
        send_message(&clients[i]);
    run_until(now() + 300000000);
    uint64_t cpu = cpu_of(pid), counted = messages, start = now();
    samples = 0;
    run_until(start + (uint64_t)(seconds * 1e9));
    cpu = cpu_of(pid) - cpu;
    double elapsed = (double)(now() - start) / 1e9;
    counted = messages - counted;
    qsort(latencies, samples, sizeof *latencies, by_value);
    printf("handshakes_ms %.2f messages %llu cpu_us %.4f rate %.0f p50_us %u p99_us %u max_us %u\n",
           (double)took / 1e6, (unsigned long long)counted,
           counted ? (double)cpu / 1e3 / (double)counted : 0, (double)counted / elapsed,
           samples ? latencies[samples / 2] : 0, samples ? latencies[samples * 99 / 100] : 0,
           samples ? latencies[samples - 1] : 0);
}

static void idle(int count, pid_t pid)
{
    uint64_t took;
    long before = memory_of(pid);
    struct client *clients = connect_all(count, &took);
    stops = true;
    for (int i = 0; i < count; i++)
        send_message(&clients[i]);
    while (messages < (uint64_t)count)
        turn(1000);
    printf("bytes_each %ld\n", (memory_of(pid) - before) / count);
}

// --- broken handshakes
// ------------------------------------------------------------------------------

static uint64_t state;

static uint32_t chance(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

struct plan {
    bool mutates;
    int flight; // of the client's, from 0, in which it happens
    size_t at;
};

// Sends what the client has to say next; false when the broken part was sent.
static bool send_flight(int fd, BIO *out, const struct plan *plan, int flight)
{
    char *bytes;
    long length = BIO_get_mem_data(out, &bytes);
    bool broken = length > 0 && flight == plan->flight;
    if (length <= 0)
        return true;
    if (broken && plan->mutates)
        for (uint32_t i = 1 + chance(8); i > 0; i--)
            bytes[chance((uint32_t)length)] ^= (char)(1 + chance(255));
    else if (broken)
        length = (long)(plan->at % (size_t)length);
    if (length > 0 && send(fd, bytes, (size_t)length, MSG_NOSIGNAL) < 0)
        broken = true;
    (void)BIO_reset(out);
    return !broken;
}

// How the server's side ended: 'e' with its FIN, 'r' with a reset, 't' not within five seconds.
static int drain(int fd)
{
    char bytes[16384];
    struct pollfd look = {.fd = fd, .events = POLLIN};
    shutdown(fd, SHUT_WR);
    for (;;) {
        if (poll(&look, 1, 5000) == 0)
            return 't';
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n <= 0)
            return n == 0 ? 'e' : 'r';
    }
}

static int broken(const struct plan *plan)
{
    int fd = connect_socket(true), flight = 0;
    char bytes[16384];
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, out);
    SSL_set_connect_state(ssl);
    for (;;) {
        int result = SSL_do_handshake(ssl);
        if (result == 1)
            SSL_write(ssl, message, 1000);
        if (!send_flight(fd, out, plan, flight++) || result == 1)
            break;
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n <= 0)
            break;
        BIO_write(in, bytes, (int)n);
    }
    int how = drain(fd);
    SSL_free(ssl);
    close(fd);
    return how;
}

static void fuzz(int count, bool mutates)
{
    int ends = 0, resets = 0, late = 0;
    for (int i = 0; i < count; i++) {
        struct plan plan = {mutates, (int)chance(2), chance(4096)};
        int how = broken(&plan);
        ends += how == 'e';
        resets += how == 'r';
        late += how == 't';
    }
    printf("ended %d reset %d late %d\n", ends, resets, late);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    context = SSL_CTX_new(TLS_client_method());
    epoll = epoll_create1(EPOLL_CLOEXEC);
    latencies = malloc(SAMPLES * sizeof *latencies);
    port = argc > 2 ? atoi(argv[2]) : 0;
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1);
    if (strcmp(what, "echo") == 0 && argc == 7) {
        size = atoi(argv[4]) < MOST ? atoi(argv[4]) : MOST;
        echo(atoi(argv[3]), atof(argv[5]), atoi(argv[6]));
    } else if (strcmp(what, "flood") == 0 && argc == 5) {
        flood(atoi(argv[3]), atof(argv[4]));
    } else if (strcmp(what, "idle") == 0 && argc == 5) {
        size = 64;
        idle(atoi(argv[3]), atoi(argv[4]));
    } else if (strcmp(what, "fuzz") == 0 && argc == 6) {
        state = strtoull(argv[4], NULL, 10);
        fuzz(atoi(argv[3]), strcmp(argv[5], "mutate") == 0);
    } else {
        fprintf(stderr, "usage: tls_load echo|flood|idle|fuzz ...\n");
        return 2;
    }
    return 0;
}
