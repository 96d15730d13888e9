/* Cells: no two overlap, what is freed is used again, empty pages serve other sizes. */
#include "base/cells.h"

#include "check.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static struct cells cells;

static void test_sizes(void)
{
    unsigned char *of[CELLS_MOST + 1];
    cells_open(&cells);
    for (size_t size = 1; size <= CELLS_MOST; size++) {
        of[size] = cells_take(&cells, size);
        CHECK(of[size] != NULL && cells_have(&cells, of[size]));
        CHECK((uintptr_t)of[size] % CELLS_GRAIN == 0);
        memset(of[size], (int)(size % 251), size);
    }
    for (size_t size = 1; size <= CELLS_MOST; size++) {
        for (size_t i = 0; i < size; i++)
            CHECK(of[size][i] == size % 251);
        CHECK(cells_fit(&cells, of[size], size));
        CHECK(!cells_fit(&cells, of[size], size + CELLS_GRAIN));
        CHECK(size <= CELLS_GRAIN || !cells_fit(&cells, of[size], size - CELLS_GRAIN));
        cells_put(&cells, of[size]);
    }
    CHECK(!cells_have(&cells, &cells));
    cells_close(&cells);
}

/* Takes and puts in no order; each cell is filled with a number of its own, which must stay. */
static void test_churn(void)
{
    enum { COUNT = 20000, ROUNDS = 400000 };
    struct held {
        uint32_t *cell;
        size_t size;
    } *held = calloc(COUNT, sizeof *held);
    uint32_t random = 1;
    cells_open(&cells);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        random = random * 1664525 + 1013904223;
        struct held *one = &held[(random >> 8) % COUNT];
        if (one->cell) {
            CHECK(one->cell[0] == (uint32_t)(one - held));
            CHECK(one->cell[one->size / 4 - 1] == (uint32_t)(one - held));
            cells_put(&cells, one->cell);
            one->cell = NULL;
            continue;
        }
        one->size = 4 + (random >> 24) % (CELLS_MOST - 7);
        one->cell = cells_take(&cells, one->size);
        CHECK(one->cell != NULL);
        one->cell[0] = one->cell[one->size / 4 - 1] = (uint32_t)(one - held);
    }
    for (int i = 0; i < COUNT; i++)
        if (held[i].cell)
            cells_put(&cells, held[i].cell);
    free(held);
    cells_close(&cells);
}

/* So many cells of one size, all freed again, in the order of `step`. */
static void fill_and_free(size_t size, int count, int step)
{
    void **of = calloc((size_t)count, sizeof *of);
    for (int i = 0; i < count; i++)
        CHECK((of[i] = cells_take(&cells, size)) != NULL);
    for (int i = 0, at = 0; i < count; i++, at = (at + step) % count)
        cells_put(&cells, of[at]);
    free(of);
}

static void test_reuse(void)
{
    enum { COUNT = 100003 }; /* a prime: steps of any size come to each */
    cells_open(&cells);
    fill_and_free(64, COUNT, 1);
    uint32_t most = cells.count;
    CHECK(most >= COUNT * 64 / CELLS_PAGE && most < COUNT * 64 / CELLS_PAGE + 10);
    for (int i = 0; i < 10; i++)
        fill_and_free(64, COUNT, 7919);
    CHECK(cells.count <= most + 1);
    fill_and_free(32, COUNT, 1); /* what was empty serves another size */
    CHECK(cells.count <= most + 1);
    CHECK(cells.warm_count <= 128);
    cells_close(&cells);
}

/* A page with a cell in it stays; the others go. */
static void test_one_that_stays(void)
{
    cells_open(&cells);
    for (int i = 0; i < 1000; i++)
        CHECK(cells_take(&cells, 256) != NULL);
    char *stays = cells_take(&cells, 256);
    strcpy(stays, "here");
    fill_and_free(256, 50000, 1);
    fill_and_free(16, 50000, 1);
    CHECK(strcmp(stays, "here") == 0);
    cells_close(&cells);
}

static void test_no_addresses(void)
{
    struct rlimit limit = {.rlim_cur = 1 << 28, .rlim_max = RLIM_INFINITY}, before;
    getrlimit(RLIMIT_AS, &before);
    limit.rlim_max = before.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    cells_open(&cells);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    CHECK(cells_take(&cells, 16) == NULL && cells_take(&cells, 16) == NULL);
    CHECK(!cells_have(&cells, &cells) && !cells_have(&cells, NULL));
    cells_close(&cells);
}

/* A number of KB, of /proc/self/status. */
static unsigned long status_of(const char *name)
{
    char line[256];
    unsigned long value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtoul(line + strlen(name), NULL, 10);
    fclose(file);
    return value;
}

/* What a limit of memory (or a system that promises no more than it has) refuses is no address. */
static void test_limit_of_memory(void)
{
    enum { MORE = 1 << 28, COUNT = MORE / CELLS_MOST };
    struct rlimit limit, before;
    getrlimit(RLIMIT_DATA, &before);
    limit = before;
    limit.rlim_cur = ((rlim_t)status_of("VmData:") << 10) + MORE;
    CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
    cells_open(&cells);
    int count = 0;
    while (count < COUNT && cells_take(&cells, CELLS_MOST) != NULL)
        count++;
    CHECK(count > COUNT / 2 && count < COUNT);
    CHECK(cells_take(&cells, CELLS_MOST) == NULL && cells_take(&cells, 16) == NULL);
    CHECK(setrlimit(RLIMIT_DATA, &before) == 0);
    cells_put(&cells, cells.base);
    CHECK(cells_take(&cells, CELLS_MOST) == cells.base);
    cells_close(&cells);
}

/* The flags of the mapping of an address, as /proc/self/smaps has them. */
static void flags_of(const void *address, char *flags, size_t size)
{
    char line[512];
    bool here = false;
    unsigned long from, to;
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    flags[0] = '\0';
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = (uintptr_t)address >= from && (uintptr_t)address < to;
        else if (here && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(flags, size, "%s", line + 8);
    }
    fclose(file);
}

static void test_small_pages(void)
{
    char flags[512];
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) < 0)
        return;
    cells_open(&cells);
    flags_of(cells_take(&cells, 16), flags, sizeof flags);
    CHECK(strstr(flags, " nh") != NULL);
    flags_of(cells.pages, flags, sizeof flags);
    CHECK(strstr(flags, " nh") != NULL);
    cells_close(&cells);
}

int main(void)
{
    static const struct test tests[] = {
        {"cells of each size are aligned, apart, and known by their address", test_sizes},
        {"what is taken and freed in no order keeps what was written there", test_churn},
        {"what was freed is used again, also for another size", test_reuse},
        {"a cell stays while those around it go", test_one_that_stays},
        {"where addresses are refused there are no cells", test_no_addresses},
        {"a limit of memory bounds the cells, and not the addresses", test_limit_of_memory},
        {"the system makes no huge pages of few cells", test_small_pages},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
