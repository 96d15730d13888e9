/* UDP ports: datagrams are taken and sent in batches. */
#include "io/udp.h"

#include "io/inside.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BATCH = 64,             /* datagrams that one turn takes of a port, or one call sends */
    USUAL_LIMIT = 8192,     /* bytes of a datagram */
    CACHE_LINE = 64,        /* the places of a batch are that much more apart than they are long */
    MOST_WAITING = 1 << 20, /* bytes that wait for the kernel */
    COST = 64,              /* what a waiting datagram counts for, besides its bytes */
    EAGER = 1 << 16,        /* so many bytes do not wait for the callback's end */
    HEADERS = 28,           /* of an IPv4 datagram */
    FINISH_BATCHES = 16,    /* that a port which finishes takes */
    KEPT = 1 << 16,         /* bytes of a queue that an idle port keeps */
    ROOM = BATCH * (USUAL_LIMIT + CACHE_LINE),
    UDP_MAGIC = 0x736b7570,
};

#define QUIET_NS ((uint64_t)10 * 1000000000) /* between two warnings of a port */

/* An address as the kernel has it, in as little room as it takes. */
union name {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

struct queued {
    union name to; /* AF_UNSPEC: the peer that the port is connected to */
    uint32_t length;
    size_t at; /* its first byte in the queue's */
};

struct queue {
    struct queued *items; /* owns */
    char *bytes;          /* owns */
    uint32_t count, capacity;
    size_t used, size;
};

/* What the calls of the kernel are made with; one for all ports of a loop. */
struct udp_batch {
    struct mmsghdr in[BATCH], out[BATCH];
    struct iovec in_parts[BATCH], out_parts[BATCH];
    union name names[BATCH];
    char *buffer; /* owns; ROOM bytes, touched as far as datagrams are that long and that many */
    size_t limit; /* bytes of a datagram that it is laid out for */
    unsigned places;
    union name sender; /* of the datagram received last */
};

enum udp_flag {
    U_RECEIVING = 1 << 0,
    U_CONNECTED = 1 << 1,
    U_CLOSING = 1 << 2,
    U_FINISHING = 1 << 3, /* receives what waits, then closes */
    U_BLOCKED = 1 << 4,   /* the kernel takes no more for now */
    U_REFUSED = 1 << 5,   /* Lua is to hear that the peer's port is closed */
    U_DIRTY = 1 << 6,
};

/* Owned by the loop until uv_close's callback frees it. */
struct udp {
    uv_poll_t poll;
    uint32_t magic;
    uint32_t flags;
    uint64_t handle;
    struct udp *dirty_next;
    int fd; /* -1: closed */
    int family;
    int interest; /* what uv_poll watches for now */
    size_t limit;
    struct queue queue;
    struct address peer; /* where U_CONNECTED */
    uint64_t warned_at;
};

static struct loop *udp_loop(const struct udp *udp)
{
    return container_of(udp->poll.loop, struct loop, uv);
}

struct udp *udp_find(struct loop *loop, uint64_t handle)
{
    return slots_find(&loop->udps, handle);
}

uint64_t udp_handle(const struct udp *udp)
{
    return udp->handle;
}

int udp_host(const struct udp *udp, struct address *address)
{
    return udp->fd < 0 ? -ENOTCONN : socket_host(udp->fd, address, NULL, 0);
}

void udp_describe(const struct udp *udp, char *text, size_t size)
{
    struct address address = {.family = AF_INET};
    char host[ADDRESS_TEXT];
    udp_host(udp, &address);
    address_and_port(&address, host);
    snprintf(text, size, "port %u udp %s, %u datagrams queued", slot_place(udp->handle), host,
             udp->queue.count);
}

static void udp_dirty(struct udp *udp)
{
    struct loop *loop = udp_loop(udp);
    if (udp->flags & U_DIRTY)
        return;
    udp->flags |= U_DIRTY;
    udp->dirty_next = loop->udp_dirty;
    loop->udp_dirty = udp;
}

/* Whatever goes wrong with one datagram is told once in a while, and is all that comes of it. */
static void warn(struct udp *udp, const char *what, int error)
{
    struct loop *loop = udp_loop(udp);
    uint64_t now = loop_now(loop);
    char text[160];
    if (udp->warned_at != 0 && now - udp->warned_at < QUIET_NS)
        return;
    udp->warned_at = now;
    udp_describe(udp, text, sizeof text);
    log_write(loop->log, LOG_WARNING, "%s: %s (%s) on %s", what, error_text(error),
              error_name(error), text);
}

/* --- names ---------------------------------------------------------------------------------- */

static socklen_t name_length(const union name *name)
{
    return name->any.sa_family == AF_INET ? sizeof name->in : sizeof name->in6;
}

/* The name of an address for a socket of that family; one of IPv6 takes IPv4's as mapped ones. */
static int name_of(const struct address *address, int family, union name *name)
{
    struct sockaddr_storage kernel;
    socklen_t length = address_to_kernel(address, &kernel);
    if (family == AF_INET && address->family != AF_INET)
        return -EAFNOSUPPORT;
    memcpy(name, &kernel, length);
    if (address->family == family)
        return 0;
    *name = (union name){.in6 = {.sin6_family = AF_INET6, .sin6_port = htons(address->port)}};
    memset(name->in6.sin6_addr.s6_addr + 10, 0xff, 2);
    memcpy(name->in6.sin6_addr.s6_addr + 12, address->bytes, 4);
    return 0;
}

static bool is_same(const struct address *a, const struct address *b)
{
    return a->family == b->family && a->port == b->port &&
           memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* --- what waits to be sent ------------------------------------------------------------------ */

static size_t queue_cost(const struct queue *queue)
{
    return queue->used + (size_t)queue->count * COST;
}

static void queue_add(struct queue *queue, const union name *to, const char *data, size_t length)
{
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 4;
        queue->items = memory_grow(queue->items, queue->capacity, sizeof *queue->items);
    }
    if (queue->used + length > queue->size) {
        queue->size = (queue->used + length) * 2;
        queue->bytes = memory_grow(queue->bytes, queue->size, 1);
    }
    queue->items[queue->count++] =
        (struct queued){.to = *to, .length = (uint32_t)length, .at = queue->used};
    if (length > 0)
        memcpy(queue->bytes + queue->used, data, length);
    queue->used += length;
}

static void queue_free(struct queue *queue)
{
    free(queue->items);
    free(queue->bytes);
    *queue = (struct queue){0};
}

/* Drops the first `count`. */
static void queue_drop(struct queue *queue, uint32_t count)
{
    if (count < queue->count) {
        size_t gone = queue->items[count].at;
        queue->count -= count;
        queue->used -= gone;
        memmove(queue->items, queue->items + count, queue->count * sizeof *queue->items);
        memmove(queue->bytes, queue->bytes + gone, queue->used);
        for (uint32_t i = 0; i < queue->count; i++)
            queue->items[i].at -= gone;
        return;
    }
    queue->count = 0;
    queue->used = 0;
    if (queue->size > KEPT)
        queue_free(queue);
}

/* One is cheaper by itself. */
static int send_one(const struct udp *udp, const struct queued *item)
{
    bool named = item->to.any.sa_family != AF_UNSPEC;
    ssize_t sent = sendto(udp->fd, udp->queue.bytes + item->at, item->length, MSG_NOSIGNAL,
                          named ? &item->to.any : NULL, named ? name_length(&item->to) : 0);
    return sent < 0 ? -errno : 1;
}

/* Sends what begins there. How many; or -errno of the first. */
static int send_some(struct udp *udp, uint32_t first)
{
    struct udp_batch *batch = udp_loop(udp)->udp_batch;
    uint32_t left = udp->queue.count - first;
    unsigned count = left < BATCH ? left : BATCH;
    if (count == 1)
        return send_one(udp, &udp->queue.items[first]);
    for (unsigned i = 0; i < count; i++) {
        struct queued *item = &udp->queue.items[first + i];
        bool named = item->to.any.sa_family != AF_UNSPEC;
        batch->out_parts[i].iov_base = udp->queue.bytes + item->at;
        batch->out_parts[i].iov_len = item->length;
        batch->out[i].msg_hdr.msg_name = named ? &item->to : NULL;
        batch->out[i].msg_hdr.msg_namelen = named ? name_length(&item->to) : 0;
    }
    int sent = sendmmsg(udp->fd, batch->out, count, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

/* That the peer's port is closed is told by the next call, whatever that is for: it is made again.
 */
static void flush(struct udp *udp)
{
    uint32_t sent = 0, refused_at = UINT32_MAX;
    while (sent < udp->queue.count && !(udp->flags & U_BLOCKED) && udp->fd >= 0) {
        int result = send_some(udp, sent);
        if (result > 0) {
            sent += (uint32_t)result;
        } else if (result == -EAGAIN) {
            udp->flags |= U_BLOCKED;
        } else if (result == -ECONNREFUSED && refused_at != sent) {
            udp->flags |= U_REFUSED;
            refused_at = sent;
        } else if (result != -EINTR) {
            warn(udp, "a datagram was not sent", -result);
            sent++;
        }
    }
    if (sent > 0)
        queue_drop(&udp->queue, sent);
}

static int enqueue(struct udp *udp, const union name *to, const char *data, size_t length)
{
    struct queue *queue = &udp->queue;
    if (length > UDP_LARGEST - (udp->family == AF_INET ? HEADERS : 8))
        return -EMSGSIZE;
    if (queue_cost(queue) + length + COST > MOST_WAITING)
        return -ENOBUFS;
    queue_add(queue, to, data, length);
    if (queue->count % BATCH == 0 || queue->used >= EAGER)
        flush(udp);
    udp_dirty(udp);
    return 0;
}

int udp_write(struct udp *udp, const struct address *to, const char *data, size_t length)
{
    union name name = {.any = {.sa_family = AF_UNSPEC}};
    bool connected = udp->flags & U_CONNECTED;
    if (udp->flags & U_CLOSING)
        return -EPIPE;
    if (to == NULL && !connected)
        return -EDESTADDRREQ;
    if (to && connected && !is_same(to, &udp->peer))
        return -EISCONN;
    int error = connected ? 0 : name_of(to, udp->family, &name);
    return error < 0 ? error : enqueue(udp, &name, data, length);
}

int udp_answer(struct udp *udp, const char *data, size_t length)
{
    const union name *sender = &udp_loop(udp)->udp_batch->sender;
    bool direct = !(udp->flags & (U_CLOSING | U_CONNECTED));
    if (direct && sender->any.sa_family == udp->family)
        return enqueue(udp, sender, data, length);
    struct address to;
    address_from_kernel(&to, &sender->any);
    return udp_write(udp, &to, data, length);
}

/* --- receiving ------------------------------------------------------------------------------ */

/* The places for datagrams, for those of this limit. They are apart by a little more than a power
 * of two, which would put them all into the same lines of the cache. */
static void lay_out(struct udp_batch *batch, size_t limit)
{
    size_t stride = (limit + 2 * CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    batch->limit = limit;
    batch->places = (unsigned)(ROOM / stride < BATCH ? ROOM / stride : BATCH);
    for (unsigned i = 0; i < batch->places; i++) {
        batch->in_parts[i].iov_base = batch->buffer + i * stride;
        batch->in_parts[i].iov_len = limit;
    }
}

/* 0 or -errno; done once. */
static int batch_open(struct loop *loop)
{
    char *buffer = loop->udp_batch ? NULL : malloc(ROOM);
    if (buffer == NULL)
        return loop->udp_batch ? 0 : -ENOMEM;
    struct udp_batch *batch = loop->udp_batch = memory_new(sizeof *batch);
    batch->buffer = buffer;
    for (unsigned i = 0; i < BATCH; i++) {
        struct msghdr *in = &batch->in[i].msg_hdr, *out = &batch->out[i].msg_hdr;
        in->msg_name = &batch->names[i];
        in->msg_namelen = sizeof batch->names[i];
        in->msg_iov = &batch->in_parts[i];
        out->msg_iov = &batch->out_parts[i];
        in->msg_iovlen = out->msg_iovlen = 1;
    }
    return 0;
}

static bool receives(const struct udp *udp)
{
    return udp->flags & (U_RECEIVING | U_FINISHING) && !(udp->flags & U_CLOSING);
}

/* The script may have closed the port meanwhile: then nothing more of it is delivered. */
static void deliver(struct udp *udp, struct udp_batch *batch, unsigned i)
{
    struct loop *loop = udp_loop(udp);
    struct msghdr *message = &batch->in[i].msg_hdr;
    message->msg_namelen = sizeof batch->names[i];
    if (!receives(udp))
        return;
    struct datagram datagram = {
        .bytes = message->msg_iov->iov_base,
        .length = batch->in[i].msg_len,
        .truncated = (message->msg_flags & MSG_TRUNC) != 0,
    };
    batch->sender = batch->names[i];
    address_from_kernel(&datagram.from, &batch->sender.any);
    loop->events->datagram(loop->context, udp, &datagram);
}

/* One call's worth, into so many places; false: nothing more waits. */
static bool receive_some(struct udp *udp, struct udp_batch *batch, unsigned places)
{
    struct loop *loop = udp_loop(udp);
    int count = recvmmsg(udp->fd, batch->in, places, 0, NULL);
    if (count < 0 && errno == ECONNREFUSED) {
        loop->events->refused(loop->context, udp);
        return true;
    }
    if (count < 0 && errno != EAGAIN && errno != EINTR)
        warn(udp, "a datagram was not received", errno);
    for (int i = 0; i < count; i++)
        deliver(udp, batch, (unsigned)i);
    return count == (int)places;
}

/* At most BATCH of them; false: nothing more waits. */
static bool receive_batch(struct udp *udp)
{
    struct udp_batch *batch = udp_loop(udp)->udp_batch;
    unsigned left = BATCH;
    if (batch->limit != udp->limit)
        lay_out(batch, udp->limit);
    while (left > 0 && receives(udp)) {
        unsigned places = left < batch->places ? left : batch->places;
        if (!receive_some(udp, batch, places))
            return false;
        left -= places;
    }
    return receives(udp);
}

/* --- watching ------------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct udp *udp)
{
    int interest = (udp->flags & U_RECEIVING && receives(udp) ? UV_READABLE : 0) |
                   (udp->flags & U_BLOCKED ? UV_WRITABLE : 0);
    if (udp->fd < 0 || interest == udp->interest)
        return;
    udp->interest = interest;
    if (interest)
        uv_poll_start(&udp->poll, interest, on_poll);
    else
        uv_poll_stop(&udp->poll);
}

/* An error of the socket (libuv has stopped watching then) is what its next call says. */
static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct udp *udp = container_of(poll, struct udp, poll);
    assert(udp->magic == UDP_MAGIC);
    if (status < 0)
        udp->interest = 0;
    if (status < 0 || events & UV_WRITABLE)
        udp->flags &= ~(uint32_t)U_BLOCKED;
    if (status < 0 || events & UV_READABLE)
        receive_batch(udp);
    udp_dirty(udp);
    loop_settle(udp_loop(udp));
}

/* --- life ----------------------------------------------------------------------------------- */

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

/* [::] takes IPv4 too. */
static int prepare(int fd, int family, bool reuse)
{
    int error = family == AF_INET6 ? set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) : 0;
    if (error == 0 && reuse)
        error = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (error == 0 && reuse)
        error = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    return error;
}

/* Takes the bound descriptor, unless it fails. */
static int udp_new(struct loop *loop, int fd, int family, uint64_t *handle)
{
    struct udp *udp = memory_new(sizeof *udp);
    *handle = slots_add(&loop->udps, udp);
    int error = *handle ? uv_poll_init(&loop->uv, &udp->poll, fd) : -ENFILE;
    if (error < 0) {
        slots_remove(&loop->udps, *handle);
        free(udp);
        return error;
    }
    udp->magic = UDP_MAGIC;
    udp->handle = *handle;
    udp->fd = fd;
    udp->family = family;
    udp->limit = USUAL_LIMIT;
    return 0;
}

int udp_open(struct loop *loop, const struct address *address, bool reuse, uint64_t *handle)
{
    struct sockaddr_storage name;
    socklen_t length = address_to_kernel(address, &name);
    if (loop->draining)
        return -ECANCELED;
    int fd = socket(address->family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = batch_open(loop);
    if (error == 0)
        error = prepare(fd, address->family, reuse);
    if (error == 0 && bind(fd, (struct sockaddr *)&name, length) < 0)
        error = -errno;
    if (error == 0)
        error = udp_new(loop, fd, address->family, handle);
    if (error < 0)
        close(fd);
    return error;
}

void udp_receive(struct udp *udp)
{
    if (udp->flags & U_CLOSING)
        return;
    udp->flags |= U_RECEIVING;
    udp_dirty(udp);
}

static void on_closed(uv_handle_t *handle)
{
    struct udp *udp = container_of((uv_poll_t *)handle, struct udp, poll);
    queue_free(&udp->queue);
    free(udp);
}

static void close_socket(struct udp *udp)
{
    uv_close((uv_handle_t *)&udp->poll, on_closed);
    close(udp->fd);
    udp->fd = -1;
}

/* Where nothing waits, the port is free at once for who binds it next. */
void udp_close(struct udp *udp)
{
    if (udp->flags & U_CLOSING)
        return;
    udp->flags |= U_CLOSING;
    flush(udp);
    if (udp->queue.count == 0)
        close_socket(udp);
    udp_dirty(udp);
}

void udp_finish(struct udp *udp)
{
    if (udp->flags & U_CLOSING)
        return;
    udp->flags |= U_FINISHING;
    udp_dirty(udp);
}

static void end(struct udp *udp)
{
    struct loop *loop = udp_loop(udp);
    uint64_t handle = udp->handle;
    if (udp->fd >= 0)
        close_socket(udp);
    loop->events->unbound(loop->context, handle);
    slots_remove(&loop->udps, handle);
    loop_look_drained(loop);
}

static void finish(struct udp *udp)
{
    for (int i = 0; i < FINISH_BATCHES && receive_batch(udp); i++)
        ;
    udp->flags &= ~(uint32_t)U_FINISHING;
    udp_close(udp);
}

static void settle(struct udp *udp)
{
    struct loop *loop = udp_loop(udp);
    if (udp->flags & U_FINISHING)
        finish(udp);
    flush(udp);
    if (udp->flags & U_REFUSED && receives(udp)) {
        udp->flags &= ~(uint32_t)U_REFUSED;
        loop->events->refused(loop->context, udp);
    }
    if (udp->flags & U_DIRTY)
        return; /* it was asked for more meanwhile, and comes again */
    if (udp->flags & U_CLOSING && udp->queue.count == 0)
        end(udp);
    else
        watch(udp);
}

void udps_settle(struct loop *loop)
{
    while (loop->udp_dirty) {
        struct udp *udp = loop->udp_dirty;
        loop->udp_dirty = udp->dirty_next;
        udp->flags &= ~(uint32_t)U_DIRTY;
        settle(udp);
    }
}

void udps_close(struct loop *loop, bool drop)
{
    for (uint32_t place = 1; place < loop->udps.used; place++) {
        struct udp *udp = slots_at(&loop->udps, place);
        if (udp == NULL)
            continue;
        if (drop)
            queue_drop(&udp->queue, udp->queue.count);
        udp_close(udp);
        if (drop)
            udp_dirty(udp);
    }
}

void udps_end(struct loop *loop)
{
    for (uint32_t place = 1; place < loop->udps.used; place++) {
        struct udp *udp = slots_at(&loop->udps, place);
        if (udp == NULL)
            continue;
        slots_remove(&loop->udps, udp->handle);
        if (udp->fd >= 0)
            close_socket(udp);
    }
    loop->udp_dirty = NULL;
}

void udps_free(struct loop *loop)
{
    if (loop->udp_batch)
        free(loop->udp_batch->buffer);
    free(loop->udp_batch);
    slots_free(&loop->udps);
}

/* --- what may be set ------------------------------------------------------------------------ */

void udp_set_limit(struct udp *udp, size_t bytes)
{
    udp->limit = bytes;
}

/* The level and the name of an option. */
static const int *option_name(const struct udp *udp, enum udp_option option)
{
    /*  for IPv4, then for IPv6 */
    static const int names[][4] = {
        [UDP_BROADCAST] = {SOL_SOCKET, SO_BROADCAST, SOL_SOCKET, SO_BROADCAST},
        [UDP_TTL] = {IPPROTO_IP, IP_MULTICAST_TTL, IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
        [UDP_LOOPBACK] = {IPPROTO_IP, IP_MULTICAST_LOOP, IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    };
    return names[option] + (udp->family == AF_INET ? 0 : 2);
}

int udp_set(struct udp *udp, enum udp_option option, int value)
{
    const int *name = option_name(udp, option);
    return udp->fd < 0 ? -EPIPE : set_option(udp->fd, name[0], name[1], value);
}

int udp_get(const struct udp *udp, enum udp_option option)
{
    const int *name = option_name(udp, option);
    int value;
    socklen_t size = sizeof value;
    if (udp->fd < 0)
        return -EPIPE;
    return getsockopt(udp->fd, name[0], name[1], &value, &size) < 0 ? -errno : value;
}

int udp_connect(struct udp *udp, const struct address *peer)
{
    union name name;
    int error = name_of(peer, udp->family, &name);
    if (error < 0)
        return error;
    if (udp->flags & U_CLOSING)
        return -EPIPE;
    if (connect(udp->fd, &name.any, name_length(&name)) < 0)
        return -errno;
    udp->flags |= U_CONNECTED;
    udp->peer = *peer;
    return 0;
}

static bool has_address(const struct ifaddrs *interface, const struct address *wanted)
{
    struct address address;
    int family = interface->ifa_addr ? interface->ifa_addr->sa_family : AF_UNSPEC;
    if (family != AF_INET && family != AF_INET6)
        return false;
    address_from_kernel(&address, interface->ifa_addr);
    address.port = wanted->port;
    return is_same(&address, wanted);
}

/* The number of an interface, 0 for "", or -errno. */
static int interface_number(const char *text)
{
    struct address wanted;
    struct ifaddrs *list, *at;
    int number = text[0] == '\0' ? 0 : (int)if_nametoindex(text);
    if (number > 0 || text[0] == '\0')
        return number;
    if (!address_parse(&wanted, text, 0)) {
        number = (int)strtoul(text, NULL, 10);
        return number > 0 ? number : -ENODEV;
    }
    if (getifaddrs(&list) < 0)
        return -errno;
    number = -EADDRNOTAVAIL;
    for (at = list; at && number < 0; at = at->ifa_next)
        if (has_address(at, &wanted))
            number = (int)if_nametoindex(at->ifa_name);
    freeifaddrs(list);
    return number;
}

int udp_join(struct udp *udp, const struct address *group, const char *interface, bool join)
{
    int number = interface_number(interface);
    if (number < 0)
        return number;
    if (udp->fd < 0)
        return -EPIPE;
    if (group->family != udp->family)
        return -EAFNOSUPPORT;
    struct group_req request = {.gr_interface = (uint32_t)number};
    address_to_kernel(group, &request.gr_group);
    int level = group->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    int option = join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP;
    return setsockopt(udp->fd, level, option, &request, sizeof request) < 0 ? -errno : 0;
}

int udp_set_interface(struct udp *udp, const char *interface)
{
    int number = interface_number(interface);
    if (number < 0)
        return number;
    if (udp->fd < 0)
        return -EPIPE;
    if (udp->family == AF_INET6)
        return set_option(udp->fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, number);
    struct ip_mreqn request = {.imr_ifindex = number};
    return setsockopt(udp->fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request) < 0 ? -errno
                                                                                          : 0;
}
