/*
 * resolve.c: the addresses of a name (whorl/resolve.h): who waits for which lookup
 * (net/resolve.h).
 *
 *      wh_resolve(), any number of them            a coroutine of its own
 *        find the flight, or begin it -----------> looks it up (net/lookup.h): on a thread of
 *                                                  wh_blocking(), and then in the ring
 *        wait for `over` <------------------------ sets `over`; nobody finds the flight any more
 *        copy what was found, leave                leaves
 *              \__________ the last frees it _________/
 *
 * A flight is a lookup that is under way. It is a coroutine's of its own, in no context of a
 * caller's: who is cancelled leaves it at once, and it goes on for the others. When the last caller
 * leaves before it is over, its coroutine is cancelled, and ends it when nobody uses its memory any
 * more. The same lookup by several coroutines is found by its key: all that the result depends on,
 * one text after the other.
 *
 * wh_dial_tcp() does not wait for `over` if there is something to begin with before (`early`): the
 * addresses of one family, when the servers keep the other one back.
 *
 * A flight has two sides, the callers' and the coroutine's. Each leaves it once; the second frees
 * it. A flight whose coroutines the run has abandoned is freed by a hook at the run's end; if it is
 * in the thread's hands then, by the thread; or, if no thread has begun it, and none will, by the
 * hook of the call that is not made.
 *
 * Rejected: the first caller looks up, and others wait for it. When it is cancelled somebody else
 * would have to go on with what it began, which lies on its stack.
 */
#include "net/address.h"
#include "net/lookup.h"
#include "net/resolve.h"
#include "sched/blocking.h"
#include "sched/sched.h"

#include "base/lock.h"

#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/resolve.h>
#include <whorl/sync.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { STACK_BYTES = 64 * 1024 };

#define TRY_NS_DEFAULT (2 * WH_SECOND)
#define TRIES_DEFAULT  3

struct flight {
    /* under flights_lock */
    struct list link; /* of `flights`, or alone: over, or left by all callers */
    unsigned callers;
    unsigned sides;
    /* constant once begun */
    struct run *run;
    struct run_hook hook;
    wh_coro *coro; /* the first caller's, until it leaves; NULL: it could not be started */
    size_t key_bytes;
    uint8_t hands; /* atomic: the thread's, and those of the hooks */
    /* the thread's, then the coroutine's, until it sets `over` */
    struct lookup lookup;
    int error;
    wh_event early; /* lookup.early is what it will be */
    wh_event over;
    char key[];
};

/* In whose hands a flight is. */
enum {
    HANDS_COROUTINES, /* the thread has not been asked, is through, or will not begin */
    HANDS_THREAD,
    HANDS_NOBODY, /* the run was over before the thread was through: that side frees it */
};

/* Of all runs. There are as many as names that are being looked up, which is few. */
static struct list flights = {&flights, &flights};
static uint8_t flights_lock; /* who takes it is in the runtime: see assert_inside() */

/* ---- Keys ---- */

/* The texts that make the key, each with its 0; a NULL is told from an empty one by a 1 before it.
 */
struct question {
    char host[ADDRESS_HOST_BYTES];
    char service[ADDRESS_SERVICE_BYTES];
    char numbers[64];
    const char *texts[6];
    struct lookup lookup; /* its numbers; its texts are the flight's */
};

enum { TEXT_HOST, TEXT_SERVICE, TEXT_SERVERS, TEXT_SEARCH, TEXT_HOSTS_FILE, TEXT_NUMBERS };

static int question_make(struct question *q, const char *address, const wh_resolver_options *o)
{
    int rc = address_name(address, q->host, q->service);
    if (rc < 0)
        return rc;
    int64_t try_ns = o->try_ns ? o->try_ns : TRY_NS_DEFAULT;
    int tries = o->tries ? o->tries : TRIES_DEFAULT;
    if (try_ns < WH_MILLISECOND || try_ns > LOOKUP_TRY_MS_MAX * WH_MILLISECOND || tries < 1 ||
        tries > LOOKUP_TRIES_MAX || (o->servers && !*o->servers) ||
        (o->family != AF_UNSPEC && o->family != AF_INET && o->family != AF_INET6))
        return -EINVAL;
    q->lookup = (struct lookup){
        .family = o->family, .tries = tries, .try_ms = (int)(try_ns / WH_MILLISECOND)};
    snprintf(q->numbers, sizeof q->numbers, "%d %d %d", q->lookup.family, q->lookup.tries,
             q->lookup.try_ms);
    q->texts[TEXT_HOST] = q->host;
    q->texts[TEXT_SERVICE] = q->service;
    q->texts[TEXT_SERVERS] = o->servers;
    q->texts[TEXT_SEARCH] = o->search;
    q->texts[TEXT_HOSTS_FILE] = o->hosts_file;
    q->texts[TEXT_NUMBERS] = q->numbers;
    return 0;
}

