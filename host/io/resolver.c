/* Host names by c-ares: one channel for each look-up, so that each asks from a port of its own and
 * ends with its channel; and one for the hosts file, in which a name that is there is not asked for
 * elsewhere, whatever families it has. Nothing is told from within c-ares, which would not survive
 * what may be done then: its callbacks only note what came, and lookup_settle tells. */
#include "io/resolver.h"

#include "io/inside.h"

#include <ares.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { FAMILIES = 2 };

/* A question is sent three times, to each server, and waited for twice as long each time: 14 s. */
enum { FIRST_WAIT_MS = 2000, TRIES = 3 };

/* What look-ups may take of one turn of the loop, one step at least: hundreds may be answered, have
 * their deadline or end at the same moment. */
enum { SLICE_NS = 1000000 };

enum part_state { PART_UNWANTED, PART_ASKED, PART_ENDED, PART_TOLD };

/* What is asked of one family. */
struct part {
    enum part_state state;
    int status;                  /* of c-ares; valid once it ended */
    struct ares_addrinfo *found; /* owns; what servers said */
};

/* A socket of c-ares under watch; freed in uv_close's callback, which may outlive the look-up. */
struct wire {
    uv_poll_t poll;
    struct lookup *lookup;
    struct wire *next;
    int fd; /* c-ares owns it */
    int events;
};

struct lookup {
    struct loop *loop;
    uint64_t handle;
    ares_channel channel;         /* owns; NULL where the hosts file knows the name */
    struct ares_addrinfo *hosted; /* owns; what that says, of all families */
    struct lookup *retired;       /* the next one, once it is over */
    struct wire *wires;
    bool answered;      /* some server has sent something */
    struct timer timer; /* the next deadline of c-ares, or now: something is to be told */
    struct part parts[FAMILIES];
    const struct ares_addrinfo_node *next; /* of the addresses that are being told */
    int telling;                           /* their family, as the kernel calls it */
};

/* In the order of the parts. */
static const struct {
    enum lookup_family family;
    int kernel;
    int flags; /* the best IPv6 address depends on ours; of IPv4 the server's order is to stay */
} families[FAMILIES] = {
    {LOOKUP_IPV6, AF_INET6, 0},
    {LOOKUP_IPV4, AF_INET, ARES_AI_NOSORT},
};

static const char *const names[] = {
    [ARES_ENODATA] = "ENODATA",
    [ARES_EFORMERR] = "EFORMERR",
    [ARES_ESERVFAIL] = "ESERVFAIL",
    [ARES_ENOTFOUND] = "ENOTFOUND",
    [ARES_ENOTIMP] = "ENOTIMP",
    [ARES_EREFUSED] = "EREFUSED",
    [ARES_EBADNAME] = "EBADNAME",
    [ARES_EBADRESP] = "EBADRESP",
    [ARES_ECONNREFUSED] = "ECONNREFUSED",
    [ARES_ETIMEOUT] = "ETIMEOUT",
    [ARES_EFILE] = "EFILE",
    [ARES_ENOMEM] = "ENOMEM",
    [ARES_ECANCELLED] = "ECANCELLED",
};

/* libuv's clock stands still within a turn. */
static bool has_time(struct loop *loop)
{
    struct resolver *resolver = &loop->resolver;
    uint64_t now = loop_now(loop);
    if (resolver->turn != uv_now(&loop->uv)) {
        resolver->turn = uv_now(&loop->uv);
        resolver->slice_ends = now + SLICE_NS;
    }
    return now < resolver->slice_ends;
}

/* Steps to the first of the nodes that is of the family being told. */
static void skip_others(struct lookup *lookup)
{
    while (lookup->next && lookup->next->ai_family != lookup->telling)
        lookup->next = lookup->next->ai_next;
}

