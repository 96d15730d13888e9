/* TLS for connections, with OpenSSL: contexts (certificates, whom to trust) and the sessions that
 * they make. Contexts are known by handles; sessions belong to their connections. */
#ifndef SKALD_IO_TLS_H
#define SKALD_IO_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connection;
struct listener;
struct loop;

/* What a server asks of its clients. */
enum tls_demand { TLS_NONE, TLS_OPTIONAL, TLS_REQUIRED };

/* Those that give an int: 0 or a negative errno; tls_problem then says more, in words. */

/* Loads the library where this is the first. -ENOENT: there is none. */
int tls_context_new(struct loop *loop, bool server, uint64_t *context);

/* Lives on while a listener or a session has it. */
void tls_context_release(struct loop *loop, uint64_t context);

/* A certificate with its chain, and its key, as PEM. A server may have several: the name that a
 * client asks for picks one, else it is the first. */
int tls_context_certify(struct loop *loop, uint64_t context, const char *chain, size_t chain_length,
                        const char *key, size_t key_length);

/* The following are for after the certificates. */

/* Peers are checked: against these certificates, or the system's where `pem` is NULL. */
int tls_context_trust(struct loop *loop, uint64_t context, enum tls_demand demand, const char *pem,
                      size_t length);

/* What may be spoken above, the best first: names, each behind its length in a byte. */
int tls_context_offer(struct loop *loop, uint64_t context, const char *names, size_t length);
void tls_context_limit(struct loop *loop, uint64_t context, double seconds); /* of a handshake */

/* From now on tickets of servers are sealed with another key; what the former has sealed can still
 * be opened, what one before that has, cannot. */
int tls_renew_tickets(struct loop *loop);

const char *tls_problem(const struct loop *loop);

/* Connections that it accepts from now on are encrypted; 0: are not. 0 or -EBADF. */
int listener_secure(struct listener *listener, uint64_t context);

/* What is known of the peer. */
struct tls_wanted {
    const char
        *name; /* whom it must have a certificate for: a host name or an IP address, or NULL */
    const char *peer; /* sessions of the same context and peer may be resumed; NULL: none is kept */
    const char *early; /* what it has sent already, and was read */
    size_t early_length;
};

/* What is queued goes as it is; then the handshake begins, events->secured follows at its end, and
 * all is encrypted. Copies `wanted`; NULL: nothing is. 0, -EBADF, -EALREADY, -EBUSY where a
 * descriptor waits for the byte that it goes with, or -EPIPE after the end. */
int connection_secure(struct connection *connection, uint64_t context,
                      const struct tls_wanted *wanted);

bool connection_session_reused(const struct connection *connection);

/* What was agreed on to be spoken above (borrowed, not terminated); NULL: nothing. */
const char *connection_protocol(const struct connection *connection, size_t *length);

/* The peer's certificate as lines "key value", of which `names` is for each name one, the last key
 * being pem: its value is all that follows. To be freed; NULL: there is none. */
char *connection_certificate(const struct connection *connection, size_t *length);

/* Why its session failed; NULL: it has not. */
const char *connection_tls_problem(const struct connection *connection);

#endif