static size_t key_bytes(const struct question *q)
{
    size_t bytes = 0;
    for (size_t i = 0; i < array_count(q->texts); i++)
        bytes += 1 + (q->texts[i] ? strlen(q->texts[i]) : 0) + 1;
    return bytes;
}

/* Writes the key, and points the lookup to its texts. */
static void key_write(struct flight *flight, const struct question *q)
{
    const char **const to[] = {
        [TEXT_HOST] = &flight->lookup.host,
        [TEXT_SERVICE] = &flight->lookup.service,
        [TEXT_SERVERS] = &flight->lookup.servers,
        [TEXT_SEARCH] = &flight->lookup.search,
        [TEXT_HOSTS_FILE] = &flight->lookup.hosts_file,
    };
    char *at = flight->key;
    for (size_t i = 0; i < array_count(q->texts); i++) {
        size_t len = q->texts[i] ? strlen(q->texts[i]) : 0;
        *at++ = q->texts[i] ? 2 : 1;
        if (i < array_count(to))
            *to[i] = q->texts[i] ? at : NULL;
        memcpy(at, q->texts[i] ? q->texts[i] : "", len + 1);
        at += len + 1;
    }
    wh_assert(at == flight->key + flight->key_bytes);
}

/* ---- Flights ---- */

static void flight_free(struct flight *flight)
{
    lookup_finish(&flight->lookup);
    mem_free(flight);
}

/* The run is over, and the flight was not: what was to end it has been abandoned. */
static void flight_abandoned(struct run_hook *hook)
{
    struct flight *flight = container_of(hook, struct flight, hook);
    assert_inside();
    lock_take(&flights_lock);
    list_remove(&flight->link);
    lock_give(&flights_lock);
    /* acq_rel: pairs with the exchange in thread_leave() */
    if (__atomic_exchange_n(&flight->hands, HANDS_NOBODY, __ATOMIC_ACQ_REL) == HANDS_COROUTINES)
        flight_free(flight);
}

static void hook_add(struct flight *flight)
{
    INSIDE(self, "wh_resolve");
    run_hook_add(self->worker->run, &flight->hook);
}

/* One side is done with it. */
static void side_leave(struct flight *flight)
{
    INSIDE(self, "wh_resolve");
    (void)self;
    assert_inside();
    lock_take(&flights_lock);
    wh_assert(flight->sides > 0);
    bool last = --flight->sides == 0;
    lock_give(&flights_lock);
    if (!last)
        return;
    run_hook_remove(&flight->hook);
    flight_free(flight);
}

/* Nobody finds it any more. */
static void flight_end(struct flight *flight, int error)
{
    INSIDE(self, "wh_resolve");
    (void)self;
    assert_inside();
    lock_take(&flights_lock);
    list_remove(&flight->link);
    lock_give(&flights_lock);
    flight->error = error;
    wh_event_set(&flight->over);
}

static void flight_early(struct lookup *lookup)
{
    wh_event_set(&container_of(lookup, struct flight, lookup)->early);
}

/* The thread is through with it, or will not begin. */
static void thread_leave(struct flight *flight)
{
    /* acq_rel: pairs with the exchange in flight_abandoned() */
    if (__atomic_exchange_n(&flight->hands, HANDS_COROUTINES, __ATOMIC_ACQ_REL) == HANDS_NOBODY)
        flight_free(flight);
}

/* On a thread of wh_blocking(). */
static int prepare(struct flight *flight)
{
    int rc = lookup_prepare(&flight->lookup);
    thread_leave(flight);
    return rc;
}

/* The run is over, and no thread had begun. Whichever of this and flight_abandoned() is later frees
 * it. */
static void prepare_dropped(void *flight)
{
    thread_leave(flight);
}

static void fly(struct flight *flight)
{
    static const struct blocking_drop drop = {.dropped = prepare_dropped};
    intptr_t prepared = 0;
    int rc = 0;
    __atomic_store_n(&flight->hands, HANDS_THREAD, __ATOMIC_RELAXED);
    WH_SHIELD /* the flight stays until the thread is through */
    {
        rc = blocking_or_drop(&prepared, &drop, prepare, flight);
    }
    if (unlikely(rc < 0)) /* there was no thread */
        __atomic_store_n(&flight->hands, HANDS_COROUTINES, __ATOMIC_RELAXED);
    rc = lookup_await(&flight->lookup, rc < 0 ? rc : (int)prepared);
    flight_end(flight, rc);
    side_leave(flight);
}

/* In no context, and on a stack that is large enough for c-ares whatever the run's are. */
static int fly_start(struct flight *flight)
{
    const wh_spawn_options options = {.name = "resolve", .stack_bytes = STACK_BYTES};
    int rc = -ENOMEM;
    WH_SHIELD
    {
        rc = wh_spawn(&flight->coro, &options, fly, flight);
    }
    return rc;
}

