/*
 * hog.c: how long do others wait behind a coroutine that does not let them run?
 *
 * hog_gap: one worker, on which the root computes for half a second; a hundred coroutines with
 * leave to migrate sleep for a millisecond again and again. The longest time between two wake-ups
 * of any of them; hog_gap_p999 is the same without the worst thousandth, hog_gap_off without the
 * watchdog. hog_slower: how much less the root computes in its time because of the signals, when
 * there is a core for each of the two workers.
 * checkpoint: a wh_checkpoint() that finds nothing to do.
 */
#include "bench/bench.h"

#include <whorl.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { TICKERS = 100, GAPS_MAX = 1000, CHECKPOINTS = 10000000 };
#define HOG_NS (500 * WH_MILLISECOND)

struct hogging {
    int64_t hog_ns;
    bool alone; /* no others */
    atomic_bool ends;
    double gaps_ms[TICKERS * GAPS_MAX];
    atomic_int gaps;
    double computed;
};

static void tick(struct hogging *h)
{
    int64_t last_ns = bench_now();
    while (!h->ends) {
        wh_sleep(WH_MILLISECOND);
        int64_t now_ns = bench_now();
        int n = h->gaps++;
        if (n < TICKERS * GAPS_MAX)
            h->gaps_ms[n] = (double)(now_ns - last_ns) / 1e6;
        last_ns = now_ns;
    }
}

static void compute(struct hogging *h)
{
    int64_t end_ns = bench_now() + HOG_NS;
    while (bench_now() < end_ns)
        h->computed++;
}

static int hog_root(void *arg)
{
    struct hogging *h = arg;
    const wh_spawn_options may = {.migrate = true};
    wh_coro *coro[TICKERS];
    int tickers = h->alone ? 0 : TICKERS;
    for (int i = 0; i < tickers; i++)
        if (wh_spawn(&coro[i], &may, tick, h) < 0)
            return -1;
    wh_sleep(10 * WH_MILLISECOND);
    compute(h);
    h->ends = true;
    for (int i = 0; i < tickers; i++)
        wh_join(coro[i], NULL);
    return 0;
}

static struct hogging *hogged(int64_t hog_ns, bool alone)
{
    struct hogging *h = calloc(1, sizeof *h);
    const wh_options options = {.workers = 1, .hog_ns = hog_ns};
    if (h)
        h->alone = alone;
    if (!h || wh_run(hog_root, h, &options) < 0) {
        fprintf(stderr, "whorl-bench: a run with a hog failed\n");
        exit(1);
    }
    if (h->gaps > TICKERS * GAPS_MAX)
        h->gaps = TICKERS * GAPS_MAX;
    return h;
}

static struct result hog_gap_run(void)
{
    struct hogging *on = hogged(0, false), *off = hogged(-1, false), *alone = hogged(-1, true);
    struct result result = {
        .unit = "ms",
        .note = "longest, one worker",
        .value = bench_quantile(on->gaps_ms, on->gaps, 1),
        .more = {{"hog_gap_p999", "ms", bench_quantile(on->gaps_ms, on->gaps, 0.999)},
                 {"hog_gap_off", "ms", bench_quantile(off->gaps_ms, off->gaps, 1)},
                 {"hog_slower", "%", 100 * (1 - on->computed / alone->computed)}},
    };
    free(on);
    free(off);
    free(alone);
    return result;
}

const struct bench hog_gap = {"hog_gap", 5, hog_gap_run};

static int checkpoint_root(void *arg)
{
    int64_t start = bench_now();
    for (int i = 0; i < CHECKPOINTS; i++)
        if (wh_checkpoint() < 0)
            return -1;
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result checkpoint_run(void)
{
    int64_t took_ns;
    bench_in_run(checkpoint_root, &took_ns);
    return (struct result){.unit = "ns", .value = (double)took_ns / CHECKPOINTS};
}

const struct bench checkpoint = {"checkpoint", 10, checkpoint_run};
