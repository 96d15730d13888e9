/* Finds a bundled file by its name. */
#include "lua/bundle.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *name, const void *file)
{
    return strcmp(name, ((const struct bundle_file *)file)->name);
}

const struct bundle_file *bundle_find(const char *name)
{
    return bsearch(name, bundle_files, bundle_count, sizeof *bundle_files, compare);
}