/* c-ares says that nobody is there, too, when all servers answered that they cannot or will not. */
static const char *error_of(const struct lookup *lookup, int status)
{
    if (status == ARES_SUCCESS)
        return "ENODATA";
    if (status == ARES_ECONNREFUSED && lookup->answered)
        return "ESERVFAIL";
    bool known = status > 0 && (size_t)status < sizeof names / sizeof *names && names[status];
    return known ? names[status] : "EBADRESP";
}

/* --- sockets -------------------------------------------------------------------------------- */

static void lookup_settle(struct lookup *lookup);
static void on_poll(uv_poll_t *poll, int status, int events);

static void on_closed(uv_handle_t *handle)
{
    free(container_of((uv_poll_t *)handle, struct wire, poll));
}

/* The place that refers to the wire of a descriptor, or the end of the list. */
static struct wire **find_wire(struct lookup *lookup, int fd)
{
    struct wire **place = &lookup->wires;
    while (*place && (*place)->fd != fd)
        place = &(*place)->next;
    return place;
}

static void wire_close(struct wire **place)
{
    struct wire *wire = *place;
    if (wire == NULL)
        return;
    *place = wire->next;
    uv_close((uv_handle_t *)&wire->poll, on_closed);
}

static struct wire *wire_new(struct lookup *lookup, int fd)
{
    struct wire *wire = memory_new(sizeof *wire);
    if (uv_poll_init(&lookup->loop->uv, &wire->poll, fd) < 0) {
        free(wire);
        return NULL;
    }
    wire->lookup = lookup;
    wire->fd = fd;
    wire->next = lookup->wires;
    lookup->wires = wire;
    return wire;
}

/* c-ares opened a socket, waits for something else of it, or is about to close it. One that cannot
 * be watched is like a server that does not answer. */
static void on_socket(void *context, ares_socket_t fd, int readable, int writable)
{
    struct lookup *lookup = context;
    struct wire **place = find_wire(lookup, fd);
    if (!readable && !writable) {
        wire_close(place);
        return;
    }
    struct wire *wire = *place ? *place : wire_new(lookup, fd);
    if (wire == NULL)
        return;
    wire->events = (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0);
    uv_poll_start(&wire->poll, wire->events, on_poll);
}

/* What there is no time for is told of again in the next turn; but a socket with an error is
 * watched no more by libuv, and c-ares may well go on with it. */
static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct wire *wire = container_of(poll, struct wire, poll);
    struct lookup *lookup = wire->lookup;
    struct loop *loop = lookup->loop;
    int fd = wire->fd;
    if (status >= 0 && !has_time(loop))
        return;
    if (status < 0)
        events = wire->events;
    else if (events & UV_READABLE)
        lookup->answered = true;
    ares_process_fd(lookup->channel, events & UV_READABLE ? fd : ARES_SOCKET_BAD,
                    events & UV_WRITABLE ? fd : ARES_SOCKET_BAD);
    if (status < 0 && *find_wire(lookup, fd) == wire)
        uv_poll_start(poll, wire->events, on_poll);
    lookup_settle(lookup);
    loop_settle(loop);
}

/* --- life ----------------------------------------------------------------------------------- */

static void lookup_free(struct lookup *lookup)
{
    ares_destroy(lookup->channel);
    ares_freeaddrinfo(lookup->hosted);
    for (int i = 0; i < FAMILIES; i++)
        ares_freeaddrinfo(lookup->parts[i].found);
    free(lookup);
}

/* Freeing a channel of c-ares takes as long as all else about it. */
static void on_reap(struct timer *reaper)
{
    struct loop *loop = container_of(reaper, struct loop, resolver.reaper);
    struct lookup *lookup;
    while ((lookup = loop->resolver.retired) != NULL && has_time(loop)) {
        loop->resolver.retired = lookup->retired;
        lookup_free(lookup);
    }
    if (loop->resolver.retired)
        loop_timer_start(loop, reaper, loop_now(loop));
}

