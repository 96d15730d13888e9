/* The chunk queue: order, cuts, anchors, what a slow peer may make it hold. */
#include "base/chunks.h"

#include "check.h"

#include <fcntl.h>
#include <stdlib.h>

static struct chunk_pool pool;

/* Takes `length` bytes off the front into `out`. */
static void take(struct chunk_queue *queue, char *out, size_t length)
{
    struct iovec parts[8];
    size_t done = 0;
    while (done < length) {
        size_t size, now = 0;
        int count = queue_parts(queue, parts, 8, &size);
        for (int i = 0; i < count && done + now < length; i++) {
            size_t n = parts[i].iov_len;
            n = n < length - done - now ? n : length - done - now;
            memcpy(out + done + now, parts[i].iov_base, n);
            now += n;
        }
        queue_consume(queue, &pool, now);
        if (queue->bytes > 0)
            queue_settle(queue, &pool);
        done += now;
    }
}

static char pattern(size_t i)
{
    return (char)(i * 7 + i / 251);
}

static void test_order(void)
{
    static const size_t cuts[] = {1, 7, 64, 1000, 16000, 16384, 40000, 99999};
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        struct chunk_queue queue = {0};
        size_t total = 200000, done = 0;
        char *in = malloc(total), *out = malloc(total);
        for (size_t i = 0; i < total; i++)
            in[i] = pattern(i);
        for (size_t at = 0; at < total;) {
            size_t n = total - at < cuts[c] ? total - at : cuts[c];
            CHECK(queue_copy(&queue, &pool, in + at, n) == 0);
            at += n;
            size_t now = n / 2 < queue.bytes ? n / 2 : queue.bytes;
            take(&queue, out + done, now);
            done += now;
        }
        CHECK(queue.bytes == total - done);
        take(&queue, out + done, total - done);
        CHECK(memcmp(in, out, total) == 0);
        CHECK(queue.bytes == 0 && queue.head == NULL && queue.tail == NULL);
        free(in);
        free(out);
    }
}

/* Pairs that fit into a block, that end with it, and that go across. */
static void test_pairs(void)
{
    static const size_t sizes[] = {0, 1, 2, 64, 1000, 5000, 16000, 20000};
    enum { KINDS = sizeof sizes / sizeof *sizes };
    struct chunk_queue queue = {0};
    char in[40000], out[40000];
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = pattern(i);
    for (size_t i = 0; i < (size_t)KINDS * KINDS * 3; i++) {
        size_t first = sizes[i % KINDS], second = sizes[i / KINDS % KINDS];
        size_t kept = queue.bytes, total = first + second;
        CHECK(queue_copy_pair(&queue, &pool, in, first, in + first, second) == 0);
        CHECK(queue.bytes == kept + total);
        take(&queue, out, kept);
        take(&queue, out, total - total / 3);
        CHECK(memcmp(in, out, total - total / 3) == 0);
        take(&queue, out, queue.bytes);
        CHECK(queue_copy(&queue, &pool, "rest", 1 + i % 4) == 0);
    }
    queue_clear(&queue, &pool);
}

static void test_refer(void)
{
    static const char poem[] = "Nothing beside remains.";
    struct chunk_queue queue = {0};
    char out[64] = {0};
    CHECK(queue_copy(&queue, &pool, "<", 1) == 0);
    uint32_t anchor = queue_refer(&queue, &pool, poem, strlen(poem));
    CHECK(anchor != 0);
    CHECK(queue_copy(&queue, &pool, ">", 1) == 0);
    CHECK(anchors_held(&pool) == 1);
    take(&queue, out, 10);
    CHECK(anchors_drain(&pool) == 0);
    take(&queue, out + 10, strlen(poem) - 9);
    CHECK(anchors_drain(&pool) == anchor);
    CHECK(anchors_held(&pool) == 0);
    take(&queue, out + strlen(poem) + 1, 1);
    CHECK_TEXT(out, "<Nothing beside remains.>");
}

static void test_anchors(void)
{
    struct chunk_queue queue = {0};
    enum { MANY = 1000 };
    char seen[MANY + 1] = {0};
    for (int i = 0; i < MANY; i++) {
        uint32_t anchor = queue_refer(&queue, &pool, "x", 1);
        CHECK(anchor >= 1 && anchor <= MANY && !seen[anchor]);
        seen[anchor <= MANY ? anchor : 0] = 1;
    }
    CHECK(anchors_held(&pool) == MANY);
    queue_clear(&queue, &pool);
    CHECK(anchors_held(&pool) == 0);
    int drained = 0;
    while (anchors_drain(&pool))
        drained++;
    CHECK(drained == MANY);
    CHECK(queue.bytes == 0);
}

