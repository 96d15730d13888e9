// udp_floor.c - the floor of the UDP benchmarks: an echo as plain C on libuv, with no script.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define DATAGRAM 65536 // what libuv wants for each datagram
#define BATCH 20       // that libuv takes in one call, where it is asked to

static char buffer[BATCH * DATAGRAM];
static size_t buffer_size = DATAGRAM;

static void fail(const char *what, int code)
{
    fprintf(stderr, "udp_floor: %s: %s\n", what, uv_strerror(code));
    exit(1);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    buf->base = buffer;
    buf->len = buffer_size;
}

static void on_datagram(uv_udp_t *port, ssize_t got, const uv_buf_t *buf,
                        const struct sockaddr *from, unsigned flags)
{
    uv_buf_t answer = uv_buf_init(buf->base, got > 0 ? (unsigned)got : 0);

    (void)flags;
    if (got < 0) {
        fail("receive", (int)got);
    }
    if (from) {
        uv_udp_try_send(port, &answer, 1, from);
    }
}

static void on_term(uv_signal_t *handle, int number)
{
    (void)number;
    uv_stop(handle->loop);
}

static void bind_to_loopback(uv_udp_t *port)
{
    struct sockaddr_in address;
    int size = sizeof(address);
    int code = uv_ip4_addr("127.0.0.1", 0, &address);

    code = code < 0 ? code : uv_udp_bind(port, (const struct sockaddr *)&address, 0);
    code = code < 0 ? code : uv_udp_recv_start(port, on_alloc, on_datagram);
    code = code < 0 ? code : uv_udp_getsockname(port, (struct sockaddr *)&address, &size);
    if (code < 0) {
        fail("bind", code);
    }
    printf("listening udp:127.0.0.1:%d floor\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    int batches = argc == 2 && strcmp(argv[1], "batches") == 0;
    uv_signal_t term;
    uv_udp_t port;

    if (argc > 1 && !batches) {
        fprintf(stderr, "usage: udp_floor [batches]\n");
        return 2;
    }
    buffer_size = batches ? sizeof(buffer) : DATAGRAM;
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_udp_init_ex(loop, &port, batches ? UV_UDP_RECVMMSG : 0);
    bind_to_loopback(&port);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
