/*
 * tree.c: contexts: trees of them with waits below, cancelled in the middle by several at once;
 * functions for afterwards; shields.
 */
#include "stress.h"

enum { NODES_MAX = 12, WAITERS_MAX = 16, CAUSE = 300 };

#define LAST_CAUSE (-(CAUSE + NODES_MAX))

struct node {
    wh_ctx *ctx;
    int parent;  /* -1: none */
    void *value; /* what is to be seen here */
};

struct tree {
    struct node nodes[NODES_MAX];
    int count;
    wh_sem never; /* nobody releases it */
    WH_CHAN(int) nothing;
    wh_event silence;
};

static const char value_key;

static void node_make(struct tree *t, struct rng *rng, int i)
{
    struct node *node = &t->nodes[i];
    node->parent = i ? rng_below(rng, i) : -1;
    const struct node *above = i ? &t->nodes[node->parent] : NULL;
    wh_ctx *parent = above ? above->ctx : NULL;
    node->value = above ? above->value : NULL;
    switch (rng_below(rng, 4)) {
    case 0: node->ctx = wh_ctx_create_timeout(parent, rng_time_ns(rng, 13)); break;
    case 1:
        node->value = node;
        node->ctx = wh_ctx_create_value(parent, &value_key, node);
        break;
    default: node->ctx = wh_ctx_create(parent); break;
    }
    CHECK(node->ctx, "no memory for a context");
}

static bool node_is_above(const struct tree *t, int above, int i)
{
    while (i >= 0 && i != above)
        i = t->nodes[i].parent;
    return i == above;
}

/* A node ends as one above it, or as what is around all, or by its deadline. */
static void node_ended_check(const struct tree *t, int i)
{
    int err = wh_ctx_err(t->nodes[i].ctx), cause = wh_ctx_cause(t->nodes[i].ctx);
    CHECK(ended_early(err), "node %d should have ended and says %d", i, err);
    int by = -cause - CAUSE;
    bool ours = by >= 0 && by < t->count && node_is_above(t, by, i);
    CHECK(ours || cause == LAST_CAUSE || ended_early(cause) || cause == ROUND_CAUSE ||
              cause == -EXDEV,
          "node %d ended by the cause %d", i, cause);
}

static int wait_somehow(struct tree *t, struct rng *rng, wh_ctx *ctx)
{
    int rc = 0;
    switch (rng_below(rng, 6)) {
    case 0: return wh_sleep(WH_HOUR);
    case 1: return wh_chan_recv(t->nothing, NULL);
    case 2: return wh_sem_acquire(&t->never, 1);
    case 3: return wh_event_wait(&t->silence);
    case 4:
        /* Which of the two is first: both are the same end. */
        rc = wh_select(WH_DONE(ctx), WH_RECV(t->nothing, NULL));
        return rc == 0 ? wh_ctx_err(ctx) : rc;
    default: return wh_chan_send(t->nothing, 1);
    }
}

static void wait_below(struct tree *t, int i, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    wh_ctx *ctx = t->nodes[i].ctx;
    int rc = 0;
    WH_WITH_CTX(ctx)
    {
        CHECK(wh_ctx_value(NULL, &value_key) == t->nodes[i].value, "below node %d: another value",
              i);
        rc = wait_somehow(t, &rng, ctx);
        CHECK(ended_early(rc), "below node %d a wait without end returned %d", i, rc);
        CHECK(ended_early(wh_ctx_err(NULL)), "a wait ended with %d in a context that says %d", rc,
              wh_ctx_err(NULL));
    }
}

static void storm(struct tree *t, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    for (int left = rng_from_to(&rng, 1, 4); left > 0; left--) {
        int i = rng_below(&rng, t->count);
        wh_ctx_cancel(t->nodes[i].ctx, -(CAUSE + i));
        for (int below = i; below < t->count; below++)
            if (node_is_above(t, i, below))
                node_ended_check(t, below);
        if (pause_a_while(&rng) < 0)
            return;
    }
}

static void tree_step(struct actor *a)
{
    struct tree t = {.count = rng_from_to(&a->rng, 1, NODES_MAX)};
    struct team team = {.count = 0};
    for (int i = 0; i < t.count; i++)
        node_make(&t, &a->rng, i);
    for (int i = rng_from_to(&a->rng, 1, WAITERS_MAX); i > 0; i--)
        TEAM_GO(&team, wait_below, &t, rng_below(&a->rng, t.count), rng_next(&a->rng));
    for (int i = rng_below(&a->rng, 3); i > 0; i--)
        TEAM_GO(&team, storm, &t, rng_next(&a->rng));
    pause_a_while(&a->rng);
    wh_ctx_cancel(t.nodes[0].ctx, LAST_CAUSE);
    for (int i = 0; i < t.count; i++)
        node_ended_check(&t, i);
    /* Nothing else ends them: one that is not reached is a hang. */
    doing(a, "waits for those below a cancelled context");
    WH_SHIELD
    team_join(&team);
    for (int i = 0; i < t.count; i++)
        if (rng_one_in(&a->rng, 2))
            wh_ctx_destroy(t.nodes[i].ctx);
        else
            wh_ctx_unref(t.nodes[i].ctx);
}