/* It is over: its handle finds nothing, its sockets are closed, its memory follows. */
static void lookup_end(struct lookup *lookup)
{
    struct loop *loop = lookup->loop;
    slots_remove(&loop->resolver.lookups, lookup->handle);
    loop_timer_stop(loop, &lookup->timer);
    if (lookup->channel)
        ares_cancel(lookup->channel); /* closes its wires, and calls on_answer where it has not */
    lookup->retired = loop->resolver.retired;
    loop->resolver.retired = lookup;
    loop->resolver.reaper.fire = on_reap;
    if (!timer_pending(&loop->resolver.reaper))
        loop_timer_start(loop, &loop->resolver.reaper, loop_now(loop));
}

/* c-ares counts whole milliseconds downwards: one more, so that the deadline has passed then. */
static void lookup_arm(struct lookup *lookup)
{
    struct timeval wait;
    if (ares_timeout(lookup->channel, NULL, &wait) == NULL)
        return;
    uint64_t milliseconds = (uint64_t)wait.tv_sec * 1000 + (uint64_t)wait.tv_usec / 1000 + 1;
    loop_timer_start(lookup->loop, &lookup->timer, loop_now(lookup->loop) + milliseconds * 1000000);
}

static bool lookup_has(const struct lookup *lookup, enum part_state state)
{
    for (int i = 0; i < FAMILIES; i++)
        if (lookup->parts[i].state == state)
            return true;
    return false;
}

/* Whoever is told may cancel: false then. */
static bool tell(struct lookup *lookup, int i)
{
    struct loop *loop = lookup->loop;
    uint64_t handle = lookup->handle;
    struct part *part = &lookup->parts[i];
    const struct ares_addrinfo *found = lookup->hosted ? lookup->hosted : part->found;
    part->state = PART_TOLD;
    lookup->next = found ? found->nodes : NULL;
    lookup->telling = families[i].kernel;
    skip_others(lookup);
    const char *error = lookup->next ? NULL : error_of(lookup, part->status);
    loop->events->resolved(loop->context, handle, families[i].family, error);
    if (slots_find(&loop->resolver.lookups, handle) == NULL)
        return false;
    lookup->next = NULL;
    return true;
}

/* Tells of what ended, and ends with the last family. */
static void lookup_settle(struct lookup *lookup)
{
    for (int i = 0; i < FAMILIES; i++)
        if (lookup->parts[i].state == PART_ENDED && !tell(lookup, i))
            return;
    if (lookup_has(lookup, PART_ASKED))
        lookup_arm(lookup);
    else
        lookup_end(lookup);
}

static void on_timer(struct timer *timer)
{
    struct lookup *lookup = container_of(timer, struct lookup, timer);
    if (!has_time(lookup->loop)) {
        loop_timer_start(lookup->loop, timer, loop_now(lookup->loop));
        return;
    }
    if (lookup->channel)
        ares_process_fd(lookup->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    lookup_settle(lookup);
}

/* --- asking --------------------------------------------------------------------------------- */

static void on_answer(void *context, int status, int timeouts, struct ares_addrinfo *found)
{
    struct part *part = context;
    (void)timeouts;
    part->state = PART_ENDED;
    part->status = status;
    part->found = found;
}

static int from_ares(int status)
{
    return status == ARES_ENOMEM ? -ENOMEM : status == ARES_EBADSTR ? -EINVAL : -EIO;
}

/* `servers` NULL: those of resolv.conf, which is read each time, since it may have changed. */
static int channel_open(ares_channel *channel, char *where, struct lookup *lookup,
                        const char *servers)
{
    struct ares_options options = {
        .timeout = FIRST_WAIT_MS,
        .tries = TRIES,
        .lookups = where,
        .sock_state_cb = on_socket,
        .sock_state_cb_data = lookup,
    };
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB;
    int status = ares_init_options(channel, &options, mask);
    if (status != ARES_SUCCESS)
        return from_ares(status);
    if (servers)
        status = ares_set_servers_ports_csv(*channel, servers);
    if (status == ARES_SUCCESS)
        return 0;
    ares_destroy(*channel);
    *channel = NULL;
    return from_ares(status);
}

static void on_hosted(void *context, int status, int timeouts, struct ares_addrinfo *found)
{
    struct lookup *lookup = context;
    (void)status;
    (void)timeouts;
    lookup->hosted = found;
}

/* Ends at once: the channel knows nothing but the file. */
static int ask_file(struct lookup *lookup, const char *name, int wanted)
{
    struct loop *loop = lookup->loop;
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_flags = ARES_AI_NOSORT};
    for (int i = 0; i < FAMILIES; i++)
        if (wanted == (int)families[i].family)
            hints.ai_family = families[i].kernel;
    int error = loop->resolver.files ? 0 : channel_open(&loop->resolver.files, "f", NULL, NULL);
    if (error == 0)
        ares_getaddrinfo(loop->resolver.files, name, NULL, &hints, on_hosted, lookup);
    return error;
}

