/*
 * whorl_bench.c: runs the micro benchmarks and prints them.
 *
 *     whorl-bench [NAME...] [--json] [--list] [--cpu K]
 *
 * Figures are for comparing on one machine in one sitting: pin the process (--cpu), run what is to
 * be compared alternately, and look at the ratio of medians. --cpu pins all threads to one core:
 * the benchmarks with two workers (workers.c) want to be run without it.
 */
#include "bench/bench.h"

#include <whorl.h>

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

enum { RUNS_MAX = 64 };

static const struct bench *const benches[] = {
    &switch_raw,
    &switch_call,
    &yield_switch,
    &yield_mixed,
    &spawn_join,
    &spawn_now,
    &chan_unbuffered,
    &chan_buffered,
    &select_4_ready,
    &select_4_unbuffered,
    &select_timeout,
    &mutex_uncontended,
    &mutex_1000,
    &waitgroup_1000,
    &ctx_cancel,
    &ctx_timeout_cancel,
    &sleep_arm_cancel,
    &deadline_scope,
    &recv_deadline_pingpong,
    &conn_pingpong,
    &conn_idle,
    &udp_pingpong,
    &udp_flood,
    &blocking_call,
    &hog_gap,
    &checkpoint,
    &spawn_stolen,
    &chan_unbuffered_2w,
    &chan_buffered_2w,
    &mutex_contended_2w,
    &wake_remote,
    &steal_fanout,
    &timers_1m,
    &parked_1m,
};

#define BENCHES (sizeof benches / sizeof benches[0])

int64_t bench_now(void)
{
    return wh_now();
}

void bench_in_run(int (*root)(void *arg), void *arg)
{
    bench_in_run_of(1, root, arg);
}

void bench_in_run_of(unsigned workers, int (*root)(void *arg), void *arg)
{
    /* Without the watchdog: a loop that measures calls which do not wait is a hog. */
    const wh_options options = {.workers = workers, .hog_ns = -1};
    int rc = wh_run(root, arg, &options);
    if (rc < 0) {
        fprintf(stderr, "whorl-bench: the run ended with %s\n", strerror(-rc));
        exit(1);
    }
}

double bench_cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

double bench_memory_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) {
        perror("whorl-bench: /proc/self/status");
        exit(1);
    }
    char line[256];
    long kib, sum = 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1 || sscanf(line, "VmPTE: %ld", &kib) == 1)
            sum += kib;
    fclose(file);
    return (double)sum * 1024;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(double *values, int count, double q)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    int at = (int)(q * (count - 1) + 0.5);
    return values[at];
}

static void print(const char *name, const char *unit, double *values, int runs, bool json)
{
    double median = bench_quantile(values, runs, 0.5);
    if (json)
        printf("{\"bench\":\"%s\",\"unit\":\"%s\",\"min\":%.4g,\"median\":%.4g,\"runs\":%d}\n",
               name, unit, values[0], median, runs);
    else
        printf("%-28s %12.4g %12.4g  %-10s %4d runs\n", name, values[0], median, unit, runs);
    fflush(stdout);
}

static void measure(const struct bench *bench, bool json)
{
    double values[RUNS_MAX], more[6][RUNS_MAX];
    struct result result = bench->run(); /* warms up */
    for (int run = 0; run < bench->runs; run++) {
        result = bench->run();
        values[run] = result.value;
        for (int i = 0; i < 6; i++)
            more[i][run] = result.more[i].value;
    }
    print(bench->name, result.unit, values, bench->runs, json);
    for (int i = 0; i < 6 && result.more[i].bench; i++)
        print(result.more[i].bench, result.more[i].unit, more[i], bench->runs, json);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        perror("whorl-bench: --cpu");
}

static bool wanted(const char *name, char **names, int count)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name))
            return true;
    return count == 0;
}

static bool known(const char *name)
{
    for (size_t i = 0; i < BENCHES; i++)
        if (!strcmp(benches[i]->name, name))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    bool json = false;
    int names = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            json = true;
        } else if (!strcmp(argv[i], "--cpu") && i + 1 < argc) {
            pin(atoi(argv[++i]));
        } else if (!strcmp(argv[i], "--list")) {
            for (size_t b = 0; b < BENCHES; b++)
                puts(benches[b]->name);
            return 0;
        } else if (known(argv[i])) {
            argv[1 + names++] = argv[i];
        } else {
            fprintf(stderr, "whorl-bench: no benchmark is called %s; --list names them\n", argv[i]);
            return 2;
        }
    }
    if (!json) {
        struct utsname os;
        uname(&os);
        printf("whorl %s, %s %s %s\n%-28s %12s %12s\n", wh_version(), os.sysname, os.release,
               os.machine, "", "min", "median");
    }
    for (size_t i = 0; i < BENCHES; i++)
        if (wanted(benches[i]->name, argv + 1, names))
            measure(benches[i], json);
    return 0;
}
