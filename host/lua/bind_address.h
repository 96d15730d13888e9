/* An address for Lua. */
#ifndef SKALD_LUA_BIND_ADDRESS_H
#define SKALD_LUA_BIND_ADDRESS_H

struct address;
struct skald_address;

/* Fills in kind, port and, unless it is a Unix path that stands there already, text. Gives 0. */
int bind_address(const struct address *address, struct skald_address *out);

#endif
