/* The bytes a connection still has to send: a queue of chunks, copied, referred to, or in files. */
#include "base/chunks.h"

#include "base/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chunk {
    struct chunk *next;
    /* What is left: inside `block`, or borrowed from the anchor's keeper; NULL: `block` holds a
     * struct file_part, whose descriptor the chunk owns. */
    const char *data;
    size_t length;
    uint32_t capacity; /* of block, for bytes; 0: refers, or a file */
    uint32_t anchor;
    _Alignas(struct file_part) char block[];
};

enum {
    COMMON = CHUNK_BLOCK - (int)sizeof(struct chunk),
    LEAST = 512 - (int)sizeof(struct chunk),
};

static void chunk_link(struct chunk_queue *queue, struct chunk *chunk)
{
    chunk->next = NULL;
    if (queue->tail)
        queue->tail->next = chunk;
    else
        queue->head = chunk;
    queue->tail = chunk;
}

static struct chunk *chunk_new(uint32_t capacity)
{
    struct chunk *chunk = malloc(sizeof *chunk + capacity);
    if (chunk == NULL)
        return NULL;
    *chunk = (struct chunk){.data = chunk->block, .capacity = capacity};
    return chunk;
}

static struct chunk *block_take(struct chunk_pool *pool)
{
    struct chunk *chunk = pool->spare;
    if (chunk == NULL)
        return chunk_new(COMMON);
    pool->spare = chunk->next;
    pool->spares--;
    chunk->data = chunk->block;
    chunk->length = 0;
    return chunk;
}

static struct file_part *chunk_file(struct chunk *chunk)
{
    return chunk && chunk->data == NULL ? (struct file_part *)chunk->block : NULL;
}

static void chunk_release(struct chunk_pool *pool, struct chunk *chunk)
{
    struct file_part *file = chunk_file(chunk);
    if (file)
        close(file->fd);
    if (chunk->anchor)
        pool->released[pool->released_count++] = chunk->anchor;
    if (chunk->capacity == COMMON && pool->spares < CHUNK_SPARES) {
        chunk->next = pool->spare;
        pool->spare = chunk;
        pool->spares++;
    } else {
        free(chunk);
    }
}

static size_t chunk_room(const struct chunk *chunk)
{
    if (chunk == NULL || chunk->capacity == 0)
        return 0;
    return chunk->capacity - (size_t)(chunk->data - chunk->block) - chunk->length;
}

static void chunk_append(struct chunk *chunk, const char *data, size_t length)
{
    memcpy(chunk->block + (chunk->data - chunk->block) + chunk->length, data, length);
    chunk->length += length;
}

/* A block for at least `length` bytes. What is written first gets a common one, used again soon;
 * behind bytes that wait, blocks start small and double, since a slow peer may keep them long. */
static struct chunk *block_for(const struct chunk_queue *queue, struct chunk_pool *pool,
                               size_t length)
{
    size_t capacity = COMMON;
    if (queue->tail) {
        capacity = queue->tail->capacity * (size_t)2;
        capacity = capacity < LEAST ? LEAST : capacity > COMMON ? COMMON : capacity;
    }
    if (length > capacity)
        capacity = length;
    if (capacity == COMMON)
        return block_take(pool);
    return capacity < UINT32_MAX ? chunk_new((uint32_t)capacity) : NULL;
}

int queue_copy(struct chunk_queue *queue, struct chunk_pool *pool, const char *data, size_t length)
{
    size_t room = chunk_room(queue->tail);
    if (room < length) {
        size_t rest = length - room;
        struct chunk *more = block_for(queue, pool, rest);
        if (more == NULL)
            return -ENOMEM;
        chunk_append(more, data + room, rest);
        if (room)
            chunk_append(queue->tail, data, room);
        chunk_link(queue, more);
    } else {
        chunk_append(queue->tail, data, length);
    }
    queue->bytes += length;
    return 0;
}

int queue_copy_pair(struct chunk_queue *queue, struct chunk_pool *pool, const char *data,
                    size_t length, const char *tail, size_t tail_length)
{
    size_t total = length + tail_length;
    if (total == 0 || chunk_room(queue->tail) < total) {
        if (length > 0 && queue_copy(queue, pool, data, length) < 0)
            return -ENOMEM;
        return tail_length > 0 ? queue_copy(queue, pool, tail, tail_length) : 0;
    }
    struct chunk *chunk = queue->tail;
    char *end = chunk->block + (chunk->data - chunk->block) + chunk->length;
    memcpy(end, data, length);
    memcpy(end + length, tail, tail_length);
    chunk->length += total;
    queue->bytes += total;
    return 0;
}

static uint32_t anchor_take(struct chunk_pool *pool)
{
    if (pool->free_count)
        return pool->free_anchors[--pool->free_count];
    if (pool->anchors == pool->capacity) {
        pool->capacity = pool->capacity ? pool->capacity * 2 : 64;
        pool->free_anchors =
            memory_grow(pool->free_anchors, pool->capacity, sizeof *pool->free_anchors);
        pool->released = memory_grow(pool->released, pool->capacity, sizeof *pool->released);
    }
    return ++pool->anchors;
}

