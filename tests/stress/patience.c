/*
 * patience.c: queues in which the first cannot be served and gives up, and those behind could be.
 *
 * The owner holds a part of a semaphore, and a lock for reading, until all others have left. Who
 * asks for too much has little patience; who asks for what is there has patience without end, and
 * may wait only for the former to give up.
 */
#include "stress.h"

enum { UNITS = 8, HELD = 5, WAITERS_MAX = 12 };

struct queue {
    wh_sem sem;
    wh_rwlock lock;
    counter served;
    counter gave_up;
};

static void ask(struct queue *q, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    bool greedy = rng_one_in(&rng, 2), units = rng_one_in(&rng, 2);
    uint64_t count = (uint64_t)(greedy ? rng_from_to(&rng, UNITS - HELD + 1, UNITS)
                                       : rng_from_to(&rng, 1, UNITS - HELD));
    int rc = 0;
    if (rng_one_in(&rng, 3))
        pause_a_while(&rng);
    WH_WITH_TIMEOUT(greedy ? rng_time_ns(&rng, 9) : WH_HOUR)
    rc = units    ? wh_sem_acquire(&q->sem, count)
         : greedy ? wh_rwlock_write_lock(&q->lock)
                  : wh_rwlock_read_lock(&q->lock);
    CHECK(greedy ? ended_early(rc) : rc == 0 || ended_early(rc), "asking for %s returned %d",
          greedy ? "too much" : "what is there", rc);
    count_add(rc == 0 ? &q->served : &q->gave_up, 1);
    if (rc < 0)
        return;
    if (rng_one_in(&rng, 3))
        pause_a_while(&rng);
    if (units)
        wh_sem_release(&q->sem, count);
    else
        wh_rwlock_read_unlock(&q->lock);
}

static void patience_step(struct actor *a)
{
    struct queue q = {.sem = WH_SEM(UNITS)};
    struct team team = {.count = 0};
    int rc = wh_sem_try_acquire(&q.sem, HELD);
    CHECK(rc == 0, "acquiring what nobody wants returned %d", rc);
    rc = wh_rwlock_try_read_lock(&q.lock);
    CHECK(rc == 0, "locking what nobody wants returned %d", rc);
    for (int i = rng_from_to(&a->rng, 1, WAITERS_MAX); i > 0; i--)
        TEAM_GO(&team, ask, &q, rng_next(&a->rng));
    uint64_t members = (uint64_t)team.count;
    doing(a, "waits for the patient and the others");
    team_join(&team);
    CHECK(count_get(&q.served) + count_get(&q.gave_up) == members, "%llu of %llu have left",
          (unsigned long long)(count_get(&q.served) + count_get(&q.gave_up)),
          (unsigned long long)members);
    wh_sem_release(&q.sem, HELD);
    wh_rwlock_read_unlock(&q.lock);
    rc = wh_sem_try_acquire(&q.sem, UNITS);
    CHECK(rc == 0, "of %d units not all are there: %d", UNITS, rc);
    rc = wh_rwlock_try_write_lock(&q.lock);
    CHECK(rc == 0, "a lock that nobody holds cannot be had: %d", rc);
}

const struct kind patience_kind = {
    .name = "patience",
    .step = patience_step,
    .closed = true,
};
