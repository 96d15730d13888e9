/* The certificate of a TLS session's peer, as text. */
#include "io/tls_inside.h"

#include "base/memory.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The bytes that a memory BIO holds. */
static size_t held(const struct openssl *openssl, BIO *bio, char **bytes)
{
    long length = openssl->BIO_ctrl(bio, BIO_CTRL_INFO, 0, bytes);
    return length > 0 ? (size_t)length : 0;
}

static void print_name(const struct openssl *openssl, FILE *out, const char *key,
                       const X509_NAME *name)
{
    BIO *bio = openssl->BIO_new(openssl->BIO_s_mem());
    char *bytes;
    if (bio == NULL)
        return;
    openssl->X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253);
    size_t length = held(openssl, bio, &bytes);
    fprintf(out, "%s %.*s\n", key, (int)length, length ? bytes : "");
    openssl->BIO_free(bio);
}

static void print_time(const struct openssl *openssl, FILE *out, const char *key,
                       const ASN1_TIME *when)
{
    struct tm parts;
    if (openssl->ASN1_TIME_to_tm(when, &parts) == 1)
        fprintf(out, "%s %lld\n", key, (long long)timegm(&parts));
}

/* A name that is not plain text is nobody's. */
static void print_text(FILE *out, const unsigned char *text, int length)
{
    for (int i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return;
    fprintf(out, "names %.*s\n", length, (const char *)text);
}

static void print_address(FILE *out, const unsigned char *bytes, int length)
{
    char text[INET6_ADDRSTRLEN];
    if ((length == 4 || length == 16) &&
        inet_ntop(length == 4 ? AF_INET : AF_INET6, bytes, text, sizeof text))
        fprintf(out, "names %s\n", text);
}

static void print_names(const struct openssl *openssl, FILE *out, const X509 *certificate)
{
    GENERAL_NAMES *names = openssl->X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    const OPENSSL_STACK *list = (const OPENSSL_STACK *)names;
    for (int i = 0; names && i < openssl->OPENSSL_sk_num(list); i++) {
        const GENERAL_NAME *name = openssl->OPENSSL_sk_value(list, i);
        bool address = name->type == GEN_IPADD;
        if (!address && name->type != GEN_DNS && name->type != GEN_EMAIL && name->type != GEN_URI)
            continue;
        const ASN1_STRING *value = name->d.ia5;
        (address ? print_address : print_text)(out, openssl->ASN1_STRING_get0_data(value),
                                               openssl->ASN1_STRING_length(value));
    }
    if (names)
        openssl->GENERAL_NAMES_free(names);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Puts the lines of a text into order, in place. */
static void sort_lines(char *text, size_t length)
{
    char *copy = strndup(text, length), *rest = copy, *line, *end = text;
    char **lines = memory_grow(NULL, length, sizeof *lines);
    size_t count = 0;
    while ((line = strsep(&rest, "\n")) != NULL)
        if (*line)
            lines[count++] = line;
    qsort(lines, count, sizeof *lines, compare);
    for (size_t i = 0; i < count; i++)
        end += sprintf(end, "%s\n", lines[i]);
    free(lines);
    free(copy);
}

char *tls_names(const struct openssl *openssl, const X509 *certificate)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL)
        return NULL;
    print_names(openssl, out, certificate);
    if (ftell(out) == 0)
        print_name(openssl, out, "subject", openssl->X509_get_subject_name(certificate));
    fclose(out);
    sort_lines(text, length);
    return text;
}

static void print_fingerprint(const struct openssl *openssl, FILE *out, const X509 *certificate)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (openssl->X509_digest(certificate, openssl->EVP_sha256(), digest, &size) != 1)
        return;
    fputs("fingerprint ", out);
    for (unsigned i = 0; i < size; i++)
        fprintf(out, "%02x", digest[i]);
    fputc('\n', out);
}

static void print_pem(const struct openssl *openssl, FILE *out, const X509 *certificate)
{
    BIO *bio = openssl->BIO_new(openssl->BIO_s_mem());
    char *bytes;
    if (bio && openssl->PEM_write_bio_X509(bio, certificate) == 1) {
        size_t length = held(openssl, bio, &bytes);
        fprintf(out, "pem %.*s", (int)length, bytes);
    }
    openssl->BIO_free(bio);
}

char *tls_describe(const struct openssl *openssl, const X509 *certificate, size_t *length)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, length);
    if (out == NULL)
        return NULL;
    print_name(openssl, out, "subject", openssl->X509_get_subject_name(certificate));
    print_name(openssl, out, "issuer", openssl->X509_get_issuer_name(certificate));
    print_names(openssl, out, certificate);
    print_time(openssl, out, "notBefore", openssl->X509_get0_notBefore(certificate));
    print_time(openssl, out, "notAfter", openssl->X509_get0_notAfter(certificate));
    print_fingerprint(openssl, out, certificate);
    print_pem(openssl, out, certificate);
    fclose(out);
    return text;
}
