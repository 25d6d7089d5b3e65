/*
 * sync.c: what do locks and waiting for many cost?
 *
 * mutex_uncontended: lock and unlock. mutex_1000: a thousand coroutines that lock, yield and
 * unlock, each many times; a lock and unlock. waitgroup_1000: a thousand coroutines are started,
 * say done, and are waited for; each.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { LOCKS = 20000000, COROS = 1000, LOCKS_EACH = 1000, ROUNDS = 500 };

static int lock_root(void *arg)
{
    static wh_mutex mutex;
    int64_t start = bench_now();
    for (int i = 0; i < LOCKS; i++) {
        if (wh_mutex_lock(&mutex) < 0)
            return -1;
        wh_mutex_unlock(&mutex);
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_uncontended(void)
{
    int64_t took;
    bench_in_run(lock_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / LOCKS};
}

const struct bench mutex_uncontended = {"mutex_uncontended", 15, run_uncontended};

static void lock_often(wh_mutex *mutex, long *counter)
{
    for (int i = 0; i < LOCKS_EACH; i++) {
        if (wh_mutex_lock(mutex) < 0)
            return;
        long before = *counter;
        wh_yield();
        *counter = before + 1;
        wh_mutex_unlock(mutex);
    }
}

static int contended_root(void *arg)
{
    wh_mutex mutex = {0};
    wh_coro *coro[COROS];
    long counter = 0;
    for (int i = 0; i < COROS; i++)
        if (wh_spawn(&coro[i], NULL, lock_often, &mutex, &counter) < 0)
            return -1;
    int64_t start = bench_now();
    for (int i = 0; i < COROS; i++)
        wh_join(coro[i], NULL);
    *(int64_t *)arg = bench_now() - start;
    return counter == (long)COROS * LOCKS_EACH ? 0 : -1;
}

static struct result run_contended(void)
{
    int64_t took;
    bench_in_run(contended_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / COROS / LOCKS_EACH};
}

const struct bench mutex_1000 = {"mutex_1000", 9, run_contended};

static void done(wh_waitgroup *group)
{
    wh_waitgroup_done(group);
}

static int waitgroup_root(void *arg)
{
    wh_waitgroup group = {0};
    int64_t start = bench_now();
    for (int round = 0; round < ROUNDS; round++) {
        wh_waitgroup_add(&group, COROS);
        for (int i = 0; i < COROS; i++)
            if (wh_go(done, &group) < 0)
                return -1;
        if (wh_waitgroup_wait(&group) < 0)
            return -1;
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_waitgroup(void)
{
    int64_t took;
    bench_in_run(waitgroup_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / COROS / ROUNDS};
}

const struct bench waitgroup_1000 = {"waitgroup_1000", 15, run_waitgroup};
