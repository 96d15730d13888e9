// floor.c - the floor of the benchmarks: the same services as plain C on libuv, with no script.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#define BUFFER_SIZE 65536
#define BACKLOG 4096

// What an echo could not send at once; the bytes stand behind the request.
struct rest {
    uv_write_t write;
    char data[];
};

// A connection of the poetry server. An echo connection is a bare uv_tcp_t.
struct reader {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
};

static char buffer[BUFFER_SIZE];
static char *poem;
static size_t poem_size;

static void fail(const char *what, int code)
{
    fprintf(stderr, "floor: %s: %s\n", what, uv_strerror(code));
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
    free(handle);
}

static void end(uv_stream_t *stream)
{
    if (!uv_is_closing((uv_handle_t *)stream)) {
        uv_close((uv_handle_t *)stream, on_closed);
    }
}

static void on_echo_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

static void on_rest_written(uv_write_t *write, int status)
{
    uv_stream_t *stream = write->handle;

    free(write);
    if (status < 0 || uv_read_start(stream, on_alloc, on_echo_read) < 0) {
        end(stream);
    }
}

// Queues what the kernel did not take, and reads nothing more until it has.
static void echo_later(uv_stream_t *stream, const char *data, size_t size)
{
    struct rest *rest = allocate(sizeof(*rest) + size);
    uv_buf_t buf = uv_buf_init(rest->data, (unsigned)size);

    memcpy(rest->data, data, size);
    uv_read_stop(stream);
    if (uv_write(&rest->write, stream, &buf, 1, on_rest_written) < 0) {
        free(rest);
        end(stream);
    }
}

static void on_echo_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    if (got < 0) {
        end(stream);
        return;
    }
    if (got == 0) {
        return;
    }
    uv_buf_t out = uv_buf_init(buf->base, (unsigned)got);
    int sent = uv_try_write(stream, &out, 1);

    if (sent < 0 && sent != UV_EAGAIN) {
        end(stream);
        return;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;

    if (done < (size_t)got) {
        echo_later(stream, buf->base + done, (size_t)got - done);
    }
}

static void on_echo_client(uv_stream_t *server, int status)
{
    uv_tcp_t *client = status < 0 ? NULL : allocate(sizeof(*client));

    if (!client) {
        return;
    }
    uv_tcp_init(server->loop, client);
    if (uv_accept(server, (uv_stream_t *)client) < 0 ||
        uv_read_start((uv_stream_t *)client, on_alloc, on_echo_read) < 0) {
        end((uv_stream_t *)client);
    }
}

static void on_reader_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    (void)buf;
    if (got < 0) {
        end(stream);
    }
}

static void on_shutdown(uv_shutdown_t *shutdown, int status)
{
    if (status < 0) {
        end(shutdown->handle);
    }
}

// The close that destroys nothing: FIN behind the poem, then read to the peer's end.
static void finish(struct reader *reader)
{
    uv_stream_t *stream = (uv_stream_t *)&reader->tcp;

    if (uv_shutdown(&reader->shutdown, stream, on_shutdown) < 0 ||
        uv_read_start(stream, on_alloc, on_reader_read) < 0) {
        end(stream);
    }
}

static void on_poem_written(uv_write_t *write, int status)
{
    if (status < 0) {
        end(write->handle);
    }
}

static void on_poem_written_close(uv_write_t *write, int status)
{
    (void)status;
    end(write->handle);
}

// Sends the poem; 1 when all of it went at once, 0 when the rest is queued, below 0 an error.
static int send_poem(struct reader *reader, uv_write_cb written)
{
    uv_stream_t *stream = (uv_stream_t *)&reader->tcp;
    uv_buf_t buf = uv_buf_init(poem, (unsigned)poem_size);
    int sent = uv_try_write(stream, &buf, 1);

    if (sent < 0 && sent != UV_EAGAIN) {
        return sent;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;

    if (done == poem_size) {
        return 1;
    }
    buf = uv_buf_init(poem + done, (unsigned)(poem_size - done));
    return uv_write(&reader->write, stream, &buf, 1, written);
}

static struct reader *accept_reader(uv_stream_t *server, int status)
{
    if (status < 0) {
        return NULL;
    }
    struct reader *reader = allocate(sizeof(*reader));

    uv_tcp_init(server->loop, &reader->tcp);
    if (uv_accept(server, (uv_stream_t *)&reader->tcp) < 0) {
        end((uv_stream_t *)&reader->tcp);
        return NULL;
    }
    return reader;
}

static void on_poetry_client(uv_stream_t *server, int status)
{
    struct reader *reader = accept_reader(server, status);

    if (!reader) {
        return;
    }
    if (send_poem(reader, on_poem_written) < 0) {
        end((uv_stream_t *)&reader->tcp);
        return;
    }
    finish(reader);
}

static void on_poetry_client_at_once(uv_stream_t *server, int status)
{
    struct reader *reader = accept_reader(server, status);

    if (reader && send_poem(reader, on_poem_written_close) != 0) {
        end((uv_stream_t *)&reader->tcp);
    }
}

static void load_poem(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (!file || fseek(file, 0, SEEK_END) != 0) {
        fprintf(stderr, "floor: cannot read %s\n", path);
        exit(1);
    }
    long size = ftell(file);

    rewind(file);
    poem_size = size > 0 ? (size_t)size : 0;
    poem = allocate(poem_size + 1);
    if (fread(poem, 1, poem_size, file) != poem_size) {
        fprintf(stderr, "floor: cannot read %s\n", path);
        exit(1);
    }
    fclose(file);
}

static uv_connection_cb choose(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "echo") == 0) {
        return on_echo_client;
    }
    if (argc == 3 && strcmp(argv[1], "poetry") == 0) {
        load_poem(argv[2]);
        return on_poetry_client;
    }
    if (argc == 3 && strcmp(argv[1], "poetry-atonce") == 0) {
        load_poem(argv[2]);
        return on_poetry_client_at_once;
    }
    fprintf(stderr, "usage: floor echo | poetry FILE | poetry-atonce FILE\n");
    exit(2);
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
static void listen_on_loopback(uv_tcp_t *server, uv_connection_cb on_client)
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
    printf("listening tcp:127.0.0.1:%d floor\n", ntohs(address.sin_port));
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
    uv_connection_cb on_client = choose(argc, argv);
    uv_signal_t term;
    uv_tcp_t server;

    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_tcp_init(loop, &server);
    listen_on_loopback(&server, on_client);
    uv_run(loop, UV_RUN_DEFAULT);
    free(poem);
    return 0;
}
