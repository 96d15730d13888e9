/* Which handshakes of a server may be under way. A client that has not said anything costs no more
 * than any other silent connection, and takes no place: one gets its place with its first bytes.
 * Where there is none left, it is held and its socket not watched. Those who have places and leave
 * us waiting lose them to who is held, the oldest first. */
#include "io/tls_inside.h"

#include <sys/ioctl.h>

enum {
    PLACES = 512,             /* of a context */
    PATIENCE_NS = 1000000000, /* with who has a place and says nothing, while others are held */
    AGAIN_NS = 100000000,     /* between two looks, where all that are old wait for us */
};

bool tls_is_held(const struct tls *tls)
{
    return tls->list == &tls->context->held;
}

bool tls_context_is_full(const struct tls_context *context)
{
    return context->held.first != NULL;
}

static void append(struct tls_list *list, struct tls *tls)
{
    tls->list = list;
    tls->next = NULL;
    tls->previous = list->last;
    if (list->last)
        list->last->next = tls;
    else
        list->first = tls;
    list->last = tls;
    list->count++;
}

static void take_out(struct tls *tls)
{
    struct tls_list *list = tls->list;
    if (tls->next)
        tls->next->previous = tls->previous;
    else
        list->last = tls->previous;
    if (tls->previous)
        tls->previous->next = tls->next;
    else
        list->first = tls->next;
    list->count--;
    tls->list = NULL;
}

static void place(struct tls *tls)
{
    tls->placed = loop_now(tls->context->loop);
    append(&tls->context->begun, tls);
}

/* Nothing has come that we have not read yet. */
static bool is_silent(const struct tls *tls)
{
    int bytes = 0;
    return ioctl(tls->connection->fd, FIONREAD, &bytes) < 0 || bytes == 0;
}

/* Ends the oldest that has had its time and is silent. False: there is none. */
static bool make_room(struct tls_context *context)
{
    uint64_t now = loop_now(context->loop);
    struct tls *tls = context->begun.first;
    while (tls && now - tls->placed >= PATIENCE_NS && !is_silent(tls))
        tls = tls->next;
    if (tls == NULL || now - tls->placed < PATIENCE_NS)
        return false;
    tls_expire(tls, PATIENCE_NS / 1e9, ", while others wait");
    return true;
}

static void look_at(struct tls_context *context, uint64_t when)
{
    loop_timer_start(context->loop, &context->turn, when);
}

/* When somebody may lose a place. */
static uint64_t next_look(const struct tls_context *context)
{
    uint64_t now = loop_now(context->loop);
    uint64_t due = context->begun.first ? context->begun.first->placed + PATIENCE_NS : now + 1;
    return due > now ? due : now + AGAIN_NS;
}

static bool has_room(struct tls_context *context)
{
    return context->begun.count < PLACES || make_room(context);
}

void tls_hold(struct tls *tls, uint64_t when)
{
    struct tls_context *context = tls->context;
    append(&context->held, tls);
    connection_dirty(tls->connection);
    if (!timer_pending(&context->turn))
        look_at(context, when);
}

/* Nobody overtakes who is held. */
bool tls_take_place(struct tls *tls)
{
    struct tls_context *context = tls->context;
    if (!context->server || tls->list == &context->begun)
        return true;
    if (context->held.first == NULL && has_room(context)) {
        place(tls);
        return true;
    }
    tls_hold(tls, next_look(context));
    return false;
}

void tls_leave_place(struct tls *tls)
{
    struct tls_context *context = tls->context;
    bool was_full = tls_context_is_full(context);
    if (tls->list)
        take_out(tls);
    if (tls_context_is_full(context))
        look_at(context, loop_now(context->loop));
    else
        loop_timer_stop(context->loop, &context->turn);
    if (was_full && !tls_context_is_full(context) && context->loop->paced)
        listeners_retry(context->loop);
}

/* Places for who is held, as long as there are any, and time. */
void tls_on_turn(struct timer *timer)
{
    struct tls_context *context = container_of(timer, struct tls_context, turn);
    struct loop *loop = context->loop;
    while (context->held.first) {
        struct tls *tls = context->held.first;
        if (!tls_has_time(tls)) {
            look_at(context, loop_now(loop));
            return;
        }
        if (!has_room(context)) {
            look_at(context, next_look(context));
            return;
        }
        take_out(tls);
        place(tls);
        connection_dirty(tls->connection);
        tls_step(tls);
    }
    if (loop->paced)
        listeners_retry(loop);
}
