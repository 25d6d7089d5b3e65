/*
 * time.c: what do a timer and a deadline cost when they do not fire, which is what most do?
 *
 * sleep_arm_cancel arms and cancels a timer in a wheel that holds a thousand others. deadline_scope
 * enters and leaves WH_WITH_TIMEOUT.
 */
#include "bench/bench.h"
#include "timers/wheel.h"

#include <whorl.h>

enum { ARMED = 1000, ROUNDS = 5000, SCOPES = 5000000 };

static struct result run_arm_cancel(void)
{
    static struct wheel wheel;
    static struct timer others[ARMED], timers[ARMED];
    int64_t now = wh_now();
    wheel_init(&wheel, now);
    for (int i = 0; i < ARMED; i++) {
        timer_init(&others[i]);
        timer_init(&timers[i]);
        wheel_arm(&wheel, &others[i], now + (i + 1) * WH_MILLISECOND);
    }
    int64_t start = bench_now();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < ARMED; i++)
            wheel_arm(&wheel, &timers[i], now + WH_SECOND + i * WH_MILLISECOND + round);
        for (int i = 0; i < ARMED; i++)
            wheel_cancel(&wheel, &timers[i]);
    }
    int64_t took = bench_now() - start;
    return (struct result){.unit = "ns", .value = (double)took / ARMED / ROUNDS};
}

const struct bench sleep_arm_cancel = {"sleep_arm_cancel", 15, run_arm_cancel};

static int scope_root(void *arg)
{
    wh_sleep(2 * WH_MILLISECOND); /* the clock has measured its rate then */
    int64_t start = bench_now();
    for (int i = 0; i < SCOPES; i++) {
        WH_WITH_TIMEOUT(WH_SECOND)
        {
            __asm__ volatile("" ::: "memory");
        }
    }
    *(int64_t *)arg = bench_now() - start;
    return 0;
}

static struct result run_scope(void)
{
    int64_t took;
    bench_in_run(scope_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / SCOPES};
}

const struct bench deadline_scope = {"deadline_scope", 15, run_scope};
