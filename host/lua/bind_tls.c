/* TLS for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "io/connection.h"
#include "io/listener.h"
#include "io/tls.h"
#include "lua/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int skald_tls_new(struct core *core, bool server, double *context)
{
    uint64_t handle = 0;
    int error = tls_context_new(core->loop, server, &handle);
    *context = (double)handle;
    return -error;
}

void skald_tls_release(struct core *core, double context)
{
    tls_context_release(core->loop, (uint64_t)context);
}

int skald_tls_certify(struct core *core, double context, const char *chain, size_t chain_length,
                      const char *key, size_t key_length)
{
    return -tls_context_certify(core->loop, (uint64_t)context, chain, chain_length, key,
                                key_length);
}

int skald_tls_trust(struct core *core, double context, int demand, const char *pem, size_t length)
{
    return -tls_context_trust(core->loop, (uint64_t)context, (enum tls_demand)demand, pem, length);
}

int skald_tls_offer(struct core *core, double context, const char *names, size_t length)
{
    return -tls_context_offer(core->loop, (uint64_t)context, names, length);
}

void skald_tls_limit(struct core *core, double context, double seconds)
{
    tls_context_limit(core->loop, (uint64_t)context, seconds);
}

int skald_tls_renew_tickets(struct core *core)
{
    return -tls_renew_tickets(core->loop);
}

const char *skald_tls_problem(struct core *core)
{
    return tls_problem(core->loop);
}

int skald_secure_listener(struct core *core, double handle, double context)
{
    struct listener *listener = listener_find(core->loop, (uint64_t)handle);
    return listener ? -listener_secure(listener, (uint64_t)context) : EBADF;
}

int skald_secure(struct core *core, double handle, double context, const char *name,
                 const char *peer)
{
    struct connection *connection = connection_find(core->loop, (uint64_t)handle);
    struct tls_wanted wanted = {.name = name, .peer = peer};
    return connection ? -connection_secure(connection, (uint64_t)context, &wanted) : EPIPE;
}

int skald_secure_behind(struct core *core, double handle, double context, const char *bytes,
                        size_t length)
{
    struct connection *connection = connection_find(core->loop, (uint64_t)handle);
    struct tls_wanted wanted = {.early = bytes, .early_length = length};
    return connection ? -connection_secure(connection, (uint64_t)context, &wanted) : EPIPE;
}

bool skald_session_reused(struct core *core, double handle)
{
    const struct connection *connection = connection_find(core->loop, (uint64_t)handle);
    return connection && connection_session_reused(connection);
}

size_t skald_protocol(struct core *core, double handle, char *buffer, size_t size)
{
    const struct connection *connection = connection_find(core->loop, (uint64_t)handle);
    size_t length = 0;
    const char *name = connection ? connection_protocol(connection, &length) : NULL;
    if (length > size)
        length = size;
    if (name)
        memcpy(buffer, name, length);
    return length;
}

char *skald_certificate(struct core *core, double handle, size_t *size)
{
    const struct connection *connection = connection_find(core->loop, (uint64_t)handle);
    return connection ? connection_certificate(connection, size) : NULL;
}
