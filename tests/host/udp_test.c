/* UDP ports where the kernel takes nothing, which loopback does not let happen. */
#include "io/udp.h"

#include "base/log.h"

#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- a kernel that can be made to refuse ----------------------------------------------------- */

static int refusal;   /* a positive errno that sending fails with, 0: none */
static int refusals;  /* how often, -1: always */
static int calls_one; /* sendto */
static int calls_many;

static int refuses(void)
{
    if (refusal == 0 || refusals == 0)
        return 0;
    refusals -= refusals > 0;
    errno = refusal;
    return 1;
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to,
               socklen_t size)
{
    calls_one++;
    return refuses() ? -1 : (ssize_t)syscall(SYS_sendto, fd, data, length, flags, to, size);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    calls_many++;
    return refuses() ? -1 : (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

/* --- a loop without Lua ---------------------------------------------------------------------- */

struct seen {
    struct loop *loop;
    int datagrams, wanted, refused, unbound;
    size_t bytes;
    bool ordered; /* the first is empty, each is longer by one */
};

static void on_datagram(void *context, struct udp *udp, const struct datagram *datagram)
{
    struct seen *seen = context;
    (void)udp;
    seen->bytes += datagram->length;
    seen->ordered = seen->ordered && datagram->length == (size_t)seen->datagrams;
    if (++seen->datagrams == seen->wanted)
        loop_stop(seen->loop);
}

static void on_refused(void *context, struct udp *udp)
{
    struct seen *seen = context;
    (void)udp;
    seen->refused++;
}

static void on_unbound(void *context, uint64_t handle)
{
    struct seen *seen = context;
    (void)handle;
    seen->unbound++;
}

static void on_settled(void *context)
{
    (void)context;
}

static const struct loop_events events = {
    .datagram = on_datagram,
    .refused = on_refused,
    .unbound = on_unbound,
    .settled = on_settled,
};

static const struct log quiet = {.level = LOG_ERROR + 1};

static struct udp *port_new(struct seen *seen, struct address *host)
{
    struct address any;
    uint64_t handle = 0;
    address_parse(&any, "127.0.0.1", 0);
    CHECK(udp_open(seen->loop, &any, false, &handle) == 0);
    struct udp *udp = udp_find(seen->loop, handle);
    CHECK(udp_host(udp, host) == 0 && host->port != 0);
    return udp;
}

static void begin(struct seen *seen)
{
    *seen = (struct seen){.ordered = true};
    seen->loop = loop_new(&quiet, &events, seen);
    refusal = refusals = calls_one = calls_many = 0;
}

static void end(struct seen *seen)
{
    CHECK(loop_close(seen->loop) == 0);
    loop_free(seen->loop);
}

/* --- the tests ------------------------------------------------------------------------------- */

static void test_bound(void)
{
    struct seen seen;
    struct address to;
    static char data[10000];
    int error = 0, count = 0;
    begin(&seen);
    struct udp *from = port_new(&seen, &to), *port = port_new(&seen, &to);
    refusal = EAGAIN;
    refusals = -1;
    while (error == 0 && count < 1000) {
        error = udp_write(from, &to, data, sizeof data);
        count += error == 0;
    }
    CHECK(error == -ENOBUFS);
    CHECK(count > 90 && count <= (1 << 20) / (int)sizeof data);
    CHECK(udp_write(from, &to, data, 10) == 0);
    for (error = 0, count = 0; error == 0 && count < 100000; count += error == 0)
        error = udp_write(from, &to, NULL, 0);
    CHECK(error == -ENOBUFS);
    udp_receive(port);
    end(&seen);
}

static void test_goes_on(void)
{
    struct seen seen;
    struct address to;
    static char data[1000];
    begin(&seen);
    struct udp *from = port_new(&seen, &to), *port = port_new(&seen, &to);
    udp_receive(port);
    refusal = EAGAIN;
    refusals = 3;
    for (int i = 0; i < 50; i++)
        CHECK(udp_write(from, &to, data, (size_t)i) == 0);
    seen.wanted = 50;
    loop_settle(seen.loop);
    loop_run(seen.loop);
    CHECK(seen.datagrams == 50 && seen.bytes == 49 * 50 / 2 && seen.ordered);
    CHECK(calls_many == 4 && calls_one == 0);
    end(&seen);
}

static void test_close_waits(void)
{
    struct seen seen;
    struct address to;
    begin(&seen);
    struct udp *from = port_new(&seen, &to), *port = port_new(&seen, &to);
    uint64_t handle = udp_handle(from);
    udp_receive(port);
    refusal = EAGAIN;
    refusals = 3;
    CHECK(udp_write(from, &to, "last", 4) == 0);
    udp_close(from);
    loop_settle(seen.loop);
    CHECK(seen.unbound == 0 && udp_find(seen.loop, handle) == from);
    CHECK(udp_write(from, &to, "late", 4) == -EPIPE);
    seen.wanted = 1;
    loop_run(seen.loop);
    CHECK(seen.datagrams == 1 && seen.bytes == 4);
    CHECK(seen.unbound == 1 && udp_find(seen.loop, handle) == NULL);
    end(&seen);
}

static void stop(void *context)
{
    struct seen *seen = context;
    loop_stop(seen->loop);
}

static void test_grace(void)
{
    struct seen seen;
    struct address to;
    begin(&seen);
    struct udp *from = port_new(&seen, &to);
    refusal = EAGAIN;
    refusals = -1;
    CHECK(udp_write(from, &to, "never", 5) == 0);
    loop_drain(seen.loop, 0.01, stop);
    loop_run(seen.loop);
    CHECK(seen.unbound == 1);
    end(&seen);
}

static void test_one_fails(void)
{
    struct seen seen;
    struct address to;
    begin(&seen);
    struct udp *from = port_new(&seen, &to), *port = port_new(&seen, &to);
    udp_receive(port);
    refusal = ENETUNREACH;
    refusals = 2;
    for (int i = 0; i < 5; i++)
        CHECK(udp_write(from, &to, "x", 1) == 0);
    seen.wanted = 3;
    loop_settle(seen.loop);
    loop_run(seen.loop);
    CHECK(seen.datagrams == 3 && seen.unbound == 0);
    end(&seen);
}

static void test_refused_again(void)
{
    struct seen seen;
    struct address to;
    begin(&seen);
    struct udp *from = port_new(&seen, &to), *port = port_new(&seen, &to);
    udp_receive(port);
    udp_receive(from);
    CHECK(udp_connect(from, &to) == 0);
    refusal = ECONNREFUSED;
    refusals = 1;
    CHECK(udp_write(from, NULL, "x", 1) == 0);
    seen.wanted = 1;
    loop_settle(seen.loop);
    CHECK(seen.refused == 1);
    loop_run(seen.loop);
    CHECK(seen.datagrams == 1); /* the refusal was about another one */
    end(&seen);
}

static void test_full_batches(void)
{
    struct seen seen;
    struct address to;
    begin(&seen);
    struct udp *from = port_new(&seen, &to);
    port_new(&seen, &to);
    for (int i = 0; i < 130; i++)
        CHECK(udp_write(from, &to, "x", 1) == 0);
    CHECK(calls_many == 2);
    loop_settle(seen.loop);
    CHECK(calls_many == 3 && calls_one == 0);
    end(&seen);
}

int main(void)
{
    static const struct test tests[] = {
        {"what waits for the kernel is bounded, by bytes and by number", test_bound},
        {"what the kernel does not take goes out when it does, whole and in order", test_goes_on},
        {"a port that closes sends what waits first", test_close_waits},
        {"a port is not waited for longer than the grace of a stop", test_grace},
        {"a datagram that fails is dropped, and the others are sent", test_one_fails},
        {"a refusal is told, and the datagram that met it is sent again", test_refused_again},
        {"many datagrams leave in few calls", test_full_batches},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
