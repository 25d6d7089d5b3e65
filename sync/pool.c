/*
 * pool.c: a bounded queue of calls and the coroutines that make them (whorl/sync.h): a channel of
 * calls, its receivers, and a close that refuses who waits to send.
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
    bool closing;
    unsigned workers; /* not ended */
    wh_coro *destroyer;
};

static const struct wait_kind wait_pool = {.reason = "pool's workers"};

static const struct wait_kind wait_call = {.reason = "pool's queue", .withdraw = queue_withdraw};

/* A worker takes what is queued whatever was done to it by the calls: a wh_cancel() was meant for
 * the call. When the run ends it makes what is left, whose waits then fail at once, and goes. */
static bool next_call(wh_coro *self, wh_pool *pool, struct call *call)
{
    for (;;) {
        bool ending = self->worker->ending;
        if (!ending)
            self->flags &= (uint8_t)~CORO_CANCELLED;
        int rc = chan_recv_now(pool->calls, call);
        if (rc != -EAGAIN)
            return rc == CHAN_DONE;
        if (ending)
            return false;
        self->waiter.data = call;
        rc = queue_park(self, &pool->calls->receivers, &wait_call);
        if (rc >= 0)
            return rc == CHAN_DONE;
    }
}

static void work(wh_pool *pool)
{
    wh_coro *self = self_or_panic("wh_pool_create");
    struct call call;
    while (next_call(self, pool, &call)) {
        const uintptr_t *a = call.words;
        ((uintptr_t (*)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t))call.fn)(
            a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    if (--pool->workers == 0 && pool->destroyer)
        wake(pool->destroyer, 0);
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
    while (reserved) {
        wh_coro *next = reserved->next;
        if (likely(coro))
            coro_start(reserved, &site, (void (*)(void))work, words);
        else
            coro_unreserve(reserved);
        reserved = next;
    }
    pool->workers = count;
    return coro;
}

wh_pool *wh_pool_create(unsigned workers, size_t queue)
{
    wh_coro *self = self_or_panic("wh_pool_create");
    if (unlikely(!workers))
        coro_misuse(self, "wh_pool_create", "asks for a pool without workers");
    if (unlikely(self->worker->ending))
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

int wh_pool_submit_(struct wh_site *site, wh_pool *pool, bool may_park, void (*fn)(void),
                    const uintptr_t *words)
{
    if (unlikely(pool->closing))
        return -EPIPE;
    struct call call = {.site = site, .fn = fn};
    memcpy(call.words, words, site_args(site) * sizeof *words);
    return may_park ? wh_chan_send_(pool->calls, &call) : wh_chan_try_send_(pool->calls, &call);
}

void wh_pool_destroy(wh_pool *pool)
{
    if (!pool)
        return;
    wh_coro *self = self_or_panic("wh_pool_destroy");
    if (unlikely(pool->closing))
        coro_misuse(self, "wh_pool_destroy", "destroys a pool that is being destroyed");
    pool->closing = true;
    chan_refuse_senders(pool->calls, -EPIPE);
    wh_chan_close_(pool->calls);
    if (pool->workers) {
        pool->destroyer = self;
        park(self, &wait_pool);
    }
    wh_chan_unref_(pool->calls);
    mem_free(pool);
}
