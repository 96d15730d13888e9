/* What is asked of files: done by libuv's threads, so that nothing in the loop waits for a disk. */
#ifndef SKALD_IO_FILES_H
#define SKALD_IO_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct loop;

/* The numbers stand in scripts/skald/files.lua too. */
enum file_what {
    FILE_READ,   /* a part of a file, at most `most` bytes: EFBIG where there are more */
    FILE_WRITE,  /* a whole file, or behind its end */
    FILE_STAT,   /* what it is */
    FILE_LIST,   /* the names in a folder, sorted, each with a zero byte behind it */
    FILE_REMOVE, /* a file, or an empty folder */
    FILE_RENAME, /* to `to`, over what is there */
    FILE_FOLDER, /* makes one */
    FILE_OPEN,   /* to write behind its end: file_result tells the descriptor's handle */
    FILE_PUT,    /* writes to that */
    FILE_CLOSE,  /* closes it */
};

enum file_flag {
    FILE_APPEND = 1,  /* write: behind the end */
    FILE_SYNC = 2,    /* write, put: it is on the disk when this has ended */
    FILE_ATOMIC = 4,  /* write: beside, then over the old one */
    FILE_SPECIAL = 8, /* read, write, open: devices and FIFOs too, as far as they do not wait */
    FILE_LINK = 16,   /* stat: a link itself */
    FILE_PARENTS = 32 /* folder: those above it too; it may be there */
};

struct file_request {
    enum file_what what;
    int flags;
    int mode;         /* of what is made; below 0: as the umask says */
    const char *path; /* copied, as `to` is */
    const char *to;
    const char *data;            /* borrowed until the request has ended */
    size_t length;               /* of the data */
    uint64_t offset, size, most; /* read: from where, how much, and the bound */
    uint64_t file;               /* put, close: what open has told */
};

struct file_result {
    const char *bytes; /* until the event is over; NULL: none */
    size_t length;
    uint64_t written;
    uint64_t file;
    struct stat status;
};

/* Begins it; 0 or -errno, the handle goes to *handle. events->filed follows, later, always. */
int file_start(struct loop *loop, const struct file_request *request, uint64_t *handle);

/* While events->filed runs. */
bool file_result(struct loop *loop, uint64_t handle, struct file_result *result);

#endif
