/* The table of peers against a plain count. */
#include "base/peers.h"

#include "check.h"

static struct address address_of(unsigned i)
{
    struct address address = {.family = 2, .bytes = {10, (uint8_t)(i >> 8), (uint8_t)i}};
    return address;
}

static void test_counts(void)
{
    enum { MANY = 700 };
    struct peers peers = {0};
    uint32_t counts[MANY] = {0};
    uint32_t random = 99;
    for (int step = 0; step < 50000; step++) {
        random = random * 1664525 + 1013904223;
        unsigned i = (random >> 8) % MANY;
        struct address address = address_of(i);
        if (counts[i] && random >> 31) {
            peers_remove(&peers, &address);
            counts[i]--;
        } else if (counts[i] < 3) {
            peers_add(&peers, &address);
            counts[i]++;
        }
    }
    uint32_t different = 0;
    for (unsigned i = 0; i < MANY; i++) {
        struct address address = address_of(i);
        CHECK(peers_count(&peers, &address) == counts[i]);
        different += counts[i] > 0;
    }
    CHECK(peers.count == different);
    peers_free(&peers);
}

static void test_empty(void)
{
    struct peers peers = {0};
    struct address address = address_of(1);
    CHECK(peers_count(&peers, &address) == 0);
    peers_remove(&peers, &address);
    CHECK(peers.count == 0);
    peers_free(&peers);
}

int main(void)
{
    static const struct test tests[] = {
        {"each peer's connections are counted, whatever comes and goes", test_counts},
        {"an empty table knows nobody", test_empty},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
