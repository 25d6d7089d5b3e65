/*
 * ctx.c: what do contexts cost, and a deadline on every wait?
 *
 * ctx_cancel: make a context, cancel it, give it back. ctx_timeout_cancel: the same with a timeout.
 * recv_deadline_pingpong: a round trip between two coroutines through two channels, each receive
 * with a deadline of an hour.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { CONTEXTS = 5000000, TRIPS = 1000000 };

static int cancel_root(void *arg)
{
    int64_t start = bench_now();
    for (int i = 0; i < CONTEXTS; i++) {
        wh_ctx *ctx = wh_ctx_create(NULL);
        wh_ctx_cancel(ctx, 0);
        wh_ctx_unref(ctx);
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_cancel(void)
{
    int64_t took;
    bench_in_run(cancel_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / CONTEXTS};
}

const struct bench ctx_cancel = {"ctx_cancel", 15, run_cancel};

static int timeout_root(void *arg)
{
    wh_sleep(2 * WH_MILLISECOND); /* the clock has measured its rate then */
    int64_t start = bench_now();
    for (int i = 0; i < CONTEXTS; i++) {
        wh_ctx *ctx = wh_ctx_create_timeout(NULL, WH_HOUR);
        wh_ctx_cancel(ctx, 0);
        wh_ctx_unref(ctx);
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_timeout(void)
{
    int64_t took;
    bench_in_run(timeout_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / CONTEXTS};
}

const struct bench ctx_timeout_cancel = {"ctx_timeout_cancel", 15, run_timeout};

static int recv_in_an_hour(WH_CHAN(long) ch, long *ret_x)
{
    int rc = 0;
    WH_WITH_TIMEOUT(WH_HOUR)
    {
        rc = wh_chan_recv(ch, ret_x);
    }
    return rc;
}

static void answer(WH_CHAN(long) in, WH_CHAN(long) out)
{
    long x;
    while (recv_in_an_hour(in, &x) > 0)
        wh_chan_send(out, x + 1);
}

static int pingpong_root(void *arg)
{
    wh_sleep(2 * WH_MILLISECOND);
    WH_CHAN(long) there = wh_chan_create(long, 0);
    WH_CHAN(long) back = wh_chan_create(long, 0);
    wh_coro *coro;
    if (!there || !back || wh_spawn(&coro, NULL, answer, there, back) < 0)
        return -1;
    long x = 0;
    int64_t start = bench_now();
    for (int i = 0; i < TRIPS; i++) {
        wh_chan_send(there, x);
        recv_in_an_hour(back, &x);
    }
    *(int64_t *)arg = bench_now() - start;
    wh_chan_close(there);
    wh_join(coro, NULL);
    wh_chan_unref(there);
    wh_chan_unref(back);
    return x == TRIPS ? 0 : -1;
}

static struct result run_pingpong(void)
{
    int64_t took;
    bench_in_run(pingpong_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / TRIPS};
}

const struct bench recv_deadline_pingpong = {"recv_deadline_pingpong", 15, run_pingpong};
