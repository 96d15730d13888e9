/* TLS contexts: certificates, whom to trust, what to speak. One SSL_CTX for the certificates of the
 * same names, which differ in the kind of their keys; the first of them makes the sessions. */
#include "io/tls_inside.h"

#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HANDSHAKE_MS = 10000,
    SESSION_S = 7200, /* may be resumed for so long; scripts/skald/tls.lua knows of it */
    READ_BUFFER = 65536,
};

/* Forward secrecy and authenticated encryption only; what TLS 1.3 has is all of that kind. */
static const char ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

struct tls_context *tls_context_find(struct loop *loop, uint64_t handle)
{
    return loop->tls ? slots_find(&loop->tls->contexts, handle) : NULL;
}

const char *tls_problem(const struct loop *loop)
{
    return loop->tls ? loop->tls->problem : "";
}

static const struct openssl *openssl_of(const struct tls_context *context)
{
    return &context->loop->tls->openssl;
}

static int refuse(struct tls_library *tls, const char *what, const char *detail)
{
    snprintf(tls->problem, sizeof tls->problem, "%s%s", what, detail);
    return -EINVAL;
}

/* What OpenSSL says last, or `otherwise`. */
static const char *reason(const struct openssl *openssl, const char *otherwise)
{
    const char *text = openssl->ERR_reason_error_string(openssl->ERR_peek_last_error());
    return text ? text : otherwise;
}

/* --- what sessions ask ---------------------------------------------------------------------- */

/* The certificate for the name that the client asks for, or the first. */
static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    struct tls_context *context = arg;
    const struct openssl *openssl = openssl_of(context);
    const char *name = openssl->SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    if (name == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    for (int i = 0; i < context->count; i++) {
        X509 *certificate = openssl->SSL_CTX_get0_certificate(context->variants[i]);
        if (certificate && openssl->X509_check_host(certificate, name, 0, 0, NULL) == 1) {
            openssl->SSL_set_SSL_CTX(ssl, context->variants[i]);
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* The first of ours that the client has too; where it has none of them, there is nothing to speak
 * (RFC 7301, 3.2). */
static int on_protocols(SSL *ssl, const unsigned char **chosen, unsigned char *length,
                        const unsigned char *theirs, unsigned int theirs_length, void *arg)
{
    struct tls_context *context = arg;
    unsigned char *found;
    (void)ssl;
    int result = openssl_of(context)->SSL_select_next_proto(
        &found, length, (const unsigned char *)context->protocols,
        (unsigned)context->protocols_length, theirs, theirs_length);
    if (result != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

/* --- life ----------------------------------------------------------------------------------- */

/* Tickets are sealed with the same keys by all contexts, so that sessions outlive a reload. */
static SSL_CTX *variant_new(struct tls_context *context)
{
    struct tls_library *tls = context->loop->tls;
    const struct openssl *openssl = &tls->openssl;
    SSL_CTX *ctx = openssl->SSL_CTX_new(context->server ? openssl->TLS_server_method()
                                                        : openssl->TLS_client_method());
    if (ctx == NULL)
        return NULL;
    openssl->SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                          SSL_OP_CIPHER_SERVER_PREFERENCE |
                                          SSL_OP_PRIORITIZE_CHACHA);
    openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
    openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
    openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_MODE,
                          SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, NULL);
    openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
    openssl->SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER);
    if (!context->server)
        return ctx;
    openssl->SSL_CTX_set_cipher_list(ctx, ciphers);
    openssl->SSL_CTX_set_timeout(ctx, SESSION_S);
    openssl->SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, tls_on_ticket);
    openssl->SSL_CTX_callback_ctrl(ctx, SSL_CTRL_SET_TLSEXT_SERVERNAME_CB,
                                   (void (*)(void))on_server_name);
    openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_TLSEXT_SERVERNAME_ARG, 0, context);
    return ctx;
}

