/*
 * ctx_end.c: the end of a context: marking, the sweep that tells everybody, and functions for
 * afterwards. The rules are at the head of ctx.c.
 */
#include "sched/ctx.h"

#include <errno.h>

enum {
    SWEEP_SLICE = 256,
    INTERRUPTS = 32, /* at once, when no lock is held */
};

/*
 * A function for afterwards. While it is listed with its context it is claimed, off WAITS, by who
 * ends the context under that one's lock; whoever else has claimed it takes it off the list, under
 * the lock, before anything else. Its coroutine is reserved, and its alarm armed, on the worker
 * that made it, and only that one starts it, and frees it before it was:
 *
 *      WAITS --- end of the context, or its time ---> FIRED --- started by its worker ---> DONE
 *        |                                              |  wh_ctx_after_stop()              | the
 *        `-- wh_ctx_after_stop() --> STOPPED            `-----------> DROPPED               | same
 *                 its worker frees it                       its worker starts and frees it  free
 */
enum after_state { AFTER_WAITS, AFTER_FIRED, AFTER_DONE, AFTER_STOPPED, AFTER_DROPPED };

struct wh_after {
    struct list link; /* in ctx->afters, or pointing at itself; under that one's lock */
    struct alarm alarm;
    struct post post;
    struct worker *worker;
    wh_ctx *ctx;
    wh_coro *coro;
    uint8_t state; /* enum after_state; atomic */
    struct wh_site *site;
    void (*fn)(void);
    uintptr_t words[6];
};

/* ---- Cancelling ---- */

