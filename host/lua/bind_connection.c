/* Connections for Lua: arguments in, one call, results out. */
#include "lua/bind.h"

#include "base/address.h"
#include "base/log.h"
#include "io/connection.h"
#include "lua/bind_address.h"
#include "lua/core.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static struct connection *find(struct core *core, double connection)
{
    return connection_find(core->loop, (uint64_t)(int64_t)connection); /* below 2^53 */
}

const struct skald_read *skald_read(struct core *core)
{
    return core->read;
}

int skald_write(struct core *core, double handle, const char *data, size_t length, bool refer)
{
    struct connection *connection = find(core, handle);
    uint32_t anchor = 0;
    if (connection == NULL)
        return WRITE_CLOSING;
    int result = connection_write(connection, data, length, refer ? &anchor : NULL);
    return result < 0 ? result : (int)(anchor << 1) | result;
}

int skald_write_pair(struct core *core, double handle, const char *data, size_t length, bool refer,
                     const char *tail, size_t tail_length)
{
    struct connection *connection = find(core, handle);
    uint32_t anchor = 0;
    if (connection == NULL)
        return WRITE_CLOSING;
    int result =
        connection_write_pair(connection, data, length, refer ? &anchor : NULL, tail, tail_length);
    return result < 0 ? result : (int)(anchor << 1) | result;
}

bool skald_credentials(struct core *core, double handle, struct skald_credentials *out)
{
    const struct connection *connection = find(core, handle);
    return connection && connection_credentials(connection, &out->process, &out->user, &out->group);
}

int skald_pass(struct core *core, double handle, int fd)
{
    struct connection *connection = find(core, handle);
    if (connection == NULL)
        return EPIPE;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return errno;
    int error = connection_pass(connection, copy);
    if (error < 0)
        close(copy);
    return -error;
}

void skald_close_descriptor(int fd)
{
    close(fd);
}

double skald_peer_user(struct core *core, double handle)
{
    const struct connection *connection = find(core, handle);
    return connection ? connection_peer_user(connection) : -1;
}

void skald_flush(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_flush(connection);
}

int skald_pipe(struct core *core, double source_handle, double sink_handle)
{
    struct connection *source = find(core, source_handle);
    struct connection *sink = find(core, sink_handle);
    return source && sink ? -connection_pipe(source, sink) : EPIPE;
}

double skald_unpipe(struct core *core, double source)
{
    struct connection *connection = find(core, source);
    return connection ? (double)connection_unpipe(connection) : 0;
}

/* How much of the file is asked for: -EISDIR and -EINVAL for what is no plain file, -ERANGE for
 * more than it has. */
static int64_t measure(int fd, double offset, double length)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
    if (offset > (double)status.st_size || offset + length > (double)status.st_size)
        return -ERANGE;
    return length < 0 ? status.st_size - (int64_t)offset : (int64_t)length;
}

/* Takes the descriptor, in any case. */
static int send_part(struct connection *connection, int fd, double offset, double length,
                     double *bytes)
{
    int64_t count = measure(fd, offset, length);
    int error = count < 0 ? (int)count : 0;
    *bytes = (double)count;
    if (count > 0) {
        posix_fadvise(fd, (off_t)offset, count, POSIX_FADV_WILLNEED);
        error = connection_send_file(connection, fd, (int64_t)offset, (size_t)count);
    }
    if (count <= 0 || error < 0)
        close(fd);
    return -error;
}

int skald_send_file(struct core *core, double handle, const char *path, double offset,
                    double length, double *bytes)
{
    struct connection *connection = find(core, handle);
    if (connection == NULL)
        return EPIPE;
    /* a named pipe must not make us wait for its writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? errno : send_part(connection, fd, offset, length, bytes);
}

void skald_close(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_close(connection);
}

void skald_abort(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_abort(connection);
}

void skald_close_write(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_close_write(connection);
}

void skald_pause(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_pause(connection);
}

void skald_resume(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_resume(connection);
}

void skald_fail(struct core *core, double handle, const char *text, size_t length)
{
    struct connection *connection = find(core, handle);
    char name[200];
    if (connection == NULL) {
        log_text(core->log, LOG_ERROR, text, length);
        return;
    }
    connection_describe(connection, name, sizeof name);
    log_write(core->log, LOG_ERROR, "%s\non %s", text, name);
    connection_fail(connection);
}

void skald_join(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_join(connection);
}

bool skald_set_producer(struct core *core, double handle, int producer)
{
    struct connection *connection = find(core, handle);
    if (connection)
        connection_set_producer(connection, (enum producer)producer);
    return connection != NULL;
}

double skald_buffered(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    return connection ? (double)connection_buffered(connection) : 0;
}

bool skald_is_open(struct core *core, double handle)
{
    struct connection *connection = find(core, handle);
    return connection && connection_is_live(connection);
}

int skald_peer(struct core *core, double handle, struct skald_address *out)
{
    struct connection *connection = find(core, handle);
    struct address address;
    if (connection == NULL)
        return ENOTCONN;
    int error = connection_peer(connection, &address, out->text, sizeof out->text);
    return error < 0 ? -error : bind_address(&address, out);
}

int skald_host(struct core *core, double handle, struct skald_address *out)
{
    struct connection *connection = find(core, handle);
    struct address address;
    if (connection == NULL)
        return ENOTCONN;
    int error = connection_host(connection, &address, out->text, sizeof out->text);
    return error < 0 ? -error : bind_address(&address, out);
}

int skald_set_nodelay(struct core *core, double handle, bool on)
{
    struct connection *connection = find(core, handle);
    return connection ? -connection_set_nodelay(connection, on) : ENOTCONN;
}

int skald_set_keepalive(struct core *core, double handle, bool on, unsigned seconds)
{
    struct connection *connection = find(core, handle);
    return connection ? -connection_set_keepalive(connection, on, seconds) : ENOTCONN;
}
