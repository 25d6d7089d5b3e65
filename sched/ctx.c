/*
 * ctx.c: contexts: a tree of what can be cancelled together.
 *
 * A context knows its children, and its members: the coroutines whose ambient context it is. So
 * cancelling reaches every wait without the waits knowing of contexts: it walks the tree, marks
 * each member (CORO_CTX_ENDED), and interrupts those that are parked.
 *
 *      parent <--- ctx ---> members:  coro <-> coro <-> coro        (coro->ctx_link)
 *                   |-----> children: branch <-> branch             (each in a child)
 *                   |-----> waiters:  of selects that wait for its end
 *                   `-----> afters:   functions to be started then
 *
 * References (atomic): of each handle, each child (on its parents), each member, each scope that
 * will go back to it, each after-function, each select that waits for it, and of the sweep while it
 * has the context in its list.
 *
 * Deadlines need nothing here: a member's own deadline is never later than its context's, because
 * entering takes the earlier one and starting inherits it. Only after-functions arm a timer.
 *
 * The walk is a worker's sweep: a list of contexts that are cancelled and not yet walked through. A
 * slice of it is done by wh_ctx_cancel() itself, the rest by the loop, a slice a turn, so that a
 * hundred thousand waits do not stop the worker. Walked members and children are taken off the
 * lists and linked with themselves; a member that comes to a cancelled context is marked at once
 * and never listed. While a sweep is under way, a context may be below a cancelled one and not yet
 * know: cause_of() looks upwards then, and a member that makes a call does so, too.
 *
 * A context has one parent, and one more when it stands for a block under a handle that has nothing
 * to do with the blocks around it: it ends with either.
 *
 * Several workers. Each context has a lock, for its lists of children, members, waiters and afters;
 * a branch's link is under the lock of the context whose child it is. At most one of these locks is
 * held at a time, but for a member's own (coro_ask()) inside of it. `cause` is set once, under the
 * lock, and read by anyone; parents never change and are held by references, so looking upwards
 * takes no lock. Who sets the cause owns the sweep of that context: it takes the context off its
 * parents' lists, and its branch's link is the sweep's from then on. A child whose last reference
 * has been given back may still be listed, until that one gets the parent's lock: a sweep does not
 * touch it (ref_if_any()).
 *
 * A member of another worker is asked (HANDLE_ASKED_CTX), and until that has arrived there it finds
 * out by itself when it makes a call: members in shared runs look at their context (CORO_CTX_LOOK).
 */
#include "sched/ctx.h"

#include <errno.h>

/* A chunk is a little less than 8 KiB, which is a size that allocators have. */
enum { CTXS_A_CHUNK = 48, CTXS_A_LOT = 256 };

struct ctx_chunk {
    struct ctx_chunk *next;
    wh_ctx ctx[CTXS_A_CHUNK];
};

wh_ctx ctx_background = {.deadline_ns = WH_NEVER};
wh_ctx ctx_no_memory = {.deadline_ns = WH_NEVER, .cause = -ENOMEM};

/* ---- Memory ---- */

static_assert(sizeof(struct ctx_chunk) <= 8192, "see above");

COLD static bool slab_grow(struct worker *w)
{
    struct ctx_chunk *chunk = mem_alloc(sizeof *chunk);
    if (!chunk)
        return false;
    chunk->next = w->ctx_chunks;
    w->ctx_chunks = chunk;
    for (int i = 0; i < CTXS_A_CHUNK; i++) {
        chunk->ctx[i].parent = w->ctx_free;
        w->ctx_free = &chunk->ctx[i];
    }
    w->ctx_free_count += CTXS_A_CHUNK;
    return true;
}

/* A worker that frees contexts which others make gives them back through the run, so many at once;
 * linked by parent, the first of each lot by `also`. */
