/* The bytes a connection still has to send: a queue of chunks, copied or referred to. */
#include "base/chunks.h"

#include "base/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct chunk {
    struct chunk *next;
    const char *data; /* what is left: inside `block`, or borrowed from the anchor's keeper */
    size_t length;
    uint32_t capacity; /* of block; 0: refers */
    uint32_t anchor;
    char block[];
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

static void chunk_release(struct chunk_pool *pool, struct chunk *chunk)
{
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

int queue_parts(const struct chunk_queue *queue, struct iovec *parts, int max, size_t *size)
{
    int n = 0;
    *size = 0;
    for (struct chunk *chunk = queue->head; chunk && n < max; chunk = chunk->next) {
        parts[n++] = (struct iovec){(void *)chunk->data, chunk->length};
        *size += chunk->length;
    }
    return n;
}

void queue_consume(struct chunk_queue *queue, struct chunk_pool *pool, size_t length)
{
    queue->bytes -= length;
    while (queue->head && length >= queue->head->length) {
        struct chunk *chunk = queue->head;
        length -= chunk->length;
        queue->head = chunk->next;
        chunk_release(pool, chunk);
    }
    if (queue->head == NULL) {
        queue->tail = NULL;
        return;
    }
    queue->head->data += length;
    queue->head->length -= length;
}

void queue_settle(struct chunk_queue *queue, struct chunk_pool *pool)
{
    struct chunk *tail = queue->tail;
    if (tail != queue->head || tail->length * 2 > tail->capacity)
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
    while (queue->head) {
        struct chunk *chunk = queue->head;
        queue->head = chunk->next;
        chunk_release(pool, chunk);
    }
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
