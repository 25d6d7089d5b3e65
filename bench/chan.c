/*
 * chan.c: what does it cost to pass an element?
 *
 * chan_unbuffered is a round trip: one coroutine sends through a channel of capacity 0, another one
 * answers through a second. chan_buffered is an item through a channel of 128.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { TRIPS = 1000000, ITEMS = 5000000, CAPACITY = 128 };

static void answer(WH_CHAN(long) in, WH_CHAN(long) out)
{
    long x;
    while (wh_chan_recv(in, &x) > 0)
        wh_chan_send(out, x + 1);
}

static int trips_root(void *arg)
{
    WH_CHAN(long) there = wh_chan_create(long, 0);
    WH_CHAN(long) back = wh_chan_create(long, 0);
    wh_coro *coro;
    if (!there || !back || wh_spawn(&coro, NULL, answer, there, back) < 0)
        return -1;
    long x = 0;
    int64_t start = bench_now();
    for (int i = 0; i < TRIPS; i++) {
        wh_chan_send(there, x);
        wh_chan_recv(back, &x);
    }
    *(int64_t *)arg = bench_now() - start;
    wh_chan_close(there);
    wh_join(coro, NULL);
    wh_chan_unref(there);
    wh_chan_unref(back);
    return x == TRIPS ? 0 : -1;
}

static struct result run_unbuffered(void)
{
    int64_t took;
    bench_in_run(trips_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / TRIPS};
}

const struct bench chan_unbuffered = {"chan_unbuffered", 15, run_unbuffered};

static void produce(WH_CHAN(long) out)
{
    for (long i = 0; i < ITEMS; i++)
        wh_chan_send(out, i);
    wh_chan_close(out);
}

static int items_root(void *arg)
{
    WH_CHAN(long) items = wh_chan_create(long, CAPACITY);
    if (!items || wh_go(produce, items) < 0)
        return -1;
    long x, sum = 0;
    int64_t start = bench_now();
    while (wh_chan_recv(items, &x) > 0)
        sum += x;
    *(int64_t *)arg = bench_now() - start;
    wh_chan_unref(items);
    return sum == (long)ITEMS * (ITEMS - 1) / 2 ? 0 : -1;
}

static struct result run_buffered(void)
{
    int64_t took;
    bench_in_run(items_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / ITEMS};
}

const struct bench chan_buffered = {"chan_buffered", 15, run_buffered};
