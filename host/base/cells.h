/* Small blocks of memory by size: each page holds blocks of one size, and a bit for each that is
 * free stands elsewhere. So to free a block touches nothing of it nor of its neighbours, and those
 * that come next lie one behind the other. All lie in one range of addresses, reserved at once:
 * what is not in it is somebody else's. */
#ifndef SKALD_BASE_CELLS_H
#define SKALD_BASE_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CELLS_MOST = 256, /* bytes of the largest */
    CELLS_GRAIN = 16, /* a cell's size is a multiple of it */
    CELLS_KINDS = CELLS_MOST / CELLS_GRAIN,
    CELLS_PAGE = 16384,
    CELLS_RANGE = 32, /* bits of an address within the range */
    CELLS_WORDS = CELLS_PAGE / CELLS_GRAIN / 64,
};

/* A page is free, or what cells are taken from, or waits with some of its cells free, or has none.
 */
enum cells_state { CELLS_FREE, CELLS_CURRENT, CELLS_WAITING, CELLS_FULL };

struct cells_page {
    uint64_t map[CELLS_WORDS]; /* bits at the beginnings of cells that are free */
    uint32_t next, previous;   /* of those that wait, or are free: numbers; see CELLS_NONE */
    uint16_t held;             /* cells whose bit is not in the map */
    uint8_t kind, state;
};

/* What the cells of one size are taken from. */
struct cells_kind {
    uint64_t bits;        /* free cells, taken off a word of the current page's map */
    char *start;          /* the first grain that this word is about */
    uint32_t page, word;  /* the current page, and the word of its map that comes next */
    uint32_t first, last; /* pages that wait */
};

struct cells {
    char *base;               /* the pages; owns; NULL: there are no cells */
    struct cells_page *pages; /* what is known of them; lies before them, in the same mapping */
    uint32_t most, opened;    /* pages that there may be, and that may be touched */
    uint32_t count;           /* of pages that were ever used */
    uint32_t warm, cold;      /* free pages: with their memory, without */
    uint32_t warm_count;
    struct cells_kind kinds[CELLS_KINDS];
};

/* Reserves the addresses. Where that is refused there are no cells. */
void cells_open(struct cells *cells);
void cells_close(struct cells *cells);

/* 1 to CELLS_MOST bytes, aligned to CELLS_GRAIN; or NULL. */
void *cells_take(struct cells *cells, size_t size);
void cells_put(struct cells *cells, void *cell);

/* Whether so many bytes would get a cell of the same size as this one. */
bool cells_fit(const struct cells *cells, const void *cell, size_t size);

static inline bool cells_have(const struct cells *cells, const void *block)
{
    return cells->base && ((uintptr_t)block - (uintptr_t)cells->base) >> CELLS_RANGE == 0;
}

#endif
