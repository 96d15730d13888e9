/* The host: one loop, one Lua state, the signals; start, serve, stop in order. */
#ifndef SKALD_SERVICE_HOST_H
#define SKALD_SERVICE_HOST_H

struct options;

/* The exit status: 0 stopped as asked, 1 a script or an endpoint failed, 2 wrong usage. */
int host_main(const struct options *options);

/* One line for each library in use, with its version, on standard output. */
void host_print_version(void);

#endif
