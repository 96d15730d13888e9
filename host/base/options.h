/* The command line. Pure: reads it, prints nothing. */
#ifndef SKALD_BASE_OPTIONS_H
#define SKALD_BASE_OPTIONS_H

#include "base/log.h"

struct options {
    const char *command; /* "run", "check", "help", "version" */
    enum log_level log_level;
    const char *jit; /* "off", "on", options as luajit -O takes them, or NULL */
    double grace;    /* seconds */
    char **words;    /* borrows from argv: scripts and their key=value words */
    int count;
};

/* False for wrong usage: then `problem` is one line about it. Reorders argv. */
bool options_parse(struct options *options, int argc, char **argv, char *problem, size_t size);

#endif
