/* Host names looked up without waiting: the hosts file first, then the name servers. One look-up
 * asks for the addresses of both families, each of which ends by itself. */
#ifndef SKALD_IO_RESOLVER_H
#define SKALD_IO_RESOLVER_H

#include <stdbool.h>
#include <stdint.h>

struct address;
struct loop;

/* A set of families; the numbers stand in scripts/skald/resolver.lua too. */
enum lookup_family { LOOKUP_IPV6 = 1, LOOKUP_IPV4 = 2 };

/* Asks the servers ("127.0.0.1:5353,[::1]:53"; NULL: the system's) for a name that is no literal.
 * 0 or -errno. From then on each family ends with one `resolved` event, never within this call;
 * after the last one the handle finds nothing. */
int lookup_start(struct loop *loop, const char *name, int families, const char *servers,
                 uint64_t *handle);

/* Ends it, and nothing is told any more; for a handle that finds nothing too. */
void lookup_cancel(struct loop *loop, uint64_t handle);

/* While a `resolved` event runs: the next address of that family; false: that was the last. */
bool lookup_next(struct loop *loop, uint64_t handle, struct address *address);

#endif
