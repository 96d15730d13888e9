/* Outgoing connections. Each call gives 0 and a handle, or a negative errno; then either
 * events->connected or events->unconnected follows, once, never before the caller has returned. */
#ifndef SKALD_IO_DIAL_H
#define SKALD_IO_DIAL_H

#include <stdint.h>

struct address;
struct group;
struct loop;

/* From `local`, where that is not NULL; a port of 0 in it is any. */
int dial_tcp(struct loop *loop, struct group *group, const struct address *address,
             const struct address *local, uint64_t *handle);

/* -EAGAIN: the listener's queue is full. */
int dial_unix(struct loop *loop, struct group *group, const char *path, uint64_t *handle);

/* Stops connecting; no event follows. A handle that is connected, or gone, is left alone. */
void dial_cancel(struct loop *loop, uint64_t handle);

#endif
