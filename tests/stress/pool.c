/*
 * pool.c: a pool of a step's own, and several that submit to it: each call that was accepted is
 * made exactly once, by no more coroutines at a time than the pool has, before it is given back.
 */
#include "stress.h"

enum { WORKERS_MAX = 4, SUBMITTERS_MAX = 5, PER_SUBMITTER_MAX = 30 };

struct calls {
    wh_pool *pool;
    uint64_t workers;
    struct ledger ledger;
    counter running;
};

static void call(struct calls *c, uint64_t id, uint64_t from, uint64_t seq, uint64_t check)
{
    struct rng rng = {check};
    struct item item = {.id = id, .from = from, .seq = seq, .check = check};
    uint64_t before = count_add(&c->running, 1);
    CHECK(before < c->workers, "%llu calls of a pool of %llu are under way",
          (unsigned long long)before + 1, (unsigned long long)c->workers);
    if (rng_one_in(&rng, 4))
        pause_a_while(&rng);
    count_less(&c->running, 1);
    ledger_received(&c->ledger, &item);
}

static void submit_some(struct calls *c, struct rng *rng, uint64_t from)
{
    struct item item;
    for (int left = rng_from_to(rng, 0, PER_SUBMITTER_MAX); left > 0; left--) {
        if (!ledger_item(&c->ledger, &item, from, (uint64_t)left))
            return;
        bool tries = rng_one_in(rng, 4);
        int rc =
            tries ? wh_pool_try_submit(c->pool, call, c, item.id, item.from, item.seq, item.check)
                  : wh_pool_submit(c->pool, call, c, item.id, item.from, item.seq, item.check);
        CHECK(rc == 0 || (tries && rc == -EAGAIN) || ended_early(rc), "a submit returned %d", rc);
        ledger_sent(&c->ledger, &item, rc);
        if (rc < 0 && !tries)
            return;
        if (rng_one_in(rng, 8))
            pause_a_while(rng);
    }
}

static void submitter(struct calls *c, uint64_t seed, uint64_t from)
{
    ALIVE;
    struct rng rng = {seed};
    submit_some(c, &rng, from);
}

static void pool_step(struct actor *a)
{
    struct calls c = {.workers = (uint64_t)rng_from_to(&a->rng, 1, WORKERS_MAX)};
    size_t queue = rng_one_in(&a->rng, 2) ? 0 : (size_t)rng_from_to(&a->rng, 1, 10);
    c.pool = wh_pool_create((unsigned)c.workers, queue);
    CHECK(c.pool || run_is_ending(a), "no memory for a pool");
    if (!c.pool)
        return;
    count_add(&life.started, c.workers);
    ledger_open(&c.ledger, SUBMITTERS_MAX * PER_SUBMITTER_MAX);
    struct team team = {.count = 0};
    for (int i = rng_below(&a->rng, SUBMITTERS_MAX + 1); i > 0; i--)
        TEAM_GO(&team, submitter, &c, rng_next(&a->rng), (uint64_t)i);
    doing(a, "waits for those who submit");
    team_join(&team);
    doing(a, "destroys a pool");
    wh_pool_destroy(c.pool);
    count_add(&life.ended, c.workers);
    CHECK(count_get(&c.running) == 0, "calls run in a pool that is gone");
    ledger_close(&c.ledger, "pool", false);
}

const struct kind pool_kind = {
    .name = "pool",
    .step = pool_step,
    .closed = true,
};
