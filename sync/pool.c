/*
 * pool.c: a bounded queue of calls and the coroutines that make them (whorl/sync.h): a channel of
 * calls, and its receivers. Closing it refuses who sends or waits to.
 */
#include "sync/sync.h"

#include <errno.h>

struct call {
    struct wh_site *site;
    void (*fn)(void);
    uintptr_t words[6];
};

struct wh_pool {
    wh_chan *calls;
    /* under lock */
    uint8_t lock;
    bool closing;
    unsigned workers; /* not ended */
    wh_coro *destroyer;
};

static const struct wait_kind wait_pool = {.reason = "pool's workers"};

static const struct wait_kind wait_room = {.reason = "room in a pool's queue",
                                           .withdraw = queue_withdraw};
static const struct wait_kind wait_call = {.reason = "pool's queue", .withdraw = queue_withdraw};

/* A worker takes what is queued whatever was done to it by the calls: a wh_cancel() was meant for
 * the call. When the run ends it makes what is left, whose waits then fail at once, and goes. */
static bool next_call(wh_coro *self, wh_pool *pool, struct call *call)
{
    wh_chan *calls = pool->calls;
    for (;;) {
        bool ending = run_ends(self);
        if (!ending)
            self->flags &= (uint8_t)~CORO_CANCELLED;
        bool shared = self->worker->shared;
        struct waiter *woken;
        object_lock(shared, &calls->lock);
        int rc = chan_recv_now(calls, call, shared, &woken);
        if (rc == -EAGAIN && !ending) {
            self->waiter.data = call;
            calls->waiting++;
            rc = queue_park(self, &calls->receivers, &calls->lock, shared, &wait_call);
            if (rc >= 0)
                return rc == CHAN_DONE;
            chan_leave(calls, &self->waiter, self->worker->shared);
            continue;
        }
        if (rc == -EAGAIN)
            calls->closed = true; /* nobody is here any more to make another one */
        object_unlock(shared, &calls->lock);
        if (woken)
            waiter_wake(woken, CHAN_DONE, shared);
        return rc == CHAN_DONE;
    }
}

static void work(wh_pool *pool)
{
    wh_coro *self = enter("wh_pool_create");
    struct call call;
    while (next_call(self, pool, &call)) {
        where_set(self->worker, IN_USER);
        (void)call_with_words(call.fn, call.words, 0);
        where_set(self->worker, IN_RUNTIME);
    }
    bool shared = self->worker->shared;
    object_lock(shared, &pool->lock);
    wh_coro *destroyer = --pool->workers == 0 ? pool->destroyer : NULL;
    object_unlock(shared, &pool->lock);
    if (destroyer)
        wake(destroyer, 0, shared);
    leave(self, 0); /* what the calls have left, their locals, is the user's to destroy */
}

/* Workers are started in the background, so that no context of their creator ends them. All are
 * reserved before the first is started: a pool has all its workers or does not come to be. */
static bool start_workers(struct worker *w, wh_pool *pool, unsigned count)
{
    static struct wh_site site = {.file = "wh_pool_create", .function = "pool worker", .args = 1};
    wh_coro *reserved = NULL, *coro = NULL;
    for (unsigned i = 0; i < count && (!i || coro); i++) {
        coro = coro_reserve(w);
        if (coro) {
            coro->next = reserved;
            reserved = coro;
        }
    }
    const uintptr_t words[] = {(uintptr_t)pool};
    pool->workers = count;
    while (reserved) {
        wh_coro *next = reserved->next;
        if (likely(coro))
            coro_start(reserved, &site, (void (*)(void))work, words);
        else
            coro_unreserve(reserved);
        reserved = next;
    }
    return coro;
}

wh_pool *wh_pool_create(unsigned workers, size_t queue)
{
    INSIDE(self, "wh_pool_create");
    if (unlikely(!workers))
        coro_misuse(self, "wh_pool_create", "asks for a pool without workers");
    if (unlikely(run_ends(self)))
        return NULL;
    wh_pool *pool = mem_zalloc(sizeof *pool);
    if (!pool)
        return NULL;
    pool->calls = wh_chan_create_(sizeof(struct call), queue);
    if (pool->calls && start_workers(self->worker, pool, workers))
        return pool;
    wh_chan_unref_(pool->calls);
    mem_free(pool);
    return NULL;
}

/* A call is sent as to any channel, but one that is closed refuses it. */
static int submit(wh_coro *self, wh_chan *calls, const struct call *call, bool may_park)
{
    int rc = may_park ? ended_by_turn(self) : 0;
    if (unlikely(rc < 0))
        return refuse(self, rc);
    bool shared = self->worker->shared;
    struct waiter *woken = NULL;
    object_lock(shared, &calls->lock);
    if (unlikely(calls->closed)) {
        rc = __atomic_load_n(&self->worker->run->ending, __ATOMIC_RELAXED) ? -ECANCELED : -EPIPE;
    } else if (!chan_send_now(calls, call, shared, &woken)) {
        rc = -EAGAIN;
        if (may_park) {
            self->waiter.data = (void *)(uintptr_t)call;
            calls->waiting++;
            rc = queue_park(self, &calls->senders, &calls->lock, shared, &wait_room);
            if (rc < 0)
                chan_leave(calls, &self->waiter, self->worker->shared);
            return rc == CHAN_CLOSED ? -EPIPE : rc < 0 ? rc : 0;
        }
    }
    object_unlock(shared, &calls->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return rc == 0 && may_park ? served(self, 0) : rc;
}

int wh_pool_submit_(struct wh_site *site, wh_pool *pool, bool may_park, void (*fn)(void),
                    const uintptr_t *words)
{
    INSIDE(self, "wh_pool_submit");
    struct call call = {.site = site, .fn = fn};
    memcpy(call.words, words, site_args(site) * sizeof *words);
    return submit(self, pool->calls, &call, may_park);
}

void wh_pool_destroy(wh_pool *pool)
{
    if (!pool)
        return;
    INSIDE(self, "wh_pool_destroy");
    bool shared = self->worker->shared;
    object_lock(shared, &pool->lock);
    if (unlikely(pool->closing))
        coro_misuse(self, "wh_pool_destroy", "destroys a pool that is being destroyed");
    pool->closing = true;
    object_unlock(shared, &pool->lock);
    (void)chan_close(pool->calls);
    object_lock(shared, &pool->lock);
    if (pool->workers) {
        pool->destroyer = self;
        park_begin(self, &wait_pool);
        object_unlock(shared, &pool->lock);
        park_end(self);
    } else {
        object_unlock(shared, &pool->lock);
    }
    wh_chan_unref_(pool->calls);
    mem_free(pool);
}
