/*
 * workers.c: what does it cost when a run has two workers?
 *
 * spawn_stolen: the root starts batches of coroutines that compute for a few microseconds, and
 * waits for each batch; each, and the share that the other worker took. spawn_stolen_1w is the same
 * with one worker, so half of it is what could be reached. chan_unbuffered_2w, chan_buffered_2w: a
 * round trip, and an item through a channel of 128, between one coroutine on each worker.
 * mutex_contended_2w: two coroutines on each worker that lock, count and unlock; each.
 * wake_remote: from an event's being set on one worker until the coroutine that waits for it on the
 * other one runs, when that worker sleeps; wake_remote_spin, when it was idle so briefly that it
 * still looks for work. The shares that did sleep tell whether that was so.
 * steal_fanout: a binary tree of a million coroutines, each starts its children and ends; each, and
 * the share that ended on the other worker (most get there by the run's queue, for a worker's own
 * is full: that is no stealing by wh_stats). steal_fanout_1w is the same with one worker.
 *
 * These want two cores: pinned to one (--cpu) they run, and measure how the kernel takes turns.
 */
#include "bench/bench.h"

#include <whorl.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LINE_BYTES = 64 };

_Noreturn static void fail(const char *what)
{
    fprintf(stderr, "whorl-bench: %s failed\n", what);
    exit(1);
}

static wh_spawn_options on(unsigned worker)
{
    return (wh_spawn_options){.worker = worker};
}

static uint64_t stolen(void)
{
    wh_sleep(WH_MILLISECOND); /* what the other worker counted is known once it slept */
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.coros_stolen;
}

/* ---- Batches ---- */

enum { BATCH = 256, BATCHES = 200, STEPS = 2000 };

struct batches {
    wh_waitgroup group;
    int64_t took_ns;
    uint64_t stolen;
};

/* Each step needs the one before it, so that no processor does it in less. */
static void compute(wh_waitgroup *group)
{
    uint64_t x = 1;
    for (int i = 0; i < STEPS; i++) {
        x = x * 6364136223846793005u + 1;
        __asm__ volatile("" : "+r"(x));
    }
    wh_waitgroup_done(group);
}

static int batches_root(void *arg)
{
    struct batches *b = arg;
    int64_t start = bench_now();
    for (int batch = 0; batch < BATCHES; batch++) {
        wh_waitgroup_add(&b->group, BATCH);
        for (int i = 0; i < BATCH; i++)
            if (wh_go(compute, &b->group) < 0)
                fail("wh_go");
        if (wh_waitgroup_wait(&b->group) < 0)
            fail("wh_waitgroup_wait");
    }
    b->took_ns = bench_now() - start;
    b->stolen = stolen();
    return 0;
}

static struct result run_spawn_stolen(void)
{
    struct batches one = {0}, two = {0};
    bench_in_run_of(2, batches_root, &two);
    bench_in_run_of(1, batches_root, &one);
    return (struct result){
        .unit = "ns",
        .value = (double)two.took_ns / BATCH / BATCHES,
        .more = {{"spawn_stolen_share", "%", 100.0 * (double)two.stolen / BATCH / BATCHES},
                 {"spawn_stolen_1w", "ns", (double)one.took_ns / BATCH / BATCHES}},
    };
}

const struct bench spawn_stolen = {"spawn_stolen", 15, run_spawn_stolen};

/* ---- Channels ---- */

enum { TRIPS = 20000, ITEMS = 2000000, CAPACITY = 128 };

/* Which coroutine's result is the time it took: one on each worker, joined by the root. */
static int64_t join_both(wh_coro *timed, wh_coro *other)
{
    intptr_t took_ns;
    if (wh_join(timed, &took_ns) < 0 || wh_join(other, NULL) < 0)
        fail("wh_join");
    return took_ns;
}

