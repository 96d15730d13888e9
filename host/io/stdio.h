/* Standard input and output as a connection. */
#ifndef SKALD_IO_STDIO_H
#define SKALD_IO_STDIO_H

#include <stdbool.h>
#include <stdint.h>

struct group;
struct loop;

/* Takes both away: from here on whatever else reads finds nothing, and whatever else prints does so
 * on standard error. 0, or -errno: -EBUSY where they are taken. */
int stdio_take(struct loop *loop);

/* Puts them back, where no connection has come of them. */
void stdio_release(struct loop *loop);

/* Makes them a connection of the group: events->connected follows. 0 or -errno. */
int stdio_connect(struct loop *loop, struct group *group, uint64_t *handle);

/* Whether standard input is a socket: then the connection's addresses are those of that. */
bool stdio_is_socket(const struct loop *loop);

#endif
