/*
 * group.c: groups, nested ones too, whose members succeed, fail, or wait until they are cancelled.
 *
 * What holds: no more members at once than the limit; the block ends when all have ended; its error
 * is one that a member returned or with which it was cancelled, and 0 only if all succeeded.
 */
#include "stress.h"

enum { MEMBERS_MAX = 12, FAILURE = 200 };

#define CANCEL_CAUSE (-EDOM)
#define NESTED_CAUSE (-EMLINK)

enum outcome { SUCCEED, FAIL, WAIT, NEST, START_ANOTHER, OUTCOMES };

struct crowd {
    wh_group *group;
    uint64_t limit; /* 0: none */
    counter begun;
    counter started;
    counter ended;
    counter running;
    counter failures; /* a bit for each member that failed */
    counter waiters;  /* which failed as the ambient context says */
    counter nested;   /* which failed with NESTED_CAUSE */
};

static int member(struct crowd *c, int number, enum outcome outcome, uint64_t seed);

/* The group's, not the crowd's, because members start members. */
static void start_member(struct crowd *c, struct rng *rng, bool wait, enum outcome outcome)
{
    int number = (int)count_add(&c->begun, 1);
    uint64_t seed = rng_next(rng);
    int rc = wait ? GROUP_GO(c->group, member, c, number, outcome, seed)
                  : GROUP_TRY(c->group, member, c, number, outcome, seed);
    CHECK(rc == 0 || ended_early(rc) || (!wait && c->limit && rc == -EAGAIN),
          "a member's start returned %d, limit %llu", rc, (unsigned long long)c->limit);
    count_add(&c->started, rc == 0);
}

static int nested_member(int number)
{
    ALIVE;
    wh_yield();
    return number == 1 ? NESTED_CAUSE : 0;
}

/* A group within a member: its failure ends it alone. */
static int nest(struct crowd *c)
{
    int error = 0;
    bool failing = false;
    const wh_group_options options = {.ret_error = &error, .limit = 2};
    WH_WITH_GROUP(inner, &options)
    for (int i = 0; i < 3; i++)
        failing |= GROUP_GO(inner, nested_member, i) == 0 && i == 1;
    CHECK(error == (failing ? NESTED_CAUSE : 0), "the inner group's error is %d", error);
    if (error < 0)
        count_add(&c->nested, 1);
    return error;
}

static int behave(struct crowd *c, int number, enum outcome outcome, struct rng *rng)
{
    if (rng_one_in(rng, 2))
        pause_a_while(rng);
    int rc = 0;
    switch (outcome) {
    case FAIL: count_add(&c->failures, UINT64_C(1) << number); return -(FAILURE + number);
    case WAIT:
        rc = wh_sleep(WH_HOUR);
        CHECK(ended_early(rc), "a sleep of an hour returned %d", rc);
        count_add(&c->waiters, 1);
        return rc;
    case NEST: return nest(c);
    case START_ANOTHER:
        /* With a limit all members might wait for a place. */
        start_member(c, rng, !c->limit, SUCCEED);
        return 0;
    default: return 0;
    }
}

static int member(struct crowd *c, int number, enum outcome outcome, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    uint64_t before = count_add(&c->running, 1);
    CHECK(!c->limit || before < c->limit, "%llu members run, the limit is %llu",
          (unsigned long long)before + 1, (unsigned long long)c->limit);
    int rc = behave(c, number, outcome, &rng);
    count_less(&c->running, 1);
    count_add(&c->ended, 1);
    return rc;
}

static bool error_is_known(struct crowd *c, int error, bool cancelled)
{
    if (error <= -FAILURE && error > -FAILURE - 2 * MEMBERS_MAX)
        return count_get(&c->failures) >> (-error - FAILURE) & 1;
    return (error == CANCEL_CAUSE && cancelled) || (ended_early(error) && count_get(&c->waiters)) ||
           (error == NESTED_CAUSE && count_get(&c->nested));
}

static void crowd_check(struct crowd *c, int error, bool cancelled)
{
    uint64_t started = count_get(&c->started), ended = count_get(&c->ended);
    CHECK(started == ended && count_get(&c->running) == 0,
          "a group's block ended with %llu members started, %llu ended",
          (unsigned long long)started, (unsigned long long)ended);
    bool failed =
        cancelled || count_get(&c->failures) || count_get(&c->waiters) || count_get(&c->nested);
    CHECK(failed ? error_is_known(c, error, cancelled) : error == 0,
          "a group's error is %d; cancelled %d, failures %llx, waiters %llu, nested %llu", error,
          cancelled, (unsigned long long)count_get(&c->failures),
          (unsigned long long)count_get(&c->waiters), (unsigned long long)count_get(&c->nested));
}

/* Members of few outcomes, so that groups without a failure are not rare. */
static enum outcome outcome_pick(struct rng *rng, bool calm)
{
    static const enum outcome calm_ones[] = {SUCCEED, SUCCEED, START_ANOTHER};
    return calm ? calm_ones[rng_below(rng, COUNT_OF(calm_ones))]
                : (enum outcome)rng_below(rng, OUTCOMES);
}

static void group_step(struct actor *a)
{
    int error = 1;
    struct crowd c = {.limit = rng_one_in(&a->rng, 2) ? (uint64_t)rng_from_to(&a->rng, 1, 4) : 0};
    const wh_group_options options = {.limit = (unsigned)c.limit, .ret_error = &error};
    bool calm = rng_one_in(&a->rng, 2), cancelled = false;
    int members = rng_from_to(&a->rng, 1, MEMBERS_MAX);
    WH_WITH_GROUP(group, &options)
    {
        c.group = group;
        doing(a, "starts members of a group");
        /* One that waits may hold the only place: whoever might end it comes first. */
        if (!calm)
            start_member(&c, &a->rng, true, FAIL);
        for (int i = 1; i < members; i++)
            start_member(&c, &a->rng, rng_one_in(&a->rng, 2), outcome_pick(&a->rng, calm));
        if (rng_one_in(&a->rng, 4)) {
            wh_group_cancel(group, CANCEL_CAUSE);
            cancelled = true;
        }
        doing(a, "waits for a group");
        if (rng_one_in(&a->rng, 2))
            continue; /* off its end */
        int rc = wh_group_wait(group);
        CHECK(wh_group_members(group) == 0, "after the wait there are %zu members",
              wh_group_members(group));
        CHECK(rc <= 0, "the wait returned %d", rc);
        if (rc < 0 && rng_one_in(&a->rng, 2))
            break; /* its error stays the first */
    }
    crowd_check(&c, error, cancelled);
}

const struct kind group_kind = {
    .name = "group",
    .step = group_step,
    .closed = true,
};
