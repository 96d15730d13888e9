/* Allocation of small fixed things: succeeds or ends the program with one line. What a peer sizes
 * is not allocated here. */
#ifndef SKALD_BASE_MEMORY_H
#define SKALD_BASE_MEMORY_H

#include <stddef.h>

/* The struct of type `type` whose member `member` `pointer` points to. */
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

void *memory_new(size_t size); /* zeroed */
void *memory_grow(void *old, size_t count, size_t size);

#endif
