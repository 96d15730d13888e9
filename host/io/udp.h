/* UDP ports: datagrams are taken and sent in batches, so that the answers to one batch leave
 * together. A datagram that cannot be sent never ends its port. */
#ifndef SKALD_IO_UDP_H
#define SKALD_IO_UDP_H

#include "base/address.h"
#include "io/loop.h"

struct udp;

enum { UDP_LARGEST = 65535 }; /* bytes of a datagram, headers included */

/* The numbers stand in scripts/skald/datagram.lua too. */
enum udp_option { UDP_BROADCAST, UDP_TTL, UDP_LOOPBACK };

/* A datagram that came; borrowed while events->datagram runs. */
struct datagram {
    const char *bytes;
    size_t length;
    struct address from;
    bool truncated; /* there was more of it than the port's limit */
};

/* Binds, without receiving yet; the handle goes to *handle. With `reuse`, others may have the port
 * too, if they say so as well. 0 or -errno. */
int udp_open(struct loop *loop, const struct address *address, bool reuse, uint64_t *handle);

struct udp *udp_find(struct loop *loop, uint64_t handle);
uint64_t udp_handle(const struct udp *udp);
void udp_describe(const struct udp *udp, char *text, size_t size);
int udp_host(const struct udp *udp, struct address *address);

void udp_receive(struct udp *udp); /* starts receiving */

/* Sends what is queued, then closes; events->unbound follows. */
void udp_close(struct udp *udp);

/* The same, but what waits in the kernel is received first. */
void udp_finish(struct udp *udp);

/* Queues a datagram, to be sent when the running callback has returned; `to` is NULL for the peer
 * of udp_connect. 0, -EPIPE once closing, -EDESTADDRREQ or -EISCONN where `to` does not fit that,
 * -EMSGSIZE, -ENOBUFS when too much waits already, -EAFNOSUPPORT. */
int udp_write(struct udp *udp, const struct address *to, const char *data, size_t length);

/* Queues one for the sender of the datagram that was received last, by whichever port. */
int udp_answer(struct udp *udp, const char *data, size_t length);

/* From now on it sends to that peer, and hears of it alone. */
int udp_connect(struct udp *udp, const struct address *peer);

void udp_set_limit(struct udp *udp, size_t bytes); /* longer datagrams are truncated */
int udp_set(struct udp *udp, enum udp_option option, int value);
int udp_get(const struct udp *udp, enum udp_option option); /* what it is, or -errno */

/* Interfaces are named, numbered or given by an address of theirs; "" leaves it to the system. */
int udp_join(struct udp *udp, const struct address *group, const char *interface, bool join);
int udp_set_interface(struct udp *udp, const char *interface);

#endif
