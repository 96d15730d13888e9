/* Addresses: text to struct to text, the kernel's form, what is refused. */
#include "base/address.h"

#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static const char *round_trip(const char *text)
{
    static char out[ADDRESS_TEXT];
    struct address address;
    if (!address_parse(&address, text, 80))
        return "(refused)";
    address_text(&address, out);
    return out;
}

static void test_text(void)
{
    CHECK_TEXT(round_trip("127.0.0.1"), "127.0.0.1");
    CHECK_TEXT(round_trip("0.0.0.0"), "0.0.0.0");
    CHECK_TEXT(round_trip("::1"), "::1");
    CHECK_TEXT(round_trip("::"), "::");
}

static const char *with_port(const char *text)
{
    static char out[ADDRESS_TEXT];
    struct address address = {.family = AF_UNIX};
    address_parse(&address, text, 80);
    address_and_port(&address, out);
    return out;
}

static void test_port(void)
{
    CHECK_TEXT(with_port("127.0.0.1"), "127.0.0.1:80");
    CHECK_TEXT(with_port("2001:db8::1"), "[2001:db8::1]:80");
    CHECK_TEXT(with_port("no address"), "");
}

static void test_rfc5952(void)
{
    CHECK_TEXT(round_trip("2001:0DB8:0:0:0:0:0:1"), "2001:db8::1");
    CHECK_TEXT(round_trip("2001:db8:0:1:1:1:1:1"), "2001:db8:0:1:1:1:1:1");
    CHECK_TEXT(round_trip("2001:0:0:1:0:0:0:1"), "2001:0:0:1::1");
    CHECK_TEXT(round_trip("2001:db8:0:0:1:0:0:1"), "2001:db8::1:0:0:1");
}

static void test_refused(void)
{
    static const char *const bad[] = {"",        "localhost", "1.2.3",     "1.2.3.4.5", "256.1.1.1",
                                      "1::2::3", ":::",       "1.2.3.4%1", "::1%",      "12345::"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_TEXT(round_trip(bad[i]), "(refused)");
}

static void test_overlong(void)
{
    char text[300];
    memset(text, '1', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CHECK_TEXT(round_trip(text), "(refused)");
}

static void test_kernel(void)
{
    struct address address, back;
    struct sockaddr_storage kernel;
    CHECK(address_parse(&address, "10.1.2.3", 65535));
    CHECK(address_to_kernel(&address, &kernel) == sizeof(struct sockaddr_in));
    address_from_kernel(&back, (struct sockaddr *)&kernel);
    CHECK(back.family == AF_INET && back.port == 65535);
    CHECK(memcmp(back.bytes, address.bytes, sizeof back.bytes) == 0);
    CHECK(address_parse(&address, "fe80::1%7", 1));
    CHECK(address_to_kernel(&address, &kernel) == sizeof(struct sockaddr_in6));
    address_from_kernel(&back, (struct sockaddr *)&kernel);
    CHECK(back.family == AF_INET6 && back.port == 1 && back.scope == 7);
}

static void test_mapped(void)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(7)};
    struct address address;
    char text[ADDRESS_TEXT];
    inet_pton(AF_INET6, "::ffff:192.0.2.1", &in6.sin6_addr);
    address_from_kernel(&address, (struct sockaddr *)&in6);
    address_text(&address, text);
    CHECK(address.family == AF_INET && address.port == 7);
    CHECK_TEXT(text, "192.0.2.1");
}

static void test_unix(void)
{
    struct sockaddr kernel = {.sa_family = AF_UNIX};
    struct address address;
    char text[ADDRESS_TEXT] = "something";
    address_from_kernel(&address, &kernel);
    address_text(&address, text);
    CHECK(address.family == AF_UNIX);
    CHECK_TEXT(text, "");
}

int main(void)
{
    static const struct test tests[] = {
        {"an address comes back as it was written", test_text},
        {"with a port, an IPv6 address stands in brackets", test_port},
        {"an IPv6 address is written as RFC 5952 says", test_rfc5952},
        {"what is no address is refused", test_refused},
        {"an overlong text is refused", test_overlong},
        {"the kernel's form and ours turn into each other", test_kernel},
        {"an IPv4 address mapped into IPv6 becomes the IPv4 address", test_mapped},
        {"a Unix peer has no address text", test_unix},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