COLD static void spill(struct worker *w)
{
    wh_ctx *lot = w->ctx_free, *last = lot;
    for (int i = 1; i < CTXS_A_LOT; i++)
        last = last->parent;
    w->ctx_free = last->parent;
    w->ctx_free_count -= CTXS_A_LOT;
    last->parent = NULL;
    lock_take(&w->run->lock);
    lot->also = w->run->ctx_lots;
    w->run->ctx_lots = lot;
    lock_give(&w->run->lock);
}

COLD static bool refill(struct worker *w)
{
    lock_take(&w->run->lock);
    wh_ctx *lot = w->run->ctx_lots;
    if (lot)
        w->run->ctx_lots = lot->also;
    lock_give(&w->run->lock);
    if (!lot)
        return slab_grow(w);
    w->ctx_free = lot;
    w->ctx_free_count = CTXS_A_LOT;
    return true;
}

void ctx_finish(struct worker *w)
{
    while (w->ctx_chunks) {
        struct ctx_chunk *chunk = w->ctx_chunks;
        w->ctx_chunks = chunk->next;
        mem_free(chunk);
    }
}

static inline void give(struct worker *w, wh_ctx *ctx)
{
    ctx->parent = w->ctx_free;
    w->ctx_free = ctx;
    if (unlikely(++w->ctx_free_count >= 2 * CTXS_A_LOT && w->shared))
        spill(w);
}

/* Gives one back; returns whether it was the last. */
static inline bool ref_less(wh_ctx *ctx, bool shared)
{
    wh_assert(__atomic_load_n(&ctx->refs, __ATOMIC_RELAXED) > 0);
    if (unlikely(shared)) {
        /* acq_rel: pairs with itself: who gives the last one back has seen what others did */
        return !__atomic_sub_fetch(&ctx->refs, 1, __ATOMIC_ACQ_REL);
    }
    return !--ctx->refs;
}

/* Gives one reference back, and those that the context held if it was the last: all the way up.
 * Those with a second parent are put aside, linked by parent, until the way up from the first is
 * done: returns them added to `aside`. */
static wh_ctx *unref_up(struct worker *w, wh_ctx *ctx, wh_ctx *aside)
{
    bool shared = w->shared;
    while (ctx && ref_less(ctx, shared)) {
        wh_assert(list_empty(&ctx->children) && list_empty(&ctx->members));
        wh_assert(list_empty(&ctx->afters));
        wh_ctx *parent = ctx->parent;
        if (!ctx->shield)
            ctx_branch_off(shared, parent, &ctx->branch);
        if (unlikely(ctx->also)) {
            ctx_branch_off(shared, ctx->also, &ctx->also_branch);
            ctx->parent = aside;
            aside = ctx;
        } else {
            give(w, ctx);
        }
        ctx = parent;
    }
    return aside;
}

static inline void unref(struct worker *w, wh_ctx *ctx)
{
    wh_ctx *aside = unref_up(w, ctx, NULL);
    while (unlikely(aside)) {
        wh_ctx *done = aside;
        wh_ctx *also = done->also;
        aside = done->parent;
        give(w, done);
        aside = unref_up(w, also, aside);
    }
}

/* Whether contexts are being cancelled whose descendants may not know yet. */
static inline bool sweeping(const struct worker *w)
{
    /* acquire: pairs with the releases of those who count in ctx_ctx_mark() and sweep() */
    return unlikely(w->shared) ? __atomic_load_n(&w->run->sweeps, __ATOMIC_ACQUIRE)
                               : !list_empty(&w->sweeps);
}

int ctx_cause_of(const struct worker *w, const wh_ctx *ctx)
{
    /* In this order: a sweep that is over has set all that it had to. */
    bool look = sweeping(w);
    int own = ctx_cause_now(ctx);
    if (likely(own || !look))
        return own;
    while (ctx && !ctx_cause_now(ctx)) {
        if (likely(!ctx->also)) {
            ctx = ctx->shield ? NULL : ctx->parent;
            continue;
        }
        /* Chains grow along `also`. */
        int cause = ctx_cause_of(w, ctx->parent);
        if (cause)
            return cause;
        ctx = ctx->also;
    }
    return ctx ? ctx_cause_now(ctx) : 0;
}

