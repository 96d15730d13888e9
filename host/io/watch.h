/* Folders under watch: which of their files were written, moved or removed. */
#ifndef SKALD_IO_WATCH_H
#define SKALD_IO_WATCH_H

#include <stdbool.h>
#include <stddef.h>

struct loop;
struct watch;

/* What happened; the numbers stand in scripts/skald/watch.lua too. */
enum watch_what {
    WATCH_BEGUN = 1,  /* written to: its writer is not done */
    WATCH_DONE = 2,   /* its writer has closed it, or it was moved here whole */
    WATCH_GONE = 4,   /* removed, or moved away */
    WATCH_FOLDER = 8, /* the folder itself is gone, and no more watched */
    WATCH_LOST = 16,  /* too much happened: anything may have changed */
    WATCH_MADE = 32,  /* created: a file that is about to be written, or a link or folder */
};

/* Borrows the loop; calls changed(context) whenever there is something to read. NULL with *error
 * set to -errno. */
struct watch *watch_new(struct loop *loop, void (*changed)(void *context), void *context,
                        int *error);
void watch_free(struct watch *watch); /* closes in the loop's time; NULL is fine */

int watch_add(struct watch *watch, const char *folder); /* its number, or -errno */
void watch_remove(struct watch *watch, int folder);

/* The next thing that happened, without waiting; false: nothing more for now. */
bool watch_next(struct watch *watch, int *folder, int *what, char *name, size_t size);

#endif
