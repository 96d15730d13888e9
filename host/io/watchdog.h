/* Ends the process when its loop has not turned for too long: for `skald test`, where code that
 * never returns would hold up the run without a word. A thread of its own, which touches nothing
 * else. */
#ifndef SKALD_IO_WATCHDOG_H
#define SKALD_IO_WATCHDOG_H

struct watchdog;

struct watchdog *watchdog_new(int *error); /* NULL: a negative errno */
/* From now on it waits for `seconds`, and then ends the process with status 1 and the line `text`
 * (copied) on standard error, unless it is called before that; 0 s: it waits no more. */
void watchdog_feed(struct watchdog *watchdog, double seconds, const char *text);
void watchdog_free(struct watchdog *watchdog); /* NULL is fine */

#endif
