/* The command line. Pure: reads it, prints nothing. */
#ifndef SKALD_BASE_OPTIONS_H
#define SKALD_BASE_OPTIONS_H

#include "base/log.h"

#include <stdbool.h>

struct options {
    const char *command; /* a word of the table in options.c */
    enum log_level log_level;
    const char *jit;     /* "off", "on", options as luajit -O takes them, or NULL */
    double grace;        /* seconds */
    const char *control; /* the path of the control socket, or NULL: the usual one */
    bool watch;          /* reload when a file changes */
    bool debug;          /* note where Deferreds are made */
    bool force;          /* reload what has not changed, too */
    bool json;           /* answers as JSON */
    const char *filter;  /* a Lua pattern for the names of tests, or NULL: all */
    const char *output;  /* how tests are told of, or NULL: by the terminal */
    double timeout;      /* seconds that a test may wait */
    char **words;        /* borrows from argv: scripts and their key=value words */
    int count;
};

/* False for wrong usage: then `problem` is one line about it. Reorders argv. */
bool options_parse(struct options *options, int argc, char **argv, char *problem, size_t size);

#endif
