/*
 * meet.c: semaphores that all actors of the kind share; and meeting points of a step of its own:
 * once, waitgroup, event, barrier. What is written before a meeting is read after it without more.
 */
#include "stress.h"

/* ---- Semaphores ---- */

enum { UNITS = 7 };

struct units {
    wh_sem sem;
    counter taken;
    uint64_t left; /* the last actor's */
};

static void sem_begin(struct round *r, void *shared)
{
    (void)r;
    struct units *u = shared;
    u->sem = (wh_sem)WH_SEM(UNITS);
}

static void sem_step(struct actor *a)
{
    struct units *u = shared_of(a);
    for (int left = rng_from_to(&a->rng, 1, 10); left > 0 && wh_ctx_err(NULL) == 0; left--) {
        uint64_t count = (uint64_t)rng_from_to(&a->rng, 1, rng_one_in(&a->rng, 8) ? UNITS : 2);
        bool tries = rng_one_in(&a->rng, 4);
        doing(a, "acquires units");
        int rc = tries ? wh_sem_try_acquire(&u->sem, count) : wh_sem_acquire(&u->sem, count);
        CHECK(rc == 0 || (tries ? rc == -EAGAIN : ended_early(rc)), "acquiring returned %d", rc);
        if (rc < 0)
            continue;
        uint64_t before = count_add(&u->taken, count);
        CHECK(before + count <= UNITS, "%llu units of %d are taken",
              (unsigned long long)(before + count), UNITS);
        if (rng_one_in(&a->rng, 3))
            pause_a_while(&a->rng);
        count_less(&u->taken, count);
        wh_sem_release(&u->sem, count);
    }
}

static void sem_end(void *shared)
{
    struct units *u = shared;
    while (wh_sem_try_acquire(&u->sem, 1) == 0)
        u->left++;
}

static void sem_check(void *shared)
{
    struct units *u = shared;
    CHECK(u->left == UNITS && count_get(&u->taken) == 0, "%llu units of %d are left",
          (unsigned long long)u->left, UNITS);
}

const struct kind sem_kind = {
    .name = "sem",
    .step = sem_step,
    .closed = true,
    .begin = sem_begin,
    .end = sem_end,
    .check = sem_check,
    .shared_bytes = sizeof(struct units),
};

/* ---- Once ---- */

#define ONCE_VALUE UINT64_C(0x0123456789abcdef)

enum { PARTIES_MAX = 8 };

struct first {
    wh_once once;
    counter calls;
    uint64_t value; /* written in the call, read after it */
    uint64_t seed;
};

static void do_once(void *arg)
{
    struct first *f = arg;
    struct rng rng = {f->seed};
    count_add(&f->calls, 1);
    pause_a_while(&rng);
    f->value = ONCE_VALUE;
}

static void try_once(struct first *f)
{
    int rc = wh_once_do(&f->once, do_once, f);
    CHECK(rc == 0 || ended_early(rc), "once returned %d", rc);
    if (rc == 0)
        CHECK(f->value == ONCE_VALUE && count_get(&f->calls) == 1, "done %llu times, value %llx",
              (unsigned long long)count_get(&f->calls), (unsigned long long)f->value);
}

static void once_child(struct first *f)
{
    ALIVE;
    try_once(f);
    wh_yield();
    try_once(f);
}

static void once_step(struct actor *a)
{
    struct first f = {.seed = rng_next(&a->rng)};
    struct team team = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, PARTIES_MAX); i > 0; i--)
        TEAM_GO(&team, once_child, &f);
    doing(a, "does something once");
    try_once(&f);
    team_join(&team);
    WH_SHIELD
    try_once(&f);
}

const struct kind once_kind = {
    .name = "once",
    .step = once_step,
    .closed = true,
};

/* ---- Waitgroups ---- */

struct tasks {
    wh_waitgroup group;
    int count;
    uint64_t results[PARTIES_MAX]; /* a task's own until the group is done */
};

static void task(struct tasks *t, int number, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    if (rng_one_in(&rng, 2))
        pause_a_while(&rng);
    t->results[number] = (uint64_t)number + 1;
    wh_waitgroup_done(&t->group);
}

static void wait_for_tasks(struct tasks *t)
{
    int rc = wh_waitgroup_wait(&t->group);
    CHECK(rc == 0 || ended_early(rc), "a wait returned %d", rc);
    for (int i = 0; rc == 0 && i < t->count; i++)
        CHECK(t->results[i] == (uint64_t)i + 1, "task %d is not done", i);
}

static void waitgroup_waiter(struct tasks *t)
{
    ALIVE;
    wait_for_tasks(t);
}

