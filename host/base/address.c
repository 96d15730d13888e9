/* Internet addresses: text, the kernel's form and a small form. Pure: resolves nothing. */
#include "base/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A zone is an interface's name or its number. */
static bool scope_parse(const char *zone, uint32_t *scope)
{
    char *end;
    *scope = if_nametoindex(zone);
    if (*scope != 0)
        return true;
    *scope = (uint32_t)strtoul(zone, &end, 10);
    return *scope != 0 && *end == '\0';
}

bool address_parse(struct address *address, const char *text, uint16_t port)
{
    char host[ADDRESS_TEXT];
    const char *zone = strchr(text, '%');
    size_t length = zone ? (size_t)(zone - text) : strlen(text);
    if (length >= sizeof host)
        return false;
    memcpy(host, text, length);
    host[length] = '\0';
    *address = (struct address){.port = port};
    if (!zone && inet_pton(AF_INET, host, address->bytes) == 1)
        address->family = AF_INET;
    else if (inet_pton(AF_INET6, host, address->bytes) == 1)
        address->family = AF_INET6;
    else
        return false;
    return !zone || scope_parse(zone + 1, &address->scope);
}

static void from_ipv6(struct address *address, const struct sockaddr_in6 *in6)
{
    address->port = ntohs(in6->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        address->family = AF_INET;
        memcpy(address->bytes, in6->sin6_addr.s6_addr + 12, 4);
        return;
    }
    address->family = AF_INET6;
    address->scope = in6->sin6_scope_id;
    memcpy(address->bytes, &in6->sin6_addr, 16);
}

void address_from_kernel(struct address *address, const struct sockaddr *kernel)
{
    *address = (struct address){.family = AF_UNIX};
    if (kernel->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)kernel;
        address->family = AF_INET;
        address->port = ntohs(in->sin_port);
        memcpy(address->bytes, &in->sin_addr, 4);
    } else if (kernel->sa_family == AF_INET6) {
        from_ipv6(address, (const void *)kernel);
    }
}

socklen_t address_to_kernel(const struct address *address, struct sockaddr_storage *kernel)
{
    memset(kernel, 0, sizeof *kernel);
    if (address->family == AF_INET) {
        struct sockaddr_in *in = (void *)kernel;
        in->sin_family = AF_INET;
        in->sin_port = htons(address->port);
        memcpy(&in->sin_addr, address->bytes, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (void *)kernel;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(address->port);
    in6->sin6_scope_id = address->scope;
    memcpy(&in6->sin6_addr, address->bytes, 16);
    return sizeof *in6;
}

void address_text(const struct address *address, char text[ADDRESS_TEXT])
{
    text[0] = '\0';
    if (address->family == AF_UNIX)
        return;
    inet_ntop(address->family, address->bytes, text, ADDRESS_TEXT);
    if (address->scope == 0)
        return;
    char name[IF_NAMESIZE];
    size_t n = strlen(text);
    if (if_indextoname(address->scope, name))
        snprintf(text + n, ADDRESS_TEXT - n, "%%%s", name);
    else
        snprintf(text + n, ADDRESS_TEXT - n, "%%%u", address->scope);
}

void address_and_port(const struct address *address, char text[ADDRESS_TEXT])
{
    char host[ADDRESS_TEXT];
    address_text(address, host);
    text[0] = '\0';
    if (host[0] == '\0')
        return;
    const char *form = address->family == AF_INET6 ? "[%s]:%u" : "%s:%u";
    snprintf(text, ADDRESS_TEXT, form, host, address->port);
}
