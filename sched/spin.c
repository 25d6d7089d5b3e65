/*
 * spin.c: whether a worker that has nothing to do looks for work for a while before it sleeps.
 *
 * Looking pays where a sleep is short: whoever waits for the answer has it sooner, and falling
 * asleep and waking up cost about what the wait does. It does not where a sleep gathers: with fifty
 * clients there is always one whose request comes soon, and who takes that alone makes a system
 * call for each. Which it is depends on clients, machine and kernel, so it is tried, once in a
 * while for a few idle times the other way, against what came just before it: how many switches of
 * coroutines there are between two idle times, and the thread's processor time for one.
 *
 *      REST            MEASURE                TRIAL                 REST
 *      64 to 1024 ---> 16 of 4 idle times --> 4, the other way ---> ...
 *
 * Few, because one connection that is served by looking sees what a trial does to its latency: four
 * in a thousand. Four idle times that hold a turn in which coroutines ran for long are not counted:
 * they would say more of them than of the way. Nor is a trial when none before it were.
 *
 * When idle times are longer than the looking would be, there is none. But who sleeps takes the
 * time of waking up for idleness, too, and a peer that would soon have answered for one that is
 * slow. So one of 64 to 1024 of them is begun by looking all the same: if work comes in that time,
 * all begins anew.
 */
#include "sched/spin.h"

#include <time.h>

enum { REST, MEASURE, TRIAL, CLOSED };

enum {
    REST_MIN = 64,
    REST_MAX = 1024,
    WINDOWS = 16,
    WINDOW = 4,
    MEASURE_LESS = 8, /* the part that one takes from what was learned before */
    TRIAL_LESS = 16,
    /* Trials before anything follows from them: looking among many is the dearer mistake. */
    TRIALS_TO_SLEEP = 6,
    TRIALS_TO_LOOK = 16,
};

void spin_init(struct spin *spin, int64_t limit_ns)
{
    *spin = (struct spin){.limit_ns = limit_ns, .pays = true, .left = REST_MIN, .rest = REST_MIN};
}

void spin_learn(struct spin *spin, int64_t idle_ns)
{
    /* One long sleep must not outweigh many short ones. */
    int64_t most = 4 * spin->limit_ns;
    spin->idle_ns += ((idle_ns < most ? idle_ns : most) - spin->idle_ns) / 8;
}

void spin_found(struct spin *spin, int64_t idle_ns)
{
    if (spin->idle_ns >= spin->limit_ns) { /* a probe: begins anew */
        spin_init(spin, spin->limit_ns);
        spin->idle_ns = spin->limit_ns;
    }
    spin_learn(spin, idle_ns);
}

static int64_t thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void window_begin(struct spin *spin, uint64_t switches)
{
    spin->cpu_ns = thread_cpu_ns();
    spin->switches = switches;
    spin->spoiled = false;
    spin->left = WINDOW;
}

/* A window is over, in which the worker has looked, or not; what was learned before is worth so
 * much less, unless 0. Returns whether it says anything. */
static bool window_learn(struct spin *spin, bool with, int less, uint64_t switches)
{
    int64_t count = (int64_t)(switches - spin->switches);
    struct spin_sum *sum = &spin->sum[with];
    if (count <= 0 || spin->spoiled)
        return false;
    if (less) {
        sum->cpu_ns -= sum->cpu_ns / less;
        sum->switches -= sum->switches / less;
        sum->idle_times -= sum->idle_times / less;
    }
    sum->cpu_ns += thread_cpu_ns() - spin->cpu_ns;
    sum->switches += count;
    sum->idle_times += WINDOW;
    return true;
}

/* Where the answers to one or two peers are all the work there is, nothing gathers, and looking is
 * worth a quarter. Otherwise it has to be cheaper by a sixteenth, or dearer, for a change. */
static bool pays(const struct spin *spin)
{
    const struct spin_sum *without = &spin->sum[false], *with = &spin->sum[true];
    if (!without->switches || !with->switches)
        return spin->pays;
    int64_t asleep_ns = without->cpu_ns / without->switches;
    int64_t looking_ns = with->cpu_ns / with->switches;
    if (with->switches < 2 * with->idle_times)
        return looking_ns < asleep_ns + asleep_ns / 4;
    return spin->pays ? looking_ns < asleep_ns + asleep_ns / 16
                      : looking_ns + looking_ns / 16 < asleep_ns;
}

static void rest(struct spin *spin)
{
    spin->phase = REST;
    spin->left = spin->rest;
}

static void trial_over(struct spin *spin, bool learned)
{
    spin->trials += learned;
    if (spin->trials >= (spin->pays ? TRIALS_TO_SLEEP : TRIALS_TO_LOOK) &&
        pays(spin) != spin->pays) {
        spin->pays = !spin->pays;
        spin->trials = 0;
        spin->rest = REST_MIN;
    } else if (spin->rest < REST_MAX) {
        spin->rest *= 2;
    }
    rest(spin);
}

static void next_phase(struct spin *spin, uint64_t switches)
{
    switch (spin->phase) {
    case REST:
        spin->phase = MEASURE;
        spin->windows = spin->windows_kept = 0;
        window_begin(spin, switches);
        break;
    case MEASURE:
        spin->windows_kept +=
            window_learn(spin, spin->pays, spin->windows_kept ? 0 : MEASURE_LESS, switches);
        if (++spin->windows == WINDOWS && !spin->windows_kept) {
            rest(spin);
            break;
        }
        if (spin->windows == WINDOWS)
            spin->phase = TRIAL;
        window_begin(spin, switches);
        break;
    default: trial_over(spin, window_learn(spin, !spin->pays, TRIAL_LESS, switches)); break;
    }
}

/* Idle times are long. Whether to see if this one is. */
static bool probe_now(struct spin *spin)
{
    if (spin->phase != CLOSED) {
        spin->phase = CLOSED; /* what came in between is no measure */
        spin->left = spin->rest = REST_MIN;
    }
    if (--spin->left)
        return false;
    if (spin->rest < REST_MAX)
        spin->rest *= 2;
    spin->left = spin->rest;
    return true;
}

bool spin_now(struct spin *spin, bool possible, uint64_t switches)
{
    if (!possible || !spin->limit_ns) {
        if (spin->phase != REST)
            rest(spin);
        return false;
    }
    if (spin->idle_ns >= spin->limit_ns)
        return probe_now(spin);
    if (spin->phase == CLOSED)
        rest(spin);
    if (!spin->left)
        next_phase(spin, switches);
    spin->left--;
    return spin->pays != (spin->phase == TRIAL);
}
