/*
 * million.c: a million coroutines at once.
 *
 * timers_1m: each sleeps 1 to 1000 ms counted from one moment at which all are started and asleep.
 * CPU seconds from that moment until the last has woken, and how late they woke.
 *
 * parked_1m: each parks; memory a coroutine (resident and page tables), and seconds to start them.
 */
#include "bench/bench.h"

#include <whorl.h>

#include <stdio.h>
#include <stdlib.h>

enum { MILLION = 1000000 };

struct million {
    int64_t base_ns; /* when the sleeps begin to count */
    int asleep;
    int awake;
    int failed;
    double *late_ms;
    double start_s;
    double cpu_s;
    double bytes_each;
};

static void sleeper(struct million *m, int index)
{
    int64_t due_ns = m->base_ns + (1 + index % 1000) * WH_MILLISECOND;
    m->asleep++;
    if (wh_sleep_until(due_ns) < 0)
        m->failed++;
    m->late_ms[m->awake++] = (double)(wh_now() - due_ns) / 1e6;
}

static int sleepers_root(void *arg)
{
    struct million *m = arg;
    int64_t start_ns = wh_now();
    for (int i = 0; i < MILLION; i++)
        if (wh_go(sleeper, m, i) < 0)
            return -1;
    while (m->asleep < MILLION)
        wh_yield();
    m->start_s = (double)(wh_now() - start_ns) / 1e9;
    if (wh_now() >= m->base_ns)
        return 1; /* started too slowly: their time has begun */
    wh_sleep_until(m->base_ns);
    double cpu_s = bench_cpu_s();
    while (m->awake < MILLION)
        wh_sleep(10 * WH_MILLISECOND);
    m->cpu_s = bench_cpu_s() - cpu_s;
    return 0;
}

static struct result run_timers(void)
{
    static double expected_start_s = 4;
    struct million m = {.late_ms = malloc(MILLION * sizeof *m.late_ms)};
    double *late_ms = m.late_ms;
    for (;;) {
        m = (struct million){.late_ms = late_ms};
        m.base_ns = wh_now() + (int64_t)(expected_start_s * 1e9);
        bench_in_run(sleepers_root, &m);
        if (m.awake == MILLION && m.cpu_s > 0)
            break;
        expected_start_s *= 2;
    }
    if (m.failed) {
        fprintf(stderr, "whorl-bench: timers_1m: %d sleeps failed\n", m.failed);
        exit(1);
    }
    struct result result = {.unit = "CPU s", .value = m.cpu_s};
    result.more[0].bench = "timers_1m_late_p50";
    result.more[0].unit = "ms";
    result.more[0].value = bench_quantile(late_ms, MILLION, 0.5);
    result.more[1].bench = "timers_1m_late_p99";
    result.more[1].unit = "ms";
    result.more[1].value = bench_quantile(late_ms, MILLION, 0.99);
    result.more[2].bench = "timers_1m_late_max";
    result.more[2].unit = "ms";
    result.more[2].value = late_ms[MILLION - 1];
    result.more[3].bench = "timers_1m_early_max";
    result.more[3].unit = "ms";
    result.more[3].value = late_ms[0] < 0 ? -late_ms[0] : 0;
    free(late_ms);
    return result;
}

const struct bench timers_1m = {"timers_1m", 3, run_timers};

static void parker(struct million *m)
{
    m->asleep++;
    wh_sleep(WH_HOUR);
}

static int parked_root(void *arg)
{
    struct million *m = arg;
    double before = bench_memory_bytes();
    int64_t start_ns = wh_now();
    for (int i = 0; i < MILLION; i++)
        if (wh_go(parker, m) < 0)
            return -1;
    while (m->asleep < MILLION)
        wh_yield();
    m->start_s = (double)(wh_now() - start_ns) / 1e9;
    m->bytes_each = (bench_memory_bytes() - before) / MILLION;
    return 0; /* cancels the million */
}

static struct result run_parked(void)
{
    struct million m = {0};
    bench_in_run(parked_root, &m);
    struct result result = {.unit = "bytes", .value = m.bytes_each};
    result.more[0].bench = "parked_1m_start";
    result.more[0].unit = "s";
    result.more[0].value = m.start_s;
    return result;
}

const struct bench parked_1m = {"parked_1m", 3, run_parked};
