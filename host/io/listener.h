/* A listening socket: accepts in batches, refuses over its group's bounds, paces when descriptors
 * run out. */
#ifndef SKALD_IO_LISTENER_H
#define SKALD_IO_LISTENER_H

#include "io/loop.h"

struct address;
struct group;
struct listener;
struct transport_ops;

/* Each binds and listens, without accepting yet; the handle goes to *handle. 0 or -errno. */
int listener_tcp(struct loop *loop, struct group *group, const struct address *address, int backlog,
                 uint64_t *handle);
/* A socket file that nobody listens on any more is replaced; mode is applied before listening. */
int listener_unix(struct loop *loop, struct group *group, const char *path, unsigned mode,
                  int backlog, uint64_t *handle);

/* Takes connections from a listening socket that was handed to this process: a copy of the
 * descriptor, so that it can be taken again. 0, -EBADF, or -ENOTSOCK for what does not listen. */
int listener_adopt(struct loop *loop, struct group *group, int fd, uint64_t *handle);

struct listener *listener_find(struct loop *loop, uint64_t handle);
void listener_accept(struct listener *listener); /* starts accepting */
void listener_close(struct listener *listener);  /* unlinks its own socket file */

/* Takes the connections that wait in the kernel's queue, then closes; events->unlistened follows.
 */
void listener_finish(struct listener *listener);

/* From now on its connections belong to that group. */
void listener_move(struct listener *listener, struct group *group);

/* Sets the backlog and, for a Unix socket, the mode of its file. 0 or -errno. */
int listener_adjust(struct listener *listener, unsigned mode, int backlog);
int listener_host(const struct listener *listener, struct address *address, char *path,
                  size_t size);

#endif