static int ask_servers(struct lookup *lookup, const char *name, int wanted, const char *servers)
{
    int error = channel_open(&lookup->channel, "b", lookup, servers);
    for (int i = 0; error == 0 && i < FAMILIES; i++) {
        struct ares_addrinfo_hints hints = {
            .ai_family = families[i].kernel,
            .ai_flags = families[i].flags,
        };
        if (!(wanted & (int)families[i].family))
            continue;
        lookup->parts[i].state = PART_ASKED;
        ares_getaddrinfo(lookup->channel, name, NULL, &hints, on_answer, &lookup->parts[i]);
    }
    return error;
}

static int ask(struct lookup *lookup, const char *name, int wanted, const char *servers)
{
    int error = ask_file(lookup, name, wanted);
    if (error < 0)
        return error;
    if (lookup->hosted == NULL)
        return ask_servers(lookup, name, wanted, servers);
    for (int i = 0; i < FAMILIES; i++)
        if (wanted & (int)families[i].family)
            lookup->parts[i].state = PART_ENDED;
    return 0;
}

/* c-ares does not say why it got no socket or file, and its numbers can be guessed then. */
static int spare_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

int lookup_start(struct loop *loop, const char *name, int wanted, const char *servers,
                 uint64_t *handle)
{
    int error = spare_descriptor();
    if (error < 0)
        return error;
    struct lookup *lookup = memory_new(sizeof *lookup);
    lookup->loop = loop;
    lookup->timer.fire = on_timer;
    lookup->handle = slots_add(&loop->resolver.lookups, lookup);
    error = lookup->handle ? ask(lookup, name, wanted, servers) : -ENOBUFS;
    if (error < 0) {
        lookup_end(lookup);
        return error;
    }
    *handle = lookup->handle;
    if (lookup_has(lookup, PART_ENDED))
        loop_timer_start(loop, &lookup->timer, loop_now(loop));
    else
        lookup_arm(lookup);
    return 0;
}

void lookup_cancel(struct loop *loop, uint64_t handle)
{
    struct lookup *lookup = slots_find(&loop->resolver.lookups, handle);
    if (lookup)
        lookup_end(lookup);
}

bool lookup_next(struct loop *loop, uint64_t handle, struct address *address)
{
    struct lookup *lookup = slots_find(&loop->resolver.lookups, handle);
    if (lookup == NULL || lookup->next == NULL)
        return false;
    address_from_kernel(address, lookup->next->ai_addr);
    lookup->next = lookup->next->ai_next;
    skip_others(lookup);
    return true;
}

void lookups_close(struct loop *loop)
{
    struct resolver *resolver = &loop->resolver;
    struct lookup *lookup;
    for (uint32_t place = 1; place < resolver->lookups.used; place++)
        if ((lookup = slots_at(&resolver->lookups, place)) != NULL)
            lookup_end(lookup);
    while ((lookup = resolver->retired) != NULL) {
        resolver->retired = lookup->retired;
        lookup_free(lookup);
    }
    loop_timer_stop(loop, &resolver->reaper);
    ares_destroy(resolver->files);
    resolver->files = NULL;
}
