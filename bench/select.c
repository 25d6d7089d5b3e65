/*
 * select.c: what does a select cost?
 *
 * select_4_ready: four buffered channels, of which one has an element; another puts the next one
 * in. select_4_unbuffered: four senders and one that selects among them: it blocks; an item.
 * select_timeout: a channel that is ready, and a timeout that is not needed.
 */
#include "bench/bench.h"

#include <whorl.h>

enum { CHANNELS = 4, SELECTS = 2000000, ITEMS = 1000000 };

static void make(WH_CHAN(long) * ch, size_t capacity)
{
    for (int i = 0; i < CHANNELS; i++)
        ch[i] = wh_chan_create(long, capacity);
}

static void unmake(WH_CHAN(long) * ch)
{
    for (int i = 0; i < CHANNELS; i++)
        wh_chan_unref(ch[i]);
}

/* What it takes to put the element in is taken off again. */
static int ready_root(void *arg)
{
    WH_CHAN(long) ch[CHANNELS];
    make(ch, 1);
    long x = 0;
    int64_t start = bench_now();
    for (int i = 0; i < SELECTS; i++) {
        if (wh_chan_try_send(ch[i % CHANNELS], 1L) < 0 ||
            wh_chan_try_recv(ch[i % CHANNELS], &x) < 0)
            return -1;
    }
    int64_t filling_ns = bench_now() - start;
    start = bench_now();
    for (int i = 0; i < SELECTS; i++) {
        if (wh_chan_try_send(ch[i % CHANNELS], 1L) < 0)
            return -1;
        int chosen = wh_select(WH_RECV(ch[0], &x), WH_RECV(ch[1], &x), WH_RECV(ch[2], &x),
                               WH_RECV(ch[3], &x));
        if (chosen != i % CHANNELS)
            return -1;
    }
    *(int64_t *)arg = bench_now() - start - filling_ns / 2;
    unmake(ch);
    return 0;
}

static struct result run_ready(void)
{
    int64_t took;
    bench_in_run(ready_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / SELECTS};
}

const struct bench select_4_ready = {"select_4_ready", 15, run_ready};

static void send_items(WH_CHAN(long) out)
{
    for (long i = 0; i < ITEMS / CHANNELS; i++)
        wh_chan_send(out, i);
}

static int unbuffered_root(void *arg)
{
    WH_CHAN(long) ch[CHANNELS];
    wh_coro *senders[CHANNELS];
    make(ch, 0);
    for (int i = 0; i < CHANNELS; i++)
        if (wh_spawn(&senders[i], NULL, send_items, ch[i]) < 0)
            return -1;
    long x;
    int64_t start = bench_now();
    for (int i = 0; i < ITEMS; i++)
        if (wh_select(WH_RECV(ch[0], &x), WH_RECV(ch[1], &x), WH_RECV(ch[2], &x),
                      WH_RECV(ch[3], &x)) < 0)
            return -1;
    *(int64_t *)arg = bench_now() - start;
    for (int i = 0; i < CHANNELS; i++)
        wh_join(senders[i], NULL);
    unmake(ch);
    return 0;
}

static struct result run_unbuffered(void)
{
    int64_t took;
    bench_in_run(unbuffered_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / ITEMS};
}

const struct bench select_4_unbuffered = {"select_4_unbuffered", 15, run_unbuffered};

static int timeout_root(void *arg)
{
    WH_CHAN(long) ch = wh_chan_create(long, 1);
    long x = 0;
    int64_t start = bench_now();
    for (int i = 0; i < SELECTS; i++) {
        wh_chan_try_send(ch, 1L);
        if (wh_select(WH_RECV(ch, &x), WH_AFTER(WH_SECOND)) != 0)
            return -1;
    }
    *(int64_t *)arg = bench_now() - start;
    wh_chan_unref(ch);
    return 0;
}

static struct result run_timeout(void)
{
    int64_t took;
    bench_in_run(timeout_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / SELECTS};
}

const struct bench select_timeout = {"select_timeout", 15, run_timeout};
