/*
 * ctx_block.c: coroutines in contexts: members, blocks, shields. The rules are at the head of
 * ctx.c.
 */
#include "sched/ctx.h"

#include <errno.h>

/* ---- Members and blocks ---- */

/* Makes the coroutine a member; the reference is the caller's to have taken. */
static inline void join(wh_coro *coro, wh_ctx *ctx)
{
    struct worker *w = coro->worker;
    bool shared = w->shared;
    coro->ctx = ctx;
    if (!ctx)
        return;
    if (shared)
        coro->flags |= CORO_CTX_LOOK;
    int cause = ctx_cause_of(w, ctx);
    list_init(&coro->ctx_link);
    object_lock(shared, &ctx->lock);
    if (likely(!cause))
        cause = ctx->cause;
    if (likely(!cause))
        list_push_back(&ctx->members, &coro->ctx_link);
    object_unlock(shared, &ctx->lock);
    if (unlikely(cause))
        coro->flags |= CORO_CTX_ENDED;
}

/* Off the list of its context, if it still is on it. */
void ctx_part(wh_coro *coro)
{
    wh_ctx *ctx = coro->ctx;
    if (!ctx)
        return;
    bool shared = coro->worker->shared;
    object_lock(shared, &ctx->lock);
    list_remove(&coro->ctx_link);
    object_unlock(shared, &ctx->lock);
    coro->flags &= (uint8_t)~CORO_CTX_LOOK;
}

void ctx_adopt(wh_coro *coro, wh_ctx *ctx)
{
    join(coro, ctx_hold(ctx));
}

bool ctx_unswept(wh_coro *coro)
{
    if (!coro->ctx || !ctx_cause_of(coro->worker, coro->ctx))
        return false;
    ctx_part(coro);
    coro->flags |= CORO_CTX_ENDED;
    return true;
}

void ctx_abandon(wh_coro *coro)
{
    ctx_part(coro);
    ctx_unref(coro->worker, coro->ctx);
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
static struct wh_ctx_scope scope_enter(wh_coro *self, wh_ctx *ctx, int64_t deadline_ns,
                                       wh_ctx *owned)
{
    struct wh_ctx_scope scope = {self, self->ctx, self->deadline_ns, self->flags, owned};
    ctx_part(self);
    self->deadline_ns = deadline_ns;
    join(self, ctx);
    return scope;
}

/* For want of memory: the block is in no other context, and everything in it fails. The flag alone
 * says so: without a cause of the ambient context it means this, and what is started inherits it.
 */
COLD static struct wh_ctx_scope enter_cancelled(wh_coro *self)
{
    struct wh_ctx_scope scope =
        scope_enter(self, ctx_hold(self->ctx), self->deadline_ns, &ctx_no_memory);
    self->flags |= CORO_CTX_ENDED;
    return scope;
}

/* Gives a context that nobody else knows another parent. Its first one may be cancelled at any
 * time, and then sets the cause: it is listed with both, or ends at once by whichever has ended. */
static void second_parent(struct worker *w, wh_ctx *both, wh_ctx *also)
{
    both->also_branch.ctx = both;
    list_init(&both->also_branch.link);
    both->also = ctx_hold(also);
    int cause = ctx_branch_on(w, also, &both->also_branch);
    if (unlikely(cause))
        (void)ctx_mark(w, both, cause); /* has no lists to sweep yet */
    else if (unlikely(ctx_cause_now(both)))
        ctx_branch_off(w->shared, also, &both->also_branch);
}

struct wh_ctx_scope wh_ctx_enter_(wh_ctx *ctx)
{
    INSIDE(self, "WH_WITH_CTX");
    return ctx_enter(self, ctx);
}

struct wh_ctx_scope ctx_enter(wh_coro *self, wh_ctx *ctx)
{
    if (!ctx || ctx == &ctx_background)
        return scope_enter(self, ctx_hold(self->ctx), self->deadline_ns, NULL);
    if (unlikely(ctx == &ctx_no_memory))
        return enter_cancelled(self);

    int64_t deadline_ns =
        self->deadline_ns < ctx->deadline_ns ? self->deadline_ns : ctx->deadline_ns;
    if (!self->ctx || ctx_within(ctx, self->ctx))
        return scope_enter(self, ctx_hold(ctx), deadline_ns, NULL);
    /* Already under both: coroutines that start each other under two contexts make no chain. */
    if (ctx_within(self->ctx, ctx))
        return scope_enter(self, ctx_hold(self->ctx), deadline_ns, NULL);

    wh_ctx *both = ctx_make(self->worker, ctx, deadline_ns);
    if (unlikely(!both))
        return enter_cancelled(self);
    second_parent(self->worker, both, self->ctx);
    return scope_enter(self, both, deadline_ns, NULL);
}

struct wh_ctx_scope wh_ctx_enter_owned_(wh_ctx *ctx)
{
    INSIDE(self, "WH_WITH_CANCEL");
    return ctx_enter_owned(self, ctx);
}

struct wh_ctx_scope ctx_enter_owned(wh_coro *self, wh_ctx *ctx)
{
    if (unlikely(!ctx))
        return enter_cancelled(self);
    return scope_enter(self, ctx_hold(ctx), self->deadline_ns, ctx);
}

struct wh_ctx_scope wh_ctx_enter_value_(const void *key, void *value)
{
    INSIDE(self, "WH_WITH_VALUE");
    wh_ctx *ctx = ctx_make_value(self, NULL, key, value);
    if (unlikely(!ctx))
        return enter_cancelled(self);
    return scope_enter(self, ctx, self->deadline_ns, NULL); /* with the only reference */
}

struct wh_ctx_scope wh_ctx_enter_shield_(void)
{
    INSIDE(self, "WH_SHIELD");
    struct worker *w = self->worker;
    wh_ctx *shield = NULL;
    if (self->ctx) {
        /* Without memory it is the background: all that is missing are the values. */
        shield = ctx_make(w, NULL, WH_NEVER);
        if (shield) {
            shield->shield = true;
            shield->parent = ctx_hold(self->ctx);
        }
    }
    struct wh_ctx_scope scope = scope_enter(self, shield, WH_NEVER, NULL);
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
    INSIDE(self, "the end of a block");
    wh_assert(self == scope->coro);
    ctx_leave(scope);
}

void ctx_leave(struct wh_ctx_scope *scope)
{
    wh_coro *self = scope->coro;
    wh_assert(state_of(self) == CORO_RUNNING);
    struct worker *w = self->worker;
    wh_ctx *inner = self->ctx;
    ctx_part(self);
    self->deadline_ns = scope->outer_ns;
    self->flags &= (uint8_t)~CORO_CTX_ENDED;
    self->flags |= scope->flags & CORO_CTX_ENDED;
    join(self, scope->outer);
    shield_flags_restore(self, scope->flags);
    if (inner)
        ctx_unref(w, inner);
    ctx_destroy(w, scope->owned);
}
