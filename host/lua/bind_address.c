/* An address for Lua. */
#include "lua/bind_address.h"

#include "base/address.h"
#include "lua/bind.h"

#include <stdio.h>

int bind_address(const struct address *address, struct skald_address *out)
{
    char host[ADDRESS_TEXT];
    const char *kind = address->family == AF_INET    ? "TCP"
                       : address->family == AF_INET6 ? "TCP6"
                                                     : "UNIX";
    snprintf(out->kind, sizeof out->kind, "%s", kind);
    out->port = address->port;
    if (address->family == AF_UNIX)
        return 0;
    address_text(address, host);
    snprintf(out->text, sizeof out->text, "%s", host);
    return 0;
}
