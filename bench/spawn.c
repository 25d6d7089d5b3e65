/*
 * spawn.c: what does it cost to start an empty coroutine, run it and join it?
 *
 * spawn_join starts a thousand, then joins the thousand: they are queued. spawn_now joins each at
 * once.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { BATCH = 1000, BATCHES = 500, SINGLES = 500000 };

static void empty(void)
{
}

static int batches_root(void *arg)
{
    wh_coro *coro[BATCH];
    int64_t start = bench_now();
    for (int batch = 0; batch < BATCHES; batch++) {
        for (int i = 0; i < BATCH; i++)
            if (wh_spawn(&coro[i], NULL, empty) < 0)
                return -1;
        for (int i = 0; i < BATCH; i++)
            wh_join(coro[i], NULL);
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_spawn_join(void)
{
    int64_t took;
    bench_in_run(batches_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / BATCH / BATCHES};
}

const struct bench spawn_join = {"spawn_join", 15, run_spawn_join};

static int singles_root(void *arg)
{
    int64_t start = bench_now();
    for (int i = 0; i < SINGLES; i++) {
        wh_coro *coro;
        if (wh_spawn(&coro, NULL, empty) < 0)
            return -1;
        wh_join(coro, NULL);
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_spawn_now(void)
{
    int64_t took;
    bench_in_run(singles_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / SINGLES};
}

const struct bench spawn_now = {"spawn_now", 15, run_spawn_now};
