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
    TLS_TICKET_KEYS = 80,
};

/* What the sessions of one loop share. */
struct tls_library {
    struct openssl openssl;
    bool open;
    struct slots contexts;
    BIO *out;         /* owns both ends of a pair; what any session writes */
    BIO *drain;       /* comes out here, within the same call */
    uint64_t written; /* bytes that have been, in all */
    unsigned char ticket_keys[TLS_TICKET_KEYS];
    char scratch[TLS_BATCH]; /* plaintext that is gathered to be encrypted */
    uint64_t turn;           /* of the loop, in which `spent` was */
    uint64_t spent;          /* nanoseconds of handshakes */
    char problem[256];
};

struct tls_context {
    struct loop *loop;
    uint64_t handle;
    uint32_t references; /* Lua, listeners, sessions */
    uint32_t handshakes; /* under way */
    uint32_t timeout_ms;
    bool server;
    bool certified;                      /* has a certificate */
    int count;                           /* of `variants`: at least one */
    SSL_CTX *variants[TLS_CERTIFICATES]; /* owns; one for each certificate */
    char *protocols;                     /* owns */
    size_t protocols_length;
};

/* tls_certificate.c: what connection_certificate gives */
char *tls_describe(const struct openssl *openssl, const X509 *certificate, size_t *length);

#endif
