/* Allocation of small fixed things: succeeds or ends the program with one line. */
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

static void *checked(void *memory)
{
    if (memory == NULL) {
        fputs("skald: out of memory\n", stderr);
        abort();
    }
    return memory;
}

void *memory_new(size_t size)
{
    return checked(calloc(1, size));
}

void *memory_grow(void *old, size_t count, size_t size)
{
    return checked(reallocarray(old, count, size));
}
