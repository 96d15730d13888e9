/* What the files of TLS share among themselves. */
#ifndef SKALD_IO_TLS_INSIDE_H
#define SKALD_IO_TLS_INSIDE_H

#include "io/inside.h"
#include "io/openssl.h"
#include "io/tls.h"

enum {
    TLS_CERTIFICATES = 32,      /* that one context may have */
    TLS_RECORD = 16384,         /* the most bytes of one record */
    TLS_BATCH = 4 * TLS_RECORD, /* encrypted before the kernel is asked to take them */
    TLS_OUT = 2 * TLS_BATCH,    /* ciphertext of one call, at the most */
    TLS_TICKET_KEYS = 2,        /* what seals, and what did before */
    TLS_TICKET_IV = 16,
};

struct tls_ticket_key {
    unsigned char name[16];
    unsigned char cipher[32];
    unsigned char mac[32];
};

/* What the sessions of one loop share. */
struct tls_library {
    struct openssl openssl;
    bool open;
    struct slots contexts;
    BIO *out;         /* owns both ends of a pair; what any session writes */
    BIO *drain;       /* comes out here, within the same call */
    uint64_t written; /* bytes that have been, in all */
    struct tls_ticket_key tickets[TLS_TICKET_KEYS];
    char scratch[TLS_BATCH]; /* plaintext that is gathered to be encrypted */
    uint64_t turn;           /* of the loop, in which `spent` was */
    uint64_t spent;          /* nanoseconds of handshakes */
    char problem[256];
};

/* A session that a client may resume. */
struct tls_saved {
    char *peer;           /* owns; whom it was with */
    SSL_SESSION *session; /* owns */
    uint64_t verified;    /* when its peer was looked at, in nanoseconds */
};

/* Borrows its members: each is taken out before it ends. */
struct tls_list {
    struct tls *first;
    struct tls *last;
    uint32_t count;
};

struct tls_context {
    struct loop *loop;
    uint64_t handle;
    uint32_t references; /* Lua, listeners, sessions */
    uint32_t timeout_ms;
    struct tls_list begun; /* a server's handshakes that have a place, the oldest first */
    struct tls_list held;  /* and those that wait for one */
    struct timer turn;     /* to look after those */
    bool server;
    bool certified; /* has a certificate */
    enum tls_demand demand;
    int count;                           /* of `variants`: at least one */
    SSL_CTX *variants[TLS_CERTIFICATES]; /* owns; one for each certificate */
    struct tls_saved *saved;             /* owns; a client's sessions, the oldest first */
    uint32_t saved_count;
    char *protocols; /* owns */
    size_t protocols_length;
};

enum tls_state {
    WAITING, /* for plaintext to be sent that was queued before */
    SHAKING,
    OPEN,
    FAILED,
};

/* Owned by its connection. */
struct tls {
    struct connection *connection;
    struct tls_context *context;       /* holds */
    const struct transport_ops *under; /* of the socket */
    SSL *ssl;                          /* owns; NULL until the handshake begins */
    char *name;                        /* owns; whom the peer is to be */
    char *peer;                        /* owns; a client's sessions are kept for it; or NULL */
    char *early; /* owns; what came before the socket is to be read; or NULL */
    size_t early_length;
    uint64_t offered;  /* what the session that is to be resumed is known by; 0: none is */
    uint64_t verified; /* when the peer was looked at, in nanoseconds */
    char *problem;     /* owns; why it failed */
    char *pending;     /* owns; ciphertext that the kernel did not take */
    size_t pending_length;
    size_t plain;                /* bytes of the queue that go as they are */
    size_t owed;                 /* bytes of the queue that `pending` is the ciphertext of */
    struct tls *next, *previous; /* in `list` */
    struct tls_list *list;       /* of its context's, or NULL */
    uint64_t placed;             /* when it got its place, in nanoseconds */
    struct timer timer; /* the handshake's limit; afterwards: there is something to read inside */
    ssize_t outcome;    /* of the next read, where `ended` */
    uint8_t state;
    bool opened; /* the handshake has been completed */
    bool unread; /* OpenSSL holds what came */
    bool ended;  /* the session's input has, as `outcome` says; not told yet */
    bool eof;    /* the socket's has */
    bool sealed; /* close_notify is written */
};

static inline struct tls_library *tls_library_of(const struct connection *connection)
{
    return connection_loop(connection)->tls;
}

static inline const struct openssl *tls_openssl(const struct connection *connection)
{
    return &tls_library_of(connection)->openssl;
}

/* tls.c */
void tls_prepare(const struct openssl *openssl); /* before each call that may fail */
/* Why a call of OpenSSL's gave no result: -EAGAIN, 0 at a clean end, else -errno, and the session
 * is over. Comes right after that call. */
int tls_classify(struct tls *tls, int result);
/* Sends what OpenSSL has just written. 0 or -errno; what the kernel does not take is pending. */
int tls_push(struct tls *tls);
void tls_note(struct tls *tls, const char *prefix, const char *text); /* why it failed */
void tls_on_unread(struct timer *timer);

/* tls_handshake.c */
void tls_shake(struct tls *tls); /* one step; ends the connection where it fails */
bool tls_has_time(const struct tls *tls);
void tls_step(struct tls *tls); /* the same, and who waits for the end of the handshake is told */
void tls_leave_handshakes(struct tls *tls);
void tls_expire(struct tls *tls, double seconds, const char *why); /* it took so long */
void tls_on_limit(struct timer *timer);

/* tls_queue.c */
void tls_hold(struct tls *tls, uint64_t when); /* it waits for a place, and is looked at then */
bool tls_take_place(struct tls *tls);          /* false: it waits, and is stepped when it has one */
void tls_leave_place(struct tls *tls);
void tls_on_turn(struct timer *timer);
bool tls_is_held(const struct tls *tls);

/* tls_sessions.c: of clients */
void tls_offer_session(struct tls *tls); /* one that is kept for its peer, in the handshake */
void tls_save_session(struct tls *tls);  /* the connection ends */
void tls_sessions_free(struct tls_context *context);

/* tls_tickets.c */
bool tls_tickets_begin(struct tls_library *tls);
int tls_on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                  EVP_MAC_CTX *mac, int sealing);

/* tls_certificate.c: what connection_certificate gives */
char *tls_describe(const struct openssl *openssl, const X509 *certificate, size_t *length);
/* Whom it is of: lines in order, the same for certificates of the same names. To be freed. */
char *tls_names(const struct openssl *openssl, const X509 *certificate);

#endif
