/*
 * blocking.c: what does a call on a thread of its own cost, there and back?
 *
 * One coroutine makes one call after the other; the thread sleeps in between, so this is mostly two
 * wake-ups of a sleeping thread. blocking_call_64 is the same by 64 coroutines at once, each call.
 * big_stack_call: one on a borrowed stack, on the same thread.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { CALLS = 2000, AT_ONCE = 64, CALLS_EACH = 200, BIG_CALLS = 1000000 };

static int nothing(void)
{
    return 0;
}

static int calls(int count)
{
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++)
        rc = wh_blocking(NULL, nothing);
    return rc;
}

static int one_root(void *arg)
{
    int64_t start = bench_now();
    int rc = calls(CALLS);
    *(int64_t *)arg = bench_now() - start;
    return rc;
}

static int many_root(void *arg)
{
    int64_t start = bench_now();
    int rc = 0;
    WH_WITH_GROUP(group, &(wh_group_options){.ret_error = &rc})
    for (int i = 0; i < AT_ONCE; i++)
        if (wh_group_go(group, calls, CALLS_EACH) < 0)
            break;
    *(int64_t *)arg = bench_now() - start;
    return rc;
}

static int big_root(void *arg)
{
    int64_t start = bench_now();
    int rc = 0;
    for (int i = 0; i < BIG_CALLS && rc == 0; i++)
        rc = wh_on_big_stack(NULL, nothing);
    *(int64_t *)arg = bench_now() - start;
    return rc;
}

static struct result run(void)
{
    int64_t one, many, big;
    bench_in_run(one_root, &one);
    bench_in_run(many_root, &many);
    bench_in_run(big_root, &big);
    return (struct result){
        .unit = "us",
        .value = (double)one / CALLS / 1e3,
        .more = {{"blocking_call_64", "us", (double)many / AT_ONCE / CALLS_EACH / 1e3},
                 {"big_stack_call", "ns", (double)big / BIG_CALLS}},
    };
}

const struct bench blocking_call = {"blocking_call", 15, run};
