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
 * References: of each handle, each child (on its parents), each member, each scope that will go
 * back to it, each after-function, and of the sweep while it has the context in its list.
 *
 * Deadlines need nothing here: a member's own deadline is never later than its context's, because
 * entering takes the earlier one and starting inherits it. Only after-functions arm a timer.
 *
 * The walk is the worker's sweep: a list of contexts that are cancelled and not yet walked through.
 * A slice of it is done by wh_ctx_cancel() itself, the rest by the loop, a slice a turn, so that a
 * hundred thousand waits do not stop the worker. Walked members and children are taken off the
 * lists and linked with themselves; a member that comes to a cancelled context is marked at once
 * and never listed. While a sweep is under way, a context may be below a cancelled one and not yet
 * know: cause_of() looks upwards then, and a member that makes a call does so, too.
 *
 * A context has one parent, and one more when it stands for a block under a handle that has nothing
 * to do with the blocks around it: it ends with either.
 */
#include "sched/sched.h"

#include <errno.h>

enum {
    SWEEP_SLICE = 256,
    CTXS_A_CHUNK = 32,
};

/* Where a context stands among the children of a parent. */
struct branch {
    struct list link; /* linked, or pointing at itself */
    wh_ctx *ctx;
};

struct wh_ctx {
    struct branch branch; /* of parent; in the sweep: of its list */
    struct list children;
    struct list members;
    struct list waiters;
    struct list afters;
    wh_ctx *parent;      /* NULL: the background. Of a shield: only for values */
    int64_t deadline_ns; /* never later than the parents' */
    uint32_t refs;
    int32_t cause; /* 0: not cancelled, as far as it knows */
    bool shield;
    struct branch also_branch; /* of also */
    wh_ctx *also;              /* the other parent, or NULL */
    const void *key;
    void *value;
};

struct ctx_chunk {
    struct ctx_chunk *next;
    wh_ctx ctx[CTXS_A_CHUNK];
};

struct wh_after {
    struct list link; /* in ctx->afters, or pointing at itself */
    struct alarm alarm;
    wh_ctx *ctx;
    wh_coro *coro; /* reserved; NULL once it has been started or dropped */
    struct wh_site *site;
    void (*fn)(void);
    uintptr_t words[6];
};

/* Only their addresses and causes count: nothing is ever linked to them. */
static wh_ctx background = {.deadline_ns = WH_NEVER};
static wh_ctx no_memory = {.deadline_ns = WH_NEVER, .cause = -ENOMEM};

static inline bool is_static(const wh_ctx *ctx)
{
    return ctx == &background || ctx == &no_memory;
}

/* ---- Memory ---- */

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

static inline wh_ctx *ref(wh_ctx *ctx)
{
    if (ctx)
        ctx->refs++;
    return ctx;
}

static inline void give(struct worker *w, wh_ctx *ctx)
{
    ctx->parent = w->ctx_free;
    w->ctx_free = ctx;
}

/* Gives one reference back, and those that the context held if it was the last: all the way up.
 * Those with a second parent are put aside, linked by parent, until the way up from the first is
 * done: returns them added to `aside`. */
