/* Tickets: what a server has its clients keep of their sessions, sealed with keys that all contexts
 * of a loop share, so that sessions outlive a reload. Two keys: the one that seals, and the one
 * that did so before, which still opens. When they are renewed is decided above. */
#include "io/tls_inside.h"

#include <string.h>

enum { UNKNOWN = 0, OPENED = 1, RENEWED = 2 }; /* what OpenSSL is answered */

bool tls_tickets_begin(struct tls_library *tls)
{
    return tls->openssl.RAND_bytes((unsigned char *)tls->tickets, sizeof tls->tickets) == 1;
}

int tls_renew_tickets(struct loop *loop)
{
    struct tls_library *tls = loop->tls;
    struct tls_ticket_key fresh;
    if (tls == NULL || !tls->open)
        return 0;
    if (tls->openssl.RAND_bytes((unsigned char *)&fresh, sizeof fresh) != 1)
        return -EIO;
    tls->tickets[1] = tls->tickets[0];
    tls->tickets[0] = fresh;
    explicit_bzero(&fresh, sizeof fresh);
    return 0;
}

static bool authenticate(const struct openssl *openssl, EVP_MAC_CTX *mac,
                         struct tls_ticket_key *key)
{
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_octet_string(OSSL_MAC_PARAM_KEY, key->mac, sizeof key->mac),
        OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, sizeof digest - 1),
        OSSL_PARAM_END,
    };
    return openssl->EVP_MAC_CTX_set_params(mac, parameters) == 1;
}

static int seal(struct tls_library *tls, unsigned char *name, unsigned char *iv,
                EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    const struct openssl *openssl = &tls->openssl;
    struct tls_ticket_key *key = &tls->tickets[0];
    memcpy(name, key->name, sizeof key->name);
    if (openssl->RAND_bytes(iv, TLS_TICKET_IV) != 1 ||
        openssl->EVP_EncryptInit_ex(cipher, openssl->EVP_aes_256_cbc(), NULL, key->cipher, iv) !=
            1 ||
        !authenticate(openssl, mac, key))
        return -1;
    return OPENED;
}

/* A session is handed on from ticket to ticket, each of which is used once (TLS 1.3), unless its
 * client has shown a certificate: that is to be looked at again one day. */
static int open_ticket(struct tls *session, struct tls_ticket_key *key, const unsigned char *iv,
                       EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    struct tls_library *tls = tls_library_of(session->connection);
    const struct openssl *openssl = &tls->openssl;
    bool old = key != &tls->tickets[0] || openssl->SSL_version(session->ssl) == TLS1_3_VERSION;
    if (openssl->EVP_DecryptInit_ex(cipher, openssl->EVP_aes_256_cbc(), NULL, key->cipher, iv) !=
            1 ||
        !authenticate(openssl, mac, key))
        return -1;
    return old && session->context->demand == TLS_NONE ? RENEWED : OPENED;
}

int tls_on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                  EVP_MAC_CTX *mac, int sealing)
{
    struct tls *session = openssl_data_of(ssl);
    struct tls_library *tls = tls_library_of(session->connection);
    if (sealing)
        return seal(tls, name, iv, cipher, mac);
    for (int i = 0; i < TLS_TICKET_KEYS; i++)
        if (memcmp(name, tls->tickets[i].name, sizeof tls->tickets[i].name) == 0)
            return open_ticket(session, &tls->tickets[i], iv, cipher, mac);
    return UNKNOWN;
}
