/* UDP ports for Lua: arguments in, one call, results out. */
#include "lua/bind_udp.h"

#include "base/address.h"
#include "base/memory.h"
#include "io/udp.h"
#include "lua/bind.h"
#include "lua/bind_address.h"
#include "lua/core.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { HOSTS = 256 };

/* Hosts whose texts Lua has, by the number under which it has them. */
struct datagrams {
    struct skald_datagram seen;
    struct address hosts[HOSTS]; /* without their ports; family 0: none yet */
};

void bind_udp_open(struct core *core)
{
    core->datagrams = memory_new(sizeof *core->datagrams);
}

const struct skald_datagram *skald_datagram(struct core *core)
{
    return &core->datagrams->seen;
}

static unsigned host_number(const struct address *host)
{
    uint64_t low, high;
    memcpy(&low, host->bytes, sizeof low);
    memcpy(&high, host->bytes + sizeof low, sizeof high);
    uint64_t mixed = (low ^ high * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    return (unsigned)(mixed >> 56);
}

static bool is_host(const struct address *known, const struct address *host)
{
    return known->family == host->family && known->scope == host->scope &&
           memcmp(known->bytes, host->bytes, sizeof known->bytes) == 0;
}

_Static_assert(HOSTS == 1 << 8, "the hash has eight bits");
_Static_assert(sizeof((struct skald_datagram *)0)->text >= ADDRESS_TEXT, "holds every host");

void bind_datagram(struct core *core, const struct datagram *datagram)
{
    struct skald_datagram *seen = &core->datagrams->seen;
    unsigned number = host_number(&datagram->from);
    struct address *known = &core->datagrams->hosts[number];
    seen->bytes = datagram->bytes;
    seen->length = (int)datagram->length;
    seen->truncated = datagram->truncated;
    seen->port = datagram->from.port;
    seen->host = (int)number;
    seen->six = datagram->from.family == AF_INET6;
    seen->fresh = !is_host(known, &datagram->from);
    if (!seen->fresh)
        return;
    *known = datagram->from;
    address_text(known, seen->text);
}

static struct udp *find(struct core *core, double udp)
{
    return udp_find(core->loop, (uint64_t)udp);
}

int skald_udp_open(struct core *core, const char *host, int port, bool reuse, double *udp)
{
    struct address address;
    uint64_t handle = 0;
    if (!address_parse(&address, host, (uint16_t)port))
        return EINVAL;
    int error = udp_open(core->loop, &address, reuse, &handle);
    *udp = (double)handle;
    return -error;
}

void skald_udp_receive(struct core *core, double handle)
{
    struct udp *udp = find(core, handle);
    if (udp)
        udp_receive(udp);
}

void skald_udp_close(struct core *core, double handle)
{
    struct udp *udp = find(core, handle);
    if (udp)
        udp_close(udp);
}

void skald_udp_finish(struct core *core, double handle)
{
    struct udp *udp = find(core, handle);
    if (udp)
        udp_finish(udp);
}

int skald_udp_write(struct core *core, double handle, const char *data, size_t length,
                    const char *host, int port)
{
    struct udp *udp = find(core, handle);
    struct address to;
    if (host && !address_parse(&to, host, (uint16_t)port))
        return EINVAL;
    return udp ? -udp_write(udp, host ? &to : NULL, data, length) : EPIPE;
}

int skald_udp_answer(struct core *core, double handle, const char *data, size_t length)
{
    struct udp *udp = find(core, handle);
    return udp ? -udp_answer(udp, data, length) : EPIPE;
}

int skald_udp_connect(struct core *core, double handle, const char *host, int port)
{
    struct udp *udp = find(core, handle);
    struct address peer;
    if (!address_parse(&peer, host, (uint16_t)port))
        return EINVAL;
    return udp ? -udp_connect(udp, &peer) : EPIPE;
}

int skald_udp_host(struct core *core, double handle, struct skald_address *out)
{
    struct udp *udp = find(core, handle);
    struct address address;
    int error = udp ? udp_host(udp, &address) : -ENOTCONN;
    if (error < 0)
        return -error;
    bind_address(&address, out);
    snprintf(out->kind, sizeof out->kind, "%s", address.family == AF_INET6 ? "UDP6" : "UDP");
    return 0;
}

void skald_udp_limit(struct core *core, double handle, unsigned bytes)
{
    struct udp *udp = find(core, handle);
    if (udp)
        udp_set_limit(udp, bytes);
}

int skald_udp_set(struct core *core, double handle, int option, int value)
{
    struct udp *udp = find(core, handle);
    return udp ? -udp_set(udp, (enum udp_option)option, value) : EPIPE;
}

int skald_udp_get(struct core *core, double handle, int option)
{
    struct udp *udp = find(core, handle);
    return udp ? udp_get(udp, (enum udp_option)option) : -EPIPE;
}

int skald_udp_join(struct core *core, double handle, const char *group, const char *interface,
                   bool join)
{
    struct udp *udp = find(core, handle);
    struct address address;
    if (!address_parse(&address, group, 0))
        return EINVAL;
    return udp ? -udp_join(udp, &address, interface, join) : EPIPE;
}

int skald_udp_interface(struct core *core, double handle, const char *interface)
{
    struct udp *udp = find(core, handle);
    return udp ? -udp_set_interface(udp, interface) : EPIPE;
}