const struct kind tree_kind = {
    .name = "tree",
    .step = tree_step,
    .closed = true,
};

/* ---- Functions for afterwards ---- */

enum { AFTERS_MAX = 8, AFTER_PATIENCE_S = 60 };

/* The actor's own, because a function may still be in its last call when the step is over. */
struct afters {
    wh_sem ran;
};

static void afterwards(struct afters *own)
{
    count_add(&life.started, 1);
    ALIVE;
    wh_sem_release(&own->ran, 1);
}

/* Each that was not stopped runs; only a run that ends drops them. Returns whether all have: of
 * those that a run's end kept from it some may still run. */
static bool await_afters(struct actor *a, struct afters *own, int left)
{
    int64_t limit_ns = now_ns() + AFTER_PATIENCE_S * WH_SECOND;
    while (left > 0) {
        int rc = 0;
        WH_SHIELD
        WH_WITH_TIMEOUT(50 * WH_MILLISECOND)
        rc = wh_sem_acquire(&own->ran, 1);
        left -= rc == 0;
        if (rc < 0 && (run_is_ending(a) || now_ns() >= limit_ns))
            break;
    }
    CHECK(left == 0 || run_is_ending(a), "%d functions for afterwards were not started", left);
    return left == 0;
}

static void cancel_soon(wh_ctx *ctx, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    pause_a_while(&rng);
    wh_ctx_cancel(ctx, 0);
}

static void after_step(struct actor *a)
{
    struct afters *own = a->own;
    wh_after *afters[AFTERS_MAX];
    wh_ctx *ctx = rng_one_in(&a->rng, 3)
                      ? wh_ctx_create_timeout(wh_ctx_background(), rng_time_ns(&a->rng, 11))
                      : wh_ctx_create(wh_ctx_background());
    struct team canceller = {.count = 0};
    int count = rng_from_to(&a->rng, 1, AFTERS_MAX), set = 0, ran = 0;
    bool early = rng_one_in(&a->rng, 2);
    if (early)
        TEAM_GO(&canceller, cancel_soon, ctx, rng_next(&a->rng));
    for (int i = 0; i < count; i++) {
        if (wh_ctx_after(ctx, &afters[set], afterwards, own) == 0)
            set++;
        if (rng_one_in(&a->rng, 4))
            pause_a_while(&a->rng);
    }
    int stopped_at = rng_below(&a->rng, set + 1);
    for (int i = 0; i < stopped_at; i++)
        ran += !wh_ctx_after_stop(afters[i]);
    wh_ctx_cancel(ctx, 0);
    for (int i = stopped_at; i < set; i++)
        ran += !wh_ctx_after_stop(afters[i]);
    doing(a, "waits for functions for afterwards");
    bool all = await_afters(a, own, ran);
    int rc = wh_sem_try_acquire(&own->ran, 1);
    CHECK(!all || rc == -EAGAIN, "one was started twice, or though stopped");
    team_end(&canceller);
    wh_ctx_unref(ctx);
}

const struct kind after_kind = {
    .name = "after",
    .step = after_step,
    .closed = true,
    .own_bytes = sizeof(struct afters),
};

/* ---- Shields ---- */

struct handover {
    WH_CHAN(uint64_t) ch;
    counter given;
    counter taken;
};

static void give_shielded(struct handover *h, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    int64_t duration_ns = rng_time_ns(&rng, 8), began_ns = now_ns();
    WH_SHIELD
    {
        int rc = wh_sleep(duration_ns);
        CHECK(rc == 0 && now_ns() - began_ns >= duration_ns,
              "a shielded sleep of %lld ns returned %d after %lld ns", (long long)duration_ns, rc,
              (long long)(now_ns() - began_ns));
        CHECK(wh_ctx_err(NULL) == 0, "in a shield the context says %d", wh_ctx_err(NULL));
        rc = wh_chan_send(h->ch, seed);
        CHECK(rc == 0, "a shielded send returned %d", rc);
    }
    count_add(&h->given, seed);
}

static void take_shielded(struct handover *h)
{
    ALIVE;
    uint64_t taken = 0;
    WH_SHIELD
    {
        int rc = wh_chan_recv(h->ch, &taken);
        CHECK(rc == 1, "a shielded receive returned %d", rc);
    }
    count_add(&h->taken, taken);
}

static void shield_step(struct actor *a)
{
    struct handover h = {.ch = wh_chan_create(uint64_t, 0)};
    struct team team = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, 6); i > 0; i--) {
        if (TEAM_GO(&team, give_shielded, &h, rng_next(&a->rng)) < 0)
            break;
        if (TEAM_GO(&team, take_shielded, &h) == 0)
            continue;
        WH_SHIELD
        {
            uint64_t taken = 0;
            wh_chan_recv(h.ch, &taken);
            count_add(&h.taken, taken);
        }
    }
    pause_a_while(&a->rng);
    doing(a, "waits for what is shielded");
    if (rng_one_in(&a->rng, 2))
        team_end(&team);
    else
        team_join(&team);
    CHECK(count_get(&h.given) == count_get(&h.taken), "what was given was not taken");
    wh_chan_unref(h.ch);
}

const struct kind shield_kind = {
    .name = "shield",
    .step = shield_step,
    .closed = true,
};
