/* Processes that we start: their descriptors become connections, their end an event. */
#ifndef SKALD_IO_PROCESS_H
#define SKALD_IO_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct group;
struct loop;

/* What becomes of a descriptor of the child. */
enum process_end {
    END_READ,     /* we read what it writes there */
    END_WRITE,    /* it reads what we write there */
    END_GIVEN,    /* it is our descriptor `given` */
    END_STREAM,   /* 0 and 1 together are one connection: events->connected follows */
    END_TERMINAL, /* 0, 1 and 2 are a pseudo-terminal, of which we have the other side */
};

struct process_fd {
    int fd;   /* the child's number */
    int what; /* enum process_end */
    int given;
    double handle; /* of the connection, once it has started; 0 where there is none */
};

enum { PROCESS_FDS = 32 }; /* at most */

/* Borrowed until process_spawn returns. */
struct process_plan {
    const char *path;        /* looked for in PATH where it has no slash */
    const char *const *args; /* the first is its own name; NULL ends them */
    const char *const *env;  /* "NAME=value"; NULL: ours */
    const char *cwd;         /* NULL: ours */
    double uid, gid;         /* below 0: ours */
    int rows, columns;       /* of the terminal; 0: not set */
    int count;               /* of descriptors; what is left of 0, 1 and 2 is /dev/null */
    struct process_fd *fds;
    /* The answer. */
    double handle;
    int pid;
    int stage; /* enum process_stage: what failed */
};

enum process_stage { STAGE_HOST, STAGE_FOLDER, STAGE_USER, STAGE_EXEC };

/* Starts it. The connections it makes are live, and in the group `pipes`; those of END_STREAM will
 * be in `streams`. events->exited follows its end; signals are the defaults in it. 0, or -errno:
 * then nothing is left of it. */
int process_spawn(struct loop *loop, struct group *pipes, struct group *streams,
                  struct process_plan *plan);

/* 0, or -ESRCH once its end was told of. */
int process_signal(struct loop *loop, uint64_t child, int number);

/* Of the terminal that such a connection is. 0 or -errno. */
int process_resize(struct loop *loop, uint64_t connection, int rows, int columns);

/* The number of "TERM", or 0; the name of a number, or NULL. Static. */
int signal_number(const char *name);
const char *signal_name(int number);

#endif
