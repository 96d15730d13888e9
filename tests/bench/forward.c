// forward.c - the floor of the forwarding benchmark: a TCP forwarder in plain C on libuv.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#define BUFFER_SIZE 65536
#define BACKLOG 4096

// What a side could not send at once; the bytes stand behind the request.
struct rest {
    uv_write_t write;
    char data[];
};

// One socket of a connection that is forwarded.
struct side {
    uv_tcp_t tcp;
    uv_shutdown_t shutdown;
    struct pair *pair;
    struct side *other;
    bool finished; // its peer has been told that nothing more comes
};

// Goes with the second of its sockets.
struct pair {
    struct side client;
    struct side server;
    uv_connect_t connect;
    int open;
};

static char buffer[BUFFER_SIZE];
static struct sockaddr_in upstream;

static void fail(const char *what, int code)
{
    fprintf(stderr, "forward: %s: %s\n", what, uv_strerror(code));
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);

    if (!memory) {
        fail("allocate", UV_ENOMEM);
    }
    return memory;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    buf->base = buffer;
    buf->len = sizeof(buffer);
}

static void on_closed(uv_handle_t *handle)
{
    struct side *side = handle->data;

    if (--side->pair->open == 0) {
        free(side->pair);
    }
}

static void end(struct pair *pair)
{
    if (!uv_is_closing((uv_handle_t *)&pair->client.tcp)) {
        uv_close((uv_handle_t *)&pair->client.tcp, on_closed);
        uv_close((uv_handle_t *)&pair->server.tcp, on_closed);
    }
}

static void on_shutdown(uv_shutdown_t *shutdown, int status)
{
    struct side *side = shutdown->handle->data;

    side->finished = true;
    if (status < 0 || side->other->finished) {
        end(side->pair);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

static void on_rest_written(uv_write_t *write, int status)
{
    struct side *side = write->handle->data;

    free(write);
    if (status < 0 || uv_read_start((uv_stream_t *)&side->other->tcp, on_alloc, on_read) < 0) {
        end(side->pair);
    }
}

// Queues what the kernel did not take; the other side is not read until it has.
static void send_later(struct side *side, const char *data, size_t size)
{
    struct rest *rest = allocate(sizeof(*rest) + size);
    uv_buf_t buf = uv_buf_init(rest->data, (unsigned)size);

    memcpy(rest->data, data, size);
    uv_read_stop((uv_stream_t *)&side->other->tcp);
    if (uv_write(&rest->write, (uv_stream_t *)&side->tcp, &buf, 1, on_rest_written) < 0) {
        free(rest);
        end(side->pair);
    }
}

static void pass(struct side *side, const char *data, size_t size)
{
    uv_buf_t buf = uv_buf_init((char *)data, (unsigned)size);
    int sent = uv_try_write((uv_stream_t *)&side->tcp, &buf, 1);

    if (sent < 0 && sent != UV_EAGAIN) {
        end(side->pair);
        return;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;

    if (done < size) {
        send_later(side, data + done, size - done);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct side *side = stream->data;
    struct side *other = side->other;

    if (got > 0) {
        pass(other, buf->base, (size_t)got);
    } else if (got < 0 &&
               (got != UV_EOF ||
                uv_shutdown(&other->shutdown, (uv_stream_t *)&other->tcp, on_shutdown) < 0)) {
        end(side->pair);
    }
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct side *server = connect->handle->data;
    struct pair *pair = server->pair;

    if (uv_is_closing((uv_handle_t *)&server->tcp)) {
        return;
    }
    if (status < 0 || uv_read_start((uv_stream_t *)&pair->client.tcp, on_alloc, on_read) < 0 ||
        uv_read_start((uv_stream_t *)&pair->server.tcp, on_alloc, on_read) < 0) {
        end(pair);
    }
}

static void side_init(uv_loop_t *loop, struct pair *pair, struct side *side, struct side *other)
{
    uv_tcp_init(loop, &side->tcp);
    side->tcp.data = side;
    side->pair = pair;
    side->other = other;
    side->finished = false;
    pair->open++;
}

static void on_client(uv_stream_t *listener, int status)
{
    if (status < 0) {
        return;
    }
    struct pair *pair = allocate(sizeof(*pair));

    pair->open = 0;
    side_init(listener->loop, pair, &pair->client, &pair->server);
    side_init(listener->loop, pair, &pair->server, &pair->client);
    if (uv_accept(listener, (uv_stream_t *)&pair->client.tcp) < 0 ||
        uv_tcp_connect(&pair->connect, &pair->server.tcp, (const struct sockaddr *)&upstream,
                       on_connected) < 0) {
        end(pair);
        return;
    }
    uv_tcp_nodelay(&pair->server.tcp, 1);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

// On Linux accepted sockets inherit TCP_NODELAY from the listening one.
static void listen_on_loopback(uv_tcp_t *listener)
{
    struct sockaddr_in address;
    int size = sizeof(address);
    int code = uv_ip4_addr("127.0.0.1", 0, &address);

    code = code < 0 ? code : uv_tcp_bind(listener, (const struct sockaddr *)&address, 0);
    code = code < 0 ? code : uv_tcp_nodelay(listener, 1);
    code = code < 0 ? code : uv_listen((uv_stream_t *)listener, BACKLOG, on_client);
    code = code < 0 ? code : uv_tcp_getsockname(listener, (struct sockaddr *)&address, &size);
    if (code < 0) {
        fail("listen", code);
    }
    printf("listening tcp:127.0.0.1:%d forward\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void on_term(uv_signal_t *handle, int number)
{
    (void)number;
    uv_stop(handle->loop);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    int port = argc == 2 ? atoi(argv[1]) : 0;
    uv_signal_t term;
    uv_tcp_t listener;

    if (port <= 0 || uv_ip4_addr("127.0.0.1", port, &upstream) < 0) {
        fprintf(stderr, "usage: forward PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_tcp_init(loop, &listener);
    listen_on_loopback(&listener);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
