/*
 * bench.h: how a benchmark of whorl-bench looks.
 *
 * A benchmark is a function that does its work `count` times and says how long that took. The
 * harness calls it once to warm up, then RUNS times, and reports the least and the median. The
 * least is what the code costs; the distance to the median is what the machine was doing besides.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdint.h>

struct result {
    const char *unit;
    const char *note; /* what was measured, where the name does not say it */
    double value;     /* of one run */
    /* Further figures, printed under their own names. */
    struct {
        const char *bench;
        const char *unit;
        double value;
    } more[6];
};

struct bench {
    const char *name;
    int runs;
    struct result (*run)(void);
};

extern const struct bench switch_raw, switch_call, yield_switch, yield_mixed, spawn_join, spawn_now;
extern const struct bench sleep_arm_cancel, deadline_scope, timers_1m, parked_1m;
extern const struct bench chan_unbuffered, chan_buffered;
extern const struct bench select_4_ready, select_4_unbuffered, select_timeout;
extern const struct bench mutex_uncontended, mutex_1000, waitgroup_1000;
extern const struct bench blocking_call, hog_gap, checkpoint;
extern const struct bench spawn_stolen, chan_unbuffered_2w, chan_buffered_2w, mutex_contended_2w;
extern const struct bench wake_remote, steal_fanout;
extern const struct bench ctx_cancel, ctx_timeout_cancel, recv_deadline_pingpong;
extern const struct bench conn_pingpong, conn_idle;
extern const struct bench udp_pingpong, udp_flood;

/* Nanoseconds since some start. */
int64_t bench_now(void);

/* Runs root(arg) in a run with one worker, or with several; a failure ends the program. */
void bench_in_run(int (*root)(void *arg), void *arg);
void bench_in_run_of(unsigned workers, int (*root)(void *arg), void *arg);

/* Seconds of processor time this process has used, user and system. */
double bench_cpu_s(void);

/* Resident memory and page tables of this process, in bytes. */
double bench_memory_bytes(void);

/* The q-quantile (0 to 1) of count values, which are sorted in place. */
double bench_quantile(double *values, int count, double q);

#endif
