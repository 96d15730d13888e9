/* The bytes a connection still has to send: a queue of chunks that copied their bytes, or refer to
 * memory that someone keeps alive (an anchor says who), or are a part of a file. Knows no socket.
 */
#ifndef SKALD_BASE_CHUNKS_H
#define SKALD_BASE_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct chunk;

/* What the queues of one loop share: spare blocks, and the numbers of the anchors. */
struct chunk_pool {
    struct chunk *spare; /* owns; blocks of the common size, at most CHUNK_SPARES */
    uint32_t spares;
    uint32_t *free_anchors; /* owns; a stack */
    uint32_t free_count;
    uint32_t *released; /* owns; anchors whose bytes are sent, for anchors_drain */
    uint32_t released_count;
    uint32_t anchors;  /* numbers given out or released: 1 … anchors */
    uint32_t capacity; /* of both arrays */
};

struct chunk_queue {
    struct chunk *head;
    struct chunk *tail;
    size_t bytes;      /* all that is queued */
    size_t file_bytes; /* of these, in files: they take no memory */
};

/* A part of a file at the head of a queue; or a descriptor that goes with the next byte (`passes`,
 * and nothing else is set). */
struct file_part {
    int fd;
    bool passes;
    int error;      /* errno where it ended before its last byte, else 0 */
    int64_t offset; /* of what is left */
    size_t length;  /* that was asked for */
};

enum {
    CHUNK_BLOCK = 16384, /* the common size of a block of copied bytes, header included */
    CHUNK_SPARES = 32,
};

/* Copies the bytes. 0 or -ENOMEM (then nothing was queued). */
int queue_copy(struct chunk_queue *queue, struct chunk_pool *pool, const char *data, size_t length);
/* One behind the other; where it fails, the first may be queued. */
int queue_copy_pair(struct chunk_queue *queue, struct chunk_pool *pool, const char *data,
                    size_t length, const char *tail, size_t tail_length);

/* Refers to the bytes, which must stay where they are until the anchor is released. The anchor, or
 * 0 when memory is short (then nothing was queued). */
uint32_t queue_refer(struct chunk_queue *queue, struct chunk_pool *pool, const char *data,
                     size_t length);

/* Queues a part of a file. Takes the descriptor, unless it fails. 0, -ENOMEM, or -EINVAL right
 * behind a descriptor that goes with a byte. */
int queue_file(struct chunk_queue *queue, int fd, int64_t offset, size_t length);

/* Queues a descriptor that goes with the next byte. Takes it, unless it fails. 0 or -ENOMEM. */
int queue_pass(struct chunk_queue *queue, int fd);

/* The descriptors at the head of the queue that go with the next byte; how many, at most `max`. */
int queue_passed(const struct chunk_queue *queue, int *fds, int max);
bool queue_passes_last(const struct chunk_queue *queue); /* one waits for a byte to go with */

/* The file at the head of the queue, and how much of it is left in *left; NULL: that is no file.
 * One of which nothing is left stays there until queue_drop_file. */
struct file_part *queue_first_file(const struct chunk_queue *queue, size_t *left);

/* Drops the file at the head, with what is left of it, and closes it. */
void queue_drop_file(struct chunk_queue *queue, struct chunk_pool *pool);

/* Describes the first chunks, behind descriptors and as far as the next file or descriptor; how
 * many parts were filled, and their bytes.
 */
int queue_parts(const struct chunk_queue *queue, struct iovec *parts, int max, size_t *size);

/* Drops the first `length` bytes: they were sent, out of the parts or out of the file. */
void queue_consume(struct chunk_queue *queue, struct chunk_pool *pool, size_t length);

/* What is left waits for a slow peer: gives back the block that it fills only in small part. The
 * queue is not empty. */
void queue_settle(struct chunk_queue *queue, struct chunk_pool *pool);

void queue_clear(struct chunk_queue *queue, struct chunk_pool *pool);

/* Takes one released anchor, to be forgotten by who keeps it, or 0. */
uint32_t anchors_drain(struct chunk_pool *pool);

/* How many anchors are held. */
uint32_t anchors_held(const struct chunk_pool *pool);

void pool_free(struct chunk_pool *pool);

#endif