static int library_open(struct loop *loop)
{
    struct tls_library *tls = loop->tls;
    if (tls == NULL)
        tls = loop->tls = memory_new(sizeof *tls);
    if (tls->open)
        return 0;
    int error = openssl_open(&tls->openssl, tls->problem, sizeof tls->problem);
    if (error < 0)
        return error;
    if (tls->openssl.BIO_new_bio_pair(&tls->out, TLS_OUT, &tls->drain, 1) != 1 ||
        !tls_tickets_begin(tls))
        return refuse(tls, "OpenSSL: ", reason(&tls->openssl, "cannot begin"));
    tls->open = true;
    return 0;
}

void tls_library_free(struct loop *loop)
{
    struct tls_library *tls = loop->tls;
    if (tls == NULL)
        return;
    if (tls->open) {
        tls->openssl.BIO_free(tls->out);
        tls->openssl.BIO_free(tls->drain);
    }
    slots_free(&tls->contexts);
    explicit_bzero(tls->tickets, sizeof tls->tickets);
    free(tls);
    loop->tls = NULL;
}

int tls_context_new(struct loop *loop, bool server, uint64_t *handle)
{
    int error = library_open(loop);
    if (error < 0)
        return error;
    struct tls_context *context = memory_new(sizeof *context);
    context->loop = loop;
    context->server = server;
    context->references = 1;
    context->timeout_ms = HANDSHAKE_MS;
    context->turn.fire = tls_on_turn;
    context->variants[0] = variant_new(context);
    if (context->variants[0])
        *handle = context->handle = slots_add(&loop->tls->contexts, context);
    if (context->handle)
        context->count = 1;
    else
        free(context);
    return *handle ? 0 : refuse(loop->tls, "OpenSSL: ", reason(&loop->tls->openssl, "no context"));
}

void tls_context_hold(struct tls_context *context)
{
    context->references++;
}

void tls_context_drop(struct tls_context *context)
{
    if (--context->references > 0)
        return;
    for (int i = 0; i < context->count; i++)
        openssl_of(context)->SSL_CTX_free(context->variants[i]);
    tls_sessions_free(context);
    free(context->protocols);
    free(context);
}

void tls_context_release(struct loop *loop, uint64_t handle)
{
    struct tls_context *context = tls_context_find(loop, handle);
    if (context == NULL)
        return;
    slots_remove(&loop->tls->contexts, handle);
    tls_context_drop(context);
}

/* --- certificates --------------------------------------------------------------------------- */

/* Nobody is there to type a passphrase. */
static int no_passphrase(char *buffer, int size, int writing, void *unused)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)unused;
    return 0;
}

/* Calls `take` for each certificate of a PEM text, which keeps it or answers false; how many there
 * were, or -1 where one is broken. */