static int64_t ask(WH_CHAN(long) there, WH_CHAN(long) back)
{
    long x = 0;
    int64_t start = bench_now();
    for (int i = 0; i < TRIPS; i++) {
        wh_chan_send(there, x);
        wh_chan_recv(back, &x);
    }
    int64_t took_ns = bench_now() - start;
    wh_chan_close(there);
    if (x != TRIPS)
        fail("a round trip");
    return took_ns;
}

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
    wh_spawn_options first = on(1), second = on(2);
    wh_coro *asks, *answers;
    if (!there || !back || wh_spawn(&answers, &second, answer, there, back) < 0 ||
        wh_spawn(&asks, &first, ask, there, back) < 0)
        return -1;
    *(int64_t *)arg = join_both(asks, answers);
    wh_chan_unref(there);
    wh_chan_unref(back);
    return 0;
}

static struct result run_unbuffered(void)
{
    int64_t took;
    bench_in_run_of(2, trips_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / TRIPS};
}

const struct bench chan_unbuffered_2w = {"chan_unbuffered_2w", 15, run_unbuffered};

static void produce(WH_CHAN(long) out)
{
    for (long i = 0; i < ITEMS; i++)
        wh_chan_send(out, i);
    wh_chan_close(out);
}

static int64_t consume(WH_CHAN(long) in)
{
    long x, sum = 0;
    int64_t start = bench_now();
    while (wh_chan_recv(in, &x) > 0)
        sum += x;
    int64_t took_ns = bench_now() - start;
    if (sum != (long)ITEMS * (ITEMS - 1) / 2)
        fail("the sum of the items");
    return took_ns;
}

static int items_root(void *arg)
{
    WH_CHAN(long) items = wh_chan_create(long, CAPACITY);
    wh_spawn_options first = on(1), second = on(2);
    wh_coro *consumes, *produces;
    if (!items || wh_spawn(&produces, &second, produce, items) < 0 ||
        wh_spawn(&consumes, &first, consume, items) < 0)
        return -1;
    *(int64_t *)arg = join_both(consumes, produces);
    wh_chan_unref(items);
    return 0;
}

static struct result run_buffered(void)
{
    int64_t took;
    bench_in_run_of(2, items_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / ITEMS};
}

const struct bench chan_buffered_2w = {"chan_buffered_2w", 15, run_buffered};

/* ---- A mutex ---- */

enum { COROS = 4, LOCKS_EACH = 100000 };

static void lock_often(wh_mutex *mutex, long *counter)
{
    for (int i = 0; i < LOCKS_EACH; i++) {
        if (wh_mutex_lock(mutex) < 0)
            return;
        ++*counter;
        wh_mutex_unlock(mutex);
    }
}

static int mutex_root(void *arg)
{
    wh_mutex mutex = {0};
    wh_coro *coro[COROS];
    long counter = 0;
    int64_t start = bench_now();
    for (unsigned i = 0; i < COROS; i++) {
        wh_spawn_options where = on(1 + i % 2);
        if (wh_spawn(&coro[i], &where, lock_often, &mutex, &counter) < 0)
            fail("wh_spawn");
    }
    for (int i = 0; i < COROS; i++)
        wh_join(coro[i], NULL);
    *(int64_t *)arg = bench_now() - start;
    return counter == (long)COROS * LOCKS_EACH ? 0 : -1;
}

static struct result run_mutex(void)
{
    int64_t took;
    bench_in_run_of(2, mutex_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / COROS / LOCKS_EACH};
}

const struct bench mutex_contended_2w = {"mutex_contended_2w", 15, run_mutex};

/* ---- Waking ---- */

enum { WAKES = 500, LONG_NS = 300000, SHORT_NS = 5000 };

struct waking {
    wh_event event;
    int64_t gap_ns; /* from one wake's end to the next */
    double late_ns[WAKES];
    double slept;           /* share of the wakes that found the other worker asleep */
    _Atomic int64_t ran_ns; /* 0: not yet */
};

/* wh_now() may differ by microseconds between threads; this does not. */
static int64_t exact_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * WH_SECOND + t.tv_nsec;
}