static wh_ctx *unref_up(struct worker *w, wh_ctx *ctx, wh_ctx *aside)
{
    while (ctx) {
        wh_assert(ctx->refs > 0);
        if (--ctx->refs)
            break;
        /* Who selects on its end has none: it comes too late to be told by the sweep when the
         * deadline has passed. */
        queue_wake_all(&ctx->waiters, 1);
        wh_assert(list_empty(&ctx->children) && list_empty(&ctx->members));
        wh_assert(list_empty(&ctx->afters));
        list_unlink(&ctx->branch.link);
        wh_ctx *parent = ctx->parent;
        if (unlikely(ctx->also)) {
            list_unlink(&ctx->also_branch.link);
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

/* The cause of the context's end, its own or that of one above; 0: none has been cancelled. */
static int cause_of(const struct worker *w, const wh_ctx *ctx)
{
    if (likely(ctx->cause || list_empty(&w->sweeps)))
        return ctx->cause;
    while (ctx && !ctx->cause) {
        if (likely(!ctx->also)) {
            ctx = ctx->shield ? NULL : ctx->parent;
            continue;
        }
        /* Chains grow along `also`. */
        int cause = cause_of(w, ctx->parent);
        if (cause)
            return cause;
        ctx = ctx->also;
    }
    return ctx ? ctx->cause : 0;
}

static inline wh_ctx *take(struct worker *w)
{
    if (unlikely(!w->ctx_free) && !slab_grow(w))
        return NULL;
    wh_ctx *ctx = w->ctx_free;
    w->ctx_free = ctx->parent;
    return ctx;
}

/* A context with one reference; NULL without memory. */
static wh_ctx *create(struct worker *w, wh_ctx *parent, int64_t deadline_ns)
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
    ctx->parent = ref(parent);
    ctx->deadline_ns = deadline_ns;
    ctx->refs = 1;
    ctx->cause = 0;
    ctx->shield = false;
    ctx->also = NULL;
    ctx->key = NULL;
    if (parent) {
        if (parent->deadline_ns < deadline_ns)
            ctx->deadline_ns = parent->deadline_ns;
        ctx->cause = cause_of(w, parent);
        if (likely(!ctx->cause))
            list_push_back(&parent->children, &ctx->branch.link);
    }
    return ctx;
}

/* ---- Creating ---- */

static wh_ctx *create_for(wh_coro *self, wh_ctx *parent, int64_t deadline_ns)
{
    if (!parent) {
        if (self->deadline_ns < deadline_ns)
            deadline_ns = self->deadline_ns;
        wh_ctx *ctx = create(self->worker, self->ctx, deadline_ns);
        if (ctx && unlikely(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED)) && !ctx->cause)
            wh_ctx_cancel(ctx, self->flags & CORO_CTX_ENDED ? no_memory.cause : 0);
        return ctx;
    }
    if (unlikely(parent == &no_memory))
        return NULL;
    return create(self->worker, parent == &background ? NULL : parent, deadline_ns);
}

wh_ctx *wh_ctx_create(wh_ctx *parent)
{
    return create_for(self_or_panic("wh_ctx_create"), parent, WH_NEVER);
}

wh_ctx *wh_ctx_create_timeout(wh_ctx *parent, int64_t duration_ns)
{
    wh_coro *self = self_or_panic("wh_ctx_create_timeout");
    return create_for(self, parent, deadline_after(self, duration_ns));
}

wh_ctx *wh_ctx_create_deadline(wh_ctx *parent, int64_t time_ns)
{
    return create_for(self_or_panic("wh_ctx_create_deadline"), parent, time_ns);
}

wh_ctx *wh_ctx_create_value(wh_ctx *parent, const void *key, void *value)
{
    wh_ctx *ctx = create_for(self_or_panic("wh_ctx_create_value"), parent, WH_NEVER);
    if (ctx) {
        ctx->key = key;
        ctx->value = value;
    }
    return ctx;
}

wh_ctx *wh_ctx_background(void)
{
    return &background;
}

wh_ctx *wh_ctx_ref(wh_ctx *ctx)
{
    if (!ctx)
        ctx = self_or_panic("wh_ctx_ref")->ctx;
    if (!ctx)
        return &background;
    if (!is_static(ctx)) {
        wh_assert(ctx->refs > 0);
        ctx->refs++;
    }
    return ctx;
}

void wh_ctx_unref(wh_ctx *ctx)
{
    if (ctx && !is_static(ctx))
        unref(self_or_panic("wh_ctx_unref")->worker, ctx);
}

void wh_ctx_destroy(wh_ctx *ctx)
{
    if (!ctx || is_static(ctx))
        return;
    wh_ctx_cancel(ctx, 0);
    wh_ctx_unref(ctx);
}

/* ---- Asking ---- */

int ctx_ended(const wh_ctx *ctx)
{
    struct worker *w = worker_tls;
    if (unlikely(is_static(ctx)))
        return ctx->cause ? -ECANCELED : 0;
    if (cause_of(w, ctx))
        return -ECANCELED;
    if (ctx->deadline_ns == WH_NEVER)
        return 0;
    return ctx->deadline_ns <= w->now_ns || ctx->deadline_ns <= clock_now() ? -ETIMEDOUT : 0;
}

int wh_ctx_err(wh_ctx *ctx)
{
    wh_coro *self = self_or_panic("wh_ctx_err");
    return ctx ? ctx_ended(ctx) : ended(self);
}

int wh_ctx_cause(wh_ctx *ctx)
{
    wh_coro *self = self_or_panic("wh_ctx_cause");
    const wh_ctx *of = ctx ? ctx : self->ctx;
    int cause = !of ? 0 : is_static(of) ? of->cause : cause_of(self->worker, of);
    if (unlikely(!cause && !ctx && self->flags & CORO_CTX_ENDED))
        cause = no_memory.cause; /* see enter_cancelled() */
    return cause ? cause : wh_ctx_err(ctx);
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
    return is_static(ctx) ? NULL : &ctx->waiters;
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

/* ---- Cancelling ---- */

/* Starts a function that waited for the end; off its context's list. */
static void fire(struct worker *w, wh_after *after)
{
    wh_coro *coro = after->coro;
    after->coro = NULL;
    list_remove(&after->link);
    alarm_cancel(w, &after->alarm);
    if (unlikely(w->ending))
        coro_unreserve(coro);
    else
        coro_start(coro, after->site, after->fn, after->words);
}

/* Marks the context and takes it off its parents. */
static inline void mark(wh_ctx *ctx, int cause)
{
    wh_assert(!ctx->cause && cause < 0);
    ctx->cause = cause;
    list_remove(&ctx->branch.link);
    if (unlikely(ctx->also))
        list_remove(&ctx->also_branch.link);
}

/* Whether nobody is to be told of its end. */
static inline bool is_bare(const wh_ctx *ctx)
{
    return list_empty(&ctx->members) && list_empty(&ctx->children) && list_empty(&ctx->waiters) &&
           list_empty(&ctx->afters);
}

/* Marks the context and lists it for the sweep, which has a reference. */
static void enlist(struct worker *w, wh_ctx *ctx, int cause)
{
    mark(ctx, cause);
    list_push_back(&w->sweeps, &ctx->branch.link);
    w->turn_ns = INT64_MAX;
    ref(ctx);
}

static void sweep_member(wh_coro *coro)
{
    list_remove(&coro->ctx_link);
    coro->flags |= CORO_CTX_ENDED;
    if (coro->state == CORO_PARKED)
        interrupt(coro, -ECANCELED);
}

/* Walks through a context; returns what is left of the slice, 0: it is not done. */
static int sweep_ctx(struct worker *w, wh_ctx *ctx, int left)
{
    for (; left && !list_empty(&ctx->members); left--)
        sweep_member(container_of(ctx->members.next, wh_coro, ctx_link));
    for (; left && !list_empty(&ctx->children); left--) {
        struct branch *branch = container_of(ctx->children.next, struct branch, link);
        if (branch->ctx->cause)
            list_remove(&branch->link);
        else
            enlist(w, branch->ctx, ctx->cause);
    }
    for (; left && !list_empty(&ctx->afters); left--)
        fire(w, container_of(ctx->afters.next, wh_after, link));
    for (; left && !list_empty(&ctx->waiters); left--) {
        struct waiter *waiter = queue_take(&ctx->waiters);
        if (waiter)
            waiter_wake(waiter, 1);
    }
    return left;
}

static void sweep(struct worker *w, int left)
{
    /* Whom it interrupts may cancel another context: that one is listed, and has its turn. */
    if (unlikely(w->sweeping))
        return;
    w->sweeping = true;
    while (left && !list_empty(&w->sweeps)) {
        wh_ctx *ctx = container_of(w->sweeps.next, wh_ctx, branch.link);
        left = sweep_ctx(w, ctx, left);
        if (!left)
            break;
        list_remove(&ctx->branch.link);
        unref(w, ctx);
        left--; /* an empty one costs, too */
    }
    w->sweeping = false;
}

/* The loop's slice is no more than it runs in a turn: else those that were woken would pile up in
 * the run queue, and who comes behind them would wait for the whole tree. */
void ctx_sweep(struct worker *w)
{
    int slice = w->budget_full / 2;
    sweep(w, slice < SWEEP_SLICE ? slice : SWEEP_SLICE);
}

void wh_ctx_cancel(wh_ctx *ctx, int cause)
{
    wh_coro *self = self_or_panic("wh_ctx_cancel");
    ctx_end(self->worker, ctx ? ctx : self->ctx, cause < 0 ? cause : -ECANCELED);
}

void ctx_end(struct worker *w, wh_ctx *ctx, int cause)
{
    /* As of the loop's last turn: a look at the clock would cost more than the rest. */
    if (!ctx || is_static(ctx) || cause_of(w, ctx) || ctx->deadline_ns <= w->now_ns)
        return;
    if (likely(is_bare(ctx))) {
        mark(ctx, cause);
        return;
    }
    enlist(w, ctx, cause);
    sweep(w, SWEEP_SLICE);
}

/* ---- Members and blocks ---- */

/* Makes the coroutine a member; the reference is the caller's to have taken. */
static inline void join(wh_coro *coro, wh_ctx *ctx)
{
    coro->ctx = ctx;
    if (!ctx)
        return;
    if (unlikely(cause_of(coro->worker, ctx))) {
        coro->flags |= CORO_CTX_ENDED;
        list_init(&coro->ctx_link);
    } else {
        list_push_back(&ctx->members, &coro->ctx_link);
    }
}

void ctx_adopt(wh_coro *coro, wh_ctx *ctx)
{
    join(coro, ref(ctx));
}

bool ctx_unswept(wh_coro *self)
{
    if (!self->ctx || !cause_of(self->worker, self->ctx))
        return false;
    list_remove(&self->ctx_link);
    self->flags |= CORO_CTX_ENDED;
    return true;
}

void ctx_abandon(wh_coro *coro)
{
    list_unlink(&coro->ctx_link);
    unref(coro->worker, coro->ctx);
    coro->ctx = NULL;
}

bool ctx_within(const wh_ctx *ctx, const wh_ctx *above)
{
    while (ctx && ctx != above) {
        if (likely(!ctx->also)) {
            ctx = ctx->shield ? NULL : ctx->parent;
            continue;
        }
        if (ctx_within(ctx->parent, above))
            return true;
        ctx = ctx->also;
    }
    return ctx;
}

/* Moves the running coroutine into ctx, whose reference it takes over. */
static struct wh_ctx_scope enter(wh_coro *self, wh_ctx *ctx, int64_t deadline_ns, wh_ctx *owned)
{
    struct wh_ctx_scope scope = {self, self->ctx, self->deadline_ns, self->flags, owned};
    if (self->ctx)
        list_unlink(&self->ctx_link);
    self->deadline_ns = deadline_ns;
    join(self, ctx);
    return scope;
}

/* For want of memory: the block is in no other context, and everything in it fails. The flag alone
 * says so: without a cause of the ambient context it means this, and what is started inherits it.
 */
COLD static struct wh_ctx_scope enter_cancelled(wh_coro *self)
{
    struct wh_ctx_scope scope = enter(self, ref(self->ctx), self->deadline_ns, &no_memory);
    self->flags |= CORO_CTX_ENDED;
    return scope;
}

struct wh_ctx_scope wh_ctx_enter_(wh_ctx *ctx)
{
    wh_coro *self = self_or_panic("WH_WITH_CTX");
    if (!ctx || ctx == &background)
        return enter(self, ref(self->ctx), self->deadline_ns, NULL);
    if (unlikely(ctx == &no_memory))
        return enter_cancelled(self);

    int64_t deadline_ns =
        self->deadline_ns < ctx->deadline_ns ? self->deadline_ns : ctx->deadline_ns;
    if (!self->ctx || ctx_within(ctx, self->ctx))
        return enter(self, ref(ctx), deadline_ns, NULL);
    /* Already under both: coroutines that start each other under two contexts make no chain. */
    if (ctx_within(self->ctx, ctx))
        return enter(self, ref(self->ctx), deadline_ns, NULL);

    wh_ctx *both = create(self->worker, ctx, deadline_ns);
    if (unlikely(!both))
        return enter_cancelled(self);
    both->also = ref(self->ctx);
    both->also_branch.ctx = both;
    list_init(&both->also_branch.link);
    if (!both->cause) {
        both->cause = cause_of(self->worker, both->also);
        if (both->cause)
            list_remove(&both->branch.link);
        else
            list_push_back(&both->also->children, &both->also_branch.link);
    }
    return enter(self, both, deadline_ns, NULL);
}

struct wh_ctx_scope wh_ctx_enter_owned_(wh_ctx *ctx)
{
    wh_coro *self = self_or_panic("WH_WITH_CANCEL");
    if (unlikely(!ctx))
        return enter_cancelled(self);
    return enter(self, ref(ctx), self->deadline_ns, ctx);
}

struct wh_ctx_scope wh_ctx_enter_value_(const void *key, void *value)
{
    wh_coro *self = self_or_panic("WH_WITH_VALUE");
    wh_ctx *ctx = wh_ctx_create_value(NULL, key, value);
    if (unlikely(!ctx))
        return enter_cancelled(self);
    return enter(self, ctx, self->deadline_ns, NULL); /* with the only reference */
}

struct wh_ctx_scope wh_ctx_enter_shield_(void)
{
    wh_coro *self = self_or_panic("WH_SHIELD");
    struct worker *w = self->worker;
    wh_ctx *shield = NULL;
    if (self->ctx) {
        /* Without memory it is the background: all that is missing are the values. */
        shield = create(w, NULL, WH_NEVER);
        if (shield) {
            shield->shield = true;
            shield->parent = ref(self->ctx);
        }
    }
    struct wh_ctx_scope scope = enter(self, shield, WH_NEVER, NULL);
    if (self->flags & CORO_CANCELLED)
        self->flags |= CORO_CANCEL_NOTED;
    self->flags &= (uint8_t)~(CORO_CANCELLED | CORO_CTX_ENDED);
    self->flags |= CORO_SHIELDED;
    return scope;
}

static void shield_flags_restore(wh_coro *self, unsigned before)
{
    if (!(self->flags & CORO_SHIELDED) || (before & CORO_SHIELDED))
        return;
    if (self->flags & CORO_CANCEL_NOTED)
        self->flags |= CORO_CANCELLED;
    self->flags &= (uint8_t)~(CORO_SHIELDED | CORO_CANCEL_NOTED);
}

void wh_ctx_leave_(struct wh_ctx_scope *scope)
{
    wh_coro *self = scope->coro;
    wh_assert(self->state == CORO_RUNNING);
    struct worker *w = self->worker;
    wh_ctx *inner = self->ctx;
    if (inner)
        list_unlink(&self->ctx_link);
    self->deadline_ns = scope->outer_ns;
    self->flags &= (uint8_t)~CORO_CTX_ENDED;
    self->flags |= scope->flags & CORO_CTX_ENDED;
    join(self, scope->outer);
    shield_flags_restore(self, scope->flags);
    if (inner)
        unref(w, inner);
    wh_ctx_destroy(scope->owned);
}

/* ---- Functions for afterwards ---- */

static void after_timed_out(struct alarm *alarm)
{
    fire(worker_tls, container_of(alarm, wh_after, alarm));
}

int wh_ctx_after_(struct wh_site *site, wh_ctx *ctx, wh_after **ret_after, void (*fn)(void),
                  const uintptr_t *words)
{
    struct worker *w = self_or_panic("wh_ctx_after")->worker;
    wh_assert(ctx);
    wh_after *after = mem_alloc(sizeof *after);
    if (!after)
        return -ENOMEM;
    after->coro = coro_reserve(w);
    if (!after->coro) {
        mem_free(after);
        return -ENOMEM;
    }
    list_init(&after->link);
    timer_init(&after->alarm.timer);
    after->alarm.fired = after_timed_out;
    after->ctx = is_static(ctx) ? NULL : ref(ctx);
    after->site = site;
    after->fn = fn;
    unsigned args = site_args(site);
    for (unsigned i = 0; i < args; i++)
        after->words[i] = words[i];
    *ret_after = after;

    if (ctx_ended(ctx)) {
        fire(w, after);
    } else if (after->ctx) {
        list_push_back(&ctx->afters, &after->link);
        if (ctx->deadline_ns != WH_NEVER)
            alarm_arm(w, &after->alarm, ctx->deadline_ns);
    }
    return 0;
}

bool wh_ctx_after_stop(wh_after *after)
{
    struct worker *w = self_or_panic("wh_ctx_after_stop")->worker;
    bool waits = after->coro;
    if (waits) {
        list_remove(&after->link);
        alarm_cancel(w, &after->alarm);
        coro_unreserve(after->coro);
    }
    unref(w, after->ctx);
    mem_free(after);
    return waits;
}