static bool after_claim(wh_after *after, uint8_t from, uint8_t to)
{
    /* acq_rel, acquire: pairs with itself: each step of its life follows the one before */
    return __atomic_compare_exchange_n(&after->state, &from, to, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static void after_free(struct worker *w, wh_after *after)
{
    ctx_unref(w, after->ctx);
    worker_free(w, after);
}

/* On its own worker: starts the function. */
static void after_start(struct worker *w, wh_after *after)
{
    alarm_cancel(w, &after->alarm);
    if (unlikely(starts_no_more(w)))
        coro_unreserve(after->coro);
    else
        coro_start(after->coro, after->site, after->fn, after->words);
    if (!after_claim(after, AFTER_FIRED, AFTER_DONE))
        after_free(w, after); /* DROPPED */
}

static void after_posted(struct post *post, struct worker *w)
{
    wh_after *after = container_of(post, wh_after, post);
    /* relaxed: the post has brought what came before it */
    if (__atomic_load_n(&after->state, __ATOMIC_RELAXED) != AFTER_STOPPED) {
        after_start(w, after);
        return;
    }
    alarm_cancel(w, &after->alarm);
    coro_unreserve(after->coro);
    after_free(w, after);
}

/* It has been claimed by who says that its context has ended: its worker starts it. */
static void fire(struct worker *w, wh_after *after)
{
    if (after->worker == w)
        after_start(w, after);
    else
        worker_post(after->worker, &after->post);
}

enum marked ctx_mark(struct worker *w, wh_ctx *ctx, int cause)
{
    bool shared = w->shared;
    wh_assert(cause < 0);
    object_lock(shared, &ctx->lock);
    bool first = !ctx->cause;
    bool bare = list_empty(&ctx->members) && list_empty(&ctx->children) &&
                list_empty(&ctx->waiters) && list_empty(&ctx->afters);
    if (first && shared && !bare) {
        /* Before anybody can see the cause. Release: pairs with the acquire in sweeping() */
        __atomic_fetch_add(&w->run->sweeps, 1, __ATOMIC_RELEASE);
    }
    if (first) {
        /* release: pairs with the acquire in ctx_cause_now() */
        __atomic_store_n(&ctx->cause, cause, __ATOMIC_RELEASE);
    }
    object_unlock(shared, &ctx->lock);
    if (unlikely(!first))
        return MARKED_BEFORE;
    if (!ctx->shield)
        ctx_branch_off(shared, ctx->parent, &ctx->branch);
    if (unlikely(ctx->also))
        ctx_branch_off(shared, ctx->also, &ctx->also_branch);
    return bare ? MARKED_BARE : MARKED_LISTS;
}

/* Lists a context that was just marked for the sweep, which has a reference. */
static void enlist(struct worker *w, wh_ctx *ctx)
{
    ctx_hold(ctx);
    list_push_back(&w->sweeps, &ctx->branch.link);
    w->turn_ns = INT64_MAX;
}

/* Tells a member, which is off the list. Returns whether its wait is to be interrupted: not under
 * the context's lock, because that may cancel another context. Who is parked on this worker can
 * only be woken meanwhile, not run. */
static inline bool tell_member(struct worker *w, wh_coro *coro)
{
    bool parked = state_of(coro) == CORO_PARKED;
    if (w->shared && (worker_of(coro) != w || !parked)) {
        coro_ask(coro, HANDLE_ASKED_CTX);
        return false;
    }
    coro->flags |= CORO_CTX_ENDED;
    return parked;
}

static int sweep_members(struct worker *w, wh_ctx *ctx, int left)
{
    bool shared = w->shared;
    for (bool more = true; left && more;) {
        wh_coro *parked[INTERRUPTS];
        int count = 0;
        object_lock(shared, &ctx->lock);
        for (; left && count < INTERRUPTS && !list_empty(&ctx->members); left--) {
            wh_coro *coro = container_of(ctx->members.next, wh_coro, ctx_link);
            list_remove(&coro->ctx_link);
            if (tell_member(w, coro))
                parked[count++] = coro;
        }
        more = !list_empty(&ctx->members);
        object_unlock(shared, &ctx->lock);
        for (int i = 0; i < count; i++)
            interrupt(parked[i], -ECANCELED);
    }
    return left;
}

/* The next child that has not been given back; off the list, with a reference. */
static wh_ctx *pop_child(bool shared, wh_ctx *ctx)
{
    wh_ctx *child = NULL;
    object_lock(shared, &ctx->lock);
    while (!child && !list_empty(&ctx->children)) {
        struct branch *branch = container_of(ctx->children.next, struct branch, link);
        list_remove(&branch->link);
        if (ctx_hold_if_any(branch->ctx))
            child = branch->ctx;
    }
    object_unlock(shared, &ctx->lock);
    return child;
}

static int sweep_children(struct worker *w, wh_ctx *ctx, int left)
{
    bool shared = w->shared;
    wh_ctx *child;
    for (; left && (child = pop_child(shared, ctx)); left--) {
        if (ctx_mark(w, child, ctx->cause) == MARKED_LISTS)
            enlist(w, child);
        ctx_unref(w, child);
    }
    return left;
}

/* Takes the next off the list: claimed, or NULL when somebody else has claimed it. Under the lock,
 * without which who stops it does not free it. Returns false when there is none. */
static bool pop_after(bool shared, wh_ctx *ctx, wh_after **ret_after)
{
    object_lock(shared, &ctx->lock);
    bool any = !list_empty(&ctx->afters);
    if (any) {
        wh_after *after = container_of(ctx->afters.next, wh_after, link);
        list_remove(&after->link);
        *ret_after = after_claim(after, AFTER_WAITS, AFTER_FIRED) ? after : NULL;
    }
    object_unlock(shared, &ctx->lock);
    return any;
}

static int sweep_others(struct worker *w, wh_ctx *ctx, int left)
{
    bool shared = w->shared;
    for (wh_after *after = NULL; left && pop_after(shared, ctx, &after); left--)
        if (after)
            fire(w, after);

    struct list woken;
    list_init(&woken);
    object_lock(shared, &ctx->lock);
    for (struct waiter *waiter; left && (waiter = queue_take(&ctx->waiters, shared)); left--)
        list_push_back(&woken, &waiter->link);
    object_unlock(shared, &ctx->lock);
    wake_all(&woken, 1, shared);
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
        left = sweep_members(w, ctx, left);
        left = sweep_children(w, ctx, left);
        left = sweep_others(w, ctx, left);
        if (!left)
            break;
        list_remove(&ctx->branch.link);
        if (w->shared) {
            /* release: pairs with the acquire in sweeping() */
            __atomic_fetch_sub(&w->run->sweeps, 1, __ATOMIC_RELEASE);
        }
        ctx_unref(w, ctx);
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
    INSIDE(self, "wh_ctx_cancel");
    ctx_end(self->worker, ctx ? ctx : self->ctx, cause < 0 ? cause : -ECANCELED);
}

void ctx_end(struct worker *w, wh_ctx *ctx, int cause)
{
    /* As of the loop's last turn: a look at the clock would cost more than the rest. */
    if (!ctx || ctx_is_static(ctx) || ctx_cause_of(w, ctx) || ctx->deadline_ns <= w->now_ns)
        return;
    if (likely(ctx_mark(w, ctx, cause) != MARKED_LISTS))
        return;
    enlist(w, ctx);
    sweep(w, SWEEP_SLICE);
}

/* ---- Functions for afterwards ---- */

static void after_unlist(bool shared, wh_after *after)
{
    if (!after->ctx)
        return;
    object_lock(shared, &after->ctx->lock);
    list_remove(&after->link);
    object_unlock(shared, &after->ctx->lock);
}

static void after_timed_out(struct alarm *alarm)
{
    struct worker *w = worker_tls;
    wh_after *after = container_of(alarm, wh_after, alarm);
    if (!after_claim(after, AFTER_WAITS, AFTER_FIRED))
        return;
    after_unlist(w->shared, after);
    after_start(w, after);
}

/* Whether it is listed, to be fired with its context. */
static bool after_list(bool shared, wh_after *after, wh_ctx *ctx)
{
    object_lock(shared, &ctx->lock);
    bool listed = !ctx->cause;
    if (listed)
        list_push_back(&ctx->afters, &after->link);
    object_unlock(shared, &ctx->lock);
    return listed;
}

int wh_ctx_after_(struct wh_site *site, wh_ctx *ctx, wh_after **ret_after, void (*fn)(void),
                  const uintptr_t *words)
{
    INSIDE(self, "wh_ctx_after");
    struct worker *w = self->worker;
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
    after->post.deliver = after_posted;
    after->worker = w;
    after->state = AFTER_WAITS;
    after->ctx = ctx_is_static(ctx) ? NULL : ctx_hold(ctx);
    after->site = site;
    after->fn = fn;
    unsigned args = site_args(site);
    for (unsigned i = 0; i < args; i++)
        after->words[i] = words[i];
    *ret_after = after;

    if (ctx_ended(ctx) || (after->ctx && !after_list(w->shared, after, ctx))) {
        after->state = AFTER_FIRED;
        fire(w, after);
    } else if (after->ctx && ctx->deadline_ns != WH_NEVER)
        alarm_arm(w, &after->alarm, ctx->deadline_ns);
    return 0;
}

bool wh_ctx_after_stop(wh_after *after)
{
    INSIDE(self, "wh_ctx_after_stop");
    struct worker *w = self->worker;
    if (after_claim(after, AFTER_WAITS, AFTER_STOPPED)) {
        after_unlist(w->shared, after);
        if (after->worker == w)
            after_posted(&after->post, w);
        else
            worker_post(after->worker, &after->post);
        return true;
    }
    if (!after_claim(after, AFTER_FIRED, AFTER_DROPPED))
        after_free(w, after); /* DONE */
    return false;
}
