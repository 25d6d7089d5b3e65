/*
 * ctx.h: what a context is, for the files that know: ctx.c (the tree), ctx_block.c (coroutines in
 * it) and ctx_end.c (its end). The rules are at the head of ctx.c.
 */
#ifndef SCHED_CTX_H
#define SCHED_CTX_H

#include "sched/sched.h"

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
    uint32_t refs;       /* atomic */
    int32_t cause;       /* 0: not cancelled, as far as it knows; atomic, written under lock */
    uint8_t lock;
    bool shield;
    struct branch also_branch; /* of also */
    wh_ctx *also;              /* the other parent, or NULL */
    const void *key;
    void *value;
};

/* Only their addresses and causes count: nothing is ever linked to them. */
extern wh_ctx ctx_background;
extern wh_ctx ctx_no_memory;

static inline bool ctx_is_static(const wh_ctx *ctx)
{
    return ctx == &ctx_background || ctx == &ctx_no_memory;
}

static inline wh_ctx *ctx_hold(wh_ctx *ctx)
{
    if (!ctx)
        return NULL;
    if (unlikely(shared_here()))
        __atomic_fetch_add(&ctx->refs, 1, __ATOMIC_RELAXED);
    else
        ctx->refs++;
    return ctx;
}

/* The same for one that may have none left. Returns whether it had. */
static inline bool ctx_hold_if_any(wh_ctx *ctx)
{
    uint32_t refs = __atomic_load_n(&ctx->refs, __ATOMIC_RELAXED);
    do
        if (!refs)
            return false;
    while (!__atomic_compare_exchange_n(&ctx->refs, &refs, refs + 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return true;
}

/* The cause of its own end; 0: none, as far as it knows. */
static inline int ctx_cause_now(const wh_ctx *ctx)
{
    /* acquire: pairs with the release in ctx_mark() */
    return __atomic_load_n(&ctx->cause, __ATOMIC_ACQUIRE);
}

/* Takes a branch off the children of a parent. */
static inline void ctx_branch_off(bool shared, wh_ctx *parent, struct branch *branch)
{
    if (!parent)
        return;
    object_lock(shared, &parent->lock);
    list_remove(&branch->link);
    object_unlock(shared, &parent->lock);
}

/* The cause of its end, its own or that of one above; 0: none has been cancelled. */
int ctx_cause_of(const struct worker *w, const wh_ctx *ctx);

/* A context with one reference; NULL without memory. parent: NULL is the background. */
wh_ctx *ctx_make(struct worker *w, wh_ctx *parent, int64_t deadline_ns);

/* Lists it with a parent that has not been cancelled and returns 0; else that one's cause. */
int ctx_branch_on(struct worker *w, wh_ctx *parent, struct branch *branch);

/* Sets the cause, and takes the context off its parents. Returns whether it had been set before,
 * and if not, whether anybody is to be told. */
enum marked { MARKED_BEFORE, MARKED_BARE, MARKED_LISTS };
enum marked ctx_mark(struct worker *w, wh_ctx *ctx, int cause);

/* wh_ctx_create_value(), wh_ctx_destroy(). */
wh_ctx *ctx_make_value(wh_coro *self, wh_ctx *parent, const void *key, void *value);
void ctx_destroy(struct worker *w, wh_ctx *ctx);

/* A member leaves the list of its context, if it still is on it. */
void ctx_part(wh_coro *coro);

#endif
