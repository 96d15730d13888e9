/* OpenSSL's functions, found when the first context is made. */
#include "io/openssl.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
#define OPENSSL_NAME(name) #name,
    OPENSSL_FUNCTIONS(OPENSSL_NAME)
#undef OPENSSL_NAME
};

static const char soname[] = "libssl.so.3";

enum { NAMES = sizeof names / sizeof *names };

_Static_assert(sizeof(struct openssl) == NAMES * sizeof(void *), "one pointer for each name");

/* A symbol of libcrypto is found through libssl, which depends on it. */
int openssl_open(struct openssl *functions, char *problem, size_t size)
{
    void *library = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(problem, size, "TLS takes OpenSSL 3: %s", dlerror());
        return -ENOENT;
    }
    for (int i = 0; i < NAMES; i++) {
        void *symbol = dlsym(library, names[i]);
        if (symbol == NULL) {
            snprintf(problem, size, "TLS takes OpenSSL 3: libssl.so.3 has no %s", names[i]);
            return -ENOENT;
        }
        memcpy((char *)functions + (size_t)i * sizeof symbol, &symbol, sizeof symbol);
    }
    return 0;
}

/* Such a callback knows no table of functions, and none is kept where all could reach it. */
void *openssl_data_of(const SSL *ssl)
{
    __typeof__(&SSL_get_ex_data) get = NULL;
    void *library = dlopen(soname, RTLD_NOW | RTLD_NOLOAD);
    void *symbol = library ? dlsym(library, "SSL_get_ex_data") : NULL;
    memcpy(&get, &symbol, sizeof get);
    void *data = get ? get(ssl, 0) : NULL;
    if (library)
        dlclose(library);
    return data;
}
