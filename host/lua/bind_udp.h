/* A datagram for Lua. */
#ifndef SKALD_LUA_BIND_UDP_H
#define SKALD_LUA_BIND_UDP_H

struct core;
struct datagram;

void bind_udp_open(struct core *core); /* what vm_close frees */

/* Shows a datagram to Lua (struct skald_datagram), until the next one. */
void bind_datagram(struct core *core, const struct datagram *datagram);

#endif