static inline wh_ctx *take(struct worker *w)
{
    if (unlikely(!w->ctx_free) && !refill(w))
        return NULL;
    wh_ctx *ctx = w->ctx_free;
    w->ctx_free = ctx->parent;
    w->ctx_free_count--;
    return ctx;
}

int ctx_branch_on(struct worker *w, wh_ctx *parent, struct branch *branch)
{
    bool shared = w->shared;
    int cause = ctx_cause_of(w, parent);
    object_lock(shared, &parent->lock);
    if (likely(!cause))
        cause = parent->cause;
    if (likely(!cause))
        list_push_back(&parent->children, &branch->link);
    object_unlock(shared, &parent->lock);
    return cause;
}

wh_ctx *ctx_make(struct worker *w, wh_ctx *parent, int64_t deadline_ns)
{
    wh_ctx *ctx = take(w);
    if (unlikely(!ctx))
        return NULL;
    list_init(&ctx->children);
    list_init(&ctx->members);
    list_init(&ctx->waiters);
    list_init(&ctx->afters);
    list_init(&ctx->branch.link);
    ctx->branch.ctx = ctx;
    ctx->parent = ctx_hold(parent);
    ctx->deadline_ns = deadline_ns;
    ctx->refs = 1;
    ctx->cause = 0;
    ctx->lock = 0;
    ctx->shield = false;
    ctx->also = NULL;
    ctx->key = NULL;
    if (parent) {
        if (parent->deadline_ns < deadline_ns)
            ctx->deadline_ns = parent->deadline_ns;
        int cause = ctx_branch_on(w, parent, &ctx->branch);
        if (unlikely(cause))
            ctx->cause = cause; /* not listed: nobody else sets it */
    }
    return ctx;
}

/* ---- Creating ---- */

static wh_ctx *create_for(wh_coro *self, wh_ctx *parent, int64_t deadline_ns)
{
    if (!parent) {
        if (self->deadline_ns < deadline_ns)
            deadline_ns = self->deadline_ns;
        wh_ctx *ctx = ctx_make(self->worker, self->ctx, deadline_ns);
        if (ctx && unlikely(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED)) && !ctx->cause)
            ctx_end(self->worker, ctx,
                    self->flags & CORO_CTX_ENDED ? ctx_no_memory.cause : -ECANCELED);
        return ctx;
    }
    if (unlikely(parent == &ctx_no_memory))
        return NULL;
    return ctx_make(self->worker, parent == &ctx_background ? NULL : parent, deadline_ns);
}

wh_ctx *wh_ctx_create(wh_ctx *parent)
{
    INSIDE(self, "wh_ctx_create");
    return create_for(self, parent, WH_NEVER);
}

wh_ctx *wh_ctx_create_timeout(wh_ctx *parent, int64_t duration_ns)
{
    INSIDE(self, "wh_ctx_create_timeout");
    return create_for(self, parent, deadline_after(self, duration_ns));
}

wh_ctx *wh_ctx_create_deadline(wh_ctx *parent, int64_t time_ns)
{
    INSIDE(self, "wh_ctx_create_deadline");
    return create_for(self, parent, time_ns);
}

wh_ctx *ctx_make_value(wh_coro *self, wh_ctx *parent, const void *key, void *value)
{
    wh_ctx *ctx = create_for(self, parent, WH_NEVER);
    if (ctx) {
        ctx->key = key;
        ctx->value = value;
    }
    return ctx;
}

wh_ctx *wh_ctx_create_value(wh_ctx *parent, const void *key, void *value)
{
    INSIDE(self, "wh_ctx_create_value");
    return ctx_make_value(self, parent, key, value);
}

wh_ctx *wh_ctx_background(void)
{
    return &ctx_background;
}