static void test_parts_bound(void)
{
    struct chunk_queue queue = {0};
    struct iovec parts[3];
    size_t size;
    for (int i = 0; i < 10; i++)
        queue_refer(&queue, &pool, "ab", 2);
    CHECK(queue_parts(&queue, parts, 3, &size) == 3 && size == 6);
    CHECK(parts[2].iov_len == 2);
    queue_clear(&queue, &pool);
    while (anchors_drain(&pool))
        ;
}

static void test_slow_peer(void)
{
    struct chunk_queue queue = {0};
    char byte = 'x', out;
    queue_copy(&queue, &pool, "0123456789", 10);
    take(&queue, &out, 1);
    unsigned spares = pool.spares;
    CHECK(spares >= 1); /* the block of 16 KiB went back, 9 bytes stayed */
    queue_copy(&queue, &pool, &byte, 1);
    CHECK(pool.spares == spares); /* and what comes behind them takes a small block */
    queue_clear(&queue, &pool);
}

static void test_spares(void)
{
    struct chunk_queue queue = {0};
    char *bytes = calloc(1, CHUNK_BLOCK);
    for (int i = 0; i < 3 * CHUNK_SPARES; i++)
        queue_copy(&queue, &pool, bytes, CHUNK_BLOCK / 2);
    queue_clear(&queue, &pool);
    CHECK(pool.spares <= CHUNK_SPARES);
    free(bytes);
}

static int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void test_file(void)
{
    struct chunk_queue queue = {0};
    struct iovec parts[4];
    size_t size, left = 0;
    int fd = open("/dev/null", O_RDONLY), second = open("/dev/null", O_RDONLY);
    queue_copy(&queue, &pool, "head", 4);
    CHECK(queue_file(&queue, fd, 100, 10) == 0);
    queue_copy(&queue, &pool, "tail", 4);
    CHECK(queue_file(&queue, second, 0, 5) == 0);
    CHECK(queue.bytes == 23 && queue.file_bytes == 15);
    CHECK(queue_first_file(&queue, &left) == NULL);
    CHECK(queue_parts(&queue, parts, 4, &size) == 1 && size == 4);
    queue_consume(&queue, &pool, 4);
    struct file_part *file = queue_first_file(&queue, &left);
    CHECK(file && file->fd == fd && file->offset == 100 && file->length == 10 && left == 10);
    queue_settle(&queue, &pool);
    CHECK(queue_parts(&queue, parts, 4, &size) == 0 && size == 0);
    queue_consume(&queue, &pool, 7);
    CHECK(queue_first_file(&queue, &left) == file && file->offset == 107 && left == 3);
    queue_consume(&queue, &pool, 3);
    CHECK(queue_first_file(&queue, &left) == file && left == 0); /* stays, to be told of */
    CHECK(queue.bytes == 9 && queue.file_bytes == 5);
    queue_drop_file(&queue, &pool);
    CHECK(!is_open(fd));
    CHECK(queue_parts(&queue, parts, 4, &size) == 1 && size == 4);
    queue_consume(&queue, &pool, 4);
    queue_consume(&queue, &pool, 1);
    queue_drop_file(&queue, &pool); /* with what is left of it */
    CHECK(!is_open(second));
    CHECK(queue.bytes == 0 && queue.file_bytes == 0 && queue.head == NULL && queue.tail == NULL);
    fd = open("/dev/null", O_RDONLY);
    CHECK(queue_file(&queue, fd, 0, 5) == 0);
    queue_clear(&queue, &pool);
    CHECK(!is_open(fd) && queue.file_bytes == 0);
}

int main(void)
{
    static const struct test tests[] = {
        {"bytes come out in the order they went in, however they are cut", test_order},
        {"of a pair one string comes behind the other, wherever a block ends", test_pairs},
        {"referred bytes stand in their place, and their anchor is released when they are sent",
         test_refer},
        {"anchors are small, distinct and used again", test_anchors},
        {"no more parts are described than asked for", test_parts_bound},
        {"a slow peer's few bytes do not hold a whole block", test_slow_peer},
        {"a file stands in its place, is sent by parts, and is closed when it is dropped",
         test_file},
        {"spare blocks are bounded", test_spares},
    };
    int status = check_all(tests, sizeof tests / sizeof *tests);
    pool_free(&pool);
    return status;
}
