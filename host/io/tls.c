/* TLS sessions: a carrier around the one of the socket. OpenSSL reads the socket by itself; what it
 * writes comes out of a buffer that all sessions of a loop share, and is sent in one call. What the
 * kernel does not take of it is kept by the session, and nothing more is encrypted before that is
 * gone: until then its plaintext counts as not sent, and stays in the connection's queue. */
#include "io/tls_inside.h"

#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PLAIN_PARTS = 64,       /* of the queue that go at once as they are */
    MOST_AT_ONCE = 1 << 20, /* bytes encrypted in one call, so that a fast reader starves nobody */
    MOST_PENDING = 1 << 20, /* of ciphertext that nobody takes: answers to its questions pile up */
};

bool tls_is_shaking(const struct connection *connection)
{
    return connection->tls && connection->tls->state < OPEN;
}

bool tls_has_unsent(const struct connection *connection)
{
    return connection->tls && connection->tls->pending_length > 0;
}

bool tls_wants_input(const struct connection *connection)
{
    return connection->tls->state == SHAKING && !tls_is_held(connection->tls);
}

bool tls_wants_output(const struct connection *connection)
{
    return connection->tls->plain > 0 || connection->tls->pending_length > 0;
}

bool tls_saw_end(const struct connection *connection)
{
    return connection->tls && connection->tls->eof;
}

/* Before each call that may fail: what an earlier one has left would be taken for its error. */
void tls_prepare(const struct openssl *openssl)
{
    if (openssl->ERR_peek_error() != 0)
        openssl->ERR_clear_error();
    errno = 0;
}

/* What was queued before the session began is less by what will not be sent. */
void tls_dropped(struct connection *connection, size_t length)
{
    struct tls *tls = connection->tls;
    if (tls && tls->plain > 0)
        tls->plain -= length < tls->plain ? length : tls->plain;
    connection_dirty(connection);
}

/* --- ciphertext ----------------------------------------------------------------------------- */

static int keep(struct tls *tls, const char *bytes, size_t length)
{
    if (length == 0)
        return 0;
    if (tls->pending_length + length > MOST_PENDING)
        return -ENOBUFS;
    tls->pending = memory_grow(tls->pending, tls->pending_length + length, 1);
    memcpy(tls->pending + tls->pending_length, bytes, length);
    tls->pending_length += length;
    tls->connection->flags |= C_FULL;
    connection_dirty(tls->connection);
    return 0;
}

/* How many of them the kernel takes. */
static ssize_t send_some(struct tls *tls, const char *bytes, size_t length)
{
    struct iovec part = {(void *)bytes, length};
    ssize_t n = tls->under->write(tls->connection, &part, 1);
    return n == -EAGAIN ? 0 : n;
}

/* Sends what OpenSSL has just written. 0 or -errno; what the kernel does not take is pending. Each
 * time all of the buffer is taken, so that it never wraps around. */
int tls_push(struct tls *tls)
{
    struct tls_library *shared = tls_library_of(tls->connection);
    uint64_t written = shared->openssl.BIO_number_written(shared->out);
    char *bytes;
    if (written == shared->written)
        return 0;
    shared->written = written;
    int length = shared->openssl.BIO_nread(shared->drain, &bytes, TLS_OUT);
    if (length <= 0)
        return 0;
    ssize_t sent = 0;
    if (tls->pending_length == 0)
        sent = send_some(tls, bytes, (size_t)length);
    return sent < 0 ? (int)sent : keep(tls, bytes + sent, (size_t)(length - sent));
}

/* 0 where nothing is pending any more, -EAGAIN where something is, or -errno. */
static int send_pending(struct tls *tls)
{
    if (tls->pending_length == 0)
        return 0;
    if (tls->connection->flags & C_FULL)
        return -EAGAIN;
    ssize_t sent = send_some(tls, tls->pending, tls->pending_length);
    if (sent < 0)
        return (int)sent;
    tls->pending_length -= (size_t)sent;
    if (tls->pending_length > 0) {
        memmove(tls->pending, tls->pending + sent, tls->pending_length);
        tls->connection->flags |= C_FULL;
        return -EAGAIN;
    }
    free(tls->pending);
    tls->pending = NULL;
    return 0;
}

