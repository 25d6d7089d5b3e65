/*
 * step.c: an actor's life: steps of its kind until the round ends for it.
 *
 * Each step is made in a manner drawn by chance, so that every call of every kind meets every end:
 *
 *     plainly     by the actor itself
 *     in haste    under a deadline that may pass in the middle
 *     as a child  by a coroutine that is cancelled by its handle after a while
 *     in context  in a context that another coroutine cancels after a while
 *     shielded    if the kind allows it: nothing cuts it short, so it must end by itself
 *
 * Its tools are here, too: the numbers of an actor are drawn by one coroutine at a time.
 */
#include "stress.h"

#define CTX_CAUSE (-EXDEV)

enum manner { PLAINLY, IN_HASTE, AS_CHILD, IN_CONTEXT, SHIELDED, MANNERS };

static const char *const manner_names[MANNERS] = {"plainly", "in haste", "as a child",
                                                  "in a context", "shielded"};

static void step_child(struct actor *a)
{
    ALIVE;
    a->kind->step(a);
}

static void make_as_child(struct actor *a)
{
    int64_t patience_ns = rng_time_ns(&a->rng, 15);
    struct team child = {.count = 0};
    if (TEAM_GO(&child, step_child, a) < 0)
        return;
    int rc = 0;
    WH_WITH_TIMEOUT(patience_ns)
    rc = wh_join(child.members[0], NULL);
    if (rc == 0)
        return;
    CHECK(ended_early(rc), "a join returned %d", rc);
    team_end(&child);
}

static void cancel_later(wh_ctx *ctx, int64_t delay_ns)
{
    ALIVE;
    wh_sleep(delay_ns);
    wh_ctx_cancel(ctx, CTX_CAUSE);
    CHECK(wh_ctx_err(ctx) < 0, "a cancelled context says %d", wh_ctx_err(ctx));
}

static void make_in_context(struct actor *a)
{
    struct team canceller = {.count = 0};
    wh_ctx *ctx = wh_ctx_create(NULL);
    CHECK(ctx, "no memory for a context");
    TEAM_GO(&canceller, cancel_later, ctx, rng_time_ns(&a->rng, 15));
    WH_WITH_CTX(ctx)
    {
        a->kind->step(a);
        int err = wh_ctx_err(ctx), cause = wh_ctx_cause(ctx);
        /* It ends between the two questions, or with what is around it. */
        CHECK(err == 0 || cause == CTX_CAUSE || cause == ROUND_CAUSE || ended_early(cause),
              "a context ended with %d, cause %d", err, cause);
    }
    team_end(&canceller);
    wh_ctx_destroy(ctx);
}

static enum manner manner_pick(struct actor *a)
{
    enum manner manner = (enum manner)rng_below(&a->rng, MANNERS);
    if (manner != PLAINLY && manner != SHIELDED)
        return manner;
    /* A wake-up that was lost must not be hidden by the end of the round. */
    return a->kind->closed && !rng_one_in(&a->rng, 8) ? SHIELDED : PLAINLY;
}

static void make_step(struct actor *a)
{
    enum manner manner = manner_pick(a);
    atomic_store_explicit(&a->manner, manner_names[manner], memory_order_relaxed);
    atomic_store_explicit(&a->since_ns, (uint64_t)now_ns(), memory_order_relaxed);
    doing(a, "begins");
    switch (manner) {
    case IN_HASTE:
        WH_WITH_TIMEOUT(rng_time_ns(&a->rng, 15))
        a->kind->step(a);
        break;
    case AS_CHILD: make_as_child(a); break;
    case IN_CONTEXT: make_in_context(a); break;
    case SHIELDED:
        WH_SHIELD
        a->kind->step(a);
        break;
    default: a->kind->step(a); break;
    }
    count_add(&a->steps, 1);
}

static bool over(struct actor *a)
{
    return wh_ctx_err(NULL) < 0 || run_is_ending(a) || now_ns() >= a->round->end_ns;
}

/* The last that leaves closes what its kind shares. */
static void share_leave(struct actor *a)
{
    struct share *share = a->share;
    /* acq_rel: pairs with those of the actors that left before */
    if (atomic_fetch_sub_explicit(&share->users, 1, memory_order_acq_rel) == 1 && a->kind->end)
        WH_SHIELD
    a->kind->end(share->memory);
}

int actor_live(struct actor *a)
{
    ALIVE;
    while (!over(a)) {
        make_step(a);
        if (rng_one_in(&a->rng, 8))
            wh_yield();
    }
    doing(a, "leaves");
    share_leave(a);
    atomic_store_explicit(&a->left, true, memory_order_relaxed);
    return 0;
}