/* Under flights_lock: one more caller of the flight with this key, or NULL. */
static struct flight *flight_find(const struct flight *like)
{
    for (struct list *link = flights.next; link != &flights; link = link->next) {
        struct flight *flight = container_of(link, struct flight, link);
        if (flight->run == like->run && flight->key_bytes == like->key_bytes &&
            memcmp(flight->key, like->key, like->key_bytes) == 0) {
            wh_assert(flight->callers > 0);
            return flight;
        }
    }
    return NULL;
}

static struct flight *flight_create(const struct question *q, struct run *run)
{
    size_t bytes = key_bytes(q);
    struct flight *flight = mem_zalloc(sizeof *flight + bytes);
    if (!flight)
        return NULL;
    list_init(&flight->link);
    flight->run = run;
    flight->key_bytes = bytes;
    flight->lookup = q->lookup;
    flight->lookup.early_found = flight_early;
    flight->hook.over = flight_abandoned;
    key_write(flight, q);
    return flight;
}

/* One more caller of the flight that is under way with the same key; NULL: there was none, and this
 * is one now. */
static struct flight *flight_share(struct flight *flight)
{
    INSIDE(self, "wh_resolve");
    (void)self;
    assert_inside();
    lock_take(&flights_lock);
    struct flight *found = flight_find(flight);
    if (found) {
        found->callers++;
    } else {
        flight->callers = 1;
        flight->sides = 2;
        list_push_back(&flights, &flight->link);
    }
    lock_give(&flights_lock);
    return found;
}

/* Becomes a caller of the flight that is under way, or of a new one. */
static int flight_join(const struct question *q, struct flight **ret_flight)
{
    struct run *run = self_or_panic("wh_resolve")->worker->run;
    struct flight *flight = flight_create(q, run);
    if (!flight)
        return -ENOMEM;
    struct flight *found = flight_share(flight);
    if (found) {
        mem_free(flight);
        *ret_flight = found;
        return 0;
    }
    hook_add(flight);
    int rc = fly_start(flight);
    if (rc < 0) {
        flight_end(flight, rc); /* for those who have joined meanwhile, too */
        side_leave(flight);
    }
    *ret_flight = flight;
    return 0;
}

void resolve_leave(struct flight *flight)
{
    INSIDE(self, "wh_resolve");
    (void)self;
    assert_inside();
    lock_take(&flights_lock);
    bool last = --flight->callers == 0;
    if (last)
        list_remove(&flight->link);
    lock_give(&flights_lock);
    if (!last)
        return;
    if (flight->coro) {
        wh_cancel(flight->coro);
        wh_detach(flight->coro);
    }
    side_leave(flight);
}

/* ---- The call ---- */

static int deliver(const wh_addr *found, size_t count, wh_addr *ret_addrs, int most)
{
    size_t room = most > 0 ? (size_t)most : 0;
    if (count && room)
        memcpy(ret_addrs, found, (count < room ? count : room) * sizeof *found);
    return (int)count;
}

/* Why the caller may not begin anything any more: -ECANCELED, -ETIMEDOUT, or 0. */
static int refused(void)
{
    INSIDE(self, "wh_resolve");
    int rc = ended(self);
    return rc < 0 ? refuse(self, rc) : 0;
}

static int ask(struct question *q, const char *address, const wh_resolver_options *options)
{
    const wh_resolver_options none = {0};
    int rc = refused();
    return rc < 0 ? rc : question_make(q, address, options ? options : &none);
}

int resolve_join(const char *address, const wh_resolver_options *options,
                 struct flight **ret_flight)
{
    struct question q;
    int rc = ask(&q, address, options);
    return rc < 0 ? rc : flight_join(&q, ret_flight);
}

wh_event *resolve_over(struct flight *flight)
{
    return &flight->over;
}

wh_event *resolve_early(struct flight *flight)
{
    return &flight->early;
}

int resolve_found(struct flight *flight, wh_addr *ret_addrs, int most)
{
    const struct addresses *found = &flight->lookup.found;
    if (!wh_event_is_set(&flight->over)) {
        wh_assert(wh_event_is_set(&flight->early));
        found = &flight->lookup.early;
    } else if (flight->error < 0) {
        return flight->error;
    }
    return deliver(found->at, found->count, ret_addrs, most);
}

int wh_resolve(const char *address, const wh_resolver_options *options, wh_addr *ret_addrs,
               int most)
{
    struct question q;
    int rc = ask(&q, address, options);
    if (rc < 0)
        return rc;
    struct address numeric;
    if (address_tcp(address, &numeric) == 0) {
        if (q.lookup.family != AF_UNSPEC && q.lookup.family != numeric.any.sa_family)
            return -ENOENT;
        wh_addr addr = {.len = numeric.len};
        memcpy(&addr.any, &numeric.any, numeric.len);
        return deliver(&addr, 1, ret_addrs, most);
    }
    struct flight *flight;
    rc = flight_join(&q, &flight);
    if (rc < 0)
        return rc;
    rc = wh_event_wait(&flight->over);
    if (rc == 0)
        rc = resolve_found(flight, ret_addrs, most);
    resolve_leave(flight);
    return rc;
}
