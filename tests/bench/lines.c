// lines.c - the floor of the line benchmark: a server of lines as plain C on libuv, with memchr.
// Each connection keeps the beginning of a line; each line goes through a function that sends it
// back with its delimiter; what one read makes leaves in one write.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define BUFFER_SIZE 65536
#define MAX_LENGTH 16384
#define BACKLOG 4096

struct client {
    uv_tcp_t tcp;
    char *part; // the beginning of a line, from malloc; NULL for none
    size_t part_size;
};

// What could not be sent at once; the bytes stand behind the request.
struct rest {
    uv_write_t write;
    char data[];
};

static char input[BUFFER_SIZE];
static char output[2 * BUFFER_SIZE];
static size_t output_size;

static void fail(const char *what, int code)
{
    fprintf(stderr, "lines: %s: %s\n", what, uv_strerror(code));
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
    buf->base = input;
    buf->len = sizeof(input);
}

static void on_closed(uv_handle_t *handle)
{
    struct client *client = (struct client *)handle;

    free(client->part);
    free(client);
}

static void end(struct client *client)
{
    if (!uv_is_closing((uv_handle_t *)&client->tcp)) {
        uv_close((uv_handle_t *)&client->tcp, on_closed);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

static void on_rest_written(uv_write_t *write, int status)
{
    uv_stream_t *stream = write->handle;

    free(write);
    if (status < 0 || uv_read_start(stream, on_alloc, on_read) < 0) {
        end((struct client *)stream);
    }
}

// Queues what the kernel did not take, and reads nothing more until it has.
static void send_later(uv_stream_t *stream, const char *data, size_t size)
{
    struct rest *rest = allocate(sizeof(*rest) + size);
    uv_buf_t buf = uv_buf_init(rest->data, (unsigned)size);

    memcpy(rest->data, data, size);
    uv_read_stop(stream);
    if (uv_write(&rest->write, stream, &buf, 1, on_rest_written) < 0) {
        free(rest);
        end((struct client *)stream);
    }
}

static void flush(struct client *client)
{
    uv_stream_t *stream = (uv_stream_t *)&client->tcp;
    uv_buf_t buf = uv_buf_init(output, (unsigned)output_size);
    int sent = output_size > 0 ? uv_try_write(stream, &buf, 1) : 0;

    if (sent < 0 && sent != UV_EAGAIN) {
        end(client);
        return;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;

    if (done < output_size) {
        send_later(stream, output + done, output_size - done);
    }
}

static void send_line(const char *line, size_t size)
{
    memcpy(output + output_size, line, size);
    memcpy(output + output_size + size, "\r\n", 2);
    output_size += size + 2;
}

// The application: one call for each line.
__attribute__((noinline)) static void line_received(const char *line, size_t size)
{
    send_line(line, size);
}

// The end of a line: the place of its "\r\n", or NULL.
static const char *find_end(const char *from, const char *stop)
{
    const char *at = from;

    while ((at = memchr(at, '\r', (size_t)(stop - at))) && (at + 1 == stop || at[1] != '\n')) {
        at++;
    }
    return at;
}

// Keeps the beginning of a line; false when it is too long.
static int keep(struct client *client, const char *from, size_t size)
{
    if (client->part_size + size > MAX_LENGTH + 1) {
        return 0;
    }
    if (size > 0) {
        client->part = realloc(client->part, client->part_size + size);
        if (!client->part) {
            fail("allocate", UV_ENOMEM);
        }
        memcpy(client->part + client->part_size, from, size);
        client->part_size += size;
    }
    return 1;
}

// A line that began in an earlier read, with as much of this one as ends it; where that is.
static const char *complete(struct client *client, const char *from, const char *stop)
{
    const char *newline = memchr(from, '\n', (size_t)(stop - from));
    size_t size = (size_t)((newline ? newline + 1 : stop) - from);

    if (!keep(client, from, size)) {
        return NULL;
    }
    if (client->part_size >= 2 && memcmp(client->part + client->part_size - 2, "\r\n", 2) == 0) {
        line_received(client->part, client->part_size - 2);
        free(client->part);
        client->part = NULL;
        client->part_size = 0;
    }
    return from + size;
}

static int take(struct client *client, const char *from, const char *stop)
{
    while (client->part_size > 0 && from && from < stop) {
        from = complete(client, from, stop);
    }
    if (!from) {
        return 0;
    }
    for (const char *at = find_end(from, stop); at; at = find_end(from, stop)) {
        if (at - from > MAX_LENGTH) {
            return 0;
        }
        line_received(from, (size_t)(at - from));
        from = at + 2;
    }
    return keep(client, from, (size_t)(stop - from));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct client *client = (struct client *)stream;

    output_size = 0;
    if (got < 0 || (got > 0 && !take(client, buf->base, buf->base + got))) {
        end(client);
        return;
    }
    flush(client);
}

static void on_client(uv_stream_t *server, int status)
{
    struct client *client = status < 0 ? NULL : allocate(sizeof(*client));

    if (!client) {
        return;
    }
    client->part = NULL;
    client->part_size = 0;
    uv_tcp_init(server->loop, &client->tcp);
    if (uv_accept(server, (uv_stream_t *)&client->tcp) < 0 ||
        uv_read_start((uv_stream_t *)&client->tcp, on_alloc, on_read) < 0) {
        end(client);
    }
}

// On Linux accepted sockets inherit TCP_NODELAY from the listening one.
static void listen_on_loopback(uv_tcp_t *server)
{
    struct sockaddr_in address;
    int size = sizeof(address);
    int code = uv_ip4_addr("127.0.0.1", 0, &address);

    code = code < 0 ? code : uv_tcp_bind(server, (const struct sockaddr *)&address, 0);
    code = code < 0 ? code : uv_tcp_nodelay(server, 1);
    code = code < 0 ? code : uv_listen((uv_stream_t *)server, BACKLOG, on_client);
    code = code < 0 ? code : uv_tcp_getsockname(server, (struct sockaddr *)&address, &size);
    if (code < 0) {
        fail("listen", code);
    }
    printf("listening tcp:127.0.0.1:%d lines\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void on_term(uv_signal_t *handle, int number)
{
    (void)number;
    uv_stop(handle->loop);
}

int main(void)
{
    uv_loop_t *loop = uv_default_loop();
    uv_signal_t term;
    uv_tcp_t server;

    signal(SIGPIPE, SIG_IGN);
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_tcp_init(loop, &server);
    listen_on_loopback(&server);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