wh_ctx *wh_ctx_ref(wh_ctx *ctx)
{
    INSIDE_ANYWHERE(self, "wh_ctx_ref");
    if (!ctx && !self)
        called_outside("wh_ctx_ref(NULL)");
    if (!ctx)
        ctx = self->ctx;
    if (!ctx)
        return &ctx_background;
    return ctx_ref(ctx);
}

wh_ctx *ctx_ref(wh_ctx *ctx)
{
    if (!ctx_is_static(ctx)) {
        wh_assert(__atomic_load_n(&ctx->refs, __ATOMIC_RELAXED) > 0);
        ctx_hold(ctx);
    }
    return ctx;
}

void ctx_unref(struct worker *w, wh_ctx *ctx)
{
    if (ctx && !ctx_is_static(ctx))
        unref(w, ctx);
}

void wh_ctx_unref(wh_ctx *ctx)
{
    INSIDE(self, "wh_ctx_unref");
    ctx_unref(self->worker, ctx);
}

void ctx_destroy(struct worker *w, wh_ctx *ctx)
{
    if (!ctx || ctx_is_static(ctx))
        return;
    ctx_end(w, ctx, -ECANCELED);
    unref(w, ctx);
}

void wh_ctx_destroy(wh_ctx *ctx)
{
    if (!ctx)
        return;
    INSIDE(self, "wh_ctx_destroy");
    ctx_destroy(self->worker, ctx);
}

/* ---- Asking ---- */

int ctx_ended(const wh_ctx *ctx)
{
    struct worker *w = worker_tls;
    if (unlikely(ctx_is_static(ctx)))
        return ctx->cause ? -ECANCELED : 0;
    if (ctx_cause_of(w, ctx))
        return -ECANCELED;
    if (ctx->deadline_ns == WH_NEVER)
        return 0;
    return ctx->deadline_ns <= w->now_ns || ctx->deadline_ns <= clock_now() ? -ETIMEDOUT : 0;
}

int wh_ctx_err(wh_ctx *ctx)
{
    INSIDE(self, "wh_ctx_err");
    return ctx ? ctx_ended(ctx) : ended(self);
}

int wh_ctx_cause(wh_ctx *ctx)
{
    INSIDE(self, "wh_ctx_cause");
    const wh_ctx *of = ctx ? ctx : self->ctx;
    int cause = !of ? 0 : ctx_is_static(of) ? of->cause : ctx_cause_of(self->worker, of);
    if (unlikely(!cause && !ctx && self->flags & CORO_CTX_ENDED))
        cause = ctx_no_memory.cause; /* see enter_cancelled() */
    if (cause)
        return cause;
    return ctx ? ctx_ended(ctx) : ended(self);
}

int64_t ctx_deadline(const wh_ctx *ctx)
{
    return ctx->deadline_ns;
}

int64_t wh_ctx_deadline(wh_ctx *ctx)
{
    wh_coro *self = self_or_panic("wh_ctx_deadline");
    return ctx ? ctx->deadline_ns : self->deadline_ns;
}

struct list *ctx_waiters(wh_ctx *ctx)
{
    return ctx_is_static(ctx) ? NULL : &ctx->waiters;
}

uint8_t *ctx_lock(wh_ctx *ctx)
{
    return &ctx->lock;
}

static void *value_of(const wh_ctx *ctx, const void *key)
{
    while (ctx && ctx->key != key) {
        if (likely(!ctx->also)) {
            ctx = ctx->parent;
            continue;
        }
        void *value = value_of(ctx->parent, key); /* the block's own come first */
        if (value)
            return value;
        ctx = ctx->also;
    }
    return ctx ? ctx->value : NULL;
}

void *wh_ctx_value(wh_ctx *ctx, const void *key)
{
    wh_coro *self = self_or_panic("wh_ctx_value");
    wh_assert(key);
    return value_of(ctx ? ctx : self->ctx, key);
}