uint32_t queue_refer(struct chunk_queue *queue, struct chunk_pool *pool, const char *data,
                     size_t length)
{
    struct chunk *chunk = chunk_new(0);
    if (chunk == NULL)
        return 0;
    chunk->data = data;
    chunk->length = length;
    chunk->anchor = anchor_take(pool);
    chunk_link(queue, chunk);
    queue->bytes += length;
    return chunk->anchor;
}

static int add_part(struct chunk_queue *queue, const struct file_part *part)
{
    struct chunk *chunk = malloc(sizeof *chunk + sizeof *part);
    if (chunk == NULL)
        return -ENOMEM;
    *chunk = (struct chunk){.length = part->length};
    *(struct file_part *)chunk->block = *part;
    chunk_link(queue, chunk);
    queue->bytes += part->length;
    queue->file_bytes += part->length;
    return 0;
}

static bool chunk_passes(struct chunk *chunk)
{
    const struct file_part *part = chunk_file(chunk);
    return part && part->passes;
}

int queue_file(struct chunk_queue *queue, int fd, int64_t offset, size_t length)
{
    if (chunk_passes(queue->tail))
        return -EINVAL;
    return add_part(queue, &(struct file_part){.fd = fd, .offset = offset, .length = length});
}

int queue_pass(struct chunk_queue *queue, int fd)
{
    return add_part(queue, &(struct file_part){.fd = fd, .passes = true});
}

int queue_passed(const struct chunk_queue *queue, int *fds, int max)
{
    int n = 0;
    for (struct chunk *chunk = queue->head; n < max && chunk_passes(chunk); chunk = chunk->next)
        fds[n++] = chunk_file(chunk)->fd;
    return n;
}

bool queue_passes_last(const struct chunk_queue *queue)
{
    return chunk_passes(queue->tail);
}

struct file_part *queue_first_file(const struct chunk_queue *queue, size_t *left)
{
    struct file_part *file = chunk_file(queue->head);
    if (file == NULL || file->passes)
        return NULL;
    *left = queue->head->length;
    return file;
}

/* The head, when it is done with. */
static void queue_pop(struct chunk_queue *queue, struct chunk_pool *pool)
{
    struct chunk *chunk = queue->head;
    queue->head = chunk->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    chunk_release(pool, chunk);
}

void queue_drop_file(struct chunk_queue *queue, struct chunk_pool *pool)
{
    queue->bytes -= queue->head->length;
    queue->file_bytes -= queue->head->length;
    queue_pop(queue, pool);
}

int queue_parts(const struct chunk_queue *queue, struct iovec *parts, int max, size_t *size)
{
    int n = 0;
    struct chunk *chunk = queue->head;
    *size = 0;
    while (chunk_passes(chunk))
        chunk = chunk->next;
    for (; chunk && chunk->data && n < max; chunk = chunk->next) {
        parts[n++] = (struct iovec){(void *)chunk->data, chunk->length};
        *size += chunk->length;
    }
    return n;
}

/* A file stays, to be told of, and what is sent ends there. */
static bool consume_file(struct chunk_queue *queue, size_t length)
{
    struct file_part *file = chunk_file(queue->head);
    if (file == NULL)
        return false;
    queue->file_bytes -= length;
    queue->head->length -= length;
    file->offset += (int64_t)length;
    return true;
}

void queue_consume(struct chunk_queue *queue, struct chunk_pool *pool, size_t length)
{
    queue->bytes -= length;
    while (length > 0 && chunk_passes(queue->head))
        queue_pop(queue, pool);
    if (consume_file(queue, length))
        return;
    while (queue->head && queue->head->data && length >= queue->head->length) {
        length -= queue->head->length;
        queue_pop(queue, pool);
    }
    if (length == 0)
        return;
    queue->head->data += length;
    queue->head->length -= length;
}

void queue_settle(struct chunk_queue *queue, struct chunk_pool *pool)
{
    struct chunk *tail = queue->tail;
    if (tail != queue->head || tail->data == NULL || tail->length * 2 > tail->capacity)
        return;
    struct chunk *small = chunk_new((uint32_t)tail->length);
    if (small == NULL)
        return;
    chunk_append(small, tail->data, tail->length);
    chunk_release(pool, tail);
    queue->head = queue->tail = NULL;
    chunk_link(queue, small);
}

void queue_clear(struct chunk_queue *queue, struct chunk_pool *pool)
{
    while (queue->head)
        queue_pop(queue, pool);
    *queue = (struct chunk_queue){0};
}

uint32_t anchors_drain(struct chunk_pool *pool)
{
    if (pool->released_count == 0)
        return 0;
    uint32_t anchor = pool->released[--pool->released_count];
    pool->free_anchors[pool->free_count++] = anchor;
    return anchor;
}

uint32_t anchors_held(const struct chunk_pool *pool)
{
    return pool->anchors - pool->free_count - pool->released_count;
}

void pool_free(struct chunk_pool *pool)
{
    while (pool->spare) {
        struct chunk *chunk = pool->spare;
        pool->spare = chunk->next;
        free(chunk);
    }
    free(pool->free_anchors);
    free(pool->released);
    *pool = (struct chunk_pool){0};
}