static void waitgroup_step(struct actor *a)
{
    struct tasks t = {.count = 0};
    for (int rounds = rng_from_to(&a->rng, 1, 3); rounds > 0; rounds--) {
        struct team team = {.count = 0};
        t = (struct tasks){.group = t.group, .count = rng_from_to(&a->rng, 1, PARTIES_MAX)};
        int waiters = rng_below(&a->rng, 3), count = t.count;
        wh_waitgroup_add(&t.group, count);
        for (int i = 0; i < count; i++)
            if (TEAM_GO(&team, task, &t, i, rng_next(&a->rng)) < 0) {
                t.results[i] = (uint64_t)i + 1;
                wh_waitgroup_done(&t.group);
            }
        for (int i = 0; i < waiters; i++)
            TEAM_GO(&team, waitgroup_waiter, &t);
        doing(a, "waits for a waitgroup");
        wait_for_tasks(&t);
        team_join(&team);
    }
}

const struct kind waitgroup_kind = {
    .name = "waitgroup",
    .step = waitgroup_step,
    .closed = true,
};

/* ---- Events ---- */

struct news {
    wh_event event;
    uint64_t value; /* written before the event is set */
};

static void news_wait(struct news *n, uint64_t value)
{
    int rc = wh_event_wait(&n->event);
    CHECK(rc == 0 || ended_early(rc), "a wait returned %d", rc);
    CHECK(rc < 0 || n->value == value, "the event came with %llu, not %llu",
          (unsigned long long)n->value, (unsigned long long)value);
}

static void news_child(struct news *n, uint64_t value)
{
    ALIVE;
    news_wait(n, value);
}

static void news_teller(struct news *n, uint64_t value, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    pause_a_while(&rng);
    n->value = value;
    wh_event_set(&n->event);
}

static void event_step(struct actor *a)
{
    struct news n = {.value = 0};
    uint64_t last = (uint64_t)rng_from_to(&a->rng, 1, 4);
    for (uint64_t value = 1; value <= last; value++) {
        struct team team = {.count = 0};
        for (int i = rng_below(&a->rng, PARTIES_MAX); i > 0; i--)
            TEAM_GO(&team, news_child, &n, value);
        if (TEAM_GO(&team, news_teller, &n, value, rng_next(&a->rng)) < 0) {
            team_end(&team);
            return;
        }
        doing(a, "waits for an event");
        news_wait(&n, value);
        team_join(&team);
        CHECK(wh_event_is_set(&n.event), "the event is not set");
        wh_event_reset(&n.event);
    }
}

const struct kind event_kind = {
    .name = "event",
    .step = event_step,
    .closed = true,
};

/* ---- Barriers ---- */

struct meeting {
    wh_barrier barrier;
    int parties;
    int rounds;
    counter passed;
    counter last;
    counter early;           /* left before the last round */
    counter at[PARTIES_MAX]; /* the round a party is in */
};

/* Some leave the queue again and again, and come back. */
static int meet_once(struct meeting *m, struct rng *rng)
{
    int rc = -ETIMEDOUT;
    bool impatient = rng_one_in(rng, 4);
    while (impatient && rc == -ETIMEDOUT && wh_ctx_err(NULL) == 0)
        WH_WITH_TIMEOUT(rng_time_ns(rng, 8))
    rc = wh_barrier_wait(&m->barrier, (uint32_t)m->parties);
    return rc != -ETIMEDOUT ? rc : wh_barrier_wait(&m->barrier, (uint32_t)m->parties);
}

static void meet(struct meeting *m, int number, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    for (uint64_t round = 1; round <= (uint64_t)m->rounds; round++) {
        if (rng_one_in(&rng, 4))
            pause_a_while(&rng);
        atomic_store_explicit(&m->at[number], round, memory_order_relaxed);
        int rc = meet_once(m, &rng);
        CHECK(rc == 0 || rc == 1 || ended_early(rc), "a barrier returned %d", rc);
        if (rc < 0) {
            count_add(&m->early, 1);
            return;
        }
        count_add(&m->passed, 1);
        count_add(&m->last, (uint64_t)rc);
        for (int i = 0; i < m->parties; i++) {
            uint64_t at = count_get(&m->at[i]);
            CHECK(at == round || at == round + 1, "party %d is in round %llu, and %d left %llu", i,
                  (unsigned long long)at, number, (unsigned long long)round);
        }
    }
}

static void barrier_step(struct actor *a)
{
    struct meeting m = {.parties = rng_from_to(&a->rng, 1, PARTIES_MAX),
                        .rounds = rng_from_to(&a->rng, 1, 20)};
    struct team team = {.count = 0};
    int parties = m.parties;
    for (int i = 0; i < parties; i++)
        TEAM_GO(&team, meet, &m, i, rng_next(&a->rng));
    doing(a, "waits for parties to a barrier");
    bool whole = team.count == parties;
    if (!whole)
        team_end(&team);
    whole &= team_join(&team) == 0;
    uint64_t passed = count_get(&m.passed), last = count_get(&m.last);
    CHECK(passed == last * (uint64_t)m.parties, "%llu passed a barrier of %d, %llu as the last",
          (unsigned long long)passed, m.parties, (unsigned long long)last);
    CHECK(!whole || last == (uint64_t)m.rounds || count_get(&m.early) > 0,
          "%llu rounds of %d were made", (unsigned long long)last, m.rounds);
}

const struct kind barrier_kind = {
    .name = "barrier",
    .step = barrier_step,
    .closed = true,
};
