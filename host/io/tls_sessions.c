/* Sessions that clients may resume: those whose connections have ended, kept by the context that
 * they were made with, so that none passes where another server would be believed. */
#include "io/tls_inside.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_SAVED = 32, /* of a context */
    LIFE_S = 7200,   /* then the peer is looked at again, however often its session was resumed */
};

static void remove_saved(struct tls_context *context, uint32_t index)
{
    struct tls_saved *saved = &context->saved[index];
    context->loop->tls->openssl.SSL_SESSION_free(saved->session);
    free(saved->peer);
    context->saved_count--;
    memmove(saved, saved + 1, (context->saved_count - index) * sizeof *saved);
}

void tls_sessions_free(struct tls_context *context)
{
    while (context->saved_count > 0)
        remove_saved(context, context->saved_count - 1);
    free(context->saved);
    context->saved = NULL;
}

static bool is_old(const struct tls_context *context, uint64_t verified)
{
    return loop_now(context->loop) - verified > LIFE_S * (uint64_t)1000000000;
}

/* Of a session that a client has got: of TLS 1.3, a digest of its ticket. Where it lies says
 * nothing: its copy that takes the next ticket may lie there. */
static uint64_t mark_of(const struct openssl *openssl, const SSL_SESSION *session)
{
    uint64_t mark = 0;
    unsigned length = 0;
    const unsigned char *id = openssl->SSL_SESSION_get_id(session, &length);
    memcpy(&mark, id, length < sizeof mark ? length : sizeof mark);
    return mark;
}

/* A session is taken out as it is offered: tickets of TLS 1.3 are for one use (RFC 8446, C.4), and
 * one that makes a handshake fail must not do so again. */
void tls_offer_session(struct tls *tls)
{
    struct tls_context *context = tls->context;
    const struct openssl *openssl = tls_openssl(tls->connection);
    for (uint32_t i = context->saved_count; i-- > 0;) {
        struct tls_saved *saved = &context->saved[i];
        if (strcmp(saved->peer, tls->peer) != 0)
            continue;
        if (!is_old(context, saved->verified) &&
            openssl->SSL_set_session(tls->ssl, saved->session) == 1) {
            tls->offered = mark_of(openssl, saved->session);
            tls->verified = saved->verified;
        }
        remove_saved(context, i);
        return;
    }
}

/* Whether a connection leaves a session that can be resumed, and has not been in vain. */
static bool leaves_session(const struct tls *tls, SSL_SESSION *session)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    if (session == NULL || openssl->SSL_SESSION_is_resumable(session) != 1)
        return false;
    return mark_of(openssl, session) != tls->offered ||
           openssl->SSL_SESSION_get_protocol_version(session) != TLS1_3_VERSION;
}

static void save(struct tls *tls, SSL_SESSION *session)
{
    struct tls_context *context = tls->context;
    if (context->saved == NULL)
        context->saved = memory_grow(NULL, MOST_SAVED, sizeof *context->saved);
    if (context->saved_count == MOST_SAVED)
        remove_saved(context, 0);
    context->saved[context->saved_count++] = (struct tls_saved){tls->peer, session, tls->verified};
    tls->peer = NULL;
}

/* That its end was not in order is no reason to forget a session, which OpenSSL would do. */
void tls_save_session(struct tls *tls)
{
    const struct openssl *openssl = tls_openssl(tls->connection);
    if (tls->peer == NULL || !tls->opened || !(tls->state == OPEN || tls->eof))
        return;
    openssl->SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_SESSION *session = openssl->SSL_get1_session(tls->ssl);
    if (leaves_session(tls, session))
        save(tls, session);
    else
        openssl->SSL_SESSION_free(session);
}
