/* TLS sessions until they are open: who may take a step, what it takes, what comes of it. */
#include "io/tls_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SLICE_NS = 500000, /* of first steps of handshakes in one turn of the loop, one at least; the
                          others may take as long again */
};

/* No more than a slice of each turn goes into handshakes, so that a flood of them delays nobody
 * much; who is skipped is told of by the kernel again. */
bool tls_has_time(const struct tls *tls)
{
    struct loop *loop = connection_loop(tls->connection);
    struct tls_library *shared = loop->tls;
    if (shared->turn != uv_now(&loop->uv)) {
        shared->turn = uv_now(&loop->uv);
        shared->spent = 0;
    }
    return shared->spent < (uint64_t)SLICE_NS * (tls->ssl ? 2 : 1);
}

/* The peer's certificate is to have the name among its names (RFC 9525): what its subject is called
 * says nothing. False: nobody would look at it. */
static bool expect_name(struct tls *tls)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    X509_VERIFY_PARAM *parameters = openssl->SSL_get0_param(tls->ssl);
    if (openssl->X509_VERIFY_PARAM_set1_ip_asc(parameters, tls->name) == 1)
        return true;
    openssl->SSL_set_hostflags(tls->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                             X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    openssl->SSL_ctrl(tls->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, tls->name);
    return openssl->SSL_set1_host(tls->ssl, tls->name) == 1;
}

static BIO *socket_bio(struct tls *tls)
{
    struct connection *connection = tls->connection;
    int fd = connection->duplex ? duplex_own_input(connection) : connection->fd;
    return tls_openssl(connection)->BIO_new_socket(fd, BIO_NOCLOSE);
}

/* What came already is read first; at its end it says that more is to come. */
static BIO *early_bio(struct tls *tls)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    BIO *bio = openssl->BIO_new_mem_buf(tls->early, (int)tls->early_length);
    if (bio)
        openssl->BIO_ctrl(bio, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, NULL);
    return bio;
}

/* What came already is read: the first step of a handshake takes all that there is. */
static int leave_early(struct tls *tls)
{
    BIO *in = tls->early ? socket_bio(tls) : NULL;
    if (tls->early && in == NULL)
        return -ENOMEM;
    if (in)
        tls_openssl(tls->connection)->SSL_set0_rbio(tls->ssl, in);
    free(tls->early);
    tls->early = NULL;
    return 0;
}

static bool open_session(struct tls *tls)
{
    struct tls_library *shared = tls_library_of(tls->connection);
    const struct openssl *openssl = &shared->openssl;
    tls->ssl = openssl->SSL_new(tls->context->variants[0]);
    bool known = tls->ssl && openssl->SSL_set_ex_data(tls->ssl, 0, tls) == 1;
    BIO *in = !known ? NULL : tls->early ? early_bio(tls) : socket_bio(tls);
    if (in == NULL)
        return false;
    openssl->BIO_up_ref(shared->out);
    openssl->SSL_set_bio(tls->ssl, in, shared->out);
    if (tls->context->server)
        openssl->SSL_set_accept_state(tls->ssl);
    else
        openssl->SSL_set_connect_state(tls->ssl);
    if (tls->name && !expect_name(tls))
        return false;
    if (tls->peer)
        tls_offer_session(tls);
    return true;
}

/* The handshake is over, one way or the other. */
void tls_leave_handshakes(struct tls *tls)
{
    loop_timer_stop(connection_loop(tls->connection), &tls->timer);
    tls->timer.fire = tls_on_unread;
    tls_leave_place(tls);
}

static void opened(struct tls *tls)
{
    struct connection *connection = tls->connection;
    tls_leave_handshakes(tls);
    tls->state = OPEN;
    tls->opened = true;
    if (tls->peer && !connection_session_reused(connection))
        tls->verified = loop_now(connection_loop(connection));
    tls->unread = tls_openssl(connection)->SSL_has_pending(tls->ssl);
    if (tls->pending_length == 0)
        connection->flags &= ~(uint32_t)C_FULL;
    connection_dirty(connection);
}

static int shake_session(struct tls *tls)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    tls_prepare(openssl);
    int result = openssl->SSL_do_handshake(tls->ssl);
    int why = result == 1 ? 0 : tls_classify(tls, result);
    int error = tls_push(tls);
    if (error == 0)
        error = leave_early(tls);
    if (result == 1 && error == 0)
        return 0;
    return why != 0 && why != -EAGAIN ? why : error < 0 ? error : -EAGAIN;
}

/* One step. Ends the connection where it fails. */
void tls_shake(struct tls *tls)
{
    struct connection *connection = tls->connection;
    struct loop *loop = connection_loop(connection);
    uint64_t before = loop_now(loop);
    int error = -EAGAIN;
    tls->state = SHAKING;
    if (tls->ssl || open_session(tls))
        error = shake_session(tls);
    else
        error = -ENOMEM;
    connection->active = connection_clock(connection);
    loop->tls->spent += loop_now(loop) - before;
    if (error == 0) {
        opened(tls);
    } else if (error != -EAGAIN) {
        tls->state = FAILED;
        tls_leave_handshakes(tls);
        connection_break(connection, -error);
    }
}

void tls_expire(struct tls *tls, double seconds, const char *why)
{
    char text[96];
    snprintf(text, sizeof text, "no TLS handshake within %g s%s", seconds, why);
    tls_note(tls, "", text);
    tls->state = FAILED;
    tls_leave_handshakes(tls);
    connection_end(tls->connection, C_DROPPING, END_TIMEOUT, BY_HOST, ETIMEDOUT);
}

void tls_on_limit(struct timer *timer)
{
    struct tls *tls = container_of(timer, struct tls, timer);
    tls_expire(tls, tls->context->timeout_ms / 1000.0, "");
}

void tls_step(struct tls *tls)
{
    struct connection *connection = tls->connection;
    struct loop *loop = connection_loop(connection);
    tls_shake(tls);
    if (tls->state != OPEN)
        return;
    connection_tell_news(connection);
    loop->events->secured(loop->context, connection);
}

void tls_on_poll(struct connection *connection, int events)
{
    struct tls *tls = connection->tls;
    if (events & UV_WRITABLE && tls_wants_output(connection)) {
        connection->flags &= ~(uint32_t)C_FULL;
        connection_flush(connection);
        connection_dirty(connection);
    }
    if (tls->state != SHAKING || !(events & UV_READABLE) ||
        connection->flags & (C_DROPPING | C_RESET | C_BROKEN))
        return;
    if (tls_has_time(tls) && tls_take_place(tls))
        tls_step(tls);
}
