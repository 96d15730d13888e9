/* OpenSSL's functions, found when the first context is made: a host that never speaks TLS neither
 * loads the library nor pays for it. Its types and constants come from its headers. */
#ifndef SKALD_IO_OPENSSL_H
#define SKALD_IO_OPENSSL_H

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define OPENSSL_FUNCTIONS(X)                                                                       \
    X(ASN1_STRING_get0_data)                                                                       \
    X(ASN1_STRING_length)                                                                          \
    X(ASN1_TIME_to_tm)                                                                             \
    X(BIO_ctrl)                                                                                    \
    X(BIO_free)                                                                                    \
    X(BIO_new)                                                                                     \
    X(BIO_new_bio_pair)                                                                            \
    X(BIO_new_mem_buf)                                                                             \
    X(BIO_new_socket)                                                                              \
    X(BIO_nread)                                                                                   \
    X(BIO_number_written)                                                                          \
    X(BIO_s_mem)                                                                                   \
    X(BIO_up_ref)                                                                                  \
    X(ERR_clear_error)                                                                             \
    X(ERR_peek_error)                                                                              \
    X(ERR_peek_last_error)                                                                         \
    X(ERR_reason_error_string)                                                                     \
    X(EVP_DecryptInit_ex)                                                                          \
    X(EVP_Digest)                                                                                  \
    X(EVP_EncryptInit_ex)                                                                          \
    X(EVP_MAC_CTX_set_params)                                                                      \
    X(EVP_PKEY_free)                                                                               \
    X(EVP_PKEY_get_base_id)                                                                        \
    X(EVP_aes_256_cbc)                                                                             \
    X(EVP_sha256)                                                                                  \
    X(GENERAL_NAMES_free)                                                                          \
    X(OPENSSL_sk_num)                                                                              \
    X(OPENSSL_sk_value)                                                                            \
    X(PEM_read_bio_PrivateKey)                                                                     \
    X(PEM_read_bio_X509)                                                                           \
    X(PEM_write_bio_X509)                                                                          \
    X(RAND_bytes)                                                                                  \
    X(SSL_CTX_add_client_CA)                                                                       \
    X(SSL_CTX_callback_ctrl)                                                                       \
    X(SSL_CTX_ctrl)                                                                                \
    X(SSL_CTX_free)                                                                                \
    X(SSL_CTX_get0_certificate)                                                                    \
    X(SSL_CTX_get_cert_store)                                                                      \
    X(SSL_CTX_new)                                                                                 \
    X(SSL_CTX_set_alpn_protos)                                                                     \
    X(SSL_CTX_set_alpn_select_cb)                                                                  \
    X(SSL_CTX_set_cipher_list)                                                                     \
    X(SSL_CTX_set_default_read_buffer_len)                                                         \
    X(SSL_CTX_set_default_verify_paths)                                                            \
    X(SSL_CTX_set_options)                                                                         \
    X(SSL_CTX_set_session_id_context)                                                              \
    X(SSL_CTX_set_timeout)                                                                         \
    X(SSL_CTX_set_tlsext_ticket_key_evp_cb)                                                        \
    X(SSL_CTX_set_verify)                                                                          \
    X(SSL_CTX_use_PrivateKey)                                                                      \
    X(SSL_CTX_use_certificate)                                                                     \
    X(SSL_SESSION_free)                                                                            \
    X(SSL_SESSION_get_id)                                                                          \
    X(SSL_SESSION_get_protocol_version)                                                            \
    X(SSL_SESSION_is_resumable)                                                                    \
    X(SSL_ctrl)                                                                                    \
    X(SSL_do_handshake)                                                                            \
    X(SSL_free)                                                                                    \
    X(SSL_get0_alpn_selected)                                                                      \
    X(SSL_get0_param)                                                                              \
    X(SSL_get1_peer_certificate)                                                                   \
    X(SSL_get1_session)                                                                            \
    X(SSL_get_error)                                                                               \
    X(SSL_get_servername)                                                                          \
    X(SSL_get_session)                                                                             \
    X(SSL_get_verify_result)                                                                       \
    X(SSL_has_pending)                                                                             \
    X(SSL_new)                                                                                     \
    X(SSL_read_ex)                                                                                 \
    X(SSL_select_next_proto)                                                                       \
    X(SSL_session_reused)                                                                          \
    X(SSL_set0_rbio)                                                                               \
    X(SSL_set1_host)                                                                               \
    X(SSL_set_SSL_CTX)                                                                             \
    X(SSL_set_accept_state)                                                                        \
    X(SSL_set_bio)                                                                                 \
    X(SSL_set_connect_state)                                                                       \
    X(SSL_set_ex_data)                                                                             \
    X(SSL_set_hostflags)                                                                           \
    X(SSL_set_session)                                                                             \
    X(SSL_set_shutdown)                                                                            \
    X(SSL_shutdown)                                                                                \
    X(SSL_version)                                                                                 \
    X(SSL_write_ex)                                                                                \
    X(TLS_client_method)                                                                           \
    X(TLS_server_method)                                                                           \
    X(X509_NAME_print_ex)                                                                          \
    X(X509_STORE_add_cert)                                                                         \
    X(X509_VERIFY_PARAM_set1_ip_asc)                                                               \
    X(X509_check_host)                                                                             \
    X(X509_check_private_key)                                                                      \
    X(X509_digest)                                                                                 \
    X(X509_free)                                                                                   \
    X(X509_get0_notAfter)                                                                          \
    X(X509_get0_notBefore)                                                                         \
    X(X509_get0_pubkey)                                                                            \
    X(X509_get_ext_d2i)                                                                            \
    X(X509_get_issuer_name)                                                                        \
    X(X509_get_subject_name)                                                                       \
    X(X509_verify_cert_error_string)

struct openssl {
#define OPENSSL_POINTER(name) __typeof__ (&(name))(name);
    OPENSSL_FUNCTIONS(OPENSSL_POINTER)
#undef OPENSSL_POINTER
};

/* 0, or -ENOENT with a message in `problem`. The library stays loaded to the end of the process. */
int openssl_open(struct openssl *functions, char *problem, size_t size);

/* What SSL_set_ex_data(ssl, 0, data) has put there: for callbacks that are given nothing else. */
void *openssl_data_of(const SSL *ssl);

#endif