/* --- what went wrong ------------------------------------------------------------------------ */

void tls_note(struct tls *tls, const char *prefix, const char *text)
{
    char problem[256];
    if (tls->problem)
        return;
    snprintf(problem, sizeof problem, "%s%s", prefix, text);
    tls->problem = strdup(problem);
}

static void note_failure(struct tls *tls)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    unsigned long error = openssl->ERR_peek_error();
    const char *text = openssl->ERR_reason_error_string(error);
    if (ERR_GET_REASON(error) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        tls_note(tls, "the certificate is not accepted: ",
                 openssl->X509_verify_cert_error_string(openssl->SSL_get_verify_result(tls->ssl)));
    else if (ERR_GET_REASON(error) == SSL_R_WRONG_VERSION_NUMBER)
        tls_note(tls, "TLS: ", "what the peer sends is no TLS");
    else
        tls_note(tls, "TLS: ", text ? text : "the session failed");
}

/* Why a call of OpenSSL's gave no result: -EAGAIN, 0 at a clean end, else -errno, and the session
 * is over. Comes right after that call. */
int tls_classify(struct tls *tls, int result)
{
    int error = errno;
    const struct openssl *openssl = tls_openssl(tls->connection);
    int what = openssl->SSL_get_error(tls->ssl, result);
    if (what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    if (what == SSL_ERROR_ZERO_RETURN && tls->state == OPEN)
        return 0;
    bool shaking = tls->state < OPEN;
    tls->state = FAILED;
    if (what == SSL_ERROR_SYSCALL && error != 0)
        return -error;
    tls->eof = what == SSL_ERROR_ZERO_RETURN || what == SSL_ERROR_SYSCALL ||
               ERR_GET_REASON(openssl->ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (tls->eof)
        tls_note(tls, "",
                 shaking ? "the peer closed during the TLS handshake"
                         : "truncated: the peer closed without close_notify");
    else
        note_failure(tls);
    return -EPROTO;
}

/* --- bytes ---------------------------------------------------------------------------------- */

/* What was taken out of OpenSSL's hands late is told of when somebody wants it again. */
void tls_watch(struct connection *connection, bool wanted)
{
    struct tls *tls = connection->tls;
    struct loop *loop = connection_loop(connection);
    if (tls->state == OPEN || tls->state == FAILED) {
        if (wanted && tls->unread && !timer_pending(&tls->timer))
            loop_timer_start(loop, &tls->timer, loop_now(loop));
    }
}

void tls_on_unread(struct timer *timer)
{
    struct tls *tls = container_of(timer, struct tls, timer);
    if (tls->unread)
        connection_read_now(tls->connection);
}

/* As many records as there are; the end of the session is told at the next call. */
static ssize_t tls_read(struct connection *connection, char *buffer, size_t size)
{
    struct tls *tls = connection->tls;
    const struct openssl *openssl = tls_openssl(connection);
    size_t total = 0, n;
    tls->unread = false;
    if (tls->ended)
        return tls->outcome;
    if (tls->state != OPEN)
        return -EAGAIN;
    do {
        tls_prepare(openssl);
        int result = openssl->SSL_read_ex(tls->ssl, buffer + total, size - total, &n);
        if (result != 1) {
            tls->outcome = tls_classify(tls, result);
            tls->ended = tls->outcome != -EAGAIN;
            break;
        }
        total += n;
    } while (total < size && openssl->SSL_has_pending(tls->ssl));
    int error = tls_push(tls);
    if (error < 0 && !tls->ended) {
        tls->ended = true;
        tls->outcome = error;
    }
    if (total == 0)
        return tls->outcome;
    tls->unread = tls->ended || (total == size && openssl->SSL_has_pending(tls->ssl));
    if (tls->unread)
        connection_dirty(connection);
    return (ssize_t)total;
}

/* Where in a list of parts. */
struct cursor {
    const struct iovec *part;
    const struct iovec *end;
    size_t offset;
};

static void skip(struct cursor *at, size_t length)
{
    while (length > 0) {
        size_t left = at->part->iov_len - at->offset;
        size_t n = length < left ? length : left;
        at->offset += n;
        length -= n;
        if (at->offset == at->part->iov_len) {
            at->part++;
            at->offset = 0;
        }
    }
}

/* The next bytes that can be encrypted at once: of a large part as they lie, of small ones gathered
 * into one record. */
static const char *next_bytes(struct cursor *at, char *scratch, size_t most, size_t *length)
{
    const char *first = (const char *)at->part->iov_base + at->offset;
    size_t left = at->part->iov_len - at->offset;
    if (left >= TLS_RECORD || at->part + 1 == at->end) {
        *length = left < most ? left : most;
        if (*length > TLS_RECORD)
            *length -= *length % TLS_RECORD;
        skip(at, *length);
        return first;
    }
    *length = 0;
    while (at->part < at->end && *length < TLS_RECORD) {
        size_t n = at->part->iov_len - at->offset;
        n = n < TLS_RECORD - *length ? n : TLS_RECORD - *length;
        memcpy(scratch + *length, (const char *)at->part->iov_base + at->offset, n);
        *length += n;
        skip(at, n);
    }
    return scratch;
}

/* How many bytes were encrypted, or -errno. */
static ssize_t encrypt(struct tls *tls, const char *bytes, size_t length)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    size_t written;
    tls_prepare(openssl);
    int result = openssl->SSL_write_ex(tls->ssl, bytes, length, &written);
    if (result == 1)
        return (ssize_t)written;
    int error = tls_classify(tls, result);
    return error < 0 ? error : -EPROTO;
}

static ssize_t encrypt_batch(struct tls *tls, struct cursor *at)
{
    struct tls_library *shared = tls_library_of(tls->connection);
    size_t batch = 0, length;
    while (at->part < at->end && TLS_BATCH - batch >= TLS_RECORD) {
        const char *bytes = next_bytes(at, shared->scratch, TLS_BATCH - batch, &length);
        ssize_t n = encrypt(tls, bytes, length);
        if (n < 0)
            return n;
        batch += length;
    }
    return (ssize_t)batch;
}

/* Of the parts, what was queued before the session began. */
static int plain_parts(const struct tls *tls, const struct iovec *parts, int count,
                       struct iovec *own)
{
    size_t left = tls->plain;
    int n = 0;
    for (; n < count && n < PLAIN_PARTS && left > 0; n++) {
        own[n] = parts[n];
        own[n].iov_len = own[n].iov_len < left ? own[n].iov_len : left;
        left -= own[n].iov_len;
    }
    return n;
}

static ssize_t sent_plain(struct tls *tls, ssize_t sent)
{
    if (sent > 0)
        tls->plain -= (size_t)sent;
    if (tls->plain == 0)
        connection_dirty(tls->connection); /* the handshake begins */
    return sent;
}

static ssize_t write_plain(struct tls *tls, const struct iovec *parts, int count)
{
    struct iovec own[PLAIN_PARTS];
    int n = plain_parts(tls, parts, count, own);
    return sent_plain(tls, tls->under->write(tls->connection, own, n));
}

/* The same, with descriptors: those that were queued behind it were refused. */
static ssize_t tls_pass(struct connection *connection, const struct iovec *parts, int count,
                        const int *fds, int descriptors)
{
    struct iovec own[PLAIN_PARTS];
    struct tls *tls = connection->tls;
    int n = plain_parts(tls, parts, count, own);
    return sent_plain(tls, tls->under->pass(connection, own, n, fds, descriptors));
}

/* A session that failed takes nothing more, be its end told of or not: the kernel would, and so
 * would say at once, again and again, that it can. */
static int may_encrypt(struct tls *tls)
{
    if (tls->state == FAILED)
        return tls->ended && tls->outcome < 0 ? (int)tls->outcome : -EPROTO;
    return tls->state == OPEN ? send_pending(tls) : -EAGAIN;
}

/* Bytes of the queue whose ciphertext has gone by now; 0 where none has, -EAGAIN where it has not,
 * or -errno. */
static ssize_t settle_owed(struct tls *tls)
{
    int error = may_encrypt(tls);
    if (error < 0)
        return error;
    ssize_t owed = (ssize_t)tls->owed;
    tls->owed = 0;
    return owed;
}

/* The ciphertext of so many bytes was written: how many of them are sent. */
static ssize_t push_batch(struct tls *tls, size_t batch)
{
    int error = tls_push(tls);
    if (error < 0)
        return error;
    if (tls->pending_length == 0)
        return (ssize_t)batch;
    tls->owed = batch;
    return 0;
}

static ssize_t tls_write(struct connection *connection, const struct iovec *parts, int count)
{
    struct tls *tls = connection->tls;
    if (tls->plain > 0)
        return write_plain(tls, parts, count);
    ssize_t taken = settle_owed(tls);
    if (taken < 0)
        return taken;
    struct cursor at = {parts, parts + count, 0};
    skip(&at, (size_t)taken);
    while (at.part < at.end && tls->pending_length == 0 && taken < MOST_AT_ONCE) {
        ssize_t n = encrypt_batch(tls, &at);
        if (n > 0)
            n = push_batch(tls, (size_t)n);
        if (n < 0)
            return n;
        taken += n;
    }
    return taken > 0 ? taken : -EAGAIN;
}

static ssize_t tls_send_file(struct connection *connection, int fd, int64_t offset, size_t length)
{
    struct tls *tls = connection->tls;
    struct tls_library *shared = tls_library_of(connection);
    if (tls->plain > 0) {
        ssize_t sent = tls->under->send_file(connection, fd, offset,
                                             length < tls->plain ? length : tls->plain);
        tls->plain -= sent > 0 ? (size_t)sent : 0;
        if (tls->plain == 0)
            connection_dirty(connection);
        return sent;
    }
    ssize_t taken = settle_owed(tls);
    if (taken != 0)
        return taken;
    ssize_t n = pread(fd, shared->scratch, length < TLS_BATCH ? length : TLS_BATCH, (off_t)offset);
    if (n <= 0)
        return n < 0 ? (errno == EAGAIN || errno == EINTR ? -EIO : -errno) : 0;
    n = encrypt(tls, shared->scratch, (size_t)n);
    if (n > 0)
        n = push_batch(tls, (size_t)n);
    return n == 0 ? -EAGAIN : n;
}

/* A client speaks first; and a server that knows already what its client said. */
static void begin(struct tls *tls)
{
    tls->state = SHAKING;
    if (tls->context->server && tls->early == NULL)
        return;
    if (tls->context->server && !tls_has_time(tls))
        tls_hold(tls, loop_now(tls->context->loop));
    else if (tls_take_place(tls))
        tls_shake(tls);
}

static int tls_flush(struct connection *connection)
{
    struct tls *tls = connection->tls;
    if (tls->state == WAITING && tls->plain == 0)
        begin(tls);
    return send_pending(tls);
}

/* close_notify; 0 when that is sent too. */
static int tls_seal(struct connection *connection)
{
    struct tls *tls = connection->tls;
    const struct openssl *openssl = tls_openssl(connection);
    if (tls->state == OPEN && !tls->sealed) {
        tls->sealed = true;
        tls_prepare(openssl);
        openssl->SSL_shutdown(tls->ssl);
        tls_push(tls);
    }
    return send_pending(tls);
}

/* Where the last record could not be sent whole, close_notify would be noise. */
static int tls_finish(struct connection *connection)
{
    struct tls *tls = connection->tls;
    if (tls->pending_length == 0)
        tls_seal(connection);
    else
        send_pending(tls);
    return tls->under->finish(connection);
}

static int set_nodelay(struct connection *connection, bool on)
{
    const struct transport_ops *under = connection->tls->under;
    return under->set_nodelay ? under->set_nodelay(connection, on) : 0;
}

static int set_keepalive(struct connection *connection, bool on, unsigned seconds)
{
    const struct transport_ops *under = connection->tls->under;
    return under->set_keepalive ? under->set_keepalive(connection, on, seconds) : 0;
}

static const struct transport_ops tls_ops = {
    .kind = "tls",
    .read = tls_read,
    .write = tls_write,
    .pass = tls_pass,
    .send_file = tls_send_file,
    .flush = tls_flush,
    .seal = tls_seal,
    .finish = tls_finish,
    .set_nodelay = set_nodelay,
    .set_keepalive = set_keepalive,
};

/* --- birth and end -------------------------------------------------------------------------- */

/* It is there or the program ends: without a name nobody would look at whose certificate it is. */
static char *copy(const char *text)
{
    if (text == NULL)
        return NULL;
    size_t size = strlen(text) + 1;
    return memcpy(memory_new(size), text, size);
}

static void keep_early(struct tls *tls, const char *bytes, size_t length)
{
    if (length == 0)
        return;
    tls->early = memory_grow(NULL, length, 1);
    memcpy(tls->early, bytes, length);
    tls->early_length = length;
}

void tls_begin(struct connection *connection, struct tls_context *context,
               const struct tls_wanted *wanted)
{
    struct loop *loop = connection_loop(connection);
    struct tls *tls = memory_new(sizeof *tls);
    tls->connection = connection;
    tls->context = context;
    tls->under = connection->ops;
    tls->plain = connection->out.bytes;
    if (wanted) {
        tls->name = copy(wanted->name);
        tls->peer = copy(wanted->peer);
        keep_early(tls, wanted->early, wanted->early_length);
    }
    tls->timer.fire = tls_on_limit;
    tls_context_hold(context);
    connection->tls = tls;
    connection->ops = &tls_ops;
    loop_timer_start(loop, &tls->timer, loop_now(loop) + context->timeout_ms * (uint64_t)1000000);
    connection_dirty(connection);
}

int connection_secure(struct connection *connection, uint64_t handle,
                      const struct tls_wanted *wanted)
{
    struct tls_context *context = tls_context_find(connection_loop(connection), handle);
    if (context == NULL)
        return -EBADF;
    if (connection->tls)
        return -EALREADY;
    if (!output_accepts(connection) || connection->flags & C_EOF)
        return -EPIPE;
    if (queue_passes_last(&connection->out))
        return -EBUSY;
    tls_begin(connection, context, wanted);
    return 0;
}

void tls_end(struct connection *connection)
{
    struct tls *tls = connection->tls;
    if (tls == NULL)
        return;
    if (tls->state < OPEN)
        tls_leave_handshakes(tls);
    loop_timer_stop(connection_loop(connection), &tls->timer);
    tls_save_session(tls);
    if (tls->ssl)
        tls_openssl(connection)->SSL_free(tls->ssl);
    connection->ops = tls->under;
    connection->tls = NULL;
    tls_context_drop(tls->context);
    free(tls->name);
    free(tls->peer);
    free(tls->early);
    free(tls->problem);
    free(tls->pending);
    free(tls);
}

/* --- what may be asked ---------------------------------------------------------------------- */

const char *connection_protocol(const struct connection *connection, size_t *length)
{
    const unsigned char *name = NULL;
    unsigned size = 0;
    if (connection->tls && connection->tls->ssl)
        tls_openssl(connection)->SSL_get0_alpn_selected(connection->tls->ssl, &name, &size);
    *length = size;
    return size ? (const char *)name : NULL;
}

bool connection_session_reused(const struct connection *connection)
{
    const struct tls *tls = connection->tls;
    return tls && tls->opened && tls_openssl(connection)->SSL_session_reused(tls->ssl) == 1;
}

const char *connection_tls_problem(const struct connection *connection)
{
    return connection->tls ? connection->tls->problem : NULL;
}

char *connection_certificate(const struct connection *connection, size_t *length)
{
    const struct openssl *openssl = connection->tls ? tls_openssl(connection) : NULL;
    X509 *certificate = connection->tls && connection->tls->ssl
                            ? openssl->SSL_get1_peer_certificate(connection->tls->ssl)
                            : NULL;
    if (certificate == NULL)
        return NULL;
    char *text = tls_describe(openssl, certificate, length);
    openssl->X509_free(certificate);
    return text;
}
