/* Internet addresses: text, the kernel's form and a small form that is kept for each connection.
 * Pure: resolves nothing. */
#ifndef SKALD_BASE_ADDRESS_H
#define SKALD_BASE_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
    uint8_t bytes[16]; /* network order; the first 4 for IPv4 */
    uint32_t scope;    /* IPv6 scope id */
    uint16_t port;     /* host order */
    uint8_t family;    /* AF_INET, AF_INET6, AF_UNIX (then nothing else is set) */
};

enum { ADDRESS_TEXT = 64 }; /* holds every text, scope and port included */

/* An IPv4 or IPv6 literal (a zone may follow after %); false where the text is neither. */
bool address_parse(struct address *address, const char *text, uint16_t port);

/* An IPv4 address mapped into IPv6 becomes the IPv4 address. */
void address_from_kernel(struct address *address, const struct sockaddr *kernel);
socklen_t address_to_kernel(const struct address *address, struct sockaddr_storage *kernel);

/* The host part, IPv6 as RFC 5952 says; "" for AF_UNIX. */
void address_text(const struct address *address, char text[ADDRESS_TEXT]);

/* With the port: 127.0.0.1:80, [::1]:80; "" where there is no host. */
void address_and_port(const struct address *address, char text[ADDRESS_TEXT]);

#endif