static void wait_often(struct waking *w)
{
    for (int i = 0; i < WAKES; i++) {
        if (wh_event_wait(&w->event) < 0)
            return;
        int64_t now_ns = exact_now();
        wh_event_reset(&w->event);
        /* seq_cst: pairs with the loads in wake_often() */
        atomic_store(&w->ran_ns, now_ns);
    }
}

static uint64_t wakes(void)
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.wakes;
}

/* Stays busy in between, so that only one side is woken. With one core for both the other worker
 * would get no turn without sched_yield(2). */
static void wake_often(struct waking *w)
{
    uint64_t before = wakes();
    for (int i = 0; i < WAKES; i++) {
        int64_t until_ns = exact_now() + w->gap_ns;
        while (exact_now() < until_ns)
            sched_yield();
        /* seq_cst: pairs with the store in wait_often(), as do those below */
        atomic_store(&w->ran_ns, 0);
        int64_t set_ns = exact_now();
        wh_event_set(&w->event);
        while (!atomic_load(&w->ran_ns))
            sched_yield();
        w->late_ns[i] = (double)(atomic_load(&w->ran_ns) - set_ns);
    }
    w->slept = (double)(wakes() - before) / WAKES;
}

static int waking_root(void *arg)
{
    struct waking *w = arg;
    wh_spawn_options first = on(1), second = on(2);
    wh_coro *waits, *sets;
    if (wh_spawn(&waits, &second, wait_often, w) < 0 || wh_spawn(&sets, &first, wake_often, w) < 0)
        return -1;
    wh_join(sets, NULL);
    wh_join(waits, NULL);
    return 0;
}

static struct result run_wake(void)
{
    static struct waking after_long, after_short;
    after_long = (struct waking){.gap_ns = LONG_NS};
    after_short = (struct waking){.gap_ns = SHORT_NS};
    bench_in_run_of(2, waking_root, &after_long);
    bench_in_run_of(2, waking_root, &after_short);
    return (struct result){
        .unit = "ns",
        .value = bench_quantile(after_long.late_ns, WAKES, 0.5),
        .more = {{"wake_remote_slept", "%", 100 * after_long.slept},
                 {"wake_remote_spin", "ns", bench_quantile(after_short.late_ns, WAKES, 0.5)},
                 {"wake_remote_spin_slept", "%", 100 * after_short.slept}},
    };
}

const struct bench wake_remote = {"wake_remote", 15, run_wake};

/* ---- A tree ---- */

enum { TREE = 1000000 };

/* Counted on each worker by itself: one counter for all would be most of what is measured. */
struct tree {
    struct {
        _Alignas(LINE_BYTES) atomic_long count;
    } ended[3]; /* by the worker's number */
    int64_t took_ns;
};

static void node(struct tree *tree, long index)
{
    for (long child = 2 * index + 1; child <= 2 * index + 2 && child < TREE; child++)
        if (wh_go(node, tree, child) < 0)
            fail("wh_go");
    atomic_long *count = &tree->ended[wh_worker()].count;
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static int tree_root(void *arg)
{
    struct tree *tree = arg;
    int64_t start = bench_now();
    if (wh_go(node, tree, 0L) < 0)
        return -1;
    /* Asleep it keeps no worker from stealing; it sees the end a fraction of a percent late. */
    while (atomic_load_explicit(&tree->ended[1].count, memory_order_relaxed) +
               atomic_load_explicit(&tree->ended[2].count, memory_order_relaxed) <
           TREE)
        wh_sleep(50 * WH_MICROSECOND);
    tree->took_ns = bench_now() - start;
    return 0;
}

static struct result run_fanout(void)
{
    struct tree one = {0}, two = {0};
    bench_in_run_of(2, tree_root, &two);
    bench_in_run_of(1, tree_root, &one);
    return (struct result){
        .unit = "ns",
        .value = (double)two.took_ns / TREE,
        .more = {{"steal_fanout_share", "%", 100.0 * (double)two.ended[2].count / TREE},
                 {"steal_fanout_1w", "ns", (double)one.took_ns / TREE}},
    };
}

const struct bench steal_fanout = {"steal_fanout", 9, run_fanout};
