// tls_floor.c - the least that a TLS echo costs: C on libuv and OpenSSL, with memory BIOs.
//
//   tls_floor CERTIFICATE KEY     listens on a port of 127.0.0.1, and says where

#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BUFFER = 65536, RECORD = 16384 };

struct peer {
    uv_tcp_t tcp;
    SSL *ssl;
    BIO *in;
    BIO *out;
};

struct sending {
    uv_write_t request;
    char bytes[];
};

static SSL_CTX *context;
static char buffer[BUFFER];
static char plain[BUFFER];

static void on_closed(uv_handle_t *handle)
{
    struct peer *peer = (struct peer *)handle;
    SSL_free(peer->ssl);
    free(peer);
}

static void close_peer(struct peer *peer)
{
    if (!uv_is_closing((uv_handle_t *)&peer->tcp))
        uv_close((uv_handle_t *)&peer->tcp, on_closed);
}

static void on_sent(uv_write_t *request, int status)
{
    (void)status;
    free(request);
}

// What OpenSSL has written goes out at once, and where the socket takes it all, without a request.
static void flush(struct peer *peer)
{
    char *bytes;
    long length = BIO_get_mem_data(peer->out, &bytes);
    if (length <= 0)
        return;
    uv_buf_t part = uv_buf_init(bytes, (unsigned)length);
    int sent = uv_try_write((uv_stream_t *)&peer->tcp, &part, 1);
    if (sent < 0)
        sent = 0;
    if (sent < length) {
        struct sending *sending = malloc(sizeof *sending + (size_t)(length - sent));
        memcpy(sending->bytes, bytes + sent, (size_t)(length - sent));
        part = uv_buf_init(sending->bytes, (unsigned)(length - sent));
        uv_write(&sending->request, (uv_stream_t *)&peer->tcp, &part, 1, on_sent);
    }
    (void)BIO_reset(peer->out);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *out)
{
    (void)handle;
    (void)size;
    *out = uv_buf_init(buffer, sizeof buffer);
}

static void echo(struct peer *peer)
{
    int n;
    while ((n = SSL_read(peer->ssl, plain, sizeof plain)) > 0)
        SSL_write(peer->ssl, plain, n);
    int why = SSL_get_error(peer->ssl, n);
    flush(peer);
    if (why != SSL_ERROR_WANT_READ)
        close_peer(peer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct peer *peer = (struct peer *)stream;
    if (n < 0) {
        close_peer(peer);
        return;
    }
    BIO_write(peer->in, bytes->base, (int)n);
    if (n > 0)
        echo(peer);
}

static void on_connection(uv_stream_t *server, int status)
{
    if (status < 0)
        return;
    struct peer *peer = calloc(1, sizeof *peer);
    uv_tcp_init(server->loop, &peer->tcp);
    if (uv_accept(server, (uv_stream_t *)&peer->tcp) < 0) {
        uv_close((uv_handle_t *)&peer->tcp, (uv_close_cb)free);
        return;
    }
    uv_tcp_nodelay(&peer->tcp, 1);
    peer->ssl = SSL_new(context);
    peer->in = BIO_new(BIO_s_mem());
    peer->out = BIO_new(BIO_s_mem());
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    SSL_set_accept_state(peer->ssl);
    uv_read_start((uv_stream_t *)&peer->tcp, on_alloc, on_read);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    struct sockaddr_storage bound;
    int size = sizeof bound;
    uv_tcp_t server;
    signal(SIGPIPE, SIG_IGN);
    context = SSL_CTX_new(TLS_server_method());
    if (argc != 3 || SSL_CTX_use_certificate_chain_file(context, argv[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "usage: tls_floor CERTIFICATE KEY\n");
        return 2;
    }
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(uv_default_loop(), &server);
    uv_tcp_bind(&server, (struct sockaddr *)&address, 0);
    uv_listen((uv_stream_t *)&server, 1024, on_connection);
    uv_tcp_getsockname(&server, (struct sockaddr *)&bound, &size);
    printf("listening tls:127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&bound)->sin_port));
    fflush(stdout);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