static int each_certificate(const struct openssl *openssl, const char *pem, size_t length,
                            bool (*take)(const struct openssl *openssl, void *target, X509 *found,
                                         int index),
                            void *target)
{
    BIO *bio = openssl->BIO_new_mem_buf(pem, (int)length);
    X509 *found;
    int count = 0;
    bool ok = bio != NULL;
    openssl->ERR_clear_error();
    while (ok && (found = openssl->PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
        ok = take(openssl, target, found, count++);
        openssl->X509_free(found);
    }
    if (ok)
        ok = ERR_GET_REASON(openssl->ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    openssl->BIO_free(bio);
    if (ok)
        openssl->ERR_clear_error();
    return ok ? count : -1;
}

static int use_key(struct tls_library *tls, SSL_CTX *ctx, const char *pem, size_t length)
{
    const struct openssl *openssl = &tls->openssl;
    X509 *certificate = openssl->SSL_CTX_get0_certificate(ctx);
    BIO *bio = openssl->BIO_new_mem_buf(pem, (int)length);
    openssl->ERR_clear_error();
    EVP_PKEY *key = bio ? openssl->PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    openssl->BIO_free(bio);
    if (key == NULL)
        return refuse(tls, "no private key in it that can be read without a passphrase", "");
    bool taken = openssl->X509_check_private_key(certificate, key) == 1 &&
                 openssl->SSL_CTX_use_PrivateKey(ctx, key) == 1;
    openssl->EVP_PKEY_free(key);
    if (!taken)
        return refuse(tls, "the private key does not fit the certificate: ",
                      reason(openssl, "it is another one"));
    return 0;
}

/* Of a certificate's key, as OpenSSL numbers them; 0: of none that it knows. */
static int kind_of(const struct openssl *openssl, const X509 *certificate)
{
    const EVP_PKEY *key = openssl->X509_get0_pubkey(certificate);
    return key ? openssl->EVP_PKEY_get_base_id(key) : 0;
}

/* Whether there is a certificate in it whose key is of the same kind. */
static bool has_kind(const struct openssl *openssl, SSL_CTX *ctx, const X509 *certificate)
{
    int kind = kind_of(openssl, certificate);
    long which = SSL_CERT_SET_FIRST;
    while (openssl->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_CURRENT_CERT, which, NULL) == 1) {
        if (kind_of(openssl, openssl->SSL_CTX_get0_certificate(ctx)) == kind)
            return true;
        which = SSL_CERT_SET_NEXT;
    }
    return false;
}

static bool has_names(const struct openssl *openssl, SSL_CTX *ctx, const X509 *certificate)
{
    char *ours = tls_names(openssl, openssl->SSL_CTX_get0_certificate(ctx));
    char *theirs = tls_names(openssl, certificate);
    bool same = ours && theirs && strcmp(ours, theirs) == 0;
    free(ours);
    free(theirs);
    return same;
}

static SSL_CTX *add_variant(struct tls_context *context)
{
    struct tls_library *tls = context->loop->tls;
    SSL_CTX *ctx = context->count < TLS_CERTIFICATES ? variant_new(context) : NULL;
    if (ctx)
        context->variants[context->count++] = ctx;
    else if (context->count == TLS_CERTIFICATES)
        refuse(tls, "too many certificates", "");
    else
        refuse(tls, "OpenSSL: ", reason(&tls->openssl, "no context"));
    return ctx;
}

/* Where a certificate belongs: to one of the same names with a key of another kind, so that OpenSSL
 * shows the one that the client can check; else it stands by itself. NULL: there is no room. */
static SSL_CTX *variant_for(struct tls_context *context, const X509 *certificate)
{
    const struct openssl *openssl = openssl_of(context);
    if (!context->certified) {
        context->certified = true;
        return context->variants[0];
    }
    for (int i = 0; i < context->count; i++)
        if (has_names(openssl, context->variants[i], certificate) &&
            !has_kind(openssl, context->variants[i], certificate))
            return context->variants[i];
    return add_variant(context);
}

/* A chain that is being read. */
struct chain {
    struct tls_context *context;
    SSL_CTX *ctx; /* where it goes */
};

/* The first is the one, the others are its chain. */
static bool take_chain(const struct openssl *openssl, void *target, X509 *found, int index)
{
    struct chain *chain = target;
    if (index > 0)
        return openssl->SSL_CTX_ctrl(chain->ctx, SSL_CTRL_CHAIN_CERT, 1, found) == 1;
    chain->ctx = variant_for(chain->context, found);
    return chain->ctx && openssl->SSL_CTX_use_certificate(chain->ctx, found) == 1;
}

int tls_context_certify(struct loop *loop, uint64_t handle, const char *chain, size_t chain_length,
                        const char *key, size_t key_length)
{
    struct chain into = {tls_context_find(loop, handle), NULL};
    if (into.context == NULL)
        return -EBADF;
    struct tls_library *tls = loop->tls;
    tls->problem[0] = '\0';
    int count = each_certificate(&tls->openssl, chain, chain_length, take_chain, &into);
    if (count == 0)
        return refuse(tls, "no certificate in it", "");
    if (count < 0 && tls->problem[0] != '\0')
        return -EINVAL;
    if (count < 0)
        return refuse(tls, "no valid certificate: ", reason(&tls->openssl, "cannot be used"));
    return use_key(tls, into.ctx, key, key_length);
}

/* --- whom to trust, what to speak ----------------------------------------------------------- */

/* Servers tell their clients whose certificates they take. */
static bool take_trusted(const struct openssl *openssl, void *target, X509 *found, int index)
{
    SSL_CTX *ctx = target;
    (void)index;
    openssl->SSL_CTX_add_client_CA(ctx, found);
    return openssl->X509_STORE_add_cert(openssl->SSL_CTX_get_cert_store(ctx), found) == 1;
}

/* Whom its certificates are of. To be freed, or NULL. */
static char *names_of(const struct tls_context *context, size_t *length)
{
    const struct openssl *openssl = openssl_of(context);
    char *text = NULL;
    FILE *out = open_memstream(&text, length);
    for (int i = 0; out && i < context->count; i++) {
        X509 *certificate = openssl->SSL_CTX_get0_certificate(context->variants[i]);
        char *names = certificate ? tls_names(openssl, certificate) : NULL;
        fprintf(out, "%s\n", names ? names : "");
        free(names);
    }
    if (out)
        fclose(out);
    return text;
}

/* A session is resumed only where clients expect the same server, and the same was asked of them:
 * who is resumed is not looked at again. */
static int separate(struct tls_context *context, const char *pem, size_t length)
{
    const struct openssl *openssl = openssl_of(context);
    unsigned char id[2 * EVP_MAX_MD_SIZE + 1];
    unsigned size = 0, more = 0;
    size_t names_length = 0;
    char *names = names_of(context, &names_length);
    bool ok = names &&
              openssl->EVP_Digest(names, names_length, id, &size, openssl->EVP_sha256(), NULL) &&
              openssl->EVP_Digest(pem, length, id + size, &more, openssl->EVP_sha256(), NULL);
    free(names);
    id[size + more] = (unsigned char)context->demand;
    ok = ok && openssl->EVP_Digest(id, size + more + 1, id, &size, openssl->EVP_sha256(), NULL);
    for (int i = 0; ok && i < context->count; i++)
        ok = openssl->SSL_CTX_set_session_id_context(context->variants[i], id, size) == 1;
    return ok ? 0 : refuse(context->loop->tls, "OpenSSL: ", reason(openssl, "no digest"));
}

static int trust(struct tls_context *context, SSL_CTX *ctx, enum tls_demand demand, const char *pem,
                 size_t length)
{
    struct tls_library *tls = context->loop->tls;
    const struct openssl *openssl = &tls->openssl;
    int mode = SSL_VERIFY_PEER | (demand == TLS_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
    openssl->SSL_CTX_set_verify(ctx, demand == TLS_NONE ? SSL_VERIFY_NONE : mode, NULL);
    if (demand == TLS_NONE)
        return 0;
    if (pem == NULL) {
        openssl->SSL_CTX_set_default_verify_paths(ctx);
        return 0;
    }
    int count = each_certificate(openssl, pem, length, take_trusted, ctx);
    if (count == 0)
        return refuse(tls, "no certificate in it", "");
    if (count < 0)
        return refuse(tls, "no valid certificate: ", reason(openssl, "cannot be used"));
    return 0;
}

int tls_context_trust(struct loop *loop, uint64_t handle, enum tls_demand demand, const char *pem,
                      size_t length)
{
    struct tls_context *context = tls_context_find(loop, handle);
    int error = context ? 0 : -EBADF;
    for (int i = 0; error == 0 && i < context->count; i++)
        error = trust(context, context->variants[i], demand, pem, length);
    if (error < 0)
        return error;
    context->demand = demand;
    return context->server ? separate(context, pem ? pem : "", length) : 0;
}

int tls_context_offer(struct loop *loop, uint64_t handle, const char *names, size_t length)
{
    struct tls_context *context = tls_context_find(loop, handle);
    if (context == NULL)
        return -EBADF;
    const struct openssl *openssl = openssl_of(context);
    context->protocols = memory_grow(context->protocols, length ? length : 1, 1);
    memcpy(context->protocols, names, length);
    context->protocols_length = length;
    for (int i = 0; i < context->count; i++) {
        SSL_CTX *ctx = context->variants[i];
        if (context->server)
            openssl->SSL_CTX_set_alpn_select_cb(ctx, on_protocols, context);
        else if (openssl->SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)names,
                                                  (unsigned)length) != 0)
            return refuse(loop->tls, "these protocols cannot be offered", "");
    }
    return 0;
}

void tls_context_limit(struct loop *loop, uint64_t handle, double seconds)
{
    struct tls_context *context = tls_context_find(loop, handle);
    if (context)
        context->timeout_ms = (uint32_t)(seconds * 1000);
}
