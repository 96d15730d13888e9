/* Small blocks of memory by size. */
#include "base/cells.h"

#include <sys/mman.h>

enum {
    WARM = 128,  /* free pages that keep their memory: 2 MB */
    STEP = 4096, /* pages that are opened at once; of theirs, both parts fit the system's pages */
    ADDRESS_BITS = 47, /* that LuaJIT has for an address */
};

static const uint32_t NONE = UINT32_MAX;
static const size_t RANGE = (size_t)1 << CELLS_RANGE;
static const size_t PAGES = ((size_t)1 << CELLS_RANGE) / CELLS_PAGE;

/* Bytes of addresses. */
static size_t reserved(void)
{
    return PAGES * sizeof(struct cells_page) + RANGE;
}

void cells_open(struct cells *cells)
{
    *cells = (struct cells){.warm = NONE, .cold = NONE};
    for (int i = 0; i < CELLS_KINDS; i++)
        cells->kinds[i] =
            (struct cells_kind){.page = NONE, .word = CELLS_WORDS, .first = NONE, .last = NONE};
    char *range =
        mmap(NULL, reserved(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return;
    if (((uintptr_t)range + reserved()) >> ADDRESS_BITS) {
        munmap(range, reserved());
        return;
    }
#ifdef MADV_NOHUGEPAGE
    madvise(range, reserved(), MADV_NOHUGEPAGE); /* 2 MB for the first cell, and none comes back */
#endif
    cells->pages = (struct cells_page *)(void *)range;
    cells->base = range + PAGES * sizeof(struct cells_page);
    cells->most = (uint32_t)PAGES;
}

void cells_close(struct cells *cells)
{
    if (cells->base)
        munmap(cells->pages, reserved());
    cells->base = NULL;
}

/* --- pages ---------------------------------------------------------------------------------- */

static char *page_start(const struct cells *cells, uint32_t page)
{
    return cells->base + (size_t)page * CELLS_PAGE;
}

static uint32_t pop(struct cells *cells, uint32_t *list)
{
    uint32_t page = *list;
    if (page != NONE)
        *list = cells->pages[page].next;
    return page;
}

static bool is_opened(char *start, size_t size)
{
    return mprotect(start, size, PROT_READ | PROT_WRITE) == 0;
}

/* The next pages may be touched from now on, which is when their memory comes; so the system
 * answers for no more than is used. */
static void open_more(struct cells *cells)
{
    if (is_opened((char *)&cells->pages[cells->opened], STEP * sizeof *cells->pages) &&
        is_opened(page_start(cells, cells->opened), (size_t)STEP * CELLS_PAGE))
        cells->opened += STEP;
    else
        cells->most = cells->opened; /* it is not asked again */
}

static uint32_t page_find(struct cells *cells)
{
    uint32_t page = pop(cells, &cells->warm);
    if (page != NONE) {
        cells->warm_count--;
        return page;
    }
    page = pop(cells, &cells->cold);
    if (page == NONE && cells->count == cells->opened && cells->count < cells->most)
        open_more(cells);
    if (page == NONE && cells->count < cells->opened)
        page = cells->count++;
    return page;
}

/* An empty page for cells of this kind, all free. */
static uint32_t page_new(struct cells *cells, unsigned kind)
{
    uint32_t found = page_find(cells);
    if (found == NONE)
        return NONE;
    struct cells_page *page = &cells->pages[found];
    page->kind = (uint8_t)kind;
    page->held = 0;
    for (int i = 0; i < CELLS_WORDS; i++)
        page->map[i] = 0;
    for (unsigned at = 0; at + kind < CELLS_PAGE / CELLS_GRAIN; at += kind + 1)
        page->map[at / 64] |= (uint64_t)1 << at % 64;
    return found;
}

/* The last ones freed are used first; past so many, the system gets the memory back. */
static void page_release(struct cells *cells, uint32_t number)
{
    struct cells_page *page = &cells->pages[number];
    page->state = CELLS_FREE;
    bool is_cold = cells->warm_count >= WARM &&
                   madvise(page_start(cells, number), CELLS_PAGE, MADV_DONTNEED) == 0;
    uint32_t *list = is_cold ? &cells->cold : &cells->warm;
    page->next = *list;
    *list = number;
    cells->warm_count += !is_cold;
}

/* --- pages that wait: in the order in which a first cell of each was freed -------------------- */

static void page_wait(struct cells *cells, uint32_t number)
{
    struct cells_page *page = &cells->pages[number];
    struct cells_kind *kind = &cells->kinds[page->kind];
    page->state = CELLS_WAITING;
    page->next = NONE;
    page->previous = kind->last;
    *(kind->last == NONE ? &kind->first : &cells->pages[kind->last].next) = number;
    kind->last = number;
}

static void page_unwait(struct cells *cells, uint32_t number)
{
    struct cells_page *page = &cells->pages[number];
    struct cells_kind *kind = &cells->kinds[page->kind];
    *(page->previous == NONE ? &kind->first : &cells->pages[page->previous].next) = page->next;
    *(page->next == NONE ? &kind->last : &cells->pages[page->next].previous) = page->previous;
}

/* --- cells ---------------------------------------------------------------------------------- */

/* The current page has been gone through; cells at its beginning may be free again. */
static void page_leave(struct cells *cells, uint32_t number)
{
    struct cells_page *page = &cells->pages[number];
    uint64_t any = 0;
    for (int i = 0; i < CELLS_WORDS; i++)
        any |= page->map[i];
    page->state = CELLS_FULL;
    if (page->held == 0)
        page_release(cells, number);
    else if (any)
        page_wait(cells, number);
}

/* The page that cells of this kind are taken from next: one that waits, or an empty one. */
static bool next_page(struct cells *cells, struct cells_kind *kind, unsigned index)
{
    uint32_t left = kind->page;
    kind->page = NONE;
    if (left != NONE)
        page_leave(cells, left);
    uint32_t found = kind->first;
    if (found != NONE)
        page_unwait(cells, found);
    else
        found = page_new(cells, index);
    kind->page = found;
    kind->word = 0;
    if (found == NONE)
        return false;
    cells->pages[found].state = CELLS_CURRENT;
    return true;
}

/* Takes the bits of the next word with free cells; false: there is no memory. */
static bool next_word(struct cells *cells, struct cells_kind *kind, unsigned index)
{
    for (;;) {
        bool over = kind->page == NONE || kind->word == CELLS_WORDS;
        if (over && !next_page(cells, kind, index))
            return false;
        struct cells_page *page = &cells->pages[kind->page];
        uint32_t word = kind->word++;
        if (page->map[word] != 0) {
            kind->bits = page->map[word];
            kind->start = page_start(cells, kind->page) + (size_t)word * 64 * CELLS_GRAIN;
            page->map[word] = 0;
            page->held += (uint16_t)__builtin_popcountll(kind->bits);
            return true;
        }
    }
}

void *cells_take(struct cells *cells, size_t size)
{
    unsigned index = (unsigned)(size - 1) / CELLS_GRAIN;
    struct cells_kind *kind = &cells->kinds[index];
    if (kind->bits == 0 && !next_word(cells, kind, index))
        return NULL;
    unsigned at = (unsigned)__builtin_ctzll(kind->bits);
    kind->bits &= kind->bits - 1;
    return kind->start + at * CELLS_GRAIN;
}

void cells_put(struct cells *cells, void *cell)
{
    size_t offset = (size_t)((char *)cell - cells->base);
    size_t at = offset % CELLS_PAGE / CELLS_GRAIN;
    uint32_t number = (uint32_t)(offset / CELLS_PAGE);
    struct cells_page *page = &cells->pages[number];
    page->map[at / 64] |= (uint64_t)1 << at % 64;
    page->held--;
    if (page->state == CELLS_FULL)
        page_wait(cells, number);
    if (page->held == 0 && page->state == CELLS_WAITING) {
        page_unwait(cells, number);
        page_release(cells, number);
    }
}

bool cells_fit(const struct cells *cells, const void *cell, size_t size)
{
    size_t offset = (size_t)((const char *)cell - cells->base);
    return (size - 1) / CELLS_GRAIN == cells->pages[offset / CELLS_PAGE].kind;
}
